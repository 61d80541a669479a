//! How connections are encrypted and how the client proves who it is.
//!
//! [`SecurityConfig`] is the `security` part of a [`ClientConfig`](crate::ClientConfig); its
//! properties stand beside the others in a file. They are the names of Kafka and librdkafka; there
//! is no JAAS text and there are no Java key stores: certificates and keys are PEM.
//!
//! ```
//! use ottla_client::ClientConfig;
//! use ottla_client::security::{SaslMechanism, SecurityConfig, SecurityProtocol};
//!
//! let mut config = ClientConfig::new("kafka:9093");
//! config.security = SecurityConfig::new(SecurityProtocol::SaslSsl)
//!     .ca_location("/etc/kafka/ca.pem")
//!     .sasl(SaslMechanism::ScramSha512, "orders", "a password");
//! assert!(!format!("{config:?}").contains("a password"));
//! ```
//!
//! | property | default | allowed |
//! |---|---|---|
//! | `security.protocol` | `PLAINTEXT` | `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT`, `SASL_SSL` |
//! | `sasl.mechanism` | none | `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`; a must with SASL |
//! | `sasl.username`, `sasl.password` | none | a must for PLAIN and SCRAM; no control characters |
//! | `sasl.allow.without.tls` | `false` | `true` lets a password (PLAIN) or token (OAUTHBEARER) be sent unencrypted |
//! | `ssl.ca.location` or `ssl.ca.pem` | the system's roots | certificates of the authorities that are trusted |
//! | `ssl.certificate.location` or `ssl.certificate.pem` | none | the client's certificate chain, for mutual TLS |
//! | `ssl.key.location` or `ssl.key.pem` | none | the key of that certificate, not encrypted |
//! | `ssl.endpoint.identification.algorithm` | `https` | `none` accepts a certificate for any host |
//!
//! # Authentication
//! - Credentials that the broker refuses are an error of kind `Authorization` at once; nothing is
//!   tried again.
//! - SCRAM: between 4,096 and 1,000,000 iterations; what the server answers must prove that it knows
//!   the password too. User name and password are used as the UTF-8 that they are, as Kafka's own
//!   tools and clients do: SASLprep (RFC 4013) is not applied.
//! - A session with an end (`connections.max.reauth.ms`, KIP-368) is renewed on its connection when
//!   85 to 95 % of its time are over.
//!
//! # Cryptography
//! TLS needs the cargo feature `tls`. The provider is the process's own, if the application has
//! installed one (`rustls::crypto::CryptoProvider`), else graviola, which has no C, on x86_64 (from
//! about 2014) and aarch64. On other targets the application must install a provider or give a whole
//! `rustls::ClientConfig` (`SecurityConfig::tls_client`).

mod oauth;
mod secret;

pub use oauth::{OauthToken, OauthTokens, TokenError, TokenSource};
pub use secret::Secret;

#[cfg(feature = "tls")]
pub use crate::connection::TlsClient;

use ottla_types::ConfigError;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How connections are secured. The default is `PLAINTEXT`: neither encrypted nor authenticated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SecurityConfig {
    /// `security.protocol`.
    #[serde(rename = "security.protocol")]
    pub protocol: SecurityProtocol,
    /// `sasl.mechanism`.
    #[serde(rename = "sasl.mechanism", skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<SaslMechanism>,
    /// `sasl.username`.
    #[serde(rename = "sasl.username", skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// `sasl.password`; read, never written.
    #[serde(rename = "sasl.password", skip_serializing)]
    pub password: Option<Secret>,
    /// `sasl.allow.without.tls`: PLAIN and OAUTHBEARER may be used where everybody on the way can
    /// read the password or the token.
    #[serde(rename = "sasl.allow.without.tls", deserialize_with = "bool_or_text")]
    pub allow_without_tls: bool,
    /// `ssl.ca.location`: a PEM file of trusted authorities.
    #[serde(rename = "ssl.ca.location", skip_serializing_if = "Option::is_none")]
    pub ca_location: Option<PathBuf>,
    /// `ssl.ca.pem`: the same as text.
    #[serde(rename = "ssl.ca.pem", skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// `ssl.certificate.location`: a PEM file of the client's certificate and what leads from it to
    /// the authority.
    #[serde(
        rename = "ssl.certificate.location",
        skip_serializing_if = "Option::is_none"
    )]
    pub certificate_location: Option<PathBuf>,
    /// `ssl.certificate.pem`: the same as text.
    #[serde(
        rename = "ssl.certificate.pem",
        skip_serializing_if = "Option::is_none"
    )]
    pub certificate_pem: Option<String>,
    /// `ssl.key.location`: a PEM file of the certificate's private key.
    #[serde(rename = "ssl.key.location", skip_serializing_if = "Option::is_none")]
    pub key_location: Option<PathBuf>,
    /// `ssl.key.pem`: the same as text; read, never written.
    #[serde(rename = "ssl.key.pem", skip_serializing)]
    pub key_pem: Option<Secret>,
    /// `ssl.endpoint.identification.algorithm`.
    #[serde(rename = "ssl.endpoint.identification.algorithm")]
    pub host_verification: HostVerification,
    /// Where OAUTHBEARER's tokens come from; not in files.
    #[serde(skip)]
    pub oauth: Option<OauthTokens>,
    /// A whole rustls configuration in place of the `ssl.*` properties; not in files.
    #[cfg(feature = "tls")]
    #[serde(skip)]
    pub tls: Option<TlsClient>,
}

impl SecurityConfig {
    /// The defaults with this protocol.
    pub fn new(protocol: SecurityProtocol) -> Self {
        Self {
            protocol,
            ..Self::default()
        }
    }

    /// Authenticates with a name and a password (PLAIN and SCRAM).
    #[must_use]
    pub fn sasl(
        mut self,
        mechanism: SaslMechanism,
        username: impl Into<String>,
        password: impl Into<Secret>,
    ) -> Self {
        self.mechanism = Some(mechanism);
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// Authenticates with tokens from `source` (OAUTHBEARER).
    #[must_use]
    pub fn oauth(mut self, source: impl TokenSource) -> Self {
        self.mechanism = Some(SaslMechanism::OauthBearer);
        self.oauth = Some(OauthTokens::new(source));
        self
    }

    /// Trusts the authorities in this PEM file, and no others.
    #[must_use]
    pub fn ca_location(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_location = Some(path.into());
        self
    }

    /// Shows this certificate to the brokers (mutual TLS): PEM files of the chain and of its key.
    #[must_use]
    pub fn certificate_location(
        mut self,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.certificate_location = Some(chain.into());
        self.key_location = Some(key.into());
        self
    }

    /// Uses a rustls configuration of one's own in place of the `ssl.*` properties. Its roots,
    /// verifier, certificates and provider are taken as they are.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_client(mut self, config: std::sync::Arc<rustls::ClientConfig>) -> Self {
        self.tls = Some(TlsClient::new(config));
        self
    }

    /// Checks everything but the contents of files.
    ///
    /// # Errors
    /// Names the first property that is missing, not allowed or has no use with this protocol.
    /// Secrets are not shown.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_sasl()?;
        self.validate_tls()
    }

    fn validate_sasl(&self) -> Result<(), ConfigError> {
        let given = [
            ("sasl.mechanism", self.mechanism.is_some()),
            ("sasl.username", self.username.is_some()),
            ("sasl.password", self.password.is_some()),
        ];
        if !self.protocol.is_sasl() {
            return refuse_given(&given, "nothing, unless security.protocol is SASL_...");
        }
        let Some(mechanism) = self.mechanism else {
            return Err(ConfigError::new("sasl.mechanism", "", MECHANISMS));
        };
        if mechanism.shows_secret() && !self.protocol.is_tls() && !self.allow_without_tls {
            return Err(ConfigError::new(
                "security.protocol",
                self.protocol,
                format!(
                    "SASL_SSL with {mechanism}, which sends the secret as it is, or \
                     sasl.allow.without.tls = true"
                ),
            ));
        }
        if mechanism == SaslMechanism::OauthBearer {
            refuse_given(&given[1..], "nothing with OAUTHBEARER")?;
            return match self.oauth {
                Some(_) => Ok(()),
                None => Err(ConfigError::new(
                    "sasl.mechanism",
                    mechanism,
                    "a token source, set in code by SecurityConfig::oauth",
                )),
            };
        }
        let username = self.username.as_deref().unwrap_or_default();
        if username.is_empty() || username.chars().any(char::is_control) {
            let expected = "a name without control characters";
            return Err(ConfigError::new("sasl.username", username, expected));
        }
        let password = self.password.as_ref().map_or("", Secret::reveal);
        if password.is_empty() || password.chars().any(char::is_control) {
            let expected = "a password without control characters";
            return Err(ConfigError::new("sasl.password", "***", expected));
        }
        Ok(())
    }

    fn validate_tls(&self) -> Result<(), ConfigError> {
        let given = [
            ("ssl.ca.location", self.ca_location.is_some()),
            ("ssl.ca.pem", self.ca_pem.is_some()),
            (
                "ssl.certificate.location",
                self.certificate_location.is_some(),
            ),
            ("ssl.certificate.pem", self.certificate_pem.is_some()),
            ("ssl.key.location", self.key_location.is_some()),
            ("ssl.key.pem", self.key_pem.is_some()),
            (
                "ssl.endpoint.identification.algorithm",
                self.host_verification != HostVerification::default(),
            ),
        ];
        if !self.protocol.is_tls() {
            return refuse_given(
                &given,
                "nothing, unless security.protocol is SSL or SASL_SSL",
            );
        }
        if cfg!(not(feature = "tls")) {
            let expected = "a build with the cargo feature `tls`";
            return Err(ConfigError::new(
                "security.protocol",
                self.protocol,
                expected,
            ));
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return refuse_given(&given, "nothing beside a rustls configuration");
        }
        for pair in given[..6].chunks(2) {
            if pair[0].1 && pair[1].1 {
                let expected = format!("nothing beside {}", pair[0].0);
                return Err(ConfigError::new(pair[1].0, "(given)", expected));
            }
        }
        let (certificate, key) = (given[2].1 || given[3].1, given[4].1 || given[5].1);
        if certificate != key {
            let (missing, other) = if key {
                ("ssl.certificate.location", "ssl.key")
            } else {
                ("ssl.key.location", "ssl.certificate")
            };
            let expected = format!("a file, because {other} is given");
            return Err(ConfigError::new(missing, "", expected));
        }
        Ok(())
    }
}

const MECHANISMS: &str = "one of: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";

fn refuse_given(given: &[(&'static str, bool)], expected: &str) -> Result<(), ConfigError> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => Err(ConfigError::new(key, "(given)", expected)),
        None => Ok(()),
    }
}

/// `sasl.allow.without.tls`: `true` and `false`, also as texts; a flattened field gets texts as they
/// are.
fn bool_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bool(bool),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Bool(value) => Ok(value),
        Either::Text(text) => text.to_ascii_lowercase().parse().map_err(|_| {
            let key = "sasl.allow.without.tls";
            de::Error::custom(ConfigError::new(key, &text, "`true` or `false`"))
        }),
    }
}

/// Gives an enum its names in configs: read without regard to case, written as they are here.
macro_rules! named {
    ($type:ident, $key:literal, { $($name:literal => $value:ident),* }) => {
        impl $type {
            /// The name that configs use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = ConfigError;

            fn from_str(name: &str) -> Result<Self, ConfigError> {
                $(if name.eq_ignore_ascii_case($name) {
                    return Ok(Self::$value);
                })*
                let names = [$($name),*].join(", ");
                Err(ConfigError::new($key, name, format!("one of: {names}")))
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(de::Error::custom)
            }
        }
    };
}

/// `security.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS; the client may show a certificate.
    Ssl,
    /// Authenticated by SASL, not encrypted.
    SaslPlaintext,
    /// Authenticated by SASL, over TLS.
    SaslSsl,
}

named!(SecurityProtocol, "security.protocol", {
    "PLAINTEXT" => Plaintext,
    "SSL" => Ssl,
    "SASL_PLAINTEXT" => SaslPlaintext,
    "SASL_SSL" => SaslSsl
});

impl SecurityProtocol {
    /// Whether it encrypts.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether it authenticates by SASL.
    pub const fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// `sasl.mechanism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SaslMechanism {
    /// RFC 4616: the password itself is sent.
    Plain,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802 with SHA-512.
    ScramSha512,
    /// RFC 7628: a token is sent.
    OauthBearer,
}

named!(SaslMechanism, "sasl.mechanism", {
    "PLAIN" => Plain,
    "SCRAM-SHA-256" => ScramSha256,
    "SCRAM-SHA-512" => ScramSha512,
    "OAUTHBEARER" => OauthBearer
});

impl SaslMechanism {
    /// Whether who reads the connection can take the secret from it.
    pub const fn shows_secret(self) -> bool {
        matches!(self, Self::Plain | Self::OauthBearer)
    }
}

/// `ssl.endpoint.identification.algorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HostVerification {
    /// The certificate must be for the host that was connected to (RFC 2818).
    #[default]
    Https,
    /// Any certificate of a trusted authority passes, whatever host it is for: whoever has one can
    /// stand between. Each client that is built says so in a warning.
    None,
}

named!(HostVerification, "ssl.endpoint.identification.algorithm", {
    "https" => Https,
    "none" => None
});

#[cfg(test)]
mod tests;
