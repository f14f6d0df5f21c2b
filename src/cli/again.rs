//! The command of this process as one would type it again.

use crate::postgres::redacted;

/// The command, quoted for a shell; a URL with a password has *** in its place.
pub(super) fn command() -> String {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    quoted("vecload", words)
}

fn quoted(program: &str, words: impl Iterator<Item = String>) -> String {
    let mut out = program.to_owned();
    let mut is_url = false;
    for word in words {
        let shown = match word.strip_prefix("--db=") {
            Some(url) => format!("--db={}", without_secret(url)),
            None if is_url => without_secret(&word),
            None => word.clone(),
        };
        is_url = word == "--db";
        out.push(' ');
        // Nothing in arguments can hold a NUL, which is all that can't be quoted.
        out.push_str(&shlex::try_quote(&shown).unwrap_or(shown.as_str().into()));
    }
    out
}

fn without_secret(url: &str) -> String {
    let credentials = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    let has_secret = credentials.is_none_or(|(user, _)| user.contains(':')) || url.contains("password");
    if has_secret { redacted(url) } else { url.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_and_tells_no_secret() {
        let shown = |words: &[&str]| quoted("vecload", words.iter().map(|word| (*word).to_owned()));
        assert_eq!(shown(&["load", "my file.parquet"]), "vecload load 'my file.parquet'");
        assert_eq!(
            shown(&["load", "x", "--db", "postgresql://me@h/db?host=/run"]),
            "vecload load x --db 'postgresql://me@h/db?host=/run'"
        );
        for url in ["postgresql://me:secret@h/db", "postgresql://me@h/db?password=secret", "password=secret"]
        {
            assert!(!shown(&["load", "x", "--db", url]).contains("secret"), "{url}");
            assert!(!shown(&["load", "x", &format!("--db={url}")]).contains("secret"), "{url}");
        }
    }
}
