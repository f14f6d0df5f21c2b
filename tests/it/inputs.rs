//! Text of CSV into every target type against the server's own input: what vecload takes, the server takes too,
//! and both have the same bytes for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::{DataType, Field};
use vecload::batch::convert::Converter;
use vecload::batch::text::TextForm;
use vecload::copy::{HEADER, TRAILER};
use vecload::postgres::types::TargetType;

use super::floats::Random;
use super::server::Db;

/// Inserts texts as literals of the column's type; those that are refused are left out.
const FILL: &str = "
create function fill_texts(target regclass, texts text[]) returns void language plpgsql as $f$
begin
    for i in 1..cardinality(texts) loop
        begin
            execute format('insert into %s values (%s, %L)', target, i - 1, texts[i]);
        exception when others then
            null;
        end;
    end loop;
end $f$";

/// Texts made from the written ones of each type.
const MADE: usize = 3_000;

#[test]
fn booleans_and_integers_in_text_are_the_servers() {
    let server = Server::new();
    server.agrees(
        "boolean",
        &TargetType::Bool,
        "truefalsynof01 \t",
        &[
            "t", "TRUE", "tr", "yes", "y", "oN", "1", "f", "false", "NO", "n", "of", "off", "0", " true ",
            "\tno\n", "fal",
        ],
    );
    let integers = [
        "0",
        "-0",
        "+7",
        " 42 ",
        "\t-12\u{b}",
        "0x1F",
        "-0XfF",
        "0o17",
        "0b101",
        "1_000",
        "0x_7f",
        "1_2_3",
        "32767",
        "-32768",
        "007",
        "0b_1",
        "-0x8000",
    ];
    let ends = ["2147483647", "-2147483648", "0x7fffffff", "2_147_483_647"];
    let far = ["9223372036854775807", "-9223372036854775808", "0x7fffffffffffffff", "-0x8000000000000000"];
    let alphabet = "0123456789_-+xXobaf .";
    server.agrees("smallint", &TargetType::Int2, alphabet, &integers);
    server.agrees("integer", &TargetType::Int4, alphabet, &[&integers[..], &ends].concat());
    server.agrees("bigint", &TargetType::Int8, alphabet, &[&integers[..], &ends, &far].concat());
}

#[test]
fn floats_and_numerics_in_text_are_the_servers() {
    let server = Server::new();
    let floats = [
        "0",
        "-0",
        "1.5",
        " -2.5e-3 ",
        ".5",
        "5.",
        "+1E+2",
        "inf",
        "-Infinity",
        "NaN",
        "nan",
        "0x1.8p3",
        "1e-37",
        "16777217",
        "1e-45",
        "3.4028235e38",
        "0.1",
        "123456789.123456789",
        "1.000000059604644775390625",
        "+inf",
        "iNFINITY",
    ];
    let wide = ["1e308", "5e-324", "2.2250738585072011e-308", "9007199254740993", "1.7976931348623157e308"];
    let alphabet = "0123456789.eE-+xinfa ";
    server.agrees("real", &TargetType::Float4, alphabet, &floats);
    server.agrees("double precision", &TargetType::Float8, alphabet, &[&floats[..], &wide].concat());
    let numerics = [
        "0", "-0", "0.00", "1.50", " 12.345 ", "1e2", "-1.5E-3", "NaN", "nan", "+.5", "5.", "1_0.0_1",
        "0x1F", "-0b11", "0o_17", "9.995", "-9.985", "1e1_0", "0.000005", "00012.30", "1e+2",
    ];
    let large = [
        "Infinity",
        "-inf",
        "+INF",
        "1e131071",
        "1e-16383",
        "0xffffffffffffffffffffffffffffffff",
        "12345678901234567890.123456789",
    ];
    let alphabet = "0123456789._eE-+xobnaif ";
    server.agrees("numeric", &TargetType::Numeric(None), alphabet, &[&numerics[..], &large].concat());
    let fitting = &numerics[..14];
    server.agrees_mostly("numeric(20,2)", &TargetType::Numeric(Some((20, 2))), alphabet, &numerics);
    server.agrees_mostly("numeric(5,2)", &TargetType::Numeric(Some((5, 2))), alphabet, fitting);
    server.agrees_mostly("numeric(3,5)", &TargetType::Numeric(Some((3, 5))), alphabet, fitting);
    server.agrees_mostly("numeric(5,-2)", &TargetType::Numeric(Some((5, -2))), alphabet, fitting);
}

#[test]
fn texts_uuids_and_bytes_in_text_are_the_servers() {
    let server = Server::new();
    let texts = ["", " ", "abc", "ä", "a\\b", "\\N", "NULL", "漢字 🦀", "a'b\"c", "\t\n", "abcd "];
    let alphabet = "ab ä'\"\\\n🦀";
    server.agrees("text", &TargetType::Text, alphabet, &texts);
    server.agrees(
        "varchar(5)",
        &TargetType::Varchar(Some(5)),
        alphabet,
        &[&texts[..7], &["abcde   ", "     "]].concat(),
    );
    server.db.run("create type mood as enum ('sad', 'ok', 'very happy')");
    let labels: Arc<[String]> = ["sad", "ok", "very happy"].map(String::from).into();
    server.agrees("mood", &TargetType::Enum(labels), "sadokveryhp ", &["sad", "ok", "very happy"]);
    server.agrees(
        "uuid",
        &TargetType::Uuid,
        "0123456789abcdefA-{} ",
        &[
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ],
    );
    server.agrees(
        "bytea",
        &TargetType::Bytea,
        "\\x0123456789abcdefF \n\u{e4}",
        &[
            "",
            "\\x",
            "\\x00ff",
            "\\xDeadBeef",
            "\\x de ad\nbe\tef ",
            "abc",
            "a\\\\b",
            "\\000\\377\\101",
            "\u{e4} \n",
            "x\\001",
        ],
    );
    let json = [
        "{}",
        "null",
        " [1, -2.5e3, \"\\u00e9\\ud83d\\ude00\\\\\\\"\"] ",
        "{\"a\":{\"b\":[true,false,null]}}",
        "1e5",
        "\"x\"",
        "{\"a\":1,\"a\":2}",
        "0.10",
        "-0",
        "\t[]\r\n",
    ];
    let alphabet = "{}[]\",:0123456789.eE-+ntrufalse\\ ";
    server.agrees("json", &TargetType::Json, alphabet, &json);
    server.agrees("jsonb", &TargetType::Jsonb, alphabet, &json);
}

#[test]
fn dates_and_times_in_text_are_the_servers() {
    let server = Server::new();
    let dates = [
        "2024-01-02",
        "20240102",
        "2024-1-2",
        " 2024-02-29\n",
        "0001-01-01",
        "0044-03-15 BC",
        "4714-11-24 BC",
        "1999-12-31 AD",
        "infinity",
        "-Infinity",
        "epoch",
        "1900-02-28",
        "0005-02-29 bc",
        "0001-02-29 BC",
    ];
    let far_dates = ["5874897-12-31", "12024-06-07", "294277-01-01"];
    let times = [
        "2024-01-02 03:04:05",
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05.678+02",
        "2024-01-02 03:04",
        "2024-01-02t3:04:05z",
        "2024-01-02  03:04:05  +02:30",
        "2024-01-02 03:04:05 UTC",
        "2024-01-02 03:04:05utc",
        "2024-01-02 03:04:05-0230",
        "2024-01-02 03:04:05+02:30:15",
        "2024-12-31 24:00:00",
        "2024-12-31 23:59:60",
        "2024-01-02 00:00:00.0000005",
        "2024-01-02 00:00:00.0000015",
        "2024-01-02 00:00:00.9999995",
        "2024-12-31 23:59:59.9999999",
        "2024-01-02 00:00:00.123456789012345678",
        "20240102 03:04:05",
        "20240102T03:04:05+01",
        "0044-03-15 10:00:00 BC",
        "0044-03-15 10:00:00+02 BC",
        "2024-01-02 03:04:05+15:59:59",
        "2024-01-02 03:04:05-15:59",
        "2024-01-02 03:04:05+2",
        "2024-01-02 03:04:05 Z",
        "2024-01-02 24:00",
        "2024-01-02 24:00:00.0000001",
        "2024-01-02 03:04:05.5 AD",
        "1582-10-10 00:00:00",
        "2024-01-02 12:00:00.1",
        "2024-01-02 12:00:00.000001",
        "1969-12-31 23:59:59.999999",
    ];
    let far = ["294276-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59+01"];
    let alphabet = "0123456789-:+. TZzBCADUtc\t";
    server.agrees("date", &TargetType::Date, alphabet, &[&dates[..], &far_dates, &times].concat());
    let all = [&dates[..], &times, &far].concat();
    server.agrees("timestamp", &TargetType::Timestamp, alphabet, &all);
    server.agrees("timestamptz", &TargetType::Timestamptz, alphabet, &all);
    // The same under every order of day and month.
    for style in ["German, DMY", "SQL, MDY", "Postgres, YMD"] {
        server.db.run(&format!("set datestyle to '{style}'"));
        server.agrees("date", &TargetType::Date, alphabet, &[&dates[..], &far_dates, &times].concat());
        server.agrees("timestamptz", &TargetType::Timestamptz, alphabet, &all);
    }
    server.db.run("reset datestyle");
    server.agrees("timestamp(3)", &TargetType::Timestamp, alphabet, &all[..all.len() - 3]);
    server.agrees("timestamptz(0)", &TargetType::Timestamptz, alphabet, &all[..all.len() - 3]);
}

#[test]
fn arrays_and_vectors_in_text_are_the_servers() {
    let server = Server::new();
    server.agrees(
        "text[]",
        &TargetType::TextArray,
        "{},\"\\ abNULLnull\t\u{e4}",
        &[
            "{}",
            " { } ",
            "{a}",
            "{a,b c, d }",
            "{\"a b\",\"\",\"\\\"\\\\\"}",
            "{NULL,null,\"NULL\"}",
            "{\\n\\ull,a\\,b,a\\ }",
            "{ \"x\" , y }",
            "{\u{e4},\"🦀\"}",
            "{a\tb}",
            "{nulls}",
        ],
    );
    server.agrees(
        "bigint[]",
        &TargetType::Int8Array,
        "{},\"\\ 0123456789-_xNUL",
        &[
            "{}",
            "{1}",
            "{1, -2 ,3}",
            "{NULL,7}",
            "{\"1\",\" 2 \"}",
            "{0x10,1_000}",
            "{9223372036854775807,-9223372036854775808}",
            "{\\1}",
        ],
    );
    let vectors = ["[1,2,3]", " [0.1, -2e-3 ,3]", "[\t1,2\n,3 ]", "[-0,0x10,.5]", "[1e-46,16777217,7e4]"];
    let alphabet = "[],0123456789.eE-+xnaif ";
    server.agrees("vector(3)", &TargetType::Vector(Some(3)), alphabet, &vectors);
    server.agrees("vector", &TargetType::Vector(None), alphabet, &[&vectors[..], &["[1]", "[1,2]"]].concat());
    server.agrees(
        "halfvec(3)",
        &TargetType::Halfvec(Some(3)),
        alphabet,
        &[&vectors[..4], &["[65504,2049,1e-8]"]].concat(),
    );
}

#[test]
fn arrays_of_floats_and_lists_with_semicolons_are_vectors() {
    let server = Server::new();
    let query = |text: &str| {
        let array = text.contains('{').then(|| text.to_string());
        array.unwrap_or_else(|| format!("{{{}}}", text.replace(';', ",")))
    };
    let texts = ["{1,2.5,-3e-2}", " { 1 , \"2.5\" , \\3 } ", "1;2.5;-3e-2", " 0.1 ; 2 ; 16777217 "];
    for text in texts {
        let ours = converted(&TargetType::Vector(None), TextForm::Input, &[text.to_string()]);
        let rows = server.db.rows("select vector_send($1::text::real[]::vector)", &[&query(text)]);
        assert_eq!(ours[0].as_ref().map(|field| &field[4..]), rows[0].get(0), "{text}");
    }
}

#[test]
fn json_arrays_are_arrays_of_their_texts() {
    let db = Db::new();
    let texts = [
        "[]",
        " [ ] ",
        r#"["a", "b c", "", null, "null", "NULL"]"#,
        r#"["\u00e4\n\"\\", "{x,y}", "🦀"]"#,
        "[1, -2.50, 1e3, true,false]",
        "\t[\n1\r, 2 ]",
    ];
    for text in texts {
        let ours = converted(&TargetType::TextArray, TextForm::Json, &[text.to_string()]);
        let query = "select array_send(array(select json_array_elements_text($1::text::json)))";
        assert_eq!(ours[0].as_ref().map(|field| &field[4..]), db.rows(query, &[&text])[0].get(0), "{text}");
    }
}

/// Whether a text may have a number that servers before PostgreSQL 16 refuse.
fn needs_16(text: &str) -> bool {
    let text = text.to_lowercase().replace(['\\', '"'], "");
    ["_", "0x", "0o", "0b"].iter().any(|mark| text.contains(mark))
}

/// Fields as COPY sends them, nothing where vecload rejects.
fn converted(target: &TargetType, form: TextForm, texts: &[String]) -> Vec<Option<Vec<u8>>> {
    let converter = Converter::bind(&Field::new("v", DataType::Binary, true), form, target);
    let converter = converter.expect("a way from text");
    let array: ArrayRef = Arc::new(BinaryArray::from_iter_values(texts.iter().map(String::as_bytes)));
    let mut rejects = Vec::new();
    let cells = converter.convert(&array, &mut rejects).expect("no bug");
    let mut fields: Vec<Option<Vec<u8>>> = vec![None; texts.len()];
    for (row, field) in fields.iter_mut().enumerate() {
        if !rejects.iter().any(|reject| reject.0 == row) {
            cells.put(row, field.insert(Vec::new()));
        }
    }
    fields
}

/// A server that is asked.
struct Server {
    db: Db,
    tables: std::cell::Cell<u32>,
    /// Underscores between digits and other bases than ten came with PostgreSQL 16.
    reads_decimal_alone: bool,
}

impl Server {
    fn new() -> Self {
        let db = Db::new();
        db.run(FILL);
        let reads_decimal_alone = db.one("select current_setting('server_version_num')::integer < 160000");
        Self { db, tables: 0.into(), reads_decimal_alone }
    }

    /// All the written texts are taken, and of them and of what is made from them, each as the server takes it.
    #[track_caller]
    fn agrees(&self, type_sql: &str, target: &TargetType, alphabet: &str, written: &[&str]) {
        let refused = self.compare(type_sql, target, alphabet, written);
        assert!(refused.is_empty(), "{type_sql}: vecload refuses {refused:?}");
    }

    /// As [`Self::agrees`], but the server refuses some of the written texts too.
    #[track_caller]
    fn agrees_mostly(&self, type_sql: &str, target: &TargetType, alphabet: &str, written: &[&str]) {
        let refused = self.compare(type_sql, target, alphabet, written);
        assert!(refused.len() < written.len(), "{type_sql}: vecload refuses all");
    }

    /// Compares; gives the written texts that vecload refuses.
    #[track_caller]
    fn compare(&self, type_sql: &str, target: &TargetType, alphabet: &str, written: &[&str]) -> Vec<String> {
        let mut texts: Vec<String> = written.iter().map(|text| text.to_string()).collect();
        let alphabet: Vec<char> = alphabet.chars().collect();
        let mut random = Random(3);
        texts.extend((0..MADE).map(|_| changed(&mut random, written, &alphabet)));
        let ours = converted(target, TextForm::Input, &texts);

        let number = self.tables.replace(self.tables.get() + 1);
        let (loaded, truth) = (format!("loaded_{number}"), format!("truth_{number}"));
        for table in [&loaded, &truth] {
            self.db.run(&format!("create table {table} (n bigint, v {type_sql})"));
        }
        self.db.rows("select fill_texts($1::text::regclass, $2)", &[&truth, &texts]);
        let mut copy = HEADER.to_vec();
        for (row, field) in ours.iter().enumerate() {
            if let Some(field) = field {
                copy.extend([0, 2, 0, 0, 0, 8]);
                copy.extend((row as i64).to_be_bytes());
                copy.extend(field);
            }
        }
        copy.extend(TRAILER);
        self.db.copy_in(&format!("copy {loaded} from stdin (format binary)"), copy);

        let truth = self.values(&truth);
        let loaded = self.values(&loaded);
        let mut only_theirs = Vec::new();
        for (row, text) in (0..).zip(&texts) {
            match (loaded.get(&row), truth.get(&row)) {
                (Some(_), None) if self.reads_decimal_alone && needs_16(text) => {}
                (Some(found), wanted) => {
                    assert_eq!(
                        Some(found),
                        wanted,
                        "{type_sql}: {text:?}, vecload (left) and the server (right)"
                    );
                }
                (None, Some(_)) => only_theirs.push(text),
                (None, None) => {}
            }
        }
        println!(
            "{type_sql}: {} texts, {} taken by both, {} by the server alone, such as {:?}",
            texts.len(),
            loaded.len(),
            only_theirs.len(),
            only_theirs.iter().step_by(only_theirs.len() / 12 + 1).collect::<Vec<_>>()
        );
        let refused = ours.iter().zip(&texts).take(written.len()).filter(|(field, _)| field.is_none());
        refused.map(|(_, text)| text.clone()).collect()
    }

    fn values(&self, table: &str) -> BTreeMap<i64, Option<Vec<u8>>> {
        let rows = self.db.binary(&format!("select n, v from {table}"));
        let number = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("8 bytes"));
        let row =
            |mut row: Vec<Option<Vec<u8>>>| (number(row[0].as_deref().expect("a number")), row.remove(1));
        rows.into_iter().map(row).collect()
    }
}

/// One of the texts with some characters changed, added or gone, or the beginning of one and the end of another.
fn changed(random: &mut Random, written: &[&str], alphabet: &[char]) -> String {
    let any = |random: &mut Random| -> Vec<char> {
        written[random.below(written.len() as u64) as usize].chars().collect()
    };
    let mut text = any(random);
    if random.below(4) == 0 {
        let other = any(random);
        text.truncate(random.below(text.len() as u64 + 1) as usize);
        text.extend(&other[random.below(other.len() as u64 + 1) as usize..]);
    }
    for _ in 0..random.below(4) {
        let at = random.below(text.len() as u64 + 1) as usize;
        let char = alphabet[random.below(alphabet.len() as u64) as usize];
        match random.below(3) {
            0 => text.insert(at, char),
            _ if at == text.len() => {}
            1 => text[at] = char,
            _ => drop(text.remove(at)),
        }
    }
    text.into_iter().collect()
}
