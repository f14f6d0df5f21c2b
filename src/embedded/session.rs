//! The few words spoken to a server that has just started.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::cluster::ROLE;
use super::files;
use super::place::Place;
use super::postmaster::Postmaster;
use crate::error::{Context, Error, Result};
use crate::postgres::quote_literal;

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(20);

/// Sees to the database and to the loopback port's password, and thereby proves that clients get in.
pub(super) fn prepare(place: &Place, postmaster: &Postmaster, need_citus: bool) -> Result<()> {
    let passfile = place.passfile();
    let password = if passfile.is_file() { None } else { Some(random_password()?) };
    let wants = Wants { password: password.as_deref(), need_citus };
    // A thread of its own, so that callers inside and outside of a runtime are served alike.
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| talk(postmaster, &wants));
        talking.join().unwrap_or_else(|_| Err(Error::bug("the embedded server's session panicked")))
    })?;
    if let Some(password) = password {
        // Only now: a passfile that is there means that the server knows the password.
        let text: String =
            ["127.0.0.1", "localhost"].map(|host| format!("{host}:*:*:{ROLE}:{password}\n")).concat();
        files::write_atomic(&passfile, &text, 0o600, None)
            .or_failed(|| format!("write {}", passfile.display()))?;
    }
    Ok(())
}

struct Wants<'a> {
    password: Option<&'a str>,
    need_citus: bool,
}

fn talk(postmaster: &Postmaster, wants: &Wants<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.or_failed(|| "start a session with the embedded server".to_owned())?;
    runtime.block_on(async {
        let mut config = Config::new();
        config.host_path(&postmaster.socket_dir).port(postmaster.port).user(ROLE).dbname("postgres");
        config.connect_timeout(CONNECT_WAIT_MAX).application_name("vecload db start");
        let (client, connection) =
            config.connect(NoTls).await.map_err(|cause| no_entry(postmaster, cause))?;
        let driving = tokio::spawn(connection);
        let done = tokio::time::timeout(CONNECT_WAIT_MAX, ask(&client, wants)).await;
        drop(client);
        driving.abort();
        match done {
            Ok(done) => done,
            Err(_) => Err(Error::failed("the embedded server takes connections but doesn't answer")
                .hint("vecload db stop, then look at its log")),
        }
    })
}

async fn ask(client: &Client, wants: &Wants<'_>) -> Result<()> {
    let asking = || "prepare the embedded server".to_owned();
    if wants.need_citus {
        let row = client.query_one("show shared_preload_libraries", &[]).await.or_failed(asking)?;
        if !row.get::<_, String>(0).contains("citus") {
            return Err(Error::refused("the embedded server is running, but without Citus")
                .hint("vecload db stop, then start it again with Citus"));
        }
    }
    let found =
        client.query_opt("select from pg_database where datname = $1", &[&ROLE]).await.or_failed(asking)?;
    if found.is_none() {
        let created = client.batch_execute("create database vecload").await;
        match created.as_ref().err().and_then(|error| error.code()) {
            // Another client was faster.
            Some(code) if [SqlState::DUPLICATE_DATABASE, SqlState::UNIQUE_VIOLATION].contains(code) => {}
            _ => created.or_failed(|| "create database vecload".to_owned())?,
        }
    }
    if let Some(password) = wants.password {
        // Nothing of it goes to the server's log, not even on failure.
        let quiet = "set log_statement = 'none'; set log_min_duration_statement = -1; \
                     set log_min_error_statement = 'panic'; set password_encryption = 'scram-sha-256'";
        client.batch_execute(quiet).await.or_failed(asking)?;
        let statement = format!("alter role vecload password {}", quote_literal(password));
        // The error is replaced: it might quote the statement.
        client.batch_execute(&statement).await.map_err(|error| {
            let code = error.code().map_or("no code", SqlState::code);
            Error::failed(format!("set the loopback password of the embedded server ({code})"))
        })?;
    }
    Ok(())
}

fn no_entry(postmaster: &Postmaster, cause: tokio_postgres::Error) -> Error {
    let socket = postmaster.socket_dir.join(format!(".s.PGSQL.{}", postmaster.port));
    Error::failed(format!("connect to the embedded server at {}", socket.display()))
        .because(cause)
        .hint("if data/pg_hba.conf or data/pg_ident.conf was changed, let its owner in by peer authentication again")
}

/// 192 random bits.
fn random_password() -> Result<String> {
    let mut bytes = [0_u8; 24];
    let source = Path::new("/dev/urandom");
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .or_failed(|| format!("read {}", source.display()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_plain_and_never_the_same() {
        let (one, other) = (random_password().unwrap(), random_password().unwrap());
        assert_ne!(one, other);
        assert!(one.len() == 48 && one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
