//! What happens to a deployment at its approval: it is rejected, approved, retried, or forgotten.
//!
//! Each tells CodePipeline what became of an attempt; whether an event of it is sent is another matter.

use std::time::Duration;

use jiff::Timestamp;

use crate::services::by::By;
use crate::services::codepipeline::definition::{Category, Work};
use crate::services::codepipeline::execution::{ActionExecution, Execution, SUCCEEDED, action_id};
use crate::services::codepipeline::flow::Ending;
use crate::services::codepipeline::script::Review;
use crate::services::codepipeline::service::Service;
use crate::wire::settings::{ExpiredApproval, Place};
use crate::world::aws::EmbeddedAws;
use crate::world::pipeline::builds::Key;
use crate::world::state::{Account, State};

/// How long before its approval opens a deployment began of which nothing else is known.
const DEPLOYING: Duration = Duration::from_secs(6 * 60);

impl Review<'_> {
    fn ending(self, reviewer: String, expired: ExpiredApproval) -> Ending {
        let (status, summary, error_code, by) = match self {
            Self::Rejected(comment) => {
                let said = format!("Rejected by {reviewer}");
                let said = comment.map_or(said, str::to_owned);
                ("Failed", Some(said), Some("JobFailed"), Some(reviewer))
            }
            Self::Approved => {
                let said = format!("Approved by {reviewer}");
                ("Succeeded", Some(said), None, Some(reviewer))
            }
            Self::Expired => match expired {
                ExpiredApproval::Silent => ("Failed", None, Some("JobFailed"), None),
                ExpiredApproval::Code => ("Failed", None, Some("JobTimedOut"), None),
                ExpiredApproval::Text => {
                    let said = "The approval timed out.".to_owned();
                    ("Failed", Some(said), Some("JobFailed"), None)
                }
            },
            Self::Misconfigured => {
                let said = "The topic of the approval does not exist.".to_owned();
                ("Failed", Some(said), Some("ConfigurationError"), None)
            }
        };
        Ending {
            status,
            by,
            summary,
            error_code,
        }
    }
}

impl EmbeddedAws {
    /// An attempt of a deployment's approval, counted from 1, ends now. One that has ended stays as it
    /// is; one that was not opened is opened by this.
    pub fn review(&self, service: &Service, attempt: u32, how: Review<'_>) {
        self.review_at(service, attempt, how, self.now());
    }

    pub(crate) fn review_at(
        &self,
        service: &Service,
        attempt: u32,
        how: Review<'_>,
        at: Timestamp,
    ) {
        let mut state = self.state();
        let key = state.know(service, &self.place);
        let opened = if attempt == 1 { service.start_time } else { at };
        let id = state.open(&key, &service.execution_id, attempt, opened);
        state.decide(&key, &service.execution_id, &id, how, at);
        drop(state);
        self.changed();
    }

    /// The stage of a rejected approval is retried: its next attempt waits for a reviewer from now on.
    /// It is not asked who is in the stage; [`EmbeddedAws::retry`] does.
    pub fn retry_approval(&self, service: &Service, attempt: u32) {
        let now = self.now();
        let mut state = self.state();
        let key = state.know(service, &self.place);
        state.open(&key, &service.execution_id, attempt, now);
        drop(state);
        self.changed();
    }

    /// The deployment's execution is stopped and abandoned, whatever it is doing.
    pub fn abandon(&self, service: &Service) {
        let mut state = self.state();
        state.know(service, &self.place);
        drop(state);
        self.stop(service, true);
    }

    /// The deployment's execution is superseded by a newer one, before it was decided upon.
    pub fn supersede(&self, service: &Service) {
        let now = self.now();
        self.abandon(service);
        let mut state = self.state();
        if let Some(execution) = state.execution(&Key::of(service), &service.execution_id) {
            execution.ended = Some(("Superseded", now));
        }
        drop(state);
        self.changed();
    }
}

impl State {
    /// An approval that waits is decided.
    pub(crate) fn decide(
        &mut self,
        key: &Key,
        execution: &str,
        action: &str,
        how: Review<'_>,
        at: Timestamp,
    ) {
        let account = &key.place.account;
        let reviewer = format!("arn:aws:sts::{account}:assumed-role/reviewer/alex");
        let ending = how.ending(reviewer, self.settings.switches.expired_approval);
        let found = self.execution(key, execution);
        let Some(run) = found.and_then(|it| it.action(action).filter(|it| it.runs()).cloned())
        else {
            return;
        };
        let mut begun = self.pipeline(key).end(execution, action, ending, at);
        let loose = self.execution(key, execution).is_some_and(|it| it.loose);
        if loose && how == Review::Approved {
            begun.extend(self.leave(key, execution, &run, at));
        }
        self.schedule(key, begun, at);
    }

    /// The actions of the stage behind an approval begin, in the approval's own attempt.
    fn leave(
        &mut self,
        key: &Key,
        id: &str,
        approval: &ActionExecution,
        at: Timestamp,
    ) -> Vec<(String, String)> {
        let pipeline = self.pipeline(key);
        let definition = pipeline.definition.clone();
        let place = definition.place_of(&approval.stage);
        let next = place.and_then(|place| Some((place + 1, definition.stages.get(place + 1)?)));
        let is_disabled = next.is_some_and(|(place, _)| pipeline.is_disabled(place));
        let (Some((place, next)), Some(execution)) = (next, self.execution(key, id)) else {
            return Vec::new();
        };
        // A loose execution's approval may begin a moment ahead.
        let seen = at.max(approval.started);
        let passed = execution.stage_status(&definition.stages[place - 1], seen);
        if passed != Some(SUCCEEDED) {
            // Another approval of the stage waits.
            return Vec::new();
        }
        if is_disabled {
            execution.waits = Some((place, at));
            return Vec::new();
        }
        let begin = next.actions.iter().map(|action| {
            let run = execution.begin(&next.name, action, approval.attempt, at);
            (id.to_owned(), run.id.clone())
        });
        begin.collect()
    }

    /// The approval of an execution in this attempt; one that is new began then. Answers its id.
    pub(crate) fn open(
        &mut self,
        key: &Key,
        execution: &str,
        attempt: u32,
        at: Timestamp,
    ) -> String {
        let definition = self.pipeline(key).definition.clone();
        let (stage, name) = definition.approval();
        let id = action_id(execution, stage, name, attempt);
        let action = definition
            .actions()
            .find(|(it, action)| it.name == stage && action.name == name);
        if let (Some(execution), Some((_, action))) = (self.execution(key, execution), action)
            && execution.action(&id).is_none()
        {
            execution.waits = None;
            execution.begin(stage, action, attempt, at);
        }
        id
    }

    /// Sees to it that the pipeline of a service knows its execution. Of one that another pipeline knows it
    /// learns all that there is; of one that none knows it is made up that it deployed.
    pub(crate) fn know(&mut self, service: &Service, things: &Place) -> Key {
        let key = Key::of(service);
        let id = &service.execution_id;
        if self.execution(&key, id).is_some() {
            return key;
        }
        let all = self.accounts.values().flat_map(Account::pipelines);
        let elsewhere = all
            .filter_map(|it| Some((it.definition.clone(), it.execution(id)?.clone())))
            .next();
        if let Some((definition, execution)) = elsewhere {
            let pipeline = self.pipeline(&key);
            if pipeline.executions.is_empty() {
                pipeline.definition = definition;
            }
            pipeline.executions.push(execution);
        } else {
            let opened = service.start_time;
            let began = opened.checked_sub(DEPLOYING).unwrap_or(opened);
            let ended = opened.checked_sub(Duration::from_secs(1)).unwrap_or(opened);
            self.deployed(service, things, [began, began, began, ended]);
        }
        key
    }

    /// An execution that has deployed, in one action for each of its stages before the approval: when the
    /// source was fetched, when it was built, when the deployment began and when it ended.
    pub(crate) fn deployed(&mut self, service: &Service, things: &Place, times: [Timestamp; 4]) {
        let [fetched, built, began, ended] = times;
        self.deploying(service, things, [fetched, built, began]);
        self.deployment_ends(service, ended);
    }

    /// An execution that deploys since the last of these times.
    pub(crate) fn deploying(&mut self, service: &Service, things: &Place, times: [Timestamp; 3]) {
        let [fetched, built, began] = times;
        let key = Key::of(service);
        let mut execution = Execution::of(service, things, fetched);
        execution.loose = true;
        let pipeline = self.pipeline(&key);
        execution.mode = pipeline.definition.mode;
        let (until, _) = pipeline.definition.approval();
        let stages = pipeline.definition.stages.iter();
        for stage in stages.take_while(|it| it.name != until) {
            for action in &stage.actions {
                let (from, to) = match (action.category, action.work) {
                    (Category::Source, _) => (fetched, Some(built)),
                    (_, Work::Deploys) => (began, None),
                    _ => (built, Some(began)),
                };
                let run = execution.begin(&stage.name, action, 1, from);
                if let Some(to) = to {
                    run.end("Succeeded", to);
                }
            }
        }
        pipeline.executions.push(execution);
    }

    /// The deployment of an execution ends.
    pub(crate) fn deployment_ends(&mut self, service: &Service, at: Timestamp) {
        let key = Key::of(service);
        let running = self.deployment(service).filter(|it| it.runs());
        if let Some(run) = running.cloned() {
            let (id, ending) = (&service.execution_id, Ending::success());
            let begun = self.pipeline(&key).end(id, &run.id, ending, at);
            self.schedule(&key, begun, at);
        }
    }

    /// The newest run of the action that deploys.
    fn deployment(&mut self, service: &Service) -> Option<&ActionExecution> {
        let execution = self.execution(&Key::of(service), &service.execution_id)?;
        execution
            .actions
            .iter()
            .rfind(|it| it.work == Work::Deploys)
    }

    /// As whom the deployment of an execution writes.
    pub(crate) fn by_deployment(&mut self, service: &Service) -> By {
        let action = self.deployment(service).map(|it| it.id.clone());
        let key = Key::of(service);
        self.by_build(&key, &service.execution_id, &action.unwrap_or_default())
    }

    /// What an execution has deployed is noted.
    pub(crate) fn remember(&mut self, service: &Service) {
        if let Some(execution) = self.execution(&Key::of(service), &service.execution_id) {
            execution.service = service.clone();
        }
    }
}
