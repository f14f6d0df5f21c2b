//! The beginning of a source of text: enough of it to know its columns.

use std::collections::HashSet;
use std::io::Cursor;

use super::input::TextInput;
use super::scanner::RECORD_BYTES_MAX;
use super::{CsvFormat, Scanner, TextFormat, jsonl, sniff};
use crate::error::{Error, Kind, Result};
use crate::memory::Budget;
use crate::source::Place;

/// Bytes looked at first; more where no record ends in them.
const HEAD_BYTES: usize = 64 << 10;

/// The keys of so many lines of JSON are the columns, or of those in so many bytes.
const JSON_HEAD_LINES: usize = 100;
const JSON_HEAD_BYTES: usize = 4 << 20;

/// Memory in which records of the head are cut, besides what depends on its size.
const CUTTING_BYTES: usize = 4 << 20;

/// The first bytes of a source, decompressed.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    /// Whether they are all.
    pub(super) is_all: bool,
    place: Place,
}

impl Head {
    /// Reads the beginning.
    pub(super) fn read(input: &mut TextInput) -> Result<Self> {
        Self::of_bytes(input, HEAD_BYTES)
    }

    /// Reads so many bytes, or all if there are fewer.
    pub(super) fn of_bytes(input: &mut TextInput, bytes: usize) -> Result<Self> {
        let mut head = Self { bytes: Vec::new(), is_all: false, place: input.place().clone() };
        head.fill(input, bytes)?;
        Ok(head)
    }

    /// Reads more, since no record ended in what there is; a part of `--memory` is for it.
    pub(super) fn read_on(
        &mut self,
        input: &mut TextInput,
        format: &TextFormat,
        memory: usize,
    ) -> Result<()> {
        let most = memory.min(RECORD_BYTES_MAX as usize);
        if self.bytes.len() >= most {
            return Err(Error::refused(format!(
                "{}: no record ends within the first {} MiB",
                self.place,
                self.bytes.len() >> 20
            ))
            .hint(match format {
                TextFormat::Csv(_) => "a quote was opened and not closed, or the file is no CSV",
                TextFormat::JsonLines => "JSON Lines hold an object in each line: jq -c . FILE",
            }));
        }
        self.fill(input, (self.bytes.len() * 4).clamp(HEAD_BYTES, most))
    }

    fn fill(&mut self, input: &mut TextInput, bytes: usize) -> Result<()> {
        let mut filled = self.bytes.len();
        self.bytes.resize(bytes.max(filled), 0);
        while filled < bytes && !self.is_all {
            let read = input.read(&mut self.bytes[filled..])?;
            self.is_all = read == 0;
            filled += read;
        }
        self.bytes.truncate(filled);
        Ok(())
    }

    /// Where it was read from.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The bytes without a byte order mark.
    pub(super) fn text(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes)
    }

    /// Names of the columns; none if more has to be read to know them.
    pub(super) fn columns(&self, format: &TextFormat) -> Result<Option<Vec<String>>> {
        match format {
            TextFormat::Csv(csv) => self.csv_columns(csv),
            TextFormat::JsonLines => self.json_columns(),
        }
    }

    /// The first whole records, as the scanner will read them, and what is wrong with the next one.
    pub(super) fn csv_records(&self, format: &CsvFormat, most: usize) -> (Vec<Vec<Vec<u8>>>, Option<Error>) {
        let whole = TextFormat::Csv(CsvFormat { header: false, ..format.clone() });
        let input = TextInput::of_reader(self.place.clone(), Box::new(Cursor::new(self.bytes.clone())));
        // A unit of its own for each record.
        let mut scanner = Scanner::new(input, &whole).with_unit_bytes(1);
        let memory = Budget::new(CUTTING_BYTES + 4 * self.bytes.len());
        let mut records = Vec::new();
        while records.len() < most {
            match scanner.next_unit(&memory) {
                // The last record of a part may be cut off.
                Ok(Some(unit)) if unit.is_last && !self.is_all => break,
                Ok(Some(unit)) => records.push(unit.fields(0).iter().map(<[u8]>::to_vec).collect()),
                Ok(None) => break,
                Err(_) if !self.is_all => break,
                Err(error) => return (records, Some(error.with_kind(Kind::Refused))),
            }
        }
        (records, None)
    }

    fn csv_columns(&self, format: &CsvFormat) -> Result<Option<Vec<String>>> {
        let (records, fault) = self.csv_records(format, 2);
        if let Some(fault) = fault {
            return Err(fault.hint(
                "the file is cut off, or a quote within a field is not doubled (\"\"); nothing was loaded",
            ));
        }
        let Some(first) = records.first() else {
            return match self.is_all {
                true => Err(Error::refused(format!("{} holds no record, only line ends", self.place))
                    .hint("check what should have written it, or leave it out")),
                false => Ok(None),
            };
        };
        if !format.header {
            return Ok(Some((1..=first.len()).map(|position| position.to_string()).collect()));
        }
        let names: Vec<String> =
            first.iter().map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned()).collect();
        sniff::check_header(&names, &self.place)?;
        Ok((records.len() > 1 || self.is_all).then_some(names))
    }

    /// Whole lines that are not blank.
    pub(super) fn json_lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.text();
        let whole = if self.is_all { text.len() } else { memchr::memrchr(b'\n', text).unwrap_or(0) };
        text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
    }

    fn json_columns(&self) -> Result<Option<Vec<String>>> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        let mut lines = 0;
        for line in self.json_lines().take(JSON_HEAD_LINES) {
            lines += 1;
            // A line that is no object will be a reject.
            jsonl::each_key(line, |key| {
                if seen.insert(key.to_string()) {
                    names.push(key.to_string());
                }
            });
        }
        let is_enough = lines == JSON_HEAD_LINES || lines > 0 && self.bytes.len() >= JSON_HEAD_BYTES;
        if !is_enough && !self.is_all {
            return Ok(None);
        }
        if names.is_empty() && lines > 0 {
            return Err(Error::refused(format!(
                "{}: none of the first {lines} lines is a JSON object with keys",
                self.place
            ))
            .hint(
                "JSON Lines hold an object in each line, {\"embedding\": […], …}; name another --format, or convert: \
                 jq -c . FILE",
            ));
        }
        Ok(Some(names))
    }
}
