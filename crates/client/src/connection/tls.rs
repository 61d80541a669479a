//! TLS over a broker's socket, by rustls.
//!
//! Owns the rustls configuration that all connections of a client share, and with it the cache of
//! TLS sessions. What must hold: a certificate is checked against the trusted authorities in every
//! case, and for the host unless that was switched off by name.

use super::ConnectCause;
use crate::security::{HostVerification, Secret, SecurityConfig};
use ottla_types::ConfigError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

/// A rustls configuration of the application's own. Equal to its own clones only.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Takes the configuration as it is: its roots, its verifier, its certificates, its provider.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(config)
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient(..)")
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClient {}

/// Makes TLS streams out of sockets.
pub(crate) struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Reads the files and builds the configuration. Blocks on file reads.
    pub(super) fn prepare(security: &SecurityConfig) -> Result<Self, ConfigError> {
        let config = match &security.tls {
            Some(given) => given.0.clone(),
            None => Arc::new(build(security)?),
        };
        Ok(Self(config.into()))
    }

    /// Shakes hands on a connected socket; `address` is `host:port`.
    pub(super) async fn handshake(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ConnectCause> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_owned())
            .map_err(|_| ConnectCause::TlsName(host.to_owned()))?;
        self.0
            .connect(name, stream)
            .await
            .map_err(ConnectCause::Tls)
    }
}

fn build(security: &SecurityConfig) -> Result<ClientConfig, ConfigError> {
    let provider = provider(security)?;
    let roots = Arc::new(roots(security)?);
    let refused =
        |error: Error| ConfigError::new("security.protocol", security.protocol, error.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let builder = match security.host_verification {
        HostVerification::Https => builder.with_root_certificates(roots),
        HostVerification::None => {
            tracing::warn!(
                "ssl.endpoint.identification.algorithm = none: a broker's certificate is accepted \
                 for any host, and whoever has one can stand between"
            );
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| {
                    ConfigError::new("ssl.ca.location", "(given)", error.to_string())
                })?;
            let verifier = Arc::new(AnyHost(inner));
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        }
    };
    let chain = certificates(
        "ssl.certificate.location",
        security.certificate_location.as_deref(),
        security.certificate_pem.as_deref(),
    )?;
    let key = key(security)?;
    let (Some(chain), Some(key)) = (chain, key) else {
        return Ok(builder.with_no_client_auth());
    };
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| ConfigError::new("ssl.key.location", "(given)", error.to_string()))
}

/// The process's own provider, if there is one, else graviola where it can run.
fn provider(security: &SecurityConfig) -> Result<Arc<CryptoProvider>, ConfigError> {
    if let Some(installed) = CryptoProvider::get_default() {
        return Ok(installed.clone());
    }
    built_in().ok_or_else(|| {
        ConfigError::new(
            "security.protocol",
            security.protocol,
            "a provider of cryptography, which this build has for x86_64 (AES, AVX2, ADX, BMI1, \
             PCLMULQDQ) and aarch64 (AES, SHA-2, PMULL) alone: install one with \
             rustls::crypto::CryptoProvider::install_default, or give SecurityConfig::tls_client",
        )
    })
}

#[cfg(target_arch = "x86_64")]
fn built_in() -> Option<Arc<CryptoProvider>> {
    // Without these graviola panics at its first use.
    let can_run = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq")
        && std::arch::is_x86_feature_detected!("bmi1")
        && std::arch::is_x86_feature_detected!("adx")
        && std::arch::is_x86_feature_detected!("avx2");
    can_run.then(|| Arc::new(rustls_graviola::default_provider()))
}

#[cfg(target_arch = "aarch64")]
fn built_in() -> Option<Arc<CryptoProvider>> {
    // Without these graviola panics at its first use.
    let can_run = std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
        && std::arch::is_aarch64_feature_detected!("sha2");
    can_run.then(|| Arc::new(rustls_graviola::default_provider()))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn built_in() -> Option<Arc<CryptoProvider>> {
    None
}

fn roots(security: &SecurityConfig) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let given = certificates(
        "ssl.ca.location",
        security.ca_location.as_deref(),
        security.ca_pem.as_deref(),
    )?;
    let Some(given) = given else {
        let system = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(system.certs);
        if added == 0 {
            let cause = system.errors.first().map(ToString::to_string);
            let expected = format!(
                "a PEM file, because the system has no trusted authorities: {}",
                cause.unwrap_or_else(|| "none were found".to_owned())
            );
            return Err(ConfigError::new("ssl.ca.location", "", expected));
        }
        return Ok(roots);
    };
    for certificate in given {
        roots
            .add(certificate)
            .map_err(|error| ConfigError::new("ssl.ca.location", "(given)", error.to_string()))?;
    }
    Ok(roots)
}

/// The certificates of a file or a text, one at least; `None` if neither is given.
fn certificates(
    key: &'static str,
    location: Option<&Path>,
    text: Option<&str>,
) -> Result<Option<Vec<CertificateDer<'static>>>, ConfigError> {
    let Some((shown, pem)) = read(key, location, text)? else {
        return Ok(None);
    };
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match parsed {
        Ok(found) if !found.is_empty() => Ok(Some(found)),
        Ok(_) => Err(ConfigError::new(key, shown, "certificates in PEM")),
        Err(error) => Err(ConfigError::new(
            key,
            shown,
            format!("certificates in PEM ({error})"),
        )),
    }
}

fn key(security: &SecurityConfig) -> Result<Option<PrivateKeyDer<'static>>, ConfigError> {
    const KEY: &str = "ssl.key.location";
    let text = security.key_pem.as_ref().map(Secret::reveal);
    let Some((shown, pem)) = read(KEY, security.key_location.as_deref(), text)? else {
        return Ok(None);
    };
    // The parser's error is left out: it may repeat what it read.
    PrivateKeyDer::from_pem_slice(&pem).map(Some).map_err(|_| {
        let expected = "a private key in PEM that is not encrypted (PKCS#8, PKCS#1 or SEC1)";
        ConfigError::new(KEY, shown, expected)
    })
}

type Pem = (String, Zeroizing<Vec<u8>>);

/// The bytes and how errors name them.
fn read(
    key: &'static str,
    location: Option<&Path>,
    text: Option<&str>,
) -> Result<Option<Pem>, ConfigError> {
    let Some(path) = location else {
        let text = text.map(|text| Zeroizing::new(text.as_bytes().to_vec()));
        return Ok(text.map(|text| ("(text)".to_owned(), text)));
    };
    let shown = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some((shown, Zeroizing::new(bytes)))),
        Err(error) => Err(ConfigError::new(
            key,
            shown,
            format!("a file that can be read ({error})"),
        )),
    }
}

/// Checks a certificate in every way but for the host.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is what is looked at last: all the rest was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod certs;
#[cfg(test)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tests;
