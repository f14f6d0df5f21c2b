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

/// The server's parser refuses exponents from here on, whatever the mantissa.
const EXPONENT_LIMIT: i32 = i32::MAX / 2;

/// Why a text does not go into a `numeric` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumericRefusal {
    /// It is no number, or one beyond what any `numeric` holds.
    NotANumber,
    /// It does not fit `numeric(precision, scale)`.
    Beyond,
}

/// Appends the body of a `numeric` from decimal text: optional sign, digits, optional fraction, optional
/// exponent, or `NaN`, `Infinity`, `-Infinity`. `limits` are the column's precision and scale, if it sets
/// them: the server rounds to the scale, half away from zero, and then refuses what has too many digits; it
/// takes NaN anywhere and infinity only without limits. Appends nothing if the text is refused.
pub fn put_numeric(out: &mut Vec<u8>, text: &str, limits: Option<(u16, i16)>) -> Result<(), NumericRefusal> {
    let text = text.trim_ascii();
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (NEGATIVE, &text[1..]),
        Some(b'+') => (POSITIVE, &text[1..]),
        _ => (POSITIVE, text),
    };
    if text.eq_ignore_ascii_case("nan") {
        put_header(out, 0, 0, NAN, 0);
        return Ok(());
    }
    if digits.eq_ignore_ascii_case("infinity") || digits.eq_ignore_ascii_case("inf") {
        if limits.is_some() {
            return Err(NumericRefusal::Beyond);
        }
        put_header(out, 0, 0, if sign == NEGATIVE { NEGATIVE_INFINITY } else { INFINITY }, 0);
        return Ok(());
    }
    let (integer, fraction, exponent) = split(digits).ok_or(NumericRefusal::NotANumber)?;
    // The point stands `point` digits into `all`.
    let all: Vec<u8> = integer.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
    let point = integer.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0);
    let leading_zeros = all.iter().take_while(|digit| **digit == 0).count();
    let zero = leading_zeros == all.len();
    if scale > FRACTION_DIGITS_MAX || !zero && point - leading_zeros as i64 > INTEGER_DIGITS_MAX {
        return Err(NumericRefusal::NotANumber);
    }
    if zero {
        put_header(out, 0, 0, POSITIVE, scale as u16);
        return Ok(());
    }
    if let Some((precision, scale)) = limits
        && !fits(&all, leading_zeros, point, i64::from(precision), i64::from(scale))
    {
        return Err(NumericRefusal::Beyond);
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
    Ok(())
}

/// Whether digits, of which `leading_zeros` come before the first other one and `point` before the decimal
/// point, fit `numeric(precision, scale)` once they are rounded to the scale, half away from zero.
fn fits(all: &[u8], leading_zeros: usize, point: i64, precision: i64, scale: i64) -> bool {
    // Digits that rounding leaves; below 0 the first digit is more than one place too low to count.
    let Ok(kept) = usize::try_from(point + scale) else {
        return true;
    };
    let up = all.get(kept).is_some_and(|digit| *digit >= 5);
    let significant = all.get(leading_zeros..kept.min(all.len())).unwrap_or_default();
    if significant.is_empty() && !up {
        return true;
    }
    let carries = up && significant.iter().all(|digit| *digit == 9);
    point - leading_zeros as i64 + i64::from(carries) <= precision - scale
}

fn split(digits: &str) -> Option<(&str, &str, i64)> {
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    if exponent.unsigned_abs() >= EXPONENT_LIMIT.unsigned_abs() {
        return None;
    }
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
        put_numeric(&mut out, text, None).ok()?;
        Some(out.chunks_exact(2).map(|pair| i32::from(i16::from_be_bytes([pair[0], pair[1]]))).collect())
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
        for text in ["", ".", "-", "1.2.3", "12a", "1e", "1e999999", "0e1073741823", "0x10", "+NaN"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }
    #[test]
    fn precision_is_checked_after_the_servers_rounding() {
        let fits = |text: &str, precision: u16, scale: i16| {
            put_numeric(&mut Vec::new(), text, Some((precision, scale))).is_ok()
        };
        for (text, precision, scale) in [
            ("999.994", 5, 2),
            ("-999.99499", 5, 2),
            ("0.00123", 3, 5),
            ("0.00999", 3, 5),
            ("0.000004", 3, 5),
            ("0.00", 3, 5),
            ("99499.9", 2, -3),
            ("499", 2, -3),
            ("99.9e-1", 3, 1),
            ("0000123.4", 4, 1),
            ("0e200000", 2, 0),
            ("NaN", 2, 0),
        ] {
            assert!(fits(text, precision, scale), "{text} into numeric({precision},{scale})");
        }
        for (text, precision, scale) in [
            ("999.995", 5, 2),
            ("-1000", 5, 2),
            ("9999.95", 5, 1),
            ("0.00999999", 3, 5),
            ("0.01", 3, 5),
            ("99500", 2, -3),
            ("999999", 3, -3),
            ("1e5", 3, 1),
            ("0.5", 0, 0),
            ("Infinity", 5, 2),
            ("-inf", 1000, 0),
        ] {
            assert!(!fits(text, precision, scale), "{text} into numeric({precision},{scale})");
        }
    }
}
