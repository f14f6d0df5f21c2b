//! Connection strings: URLs and libpq's `key=value` lists, read into [`Parameters`].

use percent_encoding::percent_decode_str;

use super::parameters::Parameters;
use crate::error::{Error, Result};

/// How messages name the two forms.
pub(super) const URL: &str = "the connection URL";
const LIST: &str = "the connection string";

pub(super) const ESCAPE_HINT: &str = "a URL is postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in user and password \
    write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25";

const LIST_HINT: &str = "write postgresql://USER@HOST:PORT/DATABASE, or a list like \
    `host=HOST dbname=DATABASE user=USER`; quote values with spaces: password='two words'";

/// Reads a connection string of either form into `parameters`.
pub(super) fn parse(text: &str, parameters: &mut Parameters) -> Result<()> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        return parse_url(rest, parameters).map_err(|why| match why {
            Why::Text(why) => {
                Error::refused(format!("connection URL `{}`: {why}", redacted(text))).hint(ESCAPE_HINT)
            }
            Why::Error(error) => error,
        });
    }
    match text.split_once("://") {
        // A list may hold a URL in one of its values; a scheme has no blank or `=` in it.
        Some((scheme, _)) if !scheme.contains(|c: char| c.is_whitespace() || c == '=') => {
            Err(Error::refused(format!("connection URL has scheme `{scheme}`, expected `postgresql`"))
                .hint("start the URL with postgresql://"))
        }
        _ => parse_list(text, parameters),
    }
}

/// The URL without anything that is, or by a missing escape might be, a secret.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    // The last `@`, so that one inside a password doesn't show the password's end.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials.split(':').next().unwrap_or_default()), rest),
        None => (None, rest),
    };
    let (address, query) = match rest.split_once('?') {
        Some((address, _)) => (address, "?***"),
        None => (rest, ""),
    };
    // Without `@`, what stands behind a colon may be a password instead of a port.
    let address = match (user, address.split_once(':')) {
        (None, Some((host, _))) if !host.starts_with('[') => format!("{host}:***"),
        _ => address.to_owned(),
    };
    match user {
        Some(user) => format!("{scheme}://{user}:***@{address}{query}"),
        None => format!("{scheme}://{address}{query}"),
    }
}

enum Why {
    Text(&'static str),
    Error(Error),
}

impl From<&'static str> for Why {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

fn parse_url(rest: &str, parameters: &mut Parameters) -> Result<(), Why> {
    let mut set = |name: &str, value: String| parameters.set(name, value, URL).map_err(Why::Error);
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    // As in libpq, user and password end at the first `@` before any `/`. A `?` may stand in a password.
    let credentials_end = rest.find(['@', '/']).filter(|&at| rest[at..].starts_with('@'));
    let (hosts, rest) = match credentials_end {
        Some(at) => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            if !user.is_empty() {
                set("user", decode(user)?)?;
            }
            if let Some(password) = password.filter(|password| !password.is_empty()) {
                set("password", decode(password)?)?;
            }
            let rest = &rest[at + 1..];
            rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
        }
        None => rest.split_at(authority_end),
    };
    // libpq would take a bare `@` here. Nearly always it belongs to the password, which would then show in messages.
    if hosts.contains('@') || rest.split('?').next().is_some_and(|path| path.contains('@')) {
        return Err("a second `@`: in a password or database name it's written %40".into());
    }
    if !hosts.is_empty() {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for item in hosts.split(',') {
            let (name, port) = split_port(item)?;
            names.push(decode(name)?);
            ports.push(decode(port)?);
        }
        if names.iter().any(|name| !name.is_empty()) {
            set("host", names.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            set("port", ports.join(","))?;
        }
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if let Some(database) = path.strip_prefix('/').filter(|database| !database.is_empty()) {
        set("dbname", decode(database)?)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("a parameter behind `?` has no `=`")?;
        if value.contains('=') {
            return Err("a parameter behind `?` has a second `=`, which must be written %3D".into());
        }
        match (decode(key)?.as_str(), decode(value)?) {
            // The spelling of JDBC, which libpq takes too.
            ("ssl", value) if value == "true" => set("sslmode", "require".to_owned())?,
            (key, value) => set(key, value)?,
        }
    }
    Ok(())
}

/// `host[:port]`, with IPv6 addresses in square brackets.
fn split_port(item: &str) -> Result<(&str, &str), &'static str> {
    if let Some(rest) = item.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("an IPv6 address lacks its `]`")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err("text between the `]` of an IPv6 address and its port"),
        };
    }
    match item.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("an IPv6 address must stand in square brackets"),
        Some(pair) => Ok(pair),
        None => Ok((item, "")),
    }
}

fn decode(text: &str) -> Result<String, &'static str> {
    let bytes = text.as_bytes();
    for (at, _) in text.match_indices('%') {
        let digits = bytes.get(at + 1..at + 3).ok_or("`%` without two hexadecimal digits behind it")?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("`%` without two hexadecimal digits behind it");
        }
        if digits == b"00" {
            return Err("holds %00");
        }
    }
    let decoded =
        percent_decode_str(text).decode_utf8().map_err(|_| "a percent-encoded part is not UTF-8")?;
    Ok(decoded.into_owned())
}

/// `key = value` pairs parted by blanks; values may be quoted by `'`, and `\` takes the next character as it is.
fn parse_list(text: &str, parameters: &mut Parameters) -> Result<()> {
    // Messages give positions, never text: what looks like a key may be the end of a password with a blank.
    let refuse =
        |at: usize, why: &str| Error::refused(format!("connection string, byte {at}: {why}")).hint(LIST_HINT);
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|&(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(key_at, _)) = chars.peek() else {
            return Ok(());
        };
        let mut key = String::new();
        while let Some((_, c)) = chars.next_if(|&(_, c)| c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|&(_, c)| c.is_whitespace()).is_some() {}
        if chars.next_if(|&(_, c)| c == '=').is_none() {
            return Err(refuse(key_at, "a word without `=`"));
        }
        while chars.next_if(|&(_, c)| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if(|&(_, c)| c == '\'').is_some();
        let mut value = String::new();
        let mut closed = !quoted;
        while let Some((_, c)) = chars.next_if(|&(_, c)| quoted || !c.is_whitespace()) {
            match c {
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err(refuse(key_at, "a quoted value is not closed"));
        }
        if value.contains('\0') {
            return Err(refuse(key_at, "a value holds a NUL byte"));
        }
        parameters.set(&key, value, LIST)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Parameters {
        let mut parameters = Parameters::default();
        parse(text, &mut parameters).unwrap();
        parameters
    }

    fn refusal(text: &str) -> String {
        format!("{:?}", parse(text, &mut Parameters::default()).unwrap_err())
    }

    #[test]
    fn every_part_of_a_url_is_read_and_decoded() {
        let read = read(
            "postgresql://al%69ce:s%40cr%2Ft@db.example:6000/my%20db?sslmode=verify-full&options=-c%20x%3D1",
        );
        assert_eq!(read.get("user"), Some("alice"));
        assert_eq!(read.get("password"), Some("s@cr/t"));
        assert_eq!(read.get("host"), Some("db.example"));
        assert_eq!(read.get("port"), Some("6000"));
        assert_eq!(read.get("dbname"), Some("my db"));
        assert_eq!(read.get("sslmode"), Some("verify-full"));
        assert_eq!(read.get("options"), Some("-c x=1"));
    }

    #[test]
    fn parts_may_be_missing_and_hosts_may_be_many() {
        assert_eq!(read("postgres://").get("host"), None);
        assert_eq!(read("postgres:///db").get("dbname"), Some("db"));
        assert_eq!(read("postgres:///db?host=/run/x&port=1").get("host"), Some("/run/x"));
        assert_eq!(read("postgres://%2Frun%2Fpg/db").get("host"), Some("/run/pg"));
        let many = read("postgres://a:1,b,[::1]:3/db");
        assert_eq!((many.get("host"), many.get("port")), (Some("a,b,::1"), Some("1,,3")));
        assert_eq!(read("postgres://h?ssl=true").get("sslmode"), Some("require"));
        assert_eq!(read("postgres://u:p?w@h/db").get("password"), Some("p?w"));
    }

    #[test]
    fn lists_follow_the_quoting_rules() {
        let read = read(r"host = a  password='it\'s \\ fine' user=o\'b dbname='' port=1 port=2");
        assert_eq!(read.get("host"), Some("a"));
        assert_eq!(read.get("password"), Some(r"it's \ fine"));
        assert_eq!(read.get("user"), Some("o'b"));
        assert_eq!(read.get("dbname"), None);
        assert_eq!(read.get("port"), Some("2"));
    }

    #[test]
    fn refusals_say_why_without_the_secret() {
        for url in [
            "postgres://alice:hunter2@h/db?x",
            "postgres://alice:hun%zzter2@h/db",
            "postgres://alice:h@unter2/x:y:hunter2@h/db?x",
            "postgres://alice:hunter2:hunter2/db",
            "postgres://h/db?password=hunter2&x",
            "password=a hunter2",
            "password='hunter2",
        ] {
            let text = refusal(url);
            assert!(!text.contains("hun") && !text.contains("ter2"), "{text}");
        }
        assert!(refusal("mysql://u:hunter2@h").contains("`mysql`"));
        assert!(refusal("postgresql+psycopg://u:p@h").contains("start the URL with"));
        assert!(refusal("postgres://h?foo=1").contains("unknown connection parameter `foo`"));
        assert!(refusal("mydb").contains("byte 0: a word without `=`"));
    }

    #[test]
    fn redaction_keeps_what_helps_and_nothing_else() {
        assert_eq!(redacted("postgres://alice:pw@h:5/db"), "postgres://alice:***@h:5/db");
        assert_eq!(redacted("postgres://alice:p@w@h/db?password=x"), "postgres://alice:***@h/db?***");
        assert_eq!(redacted("postgres://alice:pw/db"), "postgres://alice:***");
        assert_eq!(redacted("host=x password=y"), "***");
    }
}
