//! Sealed blocks on their way to the writers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use crate::partition::HeldBlock;
use crate::route::Routing;

/// Writers that have had no block of their own for so long help others. On Citus it takes them a connection to another
/// worker, a process there that is to be worth its start.
const STAND_IN_AFTER: Duration = Duration::from_millis(250);

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
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::partition::Partitions;
    use crate::route::shards::Node;
    use crate::route::{Endpoint, Route};

    /// Two places, each with a queue of one block.
    fn queues(node: Option<&Node>) -> (BlockQueues, [tokio::sync::mpsc::Receiver<HeldBlock>; 2]) {
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
}
