//! The scanner: cuts a stream of text into records and gathers them in units.
//!
//! It runs once over a source, in one thread. csv-core decides where a CSV record ends, so that a newline in
//! quotes is never a boundary; it unescapes the fields on the way, so that lanes need no second pass. A unit
//! ends with the first record that ends at or after a multiple of [`UNIT_BYTES`], or with its
//! [`UNIT_RECORDS_MAX`]th, whatever the reads were.

use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::TextFormat;
use super::cutter::{CsvCutter, FIELDS_MAX, Progress};
use super::input::{Compression, TextInput};
use super::unit::{BufferPool, Growth, Position, TextUnit, UnitBuffer, UnitMemory};
use crate::error::{Error, Result};
use crate::source::Place;

/// Units are cut at the first record end after multiples of this, in decompressed bytes.
pub const UNIT_BYTES: u64 = 16 << 20;

/// And after so many records: where fields and records end takes memory too.
pub const UNIT_RECORDS_MAX: usize = 256 << 10;

/// A longer record is an error: a quote that is never closed would take all memory.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Bytes asked for at a time: few at first, for many sources are small.
const READ_BYTES_FIRST: usize = 8 << 10;
const READ_BYTES: usize = 256 << 10;

/// Cuts one source.
pub struct Scanner {
    input: TextInput,
    cutter: Cutter,
    chunk: Vec<u8>,
    /// What of the chunk is not cut yet.
    from: usize,
    to: usize,
    /// What of the chunk is in no hash yet.
    hashed: usize,
    /// Of a unit; the units of a plain file need none, for its fingerprint and its own hash speak for them.
    hasher: Option<XxHash3_128>,
    position: Position,
    unit: u32,
    at_end: bool,
    header_to_skip: bool,
    unit_bytes: u64,
    pool: Arc<BufferPool>,
}

enum Cutter {
    Csv(Box<CsvCutter>),
    Lines,
}

/// What is found between records.
#[derive(PartialEq)]
enum Between {
    Record,
    End,
    Stopping,
}

/// What became of an attempt to read a record.
enum Cut {
    Record,
    End,
    Stopping,
}

impl Scanner {
    /// Starts at the beginning of a source.
    pub fn new(input: TextInput, format: &TextFormat) -> Self {
        let (cutter, header_to_skip) = match format {
            TextFormat::Csv(csv) => (Cutter::Csv(Box::new(CsvCutter::new(csv.delimiter))), csv.header),
            TextFormat::JsonLines => (Cutter::Lines, false),
        };
        let is_stream = *input.place() == Place::Stdin || input.compression() != Compression::None;
        Self {
            input,
            cutter,
            chunk: vec![0; READ_BYTES_FIRST],
            from: 0,
            to: 0,
            hashed: 0,
            hasher: is_stream.then(XxHash3_128::new),
            position: Position { byte: 0, line: 1, record: 1 },
            unit: 0,
            at_end: false,
            header_to_skip,
            unit_bytes: UNIT_BYTES,
            pool: Arc::default(),
        }
    }

    /// Cuts units of another size, for looks at the first records.
    pub fn with_unit_bytes(self, unit_bytes: u64) -> Self {
        Self { unit_bytes, ..self }
    }

    /// What has been read of the source.
    pub fn input(&self) -> &TextInput {
        &self.input
    }

    /// Reads the next unit, or `None` at the end and when the load is stopping. A unit has a record.
    pub fn next_unit(&mut self, memory: &dyn UnitMemory) -> Result<Option<TextUnit>> {
        if self.position.byte == 0 {
            self.skip_byte_order_mark()?;
        }
        let mut start = self.position;
        // The first multiple that this unit has not reached yet.
        let cut_at = (start.byte / self.unit_bytes + 1) * self.unit_bytes;
        let pool = Arc::clone(&self.pool);
        let growth = Growth { memory, pool: &pool };
        let mut buffer = pool.take();
        loop {
            match self.next_record(&mut buffer, start, growth)? {
                Cut::Stopping => return Ok(None),
                Cut::End => {
                    self.at_end = true;
                    break;
                }
                Cut::Record if self.header_to_skip => {
                    self.header_to_skip = false;
                    buffer.drop_record();
                    start.record = 1;
                    self.position.record = 1;
                }
                Cut::Record if self.position.byte >= cut_at || buffer.records() == UNIT_RECORDS_MAX => break,
                Cut::Record => {}
            }
        }
        if buffer.records() == 0 {
            return Ok(None);
        }
        self.hash();
        let hash =
            self.hasher.as_ref().map_or_else(String::new, |hasher| format!("{:032x}", hasher.finish_128()));
        if let Some(hasher) = &mut self.hasher {
            *hasher = XxHash3_128::new();
        }
        let mut unit = TextUnit::new(self.unit, start, hash, buffer, &self.pool);
        self.unit += 1;
        // Known now already if nothing but line ends follows.
        unit.is_last = self.at_end || self.skip_line_ends(memory)? == Between::End;
        Ok(Some(unit))
    }

    fn skip_byte_order_mark(&mut self) -> Result<()> {
        while self.to < 3 && self.refill_behind()? {}
        if self.chunk[..self.to].starts_with(b"\xef\xbb\xbf") {
            self.from = 3;
            self.position.byte = 3;
        }
        Ok(())
    }

    /// Skips line ends between records.
    fn skip_line_ends(&mut self, memory: &dyn UnitMemory) -> Result<Between> {
        loop {
            while self.from < self.to {
                match self.chunk[self.from] {
                    b'\n' => self.position.line += 1,
                    b'\r' => {}
                    _ => return Ok(Between::Record),
                }
                self.from += 1;
                self.position.byte += 1;
            }
            if !self.refill()? {
                return Ok(Between::End);
            }
            // A few compressed bytes can be very many blank lines.
            if memory.is_stopping() {
                return Ok(Between::Stopping);
            }
        }
    }

    fn next_record(&mut self, buffer: &mut UnitBuffer, start: Position, growth: Growth<'_>) -> Result<Cut> {
        loop {
            match self.skip_line_ends(growth.memory)? {
                Between::Record => {}
                Between::End => return Ok(Cut::End),
                Between::Stopping => return Ok(Cut::Stopping),
            }
            let begin = self.position;
            let is_whole = match self.cutter {
                Cutter::Csv(_) => self.csv_record(buffer, begin, growth)?,
                Cutter::Lines => self.line(buffer, begin, growth)?,
            };
            if !is_whole {
                return Ok(Cut::Stopping);
            }
            if self.position.byte - begin.byte > RECORD_BYTES_MAX {
                return Err(self.too_long(begin, buffer.of_open_record(), None));
            }
            let one = [buffer.of_open_record().len()];
            let ends = match &self.cutter {
                Cutter::Csv(cutter) => cutter.ends(),
                Cutter::Lines if buffer.of_open_record().trim_ascii().is_empty() => {
                    buffer.drop_open_record();
                    continue;
                }
                Cutter::Lines => &one,
            };
            let (byte, line) = (begin.byte - start.byte, begin.line - start.line);
            return match buffer.end_record(ends, byte, line, growth) {
                Ok(false) => Ok(Cut::Stopping),
                Ok(true) => {
                    self.position.record += 1;
                    Ok(Cut::Record)
                }
                Err(error) => Err(self.beyond_memory(begin, buffer.of_open_record(), None, &error)),
            };
        }
    }

    /// Reads a CSV record's fields into the buffer; false when the load is stopping.
    fn csv_record(&mut self, buffer: &mut UnitBuffer, begin: Position, growth: Growth<'_>) -> Result<bool> {
        if let Cutter::Csv(cutter) = &mut self.cutter {
            cutter.begin();
        }
        loop {
            let Cutter::Csv(cutter) = &mut self.cutter else {
                return Err(Error::bug("lines are cut as CSV"));
            };
            let from = self.from;
            let counts = (&mut self.from, &mut self.position.line);
            let progress = cutter.cut(&self.chunk[..self.to], counts, buffer, growth);
            self.position.byte += (self.from - from) as u64;
            let last_field = cutter.ends().last().copied().unwrap_or(0);
            match progress {
                Ok(Progress::Record) => return Ok(true),
                Ok(Progress::Stopping) => return Ok(false),
                Ok(Progress::TooManyFields) => return Err(self.too_many_fields(begin)),
                Err(error) => {
                    return Err(self.beyond_memory(begin, buffer.of_open_record(), Some(last_field), &error));
                }
                Ok(Progress::NeedsInput) => {}
            }
            if self.position.byte - begin.byte > RECORD_BYTES_MAX {
                return Err(self.too_long(begin, buffer.of_open_record(), Some(last_field)));
            }
            if self.refill()? {
                continue;
            }
            // The last line need not end in a newline; an open quote is still open after one.
            let Cutter::Csv(cutter) = &mut self.cutter else { continue };
            return match cutter.end(buffer, growth)? {
                true => Ok(true),
                false => Err(self.open_quote(begin, &buffer.of_open_record()[..last_field])),
            };
        }
    }

    /// The error for a source that ends within quotes; the field with the quote comes after these bytes.
    fn open_quote(&self, begin: Position, before: &[u8]) -> Error {
        Error::failed(format!(
            "{} ends within quotes; the quote was opened in line {} (record {}, byte {})",
            self.input.place(),
            begin.line + newlines(before),
            begin.record,
            begin.byte
        ))
        .hint(match self.input.place() {
            Place::Stdin => {
                "who wrote it may have been cut off: give all of it again under the same --name; or a quote within a \
                 field is not doubled (\"\"); rows before it stay"
            }
            _ => {
                "the file is cut off, or a quote within a field is not doubled (\"\"); rows before it stay; take them \
                 back (vecload loads undo), mend the line and load the file"
            }
        })
    }

    /// Reads the rest of a line into the buffer; false when the load is stopping.
    fn line(&mut self, buffer: &mut UnitBuffer, begin: Position, growth: Growth<'_>) -> Result<bool> {
        loop {
            let input = &self.chunk[self.from..self.to];
            let end = memchr::memchr(b'\n', input);
            let line = &input[..end.unwrap_or(input.len())];
            match buffer.append(line, growth) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return Err(self.beyond_memory(begin, buffer.of_open_record(), None, &error)),
            }
            // The newline itself is skipped, and counted, before the next record.
            self.position.byte += line.len() as u64;
            self.from += line.len();
            if self.position.byte - begin.byte > RECORD_BYTES_MAX {
                return Err(self.too_long(begin, buffer.of_open_record(), None));
            }
            if end.is_some() || !self.refill()? {
                return Ok(true);
            }
        }
    }

    /// The error for a record beyond all measure; in CSV its last field began at a place of its bytes.
    fn too_long(&self, begin: Position, bytes: &[u8], last_field: Option<usize>) -> Error {
        let place = self.input.place();
        let limit = RECORD_BYTES_MAX >> 20;
        let Position { record, byte, line } = begin;
        match last_field {
            Some(at) => Error::failed(format!(
                "{place}, record {record} (line {line}, byte {byte}) is longer than {limit} MiB; its last field begins \
                 in line {}, where a quote was opened and not closed",
                line + newlines(&bytes[..at])
            ))
            .hint("close or double the quote in that line; rows before it stay"),
            None => Error::failed(format!(
                "{place}, record {record} (line {line}, byte {byte}) is longer than {limit} MiB"
            ))
            .hint("records end with a newline; check that the file is what --format says; rows before it stay"),
        }
    }

    /// The error for a unit that memory can't hold; in CSV the last field of the record began at a place of its
    /// bytes.
    fn beyond_memory(
        &self,
        begin: Position,
        bytes: &[u8],
        last_field: Option<usize>,
        error: &Error,
    ) -> Error {
        let Position { record, byte, line } = begin;
        let place = format!("{}, record {record} (line {line}, byte {byte})", self.input.place());
        let read = (self.position.byte - byte) >> 20;
        let length = match last_field {
            _ if read == 0 => String::new(),
            Some(at) => format!(
                " is longer than {read} MiB, and its last field begins in line {}",
                line + newlines(&bytes[..at])
            ),
            None => format!(" is longer than {read} MiB"),
        };
        Error::failed(format!("{place}{length}: {error}"))
            .hint("if a quote was opened there and not closed, close it; else give more --memory; rows before it stay")
    }

    fn too_many_fields(&self, begin: Position) -> Error {
        Error::failed(format!(
            "{}, record {} (line {}, byte {}) has more than {FIELDS_MAX} fields",
            self.input.place(),
            begin.record,
            begin.line,
            begin.byte
        ))
        .hint("check that the file is CSV and what --delimiter it has; rows before it stay")
    }

    /// Adds what was cut since the last call to the unit's hash.
    fn hash(&mut self) {
        if let Some(hasher) = &mut self.hasher {
            hasher.write(&self.chunk[self.hashed..self.from]);
        }
        self.hashed = self.from;
    }

    /// Reads more once all of the chunk is cut; false at the end of the source.
    fn refill(&mut self) -> Result<bool> {
        self.hash();
        if self.to == self.chunk.len() && self.to < READ_BYTES {
            self.chunk.resize(READ_BYTES, 0);
        }
        (self.from, self.to, self.hashed) = (0, 0, 0);
        self.refill_behind()
    }

    fn refill_behind(&mut self) -> Result<bool> {
        let read = self.input.read(&mut self.chunk[self.to..])?;
        self.to += read;
        Ok(read > 0)
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests;
