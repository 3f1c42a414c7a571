//! Cases of kinds `train_gradients` and `train_steps`.

use anyhow::{Result, bail};

use super::{Case, Measured};

pub(crate) fn train_gradients(_case: &Case<'_>) -> Result<Vec<Measured>> {
    bail!("not run yet")
}

pub(crate) fn train_steps(_case: &Case<'_>) -> Result<Vec<Measured>> {
    bail!("not run yet")
}
