//! Cases of kind `merge`.

use anyhow::{Result, bail};

use super::{Case, Measured};

pub(crate) fn merge(_case: &Case<'_>) -> Result<Vec<Measured>> {
    bail!("not run yet")
}
