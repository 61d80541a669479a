//! Proves to a broker who we are: SaslHandshake, then tokens in SaslAuthenticate (KIP-152), and the
//! same again before the session ends (KIP-368).
//!
//! What must hold: credentials that are refused are an error of kind `Authorization`, which nothing
//! tries again; while a session is renewed nothing else is on the connection, because the broker
//! reads whatever comes as part of it.

mod messages;
mod oauth;
mod scram;

#[cfg(test)]
mod tests;

use super::exchange::Closed;
use super::{ConnectCause, Handle, connect_error};
use crate::security::{OauthTokens, SaslMechanism, Secret, SecurityConfig, TokenError};
use crate::{Error, ErrorKind};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::ErrorCode;
use scram::{Hash, Scram, ScramError};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const AUTHENTICATE: &str = "SaslAuthenticate";
/// A broker does not renew a session more often; it is also what a lifetime of nothing costs.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// What is kept of a broker's text for an error.
const TEXT_CHARS_MAX: usize = 500;

/// Why a broker and this client did not come together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaslError {
    #[error("the broker does not offer {mechanism}; it offers: {offered}")]
    NotOffered {
        mechanism: SaslMechanism,
        offered: String,
    },
    #[error("the port does not expect SASL: is security.protocol right?")]
    NotExpected,
    #[error("the broker refused the credentials: {0}")]
    Refused(String),
    #[error("the broker did not authenticate itself")]
    Scram(#[source] ScramError),
    #[error("the broker asks for more than {0} has to say")]
    Unfinished(SaslMechanism),
    #[error("the token source failed")]
    TokenSource(#[source] TokenError),
    #[error("the token cannot be sent: {0}")]
    Token(&'static str),
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("the computation of the proof was given up")]
    GivenUp,
}

impl SaslError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotOffered { .. } | Self::NotExpected => ErrorKind::Unsupported,
            Self::Refused(_) | Self::Scram(_) | Self::Unfinished(_) | Self::Token(_) => {
                ErrorKind::Authorization
            }
            // These may pass.
            Self::TokenSource(_) | Self::Random(_) | Self::GivenUp => ErrorKind::Connect,
        }
    }
}

/// The credentials of all connections of a client.
#[derive(Debug, Clone)]
pub(crate) enum Sasl {
    Password {
        mechanism: SaslMechanism,
        username: String,
        password: Secret,
    },
    Tokens(OauthTokens),
}

impl Sasl {
    /// The credentials of a configuration that was validated; `None` without SASL.
    pub(super) fn of(security: &SecurityConfig) -> Option<Self> {
        if !security.protocol.is_sasl() {
            return None;
        }
        if let Some(tokens) = &security.oauth
            && security.mechanism == Some(SaslMechanism::OauthBearer)
        {
            return Some(Self::Tokens(tokens.clone()));
        }
        Some(Self::Password {
            mechanism: security.mechanism?,
            username: security.username.clone()?,
            password: security.password.clone()?,
        })
    }

    fn mechanism(&self) -> SaslMechanism {
        match self {
            Self::Password { mechanism, .. } => *mechanism,
            Self::Tokens(_) => SaslMechanism::OauthBearer,
        }
    }

    /// Authenticates, or does so again, on a connection on which nothing else goes on. Gives the
    /// time after which the session must be renewed, if it ends.
    pub(super) async fn authenticate(
        &self,
        handle: &Handle,
        deadline: Instant,
    ) -> Result<Option<Duration>, Error> {
        let start = Instant::now();
        self.shake_hands(handle, deadline).await?;
        let exchange = Exchange { handle, deadline };
        let answer = match self {
            Self::Password {
                mechanism: SaslMechanism::ScramSha256,
                username,
                password,
            } => exchange.scram(Hash::Sha256, username, password).await?,
            Self::Password {
                mechanism: SaslMechanism::ScramSha512,
                username,
                password,
            } => exchange.scram(Hash::Sha512, username, password).await?,
            Self::Password {
                username, password, ..
            } => {
                let message = format!("\0{username}\0{}", password.reveal());
                exchange.send(message.into_bytes()).await?
            }
            Self::Tokens(tokens) => exchange.token(tokens).await?,
        };
        tracing::debug!(
            broker = &*handle.broker,
            mechanism = %self.mechanism(),
            lifetime_ms = answer.session_lifetime_ms,
            "authenticated"
        );
        Ok(renewal_after(answer.session_lifetime_ms)
            .map(|after| after.saturating_sub(start.elapsed()).max(RENEWAL_MIN)))
    }

    async fn shake_hands(&self, handle: &Handle, deadline: Instant) -> Result<(), Error> {
        let mechanism = self.mechanism();
        let request = SaslHandshakeRequest::default()
            .with_mechanism(StrBytes::from_static_str(mechanism.name()));
        let answer = handle
            .ask(request, deadline)
            .await
            .map_err(lost_on_the_way)?;
        let refused = match ErrorCode(answer.error_code) {
            ErrorCode::NONE => return Ok(()),
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
                SaslError::NotOffered {
                    mechanism,
                    offered: printable(&offered.join(", ")),
                }
            }
            ErrorCode::ILLEGAL_SASL_STATE => SaslError::NotExpected,
            code => {
                return Err(Error::from_code(code, "SaslHandshake").with_broker(&*handle.broker));
            }
        };
        Err(handle
            .error(refused.kind(), "SaslHandshake")
            .with_source(refused))
    }
}

/// What goes on over one connection after the handshake.
struct Exchange<'a> {
    handle: &'a Handle,
    deadline: Instant,
}

impl Exchange<'_> {
    fn error(&self, cause: SaslError) -> Error {
        self.handle
            .error(cause.kind(), AUTHENTICATE)
            .with_source(cause)
    }

    async fn send(&self, message: Vec<u8>) -> Result<SaslAuthenticateResponse, Error> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
        let answer = self
            .handle
            .ask(request, self.deadline)
            .await
            .map_err(lost_on_the_way)?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => Ok(answer),
            code => {
                let said = answer
                    .error_message
                    .as_deref()
                    .unwrap_or("without a reason");
                Err(Error::from_code(code, AUTHENTICATE)
                    .with_broker(&*self.handle.broker)
                    .with_source(SaslError::Refused(printable(said))))
            }
        }
    }

    async fn scram(
        &self,
        hash: Hash,
        username: &str,
        password: &Secret,
    ) -> Result<SaslAuthenticateResponse, Error> {
        let nonce = nonce().map_err(|cause| self.error(SaslError::Random(cause)))?;
        let scram = Scram::new(hash, username, password.clone(), nonce);
        let first = self.send(scram.first_message()).await?;
        // Up to a second of hashing: not on a thread that others wait for.
        let answered = tokio::task::spawn_blocking(move || scram.answer(&first.auth_bytes)).await;
        let (message, proof) = answered
            .map_err(|_| self.error(SaslError::GivenUp))?
            .map_err(|cause| self.error(SaslError::Scram(cause)))?;
        let last = self.send(message).await?;
        proof
            .verify(&last.auth_bytes)
            .map_err(|cause| self.error(SaslError::Scram(cause)))?;
        Ok(last)
    }

    async fn token(&self, tokens: &OauthTokens) -> Result<SaslAuthenticateResponse, Error> {
        let given = timeout_at(self.deadline, tokens.0.token()).await;
        let token = given
            .map_err(|_| self.handle.error(ErrorKind::TimedOut, "the token source"))?
            .map_err(|cause| self.error(SaslError::TokenSource(cause)))?;
        let message =
            oauth::first_message(&token).map_err(|why| self.error(SaslError::Token(why)))?;
        let answer = self.send(message).await?;
        if answer.auth_bytes.is_empty() {
            return Ok(answer);
        }
        // The server says why it refuses and waits for a word before it fails (RFC 7628, 3.2.3).
        let why = printable(&String::from_utf8_lossy(&answer.auth_bytes));
        match self.send(oauth::GIVING_UP.to_vec()).await {
            Err(error) if error.kind() == ErrorKind::Authorization => Err(Error::from_code(
                ErrorCode::SASL_AUTHENTICATION_FAILED,
                AUTHENTICATE,
            )
            .with_broker(&*self.handle.broker)
            .with_source(SaslError::Refused(why))),
            Err(error) => Err(error),
            Ok(_) => Err(self.error(SaslError::Unfinished(SaslMechanism::OauthBearer))),
        }
    }
}

/// Renews a connection's session for as long as somebody holds the connection. A session that
/// cannot be renewed takes its connection with it: the next one says why.
pub(super) async fn keep_session(
    sasl: Arc<Sasl>,
    handle: Weak<Handle>,
    closed: Closed,
    mut after: Duration,
    time_limit: Duration,
) {
    loop {
        tokio::select! {
            () = closed.connection.cancelled() => return,
            () = sleep(after) => {}
        }
        let Some(handle) = handle.upgrade() else {
            return;
        };
        let renewed = tokio::select! {
            () = closed.connection.cancelled() => return,
            renewed = renew(&sasl, &handle, time_limit) => renewed,
        };
        match renewed {
            Ok(Some(next)) => after = next,
            Ok(None) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    broker = &*handle.broker,
                    error,
                    "the session was not renewed, the connection is closed"
                );
                closed.connection.cancel();
                return;
            }
        }
    }
}

async fn renew(
    sasl: &Sasl,
    handle: &Handle,
    time_limit: Duration,
) -> Result<Option<Duration>, Error> {
    // Every request that is under way has a time limit, so this comes.
    let _alone = handle.gate.write().await;
    let renewed = sasl.authenticate(handle, Instant::now() + time_limit).await;
    let outcome = if renewed.is_ok() { "ok" } else { "error" };
    metrics::counter!("ottla_client_reauthentications_total", "outcome" => outcome).increment(1);
    renewed
}

/// 85 to 95 % of a session's time, so that not all connections are renewed at once.
fn renewal_after(lifetime_ms: i64) -> Option<Duration> {
    let lifetime_ms = u64::try_from(lifetime_ms).ok().filter(|ms| *ms > 0)?;
    // Far enough away for a session without an end.
    let lifetime_ms = lifetime_ms.min(365 * 86_400_000);
    let percent = fastrand::u64(85..=95);
    Some(Duration::from_millis(lifetime_ms * percent / 100))
}

/// A connection that ends, or falls silent, before authentication is through was never made.
fn lost_on_the_way(error: Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionLost | ErrorKind::TimedOut => {
            connect_error(ConnectCause::Authentication(error))
        }
        _ => error,
    }
}

/// 144 random bits of the system, without commas.
fn nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A broker's text as one line that is not too long.
fn printable(text: &str) -> String {
    text.chars()
        .take(TEXT_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
