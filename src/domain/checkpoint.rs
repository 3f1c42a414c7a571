//! Checkpoints: from where a training can go on in another process.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::digest::Digest;
use super::storage_key::StorageKey;
use super::training::task::{TaskImage, TrainingTask};

/// A recorded checkpoint. Its object is the training's state after `step` steps.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Training steps taken.
    pub step: i32,
    pub storage_key: StorageKey,
    pub size_bytes: i64,
    pub sha256: Digest,
    /// By [`input_digest`].
    pub input_digest: Digest,
    /// Another engine may round otherwise.
    pub engine_version: String,
    pub created_at: DateTime<Utc>,
}

/// How a training goes on over its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// The step that the last attempt went on from; `None` if it began at the first step.
    pub resumed_from_step: Option<i32>,
    /// Why the last attempt began at the first step although there were checkpoints.
    pub started_over: Option<String>,
    /// The step of the newest checkpoint; `None` once the training has ended.
    pub checkpoint_step: Option<i32>,
}

/// The digest of all that a training's result depends on, except for the engine.
///
/// Names that only people read, such as handles and the preset, are left out.
pub fn input_digest(task: &TrainingTask) -> Digest {
    let concepts: Vec<_> = task
        .concepts
        .iter()
        .map(|concept| {
            let images: Vec<_> = concept.images.iter().map(of_image).collect();
            json!({ "words": concept.words, "images": images })
        })
        .collect();
    let start_from = task.start_from.as_ref().map(|start| &start.delta);
    let input = json!({
        "base_digest": task.base_digest,
        "concepts": concepts,
        "recipe": task.recipe,
        "regularization": task.regularization,
        "start_from": start_from,
        "seed": task.seed,
    });
    Digest::of(input.to_string())
}

/// A photo alone is named by its key, as it was before photos had captions and masks.
fn of_image(image: &TaskImage) -> Value {
    match (&image.caption, &image.mask) {
        (None, None) => json!(image.storage_key),
        (caption, mask) => json!({
            "image": image.storage_key,
            "caption": caption,
            "mask": mask.as_ref().map(|mask| &mask.sha256),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Value {
        json!({
            "version": 4, "base_digest": "a", "preset": "paper", "seed": 7,
            "regularization": { "source": "none" },
            "concepts": [{
                "concept_id": "cpt_00000000000000000000000000", "handle": "rex", "modifier_token": "<rex>",
                "class_noun": "dog",
                "images": [{ "image_id": "img_00000000000000000000000000", "storage_key": "k", "caption": null, "mask": null }],
            }],
            "recipe": super::super::training::TrainingRecipe::paper(),
        })
    }

    /// The digest of the task with a value in place of another.
    fn with(pointer: &str, value: Value) -> Digest {
        let mut task = task();
        *task.pointer_mut(pointer).unwrap() = value;
        input_digest(&serde_json::from_value(task).unwrap())
    }

    #[test]
    fn whatever_changes_the_result_changes_the_digest_and_names_do_not() {
        let digest = input_digest(&serde_json::from_value(task()).unwrap());

        for (pointer, value) in [
            ("/seed", json!(8)),
            ("/base_digest", json!("b")),
            ("/recipe/learning_rate", json!(1e-4)),
            ("/recipe/max_train_steps", json!(9)),
            ("/concepts/0/class_noun", json!("cat")),
            ("/concepts/0/images/0/storage_key", json!("l")),
            ("/concepts/0/images/0/caption", json!("a <rex> dog asleep")),
            ("/concepts/0/images/0/mask", json!({ "storage_key": "m", "sha256": "s" })),
            ("/regularization", json!({ "source": "set", "set": null, "select": "all" })),
        ] {
            assert_ne!(with(pointer, value), digest, "{pointer}");
        }
        for (pointer, value) in
            [("/concepts/0/handle", json!("max")), ("/preset", json!("default"))]
        {
            assert_eq!(with(pointer, value), digest, "{pointer}");
        }
    }
}
