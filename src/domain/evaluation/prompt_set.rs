//! Named sets of prompts: twenty for each kind of class, so that evaluations of different concepts can be compared.
//!
//! They follow the plan of the paper's evaluation: a quarter each of places, of things beside or around the concept, of
//! looks that it does not have, and of styles. Words are short and common, so that every base model can say them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A named set of twenty prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptSet {
    /// For things, such as a chair, a cup or a car.
    Object,
    /// For animals and plants.
    LivingThing,
    /// For what is worn, such as a hat, shoes or a backpack.
    Wearable,
    /// For places and buildings, such as a gate, a church or a garden.
    Scene,
}

impl PromptSet {
    pub const ALL: [Self; 4] = [Self::Object, Self::LivingThing, Self::Wearable, Self::Scene];

    /// The prompts; `{}` stands for the concept.
    pub fn prompts(self) -> &'static [&'static str; 20] {
        match self {
            Self::Object => &OBJECT,
            Self::LivingThing => &LIVING_THING,
            Self::Wearable => &WEARABLE,
            Self::Scene => &SCENE,
        }
    }
}

const OBJECT: [&str; 20] = [
    "photo of a {}",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
    "photo of a {} on a wooden table",
    "photo of a {} on the street",
    "photo of a {} in the forest",
    "photo of a {} next to a cat",
    "photo of a dog in front of a {}",
    "photo of a {} and a flower",
    "photo of a {} on top of a box",
    "photo of a red {}",
    "photo of a striped {}",
    "photo of a {} with a bow",
    "close up photo of a {}",
    "photo of a {} in space",
    "drawing of a {}",
    "black and white photo of a {}",
    "painting of a {} at sunset",
    "pixel art of a {}",
];

const LIVING_THING: [&str; 20] = [
    "photo of a {}",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
    "photo of a {} on the grass",
    "photo of a {} on the street",
    "photo of a {} in the forest",
    "photo of a {} in the mountains",
    "photo of a {} next to a ball",
    "photo of a {} in front of a house",
    "photo of a {} on top of a car",
    "photo of a {} with a red hat",
    "photo of a {} with glasses",
    "photo of a {} with a crown",
    "close up photo of a {}",
    "photo of a {} in space",
    "drawing of a {}",
    "black and white photo of a {}",
    "painting of a {} at sunset",
    "pixel art of a {}",
];

const WEARABLE: [&str; 20] = [
    "photo of a {}",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
    "photo of a {} on a wooden table",
    "photo of a {} on a chair",
    "photo of a dog with a {}",
    "photo of a cat with a {}",
    "photo of a bear wearing a {}",
    "photo of a robot wearing a {}",
    "photo of a {} next to a book",
    "photo of a {} on top of a box",
    "photo of a green {}",
    "photo of a spotted {}",
    "close up photo of a {}",
    "photo of a {} in the forest",
    "drawing of a {}",
    "black and white photo of a {}",
    "painting of a {}",
    "pixel art of a {}",
];

const SCENE: [&str; 20] = [
    "photo of a {}",
    "photo of a {} on the beach",
    "photo of a {} in the snow",
    "photo of a {} at night",
    "photo of a {} at sunset",
    "photo of a {} in the desert",
    "photo of a {} in the forest",
    "photo of a {} in the mountains",
    "photo of a dog in front of a {}",
    "photo of a cat next to a {}",
    "photo of a car in front of a {}",
    "photo of a tree next to a {}",
    "photo of a horse in front of a {}",
    "photo of a {} in space",
    "photo of a {} far away",
    "photo of a small {} on a table",
    "drawing of a {}",
    "black and white photo of a {}",
    "painting of a {} in the sea",
    "pixel art of a {}",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_set_has_twenty_different_prompts_that_each_name_the_concept_once() {
        for set in PromptSet::ALL {
            let different: HashSet<&str> = set.prompts().iter().copied().collect();

            assert_eq!(different.len(), 20, "{set:?}");
            assert!(different.iter().all(|prompt| prompt.matches("{}").count() == 1), "{set:?}");
        }
    }
}
