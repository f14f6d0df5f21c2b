//! The schema that vecload reads a Parquet file with: text columns as their bytes.
//!
//! With the text annotations taken off, Arrow's reader hands text over unchecked, and the batcher checks it
//! row by row: one row with invalid UTF-8 is one reject, not a failed file. Within lists, maps and structures,
//! where nothing else would tell them apart, text comes as `Binary` and bytes as `LargeBinary`.
//!
//! The Arrow schema that some writers embed is left aside for the same reason; what it would add (large
//! offsets, views, dictionaries) is a matter of representation only.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::Result;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

use crate::batch::convert::VARIANT;

/// Where Arrow keeps the name of an extension type, in a field's metadata.
const EXTENSION_TYPE_NAME_KEY: &str = "ARROW:extension:name";

/// UTC as Arrow reads it without its time zone database.
const UTC: &str = "+00:00";

/// The same metadata with text columns turned into byte columns.
pub(super) fn without_text(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let mut leaf = |leaf: &TypePtr| if is_text(leaf) { annotated(leaf, None) } else { Ok(Arc::clone(leaf)) };
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(with_leaves(file.schema(), &mut leaf)?)));
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_string),
        None,
        schema,
        None,
    );
    let row_groups = metadata.row_groups().to_vec();
    let page_index = metadata.page_index().cloned();
    Ok(ParquetMetaDataBuilder::new(file).set_row_groups(row_groups).set_page_index(page_index).build())
}

/// The type with its leaves, in their order, as `leaf` makes them.
fn with_leaves(field: &Type, leaf: &mut impl FnMut(&TypePtr) -> Result<TypePtr>) -> Result<Type> {
    let mut inner = |field: &TypePtr| match field.is_group() {
        true => with_leaves(field, leaf).map(Arc::new),
        false => leaf(field),
    };
    let fields: Result<_> = field.get_fields().iter().map(&mut inner).collect();
    let info = field.get_basic_info();
    let group = Type::group_type_builder(field.name())
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_id(info.has_id().then(|| info.id()))
        .with_fields(fields?);
    // The root has none.
    match info.has_repetition() {
        true => group.with_repetition(info.repetition()).build(),
        false => group.build(),
    }
}

/// A leaf of bytes with another annotation.
fn annotated(leaf: &Type, logical: Option<LogicalType>) -> Result<TypePtr> {
    let info = leaf.get_basic_info();
    let leaf = Type::primitive_type_builder(leaf.name(), leaf.get_physical_type())
        .with_repetition(info.repetition())
        .with_logical_type(logical)
        .with_id(info.has_id().then(|| info.id()));
    Ok(Arc::new(leaf.build()?))
}

/// Whether a field is annotated as text of some kind.
pub(super) fn is_text(field: &Type) -> bool {
    let info = field.get_basic_info();
    let text =
        matches!(info.logical_type_ref(), Some(LogicalType::String | LogicalType::Json | LogicalType::Enum))
            || matches!(
                info.converted_type(),
                ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM
            );
    field.is_primitive() && field.get_physical_type() == Physical::BYTE_ARRAY && text
}

/// Metadata of a top-level column that the file calls text and that is read as bytes.
pub(super) const TEXT_MARK: &str = "vecload:text";

/// A column of text, for [`for_writing`].
pub fn text_field(name: &str) -> Field {
    Field::new(name, DataType::Binary, true)
        .with_metadata(HashMap::from([(TEXT_MARK.to_string(), String::new())]))
}

/// The Parquet schema to write rows with that were read with `for_reading`'s: texts are texts again, those of
/// top-level columns by their `TEXT_MARK`.
pub fn for_writing(schema: &Schema) -> Result<SchemaDescriptor> {
    let mut texts = Vec::new();
    for field in schema.fields() {
        match field.data_type() {
            DataType::Binary => texts.push(field.metadata().contains_key(TEXT_MARK)),
            nested => nested_texts(nested, false, &mut texts),
        }
    }
    let mut texts = texts.into_iter();
    let mut leaf = |leaf: &TypePtr| match texts.next() {
        Some(true) => annotated(leaf, Some(LogicalType::String)),
        _ => Ok(Arc::clone(leaf)),
    };
    let plain = ArrowSchemaConverter::new().convert(schema)?;
    Ok(SchemaDescriptor::new(Arc::new(with_leaves(plain.root_schema(), &mut leaf)?)))
}

/// For each leaf of a type, whether it is text in a nested column.
fn nested_texts(data_type: &DataType, nested: bool, texts: &mut Vec<bool>) {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            nested_texts(item.data_type(), true, texts);
        }
        DataType::Map(entries, _) => nested_texts(entries.data_type(), true, texts),
        DataType::Struct(fields) => {
            fields.iter().for_each(|field| nested_texts(field.data_type(), true, texts));
        }
        leaf => texts.push(nested && *leaf == DataType::Binary),
    }
}

/// A leaf column as the file has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    physical: Physical,
    text: bool,
}

/// The leaf columns, in the order of Arrow's.
pub(super) fn leaves(metadata: &ParquetMetaData) -> Vec<Leaf> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let leaf = |column: &Type| Leaf { physical: column.get_physical_type(), text: is_text(column) };
    columns.iter().map(|column| leaf(column.self_type())).collect()
}

/// The Arrow schema to read with, if it differs from the one that Arrow infers: timestamps with a zone (which
/// is always UTC in Parquet) have one that Arrow's casts know, INT96 timestamps come in microseconds rather
/// than nanoseconds, which would overflow after the year 2262, bytes in nested columns are `LargeBinary`, and
/// columns with VARIANT in them are marked.
pub(super) fn for_reading(
    metadata: &ParquetMetaData,
    leaves: &[Leaf],
    inferred: &Schema,
) -> Option<Arc<Schema>> {
    let mut leaves = leaves.iter().copied();
    let roots = metadata.file_metadata().schema().get_fields();
    let fields = inferred.fields().iter().zip(roots).map(|(field, root)| {
        let field = field_for_reading(field, false, &mut leaves);
        if !holds_variant(root) {
            return field;
        }
        let mark = (EXTENSION_TYPE_NAME_KEY.to_string(), VARIANT.to_string());
        let metadata: HashMap<_, _> = field.metadata().clone().into_iter().chain([mark]).collect();
        Arc::new(field.as_ref().clone().with_metadata(metadata))
    });
    let fields: Fields = fields.collect();
    (fields != *inferred.fields()).then(|| Arc::new(Schema::new(fields)))
}

/// Takes the field's leaves, whose order is that of Arrow's.
fn field_for_reading(field: &FieldRef, nested: bool, leaves: &mut impl Iterator<Item = Leaf>) -> FieldRef {
    let mut inner = |field| field_for_reading(field, true, leaves);
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        leaf => match (leaf, leaves.next()) {
            (DataType::Timestamp(_, None), Some(Leaf { physical: Physical::INT96, .. })) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            (DataType::Binary, Some(Leaf { text: false, .. })) if nested => DataType::LargeBinary,
            (DataType::Timestamp(unit, Some(_)), _) => DataType::Timestamp(*unit, Some(UTC.into())),
            (other, _) => other.clone(),
        },
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn holds_variant(field: &Type) -> bool {
    matches!(field.get_basic_info().logical_type_ref(), Some(LogicalType::Variant(_)))
        || field.is_group() && field.get_fields().iter().any(|field| holds_variant(field))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arrow::array::{
        Array, AsArray, BinaryArray, BinaryBuilder, Int64Array, LargeBinaryArray, ListBuilder, MapBuilder,
        StructArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::{TimestampMicrosecondType, TimestampNanosecondType};
    use arrow::record_batch::RecordBatch;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_writer::ArrowWriterOptions;
    use parquet::column::writer::ColumnWriter;
    use parquet::data_type::Int96;
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::{ParquetFile, PartReader, Projection, read_rows};
    use super::*;
    use crate::batch::convert::Converter;
    use crate::batch::reject::Reason;
    use crate::batch::text::TextForm;
    use crate::postgres::types::TargetType;

    fn corpus(name: &str) -> ParquetFile {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
        ParquetFile::open(&path, 1 << 20).expect("a good file")
    }

    #[test]
    fn zones_are_offsets_however_deep_they_lie() {
        let zoned = TimestampNanosecondArray::from(vec![1]).with_timezone("Europe/Berlin");
        let inner = Field::new("t", zoned.data_type().clone(), true);
        let nested = StructArray::from(vec![(Arc::new(inner.clone()), Arc::new(zoned.clone()) as _)]);
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("t", zoned.data_type().clone(), true),
            Field::new("s", nested.data_type().clone(), true),
        ]);
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(vec![1])), Arc::new(zoned), Arc::new(nested)];
        let batch = RecordBatch::try_new(Arc::new(schema), columns).expect("a batch");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("zones.parquet");
        let file = std::fs::File::create(&path).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");

        let file = ParquetFile::open(&path, 1 << 20).expect("a good file");
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into()));
        assert_eq!(*file.fields()[1].data_type(), utc);
        assert_eq!(*file.fields()[2].data_type(), DataType::Struct(vec![inner.with_data_type(utc)].into()));
        let rows = read_rows(&file, 0, &[0]).expect("the row");
        assert_eq!(
            rows.column(2).as_struct().column(0).as_primitive::<TimestampNanosecondType>().value(0),
            1
        );
    }

    #[test]
    fn int96_in_a_structure_reaches_beyond_2262() {
        let schema =
            "message m { required int64 n; required group s { required int64 a; required int96 t; } }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("int96.parquet");
        let file = std::fs::File::create(&path).expect("a file");
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).expect("a writer");
        let mut group = writer.next_row_group().expect("a row group");
        // Julian day 2,816,788 is 3000-01-01.
        let far = Int96::from(vec![0, 0, 2_816_788]);
        while let Some(mut column) = group.next_column().expect("a column") {
            match column.untyped() {
                ColumnWriter::Int64ColumnWriter(column) => column.write_batch(&[7], None, None).expect("one"),
                ColumnWriter::Int96ColumnWriter(column) => {
                    column.write_batch(&[far], None, None).expect("one")
                }
                _ => panic!("no such column"),
            };
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");

        let file = ParquetFile::open(&path, 1 << 20).expect("a good file");
        let rows = read_rows(&file, 0, &[0]).expect("the row");
        let times = Arc::clone(rows.column(1).as_struct().column(1));
        assert_eq!(times.as_primitive::<TimestampMicrosecondType>().value(0), 32_503_680_000_000_000);
    }

    #[test]
    fn a_variant_is_marked() {
        let file = corpus("duckdb_metadata_variant.parquet");
        let marked = file.fields().iter().filter(|field| field.extension_type_name() == Some(VARIANT));
        assert_eq!(marked.map(|field| &field.name()[..]).collect::<Vec<_>>(), ["metadata"]);
    }

    #[test]
    fn an_empty_list_without_optional_levels_has_dimension_0() {
        for (name, row) in
            [("edited_list_bare_repeated.parquet", 7), ("edited_list_two_level_array.parquet", 7)]
        {
            let file = Arc::new(corpus(name));
            let embedding =
                file.fields().iter().position(|field| field.name() == "embedding").expect("there");
            let projection = Projection { embedding, columns: vec![] };
            let part = file.parts(0, 0, &projection).remove(0);
            let mut reader = PartReader::open(file, part, projection, 1000, 8).expect("a reader");
            let batch = reader.next_batch().expect("readable").expect("rows");
            let fault = batch.embeddings.faults.iter().find(|fault| fault.0 == row);
            let fault = fault.map(|(_, reason, shown)| (reason, &shown[..]));
            assert_eq!(fault, Some((&Reason::Dimension { found: 0, expected: 8 }, "[]")), "{name}");
        }
    }
    #[test]
    fn text_in_nested_columns_is_read_unchecked_and_stays_apart_from_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("nested.parquet");
        let mut lists = ListBuilder::new(BinaryBuilder::new());
        let mut maps = MapBuilder::new(None, BinaryBuilder::new(), BinaryBuilder::new());
        let values = [&b"good"[..], b"\xff", b"good", b"good"];
        for value in values {
            lists.append_value([Some(value), None]);
            maps.keys().append_value(b"k");
            maps.values().append_value(value);
            maps.append(true).expect("a map");
        }
        let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
        let structs = StructArray::from(vec![
            (field("t", DataType::Binary), Arc::new(BinaryArray::from_iter_values(values)) as Arc<dyn Array>),
            (field("b", DataType::LargeBinary), Arc::new(LargeBinaryArray::from_iter_values(values))),
        ]);
        let columns: [(&str, Arc<dyn Array>); 3] =
            [("l", Arc::new(lists.finish())), ("m", Arc::new(maps.finish())), ("s", Arc::new(structs))];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let options = ArrowWriterOptions::new()
            .with_parquet_schema(for_writing(&batch.schema()).expect("a schema of Parquet's"));
        let file = std::fs::File::create(&path).expect("a file");
        let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");

        let file = Arc::new(ParquetFile::open(&path, 1 << 20).expect("a good file"));
        let mut plain = ParquetMetaDataReader::new();
        plain.try_parse(file.file()).expect("a footer");
        let plain = plain.finish().expect("a footer");
        let texts = leaves(&plain).iter().map(|leaf| leaf.text).collect::<Vec<_>>();
        assert_eq!(texts, [true, true, true, true, false]);
        let projection = Projection { embedding: 0, columns: vec![0, 1, 2] };
        let part = file.parts(0, 0, &projection).remove(0);
        let mut reader = PartReader::open(Arc::clone(&file), part, projection, 1000, 8).expect("a reader");
        let rows = reader.next_batch().expect("readable").expect("rows").columns;
        for (column, target, expected) in [
            (0, TargetType::TextArray, None),
            (0, TargetType::Json, Some(r#"["good",null]"#)),
            (1, TargetType::Json, Some(r#"{"k":"good"}"#)),
            (2, TargetType::Json, Some(r#"{"t":"good","b":"676f6f64"}"#)),
        ] {
            let converter = Converter::bind(&file.fields()[column], TextForm::Bytes, &target).expect("a way");
            let mut rejects = Vec::new();
            let cells = converter.convert(rows.column(column), &mut rejects).expect("no bug");
            assert_eq!(rejects.len(), 1, "{target}: {rejects:?}");
            assert_eq!((rejects[0].0, &rejects[0].1), (1, &Reason::InvalidUtf8));
            let mut last = Vec::new();
            cells.put(3, &mut last);
            assert!(expected.is_none_or(|text| &last[4..] == text.as_bytes()), "{last:?}");
        }
    }

    #[test]
    fn a_map_with_a_null_key_rejects_its_row() {
        let schema = "message m { required int64 n; optional group m (MAP) { repeated group key_value {
            optional binary key (UTF8); optional int64 value; } } }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("keys.parquet");
        let mut writer =
            SerializedFileWriter::new(std::fs::File::create(&path).expect("a file"), schema, Arc::default())
                .expect("a writer");
        let mut group = writer.next_row_group().expect("a row group");
        let mut value = 0;
        while let Some(mut column) = group.next_column().expect("a column") {
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    column.write_batch(&["a".into()], Some(&[3, 2]), Some(&[0, 0])).expect("two")
                }
                ColumnWriter::Int64ColumnWriter(column) if value == 0 => {
                    column.write_batch(&[1, 2], None, None).expect("two")
                }
                ColumnWriter::Int64ColumnWriter(column) => {
                    column.write_batch(&[1, 2], Some(&[3, 3]), Some(&[0, 0])).expect("two")
                }
                _ => panic!("no such column"),
            };
            value += 1;
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");

        let file = ParquetFile::open(&path, 1 << 20).expect("a good file");
        let rows = read_rows(&file, 0, &[0, 1]).expect("the rows");
        let field = &file.fields()[1];
        let converter = Converter::bind(field, TextForm::Bytes, &TargetType::Jsonb).expect("a map");
        let mut rejects = Vec::new();
        converter.convert(rows.column(1), &mut rejects).expect("no bug");
        assert_eq!(
            rejects.iter().map(|reject| (reject.0, reject.1.class())).collect::<Vec<_>>(),
            [(1, "json")]
        );
    }
}
