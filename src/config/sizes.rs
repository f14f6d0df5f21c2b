//! Sizes (`64MiB`), counts (`10M`) and times (`5m`) as people write them.

use std::time::Duration;

use crate::error::{Error, Result};

/// Reads a size in bytes: a number with an optional unit, binary (`KiB MiB GiB TiB`) or decimal (`kB MB GB TB`).
pub fn parse_size(text: &str) -> Result<usize> {
    let refuse = || Error::refused(format!("\"{text}\" is no size")).hint("write sizes like 512MiB or 2GiB");
    let (number, unit) = split(text);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1048576.0,
        "gib" | "g" => 1073741824.0,
        "tib" | "t" => 1099511627776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(refuse()),
    };
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let bytes = number * factor;
    if number.is_sign_negative() || !bytes.is_finite() || bytes > (1u64 << 62) as f64 {
        return Err(refuse());
    }
    Ok(bytes as usize)
}

/// Reads a count: a whole number, optionally in thousands (`k`), millions (`M`) or billions (`B`, `G`).
/// Underscores may group digits.
pub fn parse_count(text: &str) -> Result<u64> {
    let refuse =
        || Error::refused(format!("\"{text}\" is no count")).hint("write counts like 5000, 250k or 10M");
    let plain = text.replace('_', "");
    let (number, unit) = split(&plain);
    let factor: u64 = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "b" | "B" | "g" | "G" => 1_000_000_000,
        _ => return Err(refuse()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(refuse);
    }
    // 1.5M is a count, 1.5 is none.
    let scaled = number.parse::<f64>().map_err(|_| refuse())? * factor as f64;
    let whole = scaled.is_finite() && scaled >= 0.0 && scaled.fract() == 0.0 && scaled < (1u64 << 53) as f64;
    if whole { Ok(scaled as u64) } else { Err(refuse()) }
}

/// Reads a time: whole numbers with units, as in `90s`, `5m` or `1h 30m`; `0` needs none.
pub fn parse_time(text: &str) -> Result<Duration> {
    humantime::parse_duration(text).map_err(|error| {
        Error::refused(format!("\"{text}\" is no length of time"))
            .because(error)
            .hint("write times like 30s, 5m or 1h")
    })
}

/// A size for people: three digits and a binary unit.
pub fn show_size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|character: char| !matches!(character, '0'..='9' | '.' | '-')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_or_decimal() {
        assert_eq!(parse_size("512MiB").ok(), Some(512 << 20));
        assert_eq!(parse_size("1.5 GiB").ok(), Some(3 << 29));
        assert_eq!(parse_size("2MB").ok(), Some(2_000_000));
        assert_eq!(parse_size("4096").ok(), Some(4096));
        for bad in ["", "MiB", "-1MiB", "5 elephants", "1e999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_whole() {
        assert_eq!(parse_count("10M").ok(), Some(10_000_000));
        assert_eq!(parse_count("1.5M").ok(), Some(1_500_000));
        assert_eq!(parse_count("1_000").ok(), Some(1000));
        for bad in ["", "1.5", "-3", "M", "99999999999999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }
}
