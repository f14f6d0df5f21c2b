//! Values in text, as PostgreSQL's input functions read them. What is accepted here is what the server makes of
//! the same text, bit for bit; some of what the server accepts is refused (docs/reference.md).

pub mod array;
pub mod bytes;
pub mod float;
pub mod integer;
pub mod numeric;
mod quick;
pub mod times;
pub mod vector;

/// What the bytes of a text column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextForm {
    /// Bytes that nobody calls text.
    Bytes,
    /// Text of a source with types of its own (Parquet), and values of `--set`.
    Values,
    /// Fields of CSV, in PostgreSQL's input syntax.
    Input,
    /// Values of JSON: strings, numbers and booleans as their text, arrays and objects as JSON.
    Json,
}

impl TextForm {
    /// Whether the source calls the bytes text.
    pub fn is_text(self) -> bool {
        self != Self::Bytes
    }

    /// Whether values are written for PostgreSQL's input functions.
    pub fn is_input(self) -> bool {
        matches!(self, Self::Input | Self::Json)
    }
}

/// What C's `isspace` and the server's parsers of arrays and vectors skip.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Without such blanks around it.
pub fn trim(text: &[u8]) -> &[u8] {
    let Some(first) = text.iter().position(|byte| !is_space(*byte)) else {
        return &[];
    };
    let last = text.iter().rposition(|byte| !is_space(*byte)).unwrap_or(first);
    &text[first..=last]
}
