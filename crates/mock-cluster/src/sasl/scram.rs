//! SCRAM from the server's side (RFC 5802, RFC 7677), without channel binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};
use uuid::Uuid;

use super::Mechanism;

/// One exchange after the challenge.
#[derive(Debug)]
pub(super) struct Scram {
    mechanism: Mechanism,
    iterations: u32,
    user: String,
    salt: [u8; 16],
    nonce: String,
    /// The client's GS2 header, which its last message repeats in base64.
    gs2_header: String,
    /// The first two messages, as both sides sign them.
    so_far: String,
}

/// What the client's proof is held against.
pub(super) enum Verifier<'a> {
    Password(&'a str),
    /// There is no such user.
    Nothing,
    /// Every proof is taken, and the signature is made of nothing.
    Anything,
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
        let salt = Uuid::now_v7().into_bytes();
        let challenge = format!("r={nonce},s={},i={iterations}", BASE64.encode(salt));
        let scram = Self {
            mechanism,
            iterations,
            user,
            salt,
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
    pub(super) fn finish(&self, client_final: &str, verifier: Verifier<'_>) -> Option<String> {
        let (without_proof, proof) = client_final.rsplit_once(",p=")?;
        let expected = format!("c={},r={}", BASE64.encode(&self.gs2_header), self.nonce);
        if without_proof != expected {
            return None;
        }
        let proof = BASE64.decode(proof).ok()?;
        let signed = format!("{},{without_proof}", self.so_far);
        let password = match verifier {
            Verifier::Password(password) => password,
            Verifier::Nothing => return None,
            Verifier::Anything => {
                let signature = self.hmac(b"no password", signed.as_bytes());
                return Some(format!("v={}", BASE64.encode(signature)));
            }
        };
        let salted = self.salted(password);
        let stored = self.hash(&self.hmac(&salted, b"Client Key"));
        let signature = self.hmac(&stored, signed.as_bytes());
        if proof.len() != signature.len() {
            return None;
        }
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if self.hash(&key) != stored {
            return None;
        }
        let server_key = self.hmac(&salted, b"Server Key");
        let signature = self.hmac(&server_key, signed.as_bytes());
        Some(format!("v={}", BASE64.encode(signature)))
    }

    fn is_512(&self) -> bool {
        self.mechanism == Mechanism::ScramSha512
    }

    fn hash(&self, data: &[u8]) -> Vec<u8> {
        if self.is_512() {
            Sha512::digest(data).to_vec()
        } else {
            Sha256::digest(data).to_vec()
        }
    }

    fn hmac(&self, key: &[u8], data: &[u8]) -> Vec<u8> {
        if self.is_512() {
            keyed::<Hmac<Sha512>>(key, data)
        } else {
            keyed::<Hmac<Sha256>>(key, data)
        }
    }

    /// `Hi` of RFC 5802: the first block of PBKDF2, which is all that SCRAM needs.
    fn salted(&self, password: &str) -> Vec<u8> {
        let first = [&self.salt[..], &1_u32.to_be_bytes()].concat();
        let mut last = self.hmac(password.as_bytes(), &first);
        let mut sum = last.clone();
        for _ in 1..self.iterations {
            last = self.hmac(password.as_bytes(), &last);
            sum.iter_mut()
                .zip(&last)
                .for_each(|(sum, byte)| *sum ^= byte);
        }
        sum
    }
}

/// Keys of any length are allowed, so there is always a result.
fn keyed<M: Mac + hmac::digest::KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
    <M as Mac>::new_from_slice(key)
        .map(|mac| mac.chain_update(data).finalize().into_bytes().to_vec())
        .unwrap_or_default()
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
            iterations: 4096,
            user: "user".to_owned(),
            salt: BASE64
                .decode("W22ZaJ0SNY7soEsUEjb6gQ==")
                .unwrap()
                .try_into()
                .unwrap(),
            nonce: server_nonce.to_owned(),
            gs2_header: "n,,".to_owned(),
            so_far: format!(
                "n=user,r=rOprNGfwEbeRWgbNEkqO,r={server_nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
            ),
        }
    }

    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_exchange_of_rfc_7677() {
        let signature = rfc_7677().finish(FINAL, Verifier::Password("pencil"));
        let expected = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(signature.as_deref(), Some(expected));
        let impostor = rfc_7677().finish(FINAL, Verifier::Anything).unwrap();
        assert!(impostor.starts_with("v=") && impostor != expected);
    }

    #[test]
    fn wrong_proofs_are_refused() {
        let scram = rfc_7677();
        assert_eq!(scram.finish(FINAL, Verifier::Password("pen")), None);
        assert_eq!(scram.finish(FINAL, Verifier::Nothing), None);
        for (from, to) in [
            ("biws", "eSws"),
            ("k0,p", "k1,p"),
            ("dHzb", "eHzb"),
            ("dHzb", ""),
        ] {
            let changed = FINAL.replace(from, to);
            assert_eq!(scram.finish(&changed, Verifier::Password("pencil")), None);
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
