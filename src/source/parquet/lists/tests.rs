//! Lists as they were written, whatever the pages.

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
fn pages(lists: &[Written], cuts: &[(usize, bool, bool)], padding: usize) -> Handed {
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
                buf: [of_lists, of_elements, values, vec![0; padding]].concat().into(),
            }
        } else {
            let prefixed = |levels: Vec<u8>| [length(&levels).to_le_bytes().to_vec(), levels].concat();
            Page::DataPage {
                num_values,
                encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
                buf: [prefixed(of_lists), prefixed(of_elements), values, vec![0; padding]].concat().into(),
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
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).expect("a writer");
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

#[test]
fn a_batch_holds_few_pages_of_which_it_has_few_rows() {
    let lists: Vec<Written> = (0..200).map(|row| Some(vec![Some(row as f32); 4])).collect();
    let padding = 64 << 10;
    // Two lists and a half each.
    let pages = Box::new(pages(&lists, &[(10, false, false)], padding));
    let mut reader = ListReader::new(pages, descriptor(false), true, true);
    let mut embeddings = Embeddings::reusing(4, Vec::new());
    reader.read(200, &mut embeddings).expect("good pages");
    assert!(embeddings.stored.held_bytes() < 2 * padding, "{}", embeddings.stored.held_bytes());
    let expected: Vec<_> = lists.iter().map(|list| expected(list, 4)).collect();
    assert_eq!(rows_of(&embeddings, 200), expected);
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
        let pages = Box::new(pages(&lists, &cuts, 0));
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
