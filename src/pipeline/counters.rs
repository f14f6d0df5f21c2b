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
    /// Scanning text, in one thread, waits for who writes it included; bytes as stored.
    pub scan: Stage,
    /// Reading units; bytes as stored, those of text aside.
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

impl Counters {
    /// Bytes read of the sources, as stored.
    pub fn bytes_read(&self) -> u64 {
        self.scan.totals().bytes + self.read.totals().bytes
    }
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
    /// Judged from how busy the scan, a lane and a writer are on average: whoever works the largest part of the
    /// time holds the others up.
    pub fn of(counters: &Counters, lanes: usize, writers: usize) -> Self {
        let read = counters.read.totals().busy;
        let encode = counters.batch.totals().busy + counters.partition.totals().busy;
        let scan = counters.scan.totals().busy;
        let lane = (read + encode) / u32::try_from(lanes.max(1)).unwrap_or(u32::MAX);
        let writer = counters.write.totals().busy / u32::try_from(writers.max(1)).unwrap_or(u32::MAX);
        if scan > writer && scan > lane {
            Self::Source
        } else if writer >= lane {
            Self::Server
        } else if read >= encode {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_works_most_of_the_time_is_the_bottleneck() {
        let of = |read, encode, write| {
            let counters = Counters::default();
            counters.read.worked(1, 1, Duration::from_secs(read));
            counters.batch.worked(1, 1, Duration::from_secs(encode));
            counters.write.worked(1, 1, Duration::from_secs(write));
            Bottleneck::of(&counters, 2, 4)
        };
        assert_eq!(of(4, 2, 20), Bottleneck::Server);
        assert_eq!(of(4, 2, 8), Bottleneck::Source);
        assert_eq!(of(1, 5, 8), Bottleneck::Encode);
        let slow_producer = Counters::default();
        slow_producer.scan.worked(1, 1, Duration::from_secs(3));
        slow_producer.write.worked(1, 1, Duration::from_secs(4));
        assert_eq!(Bottleneck::of(&slow_producer, 2, 2), Bottleneck::Source);
    }
}
