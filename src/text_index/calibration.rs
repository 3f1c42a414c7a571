//! How similar two texts of different classes are to an evaluator: what a threshold has to be above.
//!
//! Cosines of two CLIP models cannot be compared. The paper's 0.85 belongs to one of them; another one puts the captions of one
//! class as far apart as that one puts those of different classes.

use crate::domain::regularization::{CLASS_PROMPT, PAPER_THRESHOLD};
use crate::engine::Result;
use crate::evaluator::Evaluator;

/// Nouns that any CLIP model knows.
const NOUNS: [&str; 24] = [
    "dog", "cat", "rabbit", "bear", "fish", "bird", "horse", "elephant", "chair", "table", "car",
    "boat", "train", "house", "tree", "flower", "apple", "cake", "cup", "clock", "lamp", "shoe",
    "hat", "guitar",
];

/// Captions as image sets have them.
const CAPTIONS: [&str; 12] = [
    "photo of a {}",
    "a {}",
    "drawing of a {}",
    "photo of a {} on the beach",
    "a {} in the snow",
    "photo of a {} in the forest",
    "a {} at night",
    "a {} on a wooden table",
    "photo of a red {}",
    "close up, photo of a {}",
    "a {} in the city",
    "two {}s",
];

/// The share of captions of other classes that stay below the threshold.
const BELOW: f64 = 0.95;

/// The threshold of an evaluator: of the captions of other nouns, 95 % are less similar to a noun's class prompt. It is never
/// above the paper's 0.85.
///
/// # Errors
/// If the evaluator fails.
pub(super) fn threshold(evaluator: &Evaluator) -> Result<f64> {
    let prompts: Vec<String> = NOUNS.iter().map(|noun| CLASS_PROMPT.replace("{}", noun)).collect();
    let captions: Vec<(usize, String)> = NOUNS
        .iter()
        .enumerate()
        .flat_map(|(noun, word)| CAPTIONS.map(|caption| (noun, caption.replace("{}", word))))
        .collect();
    let prompts =
        evaluator.text_features(&prompts.iter().map(String::as_str).collect::<Vec<_>>())?;
    let texts: Vec<&str> = captions.iter().map(|(_, caption)| caption.as_str()).collect();
    let features = evaluator.text_features(&texts)?;
    let mut similarities = Vec::new();
    for (noun, prompt) in prompts.rows().enumerate() {
        for ((of, _), caption) in captions.iter().zip(features.rows()) {
            if *of != noun {
                let dot = prompt.iter().zip(caption).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                similarities.push(dot);
            }
        }
    }
    similarities.sort_by(f64::total_cmp);
    let place = (BELOW * (similarities.len() - 1) as f64).round() as usize;
    Ok((similarities[place].min(PAPER_THRESHOLD) * 100.0).round() / 100.0)
}
