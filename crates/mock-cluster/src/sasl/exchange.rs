//! The server's side of each mechanism, token by token.

use super::scram::Scram;
use super::{Mechanism, Sasl};

/// Where an exchange stands.
#[derive(Debug)]
pub(super) enum Exchange {
    /// No token came yet.
    New(Mechanism),
    /// SCRAM: the challenge was sent.
    Challenged { mechanism: Mechanism, scram: Scram },
    /// OAUTHBEARER: the server has said why it refuses, and waits for the client to give up.
    GivingUp,
}

/// What comes of a token.
pub(super) enum Step {
    Continue(Vec<u8>),
    Done { principal: String, bytes: Vec<u8> },
    Refused(String),
}

impl Exchange {
    pub(super) fn new(mechanism: Mechanism) -> Self {
        Self::New(mechanism)
    }

    pub(super) fn mechanism(&self) -> Mechanism {
        match self {
            Self::New(mechanism) | Self::Challenged { mechanism, .. } => *mechanism,
            Self::GivingUp => Mechanism::OauthBearer,
        }
    }

    pub(super) fn step(&mut self, sasl: &Sasl, token: &[u8]) -> Step {
        let Ok(text) = std::str::from_utf8(token) else {
            return Step::Refused("the token is not UTF-8".to_owned());
        };
        match self {
            Self::New(Mechanism::Plain) => plain(sasl, text),
            Self::New(Mechanism::OauthBearer) => match bearer(text) {
                Some(token) if sasl.tokens.iter().any(|known| known == token) => Step::Done {
                    principal: "the bearer".to_owned(),
                    bytes: Vec::new(),
                },
                _ => {
                    *self = Self::GivingUp;
                    Step::Continue(INVALID_TOKEN.into())
                }
            },
            Self::New(mechanism) => {
                let mechanism = *mechanism;
                match Scram::challenge(mechanism, sasl.iterations, text) {
                    Ok((scram, challenge)) => {
                        *self = Self::Challenged { mechanism, scram };
                        Step::Continue(challenge.into_bytes())
                    }
                    Err(why) => Step::Refused(why.to_owned()),
                }
            }
            Self::Challenged { mechanism, scram } => {
                // An impostor has nothing to check against, and nothing to show.
                let signature = match sasl.forgets_passwords {
                    true => scram.unchecked(text),
                    false => {
                        let credential = sasl.credential(*mechanism, scram.user());
                        credential.and_then(|credential| scram.finish(text, &credential))
                    }
                };
                match signature {
                    Some(bytes) => Step::Done {
                        principal: scram.user().to_owned(),
                        bytes: bytes.into_bytes(),
                    },
                    None => Step::Refused(format!(
                        "Authentication failed during authentication due to invalid credentials \
                         with SASL mechanism {}",
                        mechanism.name()
                    )),
                }
            }
            Self::GivingUp => Step::Refused(INVALID_TOKEN.to_owned()),
        }
    }
}

const INVALID_TOKEN: &str = "{\"status\":\"invalid_token\"}";

/// RFC 4616: whom to act for, who it is, the password.
fn plain(sasl: &Sasl, token: &str) -> Step {
    let parts: Vec<&str> = token.split('\0').collect();
    let [acts_for, user, password] = parts[..] else {
        return Step::Refused("PLAIN takes three parts".to_owned());
    };
    let known = sasl.users.get(user).is_some_and(|known| known == password);
    if (known || sasl.forgets_passwords) && (acts_for.is_empty() || acts_for == user) {
        Step::Done {
            principal: user.to_owned(),
            bytes: Vec::new(),
        }
    } else {
        Step::Refused("Authentication failed: Invalid username or password".to_owned())
    }
}

/// RFC 7628: the GS2 header, then pairs that end with ^A, and one more at the end.
fn bearer(token: &str) -> Option<&str> {
    let pairs = token.strip_prefix("n,")?.split_once(",\x01")?.1;
    let pairs = pairs.strip_suffix("\x01\x01")?;
    let auth = pairs
        .split('\x01')
        .find_map(|pair| pair.strip_prefix("auth="))?;
    auth.strip_prefix("Bearer ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_takes_the_right_password_alone() {
        let sasl = Sasl::new().user("alice", "pencil");
        let done = |token: &str| matches!(plain(&sasl, token), Step::Done { .. });
        assert!(done("\0alice\0pencil"));
        assert!(done("alice\0alice\0pencil"));
        for token in [
            "\0alice\0wrong",
            "\0bob\0pencil",
            "bob\0alice\0pencil",
            "alice\0pencil",
            "",
        ] {
            assert!(!done(token), "{token:?}");
        }
    }

    #[test]
    fn a_bearer_token_is_found_among_extensions() {
        assert_eq!(bearer("n,,\x01auth=Bearer abc=\x01\x01"), Some("abc="));
        assert_eq!(
            bearer("n,,\x01auth=Bearer t\x01logicalCluster=x\x01\x01"),
            Some("t")
        );
        for token in [
            "n,,\x01auth=Bearer t\x01",
            "auth=Bearer t\x01\x01",
            "n,,\x01\x01",
            "",
        ] {
            assert_eq!(bearer(token), None, "{token:?}");
        }
    }
}
