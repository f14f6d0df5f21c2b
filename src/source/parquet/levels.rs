//! Levels of nested columns in runs: a list of 1,536 floats has as many levels, and they are two runs.
//!
//! The hybrid of runs and packed bits is that of the Parquet format, `Encodings.md`, "Run Length Encoding /
//! Bit-Packing Hybrid".

use bytes::{Buf, Bytes};
use parquet::errors::{ParquetError, Result};

/// Levels compared at a time where they are decoded already.
const COMPARED: usize = 64;

/// Levels of a page, in order.
#[derive(Debug)]
pub(super) enum Levels {
    /// As they are stored.
    Stored(StoredLevels),
    /// As a decoder has given them, and which is next.
    Decoded(Vec<i16>, usize),
}

impl Levels {
    /// How many are left.
    pub(super) fn left(&self) -> usize {
        match self {
            Self::Stored(levels) => levels.left,
            Self::Decoded(levels, next) => levels.len() - next,
        }
    }

    /// The next level, and how many of the same follow at least, itself included, of the next `count`; `None` at the
    /// end.
    pub(super) fn peek(&mut self, count: usize) -> Result<Option<(i16, usize)>> {
        match self {
            Self::Stored(levels) => Ok(levels.peek()?.map(|(level, run)| (level, run.min(count)))),
            Self::Decoded(levels, next) => {
                let rest = &levels[*next..];
                let rest = &rest[..rest.len().min(count)];
                Ok(rest.first().map(|level| (*level, run_of(*level, rest))))
            }
        }
    }

    /// Goes on by so many, of those that were just looked at.
    pub(super) fn advance(&mut self, count: usize) {
        match self {
            Self::Stored(levels) => levels.advance(count),
            Self::Decoded(levels, next) => *next = (*next + count).min(levels.len()),
        }
    }
}

/// How many levels are this one, from the first.
fn run_of(level: i16, levels: &[i16]) -> usize {
    let mut run = 0;
    for block in levels.chunks(COMPARED) {
        // Without a way out in the middle, so that many are compared at once.
        if block.iter().fold(true, |same, other| same & (*other == level)) {
            run += block.len();
        } else {
            return run + block.iter().take_while(|other| **other == level).count();
        }
    }
    run
}

/// Levels in the hybrid of runs and packed bits, of at most 8 bits each.
#[derive(Debug)]
pub(super) struct StoredLevels {
    bytes: Bytes,
    width: u8,
    max: i16,
    left: usize,
    run: Run,
}

#[derive(Debug)]
enum Run {
    /// The same level so many times more.
    Same(i16, usize),
    /// Packed levels, and at which bit of them the next begins.
    Packed(Bytes, usize),
}

impl StoredLevels {
    /// So many levels from 0 to `max`, which is below 256.
    pub(super) fn new(bytes: Bytes, max: i16, count: usize) -> Self {
        let width = (i16::BITS - max.leading_zeros()) as u8;
        Self { bytes, width, max, left: count, run: Run::Same(0, 0) }
    }

    fn peek(&mut self) -> Result<Option<(i16, usize)>> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            let (level, run) = match &self.run {
                Run::Same(level, run) if *run > 0 => (*level, *run),
                Run::Packed(bytes, bit) if bit + usize::from(self.width) <= bytes.len() * 8 => {
                    packed_run(bytes, *bit, self.width)
                }
                _ => {
                    self.run = self.next_run().ok_or_else(|| damaged("the levels end too early"))?;
                    continue;
                }
            };
            if level > self.max {
                return Err(damaged("a level is higher than any can be"));
            }
            // The last group of packed levels is filled up to eight.
            return Ok(Some((level, run.min(self.left))));
        }
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        match &mut self.run {
            Run::Same(_, run) => *run = run.saturating_sub(count),
            Run::Packed(_, bit) => *bit += count * usize::from(self.width),
        }
    }

    fn next_run(&mut self) -> Option<Run> {
        let mut header = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes.try_get_u8().ok()?;
            header |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let length = usize::try_from(header >> 1).ok().filter(|length| *length > 0)?;
        if header & 1 == 0 {
            return Some(Run::Same(i16::from(self.bytes.try_get_u8().ok()?), length));
        }
        // Groups of eight; those that nobody needs may be missing.
        let bytes = length.checked_mul(usize::from(self.width))?.min(self.bytes.len());
        (bytes > 0).then(|| Run::Packed(self.bytes.split_to(bytes), 0))
    }
}

/// The packed level that begins at a bit, and how many of the same follow, looked for in its byte alone. There is one.
fn packed_run(bytes: &[u8], bit: usize, width: u8) -> (i16, usize) {
    let (byte, shift) = (bit / 8, bit % 8);
    if width == 1 {
        let bits = bytes[byte] >> shift;
        let level = bits & 1;
        let same = if level == 1 { bits.trailing_ones() } else { bits.trailing_zeros() };
        return (i16::from(level), (same as usize).min(8 - shift));
    }
    let two = u16::from(bytes[byte]) | u16::from(bytes.get(byte + 1).copied().unwrap_or(0)) << 8;
    (((two >> shift) & ((1 << width) - 1)).cast_signed(), 1)
}

fn damaged(what: &str) -> ParquetError {
    ParquetError::General(what.into())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All levels, in steps of at most `step`.
    fn all(mut levels: Levels, step: usize) -> Result<Vec<i16>> {
        let mut all = Vec::new();
        while let Some((level, run)) = levels.peek(step)? {
            all.extend(std::iter::repeat_n(level, run));
            levels.advance(run);
        }
        Ok(all)
    }

    /// Runs where eight or more levels are the same, packed bits for the others, the last eight filled up.
    pub(in super::super) fn encoded(levels: &[i16], max: i16) -> Vec<u8> {
        let width = (i16::BITS - max.leading_zeros()) as usize;
        let (mut bytes, mut rest) = (Vec::new(), levels);
        while let Some(level) = rest.first() {
            let run = run_of(*level, rest);
            if run >= 8 {
                // Seven bits of the header at a time.
                let mut header = run << 1;
                while header >= 0x80 {
                    bytes.push(header as u8 | 0x80);
                    header >>= 7;
                }
                bytes.extend([header as u8, *level as u8]);
                rest = &rest[run..];
            } else {
                let eight = rest.len().min(8);
                let packed =
                    rest[..eight].iter().rev().fold(0u64, |bits, level| bits << width | *level as u64);
                bytes.push(1 << 1 | 1);
                bytes.extend_from_slice(&packed.to_le_bytes()[..width]);
                rest = &rest[eight..];
            }
        }
        bytes
    }

    /// Levels in which runs are frequent.
    fn levels(max: i16) -> impl Strategy<Value = Vec<i16>> {
        prop::collection::vec((0..=max, 1usize..300), 0..40).prop_map(|runs| {
            let of = |(level, run): (i16, usize)| std::iter::repeat_n(level, run / 10 + run % 3);
            runs.into_iter().flat_map(of).collect()
        })
    }

    proptest! {
        #[test]
        fn levels_are_those_that_were_written(
            (max, levels) in (1i16..=7).prop_flat_map(|max| (Just(max), levels(max))),
            step in 1usize..100,
        ) {
            let stored = StoredLevels::new(encoded(&levels, max).into(), max, levels.len());
            let read = all(Levels::Stored(stored), step).expect("good levels");
            prop_assert_eq!(read, &levels[..]);
            let read = all(Levels::Decoded(levels.clone(), 0), step).expect("good levels");
            prop_assert_eq!(read, levels);
        }

        #[test]
        fn no_bytes_make_it_panic_or_run_away(bytes: Vec<u8>, max in 1i16..=7, count in 0usize..10_000) {
            let read = all(Levels::Stored(StoredLevels::new(bytes.into(), max, count)), usize::MAX);
            prop_assert!(read.is_err() || read.is_ok_and(|levels| levels.len() == count));
        }
    }

    #[test]
    fn what_can_be_no_level_is_an_error() {
        for bytes in [&[][..], &[0], &[0, 0], &[2], &[1], &[3], &[0x20, 3], &[0xff; 12]] {
            let stored = StoredLevels::new(Bytes::copy_from_slice(bytes), 2, 16);
            assert!(all(Levels::Stored(stored), usize::MAX).is_err(), "{bytes:?}");
        }
    }
}
