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
    /// Panics unless there is something to add for each of so many rows and columns.
    pub(crate) fn check(self, rows: usize, columns: usize) {
        assert!(self.bias.is_none_or(|values| values.len() >= columns), "the bias is too short");
        let fits = |(values, stride): (&[f32], usize)| {
            values.len() >= rows.saturating_sub(1) * stride + columns
        };
        assert!(self.addend.is_none_or(fits), "what is added is too short");
    }

    /// The epilogue of the rows from `row` on, and of the columns from `column` on.
    #[inline(always)]
    pub(crate) fn starting_at(self, row: usize, column: usize) -> Self {
        let bias = self.bias.map(|values| &values[column..]);
        let addend = self.addend.map(|(values, stride)| (&values[row * stride + column..], stride));
        Self { bias, addend, ..self }
    }
}
