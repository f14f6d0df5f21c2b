//! A cluster's files: made once by initdb, given settings at each start.

use std::fs;
use std::path::Path;

use super::machine::Machine;
use super::place::Place;
use super::programs::Programs;
use super::settings::{quoted, settings_for};
use super::{EmbeddedOptions, files};
use crate::error::{Context, Error, Result};

/// The server's superuser, and the database that vecload uses.
pub(super) const ROLE: &str = "vecload";

/// The major version that made the cluster; `None` if there is none.
pub(super) fn major_of(place: &Place) -> Result<Option<u32>> {
    let data = place.data();
    if !data.is_dir() {
        return Ok(None);
    }
    let file = data.join("PG_VERSION");
    let text =
        fs::read_to_string(&file).or_failed(|| format!("{} is no database cluster", data.display()))?;
    let major = text.trim().split('.').next().and_then(|major| major.parse().ok());
    major.map(Some).ok_or_else(|| Error::failed(format!("{} holds no version: {text:?}", file.display())))
}

/// Another major version can't open the cluster.
pub(super) fn wrong_major(place: &Place, cluster: u32, programs: &str) -> Error {
    let data = place.data();
    Error::refused(format!("the cluster in {} was made by PostgreSQL {cluster}; {programs}", data.display()))
        .hint(format!(
            "name the programs of a PostgreSQL {cluster} with pgvector (--pg-bindir) to use or dump it, \
             or move {} away to begin with an empty one",
            data.display()
        ))
}

/// Makes the cluster if there is none. It appears under its name only when complete.
pub(super) fn ensure(place: &Place, programs: &Programs, say: &dyn Fn(&str)) -> Result<()> {
    if place.data().is_dir() {
        return Ok(());
    }
    say(&format!("creating a database cluster in {}", place.home().display()));
    let new = place.home().join("data.new");
    match fs::remove_dir_all(&new) {
        // What an interrupted initdb left.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::failed(format!("remove {}", new.display())).because(error));
        }
        _ => {}
    }
    place.make_owned(&new)?;
    initdb(place, programs, &new)?;
    let write = |name: &str, text: &str| {
        let file = new.join(name);
        files::write_atomic(&file, text, 0o600, Some(place.account()))
            .or_failed(|| format!("write {}", file.display()))
    };
    write("pg_hba.conf", HBA)?;
    write("pg_ident.conf", &ident(place.account().name(), programs.major))?;
    let conf = new.join("postgresql.conf");
    let standard = fs::read_to_string(&conf).or_failed(|| format!("read {}", conf.display()))?;
    write("postgresql.conf", &format!("{standard}{INCLUDE}"))?;
    fs::rename(&new, place.data()).or_failed(|| format!("rename {} to data", new.display()))
}

fn initdb(place: &Place, programs: &Programs, new: &Path) -> Result<()> {
    let account = place.account();
    let mut command = account.command(&programs.bindir.join("initdb"));
    // initdb builds shell commands: a relative directory needs no quoting in them.
    command.current_dir(new).args(["-D", ".", "--username", ROLE, "--encoding", "UTF8"]);
    // The same order of strings on every machine, whatever its libc: an upgrade can't break an index.
    command.args(["--locale", "C"]);
    if programs.major >= 17 {
        command.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
    }
    command.args(["--data-checksums", "--auth-local", "peer", "--auth-host", "scram-sha-256"]);
    // Answers Ctrl-C together with vecload: a half-made cluster is cleared away next time.
    let output = account.output(&mut command)?;
    if output.status.success() {
        return Ok(());
    }
    let said = files::last_lines(&String::from_utf8_lossy(&output.stderr), 6).replace('\n', "; ");
    let message =
        format!("create a database cluster in {} as user {}: {said}", new.display(), account.name());
    let hint = match said.contains("No space left on device") {
        true => "make room on that disk, or run from a directory on another one",
        false => "the directory has to be on a local disk where that user can write",
    };
    Err(Error::failed(message).hint(hint))
}

/// Who gets in. Over the socket: users of this machine that `pg_ident.conf` names, by word of the kernel, so there
/// is no password to keep, to print or to leak; besides, its directory is closed to everybody else. Over loopback,
/// which every user of the machine reaches: those who can read the password in `passfile`.
const HBA: &str = "\
# Written by vecload when it made this cluster; yours from now on.
# type  database     user  address        method
local   all          all                  peer map=vecload
local   replication  all                  peer map=vecload
host    all          all   127.0.0.1/32   scram-sha-256
host    all          all   ::1/128        scram-sha-256
";

/// The cluster's owner may be any role, and so may root, who could be the owner too.
fn ident(owner: &str, major: u32) -> String {
    let roles = if major >= 16 { "all" } else { ROLE };
    let owner = owner.replace('"', "\"\"");
    format!(
        "# map     system user   role\n\
         vecload   \"{owner}\"   {roles}\n\
         vecload   root   {roles}\n"
    )
}

const INCLUDE: &str = "
# vecload computes these for the machine at each start.
include '../vecload.conf'

# Your own settings go below this line (or through ALTER SYSTEM); they win.
";

/// Writes `vecload.conf` for this start.
pub(super) fn write_settings(
    place: &Place,
    programs: &Programs,
    options: &EmbeddedOptions,
    port: Option<u16>,
) -> Result<()> {
    let text = settings_text(place, programs, options, port, &Machine::look(place.home()));
    let file = place.conf();
    files::write_atomic(&file, &text, 0o600, Some(place.account()))
        .or_failed(|| format!("write {}", file.display()))
}

fn settings_text(
    place: &Place,
    programs: &Programs,
    options: &EmbeddedOptions,
    port: Option<u16>,
    machine: &Machine,
) -> String {
    let mut text = String::from(
        "# Written by vecload at each start: changes here are lost.\n\
         # Your own settings go at the end of data/postgresql.conf, or through ALTER SYSTEM.\n\n",
    );
    let listen = if port.is_some() { "127.0.0.1" } else { "" };
    // The port is also a part of the socket's name; without a network any will do.
    let port = port.unwrap_or(PORT_WITHOUT_NETWORK);
    text += &format!("port = {port}\n");
    text += &format!("listen_addresses = '{listen}'\n");
    text += &format!("unix_socket_directories = {}\n", quoted(&place.run().to_string_lossy()));
    text += "cluster_name = 'vecload'\nlog_line_prefix = '%m [%p] %q%a '\n\n";
    for setting in settings_for(machine) {
        text += &format!("# {}\n{} = {}\n", setting.why, setting.name, quoted(&setting.value));
    }
    if options.need_citus && programs.citus.is_some() {
        text += "# asked for\nshared_preload_libraries = 'citus'\n";
    }
    for (name, value) in &options.extra_settings {
        text += &format!("# asked for at this start\n{name} = {}\n", quoted(value));
    }
    text
}

const PORT_WITHOUT_NETWORK: u16 = 54329;

/// The port of the last start.
pub(super) fn last_port(place: &Place) -> Option<u16> {
    let text = fs::read_to_string(place.conf()).ok()?;
    text.lines().find_map(|line| line.strip_prefix("port = ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_quoted_and_roles_fit_the_version() {
        assert!(ident("o\"dd", 18).contains("\"o\"\"dd\"   all"));
        assert!(ident("ann", 15).contains("\"ann\"   vecload"));
    }

    #[test]
    fn settings_asked_for_come_last_and_win() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::for_test(dir.path());
        let programs = Programs {
            bindir: "/b".into(),
            sharedir: "/s".into(),
            version: "18.6".into(),
            major: 18,
            pgvector: "0.8.6".into(),
            citus: Some("14".into()),
        };
        let options = EmbeddedOptions {
            extra_settings: vec![("max_connections".into(), "7".into())],
            need_citus: true,
            ..EmbeddedOptions::default()
        };
        let machine = Machine::look(dir.path());
        let text = settings_text(&place, &programs, &options, Some(5555), &machine);
        let (ours, theirs) = (text.find("max_connections = '100'"), text.find("max_connections = '7'"));
        assert!(ours.unwrap() < theirs.unwrap(), "{text}");
        assert!(text.contains("shared_preload_libraries = 'citus'"));
        fs::write(place.conf(), &text).unwrap();
        assert_eq!(last_port(&place), Some(5555));
    }
}
