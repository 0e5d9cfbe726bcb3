//! Telling what happens in a pipeline.

use jiff::Timestamp;

use crate::services::codepipeline::definition::{Category, Definition, Work};
use crate::services::codepipeline::execution::{ActionExecution, Execution, Kind};
use crate::services::codepipeline::flow::{Ending, Retry};
use crate::services::codepipeline::script::{Decision, Pattern, Script};
use crate::services::codepipeline::service::Service;
use crate::wire::exchange::Failure;
use crate::wire::settings::Place;
use crate::world::aws::EmbeddedAws;
use crate::world::events::{EventOptions, Outcome};
use crate::world::pipeline::builds::{Build, Deployment, Key, Next, Task};
use crate::world::pipeline::views::ExecutionView;
use crate::world::state::State;

impl State {
    /// The actions of an execution that run: their ids, categories and work.
    fn running(&mut self, service: &Service, now: Timestamp) -> Vec<(String, Category, Work)> {
        let execution = self.execution(&Key::of(service), &service.execution_id);
        let runs = execution.into_iter().flat_map(|it| it.begun(now));
        runs.filter(|it| it.runs())
            .map(|it| (it.id.clone(), it.category, it.work))
            .collect()
    }

    fn end(&mut self, service: &Service, action: &str, ending: Ending, at: Timestamp) {
        let key = Key::of(service);
        let pipeline = self.pipeline(&key);
        let begun = pipeline.end(&service.execution_id, action, ending, at);
        self.schedule(&key, begun, at);
    }

    pub(super) fn start(
        &mut self,
        service: &Service,
        things: &Place,
        shape: impl FnOnce(&mut Execution),
        stage: &str,
        at: Timestamp,
    ) -> Service {
        let new = Service {
            execution_id: self.ids.uuid(),
            staging_id: String::new(),
            staging_domain: String::new(),
            policy_id: String::new(),
            start_time: at,
            ..service.clone()
        };
        let mut execution = Execution::of(&new, things, at);
        shape(&mut execution);
        let key = Key::of(&new);
        let pipeline = self.pipeline(&key);
        let place = pipeline.definition.place_of(stage).unwrap_or(0);
        let begun = pipeline.start(execution, place, at);
        self.schedule(&key, begun, at);
        new
    }
}

impl EmbeddedAws {
    /// Gives a pipeline here its stages and its mode; one that exists keeps its executions.
    pub fn define_pipeline(&self, name: &str, definition: Definition) {
        let key = Key {
            place: self.place.clone(),
            name: name.to_owned(),
        };
        self.state().pipeline(&key).definition = definition;
        self.changed();
    }

    /// Somebody disables the transition into a stage of a pipeline here, or enables it again: then whoever waits in front
    /// of the stage enters it, as its mode has it.
    pub fn set_transition(&self, pipeline: &str, stage: &str, enabled: bool) {
        let now = self.now();
        let key = Key {
            place: self.place.clone(),
            name: pipeline.to_owned(),
        };
        let mut state = self.state();
        let found = state.pipeline(&key);
        match enabled {
            true => found.disabled.remove(stage),
            false => found.disabled.insert(stage.to_owned()),
        };
        let begun = found.admit(now);
        state.schedule(&key, begun, now);
        drop(state);
        self.changed();
    }

    /// Starts an execution of a service's pipeline that goes on by itself as time goes. The answer has
    /// deployed nothing yet.
    pub fn play(&self, service: &Service, script: Script) -> Service {
        let now = self.now();
        let scripted = |it: &mut Execution| it.script = Some(script);
        let new = self.state().start(service, &self.place, scripted, "", now);
        self.changed();
        new
    }

    /// Starts an execution of a service's pipeline that stands where it is until something is told of it.
    /// What is free to be entered is entered by itself, and a promotion plays by itself.
    pub fn start_execution(&self, service: &Service) -> Service {
        let now = self.now();
        let new = self.state().start(service, &self.place, |_| (), "", now);
        self.changed();
        new
    }

    /// A stage is rolled back: an execution of its own runs it again, and no other. It waits for its
    /// teller.
    pub fn roll_back(&self, service: &Service, stage: &str) -> Service {
        self.rolls_back(service, stage, None)
    }

    /// The same, and it goes on by itself.
    pub fn play_rollback(&self, service: &Service, stage: &str, script: Script) -> Service {
        self.rolls_back(service, stage, Some(script))
    }

    fn rolls_back(&self, service: &Service, stage: &str, script: Option<Script>) -> Service {
        let now = self.now();
        let rollback = |it: &mut Execution| {
            it.kind = Kind::Rollback;
            it.script = script;
        };
        let mut state = self.state();
        let new = state.start(service, &self.place, rollback, stage, now);
        drop(state);
        self.changed();
        new
    }

    /// The running actions of an execution that are no approvals and no promotion succeed, and so do those
    /// that begin by that, until the execution has entered the stage, waits for another execution, or is
    /// over. A deployment in front of it takes place, in pattern [`Pattern::New`].
    ///
    /// # Errors
    /// What CloudFront refuses a deployment with.
    pub fn run_to(&self, service: &Service, stage: &str) -> Result<Service, Failure> {
        loop {
            let arrived = |it: ExecutionView| it.stage.as_deref() == Some(stage);
            if self.execution(service).is_none_or(arrived) {
                break;
            }
            let running = self.state().running(service, self.now());
            let mut mine = running.into_iter().filter(|(_, category, work)| {
                *category != Category::Approval && *work != Work::Promotes
            });
            let Some((action, _, work)) = mine.next() else {
                break;
            };
            if work == Work::Deploys {
                self.deploy(service, Pattern::New)?;
            } else {
                let now = self.now();
                self.state().end(service, &action, Ending::success(), now);
            }
        }
        self.changed();
        Ok(self.current(service))
    }

    /// Everything that the `Deploy` action of an execution does, at this moment, and the action ends with
    /// it.
    ///
    /// # Errors
    /// What CloudFront refuses with: then the action has failed, and what was made stays.
    pub fn deploy(&self, service: &Service, pattern: Pattern) -> Result<Service, Failure> {
        let now = self.now();
        let mut state = self.state();
        let running = state.running(service, now);
        let Some((action, ..)) = running.into_iter().find(|it| it.2 == Work::Deploys) else {
            return Err(nothing("deployment"));
        };
        let build = Build {
            key: Key::of(service),
            execution: service.execution_id.clone(),
            action,
            task: Task::Ends,
        };
        let mut deployment = Deployment::new(pattern, std::time::Duration::ZERO);
        let refused = loop {
            match state.deploy_on(&build, &mut deployment, now) {
                Next::After(_) => {}
                Next::Succeeds => break None,
                Next::Fails(why) => break Some(why),
            }
        };
        let ending = refused
            .clone()
            .map_or_else(Ending::success, Ending::failure);
        state.end(service, &build.action, ending, now);
        drop(state);
        self.changed();
        match refused {
            None => Ok(self.current(service)),
            Some(why) => Err(Failure::new(400, "DeploymentFailed", why)),
        }
    }

    /// First part of the deployment of an execution whose `Deploy` action runs: the staging copy.
    ///
    /// # Errors
    /// What CopyDistribution refuses with.
    pub fn copy_staging(&self, service: &Service) -> Result<Service, Failure> {
        let now = self.now();
        let mut state = self.state();
        let mut new = service.clone();
        let by = state.by_deployment(service);
        state.copy(&mut new, &self.place, None, &by, now)?;
        state.remember(&new);
        drop(state);
        self.changed();
        Ok(new)
    }

    /// The running actions of an execution succeed, without doing anything; approvals do not.
    pub fn finish(&self, service: &Service) {
        self.end_all(service, &Ending::success());
    }

    /// The running actions of an execution fail; approvals do not.
    pub fn fail(&self, service: &Service) {
        self.end_all(service, &Ending::failure("COMMAND_EXECUTION_ERROR"));
    }

    fn end_all(&self, service: &Service, ending: &Ending) {
        let now = self.now();
        let mut state = self.state();
        for (action, category, _) in state.running(service, now) {
            if category != Category::Approval {
                state.end(service, &action, ending.clone(), now);
            }
        }
        drop(state);
        self.changed();
    }

    /// A reviewer rejects the approval of an execution that waits for one. Answers the event's body.
    ///
    /// # Errors
    /// None of its approvals waits.
    pub fn reject(&self, service: &Service) -> Result<String, Failure> {
        self.decide(service, &Decision::Rejected(None))
    }

    /// A reviewer approves. Answers the event's body.
    ///
    /// # Errors
    /// None of its approvals waits.
    pub fn approve(&self, service: &Service) -> Result<String, Failure> {
        self.decide(service, &Decision::Approved)
    }

    /// The approval of an execution that waits for one is decided so. Answers the event's body, with the
    /// approval's own ids and times.
    ///
    /// # Errors
    /// None of its approvals waits.
    pub fn decide(&self, service: &Service, decision: &Decision) -> Result<String, Failure> {
        let now = self.now();
        let key = Key::of(service);
        let mut state = self.state();
        let execution = state.execution(&key, &service.execution_id);
        let waits = |it: &&ActionExecution| it.runs() && it.category == Category::Approval;
        let waiting = execution.and_then(|it| it.begun(now).find(waits).cloned());
        let Some(approval) = waiting else {
            return Err(nothing("approval"));
        };
        state.decide(
            &key,
            &service.execution_id,
            &approval.id,
            decision.review(),
            now,
        );
        drop(state);
        self.changed();
        let options = EventOptions {
            outcome: match decision {
                Decision::Rejected(_) => Outcome::Rejected,
                Decision::Approved => Outcome::Approved,
                Decision::Expired => Outcome::Expired,
                Decision::Misconfigured => Outcome::Misconfigured,
            },
            attempt: approval.attempt,
            start_time: Some(approval.started),
            summary: match decision {
                Decision::Rejected(comment) => comment.clone(),
                _ => None,
            },
            approval: Some((approval.stage, approval.action)),
            ..EventOptions::default()
        };
        Ok(self.rejection_event(&self.current(service), &options))
    }

    /// A failed stage of an execution is retried.
    ///
    /// # Errors
    /// It has not failed, or another execution has been in it since.
    pub fn retry(&self, service: &Service, stage: &str, which: Retry) -> Result<(), Failure> {
        let now = self.now();
        let key = Key::of(service);
        let mut state = self.state();
        let pipeline = state.pipeline(&key);
        let begun = pipeline.retry(&service.execution_id, stage, which, now)?;
        state.schedule(&key, begun, now);
        drop(state);
        self.changed();
        Ok(())
    }

    /// An execution is stopped: what it runs may end; or is abandoned, and its builds go on unseen.
    pub fn stop(&self, service: &Service, abandons: bool) {
        let now = self.now();
        let key = Key::of(service);
        let mut state = self.state();
        let pipeline = state.pipeline(&key);
        let begun = pipeline.stop(&service.execution_id, abandons, now);
        state.schedule(&key, begun, now);
        drop(state);
        self.changed();
    }
}

fn nothing(what: &str) -> Failure {
    let why = format!("No {what} of the execution is under way.");
    Failure::new(400, "InvalidActionState", why)
}
