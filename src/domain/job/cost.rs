//! What a job takes of a device, roughly: the fair order of the queue goes by it.
//!
//! Only jobs of one kind are compared with each other, so the proportions within a kind matter and the unit does not.
//! It is meant to be the second of a GPU that answers fifty calls of the UNet on one image a second.

use super::Task;
use crate::domain::composition::Composition;
use crate::domain::sample::SampleTask;
use crate::domain::training_preview::PreviewPlan;

/// A call of the UNet on one image of the base model's own size.
const FORWARD: f64 = 0.02;

/// A training step on one image: forward, backward, and a share of the optimizer.
const TRAINING_STEP: f64 = 3.0 * FORWARD;

/// Features of one image.
const FEATURES: f64 = 0.01;

/// What a job takes before its first step, whatever it does.
const START: f64 = 0.5;

/// Estimates the seconds that a job takes of a device.
///
/// - `native_size`: the side that the base model was trained on, in pixels
pub fn estimate(task: &Task, native_size: usize) -> f64 {
    let work = match task {
        Task::Training(task) => {
            let recipe = &task.recipe;
            let batch = recipe.instance_batch_size + recipe.class_batch_size;
            let drawn = task
                .previews
                .as_ref()
                .map_or(0.0, |plan| previews(plan, recipe.max_train_steps, native_size));
            (recipe.max_train_steps * batch) as f64 * TRAINING_STEP + drawn
        }
        Task::Sample(task) => sample(task, native_size),
        Task::Merge(task) => task.deltas.len() as f64,
        Task::Evaluation(task) => task.image_count() as f64 * FEATURES,
        Task::Compression(task) => task.concepts.len().max(1) as f64,
    };
    START + work
}

/// What a training draws of itself, the base model's images included.
fn previews(plan: &PreviewPlan, max_train_steps: usize, native_size: usize) -> f64 {
    let rounds = 1 + max_train_steps.div_ceil(plan.every.max(1));
    let calls = plan.settings.num_inference_steps * plan.settings.elements_per_image(native_size);
    (rounds * plan.prompts.len() * calls) as f64 * FORWARD
}

fn sample(task: &SampleTask, native_size: usize) -> f64 {
    let settings = &task.settings;
    let calls = settings.num_inference_steps * settings.elements_per_image(native_size);
    let pictures = match &task.composition {
        Composition::Merge | Composition::Tokens => 1.0,
        // Each region is generated again, for a part of the steps.
        Composition::Regional(regional) => {
            1.0 + regional.regions.len() as f64 * regional.redraw.redraw_strength
        }
    };
    (settings.n * calls) as f64 * FORWARD * pictures
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_sample(n: usize, steps: usize, side: usize, guidance_scale: f64) -> f64 {
        let settings = json!({
            "n": n, "first_index": 0, "seed": 1, "num_inference_steps": steps, "guidance_scale": guidance_scale,
            "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddim", "eta": 0.0,
            "width": side, "height": side, "determinism": "strict", "preview_every": null,
        });
        let task = json!({
            "kind": "sample", "base_digest": "a", "prompt": "", "negative_prompt": "", "settings": settings,
            "deltas": [], "init": null,
        });
        estimate(&serde_json::from_value(task).unwrap(), 512) - START
    }

    #[test]
    fn previews_cost_what_samples_of_them_would() {
        let settings = json!({
            "n": 1, "first_index": 0, "seed": 1, "num_inference_steps": 50, "guidance_scale": 7.5,
            "unconditional_strength": 1.0, "guidance_interval": [0.0, 1.0], "scheduler": "ddim", "eta": 0.0,
            "width": 512, "height": 512, "determinism": "strict", "preview_every": null,
        });
        let plan = json!({ "prompts": ["a", "b"], "every": 40, "settings": settings });
        let plan: PreviewPlan = serde_json::from_value(plan).unwrap();

        let drawn = previews(&plan, 100, 512);

        // Before the first step, and after 40, 80 and 100.
        assert!((drawn - 4.0 * 2.0 * of_sample(1, 50, 512, 7.5)).abs() < 1e-9, "{drawn}");
    }

    #[test]
    fn a_sample_costs_by_images_steps_area_and_guidance() {
        let one = of_sample(1, 50, 512, 1.0);

        assert!((one - 1.0).abs() < 1e-9, "{one}");
        for (larger, times) in [
            (of_sample(4, 50, 512, 1.0), 4.0),
            (of_sample(1, 100, 512, 1.0), 2.0),
            (of_sample(1, 50, 1024, 1.0), 4.0),
            (of_sample(1, 50, 512, 7.5), 2.0),
        ] {
            assert!((larger - times * one).abs() < 1e-9, "{larger} is not {times} × {one}");
        }
    }
}
