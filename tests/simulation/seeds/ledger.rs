//! A ledger without threads or a disk: the real rules, at once, so that a run depends on its seed
//! alone. It can fail like a disk, and its owner can be killed around every operation.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use stagesweep::domain::binding::Binding;
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::event::JobKey;
use stagesweep::domain::history::Notes;
use stagesweep::ledger::{Bound, Claim, Grant, Ledger, LedgerError, Outbox, Records, Unfinished};
use stagesweep::runtime::clock::Clock;
use stagesweep::runtime::health::LedgerTrouble;
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use super::checker::Checker;
use super::sabotage::Sabotage;
use super::wire::{Life, Point};
use crate::ledgers_of_all::{Instance, Place, each_scenario};

pub(crate) struct SimulatedLedger {
    pub(crate) records: Arc<Mutex<Records>>,
    pub(crate) life: Arc<Life>,
    /// The daemon's, which may be wrong.
    pub(crate) clock: Clock,
    pub(crate) world: Clock,
    pub(crate) checker: Arc<Checker>,
    pub(crate) sabotage: Option<Sabotage>,
}

impl std::fmt::Debug for SimulatedLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedLedger").finish_non_exhaustive()
    }
}

impl SimulatedLedger {
    /// A time of the daemon's clock as the world's clock shows it.
    fn in_world(&self, now: Timestamp, then: Timestamp) -> Timestamp {
        let ahead = then.duration_since(now);
        self.world.now().checked_add(ahead).unwrap_or(then)
    }

    async fn carry_out<T>(
        &self,
        work: impl FnOnce(&mut Records, Timestamp) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.life.survive(Point::BeforeLedger).await;
        if self
            .life
            .fate
            .ledger_fails
            .load(std::sync::atomic::Ordering::Relaxed)
        {
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            let full = rusqlite::Error::SqliteFailure(full, None);
            return Err(LedgerError::Database(full));
        }
        let result = work(&mut self.records.lock().unwrap(), self.clock.now());
        self.life.survive(Point::AfterLedger).await;
        result
    }
}

#[async_trait]
impl Ledger for SimulatedLedger {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        let claim = self
            .carry_out(|records, now| {
                let claim = records.claim(&self.life.owner, key, pipeline, now, until)?;
                if let Claim::Granted { grant, .. } = &claim {
                    self.checker
                        .granted(grant, self.world.now(), self.in_world(now, until));
                }
                Ok(claim)
            })
            .await?;
        Ok(match (self.sabotage, claim) {
            (Some(Sabotage::RereadsTheParameter), Claim::Granted { grant, past, .. }) => {
                Claim::Granted {
                    grant,
                    binding: None,
                    past,
                }
            }
            (_, claim) => claim,
        })
    }

    async fn done(&self, keys: &[JobKey]) -> Result<BTreeSet<JobKey>, LedgerError> {
        self.carry_out(|records, _| records.done(keys)).await
    }

    async fn bind(
        &self,
        grant: &Grant,
        binding: &Binding,
        notes: &Notes,
    ) -> Result<Bound, LedgerError> {
        self.carry_out(|records, now| {
            let bound = records.bind(grant, binding, notes, now)?;
            match bound {
                Bound::ProductionBusy { .. }
                    if self.sabotage == Some(Sabotage::SharesProduction) =>
                {
                    Ok(Bound::Bound)
                }
                Bound::Bound => {
                    let now = self.world.now();
                    self.checker.bound(grant, binding, now);
                    Ok(bound)
                }
                busy => Ok(busy),
            }
        })
        .await
    }

    async fn yield_production(&self, grant: &Grant, notes: &Notes) -> Result<(), LedgerError> {
        self.carry_out(|records, _| {
            records.yield_production(grant, notes)?;
            self.checker.yielded(grant);
            Ok(())
        })
        .await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        self.carry_out(|records, now| records.unfinished(now)).await
    }

    async fn renew(
        &self,
        grant: &Grant,
        until: Timestamp,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        self.carry_out(|records, now| {
            if self.sabotage == Some(Sabotage::IgnoresOwnership) {
                return Ok(());
            }
            records.renew(grant, now, until, notes)?;
            self.checker.renewed(grant, self.in_world(now, until));
            Ok(())
        })
        .await
    }

    async fn complete(
        &self,
        grant: &Grant,
        outcome: Outcome,
        notes: &Notes,
    ) -> Result<(), LedgerError> {
        self.carry_out(|records, now| {
            let completed = records.complete(grant, outcome, notes, now);
            match completed {
                Err(LedgerError::NotOwner { .. })
                    if self.sabotage == Some(Sabotage::IgnoresOwnership) =>
                {
                    self.checker.completed(grant, outcome, self.world.now());
                    Ok(())
                }
                Ok(()) => {
                    self.checker.completed(grant, outcome, self.world.now());
                    Ok(())
                }
                failed => failed,
            }
        })
        .await
    }

    async fn release(&self, grant: &Grant, reason: &str, notes: &Notes) -> Result<(), LedgerError> {
        self.carry_out(|records, now| {
            records.release(grant, reason, notes, now)?;
            self.checker.released(grant);
            self.checker
                .note(self.world.now(), || format!("{}: {reason}", grant.key));
            self.checker.ended(self.world.now(), grant, reason);
            Ok(())
        })
        .await
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn trouble(&self) -> Option<LedgerTrouble> {
        None
    }

    async fn troubled(&self) -> LedgerTrouble {
        std::future::pending().await
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.carry_out(|records, now| records.check(now)).await
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        self.carry_out(|records, now| records.prune(now)).await
    }
}

#[async_trait]
impl Outbox for SimulatedLedger {
    async fn enqueue(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        let owed = |kept| {
            let now = self.world.now();
            self.checker.owed(now, &self.life, id, notice, kept);
        };
        let kept = self
            .carry_out(|records, _| {
                if self.sabotage == Some(Sabotage::KeepsNoNotices) {
                    return Ok(());
                }
                records.enqueue(id, notice)?;
                owed(true);
                Ok(())
            })
            .await;
        if kept.is_err() {
            owed(false);
        }
        if self.sabotage == Some(Sabotage::WaitsForOutlets) {
            tokio::time::sleep(std::time::Duration::from_secs(40)).await;
        }
        kept
    }

    async fn pending(&self) -> Result<Vec<String>, LedgerError> {
        self.carry_out(|records, _| records.pending()).await
    }

    async fn acknowledge(&self, ids: &[String]) -> Result<(), LedgerError> {
        self.carry_out(|records, _| {
            records.acknowledge(ids)?;
            self.checker.paid(ids);
            Ok(())
        })
        .await
    }
}

/// Daemons that share one simulated ledger.
struct Shared {
    records: Arc<Mutex<Records>>,
    clock: Clock,
}

impl Place for Shared {
    async fn instance(&self, owner: &str, _: i64) -> Instance {
        let life = Life {
            daemon: 0,
            owner: owner.to_owned(),
            fate: Arc::default(),
            dead: CancellationToken::new(),
            deaths: unbounded_channel().0,
        };
        let ledger = SimulatedLedger {
            records: Arc::clone(&self.records),
            life: Arc::new(life),
            clock: self.clock.clone(),
            world: self.clock.clone(),
            checker: Arc::new(Checker::new(false, true, false)),
            sabotage: None,
        };
        Instance {
            ledger: Arc::new(ledger),
            clock: self.clock.clone(),
            lease: self.lease(),
            slack: self.slack(),
        }
    }
}

/// It follows the rules of every ledger.
macro_rules! suite {
    ($($scenario:ident,)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $scenario() {
            let place = Shared {
                records: Arc::new(Mutex::new(Records::in_memory().unwrap())),
                clock: Clock::following_tokio("2026-09-03T14:21:08.6Z".parse().unwrap()),
            };
            crate::ledgers_of_all::scenarios::$scenario(&place).await;
        })*
    };
}

each_scenario!(suite);
