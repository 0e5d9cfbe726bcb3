//! What healthy rejections wait for: crowds, slow tables, a person's `clean`. None of it may make a dead letter.

use std::sync::Arc;
use std::time::Duration;

use embedded_aws::Faults;
use stagesweep::daemon;
use stagesweep::domain::binding::Modified;
use stagesweep::domain::targets::lookup::{self, Home, Wanted};
use stagesweep::ops::clean::{ByHand, Order};
use stagesweep::runtime::stop::Stop;
use stagesweep::runtime::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use super::checker::Kind;
use super::executions::{APPROVE, InPipeline};
use super::run::Play;
use super::scenario::{Happening, SECOND, Scenario, pick, within};
use super::wire::{Fate, Life};

impl Scenario {
    /// In some worlds few jobs may work at once and many copies come, a table answers late, or a person cleans
    /// what was rejected. Drawn from a generator of its own, as [`Self::retries`] is.
    pub(super) fn waits(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0077_6169_7473_0000,
        );
        let rng = &mut rng;
        if rng.u32(..4) == 0 {
            self.max_receive_count = pick(rng, &[4, 10]);
        }
        if self.table {
            self.table_delay = pick(rng, &[Duration::ZERO, Duration::ZERO, SECOND, 3 * SECOND]);
        }
        if rng.u32(..6) == 0 {
            self.max_in_flight = pick(rng, &[1, 2, 3]);
            let copies = self.happenings.iter_mut().find_map(|(_, what)| match what {
                Happening::Reject { copies, .. }
                | Happening::InPipeline {
                    what: InPipeline::Decides { copies, .. },
                    ..
                } => Some(copies),
                _ => None,
            });
            if let Some(copies) = copies.filter(|_| rng.bool()) {
                *copies = 5 + rng.u32(..30);
            }
        }
        let told_apart = self.executions.is_none() && !self.catch_up;
        if told_apart && rng.u32(..5) == 0 {
            let service = rng.usize(..self.services);
            // What a person cleans is nobody's to approve any more.
            let spoils = |what: &Happening| match what {
                Happening::Retry { service: of, .. } | Happening::Approve { service: of } => {
                    *of == service
                }
                _ => false,
            };
            self.happenings.retain(|(_, what)| !spoils(what));
            let at = within(rng, self.calm_at);
            self.happenings.push((at, Happening::Cleans { service }));
        }
    }

    /// Whether everything goes as it should: what waits then is healthy.
    fn is_undisturbed(&self) -> bool {
        let disturbs = |what: &Happening| {
            matches!(
                what,
                Happening::Kill { .. }
                    | Happening::Stop { .. }
                    | Happening::Cut { .. }
                    | Happening::LedgerFails { .. }
                    | Happening::ClockJumps { .. }
                    | Happening::Operator { .. }
            )
        };
        self.faults == Faults::none() && !self.happenings.iter().any(|(_, what)| disturbs(what))
    }

    /// Whether more messages come than may be held.
    fn is_crowded(&self) -> bool {
        let copies = self.happenings.iter().map(|(_, what)| match what {
            Happening::Reject { copies, .. }
            | Happening::InPipeline {
                what: InPipeline::Decides { copies, .. },
                ..
            } => *copies as usize,
            _ => 1,
        });
        copies.sum::<usize>() > 10 * self.max_in_flight
    }
}

impl Play<'_> {
    /// Where nothing disturbs, no rejection becomes a dead letter of which it is clear whose it is.
    pub(super) fn nothing_healthy_died(&self) {
        if !self.scenario.is_undisturbed() || self.scenario.is_crowded() {
            return;
        }
        for message in self.dead_letters() {
            let Some(Kind::Rejection(number)) = self.checker.kind(&message.id) else {
                continue;
            };
            let clear = match self.scenario.executions {
                Some(_) => self.is_clear(number),
                None => !self.is_doubtful(number),
            };
            if clear {
                let why = format!("a healthy rejection of deployment {number} is a dead letter");
                self.checker.fail(why);
            }
        }
    }

    /// A person cleans the newest deployment of a service, if it was rejected and is still named.
    pub(super) fn cleans(&mut self, service: usize) {
        let Some(newest) = self.newest(service) else {
            return;
        };
        let number = *self.services[service].deployments.last().unwrap();
        let rejected = self.checker.deployments()[number].rejected;
        let history = self.aws.parameter_history(&newest.staging_parameter);
        let named = history.last().filter(|it| it.value == newest.staging_id);
        let (true, Some(version)) = (rejected, named) else {
            return;
        };
        let config = self.config();
        let wanted = Wanted {
            pipeline: &newest.pipeline,
            stage: Some(APPROVE),
            action: Some(APPROVE),
        };
        let home = Home {
            region: newest.region.clone(),
            account: newest.account.clone(),
        };
        let shown = self.aws.distribution(&newest.staging_id);
        let order = Order {
            named: lookup::find(&config.targets, wanted, &home).unwrap(),
            staging_id: newest.staging_id.clone(),
            version: version.version.try_into().unwrap(),
            shown: shown.map(|it| Modified {
                at: it.modified,
                etag: it.etag,
            }),
            resumes: None,
        };
        let life = Arc::new(Life {
            daemon: usize::MAX,
            owner: format!("person{}", self.persons.len()),
            fate: Arc::new(Fate::default()),
            dead: CancellationToken::new(),
            deaths: self.deaths.clone(),
        });
        self.persons.push(Arc::clone(&life));
        let clock = self.clock_of_a_person();
        let means = self.equip(&life, clock, None, Arc::default());
        let checker = Arc::clone(&self.checker);
        tokio::spawn(async move {
            let clock = means.clock.clone();
            let cleaning = async {
                let ledger = means.ledger().await?;
                let tasks = Tasks::default();
                let accounts = daemon::accounts(&config, &means.connector, &tasks);
                let by_hand = ByHand {
                    ledger: ledger.clone(),
                    reconciler: daemon::reconciler(
                        &config,
                        accounts,
                        ledger,
                        means.telemetry,
                        means.programs,
                        clock.clone(),
                    ),
                    targets: Arc::new(config.targets.clone()),
                    clock: clock.clone(),
                    terms: config.queue.terms(),
                };
                anyhow::Ok(by_hand.clean(&order, &Stop::default()).await?)
            };
            if let Some(cleaned) = life.dead.run_until_cancelled(cleaning).await {
                checker.note(clock.now(), || format!("{}: {cleaned:?}", life.owner));
            }
        });
    }
}
