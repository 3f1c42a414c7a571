//! A composition: several concepts in one picture, each looking like itself.

pub mod mention;
pub mod options;
pub mod place;
pub mod plan;
mod scene;
mod wording;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::place::Place;
use super::concept::Handle;

/// How several concepts come into one picture, with every default filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Composition {
    /// The deltas become one by a merge, and the prompt is generated once. With one delta, there is nothing to compose.
    #[default]
    Merge,
    /// The prompt is generated once, with each concept's keys and values at its own words and the base model's elsewhere.
    Tokens,
    /// The base model lays the picture out with plain nouns; then each concept's region is generated again with that concept
    /// alone.
    Regional(Regional),
}

/// A composition by regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Regional {
    #[serde(flatten)]
    pub redraw: Redraw,
    pub layout: Layout,
    /// In the order in which they are drawn: a later one covers an earlier one.
    pub regions: Vec<Region>,
}

/// How regions are generated again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Redraw {
    /// The share of the denoising steps that a region takes: at 1 little of the plain thing is left.
    pub redraw_strength: f64,
    /// How far a region that is found in the layout is grown on each side, as a share of its longer side.
    pub margin: f64,
    /// How many times larger than the layout the image is, from 1 to 4.
    pub enlarge: usize,
}

impl Default for Redraw {
    fn default() -> Self {
        Self { redraw_strength: 1.0, margin: 0.12, enlarge: 1 }
    }
}

/// What stands around the regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Layout {
    pub kind: LayoutKind,
    /// What the base model draws.
    pub prompt: String,
    pub negative_prompt: String,
    /// The deltas, by their places in `deltas`, whose keys and values stand at their own words here: the base model does not
    /// know their classes.
    pub own_words: Vec<usize>,
}

/// Where a layout comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LayoutKind {
    /// The base model draws the scene alone. The concepts stand side by side in it, in the order of the prompt.
    Scene,
    /// The base model draws the prompt with plain nouns. The concepts stand where it puts these.
    Nouns,
    /// The sample's `init_image`, as it is. The concepts stand where the base model sees the plain nouns in it.
    InitImage,
}

/// One concept's place in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Region {
    pub concept: Handle,
    /// The concept's delta, by its place in `deltas`.
    pub delta: usize,
    /// What is generated in the region.
    pub prompt: String,
    pub negative_prompt: String,
    /// The bytes of the layout's prompt whose attention shows where the thing is.
    #[schema(value_type = Option<[usize; 2]>)]
    pub noun: Option<Span>,
    /// Where the thing is to be. Null if the layout decides.
    #[serde(rename = "box")]
    #[schema(value_type = Option<[f64; 4]>)]
    pub place: Option<Place>,
}

/// A range of bytes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 2]", into = "[usize; 2]")]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl From<[usize; 2]> for Span {
    fn from([start, end]: [usize; 2]) -> Self {
        Self { start, end }
    }
}

impl From<Span> for [usize; 2] {
    fn from(span: Span) -> Self {
        [span.start, span.end]
    }
}

/// The region that a concept was drawn into.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsedRegion {
    pub concept: Handle,
    /// `[left, top, right, bottom]`, each as a fraction of the image's width or height.
    #[serde(rename = "box")]
    #[schema(value_type = [f64; 4], examples(json!([0.05, 0.3, 0.48, 0.85])))]
    pub place: Place,
}

impl Composition {
    /// How often an image is denoised: once, or once for the layout and once for each region.
    pub fn denoisings(&self) -> usize {
        match self {
            Self::Merge | Self::Tokens => 1,
            Self::Regional(regional) => {
                usize::from(regional.draws_layout()) + regional.regions.len()
            }
        }
    }
}

impl Regional {
    /// Whether the base model draws the layout, or draws on the initial image to find the regions in it.
    pub fn draws_layout(&self) -> bool {
        self.layout.kind != LayoutKind::InitImage
            || self.regions.iter().any(|region| region.place.is_none())
    }
}
