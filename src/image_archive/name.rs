//! Names in archives that do not say in which encoding they are.

use encoding_rs::SHIFT_JIS;

/// A name that is Japanese in Shift-JIS, as Windows packs it there; `None` for all others.
pub(super) fn east_asian(raw: &[u8]) -> Option<String> {
    if std::str::from_utf8(raw).is_ok() {
        return None;
    }
    let name = SHIFT_JIS.decode_without_bom_handling_and_without_replacement(raw)?;
    let is_japanese = |c: &char| matches!(*c, '\u{3041}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}');
    let is_expected = |c: char| {
        c.is_ascii()
            || is_japanese(&c)
            || matches!(c, '\u{3000}'..='\u{303f}' | '\u{ff01}'..='\u{ff9f}')
    };
    // A word with an umlaut may be valid Shift-JIS too, but not of these characters alone.
    (name.chars().all(is_expected) && name.chars().filter(is_japanese).count() >= 2)
        .then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn japanese_names_are_readable_and_others_left_alone() {
        let (raw, _, _) = SHIFT_JIS.encode("写真/いぬ1.jpg");

        assert_eq!(east_asian(&raw).as_deref(), Some("写真/いぬ1.jpg"));
        for other in [&b"photo.jpg"[..], "写真.jpg".as_bytes(), b"Gr\x81n.png", b"\x84\x94.png"] {
            assert_eq!(east_asian(other), None, "{other:?}");
        }
    }
}
