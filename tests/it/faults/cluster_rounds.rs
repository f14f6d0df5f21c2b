//! Seeded rounds on a Citus cluster: a load is killed while shards move and split, workers and the coordinator crash,
//! and the same command runs again, by other routes, until it is done.
//!
//! `VECLOAD_CITUS_ROUNDS` and `VECLOAD_FAULT_SEED` say how many rounds, and from which seed on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::dice::Dice;
use crate::cluster::Cluster;
use crate::program::{Outcome, Running};
use crate::rows::Rows;
use crate::server::LEDGER;

/// Rounds of a usual test run.
const ROUNDS: u64 = 4;

const PATIENCE: Duration = Duration::from_secs(150);

/// What may happen to a load.
const STRIKES_MAX: u64 = 3;

const DIM: usize = 48;

const PILOT_ROWS: u64 = 50_000;

/// Numbers of shards that tables have.
const SHARDS: &[&str] = &["2", "6", "8", "16"];

/// A round that takes longer tells its story.
const REMARKABLE: Duration = Duration::from_secs(40);

#[test]
fn rounds_on_a_cluster_leave_every_row_once() {
    let Some(cluster) = Cluster::start(3) else { return };
    let number = |variable: &str, default: u64| {
        std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
    };
    let (rounds, first) = (number("VECLOAD_CITUS_ROUNDS", ROUNDS), number("VECLOAD_FAULT_SEED", 1));
    let pace = pace(&cluster);
    let mut strikes = BTreeMap::new();
    for seed in first..first + rounds {
        let mut round = Round {
            cluster: &cluster,
            seed,
            table: format!("round_{seed}"),
            began: Instant::now(),
            story: String::new(),
        };
        round.play(pace, &mut strikes);
        if rounds == 1 || round.began.elapsed() > REMARKABLE {
            eprintln!("{}", round.story);
        }
    }
    eprintln!("{rounds} rounds on a cluster: {strikes:?}");
    assert!(strikes.values().sum::<u64>() >= rounds, "{strikes:?}");
}

/// What a load of [`PILOT_ROWS`] takes that nothing disturbs.
fn pace(cluster: &Cluster) -> Duration {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(PILOT_ROWS, DIM).write(dir.path(), "rows.parquet");
    // The first load of a colocation group makes tables, which Citus refuses to do while a shard moves, and vice versa.
    for shards in SHARDS {
        let table = if *shards == "8" { "pace" } else { &format!("first_{shards}") };
        cluster
            .vecload(&["migrate", "--dim", "48", "--shards", shards, "--no-index", "--table", table])
            .exits(0);
        if table != "pace" {
            cluster.load(&path, table).with("--index", "none").with("--limit", 10).run().exits(0);
        }
    }
    let load = cluster.load(&path, "pace").with("--index", "none");
    let started = Instant::now();
    load.run().exits(0);
    started.elapsed()
}

struct Round<'a> {
    cluster: &'a Cluster,
    seed: u64,
    table: String,
    began: Instant,
    story: String,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("round {}:\n{}", self.seed, self.story);
        }
    }
}

impl Round<'_> {
    fn note(&mut self, what: &str) {
        writeln!(self.story, "{:8.3} {what}", self.began.elapsed().as_secs_f64()).expect("write to a string");
    }

    fn play(&mut self, pace: Duration, tally: &mut BTreeMap<&'static str, u64>) {
        let dice = &mut Dice::of(self.seed, 50);
        let rows = Rows::new(dice.of_range(40_000..120_000), DIM).from(self.seed * 1_000_000);
        let rows = rows.group(dice.pick(&[2_000, 7_000, 30_000])).bad([self.seed * 1_000_000 + 77]);
        let dir = tempfile::tempdir().expect("a directory");
        let path = rows.write(dir.path(), "rows.parquet");
        let shards = dice.pick(SHARDS);
        let words = ["migrate", "--dim", "48", "--shards", shards, "--no-index", "--table", &self.table];
        self.cluster.vecload(&words).exits(0);
        self.note(&format!("{} rows, {shards} shards", rows.count()));
        let mut left = dice.of_range(1..STRIKES_MAX + 1);
        let pace = pace.mul_f64(rows.count() as f64 / PILOT_ROWS as f64);
        for run in 1.. {
            assert!(run <= 1 + STRIKES_MAX, "not done after {} runs", run - 1);
            let load = self.cluster.load(&path, &self.table).with("--index", "none").with("--max-rejects", 1);
            let load = load.with("--route", dice.pick(&["auto", "shards", "shards", "coordinator"]));
            let load = load.with("--writers", dice.of_range(1..5)).with("--lanes", dice.of_range(1..3));
            let load =
                load.with("--memory", dice.pick(&["32MiB", "48MiB", "512MiB"])).with("--retry-for", "2m");
            let mut running = load.start();
            self.note(&format!("run {run}: {}", running.command_line()));
            let mut was_killed = false;
            while left > 0 && !running.has_ended_within(pace.mul_f64(dice.of_range(0..400) as f64 / 1000.0)) {
                left -= 1;
                let what = self.strike(dice, &mut running);
                was_killed |= what == "kill";
                *tally.entry(what).or_default() += 1;
            }
            assert!(running.has_ended_within(PATIENCE), "run {run} does not end: {}", running.said());
            let outcome = running.outcome_of_any_end();
            self.note(&format!("run {run} ended{outcome}"));
            if Self::is_done(&outcome, was_killed) {
                break;
            }
        }
        self.verify(&rows);
    }

    /// Whether a run has ended with all done. Nothing but its own death keeps it from that: what else strikes is over
    /// long before `--retry-for`.
    fn is_done(outcome: &Outcome, was_killed: bool) -> bool {
        assert!(!outcome.stderr.contains("panicked"), "a panic: {outcome}");
        if outcome.signal() == Some(9) {
            assert!(was_killed, "somebody else killed it: {outcome}");
            return false;
        }
        assert_eq!(outcome.code(), 3, "{outcome}");
        true
    }

    fn strike(&mut self, dice: &mut Dice, running: &mut Running) -> &'static str {
        let strike = dice.pick(&[
            "kill",
            "move",
            "move",
            "logical move",
            "split",
            "worker",
            "coordinator",
            "restart",
            "backend",
            "backend of Citus",
        ]);
        self.note(strike);
        match strike {
            "kill" => running.signal(nix::sys::signal::Signal::SIGKILL),
            "move" => self.move_shard(dice, "block_writes"),
            "logical move" => self.move_shard(dice, "force_logical"),
            "split" => self.split_shard(dice),
            "worker" => self.crash(dice.of_range(1..3) as usize, dice, running),
            "coordinator" => self.crash(0, dice, running),
            "restart" => self.cluster.restart(dice.of_range(0..3) as usize),
            "backend" => self.end_backend(dice.of_range(0..3) as usize, "vecload load "),
            _ => self.end_backend(dice.of_range(1..3) as usize, "citus_internal "),
        }
        strike
    }

    fn crash(&self, node: usize, dice: &mut Dice, running: &mut Running) {
        self.cluster.crash(node);
        running.has_ended_within(Duration::from_millis(dice.of_range(0..1_500)));
        self.cluster.revive(node);
    }

    /// Ends one session of a node whose name begins so.
    fn end_backend(&self, node: usize, name: &str) {
        self.cluster.session(node).one::<i64>(&format!(
            "select count(pg_terminate_backend(pid)) from (
                 select pid from pg_stat_activity where starts_with(application_name, '{name}')
                 order by state <> 'active', pid limit 1) one"
        ));
    }

    fn shard(&self, dice: &mut Dice) -> (i64, i32) {
        let session = self.cluster.session(0);
        let shards = session.rows(
            "select shardid, nodeport from citus_shards where table_name = to_regclass($1) order by shardid",
            &[&self.table],
        );
        let row = &shards[dice.of_range(0..shards.len() as u64) as usize];
        (row.get(0), row.get(1))
    }

    fn move_shard(&mut self, dice: &mut Dice, mode: &str) {
        let (shard, from) = self.shard(dice);
        let to =
            self.cluster.ports[1..].iter().find(|port| i32::from(**port) != from).expect("another worker");
        let since = Instant::now();
        self.cluster.session(0).run_on_shards(&format!(
            "select citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, '{mode}')"
        ));
        self.note(&format!("shard {shard} went to {to} in {:?}", since.elapsed()));
    }

    fn split_shard(&mut self, dice: &mut Dice) {
        let (shard, _) = self.shard(dice);
        let session = self.cluster.session(0);
        let middle: i64 = session.one(&format!(
            "select (shardminvalue::bigint + shardmaxvalue::bigint) / 2 from pg_dist_shard where shardid = {shard}"
        ));
        session.run_on_shards(&format!(
            "select citus_split_shard_by_split_points({shard}, array['{middle}'],
                (select array_agg(nodeid::integer order by nodeid) from pg_dist_node where groupid > 0),
                'block_writes')"
        ));
        self.note(&format!("shard {shard} was split at {middle}"));
    }

    fn verify(&mut self, rows: &Rows) {
        let session = self.cluster.session(0);
        let differences = Rows::differences(&[rows], &session, &self.table);
        assert!(differences.is_none(), "table and source differ: {}", differences.unwrap_or_default());
        // Each row is where its channel is looked for.
        let lost: i64 = session.one(&format!(
            "select count(*) from {0} a where not exists (
                 select from {0} b where b.channel_id = a.channel_id and b.id = a.id)",
            self.table
        ));
        assert_eq!(lost, 0, "rows in shards that are not theirs");
        let of_table = format!("{LEDGER}.current_blocks where target = '{}'::regclass", self.table);
        let good = rows.count() as i64 - 1;
        assert_eq!(session.one::<i64>(&format!("select sum(rows)::bigint from {of_table}")), good, "blocks");
        for kind in ["shard_blocks", "shard_fences"] {
            let tables: Vec<String> = session.column(&format!(
                "select oid::regclass::text from pg_class where relkind = 'r' and relname ~ '^{kind}_[0-9]+$'"
            ));
            for table in tables {
                assert_eq!(session.count(&table), 0, "left in {table}");
            }
        }
    }
}
