//! The control session: it holds the lock that shows that the run is alive, judges silent sessions, and knows
//! whether the server may have crashed: that ends all sessions, this one too.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Mutex;

use super::steady::{Connector, given_up, silent};
use crate::error::Result;
use crate::ledger::blocks::Run;
use crate::ledger::settle::commit_durably;
use crate::ledger::takeover::hold_again;
use crate::postgres::Session;
use crate::postgres::watch::{Backend, Seen, UNANSWERED_MAX, Watched, look, look_over};

/// A session that has said nothing for so long is looked at from another one.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The control session of a load.
pub(super) struct Control {
    connector: Connector,
    watched: Arc<Watched>,
    inner: Mutex<Inner>,
    was_lost: Arc<AtomicBool>,
    left_prepared: Arc<AtomicBool>,
    /// Servers, and processes there for whose locks the load has waited, or none for other nodes: told once.
    told: StdMutex<HashSet<(String, Vec<i32>)>>,
}

struct Inner {
    session: Option<Session>,
    /// The backend of a session that was lost.
    before: Option<Backend>,
    run: Option<Run>,
}

impl Control {
    /// Takes over the session that has claimed the sources.
    pub(super) fn new(connector: Connector, session: Session, backend: Backend, run: Option<Run>) -> Self {
        let watched = Watched::new("control");
        watched.set_backend(Some(backend));
        let inner = Mutex::new(Inner { session: Some(session), before: None, run });
        Self {
            connector,
            watched,
            inner,
            was_lost: Arc::default(),
            left_prepared: Arc::default(),
            told: StdMutex::default(),
        }
    }

    /// From here on the session stands for this attempt.
    pub(super) async fn stand_for(&self, run: Run) {
        self.inner.lock().await.run = Some(run);
        self.was_lost.store(false, Ordering::Relaxed);
    }

    /// A new attempt has begun: from here on the lock is held, and the token compared, for its run.
    pub(super) async fn goes_on_as(&self, run: Run) {
        self.inner.lock().await.run = Some(run);
    }

    /// Whether a session was lost during the attempt, so that its server may have crashed, or another one may have
    /// come in its place, and commits are lost.
    pub(super) fn was_lost(&self) -> bool {
        self.was_lost.load(Ordering::Relaxed)
    }

    /// To be set when a session of a worker was lost.
    pub(super) fn loss(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.was_lost)
    }

    /// Whether a transaction that Citus has prepared may be left: by a session that was lost, or whose server has
    /// warned of something.
    pub(super) fn may_be_prepared(&self) -> bool {
        self.was_lost() || self.left_prepared.load(Ordering::Relaxed)
    }

    /// To be set by such a session.
    pub(super) fn left_prepared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.left_prepared)
    }

    /// Works over the session until it succeeds, fails for good, or time is up; the work may be done twice.
    pub(super) async fn run<T>(&self, mut work: impl AsyncFnMut(&mut Session) -> Result<T>) -> Result<T> {
        let mut inner = self.inner.lock().await;
        let retry = self.connector.retry.clone();
        let mut tries = retry.tries();
        let mut was_open = inner.session.is_some();
        loop {
            let backend = self.watched.backend();
            let outcome = tokio::select! {
                outcome = self.attempt(&mut inner, &mut work) => outcome,
                () = self.falls_silent() => Err(silent(&self.watched)),
                () = given_up(&self.connector.stop) => Err(silent(&self.watched)),
            };
            let error = match outcome {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if error.is_transient() {
                inner.session = None;
                inner.before = self.watched.backend().or(backend).or(inner.before.take());
                self.watched.set_backend(None);
            }
            // It may have been lost long ago; that is no reason to wait.
            if !(std::mem::replace(&mut was_open, false) && error.is_transient()) {
                tries.pause(error, &self.connector.stop).await?;
            }
        }
    }

    async fn attempt<T>(
        &self,
        inner: &mut Inner,
        work: &mut impl AsyncFnMut(&mut Session) -> Result<T>,
    ) -> Result<T> {
        let session = match inner.session.take() {
            // Back in its place before the work: a look that is cut off must not take it along.
            Some(session) => session,
            None => self.reopen(inner).await?,
        };
        work(inner.session.insert(session)).await
    }

    /// Opens the session again: the old one is ended, the lock taken again, the fence checked.
    async fn reopen(&self, inner: &mut Inner) -> Result<Session> {
        let session = self.connector.open(&self.watched).await?;
        self.was_lost.store(true, Ordering::Relaxed);
        commit_durably(&session).await?;
        if let Some(before) = &inner.before {
            before.end(&session).await?;
            inner.before = None;
        }
        if let Some(run) = &inner.run {
            hold_again(&session, run).await?;
        }
        Ok(session)
    }

    /// Ends when this session is seen to wait for us while we wait for it, from a session opened for the look; or when
    /// the server can't be asked either.
    async fn falls_silent(&self) {
        let mut waiting = None;
        let mut unanswered = 0;
        loop {
            tokio::time::sleep(if waiting.is_some() { LOOK_EVERY } else { SILENT_AFTER }).await;
            let Some(backend) = self.watched.backend() else { continue };
            let Some(seen) = look_over(&self.connector.connect, std::slice::from_ref(&backend)).await else {
                unanswered += 1;
                if unanswered == UNANSWERED_MAX {
                    return;
                }
                continue;
            };
            unanswered = 0;
            let Some(seen) = seen.into_iter().next() else { return };
            self.tell_of_wait(&self.watched, &seen);
            let (is_lost, seen_waiting) = seen.is_loss(waiting.take());
            if is_lost {
                return;
            }
            waiting = seen_waiting;
        }
    }

    /// Works, and watches the sessions of an attempt meanwhile: one that is silent is judged by its backend's state.
    /// Keeps itself alive by it: a lock that was lost unnoticed would let another run take the load over.
    pub(super) async fn keep_while<T>(&self, watched: &[Arc<Watched>], work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let stop = &self.connector.stop;
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(LOOK_EVERY), if !stop.is_stopping() => {}
            }
            let looked = tokio::select! {
                done = &mut work => return done,
                looked = self.look_at(watched) => looked,
            };
            if let Err(error) = looked {
                stop.because(error);
            }
        }
    }

    async fn look_at(&self, watched: &[Arc<Watched>]) -> Result<()> {
        let silent: Vec<(&Arc<Watched>, Backend)> =
            watched.iter().filter_map(|one| Some((one, one.silent_for(SILENT_AFTER)?))).collect();
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|(one, _)| one.elsewhere.is_some());
        let backends: Vec<Backend> = here.iter().map(|(_, backend)| backend.clone()).collect();
        let seen = self.run(async |session| look(session, &backends).await).await?;
        let mut lost = Vec::new();
        for ((one, backend), seen) in here.iter().zip(seen) {
            self.tell_of_wait(one, &seen);
            lost.extend(one.judge(backend, seen).then_some((one, backend)));
        }
        // Each server is asked once, all at a time: one that does not answer takes its time.
        let mut servers: BTreeMap<String, Vec<&(&Arc<Watched>, Backend)>> = BTreeMap::new();
        for entry in &elsewhere {
            let Some(way) = &entry.0.elsewhere else { continue };
            servers.entry(way.describe()).or_default().push(entry);
        }
        let looks = servers.into_values().map(async |sessions| {
            let backends: Vec<Backend> = sessions.iter().map(|(_, backend)| backend.clone()).collect();
            let seen = match sessions.first().and_then(|(one, _)| one.elsewhere.as_ref()) {
                Some(way) => look_over(way, &backends).await,
                None => None,
            };
            (sessions, seen)
        });
        for (sessions, seen) in join_all(looks).await {
            for (number, (one, backend)) in sessions.into_iter().enumerate() {
                let is_lost = match seen.as_ref().and_then(|seen| seen.get(number)) {
                    Some(seen) => {
                        self.tell_of_wait(one, seen);
                        one.judge(backend, seen.clone())
                    }
                    None => one.is_unanswered(backend),
                };
                lost.extend(is_lost.then_some((one, backend)));
            }
        }
        for (one, backend) in lost {
            tracing::info!("{} (server process {}) has fallen silent", one.name, backend.pid);
        }
        Ok(())
    }

    /// A load that waits for another session's lock would look as if the server were slow, as would one that waits for
    /// another node, which may be slow in fact.
    fn tell_of_wait(&self, session: &Watched, seen: &Seen) {
        let (pids, what) = match seen {
            Seen::WaitsForLock(blockers) => {
                (blockers.pids.clone(), format!("for a lock of {}", blockers.told))
            }
            Seen::WaitsForNodes(statement) => (
                Vec::new(),
                format!(
                    "for another node, in: {statement}; it is at work, or silent: vecload cluster status tells which"
                ),
            ),
            _ => return,
        };
        let way = session.elsewhere.as_ref().unwrap_or(&self.connector.connect);
        let server = way.describe();
        let line = format!("waiting on {server} {what}");
        let is_news = self.told.lock().unwrap_or_else(PoisonError::into_inner).insert((server, pids));
        if is_news {
            self.connector.retry.tell(line);
        }
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        if let Some(session) = self.inner.into_inner().session {
            session.close().await;
        }
    }
}
