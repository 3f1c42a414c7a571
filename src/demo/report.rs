//! `report.json`: what was asked of the service, how long it took and what came out.

use serde::Serialize;
use serde_json::Value;

use super::alignment::ConceptAlignment;
use crate::client::RequestReport;

/// The whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) vstar: &'static str,
    pub(super) base_model: Value,
    pub(super) seconds: f64,
    pub(super) concepts: Vec<ConceptReport>,
    pub(super) compositions: Vec<CompositionReport>,
    pub(super) merges: Vec<MergeReport>,
    pub(super) requests: Vec<RequestReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConceptReport {
    pub(super) name: String,
    pub(super) concept_id: String,
    pub(super) modifier_token: Option<String>,
    pub(super) class_noun: String,
    pub(super) photos: usize,
    pub(super) training_id: String,
    pub(super) training_seconds: f64,
    pub(super) training_seed: Value,
    pub(super) recipe: Value,
    /// Mean loss of the first and of the last fifty steps.
    pub(super) loss_first: f64,
    pub(super) loss_last: f64,
    /// `[step, loss]` over the training.
    pub(super) losses: Vec<(u64, f64)>,
    pub(super) delta_id: String,
    pub(super) delta_bytes: usize,
    /// How well the images agree with the photos and their prompts; null without an evaluator.
    pub(super) alignment: Option<ConceptAlignment>,
    pub(super) images: Vec<ImageReport>,
}

/// Two concepts in one picture, each in its region.
#[derive(Debug, Serialize)]
pub(super) struct CompositionReport {
    pub(super) concept_ids: [String; 2],
    pub(super) seconds: f64,
    pub(super) images: Vec<ImageReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct MergeReport {
    pub(super) merge_id: String,
    pub(super) delta_id: String,
    pub(super) seconds: f64,
    pub(super) images: Vec<ImageReport>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ImageReport {
    /// Below the results' folder.
    pub(super) path: String,
    pub(super) prompt: String,
    pub(super) seed: u64,
    pub(super) width: Value,
    pub(super) height: Value,
    pub(super) bytes: usize,
}
