//! What the server said, unpacked once so that it prints once.

use std::error::Error as StdError;
use std::io;

use tokio_postgres::error::{DbError, ErrorPosition};

use super::advice;
use super::sqlstate::{Reaction, is_of_the_cluster, reaction};
use super::verifier::is_of_version_1;
use crate::error::Error;

/// Details and contexts may hold a whole row; a message needs its beginning.
const EXCERPT_CHARS_MAX: usize = 300;

/// tokio-postgres calls this an invalid configuration.
pub(super) const NO_PASSWORD: &str = "the server asks for a password, and none is given";

/// An error or notice of the server, with all it told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE, five characters.
    pub code: String,
    /// `ERROR`, `FATAL`, `PANIC`, or a notice's level; in the server's language.
    pub severity: String,
    /// What is wrong, in one line.
    pub message: String,
    /// More about it; may hold values of the row.
    pub detail: Option<String>,
    /// The server's own advice.
    pub hint: Option<String>,
    /// Where it happened: for COPY the table, line and column.
    pub context: Option<String>,
    /// The schema concerned.
    pub schema: Option<String>,
    /// The table concerned.
    pub table: Option<String>,
    /// The column concerned.
    pub column: Option<String>,
    /// The data type concerned.
    pub data_type: Option<String>,
    /// The constraint concerned.
    pub constraint: Option<String>,
    /// Character in the statement, counted from 1.
    pub position: Option<u32>,
}

impl ServerError {
    /// The server's part of a failure; `None` if it wasn't the server that said no.
    pub fn of(error: &tokio_postgres::Error) -> Option<Self> {
        error.as_db_error().map(Self::from)
    }

    /// The message with code, detail and context, on one line.
    pub fn summary(&self) -> String {
        let mut text = format!("{} (SQLSTATE {})", one_line(&self.message), self.code);
        let more: Vec<String> =
            [&self.detail, &self.context].into_iter().flatten().map(|more| excerpt(more)).collect();
        if !more.is_empty() {
            text.push_str(": ");
            text.push_str(&more.join("; "));
        }
        text
    }

    /// The line of a COPY into `relation` at which the server stopped, from 1; in binary form a line is a row. Contexts
    /// are in the server's language: `COPY chunks, line 3`, `COPY chunks, Zeile 3`.
    pub fn copy_line(&self, relation: &str) -> Option<usize> {
        let mut lines = self.context.as_deref()?.lines();
        let rest =
            lines.find_map(|line| line.strip_prefix("COPY ")?.strip_prefix(relation)?.strip_prefix(", "))?;
        let digits = rest.split(|character: char| !character.is_ascii_digit());
        digits
            .filter(|digits| !digits.is_empty())
            .find_map(|digits| digits.parse().ok())
            .filter(|line| *line > 0)
    }

    /// What to do about it: ours for the usual codes, else the server's own.
    pub fn advice(&self) -> Option<String> {
        advice::for_server_error(self).or_else(|| self.hint.clone())
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            code: error.code().code().to_owned(),
            severity: error.severity().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            context: owned(error.where_()),
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            data_type: owned(error.datatype()),
            constraint: owned(error.constraint()),
            position: match error.position() {
                Some(ErrorPosition::Original(position)) => Some(*position),
                _ => None,
            },
        }
    }
}

/// A failure of `doing` as our error: kind failed, everything said once, with advice where we have some.
pub fn pg_error(doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
    pg_error_of(doing, &error)
}

pub(super) fn pg_error_of(doing: impl Into<String>, error: &tokio_postgres::Error) -> Error {
    let (reason, hint) = reason(error);
    let ours = Error::failed(format!("{}: {reason}", doing.into()));
    let ours = match error.code() {
        // The server is going down or coming up.
        Some(code) if code.code().starts_with("57P0") && is_transient(error) => ours.lost(),
        Some(_) if is_transient(error) => ours.transient(),
        None if is_lost(error) => ours.lost(),
        _ => ours,
    };
    match hint {
        Some(hint) => ours.hint(hint),
        None => ours,
    }
}

/// Whether the same may succeed later: the server says so by its code, or the way to it broke.
pub(super) fn is_transient(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(server) => {
            let code = server.code().code();
            reaction(code) == Reaction::Retry || is_of_the_cluster(code, server.message())
        }
        None => is_lost(error),
    }
}

/// Whether the connection is gone, or never came to be, for reasons of the way or of the server's process.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    // A certificate that is refused today is refused tomorrow.
    error.is_closed() || tls_error(error).is_none() && io.is_some()
}

/// Why, in our words, and what to do.
pub(super) fn reason(error: &tokio_postgres::Error) -> (String, Option<String>) {
    if let Some(server) = ServerError::of(error) {
        return (server.summary(), server.advice());
    }
    if let Some(tls) = tls_error(error) {
        return (format!("TLS: {}", tls_reason(tls)), advice::for_tls(tls).map(str::to_owned));
    }
    if let Some(io) = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        let text = io_reason(io);
        // A broken handshake and a broken session are not the same news.
        let text = if is_handshake(error) { format!("TLS handshake: {text}") } else { text };
        return (text, advice::for_io(io.kind()).map(str::to_owned));
    }
    let text = match error.source() {
        Some(cause) if is_handshake(error) => cause.to_string(),
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let text = text.replace("invalid configuration: password missing", NO_PASSWORD);
    let hint = advice::for_client_text(&text).map(str::to_owned);
    (text, hint)
}

/// An error of the TLS layer itself, wherever in the chain it hides.
pub(super) fn tls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    io.get_ref()?.downcast_ref()
}

/// rustls names its variant where words are needed most.
fn tls_reason(error: &rustls::Error) -> String {
    use rustls::CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => {
            "the server's certificate is not signed by a trusted CA".to_owned()
        }
        rustls::Error::InvalidCertificate(Certificate::Revoked) => {
            "the server's certificate is revoked".to_owned()
        }
        // webpki's own variants, which rustls carries without words.
        rustls::Error::InvalidCertificate(Certificate::Other(other)) => match format!("{other:?}") {
            name if name.contains("CaUsedAsEndEntity") => {
                "the server's certificate is a CA's, and not one that sslrootcert names".to_owned()
            }
            _ if is_of_version_1(other) => {
                "the server's certificate has X.509 version 1, which can't be checked".to_owned()
            }
            _ => error.to_string(),
        },
        error => error.to_string(),
    }
}

/// Did this happen before the session was encrypted?
///
/// tokio-postgres tells by its text alone; the test below fails if that changes.
pub(super) fn is_handshake(error: &tokio_postgres::Error) -> bool {
    error.to_string() == "error performing TLS handshake"
}

/// An operating system's error without the number that means something to few.
pub(super) fn io_reason(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "connection refused".to_owned(),
        Kind::TimedOut => "timed out".to_owned(),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            "the connection was broken off by the other side".to_owned()
        }
        Kind::UnexpectedEof => "the server closed the connection".to_owned(),
        // Only looking for a server's socket file ends like this.
        Kind::NotFound => "no server's socket is there".to_owned(),
        Kind::HostUnreachable => "host is unreachable".to_owned(),
        Kind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

fn excerpt(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// What Citus passes on of libpq has several lines.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn error(code: &str) -> ServerError {
        ServerError {
            code: code.to_owned(),
            severity: "ERROR".to_owned(),
            message: "duplicate key".to_owned(),
            detail: Some("Key (id)=(5)\nalready exists.".to_owned()),
            hint: Some("server's hint".to_owned()),
            context: Some("COPY chunks, line 3".to_owned()),
            schema: None,
            table: None,
            column: None,
            data_type: None,
            constraint: None,
            position: None,
        }
    }

    #[test]
    fn a_summary_says_everything_once_and_on_one_line() {
        let summary = error("23505").summary();
        assert_eq!(
            summary,
            "duplicate key (SQLSTATE 23505): Key (id)=(5) already exists.; COPY chunks, line 3"
        );
        let passed_on = "server closed the connection unexpectedly\n\tThis probably means";
        let passed_on = ServerError { message: passed_on.to_owned(), ..error("58030") }.summary();
        assert!(
            passed_on.starts_with("server closed the connection unexpectedly This probably"),
            "{passed_on}"
        );
        let mut long = error("23505");
        long.detail = Some("ä".repeat(5000));
        assert!(long.summary().chars().count() < 400);
    }

    #[test]
    fn the_line_of_a_copy_is_read_in_any_language() {
        let line = |context: &str| {
            ServerError { context: Some(context.to_owned()), ..error("23505") }.copy_line("chunks2")
        };
        assert_eq!(line("COPY chunks2, line 17"), Some(17));
        assert_eq!(line("COPY chunks2, Zeile 17, Spalte embedding: \"8\""), Some(17));
        assert_eq!(line("PL/pgSQL function f() line 3 at RAISE\nCOPY chunks2, line 5"), Some(5));
        assert_eq!(line("SQL statement \"COPY other, line 9\""), None);
        assert_eq!(line("COPY chunks2"), None);
    }

    #[test]
    fn our_advice_comes_before_the_servers() {
        assert!(error("53300").advice().unwrap().contains("max_connections"));
        assert_eq!(error("23505").advice().as_deref(), Some("server's hint"));
    }

    /// A server that answers the request for TLS with `answer` and hangs up.
    async fn connect_to_server_answering(answer: &'static [u8]) -> tokio_postgres::Error {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(answer).await.unwrap();
            // Whatever the client still says; it may have hung up already.
            drop(stream.read(&mut [0; 1024]).await);
        });
        let settings = crate::postgres::ConnectSettings::resolve(Some("sslmode=require host=h"), &|_| None);
        let tls = settings.unwrap().unwrap().tls.connector(true).unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("u").ssl_mode(tokio_postgres::config::SslMode::Require);
        let error = config.connect(tls).await.err().unwrap();
        server.await.unwrap();
        error
    }

    #[tokio::test]
    async fn a_broken_handshake_is_told_from_a_broken_session() {
        let error = connect_to_server_answering(b"S").await;
        assert!(is_handshake(&error), "{error}");
        assert_eq!(reason(&error).0, "TLS handshake: the server closed the connection");
        let error = connect_to_server_answering(b"Sno TLS at all, surely").await;
        assert!(is_handshake(&error) && tls_error(&error).is_some(), "{error:?}");
        let error = connect_to_server_answering(b"N").await;
        let (text, hint) = reason(&error);
        assert_eq!(text, "server does not support TLS");
        assert!(hint.unwrap().contains("sslmode"));
    }
}
