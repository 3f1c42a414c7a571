//! Captions as editors write them: marks and line ends vanish, what is not text is refused with its line.

use crate::domain::image_set::MAX_CAPTION_BYTES;

/// Why a text is not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TextFault {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The text of a file in UTF-8, without a byte-order mark.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, TextFault> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(TextFault {
            line: 1,
            reason: "the file is UTF-16: save it as UTF-8".to_owned(),
        });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| TextFault {
        line: line_of(bytes, error.valid_up_to()),
        reason: "it is not UTF-8: save the file as UTF-8".to_owned(),
    })
}

/// One caption from a text of any number of lines: lines and runs of blanks are joined by single spaces.
pub(super) fn tidy(text: &str) -> Result<String, TextFault> {
    let forbidden = |c: char| c.is_control() && !c.is_whitespace();
    if let Some(place) = text.find(forbidden) {
        let reason = "it has a control character, such as U+0000".to_owned();
        return Err(TextFault { line: line_of(text.as_bytes(), place), reason });
    }
    let caption = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    if caption.len() > MAX_CAPTION_BYTES {
        let reason = format!("the caption has more than {MAX_CAPTION_BYTES} bytes");
        return Err(TextFault { line: 1, reason });
    }
    Ok(caption)
}

fn line_of(bytes: &[u8], place: usize) -> usize {
    1 + bytes[..place].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caption(bytes: &[u8]) -> Result<String, TextFault> {
        tidy(text_of(bytes)?)
    }

    #[test]
    fn marks_and_line_ends_vanish() {
        for bytes in [
            &b"a red dog"[..],
            b"\xef\xbb\xbfa red dog\r\n",
            b"a red\ndog\n\n",
            b"  a\tred\rdog",
            "a\u{a0}red\u{2028}dog".as_bytes(),
        ] {
            assert_eq!(caption(bytes).as_deref(), Ok("a red dog"), "{bytes:?}");
        }
        assert_eq!(caption("süß, 🐶\n".as_bytes()).as_deref(), Ok("süß, 🐶"));
        assert_eq!(caption(b"\xef\xbb\xbf\r\n").as_deref(), Ok(""));
    }

    #[test]
    fn what_is_not_text_is_refused_with_its_line() {
        let line = |bytes: &[u8]| caption(bytes).unwrap_err().line;

        assert_eq!(line(b"\xff\xfea\0"), 1);
        assert_eq!(line(b"\xfe\xff\0a"), 1);
        assert_eq!(line(b"a\nb\0c"), 2);
        assert_eq!(line(b"a\n\nb\xff"), 3);
        assert_eq!(line(b"a\0b\0"), 1); // UTF-16 without a mark
    }
}
