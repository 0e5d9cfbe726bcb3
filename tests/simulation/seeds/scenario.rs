//! What happens in a run: everything follows from its seed.

use std::time::Duration;

use embedded_aws::{
    AttachedPolicyDelete, DeleteLag, Faults, OmittedPolicyId, StagingAfterPolicyDelete, Switches,
};

use super::executions::{Executions, InPipeline};
use super::notices::{Outlet, Trouble};
use super::wire::{Cut, Kill, Peer, Point};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) services: usize,
    pub(crate) daemons: usize,
    /// The ledger is a table, over the wire; otherwise the rules of the embedded one.
    pub(crate) table: bool,
    /// By how much each daemon's clock is wrong from the start.
    pub(crate) skews: Vec<i64>,
    pub(crate) propagation: Duration,
    pub(crate) propagation_jitter: Duration,
    pub(crate) switches: Switches,
    pub(crate) max_receive_count: u32,
    pub(crate) faults: Faults,
    /// When all faults end.
    pub(crate) calm_at: Duration,
    /// CodePipeline is asked whether rejections still stand.
    pub(crate) verify: bool,
    /// CodePipeline is searched for rejections whose events were lost.
    pub(crate) catch_up: bool,
    /// Pipelines play whole executions; otherwise parts of deployments are told one by one.
    pub(crate) executions: Option<Executions>,
    /// The targets are only observed.
    pub(crate) observes: bool,
    /// How many jobs may work at once.
    pub(crate) max_in_flight: usize,
    /// How late a table answers a write.
    pub(crate) table_delay: Duration,
    /// Who is told of outcomes.
    pub(crate) told: Vec<Outlet>,
    pub(crate) happenings: Vec<(Duration, Happening)>,
}

/// One thing that happens. Each stands by itself, so that any can be left out.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// The newest deployment of a service is rejected; its message arrives so much later, this
    /// many times.
    Reject {
        service: usize,
        late: Duration,
        copies: u32,
        older_form: bool,
        attempt: u32,
    },
    /// An earlier rejection of the service is delivered again.
    Again { service: usize },
    /// A newer deployment of a service, in its four parts with this long between them.
    Redeploy { service: usize, gap: Duration },
    /// The newest deployment of a service is approved.
    Approve { service: usize },
    /// The rejected stage of the newest deployment of a service is retried, and approved so much later.
    Retry { service: usize, decided: Duration },
    /// Something in a pipeline of a service that plays executions.
    InPipeline { service: usize, what: InPipeline },
    /// A message that is none of ours.
    Junk(Junk),
    /// The daemon is killed, at once or at a later call, and started again after a while.
    Kill {
        daemon: usize,
        at: Option<Kill>,
        down: Duration,
    },
    /// The daemon is asked to stop, and started again after a while.
    Stop { daemon: usize, down: Duration },
    /// The network between a daemon and a service is cut for a while.
    Cut {
        daemon: usize,
        peer: Peer,
        cut: Cut,
        lasts: Duration,
    },
    /// A daemon's ledger fails for a while.
    LedgerFails { daemon: usize, lasts: Duration },
    /// A daemon's wall clock jumps.
    ClockJumps { daemon: usize, milliseconds: i64 },
    /// A person cleans the newest deployment of a service, which was rejected.
    Cleans { service: usize },
    /// Someone edits production, disables the staging distribution or deletes the policy by hand.
    Operator { service: usize, what: Meddling },
    /// One who is told of outcomes is in trouble for a while, or until everything else is over.
    OutletFails {
        outlet: Outlet,
        trouble: Trouble,
        lasts: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Junk {
    NotJson,
    ForeignAccount,
    NoTarget,
    Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meddling {
    EditsProduction,
    DisablesStaging,
    DeletesPolicy,
}

impl Scenario {
    /// Several daemons work by one ledger.
    pub(crate) fn is_fleet(&self) -> bool {
        self.daemons > 1
    }

    /// The run of that seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut scenario = Self::without_executions(seed);
        scenario.executions(seed);
        scenario.stages(seed);
        scenario.waits(seed);
        scenario.observes(seed);
        scenario.happenings.sort_by_key(|(at, _)| *at);
        scenario
    }

    /// The same without pipelines that play whole executions.
    pub(crate) fn without_executions(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rng = &mut rng;
        let daemons = pick(rng, &[1, 1, 1, 1, 2, 2, 3]);
        let services = match rng.u32(..100) {
            0..55 => 1,
            55..80 => 2,
            80..94 => 3 + rng.usize(..3),
            94..99 => 6 + rng.usize(..6),
            _ => 20 + rng.usize(..11),
        };
        let calm_at = MINUTE * pick(rng, &[5, 12, 20, 20, 30, 45, 90]);
        // A fleet has one ledger. What was drawn for that once is still drawn, so that what a seed meant before
        // is not changed.
        let _ = (daemons > 1).then(|| rng.u32(..4));
        let mut scenario = Self {
            seed,
            services,
            daemons,
            table: false,
            skews: vec![0; daemons],
            propagation: pick(rng, &[SECOND, 30 * SECOND, 170 * SECOND, 400 * SECOND]),
            propagation_jitter: pick(rng, &[Duration::ZERO, 20 * SECOND, 3 * MINUTE]),
            switches: switches(rng),
            max_receive_count: pick(rng, &[3, 5, 5, 20]),
            faults: match rng.u32(..10) {
                0..4 => Faults::none(),
                4..7 => Faults::mild(),
                _ => Faults::storm(),
            },
            calm_at,
            verify: false,
            catch_up: false,
            executions: None,
            observes: false,
            max_in_flight: 64,
            table_delay: Duration::ZERO,
            told: Vec::new(),
            happenings: Vec::new(),
        };
        throttles(seed, &mut scenario.switches);
        for service in 0..services {
            scenario.story_of(service, rng);
        }
        let disasters = pick(rng, &[0, 1, 1, 2, 3, 5]);
        for _ in 0..disasters {
            let at = within(rng, calm_at);
            let disaster = scenario.disaster(rng);
            scenario.happenings.push((at, disaster));
        }
        for _ in 0..pick(rng, &[0, 0, 1, 3]) {
            let junk = pick(
                rng,
                &[
                    Junk::NotJson,
                    Junk::ForeignAccount,
                    Junk::NoTarget,
                    Junk::Stage,
                ],
            );
            let at = within(rng, calm_at);
            scenario.happenings.push((at, Happening::Junk(junk)));
        }
        scenario.retries(seed);
        scenario.losses(seed);
        scenario.tables(seed);
        scenario.notices(seed);
        scenario.happenings.sort_by_key(|(at, _)| *at);
        scenario
    }

    /// In most worlds rejections are verified, and taken back. They draw from a generator of their own, so
    /// that what a seed meant before is not changed.
    fn retries(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0076_6572_6966_7900);
        let rng = &mut rng;
        self.verify = rng.u32(..5) > 0;
        if !self.verify {
            return;
        }
        let rejected = self.happenings.iter().filter_map(|(at, what)| match what {
            Happening::Reject { service, .. } => Some((*at, *service)),
            _ => None,
        });
        let rejected: Vec<_> = rejected.collect();
        for (at, service) in rejected {
            if rng.u32(..3) == 0 {
                let at = at + within(rng, 8 * MINUTE);
                let decided = pick(rng, &[Duration::ZERO, 20 * SECOND, 3 * MINUTE]);
                self.happenings
                    .push((at, Happening::Retry { service, decided }));
            }
        }
    }

    /// In some other worlds events are lost, and caught up with.
    fn losses(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6361_7463_6875_7000,
        );
        self.catch_up = rng.u32(..5) == 0 && !self.verify;
        if !self.catch_up {
            return;
        }
        for (_, what) in &mut self.happenings {
            if let Happening::Reject { copies, .. } = what
                && rng.bool()
            {
                *copies = 0;
            }
        }
    }

    /// The same without verification and what it is for.
    pub(crate) fn without_retries(mut self) -> Self {
        self.verify = false;
        self.catch_up = false;
        self.happenings
            .retain(|(_, what)| !matches!(what, Happening::Retry { .. }));
        for (_, what) in &mut self.happenings {
            if let Happening::Reject { copies, .. } = what {
                *copies = (*copies).max(1);
            }
        }
        self
    }

    /// One service's deployments and their rejections.
    fn story_of(&mut self, service: usize, rng: &mut fastrand::Rng) {
        let horizon = self.calm_at;
        let reject = |rng: &mut fastrand::Rng, attempt| Happening::Reject {
            service,
            // Days are rare: a daemon polls all the while.
            late: match rng.u32(..1000) {
                0 => MINUTE * 60 * (1 + rng.u32(..72)),
                1..250 => within(rng, 10 * MINUTE),
                _ => Duration::ZERO,
            },
            copies: pick(rng, &[1, 1, 1, 2, 4]),
            older_form: rng.u32(..8) == 0,
            attempt,
        };
        let rejected_at = within(rng, horizon / 2);
        self.happenings.push((rejected_at, reject(rng, 1)));
        if rng.u32(..3) == 0 {
            let again = Happening::Again { service };
            self.happenings.push((within(rng, horizon), again));
        }
        if rng.u32(..6) == 0 {
            let at = rejected_at + within(rng, 10 * MINUTE);
            self.happenings.push((at, reject(rng, 2)));
        }
        if rng.u32(..2) == 0 {
            // Before, at, or shortly after the rejection: in the middle of the cleanup.
            let at = match rng.u32(..3) {
                0 => within(rng, rejected_at),
                _ => rejected_at + within(rng, 8 * MINUTE),
            };
            let gap = pick(rng, &[Duration::ZERO, SECOND, 20 * SECOND, 3 * MINUTE]);
            self.happenings
                .push((at, Happening::Redeploy { service, gap }));
            let after = at + gap * 3 + within(rng, 10 * MINUTE);
            match rng.u32(..4) {
                0 => self.happenings.push((after, reject(rng, 1))),
                1 => self
                    .happenings
                    .push((after, Happening::Approve { service })),
                _ => {}
            }
        }
        if rng.u32(..8) == 0 {
            let what = pick(
                rng,
                &[
                    Meddling::EditsProduction,
                    Meddling::EditsProduction,
                    Meddling::DisablesStaging,
                    Meddling::DeletesPolicy,
                ],
            );
            let at = rejected_at + within(rng, 8 * MINUTE);
            self.happenings
                .push((at, Happening::Operator { service, what }));
        }
    }

    /// Some shared ledgers are tables, whose users' clocks differ by minutes. Drawn from a generator of its
    /// own, as [`Self::retries`] is.
    fn tables(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0074_6162_6c65_7300);
        let rng = &mut rng;
        self.table = self.is_fleet() && rng.u32(..3) > 0;
        if self.table {
            for skew in &mut self.skews {
                *skew = pick(rng, &[0, 0, -300_000, -1_500, 90_000, 600_000]);
            }
        }
    }

    /// In some worlds somebody is told of outcomes, and does not always listen. Drawn from a generator of its
    /// own, as [`Self::retries`] is.
    fn notices(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x006e_6f74_6966_7900);
        let rng = &mut rng;
        if rng.u32(..4) > 0 {
            return;
        }
        let (bus, program) = (Outlet::Bus, Outlet::Program);
        let told = [vec![bus], vec![program], vec![bus, program]];
        self.told = pick(rng, &told);
        for _ in 0..pick(rng, &[0, 1, 2, 3]) {
            let troubles = [
                Trouble::Refuses,
                Trouble::Fails,
                Trouble::Hangs,
                Trouble::Slow,
                Trouble::TakesSecretly,
                Trouble::TakesNone,
            ];
            let fails = Happening::OutletFails {
                outlet: pick(rng, &self.told),
                trouble: pick(rng, &troubles),
                lasts: pick(
                    rng,
                    &[
                        None,
                        None,
                        Some(30 * SECOND),
                        Some(5 * MINUTE),
                        Some(20 * MINUTE),
                    ],
                ),
            };
            let at = within(rng, self.calm_at);
            self.happenings.push((at, fails));
        }
    }

    /// The same with nobody told.
    pub(crate) fn without_notices(mut self) -> Self {
        self.told.clear();
        self.happenings
            .retain(|(_, what)| !matches!(what, Happening::OutletFails { .. }));
        self
    }

    /// The same with the rules of the embedded ledger: mistakes are made at the border to that one.
    /// The same with targets that act.
    pub(crate) fn acting(mut self) -> Self {
        self.observes = false;
        self
    }

    /// In some worlds nothing may be changed, by a person neither: what he leaves half way is finished. Drawn from a generator of its own, as [`Self::retries`] is.
    fn observes(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6f62_7365_7276_6573,
        );
        self.observes = rng.u32(..16) == 0;
        let observes = self.observes;
        self.happenings
            .retain(|(_, what)| !(observes && matches!(what, Happening::Cleans { .. })));
    }

    pub(crate) fn without_tables(mut self) -> Self {
        self.table = false;
        self.skews.fill(0);
        self
    }

    fn disaster(&self, rng: &mut fastrand::Rng) -> Happening {
        let daemon = rng.usize(..self.daemons);
        let down = pick(
            rng,
            &[Duration::ZERO, 5 * SECOND, MINUTE, 5 * MINUTE, 20 * MINUTE],
        );
        let lasts = pick(rng, &[5 * SECOND, 30 * SECOND, 3 * MINUTE, 15 * MINUTE]);
        match rng.u32(..12) {
            0..5 => {
                let points = [
                    Point::BeforeCall,
                    Point::AfterCall,
                    Point::BeforeLedger,
                    Point::AfterLedger,
                ];
                let point = pick(rng, &points);
                let nth = 1 + rng.u32(..30);
                let at = (rng.u32(..4) > 0).then_some(Kill { point, nth });
                Happening::Kill { daemon, at, down }
            }
            5 => Happening::Stop { daemon, down },
            6..9 => Happening::Cut {
                daemon,
                peer: pick(rng, &[Peer::Sqs, Peer::Ssm, Peer::CloudFront]),
                cut: pick(rng, &[Cut::Refused, Cut::Silent, Cut::OneWay]),
                lasts,
            },
            9..11 => Happening::LedgerFails { daemon, lasts },
            _ if self.daemons == 1 => Happening::ClockJumps {
                daemon,
                milliseconds: pick(
                    rng,
                    &[
                        -3_600_000, -90_000, -2_000, 2_000, 90_000, 3_600_000, 86_400_000,
                    ],
                ),
            },
            _ => Happening::Stop { daemon, down },
        }
    }
}

fn switches(rng: &mut fastrand::Rng) -> Switches {
    let usual = Switches::default();
    let mut rarely = || rng.u32(..4) == 0;
    let (policy, unattached, clears) = (rarely(), rarely(), rarely());
    let (lists, lag, precondition, visible) = (rarely(), rarely(), rarely(), rarely());
    let (omitted, hidden, stale_id, needed) = (rarely(), rarely(), rarely(), rarely());
    let (unchanged, listed, quiet, old) = (rarely(), rarely(), rarely(), rarely());
    let stale = rarely();
    let after = |yes: bool, seconds: u64| {
        if yes {
            Duration::from_secs(seconds)
        } else {
            Duration::ZERO
        }
    };
    Switches {
        policy_delete_waits_for_detach: usual.policy_delete_waits_for_detach != policy,
        unattached_policy_blocks_disable: usual.unattached_policy_blocks_disable != unattached,
        disabled_attached_policy_delete: if clears {
            AttachedPolicyDelete::ClearsPrimary
        } else {
            usual.disabled_attached_policy_delete
        },
        stale_reads: after(stale, 7),
        stale_lists: lists,
        delete_lag: after(lag, 25),
        delete_lag_error: if precondition {
            DeleteLag::PreconditionFailed
        } else {
            usual.delete_lag_error
        },
        deleted_stays_visible: after(visible, 12),
        omitted_policy_id: if omitted {
            OmittedPolicyId::Clears
        } else {
            usual.omitted_policy_id
        },
        staging_shows_policy: usual.staging_shows_policy != hidden,
        staging_after_policy_delete: if stale_id {
            StagingAfterPolicyDelete::StaleId
        } else {
            usual.staging_after_policy_delete
        },
        staging_policy_is_looked_up: stale_id && old,
        staging_update_needs_policy_id: usual.staging_update_needs_policy_id != needed,
        unchanged_put_is_a_change: usual.unchanged_put_is_a_change != unchanged,
        listed_staging_delete_refused: usual.listed_staging_delete_refused != listed,
        policy_update_redeploys_primary: usual.policy_update_redeploys_primary != quiet,
        old_receipt_is_ignored: usual.old_receipt_is_ignored != old,
        ..usual
    }
}

/// How fast CloudFront may be called: a source of its own, so that what was there before it stays.
fn throttles(seed: u64, switches: &mut Switches) {
    let mut rng = fastrand::Rng::with_seed(!seed);
    let rng = &mut rng;
    switches.calls_per_second = pick(rng, &[None, None, None, Some(10), Some(3)]);
    switches.changes_per_minute = pick(rng, &[None, None, None, Some(20), Some(4)]);
}

pub(super) fn pick<T: Clone>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

pub(super) fn within(rng: &mut fastrand::Rng, most: Duration) -> Duration {
    // Whole milliseconds, so that a trace shows all there is.
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rng.u64(..=most))
}
