//! The embedded ledger: one SQLite file for one instance.
//!
//! **Guarantees.** Every change is on disk before it is reported. One process has the file for
//! writing, by a lock beside it that the kernel drops with the process; whoever only reads
//! (`sqlite3`, for one) is not disturbed.
//!
//! **Assumptions.** Because the file is this process's alone, a lease that an earlier owner left
//! behind belongs to a process that is dead: opening the ledger ends it at once, and a killed
//! daemon resumes as soon as its messages come back.
//!
//! **Guests.** A job by hand shares the file with the daemon that holds it, or works where there is
//! none ([`EmbeddedLedger::open_beside`]). It follows the same rules under an owner of its own: one
//! transaction decides a claim, and one job at a time holds a production distribution, whichever
//! process it is in. Guests share a lock on a second file beside the ledger for as long as they
//! live, by which those who come later know whether any is alive:
//!
//! - A daemon that starts ends all leases if it gets that lock for itself, else all but the guests'.
//! - A guest that starts ends the leases of earlier guests if it gets that lock for itself. What a
//!   dead daemon holds is left to the next one, or to the end of its lease.
//!
//! A guest takes its share before its first claim, and the daemon holds the lock to itself while it
//! ends leases: so no lease of a live guest is ever ended. A dead guest's is, once no guest is left,
//! or when it has run out.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::records::{GUEST, Records};
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::{Notes, Record};
use crate::domain::plain::plain;
use crate::ledger::{Bound, Claim, Grant, Ledger, LedgerError, OpenError, Outbox, Unfinished};
use crate::runtime::clock::Clock;
use crate::runtime::health::LedgerTrouble;

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
        let io = failed(path);
        make_directory(path)?;
        let mut lock = open_lock(&beside(path, ".lock")).map_err(&io)?;
        match lock.try_lock() {
            Ok(()) => leave_note(&mut lock, &clock),
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    path: path.display().to_string(),
                    holder: noted(&beside(path, ".lock")),
                }
                .into());
            }
            Err(TryLockError::Error(error)) => return Err(io(error).into()),
        }
        let opened = Opened {
            records: Mutex::new(Records::open(path)?),
            path: path.to_owned(),
            identity: identity(path).map_err(&io)?,
            _lock: lock,
        };
        let guests = open_lock(&beside(path, ".guests")).map_err(&io)?;
        match guests.try_lock() {
            // Whoever held these leases is dead: the file is ours alone, until the lock is dropped.
            Ok(()) => opened.work(Records::end_leases)?,
            Err(TryLockError::WouldBlock) => opened.work(Records::end_leases_of_holders)?,
            Err(TryLockError::Error(error)) => return Err(io(error).into()),
        }
        Ok(Self {
            opened: Arc::new(opened),
            turn: Arc::new(Semaphore::new(1)),
            owner,
            clock,
        })
    }

    /// Opens the ledger at `path` as a guest, whether or not a daemon holds it. `instance` tells
    /// this guest from every other.
    ///
    /// # Errors
    /// As [`EmbeddedLedger::open`], but not because another process has it; and if the file was
    /// written by an older stagesweep.
    pub fn open_beside(path: &Path, instance: &str, clock: Clock) -> Result<Self, LedgerError> {
        let io = failed(path);
        make_directory(path)?;
        let guests = open_lock(&beside(path, ".guests")).map_err(&io)?;
        let alone = match guests.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                guests.lock_shared().map_err(&io)?;
                false
            }
            Err(TryLockError::Error(error)) => return Err(io(error).into()),
        };
        let mut records = Records::open_beside(path)?;
        if alone {
            records.end_leases_of_guests()?;
            // Others that come in between find no lease of ours to end.
            guests.unlock().map_err(&io)?;
            guests.lock_shared().map_err(&io)?;
        }
        Ok(Self {
            opened: Arc::new(Opened {
                records: Mutex::new(records),
                path: path.to_owned(),
                identity: identity(path).map_err(&io)?,
                _lock: guests,
            }),
            turn: Arc::new(Semaphore::new(1)),
            owner: format!("{GUEST}{instance}"),
            clock,
        })
    }

    /// All jobs in the ledger at `path`, newest first, whoever holds it. Changes nothing, and blocks
    /// for as long as the reading takes.
    ///
    /// # Errors
    /// [`LedgerError`] if there is no such ledger, or it cannot be read.
    pub fn history(path: &Path, clock: &Clock) -> Result<Vec<Record>, LedgerError> {
        Records::read(path, clock.now())
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

impl EmbeddedLedger {
    /// A change with a grant.
    async fn granted<T, F>(&self, grant: &Grant, notes: &Notes, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Records, &Grant, &Notes) -> Result<T, LedgerError> + Send + 'static,
    {
        let (grant, notes) = (grant.clone(), notes.clone());
        self.on_disk(move |records| work(records, &grant, &notes))
            .await
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
        let mut records = self.records.lock();
        self.is_in_place()?;
        work(&mut records).map_err(|error| self.name(error))
    }

    /// A removed file can be written to as before, and all of it is lost at the exit.
    fn is_in_place(&self) -> Result<(), LedgerError> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed(&self.path)(error).into())
            }
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

/// The file of this ending beside the ledger.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Opens a file to be locked, creating it if need be. It may be another user's.
fn open_lock(path: &Path) -> std::io::Result<File> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

/// Says in the lock who has it, for whoever finds it locked. It works without that, too.
fn leave_note(lock: &mut File, clock: &Clock) {
    let command: Vec<_> = std::env::args_os().collect();
    let command: Vec<_> = command.iter().map(|it| it.to_string_lossy()).collect();
    let note = format!(
        "pid {} ({}, since {})",
        std::process::id(),
        command.join(" "),
        clock.now().strftime("%Y-%m-%d %H:%M:%SZ")
    );
    // One that was killed left a longer note, perhaps.
    let written = lock
        .set_len(0)
        .and_then(|()| lock.write_all(note.as_bytes()));
    drop(written);
}

/// Who has the lock, by what it says.
fn noted(lock: &Path) -> String {
    match std::fs::read_to_string(lock) {
        Ok(note) if note.starts_with("pid ") => plain(&note),
        _ => "another process".to_owned(),
    }
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(directory) => std::fs::create_dir_all(directory).map_err(failed(path)),
        None => Ok(()),
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> OpenError {
    let path = path.display().to_string();
    move |source| OpenError::Io {
        path: path.clone(),
        source,
    }
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

    async fn bind(
        &self,
        grant: &Grant,
        binding: &Binding,
        notes: &Notes,
    ) -> Result<Bound, LedgerError> {
        let (binding, now) = (binding.clone(), self.clock.now());
        self.granted(grant, notes, move |records, grant, notes| {
            records.bind(grant, &binding, notes, now)
        })
        .await
    }

    async fn yield_production(&self, grant: &Grant, notes: &Notes) -> Result<(), LedgerError> {
        self.granted(grant, notes, Records::yield_production).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        let now = self.clock.now();
        self.on_disk(move |records| records.unfinished(now)).await
    }

    async fn renew(
        &self,
        grant: &Grant,
        until: Timestamp,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.granted(grant, notes, move |records, grant, notes| {
            records.renew(grant, now, until, notes)
        })
        .await
    }

    async fn complete(
        &self,
        grant: &Grant,
        outcome: Outcome,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.granted(grant, notes, move |records, grant, notes| {
            records.complete(grant, outcome, notes, now)
        })
        .await
    }

    async fn release(&self, grant: &Grant, reason: &str, notes: &Notes) -> Result<(), LedgerError> {
        let (reason, now) = (reason.to_owned(), self.clock.now());
        self.granted(grant, notes, move |records, grant, notes| {
            records.release(grant, &reason, notes, now)
        })
        .await
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn check(&self) -> Result<(), LedgerError> {
        let now = self.clock.now();
        self.on_disk(move |records| records.check(now)).await
    }

    fn trouble(&self) -> Option<LedgerTrouble> {
        None
    }

    async fn troubled(&self) -> LedgerTrouble {
        std::future::pending().await
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        let now = self.clock.now();
        self.on_disk(move |records| records.prune(now)).await
    }
}

#[async_trait]
impl Outbox for EmbeddedLedger {
    async fn enqueue(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        let (id, notice) = (id.to_owned(), notice.to_owned());
        self.on_disk(move |records| records.enqueue(&id, &notice))
            .await
    }

    async fn pending(&self) -> Result<Vec<String>, LedgerError> {
        self.on_disk(Records::pending).await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<(), LedgerError> {
        let ids = ids.to_vec();
        self.on_disk(move |records| records.acknowledge(&ids)).await
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
