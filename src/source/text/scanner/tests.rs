//! The scanner beside the csv crate, and at its limits.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;
use crate::memory::Budget;
use crate::source::Place;
use crate::source::text::CsvFormat;

/// Gives a few bytes at a time.
struct Dribble {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.step.min(buffer.len()).min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..][..length]);
        self.at += length;
        Ok(length)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Scanned {
    records: Vec<(Position, Vec<Vec<u8>>)>,
    units: Vec<(Position, u64, String)>,
    fault: Option<String>,
}

fn scan(bytes: &[u8], format: &TextFormat, step: usize, unit_bytes: u64) -> Scanned {
    let reader = Dribble { bytes: bytes.to_vec(), at: 0, step };
    let input = TextInput::of_reader(Place::Stdin, Box::new(reader));
    let mut scanner = Scanner::new(input, format).with_unit_bytes(unit_bytes);
    let memory = Budget::new(64 << 20);
    let mut scanned = Scanned { records: Vec::new(), units: Vec::new(), fault: None };
    loop {
        match scanner.next_unit(&memory) {
            Ok(Some(unit)) => {
                assert_eq!(unit.unit as usize, scanned.units.len());
                assert!(unit.rows() > 0, "a unit has a record");
                for row in 0..unit.rows() as usize {
                    let fields = unit.fields(row).iter().map(<[u8]>::to_vec).collect();
                    scanned.records.push((unit.position(row), fields));
                }
                scanned.units.push((unit.start, unit.rows(), unit.hash.clone()));
            }
            Ok(None) => break,
            Err(error) => {
                scanned.fault = Some(error.to_string());
                break;
            }
        }
    }
    scanned
}

fn csv(delimiter: u8, header: bool) -> TextFormat {
    TextFormat::Csv(CsvFormat { delimiter, null: None, header })
}

/// The records that the csv crate finds, which reads in its own way.
fn oracle(bytes: &[u8], delimiter: u8) -> Vec<Vec<Vec<u8>>> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes)
        .byte_records()
        .map(|record| record.expect("bytes in memory").iter().map(<[u8]>::to_vec).collect())
        .collect()
}

/// Longer than what is searched for its end at once.
const LONG: &str =
    "0.123456789 0.123456789 0.123456789 0.123456789 0.123456789 0.123456789 0.123456789 0.123456789";
const LONG_QUOTED: &str =
    "\"[0.123456789,0.123456789,0.123456789,0.123456789,\n0.123456789,0.123456789,0.123456789]\"";

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "a",
        "bc",
        ",",
        ",",
        ";",
        "\"",
        "\"",
        "\"\"",
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "[1,2]",
        "\"x,\ny\"",
        "é",
        LONG,
        LONG_QUOTED,
    ]);
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Records are the csv crate's, and each is where it is said to be, however the bytes come and wherever
    /// units are cut.
    #[test]
    fn records_are_those_of_the_csv_crate_for_any_split(
        bytes in texts(), step in 1usize..50, unit_bytes in 1u64..80, semicolon in any::<bool>(),
    ) {
        let delimiter = if semicolon { b';' } else { b',' };
        let found = scan(&bytes, &csv(delimiter, false), step, unit_bytes);
        let expected = oracle(&bytes, delimiter);
        let with_newline = oracle(&[&bytes[..], b"\n"].concat(), delimiter);
        if expected == with_newline {
            prop_assert_eq!(&found.fault, &None);
            let fields: Vec<_> = found.records.iter().map(|(_, fields)| fields.clone()).collect();
            prop_assert_eq!(fields, expected);
        } else {
            // Within quotes a newline is part of the field: the text ends in an open quote.
            let fault = found.fault.clone().unwrap_or_default();
            prop_assert!(fault.contains("ends within quotes"), "{}", fault);
        }
        for (number, (position, fields)) in found.records.iter().enumerate() {
            let before = &bytes[..position.byte as usize];
            prop_assert_eq!(position.line, 1 + newlines(before));
            prop_assert_eq!(position.record, number as u64 + 1);
            let from_here = oracle(&bytes[position.byte as usize..], delimiter);
            prop_assert_eq!(&from_here[0], fields);
        }
    }

    /// Units and their hashes are a source's own: neither reads nor a resumption change them.
    #[test]
    fn units_do_not_depend_on_reads(bytes in texts(), step in 1usize..50, unit_bytes in 1u64..80) {
        for format in [csv(b',', true), csv(b',', false), TextFormat::JsonLines] {
            let whole = scan(&bytes, &format, usize::MAX, unit_bytes);
            prop_assert_eq!(&scan(&bytes, &format, step, unit_bytes), &whole);
            for (start, ..) in &whole.units[..whole.units.len().saturating_sub(1)] {
                prop_assert!(start.byte < bytes.len() as u64);
            }
            // A unit begins where the one before reached a multiple of the size.
            for pair in whole.units.windows(2) {
                prop_assert!(pair[0].0.byte / unit_bytes < pair[1].0.byte / unit_bytes);
            }
        }
    }

    /// Lines are records as they stand, blank ones aside.
    #[test]
    fn lines_are_records(bytes in texts(), step in 1usize..50, unit_bytes in 1u64..80) {
        let found = scan(&bytes, &TextFormat::JsonLines, step, unit_bytes);
        prop_assert_eq!(&found.fault, &None);
        let lines = bytes.split(|byte| *byte == b'\n').zip(1u64..);
        let expected: Vec<(u64, &[u8])> = lines
            .filter(|(line, _)| !line.trim_ascii().is_empty())
            .map(|(line, number)| (number, line.trim_ascii()))
            .collect();
        let lines: Vec<(u64, &[u8])> = found
            .records
            .iter()
            .map(|(position, fields)| (position.line, fields[0].trim_ascii()))
            .collect();
        prop_assert_eq!(lines, expected);
    }
}

/// More than a normal run's cases, where someone has the time.
fn cases() -> u32 {
    std::env::var("VECLOAD_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

#[test]
fn a_byte_order_mark_and_a_header_are_no_records() {
    let found = scan(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n\"x\ny\",4", &csv(b',', true), 1, 1 << 20);
    assert_eq!(found.fault, None);
    let positions: Vec<_> = found.records.iter().map(|(at, _)| (at.byte, at.line, at.record)).collect();
    assert_eq!(positions, [(8, 2, 1), (15, 4, 2)]);
    assert_eq!(found.records[1].1, [b"x\ny".to_vec(), b"4".to_vec()]);
    assert_eq!(found.units.len(), 1);
}

#[test]
fn an_open_quote_is_told_with_its_line() {
    let found = scan(b"a,b\n1,\"two\nlines\"\n\"3\n\",\"open\n\n4,5\n", &csv(b',', false), 7, 1 << 20);
    let fault = found.fault.expect("a fault");
    assert!(fault.contains("the quote was opened in line 5 (record 3, byte 18)"), "{fault}");

    // Longer than any record may be: found while it is read, in memory that is bounded.
    let mut long = b"a,b\n1,\"".to_vec();
    long.resize(RECORD_BYTES_MAX as usize + (1 << 20), b'x');
    let input = TextInput::of_reader(Place::Stdin, Box::new(io::Cursor::new(long)));
    let mut scanner = Scanner::new(input, &csv(b',', false));
    let error = scanner.next_unit(&Budget::new(256 << 20)).expect_err("too long");
    assert!(error.to_string().contains("longer than 64 MiB"), "{error}");
    assert!(error.to_string().contains("line 2, where a quote was opened"), "{error}");
}

#[test]
fn a_unit_that_memory_can_not_hold_is_an_error_and_no_wait() {
    let line = [vec![b'x'; 20 << 20], b"\n".to_vec()].concat();
    let input = TextInput::of_reader(Place::Stdin, Box::new(io::Cursor::new(line)));
    let mut scanner = Scanner::new(input, &TextFormat::JsonLines);
    let error = scanner.next_unit(&Budget::new(8 << 20)).expect_err("too large");
    assert!(error.to_string().contains("--memory leaves 8 MiB"), "{error}");
}

#[test]
fn buffers_are_used_again_and_hold_no_memory_when_it_is_short() {
    let bytes: Vec<u8> = (0..40_000).flat_map(|row| format!("{row},{}\n", row * 7).into_bytes()).collect();
    let input = TextInput::of_reader(Place::Stdin, Box::new(io::Cursor::new(bytes)));
    let mut scanner = Scanner::new(input, &csv(b',', false)).with_unit_bytes(64 << 10);
    // Room for few units: without giving buffers back the scan would end early.
    let memory = Budget::new(6 << 20);
    let mut rows = 0;
    while let Some(unit) = scanner.next_unit(&memory).expect("scans") {
        rows += unit.rows();
    }
    assert_eq!(rows, 40_000);
}
