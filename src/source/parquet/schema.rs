//! The schema that vecload reads a Parquet file with: text columns as their bytes.
//!
//! With the text annotations taken off, Arrow's reader hands text over unchecked, and the batcher checks it
//! row by row: one row with invalid UTF-8 is one reject, not a failed file. The Arrow schema that some
//! writers embed is left aside for the same reason; what it would add (large offsets, views, dictionaries)
//! is a matter of representation only.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::errors::Result;
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

/// The same metadata with top-level text columns turned into byte columns.
pub(super) fn without_text(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let file = metadata.file_metadata();
    let fields: Result<Vec<TypePtr>> =
        file.schema().get_fields().iter().map(|field| field_without_text(field)).collect();
    let root = Type::group_type_builder(file.schema().name()).with_fields(fields?).build()?;
    let schema = Arc::new(SchemaDescriptor::new(Arc::new(root)));
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

fn field_without_text(field: &TypePtr) -> Result<TypePtr> {
    if !is_text(field) {
        return Ok(Arc::clone(field));
    }
    let info = field.get_basic_info();
    let plain = Type::primitive_type_builder(field.name(), field.get_physical_type())
        .with_repetition(info.repetition())
        .with_id(info.has_id().then(|| info.id()))
        .build()?;
    Ok(Arc::new(plain))
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
