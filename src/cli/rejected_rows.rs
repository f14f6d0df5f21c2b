//! Whole rejected rows, read again from their sources, for repair: as Parquet to load again, or as CSV to
//! look at.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

use crate::batch::convert::with_texts;
use crate::error::{Context, Error, Result};
use crate::ledger::history::RejectRecord;
use crate::source::parquet::{ParquetFile, for_writing, read_rows};
use crate::source::text::TextFormat;
use crate::source::text::rows::RecordFinder;

/// Columns that say where a row comes from, in CSV.
const POSITION_COLUMNS: [&str; 6] = ["_source", "_row_group", "_row", "_line", "_column", "_reason"];

/// Writes the rows of `rejects` to a new .parquet or .csv file, which is removed if that fails.
pub(super) fn write(out: &Path, rejects: &[RejectRecord]) -> Result<()> {
    let extension = out.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut by_source: BTreeMap<&str, BTreeMap<u32, Vec<&RejectRecord>>> = BTreeMap::new();
    for reject in rejects {
        let units = by_source.entry(&reject.source).or_default();
        units.entry(reject.unit.unsigned_abs()).or_default().push(reject);
    }
    let places = by_source.iter().flat_map(|(source, units)| {
        let batches = read_again(source, units).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))));
        batches.zip(units.values()).map(|(batch, rejects)| Ok((batch?, rejects.as_slice())))
    });
    let written = match extension {
        "parquet" => write_parquet(create(out)?, out, places),
        "csv" => write_csv(create(out)?, out, places),
        "jsonl" => write_lines(create(out)?, out, places),
        _ => {
            return Err(Error::refused(format!("--rows {}", out.display()))
                .hint("give a file that ends in .parquet or .csv, or for JSON Lines .jsonl"));
        }
    };
    written.inspect_err(|_| {
        if let Err(error) = fs::remove_file(out) {
            tracing::warn!("{} is left, incomplete: {error}", out.display());
        }
    })
}

/// The rows of a source's rejects, a batch for each unit.
fn read_again(
    source: &str,
    units: &BTreeMap<u32, Vec<&RejectRecord>>,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>>>> {
    let rows = |rejects: &[&RejectRecord]| rejects.iter().map(|reject| reject.row.unsigned_abs()).collect();
    let wanted: BTreeMap<u32, Vec<u64>> =
        units.iter().map(|(unit, rejects)| (*unit, rows(rejects))).collect();
    let Some(first) = units.values().flatten().next() else {
        return Ok(Box::new(std::iter::empty()));
    };
    let hint = "rejected rows are read again from the source: put it back where it was";
    if !Path::new(source).is_absolute() {
        return Err(Error::refused(format!("rows of {source} can't be read again"))
            .hint("without --rows the rejects and the beginning of their values are listed"));
    }
    let path = PathBuf::from(source);
    if let Some(format) =
        first.format.as_ref().and_then(|format| TextFormat::from_recipe(&first.kind, format))
    {
        return Ok(Box::new(RecordFinder::open(&path, &format, wanted).map_err(|error| error.hint(hint))?));
    }
    let file = ParquetFile::open(&path, usize::MAX).map_err(|error| error.hint(hint))?;
    Ok(Box::new(wanted.into_iter().map(move |(unit, rows)| read_rows(&file, unit, &rows))))
}

/// A file that was not there before: rows that someone is repairing are never written over.
fn create(out: &Path) -> Result<File> {
    File::create_new(out).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::refused(format!("--rows {}: the file exists", out.display()))
            .hint("name another file, or remove this one"),
        _ => Error::failed(format!("write {}", out.display())).because(error),
    })
}

fn write_parquet<'a>(
    file: File,
    out: &Path,
    mut places: impl Iterator<Item = Result<(RecordBatch, &'a [&'a RejectRecord])>>,
) -> Result<()> {
    let describe = || format!("write {}", out.display());
    let Some(first) = places.next() else {
        return Err(Error::refused("the load rejected no row, so there is nothing to write"));
    };
    let first = first?;
    let schema = first.0.schema();
    let options = ArrowWriterOptions::new().with_parquet_schema(for_writing(&schema).or_failed(describe)?);
    let mut writer = ArrowWriter::try_new_with_options(file, schema, options).or_failed(describe)?;
    for place in std::iter::once(Ok(first)).chain(places) {
        let (batch, _) = place?;
        writer.write(&batch).map_err(|error| {
            Error::failed(describe())
                .because(error)
                .hint("the sources have different columns: write them to .csv")
        })?;
    }
    writer.close().map(|_| ()).or_failed(describe)
}

fn write_csv<'a>(
    file: File,
    out: &Path,
    places: impl Iterator<Item = Result<(RecordBatch, &'a [&'a RejectRecord])>>,
) -> Result<()> {
    let describe = || format!("write {}", out.display());
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
    let mut header: Option<Vec<String>> = None;
    for place in places {
        let (batch, rejects) = place?;
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        if header.as_ref() != Some(&names) {
            let all = POSITION_COLUMNS.iter().map(|name| (*name).to_string()).chain(names.iter().cloned());
            writer.write_record(all).or_failed(describe)?;
            header = Some(names);
        }
        for (row, reject) in rejects.iter().enumerate() {
            let position = [
                &reject.source,
                &reject.unit.to_string(),
                &reject.row.to_string(),
                &reject.line.map_or(String::new(), |line| line.to_string()),
                &reject.column,
                &reject.reason,
            ]
            .map(String::as_bytes)
            .map(<[u8]>::to_vec);
            let cells = batch.columns().iter().map(|column| cell(column, row)).collect::<Result<Vec<_>>>()?;
            writer.write_record(position.into_iter().chain(cells)).or_failed(describe)?;
        }
    }
    writer.flush().or_failed(describe)
}

/// Lines of JSON as they stand in the source.
fn write_lines<'a>(
    file: File,
    out: &Path,
    places: impl Iterator<Item = Result<(RecordBatch, &'a [&'a RejectRecord])>>,
) -> Result<()> {
    let describe = || format!("write {}", out.display());
    let mut writer = BufWriter::new(file);
    for place in places {
        let (batch, rejects) = place?;
        let other = rejects.iter().find(|reject| reject.kind != "jsonl");
        if let Some(other) = other {
            return Err(Error::refused(format!(
                "--rows {}: {} is no JSON Lines",
                out.display(),
                other.source
            ))
            .hint("give a file that ends in .parquet or .csv"));
        }
        for line in batch.column(0).as_binary::<i32>().iter().flatten() {
            writer
                .write_all(line.strip_suffix(b"\r").unwrap_or(line))
                .and_then(|()| writer.write_all(b"\n"))
                .or_failed(describe)?;
        }
    }
    writer.flush().or_failed(describe)
}

/// A value as CSV: text as its own bytes, lists as `[…]`, null as nothing.
fn cell(column: &ArrayRef, row: usize) -> Result<Vec<u8>> {
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    if column.data_type() == &DataType::Binary {
        return Ok(column.as_binary::<i32>().value(row).to_vec());
    }
    let value = with_texts(&column.slice(row, 1));
    let shown = arrow::util::display::array_value_to_string(&value, 0);
    shown.map(String::into_bytes).map_err(|error| Error::failed("write a value as text").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["rows.csv", "rows.parquet"] {
            let out = dir.path().join(name);
            fs::write(&out, "repaired").unwrap();
            let error = write(&out, &[]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(fs::read_to_string(&out).unwrap(), "repaired");
        }
    }

    #[test]
    fn nothing_is_left_of_a_file_that_could_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.parquet");
        assert_eq!(write(&out, &[]).unwrap_err().exit_code(), 2, "no row to write");
        assert!(!out.try_exists().unwrap());
    }
}
