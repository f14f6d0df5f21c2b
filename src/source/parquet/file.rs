//! A file read at positions, so that lanes share one handle without sharing an offset.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Read-ahead of the sequential reader, which serves page headers of a few dozen bytes; page bodies are
/// read whole by [`ChunkReader::get_bytes`].
const READ_AHEAD_BYTES: usize = 1024;

/// An open file of known size.
#[derive(Debug, Clone)]
pub struct PositionedFile {
    file: Arc<File>,
    path: Arc<Path>,
    size: u64,
}

impl PositionedFile {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Looked at first: opening a pipe would wait for its other end.
        let kind = std::fs::metadata(path).or_refused(|| format!("open {}", path.display()))?;
        if !kind.is_file() {
            return Err(Error::refused(format!("{} is not a regular file", path.display())).hint(format!(
                "give files, directories or globs; a pipe is read as standard input: vecload load - < {}",
                path.display()
            )));
        }
        let file = File::open(path).or_refused(|| format!("open {}", path.display()))?;
        let metadata = file.metadata().or_refused(|| format!("read the size of {}", path.display()))?;
        Ok(Self { file: Arc::new(file), path: PathBuf::from(path).into(), size: metadata.len() })
    }

    /// Bytes in the file when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Last modification, in nanoseconds since 1970.
    pub fn modified_nanos(&self) -> Result<i64> {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified());
        let modified =
            modified.or_failed(|| format!("read the modification time of {}", self.path.display()))?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// Fills `buffer` from `offset`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Reads at most `length` bytes from `offset`, fewer at the file's end.
    pub fn read_up_to(&self, length: usize, offset: u64) -> io::Result<Vec<u8>> {
        let left = self.size.saturating_sub(offset);
        let mut buffer = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.read_exact_at(&mut buffer, offset)?;
        Ok(buffer)
    }
}

/// Reads on from a position of its own.
#[derive(Debug)]
pub struct PositionedReader {
    file: Arc<File>,
    offset: u64,
}

impl Read for PositionedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Length for PositionedFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for PositionedFile {
    type T = BufReader<PositionedReader>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let reader = PositionedReader { file: Arc::clone(&self.file), offset: start };
        Ok(BufReader::with_capacity(READ_AHEAD_BYTES, reader))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // Checked before the allocation: a damaged footer may claim any length.
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at offset {start} lie beyond the file's end at {}",
                self.size
            )));
        }
        // Into memory that nobody has written before: to zero it takes as long as a fifth of the reading.
        let mut buffer = Vec::with_capacity(length);
        while buffer.len() < length {
            let offset = start + buffer.len() as u64;
            match rustix::io::pread(&*self.file, spare_capacity(&mut buffer), offset) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        // A vector may have got more room than it asked for.
        buffer.truncate(length);
        Ok(Bytes::from(buffer))
    }
}
