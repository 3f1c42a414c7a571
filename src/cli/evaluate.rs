//! `vstar evaluate`: starts an evaluation on a service, waits for it, and leaves its report, sheet and plots in a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use super::body::{set, some};
use super::exit::Usage;
use super::job::{JobOptions, Patience, Start, outcome};
use super::naming::concept_use;
use super::number::{number, seed};
use super::place;
use super::session::Session;
use crate::client::Answer;
use crate::stdout;

/// What to evaluate, how, and where to put the results.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// What to evaluate: `base` for the base model alone, or concepts (handles) and deltas (ids) joined by `+`, each with an
    /// optional strength, such as `rex`, `rex@0.8` or `rex+gate`. `NAME=…` gives it a name. Can be repeated.
    #[arg(long = "subject", required = true, value_name = "SUBJECT")]
    subjects: Vec<String>,
    /// Concept whose photos the images are compared with; those of the subjects if left out. Can be repeated.
    #[arg(long = "concept", value_name = "HANDLE")]
    concepts: Vec<String>,
    /// Prompt, in which `{}` stands for the concept. Can be repeated.
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// Named set of twenty prompts: object, living_thing, wearable or scene.
    #[arg(long)]
    prompt_set: Option<String>,
    /// Images of each subject on each prompt; 50 if left out.
    #[arg(long)]
    images_per_prompt: Option<usize>,
    /// The number of denoising steps; 50 if left out.
    #[arg(long)]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt; 6 if left out.
    #[arg(long, value_parser = number)]
    guidance_scale: Option<f64>,
    /// The scheduler; ddpm if left out.
    #[arg(long)]
    scheduler: Option<String>,
    /// Random seed, a whole number.
    #[arg(long, value_parser = seed, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// Image set to measure the kernel inception distance from.
    #[arg(long, value_name = "SET")]
    held_out: Option<String>,
    /// Images of each side in one subset for the kernel inception distance.
    #[arg(long, requires = "held_out")]
    subset_size: Option<usize>,
    /// Folder for report.json, sheet.png, alignment.svg and loss.svg; made if it is not there.
    #[arg(long, short, default_value = "evaluation-out")]
    out: PathBuf,
    /// Returns when the evaluation is queued. `vstar watch ID -o FOLDER` saves its files.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    job: JobOptions,
}

/// Runs the evaluation.
///
/// # Errors
/// If a file cannot be written, and as for [`Start::run`].
pub(super) async fn run(session: &Session, args: EvaluateArgs) -> Result<()> {
    let out = &args.out;
    if !args.detach && !args.job.dry_run {
        // Said before anything is generated.
        place::folder(out)?;
    }
    let start = Start {
        path: "/v1/evaluations",
        body: args.request()?,
        options: &args.job,
        patience: (!args.detach).then_some(&args.patience),
        prints_id: true,
    };
    let Some(ended) = start.run(session).await? else { return Ok(()) };
    save(session, &ended, out).await
}

/// Saves the files of an evaluation in a folder, and shows its figures.
///
/// # Errors
/// If a file cannot be written, or is gone.
pub(super) async fn save(session: &Session, ended: &Answer, folder: &Path) -> Result<()> {
    let evaluation = &ended.value;
    let report = serde_json::to_vec_pretty(&evaluation["report"])?;
    let file = folder.join("report.json");
    std::fs::write(&file, report)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    for (field, name) in
        [("sheet", "sheet.png"), ("alignment", "alignment.svg"), ("loss", "loss.svg")]
    {
        if let Some(path) = evaluation["files"][field].as_str() {
            session.client.download(path, &folder.join(name)).await?;
        }
    }
    session.out.note(&outcome(evaluation));
    session.out.note(&format!("report, sheet and plots are in {}", folder.display()));
    if session.out.json {
        session.out.body(ended)
    } else if session.out.is_terminal {
        stdout::print(&table(&evaluation["report"]))
    } else {
        Ok(())
    }
}

impl EvaluateArgs {
    /// The body of the request; what is not given is left to the service.
    fn request(&self) -> Result<Map<String, Value>> {
        let subjects: Vec<Value> =
            self.subjects.iter().map(|text| subject(text)).collect::<Result<_>>()?;
        let mut body = Map::new();
        set(&mut body, "subjects", json!(subjects));
        set(&mut body, "concepts", some(&self.concepts));
        set(&mut body, "prompts", some(&self.prompts));
        set(&mut body, "prompt_set", json!(self.prompt_set));
        set(&mut body, "images_per_prompt", json!(self.images_per_prompt));
        set(&mut body, "num_inference_steps", json!(self.num_inference_steps));
        set(&mut body, "guidance_scale", json!(self.guidance_scale));
        set(&mut body, "scheduler", json!(self.scheduler));
        set(&mut body, "seed", json!(self.seed));
        if let Some(held_out) = &self.held_out {
            let held_out = json!({ "set": held_out, "subset_size": self.subset_size });
            set(&mut body, "held_out", held_out);
        }
        Ok(body)
    }
}

/// Reads `NAME=rex@0.8+dlt_…`.
fn subject(text: &str) -> Result<Value> {
    let (name, parts) = match text.split_once('=') {
        Some((name, parts)) => (Some(name), parts),
        None => (None, text),
    };
    if parts == "base" {
        return Ok(json!({ "name": name, "base": true }));
    }
    let uses = parts.split('+').map(|part| {
        concept_use(part).map_err(|error| Error::new(Usage(format!("--subject {text}: {error}"))))
    });
    Ok(json!({ "name": name, "concepts": uses.collect::<Result<Vec<Value>>>()? }))
}

/// The figures of each subject.
fn table(report: &Value) -> String {
    let mut lines = format!(
        "{:20} {:24} {:24} {:24} {:24} {:24}\n",
        "subject", "text-alignment", "image-alignment", "share", "leak", "scene"
    );
    for subject in report["subjects"].as_array().into_iter().flatten() {
        let columns = ["text_alignment", "image_alignment", "share", "leak", "scene"]
            .map(|field| format!("{:24}", figure(&subject[field])));
        let name = subject["name"].as_str().unwrap_or_default();
        lines += &format!("{name:20} {}\n", columns.join(" "));
    }
    lines += &compositions(report);
    if let Some(photos) = report["photos_alignment"].as_f64() {
        lines += &format!("{:20} {:24} {photos:.3}\n", "photos", "");
    }
    lines
}

/// A mean with its interval.
fn figure(estimate: &Value) -> String {
    let Some(mean) = estimate["mean"].as_f64() else { return "–".to_owned() };
    match (estimate["interval"][0].as_f64(), estimate["interval"][1].as_f64()) {
        (Some(low), Some(high)) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
        _ => format!("{mean:.3}"),
    }
}

/// The things of images of several, if there are such images.
fn compositions(report: &Value) -> String {
    let mut lines = String::new();
    let subjects = report["subjects"].as_array().into_iter().flatten();
    for subject in subjects.filter(|subject| subject["composition"].is_object()) {
        if lines.is_empty() {
            lines = format!(
                "{:20} {:24} {:24} {:24} things in the order of the prompt\n",
                "several things", "image-alignment", "leak", "all present"
            );
        }
        let composition = &subject["composition"];
        let columns = ["image_alignment", "leak", "all_present"]
            .map(|field| format!("{:24}", figure(&composition[field])));
        let things = composition["things"].as_array().into_iter().flatten();
        let things: Vec<String> = things.map(figure).collect();
        let name = subject["name"].as_str().unwrap_or_default();
        lines += &format!("{name:20} {} {}\n", columns.join(" "), things.join(", "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_the_base_model_or_concepts_with_strengths() {
        assert_eq!(subject("base").unwrap(), json!({ "name": null, "base": true }));
        assert_eq!(
            subject("both=rex@0.5+dlt_1").unwrap(),
            json!({ "name": "both", "concepts": [
                { "concept": "rex", "strength": 0.5 }, { "delta": "dlt_1" },
            ] })
        );
        for wrong in ["rex@much", "rex+", ""] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
    }
}
