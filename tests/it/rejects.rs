//! Bad rows: how many are put up with, why each was rejected, and that it is the same for any number of lanes.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Builder, ListBuilder, StringArray, UInt64Array};

use super::program::{Load, Vecload};
use super::rows::{Rows, write_parquet};
use super::server::{Db, LEDGER};

fn load_into(db: &Db, path: &std::path::Path) -> Vecload {
    Load::of(path).into(db).with("--index", "none")
}

#[test]
fn by_default_the_first_bad_row_stops_the_load_and_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(20_000, 16).group(5_000).bad([12_345]);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    let stopped = load_into(&db, &path).run().exits(4).state("stopped");
    let stopped =
        stopped.says("rows.parquet").says("row group 2").says("row 2345").says("\"embedding\"").says("NaN");
    stopped.says("--max-rejects");
    // The row is known to be bad: nothing is gained by reading again.
    load_into(&db, &path).run().exits(4).state("stopped");
    load_into(&db, &path).with("--max-rejects", 1).run().exits(3).state("rejects");
    Rows::are_all_in(&[&rows], &db, "chunks");
    let again = load_into(&db, &path).with("--max-rejects", 1).run();
    again.exits(3).state("already_loaded").rows(0, 1, 19_999);
}

#[test]
fn a_number_of_rejects_is_put_up_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(9_000, 16).group(1_000).bad([0, 4_500, 8_999]);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    load_into(&db, &path).with("--max-rejects", 2).run().exits(4).state("stopped");
    assert!(db.count("chunks") <= 8_997);
    load_into(&db, &path).with("--max-rejects", 3).run().exits(3).state("rejects");
    for _ in 0..2 {
        // Nothing is left to do, and still not all rows are in.
        load_into(&db, &path)
            .with("--max-rejects", 3)
            .run()
            .exits(3)
            .state("already_loaded")
            .rows(0, 3, 8_997);
    }
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_percentage_is_of_the_rows_read_and_tested_after_ten_thousand() {
    let dir = tempfile::tempdir().expect("a directory");
    // All bad rows come first: 100 of the first 100, half a percent of all.
    let rows = Rows::new(20_000, 16).group(5_000).bad(0..100);
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    let low = load_into(&db, &path).with("--max-rejects", "0.4%").with("--lanes", 1).run();
    low.exits(4).state("stopped").says("100 of");
    load_into(&db, &path).with("--max-rejects", "0.5%").run().exits(3).state("rejects");
    Rows::are_all_in(&[&rows], &db, "chunks");
    // A small source is tested at its end.
    let small = Rows::new(100, 16).from(70_000).bad([70_050, 70_051]);
    let path = small.write(dir.path(), "small.parquet");
    load_into(&db, &path).with("--max-rejects", "1%").run().exits(4);
    load_into(&db, &path).with("--max-rejects", "2%").run().exits(3);
    Rows::are_all_in(&[&rows, &small], &db, "chunks");
}

#[test]
fn a_limit_that_is_none_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(10, 16).write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 16);
    for nonsense in ["some", "101%", "-1", "1.5", ""] {
        load_into(&db, &path).arg(format!("--max-rejects={nonsense}")).run().exits(2);
    }
    assert_eq!(db.count("chunks"), 0);
}

#[test]
fn each_kind_of_bad_row_has_its_class() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 2);
    db.run("alter table chunks add column uid uuid, alter metadata drop not null");
    let ok = [Some(0.5), Some(1.5)];
    let vector: Vec<(&str, Option<Vec<Option<f64>>>)> = vec![
        ("embedding_null", None),
        ("embedding_element_null", Some(vec![Some(1.0), None])),
        ("dimension", Some(vec![Some(1.0)])),
        ("nan", Some(vec![Some(f64::NAN), Some(1.0)])),
        ("infinite", Some(vec![Some(1.0), Some(f64::NEG_INFINITY)])),
        ("element_out_of_range", Some(vec![Some(1e39), Some(1.0)])),
    ];
    let scalar = ["null", "integer_out_of_range", "nul_byte", "invalid_utf8", "json", "value", "good"];
    let mut embeddings = ListBuilder::new(Float64Builder::new());
    for (_, embedding) in &vector {
        embeddings.append_option(embedding.clone());
    }
    for _ in scalar {
        embeddings.append_value(ok);
    }
    let classes: Vec<&str> = vector.iter().map(|(class, _)| *class).chain(scalar).collect();
    let pick = |class: &str, bad: &'static [u8], good: &'static [u8]| -> Vec<Option<&'static [u8]>> {
        classes.iter().map(|it| Some(if *it == class { bad } else { good })).collect()
    };
    let text = |class: &str, bad: &'static str, good: &'static str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            classes.iter().map(|it| if *it == class { bad } else { good }),
        ))
    };
    let mut contents = pick("nul_byte", b"a\0b", b"text");
    let invalid = classes.iter().position(|it| *it == "invalid_utf8").expect("a row");
    contents[invalid] = Some(b"a\xff\xfe");
    let channels = classes.iter().map(|it| match *it {
        "null" => None,
        "integer_out_of_range" => Some(1 << 63),
        _ => Some(7),
    });
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("channel_id", Arc::new(UInt64Array::from_iter(channels))),
        ("user_id", Arc::new(UInt64Array::from(vec![1; classes.len()]))),
        ("content", Arc::new(BinaryArray::from_iter(contents))),
        ("embedding", Arc::new(embeddings.finish())),
        ("metadata", text("json", "{\"a\": \"\\ud800\"}", "{}")),
        ("uid", text("value", "no uuid", "4b4c1a2e-0000-4000-8000-0123456789ab")),
    ];
    let path = dir.path().join("bad.parquet");
    write_parquet(&path, columns, 100);
    load_into(&db, &path).with("--max-rejects", "all").run().exits(3).rows(1, 12, 0);
    let query = format!("select row, class from {LEDGER}.rejects order by row");
    let found: Vec<(i64, String)> = db.rows(&query, &[]).iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted: Vec<(i64, String)> = (0..).zip(classes[..12].iter().map(|class| class.to_string())).collect();
    assert_eq!(found, wanted);

    let raw = dir.path().join("raw.parquet");
    let bytes: [&[u8]; 2] = [&[0; 7], &[0; 8]];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("channel_id", Arc::new(UInt64Array::from(vec![1, 2]))),
        ("user_id", Arc::new(UInt64Array::from(vec![1, 2]))),
        ("content", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("embedding", Arc::new(BinaryArray::from_iter_values(bytes))),
    ];
    write_parquet(&raw, columns, 100);
    let told = load_into(&db, &raw).with("--max-rejects", "all").run().exits(3).rows(1, 1, 0);
    assert_eq!(told.report["zero_vectors"], 1);
    assert_eq!(db.count(&format!("{LEDGER}.rejects where class = 'embedding_unreadable'")), 1);
}

#[test]
fn rejects_are_the_same_for_any_lanes_memory_and_writers() {
    let dir = tempfile::tempdir().expect("a directory");
    let bad: Vec<u64> = (0..20_000).filter(|row| super::rows::hash(*row, 77).is_multiple_of(91)).collect();
    let rows = Rows::new(20_000, 64).group(3_000).bad(bad.clone());
    let path = rows.write(dir.path(), "rows.parquet");
    let db = Db::new();
    let mut all = Vec::new();
    for (table, lanes, writers, memory) in
        [("one", 1, 1, "512MiB"), ("four", 4, 3, "64MiB"), ("nine", 9, 8, "32MiB")]
    {
        db.table(table, 64);
        let load = load_into(&db, &path).table(table).with("--max-rejects", "all").with("--lanes", lanes);
        let load = load.with("--writers", writers).with("--memory", memory).run().exits(3);
        let query = format!(
            "select concat_ws('|', unit, row, column_name, class, reason, excerpt) from {LEDGER}.rejects
             where load_id = {} order by unit, row",
            load.load()
        );
        all.push(db.column::<String>(&query));
        Rows::are_all_in(&[&rows], &db, table);
    }
    assert_eq!(all[0].len(), bad.len());
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}
