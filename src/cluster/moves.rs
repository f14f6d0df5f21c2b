//! Moves of shards in the background: started, followed, stopped.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Address;
use super::needs;
use super::nodes::{address, nodes, one_line};
use crate::error::{Error, Kind, Result};
use crate::postgres::{pg_error, quote_literal};

/// A rebalance, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Citus's number for it.
    pub job: i64,
    /// `scheduled`, `running`, `finished`, `cancelling`, `cancelled`, `failing` or `failed`.
    pub state: String,
    /// Moves that are complete.
    pub moves_done: u64,
    /// All moves.
    pub moves: u64,
    /// Since it began.
    pub seconds: f64,
    /// What is on its way now.
    pub moving: Vec<Move>,
    /// What Citus says of tasks that fail, some of which it tries again and again.
    pub problems: Vec<String>,
}

/// A shard on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Its table.
    pub table: String,
    /// Its number.
    pub shard: i64,
    /// Where it is.
    pub from: Address,
    /// Where it goes.
    pub to: Address,
    /// Its size.
    pub bytes: u64,
    /// How much of it is there already.
    pub copied_bytes: u64,
    /// Citus's name of what it does now.
    pub phase: String,
}

/// What became of the wish to rebalance.
#[derive(Debug)]
pub enum Started {
    /// Shards are spread as evenly as Citus wants them.
    Balanced,
    /// A job began.
    Began(Job),
    /// One was at work already.
    Running(Job),
}

impl Job {
    /// Whether nothing more will happen.
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "cancelled" | "failed")
    }

    /// How much of it is done, from 0 to 1; each move counts the same.
    pub fn share(&self) -> f64 {
        let begun: f64 = self
            .moving
            .iter()
            .map(|one| one.copied_bytes as f64 / one.bytes.max(1) as f64)
            .map(|part| part.min(1.0))
            .sum();
        ((self.moves_done as f64 + begun) / self.moves.max(1) as f64).min(1.0)
    }

    /// Seconds left, from the share of the moves and the time they took.
    pub fn eta_seconds(&self) -> Option<f64> {
        let share = self.share();
        (share > 0.0).then(|| self.seconds * (1.0 - share) / share)
    }
}

/// Starts a rebalance, or finds the one at work.
pub async fn start(client: &Client, block_writes: bool) -> Result<Started> {
    if let Some(job) = current_job(client).await? {
        return Ok(Started::Running(job));
    }
    needs::shards_can_move(client, &nodes(client).await?, block_writes).await?;
    // A literal takes the parameter's type; naming the type would need a right on its schema.
    let mode = quote_literal(needs::transfer_mode(block_writes));
    let sql = format!("select citus_rebalance_start(shard_transfer_mode => {mode})");
    let row = client
        .query_one(&sql, &[])
        .await
        .map_err(|error| pg_error("start the rebalance", error).with_kind(Kind::Refused))?;
    match row.get::<_, Option<i64>>(0) {
        None => Ok(Started::Balanced),
        Some(id) => job(client, id).await.map(Started::Began),
    }
}

/// Stops the rebalance; moves that are complete stay. `None` if none is at work.
pub async fn stop(client: &Client) -> Result<Option<Job>> {
    let Some(running) = current_job(client).await? else { return Ok(None) };
    client
        .query("select citus_rebalance_stop()", &[])
        .await
        .map_err(|error| pg_error("stop the rebalance", error))?;
    job(client, running.job).await.map(Some)
}

/// The rebalance that is at work or waits.
pub async fn current_job(client: &Client) -> Result<Option<Job>> {
    Ok(last_job(client).await?.filter(|job| !job.has_ended()))
}

/// A rebalance that was started, as it stands now.
pub async fn job(client: &Client, id: i64) -> Result<Job> {
    match last_job(client).await? {
        Some(job) if job.job == id => Ok(job),
        _ => Err(Error::failed(format!("rebalance {id} is not to be found any more"))
            .hint("see what is there: vecload cluster status")),
    }
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    tasks: Vec<Task>,
    #[serde(default)]
    task_state_counts: std::collections::HashMap<String, u64>,
}

#[derive(Deserialize)]
struct Task {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    command: Option<String>,
}

/// Citus tells of the last one only.
async fn last_job(client: &Client) -> Result<Option<Job>> {
    // Where Citus is older than 11.1 there is no job in the background.
    let there = "select to_regprocedure('citus_rebalance_status(boolean)') is not null";
    let failed = |error| pg_error("look at the rebalance", error);
    if !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "select job_id, state::text as state, details::text as details,
            coalesce(extract(epoch from coalesce(finished_at, now()) - started_at), 0)::float8 as seconds
        from citus_rebalance_status() where job_type = 'rebalance' order by job_id desc limit 1";
    let Some(row) = client.query_opt(sql, &[]).await.map_err(failed)? else { return Ok(None) };
    let details: Option<String> = row.get("details");
    let details: Details = serde_json::from_str(details.as_deref().unwrap_or("{}"))
        .map_err(|error| Error::failed("read what Citus says of the rebalance").because(error))?;
    let message = |task: Task| {
        let message = one_line(&task.message.unwrap_or_default());
        (!message.is_empty()).then(|| format!("{}: {message}", task.command.unwrap_or_default()))
    };
    let mut job = Job {
        job: row.get("job_id"),
        state: row.get("state"),
        moves_done: details.task_state_counts.get("done").copied().unwrap_or(0),
        moves: details.task_state_counts.values().sum(),
        seconds: row.get("seconds"),
        moving: Vec::new(),
        problems: details.tasks.into_iter().filter_map(message).collect(),
    };
    if !job.has_ended() {
        job.moving = moving(client).await?;
    }
    Ok(Some(job))
}

/// The shards that are on their way, or wait in the same operation.
pub(super) async fn moving(client: &Client) -> Result<Vec<Move>> {
    let sql =
        "select table_name::text as table_name, shardid, sourcename, sourceport, targetname, targetport,
            greatest(source_shard_size, shard_size) as bytes, target_shard_size as copied, status
        from get_rebalance_progress() where progress = 1 order by shardid";
    let rows = match client.query(sql, &[]).await {
        // It asks the nodes for sizes; one that is away at the moment costs this look only.
        Err(error) if error.as_db_error().is_some() => {
            tracing::debug!("look at the moves: {error}");
            return Ok(Vec::new());
        }
        rows => rows.map_err(|error| pg_error("look at the moves", error))?,
    };
    let bytes = |size: Option<i64>| size.map_or(0, |size| u64::try_from(size).unwrap_or(0));
    rows.iter()
        .map(|row| {
            Ok(Move {
                table: row.get("table_name"),
                shard: row.get("shardid"),
                from: address(row.get("sourcename"), row.get("sourceport"))?,
                to: address(row.get("targetname"), row.get("targetport"))?,
                bytes: bytes(row.get("bytes")),
                copied_bytes: bytes(row.get("copied")),
                phase: row.get::<_, Option<String>>("status").unwrap_or_default(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(moves_done: u64, moves: u64, copied: &[(u64, u64)]) -> Job {
        let node = Address { host: "worker".into(), port: 5432 };
        let moving = copied.iter().map(|(copied_bytes, bytes)| Move {
            table: "chunks".into(),
            shard: 1,
            from: node.clone(),
            to: node.clone(),
            bytes: *bytes,
            copied_bytes: *copied_bytes,
            phase: String::new(),
        });
        Job {
            job: 1,
            state: "running".into(),
            moves_done,
            moves,
            seconds: 30.0,
            moving: moving.collect(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_time_left_follows_from_the_share_that_is_done() {
        assert_eq!(job(0, 4, &[]).eta_seconds(), None);
        assert_eq!(job(1, 4, &[]).eta_seconds(), Some(90.0));
        assert_eq!(job(1, 4, &[(50, 100)]).share(), 0.375);
        assert_eq!(job(4, 4, &[(9, 0)]).share(), 1.0, "an empty shard counts as a whole one at most");
        assert_eq!(job(0, 0, &[]).share(), 0.0);
    }
}
