//! Sealed blocks on their way to the writers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as QueueMutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::partition::HeldBlock;
use crate::route::Routing;

/// Writers that have had no block of their own for so long help others. On Citus it takes them a connection to another
/// worker, a process there that is to be worth its start.
const STAND_IN_AFTER: Duration = Duration::from_millis(250);

/// A block that was passed over so often has waited long enough.
const PASSED_MAX: usize = 16;

/// Where the writers of one endpoint take blocks from.
#[derive(Debug)]
pub struct Waiting {
    queue: QueueMutex<Queue>,
    /// Blocks that are chosen from.
    choice: usize,
}

#[derive(Debug)]
struct Queue {
    receiver: Receiver<HeldBlock>,
    chosen_from: VecDeque<HeldBlock>,
    /// How often the first of them was passed over.
    passed: usize,
}

impl Waiting {
    /// A queue for an endpoint with so many writers: two blocks for each. On Citus writers choose.
    pub fn new(writers: usize, is_citus: bool) -> (Sender<HeldBlock>, Self) {
        let choice = if is_citus { writers.max(1) } else { 0 };
        let (sender, receiver) = channel((2 * writers).max(2) - choice);
        let queue = Queue { receiver, chosen_from: VecDeque::new(), passed: 0 };
        (sender, Self { queue: QueueMutex::new(queue), choice })
    }

    /// The next block for a writer: the first for a place that it knows, if one is there, else the first. A worker's
    /// backend takes some milliseconds to open a shard that it has never written to. `None` at the end.
    pub async fn next(&self, knows: impl Fn(usize) -> bool) -> Option<HeldBlock> {
        let Queue { receiver, chosen_from, passed } = &mut *self.queue.lock().await;
        if chosen_from.is_empty() {
            chosen_from.extend(receiver.recv().await);
        }
        let known = loop {
            match chosen_from.iter().position(|held| knows(held.place)) {
                _ if *passed >= PASSED_MAX => break None,
                None if chosen_from.len() < self.choice => match receiver.try_recv() {
                    Ok(block) => chosen_from.push_back(block),
                    Err(_empty) => break None,
                },
                known => break known,
            }
        };
        let taken = known.unwrap_or(0);
        *passed = if taken == 0 { 0 } else { *passed + 1 };
        chosen_from.remove(taken)
    }
}

/// One queue for each endpoint.
#[derive(Debug, Clone)]
pub struct BlockQueues {
    senders: Vec<Sender<HeldBlock>>,
    /// When there was last a block for each.
    last: Arc<[Mutex<Instant>]>,
    routing: Arc<Routing>,
}

impl BlockQueues {
    /// Queues in the order of the endpoints.
    pub fn new(senders: Vec<Sender<HeldBlock>>, routing: Arc<Routing>) -> Self {
        let last = senders.iter().map(|_| Mutex::new(Instant::now())).collect();
        Self { senders, last, routing }
    }

    /// The queue for a block: that of its place, or, where that is full, one of others that can write it and have had
    /// nothing to do for a while. A file may have the rows of one node alone.
    pub fn of(&self, place: usize) -> &Sender<HeldBlock> {
        let own = self.routing.endpoint_of[place];
        *self.last[own].lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.senders[own].capacity() > 0 || !self.routing.is_one_server() {
            return &self.senders[own];
        }
        let is_idle = |queue: usize| {
            self.senders[queue].capacity() == self.senders[queue].max_capacity()
                && self.last[queue].lock().unwrap_or_else(PoisonError::into_inner).elapsed() > STAND_IN_AFTER
        };
        let stand_in = (0..self.senders.len()).find(|queue| is_idle(*queue));
        &self.senders[stand_in.unwrap_or(own)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Partitions;
    use crate::route::shards::Node;
    use crate::route::{Endpoint, Route};

    /// Two places, each with a queue of one block.
    fn queues(node: Option<&Node>) -> (BlockQueues, [Receiver<HeldBlock>; 2]) {
        let endpoint = Endpoint { node: node.cloned(), tables: Vec::new(), settings: String::new() };
        let routing = Routing {
            route: Route::Coordinator,
            partitions: Partitions::even(2),
            place_of: vec![0, 1],
            endpoint_of: vec![0, 1],
            endpoints: vec![endpoint; 2],
            writers_each: 1,
            channels: Vec::new(),
            told: None,
        };
        let [(first, one), (second, other)] = [channel(1), channel(1)];
        (BlockQueues::new(vec![first, second], Arc::new(routing)), [one, other])
    }

    fn has_been_idle(queues: &BlockQueues, queue: usize) {
        let before =
            Instant::now().checked_sub(2 * STAND_IN_AFTER).expect("a machine that runs for a second");
        *queues.last[queue].lock().unwrap() = before;
    }

    #[test]
    fn idle_writers_help_those_whose_queue_is_full() {
        let (queues, _receivers) = queues(None);
        let goes_to = |queue: usize| queues.of(0).same_channel(&queues.senders[queue]);
        has_been_idle(&queues, 1);
        assert!(goes_to(0), "a queue that is not full");
        queues.of(0).try_send(HeldBlock::default()).unwrap();
        assert!(goes_to(1), "a full queue, and others that are idle");
        queues.of(1);
        assert!(goes_to(0), "others that were given a block of their own just now");
        has_been_idle(&queues, 1);
        queues.senders[1].try_send(HeldBlock::default()).unwrap();
        assert!(goes_to(0), "others that have a block in their queue");
    }

    #[test]
    fn a_block_for_one_server_goes_to_no_other() {
        let node = Node { host: "worker".into(), port: 5432, group: 1, is_here: false };
        let (queues, _receivers) = queues(Some(&node));
        queues.of(0).try_send(HeldBlock::default()).unwrap();
        has_been_idle(&queues, 1);
        assert!(queues.of(0).same_channel(&queues.senders[0]));
    }

    #[tokio::test]
    async fn a_writer_takes_what_it_knows_and_all_are_taken() {
        let block = |place| HeldBlock { place, ..HeldBlock::default() };
        let (sender, waiting) = Waiting::new(2, true);
        let send = |place: &usize| sender.try_send(block(*place)).unwrap();
        let next = async |known: usize| waiting.next(|place| place == known).await.map(|block| block.place);
        [3, 5].iter().for_each(send);
        assert_eq!(next(5).await, Some(5), "what it knows");
        [7, 7].iter().for_each(send);
        assert_eq!(next(7).await, Some(7));
        assert_eq!(next(9).await, Some(3), "the first");
        drop(sender);
        assert_eq!((next(9).await, next(9).await), (Some(7), None));
    }

    #[tokio::test]
    async fn a_block_that_nobody_knows_is_not_passed_over_for_ever() {
        let (sender, waiting) = Waiting::new(2, true);
        let send = |place| sender.try_send(HeldBlock { place, ..HeldBlock::default() }).unwrap();
        send(1);
        let mut taken = Vec::new();
        for _ in 0..=PASSED_MAX {
            send(7);
            taken.extend(waiting.next(|place| place == 7).await.map(|block| block.place));
        }
        assert_eq!(taken, [vec![7; PASSED_MAX], vec![1]].concat());
    }

    #[tokio::test]
    async fn without_citus_blocks_come_in_order() {
        let (sender, waiting) = Waiting::new(1, false);
        for place in [1, 2] {
            sender.try_send(HeldBlock { place, ..HeldBlock::default() }).unwrap();
        }
        assert!(sender.try_send(HeldBlock::default()).is_err(), "two for each writer");
        let next = async || waiting.next(|place| place == 2).await.map(|block| block.place);
        assert_eq!((next().await, next().await), (Some(1), Some(2)));
    }
}
