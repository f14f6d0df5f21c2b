//! The password file (`~/.pgpass`): lines of `host:port:database:user:password`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::{debug, warn};

/// What a line must fit.
pub(super) struct Wanted<'a> {
    /// Host name or address as the user wrote it; `localhost` for a default socket.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password of the first line that fits.
///
/// A file that others can read is not used, as with libpq: a warning says so, and the connection goes on without it.
pub(super) fn look_up(file: &Path, wanted: &Wanted<'_>) -> Option<String> {
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                warn!("password file {} is not used: {error}", file.display());
            }
            return None;
        }
    };
    if !metadata.is_file() {
        // `PGPASSFILE=/dev/null` is the usual way to have none.
        debug!("password file {} is not a plain file", file.display());
        return None;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        warn!(
            "password file {} is not used: others have access to it (mode {:03o}); chmod 600 it",
            file.display(),
            mode & 0o777
        );
        return None;
    }
    match fs::read_to_string(file) {
        Ok(text) => find(&text, wanted),
        Err(error) => {
            warn!("password file {} is not used: {error}", file.display());
            None
        }
    }
}

fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.trim_end_matches('\r');
        for value in [wanted.host, &port, wanted.database, wanted.user] {
            let (field, after) = next_field(rest)?;
            // Only a bare star is a wildcard: `\*` is the star itself.
            if !rest.starts_with("*:") && field != value {
                return None;
            }
            rest = after;
        }
        let (password, _) = next_field(rest).unwrap_or_else(|| (unescaped(rest), ""));
        Some(password).filter(|password| !password.is_empty())
    })
}

/// The text up to the next unescaped colon, unescaped, and what's behind the colon.
fn next_field(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((unescaped(&text[..end]), &text[end + 1..]))
}

fn unescaped(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        // A backslash at the very end stands for itself.
        result.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted { host: "db", port: 5432, database: "app", user: "alice" };

    fn found(text: &str) -> Option<String> {
        find(text, &WANTED)
    }

    #[test]
    fn the_first_line_that_fits_wins() {
        let text = "#db:5432:app:alice:comment\nother:*:*:*:a\ndb:5433:app:alice:b\ndb:5432:app:alice:c\n*:*:*:*:d\n";
        assert_eq!(found(text).as_deref(), Some("c"));
        assert_eq!(found("*:*:*:*:any").as_deref(), Some("any"));
        assert_eq!(found("db:5432:app:bob:x"), None);
        assert_eq!(found("db:5432:app:alice:"), None);
        assert_eq!(found("db:5432:app:alice:crlf\r\n").as_deref(), Some("crlf"));
        assert_eq!(found("too:short"), None);
        // A star is a wildcard only alone.
        assert_eq!(found("d*:5432:app:alice:x"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped_by_backslashes() {
        let wanted = Wanted { host: "::1", port: 1, database: r"a\b", user: "*" };
        assert_eq!(find(r"\:\:1:1:a\\b:\*:p\:w\\d", &wanted).as_deref(), Some(r"p:w\d"));
        assert_eq!(found(r"*:*:*:*:end\").as_deref(), Some(r"end\"));
        assert_eq!(found("*:*:*:*:pw:ignored").as_deref(), Some("pw"));
        assert_eq!(found(r"*:*:*:\*:star is a user here"), None);
    }

    #[test]
    fn a_file_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pass");
        assert_eq!(look_up(&file, &WANTED), None);
        fs::write(&file, "*:*:*:*:secret\n").unwrap();
        for (mode, password) in
            [(0o600, Some("secret")), (0o400, Some("secret")), (0o640, None), (0o604, None)]
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(look_up(&file, &WANTED).as_deref(), password, "{mode:o}");
        }
        assert_eq!(look_up(Path::new("/dev/null"), &WANTED), None);
        assert_eq!(look_up(directory.path(), &WANTED), None);
    }
}
