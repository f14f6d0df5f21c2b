//! Settings of a database for vector searches and index builds, and proof of what each node reports.
//!
//! [`plan`] decides the values and why; [`apply`] sets them by `ALTER DATABASE`, which new sessions take over, and
//! remembers what was there; [`reset`] puts that back; [`prove`] asks, in a new session, whether it is so where the
//! rows are. Settings that only loading needs belong to vecload's own sessions and are none of these.

mod apply;
mod memory;
mod proof;
mod servers;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

pub use apply::{Change, apply, present, reset};
pub use proof::{NodeReport, Wanted, prove, why_not};

use crate::error::{Error, Result};
use crate::postgres::catalog::ServerVersions;
use servers::Servers;

/// What tune sets, in the order it is shown.
pub const PARAMETERS: [&str; 4] =
    ["hnsw.ef_search", "hnsw.iterative_scan", "max_parallel_workers_per_gather", "maintenance_work_mem"];

/// What pgvector's `hnsw.ef_search` takes.
const EF_SEARCH_MAX: u32 = 1000;

/// PostgreSQL's limit of `max_parallel_workers_per_gather`.
const PARALLEL_MAX: u32 = 1024;

/// What PostgreSQL takes for `maintenance_work_mem`: 1 MB to 2 TB less a kilobyte.
const MAINTENANCE_BYTES: std::ops::Range<usize> = 1 << 20..2 << 40;

/// How an HNSW scan goes on when a filter leaves too few rows (pgvector 0.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IterativeScan {
    /// It does not
    Off,
    /// In the exact order of distance
    StrictOrder,
    /// Nearly in the order of distance, and faster
    RelaxedOrder,
}

impl IterativeScan {
    fn value(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::StrictOrder => "strict_order",
            Self::RelaxedOrder => "relaxed_order",
        }
    }
}

/// What the user wants; the rest follows from the servers.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// `hnsw.ef_search`.
    pub ef_search: u32,
    /// `hnsw.iterative_scan`.
    pub iterative_scan: IterativeScan,
    /// Whether the user has asked for it by a flag, so that leaving it out would not do.
    pub iterative_scan_asked: bool,
    /// `max_parallel_workers_per_gather`.
    pub parallel: Option<u32>,
    /// `maintenance_work_mem` in bytes.
    pub maintenance_bytes: Option<usize>,
}

/// A value for a parameter, or the reason to leave it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The parameter.
    pub name: &'static str,
    /// Its value as PostgreSQL shows it; `None`: it is left as it is.
    pub value: Option<String>,
    /// By which rule.
    pub why: String,
}

impl Wishes {
    /// Refuses what no server takes.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |what: &str, hint: String| Err(Error::refused(format!("{what} is out of range")).hint(hint));
        if !(1..=EF_SEARCH_MAX).contains(&self.ef_search) {
            return refuse("ef_search", format!("give 1 to {EF_SEARCH_MAX}"));
        }
        if self.parallel.is_some_and(|workers| workers > PARALLEL_MAX) {
            return refuse("max_parallel_workers_per_gather", format!("give 0 to {PARALLEL_MAX}"));
        }
        if self.maintenance_bytes.is_some_and(|bytes| !MAINTENANCE_BYTES.contains(&bytes)) {
            return refuse("maintenance_work_mem", "give 1MiB to 2047GiB".into());
        }
        Ok(())
    }
}

/// Decides the values.
pub async fn plan(client: &Client, versions: &ServerVersions, wishes: &Wishes) -> Result<Vec<Setting>> {
    let Some(pgvector) = &versions.pgvector else {
        return Err(Error::refused("pgvector is not installed in this database")
            .hint("run `vecload migrate` first, or `create extension vector`"));
    };
    let servers = Servers::look(client, versions).await?;
    let scans = at_least(pgvector, (0, 8));
    if !scans && wishes.iterative_scan_asked {
        return Err(Error::refused(format!("pgvector {pgvector} has no hnsw.iterative_scan"))
            .hint("install pgvector 0.8 or newer, then `alter extension vector update`"));
    }
    let setting = |name, value, why| Setting { name, value, why };
    let (parallel, parallel_why) = servers.parallel(wishes.parallel);
    let (maintenance, maintenance_why) = servers.maintenance(wishes.maintenance_bytes);
    let [ef_search, iterative_scan, per_gather, work_mem] = PARAMETERS;
    Ok(vec![
        setting(
            ef_search,
            Some(wishes.ef_search.to_string()),
            "rows of the HNSW graph that a search keeps in view; pgvector's default of 40 misses more".into(),
        ),
        match scans {
            true => setting(
                iterative_scan,
                Some(wishes.iterative_scan.value().into()),
                "a filtered search goes on until it has enough rows".into(),
            ),
            false => setting(iterative_scan, None, format!("pgvector {pgvector} does not have it")),
        },
        setting(per_gather, parallel.map(|workers| workers.to_string()), parallel_why),
        setting(work_mem, maintenance.map(memory::shown), maintenance_why),
    ])
}

/// Compares versions such as `0.8.6` or `13.1-1` by their first two numbers.
fn at_least(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_numbers() {
        assert!(at_least("0.8.0", (0, 8)) && at_least("0.10.1", (0, 8)) && at_least("1.0", (0, 8)));
        assert!(!at_least("0.7.4", (0, 8)) && !at_least("", (0, 8)));
    }

    #[test]
    fn what_no_server_takes_is_refused() {
        let fine = Wishes {
            ef_search: 100,
            iterative_scan: IterativeScan::RelaxedOrder,
            iterative_scan_asked: false,
            parallel: Some(0),
            maintenance_bytes: Some(1 << 20),
        };
        fine.check().unwrap();
        for bad in [
            Wishes { ef_search: 0, ..fine.clone() },
            Wishes { ef_search: 1001, ..fine.clone() },
            Wishes { parallel: Some(1025), ..fine.clone() },
            Wishes { maintenance_bytes: Some(1000), ..fine.clone() },
            Wishes { maintenance_bytes: Some(2 << 40), ..fine.clone() },
        ] {
            assert_eq!(bad.check().unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
