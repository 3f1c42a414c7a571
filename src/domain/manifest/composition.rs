//! How the concepts of an image were composed, as its manifest says it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::composition::place::Place;
use crate::domain::composition::{Composition, Layout, Redraw, UsedRegion};

/// How several concepts came into the image, if not by a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum ManifestComposition {
    /// Each concept's keys and values stood at its own words.
    Tokens,
    /// The base model laid the image out, and each region was generated again with its concept alone.
    Regional(ManifestRegional),
}

/// A composition by regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestRegional {
    #[serde(flatten)]
    pub redraw: Redraw,
    pub layout: Layout,
    /// In the order in which they were drawn.
    pub regions: Vec<ManifestRegion>,
}

/// One concept's place in the image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestRegion {
    /// The concept's delta, by its place in `deltas`.
    pub delta: usize,
    pub prompt: String,
    pub negative_prompt: String,
    /// `[left, top, right, bottom]`, each as a fraction of the image's width or height.
    #[serde(rename = "box")]
    #[schema(value_type = [f64; 4])]
    pub place: Place,
}

impl ManifestComposition {
    /// - `used`: where each region was drawn
    pub fn of(composition: &Composition, used: &[UsedRegion]) -> Option<Self> {
        match composition {
            Composition::Merge => None,
            Composition::Tokens => Some(Self::Tokens),
            Composition::Regional(regional) => {
                let regions = regional.regions.iter().zip(used);
                let regions = regions.map(|(region, used)| ManifestRegion {
                    delta: region.delta,
                    prompt: region.prompt.clone(),
                    negative_prompt: region.negative_prompt.clone(),
                    place: used.place,
                });
                Some(Self::Regional(ManifestRegional {
                    redraw: regional.redraw,
                    layout: regional.layout.clone(),
                    regions: regions.collect(),
                }))
            }
        }
    }
}
