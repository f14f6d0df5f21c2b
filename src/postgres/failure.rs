//! Why a server didn't take us, and how several such reasons become one error.

use std::io::ErrorKind;
use std::time::Duration;

use super::advice;
use super::options::SessionAttributes;
use super::server_error::{self, ServerError};
use super::session::Session;
use crate::error::Error;

/// Why one server didn't do.
pub(super) struct Failure {
    pub(super) peer: String,
    pub(super) reason: String,
    pub(super) hint: Option<String>,
    /// The server knows us and says no: asking the next one would not be what the user wants.
    pub(super) is_final: bool,
    /// The same may succeed later.
    pub(super) is_transient: bool,
}

impl Failure {
    pub(super) fn of(peer: &str, error: &tokio_postgres::Error) -> Self {
        let (reason, hint) = server_error::reason(error);
        // As libpq: a server that refuses us is an answer; one that is down or full is not.
        let is_final = ServerError::of(error).is_some_and(|server| server.code.starts_with("28"));
        let is_transient = server_error::is_transient(error);
        Self { peer: peer.to_owned(), reason, hint, is_final, is_transient }
    }

    /// The host's name led nowhere.
    pub(super) fn look_up(peer: String, reason: String) -> Self {
        let hint = Some(advice::NO_SUCH_HOST.to_owned());
        // Name services have their moments too.
        Self { peer, reason, hint, is_final: false, is_transient: true }
    }

    pub(super) fn timed_out(peer: String, limit: Duration) -> Self {
        let hint = advice::for_io(ErrorKind::TimedOut).map(str::to_owned);
        let reason = format!("timed out after {} s", limit.as_secs());
        Self { peer, reason, hint, is_final: false, is_transient: true }
    }

    /// The session, if it has a server process to itself.
    pub(super) fn unless_own(session: Session) -> Result<Session, Self> {
        if !session.is_lent {
            return Ok(session);
        }
        Err(Self {
            peer: session.peer().to_owned(),
            reason: "a pooler lends each transaction another server process".to_owned(),
            hint: Some(advice::NO_SESSIONS.to_owned()),
            is_final: true,
            is_transient: false,
        })
    }

    /// The session, if its server is what `target_session_attrs` asks for.
    pub(super) fn unless_fit(session: Session, wanted: SessionAttributes) -> Result<Session, Self> {
        let (fits, is) = match wanted {
            SessionAttributes::Any | SessionAttributes::PreferStandby => (true, ""),
            SessionAttributes::ReadWrite => (!session.is_read_only(), "takes no writes"),
            SessionAttributes::ReadOnly => (session.is_read_only(), "takes writes"),
            SessionAttributes::Primary => (!session.is_standby(), "is a standby"),
            SessionAttributes::Standby => (session.is_standby(), "is not a standby"),
        };
        if fits {
            return Ok(session);
        }
        Err(Self {
            peer: session.peer().to_owned(),
            reason: format!("the server {is}"),
            hint: Some("target_session_attrs asks for another kind of server".to_owned()),
            is_final: false,
            // A standby may be promoted.
            is_transient: true,
        })
    }

    /// The refusal that names every reason once; with several hosts each says whose it is.
    pub(super) fn all(place: &str, several_hosts: bool, failures: &[Self]) -> Error {
        let mut reasons: Vec<String> = Vec::new();
        for Self { peer, reason, .. } in failures {
            // Several addresses of one host mostly fail alike.
            let reason = if several_hosts { format!("{peer}: {reason}") } else { reason.clone() };
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let mut error = Error::refused(format!("connect to {place}: {}", reasons.join("; ")));
        if failures.iter().any(|failure| failure.is_transient) {
            error = error.lost();
        }
        match failures.iter().rev().find_map(|failure| failure.hint.clone()) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_said_once_and_hosts_are_told_apart() {
        let failure = |peer: &str| Failure::timed_out(peer.to_owned(), Duration::from_secs(2));
        let error = Failure::all("a:1/d as u", false, &[failure("a:1"), failure("a:1")]);
        assert_eq!(error.to_string(), "connect to a:1/d as u: timed out after 2 s");
        assert!(error.advice().is_some());
        let error = Failure::all("a:1,b:2/d as u", true, &[failure("a:1"), failure("b:2")]).to_string();
        assert_eq!(error, "connect to a:1,b:2/d as u: a:1: timed out after 2 s; b:2: timed out after 2 s");
    }
}
