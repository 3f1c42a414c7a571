//! How the learning rate changes over a training.

use crate::domain::training::{LrScheduler, TrainingRecipe};

/// The rate of step `step`, counted from 0.
pub(crate) fn learning_rate_at(recipe: &TrainingRecipe, step: usize) -> f64 {
    let warmup = recipe.lr_warmup_steps;
    let warm = if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
    let schedule = match recipe.lr_scheduler {
        LrScheduler::Constant => 1.0,
        LrScheduler::Cosine => {
            let progress = step as f64 / recipe.max_train_steps as f64;
            0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        }
    };
    recipe.learning_rate * warm * schedule
}
