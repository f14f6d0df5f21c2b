//! How a load ends early: the first error decides, and every stage hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::error::Error;
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

/// Shared by all stages of an attempt.
#[derive(Debug)]
pub struct Stop {
    stopped: Arc<AtomicBool>,
    first: Mutex<Option<Error>>,
    budgets: Vec<Budget>,
    notify: Notify,
}

impl Stop {
    /// Nothing has happened yet; stopping closes these budgets, so that nobody waits for memory.
    pub fn new(budgets: Vec<Budget>, flag: &StopFlag) -> Self {
        Self { stopped: Arc::clone(&flag.0), first: Mutex::new(None), budgets, notify: Notify::new() }
    }

    /// Stops everything for this reason, unless there was one before.
    pub fn because(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
        }
        drop(first);
        self.stopped.store(true, Ordering::Release);
        self.budgets.iter().for_each(Budget::close);
        self.notify.notify_waiters();
    }

    /// Whether the load is stopping.
    pub fn is_stopping(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
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
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
