//! Source columns to target columns: bound once per source by types, then run once per batch and column.
//!
//! Arrow's casts do the work that they do by the target's rules; a value that turns null in a safe cast is
//! one that the target type refuses, and becomes a reject.

mod input;
mod nested;
mod numbers;
mod structures;
mod texts;
mod times;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, FixedSizeBinaryArray, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::cells::Cells;
use super::embedding;
use super::reject::{Reason, excerpt};
use super::text::TextForm;
use crate::error::{Error, Result};
use crate::postgres::types::TargetType;

pub use self::nested::with_texts;

/// Name of Parquet's VARIANT among Arrow's extension types.
pub const VARIANT: &str = "arrow.parquet.variant";

/// A null field: the length -1.
const NULL_FIELD: [u8; 4] = (-1i32).to_be_bytes();

/// Rejects found in one column: row of the batch, why, excerpt.
pub type ColumnRejects = Vec<(usize, Reason, String)>;

/// How one source column becomes one target column.
#[derive(Debug, Clone)]
pub struct Converter {
    target: TargetType,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// A column without a type, as writers make it where every value is null.
    Null,
    /// Integers and booleans by cast to `bigint`, checked against the target's range.
    Integer,
    /// Floats with a whole value (tables with nulls come out of pandas like that).
    IntegerFromFloat,
    Float,
    Bool,
    /// Numbers by their text.
    Numeric,
    Text,
    Uuid,
    UuidFromText,
    Date,
    Timestamp,
    JsonFromText,
    JsonFromStructure(FieldRef),
    Bytea,
    TextArray,
    Int8Array,
    Vector {
        text: bool,
    },
    /// Text of CSV or JSON Lines, by the parser for the target's type.
    Input(TextForm),
}

impl Converter {
    /// Binds a source column to a target type, or says that vecload has no way between the two.
    ///
    /// Text columns arrive as bytes; `form` says what the source means by them.
    pub fn bind(source: &Field, form: TextForm, target: &TargetType) -> Result<Self> {
        use DataType as D;
        use TargetType as T;
        let from = source.data_type();
        let variant = source.extension_type_name() == Some(VARIANT);
        let how = match target {
            _ if variant => None,
            _ if *from == D::Null => Some(How::Null),
            T::Text | T::Varchar(_) | T::Enum(_) if is_text(from) => Some(How::Text),
            T::Json | T::Jsonb if is_text(from) => Some(How::JsonFromText),
            T::Vector(_) | T::Halfvec(_) if embedding::readable(from) => {
                Some(How::Vector { text: form.is_text() })
            }
            T::Vector(_) | T::Halfvec(_) => None,
            _ if form.is_input() && is_text(from) => Some(How::Input(form)),
            T::Int2 | T::Int4 | T::Int8 if from.is_floating() => Some(How::IntegerFromFloat),
            T::Int2 | T::Int4 | T::Int8 if from.is_numeric() || is_text(from) => Some(How::Integer),
            T::Float4 | T::Float8 if from.is_numeric() || is_text(from) => Some(How::Float),
            T::Numeric(_) if from.is_numeric() || is_text(from) => Some(How::Numeric),
            T::Bool if *from == D::Boolean || is_text(from) => Some(How::Bool),
            T::Text | T::Varchar(_) | T::Enum(_) if is_scalar(from) => Some(How::Text),
            T::Uuid if *from == D::FixedSizeBinary(16) => Some(How::Uuid),
            T::Uuid if is_text(from) => Some(How::UuidFromText),
            T::Date if is_date_or_time(from) || is_text(from) => Some(How::Date),
            T::Timestamp | T::Timestamptz if is_date_or_time(from) || is_text(from) => Some(How::Timestamp),
            T::Json | T::Jsonb if is_structure(from) && structures::has_scalar_keys(from) => {
                Some(How::JsonFromStructure(Arc::new(source.clone())))
            }
            T::Bytea if matches!(from, D::Binary | D::FixedSizeBinary(_)) => Some(How::Bytea),
            T::TextArray
                if element(from).is_some_and(|item| {
                    is_text(item) || *item == D::LargeBinary || is_scalar(item) || item.is_null()
                }) =>
            {
                Some(How::TextArray)
            }
            T::Int8Array if element(from).is_some_and(|item| item.is_integer() || item.is_null()) => {
                Some(How::Int8Array)
            }
            _ => None,
        };
        match how {
            Some(how) => Ok(Self { target: target.clone(), how }),
            None => Err(Error::refused(format!(
                "column \"{}\" has the type {}, which does not go into {target}",
                source.name(),
                if variant { "VARIANT".into() } else { describe(from) }
            ))),
        }
    }

    /// Converts a column; rows that the target's type refuses are added to `rejects`, their cells are null.
    pub fn convert(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        match &self.how {
            How::Null => Ok(Cells::Constant(NULL_FIELD.to_vec())),
            How::Integer => self.integers(array, rejects),
            How::IntegerFromFloat => self.whole_floats(array, rejects),
            How::Float => self.floats(array, rejects),
            How::Bool => self.booleans(array, rejects),
            How::Numeric => self.numerics(array, rejects),
            How::Text => self.texts(array, rejects),
            How::Uuid => uuids(array),
            How::UuidFromText => texts::uuids(array, rejects),
            How::Date => self.dates(array, rejects),
            How::Timestamp => self.timestamps(array, rejects),
            How::JsonFromText => self.json_texts(array, rejects),
            How::JsonFromStructure(field) => self.json_structures(field, array, rejects),
            How::Bytea => bytes(array, rejects),
            How::TextArray => self.text_arrays(array, rejects),
            How::Int8Array => self.integer_arrays(array, rejects),
            How::Vector { text } => self.vectors(array, *text, rejects),
            How::Input(form) => self.input(array, *form, rejects),
        }
    }

    /// Casts; a value that the cast turns to null is a reject.
    fn cast(&self, array: &ArrayRef, to: &DataType, rejects: &mut ColumnRejects) -> Result<ArrayRef> {
        if array.data_type() == to {
            return Ok(Arc::clone(array));
        }
        let safe = CastOptions { safe: true, ..CastOptions::default() };
        // Text is cast from Utf8; bytes that are none become null here and a reject below.
        let texts = match array.data_type() {
            DataType::Binary => cast_with_options(array, &DataType::Utf8, &safe).map_err(unexpected)?,
            _ => Arc::clone(array),
        };
        let cast = match cast_with_options(&texts, to, &safe) {
            Ok(cast) => cast,
            Err(_) => cast_rows(&texts, to, &safe)?,
        };
        if cast.null_count() > array.null_count() {
            for row in (0..array.len()).filter(|row| cast.is_null(*row) && !array.is_null(*row)) {
                let reason = match self.target.is_integer() && array.data_type().is_numeric() {
                    true => Reason::IntegerRange(self.target.to_string()),
                    false => self.no_value(),
                };
                rejects.push((row, reason, shown(array, row)));
            }
        }
        Ok(cast)
    }

    fn no_value(&self) -> Reason {
        Reason::Value(format!("not a value that {} holds", self.target))
    }
}

/// Casts row by row, because some row has a value that fails even a safe cast; such rows become null.
fn cast_rows(array: &ArrayRef, to: &DataType, safe: &CastOptions<'_>) -> Result<ArrayRef> {
    // Without rows only the types can be at fault.
    cast_with_options(&array.slice(0, 0), to, safe).map_err(unexpected)?;
    let rows: Vec<ArrayRef> = (0..array.len())
        .map(|row| {
            cast_with_options(&array.slice(row, 1), to, safe).unwrap_or_else(|_| new_null_array(to, 1))
        })
        .collect();
    concat(&rows.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(unexpected)
}

fn uuids(array: &ArrayRef) -> Result<Cells> {
    let values = downcast::<FixedSizeBinaryArray>(array)?;
    let bytes = (0..values.len()).flat_map(|row| values.value(row)).copied().collect();
    Ok(Cells::Fixed { width: 16, bytes, nulls: values.nulls().cloned() })
}

fn bytes(array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
    if array.data_type() == &DataType::Binary {
        return Ok(Cells::Variable { prefix: &[], values: as_binary(array)? });
    }
    let values = downcast::<FixedSizeBinaryArray>(array)?;
    Ok(variable(&[], array, rejects, |row, out| {
        out.extend_from_slice(values.value(row));
        Ok(())
    }))
}

/// Builds a column of values of any length, row by row; `value` appends a row's value to an empty buffer.
fn variable(
    prefix: &'static [u8],
    array: &ArrayRef,
    rejects: &mut ColumnRejects,
    mut value: impl FnMut(usize, &mut Vec<u8>) -> Result<(), (Reason, String)>,
) -> Cells {
    let mut builder = BinaryBuilder::with_capacity(array.len(), 0);
    let mut bytes = Vec::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        bytes.clear();
        match value(row, &mut bytes) {
            Ok(()) => builder.append_value(&bytes),
            Err((reason, excerpt)) => {
                rejects.push((row, reason, excerpt));
                builder.append_null();
            }
        }
    }
    Cells::Variable { prefix, values: builder.finish() }
}

/// A column of values of one width.
fn fixed<const N: usize>(nulls: Option<&NullBuffer>, values: impl Iterator<Item = [u8; N]>) -> Cells {
    Cells::Fixed { width: N, bytes: values.flatten().collect(), nulls: nulls.cloned() }
}

fn as_binary(array: &ArrayRef) -> Result<BinaryArray> {
    let binary = cast_with_options(array, &DataType::Binary, &CastOptions::default()).map_err(unexpected)?;
    Ok(binary.as_binary::<i32>().clone())
}

fn downcast<T: Array + Clone + 'static>(array: &ArrayRef) -> Result<T> {
    let typed = array.as_any().downcast_ref::<T>().cloned();
    typed.ok_or_else(|| {
        Error::bug(format!("a column of type {} reached the wrong converter", array.data_type()))
    })
}

fn unexpected(error: ArrowError) -> Error {
    Error::bug("convert a column whose types were checked before").because(error)
}

fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item.data_type())
        }
        _ => None,
    }
}

/// Text columns arrive as bytes.
fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::Utf8)
}

fn is_scalar(data_type: &DataType) -> bool {
    *data_type == DataType::Boolean || data_type.is_numeric() || data_type.is_temporal()
}

fn is_structure(data_type: &DataType) -> bool {
    let nested = matches!(data_type, DataType::Struct(_) | DataType::Map(..)) || element(data_type).is_some();
    nested || *data_type == DataType::Boolean || data_type.is_numeric()
}

fn is_date_or_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
}

/// The type's name as a user of Parquet tools knows it; text is read as its bytes.
fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::Binary => "string or binary".into(),
        other => nested::texts_type(other).to_string(),
    }
}

/// A value for an excerpt.
pub fn shown(array: &ArrayRef, row: usize) -> String {
    if let Some(values) = array.as_binary_opt::<i32>() {
        return excerpt(values.value(row));
    }
    let value = with_texts(&array.slice(row, 1));
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(&value, &options).and_then(|value| value.value(0).try_to_string());
    match text {
        Ok(text) => excerpt(text.as_bytes()),
        Err(_) => ticks(&value).unwrap_or_default(),
    }
}

/// A date or timestamp outside Arrow's calendar, as the source has it.
fn ticks(value: &ArrayRef) -> Option<String> {
    let unit = match value.data_type() {
        DataType::Date32 => "days",
        DataType::Timestamp(TimeUnit::Second, _) => "s",
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => "ms",
        DataType::Timestamp(TimeUnit::Microsecond, _) => "us",
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "ns",
        _ => return None,
    };
    let ticks = cast_with_options(value, &DataType::Int64, &CastOptions::default()).ok()?;
    Some(format!("{} {unit} since 1970-01-01", ticks.as_primitive::<Int64Type>().value(0)))
}

#[cfg(test)]
mod tests;
