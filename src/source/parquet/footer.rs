//! The footer, checked before the decoder parses it: the decoder recurses through the schema and makes room
//! for as many children as a group announces.
//!
//! A footer is a Thrift struct, `FileMetaData` in `parquet.thrift` of the Parquet format.

use super::thrift::{Kind, Thrift};

/// Groups within groups. Writers make three for each level of a user's structure, and nobody nests twenty.
const SCHEMA_DEPTH_MAX: usize = 64;

/// Checks that a footer's schema is a tree of bounded depth, of as many elements as there are, and that all of
/// the footer is there.
pub(super) fn check(footer: &[u8]) -> Result<(), &'static str> {
    const SCHEMA: i64 = 2;
    const DAMAGED: &str = "the footer is damaged";
    let mut thrift = Thrift::new(footer);
    let mut field = 0;
    while let Some(kind) = thrift.next_field(&mut field).ok_or(DAMAGED)? {
        match (field, kind) {
            (SCHEMA, Kind::List) => check_schema(&mut thrift).ok_or("the footer's schema is damaged")?,
            _ => thrift.skip(kind, 0).ok_or(DAMAGED)?,
        }
    }
    Ok(())
}

/// Walks the schema's elements, which are in depth-first order.
fn check_schema(thrift: &mut Thrift<'_>) -> Option<()> {
    let (elements, Kind::Struct) = thrift.list()?? else { return None };
    // Children still to come of each group that is open.
    let mut open: Vec<u64> = Vec::new();
    let mut unannounced = elements - 1;
    for element in 0..elements {
        let children = children(thrift)?;
        if element > 0 {
            let left = open.last_mut()?;
            *left -= 1;
        }
        unannounced = unannounced.checked_sub(children)?;
        if children > 0 {
            open.push(children);
        }
        if open.len() > SCHEMA_DEPTH_MAX {
            return None;
        }
        while open.pop_if(|left| *left == 0).is_some() {}
    }
    open.is_empty().then_some(())
}

/// How many children a schema's element announces.
fn children(thrift: &mut Thrift<'_>) -> Option<u64> {
    const NUM_CHILDREN: i64 = 5;
    let (mut children, mut field) = (0, 0);
    while let Some(kind) = thrift.next_field(&mut field)? {
        match (field, kind) {
            (NUM_CHILDREN, Kind::Integer) => children = u64::try_from(thrift.integer()?).ok()?,
            _ => thrift.skip(kind, 0)?,
        }
    }
    Some(children)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A footer that holds a schema alone, of elements with so many children each.
    fn footer(children: &[i32]) -> Vec<u8> {
        let mut bytes = vec![0x29, 0xfc];
        put_varint(&mut bytes, children.len() as u64);
        for children in children {
            bytes.push(0x55);
            put_varint(&mut bytes, u64::from(((children << 1) ^ (children >> 31)).cast_unsigned()));
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }

    #[test]
    fn a_schema_is_a_tree_of_the_elements_that_are_there() {
        for good in [&[0][..], &[1, 0], &[2, 0, 2, 0, 0], &[2, 1, 1, 0, 0]] {
            assert!(check(&footer(good)).is_ok(), "{good:?}");
        }
        for damaged in
            [&[][..], &[1], &[0, 0], &[-1, 0], &[2, 0], &[1, 0, 0], &[2_000_000_000, 0], &[1, i32::MAX, 0]]
        {
            assert!(check(&footer(damaged)).is_err(), "{damaged:?}");
        }
        let whole = footer(&[2, 0, 0]);
        for cut in 0..whole.len() {
            assert!(check(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_schema_is_nested_only_so_deep() {
        let nested = |depth: usize| footer(&[vec![1; depth], vec![0]].concat());
        assert!(check(&nested(SCHEMA_DEPTH_MAX)).is_ok());
        assert!(check(&nested(SCHEMA_DEPTH_MAX + 1)).is_err());
        assert!(check(&nested(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_check_panic_or_run_away(bytes: Vec<u8>) {
            // A struct ends with a zero.
            prop_assert!(check(&bytes).is_err() || bytes.contains(&0));
        }

        #[test]
        fn no_counts_make_the_check_panic(children: Vec<i32>) {
            let announced = children.iter().map(|children| i64::from(*children)).sum::<i64>();
            prop_assert!(check(&footer(&children)).is_err() || announced + 1 == children.len() as i64);
        }
    }
}
