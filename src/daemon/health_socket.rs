//! How one process asks another how it is: a Unix socket of the daemon, which answers every connection
//! with one line of JSON and closes it.
//!
//! **Guarantees.** Nothing is written to a disk. A daemon that was killed is known at once, because the
//! kernel closes its socket; one that is frozen, because it does not answer within [`PATIENCE`].
//!
//! **Not handled.** By default the socket has no name in a file system but one in Linux's abstract
//! namespace, so that a read-only root needs no volume for it. Any process of the same network namespace
//! can ask there, or take the name first. `health.socket` names a file instead.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::config::{Config, Ledger, LedgerBackend};
use crate::runtime::health::Report;

/// How long one who asks waits for the answer.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Longer than any report.
const LONGEST: u64 = 64 * 1024;

/// Where a daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As tokio takes it: a file, or a name after a NUL byte.
    path: PathBuf,
}

impl Address {
    /// Where the daemon of this configuration answers.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        if !config.health.socket.is_empty() {
            return Self::new(&config.health.socket);
        }
        let Ledger {
            backend,
            path,
            table,
        } = &config.ledger;
        let (backend, ledger) = match backend {
            LedgerBackend::Embedded => ("embedded", path.to_string_lossy()),
            LedgerBackend::DynamoDb => ("dynamodb", table.into()),
        };
        Self::derived(&[&config.queue.url, backend, &ledger])
    }

    /// The file or, after `@`, the name in the abstract namespace.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let path = match text.strip_prefix('@') {
            Some(name) => PathBuf::from(format!("\0{name}")),
            None => PathBuf::from(text),
        };
        Self { path }
    }

    /// A name in the abstract namespace that belongs to what `parts` identify.
    #[must_use]
    pub fn derived(parts: &[&str]) -> Self {
        // FNV-1a: the same in every build and process, and all of it is local and short-lived.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in parts.join("\0").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self::new(&format!("@stagesweep-health-{hash:016x}"))
    }

    fn file(&self) -> Option<&Path> {
        let name = self.path.as_os_str().as_encoded_bytes();
        (!name.starts_with(b"\0")).then_some(&self.path)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path.to_string_lossy().replace('\0', "@"))
    }
}

/// Listens. A socket that a daemon left behind in a file is replaced.
///
/// # Errors
/// If another daemon listens there, or the file cannot be made.
pub async fn listen(address: &Address) -> io::Result<UnixListener> {
    if let Some(file) = address.file()
        && let Ok(found) = std::fs::symlink_metadata(file)
        && found.file_type().is_socket()
        && UnixStream::connect(file).await.is_err()
    {
        std::fs::remove_file(file)?;
    }
    UnixListener::bind(&address.path)
}

/// Answers everyone who asks, for ever. One at a time: an answer is one small write.
pub async fn serve(listener: UnixListener, report: impl Fn() -> Report) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of file descriptors; those who ask are patient for a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut line = serde_json::to_vec(&report()).unwrap_or_default();
        line.push(b'\n');
        // Whoever does not wait for the answer does not get one.
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(&line)).await;
    }
}

/// Why a daemon did not say how it is.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error(
        "no daemon of this configuration runs here (nobody listens at {0}, a name that queue.url and the ledger \
         decide, or health.socket): start it, or give its own --config; in a container, ask inside it"
    )]
    NotRunning(Address),
    /// Somebody listens and does not answer.
    #[error(
        "the daemon does not answer within {}",
        humantime::format_duration(PATIENCE)
    )]
    Silent,
    /// The socket cannot be used.
    #[error("{0} cannot be asked")]
    Failed(Address, #[source] io::Error),
    /// What answers is no daemon of this version.
    #[error("what answers at {0} is no daemon that is understood")]
    NotUnderstood(Address),
}

impl NoAnswer {
    /// A bounded code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRunning(_) => "not_running",
            Self::Silent => "silent",
            Self::Failed(..) => "not_reachable",
            Self::NotUnderstood(_) => "not_understood",
        }
    }
}

/// Asks a daemon how it is.
///
/// # Errors
/// [`NoAnswer`], after [`PATIENCE`] at the latest.
pub async fn ask(address: &Address) -> Result<Report, NoAnswer> {
    let asked = async {
        let stream = UnixStream::connect(&address.path).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => return Err(NoAnswer::Silent),
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    NoAnswer::NotRunning(address.clone())
                }
                // Its backlog is full: it has not accepted anyone for long.
                io::ErrorKind::WouldBlock => NoAnswer::Silent,
                _ => NoAnswer::Failed(address.clone(), error),
            });
        }
    };
    serde_json::from_slice(&answer).map_err(|_| NoAnswer::NotUnderstood(address.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            healthy: true,
            reason: None,
            detail: "polling".to_owned(),
            mode: Some("act".to_owned()),
            last_poll_ms: Some(7),
            in_flight: 0,
        }
    }

    async fn round(address: &Address) {
        let code = |answer: Result<Report, NoAnswer>| answer.unwrap_err().code();
        assert_eq!(code(ask(address).await), "not_running");
        let listener = listen(address).await.unwrap();
        assert!(listen(address).await.is_err(), "the address is taken");
        // Nobody serves: as of a process that is frozen.
        assert_eq!(code(ask(address).await), "silent");
        let serving = tokio::spawn(serve(listener, report));
        let (first, second) = tokio::join!(ask(address), ask(address));
        assert_eq!((first.unwrap(), second.unwrap()), (report(), report()));
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert_eq!(code(ask(address).await), "not_running");
        drop(listen(address).await.unwrap());
    }

    #[tokio::test]
    async fn who_asks_hears_of_a_daemon_that_answers_and_of_one_that_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("health");
        round(&Address::new(&file.to_string_lossy())).await;
        let name = file.to_string_lossy().into_owned();
        round(&Address::derived(&["queue", &name])).await;
        let derived = |parts: &[&str]| Address::derived(parts).to_string();
        assert_eq!(derived(&["a", "b"]), derived(&["a", "b"]));
        assert_ne!(derived(&["a", "b"]), derived(&["ab"]));
    }
}
