//! Every source of `tests/corpus/manifest.json` loads as its expected rows say, bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;
use vecload::source::Place;
use vecload::source::discover::discover;
use vecload::source::parquet::ParquetFile;

use super::program::{Load, Outcome};
use super::server::{Db, LEDGER};

#[derive(Deserialize)]
struct Entry {
    source: String,
    expected: Option<String>,
    group: String,
    dim: usize,
    rows: u64,
    rejects: BTreeMap<String, u64>,
    #[serde(default)]
    map: BTreeMap<String, String>,
    #[serde(default)]
    set: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    extra_columns: Vec<String>,
    refused: Option<String>,
    #[serde(default)]
    note: String,
}

#[derive(Deserialize)]
struct Expected {
    row: u64,
    reject: Option<String>,
    column: Option<String>,
    id: Option<i64>,
    channel_id: Option<i64>,
    user_id: Option<i64>,
    content: Option<String>,
    content_repeat: Option<(String, usize)>,
    embedding_bits: Option<String>,
    metadata: Option<Box<RawValue>>,
    metadata_text: Option<String>,
    created_at: Option<String>,
    created_at_rounded: Option<String>,
    #[serde(default)]
    extra: BTreeMap<String, Option<String>>,
}

/// Where the corpus is.
pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

#[test]
fn embeddings_of_every_form_load_bit_for_bit() {
    load_groups(&["embedding", "list shape"]);
}

#[test]
fn texts_integers_and_metadata_load_as_they_are() {
    load_groups(&["text", "integers", "metadata"]);
}

#[test]
fn bad_rows_are_rejected_one_by_one_and_for_their_own_reasons() {
    load_groups(&["rejects"]);
}

#[test]
fn codecs_encodings_and_pages_make_no_difference() {
    load_groups(&["codec", "encoding", "pages"]);
}

#[test]
fn all_other_sources_load_as_expected() {
    let before =
        ["embedding", "list shape", "text", "integers", "metadata", "rejects", "codec", "encoding", "pages"];
    let mut groups: Vec<String> = entries().into_iter().map(|entry| entry.group).collect();
    groups.dedup();
    groups.retain(|group| !before.contains(&group.as_str()));
    load_groups(&groups);
}

fn entries() -> Vec<Entry> {
    let text = std::fs::read_to_string(corpus().join("manifest.json")).expect("the manifest");
    serde_json::from_str(&text).expect("the manifest's shape")
}

/// Loads all sources of some groups, each into a table of its own, and tells of all that went wrong.
fn load_groups(groups: &[impl AsRef<str>]) {
    let db = Db::new();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (number, entry) in entries().into_iter().enumerate() {
        if groups.iter().any(|group| group.as_ref() == entry.group) {
            checked += 1;
            let table = format!("t{number}");
            if let Err(why) = check(&db, &table, &entry) {
                wrong.push(format!("{}: {why}", entry.source));
            }
        }
    }
    assert!(checked > 0, "no source in these groups");
    assert!(wrong.is_empty(), "{} of {checked} sources:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(db: &Db, table: &str, entry: &Entry) -> Result<(), String> {
    db.table(table, entry.dim);
    for column in &entry.extra_columns {
        db.run(&format!("alter table {table} add column {column}"));
    }
    let mut load = Load::of(corpus().join(&entry.source)).into(db).table(table);
    for (target, source) in &entry.map {
        load = load.with("--map", format!("{target}={source}"));
    }
    for (target, value) in &entry.set {
        load = load.with("--set", format!("{target}={value}"));
    }
    let outcome = load.with("--index", "none").with("--max-rejects", "all").with("--lanes", 2).run();
    let may_be_refused = entry.refused.is_some()
        || entry.note.contains("may also be refused")
        || entry.note.contains("may be refused");
    if outcome.code() == 2 && may_be_refused {
        let rows = db.count(table);
        return if rows == 0 {
            Ok(())
        } else {
            Err(format!("refused, and yet {rows} rows are in the table"))
        };
    }
    if let Some(why) = &entry.refused {
        return Err(format!("should be refused ({why}){outcome}"));
    }
    let rejected: u64 = entry.rejects.values().sum();
    let code = if rejected > 0 { 3 } else { 0 };
    if outcome.code() != code {
        return Err(format!("should exit with {code}{outcome}"));
    }
    let counts = &outcome.report["rows"];
    if counts["read"] != entry.rows
        || counts["rejected"] != rejected
        || counts["loaded"] != entry.rows - rejected
    {
        return Err(format!("rows are {counts}, wanted {} with {rejected} rejected", entry.rows));
    }
    let expected = expected_rows(entry);
    compare_rejects(db, entry, &expected, &outcome)?;
    compare_rows(db, table, &expected)
}

fn expected_rows(entry: &Entry) -> Vec<Expected> {
    let name = entry.expected.as_ref().expect("expected rows");
    let text = std::fs::read_to_string(corpus().join(name)).expect("the expected rows");
    let rows = text.lines().map(|line| serde_json::from_str(line).expect("a row's shape"));
    rows.collect()
}

/// Positions, columns and reasons of the rejects.
fn compare_rejects(db: &Db, entry: &Entry, expected: &[Expected], outcome: &Outcome) -> Result<(), String> {
    let mut starts = BTreeMap::new();
    let mut next = 0;
    let sources =
        discover(&[corpus().join(&entry.source).display().to_string()], None).expect("the source's files");
    for place in sources.places {
        let Place::File(path) = place else { panic!("{place} is no file") };
        let file = ParquetFile::open(&path, usize::MAX).expect("a file that was loaded");
        let name = path.canonicalize().expect("a path").display().to_string();
        for (unit, rows) in file.row_group_rows().into_iter().enumerate() {
            starts.insert((name.clone(), unit as i32), next);
            next += rows;
        }
    }
    let query = format!(
        "select s.name, r.unit, r.row, r.column_name, r.class, octet_length(r.excerpt) <= 200 from {LEDGER}.rejects r
         join {LEDGER}.sources s using (source_id) where r.load_id = $1"
    );
    let mut found = BTreeMap::new();
    for row in db.rows(&query, &[&outcome.load()]) {
        let start = starts[&(row.get::<_, String>(0), row.get::<_, i32>(1))];
        let position = start + row.get::<_, i64>(2).cast_unsigned();
        found.insert(position, (row.get::<_, String>(3), row.get::<_, String>(4)));
        if !row.get::<_, bool>(5) {
            return Err(format!("the excerpt of reject {position} is too long"));
        }
    }
    for row in expected {
        let found = found.remove(&row.row);
        let wanted =
            row.reject.as_ref().map(|reason| (row.column.clone().unwrap_or_default(), reason.clone()));
        let agree = match (&found, &wanted) {
            (None, None) => true,
            (Some((column, class)), Some((wanted, reason))) => {
                column == wanted && is_class(class, reason, column)
            }
            _ => false,
        };
        if !agree {
            return Err(format!("row {}: rejected for {found:?}, should be {wanted:?}", row.row));
        }
    }
    Ok(())
}

/// Whether a class of `src/batch/reject.rs` is what the corpus calls by this name.
fn is_class(class: &str, reason: &str, column: &str) -> bool {
    let classes: &[&str] = match reason {
        "embedding_null_element" => &["embedding_element_null"],
        "embedding_dimension" if column == "embedding" => &["dimension", "embedding_unreadable"],
        "embedding_nan" => &["nan"],
        "embedding_infinite" => &["infinite"],
        "embedding_out_of_range" => &["element_out_of_range"],
        "out_of_range" if column == "created_at" => &["value"],
        "out_of_range" => &["integer_out_of_range"],
        "invalid_json" => &["json"],
        // Manifest: may be told as invalid JSON.
        "nul_byte" if column == "metadata" => &["nul_byte", "json"],
        "bad_value" if column == "embedding" => &["embedding_unreadable"],
        "bad_value" => &["value"],
        same => return class == same,
    };
    classes.contains(&class)
}

/// All accepted rows, as a sorted list of texts.
fn compare_rows(db: &Db, table: &str, expected: &[Expected]) -> Result<(), String> {
    let good: Vec<&Expected> = expected.iter().filter(|row| row.reject.is_none()).collect();
    let extra: Vec<&String> = good.first().map(|row| row.extra.keys().collect()).unwrap_or_default();
    let with_id = good.iter().any(|row| row.id.is_some());
    let with_time = good.iter().any(|row| row.created_at.is_some());
    let mut columns = vec![
        "channel_id::text".to_string(),
        "user_id::text".into(),
        "content".into(),
        "encode(vector_send(embedding), 'hex')".into(),
        "metadata::text".into(),
        if with_id { "id::text" } else { "''" }.into(),
        if with_time { "created_at::text" } else { "(created_at > now() - interval '1 hour')::text" }.into(),
    ];
    columns.extend(extra.iter().map(|name| format!("{name}::text")));
    let rows = db.rows(&format!("select {} from {table}", columns.join(", ")), &[]);
    let fields = |row: &tokio_postgres::Row| (0..columns.len()).map(|field| row.get(field)).collect();
    let mut found: Vec<Vec<Option<String>>> = rows.iter().map(fields).collect();
    found.sort();

    let texts: Vec<&str> = good
        .iter()
        .map(|row| match (&row.metadata, &row.metadata_text) {
            (Some(json), _) => json.get(),
            (None, Some(text)) => text,
            (None, None) => "{}",
        })
        .collect();
    let as_jsonb = "select t::jsonb::text from unnest($1::text[]) with ordinality as u(t, n) order by n";
    let metadata: Vec<String> = db.rows(as_jsonb, &[&texts]).iter().map(|row| row.get(0)).collect();
    let wanted = |rounded: bool| {
        let one = |(row, metadata): (&&Expected, &String)| {
            let content = match (&row.content, &row.content_repeat) {
                (Some(text), _) => text.clone(),
                (None, Some((unit, count))) => unit.repeat(*count),
                (None, None) => panic!("a row without content"),
            };
            let time = if rounded { row.created_at_rounded.as_ref() } else { None };
            let mut fields = vec![
                row.channel_id.map(|id| id.to_string()),
                row.user_id.map(|id| id.to_string()),
                Some(content),
                row.embedding_bits.as_ref().map(|bits| vector_hex(bits)),
                Some(metadata.clone()),
                Some(row.id.map_or(String::new(), |id| id.to_string())),
                Some(time.or(row.created_at.as_ref()).cloned().unwrap_or("true".into())),
            ];
            fields.extend(extra.iter().map(|name| row.extra[*name].clone()));
            fields
        };
        let mut rows: Vec<Vec<Option<String>>> = good.iter().zip(&metadata).map(one).collect();
        rows.sort();
        rows
    };
    if found == wanted(false) || found == wanted(true) {
        return Ok(());
    }
    let wanted = wanted(false);
    let shown = |rows: &[Vec<Option<String>>], others: &[Vec<Option<String>>]| {
        let only = rows.iter().find(|row| !others.contains(row));
        format!("{only:?}").chars().take(600).collect::<String>()
    };
    Err(format!(
        "the rows differ\n  found:  {}\n  wanted: {}",
        shown(&found, &wanted),
        shown(&wanted, &found)
    ))
}

/// Little-endian elements in hexadecimal, as `vector_send` writes them.
fn vector_hex(little_endian: &str) -> String {
    let elements = little_endian.as_bytes().chunks(8).map(|element| {
        let bytes = element.chunks(2).rev().flatten();
        bytes.map(|digit| char::from(*digit)).collect::<String>()
    });
    let elements: Vec<String> = elements.collect();
    format!("{:04x}0000{}", elements.len(), elements.concat())
}
