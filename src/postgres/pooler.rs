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

/// Whether a session does not have a server process of its own: another one is given it, or it is given another one,
/// while the other is in a transaction.
pub(super) async fn lends_processes(
    session: &Client,
    pid: i32,
    config: &Config,
    tls: MakeRustlsConnect,
) -> Result<bool, tokio_postgres::Error> {
    let proof = async {
        let (other, connection) = config.connect(tls).await?;
        let driver = tokio::spawn(connection);
        let lends = compare(session, pid, &other).await;
        drop(other);
        driver.abort();
        lends
    };
    timeout(PROOF_MAX, proof).await.unwrap_or_else(|_elapsed| {
        debug!("a second session has to wait: a pooler with few of them, or a slow one");
        Ok(false)
    })
}

async fn compare(session: &Client, pid: i32, other: &Client) -> Result<bool, tokio_postgres::Error> {
    for _ in 0..ROUNDS {
        other.batch_execute("begin").await?;
        let taken = process_of(other).await?;
        let own = process_of(session).await?;
        other.batch_execute("rollback").await?;
        if taken == pid || own != pid {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process that answers now.
async fn process_of(client: &Client) -> Result<i32, tokio_postgres::Error> {
    for message in client.simple_query("select pg_backend_pid()").await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.try_get(0)?.and_then(|pid| pid.parse().ok()).unwrap_or_default());
        }
    }
    Ok(0)
}
