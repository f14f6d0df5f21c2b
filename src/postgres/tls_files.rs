//! The files behind TLS: root certificates, the client's certificate and key.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Context, Error, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    System,
    File(UsualFile),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientFiles {
    pub(super) certificate: UsualFile,
    pub(super) key: UsualFile,
}

/// A file that was named and must be there, or one in `~/.postgresql` that may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsualFile {
    pub(super) path: Option<PathBuf>,
    pub(super) named: bool,
}

impl UsualFile {
    pub(super) fn new(named: Option<&str>, home: Option<&Path>, usual: &str) -> Self {
        match named {
            Some(path) => Self { path: Some(PathBuf::from(path)), named: true },
            None => Self { path: home.map(|home| home.join(".postgresql").join(usual)), named: false },
        }
    }

    /// The path, if the file has to be read.
    pub(super) fn present(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| self.named || path.is_file())
    }
}

impl Roots {
    pub(super) fn read(&self) -> Result<Vec<CertificateDer<'static>>> {
        match self {
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                if found.certs.is_empty() {
                    let error = Error::refused("sslrootcert=system: the system has no root certificates");
                    let error =
                        error.hint("install the ca-certificates package, or name the file by sslrootcert");
                    return Err(match found.errors.into_iter().next() {
                        Some(cause) => error.because(cause),
                        None => error,
                    });
                }
                Ok(found.certs)
            }
            Self::File(file) => {
                let path = file.present().ok_or_else(|| {
                    let usual = file.path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default();
                    Error::refused(format!("sslmode verifies the server, but there is no root certificate file{usual}"))
                        .hint("name the CA's certificate by sslrootcert, or take the system's with sslrootcert=system")
                })?;
                read_pem(path, "root certificate")
            }
        }
    }
}

impl ClientFiles {
    /// Certificate chain and key; none if there's no certificate.
    pub(super) fn read(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
        let Some(certificate) = self.certificate.present() else {
            return Ok(None);
        };
        let chain = read_pem(certificate, "client certificate")?;
        let key = self.key.present().ok_or_else(|| {
            Error::refused(format!("client certificate {} has no key beside it", certificate.display())).hint(
                "name the key by sslkey or PGSSLKEY, or leave the certificate out with sslcertmode=disable",
            )
        })?;
        let name = || format!("read client key {}", key.display());
        let metadata = fs::metadata(key).or_refused(name)?;
        // As libpq: others may not touch it, except that root's file may be readable by a group.
        let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & forbidden != 0 {
            return Err(Error::refused(format!("{}: others have access to it (mode {mode:03o})", name()))
                .hint(format!("chmod 600 {}", key.display())));
        }
        let text = fs::read(key).or_refused(name)?;
        if text.windows(9).any(|window| window == b"ENCRYPTED") {
            return Err(Error::refused(format!("{}: it is encrypted, which is not supported", name()))
                .hint("store it without passphrase: openssl pkey -in KEY -out NEWKEY, chmod 600 NEWKEY"));
        }
        let key = PrivateKeyDer::from_pem_slice(&text).or_refused(name)?;
        Ok(Some((chain, key)))
    }
}

pub(super) fn read_pem<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>> {
    let name = || format!("read {what} {}", path.display());
    let text = fs::read(path).or_refused(name)?;
    let items = T::pem_slice_iter(&text).collect::<Result<Vec<T>, _>>().or_refused(name)?;
    if items.is_empty() {
        return Err(Error::refused(format!("{}: it holds none in PEM form", name())));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_must_be_there_and_a_usual_one_may() {
        let home = tempfile::tempdir().unwrap();
        assert!(UsualFile::new(Some("/nowhere/x"), Some(home.path()), "x").present().is_some());
        let usual = UsualFile::new(None, Some(home.path()), "x");
        assert!(usual.present().is_none());
        fs::create_dir(home.path().join(".postgresql")).unwrap();
        fs::write(home.path().join(".postgresql/x"), "").unwrap();
        assert!(usual.present().is_some());
        assert!(UsualFile::new(None, None, "x").present().is_none());
    }

    #[test]
    fn client_files_are_refused_with_the_reason() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).display().to_string();
        let refusal = |certificate: &str, key: Option<&str>| {
            let files = ClientFiles {
                certificate: UsualFile::new(Some(certificate), None, ""),
                key: UsualFile::new(key, None, ""),
            };
            files.read().unwrap_err().to_string()
        };
        fs::write(path("text"), "no pem").unwrap();
        fs::write(path("cert"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        fs::write(path("key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        assert!(refusal(&path("none"), None).starts_with("read client certificate "));
        assert!(refusal(&path("text"), None).ends_with("it holds none in PEM form"));
        assert!(refusal(&path("cert"), None).ends_with("has no key beside it"));
        let chmod = |mode| fs::set_permissions(path("key"), fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o604);
        assert!(refusal(&path("cert"), Some(&path("key"))).ends_with("others have access to it (mode 604)"));
        chmod(0o600);
        assert!(
            refusal(&path("cert"), Some(&path("key"))).ends_with("it is encrypted, which is not supported")
        );
    }
}
