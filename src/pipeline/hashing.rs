//! Hashes of whole files, taken while their rows are on their way: what a lane has just read is still in memory, and
//! nothing is left to do when the last row is in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::counters::Counters;
use super::plan::{LoadPlan, Reading};
use crate::error::{Context, Error, Kind, Result};
use crate::ledger::claim::Claim;
use crate::source::Place;
use crate::source::fingerprint::FullHash;
use crate::source::parquet::PositionedFile;

/// How long a hash that is ahead of the lanes waits for them.
const PACE: Duration = Duration::from_millis(20);

/// Hashes by source; none of a file that was not hashed to its end.
pub(super) type Hashes = Vec<(usize, Option<String>)>;

/// A thread that hashes files at the pace at which lanes read them; dropping it ends it.
#[derive(Default)]
pub(super) struct Hashing {
    pace: Arc<Pace>,
    thread: Option<thread::JoinHandle<Result<Hashes>>>,
}

/// How the thread goes on.
#[derive(Default)]
struct Pace {
    /// The lanes are through.
    hurries: AtomicBool,
    /// Nobody waits for hashes any more.
    is_cancelled: AtomicBool,
}

impl Pace {
    /// Waits while the hash is ahead of the lanes; false if it is of no use any more.
    fn keep(&self, is_ahead: impl Fn() -> bool) -> bool {
        while !self.is_cancelled.load(Ordering::Relaxed)
            && !self.hurries.load(Ordering::Relaxed)
            && is_ahead()
        {
            thread::park_timeout(PACE);
        }
        !self.is_cancelled.load(Ordering::Relaxed)
    }
}

impl Hashing {
    /// Begins with the files that the load will complete; nothing to do if there is none.
    pub(super) fn begin(plan: &LoadPlan, claim: &Claim, counters: &Arc<Counters>) -> Result<Self> {
        let pace = Arc::<Pace>::default();
        // With `--limit` the load may well end before its files do.
        let completes = claim.run.is_some() && plan.settings.limit.is_none();
        let sources = plan.sources.iter().zip(&claim.sources).enumerate();
        let files: Vec<(usize, PathBuf)> = sources
            .filter_map(|(index, (source, claimed))| match (&source.place, &source.reading) {
                (Place::File(path), Reading::Parquet { .. }) if completes && !claimed.is_complete => {
                    Some((index, path.clone()))
                }
                _ => None,
            })
            .collect();
        if files.is_empty() {
            return Ok(Self { pace, thread: None });
        }
        let size: u64 = files.iter().map(|(index, _)| plan.sources[*index].fingerprint.size).sum();
        let stored_bytes = plan.stored_bytes().unwrap_or(size).max(1);
        let counters = Arc::clone(counters);
        // Columns that are not loaded are hashed too: it is parts of the whole that are compared.
        let is_ahead = move |hashed: u64| {
            u128::from(hashed) * u128::from(stored_bytes)
                > u128::from(counters.bytes_read()) * u128::from(size)
        };
        let keep = Arc::clone(&pace);
        let thread = thread::Builder::new()
            .name("hashing".into())
            .spawn(move || hash_all(files, |hashed| keep.keep(|| is_ahead(hashed))))
            .or_failed(|| "start the thread that hashes files".into())?;
        Ok(Self { pace, thread: Some(thread) })
    }

    /// Waits for what is not hashed yet, as the lanes are through.
    pub(super) fn finish(&mut self) -> Result<Hashes> {
        let Some(thread) = self.thread.take() else { return Ok(Vec::new()) };
        self.pace.hurries.store(true, Ordering::Relaxed);
        thread.thread().unpark();
        thread.join().map_err(|_panic| Error::bug("the thread that hashes files panicked"))?
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.pace.is_cancelled.store(true, Ordering::Relaxed);
    }
}

fn hash_all(files: Vec<(usize, PathBuf)>, keep: impl Fn(u64) -> bool) -> Result<Hashes> {
    let mut hashed = 0;
    let hash = |(index, path): (usize, PathBuf)| Ok((index, hash_one(&path, &mut hashed, &keep)?));
    files.into_iter().map(hash).collect()
}

fn hash_one(path: &Path, hashed: &mut u64, keep: &impl Fn(u64) -> bool) -> Result<Option<String>> {
    let file = PositionedFile::open(path).map_err(|error| error.with_kind(Kind::Failed))?;
    let mut hash = FullHash::new(&file);
    loop {
        if !keep(*hashed) {
            return Ok(None);
        }
        match hash.step()? {
            0 => return Ok(Some(hash.hex())),
            bytes => *hashed += bytes,
        }
    }
}
