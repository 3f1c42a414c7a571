//! How a request wants its concepts composed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::place::Place;
use super::plan::{LayoutWish, NoPlan, Participant, Plan, Wish, plan};
use super::{Composition, LayoutKind, Redraw, Regional};
use crate::domain::code::Code;
use crate::domain::concept::{ClassNoun, Handle};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::check_text;
use crate::domain::number::decimal;

/// How several concepts come into one picture. Every field is optional.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompositionOptions {
    /// Defaults to `regional` if two or more deltas take part and the request has no `merge`.
    pub method: Option<CompositionMethod>,
    /// Where concepts are drawn, and what stands for them in the layout. Method `regional` only. Concepts that are not listed
    /// are drawn where the layout has them.
    #[schema(max_items = 8)]
    pub regions: Option<Vec<RegionOptions>>,
    /// The share of the denoising steps that a region takes, above 0 and up to 1. Defaults to 1: less keeps more of the
    /// plain thing's shape. Method `regional` only.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 1.0)]
    pub redraw_strength: Option<f64>,
    /// How far a region that is found in the layout is grown on each side, as a share of its longer side, from 0 to 1.
    /// Defaults to 0.12. Method `regional` only.
    #[schema(minimum = 0, maximum = 1, default = 0.12)]
    pub margin: Option<f64>,
    /// How many times larger than `width` and `height` the image is, from 1 to 4: regions are generated at the base model's own
    /// size, so they gain detail. Defaults to 1. Method `regional` only.
    #[schema(minimum = 1, maximum = 4, default = 1)]
    pub enlarge: Option<usize>,
    /// What stands around the regions. Defaults to `scene` if the prompt joins concepts by `and`, `next to`, `in front of` or
    /// the like, and then names a scene (`on the grass`), and there is no `init_image`; otherwise to `nouns`. Method `regional` only.
    pub layout: Option<LayoutKind>,
    /// What the base model draws as the layout, instead of what follows from the prompt. In a layout of nouns, every region then
    /// needs a box. Method `regional` only.
    #[schema(examples("a photo on the grass, far away"))]
    pub layout_prompt: Option<String>,
}

/// How several concepts come into one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompositionMethod {
    /// The deltas become one by a merge; `merge` says how.
    Merge,
    /// Each concept's keys and values stand at its own words, the base model's elsewhere.
    Tokens,
    /// The base model lays the picture out with plain nouns; then each concept's region is generated again with that concept
    /// alone.
    Regional,
}

/// A concept's region.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionOptions {
    /// Handle of the concept. If the prompt names it several times, its regions are for these in their order.
    #[schema(value_type = String, examples("rex"))]
    pub concept: Handle,
    /// Where it is drawn: `[left, top, right, bottom]`, each as a fraction of the image's width or height. Defaults to where
    /// the layout has the thing. Required if the prompt does not name the concept.
    #[serde(rename = "box")]
    #[schema(value_type = Option<[f64; 4]>, examples(json!([0.05, 0.3, 0.48, 0.85])))]
    pub place: Option<[f64; 4]>,
    /// A noun that the base model knows, to stand for the concept in the layout. Defaults to the class noun.
    #[schema(value_type = Option<String>, examples("house"))]
    pub stand_in: Option<ClassNoun>,
    /// What is generated in the region. Defaults to the prompt with this concept alone.
    pub prompt: Option<String>,
}

/// What a composition is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Composed<'a> {
    pub prompt: &'a str,
    pub negative_prompt: &'a str,
    pub participants: &'a [Participant],
    pub has_init_image: bool,
    /// Width and height of the images in pixels.
    pub size: (usize, usize),
    pub num_inference_steps: usize,
}

impl Composition {
    pub fn method(&self) -> CompositionMethod {
        match self {
            Self::Merge => CompositionMethod::Merge,
            Self::Tokens => CompositionMethod::Tokens,
            Self::Regional(_) => CompositionMethod::Regional,
        }
    }
}

impl CompositionOptions {
    /// Fills in the defaults, and plans the regions.
    ///
    /// - `default`: the method if the request names none
    /// - `pointer`: where the options stand in the body
    pub fn resolve(
        &self,
        default: CompositionMethod,
        composed: Composed<'_>,
        pointer: &str,
    ) -> Result<Composition, Invalid> {
        let method = self.method.unwrap_or(default);
        if method != CompositionMethod::Regional {
            self.refuse_regional_fields(pointer)?;
        }
        Ok(match method {
            CompositionMethod::Merge => Composition::Merge,
            CompositionMethod::Tokens => Composition::Tokens,
            CompositionMethod::Regional => Composition::Regional(self.regional(composed, pointer)?),
        })
    }

    fn regional(&self, composed: Composed<'_>, pointer: &str) -> Result<Regional, Invalid> {
        let redraw = self.redraw(composed.num_inference_steps, pointer)?;
        let wishes = self.wishes(composed.participants, pointer)?;
        let wanted = self.layout_wish(composed, pointer)?;
        let (prompt, negative_prompt) = (composed.prompt, composed.negative_prompt);
        let plan = plan(prompt, negative_prompt, composed.participants, &wishes, &wanted);
        let Plan { layout, regions } = plan.map_err(|reason| no_plan(reason, pointer))?;
        let lost = regions.iter().any(|region| region.place.is_none() && region.noun.is_none());
        if lost {
            let detail = "with a layout_prompt, nothing says where the concepts are in it: give every region a box";
            return Err(
                FieldError::new(format!("{pointer}/regions"), Code::MissingField, detail).into()
            );
        }
        Ok(Regional { redraw, layout, regions })
    }

    fn layout_wish(&self, composed: Composed<'_>, pointer: &str) -> Result<LayoutWish, FieldError> {
        if self.layout == Some(LayoutKind::InitImage) && !composed.has_init_image {
            let detail = "there is no init_image: name one, or choose another layout";
            return Err(FieldError::new(format!("{pointer}/layout"), Code::MissingField, detail));
        }
        if self.layout == Some(LayoutKind::Scene) && composed.has_init_image {
            let detail = "a scene is drawn from nothing: choose the layout `nouns` or `init_image`, or leave init_image out";
            return Err(FieldError::new(
                format!("{pointer}/layout"),
                Code::ConflictingFields,
                detail,
            ));
        }
        let kind = self.layout.or(composed.has_init_image.then_some(LayoutKind::Nouns));
        if let Some(prompt) = &self.layout_prompt {
            check_text(prompt, &format!("{pointer}/layout_prompt"))?;
        }
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let size = (side(composed.size.0), side(composed.size.1));
        Ok(LayoutWish { kind, prompt: self.layout_prompt.clone(), size })
    }

    fn redraw(&self, num_inference_steps: usize, pointer: &str) -> Result<Redraw, Invalid> {
        let default = Redraw::default();
        let redraw = Redraw {
            redraw_strength: decimal(self.redraw_strength.unwrap_or(default.redraw_strength)),
            margin: decimal(self.margin.unwrap_or(default.margin)),
            enlarge: self.enlarge.unwrap_or(default.enlarge),
        };
        redraw.check(num_inference_steps, pointer)?;
        Ok(redraw)
    }

    fn wishes(&self, participants: &[Participant], pointer: &str) -> Result<Vec<Wish>, Invalid> {
        let mut checks = Checks::default();
        let mut wishes = Vec::new();
        let regions = self.regions.as_deref().unwrap_or_default();
        if regions.len() > MAX_REGIONS {
            checks.in_range(regions.len(), 0..=MAX_REGIONS, &format!("{pointer}/regions"));
            checks.finish()?;
            return Ok(wishes);
        }
        for (index, region) in regions.iter().enumerate() {
            let pointer = format!("{pointer}/regions/{index}");
            let concept = participants.iter().position(|one| one.handle == region.concept);
            if concept.is_none() {
                let detail = format!(
                    "concept `{}` does not take part: name it in the prompt or in `concepts`",
                    region.concept
                );
                let pointer = format!("{pointer}/concept");
                checks.push(FieldError::new(pointer, Code::UnknownConcept, detail));
            }
            if let Some(prompt) = &region.prompt
                && let Err(error) = check_text(prompt, &format!("{pointer}/prompt"))
            {
                checks.push(error);
            }
            let place = match region.place.map(Place::try_from).transpose() {
                Ok(place) => place,
                Err(error) => {
                    let pointer = format!("{pointer}/box");
                    checks.push(FieldError::new(pointer, Code::OutOfRange, error.to_string()));
                    None
                }
            };
            wishes.push(Wish {
                concept: concept.unwrap_or_default(),
                place,
                stand_in: region.stand_in.as_ref().map(ToString::to_string),
                prompt: region.prompt.clone(),
            });
        }
        checks.finish()?;
        Ok(wishes)
    }

    fn refuse_regional_fields(&self, pointer: &str) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        for (field, given) in [
            ("regions", self.regions.is_some()),
            ("redraw_strength", self.redraw_strength.is_some()),
            ("margin", self.margin.is_some()),
            ("enlarge", self.enlarge.is_some()),
            ("layout", self.layout.is_some()),
            ("layout_prompt", self.layout_prompt.is_some()),
        ] {
            checks.require(!given, &format!("{pointer}/{field}"), Code::NotApplicable, || {
                "only the method `regional` has this: leave it out, or choose that method"
                    .to_owned()
            });
        }
        checks.finish()
    }
}

fn no_plan(reason: NoPlan, pointer: &str) -> FieldError {
    match reason {
        NoPlan::NoPlace(index) => {
            let detail = "the prompt does not name this concept as often as it has regions: give this one a box, or name it";
            FieldError::new(format!("{pointer}/regions/{index}/box"), Code::MissingField, detail)
        }
        NoPlan::NoScene => {
            let detail = "the prompt has no scene after its concepts that could be drawn alone, such as `on the grass`: give a layout_prompt, or choose the layout `nouns`";
            FieldError::new(format!("{pointer}/layout"), Code::NotApplicable, detail)
        }
    }
}

/// The most regions of a picture.
pub const MAX_REGIONS: usize = 8;
/// The most times that a composed image is enlarged.
pub const MAX_ENLARGE: usize = 4;

impl Redraw {
    /// Refuses numbers out of their ranges, and a strength that leaves no step.
    pub fn check(&self, num_inference_steps: usize, pointer: &str) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        let least = 1.0 / num_inference_steps as f64;
        let (steps, strength) = (num_inference_steps as f64, self.redraw_strength);
        let leaves_none = strength > 0.0 && strength <= 1.0 && steps * strength < 1.0;
        let field = format!("{pointer}/redraw_strength");
        checks.require(!leaves_none, &field, Code::OutOfRange, || {
            format!(
                "{strength} of {steps} steps is less than one: take more steps, or at least {}",
                decimal(least + 5e-7) // rounded up, so that it is enough
            )
        });
        checks.positive(self.redraw_strength, 1.0, &format!("{pointer}/redraw_strength"));
        checks.in_range(self.margin, 0.0..=1.0, &format!("{pointer}/margin"));
        checks.in_range(self.enlarge, 1..=MAX_ENLARGE, &format!("{pointer}/enlarge"));
        checks.finish()
    }
}
