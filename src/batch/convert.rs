//! Source columns to target columns: bound once per source by types, then run once per batch and column.
//!
//! Arrow's casts do the work that they do by the target's rules; a value that turns null in a safe cast is
//! one that the target type refuses, and becomes a reject.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BinaryBuilder, FixedSizeBinaryArray,
    PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, FieldRef, Float32Type, Float64Type,
    Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::json::writer::{EncoderOptions, make_encoder};

use super::cells::Cells;
use super::reject::{Reason, excerpt};
use super::{embedding, json};
use crate::copy::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS, put_array, put_numeric, put_vector};
use crate::error::{Error, Result};
use crate::postgres::types::TargetType;

/// OIDs of array elements, from `pg_type.dat`.
const TEXT_OID: u32 = 25;
const INT8_OID: u32 = 20;

/// `jsonb`'s binary form starts with a version number, 1.
const JSONB_PREFIX: &[u8] = &[1];

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
    /// Integers and booleans by cast to `bigint`, checked against the target's range.
    Integer,
    /// Floats with a whole value (tables with nulls come out of pandas like that).
    IntegerFromFloat,
    Float,
    Bool,
    NumericFromDecimal,
    /// Integers and floats to numeric, by their text.
    NumericFromText,
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
}

impl Converter {
    /// Binds a source column to a target type, or says that vecload has no way between the two.
    ///
    /// Text columns arrive as bytes; `text` says that the source calls them text.
    pub fn bind(source: &Field, text: bool, target: &TargetType) -> Result<Self> {
        use DataType as D;
        use TargetType as T;
        let is_text = |data_type: &D| matches!(data_type, D::Binary | D::Utf8);
        let from = source.data_type();
        let how = match target {
            T::Int2 | T::Int4 | T::Int8 if from.is_floating() => Some(How::IntegerFromFloat),
            T::Int2 | T::Int4 | T::Int8 if from.is_numeric() || is_text(from) => Some(How::Integer),
            T::Float4 | T::Float8 if from.is_numeric() || is_text(from) => Some(How::Float),
            T::Numeric(_) if matches!(from, D::Decimal128(..) | D::Decimal256(..)) => {
                Some(How::NumericFromDecimal)
            }
            T::Numeric(_) if from.is_numeric() || is_text(from) => Some(How::NumericFromText),
            T::Bool if *from == D::Boolean || is_text(from) => Some(How::Bool),
            T::Text | T::Varchar(_) | T::Enum(_) if is_text(from) || is_scalar(from) => Some(How::Text),
            T::Uuid if *from == D::FixedSizeBinary(16) => Some(How::Uuid),
            T::Uuid if is_text(from) => Some(How::UuidFromText),
            T::Date if is_date_or_time(from) || is_text(from) => Some(How::Date),
            T::Timestamp | T::Timestamptz if is_date_or_time(from) || is_text(from) => Some(How::Timestamp),
            T::Json | T::Jsonb if is_text(from) => Some(How::JsonFromText),
            T::Json | T::Jsonb if is_structure(from) => {
                Some(How::JsonFromStructure(Arc::new(source.clone())))
            }
            T::Bytea if matches!(from, D::Binary | D::FixedSizeBinary(_)) => Some(How::Bytea),
            T::TextArray if element(from).is_some_and(|item| is_text(item) || is_scalar(item)) => {
                Some(How::TextArray)
            }
            T::Int8Array if element(from).is_some_and(|item| item.is_integer()) => Some(How::Int8Array),
            T::Vector(_) | T::Halfvec(_) if embedding::readable(from) => Some(How::Vector { text }),
            _ => None,
        };
        match how {
            Some(how) => Ok(Self { target: target.clone(), how }),
            None => Err(Error::refused(format!(
                "column \"{}\" has the type {}, which does not go into {target}",
                source.name(),
                describe(from)
            ))),
        }
    }

    /// Converts a column; rows that the target's type refuses are added to `rejects`, their cells are null.
    pub fn convert(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        match &self.how {
            How::Integer => self.integers(&self.cast(array, &DataType::Int64, rejects)?, array, rejects),
            How::IntegerFromFloat => {
                let floats = self.cast(array, &DataType::Float64, rejects)?;
                let whole = whole_numbers(floats.as_primitive::<Float64Type>(), rejects, &self.target);
                self.integers(&whole, array, rejects)
            }
            How::Float => self.floats(array, rejects),
            How::Bool => {
                let array = self.cast(array, &DataType::Boolean, rejects)?;
                let values = array.as_boolean();
                let bytes = (0..values.len()).map(|row| u8::from(values.value(row))).collect();
                Ok(Cells::Fixed { width: 1, bytes, nulls: values.nulls().cloned() })
            }
            How::NumericFromDecimal | How::NumericFromText => self.numerics(array, rejects),
            How::Text => self.texts(array, rejects),
            How::Uuid => {
                let values = downcast::<FixedSizeBinaryArray>(array)?;
                let bytes = (0..values.len()).flat_map(|row| values.value(row)).copied().collect();
                Ok(Cells::Fixed { width: 16, bytes, nulls: values.nulls().cloned() })
            }
            How::UuidFromText => {
                let values = as_binary(array)?;
                let mut bytes = Vec::with_capacity(values.len() * 16);
                for row in 0..values.len() {
                    let uuid = match uuid::Uuid::try_parse_ascii(values.value(row).trim_ascii()) {
                        Ok(uuid) => uuid,
                        Err(_) if values.is_null(row) => uuid::Uuid::nil(),
                        Err(error) => {
                            rejects.push((row, Reason::Value(error.to_string()), excerpt(values.value(row))));
                            uuid::Uuid::nil()
                        }
                    };
                    bytes.extend_from_slice(uuid.as_bytes());
                }
                Ok(Cells::Fixed { width: 16, bytes, nulls: values.nulls().cloned() })
            }
            How::Date => {
                let days = self.cast(array, &DataType::Date32, rejects)?;
                let days = days.as_primitive::<Date32Type>();
                let shifted =
                    self.shift(days, |day| i64::from(day) - i64::from(POSTGRES_EPOCH_DAYS), rejects);
                Ok(fixed(4, days.nulls(), shifted.iter().map(|day| (*day as i32).to_be_bytes())))
            }
            How::Timestamp => self.timestamps(array, rejects),
            How::JsonFromText => {
                let values = as_binary(array)?;
                for row in 0..values.len() {
                    if !values.is_null(row)
                        && let Some(why) = json::refusal(values.value(row))
                    {
                        rejects.push((row, Reason::Json(why), excerpt(values.value(row))));
                    }
                }
                Ok(Cells::Variable { prefix: self.json_prefix(), values })
            }
            How::JsonFromStructure(field) => {
                let options = EncoderOptions::default().with_explicit_nulls(true);
                let mut encoder = make_encoder(field, array.as_ref(), &options).map_err(unexpected)?;
                let mut out = Vec::new();
                self.variable(self.json_prefix(), array, rejects, |row| {
                    out.clear();
                    encoder.encode(row, &mut out);
                    match json::refusal(&out) {
                        Some(why) => Err((Reason::Json(why), excerpt(&out))),
                        None => Ok(out.clone()),
                    }
                })
            }
            How::Bytea => match array.data_type() {
                DataType::Binary => Ok(Cells::Variable { prefix: &[], values: as_binary(array)? }),
                _ => {
                    let values = downcast::<FixedSizeBinaryArray>(array)?;
                    self.variable(&[], array, rejects, |row| Ok(values.value(row).to_vec()))
                }
            },
            How::TextArray => self.text_arrays(array, rejects),
            How::Int8Array => {
                let lists = self.cast(array, &list_of(DataType::Int64), rejects)?;
                let lists = lists.as_list::<i32>();
                self.variable(&[], array, rejects, |row| {
                    let items = lists.value(row);
                    let items = items.as_primitive::<Int64Type>();
                    let bytes: Vec<_> = items.iter().map(|item| item.map(i64::to_be_bytes)).collect();
                    let mut out = Vec::new();
                    put_array(
                        &mut out,
                        INT8_OID,
                        bytes.iter().map(|item| item.as_ref().map(|item| &item[..])),
                    );
                    Ok(out)
                })
            }
            How::Vector { text } => self.vectors(array, *text, rejects),
        }
    }

    fn integers(&self, array: &ArrayRef, source: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let values = array.as_primitive::<Int64Type>();
        let range = match self.target {
            TargetType::Int2 => i64::from(i16::MIN)..=i64::from(i16::MAX),
            TargetType::Int4 => i64::from(i32::MIN)..=i64::from(i32::MAX),
            _ => i64::MIN..=i64::MAX,
        };
        for row in 0..values.len() {
            if !values.is_null(row) && !range.contains(&values.value(row)) {
                rejects.push((row, Reason::IntegerRange(self.target.to_string()), shown(source, row)));
            }
        }
        let nulls = values.nulls();
        Ok(match self.target {
            TargetType::Int2 => {
                fixed(2, nulls, values.values().iter().map(|value| (*value as i16).to_be_bytes()))
            }
            TargetType::Int4 => {
                fixed(4, nulls, values.values().iter().map(|value| (*value as i32).to_be_bytes()))
            }
            _ => fixed(8, nulls, values.values().iter().map(|value| value.to_be_bytes())),
        })
    }

    fn floats(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let wide = self.cast(array, &DataType::Float64, rejects)?;
        let wide = wide.as_primitive::<Float64Type>();
        if self.target == TargetType::Float8 {
            return Ok(fixed(8, wide.nulls(), wide.values().iter().map(|value| value.to_be_bytes())));
        }
        for row in 0..wide.len() {
            let value = wide.value(row);
            if !wide.is_null(row) && value.is_finite() && (value as f32).is_infinite() {
                rejects.push((row, Reason::Value("out of range for real".into()), value.to_string()));
            }
        }
        // Text goes to `real` directly: by way of double precision it would be rounded twice.
        let narrow = self.cast(array, &DataType::Float32, &mut ColumnRejects::new())?;
        let narrow = narrow.as_primitive::<Float32Type>();
        Ok(fixed(4, wide.nulls(), narrow.values().iter().map(|value| value.to_be_bytes())))
    }

    fn numerics(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let limits = match self.target {
            TargetType::Numeric(limits) => limits,
            _ => None,
        };
        let text_of: Box<dyn Fn(usize) -> String> = match array.data_type() {
            DataType::Decimal128(..) => {
                let values = array.as_primitive::<Decimal128Type>().clone();
                Box::new(move |row| values.value_as_string(row))
            }
            DataType::Decimal256(..) => {
                let values = array.as_primitive::<Decimal256Type>().clone();
                Box::new(move |row| values.value_as_string(row))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().clone();
                Box::new(move |row| values.value(row).to_string())
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().clone();
                Box::new(move |row| values.value(row).to_string())
            }
            _ => {
                let texts = self.text_of(array)?;
                Box::new(move |row| String::from_utf8_lossy(texts.value(row)).into_owned())
            }
        };
        self.variable(&[], array, rejects, |row| {
            let text = text_of(row);
            let mut out = Vec::new();
            if !put_numeric(&mut out, &text) {
                return Err((
                    Reason::Value("not a number that numeric holds".into()),
                    excerpt(text.as_bytes()),
                ));
            }
            if let Some((precision, scale)) = limits
                && !fits_precision(&text, precision, scale)
            {
                return Err((Reason::Value(format!("beyond {}", self.target)), excerpt(text.as_bytes())));
            }
            Ok(out)
        })
    }

    fn texts(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let values = self.text_of(array)?;
        for row in 0..values.len() {
            if values.is_null(row) {
                continue;
            }
            let value = values.value(row);
            if let Err(reason) = self.check_text(value) {
                rejects.push((row, reason, excerpt(value)));
            }
        }
        Ok(Cells::Variable { prefix: &[], values })
    }

    fn check_text(&self, value: &[u8]) -> Result<(), Reason> {
        let text = std::str::from_utf8(value).map_err(|_| Reason::InvalidUtf8)?;
        if memchr::memchr(0, value).is_some() {
            return Err(Reason::NulByte);
        }
        match &self.target {
            // The server cuts spaces beyond the limit, as the SQL standard wants, and refuses the rest.
            TargetType::Varchar(Some(limit)) if text.trim_end_matches(' ').chars().nth(*limit).is_some() => {
                Err(Reason::Value(format!("longer than {}", self.target)))
            }
            TargetType::Enum(labels) if !labels.iter().any(|label| label == text) => {
                Err(Reason::Value(format!("no label of {}", self.target)))
            }
            _ => Ok(()),
        }
    }

    fn timestamps(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        // Text without an offset is UTC, and so is a timestamp column without a zone.
        let zone = matches!(array.data_type(), DataType::Binary | DataType::Utf8).then(|| "+00:00".into());
        let micros = self.cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone), rejects)?;
        let micros = micros.as_primitive::<TimestampMicrosecondType>();
        let shifted = self.shift(micros, |value| value.saturating_sub(POSTGRES_EPOCH_MICROS), rejects);
        Ok(fixed(8, micros.nulls(), shifted.iter().map(|value| value.to_be_bytes())))
    }

    /// Moves values to the server's epoch and rejects what lies outside its calendar.
    fn shift<T: ArrowPrimitiveType>(
        &self,
        values: &PrimitiveArray<T>,
        shift: impl Fn(T::Native) -> i64,
        rejects: &mut ColumnRejects,
    ) -> Vec<i64> {
        // The manual, "Date/Time Types": from 4713 BC; dates to 5874897 AD, timestamps before 294277 AD.
        let (low, high) = match self.target {
            TargetType::Date => (-2_451_545, 2_145_031_948),
            _ => (-211_813_488_000_000_000, 9_223_371_331_199_999_999),
        };
        let mut shifted = Vec::with_capacity(values.len());
        for (row, value) in values.values().iter().enumerate() {
            let value = shift(*value);
            if !values.is_null(row) && !(low..=high).contains(&value) {
                let why = format!("outside the calendar of {}", self.target);
                rejects.push((row, Reason::Value(why), value.to_string()));
            }
            shifted.push(value);
        }
        shifted
    }

    fn text_arrays(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let lists = self.cast(array, &list_of(DataType::Utf8), rejects)?;
        let lists = lists.as_list::<i32>();
        self.variable(&[], array, rejects, |row| {
            let items = lists.value(row);
            let items = items.as_string::<i32>();
            if let Some(bad) = items.iter().flatten().find(|item| item.contains('\0')) {
                return Err((Reason::NulByte, excerpt(bad.as_bytes())));
            }
            let bytes: Vec<_> = items.iter().map(|item| item.map(str::as_bytes)).collect();
            let mut out = Vec::new();
            put_array(&mut out, TEXT_OID, bytes.iter().copied());
            Ok(out)
        })
    }

    /// A vector column that is not the batch's embedding (a table may have several).
    fn vectors(&self, array: &ArrayRef, text: bool, rejects: &mut ColumnRejects) -> Result<Cells> {
        let half = matches!(self.target, TargetType::Halfvec(_));
        let expected = self.target.vector_dim().flatten();
        let mut values = Vec::new();
        self.variable(&[], array, rejects, |row| {
            values.clear();
            let refuse = |reason| Err((reason, shown(array, row)));
            if let Err(reason) = embedding::read_row(array.as_ref(), row, text, &mut values) {
                return refuse(reason);
            }
            let expected = expected.unwrap_or(values.len());
            if values.len() != expected {
                return refuse(Reason::Dimension { found: values.len(), expected });
            }
            if let Some(reason) = embedding::element_refusal(&values, half) {
                return refuse(reason);
            }
            let mut field = Vec::new();
            if half {
                crate::copy::put_halfvec(&mut field, &values);
            } else {
                put_vector(&mut field, &values);
            }
            // The cell adds the length.
            Ok(field.split_off(4))
        })
    }

    /// Builds a column of values of any length, row by row.
    fn variable(
        &self,
        prefix: &'static [u8],
        array: &ArrayRef,
        rejects: &mut ColumnRejects,
        mut value: impl FnMut(usize) -> Result<Vec<u8>, (Reason, String)>,
    ) -> Result<Cells> {
        let mut builder = BinaryBuilder::with_capacity(array.len(), 0);
        for row in 0..array.len() {
            if array.is_null(row) {
                builder.append_null();
                continue;
            }
            match value(row) {
                Ok(bytes) => builder.append_value(bytes),
                Err((reason, excerpt)) => {
                    rejects.push((row, reason, excerpt));
                    builder.append_null();
                }
            }
        }
        Ok(Cells::Variable { prefix, values: builder.finish() })
    }

    /// Casts; a value that the cast turns to null is a reject.
    fn cast(&self, array: &ArrayRef, to: &DataType, rejects: &mut ColumnRejects) -> Result<ArrayRef> {
        if array.data_type() == to {
            return Ok(array.clone());
        }
        let safe = CastOptions { safe: true, ..CastOptions::default() };
        // Text is cast from Utf8; bytes that are none become null here and a reject below.
        let texts = match array.data_type() {
            DataType::Binary => cast_with_options(array, &DataType::Utf8, &safe).map_err(unexpected)?,
            _ => array.clone(),
        };
        let cast = cast_with_options(&texts, to, &safe).map_err(unexpected)?;
        if cast.null_count() > array.null_count() {
            for row in (0..array.len()).filter(|row| cast.is_null(*row) && !array.is_null(*row)) {
                let reason = match self.target.is_integer() && array.data_type().is_numeric() {
                    true => Reason::IntegerRange(self.target.to_string()),
                    false => Reason::Value(format!("not a value that {} holds", self.target)),
                };
                rejects.push((row, reason, shown(array, row)));
            }
        }
        Ok(cast)
    }

    fn text_of(&self, array: &ArrayRef) -> Result<BinaryArray> {
        match array.data_type() {
            DataType::Binary | DataType::Utf8 => as_binary(array),
            _ => {
                let text =
                    cast_with_options(array, &DataType::Utf8, &CastOptions::default()).map_err(unexpected)?;
                as_binary(&text)
            }
        }
    }

    fn json_prefix(&self) -> &'static [u8] {
        if self.target == TargetType::Jsonb { JSONB_PREFIX } else { &[] }
    }
}

fn whole_numbers(
    floats: &PrimitiveArray<Float64Type>,
    rejects: &mut ColumnRejects,
    target: &TargetType,
) -> ArrayRef {
    // 2^63 is the first whole float that a bigint can't hold.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let whole = floats.iter().enumerate().map(|(row, value)| {
        let value = value?;
        if value.fract() == 0.0 && (-LIMIT..LIMIT).contains(&value) {
            return Some(value as i64);
        }
        let reason = match value.is_finite() && value.fract() == 0.0 {
            true => Reason::IntegerRange(target.to_string()),
            false => Reason::Value("not a whole number".into()),
        };
        rejects.push((row, reason, value.to_string()));
        None
    });
    Arc::new(PrimitiveArray::<Int64Type>::from_iter(whole.collect::<Vec<_>>()))
}

/// Whether a decimal text has at most as many digits before its point as `numeric(precision, scale)`; the
/// server rounds what comes after.
fn fits_precision(text: &str, precision: u16, scale: i16) -> bool {
    if text.contains(['e', 'E']) {
        return true;
    }
    let integer = text.trim().trim_start_matches(['+', '-']).split('.').next().unwrap_or_default();
    let digits = integer.trim_start_matches('0').len() as i64;
    digits <= i64::from(precision) - i64::from(scale)
}

fn fixed<const N: usize>(
    width: usize,
    nulls: Option<&NullBuffer>,
    values: impl Iterator<Item = [u8; N]>,
) -> Cells {
    Cells::Fixed { width, bytes: values.flatten().collect(), nulls: nulls.cloned() }
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

fn unexpected(error: arrow::error::ArrowError) -> Error {
    Error::bug("convert a column whose types were checked before").because(error)
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item.data_type())
        }
        _ => None,
    }
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
        other => other.to_string(),
    }
}

/// A value for an excerpt.
pub fn shown(array: &ArrayRef, row: usize) -> String {
    match array.data_type() {
        DataType::Binary => excerpt(array.as_binary::<i32>().value(row)),
        _ => match arrow::util::display::array_value_to_string(&array.slice(row, 1), 0) {
            Ok(text) => excerpt(text.as_bytes()),
            Err(_) => String::new(),
        },
    }
}
