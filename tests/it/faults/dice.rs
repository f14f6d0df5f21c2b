//! What a round draws: all of it a function of the round's seed, nothing of time.

use std::ops::Range;

use nix::sys::signal::Signal;

use super::proxy::{Ambush, Ending, Loss, Which};
use crate::rows::hash;

/// Numbers of one seed.
pub(crate) struct Dice {
    seed: u64,
    drawn: u64,
}

impl Dice {
    /// For one thing in a round; what another draws does not change it.
    pub(crate) fn of(seed: u64, thing: u64) -> Self {
        Self { seed: hash(seed, 7_000_000 + thing), drawn: 0 }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        hash(self.seed, self.drawn)
    }

    /// A number of a range.
    pub(crate) fn of_range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.of_range(0..times) == 0
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.of_range(0..of.len() as u64) as usize]
    }
}

/// When something strikes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// After this part, in thousandths, of the time that the rest of the load should take.
    Part(u64),
    /// When the client has sent so many more COMMITs.
    Commits(u64),
    /// When so many more blocks are in the ledger.
    Blocks(u64),
}

/// What strikes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Strike {
    /// SIGKILL for the loader.
    Kill,
    /// A signal that it may handle, perhaps again at once.
    Signal { signal: Signal, twice: bool },
    /// One of its sessions is ended by the server.
    Backend { number: u64 },
    /// The server crashes; it is back at once, or only when the next run has begun.
    Server { stays_down: bool },
    /// Connections end.
    Cut { which: Which, ending: Ending },
    /// Connections stall.
    Stall { which: Which, then: Then },
    /// A COMMIT or its answer is lost; after silence comes what follows a stall.
    Commit { ambush: Ambush, then: Then },
}

/// What follows a stall.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// All goes on.
    Release { after_millis: u64 },
    /// The connections end.
    Cut,
    /// The loader is killed; the server does not see its end for a while.
    Kill { ghost_millis: u64 },
}

impl Moment {
    fn draw(dice: &mut Dice) -> Self {
        match dice.of_range(0..4) {
            0 | 1 => Self::Part(dice.of_range(0..1000)),
            2 => Self::Commits(dice.of_range(0..12)),
            _ => Self::Blocks(dice.of_range(1..8)),
        }
    }
}

impl Strike {
    /// The n-th strike of a round, and its moment.
    pub(crate) fn draw(seed: u64, number: u64) -> (Moment, Self) {
        let dice = &mut Dice::of(seed, 1_000 + number);
        let mut moment = Moment::draw(dice);
        let which = if dice.one_in(2) { Which::All } else { Which::One(dice.of_range(0..100)) };
        let ending = dice.pick(&[Ending::Close, Ending::Reset]);
        let then = match dice.of_range(0..4) {
            0 | 1 => Then::Release { after_millis: dice.of_range(50..800) },
            2 => Then::Cut,
            // Beyond 5 s the next run takes the ghost for a living loader.
            _ => Then::Kill { ghost_millis: dice.pick(&[0, 0, 300, 1_500, 6_500]) },
        };
        let strike = match dice.of_range(0..18) {
            0..=2 => Self::Kill,
            3 | 4 => {
                let signal = dice.pick(&[Signal::SIGINT, Signal::SIGTERM]);
                Self::Signal { signal, twice: dice.one_in(4) }
            }
            5 | 6 => Self::Backend { number: dice.of_range(0..100) },
            7 | 8 => Self::Server { stays_down: dice.one_in(3) },
            9 | 10 => Self::Cut { which, ending },
            11 | 12 => Self::Stall { which, then },
            _ => {
                let loss = dice.pick(&[
                    Loss::Request,
                    Loss::Answer,
                    Loss::Answer,
                    Loss::Answer,
                    Loss::Either,
                    Loss::Silence,
                ]);
                // Something has to be left for it.
                moment = Moment::Part(dice.of_range(0..300));
                Self::Commit { ambush: Ambush { after: dice.of_range(0..6), loss, ending }, then }
            }
        };
        (moment, strike)
    }

    /// Its kind, for the tally.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill => "loader killed",
            Self::Signal { .. } => "loader signalled",
            Self::Backend { .. } => "backend terminated",
            Self::Server { .. } => "server crashed",
            Self::Cut { .. } => "connections cut",
            Self::Stall { .. } => "connections stalled",
            Self::Commit { .. } => "COMMIT lost",
        }
    }
}
