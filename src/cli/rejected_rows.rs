//! Whole rejected rows, read again from their sources, for repair: as Parquet to load again, or as CSV to
//! look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;

use crate::error::{Context, Error, Result};
use crate::ledger::history::RejectRecord;
use crate::source::parquet::{ParquetFile, read_rows};

/// Columns that say where a row comes from, in CSV.
const POSITION_COLUMNS: [&str; 5] = ["_source", "_row_group", "_row", "_column", "_reason"];

/// Writes the rows of `rejects` to a .parquet or .csv file.
pub(super) fn write(out: &Path, rejects: &[RejectRecord]) -> Result<()> {
    let extension = out.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let mut by_place: BTreeMap<(&str, i32), Vec<&RejectRecord>> = BTreeMap::new();
    for reject in rejects {
        by_place.entry((&reject.source, reject.unit)).or_default().push(reject);
    }
    let read = |(source, unit): (&str, i32), rejects: &[&RejectRecord]| -> Result<RecordBatch> {
        let path = PathBuf::from(source);
        let file = ParquetFile::open(&path, usize::MAX).map_err(|error| {
            error.hint("rejected rows are read again from the source: put it back where it was")
        })?;
        let rows: Vec<u64> = rejects.iter().map(|reject| reject.row.unsigned_abs()).collect();
        read_rows(&file, unit.unsigned_abs(), &rows)
    };
    let places = by_place
        .iter()
        .map(|(place, rejects)| read(*place, rejects).map(|batch| (batch, rejects.as_slice())));
    match extension {
        "parquet" => write_parquet(out, places),
        "csv" => write_csv(out, places),
        _ => Err(Error::refused(format!("--rows {}", out.display()))
            .hint("give a file that ends in .parquet or .csv")),
    }
}

fn write_parquet<'a>(
    out: &Path,
    places: impl Iterator<Item = Result<(RecordBatch, &'a [&'a RejectRecord])>>,
) -> Result<()> {
    let describe = || format!("write {}", out.display());
    let mut writer: Option<ArrowWriter<std::fs::File>> = None;
    for place in places {
        let (batch, _) = place?;
        if writer.is_none() {
            let file = std::fs::File::create(out).or_failed(describe)?;
            writer = Some(ArrowWriter::try_new(file, batch.schema(), None).or_failed(describe)?);
        }
        let Some(writer) = &mut writer else { continue };
        writer.write(&batch).map_err(|error| {
            Error::failed(describe())
                .because(error)
                .hint("the sources have different columns: write them to .csv")
        })?;
    }
    match writer {
        Some(writer) => writer.close().map(|_| ()).or_failed(describe),
        None => Err(Error::refused("the load rejected no row, so there is nothing to write")),
    }
}

fn write_csv<'a>(
    out: &Path,
    places: impl Iterator<Item = Result<(RecordBatch, &'a [&'a RejectRecord])>>,
) -> Result<()> {
    let describe = || format!("write {}", out.display());
    let mut writer = csv::WriterBuilder::new().flexible(true).from_path(out).or_failed(describe)?;
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
                &reject.column,
                &reject.reason,
            ]
            .map(String::as_bytes)
            .map(<[u8]>::to_vec);
            let cells = batch
                .columns()
                .iter()
                .map(|column| cell(column.as_ref(), row))
                .collect::<Result<Vec<_>>>()?;
            writer.write_record(position.into_iter().chain(cells)).or_failed(describe)?;
        }
    }
    writer.flush().or_failed(describe)
}

/// A value as CSV: text as its own bytes, lists as `[…]`, null as nothing.
fn cell(column: &dyn Array, row: usize) -> Result<Vec<u8>> {
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    if column.data_type() == &DataType::Binary {
        return Ok(column.as_binary::<i32>().value(row).to_vec());
    }
    let shown = arrow::util::display::array_value_to_string(column, row);
    shown.map(String::into_bytes).map_err(|error| Error::failed("write a value as text").because(error))
}
