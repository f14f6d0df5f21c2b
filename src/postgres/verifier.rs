//! The two checks of a server's certificate that rustls doesn't have ready-made.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

/// Accepts any certificate: `sslmode` `allow`, `prefer` and `require`, which promise encryption against listeners and
/// nothing against an impostor.
///
/// The handshake's signature is checked all the same: the server has the key of the certificate it shows, so channel
/// binding (SCRAM-SHA-256-PLUS) means what it should.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub(super) fn new(provider: &Arc<CryptoProvider>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match verify_tls13_signature(message, cert, dss, &self.algorithms) {
            // Citus makes itself such a certificate; webpki reads version 3 alone.
            Err(Error::InvalidCertificate(CertificateError::Other(other))) if is_of_version_1(&other) => {
                let key = public_key(cert).ok_or(CertificateError::BadEncoding)?;
                verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
            }
            verdict => verdict,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts certificates that lead to a trusted root: `sslmode` `verify-ca`, and with the name `verify-full`.
///
/// A self-signed server certificate that is itself in the root file is accepted too. The PostgreSQL manual's recipe
/// makes such certificates, libpq takes them, and rustls by itself refuses them for being their own authority.
#[derive(Debug)]
pub(super) struct TrustedCertificate {
    chain: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl TrustedCertificate {
    pub(super) fn new(
        roots: Vec<CertificateDer<'static>>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        check_name: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut store = RootCertStore::empty();
        // Some systems ship roots that webpki can't read; one that can be read is enough to start.
        let (_, unreadable) = store.add_parsable_certificates(roots.iter().cloned());
        if unreadable > 0 {
            tracing::debug!("{unreadable} root certificates can't be read and are not trusted");
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .with_crls(revoked)
            .build()?;
        Ok(Self { chain, roots, check_name })
    }
}

impl ServerCertVerifier for TrustedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(error) = verdict else {
            return Ok(ServerCertVerified::assertion());
        };
        match &error {
            // The name is checked last, after chain, dates and revocation: only it is wrong.
            Error::InvalidCertificate(CertificateError::NotValidForName)
            | Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
                if !self.check_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // The dates were checked before this.
            Error::InvalidCertificate(CertificateError::Other(other))
                if is_own_authority(other) && self.roots.iter().any(|root| root == end_entity) =>
            {
                if self.check_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The key that a certificate is about, whatever the certificate's version.
fn public_key(cert: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let cert = Certificate::from_der(cert).ok()?;
    Some(SubjectPublicKeyInfoDer::from(cert.tbs_certificate.subject_public_key_info.to_der().ok()?))
}

/// webpki's "unsupported version", known by name only: its crate is not ours to depend on.
pub(super) fn is_of_version_1(error: &rustls::OtherError) -> bool {
    format!("{error:?}").contains("UnsupportedCertVersion")
}

/// webpki's "a CA's certificate was used as a server's", known by name only as well.
fn is_own_authority(error: &rustls::OtherError) -> bool {
    format!("{error:?}").contains("CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::crypto::ring;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

    use super::*;

    /// Of version 1, as Citus makes it: `openssl x509 -req -signkey key.pem` without extensions.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBLTCB0wIUc7tTNpWYG2Pi+hcHA1BfHyAOGPEwCgYIKoZIzj0EAwIwGTEXMBUG
A1UEAwwOY2l0dXMtYXV0by1zc2wwHhcNMjYxMTIzMTk1NDM1WhcNMjYxMTI0MTk1
NDM1WjAZMRcwFQYDVQQDDA5jaXR1cy1hdXRvLXNzbDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABF5i4/4s5CTonocIjBzeu5GtlXDju1tluwzsISDiDEaiAFt/HCX6
SnEgoICIEX05J7tXa4OvTwlmiGMSA/QgRaUwCgYIKoZIzj0EAwIDSQAwRgIhAJx+
XXRfp+dhtDAxZ/QUBg5fqJqxsK35lYD0sWWErjK9AiEAxgTln8+bi72muw3xUVXv
jku3h5J5wdciMpH4ouHsiFE=
-----END CERTIFICATE-----
";
    /// Its key.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgl9mwxwB+v56m/+2E
YJGHVUXTaGE5ywF3F7Eo6WuOTbehRANCAAReYuP+LOQk6J6HCIwc3ruRrZVw47tb
ZbsM7CEg4gxGogBbfxwl+kpxIKCAiBF9OSe7V2uDr08JZohjEgP0IEWl
-----END PRIVATE KEY-----
";
    /// Somebody else's.
    const OTHER_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgx3g5gH33ReZA7JOF
vypm+HTf2OCoZ3v9GR+cCZGUp32hRANCAATpf0dyvZSpYd96BIVDiZo/q4Ola1Vo
BACyjT6VKV/XC9AgU4Qz+erf4iV39AUllv1ZlyR6tZPMJ/EU74ZDBs2H
-----END PRIVATE KEY-----
";

    /// Shows its certificate, whether it has the key or not.
    #[derive(Debug)]
    struct Shown(Arc<CertifiedKey>);

    impl ResolvesServerCert for Shown {
        fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    /// Shakes hands with a server that shows the certificate of version 1 and has this key.
    fn shake_hands(
        key: &str,
        version: &'static SupportedProtocolVersion,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<(), Error> {
        let provider = Arc::new(ring::default_provider());
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let key = provider.key_provider.load_private_key(key).expect("a key that signs");
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(vec![certificate], key)))));
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let name = ServerName::try_from("worker").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).expect("memory takes bytes");
            }
            server.read_tls(&mut io::Cursor::new(sent)).expect("bytes in memory");
            server.process_new_packets()?;
            let mut sent = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut sent).expect("memory takes bytes");
            }
            client.read_tls(&mut io::Cursor::new(sent)).expect("bytes in memory");
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn the_certificate_that_citus_makes_itself_will_do_where_none_is_checked_and_only_with_its_key() {
        let provider = Arc::new(ring::default_provider());
        let any = || Arc::new(AnyCertificate::new(&provider));
        assert_eq!(shake_hands(KEY, &TLS13, any()), Ok(()));
        let stolen = shake_hands(OTHER_KEY, &TLS13, any());
        assert_eq!(stolen, Err(Error::InvalidCertificate(CertificateError::BadSignature)));
        let refused = |refusal: Result<(), Error>| match refusal {
            Err(Error::InvalidCertificate(CertificateError::Other(other))) => is_of_version_1(&other),
            _ => false,
        };
        assert!(refused(shake_hands(KEY, &TLS12, any())), "no check with the bare key");
        let root = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).expect("a certificate");
        let trusted = TrustedCertificate::new(vec![root], Vec::new(), false, &provider).expect("a verifier");
        assert!(refused(shake_hands(KEY, &TLS13, Arc::new(trusted))), "it can't be checked");
    }
}
