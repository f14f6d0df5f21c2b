//! JSON Lines: the values of an object, each as the text that it stands for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Calls `each` with the keys of an object; a line that is none gives those before its fault.
pub(super) fn each_key(line: &[u8], each: impl FnMut(&str)) {
    let mut each = each;
    // What is wrong with the line is told when it is read.
    if let Err(fault) = visit(line, |key, _| {
        each(key);
        Ok(())
    }) {
        tracing::debug!("a line of JSON: {fault}");
    }
}

/// The value of one key, as text.
pub(super) fn value_of(line: &[u8], wanted: &str) -> Option<Vec<u8>> {
    let mut found = None;
    visit(line, |key, value| {
        if key == wanted {
            found = text_of(value)?.map(|text| text.as_bytes().to_vec());
        }
        Ok(())
    })
    .ok()?;
    found
}

/// Calls `each` with every key of the object in a line and its value; says what is wrong with the line.
pub(super) fn visit<'a>(
    line: &'a [u8],
    each: impl FnMut(&str, &'a RawValue) -> Result<(), String>,
) -> Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let visited = deserializer.deserialize_map(Members(each)).and_then(|()| deserializer.end());
    visited.map_err(|error| {
        // The line's number within itself says nothing, and only a syntax error knows its place.
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&place).unwrap_or(&text);
        match error.is_data() {
            true if text.starts_with("invalid type") => "it is no JSON object".into(),
            true => text.into(),
            false => format!("{text} (byte {} of the line)", error.column()),
        }
    })
}

/// A value as text: a string's own, anything else as it is written; `None` for null.
pub(super) fn text_of(value: &RawValue) -> Result<Option<Cow<'_, str>>, String> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') if !text.contains('\\') => Ok(Some(Cow::Borrowed(&text[1..text.len() - 1]))),
        Some(b'"') => serde_json::from_str::<String>(text)
            .map(|text| Some(Cow::Owned(text)))
            // What is a string by JSON's syntax and yet no text has half of a surrogate pair.
            .map_err(|_| "a string with a lone surrogate, which is no text".to_string()),
        _ => Ok(Some(Cow::Borrowed(text))),
    }
}

struct Members<F>(F);

impl<'de, F: FnMut(&str, &'de RawValue) -> Result<(), String>> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut found = Ok(());
        while let Some(key) = map.next_key_seed(Key)? {
            match found {
                Ok(()) => found = (self.0)(&key, map.next_value()?),
                Err(_) => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        found.map_err(serde::de::Error::custom)
    }
}

/// A key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.into()))
    }
}
