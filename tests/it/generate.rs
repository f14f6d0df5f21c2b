//! `vecload generate`: files that are complete or not there, the same for any lanes, and exact neighbours.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type};
use nix::sys::signal::Signal;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use super::program::{Load, Vecload, vecload};
use super::server::Db;

/// A small dataset in a directory.
fn generate(directory: &Path, out: &str) -> Vecload {
    vecload(["generate", out, "--dim", "8", "--channels", "20", "--clusters", "4"]).within(directory)
}

fn files(directory: &Path) -> Vec<String> {
    let names = directory.read_dir().expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let file = std::fs::File::open(path).expect("the file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build());
    reader.expect("a Parquet file").map(|batch| batch.expect("good rows")).collect()
}

#[test]
fn a_generated_file_loads_and_says_what_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let outcome =
        generate(directory.path(), "rows.parquet").with("--rows", "3k").arg("--json").run().exits(0);
    let report = &outcome.report;
    for (key, value) in [
        ("file", json!("rows.parquet")),
        ("rows", json!(3000)),
        ("dim", json!(8)),
        ("channels", json!(20)),
        ("skew", json!(1.1)),
        ("clusters", json!(4)),
        ("seed", json!(42)),
        ("queries", json!(null)),
    ] {
        assert_eq!(report[key], value, "{key}{outcome}");
    }
    let size = directory.path().join("rows.parquet").metadata().expect("the file").len();
    assert_eq!(report["bytes"], size);
    assert_eq!(files(directory.path()), ["rows.parquet"]);

    let db = Db::new();
    vecload(["migrate", "--dim", "8", "--no-index"]).into(&db).run().exits(0);
    let load = Load::of(directory.path().join("rows.parquet")).into(&db).with("--index", "none");
    load.run().exits(0).rows(3000, 0, 0);
    let session = db.session();
    // The rows are found by the number in their metadata, and their texts name the same cluster.
    let right: i64 = session.one(
        "select count(distinct (metadata->>'row')::int) from chunks
         where content like 'cluster ' || (metadata->>'cluster') || ': %' and channel_id between 1 and 20",
    );
    assert_eq!(right, 3000);
}

#[test]
fn lanes_change_nothing_and_the_seed_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    for out in ["rows.parquet", "rows.csv", "rows.csv.gz", "rows.csv.zst"] {
        let read = || std::fs::read(directory.path().join(out)).expect("the file");
        let again = || generate(directory.path(), out).with("--rows", 20_000).arg("--force");
        again().with("--lanes", 1).run().exits(0);
        let first = read();
        again().with("--lanes", 3).run().exits(0);
        assert!(first == read(), "{out}: other lanes");
        again().with("--seed", 7).run().exits(0);
        assert!(first != read(), "{out}: another seed");
    }
}

#[test]
fn neighbours_are_exact_overall_and_in_the_channel() {
    let directory = tempfile::tempdir().expect("a directory");
    let outcome = generate(directory.path(), "rows.parquet")
        .with("--rows", 2000)
        .with("--queries", 10)
        .with("-k", 25)
        .arg("--json")
        .run()
        .exits(0)
        .says("multiply-adds");
    assert_eq!(outcome.report["queries"]["file"], "rows.queries.parquet");
    assert_eq!(
        (&outcome.report["queries"]["queries"], &outcome.report["queries"]["k"]),
        (&json!(10), &json!(25))
    );

    let mut rows = Vec::new();
    for batch in read_parquet(&directory.path().join("rows.parquet")) {
        let vectors = batch["embedding"].as_fixed_size_list();
        for row in 0..batch.num_rows() {
            let vector: Vec<f32> = vectors.value(row).as_primitive::<Float32Type>().values().to_vec();
            rows.push((batch["channel_id"].as_primitive::<Int64Type>().value(row), vector));
        }
    }
    let mut seen = 0;
    for batch in read_parquet(&directory.path().join("rows.queries.parquet")) {
        for query in 0..batch.num_rows() {
            let number = |name: &str| batch[name].as_primitive::<Int64Type>().value(query);
            assert_eq!(number("query"), seen);
            seen += 1;
            let vector = batch["embedding"].as_fixed_size_list().value(query);
            let vector = vector.as_primitive::<Float32Type>().values().to_vec();
            let in_channel = Some(number("channel_id"));
            for (channel, neighbours, distances) in
                [(None, "neighbors", "distances"), (in_channel, "channel_neighbors", "channel_distances")]
            {
                let found = batch[neighbours].as_list::<i32>().value(query);
                let found = found.as_primitive::<Int64Type>().values().to_vec();
                let apart = batch[distances].as_list::<i32>().value(query);
                let apart = apart.as_primitive::<Float64Type>().values().to_vec();
                let mut expected: Vec<(f64, i64)> = (0i64..)
                    .zip(&rows)
                    .filter(|(_, (of_row, _))| channel.is_none_or(|channel| channel == *of_row))
                    .map(|(row, (_, other))| (cosine_distance(&vector, other), row))
                    .collect();
                expected.sort_by(|one, other| one.0.total_cmp(&other.0));
                expected.truncate(25);
                let (expected_apart, expected): (Vec<f64>, Vec<i64>) = expected.into_iter().unzip();
                assert_eq!(found, expected, "query {query}, {neighbours}");
                assert!(apart.iter().zip(expected_apart).all(|(one, other)| (one - other).abs() < 1e-14));
            }
        }
    }
    assert_eq!(seen, 10);
}

fn cosine_distance(one: &[f32], other: &[f32]) -> f64 {
    let dot = |one: &[f32], other: &[f32]| {
        one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum::<f64>()
    };
    1.0 - dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

#[test]
fn what_makes_no_dataset_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    for (out, arguments, says) in [
        ("rows.txt", vec!["--rows", "10"], "its name says no format"),
        ("rows.csv", vec!["--rows", "0"], "0 rows"),
        ("rows.csv", vec!["--rows", "many"], "is no count"),
        ("rows.csv", vec!["--rows", "10", "--dim", "16001"], "--dim 16001"),
        ("rows.csv", vec!["--rows", "10", "--skew", "-1"], "--skew -1"),
        ("rows.csv", vec!["--rows", "10", "--clusters", "0"], "--clusters 0"),
        ("rows.csv", vec!["--rows", "10", "--lanes", "0"], "--lanes 0"),
        ("rows.csv", vec!["--rows", "10", "--queries", "0"], "--queries 0"),
        ("rows.csv", vec!["--rows", "10", "--queries", "5", "-k", "1001"], "-k 1001"),
        ("rows.csv", vec!["--rows", "10", "--queries", "5", "--queries-out", "q.csv"], "--queries-out q.csv"),
        ("r.parquet", vec!["--rows", "10", "--queries", "5", "--queries-out", "r.parquet"], "both go to"),
        ("nowhere/rows.csv", vec!["--rows", "10"], "create nowhere/rows.csv"),
        ("-", vec!["--rows", "10", "--json"], "--json together with rows on stdout"),
        ("-", vec!["--rows", "10", "--queries", "5"], "need a file"),
    ] {
        let command = vecload(["generate", out]).within(directory.path());
        let refused = arguments.iter().fold(command, Vecload::arg).run().exits(2).says(says);
        assert!(refused.stderr.contains("hint: "), "there is a way on{refused}");
        assert_eq!(files(directory.path()), [""; 0], "{out} {arguments:?}");
    }
}

#[test]
fn a_file_that_exists_is_kept_without_force() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["rows.csv", "rows.queries.parquet"] {
        let path = directory.path().join(name);
        std::fs::write(&path, "mine").expect("write a file");
        let again = || generate(directory.path(), "rows.csv").with("--rows", 10).with("--queries", 2);
        again().run().exits(2).says(format!("{name} exists")).says("--force");
        assert_eq!(std::fs::read(&path).expect("the file"), b"mine");
        assert_eq!(files(directory.path()), [name]);
        again().arg("--force").run().exits(0);
        assert_ne!(std::fs::read(&path).expect("the file"), b"mine");
        files(directory.path()).iter().for_each(|name| {
            std::fs::remove_file(directory.path().join(name)).expect("remove it");
        });
    }
}

#[test]
fn nothing_is_left_of_an_interrupted_file() {
    let directory = tempfile::tempdir().expect("a directory");
    for out in ["rows.parquet", "rows.csv.gz"] {
        let running = generate(directory.path(), out).with("--rows", "10B").start();
        // It is at work once the file under its own name has grown.
        let partial = || {
            let name = files(directory.path()).into_iter().find(|name| name.contains(".partial-"))?;
            directory.path().join(name).metadata().ok().filter(|metadata| metadata.len() > 0)
        };
        while partial().is_none() {
            assert!(running.process() > 0, "it runs");
            std::thread::yield_now();
        }
        running.signal(Signal::SIGINT);
        running.outcome().exits(130).says("interrupted by SIGINT");
        assert_eq!(files(directory.path()), [""; 0]);
    }
}

#[test]
fn rows_on_stdout_are_csv_and_nothing_else() {
    let outcome = vecload(["generate", "-", "--rows", "100", "--dim", "3"]).run().exits(0).says("100 rows");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (101, "channel_id,user_id,content,metadata,embedding"));
}

#[test]
fn a_reader_that_leaves_ends_it_in_order() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vecload"))
        .args(["generate", "-", "--rows", "10B", "--dim", "16"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start vecload");
    let mut first = [0; 10];
    let mut stdout = child.stdout.take().expect("its stdout");
    stdout.read_exact(&mut first).expect("read from it");
    drop(stdout);
    let ended = child.wait_with_output().expect("wait for vecload");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), &first), (Some(1), b"channel_id"), "{said}");
    assert!(said.contains("its reader has closed it") && !said.contains("panicked"), "{said}");
}
