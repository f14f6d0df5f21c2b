//! Files, directories and globs on the command line become a list of files in a stable order.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// Files found, in the order of the arguments; within a directory or glob by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Files that several arguments name; each is loaded once.
    pub repeated: Vec<PathBuf>,
}

/// Finds the files that the arguments name.
pub fn discover(arguments: &[String]) -> Result<Found> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    for argument in arguments {
        for file in expand(argument)? {
            let canonical = file.canonicalize().or_refused(|| format!("find {}", file.display()))?;
            if seen.insert(canonical) {
                found.files.push(file);
            } else {
                found.repeated.push(file);
            }
        }
    }
    Ok(found)
}

fn expand(argument: &str) -> Result<Vec<PathBuf>> {
    if argument == "-" {
        return Err(Error::refused(
            "standard input holds no Parquet: its footer is at the end, and a pipe can't be sought",
        )
        .hint("write it to a file first and give the file's path"));
    }
    let path = Path::new(argument);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let mut files = Vec::new();
            walk(path, &mut files)?;
            files.sort();
            match files.is_empty() {
                true => Err(Error::refused(format!("{argument} holds no file that ends in .parquet"))
                    .hint("give the files by name if they end otherwise")),
                false => Ok(files),
            }
        }
        Ok(_) => Ok(vec![path.to_path_buf()]),
        Err(_) if argument.contains(['*', '?', '[']) => matches(argument),
        Err(error) => Err(Error::refused(format!("open {argument}"))
            .because(error)
            .hint("check the path; it is relative to the directory that vecload runs in")),
    }
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let shell_like = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, shell_like).or_refused(|| format!("read the pattern {pattern}"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.or_refused(|| format!("list what {pattern} matches"))?;
        if path.is_dir() {
            walk(&path, &mut files)?;
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

/// Data files below a directory; names that start with `.` or `_` are bookkeeping of other tools.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let describe = || format!("list the directory {}", directory.display());
    for entry in directory.read_dir().or_refused(describe)? {
        let entry = entry.or_refused(describe)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(['.', '_']) {
            continue;
        }
        let path = entry.path();
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        if path.is_dir() {
            walk(&path, files)?;
        } else if extension.is_some_and(|extension| extension == "parquet" || extension == "pq") {
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
        for name in ["b.parquet", "a.PARQUET", "_SUCCESS", ".x.parquet", "notes.txt", "day=1/c.parquet"] {
            make(name);
        }
        let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
        let found = discover(&[text(root.path()), text(&root.path().join("b.parquet"))]).expect("found");
        let names: Vec<_> =
            found.files.iter().map(|path| path.strip_prefix(root.path()).expect("below")).collect();
        assert_eq!(names, ["a.PARQUET", "b.parquet", "day=1/c.parquet"].map(Path::new));
        assert_eq!(found.repeated.len(), 1);
        let pattern = text(&root.path().join("*.parquet"));
        assert_eq!(discover(&[pattern]).expect("found").files.len(), 1);
        for missing in ["nowhere.parquet", "nowhere/*.parquet", "-"] {
            assert_eq!(discover(&[missing.into()]).expect_err("refused").exit_code(), 2);
        }
    }
}
