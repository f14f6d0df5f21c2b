//! One PostgreSQL installation: its version, its files, and whether pgvector (and Citus) are among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A PostgreSQL installation with pgvector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The directory of `postgres`, `initdb` and `pg_ctl`.
    pub bindir: PathBuf,
    /// The directory that holds `extension/`.
    pub sharedir: PathBuf,
    /// As `18.6`.
    pub version: String,
    /// As `18`.
    pub major: u32,
    /// The version of pgvector that `CREATE EXTENSION` makes.
    pub pgvector: String,
    /// The version of Citus, if it is there.
    pub citus: Option<String>,
}

/// The oldest PostgreSQL that is still maintained upstream.
const MAJOR_MIN: u32 = 14;

/// The first pgvector with `halfvec` and with index builds in parallel from memory.
const PGVECTOR_MIN: (u32, u32) = (0, 7);

impl Programs {
    /// The programs of one directory, or what is missing there.
    pub(super) fn in_bindir(bindir: &Path, need_citus: bool) -> Result<Self, String> {
        for program in ["postgres", "initdb", "pg_ctl"] {
            if !bindir.join(program).is_file() {
                return Err(format!("{} has no {program}", bindir.display()));
            }
        }
        let said = run(&bindir.join("postgres"), "--version")?;
        let (version, major) =
            parse_version(&said).ok_or_else(|| format!("{} says it is {said:?}", bindir.display()))?;
        let Some(sharedir) = sharedir_of(bindir, major) else {
            return Err(format!(
                "the directory of shared files that belongs to {} isn't there",
                bindir.display()
            ));
        };
        Self::checked(bindir, sharedir, version, major, need_citus)
    }

    /// The programs that a `pg_config` speaks of, or what is missing there.
    pub(super) fn of_pg_config(pg_config: &Path, need_citus: bool) -> Result<Self, String> {
        let bindir = PathBuf::from(run(pg_config, "--bindir")?);
        let sharedir = PathBuf::from(run(pg_config, "--sharedir")?);
        if !bindir.join("postgres").is_file() {
            return Err(format!(
                "{} speaks of {}, where no postgres is",
                pg_config.display(),
                bindir.display()
            ));
        }
        let said = run(&bindir.join("postgres"), "--version")?;
        let (version, major) =
            parse_version(&said).ok_or_else(|| format!("{} says it is {said:?}", bindir.display()))?;
        Self::checked(&bindir, sharedir, version, major, need_citus)
    }

    fn checked(
        bindir: &Path,
        sharedir: PathBuf,
        version: String,
        major: u32,
        need_citus: bool,
    ) -> Result<Self, String> {
        let here = format!("PostgreSQL {version} in {}", bindir.display());
        if major < MAJOR_MIN {
            return Err(format!("{here} is older than {MAJOR_MIN}"));
        }
        let missing =
            |name: &str| format!("{here} has no {name} in {}", sharedir.join("extension").display());
        let pgvector =
            default_version(&sharedir, "vector").ok_or_else(|| missing("pgvector (vector.control)"))?;
        if two_numbers(&pgvector) < Some(PGVECTOR_MIN) {
            let (high, low) = PGVECTOR_MIN;
            return Err(format!("{here} has pgvector {pgvector}, older than {high}.{low}"));
        }
        let citus = default_version(&sharedir, "citus");
        if need_citus && citus.is_none() {
            return Err(missing("Citus (citus.control)"));
        }
        Ok(Self { bindir: bindir.to_path_buf(), sharedir, version, major, pgvector, citus })
    }

    /// For messages: `PostgreSQL 18.6 with pgvector 0.8.6`.
    pub(super) fn describe(&self) -> String {
        let citus = self.citus.as_ref().map_or_else(String::new, |version| format!(", Citus {version}"));
        format!("PostgreSQL {} with pgvector {}{citus}", self.version, self.pgvector)
    }
}

/// `18.6` and `18` from `postgres (PostgreSQL) 18.6 (Debian 18.6-1)`; also from `19devel`, `19beta1`.
fn parse_version(said: &str) -> Option<(String, u32)> {
    let word = said.split_whitespace().skip_while(|word| !word.ends_with("(PostgreSQL)")).nth(1)?;
    let digits = word.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((word.to_owned(), digits.parse().ok()?))
}

/// The version of the `postgres` in a directory.
pub(super) fn version_in(bindir: &Path) -> Option<String> {
    parse_version(&run(&bindir.join("postgres"), "--version").ok()?).map(|(version, _)| version)
}

/// The first two numbers of an extension's version.
fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What an extension's control file calls its default version; `None` if the file isn't there.
fn default_version(sharedir: &Path, extension: &str) -> Option<String> {
    let control = fs::read_to_string(sharedir.join("extension").join(format!("{extension}.control"))).ok()?;
    let value = control.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "default_version").then(|| value.trim().trim_matches('\'').to_owned())
    });
    Some(value.unwrap_or_else(|| "unknown".to_owned()))
}

/// Debian ships `pg_config` in its -dev package only; then the layouts of the usual places tell. `postgres.bki` is
/// in every share directory and nowhere else.
fn sharedir_of(bindir: &Path, major: u32) -> Option<PathBuf> {
    let told = run(&bindir.join("pg_config"), "--sharedir").ok().map(PathBuf::from);
    let prefix = bindir.parent().unwrap_or(bindir);
    let guesses = [
        prefix.join("share"),
        prefix.join("share/postgresql"),
        prefix.join("share/pgsql"),
        prefix.join(format!("share/postgresql@{major}")),
        PathBuf::from(format!("/usr/share/postgresql/{major}")),
        PathBuf::from(format!("/usr/share/postgresql{major}")),
        PathBuf::from(format!("/opt/local/share/postgresql{major}")),
    ];
    told.into_iter().chain(guesses).find(|dir| dir.join("postgres.bki").is_file())
}

/// What a program prints, in one line.
fn run(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = output.map_err(|cause| format!("{} doesn't start: {cause}", program.display()))?;
    if !output.status.success() {
        let said = super::files::last_lines(&String::from_utf8_lossy(&output.stderr), 1);
        return Err(format!("{} {argument} fails: {said}", program.display()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        let read = |said| parse_version(said).map(|(_, major)| major);
        assert_eq!(read("postgres (PostgreSQL) 18.6 (Debian 18.6-1.pgdg12+1)"), Some(18));
        assert_eq!(read("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(read("something else"), None);
        assert_eq!(two_numbers("0.8.1"), Some((0, 8)));
        assert_eq!(two_numbers("unknown"), None);
    }
}
