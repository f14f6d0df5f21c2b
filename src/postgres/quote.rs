//! Names and literals in SQL text: the one place where either is quoted.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The server cuts longer names off silently (`NAMEDATALEN` - 1), and what was cut is found in no catalog.
const NAME_BYTES_MAX: usize = 63;

/// A table's name as the user wrote it: `[SCHEMA.]NAME` by SQL's rules.
///
/// Unquoted parts are folded to lower case, `"Quoted Parts"` keep theirs (a doubled quote stands for one).
/// Unlike SQL, unquoted parts may hold other characters too (`my-table`), since they're quoted on the way out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    /// The schema, or none: then the session's `search_path` decides.
    pub schema: Option<String>,
    /// The name without its schema.
    pub name: String,
}

impl QualifiedName {
    /// A name taken as it is, without reading quotes or folding case.
    pub fn new(schema: Option<&str>, name: &str) -> Self {
        Self { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    /// The name as SQL text, every part quoted.
    pub fn sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&self.name)),
            None => quote_ident(&self.name),
        }
    }
}

impl FromStr for QualifiedName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::refused(format!("table name `{text}`: {why}")).hint(
                "write NAME or SCHEMA.NAME; put double quotes around a part with capitals, dots or spaces",
            )
        };
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = next_part(rest).map_err(refuse)?;
            parts.push(part);
            match after {
                Some(after) => rest = after,
                None => break,
            }
        }
        for part in &parts {
            if part.is_empty() {
                return Err(refuse("a part is empty"));
            }
            if part.contains('\0') {
                return Err(refuse("holds a NUL byte"));
            }
            if part.len() > NAME_BYTES_MAX {
                return Err(refuse(&format!(
                    "a part has {} bytes, the server allows {NAME_BYTES_MAX}",
                    part.len()
                )));
            }
        }
        match <[String; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok(Self { schema: Some(schema), name }),
            Err(mut parts) if parts.len() == 1 => Ok(Self { schema: None, name: parts.remove(0) }),
            Err(_) => Err(refuse("has more than two parts")),
        }
    }
}

/// As a user would write it: quotes only where they're needed.
impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", shown(schema))?;
        }
        f.write_str(&shown(&self.name))
    }
}

/// `name` as a quoted SQL identifier.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a quoted SQL string; safe whatever `standard_conforming_strings` says.
///
/// For statements that take no parameters (`SET`, DDL); anything else sends values as parameters.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// The first part of a dotted name, and the text behind its dot if there is one.
fn next_part(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let text = text.trim_start();
    let Some(mut rest) = text.strip_prefix('"') else {
        let (part, after) = match text.split_once('.') {
            Some((part, after)) => (part, Some(after)),
            None => (text, None),
        };
        if part.contains('"') {
            return Err("a double quote inside an unquoted part");
        }
        // As the server folds in a UTF-8 database: ASCII letters only.
        return Ok((part.trim_end().to_ascii_lowercase(), after));
    };
    let mut part = String::new();
    loop {
        let end = rest.find('"').ok_or("a double quote is not closed")?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                part.push('"');
                rest = after;
            }
            None => break,
        }
    }
    match rest.trim_start() {
        "" => Ok((part, None)),
        rest => rest
            .strip_prefix('.')
            .map(|after| (part, Some(after)))
            .ok_or("text behind a closing double quote"),
    }
}

fn shown(part: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || !c.is_ascii();
    if part.chars().all(plain) { part.to_owned() } else { quote_ident(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> QualifiedName {
        text.parse().unwrap()
    }

    #[test]
    fn unquoted_parts_fold_and_quoted_parts_keep_their_case() {
        assert_eq!(parse("Chunks"), QualifiedName::new(None, "chunks"));
        assert_eq!(parse("App.Chunks"), QualifiedName::new(Some("app"), "chunks"));
        assert_eq!(parse("App.\"My Table\""), QualifiedName::new(Some("app"), "My Table"));
        assert_eq!(parse("\"a.b\".\"say \"\"hi\"\"\""), QualifiedName::new(Some("a.b"), "say \"hi\""));
        assert_eq!(parse(" my-table "), QualifiedName::new(None, "my-table"));
        assert_eq!(parse("ÄRGER"), QualifiedName::new(None, "Ärger"));
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for text in ["", "a.", ".a", "a.b.c", "\"a", "a\"b", "\"a\"b", "\"\"", "a..b"] {
            let error = text.parse::<QualifiedName>().unwrap_err();
            assert!(error.to_string().starts_with("table name `"), "{text}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!("x".repeat(64).parse::<QualifiedName>().is_err());
    }

    #[test]
    fn what_is_displayed_reads_back_the_same() {
        for name in [
            QualifiedName::new(None, "chunks"),
            QualifiedName::new(Some("My Schema"), "a\"b.c"),
            QualifiedName::new(Some("app"), "Chunks"),
        ] {
            assert_eq!(parse(&name.to_string()), name);
            assert_eq!(parse(&name.sql()), name);
        }
        assert_eq!(parse("app.chunks").to_string(), "app.chunks");
        assert_eq!(parse("app.chunks").sql(), "\"app\".\"chunks\"");
    }

    #[test]
    fn quotes_and_backslashes_cannot_leave_their_literal() {
        assert_eq!(quote_ident("a\"; drop table b"), "\"a\"\"; drop table b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }
}
