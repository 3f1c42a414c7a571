//! Previews of a training: images that it draws of the same prompts every so many steps.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::code::Code;
use super::invalid::Checks;
use super::sample::{MAX_SEED, SampleSettings};

/// How many prompts a training draws.
pub const PREVIEW_PROMPTS: RangeInclusive<usize> = 1..=4;
/// How often it draws them at most, the base model's images not counted.
pub const MAX_PREVIEW_ROUNDS: usize = 40;

/// What a training draws of itself, resolved before it is queued. The delta does not depend on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreviewPlan {
    /// The prompts, with the names of the concepts in them.
    pub prompts: Vec<String>,
    /// So many steps lie between two rounds.
    pub every: usize,
    pub settings: SampleSettings,
}

impl PreviewPlan {
    /// Whether the prompts are drawn after `step` of `total_steps`: every so many steps, and after the last.
    pub fn is_due(&self, step: usize, total_steps: usize) -> bool {
        step == total_steps || step.is_multiple_of(self.every)
    }

    /// Says what is wrong with it, at pointers below `/previews`.
    pub fn check(&self, max_train_steps: usize, checks: &mut Checks) {
        checks.in_range(self.prompts.len(), PREVIEW_PROMPTS, "/previews/prompts");
        checks.in_range(self.settings.seed, 0..=MAX_SEED, "/previews/seed");
        checks.in_range(self.every, 1..=100_000, "/previews/every");
        if self.every == 0 {
            return;
        }
        let rounds = max_train_steps.div_ceil(self.every);
        checks.require(
            rounds <= MAX_PREVIEW_ROUNDS,
            "/previews/every",
            Code::OutOfRange,
            || {
                format!(
                    "{max_train_steps} steps would be drawn {rounds} times, and {MAX_PREVIEW_ROUNDS} is the most: write {} or more",
                    max_train_steps.div_ceil(MAX_PREVIEW_ROUNDS)
                )
            },
        );
    }
}

/// An image that a training has drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingPreview {
    /// After how many steps; 0 for the base model.
    pub step: i32,
    /// Of which prompt.
    pub index: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(every: usize) -> PreviewPlan {
        let settings = serde_json::json!({
            "n": 1, "first_index": 0, "seed": 7, "num_inference_steps": 25, "guidance_scale": 3.0,
            "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddim", "eta": 0.0,
            "width": 64, "height": 64, "determinism": "strict", "preview_every": null
        });
        let settings = serde_json::from_value(settings).expect("settings");
        PreviewPlan { prompts: vec!["photo of a <rex> dog".into()], every, settings }
    }

    #[test]
    fn the_prompts_are_drawn_every_so_many_steps_and_after_the_last() {
        let plan = plan(40);

        let due: Vec<usize> = (1..=100).filter(|&step| plan.is_due(step, 100)).collect();

        assert_eq!(due, [40, 80, 100]);
    }

    #[test]
    fn too_many_rounds_are_refused_with_a_number_that_fits() {
        let errors_of = |every| {
            let mut checks = Checks::default();
            plan(every).check(400, &mut checks);
            checks.finish()
        };

        assert!(errors_of(10).is_ok());
        let refused = errors_of(9).expect_err("45 rounds");
        assert_eq!(refused.0[0].pointer, "/previews/every");
        assert!(refused.0[0].detail.contains("write 10 or more"), "{}", refused.0[0].detail);
        assert!(errors_of(0).is_err());
    }
}
