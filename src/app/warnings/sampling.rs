//! Settings of samples that are unusual, or that change nothing.

use super::far_from_usual;
use crate::app::sample::options::SampleOptions;
use crate::domain::code::Code;
use crate::domain::delta_use::ConceptUse;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{SampleSettings, SchedulerName};
use crate::domain::warning::Warning;

/// Guidance above this many times the base model's own is unusual.
const STRONG_GUIDANCE: f64 = 4.0;

/// Fewer steps than the base model's own divided by this, or more than it times this, are unusual.
const FAR_STEPS: usize = 5;

/// Sides that a base model draws well, in parts of its own: beyond, it repeats things or cuts them off.
const USUAL_SIDES: std::ops::RangeInclusive<f64> = 0.75..=1.5;

/// Warns of settings that are far from usual, and of those that change nothing beside the others.
///
/// - `asked`: what the request gives itself; the settings of nobody are not warned of
pub(in crate::app) fn of_settings(
    asked: &SampleOptions,
    settings: &SampleSettings,
    negative_prompt: &str,
    model: &ModelInfo,
) -> Vec<Warning> {
    let mut warnings = ignored(asked, settings, negative_prompt);
    let defaults = &model.sampling;
    if asked.guidance_scale.is_some_and(|scale| scale > STRONG_GUIDANCE * defaults.guidance_scale) {
        let detail = format!(
            "{} is far above the base model's own {}: colors may burn out",
            settings.guidance_scale, defaults.guidance_scale
        );
        warnings.push(Warning::new(Code::ValueUnusual, "/guidance_scale", detail));
    }
    // The scheduler that is made for few steps is taken with few.
    let is_quick = settings.scheduler == SchedulerName::Lcm;
    if let Some(steps) = asked.num_inference_steps.filter(|_| !is_quick) {
        let (steps, usual) = (steps as f64, defaults.num_inference_steps as f64);
        let why = "fewer give an unfinished image, and more take longer without a better one";
        let pointer = "/num_inference_steps";
        warnings.extend(far_from_usual(steps, usual, FAR_STEPS as f64, pointer, why));
    }
    if asked.width.is_some() || asked.height.is_some() {
        warnings.extend(of_size(settings, model));
    }
    warnings
}

/// Settings that guidance or the scheduler leaves without effect.
fn ignored(
    asked: &SampleOptions,
    settings: &SampleSettings,
    negative_prompt: &str,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut push = |is_ignored: bool, pointer: &str, detail: &str| {
        if is_ignored {
            warnings.push(Warning::new(Code::FieldIgnored, pointer, detail));
        }
    };
    if !settings.is_guided() {
        let no_guidance = "at a guidance_scale of 1 or less the prompt has no counterpart, so this changes nothing";
        push(!negative_prompt.trim().is_empty(), "/negative_prompt", no_guidance);
        push(asked.unconditional_strength.is_some(), "/unconditional_strength", no_guidance);
        push(asked.guidance_interval.is_some(), "/guidance_interval", no_guidance);
    }
    let [start, end] = settings.guidance_interval;
    push(
        settings.is_guided() && asked.guidance_interval.is_some() && end <= start,
        "/guidance_interval",
        "the interval is empty, so there is no guidance at all",
    );
    push(
        asked.eta.is_some() && settings.scheduler != SchedulerName::Ddim,
        "/eta",
        "only the scheduler `ddim` has an eta: this one ignores it",
    );
    push(
        asked.preview_every.is_some_and(|every| every > settings.num_inference_steps),
        "/preview_every",
        "the sample has fewer steps than this, so there is no preview",
    );
    warnings
}

/// Warns of an image that is much larger or smaller than the base model's own.
fn of_size(settings: &SampleSettings, model: &ModelInfo) -> Option<Warning> {
    let usual = is_usual_size((settings.width, settings.height), model);
    (!usual).then(|| {
        let native = model.native_size;
        let detail = format!(
            "{}×{} is far from {native}×{native}, which the base model was trained on: larger images repeat things, and \
             smaller ones fall apart",
            settings.width, settings.height
        );
        let farther = |side: usize| (side as f64 / native as f64).ln().abs();
        let is_width = farther(settings.width) >= farther(settings.height);
        Warning::new(Code::SizeUnusual, if is_width { "/width" } else { "/height" }, detail)
    })
}

/// Whether the base model draws images of this size well.
pub(in crate::app) fn is_usual_size((width, height): (usize, usize), model: &ModelInfo) -> bool {
    let native = model.native_size as f64;
    [width, height].iter().all(|side| USUAL_SIDES.contains(&(*side as f64 / native)))
}

/// Warns of concepts that are listed with a strength at which they are not there.
pub(in crate::app) fn of_uses(uses: &[ConceptUse]) -> Vec<Warning> {
    let is_off = |one: &ConceptUse| one.strength.is_some_and(|strength| strength.abs() < 1e-6);
    let listed = uses.iter().enumerate().filter(|(_, one)| is_off(one));
    let warning = |(index, _): (usize, &ConceptUse)| {
        let detail =
            "at strength 0 the base model draws, without the concept: leave the strength out for 1";
        Warning::new(Code::FieldIgnored, format!("/concepts/{index}/strength"), detail)
    };
    listed.map(warning).collect()
}
