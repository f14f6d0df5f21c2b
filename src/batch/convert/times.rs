//! Dates and timestamps. What has no zone is UTC; what is finer than a microsecond is rounded down.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, Int64Builder, timezone::Tz};
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{DataType, Date32Type, Int64Type, TimeUnit};

use super::{ColumnRejects, Converter, as_binary, fixed, is_text, shown};
use crate::batch::cells::Cells;
use crate::batch::reject::Reason;
use crate::batch::text::times::{DATES, TIMESTAMPS};
use crate::copy::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS};
use crate::error::Result;
use crate::postgres::types::TargetType;

const DAY_MICROS: i64 = 86_400_000_000;

/// The server takes zones up to this many hours from UTC (`MAX_TZDISP_HOUR`).
const ZONE_HOURS_MAX: u8 = 15;

impl Converter {
    pub(super) fn dates(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let days = self.moments(array, rejects)?;
        Ok(fixed(days.nulls(), days.values().iter().map(|day| (*day as i32).to_be_bytes())))
    }

    pub(super) fn timestamps(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let micros = self.moments(array, rejects)?;
        Ok(fixed(micros.nulls(), micros.values().iter().map(|value| value.to_be_bytes())))
    }

    /// Days or microseconds since the server's epoch; what lies outside its calendar is rejected.
    fn moments(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Int64Array> {
        let (epoch, calendar) = match self.target {
            TargetType::Date => (i64::from(POSTGRES_EPOCH_DAYS), DATES),
            _ => (POSTGRES_EPOCH_MICROS, TIMESTAMPS),
        };
        let source = match is_text(array.data_type()) {
            true => Moments::Texts(as_binary(array)?),
            false => {
                let ticks = self.cast(array, &DataType::Int64, rejects)?.as_primitive::<Int64Type>().clone();
                Moments::Ticks(ticks, Unit::of(array.data_type()))
            }
        };
        let mut moments = Int64Builder::with_capacity(array.len());
        for row in 0..array.len() {
            if array.is_null(row) {
                moments.append_null();
                continue;
            }
            let since_1970 = match &source {
                Moments::Texts(texts) => self.moment(texts.value(row)).map(i128::from),
                Moments::Ticks(ticks, unit) => Some(match self.target {
                    TargetType::Date => unit.days(ticks.value(row)),
                    _ => unit.micros(ticks.value(row)),
                }),
            };
            let placed = since_1970.map(|value| i64::try_from(value - i128::from(epoch)));
            let reason = match placed {
                Some(Ok(value)) if calendar.contains(&value) => {
                    moments.append_value(value);
                    continue;
                }
                Some(_) => Reason::Value(format!("outside the calendar of {}", self.target)),
                None => self.no_value(),
            };
            rejects.push((row, reason, shown(array, row)));
            moments.append_null();
        }
        Ok(moments.finish())
    }

    /// Days or microseconds since 1970 from text, as the server reads it.
    fn moment(&self, text: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(text).ok()?.trim_ascii();
        // The server's calendar has no year 0 and writes no signs; Arrow's has both.
        if text.starts_with("0000") || !text.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let date = text.get(..10).filter(|_| text.len() > 10);
        let utc = date.map_or(Some(0), |_| micros(text))?;
        match self.target {
            // Date and `timestamp` leave a zone in the text aside.
            TargetType::Date => Date32Type::parse(date.unwrap_or(text)).map(i64::from),
            _ if date.is_none() => Some(i64::from(Date32Type::parse(text)?) * DAY_MICROS),
            TargetType::Timestamp => micros(without_zone(text)),
            _ => Some(utc),
        }
    }
}

enum Moments {
    Texts(BinaryArray),
    Ticks(Int64Array, Unit),
}

/// What a tick of a date or timestamp column is: so many microseconds, or one of so many parts of one.
struct Unit {
    micros: i64,
    parts: i64,
}

impl Unit {
    fn of(data_type: &DataType) -> Self {
        let (micros, parts) = match data_type {
            DataType::Date32 => (DAY_MICROS, 1),
            DataType::Timestamp(TimeUnit::Second, _) => (1_000_000, 1),
            DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => (1_000, 1),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => (1, 1_000),
            _ => (1, 1),
        };
        Self { micros, parts }
    }

    fn micros(&self, ticks: i64) -> i128 {
        i128::from(ticks.div_euclid(self.parts)) * i128::from(self.micros)
    }

    fn days(&self, ticks: i64) -> i128 {
        self.micros(ticks).div_euclid(i128::from(DAY_MICROS))
    }
}

/// Microseconds since 1970 from a date with a time: seconds, their fraction and a zone may be missing.
fn micros(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let zone = text.get(without_zone(text).len()..)?.trim_ascii_start();
    let hours = zone.get(1..3).map(str::parse::<u8>);
    if hours.is_some_and(|hours| !hours.is_ok_and(|hours| hours <= ZONE_HOURS_MAX)) {
        return None;
    }
    // 2020-01-02T03:04, then the end or a zone.
    let to_minutes = bytes.get(13) == Some(&b':')
        && bytes.get(14..16).is_some_and(|minutes| minutes.iter().all(u8::is_ascii_digit))
        && !matches!(bytes.get(16), Some(b':' | b'.' | b'0'..=b'9'));
    let padded = to_minutes.then(|| text.split_at_checked(16)).flatten();
    let padded = padded.map(|(to_minutes, zone)| format!("{to_minutes}:00{zone}"));
    let utc: Tz = "+00:00".parse().ok()?;
    let moment = string_to_datetime(&utc, padded.as_deref().unwrap_or(text)).ok()?;
    Some(moment.timestamp_micros())
}

/// A date with a time up to the offset that ends it, if there is one.
fn without_zone(text: &str) -> &str {
    let zone = text.bytes().skip(11).position(|byte| matches!(byte, b'+' | b'-'));
    zone.and_then(|at| text.get(..at + 11)).map_or(text, str::trim_ascii_end)
}
