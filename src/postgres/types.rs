//! Target types that vecload writes, with what the encoder must know of each.

use std::fmt;
use std::sync::Arc;

/// The type of a target column, domains resolved to their base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`, with precision and scale if the column sets them
    Numeric(Option<(u16, i16)>),
    /// `text`
    Text,
    /// `varchar`, with the most characters if the column limits them
    Varchar(Option<usize>),
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `bytea`
    Bytea,
    /// `text[]`
    TextArray,
    /// `bigint[]`
    Int8Array,
    /// pgvector's `vector`, with its dimension if the column sets one
    Vector(Option<usize>),
    /// pgvector's `halfvec`, with its dimension if the column sets one
    Halfvec(Option<usize>),
    /// An enum and its labels; sent as text.
    Enum(Arc<[String]>),
}

impl TargetType {
    /// The dimension of a vector type, if this is one: `Some(None)` where the column leaves it open.
    pub fn vector_dim(&self) -> Option<Option<usize>> {
        match self {
            Self::Vector(dim) | Self::Halfvec(dim) => Some(*dim),
            _ => None,
        }
    }

    /// Whether a Citus-compatible hash of the value is a hash of an integer.
    pub fn is_integer(&self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// Whether an empty CSV field or an absent value may stand for the empty string.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Varchar(_))
    }
}

impl fmt::Display for TargetType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("boolean"),
            Self::Int2 => f.write_str("smallint"),
            Self::Int4 => f.write_str("integer"),
            Self::Int8 => f.write_str("bigint"),
            Self::Float4 => f.write_str("real"),
            Self::Float8 => f.write_str("double precision"),
            Self::Numeric(None) => f.write_str("numeric"),
            Self::Numeric(Some((precision, scale))) => write!(f, "numeric({precision},{scale})"),
            Self::Text => f.write_str("text"),
            Self::Varchar(None) => f.write_str("varchar"),
            Self::Varchar(Some(limit)) => write!(f, "varchar({limit})"),
            Self::Uuid => f.write_str("uuid"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Timestamptz => f.write_str("timestamptz"),
            Self::Json => f.write_str("json"),
            Self::Jsonb => f.write_str("jsonb"),
            Self::Bytea => f.write_str("bytea"),
            Self::TextArray => f.write_str("text[]"),
            Self::Int8Array => f.write_str("bigint[]"),
            Self::Vector(Some(dim)) => write!(f, "vector({dim})"),
            Self::Vector(None) => f.write_str("vector"),
            Self::Halfvec(Some(dim)) => write!(f, "halfvec({dim})"),
            Self::Halfvec(None) => f.write_str("halfvec"),
            Self::Enum(labels) => write!(f, "enum ({})", labels.join(", ")),
        }
    }
}
