//! pgvector's binary formats, as `vector_send` and `halfvec_send` write them: `int16` dimension, `int16`
//! unused (0), then the elements, `float4` or half precision, big-endian.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements converted at a time.
const PIECE: usize = 64;

/// Bytes of a field that holds a `vector` (4 bytes an element) or `halfvec` (2), its length included.
pub fn vector_field_bytes(dim: usize, element_bytes: usize) -> usize {
    4 + 4 + dim * element_bytes
}

/// Appends a field with a `vector`.
pub fn put_vector(out: &mut Vec<u8>, values: &[f32]) {
    put_elements(out, values, |value| value.to_bits().to_be_bytes());
}

/// The same of elements in little-endian bytes, as Parquet stores them.
pub fn put_stored_vector(out: &mut Vec<u8>, values: &[[u8; 4]]) {
    put_elements(out, values, |[a, b, c, d]| [d, c, b, a]);
}

/// Appends a field with a `halfvec`: each element is rounded to the nearest, as pgvector does.
pub fn put_halfvec(out: &mut Vec<u8>, values: &[f32]) {
    put_halves(out, values, |value| value);
}

/// The same of elements in little-endian bytes.
pub fn put_stored_halfvec(out: &mut Vec<u8>, values: &[[u8; 4]]) {
    put_halves(out, values, f32::from_le_bytes);
}

fn put_elements<T: Copy>(out: &mut Vec<u8>, values: &[T], swap: impl Fn(T) -> [u8; 4]) {
    put_head(out, values.len(), 4);
    // Swapped in a register's reach and appended: room that is zeroed first is written twice.
    let mut swapped = [[0; 4]; PIECE];
    for piece in values.chunks(PIECE) {
        let swapped = &mut swapped[..piece.len()];
        for (target, value) in swapped.iter_mut().zip(piece) {
            *target = swap(*value);
        }
        out.extend_from_slice(swapped.as_flattened());
    }
}

fn put_halves<T: Copy>(out: &mut Vec<u8>, values: &[T], float: impl Fn(T) -> f32) {
    put_head(out, values.len(), 2);
    let (mut floats, mut halves, mut swapped) = ([0.0; PIECE], [f16::ZERO; PIECE], [[0; 2]; PIECE]);
    for piece in values.chunks(PIECE) {
        let count = piece.len();
        for (target, value) in floats.iter_mut().zip(piece) {
            *target = float(*value);
        }
        halves[..count].convert_from_f32_slice(&floats[..count]);
        for (target, value) in swapped.iter_mut().zip(&halves[..count]) {
            *target = value.to_bits().to_be_bytes();
        }
        out.extend_from_slice(swapped[..count].as_flattened());
    }
}

fn put_head(out: &mut Vec<u8>, dim: usize, element_bytes: usize) {
    // pgvector allows 16,000 dimensions; preflight has compared the dimension with the column's.
    let length = (4 + dim * element_bytes) as u32;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&(dim as u16).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_is_dimension_unused_and_big_endian_floats() {
        let mut out = Vec::new();
        put_vector(&mut out, &[1.0, -2.5]);
        assert_eq!(out, [0, 0, 0, 12, 0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0x20, 0, 0]);
        assert_eq!(out.len(), vector_field_bytes(2, 4));
        let mut stored = Vec::new();
        put_stored_vector(&mut stored, &[1f32.to_le_bytes(), (-2.5f32).to_le_bytes()]);
        assert_eq!(stored, out);
    }

    #[test]
    fn halfvec_longer_than_one_piece_keeps_every_element() {
        let values: Vec<f32> = (0..150).map(|i| i as f32).collect();
        let mut out = Vec::new();
        put_halfvec(&mut out, &values);
        assert_eq!(out.len(), vector_field_bytes(150, 2));
        let back: Vec<f32> = out[8..]
            .chunks_exact(2)
            .map(|pair| f16::from_bits(u16::from_be_bytes([pair[0], pair[1]])).to_f32())
            .collect();
        assert_eq!(back, values);
        let mut stored = Vec::new();
        put_stored_halfvec(&mut stored, &values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>());
        assert_eq!(stored, out);
    }
}
