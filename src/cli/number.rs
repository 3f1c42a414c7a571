//! Numbers as people write them: with a decimal comma where it can be told from a thousands separator, and seeds exactly.

/// The largest seed: JSON numbers are exact up to it in every program.
const LARGEST_SEED: u64 = (1 << 53) - 1;

/// Reads a decimal number; `0,8` is 0.8.
///
/// # Errors
/// A sentence that says how to write it.
pub fn number(text: &str) -> Result<f64, String> {
    let plain = match text.split_once(',') {
        None => text.to_owned(),
        Some((whole, fraction)) => {
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let is_decimal = digits(whole.trim_start_matches(['-', '+'])) && digits(fraction);
            if !is_decimal || fraction.is_empty() {
                return Err(format!("`{text}` is not a number: write it like 0.8 or 0,8"));
            }
            // 1,500 is a thousand and a half to some, and one and a half to others.
            if fraction.len() == 3 && !whole.trim_start_matches(['-', '+', '0']).is_empty() {
                return Err(format!(
                    "`{text}` can be read in two ways: write {whole}{fraction} or {whole}.{fraction}"
                ));
            }
            format!("{whole}.{fraction}")
        }
    };
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a number: write it like 0.8 or 0,8")),
    }
}

/// Reads a seed, exactly.
///
/// # Errors
/// If it is not a whole number from 0 to 2⁵³ − 1: what is larger would be rounded somewhere.
pub fn seed(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(seed) if seed <= LARGEST_SEED && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(seed)
        }
        Ok(_) | Err(_) => Err(format!("`{text}` is not a whole number from 0 to {LARGEST_SEED}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_comma_is_taken_and_a_doubtful_one_is_not() {
        for (text, expected) in [
            ("0.8", 0.8),
            ("0,8", 0.8),
            ("7,5", 7.5),
            ("-1,25", -1.25),
            ("0,125", 0.125),
            ("1e-3", 1e-3),
            ("6", 6.0),
        ] {
            assert_eq!(number(text), Ok(expected), "{text}");
        }
        for text in ["1,500", "1.000,5", "1,2,3", "0,", "nan", "inf", "", " 1", "1e999", "zwei"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert!(number("1,500").unwrap_err().contains("write 1500 or 1.500"));
    }

    #[test]
    fn a_seed_is_taken_exactly_or_not_at_all() {
        assert_eq!(seed("0"), Ok(0));
        assert_eq!(seed("9007199254740991"), Ok(9_007_199_254_740_991));
        for text in [
            "9007199254740992",
            "9007199254740993",
            "5400121572116419000",
            "-1",
            "+1",
            "1e3",
            " 7 ",
            "",
        ] {
            let error = seed(text).unwrap_err();
            assert!(error.contains("9007199254740991"), "{text}: {error}");
        }
    }
}
