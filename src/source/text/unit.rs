//! A unit of text: whole records, unescaped and cut into fields.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::memory::{Budget, Reservation};

/// Where a record begins in its source, decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Byte, from 0.
    pub byte: u64,
    /// Line, from 1.
    pub line: u64,
    /// Number among the source's records, from 1; a header is none.
    pub record: u64,
}

/// What units may take of `--memory`.
pub trait UnitMemory {
    /// The most that one unit can take.
    fn total(&self) -> usize;

    /// Whether the load is stopping.
    fn is_stopping(&self) -> bool;

    /// Waits for bytes, calling `make_room` now and then; `None` when the load is stopping.
    fn reserve(&self, bytes: usize, make_room: &dyn Fn()) -> Result<Option<Reservation>>;
}

/// A budget of its own, outside a load: nobody else gives memory back to it.
impl UnitMemory for Budget {
    fn total(&self) -> usize {
        Self::total(self)
    }

    fn is_stopping(&self) -> bool {
        false
    }

    fn reserve(&self, bytes: usize, make_room: &dyn Fn()) -> Result<Option<Reservation>> {
        make_room();
        match self.try_reserve(bytes) {
            Some(held) => Ok(Some(held)),
            None => {
                Err(Error::failed(format!("records take more than the {} MiB for them", self.total() >> 20)))
            }
        }
    }
}

/// How a unit that is being read grows.
#[derive(Clone, Copy)]
pub(super) struct Growth<'a> {
    pub(super) memory: &'a dyn UnitMemory,
    pub(super) pool: &'a BufferPool,
}

/// A unit that was read from a source of text.
#[derive(Debug)]
pub struct TextUnit {
    /// Number of the unit.
    pub unit: u32,
    /// Where it begins.
    pub start: Position,
    /// Hash of its bytes, in hexadecimal; empty in a plain file.
    pub hash: String,
    /// Whether the source ends with it.
    pub is_last: bool,
    buffer: UnitBuffer,
    pool: Weak<BufferPool>,
}

impl TextUnit {
    pub(super) fn new(
        unit: u32,
        start: Position,
        hash: String,
        buffer: UnitBuffer,
        pool: &Arc<BufferPool>,
    ) -> Self {
        Self { unit, start, hash, is_last: false, buffer, pool: Arc::downgrade(pool) }
    }

    /// Number of records.
    pub fn rows(&self) -> u64 {
        self.buffer.records.len() as u64
    }

    /// Bytes of all fields.
    pub fn bytes(&self) -> u64 {
        self.buffer.used as u64
    }

    /// Bytes of a record's fields.
    pub fn record_bytes(&self, row: usize) -> usize {
        let fields = self.buffer.fields(row);
        (fields.ends.last().map_or(0, |end| end - fields.start)) as usize
    }

    /// The fields of a record.
    pub fn fields(&self, row: usize) -> Fields<'_> {
        self.buffer.fields(row)
    }

    /// Where a record begins.
    pub fn position(&self, row: usize) -> Position {
        let record = &self.buffer.records[row];
        Position {
            byte: self.start.byte + record.byte,
            line: self.start.line + record.line,
            record: self.start.record + row as u64,
        }
    }
}

impl Drop for TextUnit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give_back(std::mem::take(&mut self.buffer));
        }
    }
}

/// The fields of one record.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    data: &'a [u8],
    start: u32,
    ends: &'a [u32],
}

impl<'a> Fields<'a> {
    /// Number of fields.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none; a record has at least one.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A field's bytes.
    pub fn get(&self, index: usize) -> &'a [u8] {
        let start = if index == 0 { self.start } else { self.ends[index - 1] };
        &self.data[start as usize..self.ends[index] as usize]
    }

    /// All fields.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.len()).map(move |index| self.get(index))
    }
}

#[derive(Debug, Clone, Copy)]
struct RecordEnd {
    /// Fields up to here, of all records.
    fields: u32,
    /// Where it begins, from the unit's start; any number of blank lines may lie between.
    byte: u64,
    line: u64,
}

/// Room for fields at first.
const ROOM_BYTES_FIRST: usize = 16 << 10;

/// Bytes that are reserved at a time.
const RESERVE_BYTES: usize = 1 << 20;

/// Memory of a unit, which the next unit uses again.
#[derive(Debug, Default)]
pub(super) struct UnitBuffer {
    /// Fields, one after another; zeros behind `used`.
    data: Vec<u8>,
    used: usize,
    ends: Vec<u32>,
    records: Vec<RecordEnd>,
    held: Vec<Reservation>,
    /// Bytes of the longest record.
    longest: usize,
}

impl UnitBuffer {
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.longest = 0;
        self.ends.clear();
        self.records.clear();
    }

    /// Records so far.
    pub(super) fn records(&self) -> usize {
        self.records.len()
    }

    /// Room behind what is used.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.data[self.used..]
    }

    /// Notes that so many bytes of the room are used now.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Bytes used by the record that is being read.
    pub(super) fn of_open_record(&self) -> &[u8] {
        let start = self.ends.last().copied().unwrap_or(0);
        &self.data[start as usize..self.used]
    }

    /// Appends bytes to the record that is being read.
    pub(super) fn append(&mut self, bytes: &[u8], growth: Growth<'_>) -> Result<bool> {
        while self.data.len() - self.used < bytes.len() {
            if !self.grow(growth)? {
                return Ok(false);
            }
        }
        self.data[self.used..][..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(true)
    }

    /// Doubles the room, within `--memory`; false when the load is stopping.
    pub(super) fn grow(&mut self, growth: Growth<'_>) -> Result<bool> {
        let length = (self.data.len() * 2).clamp(ROOM_BYTES_FIRST, self.data.len() + 16 * RESERVE_BYTES);
        if u32::try_from(length).is_err() {
            return Err(Error::failed("a unit of text grew beyond 4 GiB"));
        }
        if !self.hold(length, self.ends.len(), self.records.len(), growth)? {
            return Ok(false);
        }
        self.data.resize(length, 0);
        Ok(true)
    }

    /// Ends a record whose fields end at these places of its bytes; false when the load is stopping.
    pub(super) fn end_record(
        &mut self,
        ends: &[usize],
        byte: u64,
        line: u64,
        growth: Growth<'_>,
    ) -> Result<bool> {
        let start = self.ends.last().copied().unwrap_or(0);
        if self.used - start as usize > RESERVE_BYTES.max(self.longest) {
            self.longest = self.used - start as usize;
            if !self.hold(self.data.len(), self.ends.capacity(), self.records.capacity(), growth)? {
                return Ok(false);
            }
        }
        let fields = self.ends.len() + ends.len();
        let room = self.ends.capacity().max(fields.next_power_of_two());
        let records = self.records.capacity().max((self.records.len() + 1).next_power_of_two());
        if (room > self.ends.capacity() || records > self.records.capacity())
            && !self.hold(self.data.len(), room, records, growth)?
        {
            return Ok(false);
        }
        self.ends.reserve_exact(room - self.ends.len());
        self.records.reserve_exact(records - self.records.len());
        self.ends.extend(ends.iter().map(|end| start + *end as u32));
        self.records.push(RecordEnd { fields: fields as u32, byte, line });
        Ok(true)
    }

    /// Drops the last record.
    pub(super) fn drop_record(&mut self) {
        self.records.pop();
        let fields = self.records.last().map_or(0, |record| record.fields as usize);
        self.ends.truncate(fields);
        self.used = self.ends.last().map_or(0, |end| *end as usize);
    }

    /// Drops the bytes of the record that is being read.
    pub(super) fn drop_open_record(&mut self) {
        self.used = self.ends.last().map_or(0, |end| *end as usize);
    }

    fn fields(&self, row: usize) -> Fields<'_> {
        let first = if row == 0 { 0 } else { self.records[row - 1].fields as usize };
        let last = self.records[row].fields as usize;
        let start = if first == 0 { 0 } else { self.ends[first - 1] };
        Fields { data: &self.data, start, ends: &self.ends[first..last] }
    }

    fn hold(&mut self, data: usize, ends: usize, records: usize, growth: Growth<'_>) -> Result<bool> {
        // A lane copies a record that is longer than its batches.
        let needed = data + ends * size_of::<u32>() + records * size_of::<RecordEnd>() + self.longest;
        if needed > growth.memory.total() {
            return Err(Error::failed(format!(
                "a unit of the source needs {} MiB of memory, and --memory leaves {} MiB for it",
                needed.div_ceil(1 << 20),
                growth.memory.total() >> 20
            ))
            .hint(format!("give --memory {}MiB or more", (needed * 3).div_ceil(1 << 20))));
        }
        while self.held.len() * RESERVE_BYTES < needed {
            // Idle buffers hold memory too.
            match growth.memory.reserve(RESERVE_BYTES, &|| growth.pool.clear())? {
                Some(held) => self.held.push(held),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Buffers of units that are done, for the next ones: fresh memory costs a page fault per 4 KiB.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Mutex<Vec<UnitBuffer>>);

impl BufferPool {
    pub(super) fn take(&self) -> UnitBuffer {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn give_back(&self, buffer: UnitBuffer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}
