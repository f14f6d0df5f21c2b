//! Bad records of text: where they are to the byte, why, how many are put up with, and their way back.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::{Rows, hash};
use super::server::Db;
use super::texts::{Packing, Style, file, piped, wrote_all};

/// A unit ends with the first record that ends at or after a multiple of this.
const UNIT_BYTES: u64 = 16 << 20;

fn load_into(db: &Db, path: &Path) -> Vecload {
    Load::of(path).into(db).with("--index", "none").with("--max-rejects", "all")
}

fn rejects(db: &Db, loaded: &Outcome) -> Vec<Value> {
    let number = loaded.load().to_string();
    let told = vecload(["loads", "rejects", &number, "--json"]).into(db).run().exits(0);
    told.report["rejects"].as_array().cloned().unwrap_or_default()
}

fn rows_out(db: &Db, loaded: &Outcome, out: &Path) -> Outcome {
    vecload(["loads", "rejects", &loaded.load().to_string(), "--rows"]).arg(out).into(db).run()
}

/// Unit, row in it, line, record and byte of some records, counted from the text itself.
fn positions(text: &str, lines: &[String], is_wanted: impl Fn(u64) -> bool) -> Vec<[u64; 5]> {
    let mut byte = (text.len() - lines.iter().map(String::len).sum::<usize>()) as u64;
    let (mut unit, mut row, mut line) = (0, 0, 1);
    let mut found = Vec::new();
    for (record, text) in lines.iter().enumerate() {
        // The first line is the header, which is no record.
        if record > 0 && is_wanted(record as u64 - 1) {
            found.push([unit, row, line, record as u64, byte]);
        }
        row += u64::from(record > 0);
        let before = byte / UNIT_BYTES;
        byte += text.len() as u64;
        line += text.matches('\n').count() as u64;
        if byte / UNIT_BYTES > before {
            (unit, row) = (unit + 1, 0);
        }
    }
    found
}

fn told_positions(rejects: &[Value]) -> Vec<[u64; 5]> {
    let numbers = |reject: &Value| {
        ["unit", "row", "line", "record", "byte"].map(|key| reject[key].as_u64().unwrap_or(u64::MAX))
    };
    rejects.iter().map(numbers).collect()
}

#[test]
fn each_reject_names_the_line_record_and_byte_that_it_begins_at() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let bad: Vec<u64> = (0..3_000).filter(|row| hash(*row, 5).is_multiple_of(41)).collect();
    let rows = Rows::new(3_000, 8).tricky().bad(bad.clone());
    let styles = [
        ("a.csv", Style::CSV),
        ("b.csv", Style { mark: true, line_end: "\r\n", escapes_all: true, ..Style::CSV }),
        ("c.csv", Style { delimiter: Some(';'), line_end: "\n\n\r\n", ..Style::CSV }),
        ("d.jsonl", Style::JSONL),
        ("e.jsonl", Style { mark: true, line_end: "\r\n\r\n \n", ..Style::JSONL }),
    ];
    for (name, style) in styles {
        let text = String::from_utf8(style.bytes(&rows)).expect("UTF-8");
        let mut lines = style.lines(&rows);
        if !style.header {
            lines.insert(0, String::new());
        }
        let wanted = positions(&text, &lines, |row| bad.contains(&row));
        assert_eq!(wanted.len(), bad.len());
        for packing in [Packing::Plain, Packing::Gzip(10_007)] {
            let path =
                file(dir.path(), &format!("{name}{}", packing.ending()), packing.pack(text.as_bytes()));
            let told =
                load_into(&db, &path).run().exits(3).rows(3_000 - bad.len() as u64, bad.len() as u64, 0);
            assert_eq!(told_positions(&rejects(&db, &told)), wanted, "{name} {packing:?}");
            Rows::are_all_in(&[&rows], &db, "chunks");
            db.run("delete from chunks");
            // The message has the same place.
            let [_, _, line, record, byte] = wanted[0];
            let again = Load::of(&path).into(&db).with("--index", "none").with("--lanes", 1).arg("--again");
            let place = format!("{name}{}, line {line} (record {record}, byte {byte})", packing.ending());
            again.run().exits(4).says(place).says("column \"embedding\"").says("NaN").says("--max-rejects");
            db.run("delete from chunks");
        }
    }
}

#[test]
fn rejects_are_the_same_for_any_lanes_memory_writers_packing_and_pipes() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad: Vec<u64> = (0..4_000).filter(|row| hash(*row, 6).is_multiple_of(97)).collect();
    let rows = Rows::new(4_000, 1_024).tricky().bad(bad.clone());
    let bytes = Style::CSV.bytes(&rows);
    assert!(bytes.len() as u64 > 2 * UNIT_BYTES, "three units: {}", bytes.len());
    let text = std::str::from_utf8(&bytes).expect("UTF-8");
    let wanted = positions(text, &Style::CSV.lines(&rows), |row| bad.contains(&row));
    assert!(wanted.iter().any(|position| position[0] == 2));
    let db = Db::new();
    db.table("chunks", 1_024);
    let plain = file(dir.path(), "plain.csv", &bytes);
    let packed = file(dir.path(), "packed.csv.zst", Packing::Zstd(usize::MAX).pack(&bytes));
    let (pipe, producer) =
        piped(load_into(&db, Path::new("-")).with("--lanes", 2).with("--memory", "128MiB"), bytes);
    let loads = [
        load_into(&db, &plain).with("--lanes", 1).with("--writers", 1),
        load_into(&db, &packed).with("--lanes", 5).with("--writers", 4).with("--memory", "160MiB"),
        pipe,
    ];
    for load in loads {
        let told = load.run().exits(3).rows(4_000 - bad.len() as u64, bad.len() as u64, 0);
        assert_eq!(told_positions(&rejects(&db, &told)), wanted, "{told}");
        Rows::are_all_in(&[&rows], &db, "chunks");
        db.run("delete from chunks");
    }
    assert!(wrote_all(producer));
}

#[test]
fn malformed_records_of_csv_are_rejects_and_the_others_go_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.run("create table chunks (k int, content text, embedding vector(2))");
    let csv = "k,content,embedding\n\
               1,\"two\nlines\",\"[1,2]\"\n\
               2,short\n\
               3,\"long\",\"[1,2]\",more,\"and\nmore\"\n\
               k,content,embedding\n\
               \"\"\n\
               4,a \"quoted\" word,\"[1,2]\"\n\
               5,bytes \u{1}\n";
    let mut bytes = csv.as_bytes().to_vec();
    bytes.extend(b"6,\xff\xfe,\"[1,2]\"\n88888888888,x,\"[1,2]\"\n9,last,\"[1,2]\"");
    let path = file(dir.path(), "bad.csv", bytes);
    let told = load_into(&db, &path).run().exits(3).rows(3, 7, 0);
    let found: Vec<String> = rejects(&db, &told)
        .iter()
        .map(|reject| {
            let column = reject["column"].as_str().unwrap_or_default();
            format!(
                "{} {} {} {column}",
                reject["line"],
                reject["record"],
                reject["class"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let wanted = [
        "4 2 malformed_record ",
        "5 3 malformed_record ",
        "7 4 malformed_record ",
        "8 5 malformed_record ",
        "10 7 malformed_record ",
        "11 8 invalid_utf8 content",
        "12 9 integer_out_of_range k",
    ];
    assert_eq!(found, wanted, "{told}");
    let kept: Vec<String> = db.column("select k || content from chunks order by k");
    assert_eq!(kept, ["1two\nlines", "4a \"quoted\" word", "9last"]);
}

#[test]
fn a_nul_byte_rejects_its_row_wherever_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    for at in [2_900, 3] {
        let mut lines = Style::CSV.lines(&Rows::new(3_000, 8));
        lines[at] = lines[at].replace(" chunk ", " \0 ");
        let path = file(dir.path(), &format!("{at}.csv"), lines.concat());
        let told = load_into(&db, &path).run().exits(3).rows(2_999, 1, 0);
        let reject = &rejects(&db, &told)[0];
        assert_eq!((&reject["line"], &reject["class"]), (&(at + 1).into(), &"nul_byte".into()), "{told}");
    }
}

#[test]
fn rejected_records_of_csv_are_written_mended_and_loaded() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let bad = [0, 7, 1_500, 1_999];
    let rows = Rows::new(2_000, 8).tricky().bad(bad);
    for (name, packing) in [("a.csv", Packing::Plain), ("b.csv.gz", Packing::Gzip(5_000))] {
        let path = file(dir.path(), name, packing.pack(&Style::CSV.bytes(&rows)));
        let told = load_into(&db, &path).run().exits(3).rows(1_996, 4, 0);
        let out = dir.path().join(format!("{name}.rows.csv"));
        rows_out(&db, &told, &out).exits(0);
        let text = std::fs::read_to_string(&out).expect("what was written");
        assert!(text.starts_with("_source,") && text.contains("NaN"), "{text}");
        let mended = file(dir.path(), &format!("{name}.mended.csv"), text.replace("NaN", "0.5"));
        load_into(&db, &mended).run().exits(0).rows(4, 0, 0);
        let half = "select count(*) from chunks where embedding::text like '%,0.5,%'";
        assert_eq!(db.one::<i64>(half), 4);
        db.run("delete from chunks where embedding::text like '%,0.5,%'");
        Rows::are_all_in(&[&rows], &db, "chunks");
        db.run("delete from chunks");
    }
}

#[test]
fn rejected_records_fit_a_table_that_takes_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("eight", 8).table("nine", 9);
    // Every third row is of another model.
    let [eight, nine] = [Rows::new(1_000, 8).tricky(), Rows::new(500, 9).from(50_000).tricky()];
    let mut lines = Style::CSV.lines(&eight);
    for (number, line) in Style::CSV.lines(&nine).drain(1..).enumerate() {
        lines.insert(3 * number + 2, line);
    }
    let path = file(dir.path(), "both.csv", lines.concat());
    let told = load_into(&db, &path).table("eight").run().exits(3).rows(1_000, 500, 0);
    Rows::are_all_in(&[&eight], &db, "eight");
    for name in ["out.parquet", "out.csv"] {
        let out = dir.path().join(name);
        rows_out(&db, &told, &out).exits(0);
        load_into(&db, &out).table("nine").run().exits(0).rows(500, 0, 0);
        Rows::are_all_in(&[&nine], &db, "nine");
        db.run("delete from nine");
        rows_out(&db, &told, &out).exits(2).says(name).says("exists");
    }
}

#[test]
fn rejected_lines_of_json_are_written_as_they_stand() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let rows = Rows::new(1_000, 8).tricky().bad([3, 500]);
    let mut lines = Style::JSONL.lines(&rows);
    lines.insert(10, "{\"broken\":\n".into());
    let path = file(dir.path(), "rows.jsonl", lines.concat());
    let told = load_into(&db, &path).run().exits(3).rows(998, 3, 0);
    let wanted: Vec<&str> = [3, 10, 501].map(|line: usize| lines[line].trim_end_matches('\n')).to_vec();
    let csv = dir.path().join("out.csv");
    rows_out(&db, &told, &csv).exits(0);
    let mut reader = csv::Reader::from_path(&csv).expect("CSV");
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.expect("a record")).collect();
    let found: Vec<&str> = records.iter().map(|record| &record[record.len() - 1]).collect();
    assert_eq!(found, wanted);
    let lines_of: Vec<&str> = records.iter().map(|record| &record[3]).collect();
    assert_eq!(lines_of, ["4", "11", "502"]);
    let out = dir.path().join("out.parquet");
    rows_out(&db, &told, &out).exits(0);
    assert_eq!(column(&out, "record"), wanted);
    // As lines they are mended and loaded.
    let out = dir.path().join("out.jsonl");
    rows_out(&db, &told, &out).exits(0);
    let text = std::fs::read_to_string(&out).expect("what was written");
    assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    let mended = text.replace("NaN", "0.5").replace("{\"broken\":\n", "");
    let mended = file(dir.path(), "mended.jsonl", mended);
    load_into(&db, &mended).run().exits(0).rows(2, 0, 0);
    let none = dir.path().join("out.json");
    rows_out(&db, &told, &none).exits(2).says("out.json").says(".parquet");
}

fn column(path: &PathBuf, name: &str) -> Vec<String> {
    let file = std::fs::File::open(path).expect("open");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("a reader");
    let mut texts = Vec::new();
    for batch in reader {
        let batch = batch.expect("a batch");
        let column = batch.column_by_name(name).expect("the column");
        let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).expect("text");
        let column = column.as_string::<i32>();
        texts.extend((0..column.len()).map(|row| column.value(row).to_string()));
    }
    texts
}

#[test]
fn rejected_records_of_a_stream_or_of_a_lost_file_are_only_listed() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let bytes = Style::CSV.bytes(&Rows::new(100, 8).bad([50]));
    let (load, producer) = piped(load_into(&db, Path::new("-")).with("--name", "stream"), bytes.clone());
    let told = load.run().exits(3).rows(99, 1, 0);
    assert!(wrote_all(producer));
    assert_eq!(rejects(&db, &told).len(), 1);
    let out = dir.path().join("out.csv");
    rows_out(&db, &told, &out).exits(2).says("standard input").says("can't be read again");
    assert!(!out.try_exists().expect("look for a file"));
    let path = file(dir.path(), "rows.csv", bytes);
    let told = load_into(&db, &path).run().exits(3);
    // What stands there now is another file, in which these records are not those.
    file(dir.path(), "rows.csv", Style::CSV.bytes(&Rows::new(20, 8)));
    let changed = rows_out(&db, &told, &out);
    assert_ne!(changed.code(), 0, "{changed}");
    assert!(!out.try_exists().expect("look for a file"));
    std::fs::remove_file(&path).expect("remove");
    let gone = rows_out(&db, &told, &out);
    assert!([1, 2].contains(&gone.code()), "{gone}");
    gone.says("rows.csv");
    assert!(!out.try_exists().expect("look for a file"));
}

#[test]
fn a_number_and_a_share_of_rejects_are_put_up_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let rows = Rows::new(20_000, 8).bad(0..100);
    for (name, style) in [("rows.csv", Style::CSV), ("rows.jsonl", Style::JSONL)] {
        let path = file(dir.path(), name, style.bytes(&rows));
        let load = |limit: &str| {
            Load::of(&path).into(&db).with("--index", "none").with("--lanes", 1).with("--max-rejects", limit)
        };
        load("0").run().exits(4).state("stopped").says(name).says("line ").says("NaN");
        load("99").run().exits(4).state("stopped");
        load("0.4%").run().exits(4).state("stopped").says("100 of");
        load("0.5%").run().exits(3).state("rejects");
        Rows::are_all_in(&[&rows], &db, "chunks");
        load("100").run().exits(3).state("already_loaded").rows(0, 100, 19_900);
        db.run("delete from chunks");
    }
}
