//! Embeddings: reading one from any form a column may hold it in, and the checks on its elements.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};

use super::reject::Reason;
use crate::source::Embedding;

pub use super::text::vector::read_text;

/// What the check of a row's elements found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements {
    /// Ready to be sent.
    Good,
    /// All elements are zero: accepted, but HNSW by cosine distance leaves the row out.
    Zero,
    /// At least one element is NaN, infinite or beyond a `halfvec`.
    Refused,
}

/// Checks the elements of one embedding in one pass.
pub fn check_elements(embedding: Embedding<'_>, half: bool) -> Elements {
    match embedding {
        Embedding::Floats(values) => check_bits(values.iter().map(|value| value.to_bits()), half),
        Embedding::Stored(values) => check_bits(values.iter().map(|value| u32::from_le_bytes(*value)), half),
    }
}

fn check_bits(elements: impl Iterator<Item = u32>, half: bool) -> Elements {
    const INFINITE: u32 = f32::INFINITY.to_bits();
    // From here on rounding to half precision gives infinity; 65,504 is the largest that does not.
    const BEYOND_HALF: u32 = 65_520f32.to_bits();
    let limit = if half { BEYOND_HALF } else { INFINITE };
    let (refused, union) = elements.fold((false, 0u32), |(refused, union), bits| {
        let magnitude = bits & 0x7fff_ffff;
        (refused | (magnitude >= limit), union | magnitude)
    });
    match (refused, union) {
        (true, _) => Elements::Refused,
        (false, 0) => Elements::Zero,
        (false, _) => Elements::Good,
    }
}

/// Why an embedding with refused elements is refused: the first such element decides.
pub fn element_refusal(values: &[f32], half: bool) -> Option<Reason> {
    let limit = if half { 65_520.0 } else { f32::INFINITY };
    let refused = values.iter().find(|value| value.is_nan() || value.abs() >= limit)?;
    Some(match refused {
        value if value.is_nan() => Reason::NotANumber,
        value if value.is_infinite() => Reason::Infinite,
        _ => Reason::ElementRange("65,504, the largest element of a halfvec"),
    })
}

/// Whether [`read_row`] can read embeddings from a column of this type.
pub fn readable(data_type: &DataType) -> bool {
    let is_float =
        |item: &DataType| matches!(item, DataType::Float16 | DataType::Float32 | DataType::Float64);
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_float(item.data_type()) || item.data_type().is_integer() || item.data_type().is_null()
        }
        DataType::Binary | DataType::FixedSizeBinary(_) | DataType::Null => true,
        _ => false,
    }
}

/// Appends the embedding of a row to `out`. A column of bytes holds text as [`read_text`] takes it if
/// `text` says so, else raw floats as [`read_bytes`] takes them.
pub fn read_row(array: &dyn Array, row: usize, text: bool, out: &mut Vec<f32>) -> Result<(), Reason> {
    if array.is_null(row) || array.data_type().is_null() {
        return Err(Reason::EmbeddingNull);
    }
    match array.data_type() {
        DataType::List(_) => read_items(array.as_list::<i32>().value(row).as_ref(), out),
        DataType::LargeList(_) => read_items(array.as_list::<i64>().value(row).as_ref(), out),
        DataType::FixedSizeList(..) => read_items(array.as_fixed_size_list().value(row).as_ref(), out),
        DataType::FixedSizeBinary(_) => read_bytes(array.as_fixed_size_binary().value(row), out),
        _ if text => read_text(array.as_binary::<i32>().value(row), out),
        _ => read_bytes(array.as_binary::<i32>().value(row), out),
    }
}

fn read_items(items: &dyn Array, out: &mut Vec<f32>) -> Result<(), Reason> {
    if items.logical_null_count() > 0 {
        return Err(Reason::EmbeddingElementNull);
    }
    match items.data_type() {
        DataType::Float32 => out.extend_from_slice(items.as_primitive::<Float32Type>().values()),
        DataType::Float16 => {
            out.extend(items.as_primitive::<Float16Type>().values().iter().map(|v| v.to_f32()));
        }
        DataType::Float64 => return narrow(items.as_primitive::<Float64Type>().values(), out),
        // Quantised embeddings come as int8 or uint8; every such integer is exact in an f32.
        _ => {
            let floats = arrow::compute::cast(items, &DataType::Float32)
                .map_err(|error| Reason::EmbeddingText(error.to_string()))?;
            out.extend_from_slice(floats.as_primitive::<Float32Type>().values());
        }
    }
    Ok(())
}

/// Appends `f64` elements rounded to `f32`; a finite one that turns infinite is refused.
pub fn narrow(values: &[f64], out: &mut Vec<f32>) -> Result<(), Reason> {
    let start = out.len();
    out.extend(values.iter().map(|value| *value as f32));
    let beyond =
        out[start..].iter().zip(values).any(|(narrow, wide)| narrow.is_infinite() && wide.is_finite());
    if beyond { Err(Reason::ElementRange("the range of a 4-byte float")) } else { Ok(()) }
}

/// Appends the embedding in raw little-endian `f32` bytes.
pub fn read_bytes(bytes: &[u8], out: &mut Vec<f32>) -> Result<(), Reason> {
    let (elements, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Reason::EmbeddingBytes(bytes.len()));
    }
    out.extend(elements.iter().map(|element| f32::from_le_bytes(*element)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_judged_by_the_target() {
        let check = |values: &[f32], half| {
            let stored: Vec<[u8; 4]> = values.iter().map(|value| value.to_le_bytes()).collect();
            let found = check_elements(Embedding::Floats(values), half);
            assert_eq!(check_elements(Embedding::Stored(&stored), half), found);
            found
        };
        assert_eq!(check(&[1.0, -0.0], false), Elements::Good);
        assert_eq!(check(&[0.0, -0.0], false), Elements::Zero);
        assert_eq!(check(&[0.0, f32::NAN], false), Elements::Refused);
        assert_eq!(check(&[65_519.0], true), Elements::Good);
        assert_eq!(check(&[-65_520.0], true), Elements::Refused);
        assert_eq!(check(&[65_520.0], false), Elements::Good);
        assert_eq!(element_refusal(&[1.0, f32::NEG_INFINITY, f32::NAN], false), Some(Reason::Infinite));
    }

    #[test]
    fn raw_bytes_are_little_endian_floats() {
        let mut out = Vec::new();
        assert_eq!(read_bytes(&[0, 0, 0x80, 0x3f], &mut out), Ok(()));
        assert_eq!(out, [1.0]);
        assert_eq!(read_bytes(&[0; 6], &mut out), Err(Reason::EmbeddingBytes(6)));
    }
}
