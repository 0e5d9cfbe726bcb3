//! What runs by itself: builds, and reviewers of a script.
//!
//! Nothing runs in the background. What is due is done when somebody next looks at the world, at the moment
//! at which it was due.

use std::time::Duration;

use jiff::Timestamp;

use super::builds::{Build, Deployment, Key, Next, Promotion, Task};
use crate::services::by::By;
use crate::services::codepipeline::definition::{Category, Work};
use crate::services::codepipeline::execution::id_of;
use crate::services::codepipeline::flow::{Begun, Ending};
use crate::wire::ids::stable_hash;
use crate::wire::settings::{Place, Writer};
use crate::wire::time::later;
use crate::world::state::State;

impl State {
    /// Does everything that is due.
    pub(crate) fn catch_up(&mut self, now: Timestamp) {
        while let Some(next) = self.builds.due.first_entry() {
            let at = next.key().0;
            if at > now {
                return;
            }
            let build = next.remove();
            self.run(at, build);
        }
    }

    fn run(&mut self, at: Timestamp, mut build: Build) {
        let next = match &mut build.task {
            Task::Ends => Next::Succeeds,
            Task::Decides(decision) => {
                let decision = decision.clone();
                let (key, id, action) = (&build.key, &build.execution, &build.action);
                return self.decide(key, id, action, decision.review(), at);
            }
            Task::Deploys(deployment) => {
                let mut deployment = deployment.clone();
                let next = self.deploy_on(&build, &mut deployment, at);
                build.task = Task::Deploys(deployment);
                next
            }
            Task::Promotes(promotion) => {
                let mut promotion = promotion.clone();
                let next = self.promote_on(&build, &mut promotion, at);
                build.task = Task::Promotes(promotion);
                next
            }
        };
        let ending = match next {
            Next::After(wait) => return self.builds.plan(later(at, wait), build),
            Next::Succeeds => Ending::success(),
            Next::Fails(why) => Ending::failure(why),
        };
        let begun = self
            .pipeline(&build.key)
            .end(&build.execution, &build.action, ending, at);
        self.schedule(&build.key, begun, at);
    }

    /// Plans what actions that have just begun do by themselves. A promotion does; everything else
    /// only if the execution has a script.
    pub(crate) fn schedule(&mut self, key: &Key, begun: Vec<Begun>, at: Timestamp) {
        for (id, action) in begun {
            let Some(execution) = self.execution(key, &id) else {
                continue;
            };
            let script = execution.script.clone();
            let Some(run) = execution.action(&action) else {
                continue;
            };
            let (started, none) = (run.started.max(at), Duration::ZERO);
            let task = match (run.work, run.category, &script) {
                (Work::Promotes, _, _) => {
                    let cleans = script.as_ref().is_some_and(|it| it.cleans);
                    Some((none, Task::Promotes(Promotion::new(cleans))))
                }
                (_, _, None) => None,
                (Work::Deploys, _, Some(script)) => {
                    let deployment = Deployment::new(script.pattern, script.pace);
                    Some((script.pace, Task::Deploys(deployment)))
                }
                (_, Category::Approval, Some(script)) => script
                    .review
                    .clone()
                    .map(|(after, decision)| (after, Task::Decides(decision))),
                (_, Category::Source, Some(script)) => Some((script.source, Task::Ends)),
                (_, _, Some(script)) => Some((script.build, Task::Ends)),
            };
            if let Some((after, task)) = task {
                let build = Build {
                    key: key.clone(),
                    execution: id,
                    action,
                    task,
                };
                self.builds.plan(later(started, after), build);
            }
        }
    }

    /// As whom the build of an action writes.
    pub(crate) fn by_build(&mut self, key: &Key, id: &str, action: &str) -> By {
        let writer = self.settings.switches.writer;
        let Some(execution) = self.execution(key, id) else {
            return By::default();
        };
        let run = execution.action(action);
        let deploys = run.is_some_and(|it| it.work == Work::Deploys);
        let build = run.and_then(|it| it.build()).unwrap_or_default();
        let role = format!("{}-codebuild", execution.service.name);
        let arn = match writer {
            Writer::Build => session(&key.place, &role, &format!("AWSCodeBuild-{build}")),
            Writer::Batch => {
                let other = id_of(build, 1, b"batch");
                session(&key.place, &role, &format!("AWSCodeBuild-{other}"))
            }
            Writer::Deployer => {
                let machine = stable_hash(&[build.as_bytes()]);
                session(&key.place, "deployer", &format!("i-0{machine:016x}"))
            }
        };
        By {
            arn,
            execution: Some(id.to_owned()),
            deploys,
        }
    }
}

fn session(place: &Place, role: &str, session: &str) -> String {
    let account = &place.account;
    format!("arn:aws:sts::{account}:assumed-role/{role}/{session}")
}
