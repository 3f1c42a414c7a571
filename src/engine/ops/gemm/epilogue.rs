//! What is added to a product before it is stored.

/// The terms of `C = A B + bias + addend (+ C)` beside the product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// One value per column.
    pub(crate) bias: Option<&'a [f32]>,
    /// A matrix of the shape of `C`, and the stride of its rows.
    pub(crate) addend: Option<(&'a [f32], usize)>,
    /// Whether to add to what `C` holds, instead of overwriting it.
    pub(crate) accumulate: bool,
}

impl Epilogue<'_> {
    /// The epilogue of the rows from `row` on.
    #[inline(always)]
    pub(crate) fn starting_at(self, row: usize) -> Self {
        let addend = self.addend.map(|(values, stride)| (&values[row * stride..], stride));
        Self { addend, ..self }
    }
}
