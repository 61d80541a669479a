//! What a connection goes through before it is used: TLS, and proof of who we are.

use super::sasl::Sasl;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{ConnectCause, Handle};
use crate::Error;
use crate::security::SecurityConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Secures the connections of one client. The default leaves them as they are.
#[derive(Debug, Default)]
pub(crate) struct Security {
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    sasl: Option<Arc<Sasl>>,
}

/// A socket as the driver gets it.
pub(super) enum Wire {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Security {
    /// Checks the settings and reads the files that they name.
    pub(crate) async fn prepare(config: &SecurityConfig) -> Result<Self, Error> {
        config.validate()?;
        #[cfg(feature = "tls")]
        let tls =
            if config.protocol.is_tls() {
                let config = config.clone();
                let prepared = tokio::task::spawn_blocking(move || Tls::prepare(&config)).await;
                Some(prepared.map_err(|gone| {
                    Error::new(crate::ErrorKind::Closed, "TLS").with_source(gone)
                })??)
            } else {
                None
            };
        Ok(Self {
            #[cfg(feature = "tls")]
            tls,
            sasl: Sasl::of(config).map(Arc::new),
        })
    }

    /// Encrypts the stream to `address` (`host:port`), if it is to be.
    pub(super) async fn wire(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> Result<Wire, ConnectCause> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let stream = tls.handshake(address, stream).await?;
            return Ok(Wire::Tls(Box::new(stream)));
        }
        #[cfg(not(feature = "tls"))]
        let _ = address;
        Ok(Wire::Plain(stream))
    }

    /// Authenticates, if there is a way to. A session with an end comes with what renews it.
    pub(super) async fn authenticate(
        &self,
        handle: &Handle,
        deadline: Instant,
    ) -> Result<Option<(Arc<Sasl>, Duration)>, Error> {
        let Some(sasl) = &self.sasl else {
            return Ok(None);
        };
        let renew_after = sasl.authenticate(handle, deadline).await?;
        Ok(renew_after.map(|after| (sasl.clone(), after)))
    }
}
