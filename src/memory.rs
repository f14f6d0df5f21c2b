//! The byte budget behind `--memory`.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in KiB, so that a semaphore holds terabytes.
const UNIT: usize = 1024;

/// A number of bytes that stages reserve from before they allocate.
#[derive(Debug, Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total: usize,
}

/// Reserved bytes, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    _permit: OwnedSemaphorePermit,
}

/// Why a reservation is not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// More than the whole budget.
    TooLarge,
    /// The load is stopping.
    Closed,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = bytes / UNIT * UNIT;
        Self { permits: Arc::new(Semaphore::new(total / UNIT)), total }
    }

    /// All bytes of the budget.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Reserves without waiting.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permits = u32::try_from(bytes.div_ceil(UNIT)).ok()?;
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(permits).ok()?;
        Some(Reservation { _permit: permit })
    }

    /// Waits, first come first served, until `bytes` are free.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, Denied> {
        if bytes > self.total {
            return Err(Denied::TooLarge);
        }
        let permits = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| Denied::TooLarge)?;
        let permit =
            Arc::clone(&self.permits).acquire_many_owned(permits).await.map_err(|_| Denied::Closed)?;
        Ok(Reservation { _permit: permit })
    }

    /// Ends all waits: the load stops.
    pub fn close(&self) {
        self.permits.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_can_be_reserved_again() {
        let budget = Budget::new(10 * UNIT);
        let first = budget.reserve(8 * UNIT).await.expect("free");
        assert!(budget.try_reserve(3 * UNIT).is_none());
        drop(first);
        assert!(budget.try_reserve(10 * UNIT).is_some());
        assert_eq!(budget.reserve(11 * UNIT).await.err(), Some(Denied::TooLarge));
        budget.close();
        assert_eq!(budget.reserve(1).await.err(), Some(Denied::Closed));
    }
}
