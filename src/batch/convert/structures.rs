//! Structures, lists and maps written as JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{ColumnRejects, Converter, shown, variable};
use crate::batch::cells::Cells;
use crate::batch::json;
use crate::batch::reject::{Reason, excerpt};
use crate::error::Result;

impl Converter {
    pub(super) fn json_structures(
        &self,
        field: &FieldRef,
        array: &ArrayRef,
        rejects: &mut ColumnRejects,
    ) -> Result<Cells> {
        let array = match with_text_keys(array.data_type()) {
            Some(to) => self.cast(array, &to, rejects)?,
            None => Arc::clone(array),
        };
        let faults = Arc::new(Faults::default());
        let options = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::clone(&faults) as Arc<dyn EncoderFactory>);
        let mut whole = make_encoder(field, array.as_ref(), &options).ok();
        Ok(variable(self.json_prefix(), &array, rejects, |row, out| {
            match &mut whole {
                Some(encoder) => encoder.encode(row, out),
                // Some row can't be written at all (a map's key is null): each stands for itself.
                None => {
                    let refuse = |error: ArrowError| (Reason::Json(error.to_string()), shown(&array, row));
                    let row = take(&array, &UInt32Array::from(vec![row as u32]), None).map_err(refuse)?;
                    make_encoder(field, row.as_ref(), &options).map_err(refuse)?.encode(0, out);
                }
            }
            match faults.taken().or_else(|| json::refusal(out)) {
                Some(why) => Err((Reason::Json(why), excerpt(out))),
                None => Ok(()),
            }
        }))
    }
}

/// The type with texts for the keys of all maps in it, or `None` where a key is of no scalar type.
pub(super) fn with_text_keys(data_type: &DataType) -> Option<DataType> {
    let inner = |field: &FieldRef| -> Option<FieldRef> {
        Some(Arc::new(field.as_ref().clone().with_data_type(with_text_keys(field.data_type())?)))
    };
    Some(match data_type {
        DataType::List(item) => DataType::List(inner(item)?),
        DataType::LargeList(item) => DataType::LargeList(inner(item)?),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item)?, *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect::<Option<Fields>>()?),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else { return None };
            let [key, value] = &fields[..] else { return None };
            let is_key =
                matches!(key.data_type(), DataType::Utf8 | DataType::Boolean) || key.data_type().is_numeric();
            if !is_key {
                return None;
            }
            let key: Field = key.as_ref().clone().with_data_type(DataType::Utf8);
            let fields = DataType::Struct(Fields::from(vec![Arc::new(key), inner(value)?]));
            DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(fields)), *sorted)
        }
        other => other.clone(),
    })
}

/// What a row met that JSON has no way to write. It makes the encoders that notice it: Arrow's own write a
/// null for such a number and an error's text for such a date.
#[derive(Debug, Default)]
struct Faults {
    number: Arc<AtomicBool>,
    time: Arc<AtomicBool>,
}

impl Faults {
    /// The fault of the row that was written last, if it has one.
    fn taken(&self) -> Option<String> {
        let number = self.number.swap(false, Ordering::Relaxed);
        let time = self.time.swap(false, Ordering::Relaxed);
        match (number, time) {
            (true, _) => Some("JSON has no NaN and no infinity".into()),
            (_, true) => Some("a date or time is outside the calendar".into()),
            _ => None,
        }
    }
}

impl EncoderFactory for Faults {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let fault = Arc::clone(&self.number);
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>();
                each(move |row, out| put_number(values.value(row).to_f32(), out, &fault))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                each(move |row, out| put_number(values.value(row), out, &fault))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                each(move |row, out| put_number(values.value(row), out, &fault))
            }
            other if other.is_temporal() => {
                let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
                let fault = Arc::clone(&self.time);
                each(move |row, out| match formatter.value(row).try_to_string() {
                    Ok(text) => out.extend(format!("\"{text}\"").into_bytes()),
                    Err(_) => {
                        fault.store(true, Ordering::Relaxed);
                        out.extend_from_slice(b"?");
                    }
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// The shortest number that reads back the same.
fn put_number(value: impl Into<f64> + Copy + std::fmt::Debug, out: &mut Vec<u8>, fault: &AtomicBool) {
    if !value.into().is_finite() {
        fault.store(true, Ordering::Relaxed);
    }
    out.extend_from_slice(format!("{value:?}").as_bytes());
}

struct Each<F>(F);

fn each<'a>(encode: impl FnMut(usize, &mut Vec<u8>) + 'a) -> Box<dyn Encoder + 'a> {
    Box::new(Each(encode))
}

impl<F: FnMut(usize, &mut Vec<u8>)> Encoder for Each<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        self.0(row, out);
    }
}
