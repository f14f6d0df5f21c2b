//! What is printed where: JSON by contract, plain progress, quiet runs, help; and how much memory a load takes.

use std::sync::Arc;

use super::program::{Load, REPORT_KEYS, vecload};
use super::rows::{Rows, embedding, vectors, write_parquet};
use super::server::Db;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn the_json_of_a_load_has_the_keys_of_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(500, 8).bad([3]).write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 8);
    let load = Load::of(&path)
        .into(&db)
        .with("--max-rejects", 1)
        .with("--name", "n")
        .with("--lanes", 2)
        .with("--writers", 3);
    let told = load.run().exits(3).state("rejects").rows(499, 1, 0);
    assert_eq!(told.stdout.lines().count(), 1, "one object on one line{told}");
    let report = &told.report;
    assert_eq!(keys(report)[..REPORT_KEYS.len()], REPORT_KEYS);
    assert_eq!(keys(&report["rows"]), ["read", "loaded", "rejected", "already_loaded"]);
    assert_eq!(keys(&report["bytes"]), ["read", "copied"]);
    assert_eq!(keys(&report["stages"][0]), ["name", "rows", "busy_seconds", "wait_seconds"]);
    assert_eq!(keys(&report["server"]), ["postgres", "pgvector", "citus"]);
    let stages: Vec<_> =
        report["stages"].as_array().into_iter().flatten().map(|stage| &stage["name"]).collect();
    assert_eq!(stages, ["read", "batch", "partition", "write"]);
    assert_eq!((&report["lanes"], &report["writers"], &report["name"]), (&2.into(), &3.into(), &"n".into()));
    assert!(["direct", "coordinator", "shards"].contains(&report["route"].as_str().unwrap_or_default()));
    assert!(report["bytes"]["copied"].as_u64() > Some(499 * 8 * 4));
    for number in ["seconds", "rows_per_second", "peak_rss_bytes"] {
        assert!(report[number].as_f64() > Some(0.0), "{number}{told}");
    }
    let again = Load::of(&path).into(&db).with("--max-rejects", 1).run().exits(3);
    assert_eq!(keys(&again.report), keys(report));
    // A refusal has no report.
    let refused = Load::of(dir.path().join("none.parquet")).into(&db).run().exits(2);
    assert_eq!(refused.stdout, "");
}

#[test]
fn a_load_tells_people_how_it_went_on_stderr_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("chunks", 8);
    let path = |first: u64| Rows::new(300, 8).from(first).write(dir.path(), &format!("{first}.parquet"));
    let load = |first: u64| vecload(["load"]).arg(path(first)).into(&db);
    let told = load(0).run().exits(0).says("complete").says("rows read").says("300").says("vecload search");
    assert_eq!(told.stdout, "");
    let plain = load(1_000)
        .with("--progress", "plain")
        .run()
        .exits(0)
        .says("complete")
        .never_says("\u{1b}")
        .never_says("\r");
    assert_eq!(plain.stdout, "");
    load(2_000).with("--progress", "none").run().exits(0).says("complete");
    let quiet = load(3_000).arg("-q").run().exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let quiet = load(3_000).arg("-q").run().exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""), "already loaded");
    vecload(["load", "-q", "nowhere.parquet"]).into(&db).run().exits(2).says("nowhere.parquet");
    load(4_000).arg("-vv").run().exits(0).says("complete");
}

#[test]
fn progress_lines_come_while_rows_flow() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(20_000, 64).write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 64);
    let holder = db.session();
    // Rows wait for this lock as long as it takes.
    holder.run("begin; lock table chunks in share row exclusive mode");
    let load = vecload(["load", "--progress", "plain", "--index", "none"]).arg(&path).into(&db);
    let running = load.with("--memory", "32MiB").with("--writers", 2).start();
    let since = std::time::Instant::now();
    while !running.said().contains("ETA") {
        assert!(since.elapsed().as_secs() < 30, "no progress line: {}", running.said());
        db.run("select pg_sleep(0.02)");
    }
    holder.run("rollback");
    running.outcome().exits(0).says(" of 20,000 rows").says("rows/s").says("rejected: 0");
}

/// It would look as if the server were slow.
#[test]
fn who_holds_a_lock_that_rows_wait_for_is_told_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(1_000, 8).write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 8);
    let holder = db.session();
    holder.run("set application_name = 'somebody'");
    let pid: i32 = holder.one("select pg_backend_pid()");
    let user: String = holder.one("select current_user::text");
    holder.run("begin; lock table chunks\n in share row exclusive mode");
    let running = Load::of(&path).into(&db).with("--index", "none").with("--writers", 2).start();
    let line = format!(
        "for a lock of process {pid} of {user} (somebody, idle in transaction: begin; lock table chunks in share row \
         exclusive mode)"
    );
    let since = std::time::Instant::now();
    while !running.said().contains(&line) {
        assert!(since.elapsed().as_secs() < 60, "{}", running.said());
        db.run("select pg_sleep(0.02)");
    }
    holder.run("rollback");
    let outcome = running.outcome().exits(0).rows(1_000, 0, 0);
    assert_eq!(outcome.stderr.matches("for a lock of").count(), 1, "{}", outcome.stderr);
}

#[test]
fn usage_errors_are_refusals_and_help_and_version_are_answers() {
    for words in [&["load"][..], &["lod"], &["load", "x", "--lanes", "many"], &["search", "--nonsense"]] {
        assert_eq!(vecload(words).run().code(), 2, "{words:?}");
    }
    let nowhere = ["load", "x.parquet", "--db", "postgresql://nobody@127.0.0.1:1/none"];
    let bad = |option: &str, value: &str| vecload(nowhere).arg(option).arg(value).run().exits(2).says(option);
    bad("--lanes", "0");
    bad("--writers", "0");
    bad("--writers", "1000");
    bad("--memory", "1KiB");
    vecload(nowhere).with("--limit", "some").run().exits(2).says("\"some\" is no count");
    let version = vecload(["--version"]).run().exits(0);
    assert_eq!(version.stdout, format!("vecload {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(vecload::<&str>([]).run().code(), 2);
}

#[test]
fn the_configuration_file_is_beaten_by_the_environment_and_by_flags() {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Db::new();
    db.table("from_file", 8);
    db.table("from_flag", 8);
    let path = Rows::new(20, 8).write(dir.path(), "rows.parquet");
    let text = format!(
        "[database]\nurl = \"{}\"\ntable = \"from_file\"\n[load]\nlanes = 3\nwriters = 4\n\
         index = \"none\"\n[set]\nuser_id = \"7\"\n",
        db.url()
    );
    std::fs::write(dir.path().join("pipeline.toml"), &text).expect("write");
    let told = Load::of(&path).within(dir.path()).run().exits(0).rows(20, 0, 0);
    assert_eq!((&told.report["lanes"], &told.report["writers"]), (&3.into(), &4.into()));
    assert_eq!(db.count("from_file where user_id = 7"), 20);
    let flags =
        Load::of(&path).within(dir.path()).table("from_flag").with("--lanes", 1).with("--set", "user_id=8");
    assert_eq!(flags.run().exits(0).report["lanes"], 1);
    assert_eq!(db.count("from_flag where user_id = 8"), 20);
    let wrong =
        Load::of(&path).within(dir.path()).env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none").run();
    wrong.exits(2).says("127.0.0.1:1");
    std::fs::write(dir.path().join("other.toml"), "[load]\nlane = 1\n").expect("write");
    let config = |name: &str| Load::of(&path).into(&db).within(dir.path()).with("--config", name).run();
    config("other.toml").exits(2).says("other.toml").says("lane");
    config("none.toml").exits(2).says("none.toml");
}

/// Writes some 300 MB of row groups of 12 MB one by one, without holding them.
fn write_large(path: &std::path::Path) {
    let (dim, group) = (768, 4_000u64);
    let batch = |first: u64| {
        let rows = first..first + group;
        // Made once and shifted: the numbers only have to be many.
        let base = embedding(first, dim);
        let elements =
            rows.clone().flat_map(|row| base.iter().map(move |element| element + (row - first) as f32));
        let columns: [(&str, arrow::array::ArrayRef); 4] = [
            (
                "channel_id",
                Arc::new(arrow::array::Int64Array::from_iter_values(
                    rows.clone().map(|row| (row % 50) as i64),
                )),
            ),
            (
                "user_id",
                Arc::new(arrow::array::Int64Array::from_iter_values(rows.clone().map(|row| row as i64))),
            ),
            (
                "content",
                Arc::new(arrow::array::StringArray::from_iter_values(rows.map(|row| format!("row {row}")))),
            ),
            ("embedding", vectors(dim, elements.collect())),
        ];
        columns
    };
    for number in 0..25 {
        write_parquet(&path.join(format!("{number:02}.parquet")), batch(number * group), 1 << 20);
    }
}

#[test]
fn a_load_of_300_megabytes_stays_within_its_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    write_large(dir.path());
    let db = Db::new();
    db.table("chunks", 768);
    db.run("alter table chunks set unlogged; alter table chunks alter embedding set storage external");
    let budget = 96u64 << 20;
    let load =
        Load::of(dir.path()).into(&db).with("--memory", "96MiB").with("--index", "none").with("--writers", 3);
    // Private memory, as the kernel counts it, can't pass the limit; the report tells the resident peak.
    let told =
        load.with("--lanes", 3).at_most_memory(budget + (200 << 20)).run().exits(0).rows(100_000, 0, 0);
    assert!(told.report["bytes"]["copied"].as_u64() > Some(300_000_000), "{told}");
    let peak = told.report["peak_rss_bytes"].as_u64().expect("a peak");
    assert!(peak < budget + (150 << 20), "{} MB with --memory 96MiB", peak >> 20);
}

#[test]
fn the_reported_peak_is_the_programs_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = Rows::new(10, 8).write(dir.path(), "rows.parquet");
    let db = Db::new();
    db.table("chunks", 8);
    // Whoever starts vecload may be large.
    let large = vec![1u8; 400 << 20];
    let told = Load::of(&path).into(&db).run().exits(0);
    let peak = told.report["peak_rss_bytes"].as_u64().expect("a peak");
    assert!(large.iter().step_by(4096).all(|byte| *byte == 1));
    assert!(peak < 150 << 20, "{} MB", peak >> 20);
}
