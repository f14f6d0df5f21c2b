//! The feeder: one thread that hands parts of the sources to the lanes, in source order.
//!
//! Parts of Parquet are known beforehand; text is scanned here, and its units carry their records with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tokio::runtime::Handle;

use super::counters::Counters;
use super::plan::{LoadPlan, PlannedSource, Reading};
use super::steady::Steady;
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::ledger::blocks::Run;
use crate::ledger::coverage::Coverage;
use crate::ledger::settle::Extent;
use crate::ledger::units::{KnownUnits, ReadUnit, record_units};
use crate::memory::{Budget, Denied, Reservation};
use crate::source::fingerprint::Fingerprint;
use crate::source::parquet::PositionedFile;
use crate::source::text::{Scanner, TextPart, TextSource, TextUnit, UnitMemory};
use crate::source::{Place, UnitPart};

/// Bytes of a unit that one lane takes at a time, so that lanes share a unit.
const PART_BYTES: u64 = 2 << 20;

/// Units of plain files that wait to be recorded together: very many files are one unit each.
const UNRECORDED_MAX: usize = 1_000;

/// A wait for memory looks again now and then: units that are given back hold memory that is to be let go.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a lane is given.
#[derive(Debug)]
pub enum Work {
    /// A part that the lane reads from its file, and what is held until it has been read.
    Part(UnitPart, UnderWay),
    /// Records in memory.
    Text(TextPart),
}

/// Held while a part is under way: in the queue or on a lane.
pub type UnderWay = Arc<()>;

/// All of each source, as far as it is known by now.
pub type Extents = Arc<[OnceLock<Extent>]>;

/// What the feeder knows of a source from earlier runs.
#[derive(Debug, Clone)]
pub struct FeedSource {
    /// Its id in the ledger.
    pub source_id: i64,
    /// Whether all its rows are in.
    pub is_complete: bool,
    /// Its units, where a scan cuts them.
    pub units: KnownUnits,
}

/// Feeds the lanes of one attempt.
pub struct Feeder {
    /// The plan.
    pub plan: Arc<LoadPlan>,
    /// The run that units are recorded under; none where all is loaded already and only compared.
    pub run: Option<Run>,
    /// What earlier runs left of each source.
    pub sources: Vec<FeedSource>,
    /// What they committed of each.
    pub coverage: Arc<[Coverage]>,
    /// Told here once a source has been read to its end.
    pub extents: Extents,
    /// To the lanes.
    pub work: Sender<Work>,
    /// Memory of what lanes read.
    pub lane_memory: Budget,
    /// A session for the ledger, where a source is text.
    pub session: Option<tokio::sync::Mutex<Steady>>,
    /// Units that are not in the ledger yet.
    pub unrecorded: Mutex<Vec<ReadUnit>>,
    /// The books.
    pub counters: Arc<Counters>,
    /// The end, if it comes early.
    pub stop: Arc<Stop>,
    /// What the window of the source that is being scanned takes.
    pub window_bytes: AtomicUsize,
    /// Shared with the parts that are under way.
    pub under_way: UnderWay,
    /// The runtime that the session lives in.
    pub runtime: Handle,
}

impl Feeder {
    /// Hands out all that is left to read, as far as `--limit` goes.
    pub fn run(&self) -> Result<()> {
        let mut left = self.plan.settings.limit.unwrap_or(u64::MAX);
        for (index, source) in self.plan.sources.iter().enumerate() {
            match &source.reading {
                Reading::Parquet { unit_rows, parts, .. } => {
                    let rows = |unit: u32| unit_rows[unit as usize];
                    left = self.hand_out(index, parts, rows, left)?;
                }
                Reading::Synthetic { unit_rows, .. } => {
                    let parts: Vec<UnitPart> = (0..)
                        .zip(unit_rows)
                        .map(|(unit, rows)| UnitPart { source: index, unit, rows: 0..*rows })
                        .collect();
                    left = self.hand_out(index, &parts, |unit| unit_rows[unit as usize], left)?;
                }
                Reading::Text { source: text, .. } => left = self.scan(index, source, text, left)?,
            }
            if self.stop.is_stopping() {
                break;
            }
        }
        self.record()
    }

    fn hand_out(
        &self,
        source: usize,
        parts: &[UnitPart],
        unit_rows: impl Fn(u32) -> u64,
        mut left: u64,
    ) -> Result<u64> {
        let known = &self.sources[source];
        for part in parts {
            let rows = left.min(part.rows.end - part.rows.start);
            left -= rows;
            let is_done =
                known.is_complete || self.coverage[source].is_complete(part.unit, unit_rows(part.unit));
            if rows > 0 && !is_done {
                let rows = part.rows.start..part.rows.start + rows;
                let part = UnitPart { rows, ..part.clone() };
                if !self.send(Work::Part(part, Arc::clone(&self.under_way))) {
                    break;
                }
            }
        }
        Ok(left)
    }

    /// Scans a source of text; gives what `--limit` leaves after it.
    fn scan(&self, index: usize, source: &PlannedSource, text: &TextSource, mut left: u64) -> Result<u64> {
        let known = &self.sources[index];
        // A stream without end must not be waited for; one that was read before is compared.
        if left == 0 || known.is_complete && text.place != Place::Stdin {
            return Ok(left.saturating_sub(self.extents[index].get().map_or(0, |extent| extent.rows)));
        }
        self.wait_for_parts();
        let mut scanner = text.scanner()?;
        self.window_bytes.store(scanner.input().window_bytes(), Ordering::Relaxed);
        let Some(_window) = self.window(&scanner)? else { return Ok(left) };
        let (mut units, mut rows, mut counted) = (0, 0, 0);
        let ended = loop {
            if left == 0 {
                break false;
            }
            let Some(unit) = self.next_unit(&mut scanner, &mut counted)? else {
                break !self.stop.is_stopping();
            };
            self.compare(index, &unit)?;
            units += 1;
            rows += unit.rows();
            let (is_last, taken) = (unit.is_last, left.min(unit.rows()));
            left -= taken;
            if !self.coverage[index].is_complete(unit.unit, unit.rows())
                && !self.send_unit(index, unit, taken)
            {
                break false;
            }
            if is_last {
                break true;
            }
        };
        if ended {
            self.note_end(index, source, &scanner, units, rows)?;
        }
        Ok(left)
    }

    /// Units take their memory from the same budget as the pages of parts: a unit that waits in hand for a lane, while
    /// the lane waits for the unit's memory, would wait for ever.
    fn wait_for_parts(&self) {
        let started = Instant::now();
        while Arc::strong_count(&self.under_way) > 1 && !self.stop.is_stopping() {
            // The timer is made inside the runtime.
            self.runtime.block_on(async { tokio::time::sleep(LOOK_AGAIN).await });
        }
        self.counters.scan.waited(started.elapsed());
    }

    fn next_unit(&self, scanner: &mut Scanner, counted: &mut u64) -> Result<Option<TextUnit>> {
        let started = Instant::now();
        let waited = self.counters.scan.totals().wait;
        let unit = scanner.next_unit(self)?;
        let waiting = self.counters.scan.totals().wait - waited;
        let stored = scanner.input().stored().bytes();
        let read = stored - std::mem::replace(counted, stored);
        let rows = unit.as_ref().map_or(0, TextUnit::rows);
        self.counters.scan.worked(rows, read, started.elapsed().saturating_sub(waiting));
        Ok(unit)
    }

    /// Compares a unit with what an earlier run read, or records it.
    fn compare(&self, index: usize, unit: &TextUnit) -> Result<()> {
        let known = &self.sources[index];
        let Some(before) = known.units.get(&unit.unit) else {
            if known.is_complete {
                return Err(self.changed(index, unit, "it has more units than then"));
            }
            let unrecorded = {
                let mut unrecorded = self.unrecorded();
                unrecorded.push(ReadUnit {
                    source_id: known.source_id,
                    unit: unit.unit,
                    start: unit.start,
                    rows: unit.rows(),
                    hash: unit.hash.clone(),
                });
                unrecorded.len()
            };
            // A stream is known by its units alone: they are in the ledger before any of their rows. A file is known
            // before it is read; what is cut of it again, after a crash, is the same.
            return match unit.hash.is_empty() && unrecorded < UNRECORDED_MAX {
                true => Ok(()),
                false => self.record(),
            };
        };
        match before.hash == unit.hash && before.rows == unit.rows() {
            true => Ok(()),
            false => Err(self.changed(index, unit, "this unit differs")),
        }
    }

    /// Records what is not in the ledger yet.
    fn record(&self) -> Result<()> {
        let units = std::mem::take(&mut *self.unrecorded());
        if units.is_empty() {
            return Ok(());
        }
        let (Some(session), Some(run)) = (&self.session, self.run) else {
            return Err(Error::bug("units can't be recorded outside a run"));
        };
        self.runtime.block_on(async {
            let mut session = session.lock().await;
            session.run(async |session| record_units(session, run, &units).await).await
        })
    }

    fn unrecorded(&self) -> MutexGuard<'_, Vec<ReadUnit>> {
        self.unrecorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, index: usize, unit: &TextUnit, how: &str) -> Error {
        let source = &self.plan.sources[index];
        let hint = match source.place {
            Place::Stdin => {
                "give the same bytes as then, or another --name for other rows; or take back what was loaded: \
                 vecload loads undo"
            }
            _ => "put the old file back, or take back what was loaded: vecload loads undo",
        };
        Error::failed(format!(
            "{} is not what earlier runs read: {how} (unit {}, from byte {}, line {})",
            source.place, unit.unit, unit.start.byte, unit.start.line
        ))
        .hint(hint)
    }

    /// Hands a unit out in parts; false when the load is stopping.
    fn send_unit(&self, index: usize, unit: TextUnit, rows: u64) -> bool {
        let unit = Arc::new(unit);
        let parts = (unit.bytes() / PART_BYTES).clamp(1, unit.rows().max(1));
        let part_rows = unit.rows().div_ceil(parts).max(1);
        let mut from = 0;
        while from < rows {
            let to = rows.min(from + part_rows);
            if !self.send(Work::Text(TextPart { source: index, unit: Arc::clone(&unit), rows: from..to })) {
                return false;
            }
            from = to;
        }
        true
    }

    /// Notes what a source is in all; a file must be what it was when it was opened.
    fn note_end(
        &self,
        index: usize,
        source: &PlannedSource,
        scanner: &Scanner,
        units: u32,
        rows: u64,
    ) -> Result<()> {
        let stored = scanner.input().stored();
        if let Place::File(path) = &source.place {
            let now = PositionedFile::open(path).and_then(|file| Fingerprint::of(&file));
            if now.ok().as_ref() != Some(&source.fingerprint) || stored.bytes() != source.fingerprint.size {
                return Err(Error::failed(format!("{} changed while it was being loaded", source.place)).hint(
                    "rows already loaded stay; put the old file back and run again, or take them back: vecload loads \
                     undo",
                ));
            }
        }
        let extent = Extent { units, rows, hash: stored.hash() };
        if self.extents[index].get_or_init(|| extent.clone()).rows != rows {
            return Err(Error::failed(format!(
                "{} is not what earlier runs read: it has {rows} records now",
                source.place
            ))
            .hint("give the same bytes as then, or another --name for other rows"));
        }
        Ok(())
    }

    /// The window of a decompressor, held while a source is scanned.
    fn window(&self, scanner: &Scanner) -> Result<Option<Reservation>> {
        self.reserve(scanner.input().window_bytes(), &|| {})
    }

    /// False when the lanes have gone.
    fn send(&self, work: Work) -> bool {
        let started = Instant::now();
        let sent = self.work.send(work).is_ok();
        self.counters.scan.waited(started.elapsed());
        sent
    }
}

impl UnitMemory for Feeder {
    fn total(&self) -> usize {
        self.lane_memory.total().saturating_sub(self.window_bytes.load(Ordering::Relaxed))
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_stopping()
    }

    fn reserve(&self, bytes: usize, make_room: &dyn Fn()) -> Result<Option<Reservation>> {
        if let Some(held) = self.lane_memory.try_reserve(bytes) {
            return Ok(Some(held));
        }
        let started = Instant::now();
        let outcome = loop {
            make_room();
            // The timer is made inside the runtime.
            let wait = async { tokio::time::timeout(LOOK_AGAIN, self.lane_memory.reserve(bytes)).await };
            match self.runtime.block_on(wait) {
                Ok(Ok(held)) => break Ok(Some(held)),
                Ok(Err(Denied::Closed)) => break Ok(None),
                Ok(Err(Denied::TooLarge)) => break Err(Error::bug("more memory asked for than there is")),
                Err(_elapsed) => {}
            }
        };
        self.counters.scan.waited(started.elapsed());
        outcome
    }
}
