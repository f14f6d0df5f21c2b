//! The user a server runs as. PostgreSQL refuses to run as root, so root lends it an unprivileged user.

use std::fs::File;
use std::io;
use std::os::unix::fs::{fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::unistd::{Uid, User, geteuid};

use crate::error::{Context, Error, Result};

/// Who runs the server programs and owns what they write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    name: String,
    /// We are root, the server's user is somebody else.
    switch: bool,
}

impl Account {
    /// The user who runs vecload.
    pub(super) fn current() -> Result<Self> {
        Self::of(geteuid(), false)
    }

    /// The user for a new cluster: ourselves, or as root the first of `postgres` and `nobody`.
    pub(super) fn for_new_cluster() -> Result<Self> {
        if !geteuid().is_root() {
            return Self::current();
        }
        for name in ["postgres", "nobody"] {
            match User::from_name(name).or_failed(|| format!("look up user {name}"))? {
                Some(user) if !user.uid.is_root() => return Self::of(user.uid, true),
                _ => {}
            }
        }
        Err(Error::failed(
            "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody",
        )
        .hint("run vecload as an ordinary user, or add one: useradd --system postgres"))
    }

    /// The user for a cluster that is there: whoever owns it.
    pub(super) fn for_cluster_of(owner_uid: u32, what: &Path) -> Result<Self> {
        let (owner, me) = (Uid::from_raw(owner_uid), geteuid());
        if owner == me && !me.is_root() {
            return Self::current();
        }
        if me.is_root() && !owner.is_root() {
            return Self::of(owner, true);
        }
        let name =
            |uid: Uid| User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Err(Error::failed(format!("{} belongs to {}, and this is {}", what.display(), name(owner), name(me)))
            .hint("run vecload as the user who made it, or from another directory"))
    }

    fn of(uid: Uid, switch: bool) -> Result<Self> {
        let user = User::from_uid(uid).or_failed(|| format!("look up user id {uid}"))?;
        // initdb and peer authentication both look the name up.
        let user = user.ok_or_else(|| {
            Error::failed(format!("user id {uid} has no name on this machine, and PostgreSQL wants one"))
                .hint("add a line for it to /etc/passwd, run as a named user, or name a server with --db URL")
        })?;
        Ok(Self { uid: uid.as_raw(), gid: user.gid.as_raw(), name: user.name, switch })
    }

    /// The user's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The user's number.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Does the server run as another user than vecload?
    pub(super) fn is_other(&self) -> bool {
        self.switch
    }

    /// A server program, run as this user, detached from our terminal and from our `PG*` variables.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Our own directory may be closed to that user, and the programs ask for theirs.
        command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
        without_pg_variables(&mut command);
        if self.switch {
            // With a uid set, std also drops root's supplementary groups.
            command.uid(self.uid).gid(self.gid).env("HOME", "/").env("USER", &self.name);
            command.env("LOGNAME", &self.name);
        }
        command
    }

    /// Runs a short server program to its end.
    pub(super) fn output(&self, command: &mut Command) -> Result<Output> {
        command.output().map_err(|cause| self.cannot_run(command, cause))
    }

    /// What it means when a program didn't even start.
    pub(super) fn cannot_run(&self, command: &Command, cause: io::Error) -> Error {
        let program = Path::new(command.get_program()).display();
        let error = Error::failed(format!("run {program} as user {}", self.name));
        let hint = match cause.kind() {
            io::ErrorKind::PermissionDenied if self.switch => {
                "that user must reach the program and root must be free to change users; \
                 else run vecload as an ordinary user"
            }
            io::ErrorKind::InvalidInput if self.switch => {
                "that user isn't mapped in this container; run vecload as an ordinary user"
            }
            _ => "install PostgreSQL and pgvector, or name their programs with --pg-bindir",
        };
        error.because(cause).hint(hint)
    }

    /// Gives an open file to this user.
    pub(super) fn own_file(&self, file: &File) -> io::Result<()> {
        if self.switch { fchown(file, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }

    /// Gives a path (never what a link there points to) to this user.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        if self.switch { lchown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }
}

/// Takes all `PG*` variables from a command's environment: `PGHOSTADDR` or `PGOPTIONS` in the user's shell are
/// meant for another server and would lead ours, or a client of ours, astray.
pub(super) fn without_pg_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_cluster_never_belongs_to_root() {
        let account = Account::for_new_cluster().unwrap();
        assert_ne!(account.uid(), 0);
        assert_eq!(account.is_other(), geteuid().is_root());
    }

    #[test]
    fn a_cluster_of_somebody_else_is_refused_by_name() {
        if geteuid().is_root() {
            let error = Account::for_cluster_of(0, Path::new("/x/data")).unwrap_err();
            assert!(error.to_string().contains("/x/data belongs to root"), "{error}");
        } else {
            assert!(Account::for_cluster_of(0, Path::new("/x/data")).is_err());
        }
    }

    #[test]
    fn programs_run_as_the_account() {
        let account = Account::for_new_cluster().unwrap();
        let output = account.output(account.command(Path::new("/usr/bin/id")).arg("-u")).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), account.uid().to_string());
        let output = account.output(account.command(Path::new("/usr/bin/id")).arg("-G")).unwrap();
        if account.is_other() {
            assert_eq!(String::from_utf8_lossy(&output.stdout).split_whitespace().count(), 1);
        }
    }
}
