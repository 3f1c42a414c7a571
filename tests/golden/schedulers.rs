//! Cases of kind `scheduler`.

use anyhow::{Result, bail};

use super::{Case, Measured};

pub(crate) fn scheduler(_case: &Case<'_>) -> Result<Vec<Measured>> {
    bail!("not run yet")
}
