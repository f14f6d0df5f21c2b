//! Poolers that lend a server process for each transaction (PgBouncer's `pool_mode = transaction`). Locks, settings and
//! prepared statements would stay behind in sessions of other programs; so such a way is not taken.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

/// Where a pooler keeps sessions and has none left, the second one waits.
const PROOF_MAX: Duration = Duration::from_secs(5);

/// A pooler may hand out its processes in turn.
const ROUNDS: u32 = 4;

/// Whether a session does not have a server process of its own: while another one is in a transaction, that one has its
/// process, or it gets another one. What can't be found out is no reason to turn a server down.
pub(super) async fn lends_processes(session: &Client, config: &Config, tls: MakeRustlsConnect) -> bool {
    let proof = async {
        let (other, connection) = config.connect(tls).await?;
        let driver = tokio::spawn(connection);
        let lends = compare(session, &other).await;
        drop(other);
        // It says goodbye, so that its place is free again.
        drop(driver.await);
        lends
    };
    match timeout(PROOF_MAX, proof).await {
        Ok(Ok(lends)) => lends,
        Ok(Err(error)) => {
            debug!("a second session, to see whether processes are lent: {error}");
            false
        }
        Err(_elapsed) => {
            debug!("a second session has to wait: a pooler with few of them, or a slow one");
            false
        }
    }
}

async fn compare(session: &Client, other: &Client) -> Result<bool, tokio_postgres::Error> {
    let own = process_of(session).await?;
    for _ in 0..ROUNDS {
        other.batch_execute("begin").await?;
        let taken = process_of(other).await?;
        let now = process_of(session).await?;
        other.batch_execute("rollback").await?;
        if taken == own || now != own {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process that answers now; on two servers behind one address the same number says nothing.
async fn process_of(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let query = "select pg_backend_pid() || ' of the server started at ' || pg_postmaster_start_time()";
    let told = client.simple_query(query).await?;
    Ok(told.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
