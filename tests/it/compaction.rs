//! After a load the ledger has few rows about it, and answers as if it had them all.

use std::path::Path;

use super::program::{Load, Vecload, vecload};
use super::resume::{settled, slow_db, speed_up, wait_for_blocks};
use super::rows::Rows;
use super::server::{Db, LEDGER};

const GROUP: usize = 6_000;

/// Blocks are small with little memory and many writers.
fn small_blocks(path: &Path, db: &Db) -> Vecload {
    Load::of(path).into(db).with("--memory", "32MiB").with("--writers", 6).with("--index", "none")
}

fn db_with_ledger(dim: usize) -> Db {
    let db = Db::new();
    db.table("chunks", dim);
    vecload(["loads"]).into(&db).run().exits(0);
    db
}

/// The first transaction of a compaction succeeds, the second does not.
fn stop_between_the_transactions(db: &Db) {
    db.run(&format!(
        "create function refuse() returns trigger language plpgsql as
             $$ begin raise 'not now'; end $$;
         create trigger refuse before delete on {LEDGER}.blocks execute function refuse()"
    ));
}

/// Rows of a file in groups of [`GROUP`] for which a table of blocks does not say what is true: the first `loaded`
/// are committed, no other is.
fn wrong(db: &Db, blocks: &str, rows: u64, loaded: u64) -> i64 {
    db.one(&format!(
        "with slices as materialized (
             select s.* from {blocks} b,
                 unnest(b.units, b.first_rows, b.last_rows, b.hash_lows, b.hash_highs)
                     as s(unit, first_row, last_row, hash_low, hash_high)),
         expected as (
             select n / {GROUP} as unit, n % {GROUP} as row, n < {loaded} as committed, hashint8(c.channel_id) as hash
             from generate_series(0, {rows} - 1) n left join chunks c on left(c.content, 9)::bigint = n)
         select count(*) from expected e where e.committed <> exists (
             select from slices s where s.unit = e.unit and e.row between s.first_row and s.last_row
                 and (e.hash is null or e.hash between s.hash_low and s.hash_high))"
    ))
}

#[test]
fn blocks_are_merged_and_every_answer_stays_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(60_000, 64).group(GROUP);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = db_with_ledger(64);
    stop_between_the_transactions(&db);
    let load = small_blocks(&path, &db).with("--limit", "45000");
    let load = load.run().exits(0).state("limited").rows(45_000, 0, 0).says("not now").load();
    let blocks = format!("{LEDGER}.blocks");
    let before = format!("(select * from {blocks} where replaces is null)");
    let current = format!("{LEDGER}.current_blocks");
    let (merged, parts): (i64, i64) = (db.count(&current), db.count(&format!("{before} b")));
    assert!(parts >= 16 && merged < 3, "{parts} blocks, {merged} merged rows");
    assert_eq!(db.count(&blocks), parts + merged, "both are there between the transactions");
    for blocks in [&before, &current] {
        assert_eq!(wrong(&db, blocks, 60_000, 45_000), 0, "{blocks}");
    }
    // A remainder takes its sign from the sum, which may be below zero.
    let sums = "sum(rows), mod(mod(sum(checksum), 2::numeric ^ 64) + 2::numeric ^ 64, 2::numeric ^ 64),
        min(relfilenode), max(committed_at)";
    let same =
        format!("select (select ({sums})::text from {before} b) = (select ({sums})::text from {current})");
    assert!(db.one::<bool>(&same), "rows, checksums, storage, time");
    let shown = || {
        let show = vecload(["loads", "show", &load.to_string(), "--json"]).into(&db).run().exits(0).report;
        [show["load"]["rows"].as_i64(), show["sources"][0]["loaded"].as_i64()]
    };
    assert_eq!(shown(), [Some(45_000); 2]);

    // The next claim finishes what was cut off, and there is nothing to load.
    db.run(&format!("drop trigger refuse on {blocks}"));
    let again = small_blocks(&path, &db).with("--limit", "45000");
    again.run().exits(0).state("limited").rows(0, 0, 45_000);
    assert_eq!(db.count(&blocks), merged);
    assert_eq!(db.one::<i64>(&format!("select count(replaces) from {blocks}")), 0);
    assert_eq!(wrong(&db, &blocks, 60_000, 45_000), 0);
    assert_eq!(shown(), [Some(45_000); 2]);
    // Seven whole row groups, and the part of the eighth that was asked for.
    assert!(db.one::<i64>(&format!("select sum(cardinality(units)) from {blocks}")) < 7 + 2 * 8);

    // A load whose part is merged goes on as any other.
    small_blocks(&path, &db).run().exits(0).state("complete").rows(15_000, 0, 45_000);
    Rows::are_all_in(&[&rows], &db, "chunks");
    small_blocks(&path, &db).run().exits(0).state("already_loaded").rows(0, 0, 60_000);
}

#[test]
fn a_merged_load_is_taken_back_exactly_also_between_the_transactions() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(60_000, 64).group(GROUP).bad((0..60_000).step_by(7_001));
    let other = Rows::new(9_000, 64).from(500_000);
    let [path, other_path] = [rows.write(dir.path(), "a.parquet"), other.write(dir.path(), "b.parquet")];
    let db = slow_db(64);
    let load = || small_blocks(&path, &db).with("--max-rejects", "all");
    // Two runs, and another load whose ids lie between theirs.
    let running = load().start();
    wait_for_blocks(&db, &running, 20);
    running.kill();
    settled(&db);
    speed_up(&db);
    Load::of(&other_path).into(&db).with("--index", "none").run().exits(0);
    for stopped in [true, false] {
        if stopped {
            stop_between_the_transactions(&db);
        }
        let id = load().run().exits(3).state("rejects").load();
        Rows::are_all_in(&[&rows, &other], &db, "chunks");
        let replaced = format!("select count(*) from {LEDGER}.blocks where replaces is not null");
        assert_eq!(db.one::<i64>(&replaced) > 0, stopped);
        if stopped {
            db.run(&format!("drop trigger refuse on {LEDGER}.blocks"));
        } else {
            let merged = format!("select count(*) from {LEDGER}.blocks where load_id = {id}");
            assert!(db.one::<i64>(&merged) < 4, "few rows about many blocks");
        }
        let undone = vecload(["loads", "undo", &id.to_string(), "--json"]).into(&db).run().exits(0).report;
        assert_eq!((undone["deleted"].as_i64(), undone["gone"].as_i64()), (Some(59_991), Some(0)));
        Rows::are_all_in(&[&other], &db, "chunks");
        let left = format!("select count(*) from {LEDGER}.blocks where load_id = {id}");
        assert_eq!(db.one::<i64>(&left), 0);
    }
}

#[test]
fn rows_of_a_merged_load_that_vanish_are_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(60_000, 64).write(dir.path(), "rows.parquet");
    let db = db_with_ledger(64);
    let id = small_blocks(&path, &db).run().exits(0).load();
    assert!(db.count(&format!("{LEDGER}.blocks")) < 3);
    db.run("vacuum full chunks");
    small_blocks(&path, &db).run().exits(0).state("already_loaded");
    db.run("delete from chunks where id % 100 = 0");
    db.run("vacuum full chunks");
    let partly = small_blocks(&path, &db).run().exits(1).says("600 rows").says(format!("{id}/1/"));
    partly.says(format!("vecload loads undo {id}"));
    db.run("truncate chunks");
    small_blocks(&path, &db).run().exits(1).says("60000 rows").says(format!("vecload loads forget {id}"));
}

#[test]
fn many_small_files_become_one_row_with_a_slice_for_each() {
    const FILES: u64 = 4_000;
    let dir = tempfile::tempdir().expect("a directory");
    let rows = |file: u64| Rows::new(6, 8).from(file * 6);
    for file in 0..FILES {
        let name = format!("{file:05}.parquet");
        rows(file).write(dir.path(), &name);
    }
    let db = db_with_ledger(8);
    let load = || Load::of(dir.path()).into(&db).with("--index", "none");
    // A part is in, then all.
    load().with("--limit", 12_001).run().exits(0).state("limited").rows(12_001, 0, 0);
    let id = load().run().exits(0).state("complete").rows(FILES * 6 - 12_001, 0, 12_001).load();
    Rows::are_all_in(&[&Rows::new(FILES * 6, 8)], &db, "chunks");
    let (blocks, slices): (i64, i64) = (
        db.count(&format!("{LEDGER}.blocks")),
        db.one(&format!("select sum(cardinality(units)) from {LEDGER}.blocks")),
    );
    // One row of each run; the file that both have a part of keeps the slices that it got.
    assert!(blocks == 2 && (4_000..4_010).contains(&slices), "{blocks} blocks with {slices} slices");
    load().run().exits(0).state("already_loaded").rows(0, 0, FILES * 6);
    let show = vecload(["loads", "show", &id.to_string()]).into(&db).run().exits(0);
    assert!(show.stdout.lines().count() < 120, "as many lines as fit a person{show}");
    show.answers("and 3,900 more");
    vecload(["loads", "undo", &id.to_string()]).into(&db).run().exits(0);
    assert_eq!(db.count("chunks"), 0);
    assert_eq!(db.count(&format!("{LEDGER}.sources")), 0);
}

#[test]
fn who_may_not_delete_loads_all_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(60_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = db_with_ledger(64);
    let role = format!("role_{}", db.name());
    db.run(&format!(
        "create role {role};
         grant usage on schema {LEDGER} to {role};
         grant select, insert, update on all tables in schema {LEDGER} to {role};
         grant select, insert on chunks to {role}; grant usage on sequence chunks_id_seq to {role};
         alter database {} set role = {role}",
        db.name()
    ));
    small_blocks(&path, &db).run().exits(0).state("complete").never_says("permission");
    assert!(db.count(&format!("{LEDGER}.blocks")) >= 16);
    Rows::are_all_in(&[&rows], &db, "chunks");
    db.run(&format!("alter database {} reset role; drop owned by {role}; drop role {role}", db.name()));
}
