//! Runs a program of the user's: its input, its output line by line, its end.
//!
//! **Guarantees.** The program gets the environment that it is called with and no more. It is a process
//! group of its own; whoever stops waiting for it (a timeout, a stop, the end of the daemon) ends the
//! whole group. What it writes is read without a bound on how much, and kept within one: it can neither
//! block on a full pipe nor fill the log.
//!
//! **Not handled.** A process that has left the group. A daemon that is killed leaves the program to
//! whoever killed it: systemd ends the whole unit, and a container ends with its first process.

mod lines;

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use self::lines::Lines;
pub use self::lines::{MAX_LINE_BYTES, MAX_LINES};
use crate::runtime::stop::{Stop, StopReason};

/// A program that is asked to end (SIGTERM) has this long before it is killed.
pub const TIME_TO_END: Duration = Duration::from_secs(5);

/// How often it is looked whether a group that is to end has ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// After a program's end its output is waited for this long: what it left running may hold the pipe.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Where a program finds others, whatever the daemon's own path is.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program is run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The program's file.
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// Names of variables that it is given from the daemon's environment, where they are set there.
    pub pass_environment: Vec<String>,
    /// Further variables.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads from its standard input.
    pub input: String,
    /// How long it may run.
    pub timeout: Duration,
    /// How long it may go on once the daemon is stopping.
    pub after_stop: Duration,
    /// How long it has between SIGTERM and SIGKILL then; after a timeout it has [`TIME_TO_END`].
    pub time_to_end: Duration,
}

/// Why a file cannot be run, as far as it tells without being run.
#[derive(Debug, thiserror::Error)]
pub enum NotRunnable {
    /// There is none, or it cannot be seen.
    #[error("cannot be looked at")]
    Unseen(#[source] io::Error),
    /// It is a directory, or something else.
    #[error("is no file")]
    NoFile,
    /// Nobody may execute it.
    #[error("is not executable")]
    NotExecutable,
}

/// Looks whether a program's file is there and executable, on this machine.
///
/// # Errors
/// [`NotRunnable`] if it is not; completes a sentence that begins with the path.
pub fn look(path: &Path) -> Result<(), NotRunnable> {
    let file = std::fs::metadata(path).map_err(NotRunnable::Unseen)?;
    if !file.is_file() {
        Err(NotRunnable::NoFile)
    } else if file.permissions().mode() & 0o111 == 0 {
        Err(NotRunnable::NotExecutable)
    } else {
        Ok(())
    }
}

/// How a program came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// It ran for longer than it may.
    TimedOut,
    /// Waiting for it was given up.
    Stopped(StopReason),
}

/// Which of its two outputs a program wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Told each line that a program writes. The text is at most [`MAX_LINE_BYTES`] long; of each output at
/// most [`MAX_LINES`] lines are told, and then how many more there were.
pub type Listener<'a> = &'a (dyn Fn(Output, &str) + Send + Sync);

#[async_trait]
pub trait Programs: Send + Sync + fmt::Debug {
    /// Runs one to its end. A stop ends it; one for a shutdown only after [`Invocation::after_stop`].
    ///
    /// # Errors
    /// If it cannot be started or waited for.
    async fn run(
        &self,
        invocation: &Invocation,
        stop: &Stop,
        told: Listener<'_>,
    ) -> io::Result<Finish>;
}

/// Runs programs as processes of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processes;

#[async_trait]
impl Programs for Processes {
    async fn run(
        &self,
        invocation: &Invocation,
        stop: &Stop,
        told: Listener<'_>,
    ) -> io::Result<Finish> {
        let mut child = start(invocation)?;
        let mut group = Group::of(&child);
        let (input, output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut input) = input {
                // A program that does not care for its input closes it.
                let _ = input.write_all(invocation.input.as_bytes()).await;
            }
        };
        let talk = async {
            tokio::join!(
                feed,
                read(output, Output::Stdout, told),
                read(errors, Output::Stderr, told)
            );
        };
        tokio::pin!(talk);
        let mut talked = false;
        let limit = tokio::time::sleep(invocation.timeout);
        let told_to_end = told_to_end(stop, invocation.after_stop);
        tokio::pin!(limit, told_to_end);
        let finish = loop {
            tokio::select! {
                biased;
                status = child.wait() => {
                    let status = status?;
                    break match (status.code(), status.signal()) {
                        (Some(code), _) => Finish::Exited(code),
                        (None, signal) => Finish::Signalled(signal.unwrap_or_default()),
                    };
                }
                () = &mut talk, if !talked => talked = true,
                reason = &mut told_to_end => break Finish::Stopped(reason),
                () = &mut limit => break Finish::TimedOut,
            }
        };
        let time_to_end = match finish {
            Finish::Exited(_) | Finish::Signalled(_) => {
                if talked || tokio::time::timeout(LAST_OUTPUT, &mut talk).await.is_ok() {
                    group.is_gone();
                }
                return Ok(finish);
            }
            Finish::TimedOut => TIME_TO_END,
            Finish::Stopped(StopReason::ShuttingDown) => invocation.time_to_end,
            Finish::Stopped(_) => TIME_TO_END,
        };
        // It is listened to until its end: a full pipe must not keep it from ending.
        let ending = group.end(&mut child, time_to_end);
        tokio::pin!(ending);
        tokio::select! {
            biased;
            ended = &mut ending => ended?,
            () = &mut talk, if !talked => ending.await?,
        }
        Ok(finish)
    }
}

fn start(invocation: &Invocation) -> io::Result<Child> {
    let passed = invocation
        .pass_environment
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    Command::new(&invocation.path)
        .args(&invocation.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(passed)
        .envs(
            invocation
                .environment
                .iter()
                .map(|(name, value)| (*name, value)),
        )
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Waits until a program is to be ended.
async fn told_to_end(stop: &Stop, after_stop: Duration) -> StopReason {
    let reason = stop.stopped().await;
    if reason == StopReason::ShuttingDown {
        tokio::time::sleep(after_stop).await;
    }
    reason
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, output: Output, told: Listener<'_>) {
    let Some(mut pipe) = pipe else { return };
    let mut lines = Lines::default();
    let mut chunk = [0; 4096];
    // A pipe that cannot be read is one at its end.
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        lines.push(&chunk[..count], |line| told(output, line));
    }
    lines.end(|line| told(output, line));
}

/// A program's process group, which is killed with whoever waits for it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // One that is gone needs no signal.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Asks the group to end, and kills what is left of it after a while.
    async fn end(&mut self, child: &mut Child, within: Duration) -> io::Result<()> {
        self.signal(Signal::TERM);
        let all_end = async {
            child.wait().await?;
            // Those that the program had started may take longer than it.
            while self.is_there() {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            io::Result::Ok(())
        };
        match tokio::time::timeout(within, all_end).await {
            Ok(ended) => ended?,
            Err(_) => {
                self.signal(Signal::KILL);
                child.wait().await?;
            }
        }
        self.is_gone();
        Ok(())
    }

    /// Whether a process of the group is left.
    fn is_there(&self) -> bool {
        self.0
            .is_some_and(|group| test_kill_process_group(group).is_ok())
    }

    /// Nothing of the group is left, and its number may be another's from now on.
    fn is_gone(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests;
