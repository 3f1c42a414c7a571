//! Where a concept's own words stand among a prompt's tokens.

use crate::engine::{
    clip::TokenIds, custom_diffusion::DeltaConcept, error::Result, prompt::PromptEncoder,
};

/// The words of the concepts of one delta, as token ids.
#[derive(Clone, Debug)]
pub(super) struct OwnWords(Vec<Name>);

/// How a prompt names a concept.
#[derive(Clone, Debug)]
struct Name {
    /// The modifier token's id.
    modifier: Option<u32>,
    class_noun: Vec<u32>,
}

impl OwnWords {
    /// - `tokens_before`: modifier tokens of the deltas before this one
    pub(super) fn new(
        encoder: &PromptEncoder,
        concepts: &[DeltaConcept],
        tokens_before: usize,
    ) -> Result<Self> {
        let mut next_id = (encoder.vocab_size() + tokens_before) as u32;
        let names = concepts.iter().map(|concept| {
            let noun = encoder.tokenize(concept.words.class_noun.as_str(), &[])?;
            let end = noun.length.min(noun.ids.len()).saturating_sub(1);
            let has_row = concept.embedding_row.is_some();
            let modifier = (concept.words.modifier_token.is_some() && has_row).then(|| {
                next_id += 1;
                next_id - 1
            });
            Ok(Name { modifier, class_noun: noun.ids[1..end.max(1)].to_vec() })
        });
        Ok(Self(names.collect::<Result<_>>()?))
    }

    /// 1 for each token that is one of the words, 0 for the others; `None` if there is none.
    ///
    /// A concept without a modifier token has the end tokens too: its look depends on them, since no other word of its own
    /// has learned anything.
    pub(super) fn places(&self, tokens: &TokenIds) -> Option<Vec<f32>> {
        let length = tokens.length.min(tokens.ids.len());
        let prompt = &tokens.ids[..length.saturating_sub(1)];
        let mut places = vec![0.0; tokens.ids.len()];
        for name in &self.0 {
            match name.modifier {
                Some(modifier) => {
                    for (at, _) in prompt.iter().enumerate().filter(|(_, id)| **id == modifier) {
                        let has_noun = prompt[at + 1..].starts_with(&name.class_noun);
                        let end = at + 1 + if has_noun { name.class_noun.len() } else { 0 };
                        places[at..end].fill(1.0);
                    }
                }
                None if name.class_noun.is_empty() => {}
                None => {
                    let windows = prompt.windows(name.class_noun.len()).enumerate();
                    for (at, _) in windows.filter(|(_, ids)| *ids == name.class_noun) {
                        places[at..at + name.class_noun.len()].fill(1.0);
                        places[prompt.len()..].fill(1.0);
                    }
                }
            }
        }
        places.contains(&1.0).then_some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[(Option<u32>, &[u32])], ids: &[u32], length: usize) -> Option<Vec<f32>> {
        let name = |(modifier, noun): &(Option<u32>, &[u32])| Name {
            modifier: *modifier,
            class_noun: noun.to_vec(),
        };
        OwnWords(names.iter().map(name).collect()).places(&TokenIds { ids: ids.to_vec(), length })
    }

    #[test]
    fn a_modifier_token_takes_the_noun_behind_it() {
        let rex = (Some(100), &[7, 8][..]);

        // begin, <rex>, noun, noun, other, <rex>, other, end, padding
        let found = places(&[rex], &[1, 100, 7, 8, 9, 100, 7, 2, 2], 8);

        assert_eq!(found.unwrap(), [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(places(&[rex], &[1, 7, 8, 2, 2], 4), None, "the plain noun is the base model's");
    }

    #[test]
    fn a_concept_without_a_token_takes_its_noun_and_the_end() {
        let found = places(&[(None, &[7, 8])], &[1, 9, 7, 8, 2, 2], 5);

        assert_eq!(found.unwrap(), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(places(&[(None, &[7, 8])], &[1, 9, 7, 2, 2, 2], 4), None);
    }
}
