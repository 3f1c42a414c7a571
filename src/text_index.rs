//! The captions of an image set as vectors, to find those that are similar to a prompt.
//!
//! An index belongs to one set and one evaluator. It is made once and kept in the object store. A search is one matrix product over
//! all captions: a million take less than 100 ms, so nothing cleverer is needed, and nothing is ever missed.

mod calibration;
mod file;
mod store;

use std::collections::HashMap;
use std::ops::ControlFlow;

use half::f16;

use crate::domain::regularization::RetrievedImage;
use crate::engine::ops::row_products;
use crate::engine::{EngineError, Result};
use crate::evaluator::Evaluator;

pub use self::store::{TextIndexError, TextIndexes};

/// Captions that are encoded between two looks at whether to stop.
const CHUNK: usize = 256;

/// The row of an image without a caption.
const NO_ROW: u32 = u32::MAX;

/// Rounding must not part a text from itself.
const TOLERANCE: f64 = 1e-6;

/// A vector per caption; images with the same caption share one.
#[derive(Clone, Debug, PartialEq)]
pub struct TextIndex {
    width: usize,
    /// `(captions, width)`: half the memory of f32, and with it half the time of a search.
    features: Vec<f16>,
    /// One over the length of each row, since rounding to f16 changes it. 0 for a caption that has no direction.
    inverse_lengths: Vec<f32>,
    /// For each image of the set, its row.
    row_of: Vec<u32>,
    /// How many captions were cut, because the evaluator reads no more tokens.
    truncated: usize,
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The images above the threshold, best first, as many as were asked for.
    pub images: Vec<RetrievedImage>,
    /// The number of all that are above it.
    pub above: usize,
    /// The best of all, above it or not.
    pub best: Option<RetrievedImage>,
}

impl TextIndex {
    /// Encodes the captions of a set's images, in their order; an empty one is none.
    ///
    /// A caption that is too long for the evaluator is cut, one that cannot be encoded is similar to nothing: neither spoils the
    /// index.
    ///
    /// - `observe`: is told how many of all captions are done, and can stop the work
    ///
    /// # Errors
    /// [`EngineError::Stopped`], or a failure of the evaluator that is not about a caption.
    pub fn build(
        evaluator: &Evaluator,
        captions: &[String],
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self> {
        let mut rows: HashMap<&str, u32> = HashMap::new();
        let mut texts: Vec<&str> = Vec::new();
        let row_of = captions.iter().map(|caption| {
            if caption.is_empty() {
                return NO_ROW;
            }
            *rows.entry(caption).or_insert_with(|| {
                texts.push(caption);
                texts.len() as u32 - 1
            })
        });
        let row_of: Vec<u32> = row_of.collect();
        let width = evaluator.info().projection_dim;
        let mut features = Vec::with_capacity(texts.len() * width);
        for chunk in texts.chunks(CHUNK) {
            if observe(features.len() / width, texts.len()).is_break() {
                return Err(EngineError::Stopped);
            }
            features.extend(encode(evaluator, chunk)?);
        }
        let limit = evaluator.info().max_text_tokens;
        let is_cut = |text: &&&str| evaluator.count_tokens(text).is_ok_and(|tokens| tokens > limit);
        let truncated = texts.iter().filter(is_cut).count();
        Ok(Self::new(width, features, row_of, truncated))
    }

    /// An index of finished vectors.
    ///
    /// - `features`: `(captions, width)`
    /// - `row_of`: for each image, its row
    pub fn from_features(width: usize, features: &[f32], row_of: Vec<u32>) -> Self {
        let features = features.iter().map(|value| f16::from_f32(*value)).collect();
        Self::new(width, features, row_of, 0)
    }

    fn new(width: usize, features: Vec<f16>, row_of: Vec<u32>, truncated: usize) -> Self {
        let inverse_length = |row: &[f16]| {
            let length = row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
            if length.is_normal() { (1.0 / length) as f32 } else { 0.0 }
        };
        let inverse_lengths = features.chunks_exact(width.max(1)).map(inverse_length).collect();
        Self { width, features, inverse_lengths, row_of, truncated }
    }

    /// Finds the images whose captions are similar to a text.
    ///
    /// - `text`: a vector of length 1
    /// - `threshold`: the least cosine
    /// - `limit`: the most images to return
    pub fn search(&self, text: &[f32], threshold: f64, limit: usize) -> Found {
        let products = row_products(&self.features, text);
        let similarity = |row: u32| {
            products.get(row as usize).map(|dot| dot * self.inverse_lengths[row as usize])
        };
        let of_images = self.row_of.iter().enumerate();
        let of_images = of_images.filter_map(|(image, row)| Some((image, similarity(*row)?)));
        let least = (threshold - TOLERANCE) as f32;
        let mut above: Vec<(usize, f32)> = Vec::new();
        let mut best: Option<(usize, f32)> = None;
        for (image, similarity) in of_images {
            if best.is_none_or(|(_, so_far)| similarity > so_far) {
                best = Some((image, similarity));
            }
            if similarity >= least {
                above.push((image, similarity));
            }
        }
        let count = above.len();
        let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if limit > 0 && limit < above.len() {
            above.select_nth_unstable_by(limit - 1, order);
        }
        above.truncate(limit);
        above.sort_unstable_by(order);
        Found {
            images: above.into_iter().map(retrieved).collect(),
            above: count,
            best: best.map(retrieved),
        }
    }

    /// The number of different captions.
    pub fn captions(&self) -> usize {
        self.inverse_lengths.len()
    }

    /// How many captions were cut.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    fn size_bytes(&self) -> usize {
        2 * self.features.len() + 4 * (self.inverse_lengths.len() + self.row_of.len())
    }
}

fn retrieved((index, similarity): (usize, f32)) -> RetrievedImage {
    RetrievedImage { index, similarity: (f64::from(similarity) * 1e6).round() / 1e6 }
}

/// The vectors of texts, row by row; zeros for one that has none.
fn encode(evaluator: &Evaluator, texts: &[&str]) -> Result<Vec<f16>> {
    let halves = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value)).collect();
    if let Ok(features) = evaluator.text_features(texts) {
        return Ok(halves(features.values()));
    }
    let width = evaluator.info().projection_dim;
    let mut rows: Vec<f16> = Vec::with_capacity(texts.len() * width);
    for text in texts {
        match evaluator.text_features(&[text]) {
            Ok(features) => rows.extend(halves(features.values()) as Vec<f16>),
            Err(error @ (EngineError::Tensor(_) | EngineError::OutOfMemory(_))) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, "a caption cannot be encoded");
                rows.extend(std::iter::repeat_n(f16::ZERO, width));
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> TextIndex {
        // Four captions in the plane; image 1 has none, images 2 and 4 share one.
        let features = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0, -1.0, 0.0];
        TextIndex::from_features(2, &features, vec![0, NO_ROW, 1, 2, 1, 3])
    }

    fn places(found: &Found) -> Vec<usize> {
        found.images.iter().map(|image| image.index).collect()
    }

    #[test]
    fn the_most_similar_come_first_and_images_without_a_caption_never() {
        let found = index().search(&[1.0, 0.0], -1.0, 10);

        assert_eq!(places(&found), [0, 2, 4, 3, 5]);
        assert_eq!((found.above, found.best.unwrap().index), (5, 0));
        let similarities: Vec<f64> = found.images.iter().map(|image| image.similarity).collect();
        for (similarity, exact) in similarities.iter().zip([1.0, 0.6, 0.6, 0.0, -1.0]) {
            assert!((similarity - exact).abs() < 5e-4, "{similarities:?}");
        }
    }

    #[test]
    fn a_threshold_cuts_and_the_limit_keeps_the_best() {
        let found = index().search(&[1.0, 0.0], 0.5, 2);

        assert_eq!((places(&found), found.above), (vec![0, 2], 3));
        let nothing = index().search(&[0.0, -1.0], 0.5, 2);
        assert_eq!((nothing.images.len(), nothing.above), (0, 0));
        assert!(nothing.best.unwrap().similarity.abs() < 1e-6);
    }

    #[test]
    fn a_text_is_as_similar_to_itself_as_can_be() {
        let text: Vec<f32> = (0..64).map(|i| ((i * 7 % 13) as f32 - 6.0) / 30.0).collect();
        let length = text.iter().map(|x| x * x).sum::<f32>().sqrt();
        let text: Vec<f32> = text.iter().map(|x| x / length).collect();

        let found = TextIndex::from_features(64, &text, vec![0]).search(&text, 1.0, 1);

        assert!((found.images[0].similarity - 1.0).abs() < 1e-9);
    }
}
