//! A load that is killed, interrupted or cut off goes on where it was: every row is in the table once.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::program::{Load, Outcome, Running, Vecload, vecload};
use super::rows::Rows;
use super::server::{Db, LEDGER};

/// Blocks are small with little memory and many writers.
fn small_blocks(load: Vecload) -> Vecload {
    load.with("--memory", "32MiB").with("--writers", 6).with("--lanes", 2).with("--index", "none")
}

/// A database with an empty ledger and table; each block takes a while, so that there is a middle to stop in.
pub(crate) fn slow_db(dim: usize) -> Db {
    let db = Db::new();
    db.table("chunks", dim);
    vecload(["loads"]).into(&db).run().exits(0);
    db.run(
        "create function wait_a_little() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.06); return null; end $$;
         create trigger slow before insert on chunks for each statement execute function wait_a_little()",
    );
    db
}

/// From here on blocks take no longer than usual.
pub(crate) fn speed_up(db: &Db) {
    db.run("drop trigger slow on chunks");
}

fn blocks(db: &Db) -> i64 {
    db.count(&format!("{LEDGER}.blocks"))
}

/// Waits until some more blocks are committed.
#[track_caller]
pub(crate) fn wait_for_blocks(db: &Db, running: &Running, more: i64) {
    let wanted = blocks(db) + more;
    assert!(running.process() > 0);
    db.wait_until(&format!("(select count(*) from {LEDGER}.blocks) >= {wanted}"));
}

/// Waits until the server has ended what belonged to a vecload that is gone; then table and ledger agree.
#[track_caller]
pub(crate) fn settled(db: &Db) -> i64 {
    db.wait_until(
        "not exists (select from pg_stat_activity
             where datname = current_database() and application_name like 'vecload%')",
    );
    let rows = db.count("chunks");
    let known: i64 = db.one(&format!("select coalesce(sum(rows), 0)::bigint from {LEDGER}.current_blocks"));
    assert_eq!(rows, known, "rows in the table and in the ledger");
    rows
}

#[test]
fn a_load_killed_again_and_again_brings_every_row_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(60_000, 64).group(6_000);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    let runs = [("32MiB", 8, 2), ("48MiB", 5, 1), ("40MiB", 7, 4)];
    for (memory, writers, lanes) in runs {
        let load = Load::of(&path).into(&db).with("--index", "none").with("--memory", memory);
        let running = load.with("--writers", writers).with("--lanes", lanes).start();
        wait_for_blocks(&db, &running, 3);
        running.kill();
        let committed = settled(&db);
        assert!((1..60_000).contains(&committed), "killed in the middle: {committed} rows");
    }
    speed_up(&db);
    let before = settled(&db).cast_unsigned();
    let load = Load::of(&path).into(&db).with("--index", "none").with("--writers", 2);
    load.run().exits(0).state("complete").rows(60_000 - before, 0, before);
    Rows::are_all_in(&[&rows], &db, "chunks");
    let again = Load::of(&path).into(&db).with("--writers", 1).run();
    let again = again.exits(0).state("already_loaded").rows(0, 0, 60_000);
    let show = vecload(["loads", "--json"]).into(&db).run().exits(0);
    let loads = &show.report["loads"];
    assert_eq!(loads.as_array().map(Vec::len), Some(1), "one load for all runs{show}");
    assert_eq!((&loads[0]["runs"], loads[0]["load"].as_i64()), (&4.into(), Some(again.load())));
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn rejects_are_neither_lost_nor_doubled_by_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(30_000, 64).group(5_000).bad((0..30_000).step_by(997));
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    for _ in 0..2 {
        let running = small_blocks(Load::of(&path)).into(&db).with("--max-rejects", "all").start();
        wait_for_blocks(&db, &running, 3);
        running.kill();
        settled(&db);
    }
    speed_up(&db);
    let bad = 30_000u64.div_ceil(997);
    let before = settled(&db).cast_unsigned();
    let load = Load::of(&path).into(&db).with("--index", "none").with("--max-rejects", "1%");
    load.run().exits(3).state("rejects").rows(30_000 - bad - before, bad, before);
    Rows::are_all_in(&[&rows], &db, "chunks");
    assert_eq!(db.count(&format!("{LEDGER}.rejects")), bad.cast_signed());
}

fn interrupted(signal: Signal) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(30_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    let running = small_blocks(Load::of(&path)).into(&db).start();
    wait_for_blocks(&db, &running, 2);
    running.signal(signal);
    let outcome = running
        .outcome()
        .exits(130)
        .state("interrupted")
        .says(signal.as_str())
        .says("run the same command")
        .says("vecload load --json ");
    let committed = settled(&db);
    assert_eq!(outcome.report["rows"]["loaded"], committed, "the report tells what is committed");
    assert!(committed < 30_000, "interrupted in the middle");
    speed_up(&db);
    let rest = 30_000 - committed.cast_unsigned();
    let load = Load::of(&path).into(&db).with("--index", "none");
    load.run().exits(0).state("complete").rows(rest, 0, committed.cast_unsigned());
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn ctrl_c_ends_a_load_in_order() {
    interrupted(Signal::SIGINT);
}

#[test]
fn ctrl_c_is_heard_while_the_file_is_hashed() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    // Read in a moment, and long to hash: there is a hole of 64 GiB between rows and footer.
    let bytes = std::fs::read(&path).expect("read");
    let (rest, end) = bytes.split_at(bytes.len() - 8);
    let footer = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize;
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
    file.write_all_at(&bytes[rest.len() - footer..], 64 << 30).expect("write");
    let db = Db::new();
    db.table("chunks", 16);
    let running = Load::of(&path).into(&db).with("--index", "none").start();
    db.wait_until("(select count(*) from chunks) = 500");
    running.signal(Signal::SIGINT);
    running.outcome().exits(130).state("interrupted").rows(500, 0, 0).says("run the same command");
}

/// The control session reserves ids, and it records how the load ends.
#[test]
fn ctrl_c_is_heard_while_somebody_locks_the_sequence_of_ids() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    let holder = db.session();
    holder.run("begin; alter sequence chunks_id_seq cache 1");
    let mut running = Load::of(&path).into(&db).with("--index", "none").start();
    db.wait_until(
        "exists (select from pg_stat_activity where datname = current_database()
             and query like '%nextval%' and application_name like 'vecload%' and wait_event_type = 'Lock')",
    );
    running.signal(Signal::SIGINT);
    assert!(running.has_ended_within(Duration::from_secs(9)), "it waits for the lock");
    running.outcome().exits(130).state("interrupted").rows(0, 0, 0);
    holder.run("commit");
    Load::of(&path).into(&db).with("--index", "none").run().exits(0).rows(500, 0, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn sigterm_ends_a_load_in_order() {
    interrupted(Signal::SIGTERM);
}

#[test]
fn a_closed_terminal_ends_a_load_in_order() {
    interrupted(Signal::SIGHUP);
}

/// Ends a writer's session, then the one that holds the claim, of a load that is under way.
fn terminated_in_the_middle(retry_for: &str) -> (Db, Rows, std::path::PathBuf, tempfile::TempDir, Outcome) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(30_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    let running = small_blocks(Load::of(&path)).into(&db).with("--retry-for", retry_for).start();
    for name in ["vecload load % writer 2", "vecload load", "vecload load % control"] {
        if blocks(&db) == 0 || retry_for != "0s" {
            wait_for_blocks(&db, &running, 2);
        }
        db.run(&format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and application_name like '{name}'"
        ));
    }
    let outcome = running.outcome();
    (db, rows, path, dir, outcome)
}

#[test]
fn a_load_outlives_its_sessions() {
    let (db, rows, _, _dir, outcome) = terminated_in_the_middle("1m");
    outcome.exits(0).state("complete").rows(30_000, 0, 0).says("trying again").says("going on after");
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn without_retries_a_load_whose_sessions_end_fails_and_goes_on() {
    let (db, rows, path, _dir, outcome) = terminated_in_the_middle("0s");
    outcome.exits(1).state("failed").says("--retry-for");
    assert!(settled(&db) <= 30_000);
    speed_up(&db);
    Load::of(&path).into(&db).with("--index", "none").run().exits(0);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

/// Does something to the table in the middle of a load.
fn meddled_with(sql: &str) -> (Db, Rows, Outcome, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(30_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    let running = small_blocks(Load::of(&path)).into(&db).start();
    wait_for_blocks(&db, &running, 3);
    db.run(sql);
    (db, rows, running.outcome(), dir)
}

#[test]
fn rows_truncated_in_mid_load_are_missed_at_its_end() {
    let (db, _, outcome, _dir) = meddled_with("truncate chunks");
    let load = outcome.exits(1).state("failed").says("truncated, rewritten or restored").load();
    assert!(db.count("chunks") < 30_000);
    vecload(["loads", "undo", &load.to_string()]).into(&db).run().exits(0);
    assert_eq!(db.count("chunks"), 0);
}

#[test]
fn a_table_rewritten_in_mid_load_keeps_its_rows() {
    let (db, rows, outcome, _dir) = meddled_with("vacuum full chunks");
    outcome.exits(0).state("complete").rows(30_000, 0, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_table_swapped_in_mid_load_is_noticed() {
    let (db, _, outcome, _dir) =
        meddled_with("alter table chunks rename to old; create table chunks (like old including all)");
    outcome.exits(1).state("failed");
    let rows: i64 = db.one("select (select count(*) from old) + (select count(*) from chunks)");
    let known: i64 = db.one(&format!("select coalesce(sum(rows), 0)::bigint from {LEDGER}.blocks"));
    assert_eq!(rows, known, "each committed block is in one of the two");
}

#[test]
fn a_limit_loads_the_first_rows_and_a_later_run_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(12_000, 16).group(5_000);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    let load = |limit: &str| Load::of(&path).into(&db).with("--limit", limit).with("--index", "none");
    load("7123").run().exits(0).state("limited").rows(7_123, 0, 0);
    Rows::are_all_in(&[&Rows::new(7_123, 16)], &db, "chunks");
    load("7123").run().exits(0).state("limited").rows(0, 0, 7_123);
    load("9k").run().exits(0).state("limited").rows(1_877, 0, 7_123);
    Rows::are_all_in(&[&Rows::new(9_000, 16)], &db, "chunks");
    Load::of(&path).into(&db).run().exits(0).state("complete").rows(3_000, 0, 9_000);
    load("7123").run().exits(0).state("already_loaded");
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_second_loader_of_the_same_file_is_refused_while_the_first_lives() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(5_000, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let other = Rows::new(100, 16).from(90_000);
    let other_path = other.write(dir.path(), "other.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    vecload(["loads"]).into(&db).run().exits(0);
    let holder = db.session();
    // Readers get in, writers don't.
    holder.run("begin; lock table chunks in share row exclusive mode");
    let first = Load::of(&path).into(&db).with("--index", "none").start();
    db.wait_until(&format!(
        "exists (select from {LEDGER}.loads where state = 'running')
         and exists (select from pg_locks where not granted)"
    ));
    let second = Load::of(&path).into(&db).with("--index", "none").run().exits(2);
    let host = nix::unistd::gethostname().expect("a host name");
    second.says(first.process().to_string()).says(host.to_string_lossy()).says("is running");
    let load: i64 = db.one(&format!("select load_id from {LEDGER}.loads"));
    for command in ["undo", "forget"] {
        vecload(["loads", command, &load.to_string()]).into(&db).run().exits(2).says("is running");
    }
    // Another file may be loaded into the same table at the same time.
    let beside = Load::of(&other_path).into(&db).with("--index", "none").start();
    db.wait_until(&format!("(select count(*) from {LEDGER}.loads where state = 'running') = 2"));
    holder.run("rollback");
    first.outcome().exits(0).state("complete").rows(5_000, 0, 0);
    beside.outcome().exits(0).state("complete").rows(100, 0, 0);
    Rows::are_all_in(&[&rows, &other], &db, "chunks");
}

#[test]
fn two_loaders_started_at_once_load_each_row_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(8_000, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    let start = |path: &Path| Load::of(path).into(&db).with("--index", "none").start();
    let both = [start(&path), start(&path), start(&path)];
    let codes = both.map(|running| running.outcome().code());
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 2].contains(code)), "{codes:?}");
    Rows::are_all_in(&[&rows], &db, "chunks");
}
