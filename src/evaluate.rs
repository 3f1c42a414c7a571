//! `vstar evaluate`: starts an evaluation on a service, waits for it, and leaves its report, sheet and plots in a folder.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::Client;

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
    #[arg(long)]
    guidance_scale: Option<f64>,
    /// The scheduler; ddpm if left out.
    #[arg(long)]
    scheduler: Option<String>,
    #[arg(long)]
    seed: Option<u64>,
    /// Image set to measure the kernel inception distance from.
    #[arg(long, value_name = "SET")]
    held_out: Option<String>,
    /// Images of each side in one subset for the kernel inception distance.
    #[arg(long, requires = "held_out")]
    subset_size: Option<usize>,
    /// Folder for report.json, sheet.png, alignment.svg and loss.svg; made if it is not there.
    #[arg(long, default_value = "evaluation-out")]
    out: PathBuf,
    /// Address of the service.
    #[arg(long, env = "VSTAR_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// Runs the evaluation.
///
/// # Errors
/// What the service answers, or why the evaluation has failed.
pub async fn run(args: &EvaluateArgs) -> Result<()> {
    let client = Client::new(args.url.trim_end_matches('/'));
    let started = client.post("/v1/evaluations", &args.request()?).await?;
    let path = started["urls"]["self"].as_str().context("the service's answer has no URL")?;
    println!("{path}");
    let mut told = None;
    let evaluation = client.finish(path, |evaluation| {
        let done = progress_of(evaluation);
        if done != told {
            if let Some(text) = &done {
                eprintln!("{text}");
            }
            told = done;
        }
    });
    let evaluation = evaluation.await?;

    let out = &args.out;
    std::fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let report = serde_json::to_vec_pretty(&evaluation["report"])?;
    let file = out.join("report.json");
    std::fs::write(&file, report)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    for (field, name) in
        [("sheet", "sheet.png"), ("alignment", "alignment.svg"), ("loss", "loss.svg")]
    {
        if let Some(path) = evaluation["files"][field].as_str() {
            client.download(path, &out.join(name)).await?;
        }
    }
    print_table(&evaluation["report"]);
    println!("report, sheet and plots are in {}", out.display());
    Ok(())
}

impl EvaluateArgs {
    /// The body of the request; what is not given is left to the service.
    fn request(&self) -> Result<Value> {
        let subjects: Vec<Value> =
            self.subjects.iter().map(|text| subject(text)).collect::<Result<_>>()?;
        let mut body = Map::from_iter([("subjects".to_owned(), json!(subjects))]);
        let mut set = |field: &str, value: Value| {
            if !value.is_null() && value != json!([]) {
                body.insert(field.to_owned(), value);
            }
        };
        set("concepts", json!(self.concepts));
        set("prompts", json!(self.prompts));
        set("prompt_set", json!(self.prompt_set));
        set("images_per_prompt", json!(self.images_per_prompt));
        set("num_inference_steps", json!(self.num_inference_steps));
        set("guidance_scale", json!(self.guidance_scale));
        set("scheduler", json!(self.scheduler));
        set("seed", json!(self.seed));
        if let Some(held_out) = &self.held_out {
            set("held_out", json!({ "set": held_out, "subset_size": self.subset_size }));
        }
        Ok(body.into())
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
    let concepts = parts.split('+').map(|part| {
        let (named, strength) = match part.split_once('@') {
            Some((named, strength)) => {
                let number: f64 = strength
                    .parse()
                    .with_context(|| format!("--subject {text}: `{strength}` is not a strength"))?;
                (named, Some(number))
            }
            None => (part, None),
        };
        if named.is_empty() {
            bail!("--subject {text}: a concept is missing");
        }
        let field = if named.starts_with("dlt_") { "delta" } else { "concept" };
        Ok(json!({ field: named, "strength": strength }))
    });
    Ok(json!({ "name": name, "concepts": concepts.collect::<Result<Vec<Value>>>()? }))
}

/// What a change of the evaluation's state says, in tenths of its steps.
fn progress_of(evaluation: &Value) -> Option<String> {
    let (step, total) = (
        evaluation["progress"]["step"].as_u64()?,
        evaluation["progress"]["total_steps"].as_u64().filter(|total| *total > 0)?,
    );
    let what = if evaluation["status"] == "queued" { "samples" } else { "images scored" };
    let tenths = 10 * step / total;
    Some(format!("{what}: {} of {total}", tenths * total / 10))
}

fn print_table(report: &Value) {
    let figure = |estimate: &Value| {
        let Some(mean) = estimate["mean"].as_f64() else { return "–".to_owned() };
        match (estimate["interval"][0].as_f64(), estimate["interval"][1].as_f64()) {
            (Some(low), Some(high)) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
            _ => format!("{mean:.3}"),
        }
    };
    println!(
        "{:20} {:24} {:24} {:24} {:24} {:24}",
        "subject", "text-alignment", "image-alignment", "share", "leak", "scene"
    );
    for subject in report["subjects"].as_array().into_iter().flatten() {
        let columns = ["text_alignment", "image_alignment", "share", "leak", "scene"]
            .map(|field| format!("{:24}", figure(&subject[field])));
        println!("{:20} {}", subject["name"].as_str().unwrap_or_default(), columns.join(" "));
    }
    print_compositions(report, figure);
    if let Some(photos) = report["photos_alignment"].as_f64() {
        println!("{:20} {:24} {photos:.3}", "photos", "");
    }
}

/// The things of images of several, if there are such images.
fn print_compositions(report: &Value, figure: impl Fn(&Value) -> String) {
    let subjects = report["subjects"].as_array().into_iter().flatten();
    let composed = subjects.filter(|subject| subject["composition"].is_object());
    for (row, subject) in composed.enumerate() {
        if row == 0 {
            println!(
                "{:20} {:24} {:24} {:24} things in the order of the prompt",
                "several things", "image-alignment", "leak", "all present"
            );
        }
        let composition = &subject["composition"];
        let columns = ["image_alignment", "leak", "all_present"]
            .map(|field| format!("{:24}", figure(&composition[field])));
        let things = composition["things"].as_array().into_iter().flatten();
        let things: Vec<String> = things.map(&figure).collect();
        let name = subject["name"].as_str().unwrap_or_default();
        println!("{name:20} {} {}", columns.join(" "), things.join(", "));
    }
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
                { "concept": "rex", "strength": 0.5 }, { "delta": "dlt_1", "strength": null },
            ] })
        );
        for wrong in ["rex@much", "rex+", ""] {
            assert!(subject(wrong).is_err(), "{wrong}");
        }
    }
}
