//! Where rows go: a file that is complete or not there, or a stream.

use std::error::Error as StdError;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::Control;
use crate::error::{Error, Result};

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet, compressed with zstd.
    Parquet,
    /// CSV as in RFC 4180.
    Csv(Compression),
}

/// How CSV is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, a member for each block.
    Gzip,
    /// zstd, a frame for each block.
    Zstd,
}

/// Where rows are written.
pub enum Destination {
    /// A new file; an existing one is replaced only if that was asked for.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether an existing file is replaced.
        replace: bool,
    },
    /// A stream, such as standard output, with its name.
    Stream(Box<dyn Write + Send>, &'static str),
}

/// Where and how rows are written.
pub struct Output {
    /// Where.
    pub destination: Destination,
    /// How.
    pub format: Format,
}

impl Format {
    /// The format that a file's name asks for.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase());
        let ends = |end: &str| name.as_ref().is_some_and(|name| name.ends_with(end));
        match () {
            () if ends(".parquet") => Ok(Self::Parquet),
            () if ends(".csv") => Ok(Self::Csv(Compression::None)),
            () if ends(".csv.gz") => Ok(Self::Csv(Compression::Gzip)),
            () if ends(".csv.zst") => Ok(Self::Csv(Compression::Zstd)),
            () => Err(Error::refused(format!("{}: its name says no format", path.display()))
                .hint("let it end in .parquet, .csv, .csv.gz or .csv.zst, or give - for CSV on stdout")),
        }
    }
}

impl Output {
    /// A file in the format that its name asks for; refused if it exists and is not to be replaced.
    pub fn file(path: PathBuf, replace: bool) -> Result<Self> {
        let format = Format::of(&path)?;
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::refused(format!("{} is a directory", path.display()))
                    .hint("give the name of a file in it"));
            }
            Ok(_) if !replace => return Err(is_there(&path)),
            _ => {}
        }
        Ok(Self { destination: Destination::File { path, replace }, format })
    }
}

/// An open output that counts what it takes.
pub(super) struct Sink<'a> {
    place: Place,
    control: &'a Control,
    bytes: u64,
}

enum Place {
    /// Written beside its place under a name of its own, which is removed if it is dropped.
    File {
        file: File,
        temporary: TempPath,
        path: PathBuf,
        replace: bool,
    },
    Stream(Box<dyn Write + Send>, &'static str),
}

impl<'a> Sink<'a> {
    pub(super) fn create(output: Output, control: &'a Control) -> Result<Self> {
        let place = match output.destination {
            Destination::Stream(stream, name) => Place::Stream(stream, name),
            Destination::File { path, replace } => {
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let made = tempfile::Builder::new()
                    .prefix(&format!(".{name}.partial-"))
                    // The user's umask decides, as for any file.
                    .permissions(Permissions::from_mode(0o666))
                    .tempfile_in(directory.unwrap_or(Path::new(".")));
                let (file, temporary) = made
                    .map_err(|error| {
                        Error::refused(format!("create {}", path.display()))
                            .because(error)
                            .hint("name a file in a directory that exists and can be written to")
                    })?
                    .into_parts();
                Place::File { file, temporary, path, replace }
            }
        };
        Ok(Self { place, control, bytes: 0 })
    }

    /// Puts a file into its place; gives the bytes written.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.flush().map_err(|error| self.failure(error))?;
        let Place::File { temporary, path, replace, .. } = self.place else {
            return Ok(self.bytes);
        };
        let placed = if replace { temporary.persist(&path) } else { temporary.persist_noclobber(&path) };
        placed.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => is_there(&path),
            _ => Error::failed(format!("put {} into its place", path.display())).because(error.error),
        })?;
        Ok(self.bytes)
    }

    /// The error for a write that failed.
    pub(super) fn failure(&self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        let cause = cause.into();
        let kind = io_kind(&*cause);
        match &self.place {
            Place::Stream(_, name) if kind == Some(io::ErrorKind::BrokenPipe) => {
                Error::failed(format!("write rows to {name}: its reader has closed it"))
                    .hint("the reader ended before it had all rows; it may have said why")
            }
            Place::Stream(_, name) => Error::failed(format!("write rows to {name}")).because(cause),
            Place::File { path, .. } => {
                let error = Error::failed(format!("write {}", path.display())).because(cause);
                match kind {
                    Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => error.hint(
                        "free some space, or write fewer rows or elsewhere; nothing is left of the file",
                    ),
                    _ => error.hint("nothing is left of the file"),
                }
            }
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.place {
            Place::File { file, .. } => file.write(bytes),
            Place::Stream(stream, _) => stream.write(bytes),
        }?;
        self.bytes += written as u64;
        self.control.bytes_written(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::File { file, .. } => file.flush(),
            Place::Stream(stream, _) => stream.flush(),
        }
    }
}

fn is_there(path: &Path) -> Error {
    Error::refused(format!("{} exists", path.display())).hint("name another file, or replace it with --force")
}

/// The kind of the I/O error that is at the bottom of an error.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_the_format() {
        let of = |name: &str| Format::of(Path::new(name)).ok();
        assert_eq!(of("a/b.parquet"), Some(Format::Parquet));
        assert_eq!(of("b.csv"), Some(Format::Csv(Compression::None)));
        assert_eq!(of("B.CSV.GZ"), Some(Format::Csv(Compression::Gzip)));
        assert_eq!(of("b.csv.zst"), Some(Format::Csv(Compression::Zstd)));
        assert_eq!([of("b"), of("b.gz"), of("csv"), of("/")], [None; 4]);
    }

    #[test]
    fn a_file_is_there_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.csv");
        let control = Control::default();
        let files = || directory.path().read_dir().unwrap().count();
        let write = |replace| -> Result<Sink<'_>> {
            let mut sink = Sink::create(Output::file(path.clone(), replace)?, &control)?;
            sink.write_all(b"rows").map_err(|error| sink.failure(error))?;
            Ok(sink)
        };
        drop(write(false).unwrap());
        assert_eq!(files(), 0, "an unfinished file is removed");
        assert_eq!(write(false).unwrap().finish().unwrap(), 4);
        assert_eq!(write(false).map(|_| ()).unwrap_err().exit_code(), 2, "it is there");
        assert_eq!(write(true).unwrap().finish().unwrap(), 4);
        assert_eq!(files(), 1);
    }
}
