//! `vecload seed`: 20 sample chunks, through the same pipeline as any load.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;

use super::load::{default_settings, run_request};
use super::progress::LoadProgress;
use super::server::Context;
use crate::error::{Context as _, Error, Result};
use crate::pipeline::opened::SourceOptions;
use crate::pipeline::plan::IndexPolicy;
use crate::pipeline::preflight::Mapping;
use crate::pipeline::request::{LoadRequest, open_sources};
use crate::postgres::catalog::Target;
use crate::postgres::types::TargetType;

/// Channel and text of the samples: four channels of five chunks.
const CHUNKS: [(i64, &str); 20] = [
    (1, "A vector index finds the nearest embeddings without comparing all of them."),
    (1, "HNSW is a graph index: searching it visits few vectors and finds most true neighbours."),
    (1, "An IVFFlat index sorts vectors into lists and searches the nearest lists only."),
    (1, "Cosine distance compares the direction of two embeddings, not their length."),
    (1, "Recall is the share of the true nearest neighbours that an index search returns."),
    (2, "COPY moves many rows into a table at once, much faster than single inserts."),
    (2, "The binary COPY format sends numbers as the server stores them, without text."),
    (2, "A bulk load is fastest when secondary indexes are built after the rows."),
    (2, "The write-ahead log makes committed rows survive a crash of the server."),
    (2, "A transaction commits all of its rows or none of them."),
    (3, "Citus distributes a table over several servers by a distribution column."),
    (3, "A shard holds the rows of a range of hash values of the distribution column."),
    (3, "The coordinator sends a query to the workers that hold the shards it needs."),
    (3, "Rebalancing moves shards between workers until they carry equal load."),
    (3, "A query for one channel touches one shard on one worker."),
    (4, "Parquet stores a table by columns in row groups, each column compressed on its own."),
    (4, "A row group is read without reading the others, so many can be read at once."),
    (4, "Dictionary encoding stores each distinct text of a column once."),
    (4, "The footer of a Parquet file says where each column of each row group lies."),
    (4, "Snappy and zstd compress pages of column data; zstd is smaller, snappy faster."),
];

const DIM_DEFAULT: usize = 1536;

/// Runs the command.
pub(super) async fn run(context: &Context<'_>) -> Result<u8> {
    let server = context.server().await?;
    let session = server.connect("vecload seed").await?;
    let table = context.table()?;
    let dim = match Target::find(&session, &table).await? {
        Some(target) => {
            let dims = target
                .columns
                .iter()
                .filter_map(|column| column.target_type.as_ref().and_then(TargetType::vector_dim));
            dims.flatten().next().unwrap_or(DIM_DEFAULT)
        }
        None => context.file.migrate.dim,
    };
    session.close().await;
    let directory = tempfile::tempdir().or_failed(|| "make a temporary directory for the samples".into())?;
    let path = directory.path().join(format!("seed-{dim}.parquet"));
    write(&path, dim).map_err(|error| Error::failed(format!("write {}", path.display())).because(error))?;
    let request = LoadRequest {
        sources: vec![path.display().to_string()],
        options: SourceOptions::default(),
        synthetic: None,
        table,
        mapping: Mapping::default(),
        name: Some("seed".into()),
        again: false,
        create: false,
        index: IndexPolicy::Auto,
        settings: default_settings(context)?,
    };
    let progress = LoadProgress::new(context.printer);
    let sources = open_sources(&request, &progress).await?;
    run_request(context, &server, request, sources, &progress).await
}

fn write(path: &std::path::Path, dim: usize) -> parquet::errors::Result<()> {
    let texts: Vec<&str> = CHUNKS.iter().map(|(_, text)| *text).collect();
    let channels = Int64Array::from_iter_values(CHUNKS.iter().map(|(channel, _)| *channel));
    let users = Int64Array::from_iter_values((0..CHUNKS.len()).map(|row| row as i64 % 3 + 1));
    let metadata =
        StringArray::from_iter_values((0..CHUNKS.len()).map(|row| format!("{{\"sample\": {}}}", row + 1)));
    let values = Float32Array::from_iter_values(texts.iter().flat_map(|text| embed(text, dim)));
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let embeddings = FixedSizeListArray::try_new(item, dim as i32, Arc::new(values), None)?;
    let batch = RecordBatch::try_from_iter([
        ("channel_id", Arc::new(channels) as ArrayRef),
        ("user_id", Arc::new(users)),
        ("content", Arc::new(StringArray::from(texts.clone()))),
        ("embedding", Arc::new(embeddings)),
        ("metadata", Arc::new(metadata)),
    ])?;
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close().map(|_| ())
}

/// A bag of words hashed into `dim` places and scaled to length 1: no language model, and yet texts with
/// words in common are neighbours.
fn embed(text: &str, dim: usize) -> Vec<f32> {
    let mut vector = vec![0.0f32; dim];
    for word in text.split(|character: char| !character.is_alphanumeric()).filter(|word| word.len() > 3) {
        let stem: String = word.to_lowercase().chars().take(5).collect();
        let hash = twox_hash::XxHash3_64::oneshot(stem.as_bytes());
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        vector[(hash % dim as u64) as usize] += sign;
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value /= length);
    } else {
        // In very few dimensions words may cancel out.
        vector[0] = 1.0;
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_have_length_one_in_any_dimension() {
        for dim in [1, 3, 384, 1536] {
            for (_, text) in CHUNKS {
                let length: f32 = embed(text, dim).iter().map(|value| value * value).sum();
                assert!((length - 1.0).abs() < 1e-4, "{dim}: {text}");
            }
        }
    }
}
