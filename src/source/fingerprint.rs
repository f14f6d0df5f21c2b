//! What makes a file the same source as one loaded earlier.
//!
//! Size, footer and 64 sampled blocks are hashed into the fingerprint, which is read in a moment whatever
//! the file's size. Where the fingerprint agrees and the modification time does not, the whole file's hash
//! decides; it is stored when a load has finished.

use twox_hash::XxHash3_128;

use super::parquet::PositionedFile;
use crate::error::{Context, Result};

const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 4096;

/// The footer and its frame are within the last blocks of the file; as much of them is hashed whole.
const TAIL_BYTES_MAX: u64 = 1 << 20;

/// Bytes read at a time for a full hash: few enough to be hashed in a core's cache.
const READ_BYTES: usize = 256 << 10;

/// A source's identity as far as it is known quickly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Hash over size, footer and samples, in hexadecimal.
    pub content: String,
    /// Bytes in the file.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub modified_nanos: i64,
}

impl Fingerprint {
    /// Reads a file's fingerprint.
    pub fn of(file: &PositionedFile) -> Result<Self> {
        let size = file.size();
        let describe = || format!("read {} for its fingerprint", file.path().display());
        let mut hasher = XxHash3_128::new();
        hasher.write(&size.to_le_bytes());
        let tail = file
            .read_up_to(size.min(TAIL_BYTES_MAX) as usize, size - size.min(TAIL_BYTES_MAX))
            .or_failed(describe)?;
        hasher.write(&tail);
        let tail_starts = size - tail.len() as u64;
        for sample in 0..SAMPLES {
            // Spread evenly from the first block to the last.
            let offset = (size.saturating_sub(SAMPLE_BYTES) as u128 * u128::from(sample)
                / u128::from(SAMPLES - 1)) as u64;
            // A small file is all tail.
            match offset.checked_sub(tail_starts).and_then(|start| tail.get(start as usize..)) {
                Some(rest) => hasher.write(&rest[..rest.len().min(SAMPLE_BYTES as usize)]),
                None => hasher.write(&file.read_up_to(SAMPLE_BYTES as usize, offset).or_failed(describe)?),
            }
        }
        Ok(Self {
            content: format!("{:032x}", hasher.finish_128()),
            size,
            modified_nanos: file.modified_nanos()?,
        })
    }
}

/// Hash of a whole file, in hexadecimal.
pub fn full_hash(file: &PositionedFile) -> Result<String> {
    let mut hash = FullHash::new(file);
    while hash.step()? > 0 {}
    Ok(hash.hex())
}

/// The hash of a whole file, taken step by step.
pub struct FullHash<'a> {
    file: &'a PositionedFile,
    hasher: XxHash3_128,
    buffer: Vec<u8>,
    offset: u64,
}

impl<'a> FullHash<'a> {
    /// Of nothing yet.
    pub fn new(file: &'a PositionedFile) -> Self {
        let length = READ_BYTES.min(usize::try_from(file.size()).unwrap_or(READ_BYTES));
        Self { file, hasher: XxHash3_128::new(), buffer: vec![0; length], offset: 0 }
    }

    /// Hashes a step further; gives the bytes of it, 0 at the end.
    pub fn step(&mut self) -> Result<u64> {
        let left = self.file.size().saturating_sub(self.offset);
        let length = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file
            .read_exact_at(&mut self.buffer[..length], self.offset)
            .or_failed(|| format!("read {} for its hash", self.file.path().display()))?;
        self.hasher.write(&self.buffer[..length]);
        self.offset += length as u64;
        Ok(length as u64)
    }

    /// The hash of all steps, in hexadecimal.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.hasher.finish_128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_footer_or_a_sample_shows_and_the_full_hash_sees_every_byte() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let mut bytes = vec![7u8; 5 << 20];
        let read = |bytes: &[u8]| {
            std::fs::write(path.path(), bytes).expect("write");
            let file = PositionedFile::open(path.path()).expect("open");
            (Fingerprint::of(&file).expect("read").content, full_hash(&file).expect("read"))
        };
        let first = read(&bytes);
        assert_eq!(first, read(&bytes));
        bytes[5 << 19 | 1] ^= 1;
        let between = read(&bytes);
        assert_ne!(first.1, between.1, "the full hash covers every byte");
        *bytes.last_mut().expect("not empty") ^= 1;
        assert_ne!(between.0, read(&bytes).0, "the tail is covered");
        assert_ne!(first.0, read(&bytes[..bytes.len() - 1]).0, "the size is covered");
    }
}
