//! Pointers of Git LFS: what a clone has in place of a large file until `git lfs pull` fetches it.

/// How every pointer begins, in each of its versions.
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/";
const OLDER_BEGINNING: &[u8] = b"version https://hawser.github.com/";

/// What is wrong with a file that is a pointer, and what to do.
pub const REMEDY: &str =
    "this is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned";

/// Whether a file is a pointer, by its first bytes.
pub fn is_pointer(file: &[u8]) -> bool {
    file.starts_with(BEGINNING) || file.starts_with(OLDER_BEGINNING)
}
