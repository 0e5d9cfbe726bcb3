//! What the script does in pipelines that play whole executions.

use std::time::Duration;

use embedded_aws::{
    ActionView, Category, Decision, EventOptions, ExecutionView, Form, Outcome, Pattern, Retry,
    Script, Service, Shape, Writer,
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::checker::Kind;
use super::executions::{APPROVE, CHECK, InPipeline};
use super::run::{Next, Play, Story};

impl Play<'_> {
    /// Makes a service whose first execution waits at its approval; nothing where the account's quota is
    /// used up.
    pub(super) fn create(&mut self, name: String) {
        let executions = self.scenario.executions.as_ref();
        let shape = Shape {
            definition: executions.map(|it| it.definition()).unwrap_or_default(),
            ..Shape::default()
        };
        let Ok(service) = self.aws.create_service_as(&name, &shape) else {
            return;
        };
        if executions.is_some_and(|it| it.another) {
            self.aws.define_pipeline(&another(&name), shape.definition);
        }
        let deployment = self.checker.deployed(service);
        self.services.push(Story {
            name,
            deployments: vec![deployment],
            deploying: None,
            rejections: Vec::new(),
        });
    }

    /// Whether nothing about a rejection is left to doubt: whose a deployment is always shows.
    pub(super) fn is_clear(&self, number: usize) -> bool {
        let pattern = self.scenario.executions.as_ref().map(|it| it.pattern);
        pattern == Some(Pattern::New)
            && self.scenario.switches.writer == Writer::Build
            && !self.scenario.switches.modified_when_deployed
            && !self.checker.deployments()[number].excused
    }

    pub(super) fn in_pipeline(&mut self, service: usize, what: InPipeline) {
        let Some(story) = self.services.get(service) else {
            return;
        };
        let deployments = self.checker.deployments();
        let first = deployments[story.deployments[0]].service.clone();
        match what {
            InPipeline::Starts {
                another: in_another,
                build,
                pace,
                cleans,
            } => {
                let mut of = first;
                if in_another {
                    of.pipeline = another(&of.name);
                }
                let script = self.scenario.script(build, pace, cleans);
                self.starts(service, &of, script);
            }
            InPipeline::Decides {
                decision,
                late,
                copies,
                older_form,
            } => self.decides(service, &decision, late, copies, older_form),
            InPipeline::Retries => {
                for number in self.services[service].deployments.iter().rev() {
                    let of = &deployments[*number].service;
                    let retried = |stage| self.aws.retry(of, stage, Retry::FailedActions).is_ok();
                    if [APPROVE, CHECK].into_iter().any(retried) {
                        self.note(|| format!("retried: {}", of.execution_id));
                        break;
                    }
                }
            }
            InPipeline::RollsBack { stage } => {
                let pace = Duration::from_secs(2);
                let script = self.scenario.script(pace, pace, false);
                let rollback = self.aws.play_rollback(&first, stage, script);
                let number = self.checker.deployed(rollback);
                self.services[service].deployments.push(number);
            }
            InPipeline::Abandons => {
                let numbers = self.services[service].deployments.iter().rev();
                let running = numbers.map(|number| &deployments[*number].service);
                let mut running = running.filter(|it| self.runs(it));
                if let Some(it) = running.next() {
                    self.note(|| format!("abandoned: {}", it.execution_id));
                    self.aws.stop(it, true);
                }
            }
            InPipeline::FirewallManager { production } => {
                let named = self.aws.parameter(&first.staging_parameter);
                let id = match production {
                    true => first.production_id.clone(),
                    false => named.unwrap_or_default(),
                };
                if self.aws.modify_as_firewall_manager(&id).is_ok() && !production {
                    self.checker.excuse(&first.production_id);
                }
            }
            InPipeline::Forged { minutes } => self.forged(service, minutes),
            InPipeline::Transition { stage, enabled } => {
                self.note(|| format!("transition into {stage} enabled: {enabled}"));
                self.aws.set_transition(&first.pipeline, stage, enabled);
            }
            InPipeline::WritesBack => {
                let history = self.aws.parameter_history(&first.staging_parameter);
                let now = self.aws.parameter(&first.staging_parameter);
                let mut ids = history.iter().rev().map(|it| &it.value);
                if let Some(id) = ids.find(|it| it.starts_with('E') && Some(*it) != now.as_ref()) {
                    self.checker.excuse(&first.production_id);
                    self.aws.put_parameter(&first.staging_parameter, id);
                }
            }
        }
    }

    fn starts(&mut self, service: usize, of: &Service, script: Script) {
        let started = self.aws.play(of, script);
        self.note(|| format!("started: {} of {}", started.execution_id, started.pipeline));
        let number = self.checker.deployed(started);
        self.services[service].deployments.push(number);
    }

    fn runs(&self, service: &Service) -> bool {
        let execution = self.aws.execution(service);
        execution.is_some_and(|it| {
            let works = |run: &&ActionView| {
                run.status == "InProgress" && run.category != Category::Approval
            };
            it.actions.iter().any(|run| works(&run))
        })
    }

    /// The approval that has waited for the longest time is decided.
    fn decides(
        &mut self,
        service: usize,
        decision: &Decision,
        late: Duration,
        copies: u32,
        older_form: bool,
    ) {
        let deployments = self.checker.deployments();
        let waits = |number: &usize| -> Option<(Timestamp, usize, ActionView)> {
            let view = self.aws.execution(&deployments[*number].service)?;
            let approval = waiting(&view)?.clone();
            Some((approval.started, *number, approval))
        };
        let numbers = self.services[service].deployments.iter();
        let first = numbers
            .filter_map(waits)
            .min_by_key(|(opened, number, _)| (*opened, *number));
        let Some((opened, number, approval)) = first else {
            return;
        };
        // Of the older form only the first is told from a duplicate.
        let view = self.aws.execution(&deployments[number].service);
        let attempts = view.map_or(0, |it| {
            it.actions
                .iter()
                .filter(|run| run.action == approval.action)
                .count()
        });
        let older_form = older_form && attempts < 2;
        let of = self.aws.current(&deployments[number].service);
        let Ok(mut body) = self.aws.decide(&of, decision) else {
            return;
        };
        let outcome = match decision {
            Decision::Rejected(_) => Outcome::Rejected,
            Decision::Approved => Outcome::Approved,
            Decision::Expired => Outcome::Expired,
            Decision::Misconfigured => Outcome::Misconfigured,
        };
        if older_form {
            let options = EventOptions {
                form: Form::Older,
                outcome,
                start_time: Some(opened),
                approval: Some((approval.stage.clone(), approval.action.clone())),
                ..EventOptions::default()
            };
            body = self.aws.rejection_event(&of, &options);
        }
        self.note(|| format!("{decision:?}: {}", of.execution_id));
        if *decision != Decision::Approved || approval.action == APPROVE {
            self.checker.decided(number, decision);
        }
        let kind = match decision {
            Decision::Approved => Kind::Harmless,
            _ => Kind::Rejection(number),
        };
        if kind != Kind::Harmless {
            let rejections = &mut self.services[service].rejections;
            rejections.push((body.clone(), number));
        }
        let at = Instant::now() + late;
        for _ in 0..copies {
            let body = body.clone();
            self.plan(at, Next::Arrives { body, kind });
        }
    }

    /// Somebody who may send to the queue sends real ids with other times.
    fn forged(&mut self, service: usize, minutes: i64) {
        let story = &self.services[service];
        let Some((body, number)) = story.rejections.first().cloned() else {
            return;
        };
        let mut event: serde_json::Value = serde_json::from_str(&body).unwrap();
        let shift = jiff::SignedDuration::from_mins(minutes);
        let then = self.clock.now().checked_add(shift).unwrap();
        event["time"] = serde_json::json!(format!("{then:.0}"));
        if event["detail"]["start-time"].is_string() {
            event["detail"]["start-time"] = serde_json::json!(format!("{then:.3}"));
        }
        self.arrive(&event.to_string(), Kind::Rejection(number));
    }
}

/// The other pipeline that leads to the parameters of a service, where there is one.
pub(super) fn another(name: &str) -> String {
    format!("{name}-hotfix-pipeline")
}

/// The approval of the execution that waits for a reviewer.
fn waiting(view: &ExecutionView) -> Option<&ActionView> {
    let mut runs = view.actions.iter();
    runs.find(|it| it.category == Category::Approval && it.status == "InProgress")
}
