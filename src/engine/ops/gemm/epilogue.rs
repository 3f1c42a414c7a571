//! What is added to a product as it is stored.

/// What is added to the product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Add<'a> {
    /// One number per column.
    pub(crate) per_column: Option<&'a [f32]>,
    /// A matrix with rows that lie this far apart.
    pub(crate) matrix: Option<(&'a [f32], usize)>,
    /// What `C` holds already.
    pub(crate) present: bool,
}

impl Add<'_> {
    /// For rows from `row` on.
    #[inline(always)]
    pub(crate) fn from(self, row: usize) -> Self {
        let matrix = self.matrix.map(|(values, stride)| (&values[row * stride..], stride));
        Self { matrix, ..self }
    }
}
