//! Server programs that are on this machine already: a PostgreSQL that has pgvector (and Citus, if asked for).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

pub use super::installation::Programs;
use crate::error::{Error, Result};

/// Where distributions keep server programs, newest version first; `*` stands for a part of a name.
const USUAL_PLACES: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/local/lib/postgresql*/bin",
];

/// Finds server programs that will do: `pg_bindir`, else what `PG_CONFIG` names (both refused by name if
/// something is missing there), else `pg_config` on `PATH`, `PATH` itself and the usual places.
///
/// `None` if nothing on this machine will do.
pub fn find(need_citus: bool, pg_bindir: Option<&Path>) -> Result<Option<Programs>> {
    find_major(need_citus, pg_bindir, None)
}

/// As [`find`]; a search passes over versions that can't open a cluster of `major`.
pub(super) fn find_major(
    need_citus: bool,
    pg_bindir: Option<&Path>,
    major: Option<u32>,
) -> Result<Option<Programs>> {
    if let Some(bindir) = pg_bindir {
        let programs = Programs::in_bindir(bindir, need_citus);
        return programs.map(Some).map_err(|why| refused(&format!("--pg-bindir {}", bindir.display()), &why));
    }
    if let Some(pg_config) = std::env::var_os("PG_CONFIG").filter(|value| !value.is_empty()) {
        let programs = Programs::of_pg_config(Path::new(&pg_config), need_citus);
        let named = format!("PG_CONFIG={}", Path::new(&pg_config).display());
        return programs.map(Some).map_err(|why| refused(&named, &why));
    }
    let fits = |found: std::result::Result<Programs, String>| match found {
        Ok(programs) if major.is_none_or(|major| major == programs.major) => Some(programs),
        Ok(programs) => {
            tracing::debug!("passed over {}: PostgreSQL {}", programs.bindir.display(), programs.version);
            None
        }
        Err(why) => {
            tracing::debug!("passed over: {why}");
            None
        }
    };
    for dir in path_dirs() {
        let pg_config = dir.join("pg_config");
        if pg_config.is_file()
            && let Some(programs) = fits(Programs::of_pg_config(&pg_config, need_citus))
        {
            return Ok(Some(programs));
        }
    }
    // A link in /usr/local/bin leads to the directory it came from.
    let on_path = path_dirs().into_iter().filter_map(|dir| fs::canonicalize(dir.join("postgres")).ok());
    let on_path = on_path.filter_map(|program| program.parent().map(Path::to_path_buf));
    let usual = USUAL_PLACES.iter().flat_map(|pattern| newest_first(Path::new(pattern)));
    let found = usual.chain(on_path).filter(|bindir| bindir.join("postgres").is_file());
    Ok(found.into_iter().find_map(|bindir| fits(Programs::in_bindir(&bindir, need_citus))))
}

fn path_dirs() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative entry would find other programs in every directory.
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect()
}

/// The directories that a pattern with one `*` stands for, the highest number first.
fn newest_first(pattern: &Path) -> Vec<PathBuf> {
    let starred = |part: &OsStr| part.to_string_lossy().contains('*');
    let Some(at) = pattern.iter().position(starred) else {
        return vec![pattern.to_path_buf()];
    };
    let parent: PathBuf = pattern.iter().take(at).collect();
    let rest: PathBuf = pattern.iter().skip(at + 1).collect();
    let part = pattern.iter().nth(at).unwrap_or_default().to_string_lossy().into_owned();
    let (before, after) = part.split_once('*').unwrap_or((&part, ""));
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(&parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let middle = name.strip_prefix(before)?.strip_suffix(after)?;
            let number = middle.split('.').next()?.parse().ok()?;
            Some((number, parent.join(&name).join(&rest)))
        })
        .collect();
    found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    found.into_iter().map(|(_, path)| path).collect()
}

fn refused(named: &str, why: &str) -> Error {
    Error::refused(format!("{named} can't run the embedded server: {why}"))
        .hint("install what is missing there, name other programs, or leave it out to let vecload find or fetch some")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// An installation that consists of shell scripts.
    fn pretend(prefix: &Path, version: &str, extensions: &[(&str, &str)]) -> PathBuf {
        let (bindir, extension) = (prefix.join("bin"), prefix.join("share/extension"));
        fs::create_dir_all(&bindir).unwrap();
        fs::create_dir_all(&extension).unwrap();
        fs::write(prefix.join("share/postgres.bki"), "").unwrap();
        for program in ["postgres", "initdb", "pg_ctl"] {
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version} (Pretend)'\n");
            fs::write(bindir.join(program), script).unwrap();
            fs::set_permissions(bindir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for (name, version) in extensions {
            let text = format!("comment = 'x'\ndefault_version = '{version}'\n");
            fs::write(extension.join(format!("{name}.control")), text).unwrap();
        }
        bindir
    }

    #[test]
    fn named_programs_are_taken_or_refused_with_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let good = pretend(&dir.path().join("good"), "18.6", &[("vector", "0.8.1")]);
        let found = find(false, Some(&good)).unwrap().unwrap();
        assert_eq!((found.major, found.version.as_str(), found.pgvector.as_str()), (18, "18.6", "0.8.1"));
        assert_eq!(found.describe(), "PostgreSQL 18.6 with pgvector 0.8.1");

        let error = find(true, Some(&good)).unwrap_err();
        assert!(error.to_string().contains("Citus"), "{error}");
        assert_eq!(error.exit_code(), 2);

        for (name, version, extensions, expected) in [
            ("bare", "18.6", &[][..], "pgvector (vector.control)"),
            ("old", "12.1", &[("vector", "0.8.1")][..], "older than 14"),
            ("early", "17.1", &[("vector", "0.5.1")][..], "pgvector 0.5.1, older than 0.7"),
        ] {
            let bindir = pretend(&dir.path().join(name), version, extensions);
            let error = find(false, Some(&bindir)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = find(false, Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("has no postgres"), "{error}");
    }

    #[test]
    fn citus_is_found_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let bindir = pretend(dir.path(), "18.6", &[("vector", "0.8.1"), ("citus", "14.0-1")]);
        assert_eq!(find(true, Some(&bindir)).unwrap().unwrap().citus.as_deref(), Some("14.0-1"));
    }

    #[test]
    fn newest_comes_first_and_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9.6", "18", "17", "common", "100"] {
            fs::create_dir_all(dir.path().join(name).join("bin")).unwrap();
        }
        let found = newest_first(&dir.path().join("*/bin"));
        let names: Vec<_> = found.iter().map(|path| path.parent().unwrap().file_name().unwrap()).collect();
        assert_eq!(names, ["100", "18", "17", "9.6"]);
        assert_eq!(newest_first(Path::new("/usr/local/pgsql/bin")).len(), 1);
    }
}
