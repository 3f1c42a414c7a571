//! What every table needs: concepts, trainings and evaluations, each made once and found again by a later run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::TablesArgs;
use super::ledger::{Entry, Ledger, Outcome};
use crate::client::Client;
use crate::demo::{ConceptPhotos, Progress, create_concept, modifier_token, slug, text};
use crate::model_folder::ModelFolder;

/// Makes things once.
pub(super) struct Workshop<'a> {
    pub(super) client: &'a Client,
    pub(super) args: &'a TablesArgs,
    pub(super) concepts: &'a [ConceptPhotos],
    pub(super) ledger: &'a Ledger,
    pub(super) progress: &'a Progress,
    pub(super) model: &'a ModelFolder,
    /// The service's own description of its API.
    document: Value,
}

/// How prompts name a concept.
pub(super) fn name_of(concept: &ConceptPhotos) -> String {
    match modifier_token(concept) {
        Some(token) => format!("{token} {}", concept.class_noun),
        None => concept.class_noun.clone(),
    }
}

impl<'a> Workshop<'a> {
    pub(super) async fn open(
        client: &'a Client,
        args: &'a TablesArgs,
        concepts: &'a [ConceptPhotos],
        model: &'a ModelFolder,
        ledger: &'a Ledger,
        progress: &'a Progress,
    ) -> Result<Self> {
        let document = client.get("/openapi.json").await?;
        Ok(Self { client, args, concepts, ledger, progress, model, document })
    }

    /// Whether a body of the API has this field.
    pub(super) fn knows(&self, body: &str, field: &str) -> bool {
        self.document["components"]["schemas"][body]["properties"][field] != Value::Null
    }

    /// Whether the API has this path.
    pub(super) fn has_path(&self, path: &str) -> bool {
        self.document["paths"][path] != Value::Null
    }

    /// The concept's id; made with its photos if it is not there.
    pub(super) async fn concept(&self, concept: &ConceptPhotos) -> Result<String> {
        let token = modifier_token(concept);
        self.concept_with(concept, token.as_deref()).await
    }

    /// The id of a concept with this modifier token.
    pub(super) async fn concept_with(
        &self,
        concept: &ConceptPhotos,
        modifier_token: Option<&str>,
    ) -> Result<String> {
        let files: Vec<_> = concept.photos.iter().map(|photo| photo.file_name()).collect();
        let files: Vec<_> =
            files.into_iter().flatten().map(|name| name.to_string_lossy()).collect();
        let request =
            json!({ "class_noun": concept.class_noun, "token": modifier_token, "photos": files });
        let key = format!("concept/{}", concept.name);
        if let Some(entry) = self.ledger.find(&key, &request) {
            return Ok(entry.path);
        }
        let id = match self.found(concept).await {
            Some(id) => id,
            None => create_concept(self.client, concept, modifier_token).await?,
        };
        self.ledger.write(&key, &Entry { request, path: id.clone(), result: None })?;
        Ok(id)
    }

    /// A concept that a run has made that broke off before it could say so.
    async fn found(&self, concept: &ConceptPhotos) -> Option<String> {
        let found = self.client.get(&format!("/v1/concepts/{}", slug(&concept.name))).await.ok()?;
        let is_whole = found["image_count"].as_u64()? == concept.photos.len() as u64;
        if is_whole { text(&found, "id").ok() } else { None }
    }

    /// Teaches and returns the delta's id, or why there is none.
    pub(super) async fn teach(&self, key: &str, body: &Value) -> Result<Result<String, String>> {
        let key = format!("training/{key}");
        match self.job(&key, "/v1/trainings", body).await? {
            Outcome::Succeeded(training) => Ok(Ok(text(&training, "delta")?)),
            Outcome::Failed(reason) => Ok(Err(reason)),
        }
    }

    /// Teaches concepts by the base model's own recipe.
    pub(super) async fn taught(&self, concept: &ConceptPhotos, seed: u64) -> Result<String> {
        let id = self.concept(concept).await?;
        let body = json!({ "concepts": [id], "seed": seed });
        let made = self.teach(&format!("{}/seed{seed}", concept.name), &body).await?;
        made.map_err(|reason| anyhow::anyhow!("{} was not learned: {reason}", concept.name))
    }

    /// Evaluates one subject and returns the evaluation, or why there is none.
    ///
    /// - `concepts`: ids of those whose photos count
    pub(super) async fn evaluate(
        &self,
        key: &str,
        subject: Value,
        concepts: &[String],
        prompts: &[Value],
        seed: u64,
        held_out: Option<&str>,
    ) -> Result<Result<Value, String>> {
        let body = json!({
            "subjects": [subject], "concepts": concepts, "prompts": prompts, "seed": seed,
            "images_per_prompt": self.args.images_per_prompt, "num_inference_steps": 25,
            "guidance_scale": 3.0, "scheduler": "ddim",
            "held_out": held_out.map(|set| json!({ "set": set })),
        });
        let key = format!("evaluation/{key}");
        if self.args.again {
            self.ledger.forget(&key);
        }
        match self.job(&key, "/v1/evaluations", &body).await? {
            Outcome::Succeeded(evaluation) => Ok(Ok(evaluation)),
            Outcome::Failed(reason) => Ok(Err(reason)),
        }
    }

    /// Compresses a delta and returns the new one's id, or why there is none.
    pub(super) async fn compressed(
        &self,
        concept: &ConceptPhotos,
        key: &str,
        delta: &str,
        request: &Value,
    ) -> Result<Result<String, String>> {
        let (key, path) =
            (format!("{}/{key}", concept.name), format!("/v1/deltas/{delta}/compress"));
        match self.job(&key, &path, request).await? {
            Outcome::Succeeded(compression) => Ok(Ok(text(&compression, "delta")?)),
            Outcome::Failed(reason) => Ok(Err(reason)),
        }
    }

    /// Runs a job to its end, or finds it in the ledger.
    async fn job(&self, key: &str, path: &str, body: &Value) -> Result<Outcome> {
        let known = self.ledger.find(key, &json!([path, body]));
        if let Some(Entry { result: Some(outcome), .. }) = known {
            return Ok(outcome);
        }
        let start = Instant::now();
        let job = match known {
            Some(entry) => entry.path,
            None => {
                let started = self.client.post(path, body).await?;
                let job = started["urls"]["self"].as_str();
                let job = job.context("the service's answer has no URL")?.to_owned();
                let entry = Entry { request: json!([path, body]), path: job.clone(), result: None };
                self.ledger.write(key, &entry)?;
                job
            }
        };
        let mut last = Value::Null;
        let finished = self.client.finish(&job, |answer| last = answer.clone()).await;
        let outcome = match (finished, last["status"].as_str()) {
            (Ok(answer), _) => Outcome::Succeeded(answer),
            (Err(_), Some("failed")) => Outcome::Failed(last["error"]["detail"].to_string()),
            (Err(error), _) => return Err(error),
        };
        let result = Some(outcome.clone());
        self.ledger.write(key, &Entry { request: json!([path, body]), path: job, result })?;
        let seconds = start.elapsed().as_secs_f64();
        let ended = match &outcome {
            Outcome::Succeeded(_) => String::new(),
            Outcome::Failed(reason) => format!(", failed: {reason}"),
        };
        self.progress.say(&format!("{key}: {seconds:.1} s{ended}"));
        Ok(outcome)
    }

    /// The files of an evaluation's images, by prompt, in the order of the prompts; fetched if they are not there.
    pub(super) async fn images(&self, key: &str, evaluation: &Value) -> Result<Vec<Vec<PathBuf>>> {
        let dir = self.args.out.join("images").join(key);
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("{} cannot be made", dir.display()))?;
        let prompts = evaluation["report"]["subjects"][0]["prompts"].as_array();
        let prompts: Vec<&str> =
            prompts.into_iter().flatten().filter_map(|one| one["prompt"].as_str()).collect();
        let count = evaluation["settings"]["n"].as_u64().unwrap_or(0) as usize;
        let file = |prompt: usize, image: usize| dir.join(format!("{prompt:02}-{image:02}.png"));
        let files: Vec<Vec<PathBuf>> = (0..prompts.len())
            .map(|prompt| (0..count).map(|image| file(prompt, image)).collect())
            .collect();
        // They are those of this evaluation, and not of an earlier one, if its id is beside them.
        let (id, mark) = (text(evaluation, "id")?, dir.join("evaluation"));
        if std::fs::read_to_string(&mark).is_ok_and(|known| known == id) {
            return Ok(files);
        }
        let path = format!("/v1/evaluations/{id}/samples?limit=100");
        let mut next = Some(path.clone());
        while let Some(page) = next {
            let samples = self.client.get(&page).await?;
            for sample in samples["data"].as_array().into_iter().flatten() {
                let prompt = prompts.iter().position(|one| sample["prompt"] == **one);
                let prompt = prompt.context("a sample of another evaluation")?;
                for image in sample["images"].as_array().into_iter().flatten() {
                    let index = image["index"].as_u64().unwrap_or(0) as usize;
                    let to = file(prompt, index.saturating_sub(prompt * count));
                    self.client.download(&text(image, "url")?, &to).await?;
                }
            }
            let cursor = samples["next_cursor"].as_str();
            next = cursor.map(|cursor| format!("{path}&after={cursor}"));
        }
        std::fs::write(&mark, id)
            .with_context(|| format!("{} cannot be written", mark.display()))?;
        Ok(files)
    }
}
