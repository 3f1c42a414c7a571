//! Captions as editors write them: marks and line ends vanish, what is not text is refused with its line.

use std::borrow::Cow;

/// Why a text is not one.
#[derive(Debug, PartialEq, Eq)]
pub struct TextFault {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// The text of a file, without a byte-order mark.
///
/// - UTF-8, and UTF-16 with its mark
/// - Windows-1252 where it can be nothing else: plain text with a curly apostrophe, a dash or letters of Western Europe
///
/// # Errors
/// [`TextFault`] for everything else. A wrong guess would change the caption unseen.
pub fn text_of(bytes: &[u8]) -> Result<Cow<'_, str>, TextFault> {
    if let Some(words) = bytes.strip_prefix(b"\xff\xfe") {
        return utf16(words, u16::from_le_bytes);
    }
    if let Some(words) = bytes.strip_prefix(b"\xfe\xff") {
        return utf16(words, u16::from_be_bytes);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map(Cow::Borrowed).or_else(|error| {
        windows_1252(bytes).map(Cow::Owned).ok_or_else(|| TextFault {
            line: line_of(bytes, error.valid_up_to()),
            reason: "it is not UTF-8: save the file as UTF-8".to_owned(),
        })
    })
}

fn utf16<'a>(bytes: &[u8], word: fn([u8; 2]) -> u16) -> Result<Cow<'a, str>, TextFault> {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: Vec<u16> = words.iter().map(|bytes| word(*bytes)).collect();
    match String::from_utf16(&words) {
        Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
        Ok(_) | Err(_) => Err(TextFault {
            line: 1,
            reason: "the file is damaged UTF-16: save it as UTF-8".to_owned(),
        }),
    }
}

/// The characters of 0x80 to 0x9f.
const WINDOWS_1252: [char; 32] = [
    '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘',
    '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
];

/// `None` if it is not likely to be Western text: most bytes have to be ASCII, and no two others stand together that would be two
/// bytes of one character in an East Asian encoding.
fn windows_1252(bytes: &[u8]) -> Option<String> {
    let others = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let is_pair = |pair: &[u8]| !pair[0].is_ascii() && !pair[1].is_ascii();
    if others * 5 > bytes.len() || bytes.windows(2).any(is_pair) {
        return None;
    }
    let text = bytes.iter().map(|&byte| match byte {
        0x80..=0x9f => Some(WINDOWS_1252[usize::from(byte - 0x80)]).filter(|c| *c != '\0'),
        _ => Some(char::from(byte)),
    });
    text.collect()
}

/// One caption from a text of any number of lines: lines and runs of blanks are joined by single spaces.
///
/// - `most`: the longest caption, in bytes
///
/// # Errors
/// [`TextFault`] for control characters, and for what is longer.
pub fn tidy(text: &str, most: usize) -> Result<String, TextFault> {
    let forbidden = |c: char| c.is_control() && !c.is_whitespace();
    if let Some(place) = text.find(forbidden) {
        let reason = "it has a control character, such as U+0000".to_owned();
        return Err(TextFault { line: line_of(text.as_bytes(), place), reason });
    }
    let caption = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    if caption.len() > most {
        let reason = format!("the caption has more than {most} bytes: shorten it");
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
        tidy(&text_of(bytes)?, 1000)
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
    fn what_editors_on_windows_write_is_read() {
        assert_eq!(caption(b"\xff\xfea\0 \0r\0e\0d\0").as_deref(), Ok("a red"));
        assert_eq!(caption(b"\xfe\xff\0a\0\n\0b").as_deref(), Ok("a b"));
        assert_eq!(
            caption(b"the dog\x92s red ball \x96 new").as_deref(),
            Ok("the dog’s red ball – new")
        );
        assert_eq!(caption(b"a caf\xe9 table").as_deref(), Ok("a café table"));
    }

    #[test]
    fn what_is_not_text_is_refused_with_its_line() {
        let line = |bytes: &[u8]| caption(bytes).unwrap_err().line;

        assert_eq!(line(b"\xff\xfea\0b"), 1); // half a character
        assert_eq!(line(b"\xff\xfe\0\xd8"), 1); // half of a pair
        assert_eq!(line(b"a\nb\0c"), 2);
        assert_eq!(line(b"a\n\nb\x83n\x83b\x83g"), 3); // Shift-JIS
        assert_eq!(line(b"a long caption with \x81 in it"), 1); // of no character
        assert_eq!(line(b"a\0b\0"), 1); // UTF-16 without a mark
    }
}
