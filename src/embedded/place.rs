//! Where a cluster lives.
//!
//! ```text
//! .vecload/               the client's: 0700, with a .gitignore
//!   passfile              0600; the password of the loopback port
//!   server/               a directory; for root a link to /var/lib/vecload/clusters/<hash>, since the
//!     lock                server's unprivileged user may not enter root's home
//!     server.log
//!     vecload.conf        settings, rewritten at each start
//!     data/  run/         the server's: cluster and socket, 0700
//! ```
//!
//! What the server's user may write (`data`, `run`) and what we write never share a directory, so that user
//! can't lead root anywhere.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::account::Account;
use super::files::{self, Lock};
use super::postmaster::{self, Found};
use crate::error::{Context, Error, Result};

/// What root's servers and their programs live under: every user can reach it.
pub(super) const SYSTEM_DIR: &str = "/var/lib/vecload";

/// A socket's address holds 108 bytes on Linux, 104 on macOS, with `/.s.PGSQL.65535` and a NUL at its end.
const SOCKET_DIR_BYTES_MAX: usize = 80;

/// The files of one cluster and the user they belong to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    home: PathBuf,
    account: Account,
}

impl Place {
    /// The place as it is, if something is there.
    pub(super) fn find(dir: &Path) -> Result<Option<Self>> {
        let link = dir.join("server");
        let home = match fs::canonicalize(&link) {
            Ok(home) => home,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !link.is_symlink() => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = fs::read_link(&link).unwrap_or_default();
                let message = format!("{} points to {}, which is gone", link.display(), target.display());
                return Err(Error::failed(message).hint("remove that link to begin with an empty cluster"));
            }
            Err(error) => return Err(not_ours(dir, &link, error)),
        };
        let dir = fs::canonicalize(dir).or_failed(|| format!("open {}", dir.display()))?;
        let account = match fs::symlink_metadata(home.join("data")) {
            Ok(data) => Account::for_cluster_of(data.uid(), &home.join("data"))?,
            // Without a cluster nothing tells whose it should be; elsewhere than in our own place root writes nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if geteuid().is_root() && !home.starts_with(clusters_dir()) {
                    let message = format!("{} is no cluster of root's", home.display());
                    return Err(Error::failed(message).hint(format!("remove {}", link.display())));
                }
                Account::for_new_cluster()?
            }
            Err(error) => return Err(Error::failed(format!("open {}", home.display())).because(error)),
        };
        Ok(Some(Self { dir, home, account }))
    }

    /// The place, made if nothing is there. Safe for two processes at once.
    pub(super) fn create(dir: &Path, say: &dyn Fn(&str)) -> Result<Self> {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).or_failed(|| format!("create directory {}", parent.display()))?;
        }
        files::make_dir(dir, 0o700)?;
        let owner = fs::metadata(dir).or_failed(|| format!("open {}", dir.display()))?.uid();
        if owner != geteuid().as_raw() && !geteuid().is_root() {
            // The error names the owner.
            Account::for_cluster_of(owner, dir)?;
        }
        let ignore = dir.join(".gitignore");
        if !ignore.is_file() {
            files::write_atomic(&ignore, "*\n", 0o644, None)
                .or_failed(|| format!("write {}", ignore.display()))?;
        }
        if Self::find(dir)?.is_none() {
            let link = dir.join("server");
            if geteuid().is_root() {
                let home = system_home(dir, say)?;
                match symlink(&home, &link) {
                    // Another process was faster; its link points to a home as good as ours.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other.or_failed(|| format!("link {} to {}", link.display(), home.display()))?,
                }
            } else {
                files::make_dir(&link, 0o700)?;
            }
        }
        let place = Self::find(dir)?;
        place.ok_or_else(|| Error::failed(format!("{} vanished while it was being made", dir.display())))
    }

    /// A place without anything in it.
    #[cfg(test)]
    pub(super) fn for_test(home: &Path) -> Self {
        // Every user of a test machine has a name.
        Self { dir: home.into(), home: home.into(), account: Account::current().unwrap() }
    }

    /// One process at a time works on a cluster.
    pub(super) fn lock(&self, say: &dyn Fn(&str)) -> Result<Lock> {
        Lock::acquire(&self.home.join("lock"), &self.account, say)
    }

    /// The server's user.
    pub(super) fn account(&self) -> &Account {
        &self.account
    }

    /// The directory of everything below.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// The data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    /// The settings file that vecload writes.
    pub(super) fn conf(&self) -> PathBuf {
        self.home.join("vecload.conf")
    }

    /// The loopback port's password, in libpq's format.
    pub(super) fn passfile(&self) -> PathBuf {
        self.dir.join("passfile")
    }

    /// The socket's directory: `run`, or one under /tmp where that path is too long for a socket or holds
    /// characters that would need quoting in settings and URLs.
    pub(super) fn run(&self) -> PathBuf {
        let run = self.home.join("run");
        let bytes = run.as_os_str().as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
        if bytes.len() <= SOCKET_DIR_BYTES_MAX && bytes.iter().all(plain) {
            return run;
        }
        let name = format!("vecload-{}-{}", self.account.uid(), files::short_hash(&self.home));
        Path::new("/tmp").join(name)
    }

    /// Makes the socket's directory, and sees to it that nobody else made it for us.
    pub(super) fn make_run(&self) -> Result<PathBuf> {
        let run = self.run();
        match fs::symlink_metadata(&run) {
            Ok(found) => {
                if found.is_dir() && found.uid() == self.account.uid() && found.mode() & 0o077 == 0 {
                    return Ok(run);
                }
                let message = format!(
                    "{} isn't a directory that only {} may enter",
                    run.display(),
                    self.account.name()
                );
                Err(Error::failed(message).hint("remove it; other users must not reach the server's socket"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_owned(&run)?;
                Ok(run)
            }
            Err(error) => Err(Error::failed(format!("open {}", run.display())).because(error)),
        }
    }

    /// A directory that only the server's user (and root) may enter.
    pub(super) fn make_owned(&self, path: &Path) -> Result<()> {
        files::make_dir(path, 0o700)?;
        self.account
            .own(path)
            .or_failed(|| format!("give {} to user {}", path.display(), self.account.name()))
    }
}

/// `.vecload` is closed to everybody but its owner: name the owner.
fn not_ours(dir: &Path, link: &Path, cause: io::Error) -> Error {
    if let Ok(found) = fs::metadata(dir)
        && found.uid() != geteuid().as_raw()
        && let Err(error) = Account::for_cluster_of(found.uid(), dir)
    {
        return error;
    }
    Error::failed(format!("open {}", link.display())).because(cause)
}

fn clusters_dir() -> PathBuf {
    Path::new(SYSTEM_DIR).join("clusters")
}

/// A home for root's cluster of this directory. One that holds a cluster already is left alone: its project
/// was moved, or somebody removed `.vecload` to begin anew.
fn system_home(dir: &Path, say: &dyn Fn(&str)) -> Result<PathBuf> {
    let project = fs::canonicalize(dir).or_failed(|| format!("open {}", dir.display()))?;
    let hash = files::short_hash(&project);
    files::make_dirs(&clusters_dir(), 0o755)?;
    let mut home = clusters_dir().join(&hash);
    let mut next = 2;
    while home.join("data").is_dir() {
        let older = Account::for_new_cluster()?;
        let older = Place { dir: project.clone(), home: home.clone(), account: older };
        let runs = match postmaster::look(&older) {
            Ok(Found::Running(postmaster)) => format!("; its server still runs (pid {})", postmaster.pid),
            _ => String::new(),
        };
        let (dir, home_was) = (dir.display(), home.display());
        say(&format!(
            "an older cluster made for {dir} stays in {home_was}{runs}; remove it if nothing needs it"
        ));
        home = clusters_dir().join(format!("{hash}-{next}"));
        next += 1;
    }
    files::make_dir(&home, 0o711)?;
    Ok(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(home: &str) -> Place {
        Place { dir: "/p/.vecload".into(), home: home.into(), account: Account::current().unwrap() }
    }

    #[test]
    fn socket_paths_stay_short_and_plain() {
        assert_eq!(place("/home/ann/p/.vecload/server").run(), Path::new("/home/ann/p/.vecload/server/run"));
        for home in
            ["/home/ann/my project", "/home/änn/p", "/home/ann/a'b,c", &format!("/{}", "x".repeat(90))]
        {
            let run = place(home).run();
            assert!(run.starts_with("/tmp"), "{}", run.display());
            assert!(run.as_os_str().len() <= SOCKET_DIR_BYTES_MAX);
        }
        assert_ne!(place("/a b").run(), place("/a c").run());
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Place::find(&dir.path().join(".vecload")).unwrap().is_none());
    }

    #[test]
    fn a_dangling_link_is_named() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/nowhere/at/all", dir.path().join("server")).unwrap();
        let error = Place::find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
