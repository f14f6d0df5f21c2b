//! What to do about the usual failures of the server and of the way to it.

use std::io::ErrorKind;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::server_error::{NO_PASSWORD, ServerError};
use super::verifier::is_of_version_1;

pub(super) fn for_server_error(error: &ServerError) -> Option<String> {
    let advice = match error.code.as_str() {
        "28P01" => {
            "check the user's name and password: in the URL, PGUSER and PGPASSWORD, or the line for this host, port, \
             database and user in ~/.pgpass (which only counts with chmod 600)"
        }
        "28000" if error.message.contains("client certificate") => {
            "name a client certificate and its key by sslcert and sslkey (or PGSSLCERT and PGSSLKEY)"
        }
        "28000" => {
            "check the user's name; if it's right, the server's pg_hba.conf needs a line that lets this user reach \
             this database from here (and, if it says \"no encryption\", use sslmode=require)"
        }
        "3D000" => "create the database with createdb, or name another one in the URL or by PGDATABASE",
        "53300" => "close other sessions, lower --writers, or raise max_connections on the server",
        "53100" => {
            "free space on the server's disk, then run the same command again: it goes on where it stopped"
        }
        "53200" => "the server is out of memory: lower --writers, or its work_mem and maintenance_work_mem",
        "42501" => return Some(permission(error)),
        "08006" if ["remote node", "connections to the node"].iter().any(|of| error.message.contains(of)) => {
            "a worker of the cluster is away: start it, or take it out of the cluster"
        }
        // Citus has warned of what that node said.
        "XX000" if error.message.contains("marked as essential") => {
            "vecload verify tells what is wrong with that node"
        }
        "XX000" if error.message.contains("loaded Citus library version differs") => {
            "an upgrade of Citus is not finished: run alter extension citus update on the node that says so, and on \
             every other that has not had it"
        }
        "57P01" | "57P02" => "the server was stopped or the session was ended: run the same command again",
        "57P03" => "the server is starting up or shutting down: try again in a moment",
        // Prepared statements that nobody has prepared, or somebody else.
        "26000" | "42P05" => NO_SESSIONS,
        "25006" => {
            "this server takes no writes (a standby?): connect to the primary, or set target_session_attrs=primary"
        }
        "42P01" if is_of_worker(error) => {
            "the shard's table was dropped on that node, or the node's data were lost: vecload verify tells which \
             shards are concerned"
        }
        "42P01" => "create the tables with `vecload migrate`, or name the right table by --table",
        "3F000" => "create the schema first (CREATE SCHEMA), or name another one with --table SCHEMA.NAME",
        "58P01" | "0A000"
            if error.message.contains("extension \"vector\"") || names_file_of(error, "vector") =>
        {
            "install pgvector on the server (packages are named like postgresql-17-pgvector), then try again"
        }
        "58P01" | "0A000"
            if error.message.contains("extension \"citus\"") || names_file_of(error, "citus") =>
        {
            "install Citus on the server and add it to shared_preload_libraries, then try again"
        }
        "42704"
            if error.message.contains("type \"vector\"") || error.message.contains("type \"halfvec\"") =>
        {
            "create the extension with `vecload migrate`; if it's there, its schema must be in the search_path"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Citus says which node has refused a statement.
fn is_of_worker(error: &ServerError) -> bool {
    error.context.as_ref().is_some_and(|context| context.contains("while executing command on "))
}

fn names_file_of(error: &ServerError, extension: &str) -> bool {
    error.message.contains(&format!("/{extension}.control"))
        || error.detail.as_ref().is_some_and(|detail| detail.contains(&format!("/{extension}.control")))
}

/// 42501 says what was denied in its message: `permission denied for table chunks`.
fn permission(error: &ServerError) -> String {
    let grant = match error.message.strip_prefix("permission denied for ").map(|rest| rest.split(' ').next())
    {
        Some(Some("table" | "relation" | "view")) => "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE … TO …",
        Some(Some("schema")) => "GRANT USAGE, CREATE ON SCHEMA … TO …",
        Some(Some("sequence")) => "GRANT USAGE, SELECT ON SEQUENCE … TO …",
        Some(Some("database")) => "GRANT CREATE, CONNECT ON DATABASE … TO …",
        Some(Some("function")) => "GRANT EXECUTE ON FUNCTION … TO …",
        _ => return "connect as the owner or a superuser, or have the rights given with GRANT".to_owned(),
    };
    format!("have its owner or a superuser run {grant}")
}

pub(super) fn for_io(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::ConnectionRefused => {
            Some("check that the server runs, listens on that address (listen_addresses) and on that port")
        }
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            Some("check host and port, and firewalls or security groups between here and there")
        }
        ErrorKind::NotFound => {
            Some("check that the server runs, and that its socket directory and port are these")
        }
        ErrorKind::PermissionDenied => Some("this system user may not use the server's socket"),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => {
            Some("check that this port is a PostgreSQL server's; if it is, the server's log says more")
        }
        _ => None,
    }
}

pub(super) const NO_SESSIONS: &str = "connect to the server itself, or to a pooler that keeps sessions (PgBouncer: \
     pool_mode = session): vecload's locks, settings and prepared statements are its sessions' own";

pub(super) const NO_SUCH_HOST: &str =
    "check the host's name in the URL or PGHOST, and this machine's name service";

pub(super) fn for_tls(error: &TlsError) -> Option<&'static str> {
    match error {
        TlsError::InvalidCertificate(certificate) => for_certificate(certificate),
        TlsError::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::HandshakeFailure
            | AlertDescription::DecryptError,
        ) => Some("the server refuses our client certificate or misses one: check sslcert and sslkey"),
        TlsError::PeerIncompatible(_) | TlsError::AlertReceived(AlertDescription::ProtocolVersion) => {
            Some("the server must speak TLS 1.2 or newer with modern ciphers")
        }
        TlsError::InvalidMessage(_) => Some("check that this port is a PostgreSQL server's"),
        _ => None,
    }
}

fn for_certificate(error: &CertificateError) -> Option<&'static str> {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => {
            Some("name the certificate of the CA that signed the server's by sslrootcert (or PGSSLROOTCERT)")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => Some(
            "connect by a name in the certificate's subjectAltName (its common name doesn't count), \
             or check the chain alone with sslmode=verify-ca",
        ),
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Some("renew the server's certificate, or correct this machine's clock")
        }
        E::Revoked => Some("the server's certificate is in the revocation list of sslcrl: replace it"),
        E::UnknownRevocationStatus => {
            Some("the list of sslcrl must come from the CA that signed the certificate")
        }
        E::Other(other) if is_of_version_1(other) => Some(
            "issue it again as version 3, with a subjectAltName (the one that Citus makes itself has version 1), or \
             encrypt without checking it: sslmode=require without a root certificate, over TLS 1.3",
        ),
        E::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => Some(
            "the server's certificate is its own authority: name that certificate by sslrootcert, \
             or issue one that is signed by a CA",
        ),
        _ => None,
    }
}

/// For the failures tokio-postgres tells by text alone.
pub(super) fn for_client_text(text: &str) -> Option<&'static str> {
    if text.contains(NO_PASSWORD) {
        Some("give the password by PGPASSWORD or in ~/.pgpass (which only counts with chmod 600)")
    } else if text.contains("does not support TLS") {
        Some("turn on ssl on the server, or connect in plain with sslmode=disable")
    } else if text.contains("channel binding") {
        Some("channel_binding=require takes TLS and a password kept as scram-sha-256 on the server")
    } else if text.contains("unsupported authentication method") {
        Some(
            "vecload can prove itself by password (scram-sha-256, md5, plain), client certificate, trust or peer",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(code: &str, message: &str) -> Option<String> {
        advice_in(code, message, None)
    }

    fn advice_in(code: &str, message: &str, context: Option<&str>) -> Option<String> {
        for_server_error(&ServerError {
            code: code.to_owned(),
            severity: String::new(),
            message: message.to_owned(),
            detail: None,
            hint: None,
            context: context.map(str::to_owned),
            schema: None,
            table: None,
            column: None,
            data_type: None,
            constraint: None,
            position: None,
        })
    }

    #[test]
    fn the_usual_refusals_come_with_the_next_step() {
        for (code, message, step) in [
            ("28P01", "", "~/.pgpass"),
            ("28000", "", "pg_hba.conf"),
            ("28000", "connection requires a valid client certificate", "sslkey"),
            ("08006", "connection to the remote node w:5432 failed", "worker"),
            ("XX000", "failure on connection marked as essential: w:5432", "vecload verify"),
            ("XX000", "loaded Citus library version differs from installed", "alter extension citus update"),
            ("3D000", "", "createdb"),
            ("53300", "", "max_connections"),
            ("53100", "", "free space"),
            ("57P03", "", "try again"),
            ("42P01", "", "vecload migrate"),
            ("42501", "permission denied for table chunks", "INSERT"),
            ("42501", "permission denied for schema public", "USAGE, CREATE ON SCHEMA"),
            ("42501", "must be owner of table chunks", "GRANT"),
            ("0A000", "extension \"vector\" is not available", "install pgvector"),
            ("58P01", "could not open extension control file \"/x/vector.control\"", "install pgvector"),
            ("0A000", "extension \"citus\" is not available", "install Citus"),
        ] {
            let advice = advice(code, message).unwrap_or_default();
            assert!(advice.contains(step), "{code}: {advice}");
        }
        assert_eq!(advice("0A000", "cannot do that"), None);
        assert_eq!(advice("23505", ""), None);
        let lost = advice_in("42P01", "", Some("while executing command on w:5432")).unwrap_or_default();
        assert!(lost.contains("vecload verify"), "{lost}");
    }
}
