//! Sources that have been opened: what their headers and footers tell, before a target is known.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::{DataType, Field, Fields};

use super::plan::LoadSettings;
use super::stop::StopFlag;
use crate::batch::embedding;
use crate::batch::reject::Reason;
use crate::batch::text::TextForm;
use crate::config::sizes::show_size;
use crate::error::{Error, Kind, Result};
use crate::source::discover::SourceFormat;
use crate::source::fingerprint::Fingerprint;
use crate::source::parquet::{ParquetFile, PartReader, PositionedFile, Projection};
use crate::source::synthetic::{Synthetic, SyntheticOptions};
use crate::source::text::{TextFormat, TextOptions, TextSource};
use crate::source::{Embeddings, Place};

/// Files that a thread opens before it takes more; fewer than twice as many are opened by one.
const FILES_PER_THREAD: usize = 64;

/// Parquet files beyond are opened one after another: a footer may take a good part of `--memory`.
const SMALL_FILE_BYTES: u64 = 1 << 20;

/// Rows looked at for the embedding's dimension.
const PEEK_ROWS: usize = 64;

/// What reading takes besides pages, roughly, for a hint.
const WORKING_BYTES: u64 = 8 << 20;

/// A source whose header and footer have been read. Files are closed again and footers let go: there may be
/// many files, and a parsed footer takes many times its size.
#[derive(Debug)]
pub struct OpenedSource {
    /// What it is read from.
    pub place: Place,
    /// What the ledger calls it.
    pub name: String,
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// Its top-level columns; text appears as `Binary`.
    pub fields: Fields,
    /// What the bytes of each are.
    pub forms: Vec<TextForm>,
    /// What else is known of it.
    pub kind: OpenedKind,
}

impl OpenedSource {
    /// Whether the columns of another are the same, and read the same way.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        let format = |source: &Self| match &source.kind {
            OpenedKind::Text(text) => Some(text.format.clone()),
            OpenedKind::Parquet(_) | OpenedKind::Synthetic(_) => None,
        };
        self.fields == other.fields && self.forms == other.forms && format(self) == format(other)
    }
}

/// What a kind of source tells when it is opened.
#[derive(Debug)]
pub enum OpenedKind {
    /// Parquet, as its footer tells.
    Parquet(ParquetExtent),
    /// Text, whose records are counted as they are read.
    Text(Arc<TextSource>),
    /// Rows that are made.
    Synthetic(Arc<Synthetic>),
}

/// What of a footer is kept.
#[derive(Debug)]
pub struct ParquetExtent {
    /// Rows of each row group.
    pub unit_rows: Vec<u64>,
    /// Bytes of each top-level column, as stored.
    pub column_bytes: Vec<u64>,
}

/// What sources are and how they are read, as the user says it.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// `--format`.
    pub format: Option<SourceFormat>,
    /// How text is read.
    pub text: TextOptions,
    /// `--name`, by which standard input is known again.
    pub name: Option<String>,
    /// Columns that `--map` names: in JSON Lines a key may come late.
    pub mapped: Vec<String>,
}

/// Opens all sources.
pub fn open_sources(
    places: Vec<Place>,
    options: &SourceOptions,
    settings: &LoadSettings,
    stop: &StopFlag,
) -> Result<Vec<OpenedSource>> {
    let one_at_a_time = Mutex::new(());
    let open = |place: Place| match &place {
        Place::File(path) if is_parquet(path, options)? => match options.text.is_of_csv() {
            Some(option) => Err(Error::refused(format!("{option} is for CSV, and {place} is Parquet"))
                .hint("leave the option out; if the file is CSV, say so: --format csv")),
            None => {
                let is_large = path.metadata().is_ok_and(|metadata| metadata.len() > SMALL_FILE_BYTES);
                let _alone = is_large.then(|| one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner));
                open_parquet(path, settings.footer_bytes_max())
            }
        },
        _ => open_text(place, options, settings, stop),
    };
    let threads = available_parallelism().map_or(1, NonZero::get);
    if places.len() < FILES_PER_THREAD * 2 || threads < 2 {
        return places.into_iter().map(open).collect();
    }
    // Each thread takes the next few; of several errors the first in order is told, as if there were one thread.
    let chunks: Vec<Mutex<Vec<Place>>> =
        places.chunks(FILES_PER_THREAD).map(|chunk| Mutex::new(chunk.to_vec())).collect();
    let opened: Vec<OnceLock<Result<Vec<OpenedSource>>>> = chunks.iter().map(|_| OnceLock::new()).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(chunk) = chunks.get(number) else { break };
                    let places = std::mem::take(&mut *chunk.lock().unwrap_or_else(PoisonError::into_inner));
                    let result: Result<Vec<_>> = places.into_iter().map(open).collect();
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    opened[number].get_or_init(|| result);
                }
            });
        }
    });
    let mut all = Vec::with_capacity(places.len());
    for part in opened.into_iter().map_while(OnceLock::into_inner) {
        all.extend(part?);
    }
    Ok(all)
}

/// Whether a file is Parquet: by `--format`, by its name, by its first bytes.
fn is_parquet(path: &Path, options: &SourceOptions) -> Result<bool> {
    match options.format.or(SourceFormat::of_name(path)) {
        Some(format) => Ok(format == SourceFormat::Parquet),
        None => {
            let head = PositionedFile::open(path)?.read_up_to(4, 0);
            Ok(head.is_ok_and(|head| head == b"PAR1" || head == b"PARE"))
        }
    }
}

fn open_parquet(path: &Path, footer_bytes_max: usize) -> Result<OpenedSource> {
    let file = ParquetFile::open(path, footer_bytes_max)?;
    let fingerprint = Fingerprint::of(file.file()).map_err(|error| error.with_kind(Kind::Refused))?;
    Ok(OpenedSource {
        place: Place::File(path.into()),
        name: absolute_name(path),
        fingerprint,
        fields: file.fields().clone(),
        forms: (0..file.fields().len()).map(|column| text_or_bytes(file.is_text(column))).collect(),
        kind: OpenedKind::Parquet(ParquetExtent {
            unit_rows: file.row_group_rows(),
            column_bytes: file.column_bytes(),
        }),
    })
}

fn text_or_bytes(is_text: bool) -> TextForm {
    if is_text { TextForm::Values } else { TextForm::Bytes }
}

/// Makes a synthetic source; its tables are a part of `--memory`.
pub fn open_synthetic(options: SyntheticOptions, settings: &LoadSettings) -> Result<OpenedSource> {
    let synthetic = Synthetic::new(options)?;
    let tables = synthetic.bytes();
    if tables > settings.memory / 4 {
        return Err(Error::refused(format!(
            "the tables of clusters and channels take {}, and --memory leaves {} for them",
            show_size(tables as u64),
            show_size(settings.memory as u64 / 4)
        ))
        .hint(format!(
            "give --memory {}MiB or more, or fewer --clusters or --channels",
            (tables * 4).div_ceil(1 << 20)
        )));
    }
    let identity = synthetic.identity();
    let fields = synthetic.fields();
    Ok(OpenedSource {
        place: Place::Synthetic,
        name: identity.clone(),
        fingerprint: Fingerprint { content: identity, size: 0, modified_nanos: 0 },
        forms: fields.iter().map(|field| text_or_bytes(*field.data_type() == DataType::Binary)).collect(),
        fields,
        kind: OpenedKind::Synthetic(Arc::new(synthetic)),
    })
}

fn open_text(
    place: Place,
    options: &SourceOptions,
    settings: &LoadSettings,
    stop: &StopFlag,
) -> Result<OpenedSource> {
    let (name, fingerprint, by_name) = match &place {
        Place::File(path) => {
            let file = PositionedFile::open(path)?;
            let fingerprint = Fingerprint::of(&file).map_err(|error| error.with_kind(Kind::Refused))?;
            (absolute_name(path), fingerprint, SourceFormat::of_name(path))
        }
        _ => {
            let content = match &options.name {
                Some(name) => format!("standard input {name}"),
                // Known to no other run.
                None => {
                    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    format!("standard input of process {} at {}", std::process::id(), since.as_nanos())
                }
            };
            (place.to_string(), Fingerprint { content, size: 0, modified_nanos: 0 }, None)
        }
    };
    let source = TextSource::open(
        place.clone(),
        options.format.or(by_name),
        &options.text,
        settings.window_bytes_max(),
        stop.asked(),
    )?;
    let mut names = source.columns.clone();
    if source.format == TextFormat::JsonLines {
        let late = options.mapped.iter().filter(|mapped| !source.columns.contains(mapped));
        names.extend(late.cloned());
    }
    Ok(OpenedSource {
        place,
        name,
        fingerprint,
        forms: vec![
            match source.format {
                TextFormat::Csv(_) => TextForm::Input,
                TextFormat::JsonLines => TextForm::Json,
            };
            names.len()
        ],
        fields: names.into_iter().map(|name| Field::new(name, DataType::Binary, true)).collect(),
        kind: OpenedKind::Text(Arc::new(source)),
    })
}

/// The path that names a source in the ledger: absolute, so that it means the same from everywhere.
fn absolute_name(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| PathBuf::from(path)).display().to_string()
}

/// Dimensions of the first embeddings of a source; of `--memory`, half is for reading.
pub(super) fn dimensions(source: &OpenedSource, column: usize, memory: usize) -> Result<Vec<usize>> {
    let unit_rows = match (&source.kind, &source.place) {
        (OpenedKind::Parquet(extent), Place::File(path)) => (&extent.unit_rows, path),
        (OpenedKind::Text(text), _) => return text_dimensions(text, column),
        (OpenedKind::Synthetic(synthetic), _) => return Ok(vec![synthetic.options().dim]),
        _ => return Err(Error::bug("Parquet that is no file")),
    };
    let projection = Projection { embedding: column, columns: Vec::new() };
    if !embedding::readable(source.fields[column].data_type()) {
        return Ok(Vec::new());
    }
    let (unit_rows, path) = unit_rows;
    for (unit, rows) in unit_rows.iter().copied().enumerate() {
        if rows == 0 {
            continue;
        }
        let file = Arc::new(ParquetFile::open(path, usize::MAX)?);
        // Checks what the pages claim before they are decompressed.
        let refuse = |error: Error| error.with_kind(Kind::Refused);
        let needed = file.page_bytes(unit as u32, &projection).map_err(refuse)?.total;
        if needed > (memory / 2) as u64 {
            return Err(Error::refused(format!(
                "{}, row group {unit}: the pages of column \"{}\" need {} of memory at a time, and --memory leaves {}",
                source.place,
                source.fields[column].name(),
                show_size(needed),
                show_size((memory / 2) as u64)
            ))
            .hint(format!("give --memory {}MiB or more", needed.saturating_add(WORKING_BYTES).div_ceil(1 << 19))));
        }
        let Some(part) = file.parts(0, unit as u32, &projection).into_iter().next() else {
            continue;
        };
        // Asked for no dimension, every readable embedding is a fault that tells its own.
        let mut reader = PartReader::open(file, part, projection.clone(), PEEK_ROWS, 0).map_err(refuse)?;
        let Some(batch) = reader.next_batch().map_err(refuse)? else {
            continue;
        };
        let found = told(&batch.embeddings);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn text_dimensions(source: &TextSource, column: usize) -> Result<Vec<usize>> {
    // A key that `--map` names may not have come yet.
    if column >= source.columns.len() {
        return Ok(Vec::new());
    }
    let mut embeddings = Embeddings::default();
    for (row, value) in source.first_values(column, PEEK_ROWS)?.iter().enumerate() {
        embeddings.push_row(row, |out| embedding::read_text(value, out), String::new);
    }
    Ok(told(&embeddings))
}

/// The dimensions that faults tell of embeddings of which none was expected.
fn told(embeddings: &Embeddings) -> Vec<usize> {
    let dimension = |reason: &Reason| match reason {
        Reason::Dimension { found, .. } if *found > 0 => Some(*found),
        _ => None,
    };
    embeddings.faults.iter().filter_map(|(_, reason, _)| dimension(reason)).collect()
}
