//! JSON Lines: what each kind of value becomes, which lines are rejects, and what is no JSON Lines at all.

use std::path::PathBuf;

use super::program::{Load, Outcome, Vecload, vecload};
use super::rows::{Rows, hash};
use super::server::Db;
use super::texts::{Style, file};

struct Case {
    db: Db,
    dir: tempfile::TempDir,
}

fn case(columns: &str) -> Case {
    let db = Db::new();
    db.run(&format!("create table chunks ({columns}, embedding vector(2))"));
    Case { db, dir: tempfile::tempdir().expect("a directory") }
}

impl Case {
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        file(self.dir.path(), name, bytes)
    }

    fn load(&self, path: &PathBuf) -> Vecload {
        let load = Load::of(path).into(&self.db).with("--index", "none");
        load.with("--max-rejects", "all")
    }

    /// Line, class and column of each reject.
    fn rejects(&self, loaded: &Outcome) -> Vec<String> {
        let number = loaded.load().to_string();
        let told = vecload(["loads", "rejects", &number, "--json"]).into(&self.db).run().exits(0);
        let text =
            |reject: &serde_json::Value, key: &str| reject[key].as_str().unwrap_or_default().to_string();
        let rejects = told.report["rejects"].as_array().cloned().unwrap_or_default();
        let shown = rejects
            .iter()
            .map(|reject| format!("{} {} {}", reject["line"], text(reject, "class"), text(reject, "column")));
        shown.map(|line| line.trim_end().to_string()).collect()
    }
}

#[test]
fn values_become_what_the_column_is() {
    let case = case("k int, content text, j jsonb, n float8, big numeric, flag bool, u uuid, at timestamptz");
    let path = case.file(
        "values.jsonl",
        r#"{"k":1,"content":"a","j":{"a":[{"b":null}],"é":"\u00e9"},"n":1.5,"big":9012.5,"flag":true,"embedding":[1,2]}
{"k":2,"embedding":[1,2]}
{"embedding":[1,2e0],"flag":null,"n":null,"j":null,"content":null,"k":3}
{ "k" : 4 , "content":"","j": [ ] ,"n":-1e-3 , "big": 1E5 ,"flag":false, "embedding" : [ 1 , 2 ] }
{"k":"5","content":12.50,"j":7,"n":"2.5","u":"4B4C1A2E00004000800001234567890b","at":"2020-01-02","embedding":"[1, 2]"}
{"k":6,"content":{"x": [1,  2]},"j":true,"embedding":[1,2]}
{"\u006b":7,"cont\u0065nt":"tab\tquote\" \ud83e\udd80 \\ \/ \u00e9\r\n","extra":{"k":9},"embedding":[1,2]}
"#,
    );
    case.load(&path).run().exits(0).rows(7, 0, 0);
    let shown: Vec<String> = case.db.column(
        "select concat_ws('|', k, content, coalesce(j::text, '~'), n, big, flag, u, at) from chunks order by k",
    );
    let wanted = [
        "1|a|{\"a\": [{\"b\": null}], \"é\": \"é\"}|1.5|9012.5|t",
        "2|~",
        "3|~",
        "4||[]|-0.001|100000|f",
        "5|12.50|7|2.5|4b4c1a2e-0000-4000-8000-01234567890b|2020-01-02 00:00:00+00",
        "6|{\"x\": [1,  2]}|true",
        "7|tab\tquote\" 🦀 \\ / é\r\n|~",
    ];
    assert_eq!(shown, wanted);
    assert_eq!(case.db.count("chunks where embedding = '[1,2]'"), 7);
}

#[test]
fn a_line_that_is_no_row_is_a_reject_and_its_line_is_told() {
    let case = case("k int not null, content text, j jsonb");
    let lines: [(&[u8], &str); 24] = [
        (b"{\"k\":1,\"content\":\"good\",\"j\":{},\"embedding\":[1,2]}", ""),
        (b"[1,2]", "malformed_record"),
        (b"5", "malformed_record"),
        (b"\"text\"", "malformed_record"),
        (b"null", "malformed_record"),
        (b"{\"k\":1,\"embedding\":[1,2]", "malformed_record"),
        (b"{\"k\":1,\"embedding\":[1,2]}}", "malformed_record"),
        (b"{\"k\":1,\"embedding\":[1,2]} {\"k\":2,\"embedding\":[1,2]}", "malformed_record"),
        (b"{'k':1}", "malformed_record"),
        (b"{\"k\":1,\"embedding\":[NaN,2]}", "malformed_record"),
        (b"{\"k\":1,\"content\":\"raw \x01\",\"embedding\":[1,2]}", "malformed_record"),
        (b"{\"k\":1,\"content\":\"\xff\",\"embedding\":[1,2]}", "invalid_utf8"),
        (b"{\"k\":1,\"k\":2,\"embedding\":[1,2]}", "malformed_record"),
        (b"{\"k\":1,\"embedding\":[1,2],\"embedding\":[1,2]}", "malformed_record"),
        (b"{\"content\":\"x\",\"embedding\":[1,2]}", "null k"),
        (b"{}", "embedding_null embedding"),
        (b"{\"k\":1,\"embedding\":[1,null]}", "embedding_element_null embedding"),
        (b"{\"k\":1,\"embedding\":[1,2,3]}", "dimension embedding"),
        (b"{\"k\":1,\"embedding\":[1,1e40]}", "element_out_of_range embedding"),
        (b"{\"k\":1,\"embedding\":[1,[2]]}", "embedding_unreadable embedding"),
        (b"{\"k\":1,\"embedding\":{\"0\":1,\"1\":2}}", "embedding_unreadable embedding"),
        (b"{\"k\":1,\"content\":\"a\\u0000b\",\"embedding\":[1,2]}", "nul_byte content"),
        (b"{\"k\":1,\"j\":{\"a\":\"\\u0000\"},\"embedding\":[1,2]}", "json j"),
        (b"{\"k\":3000000000,\"embedding\":[1,2]}", "integer_out_of_range k"),
    ];
    let mut bytes = Vec::new();
    let mut wanted = Vec::new();
    for (number, (line, class)) in (0..).zip(&lines) {
        bytes.extend_from_slice(line);
        // A line without anything is none, and counts.
        bytes.extend_from_slice(b"\n \n");
        if !class.is_empty() {
            let line: i32 = 2 * number + 1;
            wanted.push(format!("{line} {class}"));
        }
    }
    let path = case.file("bad.jsonl", bytes);
    let told = case.load(&path).run().exits(3).rows(1, 23, 0);
    let found = case.rejects(&told);
    // Of several faults in one row any may be told.
    let found: Vec<String> =
        found.into_iter().map(|line| line.replace("31 null k", "31 embedding_null embedding")).collect();
    assert_eq!(found, wanted, "{told}");
}

#[test]
fn a_string_that_is_no_text_names_its_column() {
    let case = case("k int, content text");
    let path = case.file(
        "surrogates.jsonl",
        "{\"k\":1,\"content\":\"a\\ud800\",\"embedding\":[1,2]}\n\
         {\"k\":2,\"content\":\"\\udc00 \\ud800\",\"embedding\":[1,2]}\n",
    );
    let told = case.load(&path).run().exits(3).rows(0, 2, 0);
    let number = told.load().to_string();
    let list = vecload(["loads", "rejects", &number]).into(&case.db).run().exits(0);
    let list = list.answers("content");
    // A byte that is told is that of the line.
    assert!(!list.stdout.contains("byte 9 of the line"), "{list}");
}

#[test]
fn a_key_that_comes_late_is_a_reject_unless_it_is_named() {
    let case = case("k int, content text, note text");
    let mut lines: Vec<String> = (0..6_000)
        .map(|k| format!("{{\"k\":{k},\"content\":\"text {:x}\",\"embedding\":[1,2]}}\n", hash(k, 9)))
        .collect();
    lines.insert(5_000, "{\"k\":-1,\"note\":\"late\",\"embedding\":[1,2]}\n".into());
    lines.insert(5_500, "{\"k\":-2,\"note\":null,\"other\":1,\"embedding\":[1,2]}\n".into());
    let path = case.file("late.jsonl", lines.concat());
    let told = case.load(&path).run().exits(3).rows(6_001, 1, 0);
    assert_eq!(case.rejects(&told), ["5001 malformed_record"]);
    let number = told.load().to_string();
    let list = vecload(["loads", "rejects", &number]).into(&case.db).run().exits(0);
    list.answers("--map note=note");
    case.db.run("delete from chunks");
    let load = || case.load(&path).with("--map", "note=note");
    load().run().exits(2).says("recipe");
    load().arg("--again").run().exits(0).rows(6_002, 0, 0);
    assert_eq!(case.db.column::<i32>("select k from chunks where note = 'late'"), [-1]);
    // In the first lines it need not be in the first.
    let early = case.file("early.jsonl", lines[4_990..5_010].concat());
    case.load(&early).run().exits(0).rows(20, 0, 0);
}

#[test]
fn keys_are_known_though_the_first_lines_are_long() {
    let case = case("k int, content text, note text");
    // A line takes what many sources take for one: 1,536 dimensions and a page of text.
    let text = "long ".repeat(10_000);
    let line =
        |k: i32, rest: &str| format!("{{\"k\":{k},\"content\":\"{text}\",\"embedding\":[1,2]{rest}}}\n");
    let lines: String = (0..10).map(|k| line(k, if k == 6 { ",\"note\":\"n\"" } else { "" })).collect();
    let path = case.file("long.jsonl", lines);
    case.load(&path).run().exits(0).rows(10, 0, 0);
}

#[test]
fn a_deep_or_huge_value_is_a_reject_not_a_crash() {
    let case = case("k int, j jsonb");
    let deep = "[".repeat(300_000) + &"]".repeat(300_000);
    let number = format!("1e{}", 200_000);
    let lines = [
        "{\"k\":1,\"j\":1,\"embedding\":[1,2]}".to_string(),
        format!("{{\"k\":2,\"j\":{deep},\"embedding\":[1,2]}}"),
        format!("{{\"k\":3,\"j\":{number},\"embedding\":[1,2]}}"),
        format!("{{\"k\":4,\"embedding\":{deep}}}"),
        format!("{{\"k\":5,\"ignored\":{deep},\"embedding\":[1,2]}}"),
        format!("{{\"k\":6,\"j\":\"{}\",\"embedding\":[1,2]}}", "x".repeat(1 << 20)),
        format!("{{\"k\":7,\"j\":{{\"{}\":1}},\"embedding\":[1,2]}}", "x".repeat(1 << 20)),
    ];
    let path = case.file("deep.jsonl", lines.join("\n"));
    let told = case
        .load(&path)
        .with("--memory", "64MiB")
        .at_most_memory(300 << 20)
        .within_seconds(30)
        .run()
        .exits(3);
    let rejects = case.rejects(&told);
    for wanted in ["2 json j", "3 json j", "4 embedding_unreadable embedding"] {
        assert!(rejects.iter().any(|line| line == wanted), "{wanted}: {rejects:?}{told}");
    }
    assert!(case.db.column::<i32>("select k from chunks order by k").starts_with(&[1, 5]));
}

#[test]
fn what_is_no_json_lines_is_refused_with_the_way_to_convert_it() {
    let case = case("k int");
    let refused = |name: &str, text: &str, words: &[&str]| {
        let mut told = case.load(&case.file(name, text)).run().exits(2).says(name);
        for word in words {
            told = told.says(word);
        }
    };
    let pretty = "{\n  \"k\": 1,\n  \"embedding\": [1, 2]\n}\n";
    refused("array.jsonl", "[\n{\"k\":1,\"embedding\":[1,2]}\n]\n", &["JSON array", "jq -c"]);
    refused("array.data", "[{\"k\":1,\"embedding\":[1,2]}]", &["JSON array", "jq -c"]);
    refused("pretty.jsonl", pretty, &["jq -c"]);
    refused("csv.jsonl", "k,embedding\n1,\"[1,2]\"\n", &["JSON object"]);
    refused("empty.jsonl", "{}\n{}\n", &["object"]);
    refused("other.jsonl", "{\"k\":1,\"vec\":[1,2]}\n", &["embedding", "k, vec", "--map"]);
    for option in ["--delimiter=;", "--null=x", "--no-header"] {
        let path = case.file("rows.jsonl", "{\"k\":1,\"embedding\":[1,2]}\n");
        case.load(&path).arg(option).run().exits(2).says(option.split('=').next().unwrap_or_default());
    }
}

#[test]
fn the_format_that_is_given_is_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let rows = Rows::new(100, 8);
    let lines = file(dir.path(), "lines.csv", Style::JSONL.bytes(&rows));
    let csv = file(dir.path(), "csv.jsonl", Style::CSV.bytes(&rows));
    let load = |path: &PathBuf, format: &str| Load::of(path).into(&db).with("--format", format).run();
    load(&lines, "jsonl").exits(0).rows(100, 0, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
    load(&csv, "csv").exits(0).rows(100, 0, 0);
    Rows::are_all_in(&[&rows, &rows], &db, "chunks");
    load(&csv, "parquet").exits(2).says("csv.jsonl");
}
