//! Cases of kind `sample`.

use anyhow::{Result, bail};

use super::{Case, Measured};

pub(crate) fn sample(_case: &Case<'_>) -> Result<Vec<Measured>> {
    bail!("not run yet")
}
