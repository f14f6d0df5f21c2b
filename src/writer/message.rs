//! Messages of a COPY. A segment is as small as a shard's share of a batch, or as large as a batch: what is sent at a
//! time is neither.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Bytes that lie in several places, sent as one without being copied together.
#[derive(Debug, Default)]
pub(super) struct Message {
    parts: VecDeque<Bytes>,
    bytes: usize,
}

impl Message {
    fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        self.parts.push_back(part);
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "{count} bytes beyond the {} of a message", self.bytes);
        self.bytes -= count;
        while let Some(part) = self.parts.front_mut() {
            if count < part.len() {
                return part.advance(count);
            }
            count -= part.len();
            self.parts.pop_front();
        }
    }
}

/// All parts in order, as messages of `bytes` each; the last may be smaller.
pub(super) struct Messages<I> {
    parts: I,
    rest: Bytes,
    bytes: usize,
}

impl<I: Iterator<Item = Bytes>> Messages<I> {
    pub(super) fn new(parts: I, bytes: usize) -> Self {
        Self { parts, rest: Bytes::new(), bytes }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Messages<I> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let mut message = Message::default();
        while message.bytes < self.bytes {
            if self.rest.is_empty() {
                match self.parts.next() {
                    Some(part) => self.rest = part,
                    None => break,
                }
            }
            let length = self.rest.len().min(self.bytes - message.bytes);
            message.push(self.rest.split_to(length));
        }
        (message.bytes > 0).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_have_their_size_and_all_bytes_in_order(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            bytes in 1usize..50,
            step in 1usize..9,
        ) {
            let whole = parts.concat();
            let messages: Vec<Message> = Messages::new(parts.into_iter().map(Bytes::from), bytes).collect();
            let last = messages.len().saturating_sub(1);
            let mut sent = Vec::new();
            for (number, mut message) in messages.into_iter().enumerate() {
                let length = message.remaining();
                prop_assert!(length == bytes || number == last && (1..bytes).contains(&length));
                // Taken in steps that end anywhere, and the rest at once.
                while message.remaining() > length / 2 {
                    let step = step.min(message.remaining());
                    sent.put(message.copy_to_bytes(step));
                }
                sent.put(message);
            }
            prop_assert_eq!(sent, whole);
        }
    }
}
