//! Pages of lists of floats. One with plain values is taken as it lies there, values in place and levels in runs; any
//! other is left to the crate's column reader.
//!
//! Where the parts of a data page lie is told by the Parquet format, `README.md`, "Data Pages".

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescPtr;

use super::guard::guarded;
use super::levels::{Levels, StoredLevels};

/// A page of lists, or a piece of one.
pub(super) struct Piece {
    /// 0 where a list begins.
    pub repetitions: Levels,
    /// What is there of each element.
    pub definitions: Levels,
    /// The elements that are there, little-endian.
    pub values: Bytes,
}

/// The pages of a column chunk of physical type FLOAT or DOUBLE.
pub(super) struct ListPages {
    pages: Box<dyn PageReader>,
    descriptor: ColumnDescPtr,
    decoder: ColumnReader,
    handed: Handed,
    /// A column chunk has one dictionary at most.
    has_dictionary: bool,
    /// The decoder may have more of the page that it was handed.
    is_decoding: bool,
    /// Levels of the last piece that was decoded, the most that the next is given room for beforehand.
    decoded_levels: usize,
}

impl ListPages {
    /// Takes over the pages of a column with one level of repetition.
    pub(super) fn new(pages: Box<dyn PageReader>, descriptor: ColumnDescPtr) -> Self {
        let handed = Handed::default();
        let decoder = get_column_reader(Arc::clone(&descriptor), Box::new(handed.clone()));
        Self {
            pages,
            descriptor,
            decoder,
            handed,
            has_dictionary: false,
            is_decoding: false,
            decoded_levels: 0,
        }
    }

    /// The next piece; one that has to be decoded holds about so many rows.
    pub(super) fn next_piece(&mut self, rows: usize) -> Result<Option<Piece>> {
        loop {
            if self.is_decoding {
                let piece = guarded(|| decode(&mut self.decoder, rows, self.decoded_levels))?;
                if let Some(piece) = piece {
                    self.decoded_levels = piece.repetitions.left();
                    return Ok(Some(piece));
                }
                self.is_decoding = false;
            }
            let Some(page) = guarded(|| self.pages.get_next_page())? else { return Ok(None) };
            if page.is_dictionary_page() {
                self.take_dictionary(page)?;
                continue;
            }
            match self.plain(&page)? {
                Some(piece) if piece.repetitions.left() > 0 => return Ok(Some(piece)),
                Some(_empty) => {}
                None => {
                    self.is_decoding = true;
                    self.handed.push(page);
                }
            }
        }
    }

    /// Whether a list is known to end with the last piece.
    pub(super) fn at_record_boundary(&mut self) -> Result<bool> {
        Ok(!self.is_decoding && guarded(|| self.pages.at_record_boundary())?)
    }

    /// Skips the next page if it has at most so many rows, as far as an index tells; gives how many.
    pub(super) fn skip_page(&mut self, rows: usize) -> Result<Option<usize>> {
        if self.is_decoding {
            return Ok(None);
        }
        guarded(|| {
            while self.pages.peek_next_page()?.is_some_and(|page| page.is_dict) {
                if let Some(page) = self.pages.get_next_page()? {
                    self.take_dictionary(page)?;
                }
            }
            let next = self.pages.peek_next_page()?.and_then(|page| page.num_rows);
            let Some(skipped) = next.filter(|count| (1..=rows).contains(count)) else { return Ok(None) };
            self.pages.skip_next_page()?;
            Ok(Some(skipped))
        })
    }

    /// Keeps the dictionary for the pages that need it.
    fn take_dictionary(&mut self, page: Page) -> Result<()> {
        if !page.is_dictionary_page() {
            return Err(ParquetError::General("a data page where the index has a dictionary".into()));
        }
        if std::mem::replace(&mut self.has_dictionary, true) {
            return Err(ParquetError::General("it has more than one dictionary".into()));
        }
        self.handed.push(page);
        Ok(())
    }

    /// A page of plain values as a piece; `None` if it is none.
    fn plain(&self, page: &Page) -> Result<Option<Piece>> {
        let (max_repetition, max_definition) =
            (self.descriptor.max_rep_level(), self.descriptor.max_def_level());
        let (repetitions, definitions, values, count) = match page {
            Page::DataPage {
                buf,
                num_values,
                encoding: Encoding::PLAIN,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                ..
            } => {
                let mut rest = buf.clone();
                (with_length(&mut rest)?, with_length(&mut rest)?, rest, *num_values)
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding: Encoding::PLAIN,
                def_levels_byte_len,
                rep_levels_byte_len,
                ..
            } => {
                let mut rest = buf.clone();
                let repetitions = split_to(&mut rest, *rep_levels_byte_len)?;
                (repetitions, split_to(&mut rest, *def_levels_byte_len)?, rest, *num_values)
            }
            _ => return Ok(None),
        };
        let levels = |bytes, max| Levels::Stored(StoredLevels::new(bytes, max, count as usize));
        Ok(Some(Piece {
            repetitions: levels(repetitions, max_repetition),
            definitions: levels(definitions, max_definition),
            values,
        }))
    }

    /// Bytes of an element.
    pub(super) fn width(&self) -> usize {
        if self.descriptor.physical_type() == Physical::DOUBLE { 8 } else { 4 }
    }
}

/// What the decoder has of its page, up to so many rows, with room for so many levels.
fn decode(decoder: &mut ColumnReader, rows: usize, room: usize) -> Result<Option<Piece>> {
    let (mut definitions, mut repetitions) = (Vec::with_capacity(room), Vec::with_capacity(room));
    let levels = (Some(&mut definitions), Some(&mut repetitions));
    let values = match decoder {
        ColumnReader::FloatColumnReader(column) => {
            let mut values = Vec::with_capacity(room);
            column.read_records(rows, levels.0, levels.1, &mut values)?;
            values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened()
        }
        ColumnReader::DoubleColumnReader(column) => {
            let mut values = Vec::with_capacity(room);
            column.read_records(rows, levels.0, levels.1, &mut values)?;
            values.iter().map(|value| value.to_le_bytes()).collect::<Vec<_>>().into_flattened()
        }
        _ => return Err(ParquetError::General("the column holds neither FLOAT nor DOUBLE".into())),
    };
    let (repetitions, definitions) = (Levels::Decoded(repetitions, 0), Levels::Decoded(definitions, 0));
    let is_empty = repetitions.left() == 0;
    Ok((!is_empty).then(|| Piece { repetitions, definitions, values: values.into() }))
}

/// Bytes that their length stands before.
fn with_length(rest: &mut Bytes) -> Result<Bytes> {
    let length = rest.try_get_u32_le().map_err(|_too_short| beyond())?;
    split_to(rest, length)
}

fn split_to(rest: &mut Bytes, length: u32) -> Result<Bytes> {
    match usize::try_from(length) {
        Ok(length) if length <= rest.len() => Ok(rest.split_to(length)),
        _ => Err(beyond()),
    }
}

fn beyond() -> ParquetError {
    ParquetError::General("a page's levels reach beyond its end".into())
}

/// Pages on their way to the decoder, which sees no others.
#[derive(Clone, Default)]
pub(super) struct Handed(Arc<Mutex<VecDeque<Page>>>);

impl Handed {
    pub(super) fn push(&self, page: Page) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(page);
    }

    fn pop(&self) -> Option<Page> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Iterator for Handed {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pop().map(Ok)
    }
}

impl PageReader for Handed {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        Ok(self.pop())
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(pages.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pop();
        Ok(())
    }
}
