//! A session that is opened again when it is lost, for work that may be done twice.

use std::sync::Arc;
use std::time::Duration;

use super::retry::Retry;
use super::stop::Stop;
use crate::error::{Error, Kind, Result};
use crate::postgres::watch::{Backend, Watched};
use crate::postgres::{ConnectSettings, Session, SessionOptions};
use crate::writer::TRANSACTION_TIMEOUT;

/// After the load has stopped, an answer is waited for so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How sessions of an attempt are opened, and what they have in common.
#[derive(Debug, Clone)]
pub struct Connector {
    /// The way to the server.
    pub connect: ConnectSettings,
    /// Retries.
    pub retry: Retry,
    /// The end of the attempt.
    pub stop: Arc<Stop>,
    /// What their names in `pg_stat_activity` begin with.
    pub label: String,
}

impl Connector {
    /// Opens a session once.
    pub async fn open(&self, watched: &Watched) -> Result<Session> {
        let options = SessionOptions {
            application_name: Some(format!("{} {}", self.label, watched.name)),
            transaction_timeout: Some(TRANSACTION_TIMEOUT),
        };
        let session = self.connect.connect(&options).await.map_err(|error| error.with_kind(Kind::Failed))?;
        watched.set_backend(Some(Backend::of(&session).await?));
        Ok(session)
    }
}

/// A session with its retries. What it is given to do must come to the same when it is done twice: it may have
/// been done when its answer is lost.
#[derive(Debug)]
pub struct Steady {
    connector: Connector,
    watched: Arc<Watched>,
    /// What is set for each session.
    settings: &'static str,
    session: Option<Session>,
}

impl Steady {
    /// Opens the session with these settings.
    pub async fn open(connector: Connector, watched: Arc<Watched>, settings: &'static str) -> Result<Self> {
        let mut steady = Self::when_needed(connector, watched, settings);
        steady.run(async |_: &mut Session| Ok(())).await?;
        Ok(steady)
    }

    /// A session that is opened by the first work for it.
    pub fn when_needed(connector: Connector, watched: Arc<Watched>, settings: &'static str) -> Self {
        Self { connector, watched, settings, session: None }
    }

    /// Works until it succeeds, fails for good, or time is up.
    pub async fn run<T>(&mut self, mut work: impl AsyncFnMut(&mut Session) -> Result<T>) -> Result<T> {
        let retry = self.connector.retry.clone();
        let stop = Arc::clone(&self.connector.stop);
        let mut tries = retry.tries();
        loop {
            let watched = Arc::clone(&self.watched);
            watched.beat();
            let outcome = tokio::select! {
                outcome = self.attempt(&mut work) => outcome,
                () = watched.lost() => Err(silent(&watched)),
                () = given_up(&stop) => Err(silent(&watched)),
            };
            watched.rest();
            let error = match outcome {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // Whatever state it is in, the next try finds a fresh one.
            self.session = None;
            watched.set_backend(None);
            tries.pause(error, &stop).await?;
        }
    }

    async fn attempt<T>(&mut self, work: &mut impl AsyncFnMut(&mut Session) -> Result<T>) -> Result<T> {
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let session = self.connector.open(&self.watched).await?;
                if !self.settings.is_empty() {
                    let set = session.batch_execute(self.settings).await;
                    set.map_err(|error| session.error("set up a session", error))?;
                }
                self.watched.beat();
                self.session.insert(session)
            }
        };
        work(session).await
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.watched.set_backend(None);
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}

/// Ends some time after the load stops: a server that does not answer must not keep the process.
pub async fn given_up(stop: &Stop) {
    stop.stopping().await;
    tokio::time::sleep(GIVE_UP_AFTER).await;
}

/// The error of a session that has fallen silent.
pub fn silent(watched: &Watched) -> Error {
    Error::failed(format!(
        "{}: the connection has fallen silent; the server waits for us, and we for it",
        watched.name
    ))
    .transient()
}
