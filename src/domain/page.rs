//! Pages of lists: newest first, one after another.

use uuid::Uuid;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what is older than this id; `None` for the newest.
    pub before: Option<Uuid>,
    /// The most items to return.
    pub limit: i64,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct PageOf<T> {
    pub items: Vec<T>,
    /// Whether there are older items.
    pub has_more: bool,
}

impl Page {
    /// The same page with one more item. If it exists, the list continues.
    pub fn with_one_more(self) -> Self {
        Self { limit: self.limit.saturating_add(1), ..self }
    }

    /// Every item of the page has an id below this. A bound that is always there lets the database begin at it in the index,
    /// whatever plan it has made.
    pub fn below(&self) -> Uuid {
        self.before.unwrap_or(Uuid::max())
    }

    /// Removes the additional item of [`Self::with_one_more`].
    pub fn cut<T>(self, mut items: Vec<T>) -> PageOf<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = items.len() > limit;
        items.truncate(limit);
        PageOf { items, has_more }
    }
}

impl<T> PageOf<T> {
    /// The page with each item replaced.
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> PageOf<U> {
        PageOf { items: self.items.into_iter().map(each).collect(), has_more: self.has_more }
    }
}
