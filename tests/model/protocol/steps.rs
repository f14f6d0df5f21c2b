//! What can happen in a state.
//!
//! What nobody else sees is no step of its own: COPY, comparing the token and inserting the ledger row are one step,
//! and a backend that has lost its client before COMMIT is gone at once, as all that it could do is to delay a
//! takeover. A lock or a lost session that lingers is the same: it delays what may also happen later.

use super::{
    Commit, Control, Flaw, LOADERS, Loader, Model, Phase, SENDINGS, Sending, State, Tables, WRITERS, Writer,
    put,
};

/// What happens, and to which loader and block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    what: &'static str,
    loader: Option<usize>,
    run: u8,
    block: Option<u8>,
    pub(crate) is_fault: bool,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |index: usize| char::from(b'A' + index as u8);
        f.write_str(if self.is_fault { "! " } else { "  " })?;
        self.loader.map_or(Ok(()), |loader| write!(f, "loader {}, run {}: ", name(loader), self.run))?;
        self.block.map_or(Ok(()), |block| write!(f, "block {}: ", block + 1))?;
        f.write_str(self.what)
    }
}

impl State {
    /// All that can happen next.
    pub(crate) fn successors(&self, model: &Model, found: &mut Vec<(Step, State)>) {
        found.clear();
        let mut next = Next { model, state: self, visible: self.visible(), found };
        for loader in 0..LOADERS {
            next.control_steps(loader);
            for writer in 0..WRITERS {
                next.writer_steps(loader, writer);
            }
        }
        if model.flaw != Some(Flaw::OldBackendStays) {
            next.orphan_steps();
        }
        next.faults();
    }
}

/// Gathers the steps out of a state.
struct Next<'a> {
    model: &'a Model,
    state: &'a State,
    visible: Tables,
    found: &'a mut Vec<(Step, State)>,
}

impl Next<'_> {
    fn add(
        &mut self,
        what: &'static str,
        loader: Option<usize>,
        block: Option<u8>,
        change: impl FnOnce(&mut State),
    ) {
        let mut state = *self.state;
        change(&mut state);
        let token = |state: &State| loader.map_or(0, |loader| state.loaders[loader].token);
        let run = token(self.state).max(token(&state));
        self.found.push((Step { what, loader, run, block, is_fault: false }, state));
    }

    fn run(&mut self, what: &'static str, loader: usize, change: impl FnOnce(&mut State)) {
        self.add(what, Some(loader), None, change);
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.model.flaw == Some(flaw)
    }

    /// What a loader does over its control session.
    fn control_steps(&mut self, index: usize) {
        let (loader, visible, blocks) = (self.state.loaders[index], self.visible, self.model.blocks);
        let mut others = self.state.loaders.iter().enumerate().filter(|(other, _)| *other != index);
        let is_lock_free = others.all(|(_, other)| other.control == Control::Lost);
        match (loader.phase, loader.control) {
            (Phase::Absent, _) if index > 0 && self.state.loaders[index - 1].phase == Phase::Absent => {}
            (Phase::Absent, _) if self.has(Flaw::CoverageBeforeClaim) => {
                self.run("starts, reads coverage", index, |state| {
                    state.read_coverage(index);
                    state.loaders[index].phase = Phase::Claiming;
                });
            }
            (Phase::Absent, _) | (Phase::Claiming, Control::Held) => self.claim(index, is_lock_free),
            (Phase::Claiming, _) if loader.token == 0 => self.claim(index, is_lock_free),
            (_, Control::Lost) if loader.token != visible.token => {
                self.run("finds another token: it stops", index, |state| state.stop(index));
            }
            (_, Control::Lost) if is_lock_free => {
                let what = "a new control session has the lock, the token stands";
                self.run(what, index, |state| state.loaders[index].control = Control::Held);
            }
            (_, Control::Lost) => {}
            (Phase::Claimed, _) => self.run("reads coverage", index, |state| {
                state.read_coverage(index);
                state.loaders[index].phase = Phase::Working;
            }),
            (Phase::Working, _) if !(0..blocks).all(|block| loader.is_done(block)) => {}
            (Phase::Working, _) if self.has(Flaw::NoFlush) => {
                self.run("has all blocks", index, |state| state.loaders[index].phase = Phase::Flushed);
            }
            (Phase::Working, _) => self.run("has all blocks, commits synchronously", index, |state| {
                state.loaders[index].phase = Phase::Flushed;
                state.flush();
            }),
            (Phase::Flushed, _) if (0..blocks).all(|block| visible.ledger_rows(block) == 1) => {
                self.run("reads the balance", index, |state| state.loaders[index].phase = Phase::Balanced);
            }
            (Phase::Flushed, _) if self.model.asynchronous && !self.has(Flaw::NoNewAttempt) => {
                self.run("reads a short balance: a new attempt", index, |state| {
                    state.loaders[index].phase = Phase::Claiming;
                });
            }
            (Phase::Flushed, _) => self.run("reads a short balance", index, |state| state.unbalanced = true),
            (Phase::Balanced, _) => {
                let is_durable = !self.has(Flaw::NoFlush);
                self.run("marks the source complete, reports success", index, |state| {
                    state.commit(Commit::Complete, is_durable);
                    state.succeeded = true;
                    state.stop(index);
                });
            }
        }
    }

    /// Raises the token once no transaction holds its row.
    fn claim(&mut self, index: usize, is_lock_free: bool) {
        let (before, visible) = (self.state.loaders[index], self.visible);
        let has_row_lock = |writer: &Writer| matches!(writer, Writer::Recorded(_) | Writer::CommitSent(_));
        let mut writers = self.state.loaders.iter().flat_map(|loader| &loader.writers);
        let is_row_held = self.state.orphans[0].is_some() || writers.any(has_row_lock);
        let waits = ![Flaw::NoFence, Flaw::FenceWithoutLock, Flaw::TakeoverDoesNotWait]
            .map(Some)
            .contains(&self.model.flaw);
        if visible.complete || !is_lock_free || is_row_held && waits {
            return;
        }
        let is_durable = !self.has(Flaw::ClaimIsAsynchronous);
        let has_coverage = self.has(Flaw::CoverageBeforeClaim);
        self.run("claims the source: token + 1", index, |state| {
            let mut loader =
                Loader { control: Control::Held, token: visible.token, ..Loader::new(Phase::Claimed) };
            if has_coverage {
                (loader.phase, loader.done) = (Phase::Working, before.done);
            }
            loader.token += 1;
            state.commit(Commit::Claim, is_durable);
            state.loaders[index] = loader;
        });
    }

    /// What a writer and its backend do.
    fn writer_steps(&mut self, index: usize, writer: usize) {
        let loader = self.state.loaders[index];
        if loader.phase != Phase::Working {
            return;
        }
        let set = move |after| move |state: &mut State| state.loaders[index].writers[writer] = after;
        let acknowledge = move |sending: Sending| {
            move |state: &mut State| {
                state.loaders[index].done[usize::from(sending.block)] = true;
                state.loaders[index].writers[writer] = Writer::Idle;
            }
        };
        let what = "is acknowledged";
        let of_block = loader.writers[writer].sending().map(|sending| sending.block);
        match loader.writers[writer] {
            Writer::Idle => {
                let Some(block) = loader.next_block(self.model.blocks) else { return };
                if loader.token == self.visible.token || self.has(Flaw::NoFence) {
                    let recorded = set(Writer::Recorded(self.new_sending(loader.token, block)));
                    self.add("COPY; the token stands; ledger row", Some(index), Some(block), recorded);
                } else {
                    let what = "COPY; another token: the run stops";
                    self.add(what, Some(index), Some(block), |state| state.stop(index));
                }
            }
            Writer::Recorded(sending) => {
                self.add("COMMIT is sent", Some(index), of_block, set(Writer::CommitSent(sending)));
            }
            Writer::CommitSent(sending) => {
                let (commit, is_durable) = (self.block_commit(sending), !self.model.asynchronous);
                self.add("is committed", Some(index), of_block, |state| {
                    state.commit(commit, is_durable);
                    set(Writer::Answered(sending))(state);
                });
            }
            Writer::Answered(sending) => self.add(what, Some(index), of_block, acknowledge(sending)),
            Writer::Unknown(sending) => {
                let may_come = self.state.orphans.contains(&Some(sending));
                let (what, after) = match self.model.flaw {
                    Some(Flaw::UnknownIsFailed) => ("is taken for not committed", Writer::Idle),
                    Some(Flaw::UnknownIsCommitted) => ("is taken for committed", Writer::Answered(sending)),
                    flaw if may_come && flaw != Some(Flaw::SettleWithoutWaiting) => return,
                    _ if self.visible.has(sending) => ("is in the ledger", Writer::Answered(sending)),
                    _ => ("is not in the ledger: to be sent again", Writer::Idle),
                };
                self.add(what, Some(index), of_block, set(after));
            }
        }
    }

    fn new_sending(&self, run: u8, block: u8) -> Sending {
        let mut sendings = (0..SENDINGS).map(|nth| Sending { run, block, nth });
        let is_new =
            |sending: &Sending| !self.visible.has(*sending) && !self.state.orphans.contains(&Some(*sending));
        sendings.find(is_new).expect("a number is free")
    }

    fn block_commit(&self, sending: Sending) -> Commit {
        if self.has(Flaw::LedgerRowApart) { Commit::RowsOnly(sending) } else { Commit::Block(sending) }
    }

    /// A backend without a client carries out what it has received, or ends before, by itself or terminated.
    fn orphan_steps(&mut self) {
        let is_durable = !self.model.asynchronous;
        for (at, orphan) in self.state.orphans.into_iter().enumerate() {
            let Some(sending) = orphan else { return };
            let (run, block, commit) = (sending.run, Some(sending.block), self.block_commit(sending));
            let loader = self.state.loaders.iter().position(|loader| loader.token == run);
            self.add("the old backend ends", loader, block, |state| state.orphans[at] = None);
            self.add("the old backend commits", loader, block, |state| {
                state.orphans[at] = None;
                state.commit(commit, is_durable);
            });
        }
    }

    fn faults(&mut self) {
        let calm = self.found.len();
        let unflushed = self.state.unflushed.iter().flatten().count();
        for kept in 0..=unflushed {
            let loses = kept < unflushed;
            let what = if loses { "the server crashes and loses commits" } else { "the server crashes" };
            self.add(what, None, None, |state| state.crash(kept));
        }
        for (index, loader) in self.state.loaders.iter().enumerate() {
            if loader.phase == Phase::Absent {
                continue;
            }
            self.run("is killed", index, |state| state.stop(index));
            if loader.control != Control::Lost {
                self.run("its control session is lost", index, |state| {
                    state.loaders[index].control = Control::Lost;
                });
            }
            for (writer, now) in loader.writers.into_iter().enumerate() {
                let (orphan, after) = match now {
                    Writer::Recorded(_) => (None, Writer::Idle),
                    Writer::CommitSent(sending) => (Some(sending), Writer::Unknown(sending)),
                    Writer::Answered(sending) => (None, Writer::Unknown(sending)),
                    _ => continue,
                };
                let block = now.sending().map(|sending| sending.block);
                self.add("the connection breaks", Some(index), block, |state| {
                    state.loaders[index].writers[writer] = after;
                    orphan.into_iter().for_each(|sending| put(&mut state.orphans, sending));
                });
            }
        }
        self.found[calm..].iter_mut().for_each(|(step, _)| step.is_fault = true);
    }
}
