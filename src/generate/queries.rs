//! Queries and their neighbours as Parquet.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use super::output::{Output, Sink};
use super::parquet::{embedding_array, embedding_field, properties};
use super::{Control, Neighbour, NeighbourSearch, Neighbours, Written};
use crate::error::Result;

/// Queries that are put into columns at a time.
const BATCH_QUERIES: usize = 256;

/// Writes queries with what a search has found for them.
pub fn write_queries(
    search: &NeighbourSearch<'_>,
    found: &[Neighbours],
    output: Output,
    control: &Control,
) -> Result<Written> {
    let mut sink = Sink::create(output, control)?;
    if let Err(error) = write(search, found, &mut sink, control) {
        // Interrupted between two batches, or the file can't be written.
        control.go_on()?;
        return Err(sink.failure(error));
    }
    Ok(Written { rows: found.len() as u64, bytes: sink.finish()? })
}

fn write(
    search: &NeighbourSearch<'_>,
    found: &[Neighbours],
    sink: &mut (impl Write + Send),
    control: &Control,
) -> parquet::errors::Result<()> {
    let dim = search.synthetic().options().dim;
    let rows = || Arc::new(Field::new("element", DataType::Int64, false));
    let distances = || Arc::new(Field::new("element", DataType::Float64, false));
    let schema = Arc::new(Schema::new(vec![
        Field::new("query", DataType::Int64, false),
        Field::new("channel_id", DataType::Int64, false),
        embedding_field(dim),
        Field::new("neighbors", DataType::List(rows()), false),
        Field::new("distances", DataType::List(distances()), false),
        Field::new("channel_neighbors", DataType::List(rows()), false),
        Field::new("channel_distances", DataType::List(distances()), false),
    ]));
    let properties = properties(search.synthetic()).build();
    let mut writer = ArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties))?;
    for (batch, found) in found.chunks(BATCH_QUERIES).enumerate() {
        if control.is_stopping() {
            return Err(parquet::errors::ParquetError::General("interrupted".into()));
        }
        let queries = batch * BATCH_QUERIES..batch * BATCH_QUERIES + found.len();
        let vectors: Vec<f32> = queries.clone().flat_map(|query| search.vector(query)).copied().collect();
        let lists = |of: fn(&Neighbours) -> &[Neighbour]| -> arrow::error::Result<[ArrayRef; 2]> {
            let lengths = || OffsetBuffer::from_lengths(found.iter().map(|found| of(found).len()));
            let all = || found.iter().flat_map(of);
            let numbers = Int64Array::from_iter_values(all().map(|neighbour| neighbour.row.cast_signed()));
            let apart = Float64Array::from_iter_values(all().map(|neighbour| neighbour.distance));
            Ok([
                Arc::new(ListArray::try_new(rows(), lengths(), Arc::new(numbers), None)?),
                Arc::new(ListArray::try_new(distances(), lengths(), Arc::new(apart), None)?),
            ])
        };
        let [overall, overall_distances] = lists(|found| &found.overall)?;
        let [in_channel, in_channel_distances] = lists(|found| &found.in_channel)?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(queries.clone().map(|query| query as i64))),
            Arc::new(Int64Array::from_iter_values(queries.map(|query| search.channel(query)))),
            embedding_array(dim, vectors)?,
            overall,
            overall_distances,
            in_channel,
            in_channel_distances,
        ];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    writer.close().map(|_| ())
}
