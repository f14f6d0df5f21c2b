//! Embeddings in text: `[1, 2]` as pgvector and JSON write them, `{1,2}` as PostgreSQL writes arrays, `1;2`.

use super::float::{self, Beyond, Number};
use super::quick::quick;
use super::{array, is_space, trim};
use crate::batch::reject::{Reason, excerpt};

/// Appends the embedding in text. Elements are what `vector_in` takes; NaN and infinity are left to the check
/// of elements, and so is an embedding without elements to the check of dimensions.
pub fn read_text(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), Reason> {
    let text = trim(bytes);
    match text.first() {
        Some(b'[') => read_elements(text, 1, b',', Some(b']'), out),
        Some(b'{') if memchr::memchr2(b'"', b'\\', text).is_some() => read_quoted(text, out),
        Some(b'{') => read_elements(text, 1, b',', Some(b'}'), out),
        _ if memchr::memchr(b';', text).is_some() => read_elements(text, 0, b';', None, out),
        _ => Err(Reason::EmbeddingText("it is neither [1,2] nor {1,2} nor 1;2".into())),
    }
}

/// Reads from `at` to the closing byte, or to the end of a text that has none.
fn read_elements(
    text: &[u8],
    mut at: usize,
    separator: u8,
    close: Option<u8>,
    out: &mut Vec<f32>,
) -> Result<(), Reason> {
    let start = out.len();
    if close.is_some() && text.get(skip_spaces(text, at)).copied() == close {
        return match skip_spaces(text, at) + 1 == text.len() {
            true => Ok(()),
            false => Err(Reason::EmbeddingText("there is more after its end".into())),
        };
    }
    // Many lists have a blank after each comma. Decided once: where the next element begins is what every
    // element waits for.
    let first = memchr::memchr(separator, &text[at..]).map_or(text.len(), |first| at + first);
    let blank = usize::from(text.get(first + 1) == Some(&b' '));
    loop {
        if let Some((value, end)) = quick(text, at, separator)
            && (blank == 0 || text.get(end + 1) == Some(&b' '))
        {
            out.push(value);
            at = end + 1 + blank;
            continue;
        }
        at = skip_spaces(text, at);
        let item = || text[at..].split(|byte| *byte == separator || Some(*byte) == close).next();
        let number = number(&text[at..], item().unwrap_or_default(), out.len() - start)?;
        out.push(number.value);
        let end = skip_spaces(text, at + number.bytes);
        match text.get(end) {
            Some(byte) if *byte == separator => at = end + 1,
            None if close.is_none() => return Ok(()),
            Some(byte) if Some(*byte) == close => match end + 1 == text.len() {
                true => return Ok(()),
                false => return Err(Reason::EmbeddingText("there is more after its end".into())),
            },
            None => return Err(Reason::EmbeddingText("its closing bracket is missing".into())),
            _ => return Err(unreadable(item().unwrap_or_default(), out.len() - start - 1)),
        }
    }
}

/// An array with quotes or backslashes in it.
fn read_quoted(text: &[u8], out: &mut Vec<f32>) -> Result<(), Reason> {
    let items = array::literal(text).map_err(Reason::EmbeddingText)?;
    for (index, item) in items.iter().enumerate() {
        let item = trim(item.as_deref().ok_or(Reason::EmbeddingElementNull)?);
        let number = number(item, item, index)?;
        if number.bytes < item.len() {
            return Err(unreadable(item, index));
        }
        out.push(number.value);
    }
    Ok(())
}

/// The number that `text` begins with; `item` is what to show of it.
fn number(text: &[u8], item: &[u8], index: usize) -> Result<Number<f32>, Reason> {
    match float::prefix::<f32>(text) {
        Some(Number { beyond: Some(Beyond::Overflow), .. }) => {
            Err(Reason::ElementRange("the range of a 4-byte float"))
        }
        Some(number) => Ok(number),
        None if trim(item).eq_ignore_ascii_case(b"null") => Err(Reason::EmbeddingElementNull),
        None => Err(unreadable(item, index)),
    }
}

fn unreadable(item: &[u8], index: usize) -> Reason {
    Reason::EmbeddingText(format!("element {} is \"{}\"", index + 1, excerpt(trim(item))))
}

fn skip_spaces(text: &[u8], at: usize) -> usize {
    at + text.get(at..).unwrap_or_default().iter().take_while(|byte| is_space(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<f32>, Reason> {
        let mut out = Vec::new();
        read_text(text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn every_form_gives_the_elements() {
        let expected = Ok(vec![1.0, -25.0, 3.5]);
        for text in [
            " [1, -2.5e1 ,3.5]",
            "[1,-25,3.5]",
            "[\t1\u{b},\r-25.000000000000,\u{c}3.5 ]\n",
            "{1,-25,3.5}",
            "{ \"1\" , \"-2.5e1\", 3.5 }",
            "{1,\\-25,3.5}",
            "1;-25;3.5",
            " 1.0 ; -25 ;35e-1 ",
            "[+1,-0x19,.35e1]",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(read("[ ]"), Ok(vec![]));
        assert_eq!(read("{}"), Ok(vec![]));
        assert_eq!(read("[1e-46]"), Ok(vec![0.0]));
        assert!(read("[nan,-inf]").is_ok_and(|read| read[0].is_nan() && read[1] == f32::NEG_INFINITY));
    }

    #[test]
    fn broken_texts_are_refused_for_what_they_are() {
        for text in [
            "",
            "x",
            "1",
            "1,2",
            "1 2",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1,,2]",
            "[1;2]",
            "[1]x",
            "[]]",
            "[] x",
            "{1,2]",
            "[1,2}",
            "{{1},{2}}",
            "{1,\"\"}",
            "{1,}",
            "{\"1\"",
            "1;",
            ";1",
            "1;2;",
            "1;2]",
            "1;x",
            "[1 2]",
            "[1e]",
            "[0x]",
            "[1_0]",
            "[--1]",
            "[1\u{a0}]",
            "[\u{b2}]",
            "[\"1\"]",
            "[1][2]",
            "[1\0]",
            "[nul]",
        ] {
            assert!(matches!(read(text), Err(Reason::EmbeddingText(_))), "{text}: {:?}", read(text));
        }
        for text in ["[1, null ]", "{1,NULL}", "{\"1\",null}", "1;null", "[1,NULL"] {
            assert_eq!(read(text), Err(Reason::EmbeddingElementNull), "{text}");
        }
        assert!(matches!(read("[1e39]"), Err(Reason::ElementRange(_))));
        let shown = read("[1.5,2.5, 3,5 x,6]").map_err(|reason| reason.to_string());
        assert_eq!(shown, Err("the embedding's text can't be read: element 4 is \"5 x\"".into()));
    }
}
