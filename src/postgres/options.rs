//! The plain choices among the connection parameters: times, keepalives, which server of a set.

use std::time::Duration;

use super::parameters::Parameters;
use crate::error::Result;

/// How a connection whose other end is gone is noticed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keepalives {
    pub(super) enabled: bool,
    pub(super) idle: Duration,
    pub(super) interval: Duration,
    pub(super) count: u32,
    pub(super) unacknowledged: Option<Duration>,
}

impl Keepalives {
    pub(super) fn from_parameters(parameters: &Parameters) -> Result<Self> {
        let mut keepalives = Self::default();
        if let Some(enabled) = parameters.parse("keepalives", "0 or 1", |text| text.parse::<i64>().ok())? {
            keepalives.enabled = enabled != 0;
        }
        // Zero asks for the system's default, which is hours: ours is kept.
        if let Some(Some(idle)) = seconds(parameters, "keepalives_idle")? {
            keepalives.idle = idle;
        }
        if let Some(Some(interval)) = seconds(parameters, "keepalives_interval")? {
            keepalives.interval = interval;
        }
        let count = parameters.parse("keepalives_count", "a count", |text| text.parse::<u32>().ok())?;
        if let Some(count) = count.filter(|&count| count > 0) {
            keepalives.count = count;
        }
        let millis = parameters
            .parse("tcp_user_timeout", "a number of milliseconds", |text| text.parse::<u64>().ok())?;
        if let Some(millis) = millis {
            keepalives.unacknowledged =
                Some(Duration::from_millis(millis)).filter(|timeout| !timeout.is_zero());
        }
        Ok(keepalives)
    }
}

impl Default for Keepalives {
    fn default() -> Self {
        Self {
            enabled: true,
            // 20 s + 5 * 5 s: a server that vanished while we wait for it is noticed within a minute.
            idle: Duration::from_secs(20),
            interval: Duration::from_secs(5),
            count: 5,
            // Keepalives rest while sent data is unacknowledged; without this limit that takes a quarter of an hour.
            // The limit also ends a connection whose server is alive and reads nothing, so it has to outlast the
            // stall of a slow disk.
            unacknowledged: Some(Duration::from_secs(120)),
        }
    }
}

/// Which servers of a replicated set will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl SessionAttributes {
    pub(super) fn from_parameters(parameters: &Parameters) -> Result<Self> {
        let expected = "any, read-write, read-only, primary, standby or prefer-standby";
        let read = |text: &str| match text {
            "any" => Some(Self::Any),
            "read-write" => Some(Self::ReadWrite),
            "read-only" => Some(Self::ReadOnly),
            "primary" => Some(Self::Primary),
            "standby" => Some(Self::Standby),
            "prefer-standby" => Some(Self::PreferStandby),
            _ => None,
        };
        Ok(parameters.parse("target_session_attrs", expected, read)?.unwrap_or(Self::Any))
    }
}

pub(super) fn shuffle_hosts(parameters: &Parameters) -> Result<bool> {
    let read = |text: &str| match text {
        "disable" => Some(false),
        "random" => Some(true),
        _ => None,
    };
    Ok(parameters.parse("load_balance_hosts", "disable or random", read)?.unwrap_or(false))
}

/// Whole seconds; zero and less mean no limit (`Some(None)`).
pub(super) fn seconds(parameters: &Parameters, name: &'static str) -> Result<Option<Option<Duration>>> {
    parameters.parse(name, "a whole number of seconds", |text| {
        let seconds = text.parse::<i32>().ok()?;
        Some(u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(Duration::from_secs))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        let mut parameters = Parameters::default();
        super::super::conninfo::parse(text, &mut parameters).unwrap();
        parameters
    }

    fn keepalives(text: &str) -> Keepalives {
        Keepalives::from_parameters(&parameters(text)).unwrap()
    }

    #[test]
    fn a_vanished_server_is_noticed_within_a_minute() {
        let Keepalives { idle, interval, count, enabled, .. } = keepalives("");
        assert!(enabled && idle + interval * count < Duration::from_secs(60));
    }

    #[test]
    fn numbers_are_read_in_their_units() {
        let read =
            keepalives("keepalives_idle=7 keepalives_interval=8 keepalives_count=9 tcp_user_timeout=1500");
        assert_eq!((read.idle.as_secs(), read.interval.as_secs(), read.count), (7, 8, 9));
        assert_eq!(read.unacknowledged, Some(Duration::from_millis(1500)));
        let none = keepalives("keepalives=0 tcp_user_timeout=0");
        assert_eq!((none.enabled, none.unacknowledged), (false, None));
        let timeout = |text: &str| seconds(&parameters(text), "connect_timeout");
        assert_eq!(timeout("").unwrap(), None);
        assert_eq!(timeout("connect_timeout=0").unwrap(), Some(None));
        assert_eq!(timeout("connect_timeout=3").unwrap(), Some(Some(Duration::from_secs(3))));
        assert!(timeout("connect_timeout=soon").is_err());
    }

    #[test]
    fn session_attributes_are_all_known() {
        for (text, attributes) in [
            ("any", SessionAttributes::Any),
            ("read-write", SessionAttributes::ReadWrite),
            ("read-only", SessionAttributes::ReadOnly),
            ("primary", SessionAttributes::Primary),
            ("standby", SessionAttributes::Standby),
            ("prefer-standby", SessionAttributes::PreferStandby),
        ] {
            let parameters = parameters(&format!("target_session_attrs={text}"));
            assert_eq!(SessionAttributes::from_parameters(&parameters).unwrap(), attributes);
        }
        let error = SessionAttributes::from_parameters(&parameters("target_session_attrs=x")).unwrap_err();
        assert!(error.to_string().contains("is not any, read-write"), "{error}");
        assert!(shuffle_hosts(&parameters("load_balance_hosts=random")).unwrap());
        assert!(shuffle_hosts(&parameters("load_balance_hosts=maybe")).is_err());
    }
}
