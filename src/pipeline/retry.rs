//! Trying again: how often, how long, and so that the user sees it.
//!
//! Time is counted from the first failure since the load last made progress, over all connections together:
//! one of many writers that can't get through does not end a load whose others can.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::future::BoxFuture;
use tokio::sync::mpsc::Sender;

use super::stop::Stop;
use crate::error::{Error, Result};

/// Delays between tries: doubling from the first to the last, each with up to as much again at random, so that
/// connections which broke together don't come back together.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// How hints end that say to do so.
const AGAIN: &str = "run the same command again";

/// Brings the server back where that is ours to do.
pub type Revive = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The retries of a load.
#[derive(Clone)]
pub struct Retry {
    /// `--retry-for`.
    limit: Duration,
    trouble: Arc<Mutex<Option<Trouble>>>,
    notices: Sender<String>,
    revive: Option<Revive>,
}

/// Time since which nothing has succeeded.
struct Trouble {
    since: Instant,
    told: Vec<String>,
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Retry {
    /// Tries for `limit`; each kind of trouble is told once to `notices`.
    pub fn new(limit: Duration, notices: Sender<String>, revive: Option<Revive>) -> Self {
        Self { limit, trouble: Arc::default(), notices, revive }
    }

    /// The load has made progress: the next trouble has the whole time again.
    pub fn progress(&self) {
        let over = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(trouble) = over {
            self.tell(format!("going on after {}", shown(trouble.since.elapsed())));
        }
    }

    /// Begins a series of tries.
    pub fn tries(&self) -> Tries<'_> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LAST_DELAY)
            .with_jitter()
            .without_max_times()
            .build();
        Tries { retry: self, delays }
    }

    /// A line for the user.
    pub fn tell(&self, line: String) {
        // Full, or nobody listens any more: what is lost is one line of many.
        if let Err(error) = self.notices.try_send(line) {
            tracing::debug!("{error}");
        }
    }

    /// The error when time is up.
    fn given_up(&self, error: &Error) -> Error {
        let next = match error.advice() {
            Some(advice) if advice.ends_with(AGAIN) => advice.to_owned(),
            Some(advice) => format!("{advice}; then {AGAIN}"),
            None => AGAIN.to_owned(),
        };
        let tried = match self.limit.is_zero() {
            true => String::new(),
            false => format!("; no success within {} of retries", shown(self.limit)),
        };
        Error::failed(format!("{error}{tried}")).with_kind(error.kind()).hint(format!(
            "{next}: it goes on where it stopped (--retry-for says how long it tries by itself)"
        ))
    }

    /// How much time is left, and whether this trouble is news.
    fn left(&self, reason: &str) -> (Duration, bool) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.get_or_insert_with(|| Trouble { since: Instant::now(), told: Vec::new() });
        let is_news = !trouble.told.iter().any(|told| told == reason);
        if is_news {
            trouble.told.push(reason.to_owned());
        }
        (self.limit.saturating_sub(trouble.since.elapsed()), is_news)
    }
}

/// A series of tries at one thing.
pub struct Tries<'a> {
    retry: &'a Retry,
    delays: ExponentialBackoff,
}

impl Tries<'_> {
    /// Waits before the next try. Gives the error back if another try can't help, or time is up, or the load stops.
    pub async fn pause(&mut self, error: Error, stop: &Stop) -> Result<()> {
        if !error.is_transient() || stop.is_stopping() {
            return Err(error);
        }
        let (left, is_news) = self.retry.left(&error.to_string());
        if left.is_zero() {
            return Err(self.retry.given_up(&error));
        }
        if is_news {
            self.retry.tell(format!("{error}; trying again for up to {}", shown(left)));
        }
        let delay = self.delays.next().unwrap_or(LAST_DELAY).min(left);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.stopping() => return Err(error),
        }
        if let Some(revive) = &self.retry.revive
            && let Err(error) = revive().await
        {
            tracing::debug!("bring the server back: {error}");
        }
        Ok(())
    }
}

/// A time for people: in whole seconds, if it has any.
fn shown(duration: Duration) -> String {
    let seconds = Duration::from_secs(duration.as_secs_f64().round() as u64);
    let shown = if seconds.is_zero() { Duration::from_millis(duration.as_millis() as u64) } else { seconds };
    humantime::format_duration(shown).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_says_once_what_to_do_next() {
        let retry = Retry::new(Duration::from_secs(10), tokio::sync::mpsc::channel(1).0, None);
        let advice = |hint: Option<&str>| {
            let error = Error::failed("no answer");
            let error = hint.map_or(Error::failed("no answer"), |hint| error.hint(hint));
            retry.given_up(&error).advice().expect("advice").to_owned()
        };
        assert!(advice(None).starts_with("run the same command again: it goes on"));
        assert!(
            advice(Some("start it")).starts_with("start it; then run the same command again: it goes on")
        );
        let once = advice(Some("start it, then run the same command again"));
        assert!(once.starts_with("start it, then run the same command again: it goes on"), "{once}");
    }
}
