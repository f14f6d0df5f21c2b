//! `bytea` and `uuid` in text.

/// What `byteain` makes of a text: `\x` and pairs of hexadecimal digits with blanks between them, or text with
/// `\\` for a backslash and `\ooo` for a byte.
pub fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match text {
        [b'\\', b'x', pairs @ ..] => hexadecimal(pairs, out),
        _ => escaped(text, out),
    }
}

fn hexadecimal(mut pairs: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    loop {
        pairs = match pairs {
            [] => return Ok(()),
            [b' ' | b'\n' | b'\t' | b'\r', rest @ ..] => rest,
            [high, low, rest @ ..] => {
                out.push(pair(*high, *low).ok_or("after \\x, a byte is two hexadecimal digits")?);
                rest
            }
            [_] => return Err("the number of hexadecimal digits after \\x is odd".into()),
        }
    }
}

fn pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

fn escaped(mut text: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    loop {
        let plain = memchr::memchr(b'\\', text).unwrap_or(text.len());
        out.extend_from_slice(&text[..plain]);
        text = match &text[plain..] {
            [] => return Ok(()),
            [_, b'\\', rest @ ..] => {
                out.push(b'\\');
                rest
            }
            [_, high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', rest @ ..] => {
                out.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest
            }
            _ => return Err("a backslash is written \\\\, and a byte \\ooo or, all of them, \\x…".into()),
        }
    }
}

/// What `uuid_in` makes of a text: 32 hexadecimal digits, a hyphen after any four of them, braces around all.
pub fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut digits = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let [high, low, rest @ ..] = digits else { return None };
        *byte = pair(*high, *low)?;
        digits = match rest {
            [b'-', rest @ ..] if index % 2 == 1 && index < 15 => rest,
            _ => rest,
        };
    }
    digits.is_empty().then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_both_formats() {
        let read = |text: &str| {
            let mut out = Vec::new();
            bytea(text.as_bytes(), &mut out).ok().map(|()| out)
        };
        for (text, expected) in [
            ("", &b""[..]),
            ("\\x", b""),
            ("\\x00fF", b"\0\xff"),
            ("\\x 00\tff\n", b"\0\xff"),
            ("a\\\\b\\000\\377", b"a\\b\0\xff"),
            ("\u{e9} x00", b"\xc3\xa9 x00"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["\\x0", "\\x0 0", "\\xgg", "\\", "\\400", "\\08", "\\n", "a\\x00", "\\X00"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn uuids_are_read_with_any_hyphens() {
        let expected = Some([
            0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b, 0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9, 0xbd, 0x38, 0x0a, 0x11,
        ]);
        for text in [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(uuid(text.as_bytes()), expected, "{text}");
        }
        for text in [
            "",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ] {
            assert_eq!(uuid(text.as_bytes()), None, "{text}");
        }
    }
}
