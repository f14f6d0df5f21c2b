//! Hashes of whole files, taken while their rows are on their way: what a lane has just read is still in memory, and
//! nothing is left to do when the last row is in.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::counters::Counters;
use super::plan::{LoadPlan, Reading};
use crate::error::{Context, Error, Result};
use crate::ledger::claim::Claim;
use crate::source::Place;
use crate::source::fingerprint::{Fingerprint, FullHash};
use crate::source::parquet::PositionedFile;

/// How long a hash that is ahead of the lanes waits for them.
const PACE: Duration = Duration::from_millis(20);

/// Hashes by source; none of a file that was not hashed to its end, or is another one by now.
pub(super) type Hashes = Vec<(usize, Option<String>)>;

/// A thread that hashes files at the pace at which lanes read them; dropping it ends it.
#[derive(Default)]
pub(super) struct Hashing {
    pace: Arc<Pace>,
    thread: Option<thread::JoinHandle<Hashes>>,
}

/// A file to be hashed.
struct PlannedFile {
    source: usize,
    path: PathBuf,
    fingerprint: Fingerprint,
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
        let files: Vec<PlannedFile> = sources
            .filter_map(|(index, (source, claimed))| match (&source.place, &source.reading) {
                (Place::File(path), Reading::Parquet { .. }) if completes && !claimed.is_complete => {
                    let fingerprint = source.fingerprint.clone();
                    Some(PlannedFile { source: index, path: path.clone(), fingerprint })
                }
                _ => None,
            })
            .collect();
        if files.is_empty() {
            return Ok(Self { pace, thread: None });
        }
        let size: u64 = files.iter().map(|file| file.fingerprint.size).sum();
        let read_bytes: u64 = files.iter().map(|file| to_read(plan, claim, file.source)).sum();
        let counters = Arc::clone(counters);
        // Columns that are not loaded are hashed too: it is parts of the whole that are compared.
        let is_ahead = move |hashed: u64| {
            u128::from(hashed) * u128::from(read_bytes) > u128::from(counters.bytes_read()) * u128::from(size)
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
        thread.join().map_err(|_panic| Error::bug("the thread that hashes files panicked"))
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.pace.is_cancelled.store(true, Ordering::Relaxed);
    }
}

/// Bytes of a file that lanes will read, about: rows that are in already lie in row groups that they skip.
fn to_read(plan: &LoadPlan, claim: &Claim, source: usize) -> u64 {
    let Reading::Parquet { stored_bytes, unit_rows, .. } = &plan.sources[source].reading else { return 0 };
    let rows = unit_rows.iter().sum::<u64>().max(1);
    let left = rows.saturating_sub(claim.sources[source].coverage.rows());
    (u128::from(*stored_bytes) * u128::from(left) / u128::from(rows)) as u64
}

fn hash_all(files: Vec<PlannedFile>, keep: impl Fn(u64) -> bool) -> Hashes {
    let mut hashed = 0;
    let mut hashes = Vec::new();
    for file in files {
        if !keep(hashed) {
            break;
        }
        // Who asks for a hash that is not there hashes the file again, and tells what is wrong with it.
        match file.hash(&mut hashed, &keep) {
            Ok(hash) => hashes.push((file.source, hash)),
            Err(error) => tracing::debug!("no hash of {} yet: {error}", file.path.display()),
        }
    }
    hashes
}

impl PlannedFile {
    /// Its hash, if it is the file that was planned with, before and after.
    fn hash(&self, hashed: &mut u64, keep: &impl Fn(u64) -> bool) -> Result<Option<String>> {
        let file = PositionedFile::open(&self.path)?;
        let is_planned = || {
            Ok::<_, Error>(
                (file.size(), file.modified_nanos()?)
                    == (self.fingerprint.size, self.fingerprint.modified_nanos),
            )
        };
        if !is_planned()? {
            return Ok(None);
        }
        let mut hash = FullHash::new(&file);
        while keep(*hashed) {
            match hash.step()? {
                0 => return Ok(is_planned()?.then(|| hash.hex())),
                bytes => *hashed += bytes,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fingerprint::full_hash;

    #[test]
    fn a_hash_waits_for_the_lanes_until_they_are_through_or_the_load_ends() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), vec![7; 3 << 20]).expect("write");
        let file = PositionedFile::open(path.path()).expect("open");
        let begin = || {
            let pace = Arc::<Pace>::default();
            let fingerprint = Fingerprint::of(&file).expect("a fingerprint");
            let files = vec![PlannedFile { source: 4, path: path.path().to_owned(), fingerprint }];
            let keep = Arc::clone(&pace);
            // Lanes that never read more than half a megabyte.
            let work = move || hash_all(files, |hashed| keep.keep(|| hashed > 512 << 10));
            let thread = thread::Builder::new().name("hashing".into()).spawn(work);
            Hashing { pace, thread: Some(thread.expect("a thread")) }
        };
        let mut hashing = begin();
        assert_eq!(hashing.finish().expect("hashes"), [(4, Some(full_hash(&file).expect("a hash")))]);
        assert!(hashing.finish().expect("nothing more").is_empty());

        let mut dropped = begin();
        let thread = dropped.thread.take().expect("a thread");
        drop(dropped);
        let has_none = |hashes: &Hashes| hashes.iter().all(|(_, hash)| hash.is_none());
        assert!(has_none(&thread.join().expect("no panic")));

        std::fs::write(path.path(), vec![8; 3 << 20]).expect("write");
        let mut changed = begin();
        std::fs::write(path.path(), vec![9; 2 << 20]).expect("write");
        let hashes = changed.finish().expect("hashes");
        assert!(has_none(&hashes), "the file is another one: {hashes:?}");
    }
}
