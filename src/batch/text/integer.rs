//! Integers and booleans in text.

use super::trim;

/// Why a text is no `bigint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntegerRefusal {
    /// It is written otherwise.
    Syntax,
    /// It is an integer that `bigint` does not hold.
    Range,
}

/// An integer as PostgreSQL 16 and later read it: a sign; digits, or `0x`, `0o`, `0b` and digits of that base;
/// single underscores between digits.
pub fn integer(text: &[u8]) -> Result<i64, IntegerRefusal> {
    let (negative, unsigned) = signed(trim(text));
    let (radix, digits) = based(unsigned).unwrap_or((10, unsigned));
    let magnitude = magnitude(digits, radix).ok_or(IntegerRefusal::Syntax)?;
    let magnitude = magnitude.and_then(|magnitude| i128::try_from(magnitude).ok());
    let value = magnitude.map(|magnitude| if negative { -magnitude } else { magnitude });
    value.and_then(|value| i64::try_from(value).ok()).ok_or(IntegerRefusal::Range)
}

/// Whether a minus comes first, and what comes after the sign.
pub(super) fn signed(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// The base that a prefix names, and what comes after it.
pub(super) fn based(text: &[u8]) -> Option<(u32, &[u8])> {
    match text {
        [b'0', b'x' | b'X', rest @ ..] => Some((16, rest)),
        [b'0', b'o' | b'O', rest @ ..] => Some((8, rest)),
        [b'0', b'b' | b'B', rest @ ..] => Some((2, rest)),
        _ => None,
    }
}

/// The value of digits, `None` within if it is beyond 128 bits. An underscore stands between two digits, or
/// between a prefix and a digit.
pub(super) fn magnitude(digits: &[u8], radix: u32) -> Option<Option<u128>> {
    let mut value = Some(0u128);
    let mut after_digit = radix != 10;
    for byte in digits {
        match char::from(*byte).to_digit(radix) {
            Some(digit) => {
                after_digit = true;
                value = value
                    .and_then(|value| value.checked_mul(radix.into()))
                    .and_then(|value| value.checked_add(digit.into()));
            }
            None if *byte == b'_' && after_digit => after_digit = false,
            None => return None,
        }
    }
    let ends_well = digits.last().is_some_and(|last| *last != b'_');
    ends_well.then_some(value)
}

/// A boolean: beginnings of `true`, `false`, `yes`, `no`, `on`, `off` that are unique, `1` and `0`.
pub fn boolean(text: &[u8]) -> Option<bool> {
    let text = trim(text).to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| text.len() >= least && word.starts_with(&text);
    if begins(b"true", 1) || begins(b"yes", 1) || text == b"on" || text == b"1" {
        return Some(true);
    }
    (begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || text == b"0").then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_every_base() {
        for (text, expected) in [
            (" 42\n", 42),
            ("-0", 0),
            ("+1_000", 1_000),
            ("0xFf", 255),
            ("-0x_8000_0000_0000_0000", i64::MIN),
            ("0b101", 5),
            ("0O17", 15),
            ("9223372036854775807", i64::MAX),
            ("000000000000000000000000000000000000000000000000000007", 7),
        ] {
            assert_eq!(integer(text.as_bytes()), Ok(expected), "{text}");
        }
        for text in
            ["", " ", "-", "_1", "1_", "1__0", "0x", "0x_", "1.0", "1e3", "- 1", "--1", "0b2", "1 2", "١"]
        {
            assert_eq!(integer(text.as_bytes()), Err(IntegerRefusal::Syntax), "{text}");
        }
        for text in
            ["9223372036854775808", "-0x8000000000000001", "99999999999999999999999999999999999999999999"]
        {
            assert_eq!(integer(text.as_bytes()), Err(IntegerRefusal::Range), "{text}");
        }
    }

    #[test]
    fn booleans_are_beginnings_of_words() {
        for text in ["t", "TRUE", " tr ", "y", "yes", "on", "1"] {
            assert_eq!(boolean(text.as_bytes()), Some(true), "{text}");
        }
        for text in ["f", "False", "n", "no", "of", "OFF", "0"] {
            assert_eq!(boolean(text.as_bytes()), Some(false), "{text}");
        }
        for text in ["", "o", "2", "truer", "ja", "10", "00"] {
            assert_eq!(boolean(text.as_bytes()), None, "{text}");
        }
    }
}
