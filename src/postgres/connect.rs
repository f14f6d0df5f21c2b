//! Opening a session: hosts in turn, addresses in turn, encrypted as `sslmode` says.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode as WireMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, info};

use super::failure::Failure;
use super::hosts::HostSettings;
use super::options::SessionAttributes;
use super::pooler;
use super::server_error;
use super::session::{Session, SessionOptions};
use super::settings::ConnectSettings;
use super::tls::SslMode;
use crate::error::Result;

const APPLICATION_NAME: &str = "vecload";

impl ConnectSettings {
    /// Opens a session on the first server that takes us.
    ///
    /// The error is a refusal that names place, database, user and reason; a caller that has already written
    /// re-classes it with [`with_kind`](crate::error::Error::with_kind).
    pub async fn connect(&self, options: &SessionOptions) -> Result<Session> {
        let tls = self.tls.connector(self.hosts.iter().any(|host| !host.is_socket()))?;
        // libpq's `prefer-standby`: everyone once for a standby, then once more for anyone.
        let rounds: &[SessionAttributes] = match self.session_attributes {
            SessionAttributes::PreferStandby => &[SessionAttributes::Standby, SessionAttributes::Any],
            ref attributes => std::slice::from_ref(attributes),
        };
        let mut failures = Vec::new();
        'rounds: for &wanted in rounds {
            failures.clear();
            for host in self.in_order() {
                match self.connect_to_host(host, wanted, &tls, options, &mut failures).await {
                    Some(session) => return Ok(session),
                    None if failures.last().is_some_and(|failure| failure.is_final) => break 'rounds,
                    None => {}
                }
            }
        }
        Err(Failure::all(&self.describe(), self.hosts.len() > 1, &failures))
    }

    async fn connect_to_host(
        &self,
        host: &HostSettings,
        wanted: SessionAttributes,
        tls: &MakeRustlsConnect,
        options: &SessionOptions,
        failures: &mut Vec<Failure>,
    ) -> Option<Session> {
        let addresses = match addresses(host, self.connect_timeout).await {
            Ok(addresses) => addresses,
            Err(failure) => {
                failures.push(failure);
                return None;
            }
        };
        for address in addresses {
            match self
                .attempt(host, address, tls, options)
                .await
                .and_then(Failure::unless_own)
                .and_then(|session| Failure::unless_fit(session, wanted))
            {
                Ok(session) => return Some(session),
                Err(failure) => {
                    debug!("{}: {}", failure.peer, failure.reason);
                    let is_final = failure.is_final;
                    failures.push(failure);
                    if is_final {
                        break;
                    }
                }
            }
        }
        None
    }

    /// One address, within the time limit, in each of the ways `sslmode` allows.
    async fn attempt(
        &self,
        host: &HostSettings,
        address: Option<IpAddr>,
        tls: &MakeRustlsConnect,
        options: &SessionOptions,
    ) -> Result<Session, Failure> {
        let peer = host.describe();
        let work = async {
            let (first, second) = wire_modes(self.tls.mode, host.is_socket());
            let error = match self.open(host, address, first, tls, options).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            let Some(second) = second.filter(|_| may_do_otherwise(&error)) else {
                return Err(Failure::of(&peer, &error));
            };
            // Going on in plain is what `prefer` means, but nobody should have to guess why a session is not encrypted.
            info!("{peer}: {}; trying again {}", server_error::reason(&error).0, way(second));
            self.open(host, address, second, tls, options).await.map_err(|again| {
                let mut both = Failure::of(&peer, &error);
                let reason = server_error::reason(&again).0;
                if reason != both.reason {
                    both.reason = format!("{}; {}: {reason}", both.reason, way(second));
                }
                both
            })
        };
        let Some(limit) = self.connect_timeout else {
            return work.await;
        };
        timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::timed_out(host.describe(), limit)))
    }

    async fn open(
        &self,
        host: &HostSettings,
        address: Option<IpAddr>,
        mode: WireMode,
        tls: &MakeRustlsConnect,
        options: &SessionOptions,
    ) -> Result<Session, tokio_postgres::Error> {
        let config = self.config(host, address, mode, options);
        let (client, connection) = config.connect(tls.clone()).await?;
        let mut session = Session::start(client, connection, tls.clone(), host.describe()).await?;
        let known = || self.keeping_sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if !session.is_direct(address, host.port) && !known().contains(session.peer()) {
            session.is_lent = Box::pin(pooler::lends_processes(&session, &config, tls.clone())).await;
            if session.is_lent {
                return Ok(session);
            }
            known().insert(session.peer().to_owned());
        }
        session.set_up(options).await?;
        Ok(session)
    }

    fn config(
        &self,
        host: &HostSettings,
        address: Option<IpAddr>,
        mode: WireMode,
        options: &SessionOptions,
    ) -> Config {
        let mut config = Config::new();
        // By the name certificates are checked, to the address the connection goes.
        config.host(&host.name).port(host.port).user(&self.user).dbname(&self.database);
        if let Some(address) = address {
            config.hostaddr(address);
        }
        if let Some(password) = &host.password {
            config.password(password.reveal());
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        let fallback = options.application_name.as_ref().or(self.fallback_application_name.as_ref());
        let name = self.application_name.as_ref().or(fallback).map_or(APPLICATION_NAME, String::as_str);
        config.application_name(name);
        config.ssl_mode(mode).channel_binding(self.tls.channel_binding);
        if self.tls.direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        if let Some(limit) = self.connect_timeout {
            config.connect_timeout(limit);
        }
        let keepalives = &self.keepalives;
        config.keepalives(keepalives.enabled).keepalives_idle(keepalives.idle);
        config.keepalives_interval(keepalives.interval).keepalives_retries(keepalives.count);
        if let Some(limit) = keepalives.unacknowledged {
            config.tcp_user_timeout(limit);
        }
        config
    }

    fn in_order(&self) -> Vec<&HostSettings> {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        if self.shuffle_hosts {
            // The standard library's hash keys are random for each state: enough to spread sessions.
            let state = RandomState::new();
            hosts.sort_by_cached_key(|host| state.hash_one(host.describe()));
        }
        hosts
    }
}

/// The addresses to try: the one given, or all of the name's; `None` stands for a socket.
async fn addresses(host: &HostSettings, limit: Option<Duration>) -> Result<Vec<Option<IpAddr>>, Failure> {
    if host.address.is_some() || host.is_socket() {
        return Ok(vec![host.address]);
    }
    let look_up = lookup_host((host.name.as_str(), host.port));
    let found = match limit {
        Some(limit) => timeout(limit, look_up)
            .await
            .map_err(|_| Failure::look_up(host.describe(), "looking up the host timed out".to_owned()))?,
        None => look_up.await,
    };
    let found: Vec<SocketAddr> = found
        .map_err(|error| Failure::look_up(host.describe(), format!("no such host ({error})")))?
        .collect();
    if found.is_empty() {
        return Err(Failure::look_up(host.describe(), "no such host".to_owned()));
    }
    Ok(found.into_iter().map(|address| Some(address.ip())).collect())
}

/// The way to try first, and the one to fall back to.
fn wire_modes(mode: SslMode, is_socket: bool) -> (WireMode, Option<WireMode>) {
    match mode {
        _ if is_socket => (WireMode::Disable, None),
        SslMode::Disable => (WireMode::Disable, None),
        SslMode::Allow => (WireMode::Disable, Some(WireMode::Require)),
        SslMode::Prefer => (WireMode::Prefer, Some(WireMode::Disable)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (WireMode::Require, None),
    }
}

fn way(mode: WireMode) -> &'static str {
    if mode == WireMode::Disable { "without TLS" } else { "with TLS" }
}

/// Can the other way (with TLS, without it) end better?
///
/// The server's rules may ask for it (28000), and a TLS that fails may be left out. A wrong password stays wrong, and
/// isn't sent again in plain after the server refused it encrypted.
fn may_do_otherwise(error: &tokio_postgres::Error) -> bool {
    server_error::is_handshake(error)
        || server_error::tls_error(error).is_some()
        || error.code().is_some_and(|code| code.code() == "28000")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> ConnectSettings {
        let home = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
        ConnectSettings::resolve(Some(url), &home).unwrap().unwrap()
    }

    #[test]
    fn each_sslmode_has_its_ways() {
        use WireMode::{Disable, Prefer, Require};
        assert_eq!(wire_modes(SslMode::Disable, false), (Disable, None));
        assert_eq!(wire_modes(SslMode::Allow, false), (Disable, Some(Require)));
        assert_eq!(wire_modes(SslMode::Prefer, false), (Prefer, Some(Disable)));
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            assert_eq!(wire_modes(mode, false), (Require, None));
            assert_eq!(wire_modes(mode, true), (Disable, None), "no TLS on sockets");
        }
    }

    #[test]
    fn the_users_application_name_wins() {
        let name = |url: &str, asked: Option<&str>| {
            let settings = settings(url);
            let options = SessionOptions { application_name: asked.map(str::to_owned), ..Default::default() };
            let config = settings.config(&settings.hosts[0], None, WireMode::Disable, &options);
            config.get_application_name().unwrap().to_owned()
        };
        assert_eq!(name("host=h", None), "vecload");
        assert_eq!(name("host=h fallback_application_name=f", None), "f");
        assert_eq!(name("host=h fallback_application_name=f", Some("lane")), "lane");
        assert_eq!(name("host=h application_name=mine", Some("lane")), "mine");
    }

    async fn refusal(url: &str) -> crate::error::Error {
        settings(url).connect(&SessionOptions::default()).await.unwrap_err()
    }

    #[tokio::test]
    async fn failures_name_place_database_user_and_reason() {
        // Bound and dropped: a port nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = refusal(&format!("postgres://alice:hunter2@127.0.0.1:{port}/db")).await;
        assert_eq!(error.to_string(), format!("connect to 127.0.0.1:{port}/db as alice: connection refused"));
        assert_eq!(error.exit_code(), 2);
        assert!(error.advice().unwrap().contains("listen_addresses"));
        let error =
            refusal(&format!("postgres://alice@127.0.0.1:{port},no-such-host.invalid/db")).await.to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{port}: connection refused; no-such-host.invalid:5432: ")),
            "{error}"
        );
        let error = refusal("host=/nowhere/sockets user=u").await;
        assert!(error.to_string().starts_with("connect to /nowhere/sockets:5432/u as u: "), "{error}");
        assert!(error.advice().unwrap().contains("socket directory"));
    }

    #[tokio::test]
    async fn connecting_may_be_spawned() {
        let settings = settings("host=/nowhere/sockets user=u");
        let task = tokio::spawn(async move { settings.connect(&SessionOptions::default()).await.is_err() });
        assert!(task.await.unwrap());
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = refusal(&format!("postgres://u@127.0.0.1:{port}/db?connect_timeout=1")).await;
        assert_eq!(error.to_string(), format!("connect to 127.0.0.1:{port}/db as u: timed out after 1 s"));
    }
}
