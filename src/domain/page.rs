//! Pages of lists: one after another, by age.

use chrono::{DateTime, Duration, Utc};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    #[default]
    Desc,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what follows this id in the order; `None` for the beginning.
    pub after: Option<Uuid>,
    /// The most items to return.
    pub limit: i64,
    pub order: Order,
    /// Only what was created after this time.
    pub created_after: Option<DateTime<Utc>>,
    /// Only what was created before this time.
    pub created_before: Option<DateTime<Utc>>,
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct PageOf<T> {
    pub items: Vec<T>,
    /// Whether there are further items.
    pub has_more: bool,
}

/// Ids are as old as their objects, except for as much as the clocks of two machines differ.
const CLOCKS_DIFFER: Duration = Duration::hours(1);

impl Page {
    /// The newest items.
    pub fn newest(limit: i64) -> Self {
        Self { after: None, limit, order: Order::Desc, created_after: None, created_before: None }
    }

    /// The same page with one more item. If it exists, the list continues.
    pub fn with_one_more(self) -> Self {
        Self { limit: self.limit.saturating_add(1), ..self }
    }

    /// Every item of the page has an id below this. A bound that is always there lets the database begin at it in the index,
    /// whatever plan it has made.
    pub fn below(&self) -> Uuid {
        let cursor = self.after.filter(|_| self.order == Order::Desc).unwrap_or(Uuid::max());
        let created = self.created_before.map(|time| oldest_id_of(time + CLOCKS_DIFFER));
        cursor.min(created.unwrap_or(Uuid::max()))
    }

    /// Every item of the page has an id above this.
    pub fn above(&self) -> Uuid {
        let cursor = self.after.filter(|_| self.order == Order::Asc).unwrap_or(Uuid::nil());
        let created = self.created_after.map(|time| oldest_id_of(time - CLOCKS_DIFFER));
        cursor.max(created.unwrap_or(Uuid::nil()))
    }

    /// Every item of the page was created after this.
    pub fn created_after(&self) -> DateTime<Utc> {
        self.created_after.unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// Every item of the page was created before this.
    pub fn created_before(&self) -> DateTime<Utc> {
        self.created_before.unwrap_or(FAR_FUTURE)
    }

    /// Removes the additional item of [`Self::with_one_more`].
    pub fn cut<T>(self, mut items: Vec<T>) -> PageOf<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = items.len() > limit;
        items.truncate(limit);
        PageOf { items, has_more }
    }

    /// Brings what was looked up by the ids of a page into their order.
    ///
    /// - `items`: in the order of their ids
    pub fn in_order<T>(&self, mut items: Vec<T>) -> Vec<T> {
        if self.order == Order::Desc {
            items.reverse();
        }
        items
    }
}

/// The year 9999.
const FAR_FUTURE: DateTime<Utc> = match DateTime::from_timestamp(253_370_764_800, 0) {
    Some(time) => time,
    None => DateTime::UNIX_EPOCH,
};

/// The smallest UUID of version 7 of a time: its first 48 bits are milliseconds.
fn oldest_id_of(time: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(time.timestamp_millis().max(0)).unwrap_or(0);
    Uuid::from_u128(millis << 80)
}

impl<T> PageOf<T> {
    /// The page with each item replaced.
    pub fn map<U>(self, each: impl FnMut(T) -> U) -> PageOf<U> {
        PageOf { items: self.items.into_iter().map(each).collect(), has_more: self.has_more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_by_its_cursor_and_its_times() {
        let now = Utc::now();
        let (older, id) = (oldest_id_of(now - Duration::days(1)), Uuid::now_v7());
        let page = Page { after: Some(id), ..Page::newest(20) };

        assert_eq!((page.above(), page.below()), (Uuid::nil(), id));
        let page = Page { order: Order::Asc, ..page };
        assert_eq!((page.above(), page.below()), (id, Uuid::max()));
        let page =
            Page { after: None, created_after: Some(now), created_before: Some(now), ..page };
        assert!(page.above() > older && page.above() < id && page.below() > id);
    }
}
