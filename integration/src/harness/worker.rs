//! Worker processes: programs of ours that a scenario starts, listens to and kills.

use super::HarnessError;
use super::guard::Guard;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Lines kept of one worker; the oldest go first.
const LINES_MAX: usize = 100_000;

/// Another program of this package, built beside the one that runs.
///
/// # Errors
/// `Io` if it is not there: `cargo build -p ottla-integration --bins` makes it.
pub fn own_program(name: &str) -> Result<PathBuf, HarnessError> {
    let exe = std::env::current_exe().map_err(HarnessError::io("find this program"))?;
    let beside = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name));
    let found = beside.into_iter().find(|path| path.is_file());
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    found.ok_or_else(|| HarnessError::Io {
        doing: format!("find {name} beside {}", exe.display()),
        source: missing(),
    })
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    name: String,
    child: Child,
    output: Arc<Output>,
    _guard: Guard,
    readers: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<Lines>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<String>,
    dropped: u64,
    /// Lines that a wait has passed, counted from the first one ever.
    passed: u64,
    open_pipes: u8,
    log: Option<File>,
}

impl Worker {
    /// Starts a program with piped output. Lines of standard error are kept with `! ` before them.
    ///
    /// # Errors
    /// `Spawn` if it does not start.
    pub fn spawn(name: impl Into<String>, command: Command) -> Result<Self, HarnessError> {
        Self::spawn_noting(name.into(), command, None)
    }

    /// As [`spawn`](Self::spawn), and appends the output to `folder/NAME.log` as it comes, so that it
    /// outlives this value.
    ///
    /// # Errors
    /// `Spawn` if it does not start; `Io` if the file cannot be opened.
    pub fn spawn_logged(
        name: impl Into<String>,
        command: Command,
        folder: &Path,
    ) -> Result<Self, HarnessError> {
        let name = name.into();
        let path = folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(HarnessError::io(format!("open {}", path.display())))?;
        Self::spawn_noting(name, command, Some(log))
    }

    fn spawn_noting(
        name: String,
        mut command: Command,
        log: Option<File>,
    ) -> Result<Self, HarnessError> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child =
            command
                .kill_on_drop(true)
                .spawn()
                .map_err(|source| HarnessError::Spawn {
                    program: name.clone(),
                    source,
                })?;
        let guard = Guard::of(&child)?;
        let output = Arc::new(Output::default());
        output.with(|lines| {
            lines.open_pipes = 2;
            lines.log = log;
        });
        let mut readers = JoinSet::new();
        if let Some(stdout) = child.stdout.take() {
            readers.spawn(collect(stdout, "", output.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.spawn(collect(stderr, "! ", output.clone()));
        }
        Ok(Self {
            name,
            child,
            output,
            _guard: guard,
            readers,
        })
    }

    /// The name that errors use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for a line that `wanted` accepts, beginning after the line that the last wait ended
    /// with, and gives it back.
    ///
    /// # Errors
    /// `TimedOut` after `within`; `Ended` if the worker closed its output without such a line.
    pub async fn wait_line(
        &self,
        wanted: impl Fn(&str) -> bool,
        within: Duration,
    ) -> Result<String, HarnessError> {
        let found = tokio::time::timeout(within, self.next_match(wanted)).await;
        match found {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(HarnessError::Ended {
                program: self.name.clone(),
                status: "its output closed".to_owned(),
                tail: self.tail(40),
            }),
            Err(_) => Err(HarnessError::TimedOut {
                what: format!("the line of {}", self.name),
                within,
                tail: self.tail(40),
            }),
        }
    }

    async fn next_match(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        loop {
            let changed = self.output.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a line in between is not missed.
            changed.as_mut().enable();
            let (found, closed) = self
                .output
                .with(|lines| (lines.take(&wanted), lines.open_pipes == 0));
            if found.is_some() || closed {
                return found;
            }
            changed.await;
        }
    }

    /// All lines that are kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.output
            .with(|lines| lines.kept.iter().cloned().collect())
    }

    /// The last `count` lines.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// SIGTERM: asks it to stop.
    ///
    /// # Errors
    /// `Io` if it has ended already.
    pub fn terminate(&self) -> Result<(), HarnessError> {
        self.signal(Signal::TERM)
    }

    /// SIGINT, as Ctrl-C sends it.
    ///
    /// # Errors
    /// `Io` if it has ended already.
    pub fn interrupt(&self) -> Result<(), HarnessError> {
        self.signal(Signal::INT)
    }

    /// SIGSTOP: it stands still, and its connections stay open.
    ///
    /// # Errors
    /// `Io` if it has ended already.
    pub fn freeze(&self) -> Result<(), HarnessError> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// `Io` if it has ended already.
    pub fn thaw(&self) -> Result<(), HarnessError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), HarnessError> {
        let doing = format!("signal {}", self.name);
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let sent = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| kill_process(pid, signal));
        sent.map_err(|error| HarnessError::io(doing)(error.into()))
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// `Io` if it cannot be killed.
    pub async fn kill9(&mut self) -> Result<(), HarnessError> {
        let doing = format!("kill {}", self.name);
        self.child.kill().await.map_err(HarnessError::io(doing))
    }

    /// Waits until it ends and all of its output is read.
    ///
    /// # Errors
    /// `TimedOut` after `within`; it runs on.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, HarnessError> {
        let ended = tokio::time::timeout(within, async {
            let status = self.child.wait().await;
            while self.readers.join_next().await.is_some() {}
            status
        });
        match ended.await {
            Ok(status) => status.map_err(HarnessError::io(format!("wait for {}", self.name))),
            Err(_) => Err(HarnessError::TimedOut {
                what: format!("the end of {}", self.name),
                within,
                tail: self.tail(40),
            }),
        }
    }
}

impl Output {
    fn with<T>(&self, change: impl FnOnce(&mut Lines) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lines {
    fn push(&mut self, line: String) {
        if let Some(log) = &mut self.log
            && let Err(error) = writeln!(log, "{line}")
        {
            eprintln!("the log of a worker ends here: {error}");
            self.log = None;
        }
        if self.kept.len() == LINES_MAX {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(line);
    }

    fn take(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let skip = self.passed.saturating_sub(self.dropped) as usize;
        let at = self.kept.iter().skip(skip).position(|line| wanted(line))? + skip;
        self.passed = self.dropped + at as u64 + 1;
        self.kept.get(at).cloned()
    }
}

async fn collect(pipe: impl AsyncRead + Unpin, mark: &str, output: Arc<Output>) {
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = format!("{mark}{}", String::from_utf8_lossy(&line));
        output.with(|lines| lines.push(line));
        output.changed.notify_waiters();
    }
    output.with(|lines| lines.open_pipes -= 1);
    output.changed.notify_waiters();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Worker {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Worker::spawn("sh", command).unwrap()
    }

    #[tokio::test]
    async fn lines_are_waited_for_in_order() {
        let mut worker = shell("echo one; echo two; echo one; echo bad >&2; exit 3");
        assert_eq!(
            worker.wait_line(|line| line == "one", SOON).await.unwrap(),
            "one"
        );
        worker.wait_line(|line| line == "two", SOON).await.unwrap();
        worker.wait_line(|line| line == "one", SOON).await.unwrap();
        assert_eq!(worker.wait(SOON).await.unwrap().code(), Some(3));
        assert!(worker.lines().contains(&"! bad".to_owned()));
        let missing = worker.wait_line(|line| line == "three", SOON).await;
        assert!(
            matches!(missing, Err(HarnessError::Ended { .. })),
            "{missing:?}"
        );
    }

    #[tokio::test]
    async fn a_line_that_does_not_come_is_given_up() {
        let worker = shell("echo up; exec sleep 60");
        let missing = worker
            .wait_line(|line| line == "x", Duration::from_millis(50))
            .await;
        assert!(
            matches!(missing, Err(HarnessError::TimedOut { .. })),
            "{missing:?}"
        );
    }

    #[tokio::test]
    async fn signals_reach_the_worker() {
        let mut worker =
            shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        worker.wait_line(|line| line == "up", SOON).await.unwrap();
        worker.terminate().unwrap();
        assert!(worker.wait(SOON).await.unwrap().success());
        worker.wait_line(|line| line == "bye", SOON).await.unwrap();
        assert!(worker.terminate().is_err());
    }

    #[tokio::test]
    async fn a_killed_worker_is_gone() {
        let mut worker = shell("echo up; exec sleep 60");
        worker.wait_line(|line| line == "up", SOON).await.unwrap();
        worker.kill9().await.unwrap();
        assert_eq!(worker.wait(SOON).await.unwrap().signal(), Some(9));
    }
}
