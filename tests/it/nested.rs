//! JSON and arrays against the server; broken text within them; types that do not meet.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int64Array, Int64Builder, ListBuilder, StringBuilder, UInt64Builder,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::any;

use super::oracle::{Column, Oracle, quoted, some};
use super::program::Load;
use super::rows::{vectors, write_parquet};
use super::server::Db;

#[test]
fn json_is_the_servers() {
    let oracle = Oracle::new();
    let texts = [
        "{}",
        "null",
        "[1, 2.50, -0, 1e5, 1E-5]",
        "{\"b\": 1, \"a\": 2, \"b\": 3}",
        "\"\\u00e9 \\ud83e\\udd80 \\\\u0000\"",
        " {\"a\" : [ ] } ",
        "{",
        "",
        "{'a': 1}",
        "[1,]",
        "nul",
        "\"\\ud800\"",
        "\"\\u0000\"",
        "01",
        "1.",
        ".5",
        "+1",
        "1e999999",
        "\"a\tb\"",
        "{\"a\":1}}",
        "NaN",
    ];
    let nested = "[".repeat(500) + &"]".repeat(500);
    let texts: Vec<String> = texts.iter().map(|text| text.to_string()).chain([nested]).collect();
    let strategy =
        "(\\{\"[a-z\\\\\"]{0,3}\": ?(true|false|null|-?[0-9]{1,3}(\\.[0-9]{1,2})?)\\}|\\[\"\\PC{0,5}\"\\])";
    oracle.agrees("jsonb", Column::of(some(strategy, texts.clone()), |text| quoted(text)));
    oracle.agrees_where_it_accepts("json", Column::of(some(strategy, texts), |text| quoted(text)));
}

#[test]
fn arrays_are_the_servers_and_no_element_vanishes() {
    let oracle = Oracle::new();
    let edges = [vec![], vec![None], vec![Some(i64::MAX), None, Some(i64::MIN)]];
    let lists = some(vec(option::of(any::<i64>()), 0..6), edges);
    let shown = |item: &Option<i64>| item.map_or("null".into(), |item| format!("'{item}'::bigint"));
    let sql = |list: &Vec<Option<i64>>| {
        format!("array[{}]::bigint[]", list.iter().map(shown).collect::<Vec<_>>().join(","))
    };
    let mut builder = ListBuilder::new(Int64Builder::new());
    lists.iter().for_each(|list| builder.append_option(list.clone()));
    let expressions = lists.iter().map(|list| list.as_ref().map(sql)).collect();
    oracle.agrees("bigint[]", Column { values: Arc::new(builder.finish()), expressions });

    let edges =
        [vec![], vec![None], vec![Some(String::new()), Some("NULL".into()), Some("a,\"b\\{}".into())]];
    let lists = some(vec(option::of("\\PC{0,4}"), 0..5), edges);
    let shown = |item: &Option<String>| item.as_ref().map_or("null".into(), |item| quoted(item));
    let sql = |list: &Vec<Option<String>>| {
        format!("array[{}]::text[]", list.iter().map(shown).collect::<Vec<_>>().join(","))
    };
    let mut builder = ListBuilder::new(StringBuilder::new());
    lists.iter().for_each(|list| builder.append_option(list.clone()));
    let expressions = lists.iter().map(|list| list.as_ref().map(sql)).collect();
    oracle.agrees("text[]", Column { values: Arc::new(builder.finish()), expressions });

    // An element that the type can't hold rejects its row; it must not turn into a null.
    let mut builder = ListBuilder::new(UInt64Builder::new());
    let lists = [vec![Some(1)], vec![Some(1), Some(u64::MAX)], vec![None, Some(i64::MAX as u64)]];
    lists.iter().for_each(|list| builder.append_value(list.clone()));
    let expressions =
        ["array[1]", "array[1, 18446744073709551615]::bigint[]", "array[null, 9223372036854775807]"];
    let expressions = expressions.map(|sql| Some(sql.to_string())).to_vec();
    oracle.agrees("bigint[]", Column { values: Arc::new(builder.finish()), expressions });
}

#[test]
fn types_that_do_not_meet_are_refused_by_name() {
    let oracle = Oracle::new();
    let numbers = || Column::of(vec![Some(1i64)], i64::to_string);
    for type_sql in
        ["interval", "inet", "point", "int4range", "integer[]", "bit(8)", "money", "xml", "sparsevec(3)"]
    {
        oracle.is_refused(type_sql, numbers()).says("column v").says("does not write");
    }
    for type_sql in ["uuid", "date", "timestamptz", "boolean", "bytea", "text[]", "vector(3)"] {
        oracle.is_refused(type_sql, numbers()).says("\"v\"").says("does not go into");
    }
    let flags = || Column::of(vec![Some(true)], bool::to_string);
    for type_sql in ["integer", "real", "uuid", "bigint[]"] {
        oracle.is_refused(type_sql, flags()).says("\"v\"").says("does not go into");
    }
}

#[test]
fn broken_text_in_a_list_rejects_its_row() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lists.parquet");
    let db = Db::new();
    db.run("create table loaded (n bigint, embedding vector(1), v text[], j jsonb)");
    let lists = || {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for items in [["good", "ü"], ["fine", "QWZXJKVB"], ["a", "b"], ["NULL", "null"]] {
            builder.append_value(items.map(Some));
        }
        Arc::new(builder.finish()) as ArrayRef
    };
    let columns: [(&str, ArrayRef); 4] = [
        ("n", Arc::new(Int64Array::from_iter_values(0..4))),
        ("embedding", vectors(1, Float32Array::from(vec![1.0; 4]))),
        ("v", lists()),
        ("j", lists()),
    ];
    write_parquet(&path, columns, 100);
    // No library writes such text; others do.
    let mut bytes = std::fs::read(&path).expect("read");
    let places: Vec<usize> = (0..bytes.len() - 8).filter(|at| &bytes[*at..at + 8] == b"QWZXJKVB").collect();
    assert!(places.len() >= 2, "the text is in the pages as it is");
    places.iter().for_each(|at| bytes[*at..at + 8].copy_from_slice(b"\xff\xfeok\xff\xfeok"));
    std::fs::write(&path, bytes).expect("write");
    let load = Load::of(&path).into(&db).table("loaded").with("--max-rejects", "all").with("--index", "none");
    load.run().exits(3).rows(3, 1, 0);
    let found: Vec<String> = db.column("select concat_ws(' ', n, v, j) from loaded order by n");
    let wanted = [
        "0 {good,ü} [\"good\", \"ü\"]",
        "2 {a,b} [\"a\", \"b\"]",
        "3 {\"NULL\",\"null\"} [\"NULL\", \"null\"]",
    ];
    assert_eq!(found, wanted);
}
