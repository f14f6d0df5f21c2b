//! Cutting CSV records with csv-core, which decides about every byte that can decide anything.
//!
//! Most bytes can't: within quotes nothing but a quote matters, and within a field without quotes nothing but
//! the delimiter and line ends. Such runs, which are nearly all of an embedding's text, are found by their end
//! and copied as they are; csv-core's state is the same before and after them.

use std::sync::{Mutex, PoisonError};

use csv_core::ReadRecordResult;

use super::unit::{Growth, UnitBuffer};
use crate::error::Result;

/// Fields of a record for which there is room before it is known how many there are.
const FIELDS_FIRST: usize = 64;

/// A record of more fields is an error; a table has 1,600 columns at most.
pub(super) const FIELDS_MAX: usize = 64 << 10;

/// A run is worth a search for its end from this length on.
const RUN_BYTES_MIN: usize = 64;

/// Bytes with several quotes that are read in one go, at most: a quote, the delimiter, a quote.
const QUOTES_AT_ONCE: usize = 3;

/// csv-core, and what is known of its state.
pub(super) struct CsvCutter {
    core: Box<csv_core::Reader>,
    delimiter: u8,
    /// Ends of the record's fields so far.
    ends: Vec<usize>,
    fields: usize,
    /// Bytes of the record that were copied without csv-core, which its ends don't count.
    copied: usize,
    mode: Mode,
    /// Whether a quote would open a field: the byte before is a delimiter or none.
    at_field: bool,
}

/// Where csv-core is.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// Not within quotes.
    Free,
    /// Within quotes.
    Quoted,
    /// After a quote within quotes: the end of them, or the first of a doubled one.
    AfterQuote,
}

/// How far a cut came.
pub(super) enum Progress {
    /// To the end of a record.
    Record,
    /// To the end of the input.
    NeedsInput,
    /// To a record with too many fields.
    TooManyFields,
    /// The load is stopping.
    Stopping,
}

/// Readers of cutters that are done, by delimiter. To build the automaton of one takes longer than to read a small
/// file; a clone of it is no way, for csv-core's does not carry all of it.
static IDLE: Mutex<Vec<(u8, Box<csv_core::Reader>)>> = Mutex::new(Vec::new());

/// Idle readers that are kept.
const IDLE_MAX: usize = 4;

fn reader(delimiter: u8) -> Box<csv_core::Reader> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    match idle.iter().position(|(of, _)| *of == delimiter) {
        Some(at) => {
            let (_, mut reader) = idle.swap_remove(at);
            reader.reset();
            reader
        }
        None => Box::new(csv_core::ReaderBuilder::new().delimiter(delimiter).build()),
    }
}

impl Drop for CsvCutter {
    fn drop(&mut self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((self.delimiter, std::mem::take(&mut self.core)));
        }
    }
}

impl CsvCutter {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            core: reader(delimiter),
            delimiter,
            ends: vec![0; FIELDS_FIRST],
            fields: 0,
            copied: 0,
            mode: Mode::Free,
            at_field: true,
        }
    }

    /// Before the first byte of a record.
    pub(super) fn begin(&mut self) {
        (self.fields, self.copied, self.mode, self.at_field) = (0, 0, Mode::Free, true);
    }

    /// Ends of the record's fields, within its bytes.
    pub(super) fn ends(&self) -> &[usize] {
        &self.ends[..self.fields]
    }

    /// Reads on in a record. Adds to `read` what of the input was used, and to `lines` the newlines in it.
    pub(super) fn cut(
        &mut self,
        input: &[u8],
        (read, lines): (&mut usize, &mut u64),
        buffer: &mut UnitBuffer,
        growth: Growth<'_>,
    ) -> Result<Progress> {
        let counted = self.core.line();
        let mut quote = None;
        let progress = loop {
            let rest = &input[*read..];
            if rest.is_empty() {
                break Progress::NeedsInput;
            }
            let until = match self.mode {
                Mode::Quoted => {
                    // Newlines are rare in what is long, so that one search does for both.
                    let run = memchr::memchr2(b'"', b'\n', rest).unwrap_or(rest.len());
                    let newline = usize::from(rest.get(run) == Some(&b'\n'));
                    if run + newline > 0 {
                        if !self.copy(&rest[..run + newline], buffer, growth)? {
                            break Progress::Stopping;
                        }
                        *lines += newline as u64;
                        *read += run + newline;
                        continue;
                    }
                    // A doubled quote, or the next field's quotes, leave it within quotes.
                    match rest {
                        [_, b'"', ..] => 2,
                        [_, next, b'"', ..] if *next == self.delimiter => 3,
                        _ => 1,
                    }
                }
                Mode::AfterQuote => 1,
                Mode::Free => {
                    // Found once for all fields before it.
                    let next = *quote.filter(|at| *at >= *read).get_or_insert_with(|| {
                        memchr::memchr(b'"', rest).map_or(input.len(), |at| *read + at)
                    });
                    quote = Some(next);
                    let to_quote = (next + 1).min(input.len()) - *read;
                    let near = &rest[..rest.len().min(RUN_BYTES_MIN)];
                    let ends = |bytes: &[u8]| memchr::memchr3(self.delimiter, b'\r', b'\n', bytes);
                    match next - *read > RUN_BYTES_MIN {
                        false => to_quote,
                        true if ends(near).is_some() => near.len(),
                        // With its first byte csv-core is within the field.
                        true if self.at_field => 1,
                        true => {
                            let run = ends(rest).unwrap_or(rest.len());
                            if !self.copy(&rest[..run], buffer, growth)? {
                                break Progress::Stopping;
                            }
                            *read += run;
                            continue;
                        }
                    }
                }
            };
            let (result, used, written, ended) =
                self.core.read_record(&rest[..until], buffer.room(), &mut self.ends[self.fields..]);
            self.ends[self.fields..][..ended].iter_mut().for_each(|end| *end += self.copied);
            self.fields += ended;
            buffer.advance(written);
            if used > 0 {
                self.follow(&rest[..used]);
            }
            *read += used;
            match result {
                ReadRecordResult::Record => break Progress::Record,
                ReadRecordResult::OutputEndsFull if self.ends.len() >= FIELDS_MAX => {
                    break Progress::TooManyFields;
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::OutputFull => {
                    if !buffer.grow(growth)? {
                        break Progress::Stopping;
                    }
                }
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {}
            }
        };
        *lines += self.core.line() - counted;
        Ok(progress)
    }

    /// Ends the record at the end of the source; false if it is within quotes, where a newline ends nothing.
    pub(super) fn end(&mut self, buffer: &mut UnitBuffer, growth: Growth<'_>) -> Result<bool> {
        if buffer.room().is_empty() {
            buffer.grow(growth)?;
        }
        if self.ends.len() == self.fields {
            self.ends.push(0);
        }
        let (result, _, _, ended) =
            self.core.read_record(b"\n", buffer.room(), &mut self.ends[self.fields..]);
        self.ends[self.fields..][..ended].iter_mut().for_each(|end| *end += self.copied);
        self.fields += ended;
        Ok(result == ReadRecordResult::Record)
    }

    /// Notes where csv-core is after these bytes.
    fn follow(&mut self, used: &[u8]) {
        // Of more bytes only the last can be a quote, and only the one before it tells whether it opens a field.
        let (before, few) = used.split_at(used.len().saturating_sub(QUOTES_AT_ONCE));
        if let Some(last) = before.last() {
            (self.mode, self.at_field) = (Mode::Free, *last == self.delimiter);
        }
        for byte in few {
            self.mode = match (self.mode, *byte) {
                (Mode::Quoted, b'"') => Mode::AfterQuote,
                (Mode::Quoted, _) | (Mode::AfterQuote, b'"') => Mode::Quoted,
                (Mode::Free, b'"') if self.at_field => Mode::Quoted,
                _ => Mode::Free,
            };
            self.at_field = *byte == self.delimiter && self.mode == Mode::Free;
        }
    }

    fn copy(&mut self, run: &[u8], buffer: &mut UnitBuffer, growth: Growth<'_>) -> Result<bool> {
        self.copied += run.len();
        buffer.append(run, growth)
    }
}
