//! Ids reserved from the id column's own sequence, ahead of the lanes.
//!
//! `nextval` is called once per id and its values are sent with the rows, so ids never collide with other
//! users of the sequence, and a block's rows can be found again by its ids.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::control::Control;
use super::stop::Stop;
use crate::copy::IdRange;
use crate::error::{Error, Result};
use crate::postgres::Session;
use crate::postgres::catalog::Sequence;

/// Ids asked for at a time: about a batch of small rows, so that few stay unused after an interruption.
const IDS_PER_REQUEST: i64 = 8192;

/// Requests answered ahead of the lanes.
const REQUESTS_AHEAD: usize = 2;

/// Ids that come within this time of the end of a load are waited for.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// Hands reserved ids to the lanes.
#[derive(Debug)]
pub struct IdPool {
    inner: Mutex<Inner>,
    stop: Arc<Stop>,
}

#[derive(Debug)]
struct Inner {
    ready: Vec<IdRange>,
    coming: Receiver<Result<Vec<IdRange>>>,
}

/// What a pool is filled with.
#[derive(Debug)]
pub struct Filling {
    sequence: Sequence,
    /// Bytes of the id column.
    width: usize,
    left: i64,
    sender: Sender<Result<Vec<IdRange>>>,
    stop: Arc<Stop>,
}

impl Filling {
    /// Reserves ids until there are enough, or nobody takes any more.
    pub(super) async fn run(mut self, control: &Control) {
        while self.left > 0 {
            let count = self.left.min(IDS_PER_REQUEST);
            // Ids of a try whose answer was lost stay unused.
            let ids = control.run(async |session| self.reserve(session, count).await).await;
            let failed = ids.is_err();
            self.left -= count;
            // Nobody listens any more once the lanes have ended.
            if self.sender.send(ids).await.is_err() || failed {
                break;
            }
        }
    }

    /// Reserves ids, unless the load stops meanwhile: a session that waits for a locked sequence could not record that.
    async fn reserve(&self, session: &Session, count: i64) -> Result<Vec<IdRange>> {
        let mut reserving = pin!(reserve(session, &self.sequence, self.width, count));
        let given_up = async {
            self.stop.stopping().await;
            tokio::time::sleep(GIVE_UP_AFTER).await;
        };
        tokio::select! {
            ids = &mut reserving => return ids,
            () = given_up => {}
        }
        if let Err(error) = session.cancel().await {
            tracing::debug!("{error}");
        }
        reserving.await
    }
}

impl IdPool {
    /// A pool, and what fills it with up to `most` ids.
    pub fn new(sequence: Sequence, width: usize, most: u64, stop: Arc<Stop>) -> (Arc<Self>, Filling) {
        let (sender, coming) = channel(REQUESTS_AHEAD);
        let left = i64::try_from(most).unwrap_or(i64::MAX);
        let filling = Filling { sequence, width, left, sender, stop: Arc::clone(&stop) };
        (Arc::new(Self { inner: Mutex::new(Inner { ready: Vec::new(), coming }), stop }), filling)
    }

    /// Takes `count` ids; blocks, and so is for lanes only.
    pub fn take(&self, count: u64) -> Result<Vec<IdRange>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        let mut missing = i64::try_from(count).unwrap_or(i64::MAX);
        while missing > 0 {
            let Some(mut range) = inner.ready.pop() else {
                let Some(ids) = inner.coming.blocking_recv() else {
                    return Err(Error::bug("fewer ids were reserved than rows were announced"));
                };
                let mut ids = match ids {
                    Ok(ids) => ids,
                    Err(error) => {
                        // Said before another lane finds no ids and does not know why.
                        self.stop.because(error);
                        return Err(Error::failed("no ids could be reserved"));
                    }
                };
                // `pop` takes from the end.
                ids.reverse();
                inner.ready = ids;
                continue;
            };
            let length = range.last - range.first + 1;
            if length > missing {
                let rest = IdRange { first: range.first + missing, last: range.last };
                range.last = rest.first - 1;
                inner.ready.push(rest);
            }
            missing -= range.last - range.first + 1;
            taken.push(range);
        }
        Ok(taken)
    }
}

async fn reserve(session: &Session, sequence: &Sequence, width: usize, count: i64) -> Result<Vec<IdRange>> {
    // The name is looked up once and not for each id, which would double the price of an id; a series in FROM would be
    // written to memory first, for another half of it.
    let sql = "select array_agg(nextval((select $1::text::regclass)))
        from (select generate_series(1, $2::bigint)) wanted";
    let failed = |error| session.error(format!("reserve ids from sequence {}", sequence.name), error);
    let statement = session.prepare_once(sql).await.map_err(failed)?;
    let row = session.query_one(&statement, &[&sequence.name, &count]).await.map_err(failed)?;
    let ids: Vec<i64> = row.get(0);
    // A sequence of bigints may stand behind a narrower column.
    let largest = i64::MAX >> (64 - 8 * width);
    if let Some(beyond) = ids.iter().find(|id| **id > largest || **id < -largest - 1) {
        return Err(Error::failed(format!(
            "sequence {} gave {beyond}, which the id column of {width} bytes can't hold",
            sequence.name
        ))
        .hint("make the column wider: ALTER TABLE ... ALTER COLUMN ... TYPE bigint"));
    }
    Ok(ranges(&ids))
}

fn ranges(ids: &[i64]) -> Vec<IdRange> {
    let mut ranges: Vec<IdRange> = Vec::new();
    for id in ids {
        match ranges.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(*id) => range.last = *id,
            _ => ranges.push(IdRange { first: *id, last: *id }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::super::stop::StopFlag;
    use super::*;

    #[test]
    fn successive_ids_make_one_range_and_gaps_part_them() {
        assert_eq!(
            ranges(&[5, 6, 7, 20, 30, 31]),
            [IdRange { first: 5, last: 7 }, IdRange { first: 20, last: 20 }, IdRange { first: 30, last: 31 }]
        );
    }

    #[test]
    fn a_pool_cuts_ranges_to_what_is_asked_for() {
        let (_sender, coming) = channel(1);
        let stop = Arc::new(Stop::new(&StopFlag::default()));
        let ready = vec![IdRange { first: 10, last: 19 }, IdRange { first: 1, last: 3 }];
        let pool = IdPool { inner: Mutex::new(Inner { ready, coming }), stop };
        let taken = pool.take(5).expect("enough ids");
        assert_eq!(taken, [IdRange { first: 1, last: 3 }, IdRange { first: 10, last: 11 }]);
        assert_eq!(pool.take(8).expect("enough ids"), [IdRange { first: 12, last: 19 }]);
    }
}
