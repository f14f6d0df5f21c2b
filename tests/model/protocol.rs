//! What there is: a server with its tables, log and sessions, and loaders with two writers each.
//!
//! Any number of faults and of runs, one after the other, leads to finitely many states, since the numbers of runs and
//! blocks matter only where somebody still asks for them.

mod steps;

pub(crate) use steps::Step;

/// Loaders at a time, writers of each, the most blocks of a source, and numbers in use for sendings of one by a run.
const LOADERS: usize = 2;
const WRITERS: usize = 2;
const BLOCKS: usize = 3;
const SENDINGS: u8 = 5;
/// Commits that are not flushed, and backends without clients. That more don't heap up is checked.
const PILE: usize = 6;

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) blocks: u8,
    pub(crate) asynchronous: bool,
    pub(crate) flaw: Option<Flaw>,
}

/// Mistakes that the model check must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The token is not compared.
    NoFence,
    /// The token is compared without a lock on its row.
    FenceWithoutLock,
    /// A takeover does not wait for the transactions that hold the token row.
    TakeoverDoesNotWait,
    /// Coverage is read before the token is raised.
    CoverageBeforeClaim,
    /// A claim is committed asynchronously, so that a crash can take it back.
    ClaimIsAsynchronous,
    /// Rows and ledger row are committed one after the other.
    LedgerRowApart,
    /// An unknown commit is looked up while the old backend may still carry it out.
    SettleWithoutWaiting,
    UnknownIsFailed,
    UnknownIsCommitted,
    /// A balance that is short is not followed by a new attempt.
    NoNewAttempt,
    /// No synchronous commit comes before success.
    NoFlush,
    /// Nothing ends an old backend that hangs.
    OldBackendStays,
}

/// A block sent by a run; stands for the block number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sending {
    run: u8,
    block: u8,
    nth: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Commit {
    Block(Sending),
    RowsOnly(Sending),
    Claim,
    Complete,
}

/// What queries can see: how often each block's rows are in the table, the ledger's rows (a bit for each sending), the
/// token, and whether the source is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tables {
    rows: [u8; BLOCKS],
    ledger: u128,
    token: u8,
    complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Writer {
    Idle,
    /// Rows and ledger row are in an open transaction, which holds the token row `FOR SHARE`.
    Recorded(Sending),
    CommitSent(Sending),
    /// The server has answered; the loader has not read it.
    Answered(Sending),
    Unknown(Sending),
}

/// The session that holds the alive lock, and so witnesses that the server has not crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Control {
    Lost,
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// None runs; the next may start.
    Absent,
    Claiming,
    Claimed,
    Working,
    Flushed,
    Balanced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Loader {
    phase: Phase,
    control: Control,
    /// Also the run's number, as both are raised together.
    token: u8,
    /// Blocks that it holds for loaded: found in the ledger, or acknowledged.
    done: [bool; BLOCKS],
    writers: [Writer; WRITERS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    durable: Tables,
    /// Commits that queries see and that a crash loses, from some point on.
    unflushed: [Option<Commit>; PILE],
    /// Blocks whose backend has received COMMIT and lost its client.
    orphans: [Option<Sending>; PILE],
    loaders: [Loader; LOADERS],
    succeeded: bool,
    unbalanced: bool,
}

impl Sending {
    fn bit(self) -> u128 {
        let at = (self.run * BLOCKS as u8 + self.block) * SENDINGS + self.nth;
        1_u128.checked_shl(at.into()).expect("few runs are in use at a time")
    }
}

impl Tables {
    fn apply(&mut self, commit: Commit) {
        match commit {
            Commit::Block(sending) => {
                self.rows[usize::from(sending.block)] += 1;
                self.ledger |= sending.bit();
            }
            Commit::RowsOnly(sending) => self.rows[usize::from(sending.block)] += 1,
            Commit::Claim => self.token += 1,
            Commit::Complete => self.complete = true,
        }
    }

    fn has(&self, sending: Sending) -> bool {
        self.ledger & sending.bit() != 0
    }

    fn ledger_rows(&self, block: u8) -> u32 {
        let runs = 128 / (BLOCKS as u8 * SENDINGS);
        let of_block = |run| ((1_u128 << SENDINGS) - 1) << ((run * BLOCKS as u8 + block) * SENDINGS);
        (0..runs).map(|run| (self.ledger & of_block(run)).count_ones()).sum()
    }

    fn has_each_once(&self, blocks: u8) -> bool {
        self.rows[..usize::from(blocks)].iter().all(|rows| *rows == 1)
    }
}

impl Writer {
    fn sending(self) -> Option<Sending> {
        let mut this = self;
        this.sending_mut().copied()
    }

    fn sending_mut(&mut self) -> Option<&mut Sending> {
        match self {
            Self::Idle => None,
            Self::Recorded(sending)
            | Self::CommitSent(sending)
            | Self::Answered(sending)
            | Self::Unknown(sending) => Some(sending),
        }
    }
}

impl Loader {
    fn new(phase: Phase) -> Self {
        let (done, writers) = ([false; BLOCKS], [Writer::Idle; WRITERS]);
        Self { phase, control: Control::Lost, token: 0, done, writers }
    }

    fn is_done(&self, block: u8) -> bool {
        self.done[usize::from(block)]
    }

    fn sendings(&self) -> impl Iterator<Item = Sending> {
        self.writers.into_iter().filter_map(Writer::sending)
    }

    fn sendings_mut(&mut self) -> impl Iterator<Item = &mut Sending> {
        self.writers.iter_mut().filter_map(Writer::sending_mut)
    }

    fn next_block(&self, blocks: u8) -> Option<u8> {
        let in_hand =
            |block| self.writers.iter().any(|writer| writer.sending().is_some_and(|s| s.block == block));
        (0..blocks).find(|block| !self.is_done(*block) && !in_hand(*block))
    }
}

impl State {
    pub(crate) fn first() -> Self {
        Self {
            durable: Tables { rows: [0; BLOCKS], ledger: 0, token: 0, complete: false },
            unflushed: [None; PILE],
            orphans: [None; PILE],
            loaders: [Loader::new(Phase::Absent); LOADERS],
            succeeded: false,
            unbalanced: false,
        }
    }

    /// The invariant that does not hold.
    pub(crate) fn broken(&self, model: &Model) -> Option<&'static str> {
        let (visible, blocks) = (self.visible(), 0..model.blocks);
        if visible.rows.iter().any(|rows| *rows > 1) {
            return Some("a block's rows are in the table twice");
        }
        if blocks
            .into_iter()
            .any(|block| visible.ledger_rows(block) != u32::from(visible.rows[usize::from(block)]))
        {
            return Some("table and ledger disagree");
        }
        if self.unbalanced {
            return Some("a run holds every block for loaded, and the balance is short");
        }
        if (self.succeeded || self.durable.complete) && !self.durable.has_each_once(model.blocks) {
            return Some("success is reported, and a crash can take a block away");
        }
        (visible.complete && !visible.has_each_once(model.blocks))
            .then_some("complete, and a block is missing")
    }

    /// Whether a run has loaded the source and said so.
    pub(crate) fn is_loaded(&self) -> bool {
        self.succeeded && self.durable.complete
    }

    /// Makes states equal that differ in nothing that matters for what follows.
    pub(crate) fn normalized(mut self) -> Self {
        // The number of a block that no run asks for any more.
        let mut ledger = self.visible().ledger;
        let in_use =
            self.loaders.iter().flat_map(Loader::sendings).fold(0, |bits, sending| bits | sending.bit());
        self.renumber(|sending| {
            let forgotten = Sending { run: 0, block: sending.block, nth: 0 };
            if ledger & sending.bit() == 0 || in_use & sending.bit() != 0 || ledger & forgotten.bit() != 0 {
                return sending;
            }
            ledger = ledger & !sending.bit() | forgotten.bit();
            forgotten
        });
        // Numbers that nobody has leave no gap.
        let of_loaders = self.loaders.iter().map(|loader| loader.token);
        let of_orphans = self.orphans.iter().flatten().map(|sending| sending.run);
        let tokens = (self.durable.token..=self.visible().token).chain(of_loaders).chain(of_orphans);
        let tokens = tokens.fold(1_u32, |tokens, token| tokens | 1 << token);
        let rank = |token: u8| (tokens & ((1 << token) - 1)).count_ones() as u8;
        let mut known = 0;
        self.renumber(|sending| {
            known |= sending.bit();
            sending
        });
        self.renumber(|sending| {
            let earlier = (0..sending.nth).filter(|nth| known & Sending { nth: *nth, ..sending }.bit() != 0);
            Sending { run: rank(sending.run), nth: earlier.count() as u8, ..sending }
        });
        self.durable.token = rank(self.durable.token);
        self.loaders.iter_mut().for_each(|loader| loader.token = rank(loader.token));
        // Places.
        self.loaders.iter_mut().for_each(|loader| loader.writers.sort_unstable());
        self.loaders.sort_by_key(|loader| loader.phase == Phase::Absent);
        self.orphans.sort_unstable_by_key(|orphan| (orphan.is_none(), *orphan));
        self
    }

    /// Gives sendings other numbers.
    fn renumber(&mut self, mut number: impl FnMut(Sending) -> Sending) {
        let mut left = std::mem::take(&mut self.durable.ledger);
        while left != 0 {
            let bit = left.trailing_zeros() as u8;
            left &= left - 1;
            let (of_run, nth) = (bit / SENDINGS, bit % SENDINGS);
            let sending = Sending { run: of_run / BLOCKS as u8, block: of_run % BLOCKS as u8, nth };
            self.durable.ledger |= number(sending).bit();
        }
        for commit in self.unflushed.iter_mut().flatten() {
            if let Commit::Block(sending) | Commit::RowsOnly(sending) = commit {
                *sending = number(*sending);
            }
        }
        let of_loaders = self.loaders.iter_mut().flat_map(Loader::sendings_mut);
        self.orphans.iter_mut().flatten().chain(of_loaders).for_each(|sending| *sending = number(*sending));
    }

    fn visible(&self) -> Tables {
        let mut tables = self.durable;
        self.unflushed.iter().flatten().for_each(|commit| tables.apply(*commit));
        tables
    }

    fn commit(&mut self, commit: Commit, is_durable: bool) {
        put(&mut self.unflushed, commit);
        if is_durable {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.durable = self.visible();
        self.unflushed = [None; PILE];
    }

    fn read_coverage(&mut self, loader: usize) {
        let visible = self.visible();
        (0..BLOCKS).for_each(|block| self.loaders[loader].done[block] = visible.ledger_rows(block as u8) > 0);
    }

    /// The loader drops its writers' connections.
    fn drop_writers(&mut self, loader: usize) {
        for writer in std::mem::replace(&mut self.loaders[loader].writers, [Writer::Idle; WRITERS]) {
            if let Writer::CommitSent(sending) = writer {
                put(&mut self.orphans, sending);
            }
        }
    }

    fn stop(&mut self, loader: usize) {
        self.drop_writers(loader);
        self.loaders[loader] = Loader::new(Phase::Absent);
    }

    /// Every session ends, and all unflushed commits but the first `kept` are lost.
    fn crash(&mut self, kept: usize) {
        self.unflushed[kept..].fill(None);
        self.flush();
        self.orphans = [None; PILE];
        for loader in &mut self.loaders {
            loader.control = Control::Lost;
            for writer in &mut loader.writers {
                // An answer that has been sent can still be read.
                *writer = match *writer {
                    Writer::Recorded(_) => Writer::Idle,
                    Writer::CommitSent(sending) => Writer::Unknown(sending),
                    other => other,
                };
            }
        }
    }
}

fn put<T>(pile: &mut [Option<T>], item: T) {
    let free = pile.iter_mut().find(|place| place.is_none());
    *free.expect("the pile is large enough") = Some(item);
}
