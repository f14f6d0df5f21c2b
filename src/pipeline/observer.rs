//! What a load shows while it runs.

use std::sync::Arc;

use super::counters::Counters;
use crate::index::BuildProgress;

/// What a load shows while it runs.
pub trait Observer: Send + Sync {
    /// A line for the user.
    fn say(&self, line: &str);
    /// A line that the user should not miss.
    fn warn(&self, line: &str);
    /// Rows begin to flow.
    fn loading(&self, view: LoadView);
    /// Rows have ended, well or not.
    fn loaded(&self);
    /// An index is being built.
    fn indexing(&self, name: &str, progress: Option<BuildProgress>);
    /// All indexes are built, or the last one ended unfinished.
    fn indexed(&self, complete: bool);
}

/// What a progress display needs.
#[derive(Debug, Clone)]
pub struct LoadView {
    /// The books.
    pub counters: Arc<Counters>,
    /// Rows that the command asks for, where they are known beforehand.
    pub rows: Option<u64>,
    /// Bytes of the sources as stored, where they are all files.
    pub stored_bytes: Option<u64>,
    /// Of these, rows that earlier runs committed or rejected.
    pub rows_before: u64,
    /// Threads that read and encode.
    pub lanes: usize,
    /// Connections that write.
    pub writers: usize,
}
