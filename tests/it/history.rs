//! `vecload loads`: what was loaded is listed, taken back, forgotten; rejected rows come back for repair.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array};
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::program::{Load, Outcome, vecload};
use super::resume::{slow_db, speed_up, wait_for_blocks};
use super::rows::{Rows, embedding, vectors, write_parquet};
use super::server::{Db, LEDGER};

fn loads(db: &Db, words: &[&str]) -> Outcome {
    vecload(["loads"].iter().chain(words)).arg("--json").into(db).run()
}

fn number(load: i64) -> String {
    load.to_string()
}

#[test]
fn an_undo_takes_back_the_rows_of_one_load_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 16);
    let [a, b] = [Rows::new(6_000, 16), Rows::new(2_500, 16).from(50_000)];
    let [first, second] = [a.write(dir.path(), "a.parquet"), b.write(dir.path(), "b.parquet")];
    let load = |path| Load::of(path).into(&db).with("--index", "none").with("--name", "mine").run().exits(0);
    let undone = load(&first).load();
    let kept = load(&second).load();
    let told = loads(&db, &["undo", &number(undone)]).exits(0).report;
    assert_eq!((told["deleted"].as_i64(), told["gone"].as_i64()), (Some(6_000), Some(0)));
    Rows::are_all_in(&[&b], &db, "chunks");
    let list = loads(&db, &[]).exits(0).report;
    let states: Vec<_> =
        list["loads"].as_array().into_iter().flatten().map(|load| (&load["load"], &load["state"])).collect();
    assert_eq!(states, [(&kept.into(), &"complete".into()), (&undone.into(), &"undone".into())]);
    let again = load(&first).state("complete").rows(6_000, 0, 0);
    Rows::are_all_in(&[&a, &b], &db, "chunks");
    // What somebody has deleted meanwhile is counted as gone.
    db.run("delete from chunks where content < '000000010'");
    let told = loads(&db, &["undo", &number(again.load())]).exits(0).report;
    assert_eq!((told["deleted"].as_i64(), told["gone"].as_i64()), (Some(5_990), Some(10)));
    loads(&db, &["undo", "999"]).exits(2).says("there is no load 999");
    Rows::are_all_in(&[&b], &db, "chunks");
}

#[test]
fn an_interrupted_load_can_be_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(30_000, 64).bad([29_999]);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = slow_db(64);
    let load = || Load::of(&path).into(&db).with("--index", "none").with("--max-rejects", 1);
    let running = load().with("--memory", "32MiB").with("--writers", 6).start();
    wait_for_blocks(&db, &running, 2);
    running.kill();
    let id: i64 = db.one(&format!("select max(load_id) from {LEDGER}.loads"));
    db.wait_until(
        "not exists (select from pg_stat_activity
             where datname = current_database() and application_name like 'vecload%')",
    );
    assert!(db.count("chunks") > 0);
    loads(&db, &["undo", &number(id)]).exits(0);
    assert_eq!(db.count("chunks"), 0);
    for table in ["blocks", "rejects", "reject_slices"] {
        assert_eq!(db.count(&format!("{LEDGER}.{table}")), 0, "{table}");
    }
    speed_up(&db);
    load().run().exits(3).rows(29_999, 1, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_forgotten_load_leaves_its_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 16);
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = || Load::of(&path).into(&db).with("--index", "none").run().exits(0);
    let first = load().load();
    loads(&db, &["forget", &number(first)]).exits(0);
    Rows::are_all_in(&[&rows], &db, "chunks");
    load().state("complete").rows(500, 0, 0);
    Rows::are_all_in(&[&rows, &rows], &db, "chunks");
}

#[test]
fn rows_without_ids_from_a_sequence_are_not_taken_back_by_guessing() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.run(
        "create table chunks (channel_id bigint, user_id bigint, content text,
         embedding vector(16), metadata jsonb)",
    );
    let rows = Rows::new(500, 16);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = Load::of(&path).into(&db).with("--index", "none").run().exits(0).load();
    loads(&db, &["undo", &number(load)]).exits(2).says("can't be taken back").says("forget");
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn loads_are_shown_with_their_sources_and_rejects() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 16);
    let said = vecload(["loads"]).into(&db).run().exits(0).says("no loads yet");
    assert_eq!(said.stdout, "");
    let rows = Rows::new(400, 16).group(100).bad([7, 250]);
    let path = rows.write(dir.path(), "rows.parquet");
    let load =
        Load::of(&path).into(&db).with("--index", "none").with("--max-rejects", 2).with("--name", "evening");
    let id = number(load.run().exits(3).load());
    let show = loads(&db, &["show", &id]).exits(0).report;
    assert_eq!((&show["load"]["name"], &show["load"]["state"]), (&"evening".into(), &"rejects".into()));
    assert_eq!((&show["load"]["rows"], &show["load"]["rejected"]), (&398.into(), &2.into()));
    let source = &show["sources"][0];
    let canonical = path.canonicalize().expect("a path").display().to_string();
    assert_eq!((&source["source"], &source["state"]), (&canonical.into(), &"complete".into()));
    assert_eq!(
        (&source["rows"], &source["loaded"], &source["rejected"]),
        (&400.into(), &398.into(), &2.into())
    );
    let told = loads(&db, &["rejects", &id]).exits(0).report;
    let rejects = &told["rejects"];
    let places: Vec<_> =
        rejects.as_array().into_iter().flatten().map(|it| (&it["unit"], &it["row"])).collect();
    assert_eq!(places, [(&0.into(), &7.into()), (&2.into(), &50.into())]);
    assert_eq!((&rejects[0]["class"], &rejects[0]["column"]), (&"nan".into(), &"embedding".into()));
    let text = |words: &[&str]| vecload(["loads"].iter().chain(words)).into(&db).run().exits(0);
    text(&[]).answers("evening").answers("398");
    text(&["show", &id]).answers("rows.parquet").answers("398");
    text(&["rejects", &id]).answers("NaN").answers("rows.parquet");
    for words in [["show", "77"], ["rejects", "77"], ["forget", "77"]] {
        loads(&db, &words).exits(2).says("there is no load 77");
    }
}

#[test]
fn rejected_rows_come_back_whole_and_load_after_repair() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 16);
    let bad = [3, 4, 999, 2_500, 2_999];
    let rows = Rows::new(3_000, 16).group(1_000).bad(bad);
    let path = rows.write(dir.path(), "rows.parquet");
    let load = |path| Load::of(path).into(&db).with("--index", "none").with("--max-rejects", "all").run();
    let id = number(load(&path).exits(3).rows(2_995, 5, 0).load());

    let out = dir.path().join("rejected.parquet");
    vecload(["loads", "rejects", &id, "--rows"]).arg(&out).into(&db).run().exits(0);
    // As they are they are rejected again.
    load(&out).exits(3).rows(0, 5, 0);
    let repaired = dir.path().join("repaired.parquet");
    repair(&out, &repaired, &bad);
    load(&repaired).exits(0).state("complete").rows(5, 0, 0);
    Rows::are_all_in(&[&Rows::new(3_000, 16)], &db, "chunks");

    let out = dir.path().join("rejected.csv");
    vecload(["loads", "rejects", &id, "--rows"]).arg(&out).into(&db).run().exits(0);
    let mut csv = csv::Reader::from_path(&out).expect("a CSV file");
    let header = csv.headers().expect("a header").clone();
    for name in ["_source", "_row_group", "_row", "_column", "_reason", "channel_id", "content", "embedding"]
    {
        assert!(header.iter().any(|found| found == name), "{name}: {header:?}");
    }
    let place = |name: &str| header.iter().position(|found| found == name).expect("a column");
    let records: Vec<_> = csv.records().map(|record| record.expect("a record")).collect();
    let contents: Vec<_> =
        records.iter().map(|record| record[place("content")][..9].parse::<u64>()).collect();
    assert_eq!(contents, bad.map(Ok));
    assert_eq!((&records[3][place("_row_group")], &records[3][place("_row")]), ("2", "500"));
    let out = dir.path().join("rejected.txt");
    vecload(["loads", "rejects", &id, "--rows"]).arg(&out).into(&db).run().exits(2).says(".csv");
    // The source has to be where it was.
    std::fs::remove_file(&path).expect("remove");
    let out = dir.path().join("late.csv");
    let gone = vecload(["loads", "rejects", &id, "--rows"]).arg(&out).into(&db).run();
    assert!([1, 2].contains(&gone.code()), "{gone}");
    gone.says("rows.parquet");
}

/// Gives the rejected rows good embeddings and leaves all else as it is.
fn repair(from: &std::path::Path, to: &std::path::Path, rows: &[u64]) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(from).expect("open")).expect("Parquet");
    let batches: Vec<_> = reader.build().expect("a reader").map(|batch| batch.expect("rows")).collect();
    let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
    let content = batch.column_by_name("content").expect("content");
    let content = arrow::compute::cast(content, &DataType::Utf8).expect("text");
    let numbers: Vec<u64> = content
        .as_string::<i32>()
        .iter()
        .map(|text| text.expect("text")[..9].parse().expect("a number"))
        .collect();
    assert_eq!(numbers, rows, "the rejected rows, in the source's order");
    let good = Float32Array::from_iter_values(rows.iter().flat_map(|row| embedding(*row, 16)));
    let good: ArrayRef = vectors(16, good);
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let column = if field.name() == "embedding" { Arc::clone(&good) } else { Arc::clone(column) };
        assert_eq!(column.len(), rows.len());
        (field.name().as_str(), column)
    });
    write_parquet(to, columns, 10);
}

#[test]
fn the_ledger_of_a_load_tells_what_its_report_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 16);
    let path = Rows::new(700, 16).write(dir.path(), "rows.parquet");
    let told = Load::of(&path).into(&db).with("--index", "none").run().exits(0).report;
    let kept: Value = db.one(&format!("select report from {LEDGER}.loads"));
    assert_eq!(kept, told);
}
