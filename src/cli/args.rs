//! What may be typed. Meaning is given to it by each command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::pipeline::plan::IndexPolicy;
use crate::pipeline::routing::RouteChoice;
use crate::postgres::migrate::{VectorPlace, VectorType};
use crate::source::discover::SourceFormat;
use crate::tune::IterativeScan;

/// Bulk-load embeddings into PostgreSQL + pgvector, every row exactly once
#[derive(Debug, Parser)]
#[command(name = "vecload", version, arg_required_else_help = true, max_term_width = 100)]
pub(super) struct Arguments {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of all commands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Database to connect to; else DATABASE_URL, the PG* variables, pipeline.toml, the embedded server
    #[arg(long, global = true, value_name = "URL")]
    pub db: Option<String>,
    /// Target table, [SCHEMA.]NAME (default: chunks)
    #[arg(long, global = true, value_name = "TABLE")]
    pub table: Option<String>,
    /// Configuration file (default: ./pipeline.toml, if it is there)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object on stdout at the end; everything else goes to stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors and warnings only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print more of what happens; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How progress is shown: bars on a terminal, plain lines for logs
    #[arg(long, global = true, value_enum, default_value_t = ProgressMode::Auto, value_name = "MODE")]
    pub progress: ProgressMode,
    /// Directory of PostgreSQL's programs for the embedded server
    #[arg(long, global = true, value_name = "DIR")]
    pub pg_bindir: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressMode {
    /// Bars on a terminal, else lines.
    Auto,
    /// A line now and then.
    Plain,
    /// None.
    None,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Load Parquet, CSV, JSON Lines or synthetic rows into the target table
    Load(Box<LoadArguments>),
    /// Write synthetic rows to a file, and queries with their exact neighbours
    Generate(Box<GenerateArguments>),
    /// Create the target table, its indexes and the ledger; safe to run again
    Migrate(MigrateArguments),
    /// Set the database up for vector searches and index builds, and prove it on each node
    Tune(TuneArguments),
    /// Load 20 sample chunks
    Seed,
    /// Find the nearest rows by cosine distance
    Search(SearchArguments),
    /// Check server, cluster, table, indexes, query plans, and the rows against the ledger
    Verify(VerifyArguments),
    /// Show what was loaded; take a load back
    Loads(LoadsArguments),
    /// Show and change the nodes of a Citus cluster
    Cluster(ClusterArguments),
    /// Run vecload's own PostgreSQL server
    Db(DbArguments),
}

/// `vecload load`
#[derive(Debug, Args)]
pub(super) struct LoadArguments {
    /// Files, directories or globs; - is standard input
    #[arg(required_unless_present = "synthetic_rows", value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Load this many rows that are made instead of sources, such as 10M
    #[arg(
        long = "synthetic",
        id = "synthetic_rows",
        value_name = "ROWS",
        conflicts_with_all = ["sources", "format", "delimiter", "null", "no_header"]
    )]
    pub synthetic_rows: Option<String>,
    /// Format of the sources (default: by name and content)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<SourceFormat>,
    /// Delimiter of CSV: a character, or tab (default: guessed of , ; tab |)
    #[arg(long, value_name = "CHAR")]
    pub delimiter: Option<String>,
    /// Text that stands for null in CSV (default: the empty field, except in text columns)
    #[arg(long, value_name = "TEXT")]
    pub null: Option<String>,
    /// The CSV has no header; --map names columns by position, from 1
    #[arg(long)]
    pub no_header: bool,
    /// Fill a target column from a source column of another name
    #[arg(long, value_name = "TARGET=COLUMN")]
    pub map: Vec<String>,
    /// Fill a target column with one value for all rows
    #[arg(long, value_name = "TARGET=VALUE")]
    pub set: Vec<String>,
    /// A name for the load, shown by `vecload loads`; standard input is known again by it
    #[arg(long)]
    pub name: Option<String>,
    /// Load sources once more that are loaded already
    #[arg(long)]
    pub again: bool,
    /// Create the table if it is missing, with the source's dimension
    #[arg(long)]
    pub create: bool,
    /// Load only the first N rows; without it, a later run goes on from there
    #[arg(long, value_name = "N")]
    pub limit: Option<String>,
    /// Threads that read and encode (default: one per core)
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Connections that write (default: one per core, from 2 to 8; on Citus at least 2 per worker, or 4 in all
    /// through the coordinator)
    #[arg(long, value_name = "N")]
    pub writers: Option<usize>,
    /// Memory for all buffers (default: 512MiB)
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Rejected rows to put up with (default: 0)
    #[arg(long, value_name = "N|P%|all")]
    pub max_rejects: Option<String>,
    /// What becomes of secondary indexes (default: auto)
    #[arg(long, value_enum, value_name = "POLICY")]
    pub index: Option<IndexPolicy>,
    /// How long to try again when server or connection fail, counted from the last progress; 0s: not at all (default:
    /// 5m)
    #[arg(long, value_name = "TIME")]
    pub retry_for: Option<String>,
    /// How rows get into a distributed table (Citus): straight into the shards on the workers, or through the
    /// coordinator (default: auto, into the shards where that is safe)
    #[arg(long, value_enum, value_name = "ROUTE")]
    pub route: Option<RouteChoice>,
    /// What synthetic rows are made from.
    #[command(flatten)]
    pub synthetic: SyntheticArguments,
}

/// What synthetic rows are made from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Synthetic rows")]
pub(super) struct SyntheticArguments {
    /// Dimension of the embeddings (default: 1536)
    #[arg(long, value_name = "N")]
    pub dim: Option<usize>,
    /// Number of channels (default: 1000)
    #[arg(long, value_name = "N")]
    pub channels: Option<String>,
    /// Exponent of Zipf's law, by which rows are spread over channels; 0: evenly (default: 1.1)
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub skew: Option<f64>,
    /// Clusters that the embeddings are drawn from (default: 256)
    #[arg(long, value_name = "N")]
    pub clusters: Option<u32>,
    /// Seed of all random numbers (default: 42)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// `vecload generate`
#[derive(Debug, Args)]
pub(super) struct GenerateArguments {
    /// File that ends in .parquet, .csv, .csv.gz or .csv.zst; - for CSV on stdout
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Number of rows, such as 10M
    #[arg(long, value_name = "N")]
    pub rows: String,
    /// Also write this many queries with their exact nearest neighbours
    #[arg(long, value_name = "N")]
    pub queries: Option<String>,
    /// Neighbours of a query, overall and in its channel (default: 100)
    #[arg(short, value_name = "N", requires = "queries")]
    pub k: Option<usize>,
    /// Where the queries go (default: OUT's name with .queries.parquet)
    #[arg(long, value_name = "FILE", requires = "queries")]
    pub queries_out: Option<PathBuf>,
    /// Threads (default: one per core)
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
    /// What the rows are made from.
    #[command(flatten)]
    pub synthetic: SyntheticArguments,
}

/// `vecload migrate`
#[derive(Debug, Args)]
pub(super) struct MigrateArguments {
    /// Dimension of the embeddings (default: 1536)
    #[arg(long, value_name = "N")]
    pub dim: Option<usize>,
    /// Type of the embeddings (default: vector)
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub vector_type: Option<VectorType>,
    /// Where the embeddings of a new table lie (default: toast)
    #[arg(long, value_enum, value_name = "PLACE")]
    pub vectors: Option<VectorPlace>,
    /// Shards of the table, where Citus is installed (default: 32)
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// Distribute a local table that has rows, where Citus is installed
    #[arg(long)]
    pub distribute: bool,
    /// Build no index
    #[arg(long)]
    pub no_index: bool,
    /// Only show what is there
    #[arg(long)]
    pub status: bool,
}

/// `vecload tune`
#[derive(Debug, Args)]
pub(super) struct TuneArguments {
    /// Only show what is set and what each node reports
    #[arg(long, conflicts_with_all = ["reset", "ef_search", "iterative_scan", "parallel", "maintenance_work_mem"])]
    pub show: bool,
    /// Put back what was set before vecload tune
    #[arg(long, conflicts_with_all = ["ef_search", "iterative_scan", "parallel", "maintenance_work_mem"])]
    pub reset: bool,
    /// hnsw.ef_search, from 1 to 1000 (default: 100)
    #[arg(long, value_name = "N")]
    pub ef_search: Option<u32>,
    /// hnsw.iterative_scan, where pgvector has it (default: relaxed-order)
    #[arg(long, value_enum, value_name = "MODE")]
    pub iterative_scan: Option<IterativeScan>,
    /// max_parallel_workers_per_gather (default: by the servers' cores)
    #[arg(long, value_name = "N")]
    pub parallel: Option<u32>,
    /// maintenance_work_mem (default: by the servers' memory)
    #[arg(long, value_name = "SIZE")]
    pub maintenance_work_mem: Option<String>,
}

/// `vecload search`
#[derive(Debug, Args)]
pub(super) struct SearchArguments {
    /// Search in one channel
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub channel: Option<i64>,
    /// Neighbours of the vector in a file: a JSON array, or raw little-endian 4-byte floats
    #[arg(long, value_name = "FILE", group = "query")]
    pub vector: Option<PathBuf>,
    /// Neighbours of the row with this id
    #[arg(long, value_name = "ID", group = "query", allow_negative_numbers = true)]
    pub like: Option<i64>,
    /// Neighbours of a random direction
    #[arg(long, group = "query")]
    pub random: bool,
    /// Number of results (default: 10)
    #[arg(short, value_name = "N")]
    pub k: Option<u32>,
    /// Only rows whose metadata has this value
    #[arg(long = "where", value_name = "KEY=VALUE")]
    pub conditions: Vec<String>,
    /// How much of the HNSW index to look at (1 to 1000)
    #[arg(long, value_name = "N")]
    pub ef_search: Option<u32>,
    /// Show the query plan
    #[arg(long)]
    pub explain: bool,
}

/// `vecload verify`
#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// Do not count the table's rows
    #[arg(long)]
    pub no_count: bool,
}

/// `vecload loads`
#[derive(Debug, Args)]
pub(super) struct LoadsArguments {
    /// What to do; without it, list the loads.
    #[command(subcommand)]
    pub command: Option<LoadsCommand>,
}

/// What to do with loads.
#[derive(Debug, Subcommand)]
pub(super) enum LoadsCommand {
    /// Show one load and its sources
    Show {
        /// The load
        id: i64,
    },
    /// List the rejected rows of a load
    Rejects {
        /// The load
        id: i64,
        /// Write the whole rejected rows, read again from the source, to a new .parquet, .csv or .jsonl file
        #[arg(long, value_name = "OUT")]
        rows: Option<PathBuf>,
    },
    /// Delete the rows of a load and forget it
    Undo {
        /// The load
        id: i64,
    },
    /// Forget a load and leave its rows
    Forget {
        /// The load
        id: i64,
    },
}

/// `vecload cluster`
#[derive(Debug, Args)]
pub(super) struct ClusterArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What to do with a cluster.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show nodes, versions, shards, sizes, disks and a rebalance at work
    Status,
    /// Add a worker, once it and the way to it are found fit
    Add {
        /// The new node, as the other nodes reach it: HOST:PORT, [IPV6]:PORT
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// The coordinator's own address, as workers reach it
        #[arg(long, value_name = "HOST:PORT")]
        coordinator: Option<String>,
    },
    /// Move a worker's shards to the others and remove it
    Remove {
        /// The node, as `vecload cluster status` shows it
        #[arg(value_name = "HOST:PORT")]
        node: String,
        /// Move shards without logical replication: writes to a shard wait while it moves
        #[arg(long)]
        block_writes: bool,
    },
    /// Spread shards over the nodes, evenly by size, in the background
    Rebalance {
        /// Stop the one at work; what has moved stays
        #[arg(long, conflicts_with = "block_writes")]
        stop: bool,
        /// Move shards without logical replication: writes to a shard wait while it moves
        #[arg(long)]
        block_writes: bool,
    },
}

/// `vecload db`
#[derive(Debug, Args)]
pub(super) struct DbArguments {
    /// What to do.
    #[command(subcommand)]
    pub command: DbCommand,
}

/// What to do with the embedded server.
#[derive(Debug, Subcommand)]
pub(super) enum DbCommand {
    /// Start it, if it does not run
    Start {
        /// Port on 127.0.0.1 (default: a free one)
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
    },
    /// Stop it
    Stop,
    /// Show whether it runs, and where
    Status,
    /// Print its connection URL
    Url,
    /// Open psql on it
    Psql {
        /// Arguments for psql
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}
