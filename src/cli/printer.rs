//! All terminal output. stdout is for answers, everything else goes to stderr.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::{Global, ProgressMode};
use crate::error::{Error, Result};

/// How progress is to be shown, decided once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgressStyle {
    /// Bars that are redrawn.
    Bars,
    /// A line now and then.
    Lines,
    /// Nothing.
    Hidden,
}

/// Prints.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    quiet: bool,
    style: ProgressStyle,
    colour: bool,
}

impl Printer {
    /// Decides from the options and the terminal what is printed.
    pub(super) fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let style = match global.progress {
            _ if global.quiet => ProgressStyle::Hidden,
            ProgressMode::None => ProgressStyle::Hidden,
            ProgressMode::Auto if terminal && !dumb => ProgressStyle::Bars,
            ProgressMode::Auto | ProgressMode::Plain => ProgressStyle::Lines,
        };
        let colour = terminal && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json: global.json, quiet: global.quiet, style, colour }
    }

    /// Starts logging to stderr; `VECLOAD_LOG` overrides the level, in the syntax of `tracing`.
    pub(super) fn start_log(&self, global: &Global) {
        let level = match (global.quiet, global.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "vecload=info,warn",
            (false, 2) => "vecload=debug,warn",
            _ => "debug",
        };
        let filter = std::env::var("VECLOAD_LOG").unwrap_or_else(|_| level.into());
        let log = tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(self.colour)
            .with_target(false)
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter));
        if log.try_init().is_err() {
            self.warn("logging was set up already");
        }
    }

    /// How progress is shown.
    pub(super) fn progress_style(&self) -> ProgressStyle {
        self.style
    }

    /// Whether JSON is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether hints for a reader are wanted.
    pub(super) fn says(&self) -> bool {
        !self.quiet && !self.json
    }

    /// A line for the user, left out with `-q`.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            self.to_stderr(line);
        }
    }

    /// A warning.
    pub(super) fn warn(&self, line: &str) {
        self.to_stderr(&format!("{} {line}", self.painted("warning:", "33")));
    }

    /// An error and what to do about it.
    pub(super) fn error(&self, error: &Error) {
        self.to_stderr(&format!("{} {error}", self.painted("error:", "31")));
        if let Some(advice) = error.advice() {
            self.to_stderr(&format!("{} {advice}", self.painted("hint:", "36")));
        }
    }

    /// A line of the answer.
    pub(super) fn answer(&self, line: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|error| Error::failed("write to stdout").because(error))
    }

    /// The answer as JSON, on one line.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Error::bug("write JSON").because(error))?;
        self.answer(&text)
    }

    /// A table without ruling, headed by `header`.
    pub(super) fn table(&self, header: &[&str]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if !std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        table.set_header(header.iter().map(|cell| cell.to_string()));
        table
    }

    fn painted(&self, text: &str, code: &str) -> String {
        if self.colour { format!("\u{1b}[1;{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    fn to_stderr(&self, line: &str) {
        // A closed stderr leaves nobody to tell.
        drop(writeln!(std::io::stderr().lock(), "{line}"));
    }
}

/// A count with thousands apart: 1,234,567.
pub(super) fn grouped(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A count with its noun: 1 row, 2 rows.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// Seconds for people: 0.42 s, 12.3 s, 3 m 5 s.
pub(super) fn shown_seconds(seconds: f64) -> String {
    match seconds {
        short if short < 10.0 => format!("{short:.2} s"),
        medium if medium < 120.0 => format!("{medium:.1} s"),
        long => {
            let whole = long.round() as u64;
            match (whole / 3600, whole / 60 % 60, whole % 60) {
                (0, minutes, seconds) => format!("{minutes} m {seconds} s"),
                (hours, minutes, _) => format!("{hours} h {minutes} m"),
            }
        }
    }
}
