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

#[cfg(test)]
mod tests {
    use super::*;

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
