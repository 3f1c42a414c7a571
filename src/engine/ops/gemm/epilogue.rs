//! What is added to a product as it is stored.

/// What is added to the product.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// One number per column.
    pub(crate) bias: Option<&'a [f32]>,
    /// A matrix with rows that lie this far apart.
    pub(crate) addend: Option<(&'a [f32], usize)>,
    /// What `C` holds already.
    pub(crate) accumulate: bool,
}

impl Epilogue<'_> {
    /// For rows from `row` on.
    #[inline(always)]
    pub(crate) fn from(self, row: usize) -> Self {
        let addend = self.addend.map(|(values, stride)| (&values[row * stride..], stride));
        Self { addend, ..self }
    }
}
