//! `HOST:PORT`, as a node is named on the command line and in `pg_dist_node`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Where a server listens, as the other nodes reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address, an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Address {
    /// Whether it leads back to whoever uses it.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::refused(format!("node address `{text}`: {why}"))
                .hint("write HOST:PORT, such as worker-3.example.org:5432, 10.0.0.7:5432 or [fd00::7]:5432")
        };
        if text.contains("://") {
            return Err(refuse("a URL"));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| refuse("a bracket is not closed"))?;
                host.parse::<Ipv6Addr>().map_err(|_| refuse("no IPv6 address between the brackets"))?;
                (host, rest.strip_prefix(':').ok_or_else(|| refuse("no port"))?)
            }
            None => match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(refuse("an IPv6 address stands between brackets"));
                }
                Some(parts) => parts,
                None => return Err(refuse("no port")),
            },
        };
        let is_plain = |character: char| character.is_ascii_alphanumeric() || "-._:".contains(character);
        if host.is_empty() || !host.chars().all(is_plain) {
            return Err(refuse("no host name and no IP address before the port"));
        }
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        match port.parse() {
            Ok(port) if is_number => Ok(Self { host: host.to_owned(), port }),
            _ => Err(refuse("the port is a number from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for (text, host, port) in [
            ("worker-1:5432", "worker-1", 5432),
            ("db.example.org:1", "db.example.org", 1),
            ("10.0.0.7:65535", "10.0.0.7", 65535),
            ("[fd00::7]:5432", "fd00::7", 5432),
            ("under_score:5432", "under_score", 5432),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_form() {
        for text in [
            "",
            "worker",
            ":5432",
            "worker:",
            "worker:0",
            "worker:65536",
            "worker:-1",
            "worker:+5",
            "worker:05",
            "fd00::7",
            "::1:5432",
            "[fd00::7]",
            "[fd00::7:5432",
            "[worker]:5432",
            "a b:5432",
            "u@worker:5432",
            "postgresql://worker:5432",
            "worker:5432/db",
            "wörker:5432",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(
                error.to_string().starts_with("node address `") && error.exit_code() == 2,
                "{text}: {error}"
            );
            assert!(error.advice().unwrap().contains("[fd00::7]:5432"), "{text}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        let is_loopback = |text: &str| text.parse::<Address>().unwrap().is_loopback();
        assert!(is_loopback("localhost:1") && is_loopback("127.0.0.2:1") && is_loopback("[::1]:1"));
        assert!(!is_loopback("10.0.0.1:1") && !is_loopback("localhost.example.org:1"));
    }
}
