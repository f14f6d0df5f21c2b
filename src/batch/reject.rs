//! Rejected rows: why a row can't be in the table, in words and in a form that can be counted.

use std::borrow::Cow;
use std::fmt;

use crate::source::text::Position;

/// Longest excerpt of a value that is kept, in bytes.
pub const EXCERPT_BYTES_MAX: usize = 200;

/// Why a row is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The embedding is null.
    EmbeddingNull,
    /// The embedding has null elements.
    EmbeddingElementNull,
    /// The embedding has another dimension than the column.
    Dimension {
        /// Dimension of the row's embedding.
        found: usize,
        /// Dimension of the column.
        expected: usize,
    },
    /// The raw bytes of an embedding are no whole number of `f32`.
    EmbeddingBytes(usize),
    /// The text of an embedding can't be read.
    EmbeddingText(String),
    /// An element is NaN.
    NotANumber,
    /// An element is infinite.
    Infinite,
    /// An element is finite in the source and beyond the element type of the target.
    ElementRange(&'static str),
    /// Null in a column that must not be null.
    Null,
    /// An integer that the target's type can't hold.
    IntegerRange(String),
    /// A NUL byte in text.
    NulByte,
    /// Bytes that are no UTF-8.
    InvalidUtf8,
    /// JSON that the server would refuse.
    Json(String),
    /// A value that the target's type refuses, with the type and why.
    Value(String),
    /// A record that can't be taken apart.
    Record(String),
    /// A row that only the server refuses, with what it says: a constraint, a trigger.
    Server(String),
}

impl Reason {
    /// A short word for counting.
    pub fn class(&self) -> &'static str {
        match self {
            Self::EmbeddingNull => "embedding_null",
            Self::EmbeddingElementNull => "embedding_element_null",
            Self::Dimension { .. } => "dimension",
            Self::EmbeddingBytes(_) | Self::EmbeddingText(_) => "embedding_unreadable",
            Self::NotANumber => "nan",
            Self::Infinite => "infinite",
            Self::ElementRange(_) => "element_out_of_range",
            Self::Null => "null",
            Self::IntegerRange(_) => "integer_out_of_range",
            Self::NulByte => "nul_byte",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::Json(_) => "json",
            Self::Value(_) => "value",
            Self::Record(_) => "malformed_record",
            Self::Server(_) => "refused_by_server",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmbeddingNull => f.write_str("the embedding is null"),
            Self::EmbeddingElementNull => f.write_str("the embedding has a null element"),
            Self::Dimension { found, expected } => write!(f, "{found} dimensions, expected {expected}"),
            Self::EmbeddingBytes(bytes) => write!(f, "{bytes} bytes are no whole number of 4-byte floats"),
            Self::EmbeddingText(why) => write!(f, "the embedding's text can't be read: {why}"),
            Self::NotANumber => f.write_str("the embedding has a NaN element"),
            Self::Infinite => f.write_str("the embedding has an infinite element"),
            Self::ElementRange(element) => write!(f, "an element of the embedding is beyond {element}"),
            Self::Null => f.write_str("null in a column that must not be null"),
            Self::IntegerRange(target) => write!(f, "integer out of range for {target}"),
            Self::NulByte => f.write_str("text holds a NUL byte, which PostgreSQL can't store"),
            Self::InvalidUtf8 => f.write_str("text is not valid UTF-8"),
            Self::Json(why) => write!(f, "jsonb would refuse it: {why}"),
            Self::Value(why) | Self::Server(why) => f.write_str(why),
            Self::Record(why) => write!(f, "malformed record: {why}"),
        }
    }
}

/// One rejected row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Row within the unit, counted from 0.
    pub row: u64,
    /// Where the row begins, in sources of text.
    pub position: Option<Position>,
    /// Target column; none if the record as a whole is malformed.
    pub column: String,
    /// Why.
    pub reason: Reason,
    /// The value's beginning, at most [`EXCERPT_BYTES_MAX`] bytes.
    pub excerpt: String,
}

impl Reject {
    /// Where and why, for a line of text; the unit is a row group where the source has no lines.
    pub fn told(&self, unit: u32) -> String {
        let place = match self.position {
            Some(Position { byte, line, record }) => format!("line {line} (record {record}, byte {byte})"),
            None => format!("row group {unit}, row {}", self.row),
        };
        let column = match self.column.as_str() {
            "" => String::new(),
            column => format!(", column \"{column}\""),
        };
        let excerpt = if self.excerpt.is_empty() { String::new() } else { format!(" ({})", self.excerpt) };
        format!("{place}{column}: {}{excerpt}", self.reason)
    }
}

/// The beginning of a value, cut at a character boundary, with control characters made visible.
pub fn excerpt(value: &[u8]) -> String {
    let cut = &value[..value.len().min(EXCERPT_BYTES_MAX)];
    let text: Cow<'_, str> = String::from_utf8_lossy(cut);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let shown = match character {
            // Nothing stored as text may hold a NUL.
            '\0' => '\u{2400}',
            other if other.is_control() => ' ',
            other => other,
        };
        if out.len() + shown.len_utf8() > EXCERPT_BYTES_MAX {
            break;
        }
        out.push(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_bounded_text_without_nul() {
        assert_eq!(excerpt(b"a\0b\nc"), "a\u{2400}b c");
        assert!(excerpt(&[0xff; 1000]).len() <= EXCERPT_BYTES_MAX);
        assert!(excerpt("ü".repeat(300).as_bytes()).len() <= EXCERPT_BYTES_MAX);
    }
}
