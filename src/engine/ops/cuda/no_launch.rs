//! What a build without the feature `cuda` has in place of `launch`: no device.

use candle_core::{DType, Result, Tensor, bail};

/// An argument of a kernel.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "there is nothing to give it to")]
pub(super) enum Arg<'a> {
    Tensor(&'a Tensor),
    Maybe(Option<&'a Tensor>),
    U32(u32),
    F32(f32),
}

pub(super) fn has_device(_: &Tensor) -> bool {
    false
}

pub(super) fn empty(_: &[usize], _: DType, _: &Tensor) -> Result<Tensor> {
    bail!("this program was built without the feature `cuda`")
}

pub(super) fn run(_: &str, _: &Tensor, _: (u32, u32, u32), _: u32, _: &[Arg<'_>]) -> Result<()> {
    bail!("this program was built without the feature `cuda`")
}
