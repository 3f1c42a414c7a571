//! From a prompt that names concepts to the prompts of a regional composition: one for the layout, one for each region.

use super::mention::{Mention, mentions};
use super::place::Place;
use super::scene::{depths, places, scene_of};
use super::wording::{alone, joints, plain};
use super::{Layout, LayoutKind, Region, Span};
use crate::domain::concept::{ConceptWords, Handle};

/// A concept that takes part.
#[derive(Clone, Debug)]
pub struct Participant {
    pub handle: Handle,
    pub words: ConceptWords,
    /// Its delta, by its place among the deltas.
    pub delta: usize,
}

/// What a request says about a concept's region.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Which of the participants.
    pub concept: usize,
    pub place: Option<Place>,
    /// The noun that stands for the concept in the layout.
    pub stand_in: Option<String>,
    pub prompt: Option<String>,
}

/// What a request says about its layout.
#[derive(Clone, Debug)]
pub struct LayoutWish {
    /// `None` for the scene where the prompt has one and says no more than that things stand side by side, else the nouns.
    pub kind: Option<LayoutKind>,
    pub prompt: Option<String>,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// This wish has neither a mention nor a box.
    NoPlace(usize),
    /// The prompt has no scene that could be drawn alone.
    NoScene,
}

/// What is drawn, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub layout: Layout,
    pub regions: Vec<Region>,
}

/// Plans the layout and the regions: one for each mention in the order of the prompt, then those wishes for which there is no
/// mention.
///
/// A layout of nouns has the class noun for each concept, or its stand-in. A concept without a modifier token has its own words,
/// keys and values there: the base model does not know its class.
///
/// A region's prompt is the request's prompt with the other concepts left out: what stands before the first mention as far as
/// it says what kind of picture it is, what belongs to the concept itself, and what follows the last mention.
///
/// # Errors
/// [`NoPlan`]
pub fn plan(
    prompt: &str,
    negative_prompt: &str,
    participants: &[Participant],
    wishes: &[Wish],
    wanted: &LayoutWish,
) -> Result<Plan, NoPlan> {
    let words: Vec<&ConceptWords> = participants.iter().map(|one| &one.words).collect();
    let mentions = mentions(prompt, &words);
    let mut open: Vec<(usize, &Wish)> = wishes.iter().enumerate().collect();
    let wish_of: Vec<Option<&Wish>> = mentions
        .iter()
        .map(|mention| {
            let place = open.iter().position(|(_, wish)| wish.concept == mention.concept)?;
            Some(open.remove(place).1)
        })
        .collect();
    let named = || mentions.iter().zip(&wish_of);

    let mut regions = Vec::new();
    for (index, (mention, wish)) in named().enumerate() {
        let concept = &participants[mention.concept];
        let own_prompt = wish.and_then(|wish| wish.prompt.clone());
        regions.push(Region {
            concept: concept.handle.clone(),
            delta: concept.delta,
            prompt: own_prompt.unwrap_or_else(|| alone(prompt, &mentions, index, &concept.words)),
            negative_prompt: plain(negative_prompt, Some(&concept.words)),
            noun: None,
            place: wish.and_then(|wish| wish.place),
        });
    }
    let layout = match scene_layout(prompt, &mentions, wanted)? {
        Some(scene) => {
            let depths =
                depths(&joints(prompt, &mentions)).unwrap_or_else(|| vec![0; mentions.len()]);
            for (region, place) in regions.iter_mut().zip(places(&depths, wanted.size)) {
                region.place.get_or_insert(place);
            }
            // What stands in front is drawn last.
            let mut deepest_first: Vec<(i32, Region)> = depths.into_iter().zip(regions).collect();
            deepest_first.sort_by_key(|(depth, _)| -depth); // stable
            regions = deepest_first.into_iter().map(|(_, region)| region).collect();
            Layout {
                kind: LayoutKind::Scene,
                prompt: scene,
                negative_prompt: plain(negative_prompt, None),
                own_words: Vec::new(),
            }
        }
        None => {
            let (nouns, mut layout) = noun_layout(prompt, participants, named());
            for (region, noun) in regions.iter_mut().zip(nouns) {
                region.noun = Some(noun);
            }
            if let Some(given) = &wanted.prompt {
                // Where the nouns are in it is not known.
                regions.iter_mut().for_each(|region| region.noun = None);
                layout.prompt.clone_from(given);
            }
            let kind = wanted.kind.unwrap_or(LayoutKind::Nouns);
            Layout { kind, negative_prompt: plain(negative_prompt, None), ..layout }
        }
    };
    for (index, wish) in open {
        let concept = &participants[wish.concept];
        let own_prompt = wish.prompt.clone();
        regions.push(Region {
            concept: concept.handle.clone(),
            delta: concept.delta,
            prompt: own_prompt
                .unwrap_or_else(|| format!("photo of a {}", concept.words.in_prompt())),
            negative_prompt: plain(negative_prompt, Some(&concept.words)),
            noun: None,
            place: Some(wish.place.ok_or(NoPlan::NoPlace(index))?),
        });
    }
    Ok(Plan { layout, regions })
}

/// The prompt of a layout that is the scene alone, if it is one.
fn scene_layout(
    prompt: &str,
    mentions: &[Mention],
    wanted: &LayoutWish,
) -> Result<Option<String>, NoPlan> {
    if !matches!(wanted.kind, None | Some(LayoutKind::Scene)) {
        return Ok(None);
    }
    let spans: Vec<Span> = mentions.iter().map(|mention| mention.span).collect();
    let joints = joints(prompt, mentions);
    let given = wanted.kind.and(wanted.prompt.clone());
    match given.or_else(|| scene_of(prompt, &spans, &joints)) {
        None if wanted.kind.is_some() => Err(NoPlan::NoScene),
        Some(scene) if !mentions.is_empty() => Ok(Some(wanted.prompt.clone().unwrap_or(scene))),
        Some(_) | None => Ok(None),
    }
}

/// The prompt with plain nouns, and where these are in it.
fn noun_layout<'a>(
    prompt: &str,
    participants: &[Participant],
    named: impl Iterator<Item = (&'a Mention, &'a Option<&'a Wish>)>,
) -> (Vec<Span>, Layout) {
    let mut layout = Layout {
        kind: LayoutKind::Nouns,
        prompt: String::new(),
        negative_prompt: String::new(),
        own_words: Vec::new(),
    };
    let mut nouns = Vec::new();
    let mut copied = 0;
    for (mention, wish) in named {
        let concept = &participants[mention.concept];
        layout.prompt.push_str(&prompt[copied..mention.span.start]);
        copied = mention.span.end;
        let start = layout.prompt.len();
        let stand_in = wish.and_then(|wish| wish.stand_in.as_deref());
        let is_unknown = concept.words.modifier_token.is_none() && stand_in.is_none();
        if is_unknown && !layout.own_words.contains(&concept.delta) {
            layout.own_words.push(concept.delta);
        }
        layout.prompt.push_str(stand_in.unwrap_or(concept.words.class_noun.as_str()));
        nouns.push(Span { start, end: layout.prompt.len() });
    }
    layout.prompt.push_str(&prompt[copied..]);
    (nouns, layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::tests::words;

    fn participant(handle: &str, token: Option<&str>, noun: &str, delta: usize) -> Participant {
        Participant {
            handle: Handle::try_from(handle.to_owned()).unwrap(),
            words: words(token, noun),
            delta,
        }
    }

    fn three() -> [Participant; 3] {
        [
            participant("rex", Some("<rex>"), "dog", 0),
            participant("delft", Some("<delft>"), "vase", 1),
            participant("torii", None, "gate", 2),
        ]
    }

    fn nouns() -> LayoutWish {
        LayoutWish { kind: Some(LayoutKind::Nouns), ..any() }
    }

    fn any() -> LayoutWish {
        LayoutWish { kind: None, prompt: None, size: (64, 64) }
    }

    fn prompts(plan: &Plan) -> Vec<&str> {
        plan.regions.iter().map(|region| region.prompt.as_str()).collect()
    }

    #[test]
    fn the_layout_has_plain_nouns_and_each_region_one_concept() {
        let prompt = "photo of a <rex> dog next to a <delft> vase on the grass";

        let plan = plan(prompt, "<rex> blurred, <delft> vase", &three(), &[], &nouns()).unwrap();

        assert_eq!(plan.layout.prompt, "photo of a dog next to a vase on the grass");
        assert_eq!(plan.layout.negative_prompt, "blurred, vase");
        assert_eq!(
            prompts(&plan),
            ["photo of a <rex> dog on the grass", "photo of a <delft> vase on the grass"]
        );
        assert_eq!(plan.regions[0].negative_prompt, "<rex> blurred, vase");
        let noun = plan.regions[1].noun.unwrap();
        assert_eq!(&plan.layout.prompt[noun.start..noun.end], "vase");
        assert!(plan.layout.own_words.is_empty());
    }

    #[test]
    fn what_belongs_to_a_thing_stays_with_it() {
        let prompt = "a drawing of a small <rex> dog with a red bow and a big <delft> vase in front of a gate at night";

        let plan = plan(prompt, "", &three(), &[], &nouns()).unwrap();

        assert_eq!(
            prompts(&plan),
            [
                "a drawing of a small <rex> dog with a red bow at night",
                "a drawing of a big <delft> vase at night",
                "a drawing of a gate at night",
            ]
        );
        assert_eq!(plan.layout.own_words, [2]);
    }

    #[test]
    fn wishes_go_to_the_mentions_of_their_concept_in_order() {
        let place = |left: f64| Place::try_from([left, 0.0, left + 0.4, 1.0]).ok();
        let wish = |concept, left| Wish { concept, place: place(left), ..Wish::default() };
        let stand_in = Wish { concept: 2, stand_in: Some("house".to_owned()), ..Wish::default() };
        let wishes = [wish(0, 0.1), stand_in, wish(0, 0.5), wish(1, 0.6)];

        let prompt = "a <rex> dog, a gate and a <rex> dog";
        let plan = plan(prompt, "", &three(), &wishes, &any()).unwrap();

        assert_eq!(plan.layout.prompt, "a dog, a house and a dog");
        assert!(plan.layout.own_words.is_empty());
        let places: Vec<Option<Place>> = plan.regions.iter().map(|region| region.place).collect();
        assert_eq!(places, [place(0.1), None, place(0.5), place(0.6)]);
        assert_eq!(plan.regions[3].prompt, "photo of a <delft> vase");
    }

    #[test]
    fn a_wish_without_a_mention_needs_a_box() {
        let wishes = [Wish { concept: 1, ..Wish::default() }];

        assert_eq!(plan("a <rex> dog", "", &three(), &wishes, &any()), Err(NoPlan::NoPlace(0)));
    }

    #[test]
    fn things_side_by_side_stand_in_the_scene_alone() {
        for (prompt, scene) in [
            (
                "photo of a <rex> dog next to a <delft> vase on the grass",
                "photo on the grass, far away, very small",
            ),
            (
                "a <rex> dog with a red bow, a <delft> vase and a gate in the snow.",
                "a photo in the snow, far away, very small",
            ),
            (
                "A <rex> dog Next To A <delft> vase On the grass",
                "a photo On the grass, far away, very small",
            ),
            (
                "black and white photo of a gate and the <rex> dog at night",
                "black and white photo at night, far away, very small",
            ),
        ] {
            let plan = plan(prompt, "", &three(), &[], &any()).unwrap();

            assert_eq!((plan.layout.kind, plan.layout.prompt.as_str()), (LayoutKind::Scene, scene));
            assert!(plan.layout.own_words.is_empty());
            let [left, _, right, _] = plan.regions[0].place.unwrap().into();
            assert!(left < 0.1 && right < 0.6, "{left} {right}");
        }
    }

    #[test]
    fn what_stands_in_front_is_drawn_last() {
        let prompt = "a <rex> dog in front of a <delft> vase on the grass";

        let plan = plan(prompt, "", &three(), &[], &any()).unwrap();

        let handles: Vec<&str> = plan.regions.iter().map(|one| one.concept.as_str()).collect();
        assert_eq!(handles, ["delft", "rex"]);
        assert_eq!(plan.regions[1].prompt, "a <rex> dog on the grass");
    }

    #[test]
    fn a_prompt_that_says_more_has_its_nouns_in_the_layout() {
        for prompt in [
            "a <rex> dog on top of a <delft> vase on the grass",
            "a <rex> dog next to a <delft> vase",
            "a <rex> dog and a <delft> vase next to a house on the grass",
            "a <rex> dog and a <delft> vase on the grass with a ball",
            "nobody on the grass",
        ] {
            let usual = plan(prompt, "", &three(), &[], &any()).unwrap();

            assert_eq!(usual.layout.kind, LayoutKind::Nouns, "{prompt}");
            let scene = LayoutWish { kind: Some(LayoutKind::Scene), ..any() };
            assert_eq!(plan(prompt, "", &three(), &[], &scene), Err(NoPlan::NoScene), "{prompt}");
        }
    }
}
