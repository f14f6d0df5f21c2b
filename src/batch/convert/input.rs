//! Text of CSV and JSON Lines to target types other than text itself and JSON, as the server reads it.

use arrow::array::{Array, ArrayRef, BinaryArray};

use super::nested::{INT8_OID, TEXT_OID};
use super::{ColumnRejects, Converter, as_binary, fixed, variable};
use crate::batch::cells::Cells;
use crate::batch::reject::{Reason, excerpt};
use crate::batch::text::float::{self, Float, Number};
use crate::batch::text::integer::{IntegerRefusal, boolean, integer};
use crate::batch::text::times::TimeRefusal;
use crate::batch::text::{TextForm, array, bytes, numeric, times, trim};
use crate::copy::{NumericRefusal, put_array, put_numeric};
use crate::error::Result;
use crate::postgres::types::TargetType;

impl Converter {
    /// A column of texts into a type that has a parser here.
    pub(super) fn input(
        &self,
        source: &ArrayRef,
        form: TextForm,
        rejects: &mut ColumnRejects,
    ) -> Result<Cells> {
        let texts = as_binary(source)?;
        Ok(match &self.target {
            TargetType::Bool => each(&texts, rejects, |text| {
                boolean(text).map(|value| [u8::from(value)]).ok_or_else(|| self.no_value())
            }),
            TargetType::Int2 => each(&texts, rejects, |text| {
                self.in_type(text)
                    .and_then(|value| i16::try_from(value).map_err(|_| self.integer_range()))
                    .map(i16::to_be_bytes)
            }),
            TargetType::Int4 => each(&texts, rejects, |text| {
                self.in_type(text)
                    .and_then(|value| i32::try_from(value).map_err(|_| self.integer_range()))
                    .map(i32::to_be_bytes)
            }),
            TargetType::Int8 => each(&texts, rejects, |text| self.in_type(text).map(i64::to_be_bytes)),
            TargetType::Float4 => {
                each(&texts, rejects, |text| self.float_of::<f32>(text).map(f32::to_be_bytes))
            }
            TargetType::Float8 => {
                each(&texts, rejects, |text| self.float_of::<f64>(text).map(f64::to_be_bytes))
            }
            TargetType::Uuid => {
                each(&texts, rejects, |text| bytes::uuid(text).ok_or_else(|| self.no_value()))
            }
            TargetType::Date => each(&texts, rejects, |text| {
                times::date(text).map(i32::to_be_bytes).map_err(|why| self.no_time(why))
            }),
            TargetType::Timestamp | TargetType::Timestamptz => {
                let zoned = self.target == TargetType::Timestamptz;
                each(&texts, rejects, |text| {
                    times::timestamp(text, zoned).map(i64::to_be_bytes).map_err(|why| self.no_time(why))
                })
            }
            _ => variable(&[], source, rejects, |row, out| {
                let text = texts.value(row);
                self.put_input(text, form, out).map_err(|reason| (reason, excerpt(text)))
            }),
        })
    }

    /// Appends the value of a type whose values have no common width.
    fn put_input(&self, text: &[u8], form: TextForm, out: &mut Vec<u8>) -> Result<(), Reason> {
        match &self.target {
            TargetType::Numeric(limits) => {
                let number = numeric::plain(text).ok_or_else(|| self.no_value())?;
                put_numeric(out, &number, *limits).map_err(|refusal| match refusal {
                    NumericRefusal::NotANumber => self.no_value(),
                    NumericRefusal::Beyond => Reason::Value(format!("beyond {}", self.target)),
                })
            }
            TargetType::Bytea => {
                storable(text)?;
                bytes::bytea(text, out).map_err(Reason::Value)
            }
            TargetType::TextArray => {
                storable(text)?;
                let items = items(text, form)?;
                for item in items.iter().flatten() {
                    storable(item)?;
                }
                put_array(out, TEXT_OID, items.iter().map(Option::as_deref));
                Ok(())
            }
            TargetType::Int8Array => {
                let integer = |item: &Option<Vec<u8>>| match item {
                    Some(item) => self.in_type(item).map(|value| Some(value.to_be_bytes())),
                    None => Ok(None),
                };
                let items: Vec<_> = items(text, form)?.iter().map(integer).collect::<Result<_, _>>()?;
                put_array(out, INT8_OID, items.iter().map(|item| item.as_ref().map(|item| &item[..])));
                Ok(())
            }
            _ => Err(self.no_value()),
        }
    }

    fn in_type(&self, text: &[u8]) -> Result<i64, Reason> {
        integer(text).map_err(|refusal| match refusal {
            IntegerRefusal::Syntax => self.no_value(),
            IntegerRefusal::Range => self.integer_range(),
        })
    }

    fn integer_range(&self) -> Reason {
        match self.target {
            TargetType::Int8Array => Reason::IntegerRange(TargetType::Int8.to_string()),
            _ => Reason::IntegerRange(self.target.to_string()),
        }
    }

    fn float_of<F: Float>(&self, text: &[u8]) -> Result<F, Reason> {
        let text = trim(text);
        // A NaN's sign is nobody's wish, and would be kept.
        let signed_nan = text.len() == 4 && text[1..].eq_ignore_ascii_case(b"nan");
        match float::prefix::<F>(text) {
            Some(Number { bytes, .. }) if bytes < text.len() || signed_nan => Err(self.no_value()),
            Some(Number { beyond: Some(_), .. }) => Err(self.out_of_range()),
            Some(Number { value, .. }) => Ok(value),
            None => Err(self.no_value()),
        }
    }

    fn no_time(&self, refusal: TimeRefusal) -> Reason {
        Reason::Value(match (refusal, &self.target) {
            (TimeRefusal::Form, TargetType::Date) => {
                "not a date as vecload reads it: write 2024-01-31".into()
            }
            (TimeRefusal::Form, target) => {
                format!(
                    "not a {target} as vecload reads it: write 2024-01-31 12:30:00.5 or 2024-01-31T12:30:00+02:00"
                )
            }
            (TimeRefusal::Field, _) => "there is no such month, day, time or offset".into(),
            (TimeRefusal::Calendar, target) => format!("outside the calendar of {target}"),
        })
    }
}

/// The elements of an array: JSON has its own, and its strings may hold PostgreSQL's.
fn items(text: &[u8], form: TextForm) -> Result<Vec<Option<Vec<u8>>>, Reason> {
    let is_json = form == TextForm::Json && trim(text).first() == Some(&b'[');
    if is_json { array::json(text) } else { array::literal(text) }.map_err(Reason::Value)
}

/// Refuses what no text of the server can hold.
fn storable(text: &[u8]) -> Result<(), Reason> {
    std::str::from_utf8(text).map_err(|_| Reason::InvalidUtf8)?;
    if memchr::memchr(0, text).is_some() { Err(Reason::NulByte) } else { Ok(()) }
}

/// Values of one width; what `parse` refuses is a reject.
fn each<const N: usize>(
    texts: &BinaryArray,
    rejects: &mut ColumnRejects,
    parse: impl Fn(&[u8]) -> Result<[u8; N], Reason>,
) -> Cells {
    let values = (0..texts.len()).map(|row| {
        if texts.is_null(row) {
            return [0; N];
        }
        let text = texts.value(row);
        parse(text).unwrap_or_else(|reason| {
            rejects.push((row, reason, excerpt(text)));
            [0; N]
        })
    });
    fixed(texts.nulls(), values)
}
