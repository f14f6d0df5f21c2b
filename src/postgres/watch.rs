//! What each session of an attempt is doing, so that a silent one can be judged from outside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{ConnectSettings, Session, SessionOptions, pg_error};
use crate::error::{Error, Result};

/// A backend that is ended goes within moments, or when what it waits for comes.
const END_MAX: Duration = Duration::from_secs(10);

/// Looks in a row that a server may leave unanswered.
pub const UNANSWERED_MAX: u32 = 3;

/// A look is given up after so long.
pub const LOOK_MAX: Duration = Duration::from_secs(5);

/// A backend: its process number can be given out again, its start can't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Process number.
    pub pid: i32,
    /// When it started, as the server writes it; not told to a session that has put on another role.
    pub started: Option<String>,
}

impl Backend {
    /// The backend of a session.
    pub async fn of(session: &Session) -> Result<Self> {
        // The function behind pg_stat_activity: the view takes milliseconds to plan in a fresh session.
        let sql = "select backend_start from pg_stat_get_activity(pg_backend_pid())";
        let told = session.simple_query(sql).await;
        let told = told.map_err(|error| session.error("look up a session's backend", error))?;
        let started = told.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(Self { pid: session.backend_pid(), started })
    }

    /// Ends the backend, and waits until it is gone: from then on nothing that it was told can happen any more.
    /// A backend that does not go in time is an error that is worth another try.
    pub async fn end(&self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + END_MAX;
        let failed = |error| pg_error("end a session that was lost", error);
        let find = "select from pg_stat_activity
            where pid = $1 and ($2::text is null or backend_start = $2::text::timestamptz)";
        loop {
            if client.query(find, &[&self.pid, &self.started]).await.map_err(failed)?.is_empty() {
                return Ok(());
            }
            match client.query("select pg_terminate_backend($1::integer)", &[&self.pid]).await {
                // Without the right to end it, it is waited for: its transaction has a time limit.
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
                ended => drop(ended.map_err(failed)?),
            }
            if Instant::now() > deadline {
                return Err(Error::failed(format!("server process {} does not end", self.pid))
                    .hint("it belongs to a connection that was lost: as a superuser, pg_terminate_backend")
                    .transient());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One session under watch.
#[derive(Debug)]
pub struct Watched {
    /// Name in messages.
    pub name: String,
    /// The way to its server, if that is another one than the load's.
    pub elsewhere: Option<ConnectSettings>,
    state: Mutex<State>,
    lost: Notify,
}

#[derive(Debug, Default)]
struct State {
    backend: Option<Backend>,
    /// Last sign of life while it has something to do.
    working_since: Option<Instant>,
    /// As it was seen waiting for us while we wait for it.
    seen_waiting: Option<Life>,
    /// Looks in a row that its server has left unanswered.
    unanswered: u32,
}

impl Watched {
    /// A session that isn't open yet.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), elsewhere: None, state: Mutex::default(), lost: Notify::new() })
    }

    /// A session on another server.
    pub fn elsewhere(name: impl Into<String>, way: ConnectSettings) -> Arc<Self> {
        let elsewhere = Some(way);
        Arc::new(Self { name: name.into(), elsewhere, state: Mutex::default(), lost: Notify::new() })
    }

    /// The session is open, on this backend; or it isn't.
    pub fn set_backend(&self, backend: Option<Backend>) {
        *self.lock() = State { backend, ..State::default() };
    }

    /// The backend, while the session is open.
    pub fn backend(&self) -> Option<Backend> {
        self.lock().backend.clone()
    }

    /// Something was sent or answered; the session has more to do.
    pub fn beat(&self) {
        let mut state = self.lock();
        state.working_since = Some(Instant::now());
        state.seen_waiting = None;
    }

    /// The session has nothing to do.
    pub fn rest(&self) {
        let mut state = self.lock();
        state.working_since = None;
        state.seen_waiting = None;
    }

    /// Waits until the session is found to be lost.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// The backend, if the session has been silent for so long while it has something to do.
    pub fn silent_for(&self, least: Duration) -> Option<Backend> {
        let state = self.lock();
        state.working_since.filter(|since| since.elapsed() >= least).and(state.backend.clone())
    }

    /// What the backend was seen doing: gone, waiting for us, or at work. Seen waiting for us twice without a
    /// sign of life in between, of ours or its own, what we sent or what it answered is lost on the way.
    pub fn judge(&self, backend: &Backend, seen: Seen) -> bool {
        let mut state = self.lock();
        // It may have found out by itself meanwhile, or gone on.
        if state.backend.as_ref() != Some(backend) || state.working_since.is_none() {
            return false;
        }
        state.unanswered = 0;
        let (is_lost, seen_waiting) = seen.is_loss(state.seen_waiting.take());
        state.seen_waiting = seen_waiting;
        if is_lost {
            // Who does not wait now has no use for it.
            self.lost.notify_waiters();
        }
        is_lost
    }

    /// The server could not be asked what the backend does. After some such looks in a row the session is lost.
    pub fn is_unanswered(&self, backend: &Backend) -> bool {
        let mut state = self.lock();
        if state.backend.as_ref() != Some(backend) || state.working_since.is_none() {
            return false;
        }
        state.unanswered += 1;
        let is_lost = state.unanswered >= UNANSWERED_MAX;
        if is_lost {
            self.lost.notify_waiters();
        }
        is_lost
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a backend does, seen from another session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It is no more.
    Gone,
    /// It waits for its client.
    WaitsForUs(Life),
    /// It waits for others, which hold a lock or want it before.
    WaitsForLock(Blockers),
    /// It is a Citus coordinator's, and waits for another node in a statement that begins with this word.
    WaitsForNodes(String),
    /// It works, or waits for something of the server's.
    Works,
}

/// Who keeps a backend waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blockers {
    /// Their process numbers; 0 is a prepared transaction.
    pub pids: Vec<i32>,
    /// Who they are and what they do.
    pub told: String,
}

/// What changes while a backend hears from its client: when it began its last statement or became idle after it, and
/// how many bytes of a COPY have reached it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    state_change: Option<String>,
    copied: Option<i64>,
}

impl Seen {
    /// Whether a backend that was seen waiting before, and of which we still wait to hear, is lost; and how it was
    /// seen waiting now.
    pub fn is_loss(self, before: Option<Life>) -> (bool, Option<Life>) {
        match self {
            Self::Gone => (true, None),
            Self::WaitsForLock(_) | Self::WaitsForNodes(_) | Self::Works => (false, None),
            Self::WaitsForUs(life) => (before.is_some_and(|before| before == life), Some(life)),
        }
    }
}

/// Looks at backends over a session opened for it; `None` if the server can't be asked.
pub async fn look_over(connect: &ConnectSettings, backends: &[Backend]) -> Option<Vec<Seen>> {
    let options = SessionOptions { application_name: Some("vecload look".into()), transaction_timeout: None };
    let looked = async {
        let session = connect.connect(&options).await?;
        let seen = look(&session, backends).await;
        session.close().await;
        seen
    };
    tokio::time::timeout(LOOK_MAX, looked).await.ok()?.ok()
}

/// Looks at backends from another session.
pub async fn look(client: &Client, backends: &[Backend]) -> Result<Vec<Seen>> {
    let failed = |error| pg_error("look at the sessions of the load", error);
    if backends.is_empty() {
        // A sign of life all the same.
        client.batch_execute("").await.map_err(failed)?;
        return Ok(Vec::new());
    }
    let pids: Vec<i32> = backends.iter().map(|backend| backend.pid).collect();
    // A statement that reads from a client without a COPY is Citus's, waiting for other nodes; so is one that waits in
    // an extension. Locks for pages that are new are held for moments, by the load's own writers most of all.
    let sql = "select a.pid, a.backend_start::text,
            coalesce(a.wait_event_type = 'Client' and not nodes.waits, false),
            a.state_change::text, c.bytes_processed, waits.pids, waits.told,
            case when nodes.waits then upper(substring(a.query from '\\w+')) end
        from pg_stat_activity a left join pg_stat_progress_copy c on c.pid = a.pid
        cross join lateral (select a.state = 'active' and (a.wait_event_type = 'Extension'
            or a.wait_event_type = 'Client' and a.wait_event = 'ClientRead' and c.pid is null) as waits) nodes
        left join lateral (
            select array_agg(blocker order by blocker) as pids,
                string_agg(case when blocker = 0 then 'a prepared transaction' else
                    format('process %s of %s (%s)', b.pid, b.usename, concat_ws(': ',
                        nullif(concat_ws(', ', nullif(b.application_name, ''), b.state), ''),
                        left(regexp_replace(b.query, '\\s+', ' ', 'g'), 100))) end,
                    ', ' order by blocker) as told
            from (select distinct unnest(case
                when a.wait_event_type = 'Lock' and a.wait_event not in ('extend', 'page')
                then pg_blocking_pids(a.pid) end) as blocker) blockers
            left join pg_stat_activity b on b.pid = blocker
            where blocker = 0 or b.pid is not null) waits on true
        where a.pid = any($1)";
    let rows = client.query(sql, &[&pids]).await.map_err(failed)?;
    let seen = |backend: &Backend| {
        let row = rows.iter().find(|row| {
            row.get::<_, i32>(0) == backend.pid && row.get::<_, Option<&str>>(1) == backend.started.as_deref()
        });
        match row {
            None => Seen::Gone,
            Some(row) if row.get(2) => {
                Seen::WaitsForUs(Life { state_change: row.get(3), copied: row.get(4) })
            }
            Some(row) => match (row.get(5), row.get(6), row.get(7)) {
                (Some(pids), Some(told), _) => Seen::WaitsForLock(Blockers { pids, told }),
                (_, _, Some(statement)) => Seen::WaitsForNodes(statement),
                _ => Seen::Works,
            },
        }
    };
    Ok(backends.iter().map(seen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_lost_that_twice_waits_for_us_and_not_one_that_waits_for_a_worker() {
        let watched = Watched::new("writer");
        let backend = Backend { pid: 1, started: None };
        watched.set_backend(Some(backend.clone()));
        watched.beat();
        let idle = || Seen::WaitsForUs(Life { state_change: None, copied: Some(7) });
        let elsewhere = || Seen::WaitsForNodes("commit".into());
        for (seen, is_lost) in [(idle(), false), (elsewhere(), false), (elsewhere(), false), (idle(), false)]
        {
            assert_eq!(watched.judge(&backend, seen), is_lost);
        }
        assert!(watched.judge(&backend, idle()));
        watched.rest();
        assert!(!watched.judge(&backend, idle()), "nobody waits for it any more");
    }
}
