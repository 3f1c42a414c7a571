//! Where the rows of a merge pack stand in their prompts.

/// Where a row stands: which constraint it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A concept's own name, in a template of the paper: nothing else is named before it.
    Name,
    /// The first end token of such a prompt.
    End,
    /// A concept's name that follows the name of another thing.
    NameAfterOther,
    /// A constraint that the paper does not have: another template, padding.
    Other,
}

impl Place {
    /// Whether the paper's merge constrains the row.
    pub(super) fn is_of_paper(self) -> bool {
        match self {
            Self::Name | Self::End => true,
            Self::NameAfterOther | Self::Other => false,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Name => 'n',
            Self::End => 'e',
            Self::NameAfterOther => 'a',
            Self::Other => 'o',
        }
    }

    fn of_letter(letter: char) -> Option<Self> {
        [Self::Name, Self::End, Self::NameAfterOther, Self::Other]
            .into_iter()
            .find(|place| place.letter() == letter)
    }
}

/// A letter per row, for a file's header.
pub(super) fn to_letters(places: &[Place]) -> String {
    places.iter().map(|place| place.letter()).collect()
}

/// From what [`to_letters`] wrote; `None` for anything else.
pub(super) fn from_letters(letters: &str) -> Option<Vec<Place>> {
    letters.chars().map(Place::of_letter).collect()
}
