//! The protocol by which blocks are committed, settled and taken over, checked exhaustively on a small model: every
//! order of steps with any number of faults. docs/ledger.md, "Model check", says what is in the model.
//!
//! `cargo test --release --test model -- --nocapture` prints how many states there are, and for each flaw a schedule.

#![cfg(test)]

mod protocol;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use protocol::{Flaw, Model, State, Step};

/// Cheap; two states that share a hash are told apart by comparing them.
#[derive(Default)]
struct Multiplied(u64);

impl Hasher for Multiplied {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// The states that were reached, each with the one that it was first reached from.
#[derive(Default)]
struct Reached {
    states: Vec<State>,
    before: Vec<usize>,
    by_hash: HashMap<u64, usize, BuildHasherDefault<Multiplied>>,
    /// How many steps that are no fault lead to a state.
    calm_ways_in: Vec<u32>,
}

impl Reached {
    /// The number of a state, and whether it is new.
    fn number(&mut self, state: State, before: usize) -> (usize, bool) {
        let mut hash = self.by_hash.hasher().hash_one(state);
        while let Some(number) = self.by_hash.get(&hash) {
            if self.states[*number] == state {
                return (*number, false);
            }
            hash = hash.wrapping_add(1);
        }
        let number = self.states.len();
        self.by_hash.insert(hash, number);
        self.states.push(state);
        self.before.push(before);
        self.calm_ways_in.push(0);
        (number, true)
    }

    /// The steps to a state, with loaders and runs numbered as they come.
    fn schedule(&self, model: &Model, last: usize, broken: &str) -> String {
        let mut way = vec![last];
        while way[way.len() - 1] > 0 {
            way.push(self.before[way[way.len() - 1]]);
        }
        let (mut lines, mut state, mut found) = (Vec::new(), State::first(), Vec::new());
        for number in way.into_iter().rev().skip(1) {
            state.successors(model, &mut found);
            let leads_there = |(_, next): &&(Step, State)| next.normalized() == self.states[number];
            let (step, next) = found.iter().find(leads_there).expect("normalizing changes no step");
            lines.push(step.to_string());
            state = *next;
        }
        format!("{}\n= {broken}", lines.join("\n"))
    }
}

/// Goes through all states, those that need fewer faults first. The error is a schedule that breaks an invariant.
fn explore(model: &Model) -> Result<Reached, String> {
    let mut reached = Reached::default();
    let mut found: Vec<(Step, State)> = Vec::new();
    let mut after_fault = vec![reached.number(State::first().normalized(), 0).0];
    while !after_fault.is_empty() {
        let mut queue = std::mem::take(&mut after_fault);
        let mut at = 0;
        while let Some(&number) = queue.get(at) {
            at += 1;
            let state = reached.states[number];
            if let Some(broken) = state.broken(model) {
                return Err(reached.schedule(model, number, broken));
            }
            state.successors(model, &mut found);
            for (step, next) in &found {
                let (next, is_new) = reached.number(next.normalized(), number);
                reached.calm_ways_in[next] += u32::from(!step.is_fault);
                if is_new {
                    if step.is_fault { &mut after_fault } else { &mut queue }.push(next);
                }
            }
        }
    }
    Ok(reached)
}

/// From whichever state, without further faults, no order of steps goes on for ever, and all end with the source
/// loaded.
fn ends_well(model: &Model, mut reached: Reached) -> Result<(), String> {
    let mut free: Vec<usize> =
        (0..reached.states.len()).filter(|at| reached.calm_ways_in[*at] == 0).collect();
    let mut found = Vec::new();
    while let Some(number) = free.pop() {
        reached.states[number].successors(model, &mut found);
        found.retain(|(step, _)| !step.is_fault);
        if found.is_empty() && !reached.states[number].is_loaded() {
            return Err(reached.schedule(model, number, "nothing goes on, and the source is not loaded"));
        }
        for (_, next) in &found {
            let (next, _) = reached.number(next.normalized(), number);
            reached.calm_ways_in[next] -= 1;
            if reached.calm_ways_in[next] == 0 {
                free.push(next);
            }
        }
    }
    let circle = (0..reached.states.len()).find(|at| reached.calm_ways_in[*at] > 0);
    circle.map_or(Ok(()), |number| {
        Err(reached.schedule(model, number, "the steps go in a circle from or before here"))
    })
}

#[test]
fn no_schedule_doubles_or_loses_a_block() {
    for asynchronous in [false, true] {
        let model = Model { blocks: 3, asynchronous, flaw: None };
        let started = std::time::Instant::now();
        let reached = explore(&model).unwrap_or_else(|schedule| panic!("{model:?}\n{schedule}"));
        let states = reached.states.len();
        let steps: u32 = reached.calm_ways_in.iter().sum();
        ends_well(&model, reached).unwrap_or_else(|schedule| panic!("{model:?}\n{schedule}"));
        println!("{model:?}: {states} states, {steps} steps besides faults, {:.1?}", started.elapsed());
    }
}

#[test]
fn each_flaw_is_noticed() {
    const TWICE: &str = "a block's rows are in the table twice";
    const SHORT: &str = "a run holds every block for loaded, and the balance is short";
    const DISAGREE: &str = "table and ledger disagree";
    const NOT_DURABLE: &str = "success is reported, and a crash can take a block away";
    for (flaw, modes, broken) in [
        (Flaw::NoFence, [false, true].as_slice(), TWICE),
        (Flaw::FenceWithoutLock, &[false, true], TWICE),
        (Flaw::TakeoverDoesNotWait, &[false, true], TWICE),
        (Flaw::CoverageBeforeClaim, &[false], TWICE),
        (Flaw::ClaimIsAsynchronous, &[false, true], TWICE),
        (Flaw::LedgerRowApart, &[false, true], DISAGREE),
        (Flaw::SettleWithoutWaiting, &[false, true], TWICE),
        (Flaw::UnknownIsFailed, &[false, true], TWICE),
        (Flaw::UnknownIsCommitted, &[false], SHORT),
        (Flaw::NoNewAttempt, &[true], SHORT),
        (Flaw::NoFlush, &[true], NOT_DURABLE),
    ] {
        for asynchronous in modes.iter().copied() {
            let model = Model { blocks: 2, asynchronous, flaw: Some(flaw) };
            let schedule = explore(&model).err().unwrap_or_else(|| panic!("{model:?}: not noticed"));
            println!("{model:?}\n{schedule}\n");
            assert!(schedule.ends_with(broken), "{model:?}\n{schedule}");
        }
    }
}

#[test]
fn a_standstill_is_noticed() {
    let flaw = Some(Flaw::OldBackendStays);
    let model = Model { blocks: 2, asynchronous: false, flaw };
    let reached = explore(&model).unwrap_or_else(|schedule| panic!("{model:?}\n{schedule}"));
    let schedule = ends_well(&model, reached).expect_err("a backend that hangs stops all");
    assert!(schedule.ends_with("nothing goes on, and the source is not loaded"), "{schedule}");
}
