//! Where the tokens of OAUTHBEARER come from.

use super::Secret;
use ottla_types::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// Any error of a token source.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// A bearer token (RFC 6750) with the extensions that go with it (KIP-342).
#[derive(Debug, Clone)]
pub struct OauthToken {
    pub(crate) token: Secret,
    pub(crate) extensions: Vec<(String, String)>,
}

impl OauthToken {
    /// A token as the authorization server gave it.
    pub fn new(token: impl Into<Secret>) -> Self {
        Self {
            token: token.into(),
            extensions: Vec::new(),
        }
    }

    /// Adds an extension: a name of ASCII letters (not `auth`) and a value of printable ASCII.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.extensions.push((name.into(), value.into()));
        self
    }
}

/// Gives a token for each authentication: at every connection, and again before its session ends.
///
/// Implemented by every function without arguments that returns a future. A source that asks a
/// server each time is slow at a reconnect: it should keep a token until shortly before it expires.
/// The future is dropped when the connect timeout passes.
pub trait TokenSource: Send + Sync + 'static {
    /// A token that is valid now.
    fn token(&self) -> BoxFuture<'_, Result<OauthToken, TokenError>>;
}

impl<F, R> TokenSource for F
where
    F: Fn() -> R + Send + Sync + 'static,
    R: Future<Output = Result<OauthToken, TokenError>> + Send + 'static,
{
    fn token(&self) -> BoxFuture<'_, Result<OauthToken, TokenError>> {
        Box::pin(self())
    }
}

/// A shared [`TokenSource`]. Equal to its own clones only.
#[derive(Clone)]
pub struct OauthTokens(pub(crate) Arc<dyn TokenSource>);

impl OauthTokens {
    /// Shares `source`.
    pub fn new(source: impl TokenSource) -> Self {
        Self(Arc::new(source))
    }
}

impl fmt::Debug for OauthTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OauthTokens(..)")
    }
}

impl PartialEq for OauthTokens {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OauthTokens {}
