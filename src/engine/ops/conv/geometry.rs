//! Which pixels of its input each pixel of a convolution reads.

use crate::engine::ops::gemm::Start;

/// Zeros around an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub const fn same(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// What of a convolution determines which input pixels an output pixel reads.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
}

/// Whether the filters are applied to images or to gradients of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// One application of the filters, from images of `input` height and width to images of `output`.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) geometry: Geometry,
    pub(crate) input: (usize, usize),
    pub(crate) output: (usize, usize),
    pub(crate) direction: Direction,
}

impl Geometry {
    /// Height and width of the result.
    pub(crate) fn output(self, height: usize, width: usize) -> (usize, usize) {
        let Self { kernel, stride, padding: p } = self;
        let along = |size: usize| (size + stride).saturating_sub(kernel) / stride;
        (along(height + p.top + p.bottom), along(width + p.left + p.right))
    }

    /// Whether each pixel of the result reads the one pixel at its own place.
    pub(crate) fn is_pointwise(self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == Padding::same(0)
    }
}

impl Pass {
    /// How many positions the kernel has.
    pub(crate) fn area(self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

    /// For each row of the kernel and each output row, the input row that is read, if it is not padding. The same holds
    /// for columns. The backward pass has the kernel's rows in reverse order.
    fn along(self, input: usize, output: usize, padding: usize) -> Vec<Option<usize>> {
        let Geometry { kernel, stride, .. } = self.geometry;
        let source = |offset: usize, at: usize| {
            let at = match self.direction {
                Direction::Forward => (at * stride + offset).checked_sub(padding)?,
                Direction::Backward => {
                    let at = (at + padding).checked_sub(kernel - 1 - offset)?;
                    if !at.is_multiple_of(stride) {
                        return None;
                    }
                    at / stride
                }
            };
            (at < input).then_some(at)
        };
        (0..kernel).flat_map(|offset| (0..output).map(move |at| source(offset, at))).collect()
    }

    /// For each position of the kernel and each of the output `pixels`, where the input pixel begins in
    /// `(batch, height, width, channels)`.
    pub(crate) fn starts(self, pixels: std::ops::Range<usize>, channels: usize) -> Vec<Start> {
        let padding = self.geometry.padding;
        let ((height, width), (rows, columns)) = (self.input, self.output);
        let (ys, xs) =
            (self.along(height, rows, padding.top), self.along(width, columns, padding.left));
        let place =
            |pixel: usize| (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let places: Vec<_> = pixels.map(place).collect();
        let mut starts = Vec::with_capacity(self.area() * places.len());
        for (ys, xs) in
            ys.chunks_exact(rows).flat_map(|ys| xs.chunks_exact(columns).map(move |xs| (ys, xs)))
        {
            starts.extend(places.iter().map(|&(image, y, x)| match (ys[y], xs[x]) {
                (Some(y), Some(x)) => Start::At(((image * height + y) * width + x) * channels),
                _ => Start::Zeros,
            }));
        }
        starts
    }
}
