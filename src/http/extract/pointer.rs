//! JSON pointers (RFC 6901).

/// The place of a value in a body.
#[derive(Debug, Default)]
pub(super) struct Pointer(String);

impl Pointer {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Goes to a field; [`Pointer::truncate`] with the result goes back.
    pub(super) fn push(&mut self, name: &str) -> usize {
        let mark = self.0.len();
        self.0.push('/');
        self.0.push_str(&escaped(name));
        mark
    }

    /// Goes to an item of a list; [`Pointer::truncate`] with the result goes back.
    pub(super) fn push_index(&mut self, index: usize) -> usize {
        self.push(&index.to_string())
    }

    pub(super) fn truncate(&mut self, mark: usize) {
        self.0.truncate(mark);
    }

    /// The pointer to a field of the value.
    pub(super) fn to(&self, name: &str) -> String {
        format!("{}/{}", self.0, escaped(name))
    }
}

impl From<&serde_path_to_error::Path> for Pointer {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;

        let mut pointer = Self::default();
        for segment in path {
            match segment {
                Segment::Seq { index } => _ = pointer.push_index(*index),
                Segment::Map { key } => _ = pointer.push(key),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        pointer
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
