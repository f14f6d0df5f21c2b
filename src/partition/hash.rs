//! The hash by which Citus assigns an integer channel to a shard: PostgreSQL's `hashint8`, which is Bob
//! Jenkins' hash over one 32-bit word (`hash_bytes_uint32` in the server's `hashfn.c`). Integers of any
//! width and the same value hash alike.

/// Hash of a `bigint`, `integer` or `smallint`.
pub fn hash_int8(value: i64) -> i32 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_uint32(low ^ if value >= 0 { high } else { !high })
}

fn hash_uint32(key: u32) -> i32 {
    const START: u32 = 0x9e37_79b9u32.wrapping_add(4).wrapping_add(3_923_095);
    let mut a = START.wrapping_add(key);
    let (mut b, mut c) = (START, START);
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    c.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_servers() {
        // Values of `hashint8` on a PostgreSQL server; the integration tests compare many more.
        let known = [
            (0, -272_711_505),
            (1, -1_905_060_026),
            (-1, 385_747_274),
            (42, 1_509_752_520),
            (1 << 31, -1_524_351_049),
            (-(1 << 31), -1_524_351_049),
            (i64::MAX, -1_524_351_049),
            (i64::MIN, -96_758_253),
        ];
        for (value, hash) in known {
            assert_eq!(hash_int8(value), hash, "{value}");
        }
    }
}
