//! `--index`: indexes are dropped before the rows and built after them, and a killed load gives them back.

use super::program::{Load, vecload};
use super::resume::{slow_db, speed_up, wait_for_blocks};
use super::rows::Rows;
use super::server::{Db, LEDGER};

const STANDARD: [&str; 5] = [
    "chunks_channel_id_idx",
    "chunks_created_at_idx",
    "chunks_embedding_idx",
    "chunks_metadata_idx",
    "chunks_user_id_idx",
];

fn indexes(db: &Db) -> Vec<String> {
    db.column(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid
         where i.indrelid = 'chunks'::regclass and not i.indisprimary and i.indisvalid order by 1",
    )
}

fn definitions(db: &Db) -> Vec<String> {
    db.column("select indexdef from pg_indexes where tablename = 'chunks' order by 1")
}

struct Case {
    db: Db,
    dir: tempfile::TempDir,
}

/// A migrated table of 16 dimensions.
fn migrated() -> Case {
    let db = Db::new();
    vecload(["migrate", "--dim", "16"]).into(&db).run().exits(0);
    Case { db, dir: tempfile::tempdir().expect("a directory") }
}

impl Case {
    fn load(&self, first: u64, policy: &str) -> super::program::Outcome {
        let path = Rows::new(600, 16).from(first).write(self.dir.path(), &format!("{first}.parquet"));
        Load::of(path).into(&self.db).with("--index", policy).run()
    }
}

#[test]
fn auto_builds_indexes_after_the_rows_of_an_empty_table_and_keeps_them_later() {
    let case = migrated();
    assert_eq!(indexes(&case.db), STANDARD);
    let before = definitions(&case.db);
    let first = case.load(0, "auto").exits(0).says("dropping").says("built index");
    assert_eq!(first.report["index"]["policy"], "defer");
    assert_eq!(first.report["index"]["built"].as_array().map(Vec::len), Some(5), "{first}");
    assert_eq!(definitions(&case.db), before);
    let oid: u32 = case.db.one("select 'chunks_embedding_idx'::regclass::oid");
    let second = case.load(10_000, "auto").exits(0).never_says("dropping");
    assert_eq!(second.report["index"]["policy"], "keep");
    assert_eq!(case.db.one::<u32>("select 'chunks_embedding_idx'::regclass::oid"), oid, "the index was kept");
    assert_eq!(definitions(&case.db), before);
}

#[test]
fn defer_drops_and_rebuilds_what_a_filled_table_has_and_no_more() {
    let case = migrated();
    case.load(0, "auto").exits(0);
    case.db.run(
        "drop index chunks_user_id_idx; create index \"My Index\" on chunks (content) where user_id > 0;
         create unique index only_one on chunks (content)",
    );
    let before = definitions(&case.db);
    let told = case.load(10_000, "defer").exits(0).says("dropping").says("My Index");
    assert_eq!(told.report["index"]["built"].as_array().map(Vec::len), Some(5), "{told}");
    assert_eq!(definitions(&case.db), before);
    let clustered: i64 =
        case.db.one(&format!("select count(*) from {LEDGER}.loads where dropped_indexes <> '{{}}'"));
    assert_eq!(clustered, 0, "nothing is left to give back");
}

#[test]
fn keep_and_none_leave_indexes_alone() {
    for policy in ["keep", "none"] {
        let case = migrated();
        let before = definitions(&case.db);
        case.load(0, policy).exits(0).never_says("dropping").never_says("built index");
        assert_eq!(definitions(&case.db), before, "{policy}");
        case.db.run("drop index chunks_embedding_idx");
        case.load(10_000, policy).exits(0);
        assert!(!indexes(&case.db).contains(&"chunks_embedding_idx".to_string()), "{policy} builds none");
    }
}

#[test]
fn a_killed_load_gives_dropped_indexes_back_when_it_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(20_000, 64);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    db.run(
        "insert into chunks (channel_id, user_id, content, embedding)
         select 1, 1, 'there before', array_fill(0.5, array[64])::vector",
    );
    db.run(
        "create index by_user on chunks (user_id) with (fillfactor = 70);
         create index \"Odd \"\"name\" on chunks using gin (metadata)",
    );
    let before = definitions(&db);
    let load = || Load::of(&path).into(&db).with("--memory", "32MiB").with("--writers", 6);
    for _ in 0..2 {
        let running = load().with("--index", "defer").start();
        wait_for_blocks(&db, &running, 2);
        running.kill();
        assert_eq!(indexes(&db), Vec::<String>::new(), "they are dropped");
        db.wait_until(
            "not exists (select from pg_stat_activity
                 where datname = current_database() and application_name like 'vecload%')",
        );
    }
    speed_up(&db);
    // Without --index: what the first run decided still holds.
    load().run().exits(0).state("complete");
    assert_eq!(definitions(&db), before);
    assert_eq!(db.count("chunks where content = 'there before'"), 1);
    db.run("delete from chunks where content = 'there before'");
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn an_interrupted_index_build_is_done_by_the_next_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(15_000, 128);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 128);
    vecload(["loads"]).into(&db).run().exits(0);
    let load = || Load::of(&path).into(&db);
    let running = load().start();
    db.wait_until(
        "exists (select from pg_stat_activity where datname = current_database() and state = 'active'
             and query ilike 'create index%using hnsw%' and pid <> pg_backend_pid())",
    );
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.outcome().exits(130).state("interrupted");
    load().run().exits(0);
    assert_eq!(indexes(&db), STANDARD);
    Rows::are_all_in(&[&rows], &db, "chunks");
    load().run().exits(0).state("already_loaded");
}

#[test]
fn rejects_do_not_hold_up_the_indexes_of_a_load_that_was_cut_off_after_its_rows() {
    let case = migrated();
    let path = Rows::new(600, 16).bad([7, 8]).write(case.dir.path(), "rows.parquet");
    let load = || Load::of(&path).into(&case.db);
    load().with("--max-rejects", "all").run().exits(3);
    // As a kill between the last row and the index leaves it.
    case.db.run("drop index chunks_embedding_idx");
    case.db.run(&format!("update {LEDGER}.loads set state = 'running', finished_at = null"));
    load().run().exits(3);
    assert_eq!(indexes(&case.db), STANDARD);
    load().run().exits(3).state("already_loaded");
}

#[test]
fn a_limited_load_builds_its_indexes_with_the_last_row() {
    let case = migrated();
    let path = Rows::new(600, 16).write(case.dir.path(), "rows.parquet");
    let load = || Load::of(&path).into(&case.db);
    load().with("--limit", 100).run().exits(0).says("indexes are built when");
    load().run().exits(0).state("complete");
    assert_eq!(indexes(&case.db), STANDARD);
}
