//! A synthetic dataset: clustered unit vectors in skewed channels, with texts and metadata.
//!
//! Every row is a function of the options and its number, so any lanes, parts and batches give the same bytes,
//! and so does any platform: the few functions whose results differ between C libraries come from `libm`, are
//! called only while the tables are built, and sums have a fixed order.

mod choice;
mod clusters;
mod normal;
mod random;
mod reader;
mod texts;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};

pub use self::reader::SyntheticReader;

use self::choice::WeightedChoice;
use self::clusters::Clusters;
use self::normal::NormalTable;
use self::random::{Purpose, Stream, Streams};
use crate::error::{Error, Result};

/// Part of a dataset's identity: raised when the same options give other rows.
pub const GENERATOR_VERSION: u32 = 1;

/// Rows of a unit: small enough that the lanes of a short load all have one.
pub const ROWS_PER_UNIT: u64 = 16 * 1024;

/// Largest dimension of pgvector's types.
pub const DIM_MAX: usize = 16_000;

/// A list of units has to stay small.
const ROWS_MAX: u64 = 100_000_000_000;

/// What tables of clusters and channels may take together.
const TABLE_BYTES_MAX: u64 = 512 << 20;

/// Users are 1 to this, each as likely as another.
const USERS: u64 = 100_000;

/// What a dataset is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticOptions {
    /// Number of rows.
    pub rows: u64,
    /// Dimension of the embeddings.
    pub dim: usize,
    /// Channels, numbered from 1.
    pub channels: u64,
    /// Exponent of Zipf's law: channel `c` has a share in proportion to `c^-skew`; 0 makes all alike.
    pub skew: f64,
    /// Clusters that the embeddings are drawn from.
    pub clusters: u32,
    /// What all random numbers are drawn from.
    pub seed: u64,
}

/// A dataset, shared by all lanes.
#[derive(Debug)]
pub struct Synthetic {
    options: SyntheticOptions,
    bytes: usize,
    normal: NormalTable,
    clusters: Clusters,
    channels: WeightedChoice,
    rows: Streams,
    embeddings: Streams,
    queries: Streams,
    query_embeddings: Streams,
}

/// All of a row but its embedding.
#[derive(Debug, Clone)]
pub struct Row {
    /// The row's number, from 0.
    pub number: u64,
    /// The cluster that its embedding is drawn from.
    pub cluster: u32,
    /// Its channel.
    pub channel: i64,
    /// Its user.
    pub user: i64,
    details: u64,
    words: Stream,
}

impl Synthetic {
    /// Checks the options and builds the tables.
    pub fn new(options: SyntheticOptions) -> Result<Self> {
        let bytes = check(&options)?;
        let options = SyntheticOptions {
            // -0 and 0 are one skew and must be one identity.
            skew: if options.skew == 0.0 { 0.0 } else { options.skew },
            ..options
        };
        let normal = NormalTable::new();
        let clusters = Clusters::new(options.clusters, options.dim, options.seed, &normal);
        let skew = options.skew;
        let channels = 0..options.channels as usize;
        let weights = channels.map(|index| libm::pow((index + 1) as f64, -skew));
        let streams = |purpose| Streams::new(options.seed, purpose);
        Ok(Self {
            bytes,
            normal,
            clusters,
            channels: WeightedChoice::new(weights),
            rows: streams(Purpose::Row),
            embeddings: streams(Purpose::Embedding),
            queries: streams(Purpose::Query),
            query_embeddings: streams(Purpose::QueryEmbedding),
            options,
        })
    }

    /// What the dataset is made from.
    pub fn options(&self) -> &SyntheticOptions {
        &self.options
    }

    /// All that decides what the rows are, as text.
    pub fn identity(&self) -> String {
        let SyntheticOptions { rows, dim, channels, skew, clusters, seed } = &self.options;
        format!(
            "synthetic version={GENERATOR_VERSION} rows={rows} dim={dim} channels={channels} skew={skew} \
             clusters={clusters} seed={seed}"
        )
    }

    /// The columns; text appears as `Binary`, as the pipeline wants it.
    pub fn fields(&self) -> Fields {
        let item = Field::new("element", DataType::Float32, false);
        // `check` has refused dimensions beyond i32.
        let embedding = DataType::FixedSizeList(Arc::new(item), self.options.dim as i32);
        [
            ("channel_id", DataType::Int64),
            ("user_id", DataType::Int64),
            ("content", DataType::Binary),
            ("metadata", DataType::Binary),
            ("embedding", embedding),
        ]
        .into_iter()
        .map(|(name, data_type)| Field::new(name, data_type, false))
        .collect()
    }

    /// Rows of each unit.
    pub fn unit_rows(&self) -> Vec<u64> {
        let rows = self.options.rows;
        let starts = (0..rows).step_by(ROWS_PER_UNIT as usize);
        starts.map(|start| ROWS_PER_UNIT.min(rows - start)).collect()
    }

    /// Bytes that it holds: tables of clusters, channels and quantiles.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A row without its embedding.
    pub fn row(&self, number: u64) -> Row {
        let mut stream = self.rows.at(number);
        Row {
            number,
            cluster: self.clusters.draw(&mut stream),
            channel: self.channels.draw(&mut stream) as i64 + 1,
            user: stream.below(USERS) as i64 + 1,
            details: stream.next(),
            words: stream,
        }
    }

    /// Writes a row's embedding to `out`, which has the dataset's dimension.
    pub fn write_embedding(&self, row: &Row, out: &mut [f32]) {
        self.clusters.draw_vector(row.cluster, &mut self.embeddings.at(row.number), &self.normal, out);
    }

    /// Writes a query's vector to `out` and gives its channel. Queries are drawn as rows are, and are none.
    pub fn write_query(&self, number: u64, out: &mut [f32]) -> i64 {
        let mut stream = self.queries.at(number);
        let cluster = self.clusters.draw(&mut stream);
        let channel = self.channels.draw(&mut stream) as i64 + 1;
        self.clusters.draw_vector(cluster, &mut self.query_embeddings.at(number), &self.normal, out);
        channel
    }
}

impl Row {
    /// Appends the text.
    pub fn write_content(&self, out: &mut Vec<u8>) {
        texts::write_content(self.cluster, &mut self.words.clone(), out);
    }

    /// Appends the metadata, a JSON object.
    pub fn write_metadata(&self, out: &mut Vec<u8>) {
        texts::write_metadata(self.number, self.cluster, self.details, out);
    }
}

/// Refuses nonsense; gives the bytes of the tables.
fn check(options: &SyntheticOptions) -> Result<usize> {
    let refuse = |what: String, hint: &str| Err(Error::refused(what).hint(hint));
    let SyntheticOptions { rows, dim, channels, skew, clusters, seed: _ } = options;
    if *rows == 0 || *rows > ROWS_MAX {
        return refuse(format!("a synthetic dataset of {rows} rows"), "give from 1 to 100B rows");
    }
    if *dim == 0 || *dim > DIM_MAX {
        return refuse(format!("--dim {dim}"), "give 1 to 16000, the dimensions that pgvector has");
    }
    if *channels == 0 {
        return refuse("--channels 0".into(), "give at least 1");
    }
    if *clusters == 0 {
        return refuse("--clusters 0".into(), "give at least 1; with 1 the embeddings are one cloud");
    }
    if !skew.is_finite() || *skew < 0.0 {
        return refuse(format!("--skew {skew}"), "give 0 (all channels alike) or more, such as 1.1");
    }
    let of_clusters = Clusters::bytes(*clusters, *dim);
    let of_channels = WeightedChoice::bytes(*channels);
    let (larger, bytes) = match of_clusters > of_channels {
        true => (format!("--clusters {clusters} of --dim {dim}"), of_clusters),
        false => (format!("--channels {channels}"), of_channels),
    };
    let total = of_clusters.saturating_add(of_channels);
    if total > TABLE_BYTES_MAX {
        let mib = bytes.div_ceil(1 << 20);
        let what = format!("{larger}: their tables would take {mib} MiB");
        return refuse(what, "give fewer; 512 MiB is the limit for both together");
    }
    Ok(total as usize + NormalTable::bytes())
}

#[cfg(test)]
mod tests;
