//! The main job, step by step, over HTTP.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::alignment::{Judge, LEARNED_SHARE};
use super::lesson::Student;
use super::progress::Progress;
use super::report::{CompositionReport, MergeReport, Report};
use super::sheet::{self, ConceptPanel, PairPanel};
use super::teller::{Teller, images_by_prompt, slug, text};
use super::{ConceptPhotos, DemoArgs};
use crate::client::Client;

/// Prompts of two concepts together.
const COMPOSITIONS: [&str; 4] = [
    "photo of a {first} in front of a {second}",
    "photo of a {second} next to a {first} on the grass",
    "photo of a {first} next to a {second} in the snow",
    "photo of a {second} and a {first} on the beach",
];

/// Tells the whole story and writes everything below the folder for the results.
///
/// # Errors
/// What the service answers, and at the end the concepts that were not learned.
pub(super) async fn tell(
    address: &str,
    args: &DemoArgs,
    concepts: &[ConceptPhotos],
    judge: Option<&Judge>,
    progress: &Progress,
) -> Result<()> {
    let start = Instant::now();
    let client = Client::new(address);
    let capabilities = client.get("/v1/capabilities").await?;
    let (out, recipe) = (args.out.as_path(), args.recipe.as_ref());
    let teller = Teller { client: &client, out, seed: args.seed, recipe, judge, progress };

    let mut students: Vec<Student<'_>> = concepts.iter().map(Student::new).collect();
    for student in &mut students {
        teller.enrol(student).await?;
    }
    for student in &mut students {
        teller.sample_before(student).await?;
    }
    for student in &mut students {
        teller.teach(student).await?;
        teller.sample_after(student).await?;
        teller.measure(student)?;
    }
    let (mut compositions, mut merges, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let half = students.len() / 2;
    for (first, second) in students.iter().zip(&students[half..]).take(half) {
        let (composition, pair) = teller.compose(first, second).await?;
        compositions.push(composition);
        pairs.push(pair);
        let (merge, pair) = teller.merge(first, second).await?;
        merges.push(merge);
        pairs.push(pair);
    }

    let panels: Vec<ConceptPanel> = students.iter().map(|student| student.panel(out)).collect();
    sheet::render(&panels, &pairs)?
        .save(out.join("sheet.png"))
        .context("sheet.png cannot be written")?;

    let failures: Vec<String> = students.iter().filter_map(Student::failure).collect();
    let report = Report {
        vstar: env!("CARGO_PKG_VERSION"),
        base_model: capabilities["base_model"].clone(),
        seconds: start.elapsed().as_secs_f64(),
        concepts: students.into_iter().filter_map(|student| student.report).collect(),
        compositions,
        merges,
        requests: client.requests(),
    };
    std::fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    progress.say(&format!("done: look at {}", out.join("sheet.png").display()));
    if judge.is_none() {
        progress.say("there is no evaluator: nobody has checked that the concepts were learned");
    }
    if !failures.is_empty() && recipe.is_none() {
        let failures = failures.join(", ");
        bail!(
            "not learned: {failures}; a share of {LEARNED_SHARE} is needed, 1 is as good as another photo"
        );
    }
    Ok(())
}

impl Teller<'_> {
    /// Generates images of two concepts together, each in a region of its own.
    async fn compose(
        &self,
        first: &Student<'_>,
        second: &Student<'_>,
    ) -> Result<(CompositionReport, PairPanel)> {
        let start = Instant::now();
        let concept_ids = [first.concept_id.clone(), second.concept_id.clone()];
        let concepts = concept_ids.each_ref().map(|id| json!({ "concept": id }));
        let title = format!("{} and {}", first.name(), second.name());
        let folder = format!("composed/{}-{}", slug(first.title()), slug(second.title()));
        let images =
            self.sample(&title, &folder, &compositions_of(first, second), &concepts).await?;
        let title = format!("{title}, each in its region");
        let panel = PairPanel { title, images: images_by_prompt(self.out, &images) };
        let seconds = start.elapsed().as_secs_f64();
        Ok((CompositionReport { concept_ids, seconds, images }, panel))
    }

    /// Merges two deltas and generates images of both concepts together.
    async fn merge(
        &self,
        first: &Student<'_>,
        second: &Student<'_>,
    ) -> Result<(MergeReport, PairPanel)> {
        let start = Instant::now();
        let concepts = json!([{ "concept": first.concept_id }, { "concept": second.concept_id }]);
        let merge = self.client.post("/v1/merges", &json!({ "concepts": concepts })).await?;
        let merge_id = text(&merge, "id")?;
        let done = self.client.finish(&format!("/v1/merges/{merge_id}"), |_| {}).await?;
        let seconds = start.elapsed().as_secs_f64();
        let delta_id = text(&done, "delta")?;
        let (one, other) = (first.name(), second.name());
        self.progress.say(&format!("{one} and {other}: merged in {seconds:.1} s"));

        let prompts = compositions_of(first, second);
        let title = format!("{one} and {other}");
        let folder = format!("merged/{}-{}", slug(first.title()), slug(second.title()));
        let images =
            self.sample(&title, &folder, &prompts, &[json!({ "delta": delta_id })]).await?;
        let title = format!("{title}, merged in closed form");
        let panel = PairPanel { title, images: images_by_prompt(self.out, &images) };
        Ok((MergeReport { merge_id, delta_id, seconds, images }, panel))
    }
}

/// The prompts of two concepts together.
fn compositions_of(first: &Student<'_>, second: &Student<'_>) -> [String; 4] {
    let (one, other) = (first.name(), second.name());
    COMPOSITIONS.map(|prompt| prompt.replace("{first}", &one).replace("{second}", &other))
}
