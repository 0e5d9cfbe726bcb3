//! Asking CodePipeline: whether a rejection still stands, and whether another execution is at work.
//!
//! **Guarantees.** What cannot be asked is not a yes. Nothing here changes anything.
//!
//! What is decided by the answers stands in [`crate::domain::verdict`] and [`crate::domain::at_work`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::try_join_all;

use super::retry::Calls;
use super::{Ended, Failure, Halt, Refused};
use crate::aws::AwsError;
use crate::aws::codepipeline::CodePipeline;
use crate::config::OnTimeout;
use crate::domain::arn::PipelineArn;
use crate::domain::at_work::{self, Activities, Busy, Known, Scope};
use crate::domain::decision::{Outcome, Refusal};
use crate::domain::executions::{Attempt, Mode, Stage};
use crate::domain::refusal::contradicted;
use crate::domain::targets::{Access, Neighbour};
use crate::domain::verdict::{self, Cause, Doubt, Verdict};
use crate::telemetry::events;

/// An event that says what CodePipeline does not show is refused once it is so old; before, CodePipeline's
/// answers may lag behind.
const SETTLED_AFTER: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// The code of an execution that CodePipeline does not know (API reference: `ListActionExecutions`).
const UNKNOWN_EXECUTION: &str = "PipelineExecutionNotFoundException";

/// What CodePipeline answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// The step may be taken.
    Yes,
    /// Somebody is at work, or the execution itself: the step has to wait.
    NotNow(Obstacle),
    Ends(Ended),
}

/// What a step has to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    pub(super) pipeline: String,
    /// The execution, its stage, and its action, if it is in one.
    pub(super) busy: Busy,
}

/// What one run has learned of the pipelines.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// Which stages and actions are sources and approvals.
    known: Mutex<Known>,
    modes: Mutex<HashMap<PipelineArn, Mode>>,
    /// The production distribution that the job is about.
    production: Mutex<Option<String>>,
}

impl Learned {
    /// The actions of the job's execution were seen.
    pub(super) fn learn(&self, attempts: &[Attempt]) {
        lock(&self.known).extend(Known::of(attempts));
    }

    /// The job is about this production distribution.
    pub(super) fn is_about(&self, production_id: &str) {
        *lock(&self.production) = Some(production_id.to_owned());
    }

    pub(super) fn production(&self) -> Option<String> {
        lock(&self.production).clone()
    }

    fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    fn mode(&self, pipeline: &PipelineArn) -> Option<Mode> {
        lock(&self.modes).get(pipeline).copied()
    }

    fn learn_mode(&self, pipeline: &PipelineArn, mode: Mode) {
        lock(&self.modes).insert(pipeline.clone(), mode);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is an assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Calls<'_> {
    /// The pipelines of the account that a pipeline is asked about in.
    pub(super) fn pipelines(&self, access: &Access) -> CodePipeline {
        let account = self.context.accounts.get(access);
        let clients = account.clients.for_job(&self.job.stop, &self.job.activity);
        clients.codepipeline
    }

    /// The neighbour that is the job's own pipeline.
    pub(super) fn own_pipeline(&self) -> Neighbour {
        let job = self.job;
        Neighbour {
            pipeline: job.rejection().pipeline.clone(),
            access: job.target().pipeline_access.clone(),
            stage: Some(job.rejection().stage.clone()).filter(|stage| !stage.is_empty()),
            deploy_stage: job.target().deploy_stage.clone(),
        }
    }

    /// The actions of the job's execution.
    pub(super) async fn own_attempts(&self) -> Result<Vec<Attempt>, AwsError> {
        let own = self.own_pipeline();
        let execution_id = self.job.execution_id();
        let pipelines = self.pipelines(&own.access);
        let attempts = pipelines.attempts(&own.pipeline.name, execution_id).await;
        match attempts {
            // CodePipeline does not know the execution: that is an answer.
            Err(error) if error.code.as_deref() == Some(UNKNOWN_EXECUTION) => Ok(Vec::new()),
            attempts => attempts,
        }
    }

    /// Whether the rejection stands, by CodePipeline. Answers whether it was asked; ends or fails the job if
    /// it does not stand.
    pub(super) async fn verify(&self, before: &'static str) -> Result<bool, Halt> {
        if self.context.settings.verify.is_none() || self.job.is_by_hand() {
            return Ok(false);
        }
        self.job.activity.set("asking_codepipeline");
        let learned = Learned::default();
        match self
            .call(|| self.ask(None, &learned))
            .await
            .map(|it| self.answer(before, it))?
        {
            Answer::Yes => Ok(true),
            Answer::Ends(ended) => Err(ended.into()),
            Answer::NotNow(_) => {
                Err(Ended::Failed(Failure::Unverified(Doubt::StageNotFailed)).into())
            }
        }
    }

    /// What CodePipeline shows of the execution and, with a scope, of everybody who may be at work. Makes each
    /// call once.
    pub(super) async fn ask(
        &self,
        scope: Option<Scope>,
        learned: &Learned,
    ) -> Result<Reply, AwsError> {
        let neighbours = match scope {
            Some(_) => self.neighbours(learned).await?,
            None => vec![self.own_pipeline()],
        };
        let attempts = async {
            match self.job.is_by_hand() {
                true => Ok(None),
                false => self.own_attempts().await.map(Some),
            }
        };
        let asked = match scope {
            None if self.job.is_by_hand() => &[],
            _ => &neighbours[..],
        };
        let states = try_join_all(
            asked
                .iter()
                .map(|neighbour| self.state(neighbour, scope.is_some(), learned)),
        );
        let (attempts, states) = tokio::try_join!(attempts, states)?;
        if let Some(attempts) = &attempts {
            learned.learn(attempts);
        }
        Ok(Reply {
            attempts,
            busy: scope.and_then(|scope| self.busy(scope, &neighbours, &states, learned)),
            stages: states.into_iter().next().map(|state| state.stages),
        })
    }

    async fn state(
        &self,
        neighbour: &Neighbour,
        at_work: bool,
        learned: &Learned,
    ) -> Result<Activities, AwsError> {
        let pipelines = self.pipelines(&neighbour.access);
        let name = &neighbour.pipeline.name;
        if !at_work {
            return Ok(Activities {
                stages: pipelines.stages(name).await?,
                ..Activities::default()
            });
        }
        let activity = pipelines
            .activity(name, learned.mode(&neighbour.pipeline))
            .await?;
        learned.learn_mode(&neighbour.pipeline, activity.mode);
        Ok(activity)
    }

    fn busy(
        &self,
        scope: Scope,
        neighbours: &[Neighbour],
        states: &[Activities],
        learned: &Learned,
    ) -> Option<Obstacle> {
        let rejection = self.job.rejection();
        let learned = learned.known();
        neighbours
            .iter()
            .zip(states)
            .find_map(|(neighbour, state)| {
                let own = neighbour.pipeline == rejection.pipeline;
                let execution_id =
                    (own && !self.job.is_by_hand()).then_some(rejection.execution_id.as_str());
                let question = at_work::Question {
                    execution_id,
                    approval_stage: neighbour.stage.as_deref(),
                    deploy_stage: neighbour.deploy_stage.as_deref(),
                    scope,
                    now: self.context.clock.now(),
                };
                let known = match own {
                    true => learned.clone(),
                    false => Known::of(&state.newest),
                };
                at_work::find(question, state, &known).map(|busy| Obstacle {
                    pipeline: neighbour.pipeline.name.clone(),
                    busy,
                })
            })
    }

    /// What a reply means for the step.
    pub(super) fn answer(&self, before: &'static str, reply: Reply) -> Answer {
        let rejection = self.job.rejection();
        if let Some(attempts) = reply.attempts {
            let seen = crate::domain::executions::Seen {
                attempts,
                stages: reply.stages.unwrap_or_default(),
            };
            let verdict = verdict::judge(rejection, self.job.cause(), &seen);
            match self.ends(before, verdict) {
                Ok(()) => {}
                Err(Some(ended)) => return Answer::Ends(ended),
                Err(None) => {
                    return Answer::NotNow(Obstacle {
                        pipeline: rejection.pipeline.name.clone(),
                        busy: Busy {
                            execution_id: rejection.execution_id.clone(),
                            stage: rejection.stage.clone(),
                            action: None,
                        },
                    });
                }
            }
        }
        match reply.busy {
            Some(obstacle) => Answer::NotNow(obstacle),
            None => Answer::Yes,
        }
    }

    /// How a verdict ends the job, if it does; `Err(None)`: the execution itself still runs beside its
    /// approval.
    pub(super) fn ends(&self, before: &'static str, verdict: Verdict) -> Result<(), Option<Ended>> {
        let expired_are_ignored = self.context.settings.verify == Some(OnTimeout::Ignore);
        self.context.telemetry.emit(events::RejectionChecked {
            execution_id: self.job.execution_id(),
            before,
            verdict: &verdict,
            expired_are_ignored,
        });
        match verdict {
            Verdict::Expired { .. } if expired_are_ignored => Err(Some(Outcome::Undecided.into())),
            Verdict::Stands | Verdict::Expired { .. } => Ok(()),
            Verdict::Undecided { .. } => Err(Some(Outcome::Undecided.into())),
            Verdict::StageRuns => Err(None),
            Verdict::Retracted(_) => Err(Some(Outcome::Retracted.into())),
            Verdict::Doubtful(doubt) => Err(Some(self.doubtful(doubt))),
        }
    }

    /// CodePipeline does not show what the event says: that may be a lag, while the event is young.
    pub(super) fn doubtful(&self, doubt: Doubt) -> Ended {
        let rejection = self.job.rejection();
        let settled = self.job.cause() == Cause::Rejection
            && self.context.clock.since(rejection.rejected_at) > SETTLED_AFTER;
        if settled && doubt.contradicts_event() {
            return Ended::Refused(Refused {
                refusal: Refusal::EventContradictsCodePipeline,
                detail: contradicted(&doubt, rejection),
            });
        }
        Ended::Failed(Failure::Unverified(doubt))
    }
}

/// What one question came to.
pub(super) struct Reply {
    /// The execution's actions; `None` of a cleanup by hand.
    attempts: Option<Vec<Attempt>>,
    /// The stages of its pipeline.
    stages: Option<Vec<Stage>>,
    busy: Option<Obstacle>,
}
