//! Lists: arrays, and vectors that are not the batch's embedding.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, make_array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};

use super::{ColumnRejects, Converter, shown, variable};
use crate::batch::cells::Cells;
use crate::batch::embedding;
use crate::batch::reject::{Reason, excerpt};
use crate::copy::{put_array, put_halfvec, put_vector};
use crate::error::Result;
use crate::postgres::types::TargetType;

/// OIDs of array elements, from `pg_type.dat`.
pub(super) const TEXT_OID: u32 = 25;
pub(super) const INT8_OID: u32 = 20;

/// pgvector's limit for `vector` and `halfvec`.
const DIMENSIONS_MAX: usize = 16_000;

impl Converter {
    pub(super) fn text_arrays(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let lists = self.cast(array, &list_of(DataType::Utf8), rejects)?;
        let lists = lists.as_list::<i32>();
        Ok(variable(&[], array, rejects, |row, out| {
            if lists.is_null(row) {
                return refused_before();
            }
            let items = lists.value(row);
            if let Some(bad) = vanished(array, row, &items) {
                let reason = match items_of(array, row).data_type() {
                    DataType::Binary | DataType::LargeBinary => Reason::InvalidUtf8,
                    _ => self.no_value(),
                };
                return Err((reason, bad));
            }
            let items = items.as_string::<i32>();
            if let Some(bad) = items.iter().flatten().find(|item| item.contains('\0')) {
                return Err((Reason::NulByte, excerpt(bad.as_bytes())));
            }
            let bytes: Vec<_> = items.iter().map(|item| item.map(str::as_bytes)).collect();
            put_array(out, TEXT_OID, bytes.iter().copied());
            Ok(())
        }))
    }

    pub(super) fn integer_arrays(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let lists = self.cast(array, &list_of(DataType::Int64), rejects)?;
        let lists = lists.as_list::<i32>();
        Ok(variable(&[], array, rejects, |row, out| {
            if lists.is_null(row) {
                return refused_before();
            }
            let items = lists.value(row);
            if let Some(bad) = vanished(array, row, &items) {
                return Err((Reason::IntegerRange("bigint".into()), bad));
            }
            let items = items.as_primitive::<Int64Type>();
            let bytes: Vec<_> = items.iter().map(|item| item.map(i64::to_be_bytes)).collect();
            put_array(out, INT8_OID, bytes.iter().map(|item| item.as_ref().map(|item| &item[..])));
            Ok(())
        }))
    }

    /// A vector column that is not the batch's embedding (a table may have several).
    pub(super) fn vectors(&self, array: &ArrayRef, text: bool, rejects: &mut ColumnRejects) -> Result<Cells> {
        let half = matches!(self.target, TargetType::Halfvec(_));
        let expected = self.target.vector_dim().flatten();
        let mut values = Vec::new();
        Ok(variable(&[], array, rejects, |row, out| {
            values.clear();
            let refuse = |reason| Err((reason, shown(array, row)));
            if let Err(reason) = embedding::read_row(array.as_ref(), row, text, &mut values) {
                return refuse(reason);
            }
            if values.is_empty() || values.len() > DIMENSIONS_MAX {
                let found = values.len();
                return refuse(Reason::Value(format!(
                    "{found} dimensions, and a vector has 1 to {DIMENSIONS_MAX}"
                )));
            }
            let expected = expected.unwrap_or(values.len());
            if values.len() != expected {
                return refuse(Reason::Dimension { found: values.len(), expected });
            }
            if let Some(reason) = embedding::element_refusal(&values, half) {
                return refuse(reason);
            }
            if half {
                put_halfvec(out, &values);
            } else {
                put_vector(out, &values);
            }
            // The cell adds the length.
            out.drain(..4);
            Ok(())
        }))
    }
}

/// The column to be looked at, with its texts, which come as bytes, as texts; what is no UTF-8 in them is lost.
pub fn with_texts(array: &ArrayRef) -> ArrayRef {
    let to = texts_type(array.data_type());
    if to == *array.data_type() {
        return Arc::clone(array);
    }
    if let Some(values) = array.as_binary_opt::<i32>() {
        let texts: StringArray = values.iter().map(|value| value.map(String::from_utf8_lossy)).collect();
        return Arc::new(texts);
    }
    let data = array.to_data();
    let children = data.child_data().iter().map(|child| with_texts(&make_array(child.clone())).to_data());
    let children = children.collect();
    let texts = data.into_builder().data_type(to).child_data(children).build();
    texts.map_or_else(|_| Arc::clone(array), make_array)
}

/// The type with `Utf8` for `Binary`, which is how texts come.
pub(super) fn texts_type(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(texts_type(field.data_type())))
    };
    match data_type {
        DataType::Binary => DataType::Utf8,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        other => other.clone(),
    }
}

/// A row that the cast of the whole list has rejected.
fn refused_before() -> Result<(), (Reason, String)> {
    Ok(())
}

/// The first item of a row that was there and is null in `cast`, if there is one.
fn vanished(array: &ArrayRef, row: usize, cast: &ArrayRef) -> Option<String> {
    let items = items_of(array, row);
    let nulls = items.logical_nulls();
    let was_null = |item: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(item));
    let vanished = (cast.null_count() > 0)
        .then(|| (0..cast.len()).find(|item| cast.is_null(*item) && !was_null(*item)))
        .flatten()?;
    Some(shown(&items, vanished))
}

/// The items of a row that is a list of some kind.
fn items_of(array: &ArrayRef, row: usize) -> ArrayRef {
    match array.data_type() {
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => array.as_list::<i32>().value(row),
    }
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}
