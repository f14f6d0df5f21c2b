//! What a source of text is: its format, delimiter and columns, from its first bytes.

use super::head::Head;
use super::{CsvFormat, TextFormat, TextOptions};
use crate::error::{Error, Result};
use crate::source::Place;
use crate::source::discover::SourceFormat;

/// Records by which a delimiter is judged.
const GUESS_RECORDS: usize = 20;

/// Delimiters that are guessed, the likeliest first.
const DELIMITERS: &[u8] = b",;\t|";

/// Refuses what is no text in UTF-8 or an encoding like it.
pub(super) fn check(head: &Head, is_compressed: bool) -> Result<()> {
    let place = head.place();
    let refuse = |what: &str, hint: &str| Err(Error::refused(format!("{place} {what}")).hint(hint));
    let bytes = &head.bytes[..];
    if bytes.is_empty() {
        return refuse(
            if is_compressed { "is empty: its compressed data holds nothing" } else { "is empty (0 bytes)" },
            "check what should have written it, or leave it out",
        );
    }
    let nuls = |odd: usize| bytes.iter().skip(odd).step_by(2).take(512).filter(|byte| **byte == 0).count();
    let utf16 = bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || bytes.len() >= 4 && nuls(0).abs_diff(nuls(1)) * 3 > bytes.len().min(1024) / 2;
    if utf16 {
        return refuse(
            "is UTF-16 text, and vecload reads UTF-8",
            "convert it on the way: iconv -f UTF-16 -t UTF-8 FILE | vecload load -",
        );
    }
    if bytes.starts_with(b"PAR1") {
        return refuse(
            "is a Parquet file",
            "say --format parquet, or name the file .parquet; a pipe can't give Parquet, whose footer is at the end",
        );
    }
    // A stray control character is a matter of its row.
    let is_control = |byte: &&u8| **byte < b' ' && !byte.is_ascii_whitespace() && **byte != 0x0b;
    let controls = bytes.iter().filter(is_control).count();
    let is_utf8 = std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
    if controls * if is_utf8 { 10 } else { 30 } > bytes.len() {
        return refuse(
            "is a binary file",
            "vecload reads Parquet, CSV and JSON Lines, also compressed with gzip or zstd",
        );
    }
    Ok(())
}

/// The format of a source.
pub(super) fn format(head: &Head, format: Option<SourceFormat>, options: &TextOptions) -> Result<TextFormat> {
    let place = head.place();
    let first = head.text().trim_ascii_start().first().copied();
    let format = match format {
        Some(format) => format,
        None if options.is_of_csv().is_some() => SourceFormat::Csv,
        None if matches!(first, Some(b'{' | b'[')) => SourceFormat::Jsonl,
        None => SourceFormat::Csv,
    };
    match format {
        SourceFormat::Parquet => Err(Error::bug("Parquet is read as text")),
        SourceFormat::Jsonl if first == Some(b'[') => Err(Error::refused(format!(
            "{place} is one JSON array, and vecload reads JSON Lines: an object in each line"
        ))
        .hint("convert it on the way: jq -c '.[]' FILE | vecload load - --format jsonl")),
        SourceFormat::Jsonl => match options.is_of_csv() {
            Some(option) => Err(Error::refused(format!("{option} is for CSV, and {place} is JSON Lines"))
                .hint("leave the option out, or name the format with --format csv")),
            None => Ok(TextFormat::JsonLines),
        },
        SourceFormat::Csv => Ok(TextFormat::Csv(CsvFormat {
            delimiter: options.delimiter.unwrap_or_else(|| guess_delimiter(head)),
            null: options.null.clone(),
            header: !options.no_header,
        })),
    }
}

/// The delimiter by which the first records have the same number of fields, and most of them. One by which a
/// field is a whole `[…]` comes before one that cuts embeddings up.
fn guess_delimiter(head: &Head) -> u8 {
    let fields = |delimiter: u8| {
        let format = CsvFormat { delimiter, null: None, header: false };
        let (records, _) = head.csv_records(&format, GUESS_RECORDS);
        let header = records.first().map_or(0, Vec::len);
        let same = records.iter().filter(|record| record.len() == header).count();
        // Fields count only by a delimiter that most records agree on.
        let fields = if same * 2 > records.len() { header } else { header.min(1) };
        let embeddings =
            records.iter().filter(|record| record.iter().any(|field| is_whole_list(field))).count();
        (fields > 1 && embeddings > 0 && embeddings * 2 >= records.len(), fields)
    };
    let mut best = (DELIMITERS[0], (false, 1));
    // One that is nowhere cuts nothing.
    for delimiter in DELIMITERS.iter().filter(|delimiter| head.bytes.contains(delimiter)) {
        let fields = fields(*delimiter);
        if fields > best.1 {
            best = (*delimiter, fields);
        }
    }
    best.0
}

fn is_whole_list(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    matches!((field.first(), field.last()), (Some(b'['), Some(b']')) | (Some(b'{'), Some(b'}')))
}

/// Refuses a header that can't be one.
pub(super) fn check_header(names: &[String], place: &Place) -> Result<()> {
    if let Some(data) = names.iter().find(|name| name.trim_start().starts_with(['[', '{'])) {
        let shown: String = data.chars().take(20).collect();
        return Err(Error::refused(format!(
            "{place}: its first record holds \"{shown}…\", so it is no header"
        ))
        .hint("if the file has no header, say --no-header and name columns by position: --map embedding=4"));
    }
    if names.iter().all(|name| name.is_empty()) {
        return Err(Error::refused(format!("{place}: its header names no column"))
            .hint("write names into the first line, or say --no-header"));
    }
    Ok(())
}
