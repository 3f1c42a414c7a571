//! Photos of a concept: what was measured of them, and what that says about them as pictures to learn from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::Code;
use super::concept::ConceptWords;
use super::digest::Digest;
use super::id::{ConceptId, ImageId};
use super::storage_key::StorageKey;

/// The longest caption of a photo, in bytes. The text encoder takes far less.
pub const MAX_PHOTO_CAPTION: usize = 2_000;

/// Below this deviation of its levels, in every channel, an image is one colour.
const FLAT: f32 = 2.0;
/// Below this deviation of its brightness, there is little to be seen.
const FAINT: f32 = 6.0;
/// Photos of things have 0.18 and more, the same photos out of focus less than 0.12.
const BLURRED: f32 = 0.12;
/// White noise has 4.5; the finest texture of a photo less than 1.
const NOISE: f32 = 2.5;
/// Beyond this ratio of the sides, more than half of the photo lies outside of the square that is trained on.
const NARROW: f32 = 2.2;
/// Beyond this ratio, next to nothing lies within it.
const STRIP: f32 = 10.0;
/// The same photo again, made smaller, brighter, or cropped by a few percent, has 0.97 and more; other photos of the same thing in
/// the same place 0.93 at most.
const ALIKE: f32 = 0.97;

/// Pixels per side of a [`Thumbnail`].
pub const THUMBNAIL: usize = 16;

/// What was measured of a photo's pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// The standard deviation of the brightness, in levels of 255.
    pub contrast: f32,
    /// The same of the channel that has most.
    pub color_contrast: f32,
    /// The root mean square of the Laplacian of the brightness at 512 pixels a side, by `contrast`.
    pub sharpness: f32,
    /// Whether the ICC profile was left out, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored_profile: Option<String>,
}

/// A photo in 16×16 levels of gray, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail(pub Vec<u8>);

/// What is known about a photo beside its image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhotoNotes {
    /// As it was given.
    pub caption: Option<String>,
    pub mask: Option<Mask>,
    /// None of a photo that an earlier version has added, until it is checked.
    pub measured: Option<(Measures, Thumbnail)>,
}

/// Where a photo shows its subject: a gray PNG of the photo's size, white where it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    pub mask_id: ImageId,
    pub sha256: Digest,
    pub size_bytes: i64,
}

impl Mask {
    /// The mask's object.
    pub fn storage_key(&self, concept: ConceptId) -> StorageKey {
        StorageKey::photo(concept, self.mask_id)
    }
}

/// How good a photo, or all of them, are to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PhotoVerdict {
    /// Nothing speaks against it.
    Ok,
    /// It can be trained on, and is probably not what was meant.
    Warn,
    /// It is refused, or a training with it is.
    Fail,
}

/// Something that was noticed about a photo or a concept's photos.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    pub code: Code,
    /// How much it matters.
    pub verdict: PhotoVerdict,
    /// What was noticed, and what helps.
    pub detail: String,
}

impl Finding {
    pub fn warn(code: Code, detail: impl Into<String>) -> Self {
        Self { code, verdict: PhotoVerdict::Warn, detail: detail.into() }
    }

    pub fn fail(code: Code, detail: impl Into<String>) -> Self {
        Self { code, verdict: PhotoVerdict::Fail, detail: detail.into() }
    }
}

/// The worst of the findings.
pub fn verdict_of(findings: &[Finding]) -> PhotoVerdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(PhotoVerdict::Ok)
}

/// What one photo's size and measures say.
///
/// - `native_size`: the side of the square that the model was trained on
pub fn findings(
    width: u32,
    height: u32,
    measures: Option<&Measures>,
    native_size: usize,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (short, long) = (width.min(height), width.max(height));
    let ratio = long as f32 / short.max(1) as f32;
    if ratio > STRIP {
        findings.push(Finding::fail(
            Code::ImageNarrow,
            format!("{width}x{height} pixels are a strip: training sees the square in its middle; crop the photo around its subject"),
        ));
    } else if ratio > NARROW {
        findings.push(Finding::warn(
            Code::ImageNarrow,
            format!("of {width}x{height} pixels, training sees the square in the middle: crop the photo around its subject"),
        ));
    }
    if (short as usize) < native_size {
        findings.push(Finding::warn(
            Code::ImageSmall,
            format!("the shorter side has {short} pixels and the model {native_size}: the photo is enlarged and teaches a soft image; use a larger one"),
        ));
    }
    let Some(measures) = measures else { return findings };
    if measures.contrast < FLAT && measures.color_contrast < FLAT {
        findings.push(Finding::fail(
            Code::ImageFlat,
            "the image is a single colour (a transparent image is white): there is nothing to learn from",
        ));
        return findings;
    }
    if measures.contrast < FAINT {
        findings.push(Finding::warn(
            Code::ImageFaint,
            "the image has hardly any contrast: use a photo in which the subject is well lit",
        ));
    }
    if measures.sharpness > NOISE {
        findings.push(Finding::warn(
            Code::ImageNoise,
            "the image looks like noise: check that the file is the photo that you mean",
        ));
    } else if measures.sharpness < BLURRED {
        findings.push(Finding::warn(
            Code::ImageBlurred,
            "the image is out of focus or much enlarged, and so will be what is generated: use a sharp photo",
        ));
    }
    if let Some(reason) = &measures.ignored_profile {
        findings.push(Finding::warn(Code::ColorProfileIgnored, reason.clone()));
    }
    findings
}

impl Thumbnail {
    /// Whether both show the same picture, perhaps mirrored. Brightness and contrast do not count.
    pub fn is_like(&self, other: &Self) -> bool {
        let (one, straight) = (self.normalized(), other.normalized());
        let product = |two: &[f32]| one.iter().zip(two).map(|(a, b)| a * b).sum::<f32>();
        let mirrored: Vec<f32> =
            straight.chunks(THUMBNAIL).flat_map(|row| row.iter().rev().copied()).collect();
        product(&straight).max(product(&mirrored)) >= ALIKE
    }

    /// With mean 0 and length 1.
    fn normalized(&self) -> Vec<f32> {
        let mean = self.0.iter().map(|&v| f32::from(v)).sum::<f32>() / self.0.len().max(1) as f32;
        let centered: Vec<f32> = self.0.iter().map(|&value| f32::from(value) - mean).collect();
        let length = centered.iter().map(|value| value * value).sum::<f32>().sqrt();
        centered.into_iter().map(|value| value / length.max(1e-3)).collect()
    }
}

/// The caption that a photo is trained with: the given one with the concept's name in it.
///
/// - `{}` is replaced by the name, as in a template
/// - a caption that has the name is taken as it is
/// - in one that has the class noun, the name takes its place
/// - before any other, the name is put, with a comma
pub fn training_caption(caption: &str, words: &ConceptWords) -> String {
    let name = words.in_prompt();
    if caption.contains("{}") {
        return caption.replacen("{}", &name, 1).replace("{}", words.class_noun.as_str());
    }
    let noun = words.class_noun.as_str();
    let token = words.modifier_token.as_ref();
    if token.is_some_and(|token| find_word(caption, token.as_str()).is_some()) {
        return caption.to_owned();
    }
    match find_word(caption, noun) {
        Some(_) if token.is_none() => caption.to_owned(),
        Some(at) => format!("{}{name}{}", &caption[..at], &caption[at + noun.len()..]),
        None => format!("{name}, {caption}"),
    }
}

/// Where a text has a word of its own, whatever the case of ASCII letters.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    let (lower, word) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let mut places = lower.match_indices(&word);
    places
        .find(|(at, _)| {
            is_apart(lower[..*at].chars().next_back())
                && is_apart(lower[at + word.len()..].chars().next())
        })
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(contrast: f32, sharpness: f32) -> Measures {
        Measures { contrast, color_contrast: contrast, sharpness, ignored_profile: None }
    }

    #[test]
    fn what_cannot_be_learned_from_fails_and_what_is_doubtful_warns() {
        for (size, measures, found) in [
            ((512, 512), measures(40.0, 0.3), None),
            ((1080, 1920), measures(40.0, 0.3), None),
            ((512, 512), measures(0.5, 0.3), Some((Code::ImageFlat, PhotoVerdict::Fail))),
            ((512, 512), measures(4.0, 0.3), Some((Code::ImageFaint, PhotoVerdict::Warn))),
            ((512, 512), measures(40.0, 0.05), Some((Code::ImageBlurred, PhotoVerdict::Warn))),
            ((512, 512), measures(60.0, 4.5), Some((Code::ImageNoise, PhotoVerdict::Warn))),
            ((300, 512), measures(40.0, 0.3), Some((Code::ImageSmall, PhotoVerdict::Warn))),
            ((2048, 512), measures(40.0, 0.3), Some((Code::ImageNarrow, PhotoVerdict::Warn))),
            ((8192, 512), measures(40.0, 0.3), Some((Code::ImageNarrow, PhotoVerdict::Fail))),
        ] {
            let findings = findings(size.0, size.1, Some(&measures), 512);

            let found_now = findings.first().map(|one| (one.code, one.verdict));
            assert_eq!(found_now, found, "{size:?} {measures:?}");
            assert!(findings.len() <= 1, "{findings:?}");
            assert_eq!(verdict_of(&findings), found.map_or(PhotoVerdict::Ok, |(_, it)| it));
        }
    }

    #[test]
    fn the_same_picture_is_known_brighter_and_mirrored() {
        let value = |x: usize, y: usize| (x * x + 3 * y + 40 * (x % 3)) as f32 / 2.0;
        let picture = |f: &dyn Fn(usize, usize) -> f32| {
            Thumbnail((0..256).map(|i| f(i % 16, i / 16) as u8).collect())
        };
        let one = picture(&value);

        assert!(one.is_like(&picture(&|x, y| value(x, y) * 0.7 + 50.0)));
        assert!(one.is_like(&picture(&|x, y| value(15 - x, y))));
        assert!(!one.is_like(&picture(&|x, y| value(y, x))));
        assert!(!one.is_like(&picture(&|_, _| 128.0)));
    }

    #[test]
    fn a_caption_says_the_concepts_name() {
        let words = |token: Option<&str>| ConceptWords {
            modifier_token: token.map(|token| token.to_owned().try_into().unwrap()),
            class_noun: "dog".to_owned().try_into().unwrap(),
        };
        for (caption, with_token, without) in [
            ("a red {} on grass", "a red <rex> dog on grass", "a red dog on grass"),
            ("a <rex> dog asleep", "a <rex> dog asleep", "a <rex> dog asleep"),
            ("A Dog asleep", "A <rex> dog asleep", "A Dog asleep"),
            ("a hotdog", "<rex> dog, a hotdog", "dog, a hotdog"),
            ("asleep", "<rex> dog, asleep", "dog, asleep"),
        ] {
            assert_eq!(training_caption(caption, &words(Some("<rex>"))), with_token);
            assert_eq!(training_caption(caption, &words(None)), without);
        }
    }
}
