//! Where an image attends to groups of its prompt's tokens, over all steps and layers.

use crate::engine::unet::ElementAttention;

/// Layers count down to half of the latents' resolution: the maps of coarser ones blur things together.
const HALVINGS: u32 = 1;

/// Maps of attention, as large as the latents.
#[derive(Clone, Debug)]
pub struct AttentionMaps {
    groups: Vec<Vec<usize>>,
    /// `(height, width)` of the latents.
    size: (usize, usize),
    /// For each group, the sum over layers and steps.
    sums: Vec<Vec<f32>>,
    count: usize,
}

impl AttentionMaps {
    pub(super) fn new(groups: Vec<Vec<usize>>, size: (usize, usize)) -> Self {
        let sums = vec![vec![0.0; size.0 * size.1]; groups.len()];
        Self { groups, size, sums, count: 0 }
    }

    /// Adds what the image attended to in one step.
    pub(super) fn add(&mut self, step: &ElementAttention) {
        for layer in step {
            let positions = layer.groups.first().map_or(0, Vec::len);
            let Some(small) = self.size_of(positions) else { continue };
            for (sum, map) in self.sums.iter_mut().zip(&layer.groups) {
                add_enlarged(sum, self.size, map, small);
            }
            self.count += 1;
        }
    }

    /// `(height, width)` of a layer's map; `None` for one that is too coarse.
    fn size_of(&self, positions: usize) -> Option<(usize, usize)> {
        let halved = |side: usize, times: u32| side.div_ceil(1 << times);
        let sizes =
            (0..=HALVINGS).map(|times| (halved(self.size.0, times), halved(self.size.1, times)));
        sizes.into_iter().find(|(height, width)| height * width == positions)
    }

    /// The groups of token positions.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// `(height, width)` of the maps.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// The mean map of each group.
    pub fn means(&self) -> Vec<Vec<f32>> {
        let count = self.count.max(1) as f32;
        self.sums.iter().map(|sum| sum.iter().map(|value| value / count).collect()).collect()
    }
}

/// Adds a map, enlarged bilinearly with its corners' cells at the corners.
fn add_enlarged(
    sum: &mut [f32],
    (height, width): (usize, usize),
    map: &[f32],
    (small_height, small_width): (usize, usize),
) {
    /// The two cells between whose centers a cell's center lies, and the share of the second.
    fn between(at: usize, large: usize, small: usize) -> (usize, usize, f32) {
        let center = (at as f32 + 0.5) * small as f32 / large as f32 - 0.5;
        let center = center.clamp(0.0, (small - 1) as f32);
        let first = center.floor() as usize;
        (first, (first + 1).min(small - 1), center - first as f32)
    }
    for row in 0..height {
        let (top, bottom, down) = between(row, height, small_height);
        for column in 0..width {
            let (left, right, across) = between(column, width, small_width);
            let at = |row: usize, column: usize| map[row * small_width + column];
            let upper = at(top, left) + across * (at(top, right) - at(top, left));
            let lower = at(bottom, left) + across * (at(bottom, right) - at(bottom, left));
            sum[row * width + column] += upper + down * (lower - upper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::unet::LayerAttention;

    fn layer(map: &[f32]) -> ElementAttention {
        vec![LayerAttention { groups: vec![map.to_vec()] }]
    }

    #[test]
    fn maps_of_layers_are_averaged_and_coarse_ones_left_out() {
        let mut maps = AttentionMaps::new(vec![vec![1]], (4, 4));

        maps.add(&layer(&[0.5; 16]));
        maps.add(&layer(&[1.0, 0.0, 1.0, 0.0])); // 2 × 2
        maps.add(&layer(&[9.0])); // 1 × 1

        let map = &maps.means()[0];
        let is = |cell: usize, share: f32| (map[cell] - share).abs() < 1e-6;
        assert!(is(0, 0.75) && is(3, 0.25), "the corners are the corners': {map:?}");
        assert!(is(1, (0.5 + 0.75) / 2.0), "a quarter of the way to the right: {map:?}");
    }
}
