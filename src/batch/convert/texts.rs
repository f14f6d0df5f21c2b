//! What is text in the source: text itself, JSON and UUIDs.

use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

use super::{ColumnRejects, Converter, as_binary, fixed, is_text, unexpected};
use crate::batch::cells::Cells;
use crate::batch::json;
use crate::batch::reject::{Reason, excerpt};
use crate::error::Result;
use crate::postgres::types::TargetType;

/// `jsonb`'s binary form starts with a version number, 1.
const JSONB_PREFIX: &[u8] = &[1];

impl Converter {
    pub(super) fn texts(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let values = match is_text(array.data_type()) {
            true => as_binary(array)?,
            false => as_binary(&self.cast(array, &DataType::Utf8, rejects)?)?,
        };
        reject_texts(&values, rejects, |value| self.check_text(value));
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

    pub(super) fn json_texts(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let values = as_binary(array)?;
        reject_texts(&values, rejects, |value| {
            json::refusal(value).map_or(Ok(()), |why| Err(Reason::Json(why)))
        });
        Ok(Cells::Variable { prefix: self.json_prefix(), values })
    }

    pub(super) fn json_prefix(&self) -> &'static [u8] {
        if self.target == TargetType::Jsonb { JSONB_PREFIX } else { &[] }
    }
}

/// UUIDs written as text.
pub(super) fn uuids(array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
    let values = as_binary(array)?;
    let uuids =
        (0..values.len()).map(|row| match uuid::Uuid::try_parse_ascii(values.value(row).trim_ascii()) {
            Ok(uuid) => uuid.into_bytes(),
            Err(error) => {
                if !values.is_null(row) {
                    rejects.push((row, Reason::Value(error.to_string()), excerpt(values.value(row))));
                }
                [0; 16]
            }
        });
    Ok(fixed(values.nulls(), uuids))
}

/// A column of texts, or of integers, as text.
pub(super) fn text_of(array: &ArrayRef) -> Result<BinaryArray> {
    if is_text(array.data_type()) {
        return as_binary(array);
    }
    let text = cast_with_options(array, &DataType::Utf8, &CastOptions::default()).map_err(unexpected)?;
    as_binary(&text)
}

/// Adds the values that `check` refuses to `rejects`.
fn reject_texts(
    values: &BinaryArray,
    rejects: &mut ColumnRejects,
    check: impl Fn(&[u8]) -> Result<(), Reason>,
) {
    for row in (0..values.len()).filter(|row| !values.is_null(*row)) {
        if let Err(reason) = check(values.value(row)) {
            rejects.push((row, reason, excerpt(values.value(row))));
        }
    }
}
