//! One concept's way through the demo: photos in, images before, training, images after.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::ConceptPhotos;
use super::alignment::{ConceptAlignment, among};
use super::report::{ConceptReport, ImageReport};
use super::sheet::ConceptPanel;
use super::teller::{Teller, images_by_prompt, slug, text};
use crate::client::Client;

/// Prompts of each concept; `{}` is its name.
const PROMPTS: [&str; 4] = [
    "photo of a {} on the grass",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
];
/// Steps over which a mean loss is reported.
const LOSS_WINDOW: usize = 50;

/// A concept on its way through the demo.
pub(super) struct Student<'a> {
    photos: &'a ConceptPhotos,
    modifier_token: Option<String>,
    pub(super) concept_id: String,
    before: Vec<ImageReport>,
    after: Vec<ImageReport>,
    alignment: Option<ConceptAlignment>,
    pub(super) report: Option<ConceptReport>,
}

impl<'a> Student<'a> {
    pub(super) fn new(photos: &'a ConceptPhotos) -> Self {
        let modifier_token = modifier_token(photos);
        let (before, after) = (Vec::new(), Vec::new());
        let concept_id = String::new();
        Self { photos, modifier_token, concept_id, before, after, alignment: None, report: None }
    }

    /// The concept's name and how well it was learned, if that was measured and it was not.
    pub(super) fn failure(&self) -> Option<String> {
        let alignment = self.alignment.filter(|alignment| !alignment.is_learned())?;
        Some(format!("{} (share {:.2})", self.photos.name, alignment.share()))
    }

    pub(super) fn title(&self) -> &str {
        &self.photos.name
    }

    /// How prompts name the concept once it is learned.
    pub(super) fn name(&self) -> String {
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

    pub(super) fn panel(&self, out: &Path) -> ConceptPanel {
        let folder = out.join(&self.photos.name).join("photos");
        ConceptPanel {
            title: format!("{}: {}", self.photos.name, self.name()),
            photos: self
                .photos
                .photos
                .iter()
                .filter_map(|path| Some(folder.join(path.file_name()?)))
                .collect(),
            before: images_by_prompt(out, &self.before),
            after: images_by_prompt(out, &self.after),
            alignment: self.alignment,
        }
    }
}

/// How prompts call a concept of a class that the base model knows.
pub(crate) fn modifier_token(photos: &ConceptPhotos) -> Option<String> {
    photos.is_known.then(|| format!("<my-{}>", slug(&photos.name)))
}

/// Creates a concept, uploads its photos and returns its id.
///
/// # Errors
/// What the service answers.
pub(crate) async fn create_concept(
    client: &Client,
    photos: &ConceptPhotos,
    modifier_token: Option<&str>,
) -> Result<String> {
    let body = json!({
        "handle": slug(&photos.name),
        "modifier_token": modifier_token,
        "class_noun": photos.class_noun,
    });
    let concept_id = text(&client.post("/v1/concepts", &body).await?, "id")?;
    let path = format!("/v1/concepts/{concept_id}/images");
    let uploaded = client.upload(&path, &photos.photos).await?;
    ensure!(uploaded["rejected"] == 0, "photos of {} were refused: {uploaded}", photos.name);
    Ok(concept_id)
}

impl Teller<'_> {
    /// Creates the concept and uploads its photos.
    pub(super) async fn enrol(&self, student: &mut Student<'_>) -> Result<()> {
        let photos = student.photos;
        let copies = self.out.join(&photos.name).join("photos");
        std::fs::create_dir_all(&copies)?;
        for photo in &photos.photos {
            std::fs::copy(photo, copies.join(photo.file_name().unwrap_or_default()))?;
        }
        student.concept_id =
            create_concept(self.client, photos, student.modifier_token.as_deref()).await?;
        self.progress.say(&format!("{}: {} photos uploaded", photos.name, photos.photos.len()));
        Ok(())
    }

    /// Generates the same images with the base model alone: the modifier token is left out.
    pub(super) async fn sample_before(&self, student: &mut Student<'_>) -> Result<()> {
        let noun = student.photos.class_noun.clone();
        let prompts = PROMPTS.map(|prompt| prompt.replace("{}", &noun));
        let title = format!("{} before", student.photos.name);
        let folder = format!("{}/before", student.photos.name);
        student.before = self.sample(&title, &folder, &prompts, &[]).await?;
        Ok(())
    }

    /// Generates the same images of the concept.
    pub(super) async fn sample_after(&self, student: &mut Student<'_>) -> Result<()> {
        let prompts = PROMPTS.map(|prompt| prompt.replace("{}", &student.name()));
        let title = format!("{} after", student.photos.name);
        let folder = format!("{}/after", student.photos.name);
        student.after = self.sample(&title, &folder, &prompts, &student.uses()).await?;
        if let Some(report) = &mut student.report {
            report.images = student.before.iter().chain(&student.after).cloned().collect();
        }
        Ok(())
    }

    /// Compares the images before and after with the photos, if there is an evaluator.
    pub(super) fn measure(&self, student: &mut Student<'_>) -> Result<()> {
        let Some(judge) = self.judge else { return Ok(()) };
        let photos = judge.photos(&student.photos.photos)?;
        let (name, noun) = (student.name(), &student.photos.class_noun);
        let of = |images: &[ImageReport]| {
            let plain = |image: &ImageReport| {
                (self.out.join(&image.path), image.prompt.replace(&name, noun))
            };
            judge.alignment(&images.iter().map(plain).collect::<Vec<_>>(), &photos)
        };
        let alignment = ConceptAlignment {
            photos: among(&photos),
            before: of(&student.before)?,
            after: of(&student.after)?,
        };
        student.alignment = Some(alignment);
        if let Some(report) = &mut student.report {
            report.alignment = Some(alignment);
        }
        self.progress.say(&format!(
            "{}: image alignment {:.2} to {:.2}, photos among themselves {:.2}: share {:.2}",
            student.photos.name,
            alignment.before.image,
            alignment.after.image,
            alignment.photos,
            alignment.share()
        ));
        Ok(())
    }

    /// Trains the concept and fetches its delta.
    pub(super) async fn teach(&self, student: &mut Student<'_>) -> Result<()> {
        let start = Instant::now();
        let name = &student.photos.name;
        // The prompts of this lesson mean this training, also if the concept was taught before.
        let mut body =
            json!({ "concepts": [student.concept_id], "seed": self.seed, "promote": "always" });
        if let Some(recipe) = self.recipe {
            body["recipe"] = Value::Object(recipe.clone());
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
            alignment: None,
            images: Vec::new(),
        });
        Ok(())
    }

    async fn losses(&self, training: &str) -> Result<Vec<(u64, f64)>> {
        let metrics = self.client.get(&format!("{training}/metrics?limit=10000")).await?;
        let points = metrics["data"].as_array().cloned().unwrap_or_default();
        Ok(points
            .iter()
            .filter_map(|point| Some((point["step"].as_u64()?, point["loss"].as_f64()?)))
            .collect())
    }
}
