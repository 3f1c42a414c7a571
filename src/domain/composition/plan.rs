//! From a prompt that names concepts to the prompts of a regional composition: one for the layout, one for each region.

use super::mention::{Mention, mentions};
use super::place::Place;
use super::{Layout, Region, Span};
use crate::domain::concept::{ConceptWords, Handle, modifier_tokens_in};

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

/// What is drawn, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub layout: Layout,
    pub regions: Vec<Region>,
}

/// Plans the layout and the regions: one for each mention in the order of the prompt, then those wishes for which there is no
/// mention.
///
/// The layout has the class noun for each concept, or its stand-in. A concept without a modifier token has its own words,
/// keys and values there: the base model does not know its class.
///
/// A region's prompt is the request's prompt with the other concepts left out: what stands before the first mention as far as
/// it says what kind of picture it is, what belongs to the concept itself, and what follows the last mention.
///
/// # Errors
/// The place of a wish that has neither a mention nor a box.
pub fn plan(
    prompt: &str,
    negative_prompt: &str,
    participants: &[Participant],
    wishes: &[Wish],
) -> Result<Plan, usize> {
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

    let mut layout = Layout {
        prompt: String::new(),
        negative_prompt: plain(negative_prompt, None),
        own_words: Vec::new(),
        keep_init_image: false,
    };
    let mut regions = Vec::new();
    let mut copied = 0;
    for (index, (mention, wish)) in mentions.iter().zip(&wish_of).enumerate() {
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
        let own_prompt = wish.and_then(|wish| wish.prompt.clone());
        regions.push(Region {
            concept: concept.handle.clone(),
            delta: concept.delta,
            prompt: own_prompt.unwrap_or_else(|| alone(prompt, &mentions, index, &concept.words)),
            negative_prompt: plain(negative_prompt, Some(&concept.words)),
            noun: Some(Span { start, end: layout.prompt.len() }),
            place: wish.and_then(|wish| wish.place),
        });
    }
    layout.prompt.push_str(&prompt[copied..]);
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
            place: Some(wish.place.ok_or(index)?),
        });
    }
    Ok(Plan { layout, regions })
}

/// Words that join one thing to the next. What stands before them belongs to the first thing, what follows to the second.
const JOINTS: [&str; 16] = [
    "and",
    "next to",
    "beside",
    "near",
    "by",
    "with",
    "in front of",
    "behind",
    "on top of",
    "on",
    "under",
    "above",
    "below",
    "inside",
    "between",
    "or",
];

/// The prompt with one of its concepts alone.
fn alone(prompt: &str, mentions: &[Mention], index: usize, words: &ConceptWords) -> String {
    let first = mentions[0].span.start;
    let last = mentions[mentions.len() - 1].span.end;
    let head = &prompt[..first];
    let (before, after) = (
        match index {
            0 => head.to_owned(),
            _ => {
                // "photo of", not the article and the adjectives of the first thing
                let kind = head.rfind(" of ").map_or("", |at| &head[..at + 4]);
                let between = &prompt[mentions[index - 1].span.end..mentions[index].span.start];
                format!("{kind}{}", split_at_joint(between).1.trim_start())
            }
        },
        match mentions.get(index + 1) {
            None => "",
            Some(next) => {
                split_at_joint(&prompt[mentions[index].span.end..next.span.start]).0.trim_end()
            }
        },
    );
    format!("{before}{}{after}{}", words.in_prompt(), &prompt[last..])
}

/// What stands before and after the last joint; after the last comma if there is none. Without either, the last word, as
/// an article, belongs to what follows.
fn split_at_joint(text: &str) -> (&str, &str) {
    let is_letter = |c: char| c.is_alphanumeric();
    let joints = JOINTS.iter().flat_map(|joint| {
        let found = text.match_indices(joint);
        found.filter(|(start, joint)| {
            !text[..*start].ends_with(is_letter)
                && !text[start + joint.len()..].starts_with(is_letter)
        })
    });
    // Of those that end last, the longest: "on top of" ends where no other does, "in front of" likewise.
    let last = joints.max_by_key(|(start, joint)| (start + joint.len(), joint.len()));
    match last.or_else(|| text.rmatch_indices(',').next()) {
        Some((start, joint)) => (&text[..start], &text[start + joint.len()..]),
        None => match text.trim_end().rfind(char::is_whitespace) {
            Some(space) => text.split_at(space + 1),
            None => ("", text),
        },
    }
}

/// The text with the modifier token of one concept at most.
fn plain(text: &str, of: Option<&ConceptWords>) -> String {
    let Ok(tokens) = modifier_tokens_in(text) else { return text.to_owned() };
    let own = of.and_then(|words| words.modifier_token.as_ref());
    let others = tokens.iter().filter(|token| Some(*token) != own);
    let mut plain = text.to_owned();
    for token in others {
        plain = plain.replace(&format!("{token} "), "").replace(token.as_str(), "");
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::ClassNoun;

    fn participant(handle: &str, token: Option<&str>, noun: &str, delta: usize) -> Participant {
        Participant {
            handle: Handle::try_from(handle.to_owned()).unwrap(),
            words: ConceptWords {
                modifier_token: token.map(|token| token.to_owned().try_into().unwrap()),
                class_noun: ClassNoun::try_from(noun.to_owned()).unwrap(),
            },
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

    fn prompts(plan: &Plan) -> Vec<&str> {
        plan.regions.iter().map(|region| region.prompt.as_str()).collect()
    }

    #[test]
    fn the_layout_has_plain_nouns_and_each_region_one_concept() {
        let prompt = "photo of a <rex> dog next to a <delft> vase on the grass";

        let plan = plan(prompt, "<rex> blurred, <delft> vase", &three(), &[]).unwrap();

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

        let plan = plan(prompt, "", &three(), &[]).unwrap();

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

        let plan = plan("a <rex> dog, a gate and a <rex> dog", "", &three(), &wishes).unwrap();

        assert_eq!(plan.layout.prompt, "a dog, a house and a dog");
        assert!(plan.layout.own_words.is_empty());
        let places: Vec<Option<Place>> = plan.regions.iter().map(|region| region.place).collect();
        assert_eq!(places, [place(0.1), None, place(0.5), place(0.6)]);
        assert_eq!(plan.regions[3].prompt, "photo of a <delft> vase");
    }

    #[test]
    fn a_wish_without_a_mention_needs_a_box() {
        let wishes = [Wish { concept: 1, ..Wish::default() }];

        assert_eq!(plan("a <rex> dog", "", &three(), &wishes), Err(0));
    }
}
