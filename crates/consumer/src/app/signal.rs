//! The signals that ask a process to end.

use std::io;

/// Resolves when the process gets SIGINT (Ctrl-C) or SIGTERM; on other systems than Unix, Ctrl-C.
///
/// From the first call on, the signals no longer end the process by themselves.
///
/// # Errors
/// When the signal handler cannot be installed.
pub async fn shutdown_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
