//! What the user asks for, and its sources, opened before a server is asked for anything.

use std::sync::Arc;

use super::interrupts::Interrupts;
use super::load::blocking;
use super::observer::Observer;
use super::opened::{self, OpenedKind, OpenedSource, SourceOptions};
use super::plan::{IndexPolicy, LoadSettings, MEMORY_MIN};
use super::preflight::Mapping;
use super::stop::StopFlag;
use crate::error::{Error, Result};
use crate::postgres::QualifiedName;
use crate::source::Place;
use crate::source::discover::discover;
use crate::source::synthetic::SyntheticOptions;

/// Empty files that are named, of perhaps very many.
const EMPTY_SHOWN: usize = 5;

/// What the user asks for.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// Files, directories, globs, or `-`.
    pub sources: Vec<String>,
    /// What the sources are.
    pub options: SourceOptions,
    /// Rows that are made, instead of sources.
    pub synthetic: Option<SyntheticOptions>,
    /// The target.
    pub table: QualifiedName,
    /// `--map` and `--set`.
    pub mapping: Mapping,
    /// `--name`.
    pub name: Option<String>,
    /// `--again`.
    pub again: bool,
    /// Create the table if it is missing.
    pub create: bool,
    /// `--index`.
    pub index: IndexPolicy,
    /// Limits.
    pub settings: LoadSettings,
}

/// Sources that can be read, as far as their footers tell.
#[derive(Debug)]
pub struct OpenedSources {
    pub(super) sources: Arc<Vec<OpenedSource>>,
    pub(super) stop: StopFlag,
    pub(super) interrupts: Interrupts,
}

/// Finds and opens all sources: what can be refused without a server is refused before one is asked or started.
pub async fn open_sources(request: &LoadRequest, observer: &dyn Observer) -> Result<OpenedSources> {
    if request.settings.memory < MEMORY_MIN {
        return Err(Error::refused(format!("--memory {} bytes is too little", request.settings.memory))
            .hint(format!("give at least {}MiB", MEMORY_MIN >> 20)));
    }
    let stop = StopFlag::default();
    let interrupts = Interrupts::listen(&stop)?;
    if let Some(synthetic) = request.synthetic.clone() {
        let settings = request.settings.clone();
        let opened = blocking(move || opened::open_synthetic(synthetic, &settings)).await?;
        return Ok(OpenedSources { sources: Arc::new(vec![opened]), stop, interrupts });
    }
    let found = discover(&request.sources, request.options.format)?;
    for path in &found.repeated {
        observer.warn(&format!("{path} is named more than once; it is loaded once"));
    }
    let reads_stdin = found.places.contains(&Place::Stdin);
    if reads_stdin && request.options.name.is_none() {
        observer
            .warn("standard input without --name: if this load is cut off, it can't be resumed, only undone");
    }
    if reads_stdin {
        observer.say("reading standard input");
    }
    let (options, settings, flag) = (request.options.clone(), request.settings.clone(), stop.clone());
    let opening = blocking(move || opened::open_sources(found.places, &options, &settings, &flag));
    let opened = tokio::select! {
        opened = opening => opened?,
        interrupted = interrupts.first() => return Err(interrupted.hint("nothing was loaded")),
    };
    let mut empty = Vec::new();
    for source in &opened {
        if let OpenedKind::Text(text) = &source.kind {
            tracing::info!("{}: {}, columns {}", source.place, text.format, text.columns.join(", "));
            empty.extend(text.has_no_record.then_some(&source.place));
        }
    }
    for place in empty.iter().take(EMPTY_SHOWN) {
        observer.warn(&format!("{place} has a header and no rows"));
    }
    if empty.len() > EMPTY_SHOWN {
        observer.warn(&format!("so have {} more files", empty.len() - EMPTY_SHOWN));
    }
    Ok(OpenedSources { sources: Arc::new(opened), stop, interrupts })
}
