//! Parquet files: opened and checked from their footers, cut into row groups and parts of them.

mod file;
mod footer;
mod guard;
mod levels;
mod list_pages;
mod lists;
mod padded;
mod pages;
mod reader;
mod schema;
mod thrift;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Fields};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Type as Physical;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};

pub use self::file::PositionedFile;
pub use self::guard::quiet_decoder_panics;
pub use self::reader::{PartReader, read_rows};
pub use self::schema::{for_writing, text_field};

use self::guard::guarded;
use self::pages::PageNeeds;
use super::UnitPart;
use crate::error::{Context, Error, Result};

/// A row group with more rows than this is read in parts, where page boundaries are known.
pub const ROWS_PER_PART: u64 = 64 * 1024;

/// The footer's length and the closing magic number.
const TAIL_BYTES: u64 = 8;

/// An open Parquet file whose footer has been read and checked.
#[derive(Debug)]
pub struct ParquetFile {
    file: PositionedFile,
    arrow: ArrowReaderMetadata,
    text: Vec<bool>,
    surveys: Mutex<HashMap<(u32, usize), PageNeeds>>,
}

/// Which top-level columns of a file are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Index of the embedding's column.
    pub embedding: usize,
    /// Indexes of the other columns, in the order in which batches carry them.
    pub columns: Vec<usize>,
}

impl ParquetFile {
    /// Opens a file and reads its footer, which may take `footer_bytes_max` bytes.
    pub fn open(path: &Path, footer_bytes_max: usize) -> Result<Self> {
        let file = PositionedFile::open(path)?;
        let (footer_at, length) = check_frame(&file, footer_bytes_max)?;
        let footer = file
            .read_up_to(length, footer_at)
            .or_refused(|| format!("read the end of {}", path.display()))?;
        let unreadable = |error: ParquetError| {
            Error::refused(format!("read the footer of {}", path.display())).because(error).hint(
                "the file is damaged or of a kind that vecload can't read; write it again, or leave it out",
            )
        };
        footer::check(&footer).map_err(|why| unreadable(ParquetError::General(why.into())))?;
        guarded(|| {
            let mut metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
            // Page boundaries are only needed where a row group is cut.
            if metadata.row_groups().iter().any(|group| group.num_rows() > ROWS_PER_PART as i64) {
                let mut reader = ParquetMetaDataReader::new_with_metadata(metadata)
                    .with_column_index_policy(PageIndexPolicy::Skip)
                    .with_offset_index_policy(PageIndexPolicy::Optional);
                reader.read_page_indexes(&file)?;
                metadata = reader.finish()?;
            }
            let fields = metadata.file_metadata().schema().get_fields();
            let text = fields.iter().map(|field| schema::is_text(field)).collect();
            let leaves = schema::leaves(&metadata);
            let metadata = Arc::new(schema::without_text(metadata)?);
            let options = || ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let arrow = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options())?;
            let arrow = match schema::for_reading(&metadata, &leaves, arrow.schema()) {
                Some(schema) => ArrowReaderMetadata::try_new(metadata, options().with_schema(schema))?,
                None => arrow,
            };
            Ok(Self { file: file.clone(), arrow, text, surveys: Mutex::default() })
        })
        .map_err(unreadable)?
        .checked()
    }

    /// The footer's counts and places, checked against the file.
    fn checked(self) -> Result<Self> {
        let size = self.file.size();
        for (index, group) in self.metadata().row_groups().iter().enumerate() {
            let damaged = |what: String| {
                Error::refused(format!("{}, row group {index}: {what}", self.path().display()))
                    .hint("the footer is damaged; write the file again, or leave it out")
            };
            if group.num_rows() < 0 {
                return Err(damaged(format!("its row count is {}", group.num_rows())));
            }
            for column in group.columns() {
                let name = column.column_path().string();
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                let end = start.checked_add(column.compressed_size());
                let within =
                    start >= 0 && column.compressed_size() >= 0 && end.is_some_and(|end| end as u64 <= size);
                if !within {
                    return Err(damaged(format!(
                        "column \"{name}\" is said to lie at offset {start} with {} bytes, in a file of {size}",
                        column.compressed_size()
                    )));
                }
                if column.num_values() < 0 || column.uncompressed_size() < 0 {
                    return Err(damaged(format!("column \"{name}\" has negative counts")));
                }
                // A repeated column has a value, be it a null, in each row at least.
                let repeated = column.column_descr().max_rep_level() > 0;
                let (values, rows) = (column.num_values(), group.num_rows());
                if values < rows || values > rows && !repeated {
                    return Err(damaged(format!(
                        "column \"{name}\" is said to hold {values} values, the row group {rows} rows"
                    )));
                }
            }
        }
        Ok(self)
    }

    /// The file itself.
    pub fn file(&self) -> &PositionedFile {
        &self.file
    }

    /// Bytes that the pages of a row group need while it is read, or why they can't be believed.
    pub fn page_bytes(&self, row_group: u32, projection: &Projection) -> Result<PageBytes> {
        let mut bytes = PageBytes::default();
        for column in projection.columns.iter().chain([&projection.embedding]) {
            for leaf in self.leaves(*column) {
                let needs = self.survey(row_group, leaf)?;
                let nested = self.metadata().file_metadata().schema_descr().column(leaf).max_rep_level() > 0;
                // Two levels of two bytes for each value; or the page before, of which a batch of lists still has rows.
                let beside = match nested {
                    true if *column == projection.embedding => {
                        needs.values.saturating_mul(4).max(needs.uncompressed_bytes)
                    }
                    true => needs.values.saturating_mul(4),
                    false => 0,
                };
                let page = [needs.uncompressed_bytes, needs.dictionary_bytes, beside]
                    .into_iter()
                    .fold(needs.compressed_bytes, u64::saturating_add);
                bytes.total = bytes.total.saturating_add(page);
                if page > bytes.largest {
                    bytes.largest = page;
                    bytes.largest_column = self.fields()[*column].name().clone();
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes that a row's columns take once decoded, on average; the embedding counts only where it is no
    /// list of floats, whose size is known.
    pub fn decoded_row_bytes(&self, row_group: u32, projection: &Projection) -> Result<usize> {
        let group = self.row_group(row_group);
        let rows = group.num_rows().cast_unsigned().max(1);
        let embedding = Some(projection.embedding).filter(|column| self.float_leaf(*column).is_none());
        let mut bytes = 0u64;
        for column in projection.columns.iter().copied().chain(embedding) {
            for leaf in self.leaves(column) {
                let needs = self.survey(row_group, leaf)?;
                // A dictionary holds each value once, and rows repeat it.
                let repeated = needs.dictionary_bytes / needs.dictionary_values.max(1);
                let stored = group.column(leaf).uncompressed_size().cast_unsigned() / rows;
                bytes = bytes.saturating_add(repeated.max(stored));
            }
        }
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX / 64))
    }

    fn survey(&self, row_group: u32, leaf: usize) -> Result<PageNeeds> {
        let known =
            self.surveys.lock().unwrap_or_else(PoisonError::into_inner).get(&(row_group, leaf)).copied();
        if let Some(needs) = known {
            return Ok(needs);
        }
        let column = self.row_group(row_group).column(leaf);
        let (start, length) = column.byte_range();
        let counts = (column.num_values().cast_unsigned(), column.uncompressed_size().cast_unsigned());
        let needs = pages::survey(&self.file, start..start + length, counts.0, counts.1).map_err(|why| {
            let name = column.column_path().string();
            self.damaged(row_group, &format!("column \"{name}\"")).because(why)
        })?;
        self.surveys.lock().unwrap_or_else(PoisonError::into_inner).insert((row_group, leaf), needs);
        Ok(needs)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Top-level columns; text appears as `Binary`.
    pub fn fields(&self) -> &Fields {
        self.arrow.schema().fields()
    }

    /// Whether the file calls a top-level column text.
    pub fn is_text(&self, column: usize) -> bool {
        self.text[column]
    }

    /// Rows of each row group.
    pub fn row_group_rows(&self) -> Vec<u64> {
        // `checked` has refused negative counts.
        self.metadata().row_groups().iter().map(|group| group.num_rows().cast_unsigned()).collect()
    }

    /// Bytes of each top-level column in all row groups, as stored.
    pub fn column_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0u64; self.fields().len()];
        let schema = self.metadata().file_metadata().schema_descr();
        for group in self.metadata().row_groups() {
            for (leaf, column) in group.columns().iter().enumerate() {
                let total = &mut bytes[schema.get_column_root_idx(leaf)];
                *total = total.saturating_add(column.compressed_size().cast_unsigned());
            }
        }
        bytes
    }

    /// The parts in which a row group is read, for a source of this index in the plan.
    pub fn parts(&self, source: usize, row_group: u32, projection: &Projection) -> Vec<UnitPart> {
        let rows = self.row_group(row_group).num_rows().cast_unsigned();
        let mut starts = vec![0];
        if rows > ROWS_PER_PART
            && let [leaf] = self.leaves(projection.embedding)[..]
            && let Some(index) = self.metadata().page_index().filter(|index| index.has_offset_indexes())
            && let Some(pages) = index.offset_index(row_group as usize, leaf)
        {
            let mut next = ROWS_PER_PART;
            for page in pages.page_locations() {
                let start = page.first_row_index.cast_unsigned();
                if start >= next && start < rows {
                    starts.push(start);
                    next = start + ROWS_PER_PART;
                }
            }
        }
        let ends = starts.iter().skip(1).copied().chain([rows]);
        let parts = starts.iter().zip(ends).filter(|(start, end)| *start < end);
        parts.map(|(start, end)| UnitPart { source, unit: row_group, rows: *start..end }).collect()
    }

    /// Bytes of a row group's needed columns, as stored.
    pub fn stored_bytes(&self, row_group: u32, projection: &Projection) -> u64 {
        let columns = projection.columns.iter().chain([&projection.embedding]);
        let leaves = columns.flat_map(|column| self.leaves(*column));
        leaves.map(|leaf| self.row_group(row_group).column(leaf).compressed_size().cast_unsigned()).sum()
    }

    /// An error for a place in the file that can't be read.
    fn damaged(&self, row_group: u32, place: &str) -> Error {
        Error::failed(format!("read {}, row group {row_group}, {place}", self.path().display()))
            .hint("the file is damaged here; rows already loaded stay; put a good copy in its place or leave it out")
    }

    /// Leaf columns of a top-level column.
    fn leaves(&self, column: usize) -> Vec<usize> {
        let schema = self.metadata().file_metadata().schema_descr();
        (0..schema.num_columns()).filter(|leaf| schema.get_column_root_idx(*leaf) == column).collect()
    }

    /// The leaf of an embedding that is read from its pages: a list of floats.
    fn float_leaf(&self, column: usize) -> Option<(usize, Physical)> {
        let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
            self.fields()[column].data_type()
        else {
            return None;
        };
        let [leaf] = self.leaves(column)[..] else {
            return None;
        };
        let physical = self.metadata().file_metadata().schema_descr().column(leaf).physical_type();
        let plain = matches!(
            (item.data_type(), physical),
            (DataType::Float32, Physical::FLOAT) | (DataType::Float64, Physical::DOUBLE)
        );
        plain.then_some((leaf, physical))
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.arrow.metadata()
    }

    fn row_group(&self, row_group: u32) -> &RowGroupMetaData {
        self.metadata().row_group(row_group as usize)
    }
}

/// Memory for the pages of one row group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageBytes {
    /// All columns together.
    pub total: u64,
    /// The column that needs most.
    pub largest: u64,
    /// Its name.
    pub largest_column: String,
}

/// Checks magic numbers and the footer's length before anything is parsed; gives where the footer is.
fn check_frame(file: &PositionedFile, footer_bytes_max: usize) -> Result<(u64, usize)> {
    let path = file.path().display();
    let refuse = |what: String, hint: &str| Err(Error::refused(format!("{path} {what}")).hint(hint));
    let encrypted =
        || refuse("is an encrypted Parquet file".into(), "decrypt it first; vecload reads plain Parquet");
    if file.size() == 0 {
        return refuse("is empty (0 bytes)".into(), "write the file again, or leave it out");
    }
    let head = file.read_up_to(4, 0).or_refused(|| format!("read {path}"))?;
    if head == b"PARE" {
        return encrypted();
    }
    if head != b"PAR1" {
        let kind = match &head[..] {
            [0x1f, 0x8b, ..] => "it is gzip-compressed",
            [b'P', b'K', ..] => "it is a zip archive",
            [0x28, 0xb5, 0x2f, 0xfd] => "it is zstd-compressed",
            b"ARRO" => "it is an Arrow IPC file",
            head if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
                "it starts like a text file"
            }
            _ => "it does not start with PAR1",
        };
        return refuse(
            format!("is not a Parquet file: {kind}"),
            "if it is CSV or JSON Lines, say so: --format csv, --format jsonl",
        );
    }
    let cut = "the file is truncated (an upload or copy that was cut?); copy or write it again";
    if file.size() < 4 + TAIL_BYTES {
        return refuse(format!("ends after {} bytes, without a footer", file.size()), cut);
    }
    let tail_at = file.size() - TAIL_BYTES;
    let tail =
        file.read_up_to(TAIL_BYTES as usize, tail_at).or_refused(|| format!("read the end of {path}"))?;
    let Some((length, magic)) = tail.split_first_chunk::<4>() else {
        return refuse("became shorter while it was read".into(), cut);
    };
    if magic == b"PARE" {
        return encrypted();
    }
    if magic != b"PAR1" {
        return refuse("starts as a Parquet file and does not end as one".into(), cut);
    }
    let length = u64::from(u32::from_le_bytes(*length));
    if length > tail_at - 4 {
        return refuse(
            format!("claims a footer of {length} bytes in a file of {}", file.size()),
            "the file is damaged; copy or write it again",
        );
    }
    if length > footer_bytes_max as u64 {
        return refuse(
            format!(
                "has a footer of {length} bytes, more than the {footer_bytes_max} that --memory leaves for it"
            ),
            &format!("give --memory {}MiB or more", (length * 32).div_ceil(1 << 20)),
        );
    }
    Ok((tail_at - length, length as usize))
}

/// Rows of a range as a length.
fn range_len(rows: &Range<u64>) -> usize {
    usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX)
}
