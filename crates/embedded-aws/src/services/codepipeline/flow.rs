//! How executions move through the stages of a pipeline.
//!
//! After "How pipeline executions work" of the CodePipeline user guide. A stage is locked by the execution
//! that runs in it, until that has succeeded, failed or been stopped there. Where the transition into a stage is disabled,
//! executions wait in front of it although it is free; a retry of the stage is no transition.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::services::codepipeline::definition::{ActionDefinition, Definition, Mode};
use crate::services::codepipeline::execution::{
    ABANDONED, Execution, FAILED, IN_PROGRESS, Kind, SUCCEEDED,
};
use crate::wire::exchange::Failure;

/// A pipeline and its executions.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    pub(crate) definition: Definition,
    /// In the order in which they started.
    pub(crate) executions: Vec<Execution>,
    /// The stages into which the transition is disabled.
    pub(crate) disabled: BTreeSet<String>,
}

/// Which actions of a failed stage run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Those that failed.
    FailedActions,
    /// All of them: a deployment in the same stage deploys once more.
    AllActions,
}

/// How an action ended.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) status: &'static str,
    pub(crate) by: Option<String>,
    pub(crate) summary: Option<String>,
    pub(crate) error_code: Option<&'static str>,
}

impl Ending {
    pub(crate) fn success() -> Self {
        Self {
            status: SUCCEEDED,
            by: None,
            summary: None,
            error_code: None,
        }
    }

    pub(crate) fn failure(summary: impl Into<String>) -> Self {
        Self {
            status: FAILED,
            by: None,
            summary: Some(summary.into()),
            error_code: Some("JobFailed"),
        }
    }
}

/// An action that has just begun: its execution's id, and its own.
pub(crate) type Begun = (String, String);

impl Pipeline {
    pub(crate) fn place_of(&self, execution: &str) -> Option<usize> {
        self.executions.iter().position(|it| it.id == execution)
    }

    pub(crate) fn execution(&self, id: &str) -> Option<&Execution> {
        self.executions.iter().find(|it| it.id == id)
    }

    pub(crate) fn execution_mut(&mut self, id: &str) -> Option<&mut Execution> {
        self.executions.iter_mut().find(|it| it.id == id)
    }

    /// A new execution comes to its first stage, or to the one that is rolled back.
    pub(crate) fn start(
        &mut self,
        mut execution: Execution,
        stage: usize,
        at: Timestamp,
    ) -> Vec<Begun> {
        execution.mode = self.definition.mode;
        self.executions.push(execution);
        self.arrive(self.executions.len() - 1, stage, at)
    }

    /// An action ends. One that has ended stays as it is: so does one that was abandoned, whatever
    /// becomes of its build.
    pub(crate) fn end(
        &mut self,
        execution: &str,
        action: &str,
        ending: Ending,
        at: Timestamp,
    ) -> Vec<Begun> {
        let Some(index) = self.place_of(execution) else {
            return Vec::new();
        };
        let Some(run) = self.executions[index].action_mut(action) else {
            return Vec::new();
        };
        if !run.runs() {
            return Vec::new();
        }
        run.end(ending.status, at);
        run.by = ending.by;
        run.summary = ending.summary;
        run.error_code = ending.error_code;
        let stage = run.stage.clone();
        let mut begun = self.go_on(index, &stage, at);
        begun.extend(self.admit(at));
        begun
    }

    /// An execution goes on behind an action of this stage.
    fn go_on(&mut self, index: usize, stage: &str, at: Timestamp) -> Vec<Begun> {
        let Some(place) = self.definition.place_of(stage) else {
            return Vec::new();
        };
        let execution = &mut self.executions[index];
        if execution.ended.is_some() {
            return Vec::new();
        }
        let stage = &self.definition.stages[place];
        let of_stage = execution.begun(at).filter(|it| it.stage == stage.name);
        let (mut runs, mut attempt) = (false, 1);
        for run in of_stage {
            runs |= run.runs();
            attempt = attempt.max(run.attempt);
        }
        if runs {
            return Vec::new();
        }
        if execution.stopping {
            execution.ended = Some(("Stopped", at));
            return Vec::new();
        }
        match execution.stage_status(stage, at) {
            Some(IN_PROGRESS) => self.begin_next(index, place, attempt, at),
            Some(SUCCEEDED) if execution.kind == Kind::Standard && !execution.loose => {
                if place + 1 < self.definition.stages.len() {
                    self.arrive(index, place + 1, at)
                } else {
                    Vec::new()
                }
            }
            _ => Vec::new(),
        }
    }

    /// Whether another execution is in this stage.
    fn is_taken(&self, stage: usize, by_other_than: usize, at: Timestamp) -> bool {
        if self.definition.mode == Mode::Parallel {
            return false;
        }
        let stage = &self.definition.stages[stage];
        self.executions.iter().enumerate().any(|(index, it)| {
            index != by_other_than
                && it.ended.is_none()
                && it.stage_status(stage, at) == Some(IN_PROGRESS)
        })
    }

    /// Whether executions wait in front of this stage for as long as somebody wants.
    pub(crate) fn is_disabled(&self, stage: usize) -> bool {
        let stage = self.definition.stages.get(stage);
        stage.is_some_and(|it| self.disabled.contains(&it.name))
    }

    fn waiters(&self, stage: usize) -> Vec<usize> {
        let waits = |it: &&(usize, &Execution)| it.1.waits.is_some_and(|(at, _)| at == stage);
        let mut all: Vec<_> = self
            .executions
            .iter()
            .enumerate()
            .filter(|it| waits(&it))
            .collect();
        all.sort_by_key(|(_, it)| it.waits.map(|(_, since)| since));
        all.into_iter().map(|(index, _)| index).collect()
    }

    /// An execution comes in front of a stage.
    fn arrive(&mut self, index: usize, stage: usize, at: Timestamp) -> Vec<Begun> {
        let waiters = self.waiters(stage);
        let is_open = !self.is_disabled(stage) && !self.is_taken(stage, index, at);
        if waiters.is_empty() && is_open {
            return self.enter(index, stage, at);
        }
        self.executions[index].waits = Some((stage, at));
        if self.definition.mode == Mode::Superseded {
            for waiter in waiters {
                // Executions lie in the order in which they started.
                let older = &mut self.executions[waiter.min(index)];
                older.waits = None;
                older.ended = Some(("Superseded", at));
            }
        }
        Vec::new()
    }

    fn enter(&mut self, index: usize, stage: usize, at: Timestamp) -> Vec<Begun> {
        let execution = &mut self.executions[index];
        execution.waits = None;
        let attempt = execution.next_attempt(&self.definition.stages[stage].name);
        self.begin_next(index, stage, attempt, at)
    }

    /// The actions of a stage begin whose turn it is: those with the lowest number that have not run.
    fn begin_next(
        &mut self,
        index: usize,
        stage: usize,
        attempt: u32,
        at: Timestamp,
    ) -> Vec<Begun> {
        let stage = &self.definition.stages[stage];
        let execution = &mut self.executions[index];
        let missing =
            |it: &&ActionDefinition| execution.latest(&stage.name, &it.name, at).is_none();
        let missing: Vec<_> = stage.actions.iter().filter(missing).collect();
        let Some(turn) = missing.iter().map(|it| it.run_order).min() else {
            return Vec::new();
        };
        let begin = missing.into_iter().filter(|it| it.run_order == turn);
        begin
            .map(|action| {
                let run = execution.begin(&stage.name, action, attempt, at);
                let id = run.id.clone();
                (execution.id.clone(), id)
            })
            .collect()
    }

    /// Whoever waits in front of a stage that has become free enters.
    pub(crate) fn admit(&mut self, at: Timestamp) -> Vec<Begun> {
        let mut begun = Vec::new();
        for stage in 0..self.definition.stages.len() {
            for waiter in self.waiters(stage) {
                if !self.is_disabled(stage) && !self.is_taken(stage, waiter, at) {
                    begun.extend(self.enter(waiter, stage, at));
                }
            }
        }
        begun
    }

    /// RetryStageExecution.
    pub(crate) fn retry(
        &mut self,
        execution: &str,
        stage: &str,
        which: Retry,
        at: Timestamp,
    ) -> Result<Vec<Begun>, Failure> {
        let not_found = || refused("StageNotFoundException", "There is no such stage.");
        let place = self.definition.place_of(stage).ok_or_else(not_found)?;
        let index = self.place_of(execution).ok_or_else(not_found)?;
        let definition = &self.definition.stages[place];
        if self.executions[index].stage_status(definition, at) != Some(FAILED) {
            let why = "The stage has not failed: it cannot be retried.";
            return Err(refused("StageNotRetryableException", why));
        }
        let entered = |it: &Execution| {
            let of_stage = it.begun(at).filter(|run| run.stage == stage);
            of_stage.map(|run| run.started).max()
        };
        let own = entered(&self.executions[index]);
        let locks = self.definition.mode != Mode::Parallel;
        let later = |it: &Execution| it.id != execution && entered(it) > own;
        if locks && (self.is_taken(place, index, at) || self.executions.iter().any(later)) {
            let why = "Another execution has been in the stage since.";
            return Err(refused("NotLatestPipelineExecutionException", why));
        }
        let run = &mut self.executions[index];
        let attempt = run.next_attempt(stage);
        if which == Retry::AllActions {
            run.floors.insert(stage.to_owned(), attempt);
            return Ok(self.begin_next(index, place, attempt, at));
        }
        let failed = |it: &&ActionDefinition| {
            let latest = run.latest(stage, &it.name, at);
            latest.is_some_and(|latest| latest.status == FAILED)
        };
        let failed: Vec<_> = definition.actions.iter().filter(failed).collect();
        let begin = failed.into_iter().map(|action| {
            let id = run.begin(stage, action, attempt, at).id.clone();
            (execution.to_owned(), id)
        });
        Ok(begin.collect())
    }

    /// StopPipelineExecution.
    pub(crate) fn stop(&mut self, execution: &str, abandons: bool, at: Timestamp) -> Vec<Begun> {
        let Some(run) = self.execution_mut(execution) else {
            return Vec::new();
        };
        let idle = run.waits.is_some() || !run.actions.iter().any(|it| it.runs());
        if abandons {
            for action in &mut run.actions {
                if action.runs() {
                    action.end(ABANDONED, at);
                }
            }
        }
        if abandons || idle {
            run.waits = None;
            run.ended = Some(("Stopped", at));
        } else {
            run.stopping = true;
        }
        self.admit(at)
    }
}

fn refused(code: &str, why: &str) -> Failure {
    Failure::new(400, code, why)
}
