//! Sessions that tests ask their questions with.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use tokio::runtime::Runtime;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{Client, Config, NoTls, Row};
use vecload::postgres::watch::Backend;

/// Longest wait for anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session with a database.
pub(crate) struct Session {
    client: Client,
    runtime: Runtime,
}

impl Session {
    /// Connects.
    pub(crate) fn open(url: &str) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(async {
            let config: Config = url.parse().expect("a connection URL");
            let connected = config.connect(NoTls).await;
            let (client, connection) =
                connected.unwrap_or_else(|error| panic!("connect to {url}: {error:?}"));
            tokio::spawn(connection);
            client
        });
        let session = Self { client, runtime };
        session.run("set timezone to 'UTC'; set application_name to 'test'; set extra_float_digits to 1");
        session
    }

    /// Runs statements.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) {
        let done = self.runtime.block_on(self.client.batch_execute(sql));
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Moves or splits shards, as soon as no table of theirs is being made: Citus does one after the other.
    #[track_caller]
    pub(crate) fn run_on_shards(&self, sql: &str) {
        let since = Instant::now();
        while let Err(error) = self.runtime.block_on(self.client.batch_execute(sql)) {
            let is_held = format!("{error:?}").contains("could not acquire the lock required");
            assert!(is_held && since.elapsed() < PATIENCE, "{sql}: {error:?}");
            self.run("select pg_sleep(0.05)");
        }
    }

    /// All rows of a query.
    #[track_caller]
    pub(crate) fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let rows = self.runtime.block_on(self.client.query(sql, parameters));
        rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The one value of a query.
    #[track_caller]
    pub(crate) fn one<T: FromSqlOwned>(&self, sql: &str) -> T {
        match &self.rows(sql, &[])[..] {
            [row] => row.get(0),
            rows => panic!("{sql}: {} rows", rows.len()),
        }
    }

    /// The first column of a query.
    #[track_caller]
    pub(crate) fn column<T: FromSqlOwned>(&self, sql: &str) -> Vec<T> {
        self.rows(sql, &[]).iter().map(|row| row.get(0)).collect()
    }

    /// A number of rows.
    #[track_caller]
    pub(crate) fn count(&self, what: &str) -> i64 {
        self.one(&format!("select count(*) from {what}"))
    }

    /// Ends another session as a load does that has lost it.
    #[track_caller]
    pub(crate) fn end(&self, backend: &Backend) {
        self.runtime.block_on(backend.end(&self.client)).expect("a backend that goes");
    }

    /// Waits until a condition holds, as this session sees it.
    #[track_caller]
    pub(crate) fn wait_until(&self, condition: &str) {
        let since = Instant::now();
        while !self.one::<bool>(&format!("select coalesce(({condition}), false)")) {
            assert!(since.elapsed() < PATIENCE, "waited in vain until {condition}");
            self.run("select pg_sleep(0.01)");
        }
    }

    /// Sends what a COPY statement takes.
    #[track_caller]
    pub(crate) fn copy_in(&self, copy: &str, bytes: Vec<u8>) {
        let done = self.runtime.block_on(async {
            let mut sink = pin!(self.client.copy_in(copy).await?);
            sink.send(bytes::Bytes::from(bytes)).await?;
            sink.finish().await
        });
        done.unwrap_or_else(|error| panic!("{copy}: {error:?}"));
    }

    /// The values of a query as the server's binary COPY writes them, row by row.
    #[track_caller]
    pub(crate) fn binary(&self, query: &str) -> Vec<Vec<Option<Vec<u8>>>> {
        let copy = format!("copy ({query}) to stdout (format binary)");
        let bytes = self.runtime.block_on(async {
            let stream = self.client.copy_out(&copy).await;
            let mut stream = pin!(stream.unwrap_or_else(|error| panic!("{copy}: {error:?}")));
            let mut bytes = Vec::new();
            while let Some(part) = stream.next().await {
                bytes.extend_from_slice(&part.unwrap_or_else(|error| panic!("{copy}: {error:?}")));
            }
            bytes
        });
        read_binary(&bytes)
    }
}

/// Reads what binary COPY has written: a header of 19 bytes, tuples, and -1 for the end.
fn read_binary(bytes: &[u8]) -> Vec<Vec<Option<Vec<u8>>>> {
    let mut at = 19;
    let mut rows = Vec::new();
    let mut take = |count: usize| {
        at += count;
        &bytes[at - count..at]
    };
    loop {
        let fields = i16::from_be_bytes(take(2).try_into().expect("2 bytes"));
        if fields < 0 {
            return rows;
        }
        let mut field = || {
            let length = i32::from_be_bytes(take(4).try_into().expect("4 bytes"));
            usize::try_from(length).ok().map(|length| take(length).to_vec())
        };
        rows.push((0..fields).map(|_| field()).collect());
    }
}

/// A runtime for one session or one child.
pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}
