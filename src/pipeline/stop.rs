//! How a load ends early: the first error decides, and every stage hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::{Error, Kind};
use crate::memory::Budget;
use crate::source::text::Stopping;

/// Set when a load stops. It is there before the load: standard input is opened first, and a wait for its other
/// end looks at it.
#[derive(Debug, Default, Clone)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// From here on the load is stopping.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// As an input asks for it.
    pub fn asked(&self) -> Stopping {
        let flag = Arc::clone(&self.0);
        Arc::new(move || flag.load(Ordering::Acquire))
    }
}

/// Shared by all stages of a load, from one attempt to the next.
#[derive(Debug)]
pub struct Stop {
    stopped: Arc<AtomicBool>,
    inner: Mutex<Inner>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    first: Option<Error>,
    /// The user's will, which no later attempt undoes.
    is_interrupted: bool,
    budgets: Vec<Budget>,
}

impl Stop {
    /// Nothing has happened yet.
    pub fn new(flag: &StopFlag) -> Self {
        Self { stopped: Arc::clone(&flag.0), inner: Mutex::default(), notify: Notify::new() }
    }

    /// Begins an attempt with these budgets, which stopping closes, so that nobody waits for memory. What stopped the
    /// attempt before is forgotten, but for the user.
    pub fn begin(&self, budgets: Vec<Budget>) {
        let mut inner = self.lock();
        if inner.is_interrupted {
            budgets.iter().for_each(Budget::close);
        } else {
            inner.first = None;
            self.stopped.store(false, Ordering::Release);
        }
        inner.budgets = budgets;
    }

    /// Stops everything for this reason, unless there was one before; the user's wish comes before trouble that may
    /// pass.
    pub fn because(&self, error: Error) {
        let mut inner = self.lock();
        let is_wish = error.kind() == Kind::Interrupted;
        inner.is_interrupted |= is_wish;
        if inner.first.as_ref().is_none_or(|first| is_wish && first.is_transient()) {
            inner.first = Some(error);
        }
        self.stopped.store(true, Ordering::Release);
        inner.budgets.iter().for_each(Budget::close);
        drop(inner);
        self.notify.notify_waiters();
    }

    /// Whether the load is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether the user has asked for the end.
    pub fn is_interrupted(&self) -> bool {
        self.lock().is_interrupted
    }

    /// Waits until the load is stopping.
    pub async fn stopping(&self) {
        let notified = self.notify.notified();
        if !self.is_stopping() {
            notified.await;
        }
    }

    /// The reason, once all stages have ended.
    pub fn take(&self) -> Option<Error> {
        self.lock().first.take()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
