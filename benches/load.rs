//! End to end: Parquet to committed rows on vecload's own server, and the peak memory that took.
//!
//! Uses the embedded server in `target/bench-server` unless `VECLOAD_BENCH_URL` names another; it is left
//! running (`vecload db stop` in `target/bench-server` ends it).

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]
#![expect(clippy::print_stdout, reason = "peak memory is no measure of criterion's; it is told beside it")]

mod rows;

use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn load(criterion: &mut Criterion) {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench-server");
    std::fs::create_dir_all(&home).expect("a writable target directory");
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for (rows, dim) in [(20_000, 1536), (100_000, 128)] {
        let path = home.join(format!("{rows}x{dim}.parquet"));
        rows::write_parquet(&path, rows, dim, 5_000);
        let mut peak = 0;
        for throughput in [Throughput::Bytes((rows * dim * 4) as u64), Throughput::Elements(rows as u64)] {
            let unit = if matches!(throughput, Throughput::Bytes(_)) { "bytes" } else { "rows" };
            group.throughput(throughput);
            group.bench_function(BenchmarkId::new(unit, format!("{rows}x{dim}")), |bencher| {
                bencher.iter_custom(|times| {
                    (0..times)
                        .map(|_| {
                            let report = run(&home, &path);
                            assert_eq!(report["rows"]["loaded"], rows as u64, "every row, once");
                            peak = peak.max(report["peak_rss_bytes"].as_u64().expect("a number"));
                            std::time::Duration::from_secs_f64(
                                report["load_seconds"].as_f64().expect("a number"),
                            )
                        })
                        .sum()
                });
            });
        }
        println!("{rows} x {dim}: peak memory {} MiB", peak >> 20);
    }
    group.finish();
}

/// Loads the file into a new table and gives the report.
fn run(home: &Path, path: &Path) -> serde_json::Value {
    let table = format!("bench_{}", std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos());
    let vecload = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecload"));
        command.current_dir(home).args(arguments).args(["--quiet", "--json", "--table", &table]);
        if let Ok(url) = std::env::var("VECLOAD_BENCH_URL") {
            command.env("DATABASE_URL", url);
        }
        let output = command.output().expect("vecload runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let report = vecload(&["load", "--create", "--index", "none", path.to_str().expect("a plain path")]);
    let report = serde_json::from_slice(&report).expect("one JSON object");
    // Taking the load back empties the table, so that the server does not fill up.
    let load = serde_json::Value::to_string(
        &serde_json::Value::get(&report, "load").expect("the load's id").clone(),
    );
    vecload(&["loads", "undo", &load]);
    report
}

criterion_group!(benches, load);
criterion_main!(benches);
