//! What can go wrong before a scenario even begins.

use std::path::PathBuf;
use std::time::Duration;

/// A failure of the harness, not of the product.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// A program could not be started.
    #[error("{program} did not start")]
    Spawn {
        /// What was to be run.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A program ended that should not have, or ended badly.
    #[error("{program} ended: {status}\n{tail}")]
    Ended {
        /// What ran.
        program: String,
        /// Its exit status.
        status: String,
        /// The last lines that it wrote.
        tail: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s\n{tail}", within.as_secs_f32())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// The last lines of the log that may say why.
        tail: String,
    },
    /// The Kafka jars are not here and may not be fetched.
    #[error(
        "Kafka {version} is not in {}; `cargo xtask e2e --provision` fetches it, with Maven",
        folder.display()
    )]
    NoJars {
        /// The version that is missing.
        version: String,
        /// Where it is kept.
        folder: PathBuf,
    },
    /// Files or sockets failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A node number that the cluster does not have, or a node in the wrong state.
    #[error("node {node}: {problem}")]
    Node {
        /// The node, from 0.
        node: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl HarnessError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
