//! Files: written whole or not at all, never through somebody else's link; locks; tails of logs.
//!
//! As root some of these directories belong to the server's unprivileged user. A link planted there must
//! not make root write elsewhere, hence `create_new` + rename and `O_NOFOLLOW` everywhere.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use super::account::Account;
use crate::error::{Context, Error, Result};

/// Longer than any honest start: a download over a slow line, then crash recovery.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20 * 60);

/// Writes a whole file beside its place, then renames it there.
pub(super) fn write_atomic(path: &Path, text: &str, mode: u32, owner: Option<&Account>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = (|| {
        if let Some(owner) = owner {
            owner.own_file(&file)?;
        }
        // The umask may have taken bits away that the server's user needs.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() && fs::remove_file(&beside).is_err() {
        tracing::debug!(file = %beside.display(), "a half-written file stays behind");
    }
    written
}

/// A directory with exactly this mode, whatever the umask; fine if it is there already.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    let made = match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        other => other,
    };
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .or_failed(|| format!("create directory {}", path.display()))
}

/// As [`make_dir`], with parents.
pub(super) fn make_dirs(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent, mode)?;
    }
    make_dir(path, mode)
}

/// Opens a file for appending, made with mode 0600 for `owner` if it isn't there.
pub(super) fn open_append(path: &Path, owner: &Account) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(path)?;
    owner.own_file(&file)?;
    Ok(file)
}

/// One process at a time; let go when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a program that another thread is starting has the file open too until it runs. If this
        // fails, closing follows all the same.
        drop(self.0.unlock());
    }
}

impl Lock {
    /// Waits for the lock, and says so if it has to.
    pub(super) fn acquire(path: &Path, owner: &Account, say: &dyn Fn(&str)) -> Result<Self> {
        let file = open_append(path, owner).or_failed(|| format!("open lock file {}", path.display()))?;
        let since = Instant::now();
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => {
                    let hint = "the directory has to be on a file system with locks";
                    let error = Error::failed(format!("lock {}", path.display())).because(cause);
                    return Err(error.hint(hint));
                }
            }
            if since.elapsed() > LOCK_WAIT_MAX {
                let waited_min = LOCK_WAIT_MAX.as_secs() / 60;
                let message = format!("another vecload has held {} for {waited_min} min", path.display());
                return Err(Error::failed(message).hint("see what that process is waiting for, or end it"));
            }
            // A neighbour that only looks lets go within milliseconds: no need to speak of it.
            if !said && since.elapsed() > Duration::from_secs(1) {
                say("waiting for another vecload that is starting or stopping this server");
                said = true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The last lines of what was written to a log after byte `from`.
pub(super) fn tail(path: &Path, from: u64, lines: usize) -> String {
    // Enough for the lines wanted, bounded for a log that was written to all day.
    const TAIL_BYTES_MAX: u64 = 16 * 1024;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES_MAX)).min(length)))?;
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    last_lines(&String::from_utf8_lossy(&read().unwrap_or_default()), lines)
}

/// The last lines of a text that say something.
pub(super) fn last_lines(text: &str, lines: usize) -> String {
    let kept: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    kept[kept.len().saturating_sub(lines)..].join("\n")
}

/// Bytes of all files below a directory. Files come and go while a server runs: those that vanish count nothing.
pub(super) fn size_of_tree(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_of_tree(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |data| data.len()),
            _ => 0,
        })
        .sum()
}

/// A short name for a path, the same in every run.
pub(super) fn short_hash(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(path.as_os_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_a_link_and_leaves_its_target_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "before").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, "after", 0o600, None).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "before");
        assert_eq!(fs::read_to_string(&link).unwrap(), "after");
        assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn tail_reads_only_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "old\none\n\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 4, 2), "two\nthree");
        assert_eq!(tail(&log, 4, 9), "one\ntwo\nthree");
        assert_eq!(tail(&log, 400, 9), "");
        assert_eq!(tail(&dir.path().join("none"), 0, 9), "");
    }

    #[test]
    fn lock_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let account = Account::current().unwrap();
        let held = Lock::acquire(&path, &account, &|_| {}).unwrap();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        let of_a_program_that_starts = held.0.try_clone().unwrap();
        drop(held);
        assert!(File::open(&path).unwrap().try_lock().is_ok());
        drop(of_a_program_that_starts);
    }
}
