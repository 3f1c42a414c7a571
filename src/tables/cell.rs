//! The figures of one evaluation of one subject.

use serde_json::Value;

use crate::scoring;

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

    /// The mean of a figure over the prompts that show a concept and nothing else.
    pub(super) fn alone(self, name: &str) -> Option<f64> {
        let prompts = self.subject()["prompts"].as_array().into_iter().flatten();
        let alone = prompts
            .filter(|prompt| prompt["names_concept"] == true && prompt["composition"].is_null());
        let values: Vec<f64> = alone.filter_map(|prompt| prompt[name]["mean"].as_f64()).collect();
        scoring::mean(&values)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn things_beside_others_do_not_count_among_those_alone() {
        let prompt = |named: bool, mean: f64, composition: Value| json!({ "names_concept": named, "image_alignment": { "mean": mean }, "composition": composition });
        let evaluation = json!({ "report": { "subjects": [{ "prompts": [
            prompt(true, 0.8, Value::Null), prompt(true, 0.6, Value::Null), prompt(true, 0.1, json!({})),
            prompt(false, 0.0, Value::Null),
        ] }] } });

        let alone = Cell::new(&evaluation).alone("image_alignment").unwrap();

        assert!((alone - 0.7).abs() < 1e-12);
    }
}
