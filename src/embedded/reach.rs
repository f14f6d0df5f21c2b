//! Programs that the server's user can't reach (root's home is closed to it) are copied to where it can.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::account::Account;
use super::programs::Programs;
use super::{files, wheel};
use crate::error::{Context, Error, Result};

/// The same programs if the account can run them, else a copy of them.
pub(super) fn reachable(programs: Programs, account: &Account, say: &dyn Fn(&str)) -> Result<Programs> {
    if !account.is_other() || can_run(&programs, account) {
        return Ok(programs);
    }
    let from = programs.bindir.display();
    let refused = |why: &str| {
        Error::failed(format!("user {}, who runs the server for root, can't run {from}/postgres{why}", account.name()))
            .hint("open that directory to others, install PostgreSQL system-wide, or run vecload as an ordinary user")
    };
    // Programs find their files by their own position, so the copy must keep the installation's shape.
    let prefix = programs.bindir.parent().map(Path::to_path_buf).unwrap_or_default();
    if !programs.bindir.ends_with("bin") || !programs.sharedir.starts_with(&prefix) {
        return Err(refused(""));
    }
    let name = format!("postgresql-{}-{}", programs.version, identity(&programs)?);
    let cache = wheel::cache_dir()?;
    let copy = cache.join(&name);
    if !copy.is_dir() {
        say(&format!("copying {from} to {}, where user {} can run it", copy.display(), account.name()));
        files::make_dirs(&cache, 0o755)?;
        let staging = cache.join(format!(".{name}.{}", std::process::id()));
        let copied = copy_installation(&prefix, &programs, &staging)
            .or_failed(|| format!("copy {} to {}", prefix.display(), staging.display()))
            .and_then(|()| wheel::open_up(&staging))
            .and_then(|()| match Programs::in_bindir(&staging.join("bin"), false) {
                Ok(copy) if can_run(&copy, account) => Ok(()),
                Ok(_) => Err(refused(", nor a copy of it")),
                Err(why) => Err(refused(&format!(", nor a copy of it ({why})"))),
            })
            .and_then(|()| match fs::rename(&staging, &copy) {
                // Another process copied the same.
                Err(_) if copy.is_dir() => Ok(()),
                other => other.or_failed(|| format!("rename {} to {name}", staging.display())),
            });
        if staging.is_dir() && fs::remove_dir_all(&staging).is_err() {
            tracing::debug!(directory = %staging.display(), "a half-made copy stays behind");
        }
        copied?;
    }
    Programs::in_bindir(&copy.join("bin"), false)
        .map_err(|why| refused(&format!(", nor a copy of it ({why})")))
}

fn can_run(programs: &Programs, account: &Account) -> bool {
    // The control file stands for all files beside the programs.
    let control = programs.sharedir.join("extension/vector.control");
    let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    // Each may need libraries that the others don't.
    let all = ["postgres", "initdb", "pg_ctl"].map(|name| programs.bindir.join(name));
    all.iter().all(|program| runs(account.command(program).arg("--version")))
        && runs(account.command(Path::new("/bin/cat")).arg(control))
}

/// Another build of the same version gets another copy.
fn identity(programs: &Programs) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let binary = programs.bindir.join("postgres");
    let found = fs::metadata(&binary).or_failed(|| format!("open {}", binary.display()))?;
    let text = format!("{} {} {} {}", binary.display(), found.len(), found.mtime(), programs.pgvector);
    Ok(files::short_hash(Path::new(&text)))
}

/// The server programs, what they load and what they read; libraries beside them, but nothing else of a prefix that
/// may hold far more than PostgreSQL.
fn copy_installation(prefix: &Path, programs: &Programs, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to.join("bin"))?;
    for program in ["postgres", "initdb", "pg_ctl", "pg_config", "psql", "pg_dump"] {
        let from = programs.bindir.join(program);
        if from.is_file() {
            fs::copy(from, to.join("bin").join(program))?;
        }
    }
    let share = programs.sharedir.strip_prefix(prefix).map_err(io::Error::other)?;
    copy_tree(&programs.sharedir, &to.join(share), true)?;
    for entry in fs::read_dir(prefix)? {
        let (lib, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        // Repackaged programs bring foreign libraries in a directory of their own, such as `postgresql.libs`.
        let text = name.to_string_lossy();
        if !lib.is_dir() || !(["lib", "lib64"].contains(&text.as_ref()) || text.ends_with(".libs")) {
            continue;
        }
        let here = to.join(&name);
        copy_tree(&lib, &here, false)?;
        for modules in ["postgresql", "pgsql", "citus_decoders"] {
            if lib.join(modules).is_dir() {
                copy_tree(&lib.join(modules), &here.join(modules), true)?;
            }
        }
    }
    Ok(())
}

/// Copies files (what links lead to, not the links); below the first level only if `deep`.
fn copy_tree(from: &Path, to: &Path, deep: bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() && deep => copy_tree(&path, &target, deep)?,
            Ok(found) if found.is_file() && (deep || is_library(&path)) => {
                fs::copy(&path, &target)?;
            }
            // Links to nowhere and sockets are nothing a server reads.
            _ => {}
        }
    }
    Ok(())
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.contains(".so") || name.ends_with(".dylib")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_holds_the_installation_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let prefix = dir.path().join("prefix");
        for file in [
            "bin/postgres",
            "bin/other",
            "share/extension/vector.control",
            "share/man/x",
            "lib/libpq.so.5",
            "lib/python/huge",
            "lib/postgresql/vector.so",
            "x.libs/libz.so.1",
        ] {
            let path = prefix.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let programs = Programs {
            bindir: prefix.join("bin"),
            sharedir: prefix.join("share"),
            version: "18.6".into(),
            major: 18,
            pgvector: "0.8.6".into(),
            citus: None,
        };
        let to = dir.path().join("copy");
        copy_installation(&prefix, &programs, &to).unwrap();
        for there in [
            "bin/postgres",
            "share/extension/vector.control",
            "lib/libpq.so.5",
            "lib/postgresql/vector.so",
            "x.libs/libz.so.1",
        ] {
            assert!(to.join(there).is_file(), "{there}");
        }
        for absent in ["bin/other", "lib/python"] {
            assert!(!to.join(absent).is_file() && !to.join(absent).is_dir(), "{absent}");
        }
    }
}
