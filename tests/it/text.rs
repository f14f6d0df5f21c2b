//! CSV and JSON Lines: whatever they are written like, the rows in the table are those of the source.

use std::path::PathBuf;

use super::program::{Load, Vecload, vecload};
use super::rows::Rows;
use super::server::Db;
use super::texts::{NAMES, Packing, Style, file, piped, wrote_all};

/// An embedding `[1,2]` written another way.
type Form = fn(&str) -> String;

struct Case {
    db: Db,
    dir: tempfile::TempDir,
}

fn case() -> Case {
    let db = Db::new();
    db.table("chunks", 8);
    Case { db, dir: tempfile::tempdir().expect("a directory") }
}

impl Case {
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        file(self.dir.path(), name, bytes)
    }

    fn load(&self, path: impl AsRef<std::ffi::OsStr>) -> Vecload {
        Load::of(path).into(&self.db).with("--index", "none")
    }

    /// All rows of the table as text, the fields between bars.
    fn shown(&self, what: &str) -> Vec<String> {
        self.db.column(&format!("select {what} from chunks order by 1"))
    }
}

#[test]
fn rows_are_those_of_the_file_however_it_is_written_and_packed() {
    let case = case();
    let rows = Rows::new(3_000, 8).tricky();
    let marked = Style { mark: true, line_end: "\r\n", ends_in_line_end: false, ..Style::CSV };
    let delimited = |delimiter| Style { delimiter: Some(delimiter), ..Style::CSV };
    let styles = [
        ("comma.csv", Style::CSV),
        ("marked.csv", marked),
        ("semicolon.csv", delimited(';')),
        ("tab.tsv", Style { line_end: "\r\n", ..delimited('\t') }),
        ("bar.csv", Style { escapes_all: true, ..delimited('|') }),
        ("lines.jsonl", Style::JSONL),
        ("marked.ndjson", Style { mark: true, line_end: "\r\n", ends_in_line_end: false, ..Style::JSONL }),
        ("escaped.jsonl", Style { escapes_all: true, line_end: " \n\n", ..Style::JSONL }),
    ];
    // Members and frames end in the middle of records, and of characters.
    let packings = [Packing::Plain, Packing::Gzip(usize::MAX), Packing::Gzip(99_991), Packing::Zstd(77_777)];
    for (name, style) in styles {
        let plain = style.bytes(&rows);
        for (number, packing) in packings.into_iter().enumerate() {
            let path = case.file(&format!("{number}_{name}{}", packing.ending()), packing.pack(&plain));
            let loaded = case.load(&path).with("--lanes", 1 + number).run().exits(0).state("complete");
            loaded.rows(3_000, 0, 0);
            Rows::are_all_in(&[&rows], &case.db, "chunks");
            case.load(&path).run().exits(0).state("already_loaded").rows(0, 0, 3_000);
            case.db.run("delete from chunks");
        }
    }
}

#[test]
fn rows_are_those_of_a_pipe_however_they_are_written_and_packed() {
    let case = case();
    let rows = Rows::new(2_000, 8).tricky();
    let styles = [Style::CSV, Style { delimiter: Some(';'), mark: true, ..Style::CSV }, Style::JSONL];
    for (number, style) in styles.into_iter().enumerate() {
        for packing in [Packing::Plain, Packing::Gzip(50_000), Packing::Zstd(usize::MAX)] {
            let name = format!("{number} {packing:?}");
            let load = || piped(case.load("-").with("--name", &name), packing.pack(&style.bytes(&rows)));
            let (first, producer) = load();
            first.run().exits(0).state("complete").rows(2_000, 0, 0).never_says("warning");
            assert!(wrote_all(producer));
            Rows::are_all_in(&[&rows], &case.db, "chunks");
            let (again, producer) = load();
            again.run().exits(0).state("already_loaded").rows(0, 0, 2_000);
            assert!(wrote_all(producer), "it reads a stream to its end");
            case.db.run("delete from chunks");
        }
    }
}

#[test]
fn many_files_of_all_formats_go_in_by_one_command() {
    let case = case();
    let parts: Vec<Rows> =
        (0..6).map(|part: u64| Rows::new(500 + part * 70, 8).from(part * 10_000).tricky()).collect();
    let below = case.dir.path().join("below");
    std::fs::create_dir(&below).expect("make a directory");
    case.file("a.csv", Style::CSV.bytes(&parts[0]));
    case.file(
        "b.tsv.gz",
        Packing::Gzip(9_999).pack(&Style { delimiter: Some('\t'), ..Style::CSV }.bytes(&parts[1])),
    );
    case.file("c.jsonl.zst", Packing::Zstd(9_999).pack(&Style::JSONL.bytes(&parts[2])));
    case.file("below/d.ndjson", Style::JSONL.bytes(&parts[3]));
    parts[4].write(&below, "e.parquet");
    case.file("notes.txt", "not for us");
    let all: Vec<&Rows> = parts.iter().take(5).collect();
    let rows = all.iter().map(|part| part.count()).sum();
    case.load(case.dir.path()).run().exits(0).state("complete").rows(rows, 0, 0);
    Rows::are_all_in(&all, &case.db, "chunks");
    case.file("below/f.csv", Style { delimiter: Some('|'), ..Style::CSV }.bytes(&parts[5]));
    let more = case.load(case.dir.path()).run().exits(0).state("complete");
    more.rows(parts[5].count(), 0, rows);
    Rows::are_all_in(&parts.iter().collect::<Vec<_>>(), &case.db, "chunks");
    // The name tells nothing, the content does.
    let named = Rows::new(100, 8).from(900_000);
    let lines = case.file("lines.data", Style::JSONL.bytes(&named));
    case.load(&lines).run().exits(0).rows(100, 0, 0);
    case.load(case.dir.path()).with("--format", "csv").run().exits(0).state("already_loaded");
}

#[test]
fn columns_without_a_header_are_mapped_by_position() {
    let case = case();
    let rows = Rows::new(700, 8).tricky();
    let path = case.file("rows.csv", Style { header: false, ..Style::CSV }.bytes(&rows));
    case.load(&path).run().exits(2).says("rows.csv").says("--no-header");
    let mapped = |names: &[&str]| {
        let pairs = names.iter().zip(1..).map(|(name, position)| format!("{name}={position}"));
        pairs.fold(case.load(&path).arg("--no-header"), |load, pair| load.with("--map", pair))
    };
    mapped(&[]).run().exits(2).says("rows.csv").says("1, 2, 3, 4, 5").says("--map");
    mapped(&NAMES).run().exits(0).rows(700, 0, 0);
    Rows::are_all_in(&[&rows], &case.db, "chunks");
    mapped(&NAMES).run().exits(0).state("already_loaded");
    mapped(&["user_id", "channel_id", "content", "embedding"]).run().exits(2).says("recipe");
    // A header that is read as data is one bad row.
    let headed = case.file("headed.csv", Style::CSV.bytes(&rows));
    let load = NAMES
        .iter()
        .zip(1..)
        .fold(case.load(&headed), |load, (name, position)| load.with("--map", format!("{name}={position}")));
    load.arg("--no-header").with("--max-rejects", "all").run().exits(3).rows(700, 1, 0);
}

#[test]
fn empty_fields_and_the_null_text_are_told_apart() {
    let case = case();
    case.db.run(
        "drop table chunks; create table chunks (id bigserial, k int, content text, v varchar(9), n int, x float8,
             at timestamptz, j jsonb, b bytea, embedding vector(2))",
    );
    let csv = "k,content,v,n,x,at,j,b,embedding\n\
               1,,,,,,,,\"[1,2]\"\n\
               2,NA,NA,NA,NA,NA,NA,NA,\"[1,2]\"\n\
               3,\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"[1,2]\"\n\
               4, , ,7,1.5,2020-01-02T03:04:05Z,{},,\"[1,2]\"\n";
    let path = case.file("nulls.csv", csv);
    let shown = "concat_ws('|', k, coalesce(content, '~'), coalesce(v, '~'), coalesce(n::text, '~'),
        coalesce(x::text, '~'), coalesce(at::text, '~'), coalesce(j::text, '~'), coalesce(b::text, '~'))";
    let fourth = "4| | |7|1.5|2020-01-02 03:04:05+00|{}|";
    let told = case.load(&path).with("--max-rejects", 1).run().exits(3).rows(3, 1, 0);
    let empty = |k: i32| format!("{k}|||~|~|~|~|~");
    assert_eq!(case.shown(shown), [empty(1), empty(3), format!("{fourth}~")], "{told}");
    // With --null only that text is null, and an empty field is what it is.
    case.db.run("delete from chunks");
    let told = case.load(&path).with("--null", "NA").arg("--again").with("--max-rejects", "all").run();
    let told = told.exits(3).rows(2, 2, 0);
    assert_eq!(case.shown(shown), ["2|~|~|~|~|~|~|~".into(), format!("{fourth}\\x")], "{told}");
    case.db.run("delete from chunks");
    let told = case.load(&path).arg("--null=").arg("--again").with("--max-rejects", "all").run();
    let told = told.exits(3).rows(3, 1, 0);
    let null = |k: i32| format!("{k}|~|~|~|~|~|~|~");
    assert_eq!(case.shown(shown), [null(1), null(3), format!("{fourth}~")], "{told}");
}

#[test]
fn an_embedding_that_is_null_or_empty_is_a_reject() {
    let case = case();
    case.db.run("drop table chunks; create table chunks (k int, embedding vector(2))");
    let csv =
        case.file("a.csv", "k,embedding\n1,\n2,NULL\n3,[]\n4,\"[1,2]\"\n5,\"[ 1 , 2e0 ]\"\n6,\"[1,2,3]\"\n");
    case.load(&csv).with("--max-rejects", "all").run().exits(3).rows(2, 4, 0);
    let null = case.load(&csv).with("--null", "NULL").arg("--again").with("--max-rejects", "all").run();
    let load = null.exits(3).rows(2, 4, 0).load();
    let told = vecload(["loads", "rejects", &load.to_string(), "--json"]).into(&case.db).run().exits(0);
    let classes: Vec<_> = told.report["rejects"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|reject| reject["class"].as_str())
        .collect();
    let wanted = ["embedding_unreadable", "embedding_null", "dimension", "dimension"];
    assert_eq!(classes, wanted.map(Some), "{told}");
}

#[test]
fn embeddings_are_the_same_in_every_form_bit_for_bit() {
    let case = case();
    let rows = Rows::new(1_000, 8).tricky();
    let forms: [(&str, Form); 6] = [
        ("json", |text| text.replace(',', ", ")),
        ("array", |text| text.replace('[', "{").replace(']', "}")),
        ("list", |text| text.replace(['[', ']'], "").replace(',', ";")),
        ("wide", |text| format!(" \t{} ", text.replace(',', " , "))),
        ("exponents", |text| {
            let inner = text.trim_matches(['[', ']']);
            let element = |text: &str| format!("{:E}", text.parse::<f32>().expect("a float"));
            format!("[{}]", inner.split(',').map(element).collect::<Vec<_>>().join(","))
        }),
        ("doubles", |text| {
            let inner = text.trim_matches(['[', ']']);
            let element = |text: &str| format!("{:.60}", f64::from(text.parse::<f32>().expect("a float")));
            format!("{{{}}}", inner.split(',').map(element).collect::<Vec<_>>().join(","))
        }),
    ];
    for (name, form) in forms {
        for delimiter in [b',', b';', b'\t'] {
            let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
            writer.write_record(NAMES).expect("write");
            for mut row in rows.texts() {
                row[3] = form(&row[3]);
                writer.write_record(&row).expect("write");
            }
            let path = case.file(&format!("{name}_{delimiter}.csv"), writer.into_inner().expect("bytes"));
            case.load(&path).run().exits(0).rows(1_000, 0, 0);
            Rows::are_all_in(&[&rows], &case.db, "chunks");
            case.db.run("delete from chunks");
        }
    }
}

#[test]
fn a_delimiter_that_is_given_is_believed() {
    let case = case();
    case.db.run("drop table chunks; create table chunks (a text, b text, embedding vector(2))");
    let odd = case.file("odd.csv", "a^b^embedding\n1,5^x;y^[1,2]\n");
    case.load(&odd).with("--delimiter", "^").run().exits(0).rows(1, 0, 0);
    let tab = case.file("tab.csv", "a\tb\tembedding\n1,5\tx;y\t[1,2]\n");
    case.load(&tab).with("--delimiter", "tab").run().exits(0).rows(1, 0, 0);
    let more = case.file("more.csv", "a\tb\tembedding\n1,5 \tx;y\t[1,2]\n");
    case.load(&more).with("--delimiter", "\\t").run().exits(0).rows(1, 0, 0);
    assert_eq!(case.shown("a || '/' || b"), ["1,5 /x;y", "1,5/x;y", "1,5/x;y"]);
    for wrong in ["", ",,", "ü", "\"", "\n"] {
        case.load(&odd).arg(format!("--delimiter={wrong}")).run().exits(2).says("--delimiter");
    }
    // Read by another delimiter there is no column for the embedding.
    case.load(&odd).with("--delimiter", ";").arg("--again").run().exits(2).says("odd.csv").says("embedding");
}

#[test]
fn a_delimiter_is_guessed_though_embeddings_hold_commas() {
    let case = case();
    case.db.run("drop table chunks; create table chunks (a text, embedding vector(3))");
    for (name, delimiter) in [("semicolon", ';'), ("tab", '\t'), ("bar", '|')] {
        let body: String = (0..50).map(|row| format!("text {row}{delimiter}[1,2,3]\n")).collect();
        let headed = case.file(&format!("{name}.csv"), format!("a{delimiter}embedding\n{body}"));
        case.load(&headed).run().exits(0).rows(50, 0, 0);
        let bare = case.file(&format!("{name}_bare.csv"), body);
        let load = case.load(&bare).arg("--no-header").with("--map", "a=1").with("--map", "embedding=2");
        load.run().exits(0).rows(50, 0, 0);
    }
    assert_eq!(case.db.count("chunks where a like 'text %' and embedding = '[1,2,3]'"), 300);
}

#[test]
fn a_limit_counts_records_in_the_order_of_the_source() {
    let case = case();
    let rows = Rows::new(5_000, 8).tricky();
    for (name, style) in [("rows.csv", Style::CSV), ("rows.jsonl", Style::JSONL)] {
        let path = case.file(name, style.bytes(&rows));
        let load = |limit: u64| case.load(&path).with("--limit", limit).with("--lanes", 3);
        load(1_234).run().exits(0).state("limited").rows(1_234, 0, 0);
        Rows::are_all_in(&[&Rows::new(1_234, 8).tricky()], &case.db, "chunks");
        load(1_234).run().exits(0).state("limited").rows(0, 0, 1_234);
        load(2_000).with("--writers", 3).run().exits(0).state("limited").rows(766, 0, 1_234);
        case.load(&path).run().exits(0).state("complete").rows(3_000, 0, 2_000);
        load(100).run().exits(0).state("already_loaded");
        Rows::are_all_in(&[&rows], &case.db, "chunks");
        case.db.run("delete from chunks");
    }
    // As many as there are is all.
    let path = case.file("other.csv", Style::CSV.bytes(&Rows::new(10, 8)));
    case.load(&path).with("--limit", 10).run().exits(0).state("complete").rows(10, 0, 0);
}

#[test]
fn another_recipe_of_text_is_refused() {
    let case = case();
    let path = case.file("rows.csv", Style::CSV.bytes(&Rows::new(300, 8)));
    case.load(&path).with("--limit", 100).run().exits(0);
    case.load(&path).with("--null", "none").run().exits(2).says("rows.csv").says("recipe").says("none");
    case.load(&path).run().exits(0).state("complete").rows(200, 0, 100);
    case.load(&path).with("--null", "none").run().exits(2).says("rows.csv").says("recipe").says("--again");
    // A delimiter that is given and one that is guessed are the same.
    case.load(&path).with("--delimiter", ",").run().exits(0).state("already_loaded");
    // By both delimiters this has a column for the embedding.
    case.db.run("create table words (a text, embedding vector(1))");
    let both = case.file("both.csv", "a;x,embedding\n1;[2],[3]\n".replace("a;x", "a;embedding;x"));
    let both = |delimiter| case.load(&both).table("words").with("--delimiter", delimiter);
    both(",").run().exits(0).rows(1, 0, 0);
    both(";").run().exits(2).says("both.csv").says("recipe").says(";");
}

#[test]
fn a_missing_table_gets_the_dimension_of_the_text() {
    let case = case();
    for (name, style) in [("rows.csv", Style::CSV), ("rows.jsonl", Style::JSONL)] {
        case.db.run("drop table chunks; drop sequence chunks_id_seq");
        let path = case.file(name, style.bytes(&Rows::new(50, 8)));
        case.load(&path).run().exits(2).says("--create");
        case.load(&path).arg("--create").run().exits(0).rows(50, 0, 0);
        Rows::are_all_in(&[&Rows::new(50, 8)], &case.db, "chunks");
    }
    let wrong = case.file("wrong.csv", Style::CSV.bytes(&Rows::new(50, 9)));
    case.load(&wrong).run().exits(2).says("wrong.csv").says("9 dimensions").says("vector(8)");
}
