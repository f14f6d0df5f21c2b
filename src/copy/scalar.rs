//! Fields of scalar types in binary COPY.

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
pub const POSTGRES_EPOCH_DAYS: i32 = 10_957;

/// Microseconds from 1970-01-01 to PostgreSQL's epoch.
pub const POSTGRES_EPOCH_MICROS: i64 = POSTGRES_EPOCH_DAYS as i64 * 86_400_000_000;

/// Appends a null field.
pub fn put_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1i32).to_be_bytes());
}

/// Appends a field: its length, a type's leading byte if it has one (`jsonb`: version 1), its bytes.
pub fn put_value(out: &mut Vec<u8>, prefix: &[u8], value: &[u8]) {
    let length = (prefix.len() + value.len()) as u32;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(prefix);
    out.extend_from_slice(value);
}

/// Writes the body of a one-dimensional array as `array_send` does: dimensions, a flag for nulls, the
/// element's OID, length and lower bound, then the elements as fields.
pub fn put_array<'a>(
    out: &mut Vec<u8>,
    element_oid: u32,
    elements: impl ExactSizeIterator<Item = Option<&'a [u8]>> + Clone,
) {
    let count = elements.len() as u32;
    let has_nulls = elements.clone().any(|element| element.is_none());
    let dimensions = u32::from(count > 0);
    out.extend_from_slice(&dimensions.to_be_bytes());
    out.extend_from_slice(&u32::from(has_nulls).to_be_bytes());
    out.extend_from_slice(&element_oid.to_be_bytes());
    if count > 0 {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
    }
    for element in elements {
        match element {
            Some(value) => put_value(out, &[], value),
            None => put_null(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_carry_their_length_and_null_is_minus_one() {
        let mut out = Vec::new();
        put_value(&mut out, &[1], b"{}");
        put_null(&mut out);
        assert_eq!(out, [0, 0, 0, 3, 1, b'{', b'}', 0xff, 0xff, 0xff, 0xff]);
    }
}
