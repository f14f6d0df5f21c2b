//! Seeded rounds: a source is loaded while everything is killed, cut off and stalled that a load consists of, and
//! the same command runs again until it is done. Then table and source are compared row for row.
//!
//! `VECLOAD_FAULT_ROUNDS` and `VECLOAD_FAULT_SEED` say how many rounds, and from which seed on. What is drawn is a
//! function of the seed; where it hits depends on scheduling. A single round tells its story in any case.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::NoTls;

use super::dice::{Dice, Moment, Strike, Then};
use super::field::Field;
use super::proxy::{Ending, Loss, Which};
use super::source::Source;
use super::tally::Tally;
use crate::program::{Outcome, Running, vecload};
use crate::server::{LEDGER, make_table};
use crate::session::{Session, runtime};

/// Rounds of a usual test run.
const ROUNDS: u64 = 30;

/// A load that nothing disturbs any more takes seconds.
const PATIENCE: Duration = Duration::from_secs(100);

/// After a blow a loader may need a moment to end.
const AFTERMATH: Duration = Duration::from_millis(150);

/// Runs beyond those that were struck.
const SPARE_RUNS: usize = 12;

#[test]
fn rounds_of_faults_leave_every_row_once_and_the_books_in_balance() {
    let rounds = number("VECLOAD_FAULT_ROUNDS", ROUNDS);
    let first = number("VECLOAD_FAULT_SEED", 1);
    let (next, has_failed, tally) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Tally::default()));
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get() as u64).clamp(2, 4);
    let work = || {
        let _told = TellsOfPanic(&has_failed);
        let mut field = Field::new();
        while !has_failed.load(Ordering::Acquire) {
            let number = next.fetch_add(1, Ordering::AcqRel);
            if number >= rounds {
                break;
            }
            let (of_round, story) = Round::new(&mut field, first + number).play();
            if rounds == 1 {
                eprintln!("{story}");
            }
            let mut tally = tally.lock().expect("the tally");
            tally.add(&of_round);
            if (number + 1) % 50 == 0 {
                eprintln!("{tally}");
            }
        }
    };
    std::thread::scope(|scope| {
        let spawn = |number| {
            let thread = std::thread::Builder::new().name(format!("rounds-{number}"));
            thread.spawn_scoped(scope, work).expect("start a thread")
        };
        let threads: Vec<_> = (0..workers.min(rounds)).map(spawn).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let tally = tally.into_inner().expect("the tally");
    eprintln!("{tally}");
    // Faults that come when all is done show nothing.
    let landed: u64 = tally.strikes.values().sum();
    assert!(landed >= rounds, "{landed} faults hit a load at work in {rounds} rounds");
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Has the other threads stop after their round.
struct TellsOfPanic<'a>(&'a AtomicBool);

impl Drop for TellsOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// What one run has met.
#[derive(Default)]
struct Met {
    /// Something that excuses a failure.
    blow: bool,
    kill: bool,
    signal: bool,
}

/// A round, and its story, which is told if it fails.
struct Round<'a> {
    field: &'a mut Field,
    seed: u64,
    source: Source,
    database: String,
    /// Whether the table has indexes that are dropped for the load.
    has_indexes: bool,
    /// Whether the server waits for the next run before it is started.
    server_is_down: bool,
    /// How long the server goes on to see a client that is dead.
    ghost: Option<Duration>,
    tally: Tally,
    began: Instant,
    story: String,
}

impl<'a> Round<'a> {
    fn new(field: &'a mut Field, seed: u64) -> Self {
        let mut round = Self {
            field,
            seed,
            source: Source::of(seed),
            database: format!("round_{seed}"),
            has_indexes: Dice::of(seed, 2).one_in(3),
            server_is_down: false,
            ghost: None,
            tally: Tally { rounds: 1, ..Tally::default() },
            began: Instant::now(),
            story: String::new(),
        };
        let Source { kind, rows, rejected, dim, .. } = &round.source;
        let told = format!("{kind}, {rows} rows of {dim} dimensions, {rejected} to be rejected");
        round.tally.rows = *rows;
        round.note(&format!("{told}; indexes: {}", round.has_indexes));
        round.field.server.session("postgres").run(&format!("create database {}", round.database));
        let session = round.session();
        make_table(&session, "chunks", round.source.dim);
        if round.has_indexes {
            // A row that was there keeps a load from building indexes of its own.
            session.run(&format!(
                "create index on chunks (channel_id);
                 create index on chunks (user_id, channel_id);
                 insert into chunks (channel_id, user_id, content, embedding)
                     values (1, 1, 'before', array_fill(0.5::real, array[{}])::vector)",
                round.source.dim
            ));
        }
        round
    }

    fn note(&mut self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        writeln!(self.story, "{seconds:8.3} {what}").expect("write to a string");
    }

    fn session(&self) -> Session {
        self.field.server.session(&self.database)
    }

    fn play(mut self) -> (Tally, String) {
        let count = Dice::of(self.seed, 3).of_range(3..7);
        let mut strikes: VecDeque<_> = (0..count).map(|number| Strike::draw(self.seed, number)).collect();
        let runs_max = strikes.len() + SPARE_RUNS;
        let done = loop {
            self.tally.runs += 1;
            assert!(self.tally.runs as usize <= runs_max, "not done after {runs_max} runs");
            let (mut running, mut met) = self.start();
            while let Some((moment, strike)) = strikes.front().copied() {
                if !self.comes(moment, &mut running) {
                    break;
                }
                strikes.pop_front();
                self.strike(strike, &mut running, &mut met);
                if running.has_ended_within(AFTERMATH) {
                    break;
                }
            }
            if !running.has_ended_within(PATIENCE) {
                let said = running.said();
                panic!("run {} does not end within {PATIENCE:?}: {said}", self.tally.runs);
            }
            self.field.proxy.leave_ambush();
            if self.ghost.is_none() {
                self.field.proxy.let_newcomers_in();
                self.field.proxy.cut_stalled();
            }
            if let Some(done) = self.judge(running.outcome_of_any_end(), &met) {
                break done;
            }
        };
        self.verify(&done);
        if Dice::of(self.seed, 4).one_in(3) {
            self.take_back();
        }
        self.field.server.session("postgres").run(&format!("drop database {} with (force)", self.database));
        self.note("done");
        (std::mem::take(&mut self.tally), std::mem::take(&mut self.story))
    }

    /// Starts the next run, with other settings.
    fn start(&mut self) -> (Running, Met) {
        let run = self.tally.runs;
        let dice = &mut Dice::of(self.seed, 10_000 + run);
        let (load, producer) = self.source.load(dice);
        let memory = dice.pick(&["48MiB", "48MiB", "64MiB", "96MiB", "512MiB"]);
        let mut load = load.with("--db", self.field.proxy.url(&self.database)).with("--memory", memory);
        load = load.with("--writers", dice.of_range(1..5)).with("--lanes", dice.of_range(1..4));
        load = load.with("--index", if self.has_indexes { "defer" } else { "none" });
        if self.source.rejected > 0 {
            load = load.with("--max-rejects", "all");
        }
        if run < 5 && dice.one_in(5) {
            load = load.with("--limit", dice.of_range(1..self.source.rows + self.source.rows / 10));
        }
        if knows_retries()
            && let Some(time) = dice.pick(&[None, None, Some("1s"), Some("2m")])
        {
            load = load.with("--retry-for", time);
        }
        let mut running = load.start();
        self.note(&format!("run {run}: {}", running.command_line()));
        // The producer ends with its pipe.
        drop(producer);
        let met = Met { blow: self.server_is_down || self.ghost.is_some(), ..Met::default() };
        if std::mem::take(&mut self.server_is_down) {
            running.has_ended_within(Duration::from_millis(dice.of_range(0..600)));
            self.start_server();
        }
        if let Some(time) = self.ghost.take() {
            running.has_ended_within(time);
            let ghosts = self.field.proxy.cut_stalled();
            self.note(&format!("the server sees the end of {ghosts} connections of the last run"));
        }
        (running, met)
    }

    fn start_server(&mut self) {
        self.field.server.start_again();
        self.field.proxy.leads_to(&self.field.server.socket());
        self.note("the server takes connections again");
    }

    /// Waits for a moment; says whether it came before the load's end.
    fn comes(&mut self, moment: Moment, running: &mut Running) -> bool {
        match moment {
            Moment::Part(thousandths) => {
                let bytes = self.source.rows * (self.source.dim as u64 * 4 + 150);
                let all = self.field.per_million * (bytes / 1_000_000) as u32;
                let left = self.rows_left().unwrap_or(1.0);
                let time = self.field.start + all.mul_f64(left);
                !running.has_ended_within(time.mul_f64(thousandths as f64 / 1_000.0))
            }
            Moment::Commits(count) => {
                let wanted = self.field.proxy.commits() + count;
                wait(running, || self.field.proxy.commits() >= wanted)
            }
            Moment::Blocks(count) => {
                let sql = format!("select count(*)::float8 from {LEDGER}.blocks");
                let before = self.ask(&sql).unwrap_or(0.0);
                wait(running, || self.ask(&sql).is_some_and(|blocks| blocks >= before + count as f64))
            }
        }
    }

    /// The part of the rows that is not in yet.
    fn rows_left(&self) -> Option<f64> {
        let rows = self.ask(&format!("select coalesce(sum(rows), 0)::float8 from {LEDGER}.blocks"))?;
        Some((1.0 - rows / self.source.rows as f64).clamp(0.0, 1.0))
    }

    /// A number, unless the server or the ledger is away.
    fn ask(&self, sql: &str) -> Option<f64> {
        let runtime = runtime();
        let config: tokio_postgres::Config = self.field.server.url(&self.database).parse().ok()?;
        runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await.ok()?;
            let connection = tokio::spawn(connection);
            let row = client.query_one(sql, &[]).await;
            drop(client);
            drop(connection.await);
            row.ok()?.try_get(0).ok()
        })
    }

    fn strike(&mut self, strike: Strike, running: &mut Running, met: &mut Met) {
        self.note(&format!("{strike:?}"));
        met.blow = true;
        let struck = match strike {
            Strike::Kill => {
                running.signal(Signal::SIGKILL);
                met.kill = true;
                true
            }
            Strike::Signal { signal, twice } => {
                running.signal(signal);
                met.signal = true;
                if twice && !running.has_ended_within(Duration::from_millis(20)) {
                    running.signal(signal);
                }
                true
            }
            Strike::Backend { number } => self.terminate(number),
            Strike::Server { stays_down } => {
                self.field.server.crash();
                self.note("the server is down");
                self.server_is_down = stays_down && running.has_ended_within(Duration::from_secs(1));
                if !self.server_is_down {
                    self.start_server();
                }
                true
            }
            Strike::Cut { which, ending } => self.field.proxy.cut(which, ending) > 0,
            Strike::Stall { which, then } => {
                let stalled = self.field.proxy.stall(which);
                self.follow(then, running, met);
                stalled > 0
            }
            Strike::Commit { ambush, then } => {
                self.field.proxy.lie_in_ambush(ambush);
                let proxy = &self.field.proxy;
                wait(running, || !proxy.lies_in_ambush());
                let met_one = !proxy.leave_ambush();
                if met_one && matches!(ambush.loss, Loss::Silence) {
                    self.follow(then, running, met);
                }
                met_one
            }
        };
        if struck {
            self.tally.count(strike.kind());
        }
    }

    /// Ends one of the loader's sessions.
    fn terminate(&mut self, number: u64) -> bool {
        let session = self.session();
        let sessions = session.rows(
            "select pid, application_name from pg_stat_activity
             where datname = current_database() and application_name like 'vecload load%' order by application_name",
            &[],
        );
        if sessions.is_empty() {
            return false;
        }
        let row = &sessions[(number % sessions.len() as u64) as usize];
        let (pid, name): (i32, String) = (row.get(0), row.get(1));
        self.note(&format!("the session of {name} is terminated"));
        session.one(&format!("select pg_terminate_backend({pid})"))
    }

    /// What comes after a stall.
    fn follow(&mut self, then: Then, running: &mut Running, met: &mut Met) {
        match then {
            Then::Release { after_millis } => {
                running.has_ended_within(Duration::from_millis(after_millis));
                self.field.proxy.release();
                self.note("all connections go on");
            }
            Then::Cut => {
                running.has_ended_within(Duration::from_millis(300));
                self.field.proxy.let_newcomers_in();
                let cut = self.field.proxy.cut_stalled();
                self.note(&format!("{cut} stalled connections end"));
            }
            Then::Kill { ghost_millis } => {
                let has_ended = running.has_ended_within(Duration::from_millis(300));
                self.field.proxy.let_newcomers_in();
                if has_ended || ghost_millis == 0 {
                    self.field.proxy.cut_stalled();
                } else {
                    self.ghost = Some(Duration::from_millis(ghost_millis));
                }
                if has_ended {
                    return;
                }
                running.signal(Signal::SIGKILL);
                met.kill = true;
                self.note("the loader is killed");
            }
        }
    }

    /// How a run ended: the outcome if all is done, nothing if it has to run again.
    fn judge(&mut self, outcome: Outcome, met: &Met) -> Option<Outcome> {
        self.note(&format!("run {} ended{outcome}", self.tally.runs));
        assert!(!outcome.stderr.contains("panicked"), "a panic");
        if let Some(signal) = outcome.signal() {
            // A signal may come before anybody listens for it.
            let is_new_born = met.signal && outcome.stderr.is_empty();
            assert!(signal == 9 && met.kill || is_new_born, "ended by signal {signal}");
            return None;
        }
        match outcome.code() {
            code @ (0 | 3) => {
                let outcome = outcome.exits(code);
                let state = outcome.report["state"].as_str().unwrap_or_default().to_string();
                match state.as_str() {
                    "complete" | "rejects" | "already_loaded" => Some(outcome),
                    "limited" => None,
                    _ => panic!("exit code {code} with the state {state:?}"),
                }
            }
            1 => {
                assert!(met.blow, "it failed, and nothing had happened to it");
                // A COMMIT in doubt may land while the report is made: only the last one has to balance.
                assert!(outcome.stderr.contains("error: "), "a failure is explained");
                None
            }
            2 => {
                assert!(met.blow, "it was refused, and nothing had happened");
                assert!(is_about_the_moment(&outcome.stderr), "it was refused for another reason");
                None
            }
            130 => {
                assert!(met.signal, "it was interrupted by nobody");
                outcome.exits(130);
                None
            }
            code => panic!("exit code {code}"),
        }
    }

    /// Compares table, ledger and report with the source.
    fn verify(&mut self, last: &Outcome) {
        let (rows, rejected) = (self.source.rows, self.source.rejected);
        let session = self.session();
        session.wait_until(
            "not exists (select from pg_stat_activity
                 where datname = current_database() and application_name like 'vecload%')",
        );
        let differences =
            self.source.differences(&session, "(select * from chunks where content <> 'before') c");
        if let Some(differences) = differences {
            panic!("table and source differ: {differences}");
        }
        let told = &last.report["rows"];
        let counts =
            ["read", "loaded", "rejected", "already_loaded"].map(|key| told[key].as_u64().unwrap_or(0));
        let [read, loaded, told_rejected, already] = counts;
        assert_eq!((read, loaded + already, told_rejected), (rows, rows - rejected, rejected), "{told}");
        assert_eq!(last.code(), if rejected > 0 { 3 } else { 0 }, "the exit code");
        let good = (rows - rejected) as i64;
        let by_blocks: i64 = session.one(&format!("select sum(rows)::bigint from {LEDGER}.current_blocks"));
        let by_slices: i64 = session.one(&format!(
            "select sum(slice)::bigint from {LEDGER}.current_blocks, unnest(slice_rows) as slices(slice)"
        ));
        let by_ids: i64 = session.one(&format!(
            "select sum(last - first + 1)::bigint
             from {LEDGER}.current_blocks, unnest(id_firsts, id_lasts) as ids(first, last)"
        ));
        assert_eq!([by_blocks, by_slices, by_ids], [good; 3], "the ledger's blocks, slices, ids");
        assert_eq!(session.count(&format!("{LEDGER}.rejects")), rejected as i64, "the ledger's rejects");
        let complete = session.count(&format!("{LEDGER}.sources where state = 'complete'"));
        let all = session.count(&format!("{LEDGER}.sources"));
        assert_eq!((complete, all), (self.source.parts(), self.source.parts()), "sources");
        if self.has_indexes {
            let valid = "pg_index where indrelid = 'chunks'::regclass and indisvalid and indisready";
            assert_eq!(session.count(valid), 3, "the indexes that were there");
        }
        drop(session);

        let listed = self.tell(&["loads", "--json"]).exits(0);
        let loads = listed.report["loads"].as_array().cloned().unwrap_or_default();
        let sum = |key: &str| loads.iter().map(|load| load[key].as_i64().unwrap_or(0)).sum::<i64>();
        assert_eq!((sum("rows"), sum("rejected")), (good, rejected as i64), "{listed}");
        assert!(loads.iter().all(|load| load["state"] != "running"), "nothing runs{listed}");
        for load in &loads {
            self.tell(&["loads", "show", &load["load"].to_string(), "--json"]).exits(0);
        }
    }

    /// Runs a command that nothing disturbs.
    fn tell(&mut self, words: &[&str]) -> Outcome {
        let outcome = vecload(words).with("--db", self.field.server.url(&self.database)).run();
        self.note(&outcome.to_string());
        outcome
    }

    /// Takes all loads back, also through kills.
    fn take_back(&mut self) {
        let session = self.session();
        let of_rows = format!("select load_id from {LEDGER}.loads order by load_id desc");
        for load in session.column::<i64>(&of_rows) {
            for attempt in 0.. {
                assert!(attempt < SPARE_RUNS, "load {load} is not taken back");
                let dice = &mut Dice::of(self.seed, 20_000 + load as u64 * 100 + attempt as u64);
                let undo = vecload(["loads", "undo", &load.to_string()]);
                let mut running = undo.with("--db", self.field.proxy.url(&self.database)).start();
                let is_struck =
                    attempt < 3 && !running.has_ended_within(Duration::from_millis(dice.of_range(5..150)));
                if is_struck {
                    match dice.one_in(2) {
                        true => running.signal(Signal::SIGKILL),
                        false => drop(self.field.proxy.cut(Which::All, Ending::Reset)),
                    }
                }
                assert!(running.has_ended_within(PATIENCE), "an undo ends");
                let outcome = running.outcome_of_any_end();
                self.note(&outcome.to_string());
                match outcome.code() {
                    0 => break,
                    2 if outcome.stderr.contains("is taken back already") => break,
                    2 => assert!(is_about_the_moment(&outcome.stderr), "it was refused for another reason"),
                    _ => assert!(is_struck, "an undo failed, and nothing had happened to it"),
                }
            }
        }
        assert_eq!(
            session.count("chunks where content <> 'before'"),
            0,
            "rows of loads that were taken back"
        );
        for table in ["blocks", "rejects", "reject_slices", "sources"] {
            assert_eq!(session.count(&format!("{LEDGER}.{table}")), 0, "{table} of what was taken back");
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.field.server.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "the round failed; to repeat it:\n  VECLOAD_FAULT_ROUNDS=1 VECLOAD_FAULT_SEED={} \
                 cargo test --release --test it faults::rounds -- --nocapture\n{}--- end of the server's log\n{}",
                self.seed,
                self.story,
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}

/// Whether a load can try again by itself.
fn knows_retries() -> bool {
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| vecload(["load", "--help"]).run().exits(0).stdout.contains("--retry-for"))
}

/// Whether a refusal is one that passes: another run still holds the load, or the server can't be reached.
fn is_about_the_moment(stderr: &str) -> bool {
    [
        "is running",
        "connect to ",
        "connection",
        "terminating",
        "shutting down",
        "starting up",
        "recovery mode",
    ]
    .iter()
    .any(|text| stderr.contains(text))
}

/// Waits for a condition; says whether it came before the program's end.
fn wait(running: &mut Running, condition: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    while !condition() {
        // A stalled program waits as we do.
        if running.has_ended_within(Duration::from_millis(3)) || since.elapsed() > Duration::from_secs(20) {
            return false;
        }
    }
    true
}
