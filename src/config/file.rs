//! `pipeline.toml`: what describes the pipeline rather than one run. The file in the repository documents
//! every key; flags and environment win over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::pipeline::plan::IndexPolicy;
use crate::pipeline::routing::RouteChoice;
use crate::postgres::migrate::{VectorPlace, VectorType};
use crate::tune::IterativeScan;

/// The file that is read when there is one and none is named.
pub const DEFAULT_FILE: &str = "pipeline.toml";

/// All keys with their defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineFile {
    /// `[database]`
    pub database: DatabaseSection,
    /// `[embedded]`
    pub embedded: EmbeddedSection,
    /// `[migrate]`
    pub migrate: MigrateSection,
    /// `[tune]`
    pub tune: TuneSection,
    /// `[load]`
    pub load: LoadSection,
    /// `[map]`: target column = source column.
    pub map: BTreeMap<String, String>,
    /// `[set]`: target column = value for all rows.
    pub set: BTreeMap<String, String>,
    /// `[search]`
    pub search: SearchSection,
    /// `[synthetic]`
    pub synthetic: SyntheticSection,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSection {
    /// Connection URL; empty: environment, else the embedded server.
    pub url: String,
    /// Target table.
    pub table: String,
}

/// The embedded server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedSection {
    /// Its directory.
    pub dir: PathBuf,
    /// Directory of the server programs; empty: searched, else fetched.
    pub pg_bindir: PathBuf,
    /// Loopback port; 0: a free one.
    pub port: u16,
}

/// The table that `migrate` makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateSection {
    /// Dimension of the embeddings.
    pub dim: usize,
    /// Type of the embeddings.
    #[serde(rename = "type")]
    pub vector_type: VectorType,
    /// Where the embeddings lie.
    pub vectors: VectorPlace,
    /// Shards, where Citus is.
    pub shards: u32,
}

/// What `tune` sets for the database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuneSection {
    /// `hnsw.ef_search`.
    pub ef_search: u32,
    /// `hnsw.iterative_scan`.
    pub iterative_scan: IterativeScan,
    /// A number, or `auto`: by the servers' cores.
    pub max_parallel_workers_per_gather: String,
    /// A size, or `auto`: by the servers' memory.
    pub maintenance_work_mem: String,
}

/// Limits of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadSection {
    /// Threads that read and encode; 0: one per core.
    pub lanes: usize,
    /// Connections that write; 0: one per core, from 2 to 8, straight into shards at least 2 per worker.
    pub writers: usize,
    /// Bytes for all buffers.
    pub memory: String,
    /// Rejects that are put up with: `N`, `P%` or `all`.
    pub max_rejects: String,
    /// What becomes of secondary indexes.
    pub index: IndexPolicy,
    /// How long to try again without success.
    pub retry_for: String,
    /// How rows get into a distributed table.
    pub route: RouteChoice,
}

/// Searching.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSection {
    /// Number of results.
    pub k: u32,
    /// `hnsw.ef_search`; 0: the server's, at least `k`.
    pub ef_search: u32,
}

/// Synthetic rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticSection {
    /// Dimension of the embeddings.
    pub dim: usize,
    /// Number of channels.
    pub channels: u64,
    /// How unevenly rows are spread over channels.
    pub skew: f64,
    /// Clusters that embeddings are drawn from.
    pub clusters: u32,
    /// What random numbers are drawn from.
    pub seed: u64,
}

impl Default for DatabaseSection {
    fn default() -> Self {
        Self { url: String::new(), table: "chunks".into() }
    }
}

impl Default for EmbeddedSection {
    fn default() -> Self {
        Self { dir: ".vecload".into(), pg_bindir: PathBuf::new(), port: 0 }
    }
}

impl Default for MigrateSection {
    fn default() -> Self {
        Self { dim: 1536, vector_type: VectorType::Vector, vectors: VectorPlace::Toast, shards: 32 }
    }
}

impl Default for TuneSection {
    fn default() -> Self {
        Self {
            ef_search: 100,
            iterative_scan: IterativeScan::RelaxedOrder,
            max_parallel_workers_per_gather: "auto".into(),
            maintenance_work_mem: "auto".into(),
        }
    }
}

impl Default for LoadSection {
    fn default() -> Self {
        Self {
            lanes: 0,
            writers: 0,
            memory: "512MiB".into(),
            max_rejects: "0".into(),
            index: IndexPolicy::Auto,
            retry_for: "5m".into(),
            route: RouteChoice::Auto,
        }
    }
}

impl Default for SearchSection {
    fn default() -> Self {
        Self { k: 10, ef_search: 0 }
    }
}

impl Default for SyntheticSection {
    fn default() -> Self {
        Self { dim: 1536, channels: 1000, skew: 1.1, clusters: 256, seed: 42 }
    }
}

impl PipelineFile {
    /// Reads the named file, or the default one if it is there.
    pub fn read(named: Option<&Path>) -> Result<Self> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(Error::refused(format!("read {}", path.display()))
                    .because(error)
                    .hint("give an existing file with --config"));
            }
        };
        Self::parse(&text).or_refused(|| format!("read {}", path.display()))
    }

    /// Parses the file's text.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = include_str!("../../pipeline.toml");

    #[test]
    fn the_committed_file_changes_no_default() {
        let parsed = PipelineFile::parse(COMMITTED).expect("the committed file is valid");
        assert_eq!(parsed, PipelineFile::default());
    }

    #[test]
    fn the_committed_file_names_every_key() {
        let defaults = toml::Table::try_from(PipelineFile::default()).expect("the defaults are TOML");
        for (section, keys) in &defaults {
            assert!(COMMITTED.contains(&format!("[{section}]")), "section [{section}]");
            for key in keys.as_table().expect("a section").keys() {
                let named = COMMITTED.lines().any(|line| line.starts_with(&format!("{key} = ")));
                assert!(named, "key {key} of [{section}]");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = PipelineFile::parse("[load]\nlane = 3\n").expect_err("unknown");
        assert!(error.to_string().contains("lane") && error.to_string().contains("line 2"), "{error}");
    }
}
