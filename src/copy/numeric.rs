//! `numeric` in binary, as `numeric_send` writes it: base-10,000 digits with a weight, a sign and a
//! display scale, each an `int16`.

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// The most digits a numeric has before its decimal point, and after it (the manual, "Arbitrary Precision
/// Numbers").
const INTEGER_DIGITS_MAX: i64 = 131_072;
const FRACTION_DIGITS_MAX: i64 = 16_383;

/// Appends the body of a `numeric` from decimal text: optional sign, digits, optional fraction, optional
/// exponent, or `NaN`, `Infinity`, `-Infinity`. Returns false, and appends nothing, if the text is none of
/// these or is beyond what a `numeric` holds.
pub fn put_numeric(out: &mut Vec<u8>, text: &str) -> bool {
    let text = text.trim_ascii();
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (NEGATIVE, &text[1..]),
        Some(b'+') => (POSITIVE, &text[1..]),
        _ => (POSITIVE, text),
    };
    let special = match (digits.to_ascii_lowercase().as_str(), sign) {
        ("nan", POSITIVE) => Some(NAN),
        ("infinity" | "inf", POSITIVE) => Some(INFINITY),
        ("infinity" | "inf", _) => Some(NEGATIVE_INFINITY),
        _ => None,
    };
    if let Some(special) = special {
        put_header(out, 0, 0, special, 0);
        return true;
    }
    let Some((integer, fraction, exponent)) = split(digits) else {
        return false;
    };
    // The point stands `point` digits into `all`.
    let all: Vec<u8> = integer.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
    let point = integer.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0);
    let leading_zeros = all.iter().take_while(|digit| **digit == 0).count();
    if scale > FRACTION_DIGITS_MAX || point - leading_zeros as i64 > INTEGER_DIGITS_MAX {
        return false;
    }
    if leading_zeros == all.len() {
        put_header(out, 0, 0, POSITIVE, scale as u16);
        return true;
    }
    // Base-10,000 digits are aligned to the point: group g covers the decimal places 4g..4g+4 before it.
    let first = point - leading_zeros as i64;
    let weight = (first - 1).div_euclid(4);
    let last_place = point - all.len() as i64;
    let lowest = last_place.div_euclid(4);
    let mut groups: Vec<u16> = (lowest..=weight)
        .rev()
        .map(|group| {
            (0..4).rev().fold(0u16, |value, place| {
                let index = point - 1 - (group * 4 + place);
                let digit =
                    usize::try_from(index).ok().and_then(|index| all.get(index)).copied().unwrap_or(0);
                value * 10 + u16::from(digit)
            })
        })
        .collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    put_header(out, groups.len() as u16, weight as i16, sign, scale as u16);
    for group in groups {
        out.extend_from_slice(&group.to_be_bytes());
    }
    true
}

fn split(digits: &str) -> Option<(&str, &str, i64)> {
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let some = !integer.is_empty() || !fraction.is_empty();
    (some && plain(integer) && plain(fraction)).then_some((integer, fraction, i64::from(exponent)))
}

fn put_header(out: &mut Vec<u8>, digits: u16, weight: i16, sign: u16, scale: u16) {
    out.extend_from_slice(&digits.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<Vec<i32>> {
        let mut out = Vec::new();
        put_numeric(&mut out, text).then(|| {
            out.chunks_exact(2).map(|pair| i32::from(i16::from_be_bytes([pair[0], pair[1]]))).collect()
        })
    }

    #[test]
    fn numeric_groups_are_aligned_to_the_point() {
        assert_eq!(parts("12345.678"), Some(vec![3, 1, 0, 3, 1, 2345, 6780]));
        assert_eq!(parts("-0.0001"), Some(vec![1, -1, 0x4000, 4, 1]));
        assert_eq!(parts("1e3"), Some(vec![1, 0, 0, 0, 1000]));
        assert_eq!(parts("10000"), Some(vec![1, 1, 0, 0, 1]));
        assert_eq!(parts("0.00"), Some(vec![0, 0, 0, 2]));
        assert_eq!(parts("NaN"), Some(vec![0, 0, 0xC000u16 as i16 as i32, 0]));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", ".", "-", "1.2.3", "12a", "1e", "1e999999", "0x10"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
}
