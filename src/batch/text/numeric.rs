//! `numeric` in text.

use std::borrow::Cow;

use super::integer::{based, magnitude, signed};
use super::trim;

/// A text that `numeric_in` takes as [`put_numeric`](crate::copy::put_numeric) wants it: without underscores,
/// in base ten. The base of others is up to 128 bits. Whether the rest of it is a number is not looked at.
pub fn plain(text: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(trim(text)).ok()?;
    let (negative, unsigned) = signed(text.as_bytes());
    if let Some((radix, digits)) = based(unsigned) {
        let magnitude = magnitude(digits, radix)??;
        return Some(Cow::Owned(format!("{}{magnitude}", if negative { "-" } else { "" })));
    }
    if !text.contains('_') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let between_digits = |(at, _): (usize, &str)| at.checked_sub(1).is_some_and(is_digit) && is_digit(at + 1);
    text.match_indices('_').all(between_digits).then(|| Cow::Owned(text.replace('_', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_and_other_bases_are_made_plain() {
        for (text, expected) in [
            (" 1.50 ", "1.50"),
            ("1_000.000_1e1_0", "1000.0001e10"),
            ("-0xff", "-255"),
            ("0b_11", "3"),
            ("0xffffffffffffffffffffffffffffffff", "340282366920938463463374607431768211455"),
            ("NaN", "NaN"),
        ] {
            assert_eq!(plain(text.as_bytes()).as_deref(), Some(expected), "{text}");
        }
        for text in
            ["_1", "1_", "1__0", "1_.5", "1._5", "1e_5", "0x", "0xg", "0x100000000000000000000000000000000"]
        {
            assert_eq!(plain(text.as_bytes()), None, "{text}");
        }
    }
}
