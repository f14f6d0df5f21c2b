//! Reading a unit of a synthetic dataset in batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, Schema};

use super::{ROWS_PER_UNIT, Row, Synthetic};
use crate::batch::reject::Reason;
use crate::error::{Error, Result};
use crate::source::{Embeddings, Origin, SourceBatch, UnitPart};

/// Offsets of a batch's texts are 32 bits wide; no row's text is longer than about 600 bytes.
const BATCH_ROWS_MAX: usize = 1 << 20;

/// Reads the rows of a part in batches.
#[derive(Debug)]
pub struct SyntheticReader {
    synthetic: Arc<Synthetic>,
    part: UnitPart,
    columns: Vec<usize>,
    schema: Arc<Schema>,
    batch_rows: usize,
    dim: usize,
    position: u64,
    spare: Vec<f32>,
}

impl SyntheticReader {
    /// Starts reading a part. `columns` are indexes into [`Synthetic::fields`], without the embedding;
    /// embeddings are expected to have `dim` dimensions.
    pub fn open(
        synthetic: Arc<Synthetic>,
        part: UnitPart,
        columns: Vec<usize>,
        batch_rows: usize,
        dim: usize,
    ) -> Self {
        let fields = synthetic.fields();
        let projected: Vec<Arc<Field>> = columns.iter().map(|column| Arc::clone(&fields[*column])).collect();
        let position = part.rows.start;
        Self {
            synthetic,
            part,
            columns,
            schema: Arc::new(Schema::new(projected)),
            batch_rows: batch_rows.clamp(1, BATCH_ROWS_MAX),
            dim,
            position,
            spare: Vec::new(),
        }
    }

    /// The next batch, or `None` at the part's end.
    pub fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        let left = self.part.rows.end - self.position;
        if left == 0 {
            return Ok(None);
        }
        let count = self.batch_rows.min(usize::try_from(left).unwrap_or(usize::MAX));
        let first = u64::from(self.part.unit) * ROWS_PER_UNIT + self.position;
        let rows: Vec<Row> = (first..first + count as u64).map(|number| self.synthetic.row(number)).collect();
        let origin = Origin { source: self.part.source, unit: self.part.unit, first_row: self.position };
        let arrays = self.columns.iter().map(|column| array(*column, &rows)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let columns = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Error::bug("put a batch of synthetic rows together").because(error))?;
        let embeddings = self.embeddings(&rows);
        self.position += count as u64;
        let (malformed, positions) = (Vec::new(), Vec::new());
        Ok(Some(SourceBatch { origin, rows: count, embeddings, columns, malformed, positions }))
    }

    /// Takes back the buffer of a batch that has been encoded, for the next one.
    pub fn recycle(&mut self, values: Vec<f32>) {
        self.spare = values;
    }

    fn embeddings(&mut self, rows: &[Row]) -> Embeddings {
        let found = self.synthetic.options.dim;
        let mut values = std::mem::take(&mut self.spare);
        if found != self.dim {
            let reason = Reason::Dimension { found, expected: self.dim };
            let faults = (0..rows.len()).map(|row| (row, reason.clone(), String::new())).collect();
            return Embeddings { faults, ..Embeddings::reusing(self.dim, values) };
        }
        // Kept as it is where it has the length: every element is written below.
        values.resize(rows.len() * found, 0.0);
        for (row, out) in rows.iter().zip(values.chunks_exact_mut(found)) {
            self.synthetic.write_embedding(row, out);
        }
        Embeddings { dim: self.dim, values, ..Embeddings::default() }
    }
}

/// A column of these rows, by its index in the dataset's fields.
fn array(column: usize, rows: &[Row]) -> Result<ArrayRef> {
    Ok(match column {
        0 => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.channel))),
        1 => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.user))),
        2 => texts(rows, Row::write_content)?,
        3 => texts(rows, Row::write_metadata)?,
        _ => return Err(Error::bug(format!("column {column} of synthetic rows is no small column"))),
    })
}

fn texts(rows: &[Row], write: impl Fn(&Row, &mut Vec<u8>)) -> Result<ArrayRef> {
    let mut bytes = Vec::with_capacity(rows.len() * 256);
    let mut offsets = Vec::with_capacity(rows.len() + 1);
    offsets.push(0);
    for row in rows {
        write(row, &mut bytes);
        offsets.push(bytes.len() as i32);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let array = BinaryArray::try_new(offsets, Buffer::from_vec(bytes), None)
        .map_err(|error| Error::bug("put texts of synthetic rows together").because(error))?;
    Ok(Arc::new(array))
}
