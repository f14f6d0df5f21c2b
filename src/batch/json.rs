//! JSON for `json` and `jsonb` columns: texts are checked by the server's rules, structures are written.

use serde::de::IgnoredAny;

/// `jsonb` numbers are numerics: so many digits before the point, so many after (the manual, "JSON Types"
/// and "Arbitrary Precision Numbers").
const INTEGER_DIGITS_MAX: i64 = 131_072;
const FRACTION_DIGITS_MAX: i64 = 16_383;

/// Deeper nesting is beyond the server's stack at its default `max_stack_depth`, 2 MB.
const DEPTH_MAX: usize = 10_000;

/// Why the server's `jsonb` input would refuse `text`, or `None` if it would not.
///
/// Syntax is serde_json's; what `jsonb` refuses beyond syntax is looked for in its strings and numbers.
pub fn refusal(text: &[u8]) -> Option<String> {
    if let Err(error) = std::str::from_utf8(text) {
        return Some(format!("invalid UTF-8 at byte {}", error.valid_up_to()));
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
        return Some(error.to_string());
    }
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = text.get(at) {
        at = match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(format!("nested deeper than {DEPTH_MAX} levels"));
                }
                at + 1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            b'"' => match string_end(text, at + 1) {
                Ok(end) => end,
                Err(why) => return Some(why),
            },
            b'-' | b'0'..=b'9' => {
                let end = at + text[at..].iter().take_while(|byte| is_number_byte(**byte)).count();
                if let Some(why) = number_refusal(&text[at..end]) {
                    return Some(why);
                }
                end
            }
            _ => at + 1,
        };
    }
    None
}

/// Position after the closing quote of a string that starts at `at`.
fn string_end(text: &[u8], mut at: usize) -> Result<usize, String> {
    let mut high_surrogate = false;
    loop {
        let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) else {
            return Err("a string is not closed".into());
        };
        let lone = || Err("a lone surrogate in a \\u escape".to_string());
        if high_surrogate && (found > 0 || text[at] == b'"' || text.get(at + 1) != Some(&b'u')) {
            return lone();
        }
        at += found;
        if text[at] == b'"' {
            return Ok(at + 1);
        }
        if text.get(at + 1) != Some(&b'u') {
            at += 2;
            continue;
        }
        // serde_json has seen four hexadecimal digits here.
        let digits = text.get(at + 2..at + 6).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(code) = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()) else {
            return Err("a broken \\u escape".into());
        };
        high_surrogate = match code {
            0 => return Err("\\u0000 can't be stored".into()),
            0xD800..=0xDBFF if !high_surrogate => true,
            0xDC00..=0xDFFF if high_surrogate => false,
            0xD800..=0xDFFF => return lone(),
            _ if high_surrogate => return lone(),
            _ => false,
        };
        at += 6;
    }
}

fn is_number_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

fn number_refusal(number: &[u8]) -> Option<String> {
    // Short numbers without exponent, which is nearly all of them, can't be too long.
    if number.len() < 300 && !number.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        return None;
    }
    let text = std::str::from_utf8(number).ok()?.trim_start_matches('-');
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().unwrap_or(i64::MAX / 2)),
        None => (text, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let significant = integer.trim_start_matches('0').len() as i64;
    let leading = match significant {
        0 => -((fraction.len() - fraction.trim_start_matches('0').len()) as i64),
        digits => digits,
    };
    let zero = integer.bytes().chain(fraction.bytes()).all(|digit| digit == b'0');
    let too_big = !zero && leading.saturating_add(exponent) > INTEGER_DIGITS_MAX;
    let too_fine = (fraction.len() as i64).saturating_sub(exponent) > FRACTION_DIGITS_MAX;
    // The server's parser refuses exponents of half an int32 and beyond, whatever the mantissa.
    let exponent_refused = exponent.abs() >= i64::from(i32::MAX / 2);
    (too_big || too_fine || exponent_refused).then(|| "a number is beyond numeric".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_takes_passes() {
        for text in [
            "{}",
            "null",
            " [1, -2.5e3, \"\\u00e9\\ud83d\\ude00\\\\\\\"\"] ",
            "{\"a\":{\"b\":[true,false,null]}}",
            "1e131071",
            "0e999999",
            "\"\\\\u0000\"",
        ] {
            assert_eq!(refusal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn deep_nesting_passes_as_far_as_the_server_goes() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(refusal(nested(5_000).as_bytes()), None);
        assert!(refusal(nested(20_000).as_bytes()).is_some_and(|why| why.contains("nested")));
    }

    #[test]
    fn what_jsonb_refuses_is_named() {
        for (text, why) in [
            ("{", "EOF"),
            ("", "EOF"),
            ("{'a':1}", "key"),
            ("[1,]", "expected value"),
            ("\"\\u0000\"", "u0000"),
            ("\"\\ud800\"", "surrogate"),
            ("\"\\ud800x\\udc00\"", "surrogate"),
            ("\"\\udc00\"", "surrogate"),
            ("\"\\ud800\\n\"", "surrogate"),
            ("\"\\ud800\\u0041\"", "surrogate"),
            ("1e131073", "numeric"),
            ("1e-16384", "numeric"),
            ("NaN", "expected"),
            ("{\"a\":1} x", "trailing"),
        ] {
            let found = refusal(text.as_bytes()).unwrap_or_default();
            assert!(found.contains(why), "{text}: {found}");
        }
        assert!(refusal(b"\"\xff\"").is_some_and(|why| why.contains("UTF-8")));
    }
}
