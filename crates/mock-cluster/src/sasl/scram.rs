//! SCRAM from the server's side (RFC 5802, RFC 7677), without channel binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};
use uuid::Uuid;

use super::Mechanism;

/// What a server keeps of a password (RFC 5802, 3).
#[derive(Clone)]
pub(super) struct Credential {
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

/// The credentials that were asked for so far, by mechanism and user.
#[derive(Default)]
pub(super) struct Credentials(Vec<(Mechanism, String, Credential)>);

impl Credentials {
    /// All of them have the same salt, which is as good as any for a test.
    pub(super) fn of(
        &mut self,
        mechanism: Mechanism,
        iterations: u32,
        user: &str,
        password: &str,
    ) -> Credential {
        let known =
            |(of, name, _): &&(Mechanism, String, Credential)| *of == mechanism && name == user;
        if let Some((.., credential)) = self.0.iter().find(known) {
            return credential.clone();
        }
        let credential = Credential::new(mechanism, password, SALT, iterations);
        self.0
            .push((mechanism, user.to_owned(), credential.clone()));
        credential
    }
}

const SALT: &[u8] = b"the mock's salt!";

impl Credential {
    fn new(mechanism: Mechanism, password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = match mechanism {
            Mechanism::ScramSha512 => salted::<Hmac<Sha512>>(password, salt, iterations),
            _ => salted::<Hmac<Sha256>>(password, salt, iterations),
        };
        Self {
            stored_key: hash(mechanism, &hmac(mechanism, &salted, b"Client Key")),
            server_key: hmac(mechanism, &salted, b"Server Key"),
        }
    }
}

/// One exchange after the challenge.
#[derive(Debug)]
pub(super) struct Scram {
    mechanism: Mechanism,
    user: String,
    nonce: String,
    /// The client's GS2 header, which its last message repeats in base64.
    gs2_header: String,
    /// The first two messages, as both sides sign them.
    so_far: String,
}

impl Scram {
    /// Reads the client's first message and answers with a challenge.
    pub(super) fn challenge(
        mechanism: Mechanism,
        iterations: u32,
        client_first: &str,
    ) -> Result<(Self, String), &'static str> {
        let mut parts = client_first.splitn(3, ',');
        let (binding, acts_for) = (parts.next(), parts.next());
        let bare = parts.next().ok_or("no GS2 header")?;
        let (Some(binding @ ("n" | "y")), Some("")) = (binding, acts_for) else {
            return Err("channel binding and acting for others are not supported");
        };
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|field| field.strip_prefix("n="));
        let user = user.and_then(unescaped).ok_or("no user name")?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let nonce = nonce.filter(|nonce| !nonce.is_empty()).ok_or("no nonce")?;
        let nonce = format!("{nonce}{}", Uuid::now_v7().simple());
        let challenge = format!("r={nonce},s={},i={iterations}", BASE64.encode(SALT));
        let scram = Self {
            mechanism,
            user,
            nonce,
            gs2_header: format!("{binding},,"),
            so_far: format!("{bare},{challenge}"),
        };
        Ok((scram, challenge))
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Checks the client's proof, and gives the server's signature; `None` for a wrong one.
    pub(super) fn finish(&self, client_final: &str, credential: &Credential) -> Option<String> {
        let (signed, proof) = self.read(client_final)?;
        let hmac = |key: &[u8]| hmac(self.mechanism, key, signed.as_bytes());
        let signature = hmac(&credential.stored_key);
        if proof.len() != signature.len() {
            return None;
        }
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if hash(self.mechanism, &key) != credential.stored_key {
            return None;
        }
        Some(format!("v={}", BASE64.encode(hmac(&credential.server_key))))
    }

    /// Takes every proof, and signs with nothing.
    pub(super) fn unchecked(&self, client_final: &str) -> Option<String> {
        let (signed, _) = self.read(client_final)?;
        let signature = hmac(self.mechanism, b"no password", signed.as_bytes());
        Some(format!("v={}", BASE64.encode(signature)))
    }

    /// What both sides sign, and the proof.
    fn read(&self, client_final: &str) -> Option<(String, Vec<u8>)> {
        let (without_proof, proof) = client_final.rsplit_once(",p=")?;
        let expected = format!("c={},r={}", BASE64.encode(&self.gs2_header), self.nonce);
        if without_proof != expected {
            return None;
        }
        let signed = format!("{},{without_proof}", self.so_far);
        Some((signed, BASE64.decode(proof).ok()?))
    }
}

fn hash(mechanism: Mechanism, data: &[u8]) -> Vec<u8> {
    match mechanism {
        Mechanism::ScramSha512 => Sha512::digest(data).to_vec(),
        _ => Sha256::digest(data).to_vec(),
    }
}

fn hmac(mechanism: Mechanism, key: &[u8], data: &[u8]) -> Vec<u8> {
    match mechanism {
        Mechanism::ScramSha512 => keyed::<Hmac<Sha512>>(key, data),
        _ => keyed::<Hmac<Sha256>>(key, data),
    }
}

/// Keys of any length are allowed, so there is always a result.
fn keyed<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
    <M as Mac>::new_from_slice(key)
        .map(|mac| mac.chain_update(data).finalize().into_bytes().to_vec())
        .unwrap_or_default()
}

/// `Hi` of RFC 5802: the first block of PBKDF2, which is all that SCRAM needs.
fn salted<M: Mac + hmac::digest::KeyInit + Clone>(
    password: &str,
    salt: &[u8],
    iterations: u32,
) -> Vec<u8> {
    let Ok(mac) = <M as Mac>::new_from_slice(password.as_bytes()) else {
        return Vec::new();
    };
    let round = |data: &[u8]| mac.clone().chain_update(data).finalize().into_bytes();
    let mut last = round(&[salt, &1_u32.to_be_bytes()].concat());
    let mut sum = last.to_vec();
    for _ in 1..iterations {
        last = round(&last);
        sum.iter_mut()
            .zip(&last)
            .for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

/// A user name without the escapes of comma and equals sign.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (escape, rest) = part.split_at_checked(2)?;
        plain.push(match escape {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        plain.push_str(rest);
    }
    (!plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange that RFC 7677 prints.
    fn rfc_7677() -> Scram {
        let server_nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        Scram {
            mechanism: Mechanism::ScramSha256,
            user: "user".to_owned(),
            nonce: server_nonce.to_owned(),
            gs2_header: "n,,".to_owned(),
            so_far: format!(
                "n=user,r=rOprNGfwEbeRWgbNEkqO,r={server_nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
            ),
        }
    }

    fn credential(password: &str) -> Credential {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Credential::new(Mechanism::ScramSha256, password, &salt, 4096)
    }

    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_exchange_of_rfc_7677() {
        let signature = rfc_7677().finish(FINAL, &credential("pencil"));
        let expected = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(signature.as_deref(), Some(expected));
        let impostor = rfc_7677().unchecked(FINAL).unwrap();
        assert!(impostor.starts_with("v=") && impostor != expected);
    }

    #[test]
    fn wrong_proofs_are_refused() {
        let scram = rfc_7677();
        assert_eq!(scram.finish(FINAL, &credential("pen")), None);
        let right = credential("pencil");
        for (from, to) in [
            ("biws", "eSws"),
            ("k0,p", "k1,p"),
            ("dHzb", "eHzb"),
            ("dHzb", ""),
        ] {
            assert_eq!(scram.finish(&FINAL.replace(from, to), &right), None);
        }
    }

    #[test]
    fn names_are_unescaped() {
        let (scram, challenge) =
            Scram::challenge(Mechanism::ScramSha512, 5000, "n,,n=a=3Db=2Cc,r=x").unwrap();
        assert_eq!(scram.user(), "a=b,c");
        assert!(challenge.starts_with("r=x") && challenge.ends_with(",i=5000"));
        for first in [
            "",
            "n,,",
            "p=x,,n=a,r=x",
            "n,a=b,n=a,r=x",
            "n,,n=a=,r=x",
            "n,,n=a=41,r=x",
            "n,,n=a,r=",
        ] {
            assert!(
                Scram::challenge(Mechanism::ScramSha256, 4096, first).is_err(),
                "{first:?}"
            );
        }
    }
}
