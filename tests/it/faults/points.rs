//! The process dies at a named point (`src/fault.rs`); run again, it brings every row once.

use crate::program::{Load, Outcome, Vecload, vecload};
use crate::resume::settled;
use crate::rows::Rows;
use crate::server::{Db, LEDGER};

/// Dies at a point when it comes there for this time, from 1.
fn dies_at(run: Vecload, point: &str, time: u64) -> Outcome {
    let action = match time {
        1 => format!("{point}=return"),
        time => format!("{point}={}*off->1*return", time - 1),
    };
    let outcome = run.env("FAILPOINTS", action).start().outcome_of_any_end();
    assert_eq!(outcome.signal(), Some(9), "it should have died at {point}{outcome}");
    outcome
}

/// Every row is in once after deaths at the first and at a middle block; with one writer it is certain which
/// blocks were committed before.
fn a_load_that_dies_at(point: &str, commits_before_death: i64) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(40_000, 64).group(5_000);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 64);
    let load = || Load::of(&path).into(&db).with("--index", "none").with("--memory", "32MiB");
    let blocks = || db.count(&format!("{LEDGER}.blocks"));
    let mut before = 0;
    for time in [1, 4] {
        dies_at(load().with("--writers", 1), point, time);
        let committed = settled(&db);
        assert_eq!(blocks() - before, time as i64 - 1 + commits_before_death, "blocks of that run");
        assert!(committed < 40_000, "it died in the middle");
        before = blocks();
    }
    let before = settled(&db).unsigned_abs();
    load().with("--writers", 3).run().exits(0).state("complete").rows(40_000 - before, 0, before);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_load_that_dies_between_a_block_and_its_ledger_row_goes_on() {
    a_load_that_dies_at("block-copied", 0);
}

#[test]
fn a_load_that_dies_between_a_ledger_row_and_commit_goes_on() {
    a_load_that_dies_at("block-recorded", 0);
}

#[test]
fn a_load_that_dies_before_it_notes_a_commit_goes_on() {
    a_load_that_dies_at("block-committed", 1);
}

#[test]
fn a_compaction_that_dies_in_the_middle_changes_no_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(60_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 64);
    let load =
        || Load::of(&path).into(&db).with("--index", "none").with("--memory", "32MiB").with("--writers", 8);
    dies_at(load(), "compaction-between", 1);
    assert_eq!(settled(&db), 60_000, "the union of merged rows and the blocks that they stand for");
    let all: i64 = db.one(&format!("select sum(rows)::bigint from {LEDGER}.blocks"));
    assert!(all > 60_000, "it died between the two transactions");
    load().run().exits(0).rows(0, 0, 60_000);
    let all: i64 = db.one(&format!("select sum(rows)::bigint from {LEDGER}.blocks"));
    assert_eq!(all, 60_000, "the next run has finished it");
    Rows::are_all_in(&[&rows], &db, "chunks");
    let load: i64 = db.one(&format!("select load_id from {LEDGER}.loads"));
    vecload(["loads", "undo", &load.to_string()]).into(&db).run().exits(0);
    assert_eq!(db.count("chunks"), 0);
}

#[test]
fn an_undo_that_dies_in_the_middle_is_finished_by_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let (rows, others) = (Rows::new(240_000, 8).bad([777, 4_444]), Rows::new(3_000, 8).from(500_000));
    let [path, path_of_others] =
        [rows.write(dir.path(), "rows.parquet"), others.write(dir.path(), "others.parquet")];
    let db = Db::new();
    db.table("chunks", 8);
    let load = |path: &std::path::Path| {
        let load = Load::of(path).into(&db).with("--index", "none").with("--max-rejects", 2);
        load.with("--memory", "32MiB").with("--writers", 8)
    };
    // A load that has ended has few blocks; an undo takes 64 Ki rows at a time.
    dies_at(load(&path), "block-committed", 60);
    settled(&db);
    let taken_back: i64 = db.one(&format!("select load_id from {LEDGER}.loads"));
    load(&path_of_others).run().exits(0);
    let blocks = || db.count(&format!("{LEDGER}.blocks where load_id = {taken_back}"));
    let open = format!("{LEDGER}.sources where load_id = {taken_back} and state = 'open'");
    let undo = || vecload(["loads", "undo", &taken_back.to_string(), "--json"]).into(&db);
    let mut before = blocks();
    assert!(before > 24, "an undo of {before} blocks has some middle");
    for _ in 0..2 {
        dies_at(undo(), "undo-between", 1);
        settled(&db);
        assert!((1..before).contains(&blocks()), "it died in the middle: {} of {before} blocks", blocks());
        assert_eq!(db.count(&open), 1, "a source that lacks rows is never complete");
        before = blocks();
    }
    let left = settled(&db) - 3_000;
    let told = undo().run().exits(0);
    assert_eq!(told.report["deleted"], left, "what the first ones left{told}");
    Rows::are_all_in(&[&others], &db, "chunks");
    for table in ["blocks", "rejects", "reject_slices", "sources"] {
        assert_eq!(db.count(&format!("{LEDGER}.{table} where load_id = {taken_back}")), 0, "{table}");
    }
    load(&path).run().exits(3).state("rejects").rows(239_998, 2, 0);
    Rows::are_all_in(&[&rows, &others], &db, "chunks");
}
