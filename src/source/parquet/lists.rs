//! Lists of floats through the typed column reader: values and levels straight into reused buffers, less
//! than half the CPU time of assembling Arrow lists (`benches/read.rs` compares the two).

use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{DataType, DoubleType, FloatType};
use parquet::errors::{ParquetError, Result};

use super::guard::guarded;
use crate::batch::embedding;
use crate::batch::reject::{Reason, excerpt};
use crate::source::Embeddings;

/// Reads one column of lists of `f32` or `f64`.
pub(super) struct ListReader {
    column: TypedColumn,
    /// Definition level of an element that is there.
    max_definition: i16,
    /// Whether an element may be null; its definition level is then one below that of one that is there.
    nullable_element: bool,
    /// Whether the list itself may be null, which is definition level 0 of a top-level column. In a field that
    /// is only repeated, level 0 is an empty list.
    nullable_list: bool,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    wide: Vec<f64>,
}

enum TypedColumn {
    Float(ColumnReaderImpl<FloatType>),
    Double(ColumnReaderImpl<DoubleType>),
}

impl ListReader {
    /// Takes over a column reader of physical type FLOAT or DOUBLE.
    pub(super) fn new(
        column: parquet::column::reader::ColumnReader,
        max_definition: i16,
        nullable_element: bool,
        nullable_list: bool,
    ) -> Result<Self> {
        use parquet::column::reader::ColumnReader as Any;
        let column = match column {
            column @ Any::FloatColumnReader(_) => TypedColumn::Float(get_typed_column_reader(column)),
            column @ Any::DoubleColumnReader(_) => TypedColumn::Double(get_typed_column_reader(column)),
            _ => {
                return Err(ParquetError::General("the column holds neither FLOAT nor DOUBLE".into()));
            }
        };
        Ok(Self {
            column,
            max_definition,
            nullable_element,
            nullable_list,
            definitions: Vec::new(),
            repetitions: Vec::new(),
            wide: Vec::new(),
        })
    }

    /// Skips rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<()> {
        let skipped = guarded(|| match &mut self.column {
            TypedColumn::Float(column) => column.skip_records(rows),
            TypedColumn::Double(column) => column.skip_records(rows),
        })?;
        expect_rows(skipped, rows)
    }

    /// Whether there is a row behind those read; it is lost by asking.
    pub(super) fn has_more(&mut self) -> Result<bool> {
        let levels = (&mut self.definitions, &mut self.repetitions);
        let read = guarded(|| match &mut self.column {
            TypedColumn::Float(column) => read_records(column, 1, levels, &mut Vec::new()),
            TypedColumn::Double(column) => read_records(column, 1, levels, &mut Vec::new()),
        })?;
        Ok(read > 0)
    }

    /// Reads the embeddings of `rows` rows into `out`, which is emptied first.
    pub(super) fn read(&mut self, rows: usize, out: &mut Embeddings) -> Result<()> {
        out.values.clear();
        out.faults.clear();
        self.definitions.clear();
        self.repetitions.clear();
        self.wide.clear();
        let levels = (&mut self.definitions, &mut self.repetitions);
        let read = guarded(|| match &mut self.column {
            TypedColumn::Float(column) => read_records(column, rows, levels, &mut out.values),
            TypedColumn::Double(column) => read_records(column, rows, levels, &mut self.wide),
        })?;
        expect_rows(read, rows)?;
        match self.column {
            TypedColumn::Float(_) if self.is_regular(rows, out.dim, out.values.len()) => Ok(()),
            TypedColumn::Float(_) => {
                let values = std::mem::take(&mut out.values);
                self.assemble(rows, &values, out, |row, out| {
                    out.extend_from_slice(row);
                    Ok(())
                })
            }
            TypedColumn::Double(_) => {
                let wide = std::mem::take(&mut self.wide);
                let assembled = self.assemble(rows, &wide, out, embedding::narrow);
                self.wide = wide;
                assembled
            }
        }
    }

    /// Whether every row is a list of exactly `dim` elements and none is null: then the values are the
    /// embeddings as they stand.
    fn is_regular(&self, rows: usize, dim: usize, values: usize) -> bool {
        // As many records as rows were read, and each starts at repetition level 0; with `rows × dim`
        // values and a start at every multiple of `dim` there is no other start.
        values == rows * dim
            && self.repetitions.len() == values
            && dim > 0
            && self.repetitions.iter().step_by(dim).all(|level| *level == 0)
    }

    /// Goes through the levels row by row.
    fn assemble<T: Copy + std::fmt::Display>(
        &self,
        rows: usize,
        values: &[T],
        out: &mut Embeddings,
        take: impl Fn(&[T], &mut Vec<f32>) -> Result<(), Reason>,
    ) -> Result<()> {
        let ends = || ParquetError::General("fewer values than its levels announce".into());
        let (mut level, mut value) = (0, 0);
        for row in 0..rows {
            let start = level;
            level += 1;
            while self.repetitions.get(level).is_some_and(|repetition| *repetition > 0) {
                level += 1;
            }
            let definitions = self.definitions.get(start..level).ok_or_else(ends)?;
            let present = definitions.iter().filter(|definition| **definition == self.max_definition).count();
            let elements = values.get(value..value + present).ok_or_else(ends)?;
            value += present;
            let null_element = self.nullable_element
                && definitions.iter().any(|definition| *definition == self.max_definition - 1);
            let null_list = self.nullable_list && definitions == [0];
            let read = |out: &mut Vec<f32>| match (null_list, null_element) {
                (true, _) => Err(Reason::EmbeddingNull),
                (_, true) => Err(Reason::EmbeddingElementNull),
                _ => take(elements, out),
            };
            out.push_row(row, read, || shown(elements, null_list));
        }
        Ok(())
    }
}

fn read_records<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    rows: usize,
    (definitions, repetitions): (&mut Vec<i16>, &mut Vec<i16>),
    values: &mut Vec<T::T>,
) -> Result<usize> {
    let mut total = 0;
    while total < rows {
        let (records, _, levels) =
            column.read_records(rows - total, Some(definitions), Some(repetitions), values)?;
        if records == 0 && levels == 0 {
            break;
        }
        total += records;
    }
    Ok(total)
}

fn expect_rows(found: usize, expected: usize) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(ParquetError::General(format!("it ends after {found} of {expected} rows"))),
    }
}

/// The first elements of a list that is rejected.
fn shown<T: std::fmt::Display>(elements: &[T], null: bool) -> String {
    if null {
        return String::new();
    }
    let first: Vec<String> = elements.iter().take(5).map(T::to_string).collect();
    let more = if elements.len() > 5 { ", …" } else { "" };
    excerpt(format!("[{}{more}]", first.join(", ")).as_bytes())
}
