//! Integers, floats, `numeric` and booleans.

use std::borrow::Cow;
use std::num::IntErrorKind;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, Decimal128Array, Decimal256Array,
    Float32Array, Float64Array, PrimitiveArray, PrimitiveBuilder,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

use super::texts::text_of;
use super::{ColumnRejects, Converter, fixed, is_text, shown, variable};
use crate::batch::cells::Cells;
use crate::batch::reject::{Reason, excerpt};
use crate::copy::{NumericRefusal, put_numeric};
use crate::error::Result;
use crate::postgres::types::TargetType;

impl Converter {
    pub(super) fn booleans(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let array = self.cast(array, &DataType::Boolean, rejects)?;
        let values = array.as_boolean();
        Ok(fixed(values.nulls(), (0..values.len()).map(|row| [u8::from(values.value(row))])))
    }

    pub(super) fn integers(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let values = match array.data_type() {
            from if is_text(from) => {
                Arc::new(parsed::<Int64Type>(array, rejects, |text| self.integer(text))?)
            }
            DataType::Decimal128(..) | DataType::Decimal256(..) => {
                Arc::new(parsed::<Int64Type>(array, rejects, |text| self.whole(text))?)
            }
            _ => self.cast(array, &DataType::Int64, rejects)?,
        };
        Ok(self.in_range(&values, array, rejects))
    }

    fn integer(&self, text: &str) -> Result<i64, Reason> {
        text.parse::<i64>().map_err(|error| match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                Reason::IntegerRange(self.target.to_string())
            }
            _ => self.no_value(),
        })
    }

    /// The integer that a decimal number is.
    fn whole(&self, text: &str) -> Result<i64, Reason> {
        let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
        match fraction.bytes().all(|digit| digit == b'0') {
            true => self.integer(integer),
            false => Err(not_whole()),
        }
    }

    /// Integers out of floats.
    pub(super) fn whole_floats(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        // 2^63 is the first whole float that a bigint can't hold.
        const LIMIT: f64 = 9_223_372_036_854_775_808.0;
        let floats = self.cast(array, &DataType::Float64, rejects)?;
        let whole = floats.as_primitive::<Float64Type>().iter().enumerate().map(|(row, value)| {
            let value = value?;
            if value.fract() == 0.0 && (-LIMIT..LIMIT).contains(&value) {
                return Some(value as i64);
            }
            let reason = match value.is_finite() && value.fract() == 0.0 {
                true => Reason::IntegerRange(self.target.to_string()),
                false => not_whole(),
            };
            rejects.push((row, reason, shown(array, row)));
            None
        });
        let whole: ArrayRef = Arc::new(PrimitiveArray::<Int64Type>::from_iter(whole.collect::<Vec<_>>()));
        Ok(self.in_range(&whole, array, rejects))
    }

    /// `values` are those of `source` as `bigint`; they are checked against the target's range.
    fn in_range(&self, values: &ArrayRef, source: &ArrayRef, rejects: &mut ColumnRejects) -> Cells {
        let values = values.as_primitive::<Int64Type>();
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
        match self.target {
            TargetType::Int2 => {
                fixed(nulls, values.values().iter().map(|value| (*value as i16).to_be_bytes()))
            }
            TargetType::Int4 => {
                fixed(nulls, values.values().iter().map(|value| (*value as i32).to_be_bytes()))
            }
            _ => fixed(nulls, values.values().iter().map(|value| value.to_be_bytes())),
        }
    }

    pub(super) fn floats(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        if self.target == TargetType::Float8 {
            let values = self.floats_as::<Float64Type>(array, rejects)?;
            return Ok(fixed(values.nulls(), values.values().iter().map(|value| value.to_be_bytes())));
        }
        if let Some(wide) = array.as_primitive_opt::<Float64Type>() {
            for (row, value) in wide.iter().enumerate() {
                let Some(value) = value else { continue };
                let narrow = value as f32;
                if value.is_finite() && narrow.is_infinite() || value != 0.0 && narrow == 0.0 {
                    rejects.push((row, self.out_of_range(), shown(array, row)));
                }
            }
        }
        let values = self.floats_as::<Float32Type>(array, rejects)?;
        Ok(fixed(values.nulls(), values.values().iter().map(|value| value.to_be_bytes())))
    }

    /// Texts and decimals are read as the server reads them, rounded once.
    fn floats_as<T: ArrowPrimitiveType>(
        &self,
        array: &ArrayRef,
        rejects: &mut ColumnRejects,
    ) -> Result<PrimitiveArray<T>>
    where
        T::Native: FromStr + Into<f64>,
    {
        match array.data_type() {
            DataType::Binary | DataType::Utf8 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                parsed::<T>(array, rejects, |text| self.float(text))
            }
            _ => Ok(self.cast(array, &T::DATA_TYPE, rejects)?.as_primitive::<T>().clone()),
        }
    }

    fn float<F: FromStr + Into<f64> + Copy>(&self, text: &str) -> Result<F, Reason> {
        let value: F = text.parse().map_err(|_| self.no_value())?;
        let wide: f64 = value.into();
        // Rust reads 1e400 as infinity and 1e-400 as 0; only the words and zeros mean it.
        let mantissa = text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E'));
        let overflow = wide.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
        let underflow = wide == 0.0 && mantissa.into_iter().any(|byte| matches!(byte, b'1'..=b'9'));
        if overflow || underflow { Err(self.out_of_range()) } else { Ok(value) }
    }

    pub(super) fn numerics(&self, array: &ArrayRef, rejects: &mut ColumnRejects) -> Result<Cells> {
        let limits = match self.target {
            TargetType::Numeric(limits) => limits,
            _ => None,
        };
        let texts = Texts::of(array)?;
        Ok(variable(&[], array, rejects, |row, out| {
            let text = texts.at(row);
            let refuse = |reason| Err((reason, excerpt(&text)));
            let Ok(number) = std::str::from_utf8(&text) else {
                return refuse(Reason::InvalidUtf8);
            };
            match put_numeric(out, number, limits) {
                Ok(()) => Ok(()),
                Err(NumericRefusal::NotANumber) => {
                    refuse(Reason::Value("not a number that numeric holds".into()))
                }
                Err(NumericRefusal::Beyond) => refuse(Reason::Value(format!("beyond {}", self.target))),
            }
        }))
    }

    pub(super) fn out_of_range(&self) -> Reason {
        Reason::Value(format!("out of range for {}", self.target))
    }
}

fn not_whole() -> Reason {
    Reason::Value("not a whole number".into())
}

/// Values read from their texts; what `parse` refuses is a reject.
fn parsed<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    rejects: &mut ColumnRejects,
    parse: impl Fn(&str) -> Result<T::Native, Reason>,
) -> Result<PrimitiveArray<T>> {
    let texts = Texts::of(array)?;
    let mut values = PrimitiveBuilder::<T>::with_capacity(array.len());
    for row in 0..array.len() {
        if array.is_null(row) {
            values.append_null();
            continue;
        }
        let bytes = texts.at(row);
        let text = std::str::from_utf8(&bytes).map_err(|_| Reason::InvalidUtf8);
        match text.and_then(|text| parse(text.trim_ascii())) {
            Ok(value) => values.append_value(value),
            Err(reason) => {
                rejects.push((row, reason, excerpt(&bytes)));
                values.append_null();
            }
        }
    }
    Ok(values.finish())
}

/// Numbers as texts that lose nothing.
enum Texts {
    Text(BinaryArray),
    Decimal(Decimal128Array),
    WideDecimal(Decimal256Array),
    Float(Float32Array),
    Double(Float64Array),
}

impl Texts {
    fn of(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Decimal128(..) => Self::Decimal(array.as_primitive().clone()),
            DataType::Decimal256(..) => Self::WideDecimal(array.as_primitive().clone()),
            DataType::Float32 => Self::Float(array.as_primitive().clone()),
            DataType::Float64 => Self::Double(array.as_primitive().clone()),
            _ => Self::Text(text_of(array)?),
        })
    }

    fn at(&self, row: usize) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Self::Text(values) => return Cow::Borrowed(values.value(row)),
            Self::Decimal(values) => values.value_as_string(row).into_bytes(),
            Self::WideDecimal(values) => values.value_as_string(row).into_bytes(),
            Self::Float(values) => values.value(row).to_string().into_bytes(),
            Self::Double(values) => values.value(row).to_string().into_bytes(),
        })
    }
}
