//! The training objective.

use candle_core::{DType, Result, Tensor};

/// Weights that turn squared errors into the loss by one product and one sum.
///
/// An element's loss is the mean of its squared errors over all channels and over the latent cells, weighted by its mask;
/// the loss is the mean over instance images plus `prior_loss_weight` times the mean over class images, which is the
/// paper's balance (reference implementations differ by the number of channels, unintentionally).
///
/// - `mask`: `(batch, 1, height, width)`, how much a cell counts, from 0 to 1
/// - returns the same shape; an element whose mask is empty weighs nothing
pub(super) fn error_weights(
    mask: &Tensor,
    is_class_image: &[bool],
    channels: usize,
    prior_loss_weight: f64,
) -> Result<Tensor> {
    let class_images = is_class_image.iter().filter(|&&class| class).count();
    let instance_images = is_class_image.len() - class_images;
    let cells: Vec<f32> = mask.flatten_from(1)?.sum(1)?.to_vec1()?;
    let weights: Vec<f32> = is_class_image
        .iter()
        .zip(cells)
        .map(|(&class, cells)| {
            let (share, images) =
                if class { (prior_loss_weight, class_images) } else { (1.0, instance_images) };
            if cells > 0.0 {
                (share / (images as f64 * channels as f64 * f64::from(cells))) as f32
            } else {
                0.0
            }
        })
        .collect();
    let weights = Tensor::from_vec(weights, (is_class_image.len(), 1, 1, 1), mask.device())?;
    mask.broadcast_mul(&weights)
}

/// `Σ weights · (model_pred − target)²` of each element, and the gradient of their sum with respect to `model_pred`.
///
/// - `model_pred`, `target`: `(batch, height, width, channels)`
/// - `weights`: `(batch, height, width, 1)`, from [`error_weights`]
/// - returns the elements' shares of the loss, and `2 · weights · (model_pred − target)` in the type of `model_pred`
pub(super) fn weighted_squared_error(
    model_pred: &Tensor,
    target: &Tensor,
    weights: &Tensor,
) -> Result<(Vec<f64>, Tensor)> {
    let error = (model_pred.to_dtype(DType::F32)? - target)?;
    let weighted = error.broadcast_mul(weights)?;
    let losses: Vec<f32> = (&weighted * &error)?.flatten_from(1)?.sum(1)?.to_vec1()?;
    let gradient = (weighted * 2.0)?.to_dtype(model_pred.dtype())?;
    Ok((losses.into_iter().map(f64::from).collect(), gradient))
}
