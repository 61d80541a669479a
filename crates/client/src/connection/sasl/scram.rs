//! SCRAM-SHA-256 and SCRAM-SHA-512 from the client's side (RFC 5802, RFC 7677), without channel
//! binding, as Kafka has it.
//!
//! Pure. What must hold: nothing that the server sends makes us hash more than
//! [`ITERATIONS_MAX`] times or with fewer than [`ITERATIONS_MIN`] rounds, and the exchange succeeds
//! only if the server's signature shows that it knows the password.

use crate::security::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256, Sha512};
use std::ops::RangeInclusive;
use std::str;
use zeroize::Zeroizing;

/// The least that RFC 7677 and Kafka allow.
pub(crate) const ITERATIONS_MIN: u32 = 4096;
/// What costs about a second: more is a server that wants to keep us busy.
pub(crate) const ITERATIONS_MAX: u32 = 1_000_000;
const ITERATIONS: RangeInclusive<u32> = ITERATIONS_MIN..=ITERATIONS_MAX;
/// Far above what a server has to say.
const MESSAGE_BYTES_MAX: usize = 4096;
/// `n,,` in base64: no channel binding, no other identity.
const GS2_HEADER: &str = "n,,";
const CHANNEL_BINDING: &str = "c=biws";

/// What is wrong with what the server sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    #[error("the server's message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the server's message is not what SCRAM expects: {0}")]
    Malformed(&'static str),
    #[error("the server asks for an extension that is not known")]
    Extension,
    #[error("the server's nonce does not continue ours")]
    Nonce,
    #[error(
        "the server asks for {0} iterations: {ITERATIONS_MIN} to {ITERATIONS_MAX} are accepted"
    )]
    Iterations(u64),
    #[error("the server answered with the error {0:?}")]
    Server(String),
    #[error("the server's signature is wrong: it does not know the password")]
    Signature,
}

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    pub(super) fn of(self, data: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        })
    }

    pub(super) fn hmac(self, key: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
        // A key of any length is allowed, so `Err` does not happen; an empty MAC would match none.
        fn of<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            <M as Mac>::new_from_slice(key)
                .map(|mac| mac.chain_update(data).finalize().into_bytes().to_vec())
                .unwrap_or_default()
        }
        Zeroizing::new(match self {
            Self::Sha256 => of::<Hmac<Sha256>>(key, data),
            Self::Sha512 => of::<Hmac<Sha512>>(key, data),
        })
    }

    /// Compares in a time that does not depend on where the two differ.
    fn verify(self, key: &[u8], data: &[u8], given: &[u8]) -> bool {
        fn of<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8], given: &[u8]) -> bool {
            <M as Mac>::new_from_slice(key)
                .is_ok_and(|mac| mac.chain_update(data).verify_slice(given).is_ok())
        }
        match self {
            Self::Sha256 => of::<Hmac<Sha256>>(key, data, given),
            Self::Sha512 => of::<Hmac<Sha512>>(key, data, given),
        }
    }

    /// `Hi(password, salt, iterations)`.
    pub(super) fn salted(self, password: &str, salt: &[u8], rounds: u32) -> Zeroizing<Vec<u8>> {
        let password = password.as_bytes();
        match self {
            Self::Sha256 => {
                let mut out = Zeroizing::new(vec![0; 32]);
                pbkdf2_hmac::<Sha256>(password, salt, rounds, &mut out);
                out
            }
            Self::Sha512 => {
                let mut out = Zeroizing::new(vec![0; 64]);
                pbkdf2_hmac::<Sha512>(password, salt, rounds, &mut out);
                out
            }
        }
    }
}

/// One exchange, before the server has said anything.
#[derive(Debug)]
pub(crate) struct Scram {
    hash: Hash,
    password: Secret,
    nonce: String,
    /// The client's first message without the GS2 header.
    first_bare: String,
}

/// One exchange, before the server has shown that it knows the password.
#[derive(Debug)]
pub(crate) struct ServerProof {
    hash: Hash,
    server_key: Zeroizing<Vec<u8>>,
    auth_message: String,
}

impl Scram {
    /// Begins; `nonce` is printable ASCII without commas, new each time and not to be guessed.
    pub(crate) fn new(hash: Hash, username: &str, password: Secret, nonce: String) -> Self {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        Self {
            hash,
            password,
            first_bare: format!("n={name},r={nonce}"),
            nonce,
        }
    }

    /// The first message to the server.
    pub(crate) fn first_message(&self) -> Vec<u8> {
        format!("{GS2_HEADER}{}", self.first_bare).into_bytes()
    }

    /// The second message to the server, for its first. Costs as many hashes as the server asks
    /// for, up to [`ITERATIONS_MAX`].
    pub(crate) fn answer(self, server_first: &[u8]) -> Result<(Vec<u8>, ServerProof), ScramError> {
        let server_first = text(server_first)?;
        let challenge = Challenge::parse(server_first, &self.nonce)?;
        let hash = self.hash;
        let without_proof = format!("{CHANNEL_BINDING},r={}", challenge.nonce);
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);

        let rounds = challenge.iterations;
        let salted = hash.salted(self.password.reveal(), &challenge.salt, rounds);
        let client_key = hash.hmac(&salted, b"Client Key");
        let stored_key = hash.of(&client_key);
        let signature = hash.hmac(&stored_key, auth_message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature.iter())
            .map(|(key, signature)| key ^ signature)
            .collect();
        let message = format!("{without_proof},p={}", BASE64.encode(proof));
        let expected = ServerProof {
            hash,
            server_key: hash.hmac(&salted, b"Server Key"),
            auth_message,
        };
        Ok((message.into_bytes(), expected))
    }
}

impl ServerProof {
    /// Checks the server's last message.
    pub(crate) fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let message = text(server_final)?;
        let first = message.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(ScramError::Server(error.chars().take(100).collect()));
        }
        let given = first
            .strip_prefix("v=")
            .ok_or(ScramError::Malformed("no signature"))?;
        let given = BASE64
            .decode(given)
            .map_err(|_| ScramError::Malformed("the signature is not base64"))?;
        if self
            .hash
            .verify(&self.server_key, self.auth_message.as_bytes(), &given)
        {
            Ok(())
        } else {
            Err(ScramError::Signature)
        }
    }
}

struct Challenge<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Challenge<'a> {
    fn parse(message: &'a str, our_nonce: &str) -> Result<Self, ScramError> {
        let mut parts = message.split(',');
        let mut part = |prefix: &str, missing| {
            let part = parts.next().unwrap_or_default();
            if part.starts_with("m=") {
                return Err(ScramError::Extension);
            }
            if let Some(error) = part.strip_prefix("e=") {
                return Err(ScramError::Server(error.chars().take(100).collect()));
            }
            part.strip_prefix(prefix)
                .ok_or(ScramError::Malformed(missing))
        };
        let nonce = part("r=", "no nonce")?;
        let salt = part("s=", "no salt")?;
        let iterations = part("i=", "no iteration count")?;
        if nonce.len() <= our_nonce.len() || !nonce.starts_with(our_nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = BASE64
            .decode(salt)
            .map_err(|_| ScramError::Malformed("the salt is not base64"))?;
        if salt.is_empty() {
            return Err(ScramError::Malformed("the salt is empty"));
        }
        if iterations.is_empty() || !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ScramError::Malformed("the iteration count is no number"));
        }
        let iterations = iterations.parse().unwrap_or(u64::MAX);
        match u32::try_from(iterations) {
            Ok(iterations) if ITERATIONS.contains(&iterations) => Ok(Self {
                nonce,
                salt,
                iterations,
            }),
            _ => Err(ScramError::Iterations(iterations)),
        }
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::TooLong);
    }
    str::from_utf8(message).map_err(|_| ScramError::Malformed("it is not UTF-8"))
}

#[cfg(test)]
mod tests;
