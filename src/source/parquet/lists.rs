//! Lists of floats, row by row. Values that lie in a page as COPY wants them, but for the order of their bytes, stay
//! there until they are encoded (`benches/read.rs` compares with Arrow's own lists).

use std::ops::Range;

use bytes::Bytes;
use parquet::column::page::PageReader;
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescPtr;

use super::list_pages::{ListPages, Piece};
use crate::batch::embedding;
use crate::batch::reject::{Reason, excerpt};
use crate::source::Embeddings;

/// Elements shown of a list that is rejected.
const SHOWN: usize = 5;

/// Rows decoded at a time that are skipped: parts of a row group begin with a page, so there are few.
const SKIPPED: usize = 64;

/// Pages of a batch that are held, besides the last, in terms of its rows.
const HELD_TIMES: usize = 2;

/// Reads one column of lists of `f32` or `f64`.
pub(super) struct ListReader {
    pages: ListPages,
    levels: ListLevels,
    /// Bytes of an element.
    width: usize,
    piece: Option<OpenPiece>,
    wide: Vec<f64>,
}

/// What definition levels mean.
#[derive(Debug, Clone, Copy)]
struct ListLevels {
    /// An element that is there.
    present: i16,
    /// Whether an element may be null; its level is then one below that of one that is there.
    nullable_element: bool,
    /// Whether the list itself may be null, which is level 0 of a top-level column. In a field that is only repeated,
    /// level 0 is an empty list.
    nullable_list: bool,
}

/// A piece that rows are being taken from.
struct OpenPiece {
    piece: Piece,
    /// Elements taken.
    taken: usize,
    /// Its number among the pages of the batch that is being read.
    in_batch: Option<u32>,
}

/// A row's list.
#[derive(Debug, Default)]
struct List {
    levels: usize,
    has_null_element: bool,
    is_null: bool,
    elements: Elements,
}

/// Where the elements of a list lie.
#[derive(Debug)]
enum Elements {
    /// In the piece that is open.
    Here(Range<usize>),
    /// By themselves.
    Apart(Bytes),
}

impl Default for Elements {
    fn default() -> Self {
        Self::Here(0..0)
    }
}

impl ListReader {
    /// Takes over the pages of a column of physical type FLOAT or DOUBLE.
    pub(super) fn new(
        pages: Box<dyn PageReader>,
        descriptor: ColumnDescPtr,
        nullable_element: bool,
        nullable_list: bool,
    ) -> Self {
        let levels = ListLevels { present: descriptor.max_def_level(), nullable_element, nullable_list };
        let pages = ListPages::new(pages, descriptor);
        Self { width: pages.width(), pages, levels, piece: None, wide: Vec::new() }
    }

    /// Skips rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<()> {
        let mut skipped = 0;
        while skipped < rows {
            let left = rows - skipped;
            let is_within = self.piece.as_ref().is_some_and(OpenPiece::has_levels);
            match if is_within { None } else { self.pages.skip_page(left)? } {
                Some(count) => skipped += count,
                None => {
                    // What has to be decoded is decoded for nothing, and never all at once.
                    self.take_list(left.min(SKIPPED))?.ok_or_else(|| too_few(skipped, rows))?;
                    skipped += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether there is a row behind those read.
    pub(super) fn has_more(&mut self) -> Result<bool> {
        self.find_row(1)
    }

    /// Reads the embeddings of `rows` rows into `out`, which is emptied first.
    pub(super) fn read(&mut self, rows: usize, out: &mut Embeddings) -> Result<()> {
        out.clear();
        if let Some(open) = &mut self.piece {
            open.in_batch = None;
        }
        let held_max = rows * out.dim * self.width * HELD_TIMES;
        for row in 0..rows {
            // One more than are left: then it shows where the last ends.
            let list = self.take_list(rows - row + 1)?.ok_or_else(|| too_few(row, rows))?;
            self.put(row, list, held_max, out)?;
        }
        Ok(())
    }

    /// Opens pieces until a row begins; false at the end. One that has to be decoded holds about `wanted` rows.
    fn find_row(&mut self, wanted: usize) -> Result<bool> {
        while !self.piece.as_ref().is_some_and(OpenPiece::has_levels) {
            // Not held beside the next.
            self.piece = None;
            match self.pages.next_piece(wanted)? {
                Some(piece) => self.piece = Some(OpenPiece::of(piece)),
                None => return Ok(false),
            }
        }
        match self.piece.as_mut().map(OpenPiece::begins_list) {
            Some(Ok(false)) => {
                Err(ParquetError::General("a page goes on with a list that none began".into()))
            }
            Some(begins) => begins,
            None => Ok(false),
        }
    }

    /// Takes the list of the next row; `None` at the end.
    fn take_list(&mut self, wanted: usize) -> Result<Option<List>> {
        if !self.find_row(wanted)? {
            return Ok(None);
        }
        let Some(open) = &mut self.piece else { return Ok(None) };
        let mut list = List::default();
        let elements = open.take(&mut list, self.levels)?;
        if open.has_levels() {
            list.elements = Elements::Here(elements);
            return Ok(Some(list));
        }
        // The page ends, and perhaps not the list.
        let mut last = open.bytes(elements, self.width)?;
        let mut before = Vec::new();
        self.piece = None;
        while !self.pages.at_record_boundary()?
            && let Some(piece) = self.pages.next_piece(wanted)?
        {
            let open = self.piece.insert(OpenPiece::of(piece));
            if open.begins_list()? {
                break;
            }
            before.extend_from_slice(&last);
            let elements = open.take(&mut list, self.levels)?;
            last = open.bytes(elements, self.width)?;
            if open.has_levels() {
                break;
            }
        }
        before.extend_from_slice(&last);
        list.elements = Elements::Apart(before.into());
        Ok(Some(list))
    }

    /// Adds a row's list to a batch that holds about so many bytes of pages before that which is open.
    fn put(&mut self, row: usize, list: List, held_max: usize, out: &mut Embeddings) -> Result<()> {
        let refusal = match (list.is_null, list.has_null_element) {
            (true, _) => Some(Reason::EmbeddingNull),
            (_, true) => Some(Reason::EmbeddingElementNull),
            _ => None,
        };
        if let (None, 4, Elements::Here(elements), Some(open)) =
            (&refusal, self.width, &list.elements, &mut self.piece)
            && elements.len() == out.dim
        {
            // Asked before the page is held: fewer elements than the levels tell are an error.
            open.check(elements, 4)?;
            let values = &open.piece.values;
            // Many pages may have few rows each and much else.
            if open.in_batch.is_none() && out.stored.held_bytes() > held_max {
                let row = open.bytes(elements.clone(), 4)?;
                let page = out.stored.add_page(Bytes::copy_from_slice(&row));
                out.stored.push(page, 0);
                return Ok(());
            }
            let page = *open.in_batch.get_or_insert_with(|| out.stored.add_page(values.clone()));
            out.stored.push(page, elements.start as u32);
            return Ok(());
        }
        let bytes = match (list.elements, &self.piece) {
            (Elements::Here(elements), Some(open)) => open.bytes(elements, self.width)?,
            (Elements::Here(_), None) => Bytes::new(),
            (Elements::Apart(bytes), _) => bytes,
        };
        let found = bytes.len() / self.width;
        if self.width == 8 {
            let (elements, _) = bytes.as_chunks();
            self.wide.clear();
            self.wide.extend(elements.iter().map(|element| f64::from_le_bytes(*element)));
            let read = |values: &mut Vec<f32>| match refusal {
                Some(refusal) => Err(refusal),
                None => embedding::narrow(&self.wide, values),
            };
            out.push_row(row, read, || shown(&self.wide, found, list.is_null));
        } else if refusal.is_none() && found == out.dim {
            let page = out.stored.add_page(bytes);
            out.stored.push(page, 0);
        } else {
            let (elements, _) = bytes.as_chunks();
            let first: Vec<f32> =
                elements.iter().take(SHOWN).map(|element| f32::from_le_bytes(*element)).collect();
            let refusal = refusal.unwrap_or(Reason::Dimension { found, expected: out.dim });
            out.faults.push((row, refusal, shown(&first, found, list.is_null)));
        }
        Ok(())
    }
}

impl OpenPiece {
    fn of(piece: Piece) -> Self {
        Self { piece, taken: 0, in_batch: None }
    }

    fn has_levels(&self) -> bool {
        self.piece.repetitions.left() > 0
    }

    /// Whether what comes next is the first element of a list.
    fn begins_list(&mut self) -> Result<bool> {
        Ok(self.piece.repetitions.peek(1)?.is_none_or(|(level, _)| level == 0))
    }

    /// Takes what is here of a list; gives the elements that are there.
    fn take(&mut self, list: &mut List, of: ListLevels) -> Result<Range<usize>> {
        let (repetitions, definitions) = (&mut self.piece.repetitions, &mut self.piece.definitions);
        let mut levels = 0;
        if list.levels == 0 {
            repetitions.advance(1);
            levels = 1;
        }
        while let Some((1.., run)) = repetitions.peek(usize::MAX)? {
            repetitions.advance(run);
            levels += run;
        }
        let start = self.taken;
        let mut left = levels;
        while left > 0 {
            let (definition, run) = definitions.peek(left)?.ok_or_else(ends)?;
            definitions.advance(run);
            if definition == of.present {
                self.taken += run;
            }
            list.has_null_element |= of.nullable_element && definition == of.present - 1;
            list.is_null |= of.nullable_list && definition == 0;
            left -= run;
        }
        list.levels += levels;
        // A list with elements is there, whatever else is told of it.
        list.is_null &= list.levels == 1;
        Ok(start..self.taken)
    }

    fn check(&self, elements: &Range<usize>, width: usize) -> Result<()> {
        match self.piece.values.len() / width >= elements.end {
            true => Ok(()),
            false => Err(ends()),
        }
    }

    fn bytes(&self, elements: Range<usize>, width: usize) -> Result<Bytes> {
        self.check(&elements, width)?;
        Ok(self.piece.values.slice(elements.start * width..elements.end * width))
    }
}

fn ends() -> ParquetError {
    ParquetError::General("fewer values than its levels announce".into())
}

fn too_few(found: usize, expected: usize) -> ParquetError {
    ParquetError::General(format!("it ends after {found} of {expected} rows"))
}

/// The first elements of a list that is rejected.
fn shown<T: std::fmt::Display>(elements: &[T], count: usize, is_null: bool) -> String {
    if is_null {
        return String::new();
    }
    let first: Vec<String> = elements.iter().take(SHOWN).map(T::to_string).collect();
    let more = if count > SHOWN { ", …" } else { "" };
    excerpt(format!("[{}{more}]", first.join(", ")).as_bytes())
}

#[cfg(test)]
mod tests;
