//! Before anything is written: all sources opened, all columns mapped, the embedding's dimension compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::{DataType, Field};
use serde_json::json;

use super::opened::{OpenedKind, OpenedSource, ParquetExtent, dimensions};
use super::plan::{LoadPlan, LoadSettings, PlannedSource, Reading, ReservedIds};
use crate::batch::convert::{ColumnRejects, Converter};
use crate::batch::text::TextForm;
use crate::batch::{Batcher, FilledColumn, Filling, embedding};
use crate::config::sizes::show_size;
use crate::error::{Error, Result};
use crate::partition::FieldSource;
use crate::postgres::catalog::{Target, TargetColumn};
use crate::postgres::types::TargetType;
use crate::source::parquet::{ParquetFile, Projection, ROWS_PER_PART};
use crate::source::text::input::{UNIT_MEMORY_MIN, memory_for_window};
use crate::source::text::{TextColumn, TextProjection};
use crate::source::{Place, UnitPart};

/// Sources whose embeddings are looked at: a wrong column or model shows in the first.
const PEEK_SOURCES: usize = 16;

/// Names that mean the same column; what is called one of them in the target is found by the others.
const USUAL_NAMES: &[&[&str]] = &[&["embedding", "emb", "vector", "embeddings"], &["content", "text"]];

/// How target columns are filled, as the user says it.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// `--map target=column`.
    pub map: BTreeMap<String, String>,
    /// `--set target=value`.
    pub set: BTreeMap<String, String>,
}

/// The dimension of the sources' embeddings, for a table that is to be created.
pub fn source_dimension(sources: &[OpenedSource], mapping: &Mapping, memory: usize) -> Result<usize> {
    for source in sources {
        let column = source_column(source, "embedding", mapping)?
            .ok_or_else(|| unmapped(source, "embedding", "vector"))?;
        if let Some(dim) = dimensions(source, column, memory)?.first() {
            return Ok(*dim);
        }
    }
    Err(Error::refused("no source holds an embedding, so the new table's dimension is unknown")
        .hint("create the table first: vecload migrate --dim N"))
}

/// Resolves a load against a target.
pub fn plan(
    target: Target,
    sources: &[OpenedSource],
    mapping: &Mapping,
    settings: LoadSettings,
) -> Result<LoadPlan> {
    check_names(&target, mapping)?;
    let embedding = embedding_column(&target, mapping)?;
    let embedding_name = embedding.name.clone();
    let half = matches!(embedding.target_type, Some(TargetType::Halfvec(_)));
    let declared = embedding.target_type.as_ref().and_then(TargetType::vector_dim).flatten();

    let mut found_dim = None;
    for source in sources.iter().take(PEEK_SOURCES) {
        let column = source_column(source, &embedding_name, mapping)?
            .ok_or_else(|| unmapped(source, &embedding_name, &embedding.type_name))?;
        let found = dimensions(source, column, settings.memory)?;
        if let (Some(declared), Some(first)) = (declared, found.first())
            && !found.contains(&declared)
        {
            return Err(Error::refused(format!(
                "{}: column \"{}\" has embeddings of {first} dimensions, and {}.{} is {}",
                source.place,
                source.fields[column].name(),
                target.name,
                embedding_name,
                embedding.type_name
            ))
            .hint(format!(
                "load into a table of {first} dimensions (vecload migrate --dim {first} --table NAME), or map another \
                 column: \
                 --map {embedding_name}=COLUMN"
            )));
        }
        found_dim = found_dim.or(found.first().copied());
    }
    let dim = declared.or(found_dim).ok_or_else(|| {
        Error::refused(format!("neither {} nor the sources tell the embedding's dimension", target.name))
            .hint("the sources hold no embedding; give the column a dimension: vector(1536)")
    })?;

    let ids = reserved_ids(&target, sources, mapping)?;
    let mut copy_columns = Vec::new();
    let mut fields = Vec::new();
    let mut scalars = Vec::new();
    for column in target.columns.iter().filter(|column| !column.is_generated) {
        if column.name == embedding_name {
            fields.push(FieldSource::Embedding);
        } else if let Some(ids) = ids.as_ref().filter(|ids| ids.column == column.name) {
            fields.push(FieldSource::Id(ids.width));
        } else if is_filled(column, sources, mapping)? {
            fields.push(FieldSource::Cell(scalars.len()));
            scalars.push(column);
        } else {
            continue;
        }
        copy_columns.push(column.name.clone());
    }
    let channel_name = target.channel_column().map(str::to_string);
    let context = SourceContext {
        target: &target,
        embedding_name: &embedding_name,
        half,
        mapping,
        scalars: &scalars,
        channel: channel_name.as_deref(),
        ids: ids.as_ref(),
    };
    let planned = context.plan_sources(sources)?;
    let plan = LoadPlan {
        copy_columns,
        fields,
        embedding_column: embedding_name,
        dim,
        half,
        ids,
        sources: planned,
        settings,
        target,
    };
    room_for_text(&plan)?;
    Ok(plan)
}

/// A unit of text is in memory as a whole.
fn room_for_text(plan: &LoadPlan) -> Result<()> {
    let is_text = |source: &&PlannedSource| matches!(source.reading, Reading::Text { .. });
    let Some(source) = plan.sources.iter().find(is_text).filter(|_| UNIT_MEMORY_MIN > plan.lane_memory())
    else {
        return Ok(());
    };
    Err(Error::refused(format!(
        "{}: text is read {} at a time, and --memory leaves {} for it",
        source.place,
        show_size(UNIT_MEMORY_MIN as u64),
        show_size(plan.lane_memory() as u64)
    ))
    .hint(format!("give --memory {}MiB or more", memory_for_window(0) >> 20)))
}

struct SourceContext<'a> {
    target: &'a Target,
    embedding_name: &'a str,
    half: bool,
    mapping: &'a Mapping,
    scalars: &'a [&'a TargetColumn],
    channel: Option<&'a str>,
    ids: Option<&'a ReservedIds>,
}

/// How the columns of a source become the target's.
#[derive(Clone)]
struct Mapped {
    batcher: Arc<Batcher>,
    recipe: Arc<serde_json::Value>,
    projection: Projection,
}

impl SourceContext<'_> {
    fn plan_sources(&self, sources: &[OpenedSource]) -> Result<Vec<PlannedSource>> {
        let mut planned = Vec::with_capacity(sources.len());
        let mut last: Option<(&OpenedSource, Mapped)> = None;
        for (index, source) in sources.iter().enumerate() {
            // Of many files most are like the one before.
            let mapped = match &last {
                Some((before, mapped)) if before.has_columns_of(source) => mapped.clone(),
                _ => self.map(source)?,
            };
            planned.push(PlannedSource {
                batcher: Arc::clone(&mapped.batcher),
                recipe: Arc::clone(&mapped.recipe),
                place: source.place.clone(),
                name: source.name.clone(),
                fingerprint: source.fingerprint.clone(),
                reading: self.reading(index, source, &mapped)?,
            });
            last = Some((source, mapped));
        }
        Ok(planned)
    }

    fn map(&self, source: &OpenedSource) -> Result<Mapped> {
        let embedding = source_column(source, self.embedding_name, self.mapping)?
            .ok_or_else(|| unmapped(source, self.embedding_name, "vector"))?;
        let embedding_field = &source.fields[embedding];
        if !embedding::readable(embedding_field.data_type()) {
            return Err(Error::refused(format!(
                "{}: column \"{}\" has the type {}, which holds no embedding",
                source.place,
                embedding_field.name(),
                embedding_field.data_type()
            ))
            .hint(format!(
                "embeddings are lists of floats, raw f32 bytes or [..] text; map another column: --map {}=COLUMN",
                self.embedding_name
            )));
        }
        let mut columns = Vec::new();
        let mut projection = Projection { embedding, columns: Vec::new() };
        let mut recipe =
            BTreeMap::from([(self.embedding_name.to_string(), json!({ "column": embedding_field.name() }))]);
        for target in self.scalars {
            let target_type = target.target_type.as_ref().ok_or_else(|| unsupported(self.target, target))?;
            let filling = match self.mapping.set.get(&target.name) {
                Some(value) => {
                    recipe.insert(target.name.clone(), json!({ "value": value }));
                    Filling::Constant(constant(&target.name, value, target_type)?)
                }
                None => {
                    let column = source_column(source, &target.name, self.mapping)?
                        .ok_or_else(|| unmapped(source, &target.name, &target.type_name))?;
                    let field = &source.fields[column];
                    let converter = Converter::bind(field, source.forms[column], target_type).map_err(|error| {
                        let (path, name) = (&source.place, &target.name);
                        Error::refused(format!("{path}: {error} (column {name} of {})", self.target.name)).hint(format!(
                            "map another column: --map {name}=COLUMN, or leave it out by renaming it in the source"
                        ))
                    })?;
                    recipe.insert(target.name.clone(), json!({ "column": field.name() }));
                    projection.columns.push(column);
                    Filling::Column(projection.columns.len() - 1, converter)
                }
            };
            columns.push(FilledColumn { name: target.name.clone(), not_null: target.not_null, filling });
        }
        // Slices speak of its hashes: another channel column would give them another meaning.
        let position = |channel| columns.iter().position(|column| column.name == channel);
        let mut whole = json!({
            "columns": recipe,
            "id_column": self.ids.map(|ids| &ids.column),
            "channel": self.channel,
        });
        if let OpenedKind::Text(text) = &source.kind {
            whole["format"] = text.format.recipe();
        }
        let channel = self.channel.and_then(position);
        let batcher =
            Batcher { columns, embedding_column: self.embedding_name.into(), half: self.half, channel };
        Ok(Mapped { batcher: Arc::new(batcher), recipe: Arc::new(whole), projection })
    }

    fn reading(&self, index: usize, source: &OpenedSource, mapped: &Mapped) -> Result<Reading> {
        let (projection, columns) = (mapped.projection.clone(), &mapped.batcher.columns);
        match (&source.kind, &source.place) {
            (OpenedKind::Parquet(ParquetExtent { unit_rows, column_bytes }), Place::File(path)) => {
                let units = 0..unit_rows.len() as u32;
                let read = projection.columns.iter().chain([&projection.embedding]);
                let stored_bytes = read.map(|column| column_bytes[*column]).sum();
                let parts = match unit_rows.iter().any(|rows| *rows > ROWS_PER_PART) {
                    // Where pages begin is asked of the footer.
                    true => {
                        let file = ParquetFile::open(path, usize::MAX)?;
                        units.flat_map(|unit| file.parts(index, unit, &projection)).collect()
                    }
                    false => units
                        .zip(unit_rows)
                        .filter(|(_, rows)| **rows > 0)
                        .map(|(unit, rows)| UnitPart { source: index, unit, rows: 0..*rows })
                        .collect(),
                };
                Ok(Reading::Parquet { unit_rows: unit_rows.clone(), parts, projection, stored_bytes })
            }
            (OpenedKind::Text(text), _) => {
                // In the order of the projection, which is that of the scalars that a column fills.
                let filled = self.scalars.iter().zip(columns);
                let from_columns = filled.filter(|(_, column)| matches!(column.filling, Filling::Column(..)));
                let types = from_columns.map(|(target, _)| target.target_type.as_ref());
                let text_column = |(index, target_type): (&usize, Option<&TargetType>)| TextColumn {
                    index: *index,
                    empty_is_null: !matches!(target_type, Some(TargetType::Text | TargetType::Varchar(_))),
                    as_json: matches!(target_type, Some(TargetType::Json | TargetType::Jsonb)),
                };
                let is_read = |name: &str| {
                    name == self.embedding_name || columns.iter().any(|column| column.name == name)
                };
                let unread = self.target.columns.iter().filter(|column| !is_read(&column.name));
                let names: Vec<String> = source.fields.iter().map(|field| field.name().clone()).collect();
                let unexpected =
                    unread.map(|column| column.name.clone()).filter(|name| !names.contains(name));
                Ok(Reading::Text {
                    projection: Arc::new(TextProjection {
                        format: text.format.clone(),
                        unexpected: unexpected.collect(),
                        names,
                        embedding: projection.embedding,
                        columns: projection.columns.iter().zip(types).map(text_column).collect(),
                    }),
                    source: Arc::clone(text),
                })
            }
            (OpenedKind::Synthetic(synthetic), _) => Ok(Reading::Synthetic {
                unit_rows: synthetic.unit_rows(),
                synthetic: Arc::clone(synthetic),
                columns: projection.columns,
            }),
            _ => Err(Error::bug("Parquet that is no file")),
        }
    }
}

/// `--map` and `--set` name columns that are there, once each.
fn check_names(target: &Target, mapping: &Mapping) -> Result<()> {
    for (option, name) in
        mapping.map.keys().map(|name| ("--map", name)).chain(mapping.set.keys().map(|name| ("--set", name)))
    {
        match target.column(name) {
            None => {
                return Err(Error::refused(format!(
                    "{option} {name}: table {} has no such column",
                    target.name
                ))
                .hint(format!("its columns are {}", target.column_names())));
            }
            Some(column) if column.is_generated => {
                return Err(Error::refused(format!("{option} {name}: the column is computed by the server"))
                    .hint("leave it out"));
            }
            Some(_) => {}
        }
    }
    match mapping.map.keys().find(|name| mapping.set.contains_key(*name)) {
        Some(name) => {
            Err(Error::refused(format!("column {name} is given by --map and by --set"))
                .hint("keep one of them"))
        }
        None => Ok(()),
    }
}

fn embedding_column<'a>(target: &'a Target, mapping: &Mapping) -> Result<&'a TargetColumn> {
    let is_vector = |column: &&TargetColumn| {
        column.target_type.as_ref().and_then(TargetType::vector_dim).is_some()
            && !mapping.set.contains_key(&column.name)
    };
    let vectors: Vec<_> = target.columns.iter().filter(is_vector).collect();
    let named = vectors.iter().find(|column| column.name == "embedding");
    let mapped = vectors.iter().find(|column| mapping.map.contains_key(&column.name));
    named.or(mapped).or(vectors.first()).copied().ok_or_else(|| {
        Error::refused(format!(
            "table {} has no column of pgvector's types vector or halfvec; it has {}",
            target.name,
            target.column_names()
        ))
        .hint("name the right table with --table, or create one: vecload migrate --dim N --table NAME")
    })
}

/// The column of a source that goes into a target column: as mapped, by the same name, by a usual name.
fn source_column(source: &OpenedSource, target: &str, mapping: &Mapping) -> Result<Option<usize>> {
    let fields = &source.fields;
    let exact = |name: &str| -> Result<Option<usize>> {
        let mut found = (0..fields.len()).filter(|index| fields[*index].name() == name);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => {
                Err(Error::refused(format!("{} has two columns named \"{name}\"", source.place))
                    .hint("write the file with one of them renamed"))
            }
            (first, _) => Ok(first),
        }
    };
    if let Some(name) = mapping.map.get(target) {
        return match exact(name)? {
            Some(column) => Ok(Some(column)),
            None => {
                Err(Error::refused(format!("--map {target}={name}: {} has no such column", source.place))
                    .hint(format!("its columns are {}", source_names(source))))
            }
        };
    }
    if let Some(column) = exact(target)? {
        return Ok(Some(column));
    }
    let folded: Vec<usize> =
        (0..fields.len()).filter(|index| fields[*index].name().eq_ignore_ascii_case(target)).collect();
    if let [only] = folded[..] {
        return Ok(Some(only));
    }
    for names in USUAL_NAMES.iter().filter(|names| names.contains(&target)) {
        for name in *names {
            if let Some(column) = exact(name)? {
                return Ok(Some(column));
            }
        }
    }
    Ok(None)
}

/// The id column, if it is not mapped and its values come from a sequence.
fn reserved_ids(target: &Target, sources: &[OpenedSource], mapping: &Mapping) -> Result<Option<ReservedIds>> {
    let with_sequence = target.columns.iter().filter(|column| column.sequence.is_some());
    let mut candidates: Vec<_> = with_sequence.collect();
    // Where several columns count, the one called id is the rows' id.
    candidates.sort_by_key(|column| column.name != "id");
    let Some(column) = candidates.first() else { return Ok(None) };
    if is_filled(column, sources, mapping)? {
        return Ok(None);
    }
    let width = match column.target_type {
        Some(TargetType::Int2) => 2,
        Some(TargetType::Int4) => 4,
        Some(TargetType::Int8) => 8,
        _ => return Ok(None),
    };
    if let Some(sequence) = column.sequence.as_ref().filter(|sequence| !sequence.usable) {
        return Err(Error::refused(format!("no right to take ids from sequence {}", sequence.name)).hint(
            format!(
                "as its owner: GRANT USAGE ON SEQUENCE {} TO your_role; or give ids: --map {}=COLUMN",
                sequence.name, column.name
            ),
        ));
    }
    Ok(column.sequence.clone().map(|sequence| ReservedIds { column: column.name.clone(), width, sequence }))
}

/// Whether a column's values are sent. It must be the same for all sources, since all go through one COPY.
fn is_filled(column: &TargetColumn, sources: &[OpenedSource], mapping: &Mapping) -> Result<bool> {
    if mapping.set.contains_key(&column.name) {
        return Ok(true);
    }
    let mut with = None;
    let mut without = None;
    for source in sources {
        match source_column(source, &column.name, mapping)? {
            Some(_) => with = with.or(Some(source)),
            None => without = without.or(Some(source)),
        }
    }
    match (with, without) {
        (Some(_), None) => Ok(true),
        (Some(with), Some(without)) => Err(Error::refused(format!(
            "{} has a column for {}, and {} has none",
            with.place, column.name, without.place
        ))
        .hint("load files of different columns with separate commands, or give the missing one with --set")),
        (None, Some(source)) if column.not_null && !column.has_default => {
            Err(unmapped(source, &column.name, &column.type_name))
        }
        (None, _) => Ok(false),
    }
}

fn unmapped(source: &OpenedSource, name: &str, type_name: &str) -> Error {
    let holds_delimiter = |field: &Arc<Field>| field.name().contains([',', ';', '\t', '|']);
    let is_cut_wrongly =
        matches!(source.kind, OpenedKind::Text(_)) && source.fields.iter().any(holds_delimiter);
    Error::refused(format!(
        "{} has no column for {name} ({type_name}); its columns are {}",
        source.place,
        source_names(source)
    ))
    .hint(match type_name.contains("vec") {
        _ if is_cut_wrongly => "if another character parts its fields, name it: --delimiter ';'".into(),
        true => format!("map the column that holds the embeddings: --map {name}=COLUMN"),
        false => format!("map one: --map {name}=COLUMN, or give one value for all rows: --set {name}=VALUE"),
    })
}

fn unsupported(target: &Target, column: &TargetColumn) -> Error {
    Error::refused(format!(
        "column {} of {} has the type {}, which vecload does not write",
        column.name, target.name, column.type_name
    ))
    .hint(
        "leave the column out of the source if it may be null or has a default; otherwise load into a staging \
         table and convert there",
    )
}

fn source_names(source: &OpenedSource) -> String {
    source.fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// The field of a `--set` value: text, converted as a source's text would be.
fn constant(name: &str, value: &str, target_type: &TargetType) -> Result<Vec<u8>> {
    let field = Field::new(name, DataType::Binary, true);
    let converter = Converter::bind(&field, TextForm::Values, target_type)?;
    let array: ArrayRef = Arc::new(BinaryArray::from_vec(vec![value.as_bytes()]));
    let mut rejects = ColumnRejects::new();
    let cells = converter.convert(&array, &mut rejects)?;
    if let Some((_, reason, _)) = rejects.first() {
        return Err(Error::refused(format!("--set {name}={value}: {reason}"))
            .hint(format!("give a value of the column's type, {target_type}")));
    }
    let mut out = Vec::new();
    cells.put(0, &mut out);
    Ok(out)
}
