//! SASL: who may use a connection, for how long, and what may be asked before.
//!
//! Written after Kafka's own rules and the RFCs, with nothing of the client under test in it. A
//! connection begins with ApiVersions and SaslHandshake alone; everything else closes it until
//! SaslAuthenticate has gone through. A failed attempt is answered, then the connection is closed.
//! A session with an end (KIP-368) is renewed by a handshake on the same connection; whatever else
//! comes after its end closes it.

mod exchange;
mod scram;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{ApiKey, codes};
use exchange::{Exchange, Step};
use scram::{Credential, Credentials};

/// A session is not renewed more often (Kafka's own bound).
const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// A SASL mechanism that the mock speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mechanism {
    /// RFC 4616: name and password as they are.
    Plain,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802 with SHA-512.
    ScramSha512,
    /// RFC 7628: a bearer token.
    OauthBearer,
}

impl Mechanism {
    const ALL: [Self; 4] = [
        Self::Plain,
        Self::ScramSha256,
        Self::ScramSha512,
        Self::OauthBearer,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// Who may connect and how; for [`MockClusterBuilder::sasl`](crate::MockClusterBuilder::sasl).
#[derive(Clone)]
#[must_use]
pub struct Sasl {
    mechanisms: Vec<Mechanism>,
    users: BTreeMap<String, String>,
    tokens: Vec<String>,
    iterations: u32,
    session: Option<Duration>,
    forgets_passwords: bool,
    credentials: Arc<Mutex<Credentials>>,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl")
            .field("mechanisms", &self.mechanisms)
            .field("users", &self.users.keys())
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Default for Sasl {
    fn default() -> Self {
        Self::new()
    }
}

impl Sasl {
    /// Every mechanism, and nobody who may use one.
    pub fn new() -> Self {
        Self {
            mechanisms: Mechanism::ALL.to_vec(),
            users: BTreeMap::new(),
            tokens: Vec::new(),
            iterations: 4096,
            session: None,
            forgets_passwords: false,
            credentials: Arc::default(),
        }
    }

    /// Somebody with a password, for PLAIN and SCRAM.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.insert(name.to_owned(), password.to_owned());
        self
    }

    /// A token that OAUTHBEARER takes.
    pub fn token(mut self, token: &str) -> Self {
        self.tokens.push(token.to_owned());
        self
    }

    /// Only these mechanisms (`sasl.enabled.mechanisms`).
    pub fn mechanisms(mut self, mechanisms: &[Mechanism]) -> Self {
        self.mechanisms = mechanisms.to_vec();
        self
    }

    /// How many iterations SCRAM asks for. Default 4,096; nothing checks the number, so that a test
    /// can ask for one that no client should take.
    pub fn iterations(mut self, count: u32) -> Self {
        self.iterations = count;
        self
    }

    /// How long a session lasts (`connections.max.reauth.ms`). Default for ever. Kafka, and the
    /// mock, renew none within a second of its beginning.
    pub fn session_lifetime(mut self, lifetime: Duration) -> Self {
        self.session = Some(lifetime);
        self
    }

    /// A server that takes every password and, with SCRAM, cannot show that it knows it: an
    /// impostor.
    pub fn impostor(mut self) -> Self {
        self.forgets_passwords = true;
        self
    }
}

impl Sasl {
    /// What SCRAM keeps of a user's password: made once, as a broker does when the user is added.
    fn credential(&self, mechanism: Mechanism, user: &str) -> Option<Credential> {
        let password = self.users.get(user)?;
        let mut credentials = self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(credentials.of(mechanism, self.iterations, user, password))
    }
}

/// Where one connection stands.
#[derive(Debug)]
enum State {
    /// Nothing is asked for, or everything was given.
    Open {
        /// With SASL: as whom, by what and since when.
        identity: Option<Identity>,
    },
    /// Before the handshake.
    Fresh,
    /// After the handshake; `renews` is what the session was before.
    Exchanging {
        exchange: Exchange,
        renews: Option<Identity>,
    },
    /// Refused: the answer is sent, then the connection ends.
    Over,
}

#[derive(Clone, Debug)]
struct Identity {
    principal: String,
    mechanism: Mechanism,
    since: Instant,
    until: Option<Instant>,
}

/// What SaslHandshake is answered.
pub(crate) struct Shaken {
    pub(crate) code: i16,
    pub(crate) mechanisms: Vec<&'static str>,
}

/// What SaslAuthenticate is answered.
#[derive(Debug, Default)]
pub(crate) struct Authenticated {
    pub(crate) code: i16,
    pub(crate) message: Option<String>,
    pub(crate) bytes: Bytes,
    pub(crate) lifetime_ms: i64,
}

/// One connection's side of SASL.
#[derive(Debug)]
pub(crate) struct Session {
    sasl: Option<Arc<Sasl>>,
    state: Mutex<State>,
}

impl Session {
    pub(crate) fn new(sasl: Option<Arc<Sasl>>) -> Self {
        let state = match sasl {
            Some(_) => State::Fresh,
            None => State::Open { identity: None },
        };
        Self {
            sasl,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this request may be looked at; the connection is closed where not.
    pub(crate) fn admits(&self, api: ApiKey) -> bool {
        match &*self.state() {
            State::Open { identity } => {
                let end = identity.as_ref().and_then(|identity| identity.until);
                api == ApiKey::SaslHandshake || end.is_none_or(|end| Instant::now() < end)
            }
            State::Fresh => matches!(api, ApiKey::ApiVersions | ApiKey::SaslHandshake),
            State::Exchanging { .. } => api == ApiKey::SaslAuthenticate,
            State::Over => false,
        }
    }

    /// Whether the connection ends behind the answer that was given last.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.state(), State::Over)
    }

    pub(crate) fn handshake(&self, mechanism: &str) -> Shaken {
        let mut state = self.state();
        let refused = |code| Shaken {
            code,
            mechanisms: Vec::new(),
        };
        let Some(sasl) = &self.sasl else {
            return refused(codes::ILLEGAL_SASL_STATE);
        };
        let renews = match &*state {
            State::Open { identity } => identity.clone(),
            _ => None,
        };
        if renews
            .as_ref()
            .is_some_and(|identity| identity.since.elapsed() < RENEWAL_MIN)
        {
            return refused(codes::ILLEGAL_SASL_STATE);
        }
        let offered: Vec<_> = sasl.mechanisms.iter().map(|offer| offer.name()).collect();
        let found = sasl
            .mechanisms
            .iter()
            .find(|offer| offer.name() == mechanism);
        let may = |found: &&Mechanism| renews.as_ref().is_none_or(|was| was.mechanism == **found);
        let Some(found) = found.copied().filter(|found| may(&found)) else {
            *state = State::Over;
            return Shaken {
                code: codes::UNSUPPORTED_SASL_MECHANISM,
                mechanisms: offered,
            };
        };
        let exchange = Exchange::new(found);
        *state = State::Exchanging { exchange, renews };
        Shaken {
            code: codes::NONE,
            mechanisms: offered,
        }
    }

    pub(crate) fn authenticate(&self, token: &[u8]) -> Authenticated {
        let mut state = self.state();
        let (Some(sasl), State::Exchanging { exchange, renews }) = (&self.sasl, &mut *state) else {
            return Authenticated {
                code: codes::ILLEGAL_SASL_STATE,
                message: Some("SaslAuthenticate without a handshake".to_owned()),
                ..Authenticated::default()
            };
        };
        let mechanism = exchange.mechanism();
        let refused = |message: String| Authenticated {
            code: codes::SASL_AUTHENTICATION_FAILED,
            message: Some(message),
            ..Authenticated::default()
        };
        match exchange.step(sasl, token) {
            Step::Continue(bytes) => Authenticated {
                bytes: bytes.into(),
                ..Authenticated::default()
            },
            Step::Done { principal, bytes } => {
                if renews
                    .as_ref()
                    .is_some_and(|was| was.principal != principal)
                {
                    *state = State::Over;
                    return refused("a session cannot be renewed as somebody else".to_owned());
                }
                let now = Instant::now();
                let identity = Identity {
                    principal,
                    mechanism,
                    since: now,
                    until: sasl.session.map(|lifetime| now + lifetime),
                };
                *state = State::Open {
                    identity: Some(identity),
                };
                let lifetime = sasl.session.unwrap_or_default().as_millis();
                Authenticated {
                    bytes: bytes.into(),
                    lifetime_ms: i64::try_from(lifetime).unwrap_or(i64::MAX),
                    ..Authenticated::default()
                }
            }
            Step::Refused(message) => {
                *state = State::Over;
                refused(message)
            }
        }
    }
}
