//! The main job, step by step, over HTTP.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ConceptPhotos;
use super::progress::Progress;
use super::report::{ConceptReport, ImageReport, MergeReport, Report};
use super::sheet::{self, ConceptPanel, MergedPanel, Pictures};
use crate::client::Client;

/// What each concept is drawn in; `{}` is its name.
const PROMPTS: [&str; 4] = [
    "photo of a {} on the grass",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
];
/// What both are drawn in together.
const COMPOSITIONS: [&str; 4] = [
    "photo of a {known} in front of a {unknown}",
    "photo of a {unknown} next to a {known} on the grass",
    "photo of a {known} next to a {unknown} in the snow",
    "photo of a {unknown} and a {known} on the beach",
];
const SEEDS: [u64; 2] = [1, 2];
const TRAINING_SEED: u64 = 1;
/// Steps over which a mean loss is told.
const LOSS_WINDOW: usize = 50;

/// Tells the whole story and writes everything below `out`.
pub(super) async fn tell(
    address: &str,
    out: &Path,
    known: &ConceptPhotos,
    unknown: &ConceptPhotos,
    max_train_steps: Option<usize>,
    progress: &Progress,
) -> Result<()> {
    let start = Instant::now();
    let client = Client::new(address);
    let capabilities = client.get("/v1/capabilities").await?;
    let teller = Teller { client: &client, out, max_train_steps, progress };

    let mut students = vec![
        Student::new(known, Some(format!("<my-{}>", slug(&known.name)))),
        Student::new(unknown, None),
    ];
    for student in &mut students {
        teller.enrol(student).await?;
    }
    for student in &mut students {
        teller.draw_before(student).await?;
    }
    for student in &mut students {
        teller.teach(student).await?;
        teller.draw_after(student).await?;
    }
    let (merge, compositions) = teller.merge(&students).await?;

    let panels: Vec<ConceptPanel> = students.iter().map(|student| student.panel(out)).collect();
    let merged = MergedPanel { pictures: compositions };
    sheet::draw(&panels, &merged)?
        .save(out.join("sheet.png"))
        .context("sheet.png cannot be written")?;

    let report = Report {
        vstar: env!("CARGO_PKG_VERSION"),
        base_model: capabilities["base_model"].clone(),
        seconds: start.elapsed().as_secs_f64(),
        concepts: students.into_iter().filter_map(|student| student.report).collect(),
        merge,
        requests: client.requests(),
    };
    std::fs::write(out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    progress.say(&format!("done: look at {}", out.join("sheet.png").display()));
    Ok(())
}

/// A concept on its way through the demo.
struct Student<'a> {
    photos: &'a ConceptPhotos,
    modifier_token: Option<String>,
    concept_id: String,
    before: Vec<ImageReport>,
    after: Vec<ImageReport>,
    report: Option<ConceptReport>,
}

impl<'a> Student<'a> {
    fn new(photos: &'a ConceptPhotos, modifier_token: Option<String>) -> Self {
        let (before, after) = (Vec::new(), Vec::new());
        Self { photos, modifier_token, concept_id: String::new(), before, after, report: None }
    }

    /// How prompts name the concept once it is learnt.
    fn name(&self) -> String {
        match &self.modifier_token {
            Some(token) => format!("{token} {}", self.photos.class_noun),
            None => self.photos.class_noun.clone(),
        }
    }

    /// How a request names the concept where its prompt does not.
    fn uses(&self) -> Vec<Value> {
        match &self.modifier_token {
            Some(_) => Vec::new(),
            None => vec![json!({ "concept": self.concept_id })],
        }
    }

    fn panel(&self, out: &Path) -> ConceptPanel {
        let folder = out.join(&self.photos.name).join("photos");
        ConceptPanel {
            title: format!("{}: {}", self.photos.name, self.name()),
            photos: self
                .photos
                .photos
                .iter()
                .filter_map(|path| Some(folder.join(path.file_name()?)))
                .collect(),
            before: pictures(out, &self.before),
            after: pictures(out, &self.after),
        }
    }
}

struct Teller<'a> {
    client: &'a Client,
    out: &'a Path,
    max_train_steps: Option<usize>,
    progress: &'a Progress,
}

impl Teller<'_> {
    /// Creates the concept and uploads its photos.
    async fn enrol(&self, student: &mut Student<'_>) -> Result<()> {
        let photos = student.photos;
        let copies = self.out.join(&photos.name).join("photos");
        std::fs::create_dir_all(&copies)?;
        for photo in &photos.photos {
            std::fs::copy(photo, copies.join(photo.file_name().unwrap_or_default()))?;
        }
        let body = json!({
            "handle": slug(&photos.name),
            "modifier_token": student.modifier_token,
            "class_noun": photos.class_noun,
        });
        let concept = self.client.post("/v1/concepts", &body).await?;
        student.concept_id = text(&concept, "id")?;
        let path = format!("/v1/concepts/{}/images", student.concept_id);
        let uploaded = self.client.upload(&path, &photos.photos).await?;
        ensure!(uploaded["rejected"] == 0, "photos of {} were refused: {uploaded}", photos.name);
        self.progress.say(&format!("{}: {} photos uploaded", photos.name, photos.photos.len()));
        Ok(())
    }

    /// The same pictures from the base model alone: the modifier token is left out.
    async fn draw_before(&self, student: &mut Student<'_>) -> Result<()> {
        let noun = student.photos.class_noun.clone();
        let prompts = PROMPTS.map(|prompt| prompt.replace("{}", &noun));
        let title = format!("{} before", student.photos.name);
        let folder = format!("{}/before", student.photos.name);
        student.before = self.draw(&title, &folder, &prompts, &[]).await?;
        Ok(())
    }

    async fn draw_after(&self, student: &mut Student<'_>) -> Result<()> {
        let prompts = PROMPTS.map(|prompt| prompt.replace("{}", &student.name()));
        let title = format!("{} after", student.photos.name);
        let folder = format!("{}/after", student.photos.name);
        student.after = self.draw(&title, &folder, &prompts, &student.uses()).await?;
        if let Some(report) = &mut student.report {
            report.images = student.before.iter().chain(&student.after).cloned().collect();
        }
        Ok(())
    }

    /// Trains the concept and fetches its delta.
    async fn teach(&self, student: &mut Student<'_>) -> Result<()> {
        let start = Instant::now();
        let name = &student.photos.name;
        let mut body = json!({ "concepts": [student.concept_id], "seed": TRAINING_SEED });
        if let Some(steps) = self.max_train_steps {
            body["recipe"] = json!({ "max_train_steps": steps });
        }
        let training = self.client.post("/v1/trainings", &body).await?;
        let training_id = text(&training, "id")?;
        let path = format!("/v1/trainings/{training_id}");
        let mut work = self.progress.begin(format!("{name} learns"));
        let done = self
            .client
            .finish(&path, |job| {
                let progress = &job["progress"];
                let (step, of) = (progress["step"].as_u64(), progress["total_steps"].as_u64());
                if let (Some("optimizing"), Some(step), Some(of)) =
                    (job["phase"].as_str(), step, of)
                {
                    let loss = progress["loss"]
                        .as_f64()
                        .map_or(String::new(), |loss| format!("loss {loss:.3}"));
                    work.at(step, of, &loss);
                }
            })
            .await?;
        let training_seconds = start.elapsed().as_secs_f64();
        let losses = self.losses(&path).await?;
        let mean = |part: &[(u64, f64)]| {
            part.iter().map(|(_, loss)| loss).sum::<f64>() / part.len().max(1) as f64
        };
        let window = LOSS_WINDOW.min(losses.len());
        let (loss_first, loss_last) =
            (mean(&losses[..window]), mean(&losses[losses.len() - window..]));
        work.done(&format!(
            "learnt in {training_seconds:.0} s, loss {loss_first:.3} to {loss_last:.3}"
        ));

        let delta_id = text(&done, "delta")?;
        let file = self.out.join(name).join("delta.safetensors");
        let delta_bytes =
            self.client.download(&format!("/v1/deltas/{delta_id}/content"), &file).await?;
        student.report = Some(ConceptReport {
            name: name.clone(),
            concept_id: student.concept_id.clone(),
            modifier_token: student.modifier_token.clone(),
            class_noun: student.photos.class_noun.clone(),
            photos: student.photos.photos.len(),
            training_id,
            training_seconds,
            training_seed: done["seed"].clone(),
            recipe: done["recipe"].clone(),
            loss_first,
            loss_last,
            losses,
            delta_id,
            delta_bytes,
            images: Vec::new(),
        });
        Ok(())
    }

    async fn losses(&self, training: &str) -> Result<Vec<(u64, f64)>> {
        let metrics = self.client.get(&format!("{training}/metrics?limit=10000")).await?;
        let rows = metrics["data"].as_array().cloned().unwrap_or_default();
        Ok(rows
            .iter()
            .filter_map(|row| Some((row["step"].as_u64()?, row["loss"].as_f64()?)))
            .collect())
    }

    /// Merges both deltas and draws them together.
    async fn merge(&self, students: &[Student<'_>]) -> Result<(MergeReport, Pictures)> {
        let start = Instant::now();
        let concepts: Vec<Value> =
            students.iter().map(|student| json!({ "concept": student.concept_id })).collect();
        let merge = self.client.post("/v1/merges", &json!({ "concepts": concepts })).await?;
        let merge_id = text(&merge, "id")?;
        let done = self.client.finish(&format!("/v1/merges/{merge_id}"), |_| {}).await?;
        let seconds = start.elapsed().as_secs_f64();
        let delta_id = text(&done, "delta")?;
        self.progress.say(&format!("merged in {seconds:.1} s"));

        let prompts = COMPOSITIONS.map(|prompt| {
            prompt.replace("{known}", &students[0].name()).replace("{unknown}", &students[1].name())
        });
        let images =
            self.draw("both together", "merged", &prompts, &[json!({ "delta": delta_id })]).await?;
        let pictures = pictures(self.out, &images);
        Ok((MergeReport { merge_id, delta_id, seconds, images }, pictures))
    }

    /// Draws every prompt with every seed into `folder`.
    async fn draw(
        &self,
        title: &str,
        folder: &str,
        prompts: &[String],
        concepts: &[Value],
    ) -> Result<Vec<ImageReport>> {
        let start = Instant::now();
        std::fs::create_dir_all(self.out.join(folder))?;
        let mut queued = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            for seed in SEEDS {
                let body = json!({ "prompt": prompt, "seed": seed, "n": 1, "concepts": concepts });
                let sample = self.client.post("/v1/samples", &body).await?;
                queued.push((index, prompt, seed, text(&sample, "id")?));
            }
        }
        let mut work = self.progress.begin(title);
        let total = queued.len() as u64;
        let mut images = Vec::new();
        for (index, prompt, seed, sample_id) in queued {
            let sample = self.client.finish(&format!("/v1/samples/{sample_id}"), |_| {}).await?;
            let image = &sample["images"][0];
            let path = format!("{folder}/{}-seed{seed}.png", index + 1);
            let content = text(image, "url")?;
            let bytes = self.client.download(&content, &self.out.join(&path)).await?;
            images.push(ImageReport {
                path,
                prompt: prompt.clone(),
                seed,
                width: image["width"].clone(),
                height: image["height"].clone(),
                bytes,
            });
            work.at(images.len() as u64, total, "");
        }
        work.done(&format!("{total} pictures in {:.0} s", start.elapsed().as_secs_f64()));
        Ok(images)
    }
}

/// Files by prompt, in order.
fn pictures(out: &Path, images: &[ImageReport]) -> Pictures {
    let mut by_prompt: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for image in images {
        let path = out.join(&image.path);
        match by_prompt.last_mut() {
            Some((prompt, paths)) if *prompt == image.prompt => paths.push(path),
            Some(_) | None => by_prompt.push((image.prompt.clone(), vec![path])),
        }
    }
    by_prompt
}

/// A name as handles and tokens take it.
fn slug(name: &str) -> String {
    name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn text(value: &Value, field: &str) -> Result<String> {
    value[field]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no `{field}`: {value}"))
}
