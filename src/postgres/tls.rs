//! TLS by rustls, with the meaning libpq gives each `sslmode`.
//!
//! | sslmode | encrypted | certificate |
//! |---|---|---|
//! | `disable` | no | |
//! | `allow` | if the server refuses a plain session | not checked |
//! | `prefer` (default) | if the server can | not checked |
//! | `require` | yes | chain, if a root certificate file is there |
//! | `verify-ca` | yes | chain |
//! | `verify-full` | yes | chain and host name |

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio_postgres::config::ChannelBinding;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::parameters::Parameters;
use super::tls_files::{ClientFiles, Roots, UsualFile, read_pem};
use super::verifier::{AnyCertificate, TrustedCertificate};
use crate::error::{Context, Result};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How sessions are encrypted, and whom they trust.
#[derive(Debug, Clone)]
pub(super) struct TlsSettings {
    pub(super) mode: SslMode,
    /// Start TLS at once instead of asking the server first (PostgreSQL 17).
    pub(super) direct: bool,
    pub(super) channel_binding: ChannelBinding,
    roots: Roots,
    client: Option<ClientFiles>,
    revoked: UsualFile,
    server_name_sent: bool,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// Files are read once, at the first session, for all clones.
    built: Built,
}

#[derive(Clone, Default)]
struct Built(Arc<OnceLock<MakeRustlsConnect>>);

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "built" } else { "not built" })
    }
}

impl TlsSettings {
    pub(super) fn from_parameters(parameters: &Parameters, home: Option<&Path>) -> Result<Self> {
        let roots = match parameters.get("sslrootcert") {
            Some("system") => Roots::System,
            named => Roots::File(UsualFile::new(named, home, "root.crt")),
        };
        let mode = mode(parameters, &roots)?;
        let choice = |name, yes: &str, no: &str| {
            let read = |text: &str| {
                [(yes, true), (no, false)].iter().find(|(word, _)| *word == text).map(|pair| pair.1)
            };
            parameters.parse(name, &format!("{yes} or {no}"), read)
        };
        let direct = choice("sslnegotiation", "direct", "postgres")?.unwrap_or(false);
        if direct && mode < SslMode::Require {
            return Err(parameters
                .invalid("sslnegotiation", "possible with this sslmode: `direct` takes `require` or more"));
        }
        let channel_binding =
            parameters.parse("channel_binding", "disable, prefer or require", |text| match text {
                "disable" => Some(ChannelBinding::Disable),
                "prefer" => Some(ChannelBinding::Prefer),
                "require" => Some(ChannelBinding::Require),
                _ => None,
            })?;
        // `require` is about the server asking for the certificate, which rustls doesn't report.
        let client = choice("sslcertmode", "allow", "disable")?.unwrap_or(true);
        Ok(Self {
            mode,
            direct,
            channel_binding: channel_binding.unwrap_or(ChannelBinding::Prefer),
            roots,
            client: client.then(|| ClientFiles {
                certificate: UsualFile::new(parameters.get("sslcert"), home, "postgresql.crt"),
                key: UsualFile::new(parameters.get("sslkey"), home, "postgresql.key"),
            }),
            revoked: UsualFile::new(parameters.get("sslcrl"), home, "root.crl"),
            server_name_sent: choice("sslsni", "1", "0")?.unwrap_or(true),
            versions: versions(parameters)?,
            built: Built::default(),
        })
    }

    /// The connector for every session of these settings. Where none goes over a network, no file is needed.
    pub(super) fn connector(&self, over_network: bool) -> Result<MakeRustlsConnect> {
        if !over_network {
            return Self { mode: SslMode::Disable, ..self.clone() }.config().map(MakeRustlsConnect::new);
        }
        if let Some(built) = self.built.0.get() {
            return Ok(built.clone());
        }
        let built = MakeRustlsConnect::new(self.config()?);
        Ok(self.built.0.get_or_init(|| built).clone())
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions)
            .or_refused(|| "prepare TLS".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(&provider)?);
        let mut config = match self.client.as_ref().filter(|_| self.mode != SslMode::Disable) {
            Some(files) => match files.read()? {
                Some((chain, key)) => builder.with_client_auth_cert(chain, key).or_refused(|| {
                    let path = files.certificate.path.clone().unwrap_or_default();
                    format!("use client certificate {} with its key", path.display())
                })?,
                None => builder.with_no_client_auth(),
            },
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.server_name_sent;
        if self.direct {
            // The server takes a direct start only with its protocol's name.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(config)
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
        let verify = match self.mode {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer => false,
            // As libpq: with a root certificate at hand, `require` is `verify-ca`.
            SslMode::Require => match &self.roots {
                Roots::System => true,
                Roots::File(file) => file.present().is_some(),
            },
            SslMode::VerifyCa | SslMode::VerifyFull => true,
        };
        if !verify {
            return Ok(Arc::new(AnyCertificate::new(provider)));
        }
        let roots = self.roots.read()?;
        let revoked = match self.revoked.present() {
            Some(path) => {
                read_pem::<CertificateRevocationListDer<'static>>(path, "certificate revocation list")?
            }
            None => Vec::new(),
        };
        let check_name = self.mode == SslMode::VerifyFull;
        TrustedCertificate::new(roots, revoked, check_name, provider)
            .map(|verifier| Arc::new(verifier) as Arc<dyn ServerCertVerifier>)
            .or_refused(|| "prepare the check of the server's certificate".to_owned())
    }
}

fn mode(parameters: &Parameters, roots: &Roots) -> Result<SslMode> {
    let expected = "disable, allow, prefer, require, verify-ca or verify-full";
    let mode = parameters.parse("sslmode", expected, |text| match text {
        "disable" => Some(SslMode::Disable),
        "allow" => Some(SslMode::Allow),
        "prefer" => Some(SslMode::Prefer),
        "require" => Some(SslMode::Require),
        "verify-ca" => Some(SslMode::VerifyCa),
        "verify-full" => Some(SslMode::VerifyFull),
        _ => None,
    })?;
    match (mode, roots) {
        // Any name can get a certificate from some public authority, so only the name makes it mean something.
        (None | Some(SslMode::VerifyFull), Roots::System) => Ok(SslMode::VerifyFull),
        (Some(_), Roots::System) => {
            Err(parameters.invalid("sslmode", "verify-full, which sslrootcert=system takes"))
        }
        (mode, Roots::File(_)) => Ok(mode.unwrap_or(SslMode::Prefer)),
    }
}

/// The TLS versions between the two given; rustls has 1.2 and 1.3.
fn versions(parameters: &Parameters) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let number = |text: &str| match text {
        "TLSv1" => Some(0),
        "TLSv1.1" => Some(1),
        "TLSv1.2" => Some(2),
        "TLSv1.3" => Some(3),
        _ => None,
    };
    let expected = "TLSv1.2 or TLSv1.3";
    let low = parameters.parse("ssl_min_protocol_version", expected, number)?.unwrap_or(2);
    let high = parameters.parse("ssl_max_protocol_version", expected, number)?.unwrap_or(3);
    let versions: Vec<_> = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (low..=high).contains(version))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err(parameters.invalid("ssl_max_protocol_version", "at least TLSv1.2 and the lowest version"));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<TlsSettings> {
        let mut parameters = Parameters::default();
        super::super::conninfo::parse(text, &mut parameters)?;
        TlsSettings::from_parameters(&parameters, Some(Path::new("/nowhere")))
    }

    #[test]
    fn every_sslmode_is_known_and_prefer_is_the_default() {
        for (text, mode) in [
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ] {
            assert_eq!(settings(&format!("sslmode={text}")).unwrap().mode, mode);
        }
        assert_eq!(settings("host=a").unwrap().mode, SslMode::Prefer);
        assert_eq!(settings("sslrootcert=system").unwrap().mode, SslMode::VerifyFull);
        assert!(settings("sslmode=on").is_err());
        assert!(settings("sslmode=require sslrootcert=system").is_err());
    }

    #[test]
    fn only_verifying_modes_need_a_root_certificate() {
        for mode in ["disable", "allow", "prefer", "require"] {
            assert!(settings(&format!("sslmode={mode}")).unwrap().connector(true).is_ok(), "{mode}");
        }
        for mode in ["verify-ca", "verify-full"] {
            let error = settings(&format!("sslmode={mode}")).unwrap().connector(true).err().unwrap();
            assert!(
                error.to_string().ends_with("no root certificate file /nowhere/.postgresql/root.crt"),
                "{error}"
            );
        }
        assert!(settings("sslmode=verify-full").unwrap().connector(false).is_ok(), "sockets need no root");
        let error =
            settings("sslmode=require sslrootcert=/nowhere/ca.crt").unwrap().connector(true).err().unwrap();
        assert!(error.to_string().starts_with("read root certificate /nowhere/ca.crt: "), "{error}");
    }

    #[test]
    fn versions_and_negotiation_are_checked() {
        assert_eq!(settings("ssl_min_protocol_version=TLSv1.3").unwrap().versions.len(), 1);
        assert_eq!(settings("ssl_min_protocol_version=TLSv1").unwrap().versions.len(), 2);
        assert!(settings("ssl_max_protocol_version=TLSv1.1").is_err());
        assert!(settings("sslnegotiation=direct").is_err());
        assert!(settings("sslnegotiation=direct sslmode=require").unwrap().direct);
    }
}
