//! The embedded ledger: one SQLite file for one instance.
//!
//! **Guarantees.** Every change is on disk before it is reported. One process has the file for
//! writing, by a lock beside it that the kernel drops with the process; whoever only reads
//! (`sqlite3`, for one) is not disturbed.
//!
//! **Assumptions.** Because the file is this process's alone, a lease that an earlier owner left
//! behind belongs to a process that is dead: opening the ledger ends it at once, and a killed
//! daemon resumes as soon as its messages come back.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::records::Records;
use super::{Bound, Claim, Grant, Ledger, LedgerError};
use crate::binding::Binding;
use crate::clock::Clock;
use crate::event::JobKey;
use crate::plan::Outcome;

/// A ledger in a file.
#[derive(Debug)]
pub struct EmbeddedLedger {
    opened: Arc<Opened>,
    /// Whose turn it is, so that a thousand jobs do not wait in a thousand threads.
    turn: Arc<Semaphore>,
    owner: String,
    clock: Clock,
}

impl EmbeddedLedger {
    /// Opens the ledger at `path`, creating it and its directory if need be. `owner` names this
    /// instance and must differ from that of every other.
    ///
    /// # Errors
    /// [`LedgerError`] if another process has it, it is no ledger or a newer one, it is damaged, or
    /// it cannot be written.
    pub fn open(path: &Path, owner: String, clock: Clock) -> Result<Self, LedgerError> {
        let io = |source| LedgerError::Io {
            path: path.display().to_string(),
            source,
        };
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(directory).map_err(io)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock_path(path))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LedgerError::InUse {
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let opened = Opened {
            records: Mutex::new(Records::open(path)?),
            path: path.to_owned(),
            identity: identity(path).map_err(io)?,
            _lock: lock,
        };
        // Whoever held these leases is dead: the file is ours alone.
        opened.work(Records::end_leases)?;
        Ok(Self {
            opened: Arc::new(opened),
            turn: Arc::new(Semaphore::new(1)),
            owner,
            clock,
        })
    }

    /// Runs `work` away from the threads that drive the network.
    async fn on_disk<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Records) -> Result<T, LedgerError> + Send + 'static,
    {
        let opened = Arc::clone(&self.opened);
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            opened.work(work)
        })
        .await
        .map_err(|_| LedgerError::Ended)?
    }
}

/// The open file. Work that is still going on when the ledger is dropped keeps it open, and locked.
#[derive(Debug)]
struct Opened {
    records: Mutex<Records>,
    path: PathBuf,
    /// Tells the file from another one at the same place.
    identity: (u64, u64),
    /// Held open: closing it gives the ledger up. The last field, so that it outlives the records.
    _lock: File,
}

impl Opened {
    fn work<T>(
        &self,
        work: impl FnOnce(&mut Records) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        // A panic inside rolls its transaction back; the records stay usable.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_in_place()?;
        work(&mut records).map_err(|error| self.name(error))
    }

    /// A removed file can be written to as before, and all of it is lost at the exit.
    fn is_in_place(&self) -> Result<(), LedgerError> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(LedgerError::Io {
                path: self.path.display().to_string(),
                source: error,
            }),
            _ => Err(LedgerError::Replaced {
                path: self.path.display().to_string(),
            }),
        }
    }

    /// Says in an error which file it is about.
    fn name(&self, error: LedgerError) -> LedgerError {
        match error {
            LedgerError::Database(source) => LedgerError::Failing {
                path: self.path.display().to_string(),
                source,
            },
            error => error,
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

#[async_trait]
impl Ledger for EmbeddedLedger {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let (key, pipeline, owner) = (key.clone(), pipeline.to_owned(), self.owner.clone());
        let now = self.clock.now();
        self.on_disk(move |records| records.claim(&owner, &key, &pipeline, now, until))
            .await
    }

    async fn done(&self, keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        let keys = keys.to_vec();
        self.on_disk(move |records| records.done(&keys)).await
    }

    async fn bind(&self, grant: &Grant, binding: &Binding) -> Result<Bound, LedgerError> {
        let (grant, binding, now) = (grant.clone(), binding.clone(), self.clock.now());
        self.on_disk(move |records| records.bind(&grant, &binding, now))
            .await
    }

    async fn renew(&self, grant: &Grant, until: Timestamp) -> Result<(), LedgerError> {
        let (grant, now) = (grant.clone(), self.clock.now());
        self.on_disk(move |records| records.renew(&grant, now, until))
            .await
    }

    async fn complete(&self, grant: &Grant, outcome: Outcome) -> Result<(), LedgerError> {
        let (grant, now) = (grant.clone(), self.clock.now());
        self.on_disk(move |records| records.complete(&grant, outcome, now))
            .await
    }

    async fn release(&self, grant: &Grant, reason: &str) -> Result<(), LedgerError> {
        let (grant, reason, now) = (grant.clone(), reason.to_owned(), self.clock.now());
        self.on_disk(move |records| records.release(&grant, &reason, now))
            .await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.on_disk(move |records| records.check(now)).await
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        let now = self.clock.now();
        self.on_disk(move |records| records.prune(now)).await
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
