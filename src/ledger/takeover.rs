//! Who holds a load: a dead run's is taken over, a living run holds on to its own.

use std::time::Duration;

use tokio_postgres::{Client, Transaction};

use super::ALIVE_LOCK;
use super::blocks::Run;
use crate::error::{Error, Result};
use crate::postgres::pg_error;

/// A killed run's lock goes when the server notices that its client is gone, which on one machine takes
/// milliseconds; only then is the holder called alive.
const HOLDER_GONE_WAIT: Duration = Duration::from_secs(5);

/// Turns away the run that held a load: refused if it is alive, else fenced off.
pub(super) async fn take_over(transaction: &Transaction<'_>, load_id: i64) -> Result<()> {
    let failed = |error| pg_error(format!("take over load {load_id}"), error);
    let lock = "select pg_try_advisory_xact_lock($1, $2)";
    let deadline = tokio::time::Instant::now() + HOLDER_GONE_WAIT;
    loop {
        let free = transaction.query_one(lock, &[&ALIVE_LOCK, &(load_id as i32)]).await.map_err(failed)?;
        if free.get(0) {
            break;
        }
        if tokio::time::Instant::now() > deadline {
            return Err(held(transaction, load_id).await?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What a dead run has left on the server would hold the token row until the server misses its client.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
            and application_name like 'vecload load ' || $1::bigint || ' %'";
    transaction.query(end, &[&load_id]).await.map_err(failed)?;
    // Waits for transactions that hold the token row, and turns away those that come to it later.
    transaction
        .execute(
            "update vecload_ledger.loads set token = token + 1,
                 state = case state when 'running' then 'failed' else state end
             where load_id = $1",
            &[&load_id],
        )
        .await
        .map(|_| ())
        .map_err(failed)
}

/// Takes the lock again that shows that a run is alive, after its session was lost, if the load is still the run's.
pub async fn hold_again(client: &Client, run: &Run) -> Result<()> {
    let failed = |error| pg_error(format!("hold load {} again", run.load_id), error);
    let lock = "select pg_try_advisory_lock($1, $2)";
    let deadline = tokio::time::Instant::now() + HOLDER_GONE_WAIT;
    loop {
        let locked = client.query_one(lock, &[&ALIVE_LOCK, &(run.load_id as i32)]).await.map_err(failed)?;
        if locked.get(0) {
            return run.hold_fence(client).await;
        }
        if tokio::time::Instant::now() > deadline {
            return Err(run.taken_over());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Begins a new attempt at a load that a run holds: a run of its own, with a token of its own, so that nothing the
/// last attempt has left behind can commit any more.
pub async fn begin_again(client: &Client, run: &Run) -> Result<Run> {
    let sql = "update vecload_ledger.loads set token = token + 1, runs = runs + 1
        where load_id = $1 and token = $2 and runs = $3 returning runs, token";
    let row = client.query_opt(sql, &[&run.load_id, &run.token, &run.run]).await;
    let row = row.map_err(|error| pg_error(format!("begin load {} again", run.load_id), error))?;
    let row = row.ok_or_else(|| run.taken_over())?;
    Ok(Run { run: row.get(0), token: row.get(1), ..*run })
}

async fn held(transaction: &Transaction<'_>, load_id: i64) -> Result<Error> {
    let row = transaction
        .query_one(
            "select host, process_id, to_char(run_started_at, 'YYYY-MM-DD HH24:MI:SS TZ') as since
             from vecload_ledger.loads where load_id = $1",
            &[&load_id],
        )
        .await
        .map_err(|error| pg_error("look up a load", error))?;
    let (host, process, since): (String, i32, String) = (row.get(0), row.get(1), row.get(2));
    Ok(Error::refused(format!(
        "load {load_id} is running: process {process} on {host}, since {since}; it holds a source of this command"
    ))
    .hint("wait until it ends, or stop it (Ctrl-C or kill), then run this command again"))
}
