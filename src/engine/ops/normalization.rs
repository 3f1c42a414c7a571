//! What group and layer norm share: scale and shift, and the normalisation in candle's tensors.

use candle_core::{Result, Tensor, bail};

use super::buffer::has_kernels;

/// Frozen scale and shift of each channel.
pub(crate) struct Affine {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    /// The same as slices, for our kernels.
    pub(crate) weights: Vec<f32>,
    pub(crate) biases: Vec<f32>,
}

impl Affine {
    /// - `weight`, `bias`: `(channels,)`
    pub(crate) fn new(weight: Tensor, bias: Tensor) -> Result<Self> {
        if weight.dims().len() != 1 || weight.dims() != bias.dims() {
            bail!("a scale of {:?} beside a shift of {:?}", weight.dims(), bias.dims());
        }
        let host = |x: &Tensor| if has_kernels(x) { x.to_vec1() } else { Ok(Vec::new()) };
        let (weights, biases) = (host(&weight)?, host(&bias)?);
        Ok(Self { weight, bias, weights, biases })
    }
}

impl Affine {
    /// Refuses a tensor whose last dimension is not that of the channels.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        let channels = self.weight.dims()[0];
        match x.dims().last() {
            Some(last) if *last == channels && channels > 0 => Ok(()),
            Some(_) | None => bail!("an input of {:?} for {channels} channels", x.dims()),
        }
    }
}

/// `x̂` and `1 / √(var + ε)` over some dimensions.
pub(crate) fn normalize(x: &Tensor, dims: &[usize], eps: f64) -> Result<(Tensor, Tensor)> {
    let centred = x.broadcast_sub(&x.mean_keepdim(dims)?)?;
    let rstd = (centred.sqr()?.mean_keepdim(dims)? + eps)?.sqrt()?.recip()?;
    Ok((centred.broadcast_mul(&rstd)?, rstd))
}

/// `(g − mean g − x̂ mean(g x̂)) / √(var + ε)`, the gradient of `x` from that of `x̂`, `g`.
pub(crate) fn normalize_gradient(
    g: &Tensor,
    normed: &Tensor,
    rstd: &Tensor,
    dims: &[usize],
) -> Result<Tensor> {
    let mean_gx = (g * normed)?.mean_keepdim(dims)?;
    g.broadcast_sub(&g.mean_keepdim(dims)?)?
        .sub(&normed.broadcast_mul(&mean_gx)?)?
        .broadcast_mul(rstd)
}
