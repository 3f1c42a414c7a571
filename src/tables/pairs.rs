//! Two concepts in one image, by every way of composing.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::cell::Cell;
use super::markdown::{Markdown, estimate, mean};
use super::sheet::{self, Strip};
use super::workshop::{Workshop, name_of};
use crate::demo::ConceptPhotos;

/// Prompts of two things.
const PROMPTS: [&str; 3] = [
    "a {first} next to a {second} on the grass",
    "a {first} and a {second} on the beach",
    "a {first} in front of a {second} in the snow",
];

/// How concepts come into one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComposedBy {
    /// The base model's own things, for classes that it knows.
    Base,
    /// Deltas merged softly.
    Soft,
    /// Deltas merged as in the paper.
    Hard,
    /// Each concept's keys and values at its own words.
    Tokens,
    /// Each concept drawn by itself into a layout of the base model's.
    Regional,
    /// What the service does unless it is told otherwise.
    Default,
    /// Learned together in one training.
    Joint,
    /// One learned after the other.
    Sequential,
}

impl ComposedBy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base model, plain things",
            Self::Soft => "merged, soft",
            Self::Hard => "merged, hard",
            Self::Tokens => "by tokens",
            Self::Regional => "regional",
            Self::Default => "default",
            Self::Joint => "trained jointly",
            Self::Sequential => "trained one after the other",
        }
    }

    /// The ways that the arguments ask for and the service knows.
    pub(super) fn wanted(workshop: &Workshop<'_>) -> Vec<Self> {
        let chosen = &workshop.args.methods;
        let all = Self::value_variants().iter().copied();
        let wanted = all.filter(|way| match chosen.is_empty() {
            true => *way != Self::Default, // it is one of the others
            false => chosen.contains(way),
        });
        let composes = workshop.knows("StartSubject", "composition");
        wanted
            .filter(|way| match way {
                Self::Tokens | Self::Regional => composes,
                Self::Sequential => workshop.knows("StartTraining", "start_from"),
                Self::Base | Self::Soft | Self::Hard | Self::Default | Self::Joint => true,
            })
            .collect()
    }

    /// Whether a training for it takes so long that one seed has to be enough.
    fn trains(self) -> bool {
        matches!(self, Self::Joint | Self::Sequential)
    }

    /// What an evaluation is asked for, with deltas that are learned already.
    fn subject(self, deltas: &[String], composes: bool) -> Value {
        let concepts: Vec<Value> = deltas.iter().map(|delta| json!({ "delta": delta })).collect();
        let mut subject = json!({ "name": self.name(), "concepts": concepts });
        let merge = match self {
            Self::Soft => Some("soft"),
            Self::Hard => Some("hard"),
            Self::Base | Self::Tokens | Self::Regional => None,
            Self::Default | Self::Joint | Self::Sequential => None,
        };
        if let Some(method) = merge {
            subject["merge"] = json!({ "method": method });
        }
        let composition = match self {
            Self::Soft | Self::Hard => Some("merge"),
            Self::Tokens => Some("tokens"),
            Self::Regional => Some("regional"),
            Self::Base | Self::Default | Self::Joint | Self::Sequential => None,
        };
        if let (Some(method), true) = (composition, composes) {
            subject["composition"] = json!({ "method": method });
        }
        subject
    }
}

/// One group of concepts composed one way, or why not.
pub(super) struct Composed {
    pub(super) way: ComposedBy,
    pub(super) seed: u64,
    pub(super) evaluation: Result<Value, String>,
    key: String,
}

impl Workshop<'_> {
    /// Composes concepts in one way and evaluates the images; `None` where there is nothing to compose.
    ///
    /// - `prompts`: of the concepts' names, in the order of the concepts
    pub(super) async fn compose(
        &self,
        concepts: &[&ConceptPhotos],
        way: ComposedBy,
        seed: u64,
        prompts: impl Fn(&[String]) -> Vec<String>,
    ) -> Result<Option<Composed>> {
        let names: Vec<&str> = concepts.iter().map(|concept| concept.name.as_str()).collect();
        let group = names.join("+");
        let way_name = way.to_possible_value().map(|name| name.get_name().to_owned());
        let key = format!("composed/{group}/seed{seed}/{}", way_name.unwrap_or_default());
        if way == ComposedBy::Base && concepts.iter().any(|concept| !concept.is_known) {
            return Ok(None);
        }
        let mut ids = Vec::new();
        for concept in concepts {
            ids.push(match way {
                ComposedBy::Base => self.plain_thing(concept).await?,
                _ => self.concept(concept).await?,
            });
        }
        let subject = match way {
            ComposedBy::Base => Ok(json!({ "name": way.name(), "base": true })),
            ComposedBy::Joint => {
                let body = json!({ "concepts": ids, "seed": seed });
                let delta = self.teach(&format!("{group}/jointly/seed{seed}"), &body).await?;
                delta.map(|delta| way.subject(&[delta], false))
            }
            ComposedBy::Sequential => {
                let mut delta = Ok(self.taught(concepts[0], seed).await?);
                for (index, id) in ids.iter().enumerate().skip(1) {
                    let Ok(start_from) = &delta else { break };
                    let so_far = names[..=index].join("-then-");
                    let body = json!({ "concepts": [id], "seed": seed, "start_from": start_from });
                    delta = self.teach(&format!("{so_far}/seed{seed}"), &body).await?;
                }
                delta.map(|delta| way.subject(&[delta], false))
            }
            _ => {
                let mut deltas = Vec::new();
                for concept in concepts {
                    deltas.push(self.taught(concept, seed).await?);
                }
                Ok(way.subject(&deltas, self.knows("StartSubject", "composition")))
            }
        };
        let called: Vec<String> = concepts
            .iter()
            .map(|concept| match way {
                ComposedBy::Base => concept.class_noun.clone(),
                _ => name_of(concept),
            })
            .collect();
        let prompts: Vec<Value> = prompts(&called).into_iter().map(Value::String).collect();
        let evaluation = match subject {
            Ok(subject) => self.evaluate(&key, subject, &ids, &prompts, seed, None).await?,
            Err(reason) => Err(reason),
        };
        Ok(Some(Composed { way, seed, evaluation, key }))
    }
}

/// Every prompt in both orders of the pair.
fn both_orders(names: &[String]) -> Vec<String> {
    let filled = |template: &str, first: &str, second: &str| {
        template.replace("{first}", first).replace("{second}", second)
    };
    PROMPTS
        .iter()
        .flat_map(|template| {
            [filled(template, &names[0], &names[1]), filled(template, &names[1], &names[0])]
        })
        .collect()
}

/// Makes the table and its sheet.
pub(super) async fn table(
    workshop: &Workshop<'_>,
    pairs: &[[&ConceptPhotos; 2]],
) -> Result<String> {
    let ways = ComposedBy::wanted(workshop);
    let mut all: Vec<(String, Vec<Composed>)> = Vec::new();
    // Seed by seed, so that what there is after half of the time is a whole table.
    for (round, seed) in workshop.args.seeds.iter().enumerate() {
        for (index, pair) in pairs.iter().enumerate() {
            let mut made = Vec::new();
            for way in ways.iter().filter(|way| round == 0 || !way.trains()) {
                made.extend(workshop.compose(pair, *way, *seed, both_orders).await?);
            }
            match all.get_mut(index) {
                Some((_, of_pair)) => of_pair.extend(made),
                None => all.push((format!("{} + {}", pair[0].name, pair[1].name), made)),
            }
        }
    }
    let mut strips = Vec::new();
    for ((title, made), pair) in all.iter().zip(pairs) {
        strips.push(strip(workshop, title, pair, made).await?);
    }
    let columns: Vec<&str> = ways.iter().map(|way| way.name()).collect();
    sheet::draw(&columns, strips, &workshop.args.out.join("pairs.png"))?;
    let remark = format!(
        "{} pairs, seeds {:?}, {} prompts in both orders, {} images of each. *Mean*, *first*, *second*: how well the concepts agree with \
         their photos, each in its half of the image; intervals over pairs and seeds. Sheet: `pairs.png`.",
        pairs.len(),
        workshop.args.seeds,
        PROMPTS.len(),
        workshop.args.images_per_prompt
    );
    let overall = overall(&ways, &all).text("Two concepts in one image", &remark);
    let each = by_group(&ways, &all).text(
        "Pair by pair",
        "Mean of both things over all prompts and seeds; in brackets the fraction of images with both.",
    );
    Ok(format!("{overall}\n{each}"))
}

/// A row for each way, over all groups.
pub(super) fn overall(ways: &[ComposedBy], all: &[(String, Vec<Composed>)]) -> Markdown {
    let mut table = Markdown::new(&[
        "",
        "mean",
        "first",
        "second",
        "later",
        "leak",
        "all present",
        "scene",
        "groups",
    ]);
    for way in ways {
        let its: Vec<Cell<'_>> = all
            .iter()
            .flat_map(|(_, made)| made)
            .filter(|one| one.way == *way)
            .filter_map(|one| one.evaluation.as_ref().ok())
            .map(Cell::new)
            .collect();
        let of = |read: &dyn Fn(Cell<'_>) -> Option<f64>| -> Vec<f64> {
            its.iter().filter_map(|cell| read(*cell)).collect()
        };
        let thing = |place: usize| move |cell: Cell<'_>| cell.things().get(place).copied();
        table.row([
            way.name().to_owned(),
            estimate(&of(&|cell| cell.composed("image_alignment"))),
            estimate(&of(&thing(0))),
            estimate(&of(&thing(1))),
            estimate(&of(&thing(2))),
            estimate(&of(&|cell| cell.composed("leak"))),
            estimate(&of(&|cell| cell.composed("all_present"))),
            mean(&of(&|cell| cell.figure("scene"))),
            its.len().to_string(),
        ]);
    }
    table.without_empty_columns()
}

/// A row for each group, with a column for each way.
pub(super) fn by_group(ways: &[ComposedBy], all: &[(String, Vec<Composed>)]) -> Markdown {
    let mut head = vec![""];
    head.extend(ways.iter().map(|way| way.name()));
    let mut table = Markdown::new(&head);
    for (title, made) in all {
        let cells = ways.iter().map(|way| {
            let its: Vec<&Composed> = made.iter().filter(|one| one.way == *way).collect();
            let found: Vec<&Value> =
                its.iter().filter_map(|one| one.evaluation.as_ref().ok()).collect();
            let of = |name: &str| -> Vec<f64> {
                found.iter().filter_map(|one| Cell::new(one).composed(name)).collect()
            };
            match (its.is_empty(), found.is_empty()) {
                (true, _) => "–".to_owned(),
                (false, true) => "failed".to_owned(),
                (false, false) => {
                    format!("{} ({})", mean(&of("image_alignment")), mean(&of("all_present")))
                }
            }
        });
        table.row(std::iter::once(title.clone()).chain(cells));
    }
    table
}

/// The group's line on the sheet: of each way the first image of the first prompts, with the first seed.
pub(super) async fn strip(
    workshop: &Workshop<'_>,
    title: &str,
    concepts: &[&ConceptPhotos],
    made: &[Composed],
) -> Result<Strip> {
    let first_seed = made.first().map(|one| one.seed);
    let mut cells = Vec::new();
    for one in made.iter().filter(|one| Some(one.seed) == first_seed) {
        let Ok(evaluation) = &one.evaluation else { continue };
        let files = workshop.images(&one.key, evaluation).await?;
        let things: Vec<String> =
            Cell::new(evaluation).things().into_iter().map(super::markdown::figure).collect();
        let shown =
            files.into_iter().filter_map(|of_prompt| of_prompt.into_iter().next()).collect();
        cells.push((one.way.name(), shown, things.join(", ")));
    }
    let photos = concepts.iter().filter_map(|concept| concept.photos.first().cloned()).collect();
    Ok(Strip { title: title.to_owned(), photos, cells })
}
