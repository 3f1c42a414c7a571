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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_mask_weights_the_mean_and_its_gradient() {
        let device = Device::Cpu;
        let values = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * step).sin()).collect()
        };
        // Two elements of 2x2 cells and 3 channels; the second one's mask keeps a part of each of two cells.
        let cells = [1.0_f32, 1.0, 1.0, 1.0, 0.0, 0.25, 0.5, 0.0];
        let mask = Tensor::from_slice(&cells, (2, 1, 2, 2), &device).unwrap();
        let weights = error_weights(&mask, &[false, false], 3, 1.0).unwrap();
        let weights = weights.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let tensor = |values: &[f32]| Tensor::from_slice(values, (2, 2, 2, 3), &device).unwrap();
        let (pred, target) = (values(24, 0.7), values(24, 1.3));
        let loss = |pred: &[f32]| {
            weighted_squared_error(&tensor(pred), &tensor(&target), &weights).unwrap()
        };

        let (losses, gradient) = loss(&pred);

        for element in 0..2 {
            let cells = &cells[4 * element..][..4];
            let errors = (0..12).map(|i| {
                let at = 12 * element + i;
                f64::from(cells[i / 3]) * f64::from(pred[at] - target[at]).powi(2)
            });
            let mean = errors.sum::<f64>() / (3.0 * f64::from(cells.iter().sum::<f32>()));
            assert!((losses[element] - mean / 2.0).abs() < 1e-6, "{losses:?} and {mean}");
        }
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        for at in 0..24 {
            let moved = |by: f32| {
                let mut pred = pred.clone();
                pred[at] += by;
                loss(&pred).0.iter().sum::<f64>()
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((difference - f64::from(gradient[at])).abs() < 1e-4, "at {at}: {difference}");
        }
        assert!(gradient[12..15].iter().all(|&value| value == 0.0), "outside of the mask");
    }
}
