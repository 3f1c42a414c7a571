//! What a task names: the concepts, deltas and images that have to be there when it is queued.

use super::Task;
use crate::domain::id::{ConceptId, DeltaId, ImageId};
use crate::domain::training::task::TaskConcept;

/// What a task names, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    pub concepts: Vec<ConceptId>,
    pub deltas: Vec<DeltaId>,
    /// Photos, and the image that a sample starts from.
    pub images: Vec<ImageId>,
}

impl Named {
    /// What this task names.
    pub fn in_task(task: &Task) -> Self {
        let mut named = Self::default();
        match task {
            Task::Training(task) => {
                named.add_concepts(&task.concepts);
                if let Some(start) = &task.start_from {
                    named.concepts.extend(&start.concepts);
                    named.deltas.push(start.delta.delta_id);
                }
            }
            Task::Merge(task) => {
                named.concepts.extend(&task.concepts);
                named.deltas.extend(task.deltas.iter().map(|used| used.delta_id));
            }
            Task::Sample(task) => {
                named.deltas.extend(task.deltas.iter().map(|used| used.delta_id));
                named.images.extend(task.init.iter().map(|init| init.image_id));
            }
            Task::Evaluation(task) => {
                named.add_concepts(&task.concepts);
                let used = task.subjects.iter().flat_map(|subject| &subject.deltas);
                named.deltas.extend(used.map(|used| used.delta_id));
            }
            Task::Compression(task) => {
                named.concepts.extend(&task.concepts);
                named.deltas.push(task.delta.delta_id);
            }
        }
        named.concepts.sort_unstable();
        named.concepts.dedup();
        named.deltas.sort_unstable();
        named.deltas.dedup();
        named.images.sort_unstable();
        named.images.dedup();
        named
    }

    fn add_concepts(&mut self, concepts: &[TaskConcept]) {
        for concept in concepts {
            self.concepts.push(concept.concept_id);
            self.images.extend(concept.images.iter().map(|image| image.image_id));
        }
    }
}
