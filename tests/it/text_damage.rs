//! Bad sources of text: one clear message or rejects, never a panic, a hang, or memory beyond `--memory`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use vecload::memory::Budget;
use vecload::source::Place;
use vecload::source::text::{TextOptions, TextSource};

use super::program::{Load, Outcome, Vecload};
use super::rows::{Rows, hash};
use super::server::Db;
use super::texts::{Packing, Style, file, gzip, piped, wrote_all};

/// With `--memory 64MiB`.
const MEMORY_MAX: u64 = 300 << 20;

/// The header of files that tests write by hand.
const HEADER: &str = "channel_id,user_id,content,embedding\n";

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
    /// A load with little memory, by one lane.
    fn load(&self, path: &Path) -> Vecload {
        let load = Load::of(path).into(&self.db).with("--index", "none");
        let load = load.with("--memory", "64MiB").with("--lanes", 1);
        load.at_most_memory(MEMORY_MAX).within_seconds(60)
    }

    fn bad(&self, name: &str, bytes: impl AsRef<[u8]>) -> Outcome {
        self.load(&file(self.dir.path(), name, bytes)).with("--max-rejects", "all").run()
    }
}

/// One error, which names the file and says what to do.
#[track_caller]
fn one_error(outcome: Outcome, code: i32, words: &[&str]) -> Outcome {
    let outcome = outcome.exits(code).says("hint: ");
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "one error{outcome}");
    words.iter().fold(outcome, |outcome, word| outcome.says(word))
}

/// Bytes that nothing compresses.
fn noise(bytes: u64) -> Vec<u8> {
    (0..bytes / 8).flat_map(|word| hash(word, 8).to_le_bytes()).collect()
}

fn utf16(text: &str, big: bool, mark: bool) -> Vec<u8> {
    let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
    units.flat_map(|unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

#[test]
fn what_is_no_text_is_refused_and_named() {
    let case = case();
    let good = String::from_utf8(Style::CSV.bytes(&Rows::new(300, 8))).expect("UTF-8");
    let parquet = Rows::new(10, 8).write(case.dir.path(), "rows.data");
    let parquet = std::fs::read(parquet).expect("read");
    let mut zip = b"PK\x03\x04".to_vec();
    zip.extend(noise(500));
    let refused: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty.csv", vec![], &["is empty"]),
        ("empty.jsonl", vec![], &["is empty"]),
        ("mark.csv", b"\xef\xbb\xbf".to_vec(), &[]),
        ("ends.csv", b"\n\r\n\n".to_vec(), &["no record"]),
        ("little.csv", utf16(&good, false, true), &["UTF-16", "iconv"]),
        ("big.csv", utf16(&good, true, true), &["UTF-16", "iconv"]),
        ("bare.csv", utf16(&good, false, false), &["UTF-16", "iconv"]),
        ("bare.jsonl", utf16("{\"a\": 1}\n", true, false), &["UTF-16", "iconv"]),
        ("noise.csv", noise(300_000), &["binary"]),
        ("zeros.jsonl", vec![0; 100_000], &["binary"]),
        ("packed.csv.gz", gzip(&noise(300_000)), &["binary"]),
        ("parquet.csv", parquet, &["Parquet", "--format parquet"]),
        ("archive.csv", zip, &["zip", "unzip"]),
        ("bzip2.csv.bz2", b"BZh91AY&SY".to_vec(), &["bzip2"]),
        ("xz.csv", b"\xfd7zXZ\0\0\0\0\0".to_vec(), &["xz"]),
        ("text.parquet", good.clone().into_bytes(), &["not a Parquet file", "--format csv"]),
        ("bare_gzip.csv.gz", gzip(b""), &["empty"]),
        ("zero_frames.csv.zst", zstd::bulk::compress(b"", 1).expect("compress"), &["empty"]),
        ("numbers.csv", b"1,2,3\n4,5,6\n".to_vec(), &["embedding", "1, 2, 3"]),
        ("data.csv", good.lines().skip(1).collect::<Vec<_>>().join("\n").into_bytes(), &["--no-header"]),
        (
            "twice.csv",
            b"channel_id,user_id,content,embedding,content\n1,1,a,[1],b\n".to_vec(),
            &["two", "content"],
        ),
        ("blank.csv", b",,,\n1,1,a,[1]\n".to_vec(), &["header"]),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, words) in refused {
        let names: Vec<&str> = words.iter().copied().chain([name]).collect();
        let run = || one_error(case.bad(name, bytes), 2, &names);
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "the messages are above: {wrong:?}");
    assert_eq!(case.db.count("chunks"), 0);
}

#[test]
fn what_is_no_file_is_refused_without_a_wait() {
    let case = case();
    let pipe = case.dir.path().join("pipe.csv");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    one_error(case.load(&pipe).within_seconds(20).run(), 2, &["pipe.csv", "standard input"]);
    one_error(case.load(Path::new("/dev/null")).run(), 2, &["/dev/null"]);
    let directory = case.dir.path().join("directory.csv");
    std::fs::create_dir(&directory).expect("make a directory");
    one_error(case.load(&directory).run(), 2, &["directory.csv"]);
    let dangling = case.dir.path().join("dangling.csv");
    std::os::unix::fs::symlink("nowhere", &dangling).expect("a link");
    one_error(case.load(&dangling).run(), 2, &["dangling.csv"]);
}

#[test]
fn compressed_data_that_is_cut_off_or_damaged_fails_and_what_is_whole_stays() {
    let case = case();
    case.db.table("wide", 1_024);
    // Two units are whole.
    let rows = Rows::new(4_000, 1_024);
    let plain = Style::CSV.bytes(&rows);
    for (name, packing) in [("a.csv.gz", Packing::Gzip(usize::MAX)), ("b.csv.zst", Packing::Zstd(usize::MAX))]
    {
        let packed = packing.pack(&plain);
        let mut flipped = packed.clone();
        let at = packed.len() * 19 / 20;
        flipped.iter_mut().skip(at).take(50).for_each(|byte| *byte ^= 0x55);
        for (cause, bytes) in [("cut", packed[..packed.len() - 9].to_vec()), ("flipped", flipped)] {
            let name = format!("{cause}_{name}");
            let path = file(case.dir.path(), &name, &bytes);
            let load = || Load::of(&path).into(&case.db).table("wide").with("--index", "none");
            let failed = one_error(load().at_most_memory(900 << 20).run(), 1, &[&name]).state("failed");
            let loaded = failed.report["rows"]["loaded"].as_i64();
            assert_eq!(loaded, Some(case.db.count("wide")), "{failed}");
            assert!(loaded.is_some_and(|rows| rows < 4_000), "{failed}");
            // It fails the same way again, and doubles nothing.
            load().run().exits(1).state("failed");
            assert_eq!(case.db.count("(select distinct content from wide) as each"), case.db.count("wide"));
            case.db.run("delete from wide");
        }
        // Within the first bytes it is found out before anything is written.
        let name = format!("short_{name}");
        one_error(case.bad(&name, &packed[..500]), 2, &[&name, "in the middle of its compressed data"]);
    }
}

#[test]
fn what_follows_compressed_data_is_called_what_it_is() {
    let case = case();
    let rows = Rows::new(500, 8);
    let whole = gzip(&Style::CSV.bytes(&rows));
    for (name, tail) in [("short.csv.gz", &b"garbage"[..]), ("long.csv.gz", b"more than a header of it")] {
        let told = case.bad(name, [&whole[..], tail].concat());
        let code = told.code();
        assert!([1, 2].contains(&code), "{told}");
        one_error(told, code, &[name]).never_says("truncated");
    }
    // Tapes and some programs pad with zeros, which gzip leaves out.
    let padded = case.bad("padded.csv.gz", [&whole[..], &[0; 512]].concat());
    assert!([0, 1].contains(&padded.code()), "{padded}");
    // A member or frame of nothing is nothing.
    let [first, second] = [Rows::new(500, 8).from(1_000), Rows::new(500, 8).from(2_000)];
    let both = [Style::CSV.bytes(&first), Style { header: false, ..Style::CSV }.bytes(&second)];
    let path = file(
        case.dir.path(),
        "members.csv.gz",
        [gzip(b""), gzip(&both[0]), gzip(b""), gzip(&both[1])].concat(),
    );
    case.db.run("delete from chunks");
    case.load(&path).run().exits(0).rows(1_000, 0, 0);
    Rows::are_all_in(&[&first, &second], &case.db, "chunks");
}

#[test]
fn a_window_that_memory_does_not_hold_is_refused_with_the_memory_that_does() {
    let case = case();
    let rows = Rows::new(300_000, 8);
    let bytes = Style::CSV.bytes(&rows);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(27).expect("a window");
    encoder.long_distance_matching(true).expect("a window");
    std::io::Write::write_all(&mut encoder, &bytes).expect("compress");
    let path = file(case.dir.path(), "long.csv.zst", encoder.finish().expect("compress"));
    let load = |memory| Load::of(&path).into(&case.db).with("--index", "none").with("--memory", memory);
    let small = load("128MiB").at_most_memory(400 << 20).within_seconds(60).run();
    one_error(small, 2, &["long.csv.zst", "window", "--memory"]);
    let large = load("512MiB").run().exits(0).rows(300_000, 0, 0);
    assert!(large.report["peak_rss_bytes"].as_u64().is_some_and(|peak| peak < 600 << 20), "{large}");
}

#[test]
fn a_quote_that_is_not_closed_is_named_by_its_line() {
    let case = case();
    let rows = Rows::new(50, 8).tricky();
    let mut lines = Style::CSV.lines(&rows);
    lines.insert(20, "1,2,\"open,\"[1,2]\n".into());
    let line = lines[..20].concat().matches('\n').count() + 1;
    let short = lines.concat();
    // Whether the quotes after it happen to pair or not: rejects, or an error that names the line.
    let told = case.bad("short.csv", &short);
    assert!([1, 3].contains(&told.code()), "{told}");
    let open =
        format!("{HEADER}1,1,\"a\nb\",\"[1,2,3,4,5,6,7,8]\"\n1,1,\"c\nd\",\"[1,2,3,4,5,6,7,8]\n1,1,e,x\n");
    one_error(case.bad("end.csv", &open), 1, &["end.csv", "quote", "line 5", "record 2"]);
    // What follows it is longer than any record may be.
    let plain = Style { header: false, ..Style::CSV }.bytes(&Rows::new(2_000, 8));
    let tail: Vec<u8> = plain.into_iter().filter(|byte| *byte != b'"').collect();
    let mut long = [lines[..20].concat().as_bytes(), b"1,2,\"closed\n\n\n\",\"open\n"].concat();
    let opened = line + 3;
    while long.len() < 70 << 20 {
        long.extend_from_slice(&tail);
    }
    let path = file(case.dir.path(), "long.csv", &long);
    let named = format!("line {opened}");
    for memory in ["64MiB", "512MiB"] {
        let load = Load::of(&path).into(&case.db).with("--index", "none").with("--memory", memory);
        let told = load.at_most_memory(900 << 20).within_seconds(60).run();
        one_error(told, 1, &["long.csv", &named]);
        assert_eq!(case.db.count("chunks where content like '%open%'"), 0);
    }
    // The same from a pipe, whose writer is told.
    let load = Load::of("-").into(&case.db).with("--index", "none").with("--name", "open");
    let (load, producer) = piped(load, long);
    one_error(load.within_seconds(60).run(), 1, &["standard input", &named]);
    wrote_all(producer);
}

#[test]
fn a_bomb_takes_no_more_memory_than_it_may() {
    let case = case();
    let good = Style::CSV.bytes(&Rows::new(1_000, 8));
    let lines = Style::JSONL.bytes(&Rows::new(1_000, 8));
    let bomb = |start: &[u8], part: &[u8], bytes: usize| -> Vec<u8> {
        let chunk = gzip(&part.repeat((8 << 20) / part.len()));
        [gzip(start), chunk.repeat(bytes / (8 << 20))].concat()
    };
    let (one, all) = (300 << 20, 1 << 30);
    let bombs: Vec<(&str, Vec<u8>, &[i32])> = vec![
        // At once, where it is looked at first.
        ("zeros.csv.gz", bomb(b"", b"\0", all), &[2]),
        ("letters.csv.gz", bomb(b"", b"a", all), &[2]),
        ("letters.jsonl.gz", bomb(b"", b"a", all), &[2]),
        ("quote.csv.gz", bomb(b"\"", b"a", all), &[2]),
        ("commas.csv.gz", bomb(b"", b",", all), &[2]),
        ("ends.csv.gz", bomb(b"", b"\n", all), &[2]),
        ("key.jsonl.gz", bomb(b"{\"", b"a", all), &[2]),
        ("deep.jsonl.gz", bomb(b"{\"a\":", b"[", all), &[2]),
        // Behind good rows.
        ("late_letters.csv.gz", bomb(&good, b"a", all), &[1]),
        ("late_quote.csv.gz", bomb(&[&good[..], b"1,1,\""].concat(), b"a", all), &[1]),
        ("late_commas.csv.gz", bomb(&good, b",", all), &[1]),
        ("late_line.jsonl.gz", bomb(&lines, b"a", all), &[1]),
        // Rejects without number, or records that take more memory for their places than for themselves.
        ("late_ends.csv.gz", bomb(&good, b"\n", all), &[0]),
        ("late_short.csv.gz", bomb(&good, b"a\n", one), &[1, 3, 4]),
        ("late_empty.jsonl.gz", bomb(&lines, b"{}\n", one), &[1, 3, 4]),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, codes) in bombs {
        let path = file(case.dir.path(), name, bytes);
        let load = case.load(&path).with("--max-rejects", "1000").within_seconds(40);
        let run = || {
            let told = load.run();
            assert!(codes.contains(&told.code()), "{codes:?}{told}");
            if told.code() != 0 {
                let told = told.says(name);
                assert!(!told.stderr.contains("a record is very long") || !name.contains("short"), "{told}");
            }
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            wrong.push(name);
        }
        std::fs::remove_file(path).expect("remove");
    }
    assert!(wrong.is_empty(), "what they said is above: {wrong:?}");
}

/// Reads a file to its end: records, or the error.
fn scan(path: &Path) -> Result<u64, String> {
    let place = Place::File(path.into());
    let source = TextSource::open(place, None, &TextOptions::default(), 8 << 20, Arc::new(|| false));
    let source = source.map_err(|error| error.to_string())?;
    for column in 0..source.columns.len() {
        drop(source.first_values(column, 5).map_err(|error| error.to_string())?);
    }
    let memory = Budget::new(128 << 20);
    let mut scanner = source.scanner().map_err(|error| error.to_string())?.with_unit_bytes(10_000);
    let (mut rows, mut byte) = (0, None);
    while let Some(unit) = scanner.next_unit(&memory).map_err(|error| error.to_string())? {
        for row in 0..unit.rows() as usize {
            let position = unit.position(row);
            assert!(byte < Some(position.byte), "records follow one another");
            assert_eq!(position.record, rows + 1);
            byte = Some(position.byte);
            assert!(unit.fields(row).iter().map(<[u8]>::len).sum::<usize>() == unit.record_bytes(row));
            rows += 1;
        }
    }
    Ok(rows)
}

#[test]
fn a_byte_that_is_wrong_anywhere_ends_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = Rows::new(300, 8).tricky();
    let [csv, lines] = [Style::CSV, Style::JSONL].map(|style| style.bytes(&rows));
    let whole = [
        ("a.csv", csv.clone()),
        ("b.jsonl", lines.clone()),
        ("c.csv.gz", Packing::Gzip(20_000).pack(&csv)),
        ("d.jsonl.zst", Packing::Zstd(20_000).pack(&lines)),
    ];
    for (name, bytes) in whole {
        let path = file(dir.path(), name, &bytes);
        assert_eq!(scan(&path), Ok(300), "{name}");
        for round in 0..600 {
            let mut bad = bytes.clone();
            let at = hash(round, 20) as usize % bad.len();
            let byte = hash(round, 21) as u8;
            match round % 4 {
                0 => bad[at] = byte,
                1 => bad.truncate(at),
                2 => bad.insert(at, b"\"\n,\r\0{}["[byte as usize % 8]),
                _ => drop(bad.drain(at..(at + byte as usize).min(bytes.len()))),
            }
            std::fs::write(&path, &bad).expect("write");
            let ended = catch_unwind(AssertUnwindSafe(|| scan(&path)));
            let kept = || dir.path().join(format!("{round}_{name}"));
            assert!(ended.is_ok(), "round {round} of {name}: {}", kept().display());
        }
    }
}
