//! The open books: what each stage has done, and for how long it worked and waited.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one stage.
#[derive(Debug, Default)]
pub struct Stage {
    rows: AtomicU64,
    bytes: AtomicU64,
    busy_nanos: AtomicU64,
    wait_nanos: AtomicU64,
}

/// What a stage had counted at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageTotals {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Time spent working, of all threads or connections together.
    pub busy: Duration,
    /// Time spent waiting for another stage.
    pub wait: Duration,
}

impl Stage {
    /// Adds work.
    pub fn worked(&self, rows: u64, bytes: u64, busy: Duration) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.busy_nanos.fetch_add(nanos(busy), Ordering::Relaxed);
    }

    /// Adds a wait.
    pub fn waited(&self, wait: Duration) {
        self.wait_nanos.fetch_add(nanos(wait), Ordering::Relaxed);
    }

    /// The totals so far.
    pub fn totals(&self) -> StageTotals {
        StageTotals {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.busy_nanos.load(Ordering::Relaxed)),
            wait: Duration::from_nanos(self.wait_nanos.load(Ordering::Relaxed)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Counters of an attempt.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reading units; bytes as stored.
    pub read: Stage,
    /// Mapping and checking rows.
    pub batch: Stage,
    /// Encoding; bytes of tuples.
    pub partition: Stage,
    /// Copying and committing; rows and bytes are committed ones.
    pub write: Stage,
    /// Rows rejected in this run.
    pub rejected: AtomicU64,
    /// Accepted rows whose embedding is all zeros.
    pub zero_vectors: AtomicU64,
    /// Rows skipped because an earlier run committed them.
    pub skipped: AtomicU64,
}

/// What holds the load up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bottleneck {
    /// Reading and decoding the source.
    Source,
    /// Checking and encoding.
    Encode,
    /// The server and the way to it.
    Server,
}

impl Bottleneck {
    /// Judged from how lanes spend their time: a lane that mostly waits, waits for the server.
    pub fn of(read: StageTotals, batch: StageTotals, partition: StageTotals) -> Self {
        let encode = batch.busy + partition.busy;
        let waiting = partition.wait;
        if waiting * 3 > read.busy + encode {
            Self::Server
        } else if read.busy >= encode {
            Self::Source
        } else {
            Self::Encode
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Encode => "encode",
            Self::Server => "server",
        }
    }
}

impl Counters {
    /// The bottleneck so far.
    pub fn bottleneck(&self) -> Bottleneck {
        Bottleneck::of(self.read.totals(), self.batch.totals(), self.partition.totals())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_waits_blames_the_server_and_one_that_works_its_own_stage() {
        let busy = |seconds| StageTotals { busy: Duration::from_secs(seconds), ..StageTotals::default() };
        let waiting = StageTotals { wait: Duration::from_secs(5), ..busy(1) };
        assert_eq!(Bottleneck::of(busy(2), busy(1), waiting), Bottleneck::Server);
        assert_eq!(Bottleneck::of(busy(4), busy(1), busy(1)), Bottleneck::Source);
        assert_eq!(Bottleneck::of(busy(1), busy(2), busy(3)), Bottleneck::Encode);
    }
}
