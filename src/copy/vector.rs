//! pgvector's binary formats, as `vector_send` and `halfvec_send` write them: `int16` dimension, `int16`
//! unused (0), then the elements, `float4` or half precision, big-endian.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Bytes of a field that holds a `vector` (4 bytes an element) or `halfvec` (2), its length included.
pub fn vector_field_bytes(dim: usize, element_bytes: usize) -> usize {
    4 + 4 + dim * element_bytes
}

/// Appends a field with a `vector`.
pub fn put_vector(out: &mut Vec<u8>, values: &[f32]) {
    put_head(out, values.len(), 4);
    // Swapped in a register's reach and appended: room that is zeroed first is written twice.
    let mut swapped = [[0; 4]; 64];
    for chunk in values.chunks(64) {
        let swapped = &mut swapped[..chunk.len()];
        for (target, value) in swapped.iter_mut().zip(chunk) {
            *target = value.to_bits().to_be_bytes();
        }
        out.extend_from_slice(swapped.as_flattened());
    }
}

/// Appends a field with a `halfvec`: each element is rounded to the nearest, as pgvector does.
pub fn put_halfvec(out: &mut Vec<u8>, values: &[f32]) {
    put_head(out, values.len(), 2);
    let start = out.len();
    out.resize(start + values.len() * 2, 0);
    let mut halves = [f16::ZERO; 64];
    for (target, chunk) in out[start..].chunks_mut(128).zip(values.chunks(64)) {
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(chunk);
        for (target, value) in target.chunks_exact_mut(2).zip(halves) {
            target.copy_from_slice(&value.to_bits().to_be_bytes());
        }
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
    }
}
