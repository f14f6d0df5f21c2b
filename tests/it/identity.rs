//! What is the same source, and what becomes of it when it is named again, changed, or taken from the table.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::program::{Load, Vecload, vecload};
use super::rows::Rows;
use super::server::Db;

struct Case {
    db: Db,
    dir: tempfile::TempDir,
}

fn case() -> Case {
    let db = Db::new();
    db.table("chunks", 16);
    Case { db, dir: tempfile::tempdir().expect("a directory") }
}

impl Case {
    fn load(&self, path: impl AsRef<Path>) -> Vecload {
        Load::of(path.as_ref()).into(&self.db).with("--index", "none")
    }

    fn write(&self, rows: &Rows, name: &str) -> PathBuf {
        rows.write(self.dir.path(), name)
    }

    #[track_caller]
    fn holds(&self, sources: &[&Rows]) {
        Rows::are_all_in(sources, &self.db, "chunks");
    }
}

fn touch(path: &Path, seconds_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds_ago);
    File::options().write(true).open(path).expect("open").set_modified(time).expect("set the time");
}

#[test]
fn files_loaded_earlier_are_left_out_in_any_company() {
    let case = case();
    let [a, b, c] = [0, 10_000, 20_000].map(|first| Rows::new(3_000, 16).from(first));
    let [first, second, third] =
        [(&a, "a"), (&b, "b"), (&c, "c")].map(|(rows, name)| case.write(rows, &format!("{name}.parquet")));
    case.load(&first).arg(&second).run().exits(0).state("complete").rows(6_000, 0, 0);
    let all = case.load(&first).arg(&second).arg(&third).run();
    all.exits(0).state("complete").rows(3_000, 0, 6_000);
    case.load(&third).arg(&first).run().exits(0).state("already_loaded").rows(0, 0, 6_000);
    case.load(case.dir.path()).run().exits(0).state("already_loaded").rows(0, 0, 9_000);
    case.holds(&[&a, &b, &c]);
}

#[test]
fn an_unfinished_file_goes_on_in_any_company() {
    let case = case();
    let [a, b] = [0, 10_000].map(|first| Rows::new(3_000, 16).from(first));
    let [first, second] = [(&a, "a.parquet"), (&b, "b.parquet")].map(|(rows, name)| case.write(rows, name));
    case.load(&first).with("--limit", 1_000).run().exits(0).state("limited");
    case.load(&second).with("--limit", 500).run().exits(0).state("limited");
    let both = case.load(&second).arg(&first).run();
    both.exits(0).state("complete").rows(4_500, 0, 1_500);
    case.holds(&[&a, &b]);
}

#[test]
fn a_file_is_the_same_under_another_name() {
    let case = case();
    let rows = Rows::new(1_000, 16);
    let path = case.write(&rows, "rows.parquet");
    case.load(&path).run().exits(0);
    let moved = case.dir.path().join("moved.parquet");
    std::fs::rename(&path, &moved).expect("rename");
    case.load(&moved).run().exits(0).state("already_loaded");
    case.holds(&[&rows]);
}

#[test]
fn equal_files_in_one_command_are_loaded_each_and_never_again() {
    let case = case();
    let rows = Rows::new(2_000, 16);
    let path = case.write(&rows, "rows.parquet");
    let copy = case.dir.path().join("copy.parquet");
    std::fs::copy(&path, &copy).expect("copy");
    case.load(&path).arg(&copy).run().exits(0).state("complete").rows(4_000, 0, 0);
    case.holds(&[&rows, &rows]);
    case.load(&path).arg(&copy).run().exits(0).state("already_loaded").rows(0, 0, 4_000);
    case.load(&copy).run().exits(0).state("already_loaded").rows(0, 0, 2_000);
    case.holds(&[&rows, &rows]);
}

#[test]
fn again_loads_once_more_each_time() {
    let case = case();
    let rows = Rows::new(2_000, 16);
    let path = case.write(&rows, "rows.parquet");
    case.load(&path).run().exits(0).rows(2_000, 0, 0);
    case.load(&path).arg("--again").run().exits(0).state("complete").rows(2_000, 0, 0);
    case.holds(&[&rows, &rows]);
    // One that is cut off goes on instead of starting another.
    case.load(&path).arg("--again").with("--limit", 700).run().exits(0).rows(700, 0, 0);
    case.load(&path).arg("--again").run().exits(0).rows(1_300, 0, 700);
    case.holds(&[&rows, &rows, &rows]);
    case.load(&path).run().exits(0).state("already_loaded");
}

#[test]
fn a_file_named_by_several_globs_is_loaded_once() {
    let case = case();
    let rows = Rows::new(500, 16);
    let path = case.write(&rows, "rows.parquet");
    let glob = case.dir.path().join("*.parquet");
    let load = case.load(&glob).arg(&path).arg(case.dir.path());
    load.run().exits(0).says("named more than once").rows(500, 0, 0);
    case.holds(&[&rows]);
    case.load(case.dir.path().join("*.csv")).run().exits(2).says("nothing matches");
    case.load(case.dir.path().join("nowhere.parquet")).run().exits(2).says("nowhere.parquet");
}

#[test]
fn a_file_that_changed_while_unfinished_is_refused() {
    let case = case();
    let rows = Rows::new(3_000, 16);
    let path = case.write(&rows, "rows.parquet");
    touch(&path, 100);
    let limited = case.load(&path).with("--limit", 1_000).run().exits(0);
    let undo = format!("loads undo {}", limited.load());
    touch(&path, 50);
    case.load(&path)
        .run()
        .exits(2)
        .says("rows.parquet")
        .says("partly loaded")
        .says(&undo)
        .says("loads forget");
    let other = Rows::new(3_000, 16).from(50_000);
    case.write(&other, "rows.parquet");
    case.load(&path).run().exits(2).says("rows.parquet").says("partly loaded").says(&undo).says("--again");
    case.holds(&[&Rows::new(1_000, 16)]);
    // Each of the ways on that the message names works.
    case.load(&path).arg("--again").run().exits(0).rows(3_000, 0, 0);
    case.holds(&[&Rows::new(1_000, 16), &other]);
    vecload(["loads", "undo", &limited.load().to_string()]).into(&case.db).run().exits(0);
    case.holds(&[&other]);
    case.load(&path).run().exits(0).state("already_loaded");
}

#[test]
fn a_touched_file_is_known_by_all_its_bytes() {
    let case = case();
    // Large enough that most of it is in none of the 64 sampled blocks, nor in the last MiB.
    let rows = Rows::new(60_000, 16);
    let path = case.write(&rows, "rows.parquet");
    case.load(&path).run().exits(0).state("complete");
    touch(&path, 1_000);
    case.load(&path).run().exits(0).state("already_loaded").rows(0, 0, 60_000);
    let file = File::options().read(true).write(true).open(&path).expect("open");
    let size = file.metadata().expect("its size").len();
    let sampled = |offset: u64| {
        let sample = |number: u64| (size - 4096) * number / 63;
        (0..64).any(|number| (sample(number)..sample(number) + 4096).contains(&offset))
            || offset + (1 << 20) > size
    };
    let offset = (size / 3..size).find(|offset| !sampled(*offset)).expect("a byte in between");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
    drop(file);
    touch(&path, 10);
    case.load(&path).run().exits(2).says("rows.parquet").says("differs").says("--again");
    case.holds(&[&rows]);
}

#[test]
fn another_recipe_is_refused_and_both_are_named() {
    let case = case();
    let rows = Rows::new(300, 16);
    let path = case.write(&rows, "rows.parquet");
    case.load(&path).run().exits(0);
    let other = || case.load(&path).with("--set", "user_id=424242");
    other().run().exits(2).says("recipe").says("424242").says("\"user_id\"").says("--again");
    case.holds(&[&rows]);
    other().arg("--again").run().exits(0).rows(300, 0, 0);
    assert_eq!(case.db.count("chunks where user_id = 424242"), 300);
    other().with("--map", "user_id=channel_id").run().exits(2).says("user_id");
}

#[test]
fn the_same_file_goes_into_each_table_once() {
    let case = case();
    let rows = Rows::new(300, 16);
    let path = case.write(&rows, "rows.parquet");
    case.db.table("others", 16);
    for table in ["chunks", "others"] {
        case.load(&path).table(table).run().exits(0).rows(300, 0, 0);
        Rows::are_all_in(&[&rows], &case.db, table);
    }
    // The target is the table, not its name.
    case.db.run("drop table others; drop sequence others_id_seq");
    case.db.table("others", 16);
    case.load(&path).table("others").run().exits(0).rows(300, 0, 0);
    Rows::are_all_in(&[&rows], &case.db, "others");
    case.db.run("alter table chunks rename to renamed");
    case.load(&path).table("renamed").run().exits(0).state("already_loaded");
}

#[test]
fn rows_truncated_behind_the_ledgers_back_are_missed() {
    let case = case();
    let rows = Rows::new(2_000, 16);
    let path = case.write(&rows, "rows.parquet");
    let load = case.load(&path).run().exits(0).load();
    case.db.run("truncate chunks");
    let forget = format!("loads forget {load}");
    case.load(&path).run().exits(1).state("failed").says("no longer in").says(&forget).says("2000 rows");
    let other = Rows::new(100, 16).from(7_000);
    case.load(case.write(&other, "other.parquet")).run().exits(0);
    vecload(forget.split(' ')).into(&case.db).run().exits(0);
    case.load(&path).run().exits(0).state("complete").rows(2_000, 0, 0);
    case.holds(&[&rows, &other]);
    // A rewrite that keeps the rows is no loss.
    case.db.run("vacuum full chunks");
    case.load(&path).run().exits(0).state("already_loaded");
}

#[test]
fn a_delete_is_the_users_right() {
    let case = case();
    let path = case.write(&Rows::new(2_000, 16), "rows.parquet");
    case.load(&path).run().exits(0);
    case.db.run("delete from chunks where content like '000000007%'");
    case.load(&path).run().exits(0).state("already_loaded");
    case.db.run("delete from chunks");
    case.load(&path).run().exits(0).state("already_loaded");
    assert_eq!(case.db.count("chunks"), 0);
}
