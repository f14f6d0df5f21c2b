//! One-dimensional arrays in text: PostgreSQL's literals, and JSON arrays.

use super::{is_space, trim};

/// Why an array of arrays is refused.
const NESTED: &str = "arrays within arrays are not taken";

/// The elements of an array literal such as `{a,"b c",NULL}`, by the rules of `array_in`.
pub fn literal(text: &[u8]) -> Result<Vec<Option<Vec<u8>>>, String> {
    let text = trim(text);
    let inner = match text {
        [b'{', inner @ ..] => inner,
        [b'[', ..] => return Err("an array is written {a,b}, without bounds".into()),
        _ => return Err("an array begins with {".into()),
    };
    let mut elements = Vec::new();
    let mut at = skip_spaces(inner, 0);
    if inner.get(at) == Some(&b'}') {
        return ends(inner, at).map(|()| elements);
    }
    loop {
        at = skip_spaces(inner, at);
        let (element, end) = match inner.get(at) {
            Some(b'"') => quoted(inner, at + 1).map(|(element, end)| (Some(element), end))?,
            Some(b'{') => return Err(NESTED.into()),
            _ => unquoted(inner, at)?,
        };
        elements.push(element);
        at = skip_spaces(inner, end);
        match inner.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => return ends(inner, at).map(|()| elements),
            Some(_) => return Err(format!("element {} is not quoted as a whole", elements.len())),
            None => return Err("the array's closing } is missing".into()),
        }
    }
}

fn ends(inner: &[u8], at: usize) -> Result<(), String> {
    if at + 1 == inner.len() { Ok(()) } else { Err("there is more after the array's closing }".into()) }
}

/// An element between quotes that begins at `at`, and where the rest goes on.
fn quoted(text: &[u8], mut at: usize) -> Result<(Vec<u8>, usize), String> {
    let mut element = Vec::new();
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
            return Err("a quoted element is not closed".into());
        };
        element.extend_from_slice(&rest[..found]);
        at += found + 1;
        if rest[found] == b'"' {
            return Ok((element, at));
        }
        element.push(*text.get(at).ok_or("a backslash ends the array")?);
        at += 1;
    }
}

/// An element without quotes; blanks after it are no part of it unless they are escaped.
fn unquoted(text: &[u8], mut at: usize) -> Result<(Option<Vec<u8>>, usize), String> {
    let (mut element, mut escaped, mut length) = (Vec::new(), false, 0);
    loop {
        match text.get(at) {
            Some(b',' | b'}') => break,
            Some(b'\\') => {
                element.push(*text.get(at + 1).ok_or("a backslash ends the array")?);
                (at, escaped, length) = (at + 2, true, element.len());
            }
            Some(b'"' | b'{') => return Err("a quote or brace within an unquoted element".into()),
            Some(byte) => {
                element.push(*byte);
                at += 1;
                if !is_space(*byte) {
                    length = element.len();
                }
            }
            None => return Err("the array's closing } is missing".into()),
        }
    }
    element.truncate(length);
    if element.is_empty() {
        return Err("an element is empty; an empty text is written \"\"".into());
    }
    let null = !escaped && element.eq_ignore_ascii_case(b"null");
    Ok(((!null).then_some(element), at))
}

/// The elements of a JSON array: strings by what they say, numbers and booleans as they are written.
pub fn json(text: &[u8]) -> Result<Vec<Option<Vec<u8>>>, String> {
    serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(text).map_err(|error| error.to_string())?;
    // It is a JSON array: from here on the first byte of an element says what it is.
    let mut elements = Vec::new();
    let mut at = skip_spaces(text, 0) + 1;
    loop {
        at = skip_spaces(text, at);
        let end = match text.get(at) {
            Some(b'"') => {
                let end = string_end(text, at + 1);
                let string: String =
                    serde_json::from_slice(&text[at..end]).map_err(|error| error.to_string())?;
                elements.push(Some(string.into_bytes()));
                end
            }
            Some(b'[' | b'{') => return Err("arrays and objects within an array are not taken".into()),
            Some(b']') | None => return Ok(elements),
            Some(b',') => at + 1,
            Some(_) => {
                let ends = |byte: &u8| is_space(*byte) || matches!(byte, b',' | b']');
                let end = text[at..].iter().position(ends).map_or(text.len(), |length| at + length);
                elements.push((&text[at..end] != b"null").then(|| text[at..end].to_vec()));
                end
            }
        };
        at = end;
    }
}

/// Behind the quote that closes a JSON string.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(found) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn skip_spaces(text: &[u8], at: usize) -> usize {
    at + text.get(at..).unwrap_or_default().iter().take_while(|byte| is_space(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(read: Result<Vec<Option<Vec<u8>>>, String>) -> Option<Vec<Option<String>>> {
        let text = |element: Vec<u8>| String::from_utf8_lossy(&element).into_owned();
        Some(read.ok()?.into_iter().map(|element| element.map(text)).collect())
    }

    fn some(items: &[Option<&str>]) -> Option<Vec<Option<String>>> {
        Some(items.iter().map(|item| item.map(String::from)).collect())
    }

    #[test]
    fn literals_are_read_with_quotes_escapes_and_nulls() {
        let read = |text: &str| elements(literal(text.as_bytes()));
        assert_eq!(read("{}"), some(&[]));
        assert_eq!(read(" { } "), some(&[]));
        assert_eq!(
            read("{a, b c ,\"d,}\\\"\", NULL ,\"NULL\",\\null,x\\ }"),
            some(&[Some("a"), Some("b c"), Some("d,}\""), None, Some("NULL"), Some("null"), Some("x ")])
        );
        assert_eq!(read("{\"\"}"), some(&[Some("")]));
        for text in [
            "",
            "a",
            "{",
            "{a",
            "{a,}",
            "{,a}",
            "{a}b",
            "{{a}}",
            "[1:1]={a}",
            "{a\"b\"}",
            "{\"a\"b}",
            "{\"a",
            "{\\",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn json_arrays_keep_numbers_as_written() {
        let read = |text: &str| elements(json(text.as_bytes()));
        assert_eq!(read(" [ ] "), some(&[]));
        assert_eq!(
            read(r#"["a,]\"\u00e4", 1.10, -1e400, true,null , "null"]"#),
            some(&[Some("a,]\"ä"), Some("1.10"), Some("-1e400"), Some("true"), None, Some("null")])
        );
        for text in ["", "[", "[1,]", "{}", "1", "[[1]]", "[{}]", "[1] 2", "[\"\\ud800\"]"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
