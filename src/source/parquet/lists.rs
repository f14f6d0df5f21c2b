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
                    self.take_list(left)?.ok_or_else(|| too_few(skipped, rows))?;
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
        for row in 0..rows {
            // One more than are left: then it shows where the last ends.
            let list = self.take_list(rows - row + 1)?.ok_or_else(|| too_few(row, rows))?;
            self.put(row, list, out)?;
        }
        Ok(())
    }

    /// Opens pieces until a row begins; false at the end. One that has to be decoded holds about `wanted` rows.
    fn find_row(&mut self, wanted: usize) -> Result<bool> {
        while !self.piece.as_ref().is_some_and(OpenPiece::has_levels) {
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
        list.elements = Elements::Apart(match before.is_empty() {
            true => last,
            false => [&before[..], &last].concat().into(),
        });
        Ok(Some(list))
    }

    /// Adds a row's list to a batch.
    fn put(&mut self, row: usize, list: List, out: &mut Embeddings) -> Result<()> {
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
mod tests {
    use std::sync::Arc;

    use parquet::basic::Encoding;
    use parquet::column::page::Page;
    use parquet::data_type::{DataType, DoubleType, FloatType};
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::file::serialized_reader::SerializedPageReader;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;
    use proptest::prelude::*;

    use super::super::levels::tests::encoded;
    use super::super::list_pages::Handed;
    use super::*;

    /// A list as a writer has it: null, or elements that may be null.
    type Written = Option<Vec<Option<f32>>>;

    /// How it is written.
    #[derive(Debug, Clone)]
    struct Layout {
        is_double: bool,
        is_v2: bool,
        encoding: Encoding,
        has_dictionary: bool,
        page_bytes: usize,
        /// Levels after which the writer looks whether the page is full.
        step: usize,
    }

    const NULLABLE: &str =
        "message m { optional group e (LIST) { repeated group list { optional TYPE element; } } }";

    fn layout() -> impl Strategy<Value = Layout> {
        let encoding = prop::sample::select(vec![Encoding::PLAIN, Encoding::BYTE_STREAM_SPLIT]);
        (any::<[bool; 3]>(), encoding, 1usize..600, 1usize..30).prop_map(
            |([is_double, is_v2, has_dictionary], encoding, page_bytes, step)| Layout {
                is_double,
                is_v2,
                encoding,
                has_dictionary,
                page_bytes,
                step,
            },
        )
    }

    /// Lists of which most have the dimension and no nulls.
    fn lists(dim: usize) -> impl Strategy<Value = Vec<Written>> {
        let good = || prop::collection::vec((-3i8..3).prop_map(|value| Some(f32::from(value))), dim);
        let any = prop::collection::vec(prop::option::of((-3i8..3).prop_map(f32::from)), 0..dim * 2);
        let list = prop_oneof![12 => good().prop_map(Some), 1 => any.prop_map(Some), 1 => Just(None)];
        prop::collection::vec(list, 1..60)
    }

    fn levels_and_values(lists: &[Written]) -> (Vec<i16>, Vec<i16>, Vec<f32>) {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists {
            let Some(elements) = list.as_ref().filter(|elements| !elements.is_empty()) else {
                definitions.push(i16::from(list.is_some()));
                repetitions.push(0);
                continue;
            };
            for (index, element) in elements.iter().enumerate() {
                definitions.push(if element.is_some() { 3 } else { 2 });
                repetitions.push(i16::from(index > 0));
                values.extend(element);
            }
        }
        (definitions, repetitions, values)
    }

    fn descriptor(is_double: bool) -> ColumnDescPtr {
        let schema = parse_message_type(&schema(is_double)).expect("a schema");
        SchemaDescriptor::new(Arc::new(schema)).column(0)
    }

    fn schema(is_double: bool) -> String {
        NULLABLE.replace("TYPE", if is_double { "double" } else { "float" })
    }

    /// Pages that end anywhere, as Arrow's C++ writer leaves them: after so many levels each, in turns.
    fn pages(lists: &[Written], cuts: &[(usize, bool, bool)]) -> Handed {
        let (definitions, repetitions, values) = levels_and_values(lists);
        let pages = Handed::default();
        let (mut at, mut value, mut cuts) = (0, 0, cuts.iter().cycle());
        while at < definitions.len() {
            let (levels, is_v2, is_split) = *cuts.next().expect("endless");
            let end = (at + levels).min(definitions.len());
            let count = definitions[at..end].iter().filter(|level| **level == 3).count();
            let elements: Vec<[u8; 4]> =
                values[value..value + count].iter().map(|value| value.to_le_bytes()).collect();
            let values = match is_split {
                true => (0..4).flat_map(|byte| elements.iter().map(move |element| element[byte])).collect(),
                false => elements.into_flattened(),
            };
            let of_lists = encoded(&repetitions[at..end], 1);
            let of_elements = encoded(&definitions[at..end], 3);
            let length = |levels: &[u8]| levels.len() as u32;
            let encoding = if is_split { Encoding::BYTE_STREAM_SPLIT } else { Encoding::PLAIN };
            let num_values = (end - at) as u32;
            pages.push(if is_v2 {
                Page::DataPageV2 {
                    num_values,
                    encoding,
                    num_nulls: num_values - count as u32,
                    num_rows: 0,
                    def_levels_byte_len: length(&of_elements),
                    rep_levels_byte_len: length(&of_lists),
                    is_compressed: false,
                    statistics: None,
                    buf: [of_lists, of_elements, values].concat().into(),
                }
            } else {
                let prefixed = |levels: Vec<u8>| [length(&levels).to_le_bytes().to_vec(), levels].concat();
                Page::DataPage {
                    num_values,
                    encoding,
                    def_level_encoding: Encoding::RLE,
                    rep_level_encoding: Encoding::RLE,
                    statistics: None,
                    buf: [prefixed(of_lists), prefixed(of_elements), values].concat().into(),
                }
            });
            (at, value) = (end, value + count);
        }
        pages
    }

    /// All rows behind those skipped, in batches.
    fn read_all(
        mut reader: ListReader,
        dim: usize,
        rows: Range<usize>,
        batch: usize,
    ) -> Vec<Result<Vec<f32>, Reason>> {
        reader.skip(rows.start).expect("rows to skip");
        let mut embeddings = Embeddings::reusing(dim, Vec::new());
        let mut found = Vec::new();
        while found.len() < rows.len() {
            let count = batch.min(rows.len() - found.len());
            reader.read(count, &mut embeddings).expect("good pages");
            found.extend(rows_of(&embeddings, count));
        }
        assert!(!reader.has_more().expect("the end"));
        assert!(reader.read(1, &mut embeddings).is_err());
        found
    }

    fn write<T: DataType>(lists: &[Written], layout: &Layout, value: impl Fn(f32) -> T::T) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(&schema(layout.is_double)).expect("a schema"));
        let version = if layout.is_v2 { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 };
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_encoding(layout.encoding)
            .set_dictionary_enabled(layout.has_dictionary)
            .set_dictionary_page_size_limit(16)
            .set_data_page_size_limit(layout.page_bytes)
            .set_write_batch_size(layout.step)
            .build();
        let (definitions, repetitions, values) = levels_and_values(lists);
        let values: Vec<T::T> = values.into_iter().map(value).collect();
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).expect("a writer");
        let mut group = writer.next_row_group().expect("a row group");
        let mut column = group.next_column().expect("a column").expect("one");
        column.typed::<T>().write_batch(&values, Some(&definitions), Some(&repetitions)).expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
        writer.close().expect("closed");
        bytes
    }

    fn open(bytes: Vec<u8>) -> ListReader {
        let bytes = Bytes::from(bytes);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).expect("a footer");
        let group = metadata.row_group(0);
        let rows = group.num_rows() as usize;
        let pages =
            SerializedPageReader::new(Arc::new(bytes), group.column(0), rows, None).expect("a page reader");
        ListReader::new(Box::new(pages), metadata.file_metadata().schema_descr().column(0), true, true)
    }

    /// What is read of a list: its elements, or the reason against it.
    fn expected(list: &Written, dim: usize) -> Result<Vec<f32>, Reason> {
        let elements = list.as_ref().ok_or(Reason::EmbeddingNull)?;
        let elements: Option<Vec<f32>> = elements.iter().copied().collect();
        let elements = elements.ok_or(Reason::EmbeddingElementNull)?;
        match elements.len() == dim {
            true => Ok(elements),
            false => Err(Reason::Dimension { found: elements.len(), expected: dim }),
        }
    }

    fn rows_of(embeddings: &Embeddings, rows: usize) -> Vec<Result<Vec<f32>, Reason>> {
        let mut faults = embeddings.faults.iter().peekable();
        let mut good = 0..;
        let read = |row| match faults.next_if(|fault| fault.0 == row) {
            Some((_, reason, _)) => Err(reason.clone()),
            None => Ok(embeddings.get(good.next().expect("endless")).expect("an embedding").to_vec()),
        };
        (0..rows).map(read).collect()
    }

    proptest! {
        #[test]
        fn rows_are_those_that_were_written_in_any_layout(
            (dim, lists) in (1usize..9).prop_flat_map(|dim| (Just(dim), lists(dim))),
            layout in layout(),
            batch_rows in 1usize..20,
            skipped in 0usize..30,
        ) {
            let bytes = match layout.is_double {
                true => write::<DoubleType>(&lists, &layout, f64::from),
                false => write::<FloatType>(&lists, &layout, |value| value),
            };
            let skipped = skipped.min(lists.len());
            let found = read_all(open(bytes), dim, skipped..lists.len(), batch_rows);
            let expected: Vec<_> = lists[skipped..].iter().map(|list| expected(list, dim)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_list_may_go_on_in_any_number_of_pages(
            (dim, lists) in (1usize..9).prop_flat_map(|dim| (Just(dim), lists(dim))),
            cuts in prop::collection::vec((1usize..40, any::<bool>(), prop::bool::weighted(0.3)), 1..9),
            batch_rows in 1usize..20,
            skipped in 0usize..30,
        ) {
            let skipped = skipped.min(lists.len());
            let pages = Box::new(pages(&lists, &cuts));
            let reader = ListReader::new(pages, descriptor(false), true, true);
            let found = read_all(reader, dim, skipped..lists.len(), batch_rows);
            let expected: Vec<_> = lists[skipped..].iter().map(|list| expected(list, dim)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn damaged_pages_never_panic(
            lists in lists(4),
            layout in layout(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut bytes = write::<FloatType>(&lists, &Layout { is_double: false, ..layout }, |value| value);
            let length = bytes.len();
            let footer = u32::from_le_bytes(bytes[length - 8..][..4].try_into().expect("four bytes"));
            let pages = length - 8 - footer as usize;
            for (place, byte) in damage {
                bytes[4 + place.index(pages - 4)] = byte;
            }
            let mut reader = open(bytes);
            let mut embeddings = Embeddings::reusing(4, Vec::new());
            let mut rows = 0;
            while rows < 200 && reader.read(7, &mut embeddings).is_ok() {
                prop_assert_eq!(embeddings.elements(), (7 - embeddings.faults.len()) * 4);
                rows += 7;
            }
        }
    }
}
