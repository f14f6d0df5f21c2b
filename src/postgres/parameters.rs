//! The connection parameters libpq knows, which of them vecload takes, and where their values come from.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Where a parameter may come from, and what is done with it.
pub(super) struct Parameter {
    /// As written in a connection string or service file.
    pub(super) name: &'static str,
    /// The environment variable that gives its default.
    env: Option<&'static str>,
    treatment: Treatment,
}

enum Treatment {
    /// Read by [`super::settings`].
    Used,
    /// Means nothing here, and nothing is lost by that.
    Ignored,
    /// Changes what a connection promises, which we can't keep: refused, except for values that ask for nothing.
    Only(&'static [&'static str]),
}

use Treatment::{Ignored, Only, Used};

const fn parameter(name: &'static str, env: &'static str, treatment: Treatment) -> Parameter {
    Parameter { name, env: if env.is_empty() { None } else { Some(env) }, treatment }
}

/// Every parameter of libpq up to PostgreSQL 18.
static KNOWN: &[Parameter] = &[
    parameter("service", "PGSERVICE", Used),
    parameter("servicefile", "PGSERVICEFILE", Used),
    parameter("host", "PGHOST", Used),
    parameter("hostaddr", "PGHOSTADDR", Used),
    parameter("port", "PGPORT", Used),
    parameter("dbname", "PGDATABASE", Used),
    parameter("user", "PGUSER", Used),
    parameter("password", "PGPASSWORD", Used),
    parameter("passfile", "PGPASSFILE", Used),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    parameter("options", "PGOPTIONS", Used),
    parameter("application_name", "PGAPPNAME", Used),
    parameter("fallback_application_name", "", Used),
    parameter("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    parameter("load_balance_hosts", "PGLOADBALANCEHOSTS", Used),
    parameter("keepalives", "", Used),
    parameter("keepalives_idle", "", Used),
    parameter("keepalives_interval", "", Used),
    parameter("keepalives_count", "", Used),
    parameter("tcp_user_timeout", "", Used),
    parameter("sslmode", "PGSSLMODE", Used),
    parameter("sslnegotiation", "PGSSLNEGOTIATION", Used),
    parameter("sslrootcert", "PGSSLROOTCERT", Used),
    parameter("sslcert", "PGSSLCERT", Used),
    parameter("sslkey", "PGSSLKEY", Used),
    parameter("sslcrl", "PGSSLCRL", Used),
    parameter("sslcertmode", "PGSSLCERTMODE", Used),
    parameter("sslsni", "PGSSLSNI", Used),
    parameter("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    parameter("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Used),
    parameter("channel_binding", "PGCHANNELBINDING", Used),
    // Text is UTF-8 on every session of ours, whatever is asked for.
    parameter("client_encoding", "PGCLIENTENCODING", Ignored),
    parameter("sslcompression", "PGSSLCOMPRESSION", Ignored),
    // An encrypted key is refused when it's read; for any other the password means nothing.
    parameter("sslpassword", "", Ignored),
    parameter("krbsrvname", "PGKRBSRVNAME", Ignored),
    parameter("gsslib", "PGGSSLIB", Ignored),
    parameter("gssdelegation", "PGGSSDELEGATION", Ignored),
    parameter("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    parameter("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"])),
    parameter("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"])),
    parameter("replication", "", Only(&["false", "off", "no", "0"])),
    parameter("sslcrldir", "PGSSLCRLDIR", Only(&[])),
    parameter("sslkeylogfile", "", Only(&[])),
    parameter("requirepeer", "PGREQUIREPEER", Only(&[])),
    parameter("require_auth", "PGREQUIREAUTH", Only(&[])),
    parameter("scram_client_key", "", Only(&[])),
    parameter("scram_server_key", "", Only(&[])),
    parameter("oauth_issuer", "", Only(&[])),
    parameter("oauth_client_id", "", Only(&[])),
    parameter("oauth_client_secret", "", Only(&[])),
    parameter("oauth_scope", "", Only(&[])),
];

/// Any of these in the environment names a server; the others only say how to talk to it.
const NAMING_A_SERVER: [&str; 6] = ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGPORT", "PGUSER"];

/// Whether the environment names a server at all.
pub(super) fn environment_names_a_server(env: &dyn Fn(&str) -> Option<String>) -> bool {
    NAMING_A_SERVER.iter().any(|name| env(name).is_some_and(|value| !value.is_empty()))
}

/// The values of one connection, each with the place it came from. Not `Debug`: it holds the password.
#[derive(Default)]
pub(super) struct Parameters {
    values: BTreeMap<&'static str, Value>,
}

struct Value {
    text: String,
    origin: String,
}

impl Parameters {
    /// Sets a value from a connection string; a later one replaces an earlier one.
    pub(super) fn set(&mut self, name: &str, text: String, origin: &str) -> Result<()> {
        let known = find(name, origin)?;
        self.values.insert(known.name, Value { text, origin: origin.to_owned() });
        Ok(())
    }

    /// Sets a value unless a stronger place has set it.
    pub(super) fn set_default(&mut self, name: &str, text: String, origin: &str) -> Result<()> {
        let known = find(name, origin)?;
        self.values.entry(known.name).or_insert_with(|| Value { text, origin: origin.to_owned() });
        Ok(())
    }

    /// Fills what is missing from the environment.
    pub(super) fn set_from_environment(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        for known in KNOWN {
            let Some(variable) = known.env else { continue };
            if let Some(text) = env(variable).filter(|text| !text.is_empty()) {
                let value = Value { text, origin: variable.to_owned() };
                self.values.entry(known.name).or_insert(value);
            }
        }
    }

    /// The value, unless it's missing or empty: to libpq both mean the default.
    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        debug_assert!(KNOWN.iter().any(|known| known.name == name), "unknown parameter {name}");
        self.values.get(name).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The value read as `T`; `expected` says what it should have been.
    pub(super) fn parse<T>(
        &self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        read(text.trim()).map(Some).ok_or_else(|| self.invalid(name, expected))
    }

    /// The refusal of a parameter's value. The value is not shown: an unescaped `/` or `@` in a URL moves
    /// pieces of the password into other parameters.
    pub(super) fn invalid(&self, name: &'static str, expected: &str) -> Error {
        let origin = self.values.get(name).map_or("default", |value| value.origin.as_str());
        let error =
            Error::refused(format!("connection parameter `{name}` (from {origin}) is not {expected}"));
        if origin == super::conninfo::URL { error.hint(super::conninfo::ESCAPE_HINT) } else { error }
    }

    /// Refuses parameters whose promise we can't keep.
    pub(super) fn check_supported(&self) -> Result<()> {
        for known in KNOWN {
            let (Only(allowed), Some(text)) = (&known.treatment, self.get(known.name)) else {
                continue;
            };
            if !allowed.contains(&text) {
                let origin = &self.values[known.name].origin;
                let name = known.name;
                let error =
                    Error::refused(format!("connection parameter `{name}` (from {origin}) is not supported"));
                return Err(error.hint(format!("leave `{name}` out for vecload")));
            }
        }
        Ok(())
    }
}

fn find(name: &str, origin: &str) -> Result<&'static Parameter> {
    // libpq gained and lost none of these names; `keepalives_retries` is what tokio-postgres calls its count.
    let name = if name == "keepalives_retries" { "keepalives_count" } else { name };
    KNOWN.iter().find(|known| known.name == name).ok_or_else(|| {
        let shown: String = name.chars().take(40).collect();
        Error::refused(format!("unknown connection parameter `{shown}` (from {origin})"))
            .hint("the parameters are those of libpq (PostgreSQL manual, chapter \"Parameter Key Words\")")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stronger_places_win_and_the_environment_fills_the_rest() {
        let mut parameters = Parameters::default();
        parameters.set("host", "url".to_owned(), "url").unwrap();
        parameters.set_default("host", "service".to_owned(), "service").unwrap();
        parameters.set_default("user", "service".to_owned(), "service").unwrap();
        parameters.set_from_environment(&|name| {
            matches!(name, "PGHOST" | "PGUSER" | "PGPORT").then(|| "env".into())
        });
        assert_eq!(parameters.get("host"), Some("url"));
        assert_eq!(parameters.get("user"), Some("service"));
        assert_eq!(parameters.get("port"), Some("env"));
        assert_eq!(parameters.get("dbname"), None);
    }

    #[test]
    fn unknown_names_and_unkept_promises_are_refused_by_name() {
        let mut parameters = Parameters::default();
        let error = parameters.set("sslmod", "x".to_owned(), "the connection URL").unwrap_err();
        assert_eq!(error.to_string(), "unknown connection parameter `sslmod` (from the connection URL)");
        parameters
            .set_from_environment(&|name| (name == "PGREQUIREAUTH").then(|| "scram-sha-256".to_owned()));
        let error = parameters.check_supported().unwrap_err();
        assert_eq!(
            error.to_string(),
            "connection parameter `require_auth` (from PGREQUIREAUTH) is not supported"
        );
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        let mut parameters = Parameters::default();
        parameters.set("gssencmode", "prefer".to_owned(), "url").unwrap();
        parameters.set("requirepeer", String::new(), "url").unwrap();
        assert!(parameters.check_supported().is_ok());
        parameters.set("gssencmode", "require".to_owned(), "url").unwrap();
        assert!(parameters.check_supported().is_err());
    }
}
