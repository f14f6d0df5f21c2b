//! How a lane reads what it is given, whatever the kind of source.

use std::sync::{Arc, PoisonError};

use super::feed::{UnderWay, Work};
use super::lane::LaneContext;
use super::plan::{PlannedSource, Reading, TEXT_BATCH_BYTES};
use crate::config::sizes::show_size;
use crate::error::{Error, Kind, Result};
use crate::memory::Reservation;
use crate::source::parquet::{ParquetFile, PartReader};
use crate::source::synthetic::{Synthetic, SyntheticReader};
use crate::source::text::TextReader;
use crate::source::{Place, SourceBatch, UnitPart};

/// What the columns of a synthetic row take, the embedding aside.
const SYNTHETIC_ROW_BYTES: usize = 512;

/// A part that is being read.
pub(super) struct OpenPart {
    reader: Reader,
    /// Bytes as stored that a row takes, where they are not counted elsewhere.
    row_bytes: f64,
    _memory: Reservation,
    /// Last, so that the memory is free by then.
    _under_way: Option<UnderWay>,
}

enum Reader {
    Parquet { reader: Box<PartReader>, file: Arc<ParquetFile>, source: usize },
    Text(TextReader),
    Synthetic(SyntheticReader),
}

impl OpenPart {
    /// Reads the next batch, or `None` at the end of the part.
    pub(super) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        match &mut self.reader {
            Reader::Parquet { reader, .. } => reader.next_batch(),
            Reader::Text(reader) => reader.next_batch(),
            Reader::Synthetic(reader) => reader.next_batch(),
        }
    }

    /// Bytes as stored of a batch, as far as they are not counted elsewhere.
    pub(super) fn stored_bytes(&self, batch: &SourceBatch) -> u64 {
        (self.row_bytes * batch.rows as f64) as u64
    }

    /// Takes back a batch's buffer.
    pub(super) fn recycle(&mut self, values: Vec<f32>) {
        match &mut self.reader {
            Reader::Parquet { reader, .. } => reader.recycle(values),
            Reader::Text(reader) => reader.recycle(values),
            Reader::Synthetic(reader) => reader.recycle(values),
        }
    }

    /// The end of the part: a file must be what it was.
    pub(super) fn close(self, context: &LaneContext) -> Result<()> {
        match self.reader {
            Reader::Parquet { file, source, .. } => unchanged(&file, &context.plan.sources[source]),
            Reader::Text(_) | Reader::Synthetic(_) => Ok(()),
        }
    }
}

impl LaneContext {
    /// Opens what a lane was given; `None` when the load is stopping.
    pub(super) fn open(&self, work: Work) -> Result<Option<OpenPart>> {
        match work {
            Work::Part(part, under_way) => {
                let opened = match &self.plan.sources[part.source].reading {
                    Reading::Synthetic { synthetic, columns, .. } => {
                        self.open_synthetic(part, Arc::clone(synthetic), columns.clone())
                    }
                    _ => self.open_parquet(part),
                };
                Ok(opened?.map(|part| OpenPart { _under_way: Some(under_way), ..part }))
            }
            Work::Text(part) => {
                let Reading::Text { projection, .. } = &self.plan.sources[part.source].reading else {
                    return Err(Error::bug("records of a source that is no text"));
                };
                let (batch, dim) = ((self.plan.text_batch_rows(), TEXT_BATCH_BYTES), self.plan.dim);
                let working = self.plan.text_working_bytes();
                let Some(memory) = self.reserve(&self.text_memory, working, &self.counters.read, || {})?
                else {
                    return Ok(None);
                };
                let reader = Reader::Text(TextReader::open(part, Arc::clone(projection), batch, dim));
                // The scan has counted its bytes.
                Ok(Some(OpenPart { reader, row_bytes: 0.0, _memory: memory, _under_way: None }))
            }
        }
    }

    fn open_synthetic(
        &self,
        part: UnitPart,
        synthetic: Arc<Synthetic>,
        columns: Vec<usize>,
    ) -> Result<Option<OpenPart>> {
        let working = self.plan.working_bytes(SYNTHETIC_ROW_BYTES);
        let Some(memory) = self.reserve(&self.lane_memory, working, &self.counters.read, || {})? else {
            return Ok(None);
        };
        let rows = self.plan.batch_rows(SYNTHETIC_ROW_BYTES);
        let reader = SyntheticReader::open(synthetic, part, columns, rows, self.plan.dim);
        Ok(Some(OpenPart {
            reader: Reader::Synthetic(reader),
            row_bytes: 0.0,
            _memory: memory,
            _under_way: None,
        }))
    }

    fn open_parquet(&self, part: UnitPart) -> Result<Option<OpenPart>> {
        let source = &self.plan.sources[part.source];
        let Reading::Parquet { unit_rows, projection, .. } = &source.reading else {
            return Err(Error::bug("a row group of a source that is no Parquet"));
        };
        let file = self.open_file(part.source)?;
        let pages = file.page_bytes(part.unit, projection)?;
        let row_bytes = file.decoded_row_bytes(part.unit, projection)?;
        let batch_rows = self.plan.batch_rows(row_bytes);
        let working = self.plan.working_bytes(row_bytes);
        let needed = usize::try_from(pages.total).unwrap_or(usize::MAX).saturating_add(working);
        if needed > self.lane_memory.total() {
            return Err(Error::failed(format!(
                "{}, row group {}: its pages need {} of memory at a time (the largest, of column \"{}\", {}), \
                 and --memory leaves {}",
                source.place,
                part.unit,
                show_size(needed as u64),
                pages.largest_column,
                show_size(pages.largest),
                show_size(self.lane_memory.total() as u64)
            ))
            .hint(format!("give --memory {}MiB or more", (needed * 2).div_ceil(1 << 20) + 1)));
        }
        let Some(memory) = self.reserve(&self.lane_memory, needed, &self.counters.read, || {})? else {
            return Ok(None);
        };
        let stored = file.stored_bytes(part.unit, projection);
        let row_bytes = stored as f64 / unit_rows[part.unit as usize].max(1) as f64;
        let index = part.source;
        let reader =
            PartReader::open(Arc::clone(&file), part, projection.clone(), batch_rows, self.plan.dim)?;
        let reader = Reader::Parquet { reader: Box::new(reader), file, source: index };
        Ok(Some(OpenPart { reader, row_bytes, _memory: memory, _under_way: None }))
    }

    /// Opens a source, or shares it with the lanes that have it open: a parsed footer takes many times its size.
    fn open_file(&self, source: usize) -> Result<Arc<ParquetFile>> {
        let mut open_files = self.open_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open_files.by_source.get(&source).and_then(std::sync::Weak::upgrade) {
            return Ok(file);
        }
        open_files.newest = None;
        open_files.by_source.retain(|_, file| file.strong_count() > 0);
        let planned = &self.plan.sources[source];
        let Place::File(path) = &planned.place else {
            return Err(Error::bug("Parquet that is no file"));
        };
        let file = ParquetFile::open(path, self.plan.settings.footer_bytes_max())
            .map_err(|error| error.with_kind(Kind::Failed))?;
        unchanged(&file, planned)?;
        let file = Arc::new(file);
        open_files.by_source.insert(source, Arc::downgrade(&file));
        open_files.newest = Some(Arc::clone(&file));
        Ok(file)
    }
}

/// Refuses to go on with a file that was written to, in place or by another one of its name.
fn unchanged(file: &ParquetFile, planned: &PlannedSource) -> Result<()> {
    let same = file.file().size() == planned.fingerprint.size
        && file.file().modified_nanos()? == planned.fingerprint.modified_nanos;
    if same {
        return Ok(());
    }
    Err(Error::failed(format!("{} changed while it was being loaded", planned.place)).hint(
        "rows already loaded stay; put the old file back and run again, or take them back: vecload loads undo",
    ))
}
