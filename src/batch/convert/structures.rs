//! Structures, lists and maps written as JSON.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, MapArray};
use arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{ColumnRejects, Converter, unexpected, variable};
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
        let faults = Faults::default();
        let options = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::new(faults.clone()) as Arc<dyn EncoderFactory>);
        let mut encoder = make_encoder(field, array.as_ref(), &options).map_err(unexpected)?;
        Ok(variable(self.json_prefix(), array, rejects, |row, out| {
            encoder.encode(row, out);
            match faults.taken().or_else(|| json::refusal(out).map(Reason::Json)) {
                Some(reason) => Err((reason, excerpt(out))),
                None => Ok(()),
            }
        }))
    }
}

/// Whether JSON can be made of a type: the keys of all maps in it are texts, numbers or booleans.
pub(super) fn has_scalar_keys(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_scalar_keys(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| has_scalar_keys(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let key = fields[0].data_type();
                let scalar = matches!(key, DataType::Utf8 | DataType::Binary | DataType::Boolean);
                (scalar || key.is_numeric()) && has_scalar_keys(fields[1].data_type())
            }
            _ => false,
        },
        _ => true,
    }
}

/// What a row met that JSON has no way to write. It makes the encoders that notice it: Arrow's own write a
/// null for such a number, an error's text for such a date, and text, which comes unchecked, as hexadecimal.
#[derive(Debug, Default, Clone)]
struct Faults(Arc<Mutex<Option<Reason>>>);

impl Faults {
    fn note(&self, reason: Reason) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// The first fault of the row that was written last, if it has one.
    fn taken(&self) -> Option<Reason> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The shortest number that reads back the same.
    fn put_number(&self, value: impl Into<f64> + Copy + std::fmt::Debug, out: &mut Vec<u8>) {
        if !value.into().is_finite() {
            self.note(Reason::Json("JSON has no NaN and no infinity".into()));
        }
        out.extend_from_slice(format!("{value:?}").as_bytes());
    }

    fn put_text(&self, text: &[u8], out: &mut Vec<u8>) {
        if std::str::from_utf8(text).is_err() {
            self.note(Reason::InvalidUtf8);
        }
        put_string(&String::from_utf8_lossy(text), out);
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok(), "a vector takes all that is written");
}

impl EncoderFactory for Faults {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let faults = self.clone();
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>();
                each(move |row, out| faults.put_number(values.value(row).to_f32(), out))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                each(move |row, out| faults.put_number(values.value(row), out))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                each(move |row, out| faults.put_number(values.value(row), out))
            }
            DataType::Binary => {
                let values: &BinaryArray = array.as_binary();
                each(move |row, out| faults.put_text(values.value(row), out))
            }
            DataType::Map(..) => self.map(field, array.as_map(), options)?,
            other if other.is_temporal() => {
                let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
                each(move |row, out| match formatter.value(row).try_to_string() {
                    Ok(text) => put_string(&text, out),
                    Err(_) => {
                        faults.note(Reason::Json("a date or time is outside the calendar".into()));
                        out.extend_from_slice(b"?");
                    }
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

impl Faults {
    fn map<'a>(
        &self,
        field: &'a FieldRef,
        map: &'a MapArray,
        options: &'a EncoderOptions,
    ) -> Result<Box<dyn Encoder + 'a>, ArrowError> {
        let keys = map.keys();
        let texts = keys.as_binary_opt::<i32>();
        let formatter = ArrayFormatter::try_new(keys.as_ref(), &FormatOptions::default())?;
        let mut values = make_encoder(field, map.values().as_ref(), options)?;
        let faults = self.clone();
        Ok(each(move |row, out| {
            let offsets = map.value_offsets();
            out.push(b'{');
            for (index, entry) in (offsets[row] as usize..offsets[row + 1] as usize).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                match texts {
                    _ if keys.is_null(entry) => {
                        faults.note(Reason::Json("a map's key is null".into()));
                        out.extend_from_slice(b"null");
                    }
                    Some(texts) => faults.put_text(texts.value(entry), out),
                    None => put_string(&formatter.value(entry).to_string(), out),
                }
                out.push(b':');
                match values.is_null(entry) {
                    true => out.extend_from_slice(b"null"),
                    false => values.encode(entry, out),
                }
            }
            out.push(b'}');
        }))
    }
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
