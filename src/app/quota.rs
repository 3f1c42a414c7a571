//! Quotas: what a project may have, counted from what it has in the transaction that adds to it.
//!
//! There is no counter, so nothing has to be given back: what fails, is canceled or is deleted no longer counts.

use sqlx::PgConnection;

use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::access::{Quotas, Usage};

/// What a transaction is about to add.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    Concept,
    /// Of a photo, an image or an image set.
    Bytes(i64),
    /// Jobs. What they store is not known yet, so there only has to be some room.
    Jobs(usize),
}

impl App {
    /// Refuses what the caller's project has no room for. What this has counted stays true until the transaction ends, so two
    /// requests cannot both take the last place.
    ///
    /// Ask before any other lock is taken.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`]
    pub(super) async fn reserve(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        need: Need,
    ) -> Result<(), Refusal> {
        let project_id = caller.project_id();
        let Some(project) = db::project::find(&mut *tx, project_id).await? else { return Ok(()) };
        if !need.is_limited(&project.quotas) {
            return Ok(());
        }
        db::project::take_turn(&mut *tx, project_id).await?;
        let usage = db::project::usage(&mut *tx, project_id).await?;
        need.check(&project.quotas, &usage).map_err(|detail| Refusal::QuotaExceeded { detail })
    }
}

impl Need {
    fn is_limited(self, quotas: &Quotas) -> bool {
        match self {
            Self::Concept => quotas.max_concepts.is_some(),
            Self::Bytes(_) => quotas.max_stored_bytes.is_some(),
            Self::Jobs(_) => quotas.max_active_jobs.is_some() || quotas.max_stored_bytes.is_some(),
        }
    }

    fn check(self, quotas: &Quotas, usage: &Usage) -> Result<(), String> {
        let fits = |most: Option<i64>, has: i64, more: i64| {
            most.is_none_or(|most| has.saturating_add(more) <= most)
        };
        let shown = |most: Option<i64>| most.unwrap_or(i64::MAX);
        match self {
            Self::Concept if !fits(quotas.max_concepts, usage.concepts, 1) => Err(format!(
                "the project has {} concepts, and {} are allowed: delete one",
                usage.concepts,
                shown(quotas.max_concepts)
            )),
            Self::Bytes(bytes) if !fits(quotas.max_stored_bytes, usage.stored_bytes, bytes) => {
                Err(format!(
                    "the project stores {} bytes, this adds {bytes}, and {} are allowed: delete images or deltas",
                    usage.stored_bytes,
                    shown(quotas.max_stored_bytes)
                ))
            }
            Self::Jobs(_) if !fits(quotas.max_stored_bytes, usage.stored_bytes, 1) => Err(format!(
                "the project stores {} bytes, and {} are allowed, so there is no room for a result: delete images or deltas",
                usage.stored_bytes,
                shown(quotas.max_stored_bytes)
            )),
            Self::Jobs(jobs) => {
                let active = usage.queued_jobs + usage.running_jobs;
                let more = i64::try_from(jobs).unwrap_or(i64::MAX);
                match fits(quotas.max_active_jobs, active, more) {
                    true => Ok(()),
                    false => Err(format!(
                        "{active} jobs of the project wait or run, this adds {more}, and {} are allowed: wait until some have ended",
                        shown(quotas.max_active_jobs)
                    )),
                }
            }
            Self::Concept | Self::Bytes(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_taken_and_no_more() {
        let quotas =
            Quotas { max_concepts: Some(2), max_stored_bytes: Some(100), max_active_jobs: Some(3) };
        let usage = Usage {
            concepts: 1,
            stored_bytes: 90,
            queued_jobs: 1,
            running_jobs: 1,
            ..Usage::default()
        };

        for (need, fits) in [
            (Need::Concept, true),
            (Need::Bytes(10), true),
            (Need::Bytes(11), false),
            (Need::Bytes(i64::MAX), false),
            (Need::Jobs(1), true),
            (Need::Jobs(2), false),
        ] {
            assert_eq!(need.check(&quotas, &usage).is_ok(), fits, "{need:?}");
            assert!(need.check(&Quotas::default(), &usage).is_ok());
        }
        let full = Usage { concepts: 2, stored_bytes: 100, ..usage };
        assert!(Need::Concept.check(&quotas, &full).is_err());
        assert!(Need::Jobs(1).check(&quotas, &full).is_err(), "a result needs room");
    }
}
