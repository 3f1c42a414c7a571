//! Commands that take several names.

use anyhow::{Error, Result};

use super::exit;
use crate::client::Refused;

/// Does something with one thing after the other. One that is refused for its own sake does not keep the others.
///
/// # Errors
/// The last one, once those before it have been said.
pub(super) async fn each(names: &[String], act: impl AsyncFn(&str) -> Result<()>) -> Result<()> {
    let mut failed: Option<Error> = None;
    for name in names {
        let Err(error) = act(name).await else { continue };
        let others_can_follow = concerns_one_name(&error);
        if let Some(earlier) = failed.replace(error) {
            exit::say(&earlier);
        }
        if !others_can_follow {
            break;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Whether one thing is refused: it is not there, or not in a state for this.
fn concerns_one_name(error: &Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| [404, 409].contains(&refused.status.as_u16()))
}
