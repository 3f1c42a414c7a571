//! The filters between sixteen input and sixteen output channels, which are transformed together.

use crate::engine::ops::gemm::PANEL;

/// Room for a square. Each row is a line of the cache.
#[repr(align(64))]
pub(super) struct FilterSquare(pub(super) [[f32; PANEL]; 9 * PANEL]);

impl Default for FilterSquare {
    fn default() -> Self {
        Self([[0.0; PANEL]; 9 * PANEL])
    }
}

/// The filters between sixteen input and sixteen output channels, one float per output channel for each position of an
/// input channel.
#[derive(Clone, Copy)]
pub(super) struct Square<'a> {
    data: &'a [f32; 9 * PANEL * PANEL],
    /// Floats from one input channel to the next, and from one position to the next.
    strides: (usize, usize),
}

impl<'a> Square<'a> {
    /// The positions of each channel follow one another.
    pub(super) fn by_channel(data: &'a [f32]) -> Self {
        Self::new(data, (9 * PANEL, PANEL))
    }

    /// The channels of each position follow one another.
    pub(super) fn by_position(data: &'a [f32]) -> Self {
        Self::new(data, (PANEL, PANEL * PANEL))
    }

    /// # Panics
    /// If the data is shorter than a square.
    fn new(data: &'a [f32], strides: (usize, usize)) -> Self {
        let data = data.first_chunk().expect("a square of filters is whole");
        Self { data, strides }
    }

    /// Where the output channels of a position of an input channel begin.
    #[inline(always)]
    pub(super) fn at(self, channel: usize, position: usize) -> *const f32 {
        assert!(channel < PANEL && position < 9, "a square has {PANEL} channels");
        let (of_channel, of_position) = self.strides;
        self.data.as_ptr().wrapping_add(channel * of_channel + position * of_position)
    }
}
