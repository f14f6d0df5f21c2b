//! The servers a connection may go to, and the password for each.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use super::parameters::Parameters;
use crate::error::Result;

const PORT_DEFAULT: u16 = 5432;

/// Where packagers put the server's socket. libpq has one of these compiled in; we can't know which.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// One of the servers to try.
#[derive(Debug, Clone)]
pub(super) struct HostSettings {
    /// A name, an address, or (with a slash in front) a socket directory.
    pub(super) name: String,
    /// Saves looking the name up.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) password: Option<Secret>,
}

impl HostSettings {
    /// `host`, `hostaddr` and `port` are lists that run side by side; one port may serve all.
    pub(super) fn list(parameters: &Parameters) -> Result<Vec<Self>> {
        let list = |name| parameters.get(name).map(|list| list.split(',').map(str::trim).collect::<Vec<_>>());
        let names = list("host");
        let addresses = list("hostaddr");
        let ports = list("port").unwrap_or_else(|| vec![""]);
        let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
        if addresses.as_ref().is_some_and(|addresses| addresses.len() != count) {
            return Err(
                parameters.invalid("hostaddr", &format!("a list of {count} addresses, one for each host"))
            );
        }
        if ports.len() != 1 && ports.len() != count {
            return Err(parameters.invalid("port", &format!("one port, or {count}, one for each host")));
        }
        (0..count)
            .map(|index| {
                let port = match ports.get(index).or(ports.first()).copied().unwrap_or_default() {
                    "" => PORT_DEFAULT,
                    text => text
                        .parse::<u16>()
                        .ok()
                        .filter(|&port| port != 0)
                        .ok_or_else(|| parameters.invalid("port", "a number from 1 to 65535"))?,
                };
                let name = names.as_ref().map_or("", |names| names[index]);
                let address = match addresses.as_ref().map_or("", |addresses| addresses[index]) {
                    "" => None,
                    text => Some(
                        text.parse::<IpAddr>()
                            .map_err(|_| parameters.invalid("hostaddr", "an IP address"))?,
                    ),
                };
                if name.starts_with('@') {
                    return Err(parameters
                        .invalid("host", "a host or directory (abstract sockets are not supported)"));
                }
                let name = match (name, address) {
                    ("", Some(address)) => address.to_string(),
                    ("", None) => default_host(port),
                    (name, _) => name.to_owned(),
                };
                Ok(Self { name, address, port, password: None })
            })
            .collect()
    }

    /// A socket directory rather than a host?
    pub(super) fn is_socket(&self) -> bool {
        self.address.is_none() && self.name.starts_with('/')
    }

    pub(super) fn describe(&self) -> String {
        if self.name.contains(':') {
            format!("[{}]:{}", self.name, self.port)
        } else {
            format!("{}:{}", self.name, self.port)
        }
    }

    pub(super) fn passfile_name(&self) -> &str {
        if SOCKET_DIRECTORIES.contains(&self.name.as_str()) { "localhost" } else { &self.name }
    }
}

/// Text that never shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The local server: its socket if there is one in the usual places, else by TCP.
fn default_host(port: u16) -> String {
    let socket = format!(".s.PGSQL.{port}");
    let found = SOCKET_DIRECTORIES
        .iter()
        .find(|directory| Path::new(directory).join(&socket).try_exists().unwrap_or(false));
    found.map_or("localhost", |directory| directory).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<HostSettings>> {
        let mut parameters = Parameters::default();
        super::super::conninfo::parse(text, &mut parameters)?;
        HostSettings::list(&parameters)
    }

    fn described(text: &str) -> String {
        list(text).unwrap().iter().map(HostSettings::describe).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn hosts_addresses_and_ports_run_side_by_side() {
        assert_eq!(described("postgres://a:1,b,[::1]:3/d"), "a:1 b:5432 [::1]:3");
        assert_eq!(described("host=a,b port=7"), "a:7 b:7");
        assert_eq!(described("hostaddr=10.0.0.1"), "10.0.0.1:5432");
        let both = list("host=a,b hostaddr=10.0.0.1,").unwrap();
        assert_eq!(both[0].address, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((both[0].name.as_str(), both[1].address), ("a", None));
    }

    #[test]
    fn sockets_are_known_by_their_slash() {
        assert!(list("host=/run/x").unwrap()[0].is_socket());
        assert!(!list("host=/run/x hostaddr=::1").unwrap()[0].is_socket());
        assert!(!list("host=x").unwrap()[0].is_socket());
        assert_eq!(list("host=/tmp").unwrap()[0].passfile_name(), "localhost");
        assert_eq!(list("host=/srv/pg").unwrap()[0].passfile_name(), "/srv/pg");
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for text in [
            "host=a,b hostaddr=::1",
            "host=a,b,c port=1,2",
            "host=a port=0",
            "host=a port=x",
            "hostaddr=a",
            "host=@x",
        ] {
            assert!(list(text).is_err(), "{text}");
        }
        let error = list("host=a port=70000").unwrap_err().to_string();
        assert_eq!(
            error,
            "connection parameter `port` (from the connection string) is not a number from 1 to 65535"
        );
    }

    #[test]
    fn secrets_never_show() {
        assert_eq!(format!("{:?}", Secret::new("pw".to_owned())), "***");
    }
}
