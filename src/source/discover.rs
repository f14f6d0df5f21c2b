//! Files, directories, globs and `-` on the command line become a list of places in a stable order.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Place;
use crate::error::{Context, Error, Result};

/// Files found, in the order of the arguments; within a directory or glob by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The places.
    pub places: Vec<Place>,
    /// Those that several arguments name; each is loaded once.
    pub repeated: Vec<Place>,
}

/// Formats of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceFormat {
    /// Parquet
    Parquet,
    /// Comma-separated values and their kin, also compressed with gzip or zstd
    Csv,
    /// JSON Lines: an object in each line, also compressed
    Jsonl,
}

impl SourceFormat {
    /// The format that a file's name tells, compression aside.
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = [".gz", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// Finds what the arguments name. In directories a format leaves other files out.
pub fn discover(arguments: &[String], format: Option<SourceFormat>) -> Result<Found> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    for argument in arguments {
        let (places, key): (Vec<Place>, _) = match argument.as_str() {
            "-" if format == Some(SourceFormat::Parquet) => {
                return Err(Error::refused(
                    "standard input holds no Parquet: its footer is at the end, and a pipe can't be sought",
                )
                .hint("write it to a file first and give the file's path"));
            }
            "-" => (vec![Place::Stdin], Some(PathBuf::from("-"))),
            _ => (expand(argument, format)?.into_iter().map(Place::File).collect(), None),
        };
        for place in places {
            let canonical = match (&place, &key) {
                (Place::File(file), None) => file.canonicalize().map_err(|error| {
                    Error::refused(format!("find {}", file.display()))
                        .because(error)
                        .hint("a pipe is read as standard input: vecload load -")
                })?,
                (_, key) => key.clone().unwrap_or_default(),
            };
            if seen.insert(canonical) {
                found.places.push(place);
            } else {
                found.repeated.push(place);
            }
        }
    }
    Ok(found)
}

fn expand(argument: &str, format: Option<SourceFormat>) -> Result<Vec<PathBuf>> {
    let path = Path::new(argument);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let mut files = Vec::new();
            walk(path, format, &mut files)?;
            files.sort();
            match files.is_empty() {
                true => {
                    Err(Error::refused(format!("{argument} holds no file that ends in {}", endings(format)))
                        .hint("give the files by name if they end otherwise"))
                }
                false => Ok(files),
            }
        }
        Ok(_) => Ok(vec![path.to_path_buf()]),
        Err(_) if argument.contains(['*', '?', '[']) => matches(argument, format),
        Err(error) => Err(Error::refused(format!("open {argument}"))
            .because(error)
            .hint("check the path; it is relative to the directory that vecload runs in")),
    }
}

fn matches(pattern: &str, format: Option<SourceFormat>) -> Result<Vec<PathBuf>> {
    let shell_like = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, shell_like).or_refused(|| format!("read the pattern {pattern}"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.or_refused(|| format!("list what {pattern} matches"))?;
        if path.is_dir() {
            walk(&path, format, &mut files)?;
        } else {
            files.push(path);
        }
    }
    match files.is_empty() {
        true => {
            Err(Error::refused(format!("nothing matches {pattern}"))
                .hint("check the pattern and the directory"))
        }
        false => Ok(files),
    }
}

fn endings(format: Option<SourceFormat>) -> &'static str {
    match format {
        Some(SourceFormat::Parquet) => ".parquet",
        Some(SourceFormat::Csv) => ".csv or .tsv (also .gz or .zst)",
        Some(SourceFormat::Jsonl) => ".jsonl or .ndjson (also .gz or .zst)",
        None => ".parquet, .csv, .tsv, .jsonl or .ndjson (text also .gz or .zst)",
    }
}

/// Data files below a directory; names that start with `.` or `_` are bookkeeping of other tools.
fn walk(directory: &Path, wanted: Option<SourceFormat>, files: &mut Vec<PathBuf>) -> Result<()> {
    let describe = || format!("list the directory {}", directory.display());
    for entry in directory.read_dir().or_refused(describe)? {
        let entry = entry.or_refused(describe)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(['.', '_']) {
            continue;
        }
        let path = entry.path();
        let format = SourceFormat::of_name(&path);
        if path.is_dir() {
            walk(&path, wanted, files)?;
        } else if format.is_some() && (wanted.is_none() || wanted == format) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn directories_are_walked_in_order_and_bookkeeping_is_left_out() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let make = |name: &str| fs::write(root.path().join(name), "x").expect("write");
        fs::create_dir(root.path().join("day=1")).expect("mkdir");
        for name in [
            "b.parquet",
            "a.PARQUET",
            "_SUCCESS",
            ".x.parquet",
            "notes.txt",
            "c.csv.gz",
            "d.ndjson",
            "day=1/c.parquet",
        ] {
            make(name);
        }
        let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
        let all = [text(root.path()), text(&root.path().join("b.parquet"))];
        let names = |found: &Found| -> Vec<PathBuf> {
            let below = |place: &Place| match place {
                Place::File(path) => path.strip_prefix(root.path()).expect("below").to_path_buf(),
                other => panic!("{other}"),
            };
            found.places.iter().map(below).collect()
        };
        let found = discover(&all, None).expect("found");
        let expected = ["a.PARQUET", "b.parquet", "c.csv.gz", "d.ndjson", "day=1/c.parquet"];
        assert_eq!(names(&found), expected.map(PathBuf::from));
        let csv = discover(&all[..1], Some(SourceFormat::Csv)).expect("found");
        assert_eq!(names(&csv), [PathBuf::from("c.csv.gz")]);
        assert_eq!(found.repeated.len(), 1);
        let pattern = text(&root.path().join("*.parquet"));
        assert_eq!(discover(&[pattern], None).expect("found").places.len(), 1);
        let parquet = Some(SourceFormat::Parquet);
        for missing in ["nowhere.parquet", "nowhere/*.parquet", "-"] {
            assert_eq!(discover(&[missing.into()], parquet).expect_err("refused").exit_code(), 2);
        }
        let twice = discover(&["-".into(), "-".into()], None).expect("found");
        assert_eq!((twice.places.len(), twice.repeated.len()), (1, 1));
    }
}
