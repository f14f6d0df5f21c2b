//! Rows that pass every check and that the server refuses: they are found in their block, and the rest goes in.

use std::path::Path;

use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::Rows;
use super::server::Db;
use super::texts::{Style, file, gzip};

const ROWS: u64 = 9_000;

/// A table that takes what `refuse` leaves.
fn picky(refuse: &str) -> Db {
    let db = Db::new();
    db.table("chunks", 16);
    db.run(refuse);
    db
}

fn load(db: &Db, path: &Path) -> Vecload {
    let load = Load::of(path).into(db).with("--index", "none").with("--memory", "48MiB");
    load.with("--writers", 3).with("--lanes", 2)
}

fn rejects(db: &Db, loaded: &Outcome) -> serde_json::Value {
    let told = vecload(["loads", "rejects", &loaded.load().to_string(), "--json"]).into(db).run().exits(0);
    told.report["rejects"].clone()
}

/// Loads rows of which some are refused, and proves that all others are in and that the books balance.
#[track_caller]
fn all_but(refused: impl Fn(u64) -> bool, refuse: &str, message: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(ROWS, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let refused: Vec<u64> = (0..ROWS).filter(|row| refused(*row)).collect();
    let count = refused.len() as u64;
    let db = picky(refuse);
    let loaded = load(&db, &path).with("--max-rejects", "all").run().exits(3).rows(ROWS - count, count, 0);
    Rows::are_all_in(&[&rows.clone().bad(refused.clone())], &db, "chunks");
    let told = rejects(&db, &loaded);
    let numbers: Vec<u64> = told.as_array().into_iter().flatten().map(row_number).collect();
    assert_eq!(numbers, refused);
    for reject in told.as_array().into_iter().flatten() {
        assert_eq!(reject["class"], "refused_by_server");
        assert!(reject["reason"].as_str().is_some_and(|reason| reason.contains(message)), "{reject}");
    }
    load(&db, &path).with("--max-rejects", "all").run().exits(3).state("already_loaded").rows(
        0,
        count,
        ROWS - count,
    );
}

/// The row's number in the file, whose row groups have 5,000 rows.
fn row_number(reject: &serde_json::Value) -> u64 {
    let number = |key: &str| reject[key].as_u64().expect("a number");
    number("unit") * 5_000 + number("row")
}

#[test]
fn a_check_constraint_refuses_rows_and_not_their_blocks() {
    let refuse = "alter table chunks add constraint not_every_97th check ((metadata->>'n')::int % 97 <> 13)";
    all_but(|row| row % 97 == 13, refuse, "violates check constraint \"not_every_97th\" (SQLSTATE 23514)");
}

#[test]
fn a_trigger_that_raises_refuses_rows_and_not_their_blocks() {
    let refuse = "create function refuse() returns trigger language plpgsql as $$
         begin
             if (new.metadata->>'n')::int % 1009 = 5 then
                 raise exception 'we do not take %', new.metadata->>'n';
             end if;
             return new;
         end $$;
         create trigger picky before insert on chunks for each row execute function refuse()";
    all_but(|row| row % 1009 == 5, refuse, "we do not take ");
}

#[test]
fn a_check_at_the_end_names_no_line_and_is_found_by_halving() {
    let refuse = "create function refuse() returns trigger language plpgsql as $$
         begin
             if (new.metadata->>'n')::int % 1501 = 7 then
                 raise integrity_constraint_violation using message = 'too late for ' || (new.metadata->>'n');
             end if;
             return null;
         end $$;
         create constraint trigger late after insert on chunks deferrable initially deferred
             for each row execute function refuse()";
    all_but(|row| row % 1501 == 7, refuse, "too late for ");
}

#[test]
fn of_rows_with_one_key_one_is_in() {
    let dir = tempfile::tempdir().expect("a directory");
    // Twice the same rows, under two names, for a table where a content can be once.
    let rows = Rows::new(3_000, 16);
    let db = picky("create unique index once on chunks (md5(content))");
    load(&db, &rows.write(dir.path(), "first.parquet")).run().exits(0);
    let mixed = Rows::new(500, 16).from(2_800);
    let second = mixed.write(dir.path(), "second.parquet");
    let told = load(&db, &second).with("--max-rejects", "50%").run().exits(3).rows(300, 200, 0);
    Rows::are_all_in(&[&Rows::new(3_300, 16)], &db, "chunks");
    let told = rejects(&db, &told);
    let first = &told[0];
    assert_eq!(told.as_array().map_or(0, Vec::len), 200);
    assert!(
        first["reason"].as_str().is_some_and(|text| text.contains("\"once\" (SQLSTATE 23505)")),
        "{first}"
    );
    assert!(first["excerpt"].as_str().is_some_and(|text| text.contains("already exists")), "{first}");
}

#[test]
fn without_leave_the_first_refused_row_stops_the_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(ROWS, 16);
    let text = Style::CSV.bytes(&rows);
    let path = file(dir.path(), "rows.csv.gz", gzip(&text));
    let db = picky("alter table chunks add constraint small check ((metadata->>'n')::int <> 6000)");
    let stopped = load(&db, &path).run().exits(4).state("stopped");
    let stopped = stopped.says("violates check constraint \"small\"").says("rows.csv.gz, line ");
    let reject = &rejects(&db, &stopped)[0];
    // The place is exact, as it is for rows that vecload itself refuses.
    let record = reject["record"].as_u64().expect("a record");
    let byte = reject["byte"].as_u64().expect("a byte") as usize;
    let line = reject["line"].as_u64().expect("a line") as usize;
    assert_eq!(record, 6_001);
    assert!(String::from_utf8_lossy(&text[byte..]).contains("000006000 chunk"), "{reject}");
    assert_eq!(text[..byte].iter().filter(|byte| **byte == b'\n').count() + 1, line);
    let more = load(&db, &path).with("--max-rejects", 1);
    let committed = db.count("chunks").cast_unsigned();
    more.run().exits(3).rows(ROWS - 1 - committed, 1, committed);
    Rows::are_all_in(&[&rows.bad([6_000])], &db, "chunks");
}

#[test]
fn a_table_that_refuses_whole_blocks_stops_the_load_with_the_constraint_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(ROWS, 16).write(dir.path(), "rows.parquet");
    let db = picky("alter table chunks add constraint nothing check (content = '')");
    let failed = load(&db, &path).with("--max-rejects", "all").run().exits(1).state("failed");
    failed.says("constraint \"nothing\" refuses ").says("mend the source or the constraint");
    assert_eq!(db.count("chunks"), 0);
    // Ids of other hands: the sequence is behind the table.
    let db = picky(
        "create unique index ids on chunks (id);
         insert into chunks (id, channel_id, user_id, content, embedding)
             select g, 1, 1, 'other', array_fill(0.5, array[16])::vector from generate_series(1, 60000) g",
    );
    load(&db, &path).with("--max-rejects", "all").run().exits(1).says(" refuses ").says("setval");
    assert_eq!(db.count("chunks"), 60_000);
}

#[test]
fn a_trigger_that_drops_rows_silently_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(ROWS, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = picky(
        "create function swallow() returns trigger language plpgsql as $$
         begin
             if (new.metadata->>'n')::int = 4321 then return null; end if;
             return new;
         end $$;
         create trigger silent before insert on chunks for each row execute function swallow()",
    );
    load(&db, &path).run().exits(1).says("a trigger or rule on the table drops rows");
    db.run("drop trigger silent on chunks");
    load(&db, &path).run().exits(0).state("complete");
    Rows::are_all_in(&[&rows], &db, "chunks");
}
