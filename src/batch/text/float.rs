//! Floats in text, as C's `strtof` and `strtod` read them: the server's input functions for `real`,
//! `double precision` and `vector` call these. Every value is rounded once, from its digits.

use fast_float2::FastFloat;

/// A float at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number<F> {
    /// Rounded to the nearest, ties to even.
    pub value: F,
    /// Bytes of the text that belong to it.
    pub bytes: usize,
    /// Digits gave infinity, or gave zero though not all of them are zeros.
    pub beyond: Option<Beyond>,
}

/// On which side a number leaves the range of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// It is larger than the largest, so that it became infinite.
    Overflow,
    /// It is nearer to zero than to the smallest, so that it became zero.
    Underflow,
}

/// The float types of the server.
pub trait Float: FastFloat + PartialEq {
    /// Bits of the significand, the hidden one included.
    const PRECISION: i64;
    /// Exponent of the smallest normal number, for a significand between 1 and 2.
    const EXPONENT_MIN: i64;
    /// The largest such exponent.
    const EXPONENT_MAX: i64 = 1 - Self::EXPONENT_MIN;
    /// Zero.
    const ZERO: Self;
    /// From IEEE 754 bits in the low end.
    fn from_low_bits(bits: u64) -> Self;
    /// Whether it is an infinity.
    fn is_infinity(self) -> bool;
    /// The other sign.
    fn negated(self) -> Self;
}

impl Float for f32 {
    const PRECISION: i64 = 24;
    const EXPONENT_MIN: i64 = -126;
    const ZERO: Self = 0.0;

    fn from_low_bits(bits: u64) -> Self {
        Self::from_bits(bits as u32)
    }

    fn is_infinity(self) -> bool {
        self.is_infinite()
    }

    fn negated(self) -> Self {
        -self
    }
}

impl Float for f64 {
    const PRECISION: i64 = 53;
    const EXPONENT_MIN: i64 = -1022;
    const ZERO: Self = 0.0;

    fn from_low_bits(bits: u64) -> Self {
        Self::from_bits(bits)
    }

    fn is_infinity(self) -> bool {
        self.is_infinite()
    }

    fn negated(self) -> Self {
        -self
    }
}

/// Longest text of a float with an exponent. fast-float2 counts exponents up to 65,536 exactly, which digits must
/// not outweigh.
const BYTES_MAX: usize = 60_000;

/// The float at the beginning of `text`, which has no blanks before it: decimal, hexadecimal or a word.
pub fn prefix<F: Float>(text: &[u8]) -> Option<Number<F>> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let unsigned = text.get(sign..)?;
    if let [b'0', b'x' | b'X', digits @ ..] = unsigned
        && let Some(mut number) = hexadecimal::<F>(digits)
    {
        number.bytes += sign + 2;
        if text[0] == b'-' {
            number.value = number.value.negated();
        }
        return Some(number);
    }
    let (value, bytes) = fast_float2::parse_partial::<F, _>(text).ok()?;
    if bytes > BYTES_MAX && memchr::memchr2(b'e', b'E', &text[..bytes]).is_some() {
        return None;
    }
    let is_word = unsigned[0].is_ascii_alphabetic();
    let mantissa = || text[..bytes].iter().take_while(|byte| !matches!(byte, b'e' | b'E'));
    let beyond = if value.is_infinity() && !is_word {
        Some(Beyond::Overflow)
    } else if value == F::ZERO && mantissa().any(|byte| matches!(byte, b'1'..=b'9')) {
        Some(Beyond::Underflow)
    } else {
        None
    };
    Some(Number { value, bytes, beyond })
}

/// A hexadecimal float after its `0x`: digits, perhaps a point among them, perhaps `p` and a power of two.
fn hexadecimal<F: Float>(text: &[u8]) -> Option<Number<F>> {
    let (mut mantissa, mut exponent, mut at) = (0u64, 0i64, 0);
    let (mut lost, mut digits, mut point) = (false, false, false);
    while let Some(byte) = text.get(at) {
        match char::from(*byte).to_digit(16) {
            Some(digit) => {
                digits = true;
                if mantissa >> 60 == 0 {
                    mantissa = mantissa << 4 | u64::from(digit);
                    exponent -= if point { 4 } else { 0 };
                } else {
                    lost |= digit != 0;
                    exponent += if point { 0 } else { 4 };
                }
            }
            None if *byte == b'.' && !point => point = true,
            None => break,
        }
        at += 1;
    }
    if !digits || at > BYTES_MAX {
        return None;
    }
    if let Some((power, bytes)) = power_of_two(&text[at..]) {
        exponent = exponent.saturating_add(power);
        at += bytes;
    }
    let value = assembled::<F>(mantissa, lost, exponent)?;
    let beyond = value.is_infinity().then_some(Beyond::Overflow);
    Some(Number { value, bytes: at, beyond })
}

/// `p`, perhaps a sign, and digits.
fn power_of_two(text: &[u8]) -> Option<(i64, usize)> {
    let [b'p' | b'P', rest @ ..] = text else { return None };
    let sign = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
    let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let add = |power: i64, byte: &u8| power.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
    // Half the range, so that adding to it can't overflow.
    let power = rest[sign..sign + digits].iter().fold(0, add).min(i64::MAX / 2);
    (digits > 0).then(|| (if rest[0] == b'-' { -power } else { power }, 1 + sign + digits))
}

/// `mantissa` times a power of two, and a little more if digits were `lost`, rounded to the nearest.
///
/// Nothing if it is below the normal numbers and would have to be rounded: there glibc (2.36) takes
/// `0x1.000001p-150` to zero, though it is nearer to the smallest `f32`, and what a server makes of such a text
/// depends on its C library.
fn assembled<F: Float>(mantissa: u64, lost: bool, exponent: i64) -> Option<F> {
    if mantissa == 0 {
        return Some(F::ZERO);
    }
    let zeros = mantissa.leading_zeros();
    let mantissa = mantissa << zeros;
    let exponent = exponent.saturating_add(63 - i64::from(zeros));
    let infinity = F::from_low_bits(((F::EXPONENT_MAX - F::EXPONENT_MIN + 2) as u64) << (F::PRECISION - 1));
    if exponent > F::EXPONENT_MAX {
        return Some(infinity);
    }
    let below_normal = F::EXPONENT_MIN.saturating_sub(exponent).max(0);
    let kept_bits = F::PRECISION - below_normal;
    if kept_bits < 1 {
        return None;
    }
    let kept = mantissa >> (64 - kept_bits);
    let rest = mantissa << kept_bits;
    if below_normal > 0 && (rest != 0 || lost) {
        return None;
    }
    const HALF: u64 = 1 << 63;
    let up = rest > HALF || rest == HALF && (lost || kept & 1 == 1);
    let kept = kept + u64::from(up);
    // A carry out of the significand goes into the exponent, which is then the right one.
    let biased = if below_normal > 0 { 0 } else { (exponent - F::EXPONENT_MIN) as u64 };
    Some(F::from_low_bits((biased << (F::PRECISION - 1)) + kept))
}

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

/// The `f32` at `at`, and where its text ends, if it is one of the usual texts whose rounding is certain;
/// anything else, and what stands in the last bytes of the text, is for [`prefix`].
///
/// The digits, as an integer, times a power of ten in `f64` are off by at most 3 units in the last place: the
/// integer, the power and the product are off by 2^-53 of themselves each, and a unit is no less than that.
/// Digits beyond [`MANTISSA_ENOUGH`], which are left out, are less than 10^-13 of the whole: 901 units. Rounded
/// to `f32` that is the exact value's rounding, unless the middle of two neighbours lies within the error.
#[inline]
pub fn quick(text: &[u8], mut at: usize) -> Option<(f32, usize)> {
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
    // Bits that rounding takes off, and the distance from the middle in which nothing is certain.
    const TAKEN_OFF: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    const UNCERTAIN: u64 = 1024;
    let uncertain = (wide.to_bits() & TAKEN_OFF).wrapping_sub(MIDDLE - UNCERTAIN) <= 2 * UNCERTAIN;
    let normal = (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&wide) || mantissa == 0;
    if uncertain || !normal {
        return None;
    }
    let sign = u32::from(negative) << 31;
    Some((f32::from_bits((wide as f32).to_bits() | sign), at))
}

/// An integer of the first digits that needs no more of them.
const MANTISSA_ENOUGH: i64 = 10_000_000_000_000;

/// Where the digits end that go on at `at`.
#[inline]
fn digits_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let bytes = u64::from_le_bytes(*text.get(at..)?.first_chunk()?);
        let count = no_digits(bytes ^ (EACH * 0x30)).trailing_zeros() as usize / 8;
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
    let (low, high) = (all as u64 ^ (EACH * 0x30), (all >> 64) as u64 ^ (EACH * 0x30));
    let (others_low, others_high) = (no_digits(low), no_digits(high));
    let ones = if others_low == 0 { 64 + others_high.trailing_zeros() } else { others_low.trailing_zeros() };
    let count = ones / 8;
    // What is no digit goes, and zeros come before the digits.
    let digits = (u128::from(high) << 64 | u128::from(low)).unbounded_shl(128 - 8 * count);
    (value_of(digits as u64) * 100_000_000 + value_of((digits >> 64) as u64), count as usize)
}

/// A one for each byte of eight.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each byte, up to the first one that is set, says whether it is above 9.
#[inline]
fn no_digits(bytes: u64) -> u64 {
    // The sum carries into a byte's highest bit, or it is set already. A carry out of a byte that is above 9
    // goes to later ones, which no longer count.
    (bytes.wrapping_add(EACH * 0x76) | bytes) & (EACH * 0x80)
}

/// The number that eight digits make, the first of them in the lowest byte.
#[inline]
fn value_of(digits: u64) -> i64 {
    // Pairs, then fours, then all eight.
    let pairs = (digits * 10).wrapping_add(digits >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    ((fours * 10_000).wrapping_add(fours >> 32) & 0xffff_ffff) as i64
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
    use super::*;

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
        let quick = |text: &str| quick(format!("{text},1234567890123456").as_bytes(), 0);
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

    #[test]
    fn hexadecimal_floats_round_as_decimal_ones_do() {
        let read = |text: &str| prefix::<f32>(text.as_bytes()).map(|number| (number.value, number.bytes));
        for (text, expected) in [
            ("0x1p0", (1.0, 5)),
            ("-0X.8P1", (-1.0, 7)),
            ("0x1.fffffep127", (f32::MAX, 14)),
            ("0x1.ffffffp127", (f32::INFINITY, 14)),
            ("0x1.000001", (1.0, 10)),
            ("0x1.0000010000000000000001", (1.000_000_1, 26)),
            ("0x1.000003", (1.000_000_2, 10)),
            ("0x1p-149", (f32::from_bits(1), 8)),
            ("0x1.fffffcp-127", (f32::from_bits(0x7f_ffff), 15)),
            ("0x0p-99999999999999999999", (0.0, 25)),
            ("0x", (0.0, 1)),
            ("0x1p+", (1.0, 3)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        let beyond = |text: &str| prefix::<f64>(text.as_bytes()).and_then(|number| number.beyond);
        assert_eq!(beyond("0x1p1024"), Some(Beyond::Overflow));
        for text in ["0x1p-150", "0x1.8p-150", "0x1.fffffffp-127", "-0x1p-99999999999999999999"] {
            assert_eq!(read(text), Some((0.0, 1 + usize::from(text.starts_with('-')))), "{text}");
        }
        assert_eq!((beyond("0x0p-9999"), beyond("inf"), beyond("0e-9999")), (None, None, None));
        assert_eq!(beyond("1e-400"), Some(Beyond::Underflow));
    }
}
