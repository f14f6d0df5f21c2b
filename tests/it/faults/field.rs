//! Where rounds take place: a server of their own behind a proxy, and the pace that loads have there.

use std::time::{Duration, Instant};

use super::own_server::OwnServer;
use super::proxy::Proxy;
use crate::program::Load;
use crate::rows::Rows;
use crate::server::make_table;

/// What a thread's rounds have in common.
pub(super) struct Field {
    pub(super) server: OwnServer,
    pub(super) proxy: Proxy,
    /// What a load takes: before its first row, and per million bytes of tuples.
    pub(super) start: Duration,
    pub(super) per_million: Duration,
}

impl Field {
    pub(super) fn new() -> Self {
        let server = OwnServer::start();
        let proxy = Proxy::to(&server.socket());
        let mut field = Self { server, proxy, start: Duration::ZERO, per_million: Duration::ZERO };
        field.server.session("postgres").run("create database pace");
        make_table(&field.server.session("pace"), "chunks", 64);
        let dir = tempfile::tempdir().expect("a directory");
        let measure = |count: u64, first: u64| {
            let path = Rows::new(count, 64).from(first).write(dir.path(), "rows.parquet");
            let load = Load::of(&path).with("--db", field.proxy.url("pace")).with("--index", "none");
            let since = Instant::now();
            load.run().exits(0);
            since.elapsed()
        };
        let (start, all) = (measure(1, 100_000), measure(25_000, 0));
        field.start = start;
        field.per_million = (all.saturating_sub(start)) / 10;
        field
    }
}
