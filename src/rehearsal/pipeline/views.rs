//! Executions and their actions as they are, for whoever looks at the world without a protocol.

use jiff::Timestamp;

use super::builds::Key;
use super::definition::{Category, Definition};
use super::execution::{ActionExecution, Execution, Kind};
use crate::rehearsal::EmbeddedAws;
use crate::rehearsal::accounts::Place;
use crate::rehearsal::service::Service;

/// An execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionView {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// `InProgress`, `Succeeded`, `Failed`, `Stopping`, `Stopped` or `Superseded`.
    pub status: &'static str,
    /// The stage that it runs, or ran last.
    pub stage: Option<String>,
    /// The stage in front of which it waits.
    pub waits_before: Option<String>,
    /// When it started.
    pub started: Timestamp,
    /// Every run of an action, in the order in which they began.
    pub actions: Vec<ActionView>,
}

/// One run of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionView {
    /// Its id.
    pub id: String,
    /// Its stage.
    pub stage: String,
    /// The action.
    pub action: String,
    /// What the action is for.
    pub category: Category,
    /// Of its stage, counted from 1.
    pub attempt: u32,
    /// `InProgress`, `Succeeded`, `Failed` or `Abandoned`.
    pub status: &'static str,
    /// When it began.
    pub started: Timestamp,
    /// When its status last changed.
    pub updated: Timestamp,
    /// The UUID of its build, if a build carries it out.
    pub build: Option<String>,
}

impl ExecutionView {
    /// The newest run of an action.
    #[must_use]
    pub fn latest(&self, action: &str) -> Option<&ActionView> {
        self.actions.iter().rfind(|it| it.action == action)
    }
}

fn action(run: &ActionExecution) -> ActionView {
    ActionView {
        id: run.id.clone(),
        stage: run.stage.clone(),
        action: run.action.clone(),
        category: run.category,
        attempt: run.attempt,
        status: run.status,
        started: run.started,
        updated: run.updated,
        build: run.build().map(str::to_owned),
    }
}

fn view(execution: &Execution, definition: &Definition, now: Timestamp) -> ExecutionView {
    let stage = execution.stage(definition, now);
    let waits = execution
        .waits
        .and_then(|(at, _)| definition.stages.get(at));
    ExecutionView {
        id: execution.id.clone(),
        kind: execution.kind,
        status: execution.status(definition, now),
        stage: stage.map(|it| it.name.clone()),
        waits_before: waits.map(|it| it.name.clone()),
        started: execution.started,
        actions: execution.begun(now).map(action).collect(),
    }
}

impl EmbeddedAws {
    /// The execution that a service stands for; nothing if its pipeline does not know it.
    #[must_use]
    pub fn execution(&self, service: &Service) -> Option<ExecutionView> {
        let now = self.clock().now();
        let state = self.state();
        let pipeline = state.known_pipeline(&Key::of(service))?;
        let found = pipeline.execution(&service.execution_id)?;
        Some(view(found, &pipeline.definition, now))
    }

    /// The executions of a pipeline here, in the order in which they started.
    #[must_use]
    pub fn executions(&self, pipeline: &str) -> Vec<ExecutionView> {
        let now = self.clock().now();
        let key = Key {
            place: Place {
                account: self.account().to_owned(),
                region: self.region().to_owned(),
            },
            name: pipeline.to_owned(),
        };
        let state = self.state();
        let Some(pipeline) = state.known_pipeline(&key) else {
            return Vec::new();
        };
        let all = pipeline.executions.iter();
        all.map(|it| view(it, &pipeline.definition, now)).collect()
    }

    /// The execution that a service stands for, with what it has deployed by now and the moment at which its
    /// newest approval opened, where one has.
    #[must_use]
    pub fn current(&self, service: &Service) -> Service {
        let now = self.clock().now();
        let state = self.state();
        let pipeline = state.known_pipeline(&Key::of(service));
        let Some(execution) = pipeline.and_then(|it| it.execution(&service.execution_id)) else {
            return service.clone();
        };
        let approval = |it: &&ActionExecution| it.category == Category::Approval;
        let opened = execution.begun(now).rfind(approval);
        Service {
            start_time: opened.map_or(service.start_time, |it| it.started),
            account: service.account.clone(),
            region: service.region.clone(),
            pipeline: service.pipeline.clone(),
            ..execution.service.clone()
        }
    }
}
