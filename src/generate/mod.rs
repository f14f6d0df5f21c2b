//! Writing the synthetic dataset to a file or a stream, and queries with their exact nearest neighbours.
//!
//! Lanes make blocks of rows, encoded and compressed; one writer puts them in order. What is written depends on
//! the dataset alone, not on the number of lanes.

mod csv;
mod kernel;
mod neighbours;
mod ordered;
mod output;
mod parquet;
mod queries;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use self::neighbours::{Cost, NEIGHBOURS_MAX, Neighbour, NeighbourSearch, Neighbours};
pub use self::output::{Compression, Destination, Format, Output};
pub use self::queries::write_queries;

use self::output::Sink;
use crate::error::{Error, Result};
use crate::source::synthetic::Synthetic;

/// What is seen and steered from outside while work goes on.
#[derive(Debug, Default)]
pub struct Control {
    rows: AtomicU64,
    bytes: AtomicU64,
    stopping: AtomicBool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes, as they are in the file.
    pub bytes: u64,
}

impl Control {
    /// Rows that are done.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes that are written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Asks for an end in order.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether an end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Fails once an end was asked for.
    fn go_on(&self) -> Result<()> {
        if self.is_stopping() { Err(Error::interrupted("interrupted")) } else { Ok(()) }
    }

    fn rows_done(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    fn bytes_written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Writes all rows; a file is there when this has ended well, and else it is not.
pub fn write_dataset(
    synthetic: &Synthetic,
    output: Output,
    lanes: usize,
    control: &Control,
) -> Result<Written> {
    let format = output.format;
    let mut sink = Sink::create(output, control)?;
    match format {
        Format::Parquet => parquet::write(synthetic, &mut sink, lanes, control)?,
        Format::Csv(compression) => csv::write(synthetic, compression, &mut sink, lanes, control)?,
    }
    let bytes = sink.finish()?;
    Ok(Written { rows: synthetic.options().rows, bytes })
}
