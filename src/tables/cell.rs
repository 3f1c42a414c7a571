//! The figures of one evaluation of one subject.

use serde_json::Value;

/// Reads figures off an evaluation's report; one that is null there is `None` here.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    report: &'a Value,
}

impl<'a> Cell<'a> {
    pub(super) fn new(evaluation: &'a Value) -> Self {
        Self { report: &evaluation["report"] }
    }

    /// A figure of the subject, such as `image_alignment`.
    pub(super) fn figure(self, name: &str) -> Option<f64> {
        self.subject()[name]["mean"].as_f64()
    }

    /// A figure of images of several things.
    pub(super) fn composed(self, name: &str) -> Option<f64> {
        self.subject()["composition"][name]["mean"].as_f64()
    }

    /// How well the things agree with their photos, in the order of the prompt.
    pub(super) fn things(self) -> Vec<f64> {
        let things = self.subject()["composition"]["things"].as_array();
        things.into_iter().flatten().filter_map(|thing| thing["mean"].as_f64()).collect()
    }

    /// The kernel inception distance of the images whose prompts name no concept.
    pub(super) fn kid(self) -> Option<f64> {
        self.subject()["kid"]["unnamed"]["value"].as_f64()
    }

    /// How well the photos agree with each other.
    pub(super) fn photos(self) -> Option<f64> {
        self.report["photos_alignment"].as_f64()
    }

    fn subject(self) -> &'a Value {
        &self.report["subjects"][0]
    }
}
