//! Elements of embeddings as programs write them, fast: texts whose rounding to `f32` is certain from one
//! multiplication in `f64`. All others are left to [`super::float`].

/// The powers of ten that [`quick`] multiplies with begin here.
const POWER_MIN: i32 = -45;

/// Powers of ten, each rounded to the nearest.
#[rustfmt::skip]
const POWERS: [f64; 68] = [
    1e-45, 1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31,
    1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16,
    1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1,
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Powers of ten for sixteen digits and fewer.
#[rustfmt::skip]
const SMALL_POWERS: [i64; 17] = [
    1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000,
    100_000_000_000, 1_000_000_000_000, 10_000_000_000_000, 100_000_000_000_000, 1_000_000_000_000_000,
    10_000_000_000_000_000,
];

/// The `f32` at `at`, and where its text ends, if the separator follows and it is one of the usual texts whose
/// rounding is certain; anything else, and what stands in the last bytes of the text, is for [`super::float`].
///
/// The digits, as an integer, times a power of ten in `f64` are off by at most 3 units in the last place: the
/// integer, the power and the product are off by 2^-53 of themselves each, and a unit is no less than that.
/// Digits beyond [`MANTISSA_ENOUGH`], which are left out, are less than 10^-13 of the whole: 901 units. Rounded
/// to `f32` that is the exact value's rounding, unless the middle of two neighbours lies within the error.
#[inline]
pub(super) fn quick(text: &[u8], at: usize, separator: u8) -> Option<(f32, usize)> {
    if let Some((value, bytes)) = fraction(text.get(at..)?, separator) {
        return Some((value, at + bytes));
    }
    let (value, end) = any(text, at)?;
    (text.get(end) == Some(&separator)).then_some((value, end))
}

/// A digit, a point and up to some twenty digits. Where the next number begins is known from few bytes of this
/// one and nothing branches on its digits, so that a core works on several numbers at a time.
#[inline(always)]
fn fraction(text: &[u8], separator: u8) -> Option<(f32, usize)> {
    let bytes: &[u8; 32] = text.first_chunk()?;
    let negative = bytes[0] == b'-';
    let sign = usize::from(negative);
    // The point becomes 0, the digit before it its value.
    let whole = u64::from(u16::from_le_bytes([bytes[sign], bytes[sign + 1]]) ^ 0x2e30);
    let (low, high) = (digits(bytes, sign + 2), digits(bytes, sign + 10));
    let from_16 = digit_count(digits(bytes, 16));
    if no_digits(low) | no_digits(high) == 0 {
        // Sixteen digits behind the point; more may follow.
        let mantissa = number_of(whole, SMALL_POWERS[16], low, high);
        let end = 16 + from_16;
        let good = (bytes[end] == separator) & (whole <= 9) & (mantissa >= MANTISSA_ENOUGH);
        let value = rounded(mantissa as f64 * 1e-16)?;
        return if good { Some((signed(value, negative), end)) } else { None };
    }
    let from_8 = digit_count(digits(bytes, 8));
    let end = 8 + from_8 + if from_8 == 8 { from_16 } else { 0 };
    let count = end - (sign + 2);
    let power = *SMALL_POWERS.get(count)?;
    // What is no digit goes, and zeros come before the digits.
    let kept = (u128::from(high) << 64 | u128::from(low)) << (128 - 8 * count);
    let (low, high) = (kept as u64, (kept >> 64) as u64);
    let mantissa = number_of(whole, power, low, high);
    let good = (bytes[end] == separator) & (whole <= 9) & (no_digits(low) | no_digits(high) == 0);
    let value = rounded(mantissa as f64 * POWERS[(-POWER_MIN) as usize - count])?;
    if good { Some((signed(value, negative), end)) } else { None }
}

/// `whole` times a power of ten and the number that sixteen digits make; anything if they are no digits.
#[inline(always)]
fn number_of(whole: u64, power: i64, low: u64, high: u64) -> i64 {
    let behind_point = value_of(low) * 100_000_000 + value_of(high);
    (whole as i64).wrapping_mul(power).wrapping_add(behind_point)
}

/// Any of the usual texts.
fn any(text: &[u8], mut at: usize) -> Option<(f32, usize)> {
    // Added, not branched on: signs of embeddings can't be predicted.
    let negative = *text.get(at)? == b'-';
    at += usize::from(negative);
    let mut mantissa = i64::from(digit(text, at)?);
    at += 1;
    while let Some(next) = digit(text, at) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i64::from(next))?;
        at += 1;
    }
    let mut exponent = 0i32;
    if text.get(at) == Some(&b'.') {
        at += 1;
        loop {
            let (value, count) = leading_digits(text.get(at..)?.first_chunk()?);
            mantissa = mantissa.checked_mul(SMALL_POWERS[count])?.checked_add(value)?;
            at += count;
            exponent -= count as i32;
            if count < 16 {
                break;
            }
            if mantissa >= MANTISSA_ENOUGH {
                at = digits_end(text, at)?;
                break;
            }
        }
    }
    if matches!(text.get(at)?, b'e' | b'E') {
        let (power, bytes) = power_of_ten(text.get(at + 1..)?)?;
        exponent += power;
        at += 1 + bytes;
    }
    let power = POWERS.get((exponent - POWER_MIN) as usize)?;
    let wide = mantissa as f64 * power;
    let normal = (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&wide) || mantissa == 0;
    let value = rounded(wide).filter(|_| normal)?;
    Some((signed(value, negative), at))
}

/// Rounded to `f32`, if that is certain.
#[inline(always)]
fn rounded(wide: f64) -> Option<f32> {
    // Bits that rounding takes off, and the distance from the middle in which nothing is certain.
    const TAKEN_OFF: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    const UNCERTAIN: u64 = 1024;
    let uncertain = (wide.to_bits() & TAKEN_OFF).wrapping_sub(MIDDLE - UNCERTAIN) <= 2 * UNCERTAIN;
    if uncertain { None } else { Some(wide as f32) }
}

/// With the sign; a branch on it would be guessed wrong every other time.
#[inline(always)]
fn signed(value: f32, negative: bool) -> f32 {
    f32::from_bits(value.to_bits() | u32::from(negative) << 31)
}

/// An integer of the first digits that needs no more of them.
const MANTISSA_ENOUGH: i64 = 10_000_000_000_000;

/// Where the digits end that go on at `at`.
#[inline]
fn digits_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let count = digit_count(u64::from_le_bytes(*text.get(at..)?.first_chunk()?) ^ ZEROS);
        at += count;
        if count < 8 {
            return Some(at);
        }
    }
}

#[inline]
fn digit(text: &[u8], at: usize) -> Option<u8> {
    text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9)
}

/// The decimal digits that sixteen bytes begin with, as a number, and how many they are. Where the next number
/// begins depends on the count, so that the count has the shortest way; nothing branches on digits.
#[inline]
fn leading_digits(bytes: &[u8; 16]) -> (i64, usize) {
    let all = u128::from_le_bytes(*bytes);
    let (low, high) = (all as u64 ^ ZEROS, (all >> 64) as u64 ^ ZEROS);
    let (others_low, others_high) = (no_digits(low), no_digits(high));
    let ones = if others_low == 0 { 64 + others_high.trailing_zeros() } else { others_low.trailing_zeros() };
    let count = ones / 8;
    // What is no digit goes, and zeros come before the digits.
    let digits = (u128::from(high) << 64 | u128::from(low)).unbounded_shl(128 - 8 * count);
    (value_of(digits as u64) * 100_000_000 + value_of((digits >> 64) as u64), count as usize)
}

/// A one for each byte of eight.
const EACH: u64 = 0x0101_0101_0101_0101;

/// Eight zeros in text.
const ZEROS: u64 = EACH * 0x30;

/// Eight bytes, of which digits become their value.
#[inline(always)]
fn digits(bytes: &[u8; 32], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight) ^ ZEROS
}

/// How many of eight bytes are digits before the first that is none.
#[inline(always)]
fn digit_count(bytes: u64) -> usize {
    no_digits(bytes).trailing_zeros() as usize / 8
}

/// The highest bit of each byte, up to the first one that is set, says whether it is above 9.
#[inline(always)]
fn no_digits(bytes: u64) -> u64 {
    // The sum carries into a byte's highest bit, or it is set already. A carry out of a byte that is above 9
    // goes to later ones, which no longer count.
    (bytes.wrapping_add(EACH * 0x76) | bytes) & (EACH * 0x80)
}

/// The number that eight digits make, the first of them in the lowest byte.
#[inline(always)]
fn value_of(digits: u64) -> i64 {
    // Pairs, then fours, then all eight: a factor adds to each half its neighbour times a power of ten.
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000 << 32 | 1) >> 32) as i64
}

/// Perhaps a sign, and one to three digits after which no other comes; with the bytes they take.
fn power_of_ten(text: &[u8]) -> Option<(i32, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let mut power = i32::from(digit(text, sign)?);
    let mut at = sign + 1;
    while let Some(next) = digit(text, at) {
        power = power * 10 + i32::from(next);
        at += 1;
        if at > sign + 3 {
            return None;
        }
    }
    Some((if text[0] == b'-' { -power } else { power }, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What may stand behind a number, digits of the next one included, makes no difference.
        #[test]
        fn what_is_quick_is_what_the_standard_library_reads(
            text in "-?[0-9]{1,2}(\\.0{0,6}[0-9]{0,20})?",
            rest in "[0-9.,;e+x\\] -]{40}",
        ) {
            let whole = format!("{text},{rest}");
            if let Some((value, end)) = quick(whole.as_bytes(), 0, b',') {
                prop_assert_eq!(end, text.len());
                prop_assert_eq!(value.to_bits(), text.parse::<f32>().expect("a number").to_bits());
            }
            let other = format!("{text}{rest}");
            if let Some((_, end)) = quick(other.as_bytes(), 0, b',') {
                prop_assert!(other[..end].parse::<f32>().is_ok() && other.as_bytes()[end] == b',');
            }
        }
    }

    #[test]
    fn leading_digits_are_counted_and_added_up() {
        for (text, expected) in [
            (b"1234567812345678", (1_234_567_812_345_678, 16)),
            (b"0000000000000000", (0, 16)),
            (b"9999999999999999", (9_999_999_999_999_999, 16)),
            (b"1,23456712345678", (1, 1)),
            (b",123456712345678", (0, 0)),
            (b"1234567:12345678", (1_234_567, 7)),
            (b"12345678:1234567", (12_345_678, 8)),
            (b"12345678901234e5", (12_345_678_901_234, 14)),
            (b"12/\xff\x000:912345678", (12, 2)),
            (b"98765e-312345678", (98_765, 5)),
        ] {
            assert_eq!(leading_digits(text), expected);
        }
    }

    #[test]
    fn usual_texts_are_quick_and_others_are_left() {
        let quick = |text: &str| quick(format!("{text},{}", "1".repeat(32)).as_bytes(), 0, b',');
        for text in [
            "0.1",
            "-0.0987",
            "12",
            "-0",
            "0.0",
            "1e-7",
            "3.4e20",
            "0.012345679104328156",
            "-0.12345678901234567890123456789",
            "9.31e-10",
            "0.00000000001234567891234567",
            "1e+3",
            "1.5E22",
        ] {
            assert_eq!(
                quick(text).map(|found| found.0.to_bits()),
                text.parse().ok().map(f32::to_bits),
                "{text}"
            );
            assert_eq!(quick(text).map(|found| found.1), Some(text.len()), "{text}");
        }
        // Halfway, subnormal, near the end and beyond, no digit first, a sign, no exponent, too many digits.
        for text in [
            "16777217",
            "1e-40",
            "3.4028235e38",
            "1e39",
            ".5",
            "+1",
            "x",
            "1e",
            "1e1234",
            "12345678901234567890",
        ] {
            assert_eq!(quick(text), None, "{text}");
        }
    }
}
