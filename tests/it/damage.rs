//! Damaged files: refused or given up with one clear message; never a panic, a hang, or memory as a header claims.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use vecload::source::parquet::{ParquetFile, PartReader, Projection, quiet_decoder_panics};

use super::corpus::corpus;
use super::program::Load;
use super::rows::hash;
use super::server::Db;

const MEMORY_MAX: u64 = 300 << 20;

/// Of these the README of the corpus says that a reader may also read them truthfully: all of these rows.
const READABLE: [(&str, i64); 6] = [
    ("page_size_lie_uncompressed.parquet", 20),
    ("page_rows_lie_v2.parquet", 20),
    ("offset_index_lie.parquet", 60),
    ("offset_index_beyond_file.parquet", 20),
    ("page_crc_wrong.parquet", 20),
    ("row_counts_disagree.parquet", 20),
];

#[derive(Deserialize)]
struct Damaged {
    source: String,
    cause: String,
}

#[test]
fn crafted_files_end_in_one_clear_message() {
    let directory = corpus().join("damaged");
    let text = std::fs::read_to_string(directory.join("manifest.json")).expect("the manifest");
    let files: Vec<Damaged> = serde_json::from_str(&text).expect("the manifest's shape");
    let db = Db::new();
    db.table("chunks", 8);
    let mut wrong = Vec::new();
    for Damaged { source, cause } in &files {
        let before = db.count("chunks");
        let load =
            Load::of(directory.join(source)).into(&db).with("--memory", "64MiB").with("--index", "none");
        let outcome = load.with("--max-rejects", "all").at_most_memory(MEMORY_MAX).within_seconds(20);
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| outcome.run())) else {
            wrong.push(format!("{source} ({cause}): no orderly end; the message is above"));
            continue;
        };
        let rows = db.count("chunks") - before;
        let fine = match outcome.code() {
            0 => READABLE.contains(&(source.as_str(), rows)),
            1 | 2 => {
                outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count() == 1
                    && outcome.stderr.contains(source.as_str())
            }
            _ => false,
        };
        if !fine {
            wrong.push(format!("{source} ({cause}), {rows} rows loaded{outcome}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}

const GOOD: [(&str, usize); 4] = [
    ("pyarrow_fixed_size_list_snappy.parquet", 8),
    ("pyarrow_tiny_pages_v2.parquet", 8),
    ("duckdb_list_double.parquet", 8),
    ("polars_small_pages.parquet", 16),
];

/// A good file with some bits flipped, or cut off, or with a piece of it put elsewhere.
fn spoilt(good: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let size = bytes.len() as u64;
    let random = |salt: u64, below: u64| (hash(number, salt) % below) as usize;
    let footer = u32::from_le_bytes(good[good.len() - 8..][..4].try_into().expect("4 bytes"));
    match number % 8 {
        // Anywhere; most of it is pages.
        0..=2 => {
            for flip in 0..1 + number % 4 {
                bytes[random(10 + flip, size)] ^= 1 << random(20 + flip, 8);
            }
        }
        // In the footer, which says where everything lies.
        3..=5 => {
            for flip in 0..1 + number % 3 {
                let at = size as usize - 1 - random(30 + flip, u64::from(footer) + 8);
                bytes[at] ^= 1 << random(40 + flip, 8);
            }
        }
        6 => bytes.truncate(random(50, size)),
        _ => {
            let (from, to) = (random(60, size - 64), random(61, size - 64));
            bytes.copy_within(from..from + 1 + random(62, 60), to);
        }
    }
    bytes
}

/// Reads a file as a lane does.
fn read(path: &Path, dim: usize) -> vecload::error::Result<u64> {
    let file = Arc::new(ParquetFile::open(path, 8 << 20)?);
    let names = ["embedding", "channel_id", "user_id", "content", "metadata"];
    let fields = file.fields();
    let found: Vec<_> =
        names.iter().filter_map(|name| fields.iter().position(|field| field.name() == name)).collect();
    let [embedding, columns @ ..] = &found[..] else { return Ok(0) };
    if !vecload::batch::embedding::readable(fields[*embedding].data_type()) {
        return Ok(0);
    }
    let projection = Projection { embedding: *embedding, columns: columns.to_vec() };
    let mut rows = 0;
    for unit in 0..file.row_group_rows().len() as u32 {
        if file.page_bytes(unit, &projection)?.total > 64 << 20 {
            continue;
        }
        for part in file.parts(0, unit, &projection) {
            let mut reader = PartReader::open(Arc::clone(&file), part, projection.clone(), 7, dim)?;
            while let Some(batch) = reader.next_batch()? {
                rows += batch.rows as u64;
                assert_eq!(batch.columns.num_rows(), batch.rows, "columns go in step");
                let good = batch.rows - batch.embeddings.faults.len();
                assert_eq!(batch.embeddings.elements(), good * dim, "embeddings go in step");
            }
        }
    }
    Ok(rows)
}

#[test]
fn random_damage_never_makes_the_reader_panic_or_hang() {
    quiet_decoder_panics();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spoilt.parquet");
    for (name, dim) in GOOD {
        let good = std::fs::read(corpus().join(name)).expect("a good file");
        let mut outcomes = [0; 2];
        for number in 0..400 {
            std::fs::write(&path, spoilt(&good, number)).expect("write");
            let since = Instant::now();
            let outcome = catch_unwind(|| read(&path, dim));
            let outcome = outcome.unwrap_or_else(|_| panic!("{name}, variant {number}: the reader panicked"));
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{name}, variant {number}: {:?}",
                since.elapsed()
            );
            outcomes[usize::from(outcome.is_err())] += 1;
            if let Err(error) = outcome {
                assert!([1, 2].contains(&error.exit_code()), "{name}, variant {number}: {error:?}");
                assert!(error.to_string().contains("spoilt.parquet"), "{name}, variant {number}: {error}");
            }
        }
        assert!(outcomes[1] > 100, "{name}: most damage is found: {outcomes:?}");
    }
}

#[test]
fn random_damage_never_takes_more_memory_or_ends_in_disorder() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spoilt.parquet");
    let db = Db::new();
    db.table("chunks", 8);
    for (name, _) in &GOOD[..3] {
        let good = std::fs::read(corpus().join(name)).expect("a good file");
        for number in 1000..1020 {
            std::fs::write(&path, spoilt(&good, number)).expect("write");
            let load =
                Load::of(&path).into(&db).with("--memory", "64MiB").with("--index", "none").arg("--again");
            let outcome =
                load.with("--max-rejects", "all").at_most_memory(MEMORY_MAX).within_seconds(20).run();
            assert!([0, 1, 2, 3].contains(&outcome.code()), "{name}, variant {number}{outcome}");
        }
    }
}
