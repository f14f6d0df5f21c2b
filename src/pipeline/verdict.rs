//! `--max-rejects`: how many rejected rows a load puts up with.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Rows after which a percentage is first tested: before, one bad row would be many percent.
const PERCENT_TESTED_AFTER: u64 = 10_000;

/// `N`, `P%` or `all`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxRejects {
    /// At most so many.
    Count(u64),
    /// At most so many percent of the rows read.
    Percent(f64),
    /// Any number.
    All,
}

impl FromStr for MaxRejects {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::refused(format!("--max-rejects {text}"))
                .hint("give a number (100), a percentage (0.5%) or all")
        };
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| refuse())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(refuse()) };
        }
        crate::config::sizes::parse_count(text).map(Self::Count).map_err(|_| refuse())
    }
}

/// Counts rejects against the limit, those of earlier runs included.
#[derive(Debug)]
pub struct RejectLimit {
    max: MaxRejects,
    rows: AtomicU64,
    rejects: AtomicU64,
}

impl RejectLimit {
    /// Starts from what earlier runs read and rejected.
    pub fn new(max: MaxRejects, rows: u64, rejects: u64) -> Self {
        Self { max, rows: AtomicU64::new(rows), rejects: AtomicU64::new(rejects) }
    }

    /// Adds rows read and how many of them were rejected.
    pub fn note(&self, rows: u64, rejects: u64, first: impl FnOnce() -> String) -> Result<()> {
        let rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        let total = self.rejects.fetch_add(rejects, Ordering::Relaxed) + rejects;
        let over = rejects > 0 && rows >= self.tested_after() && self.is_over(rows, total);
        if over { Err(self.error(total, rows, &first())) } else { Ok(()) }
    }

    /// The test before anything is read: rejects of earlier runs may be too many for a limit in rows.
    pub fn check_known(&self, load_id: i64) -> Result<()> {
        let rejects = self.rejects.load(Ordering::Relaxed);
        match self.max {
            MaxRejects::Count(max) if rejects > max => Err(Error::reject_limit(format!(
                "earlier runs rejected {rejects} of these rows, and --max-rejects allows {max}"
            ))
            .hint(format!(
                "vecload loads rejects {load_id} lists them; to go on without them: --max-rejects {rejects} or more; \
                 to load \
                 them after mending the table: vecload loads undo {load_id}, then load again"
            ))),
            _ => Ok(()),
        }
    }

    /// The test at the end, which small loads come to as well.
    pub fn check_at_end(&self) -> Result<()> {
        let (rows, rejects) = (self.rows.load(Ordering::Relaxed), self.rejects.load(Ordering::Relaxed));
        match self.is_over(rows, rejects) {
            true => Err(self.error(rejects, rows, "see vecload loads rejects")),
            false => Ok(()),
        }
    }

    fn tested_after(&self) -> u64 {
        if matches!(self.max, MaxRejects::Percent(_)) { PERCENT_TESTED_AFTER } else { 0 }
    }

    fn is_over(&self, rows: u64, rejects: u64) -> bool {
        match self.max {
            MaxRejects::All => false,
            MaxRejects::Count(max) => rejects > max,
            MaxRejects::Percent(percent) => rejects as f64 * 100.0 > percent * rows as f64,
        }
    }

    fn error(&self, rejects: u64, rows: u64, first: &str) -> Error {
        match self.max {
            MaxRejects::Count(0) => Error::reject_limit(format!("rejected {first}")).hint(
                "mend the row in the source, or load the others without it: --max-rejects 100 (or 1%, or all)",
            ),
            _ => Error::reject_limit(format!(
                "{rejects} of {rows} rows rejected, more than --max-rejects allows; {first}"
            ))
                .hint("vecload loads rejects ID lists them; mend the source, or run again with a higher --max-rejects"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_percentages_or_all() {
        assert_eq!("0".parse::<MaxRejects>().ok(), Some(MaxRejects::Count(0)));
        assert_eq!("10k".parse::<MaxRejects>().ok(), Some(MaxRejects::Count(10_000)));
        assert_eq!("0.5%".parse::<MaxRejects>().ok(), Some(MaxRejects::Percent(0.5)));
        assert_eq!("all".parse::<MaxRejects>().ok(), Some(MaxRejects::All));
        for bad in ["", "-1", "101%", "x", "%"] {
            assert!(bad.parse::<MaxRejects>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_count_is_over_with_the_next_reject_and_a_percentage_only_after_enough_rows() {
        let none = RejectLimit::new(MaxRejects::Count(0), 0, 0);
        assert!(none.note(100, 0, String::new).is_ok());
        assert_eq!(none.note(100, 1, || "row 7".into()).expect_err("over").exit_code(), 4);
        let percent = RejectLimit::new(MaxRejects::Percent(1.0), 0, 0);
        assert!(percent.note(100, 50, String::new).is_ok());
        assert!(percent.check_at_end().is_err());
        assert!(percent.note(9_900, 1, String::new).is_ok());
        assert!(percent.note(1_000, 100, String::new).is_err());
    }
}
