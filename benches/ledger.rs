//! What the ledger costs: the same encoded blocks are copied with and without fence and ledger row, in turns, and CPU
//! seconds of this process and of the two backends are compared. What two backends need for the same COPY differs by
//! more than the ledger on a machine that others use too, so what fence and ledger row take is also counted by itself.
//! Criterion measures time on the clock, of which a server's backend is no part; so this is a program of its own.
//!
//! Linux only, on the server's machine. Uses the embedded server in `target/bench-server` unless
//! `VECLOAD_BENCH_URL` names another; it is left running.

#![expect(clippy::expect_used, reason = "a benchmark that can't run ends there and then")]
#![expect(clippy::print_stdout, reason = "the figures are its result")]

mod rows;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration as Cpu;

use bytes::Bytes;
use futures::SinkExt;
use vecload::copy::{CopyBlock, HEADER, IdRange, TRAILER};
use vecload::ledger::blocks::{BlockLedger, Run};
use vecload::partition::{FieldSource, Partitioner, Partitions};
use vecload::postgres::{ConnectSettings, Session, SessionOptions};
use vecload::route::CopyTable;

/// As the pipeline's: size at which a block is sealed, elements of a batch, partitions, bytes of a message.
const BLOCK_BYTES: usize = 8 << 20;
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS_MAX: usize = 4096;
const PARTITIONS: usize = 8;
const MESSAGE_BYTES: usize = 256 << 10;

/// Blocks that one side copies before it is the other's turn.
const BLOCKS_PER_TURN: usize = 8;
const TURNS: usize = 12;

/// One way of copying, with a session and a table of its own.
struct Side {
    session: Session,
    copy: String,
    ledger: Option<BlockLedger>,
    table: &'static str,
    /// CPU of the copies, of client and backend.
    spent: [Cpu; 2],
    /// The part of fence and ledger row.
    on_ledger: [Cpu; 2],
    rows: u64,
    blocks: i32,
}

fn main() {
    // `cargo test --benches` only wants to know that it compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // One thread, so that what the process uses is what the copy uses.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for dim in [128, 1536] {
        runtime.block_on(compare(dim));
    }
}

async fn compare(dim: usize) {
    let blocks = blocks(dim);
    let mut bare = Side::new("bench_bare", dim, false).await;
    let mut recorded = Side::new("bench_recorded", dim, true).await;
    let rows: u64 = blocks.iter().map(|block| block.rows).sum();
    let slices: usize = blocks.iter().map(|block| block.slices.len()).sum();
    println!(
        "{dim} dimensions: {} rows a block, with {:.1} slices and {:.1} ranges of ids",
        rows / blocks.len() as u64,
        slices as f64 / blocks.len() as f64,
        blocks.iter().map(|block| block.ids.len()).sum::<usize>() as f64 / blocks.len() as f64,
    );
    for turn in 0..=TURNS {
        // Who goes first changes, so that neither always finds the other's dirty pages.
        match turn % 2 {
            0 => {
                bare.turn(&blocks).await;
                recorded.turn(&blocks).await;
            }
            _ => {
                recorded.turn(&blocks).await;
                bare.turn(&blocks).await;
            }
        }
        // The first turn warms caches and is not counted.
        if turn == 0 {
            bare.forget();
            recorded.forget();
        }
    }
    for (name, side) in [("without", &bare), ("with", &recorded)] {
        let [client, backend] = side.spent.map(|cpu| side.micros_per_row(cpu));
        println!("  {name:>8}: client {client:.3} µs, backend {backend:.3} µs of CPU a row");
    }
    let [client, backend] = recorded.on_ledger.map(|cpu| recorded.micros_per_row(cpu));
    println!("  of it fence and ledger row: client {client:.3} µs, backend {backend:.3} µs");
    let all: Cpu = recorded.spent.iter().sum();
    let ledger: Cpu = recorded.on_ledger.iter().sum();
    println!(
        "  the ledger is {:.2} % of a copy",
        ledger.as_secs_f64() / (all - ledger).as_secs_f64() * 100.0
    );
    for side in [bare, recorded] {
        side.session.batch_execute(&format!("drop table {}", side.table)).await.expect("dropped");
        side.session.close().await;
    }
}

/// A block of each partition, filled as a load fills them.
fn blocks(dim: usize) -> Vec<CopyBlock> {
    let batch_rows = (BATCH_BYTES / (dim * 4)).clamp(1, BATCH_ROWS_MAX);
    let partitioner = Partitioner {
        partitions: Partitions::even(PARTITIONS),
        fields: vec![FieldSource::Id(8), FieldSource::Cell(0), FieldSource::Cell(1), FieldSource::Embedding],
        half: false,
    };
    let mut blocks: Vec<CopyBlock> = (0..PARTITIONS).map(|_| CopyBlock::default()).collect();
    let (mut first_row, mut next_id) = (0, 1);
    while blocks.iter().any(|block| block.bytes < BLOCK_BYTES) {
        let (batcher, mut batch) = rows::source_batch(batch_rows, dim, 1000);
        batch.origin.first_row = first_row;
        first_row += batch_rows as u64;
        let chunk = batcher.accept(batch).expect("good rows");
        for share in partitioner.split(&chunk, &(0..batch_rows as u32)) {
            let last = next_id + share.rows.len() as i64 - 1;
            let ids = vec![IdRange { first: next_id, last }];
            next_id = last + 1;
            let block = &mut blocks[share.partition];
            if block.bytes < BLOCK_BYTES {
                block.push(partitioner.encode(&chunk, &share, ids).expect("encoded"));
            }
        }
    }
    blocks
}

impl Side {
    async fn new(table: &'static str, dim: usize, is_recorded: bool) -> Self {
        let settings = ConnectSettings::resolve(Some(&url()), &|_| None).expect("a URL").expect("a server");
        let mut session = settings.connect(&SessionOptions::default()).await.expect("connected");
        vecload::ledger::prepare(&mut session).await.expect("a ledger");
        let create = format!(
            "create extension if not exists vector; drop table if exists {table};
             create table {table} (id bigint not null, channel_id bigint not null, content text not null,
                 embedding vector({dim}) not null);
             create index on {table} (id, channel_id)"
        );
        session.batch_execute(&create).await.expect("a table");
        let load = "insert into vecload_ledger.loads
                (target, target_name, state, token, host, process_id, version, index_plan)
            select $1::text::regclass, $1, 'undone', 1, 'bench', 0, 'bench', 'none' returning load_id, target";
        let mut ledger = None;
        if is_recorded {
            let load = session.query_one(load, &[&table]).await.expect("a load");
            let target = load.get(1);
            let run = Run { load_id: load.get(0), run: 1, token: 1, target };
            let copy_table = CopyTable {
                copy_sql: String::new(),
                has_deferrable: false,
                table: table.into(),
                target: table.into(),
                insert_sql: None,
                relation: table.into(),
                shard: None,
            };
            let prepared = BlockLedger::prepare(&session, run, Arc::from([1]), &copy_table).await;
            ledger = Some(prepared.expect("statements"));
        }
        let copy =
            format!("copy {table} (id, channel_id, content, embedding) from stdin with (format binary)");
        Self {
            session,
            copy,
            ledger,
            table,
            spent: Default::default(),
            on_ledger: Default::default(),
            rows: 0,
            blocks: 0,
        }
    }

    async fn turn(&mut self, blocks: &[CopyBlock]) {
        let truncate = format!("truncate {}", self.table);
        self.session.batch_execute(&truncate).await.expect("truncated");
        let before = self.cpu();
        for block in blocks.iter().cycle().take(BLOCKS_PER_TURN) {
            self.blocks += 1;
            self.session.batch_execute("begin").await.expect("begin");
            let sink = self.session.copy_in::<_, Bytes>(&self.copy).await.expect("copy");
            let mut sink = std::pin::pin!(sink);
            let (header, trailer) = (Bytes::from_static(HEADER), Bytes::from_static(TRAILER));
            for part in [header].into_iter().chain(block.segments.iter().cloned()).chain([trailer]) {
                for start in (0..part.len()).step_by(MESSAGE_BYTES) {
                    let message = part.slice(start..part.len().min(start + MESSAGE_BYTES));
                    sink.feed(message).await.expect("sent");
                }
            }
            assert_eq!(sink.finish().await.expect("copied"), block.rows);
            if let Some(ledger) = &self.ledger {
                let before = self.cpu();
                ledger.record(&self.session, block, 0, &[], self.blocks).await.expect("recorded");
                let after = self.cpu();
                (0..2).for_each(|who| self.on_ledger[who] += after[who] - before[who]);
            }
            self.session.batch_execute("commit").await.expect("committed");
            self.rows += block.rows;
        }
        let after = self.cpu();
        (0..2).for_each(|who| self.spent[who] += after[who] - before[who]);
    }

    /// Starts counting anew.
    fn forget(&mut self) {
        (self.spent, self.on_ledger, self.rows) = Default::default();
    }

    /// CPU so far of this process and of the session's backend, which has nothing to do just now. The scheduler's own
    /// count: what `/proc/PID/stat` tells comes in ticks of 10 ms.
    fn cpu(&self) -> [Cpu; 2] {
        [std::process::id().cast_signed(), self.session.backend_pid()].map(|process| {
            let threads =
                std::fs::read_dir(format!("/proc/{process}/task")).expect("the server is on this machine");
            let nanos = threads.map(|thread| {
                let path = thread.expect("a thread").path().join("schedstat");
                let stat = std::fs::read_to_string(path).expect("the kernel counts");
                stat.split(' ').next().expect("a field").parse::<u64>().expect("a number")
            });
            Cpu::from_nanos(nanos.sum())
        })
    }

    fn micros_per_row(&self, cpu: Cpu) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.rows as f64
    }
}

fn url() -> String {
    if let Ok(url) = std::env::var("VECLOAD_BENCH_URL") {
        return url;
    }
    let home = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-server");
    std::fs::create_dir_all(&home).expect("a writable target directory");
    let vecload = |word: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecload"));
        command.current_dir(&home).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = command.args(["db", word]).output().expect("vecload runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_string()
    };
    vecload("start");
    vecload("url")
}
