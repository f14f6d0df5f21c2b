//! One session: its client, the task that drives its connection, and what is known of its server.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, SimpleQueryMessage, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, info, warn};

use super::server_error::{one_line, pg_error};
use crate::error::{Error, Result};

/// A transaction that waits for its client holds locks and dead rows; ours never wait this long.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// A healthy server answers a goodbye or a cancel request at once; a sick one shall not hold up the exit.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// How the server notices within a minute that its client is gone: 20 s + 5 * 5 s.
const SERVER_KEEPALIVES: &str =
    "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 5";

/// While it computes, the server looks at its socket this often (PostgreSQL 14).
const SERVER_CHECKS_CLIENT: &str = "SET client_connection_check_interval = '10s'";

/// What a session is opened for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// Its name in `pg_stat_activity`, unless the user has chosen one; `None` is `vecload`.
    pub application_name: Option<String>,
    /// The longest any transaction may take. Servers before PostgreSQL 17 have no such limit: there it bounds
    /// only how long a transaction may wait for us.
    pub transaction_timeout: Option<Duration>,
}

/// An open session; derefs to its [`Client`].
///
/// Dropping it breaks the connection off, and the server rolls back; [`Session::close`] says goodbye first.
pub struct Session {
    client: Client,
    driver: Driver,
    tls: MakeRustlsConnect,
    server: Server,
    peer: String,
    /// Why the connection ended, if it did.
    ended: Arc<OnceLock<tokio_postgres::Error>>,
    /// The server has warned of something.
    warned: Arc<AtomicBool>,
    /// By their text.
    prepared: Mutex<HashMap<&'static str, Statement>>,
    /// A pooler lends it a server process for each transaction: it is not a session at all.
    pub(super) is_lent: bool,
}

#[derive(Debug)]
struct Server {
    version: u32,
    backend_pid: i32,
    standby: bool,
    read_only: bool,
    /// Where it listens, as it says itself: the port, and the address that the session reached.
    port: Option<u16>,
    reached: Option<(IpAddr, u16)>,
}

/// The task that reads and writes the socket; it ends with the session.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Takes over a fresh connection, and asks what is at its other end.
    pub(super) async fn start<T>(
        client: Client,
        connection: Connection<Socket, T>,
        tls: MakeRustlsConnect,
        peer: String,
    ) -> Result<Self, tokio_postgres::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ended, warned) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
        let drive = drive(connection, peer.clone(), Arc::clone(&ended), Arc::clone(&warned));
        let driver = Driver(tokio::spawn(drive));
        let server = probe(&client).await?;
        let (prepared, is_lent) = (Mutex::default(), false);
        Ok(Self { client, driver, tls, server, peer, ended, warned, prepared, is_lent })
    }

    /// Whether the server says that it listens where the connection went; if not, something is in between.
    pub(super) fn is_direct(&self, address: Option<IpAddr>, port: u16) -> bool {
        match address {
            Some(address) => self.server.reached == Some((address, port)),
            None => self.server.reached.is_none() && self.server.port == Some(port),
        }
    }

    /// Settings that a role's or database's defaults, or the user's `options`, must not change under a load.
    /// `search_path` stays the user's.
    pub(super) async fn set_up(&self, options: &SessionOptions) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(&settings(self.server.version, options)).await?;
        // These need a socket of the right kind and a platform that can: a session without them is slower to notice.
        let mut wishes = vec![SERVER_KEEPALIVES];
        if self.server.version >= 140_000 {
            wishes.push(SERVER_CHECKS_CLIENT);
        }
        for wish in wishes {
            match self.client.batch_execute(wish).await {
                Err(error) if error.as_db_error().is_some() => {
                    debug!("the server doesn't take `{wish}`: {error}");
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// The server's `server_version_num`: 170004 is 17.4.
    pub fn server_version_num(&self) -> u32 {
        self.server.version
    }

    /// The server process behind this session.
    pub fn backend_pid(&self) -> i32 {
        self.server.backend_pid
    }

    /// Is the server a standby, which takes no writes?
    pub fn is_standby(&self) -> bool {
        self.server.standby
    }

    /// Do transactions of this session start read-only?
    pub fn is_read_only(&self) -> bool {
        self.server.read_only
    }

    /// The server of the list this session is on: `db.example.org:5432`.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Why the connection ended, if it has: later calls only hear that it's closed.
    pub fn ended_by(&self) -> Option<&tokio_postgres::Error> {
        self.ended.get()
    }

    /// Whether the server has sent a warning: Citus does after a commit that has not reached every node.
    pub fn has_warned(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    /// A statement that this session is given often: prepared the first time, and kept while the session lives.
    pub async fn prepare_once(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let known = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known().get(sql).cloned() {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        known().insert(sql, statement.clone());
        Ok(statement)
    }

    /// A failure on this session as our error. Where the client only knows that the connection is closed, the
    /// reason is given instead (`terminating connection due to administrator command`).
    pub fn error(&self, doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
        match self.ended_by().filter(|_| error.is_closed()) {
            Some(cause) => super::server_error::pg_error_of(doing, cause),
            None => pg_error(doing, error),
        }
    }

    /// Asks the server to stop what this session is doing; it may be done before the request arrives.
    pub async fn cancel(&self) -> Result<()> {
        self.canceller().cancel().await
    }

    /// The means to cancel while the session is lent to someone else.
    pub fn canceller(&self) -> Canceller {
        Canceller { token: self.client.cancel_token(), tls: self.tls.clone(), peer: self.peer.clone() }
    }

    /// Says goodbye to the server and waits until the connection is down.
    pub async fn close(self) {
        let Self { client, mut driver, peer, .. } = self;
        drop(client);
        if timeout(GOODBYE_MAX, &mut driver.0).await.is_err() {
            debug!("{peer} doesn't answer the goodbye");
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Cancels what a session is doing, over a connection of its own.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
    peer: String,
}

impl Canceller {
    /// Sends the request; nothing tells whether it found anything to cancel.
    pub async fn cancel(&self) -> Result<()> {
        let doing = || format!("cancel the statement running on {}", self.peer);
        match timeout(GOODBYE_MAX, self.token.cancel_query(self.tls.clone())).await {
            Ok(sent) => sent.map_err(|error| pg_error(doing(), error)),
            Err(_) => Err(Error::failed(format!("{}: timed out", doing()))),
        }
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("peer", &self.peer).finish_non_exhaustive()
    }
}

async fn drive<T>(
    mut connection: Connection<Socket, T>,
    peer: String,
    ended: Arc<OnceLock<tokio_postgres::Error>>,
    warned: Arc<AtomicBool>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if notice.parsed_severity() == Some(Severity::Warning) {
                    warned.store(true, Ordering::Relaxed);
                }
                log_notice(&peer, &notice);
            }
            Ok(_) => {}
            Err(error) => {
                debug!("the connection to {peer} ended: {error}");
                // Before the connection is dropped, which is when waiting calls hear of the end and ask for the
                // reason. The slot is empty: this is its only writer.
                ended.get_or_init(|| error);
                return;
            }
        }
    }
}

fn log_notice(peer: &str, notice: &DbError) {
    let detail = notice.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let said = one_line(&format!("{peer}: {}{detail}", notice.message()));
    match notice.parsed_severity() {
        // Rolled back in case there was one.
        Some(Severity::Warning) if *notice.code() == SqlState::NO_ACTIVE_SQL_TRANSACTION => debug!("{said}"),
        Some(Severity::Warning | Severity::Error | Severity::Fatal | Severity::Panic) => warn!("{said}"),
        Some(Severity::Notice | Severity::Info) => info!("{said}"),
        Some(Severity::Debug | Severity::Log) | None => debug!("{said}"),
    }
}

async fn probe(client: &Client) -> Result<Server, tokio_postgres::Error> {
    let query = "SELECT current_setting('server_version_num'), pg_backend_pid(), pg_is_in_recovery(), \
                 current_setting('transaction_read_only'), current_setting('port'), \
                 host(inet_server_addr()), inet_server_port()";
    let mut server =
        Server { version: 0, backend_pid: 0, standby: false, read_only: false, port: None, reached: None };
    for message in client.simple_query(query).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let text = |column| row.try_get(column).map(Option::unwrap_or_default);
            server.version = text(0)?.parse().unwrap_or_default();
            server.backend_pid = text(1)?.parse().unwrap_or_default();
            server.standby = text(2)? == "t";
            server.read_only = text(3)? == "on";
            server.port = text(4)?.parse().ok();
            server.reached = text(5)?.parse().ok().zip(text(6)?.parse().ok());
        }
    }
    Ok(server)
}

fn settings(version: u32, options: &SessionOptions) -> String {
    // Read committed, so that a statement which waited for a lock sees what was committed meanwhile, rather than
    // fails with a serialization error as under stricter levels.
    let limit = options.transaction_timeout;
    let idle = limit.map_or(IDLE_IN_TRANSACTION_MAX, |limit| limit.min(IDLE_IN_TRANSACTION_MAX));
    let mut text = String::from(
        "SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET standard_conforming_strings = on; \
         SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0; SET lock_timeout = 0; \
         SET client_min_messages = 'notice'",
    );
    if version >= 140_000 {
        // Between its transactions a session may wait long: for slow sources, or for others to free memory.
        text.push_str("; SET idle_session_timeout = 0");
    }
    // Zero would mean no limit.
    let millis = |duration: Duration| duration.as_millis().clamp(1, i32::MAX as u128);
    text.push_str(&format!("; SET idle_in_transaction_session_timeout = {}", millis(idle)));
    if version >= 170_000 {
        text.push_str(&format!("; SET transaction_timeout = {}", limit.map_or(0, millis)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_limit_is_set_where_the_server_has_one() {
        let seconds = |seconds| SessionOptions {
            transaction_timeout: Some(Duration::from_secs(seconds)),
            application_name: None,
        };
        assert!(settings(170_000, &seconds(90)).contains("SET transaction_timeout = 90000"));
        assert!(settings(170_000, &seconds(90)).contains("idle_in_transaction_session_timeout = 60000"));
        assert!(settings(160_009, &seconds(30)).ends_with("idle_in_transaction_session_timeout = 30000"));
        assert!(settings(170_000, &SessionOptions::default()).ends_with("SET transaction_timeout = 0"));
    }

    #[test]
    fn idle_sessions_are_kept_where_the_server_would_end_them() {
        assert!(settings(140_000, &SessionOptions::default()).contains("SET idle_session_timeout = 0"));
        assert!(!settings(130_000, &SessionOptions::default()).contains("idle_session_timeout"));
    }
}
