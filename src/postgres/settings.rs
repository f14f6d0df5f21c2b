//! What to connect to and how, resolved from a URL, the service file, the environment and the password file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::conninfo;
use super::hosts::{HostSettings, Secret};
use super::options::{Keepalives, SessionAttributes, seconds, shuffle_hosts};
use super::parameters::{Parameters, environment_names_a_server};
use super::passfile;
use super::service;
use super::tls::TlsSettings;
use crate::error::{Error, Result};

/// Longer than any healthy handshake takes, short enough to try the next host while the user still watches.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Everything needed to open sessions on one database, checked and with all defaults filled in.
///
/// Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct ConnectSettings {
    pub(super) hosts: Vec<HostSettings>,
    pub(super) database: String,
    pub(super) user: String,
    password: Option<Secret>,
    passfile: Option<PathBuf>,
    pub(super) application_name: Option<String>,
    pub(super) fallback_application_name: Option<String>,
    pub(super) options: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) keepalives: Keepalives,
    pub(super) session_attributes: SessionAttributes,
    pub(super) shuffle_hosts: bool,
    pub(super) tls: TlsSettings,
    /// Places in front of servers that were seen to keep sessions.
    pub(super) keeping_sessions: Arc<Mutex<BTreeSet<String>>>,
}

impl ConnectSettings {
    /// Resolves `url` (a URL or a libpq `key=value` list) with the service file, the environment and the
    /// password file, each weaker than the one before.
    ///
    /// `None` when neither `url` nor the environment names a server.
    pub fn resolve(url: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let url = url.filter(|url| !url.trim().is_empty());
        if url.is_none() && !environment_names_a_server(env) {
            return Ok(None);
        }
        let home = home(env);
        let mut parameters = Parameters::default();
        if let Some(url) = url {
            conninfo::parse(url, &mut parameters)?;
        }
        let service = parameters.get("service").map(str::to_owned).or_else(|| env("PGSERVICE"));
        if let Some(service) = service.filter(|service| !service.is_empty()) {
            service::apply(&service, home.as_deref(), env, &mut parameters)?;
        }
        parameters.set_from_environment(env);
        parameters.check_supported()?;
        Self::from_parameters(&parameters, home.as_deref()).map(Some)
    }

    fn from_parameters(parameters: &Parameters, home: Option<&Path>) -> Result<Self> {
        let owned = |name| parameters.get(name).map(str::to_owned);
        let user = match owned("user") {
            Some(user) => user,
            None => system_user().ok_or_else(|| {
                Error::refused("no database user given, and the system knows no name for this one")
                    .hint("name the user in the URL or by PGUSER")
            })?,
        };
        let mut settings = Self {
            hosts: HostSettings::list(parameters)?,
            database: owned("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: owned("password").map(Secret::new),
            passfile: owned("passfile").map(PathBuf::from).or_else(|| home.map(|home| home.join(".pgpass"))),
            application_name: owned("application_name"),
            fallback_application_name: owned("fallback_application_name"),
            options: owned("options"),
            connect_timeout: seconds(parameters, "connect_timeout")?.unwrap_or(Some(CONNECT_TIMEOUT_DEFAULT)),
            keepalives: Keepalives::from_parameters(parameters)?,
            session_attributes: SessionAttributes::from_parameters(parameters)?,
            shuffle_hosts: shuffle_hosts(parameters)?,
            tls: TlsSettings::from_parameters(parameters, home)?,
            keeping_sessions: Arc::default(),
        };
        settings.find_passwords();
        Ok(settings)
    }

    /// The same connection to another server: how the nodes of a cluster are reached.
    ///
    /// The password file is asked again, for that server.
    pub fn for_node(&self, host: &str, port: u16) -> Self {
        let host = HostSettings { name: host.to_owned(), address: None, port, password: None };
        let mut settings =
            Self { hosts: vec![host], session_attributes: SessionAttributes::Any, ..self.clone() };
        settings.find_passwords();
        settings
    }

    /// The same connection to another database of the same server.
    pub fn with_database(&self, database: &str) -> Self {
        let mut settings = Self { database: database.to_owned(), ..self.clone() };
        settings.find_passwords();
        settings
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The database user's name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where this leads, for messages: `db.example.org:5432/mydb as alice`.
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(HostSettings::describe).collect();
        format!("{}/{} as {}", hosts.join(","), self.database, self.user)
    }

    fn find_passwords(&mut self) {
        for host in &mut self.hosts {
            host.password = self.password.clone().or_else(|| {
                let wanted = passfile::Wanted {
                    host: host.passfile_name(),
                    port: host.port,
                    database: &self.database,
                    user: &self.user,
                };
                passfile::look_up(self.passfile.as_deref()?, &wanted).map(Secret::new)
            });
        }
    }
}

fn home(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let named = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    named.or_else(|| User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir))
}

fn system_user() -> Option<String> {
    User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    struct World {
        home: TempDir,
        env: HashMap<&'static str, String>,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let env = HashMap::from([("HOME", home.path().display().to_string())]);
            Self { home, env }
        }

        fn env(mut self, name: &'static str, value: &str) -> Self {
            self.env.insert(name, value.to_owned());
            self
        }

        fn file(self, name: &str, text: &str) -> Self {
            let path = self.home.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            self
        }

        fn resolve(&self, url: Option<&str>) -> Result<Option<ConnectSettings>> {
            ConnectSettings::resolve(url, &|name| self.env.get(name).cloned())
        }

        fn settings(&self, url: &str) -> ConnectSettings {
            self.resolve(Some(url).filter(|url| !url.is_empty())).unwrap().unwrap()
        }

        fn password(&self, url: &str) -> Option<String> {
            self.settings(url).hosts[0].password.as_ref().map(|password| password.reveal().to_owned())
        }
    }

    #[test]
    fn without_a_server_named_there_is_nothing_to_connect_to() {
        let world = World::new().env("PGPASSWORD", "x").env("PGSSLMODE", "require").env("PGHOST", "");
        assert!(world.resolve(None).unwrap().is_none());
        assert!(world.resolve(Some("  ")).unwrap().is_none());
        for name in ["PGHOST", "PGHOSTADDR", "PGDATABASE", "PGUSER", "PGPORT"] {
            let value = if name == "PGHOSTADDR" { "::1" } else { "5433" };
            assert!(World::new().env(name, value).resolve(None).unwrap().is_some(), "{name}");
        }
        assert!(World::new().env("PGSERVICE", "s").resolve(None).is_err());
    }

    #[test]
    fn url_beats_service_beats_environment_beats_default() {
        let world = World::new()
            .file(".pg_service.conf", "[s]\nhost=service\nport=1\ndbname=service\n")
            .env("PGSERVICE", "s")
            .env("PGHOST", "env")
            .env("PGPORT", "2")
            .env("PGDATABASE", "env")
            .env("PGUSER", "env");
        assert_eq!(world.settings("host=url").describe(), "url:1/service as env");
        assert_eq!(world.settings("").describe(), "service:1/service as env");
        assert_eq!(World::new().settings("postgres://bob@h").describe(), "h:5432/bob as bob");
        let named = World::new().file(".pg_service.conf", "[t]\nuser=t\n").settings("postgres://h?service=t");
        assert_eq!(named.describe(), "h:5432/t as t");
    }

    #[test]
    fn each_host_has_its_own_line_in_the_password_file() {
        let world = World::new().file(".pgpass", "a:1:*:u:for-a\nb:*:db:u:for-b\nlocalhost:*:*:u:local\n");
        let settings = world.settings("postgres://u@a:1,b:2,c:3/db");
        let passwords: Vec<_> =
            settings.hosts.iter().map(|host| host.password.as_ref().map(Secret::reveal)).collect();
        assert_eq!(passwords, [Some("for-a"), Some("for-b"), None]);
        let password = |settings: ConnectSettings| settings.hosts[0].password.clone();
        assert_eq!(password(settings.for_node("b", 9)), Some(Secret::new("for-b".to_owned())));
        assert_eq!(password(settings.for_node("b", 9).with_database("other")), None);
        assert_eq!(world.password("host=/var/run/postgresql user=u").as_deref(), Some("local"));
        let elsewhere = World::new().file("mine", "*:*:*:*:mine\n");
        let path = elsewhere.home.path().join("mine").display().to_string();
        assert_eq!(elsewhere.password(&format!("host=a passfile={path}")).as_deref(), Some("mine"));
        assert_eq!(elsewhere.env("PGPASSFILE", &path).password("host=a").as_deref(), Some("mine"));
    }

    #[test]
    fn a_given_password_beats_the_file() {
        let world = World::new().file(".pgpass", "*:*:*:*:file\n").env("PGPASSWORD", "env");
        assert_eq!(world.password("postgres://u:url@h").as_deref(), Some("url"));
        assert_eq!(world.password("postgres://u@h").as_deref(), Some("env"));
    }

    #[test]
    fn nothing_printed_holds_the_password() {
        let settings = World::new().settings("postgres://alice:hunter2@h/db?sslpassword=hunter2");
        let shown = format!("{settings:?} {settings:#?} {}", settings.describe());
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }
}
