//! Blocks made by several threads, taken by one in their order, with a bounded number under way.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Control;
use crate::error::{Context, Error, Result};

/// Blocks under way for each lane: one being made, one waiting for its turn.
const BLOCKS_PER_LANE: usize = 2;

/// Makes `blocks` blocks on `lanes` threads and hands them to `take` in order.
pub(super) fn in_order<T: Send>(
    blocks: u64,
    lanes: usize,
    control: &Control,
    make: impl Fn(u64) -> Result<T> + Sync,
    take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let window = lanes * BLOCKS_PER_LANE;
    let (tickets, numbers) = bounded(window);
    let (done, made) = bounded(window);
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (numbers, done, make) = (numbers.clone(), done.clone(), &make);
            std::thread::Builder::new()
                .name(format!("generate-{lane}"))
                .spawn_scoped(scope, move || work(&numbers, &done, make))
                .or_failed(|| "start a lane".into())?;
        }
        // The lanes alone hold these ends, so that each side notices when the other has gone.
        drop((numbers, done));
        collect(blocks, window as u64, control, tickets, made, take)
    })
}

/// A lane: makes the blocks that it draws a ticket for.
fn work<T>(numbers: &Receiver<u64>, done: &Sender<(u64, Result<T>)>, make: impl Fn(u64) -> Result<T>) {
    for number in numbers {
        // A block that never comes would keep the writer waiting.
        let block = catch_unwind(AssertUnwindSafe(|| make(number)))
            .unwrap_or_else(|_| Err(Error::bug(format!("a lane panicked at block {number}"))));
        if done.send((number, block)).is_err() {
            return;
        }
    }
}

/// The writer's side: gives out tickets, so that no lane runs ahead, and puts blocks in order.
///
/// Its ends of the queues are dropped with it, which ends the lanes.
fn collect<T>(
    blocks: u64,
    window: u64,
    control: &Control,
    tickets: Sender<u64>,
    made: Receiver<(u64, Result<T>)>,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let gone = || Error::bug("the lanes ended before the rows did");
    let mut waiting = BTreeMap::new();
    let mut given = 0;
    for next in 0..blocks {
        while given < blocks.min(next + window) {
            tickets.send(given).map_err(|_| gone())?;
            given += 1;
        }
        let block = loop {
            control.go_on()?;
            if let Some(block) = waiting.remove(&next) {
                break block;
            }
            let (number, block) = made.recv().map_err(|_| gone())?;
            waiting.insert(number, block?);
        };
        take(block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_order_and_only_a_few_are_under_way() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (taken, ahead) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut blocks = Vec::new();
        let make = |number: u64| {
            ahead.fetch_max(number - taken.load(Ordering::SeqCst).min(number), Ordering::SeqCst);
            Ok(number)
        };
        let take = |number| {
            blocks.push(number);
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(500, 3, &Control::default(), make, take).unwrap();
        assert!(blocks.into_iter().eq(0..500));
        assert!(ahead.into_inner() <= 6);
    }

    #[test]
    fn the_first_failure_ends_it() {
        let fail = |at: u64| move |number| if number == at { Err(Error::failed("no")) } else { Ok(()) };
        let control = Control::default();
        assert_eq!(in_order(100, 2, &control, fail(30), |()| Ok(())).unwrap_err().to_string(), "no");
        let full = in_order(100, 2, &control, Ok, fail(30)).unwrap_err();
        assert_eq!(full.to_string(), "no");
        let panicked = in_order(
            100,
            2,
            &control,
            |number| match number {
                7 => panic!("on purpose"),
                _ => Ok(()),
            },
            |()| Ok(()),
        );
        assert_eq!(panicked.unwrap_err().exit_code(), 101);
        control.stop();
        assert_eq!(in_order(100, 2, &control, |_| Ok(()), |()| Ok(())).unwrap_err().exit_code(), 130);
    }
}
