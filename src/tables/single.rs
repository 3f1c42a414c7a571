//! Each concept alone: by what is learned, and by what the training leaves out.

use anyhow::Result;
use serde_json::{Value, json};

use super::cell::Cell;
use super::markdown::{Markdown, estimate, mean};
use super::workshop::{Workshop, name_of};
use crate::demo::ConceptPhotos;

/// Where the concept and, without its modifier token, its class are shown.
const SCENES: [&str; 6] =
    ["on the grass", "on the beach", "in the snow", "at night", "on the street", "in the forest"];
/// Beside a thing that is no concept.
const BESIDE: [&str; 2] = ["a {} next to a cake", "a {} in front of a car"];

/// A way of teaching.
struct Taught {
    name: &'static str,
    /// Part of the key.
    key: &'static str,
    /// Fields of the request beside concept and seed.
    fields: Value,
    /// Whether it needs a modifier token.
    needs_token: bool,
}

/// Makes the table of methods.
pub(super) async fn methods(workshop: &Workshop<'_>) -> Result<String> {
    let mut rows = vec![Taught::new("Custom Diffusion", "full", json!({}))];
    if workshop.knows("TrainingRecipe", "learn") {
        let learn = |key: bool, value: bool, token: bool| json!({ "recipe": { "learn": { "key": key, "value": value, "modifier_token": token } } });
        let token_alone = learn(false, false, true);
        let token_alone = Taught::new("Textual Inversion (token alone)", "token", token_alone);
        rows.push(Taught { needs_token: true, ..token_alone });
        rows.push(Taught::new("keys and token", "key", learn(true, false, true)));
        rows.push(Taught::new("values and token", "value", learn(false, true, true)));
    }
    if workshop.knows("TrainingRecipe", "rank") {
        for (name, key, rank) in
            [("rank 1", "rank1", 1), ("rank 4", "rank4", 4), ("rank 16", "rank16", 16)]
        {
            rows.push(Taught::new(name, key, json!({ "recipe": { "rank": rank } })));
        }
    }
    let table = table(workshop, &rows).await?;
    Ok(table.text("One concept: what is learned", &remark(workshop)))
}

/// Makes the paper's Table 3.
pub(super) async fn ablation(workshop: &Workshop<'_>) -> Result<String> {
    let rows = [
        Taught::new("the recipe of the base model", "full", json!({})),
        Taught::new(
            "with size augmentation, as in the paper",
            "sizes",
            json!({ "recipe": { "size_augmentation": true } }),
        ),
        Taught::new(
            "without augmentation",
            "no-augmentation",
            json!({ "recipe": { "size_augmentation": false, "horizontal_flip": false } }),
        ),
        Taught::new(
            "without regularization",
            "no-regularization",
            json!({ "regularization": { "source": "none" } }),
        ),
        Taught::new(
            "generated regularization",
            "generated",
            json!({ "regularization": { "source": "generated", "max_images": GENERATED } }),
        ),
    ];
    let table = table(workshop, &rows).await?;
    Ok(table.text("One concept: augmentation and regularization", &remark(workshop)))
}

/// Images that are generated for a class.
const GENERATED: usize = 64;

impl Taught {
    fn new(name: &'static str, key: &'static str, fields: Value) -> Self {
        Self { name, key, fields, needs_token: false }
    }
}

fn remark(workshop: &Workshop<'_>) -> String {
    format!(
        "{} concepts, seed {}, {} scenes, {} images of each. *Share*: the way from the base model to the photos' own agreement. *Beside*: \
         the concept in its half beside a plain thing. *Class*: how much closer to the photos the plain class has come; it should \
         be 0. *KID* × 1000: distance of the plain class's images from real images of the class; concepts of unknown classes \
         have neither. Intervals over concepts.",
        workshop.concepts.len(),
        workshop.args.seeds.first().copied().unwrap_or(1),
        SCENES.len(),
        workshop.args.images_per_prompt,
    )
}

/// Teaches every concept in every way and compares the images with the base model's.
async fn table(workshop: &Workshop<'_>, rows: &[Taught]) -> Result<Markdown> {
    let mut table = Figures::table("");
    let mut base = Vec::new();
    for concept in workshop.concepts {
        let subject = json!({ "name": "base model", "base": true });
        base.push(workshop.evaluate_alone(concept, "base", subject).await?);
    }
    let mut figures = Figures::default();
    for (evaluation, concept) in base.iter().zip(workshop.concepts) {
        figures.add(concept, evaluation, evaluation);
    }
    table.row(figures.row("base model"));
    for taught in rows {
        let mut figures = Figures::default();
        for (concept, base) in workshop.concepts.iter().zip(&base) {
            if taught.needs_token && !concept.is_known {
                continue;
            }
            let evaluation = workshop.taught_alone(concept, taught).await?;
            figures.add(concept, &evaluation, base);
        }
        table.row(figures.row(taught.name));
    }
    Ok(table.without_empty_columns())
}

impl Workshop<'_> {
    /// Teaches one concept and evaluates it.
    async fn taught_alone(
        &self,
        concept: &ConceptPhotos,
        taught: &Taught,
    ) -> Result<Result<Value, String>> {
        let seed = self.args.seeds.first().copied().unwrap_or(1);
        let id = self.concept(concept).await?;
        let mut body = json!({ "concepts": [id], "seed": seed });
        for (field, value) in taught.fields.as_object().into_iter().flatten() {
            body[field] = value.clone();
        }
        // The key of the plain recipe is that of `Workshop::taught`, so that it is learned once.
        let key = match taught.key {
            "full" => format!("{}/seed{seed}", concept.name),
            other => format!("{}/{other}/seed{seed}", concept.name),
        };
        match self.teach(&key, &body).await? {
            Ok(delta) => {
                let subject = json!({ "name": taught.key, "concepts": [{ "delta": delta }] });
                self.evaluate_alone(concept, taught.key, subject).await
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    /// Evaluates one concept alone, beside plain things, and its plain class.
    pub(super) async fn evaluate_alone(
        &self,
        concept: &ConceptPhotos,
        key: &str,
        subject: Value,
    ) -> Result<Result<Value, String>> {
        let seed = self.args.seeds.first().copied().unwrap_or(1);
        let id = self.concept(concept).await?;
        let name = name_of(concept);
        let mut prompts: Vec<Value> =
            SCENES.iter().map(|scene| json!(format!("photo of a {name} {scene}"))).collect();
        for template in BESIDE {
            prompts.push(json!({ "text": template.replace("{}", &name), "things": 2 }));
        }
        let mut held_out = None;
        if concept.is_known {
            let noun = &concept.class_noun;
            prompts.extend(SCENES.iter().map(|scene| json!(format!("photo of a {noun} {scene}"))));
            held_out = self.class_images(noun).await?;
        }
        let key = format!("alone/{}/seed{seed}/{key}", concept.name);
        self.evaluate(&key, subject, &[id], &prompts, seed, held_out.as_deref()).await
    }
}

/// The figures of some concepts taught in one way.
#[derive(Default)]
pub(super) struct Figures {
    text: Vec<f64>,
    image: Vec<f64>,
    share: Vec<f64>,
    beside: Vec<f64>,
    class: Vec<f64>,
    scene: Vec<f64>,
    kid: Vec<f64>,
    pub(super) failed: usize,
}

impl Figures {
    pub(super) fn table(first: &str) -> Markdown {
        Markdown::new(&[
            first, "text", "image", "share", "beside", "class", "scene", "KID", "failed",
        ])
    }

    /// Adds a concept's evaluation; shares and leaks are counted from the base model's.
    pub(super) fn add(
        &mut self,
        concept: &ConceptPhotos,
        evaluation: &Result<Value, String>,
        base: &Result<Value, String>,
    ) {
        let (Ok(evaluation), Ok(base)) = (evaluation, base) else {
            self.failed += 1;
            return;
        };
        let (cell, base) = (Cell::new(evaluation), Cell::new(base));
        self.text.extend(cell.alone("text_alignment"));
        self.image.extend(cell.alone("image_alignment"));
        self.scene.extend(cell.figure("scene"));
        self.beside.extend(cell.composed("image_alignment"));
        if let (Some(after), Some(before), Some(photos)) =
            (cell.alone("image_alignment"), base.alone("image_alignment"), cell.photos())
        {
            self.share.push((after - before) / (photos - before));
        }
        if concept.is_known {
            self.class.extend(cell.figure("leak").zip(base.figure("leak")).map(|(a, b)| a - b));
            self.kid.extend(cell.kid().map(|kid| 1000.0 * kid));
        }
    }

    pub(super) fn row(&self, name: &str) -> Vec<String> {
        vec![
            name.to_owned(),
            estimate(&self.text),
            estimate(&self.image),
            estimate(&self.share),
            estimate(&self.beside),
            estimate(&self.class),
            mean(&self.scene),
            estimate(&self.kid),
            if self.failed == 0 { "–".to_owned() } else { self.failed.to_string() },
        ]
    }
}
