//! Kills a child process when the harness dies without dropping anything, as after kill -9.
//!
//! A guard is a small shell that waits on a pipe whose other end the harness holds. The kernel
//! closes the pipe when the harness ends, however it ends; the shell then kills the child. A guard
//! that is dropped is killed itself, and its child is left to whoever holds that.

use super::HarnessError;
use std::process::Stdio;
use tokio::process::{Child, Command};

#[derive(Debug)]
pub(crate) struct Guard {
    _shell: Child,
}

impl Guard {
    /// Must be made while the child is not yet reaped, so that the number is still its own.
    pub(crate) fn of(child: &Child) -> Result<Self, HarnessError> {
        let pid = child.id().map(|id| id.to_string()).unwrap_or_default();
        let shell = Command::new("sh")
            .args(["-c", "read -r _ || kill -9 \"$1\"", "guard", &pid])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| HarnessError::Spawn {
                program: "sh".to_owned(),
                source,
            })?;
        Ok(Self { _shell: shell })
    }
}
