//! Text that is killed in mid-load goes on, a stream with the same bytes too; a stream that is another one is refused.

use std::io::{PipeWriter, Write};
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::program::{Load, Running, Vecload, vecload};
use super::resume::{settled, slow_db, speed_up, wait_for_blocks};
use super::rows::Rows;
use super::server::{Db, LEDGER};
use super::texts::{Packing, Style, file, piped, wrote_all};

const DIM: usize = 1_024;
const ROWS: u64 = 6_000;

/// Three units.
fn big() -> (Rows, Vec<u8>) {
    let rows = Rows::new(ROWS, DIM).tricky();
    let bytes = Style::CSV.bytes(&rows);
    assert!(bytes.len() > 33 << 20, "{} bytes", bytes.len());
    (rows, bytes)
}

fn small() -> Db {
    let db = Db::new();
    db.table("chunks", 8);
    db
}

fn stream(db: &Db, name: &str) -> Vecload {
    Load::of("-").into(db).with("--index", "none").with("--name", name)
}

/// Kills loads that `start` makes, each time another way, and has the last one come to its end.
fn killed_again_and_again(db: &Db, rows: &Rows, load: impl Fn() -> Vecload) {
    for (memory, writers, lanes) in [("64MiB", 4, 2), ("72MiB", 3, 4)] {
        let load = load().with("--memory", memory).with("--writers", writers).with("--lanes", lanes);
        let running = load.start();
        wait_for_blocks(db, &running, 1);
        running.kill();
        let committed = settled(db);
        assert!((1..ROWS as i64).contains(&committed), "killed in the middle: {committed} rows");
    }
    speed_up(db);
    let before = settled(db).unsigned_abs();
    let last = load().with("--writers", 2).with("--memory", "64MiB").run().exits(0).state("complete");
    let last = last.rows(ROWS - before, 0, before);
    let peak = last.report["peak_rss_bytes"].as_u64();
    assert!(peak.is_some_and(|peak| peak < 160 << 20), "64 MiB of buffers, and the program{last}");
    Rows::are_all_in(&[rows], db, "chunks");
    load().with("--writers", 1).run().exits(0).state("already_loaded").rows(0, 0, ROWS);
    Rows::are_all_in(&[rows], db, "chunks");
    let show = vecload(["loads", "--json"]).into(db).run().exits(0);
    let loads = &show.report["loads"];
    assert_eq!(loads.as_array().map(Vec::len), Some(1), "one load for all runs{show}");
    assert_eq!((&loads[0]["runs"], loads[0]["load"].as_i64()), (&3.into(), Some(last.load())));
}

#[test]
fn a_file_killed_again_and_again_brings_every_row_once() {
    let (dir, db) = (tempfile::tempdir().expect("a directory"), slow_db(DIM));
    let (rows, bytes) = big();
    let path = file(dir.path(), "rows.csv", bytes);
    killed_again_and_again(&db, &rows, || Load::of(&path).into(&db).with("--index", "none"));
}

#[test]
fn a_compressed_file_killed_again_and_again_brings_every_row_once() {
    let (dir, db) = (tempfile::tempdir().expect("a directory"), slow_db(DIM));
    let (rows, bytes) = big();
    let path = file(dir.path(), "rows.csv.gz", Packing::Gzip(5_000_000).pack(&bytes));
    killed_again_and_again(&db, &rows, || Load::of(&path).into(&db).with("--index", "none"));
}

#[test]
fn a_named_stream_killed_again_and_again_brings_every_row_once() {
    let db = slow_db(DIM);
    let (rows, bytes) = big();
    // However it is packed, it is the same stream.
    let packed = Packing::Gzip(usize::MAX).pack(&bytes);
    let count = std::cell::Cell::new(0);
    killed_again_and_again(&db, &rows, || {
        count.set(count.get() + 1);
        piped(stream(&db, "mine"), if count.get() % 2 == 0 { packed.clone() } else { bytes.clone() }).0
    });
}

#[test]
fn lines_of_json_with_rejects_killed_again_and_again_bring_every_row_once() {
    let (dir, db) = (tempfile::tempdir().expect("a directory"), slow_db(DIM));
    let bad: Vec<u64> = (0..ROWS).step_by(97).collect();
    let rows = Rows::new(ROWS, DIM).bad(bad.clone());
    let path = file(dir.path(), "rows.jsonl.zst", Packing::Zstd(3_000_000).pack(&Style::JSONL.bytes(&rows)));
    let load = || Load::of(&path).into(&db).with("--index", "none").with("--max-rejects", "all");
    for _ in 0..2 {
        let running = load().with("--memory", "160MiB").with("--writers", 4).start();
        wait_for_blocks(&db, &running, 1);
        running.kill();
        settled(&db);
    }
    speed_up(&db);
    let before = settled(&db).unsigned_abs();
    let bad = bad.len() as u64;
    load().run().exits(3).state("rejects").rows(ROWS - bad - before, bad, before);
    Rows::are_all_in(&[&rows], &db, "chunks");
    assert_eq!(db.count(&format!("{LEDGER}.rejects")), bad.cast_signed());
}

#[test]
fn a_stream_of_other_bytes_is_refused_under_a_name_that_is_taken() {
    let db = Db::new();
    db.table("chunks", DIM);
    let (rows, bytes) = big();
    let run = |bytes: Vec<u8>, limit: &str| {
        let (load, producer) = piped(stream(&db, "mine").with("--limit", limit), bytes);
        let told = load.run();
        wrote_all(producer);
        told
    };
    let is_another = |told: super::program::Outcome| {
        told.exits(1)
            .state("failed")
            .says("standard input is not what earlier runs read")
            .says("hint: ")
            .says("--name")
    };
    run(bytes.clone(), "2000").exits(0).state("limited").rows(2_000, 0, 0);
    // A byte in the first unit, before what is loaded; and one in the second unit.
    for part in [10, 3] {
        let mut other = bytes.clone();
        let at = other.len() / part;
        let digit = at + other[at..].iter().position(|byte| *byte == b'3').expect("a digit");
        other[digit] = b'4';
        is_another(run(other, "6000"));
    }
    let rest = db.count("chunks").unsigned_abs();
    run(bytes.clone(), "10000").exits(0).state("complete").rows(ROWS - rest, 0, rest);
    Rows::are_all_in(&[&rows], &db, "chunks");
    // Complete, it is compared all the same: shorter, longer, different at its end.
    let whole = [&bytes[..], &Style { header: false, ..Style::CSV }.bytes(&Rows::new(1, DIM))].concat();
    let end = bytes.len() - 200;
    let mut lines = Style::CSV.lines(&rows);
    lines.pop();
    let mut other = bytes.clone();
    let digit = end - 2_000 + other[end - 2_000..].iter().position(|byte| *byte == b'3').expect("a digit");
    other[digit] = b'4';
    for bytes in [whole, lines.concat().into_bytes(), other] {
        let told = run(bytes, "100000");
        assert_eq!(told.code(), 1, "{told}");
        told.says("is not what earlier runs read");
    }
    run(bytes, "100000").exits(0).state("already_loaded").rows(0, 0, ROWS);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_stream_of_another_recipe_is_refused() {
    let db = small();
    let bytes = Style::CSV.bytes(&Rows::new(100, 8));
    let run = |load: Vecload, bytes: &[u8]| piped(load, bytes).0.run();
    run(stream(&db, "mine"), &bytes).exits(0).rows(100, 0, 0);
    run(stream(&db, "mine").with("--null", "x"), &bytes).exits(2).says("recipe").says("--again");
    let other = Style { delimiter: Some(';'), ..Style::CSV }.bytes(&Rows::new(100, 8));
    run(stream(&db, "mine"), &other).exits(2).says("recipe").says(";");
    // Two names are two streams, and --again is one more.
    run(stream(&db, "other"), &bytes).exits(0).rows(100, 0, 0);
    run(stream(&db, "mine").arg("--again"), &bytes).exits(0).rows(100, 0, 0);
    let rows = Rows::new(100, 8);
    Rows::are_all_in(&[&rows, &rows, &rows], &db, "chunks");
}

#[test]
fn a_stream_without_a_name_is_warned_about_first_and_is_new_each_time() {
    let db = small();
    let rows = Rows::new(100, 8);
    for _ in 0..2 {
        let load = Load::of("-").into(&db).with("--index", "none");
        let (load, producer) = piped(load, Style::JSONL.bytes(&rows));
        let told = load.run().exits(0).state("complete").rows(100, 0, 0);
        assert!(told.stderr.starts_with("warning: standard input without --name"), "{told}");
        assert!(wrote_all(producer));
    }
    Rows::are_all_in(&[&rows, &rows], &db, "chunks");
}

#[test]
fn a_stream_and_files_go_in_together() {
    let (dir, db) = (tempfile::tempdir().expect("a directory"), small());
    let [a, b, c] = [0, 1_000, 2_000].map(|first| Rows::new(700, 8).from(first).tricky());
    let path = file(dir.path(), "a.csv", Style::CSV.bytes(&a));
    let parquet = c.write(dir.path(), "c.parquet");
    let load = || {
        let load = Load::of(&path).arg("-").arg(&parquet).into(&db).with("--index", "none");
        piped(load.with("--name", "b"), Style::JSONL.bytes(&b)).0
    };
    load().with("--limit", 1_000).run().exits(0).state("limited").rows(1_000, 0, 0);
    load().run().exits(0).state("complete").rows(1_100, 0, 1_000);
    load().run().exits(0).state("already_loaded");
    Rows::are_all_in(&[&a, &b, &c], &db, "chunks");
}

#[test]
fn a_limited_stream_goes_on_later() {
    let db = small();
    let rows = Rows::new(3_000, 8).tricky();
    let load = || piped(stream(&db, "mine"), Style::CSV.bytes(&rows)).0;
    load().with("--limit", 700).run().exits(0).state("limited").rows(700, 0, 0);
    Rows::are_all_in(&[&Rows::new(700, 8).tricky()], &db, "chunks");
    load().run().exits(0).state("complete").rows(2_300, 0, 700);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_stream_that_is_taken_back_can_be_loaded_again_under_its_name() {
    let db = small();
    let [rows, other] = [Rows::new(900, 8).tricky(), Rows::new(400, 8).from(5_000)];
    let run = |rows: &Rows| piped(stream(&db, "mine"), Style::CSV.bytes(rows)).0.run();
    let first = run(&rows).exits(0).rows(900, 0, 0);
    run(&other).exits(1).says("is not what earlier runs read").says("loads undo");
    vecload(["loads", "undo", &first.load().to_string()]).into(&db).run().exits(0);
    run(&other).exits(0).state("complete").rows(400, 0, 0);
    Rows::are_all_in(&[&other], &db, "chunks");
    let list = vecload(["loads"]).into(&db).run().exits(0);
    list.answers("mine").answers("undone");
}

#[test]
fn a_pipe_that_gives_nothing_or_half_a_record_is_no_success() {
    let db = small();
    for bytes in [&b""[..], b"\n", b"\xef\xbb\xbf"] {
        let told = piped(stream(&db, "none"), bytes).0.run();
        told.exits(2).says("standard input");
    }
    Load::of("-").into(&db).run().exits(2).says("standard input is empty");
    // Its writer died: the last record has no end, in quotes or without.
    let bytes = Style::CSV.bytes(&Rows::new(1_000, 8));
    let whole = bytes.len();
    let told = piped(stream(&db, "quoted"), &bytes[..whole - 40]).0.run().exits(1).state("failed");
    told.says("standard input").says("line 1001").says("record 1000");
    let last = bytes[..whole - 1].iter().rposition(|byte| *byte == b'\n').expect("a line");
    let told = piped(stream(&db, "half"), &bytes[..last + 5]).0.run();
    told.exits(4).state("stopped").says("standard input, line 1001").says("field");
    assert!(db.count("chunks") < 1_000);
    // What was quoted goes on with all of the bytes.
    let before = db.count("chunks");
    piped(stream(&db, "quoted"), bytes).0.run().exits(0).state("complete");
    assert_eq!(db.count("chunks"), before + 1_000);
}

/// Writes bytes and keeps the pipe open.
fn open_pipe(load: Vecload, bytes: &[u8]) -> (Running, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let running = load.reading(reader).within_seconds(15).start();
    writer.write_all(bytes).expect("write to the pipe");
    (running, writer)
}

#[test]
fn a_signal_ends_a_load_whose_producer_is_silent() {
    let db = Db::new();
    db.table("chunks", DIM);
    vecload(["loads"]).into(&db).run().exits(0);
    let (rows, bytes) = big();
    for (signal, share) in [(Signal::SIGINT, 150 << 10), (Signal::SIGTERM, 20 << 20)] {
        let (running, writer) =
            open_pipe(stream(&db, "mine").with("--writers", 8).with("--memory", "64MiB"), &bytes[..share]);
        db.wait_until(&format!("exists (select from {LEDGER}.loads where state = 'running')"));
        if share > 16 << 20 {
            db.wait_until(&format!("exists (select from {LEDGER}.blocks)"));
        }
        running.signal(signal);
        let told = running.outcome().exits(130).state("interrupted").says(signal.as_str());
        told.says("run the same command");
        drop(writer);
    }
    let before = settled(&db).unsigned_abs();
    let last = piped(stream(&db, "mine"), bytes).0.run();
    last.exits(0).state("complete").rows(ROWS - before, 0, before);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_signal_ends_a_load_that_waits_for_the_first_record() {
    let db = small();
    // More than a pipe holds: once it is written, somebody has begun to read.
    let (running, writer) = open_pipe(stream(&db, "mine"), &[b'a'; 150 << 10]);
    running.signal(Signal::SIGINT);
    running.outcome().exits(130);
    drop(writer);
}

#[test]
fn a_load_that_is_refused_does_not_wait_for_its_producer() {
    let db = small();
    let (running, writer) = open_pipe(stream(&db, "mine"), &[&b"k,vec\n"[..], &[b'1'; 150 << 10]].concat());
    drop(writer);
    running.outcome().exits(2).says("embedding");
    // Endless, and not what was asked for: its writer is told by a closed pipe.
    let (load, producer) = piped(stream(&db, "mine"), b"y\n".repeat(4 << 20));
    load.run().exits(2).says("standard input").says("embedding");
    assert!(!wrote_all(producer));
}

#[test]
fn two_loads_of_one_name_at_once_do_not_meet() {
    let db = small();
    vecload(["loads"]).into(&db).run().exits(0);
    let rows = Rows::new(2_000, 8);
    let bytes = Style::CSV.bytes(&rows);
    let (first, mut writer) = open_pipe(stream(&db, "mine"), &bytes[..150 << 10]);
    db.wait_until(&format!("exists (select from {LEDGER}.loads where state = 'running')"));
    let second = piped(stream(&db, "mine"), bytes.clone()).0.run();
    second.exits(2).says("is running").says(first.process().to_string());
    writer.write_all(&bytes[150 << 10..]).expect("write to the pipe");
    drop(writer);
    first.outcome().exits(0).state("complete").rows(2_000, 0, 0);
    Rows::are_all_in(&[&rows], &db, "chunks");
}

#[test]
fn a_file_that_changes_in_mid_load_is_found_out() {
    let (dir, db) = (tempfile::tempdir().expect("a directory"), slow_db(DIM));
    let (_, bytes) = big();
    let path: PathBuf = file(dir.path(), "rows.csv", &bytes);
    let load = || Load::of(&path).into(&db).with("--index", "none").with("--memory", "64MiB");
    let running = load().with("--writers", 8).start();
    wait_for_blocks(&db, &running, 2);
    let mut end = std::fs::File::options().append(true).open(&path).expect("open");
    end.write_all(b"1,1,one more,\n").expect("write");
    running.outcome().exits(1).state("failed").says("rows.csv").says("changed while it was being loaded");
    speed_up(&db);
    load().run().exits(2).says("rows.csv").says("partly loaded");
    std::fs::write(&path, &bytes).expect("write");
    let told = load().run();
    assert!([0, 2].contains(&told.code()), "its time is another, its bytes are not{told}");
}
