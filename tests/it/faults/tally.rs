//! What happened in rounds, counted.

use std::collections::BTreeMap;
use std::fmt::Display;

/// What happened in some rounds.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    pub(super) runs: u64,
    pub(super) rows: u64,
    pub(super) strikes: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.runs += other.runs;
        self.rows += other.rows;
        for (kind, count) in &other.strikes {
            *self.strikes.entry(*kind).or_default() += count;
        }
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        *self.strikes.entry(kind).or_default() += 1;
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rounds, {} runs, {} rows", self.rounds, self.runs, self.rows)?;
        self.strikes.iter().try_for_each(|(kind, count)| write!(f, ", {count} × {kind}"))
    }
}
