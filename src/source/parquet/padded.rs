//! Pages that fastparquet pads: it appends eight zero bytes to data pages of nullable columns. Other decoders
//! never look at them; the crate's for FIXED_LEN_BYTE_ARRAY counts bytes and refuses the page.
//!
//! Files of that writer are read through pages cut to their values, where such a column is in them.

use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowGroups, RowSelection};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::{ParquetFile, PositionedFile};

/// Whether pages of the columns in `mask` may be padded so that the crate refuses them.
pub(super) fn needs_cutting(file: &ParquetFile, mask: &ProjectionMask) -> bool {
    let metadata = file.metadata().file_metadata();
    let schema = metadata.schema_descr();
    metadata.created_by().is_some_and(|writer| writer.starts_with("fastparquet"))
        && (0..schema.num_columns())
            .any(|leaf| mask.leaf_included(leaf) && padded_width(&schema.column(leaf)).is_some())
}

/// Reads columns of a row group as Arrow's reader does, with the padding cut off.
pub(super) fn reader(
    file: &ParquetFile,
    row_group: u32,
    mask: ProjectionMask,
    batch_rows: usize,
    selection: Option<RowSelection>,
) -> Result<ParquetRecordBatchReader> {
    let schema = file.metadata().file_metadata().schema_descr();
    let levels = parquet_to_arrow_field_levels(schema, mask, Some(file.fields()))?;
    let group = CutRowGroup { file, row_group: file.row_group(row_group) };
    ParquetRecordBatchReader::try_new_with_row_groups(&levels, &group, batch_rows, selection)
}

/// Bytes of a value where a column is nullable, of fixed width and not repeated.
fn padded_width(column: &ColumnDescriptor) -> Option<usize> {
    let padded = column.physical_type() == Physical::FIXED_LEN_BYTE_ARRAY
        && column.max_def_level() == 1
        && column.max_rep_level() == 0;
    padded.then(|| usize::try_from(column.type_length()).ok()).flatten()
}

struct CutRowGroup<'a> {
    file: &'a ParquetFile,
    row_group: &'a RowGroupMetaData,
}

impl RowGroups for CutRowGroup<'_> {
    fn num_rows(&self) -> usize {
        usize::try_from(self.row_group.num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.row_group.column(leaf);
        let file = Arc::new(self.file.file().clone());
        let pages = SerializedPageReader::new(file, column, self.num_rows(), None)?;
        let pages: Box<dyn PageReader> = match padded_width(column.column_descr()) {
            Some(width) => Box::new(CutPages { pages, width }),
            None => Box::new(pages),
        };
        Ok(Box::new(OneChunk(Some(pages))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.row_group))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.file.metadata()
    }
}

struct OneChunk(Option<Box<dyn PageReader>>);

impl Iterator for OneChunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for OneChunk {}

struct CutPages {
    pages: SerializedPageReader<PositionedFile>,
    width: usize,
}

impl Iterator for CutPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CutPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let mut page = self.pages.get_next_page()?;
        if let Some(Page::DataPage {
            buf,
            num_values,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            ..
        }) = &mut page
            && let Some(end) = values_end(buf, *num_values as usize, self.width)
        {
            buf.truncate(end);
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

/// Where the values of a v1 page end that starts with definition levels of 0 and 1, by their length.
fn values_end(page: &Bytes, rows: usize, width: usize) -> Option<usize> {
    let (length, rest) = page.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let values = ones(rest.get(..length)?, rows)?;
    let end = values.checked_mul(width)?.checked_add(4 + length)?;
    (end <= page.len()).then_some(end)
}

/// How many of the first `count` levels are 1, in the hybrid of runs and packed bits.
fn ones(mut levels: &[u8], mut count: usize) -> Option<usize> {
    let mut ones = 0;
    while count > 0 {
        let mut header = 0u64;
        for shift in (0..).step_by(7) {
            let (byte, rest) = levels.split_first()?;
            levels = rest;
            header |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let run = usize::try_from(header >> 1).ok()?;
        if header & 1 == 0 {
            let (level, rest) = levels.split_first()?;
            levels = rest;
            let run = run.min(count);
            ones += run * usize::from(level & 1);
            count -= run;
            if run == 0 {
                return None;
            }
        } else {
            let packed = levels.get(..run)?;
            levels = &levels[run..];
            let taken = run.checked_mul(8)?.min(count);
            ones += (0..taken).filter(|bit| packed[bit / 8] >> (bit % 8) & 1 == 1).count();
            count -= taken;
            if taken == 0 {
                return None;
            }
        }
    }
    Some(ones)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::Array;

    use super::super::{ParquetFile, read_rows};
    use super::*;

    #[test]
    fn fixed_bytes_of_fastparquet_are_read_to_the_last_row() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = path.join("tests/corpus/fastparquet_fixed_bytes_f32le.parquet");
        let file = ParquetFile::open(&path, 1 << 20).expect("a good file");
        let rows = read_rows(&file, 0, &[0, 15]).expect("two rows");
        let embeddings = rows.column_by_name("embedding").expect("there");
        assert_eq!((embeddings.len(), embeddings.null_count()), (2, 0));
    }

    #[test]
    fn levels_are_counted_in_runs_and_packed_bits() {
        assert_eq!(ones(&[0x20, 1], 16), Some(16));
        assert_eq!(ones(&[0x06, 0, 0x03, 0b0000_0101], 8), Some(2));
        assert_eq!(ones(&[0x80, 0x01, 1], 64), Some(64));
        for damaged in
            [&[][..], &[0], &[0, 0, 0], &[0x20], &[1], &[0xff; 12], &[0xff, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert_eq!(ones(damaged, 16), None, "{damaged:?}");
        }
    }

    #[test]
    fn only_what_is_behind_the_values_is_cut() {
        let page = Bytes::from_static(&[2, 0, 0, 0, 0x04, 1, 10, 20, 0, 0, 0]);
        assert_eq!(values_end(&page, 2, 1), Some(8));
        assert_eq!(values_end(&page, 2, 3), None);
    }
}
