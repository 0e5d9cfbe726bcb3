//! The rounds: which pipelines are looked at, how many calls that may take, and what is done about what
//! is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Approvals, Found, find};
use crate::aws::AwsError;
use crate::aws::codepipeline::CodePipeline;
use crate::aws::identity::Identity;
use crate::config::OnTimeout;
use crate::consumer::{Consumer, Origin};
use crate::domain::arn::PipelineArn;
use crate::domain::assignment::Assignment;
use crate::domain::binding::{AsOf, Slot, as_of};
use crate::domain::error_class::ErrorClass;
use crate::domain::event::{JobKey, Rejection};
use crate::domain::executions::{Execution, MIN_AGE, Status};
use crate::domain::targets::lookup::{self, Home, Named, Wanted};
use crate::domain::targets::{Access, ResolvedTarget, Targets};
use crate::domain::verdict::Cause;
use crate::ledger::Ledger;
use crate::reconcile::accounts::Accounts;
use crate::reconcile::dry_run;
use crate::runtime::clock::Clock;
use crate::runtime::lasting::Failing;
use crate::telemetry::{chain, fails, ms, span_of};

/// A round makes no more calls of CodePipeline; the next one goes on where it stopped.
pub const MAX_CALLS: usize = 100;

/// What ended before is not looked at: SQS keeps no message for longer, and the ledger remembers a day
/// more.
const LOOK_BACK: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// An event may still be on its way for so long; or for an interval, where that is shorter.
const ON_ITS_WAY: Duration = Duration::from_secs(5 * 60);

/// The first round comes no later after the start; or than an interval, where that is shorter.
const FIRST_WITHIN: Duration = Duration::from_secs(60);

/// What a look at one execution takes: its actions, and its pipeline's state.
const CALLS_OF_A_LOOK: usize = 2;

/// How catching up is done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two rounds, a tenth more or less.
    pub interval: Duration,
    /// Whether what executions left that ended without a rejection is cleaned, and not only reported.
    pub reclaim: bool,
    /// What becomes of approvals that timed out.
    pub on_timeout: OnTimeout,
    /// The queue's account, where its URL names one. That of the daemon's credentials otherwise.
    pub account: Option<String>,
    /// The daemon's region.
    pub region: String,
}

/// Looks for lost rejections.
#[derive(Clone)]
pub struct CatchUp {
    pub settings: Settings,
    /// Where clients are to be had.
    pub accounts: Accounts,
    /// Who the daemon is.
    pub identity: Identity,
    /// Works on what is found.
    pub consumer: Arc<Consumer>,
    /// What was done.
    pub ledger: Arc<dyn Ledger>,
    /// Wall-clock time.
    pub clock: Clock,
}

/// What the rounds of one daemon have learned.
#[derive(Default)]
struct Memory {
    /// The targets of the last round.
    targets: Option<Arc<Targets>>,
    /// Where the next round begins.
    from: usize,
    /// By pipeline the execution with which its next look begins, where the last one had no calls left.
    resume: BTreeMap<PipelineArn, String>,
    /// By pipeline and execution, as of which change nothing is left to do.
    looked: BTreeMap<(PipelineArn, String), Option<Timestamp>>,
    /// Jobs that need not be begun again by this daemon.
    settled: Arc<Mutex<BTreeSet<JobKey>>>,
    /// Approvals whose remains were reported: execution, stage and action.
    reported: BTreeSet<(String, String, String)>,
    /// By pipeline, whether it cannot be looked at; under an empty name, whether all cannot.
    failing: BTreeMap<String, Failing>,
    /// Those of them that failed in this round.
    failed: BTreeSet<String>,
}

/// One pipeline and the approvals of it that targets are about.
struct Watched {
    pipeline: PipelineArn,
    access: Access,
    approvals: Vec<Named>,
}

/// What a round has come to.
#[derive(Default)]
struct Tally {
    pipelines: usize,
    calls: usize,
    /// How many jobs were handed over to be worked on.
    found: usize,
    /// The pipeline of which nothing is reported in this round: a report of it has failed.
    unreported: Option<PipelineArn>,
}

impl CatchUp {
    /// Makes rounds until `stop` is cancelled.
    pub async fn run(&self, stop: &CancellationToken) {
        let interval = self.settings.interval;
        let mut memory = Memory::default();
        let mut rng = fastrand::Rng::new();
        let mut pause = FIRST_WITHIN.min(interval).mul_f64(rng.f64());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.round(&mut memory) => {}
            }
            pause = interval.mul_f64(0.9 + 0.2 * rng.f64());
        }
    }

    async fn round(&self, memory: &mut Memory) {
        let mut tally = Tally::default();
        memory.failed.clear();
        let home = match self.home().await {
            Ok(home) => home,
            Err(error) => return self.failed(memory, "", &error),
        };
        let watched = self.watched(&home, memory, &mut tally).await;
        let count = watched.len();
        let mut left = count;
        for turn in 0..count {
            let watched = &watched[(memory.from + turn) % count];
            if tally.calls + 1 + CALLS_OF_A_LOOK > MAX_CALLS {
                break;
            }
            match self.look(watched, memory, &mut tally).await {
                Ok(true) => {
                    left -= 1;
                    self.recovered(memory, &watched.pipeline.to_string());
                }
                // The rest of it has to wait until its turn comes again: the others are not to wait for it.
                Ok(false) => {
                    left -= 1;
                    break;
                }
                Err(error) => {
                    left -= 1;
                    self.failed(memory, &watched.pipeline.to_string(), &error);
                }
            }
        }
        if count > 0 {
            memory.from = (memory.from + count - left) % count;
        }
        info!(
            pipelines = tally.pipelines,
            pipelines.left = left,
            aws.calls = tally.calls,
            found = tally.found,
            "looked for lost rejections"
        );
    }

    fn failed(&self, memory: &mut Memory, pipeline: &str, error: &AwsError) {
        memory.failed.insert(pipeline.to_owned());
        let failing = memory.failing.entry(pipeline.to_owned()).or_default();
        fails!(
            warn,
            failing.failed(),
            pipeline,
            error = chain(error),
            "lost rejections cannot be looked for; trying again in the next round"
        );
    }

    fn recovered(&self, memory: &mut Memory, pipeline: &str) {
        if memory.failed.contains(pipeline) {
            return;
        }
        if let Some(took) = memory
            .failing
            .remove(pipeline)
            .and_then(|mut it| it.recovered())
        {
            info!(
                pipeline,
                took_ms = ms(took),
                "lost rejections can be looked for again"
            );
        }
    }

    async fn home(&self) -> Result<Home, AwsError> {
        let account = match &self.settings.account {
            Some(account) => account.clone(),
            None => self.identity.caller().await?.account,
        };
        Ok(Home {
            region: self.settings.region.clone(),
            account,
        })
    }

    /// The pipelines that are looked at, each once, in a fixed order.
    async fn watched(&self, home: &Home, memory: &mut Memory, tally: &mut Tally) -> Vec<Watched> {
        let targets = self.consumer.targets();
        let same = |last: &Arc<Targets>| Arc::ptr_eq(last, &targets);
        if !memory.targets.as_ref().is_some_and(same) {
            // What was observed may be to be done now.
            memory.looked.clear();
            memory.targets = Some(Arc::clone(&targets));
        }
        let patterns = targets.iter().any(|it| it.pipeline().contains('{'));
        let names = match patterns {
            false => {
                self.recovered(memory, "");
                Vec::new()
            }
            true => {
                tally.calls += 1;
                let own = self.codepipeline(&Access {
                    role: None,
                    region: home.region.clone(),
                });
                match own.names().await {
                    Ok(names) => {
                        self.recovered(memory, "");
                        names
                    }
                    Err(error) => {
                        self.failed(memory, "", &error);
                        Vec::new()
                    }
                }
            }
        };
        let mut found: BTreeMap<PipelineArn, Watched> = BTreeMap::new();
        for named in approvals(&targets, &names, home) {
            let access = named.target.pipeline_access.clone();
            let askable = access.role.is_some() || named.pipeline.account == home.account;
            if !askable || !self.consumer.allows_account(&named.pipeline.account) {
                continue;
            }
            let pipeline = named.pipeline.clone();
            let watched = found.entry(pipeline.clone()).or_insert_with(|| Watched {
                access,
                pipeline,
                approvals: Vec::new(),
            });
            watched.approvals.push(named);
        }
        found.into_values().collect()
    }

    fn codepipeline(&self, access: &Access) -> CodePipeline {
        self.accounts.get(access).clients.codepipeline.clone()
    }

    /// Looks at one pipeline. Answers whether all of it could be looked at.
    async fn look(
        &self,
        watched: &Watched,
        memory: &mut Memory,
        tally: &mut Tally,
    ) -> Result<bool, AwsError> {
        let codepipeline = self.codepipeline(&watched.access);
        let pipeline = &watched.pipeline;
        tally.calls += 1;
        tally.pipelines += 1;
        let executions = match codepipeline.executions(&pipeline.name).await {
            Ok(executions) => executions,
            // One of that name may be in another account, whose events come here.
            Err(error) if error.class == ErrorClass::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let now = self.clock.now();
        let since = earlier(now, LOOK_BACK);
        let recent = |it: &&Execution| it.updated_at.is_some_and(|at| at >= since);
        let shown: BTreeSet<&str> = executions.iter().map(|it| it.id.as_str()).collect();
        memory
            .looked
            .retain(|(of, id), _| of != pipeline || shown.contains(id.as_str()));
        let running = executions
            .iter()
            .any(|it| matches!(it.status, Status::InProgress | Status::Ending));
        let resumed = memory.resume.remove(pipeline);
        for execution in in_turn(&executions, resumed.as_deref()).filter(recent) {
            let place = (pipeline.clone(), execution.id.clone());
            if !matches!(execution.status, Status::Failed | Status::Ended)
                || memory.looked.get(&place) == Some(&execution.updated_at)
            {
                continue;
            }
            if tally.calls + CALLS_OF_A_LOOK > MAX_CALLS {
                memory.resume.insert(place.0, place.1);
                return Ok(false);
            }
            tally.calls += CALLS_OF_A_LOOK;
            let seen = match codepipeline.look(&pipeline.name, &execution.id).await {
                Ok(seen) => seen,
                // The others can be looked at all the same.
                Err(error) => {
                    self.failed(memory, &pipeline.to_string(), &error);
                    continue;
                }
            };
            let mut done = true;
            for named in &watched.approvals {
                let approvals = Approvals {
                    pipeline,
                    stage: named.stage.as_deref(),
                    action: named.action.as_deref(),
                };
                for found in find(approvals, &execution.id, &seen) {
                    done &= self.handle(found, named, running, memory, tally).await;
                }
            }
            if done {
                memory.looked.insert(place, execution.updated_at);
            }
        }
        Ok(true)
    }

    /// Does what is to be done about one approval. Answers whether nothing is left to do.
    async fn handle(
        &self,
        found: Found,
        named: &Named,
        running: bool,
        memory: &mut Memory,
        tally: &mut Tally,
    ) -> bool {
        let age = |rejection: &Rejection| self.clock.since(rejection.rejected_at);
        let (mut rejection, ended, left_alone) = match found {
            Found::Rejected {
                rejection,
                timed_out,
            } => {
                let ignored = timed_out && self.settings.on_timeout == OnTimeout::Ignore;
                (rejection, ignored, ignored)
            }
            Found::Ended(rejection) => (rejection, true, !self.settings.reclaim),
        };
        rejection.key = named.target.key(&rejection.key);
        let known = memory.settled.lock().contains(&rejection.key)
            || self
                .ledger
                .done(std::slice::from_ref(&rejection.key))
                .await
                .is_ok_and(|done| done.contains(&rejection.key));
        if known {
            return true;
        }
        if self.consumer.works_on(&rejection.key) {
            return false;
        }
        if !ended {
            if age(&rejection) < ON_ITS_WAY.min(self.settings.interval) {
                return false;
            }
        } else if running || age(&rejection) < MIN_AGE {
            // A pipeline that runs may own whatever there is.
            return false;
        } else if left_alone {
            let pipeline = &rejection.pipeline;
            if tally.unreported.as_ref() == Some(pipeline) {
                return false;
            }
            let reported = self.report(&rejection, &named.target, memory).await;
            return reported.unwrap_or_else(|error| {
                self.failed(memory, &pipeline.to_string(), &error);
                tally.unreported = Some(pipeline.clone());
                false
            });
        }
        let mut target = named.target.clone();
        if ended {
            // Nobody rejected: there is no event that a program could read.
            target.program = None;
            if target.parameters.is_none() {
                return true;
            }
        }
        tally.found += 1;
        let cause = match ended {
            true => Cause::EndedExecution,
            false => Cause::Rejection,
        };
        let (key, settled) = (rejection.key.clone(), Arc::clone(&memory.settled));
        let assignment = Assignment::without_event(rejection, target);
        let when_done = move || {
            settled.lock().insert(key);
        };
        self.consumer
            .take_up(assignment, Origin::CatchUp { cause }, Box::new(when_done))
            .await;
        false
    }

    /// Reports, once, what an execution left that ended without a rejection. Answers that nothing is left
    /// to do.
    async fn report(
        &self,
        rejection: &Rejection,
        target: &ResolvedTarget,
        memory: &mut Memory,
    ) -> Result<bool, AwsError> {
        let place = (
            rejection.execution_id.clone(),
            rejection.stage.clone(),
            rejection.action.clone(),
        );
        if memory.reported.contains(&place) {
            return Ok(true);
        }
        let Some(parameters) = &target.parameters else {
            return Ok(true);
        };
        let account = self.accounts.get(&target.access);
        let left = dry_run::look(&account.clients, parameters, None).await?;
        memory.reported.insert(place);
        let versions: Vec<_> = left.staging_parameter.into_iter().collect();
        // What a newer deployment has overwritten is what `orphans` tells of.
        if let AsOf::Version(version) = as_of(&versions, rejection.as_of)
            && let Slot::Distribution(staging_id) = Slot::read(&version.value)
            && left.staging.is_some()
        {
            let span = span_of(rejection, Some(&target.label));
            let _about = span.enter();
            warn!(
                execution.id = rejection.execution_id,
                pipeline = rejection.pipeline.name,
                staging.id = staging_id,
                age_ms = ms(self.clock.since(rejection.rejected_at)),
                "an execution that ended without a rejection left its staging distribution; `stagesweep \
             clean` takes it down, and so does catch_up.reclaim"
            );
        }
        Ok(true)
    }
}

/// The executions, each once, beginning with that one; with the first, where there is none of that id.
fn in_turn<'a>(
    executions: &'a [Execution],
    from: Option<&str>,
) -> impl Iterator<Item = &'a Execution> {
    let from = from.and_then(|id| executions.iter().position(|it| it.id == id));
    let (before, after) = executions.split_at(from.unwrap_or(0));
    after.iter().chain(before)
}

/// Every approval of every pipeline that a target names, or matches among these names.
pub(crate) fn approvals(targets: &Targets, names: &[String], home: &Home) -> Vec<Named> {
    let mut found = Vec::new();
    for target in targets.iter() {
        let pattern = target.pipeline().contains('{');
        let literal = target.pipeline().to_owned();
        let names = if pattern {
            names
        } else {
            std::slice::from_ref(&literal)
        };
        for pipeline in names {
            let wanted = Wanted {
                pipeline,
                stage: target.stage(),
                action: target.action(),
            };
            let Ok(named) = lookup::find(targets, wanted, home) else {
                continue;
            };
            // What was listed is in the queue's own account and region, whatever the pattern says.
            let listed =
                named.pipeline.account == home.account && named.pipeline.region == home.region;
            if named.target.label == target.pipeline() && (listed || !pattern) {
                found.push(named);
            }
        }
    }
    found
}

fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}
