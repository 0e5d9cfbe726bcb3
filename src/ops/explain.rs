//! Which target takes an event or a pipeline, and with what; or why none does. Asks nobody.
//!
//! **Guarantees.** An event is read with the daemon's own eyes (`consumer::classify`), a pipeline
//! with those of the verbs that take one ([`crate::domain::targets::lookup`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Origins};
use crate::consumer::classify::{Fate, Unhandled, classify};
use crate::domain::arn::PipelineArn;
use crate::domain::event::{self, Kind, Rejection};
use crate::domain::targets::lookup::{self, Home, Wanted};
use crate::domain::targets::{NotAtHome, Program, ResolveError, ResolvedTarget, Target, Targets};
use crate::telemetry::chain;

/// What a configuration makes of an event or a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `taken` or `not_taken`.
    pub outcome: &'static str,
    /// Why no target takes it: the code that the daemon logs.
    pub reason: Option<&'static str>,
    /// The same for people.
    pub detail: Option<String>,
    /// What the daemon does with the message, where no target takes the event.
    pub message: Option<&'static str>,
    /// The pipeline's name, where it is known.
    pub pipeline: Option<String>,
    /// The pipeline's ARN, where it is known.
    pub pipeline_arn: Option<String>,
    /// The stage that the event is about.
    pub stage: Option<String>,
    /// The approval action that the event is about.
    pub action: Option<String>,
    /// The pipeline execution that the event is about.
    pub execution_id: Option<String>,
    /// The targets that take it: of an event at most one.
    pub targets: Vec<Taken>,
}

/// A target, applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The target's pipeline as written.
    pub target: String,
    /// The target's line in the file.
    pub line: Option<usize>,
    /// The pipeline's ARN.
    pub pipeline_arn: String,
    /// The stage that holds the approval; any, if there is none.
    pub stage: Option<String>,
    /// The approval action; any, if there is none.
    pub action: Option<String>,
    /// What each capture took.
    pub captures: BTreeMap<String, String>,
    /// The parameter that names the production distribution, if anything is taken down.
    pub production_parameter: Option<String>,
    /// The parameter that names the staging distribution, if anything is taken down.
    pub staging_parameter: Option<String>,
    /// The one stage that deploys; any, if there is none.
    pub deploy_stage: Option<String>,
    /// The account of the parameters and distributions, where it is known.
    pub account: Option<String>,
    /// The region of the parameters.
    pub region: String,
    /// The role as which they are looked at and changed; else the daemon's own credentials.
    pub role_arn: Option<String>,
    /// The role as which CodePipeline is asked; else the daemon's own credentials.
    pub pipeline_role_arn: Option<String>,
    /// `act` or `observe`.
    pub mode: &'static str,
    /// How long a rejection is held before the first change.
    pub delay_ms: u64,
    /// The program and its arguments, as far as they are known.
    pub program: Option<Vec<String>>,
}

/// What is asked of which configuration.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where its values stand.
    pub origins: &'a Origins,
    /// The region at hand, where one is known.
    pub region: Option<&'a str>,
}

impl Question<'_> {
    /// What becomes of an event.
    #[must_use]
    pub fn event(self, body: &str) -> Explained {
        let mut explained = Explained::not_taken();
        // Where the queue's URL names no account, the event's own is taken for the queue's.
        let parsed = event::parse(body).ok();
        let pipeline = parsed.as_ref().and_then(|event| match &event.kind {
            Kind::Rejection(rejection) => Some(rejection.pipeline.clone()),
            Kind::NotARejection(_) => event.failed.as_ref().map(|it| it.pipeline.clone()),
        });
        let targets = match self.at_home(pipeline.as_ref()) {
            Ok(targets) => targets,
            Err(error) => return explained.at_fault(&error),
        };
        let allows = |account: &str| self.config.allows_account(account);
        match classify(body, &targets, allows) {
            Ok((rejection, resolved)) => {
                explained.about(&rejection);
                let mut of_target = targets.iter().enumerate().filter(|(_, target)| {
                    let fits = |is: Option<&str>, wanted| is.is_none_or(|is| is == wanted);
                    target.pipeline() == resolved.label
                        && fits(target.stage(), &rejection.stage)
                        && fits(target.action(), &rejection.action)
                });
                let program = resolved.program.as_ref();
                let program = program.map(|program| {
                    let path = program.path().display().to_string();
                    let arguments = program.arguments(&rejection).unwrap_or_default();
                    std::iter::once(path).chain(arguments).collect()
                });
                if let Some((index, target)) = of_target.next() {
                    let taken = self.taken(index, target, &rejection.pipeline, resolved);
                    explained.takes(Taken { program, ..taken });
                }
            }
            Err(unhandled) => {
                if let Some(rejection) = unhandled.rejection() {
                    explained.about(rejection);
                }
                explained.reason = Some(unhandled.code());
                explained.detail = Some(self.why(&unhandled, &targets));
                explained.message = Some(said(unhandled.fate()));
            }
        }
        explained
    }

    /// Which targets take the rejections of a pipeline, by its name or ARN.
    #[must_use]
    pub fn pipeline(self, pipeline: &str) -> Explained {
        let mut explained = Explained::not_taken();
        let arn: Option<PipelineArn> = pipeline.parse().ok();
        let targets = match self.at_home(arn.as_ref()) {
            Ok(targets) => targets,
            Err(error) => return explained.at_fault(&error),
        };
        let Some(account) = targets.home().map(str::to_owned) else {
            explained.reason = Some("no_account");
            let why = "queue.url names no account: name the pipeline by its ARN";
            explained.detail = Some(why.to_owned());
            return explained;
        };
        let region = self.region.unwrap_or_default().to_owned();
        if arn.is_none() && region.is_empty() {
            explained.reason = Some("no_region");
            let why = "no AWS region: set AWS_REGION, or name the pipeline by its ARN";
            explained.detail = Some(why.to_owned());
            return explained;
        }
        let wanted = Wanted {
            pipeline,
            stage: None,
            action: None,
        };
        let found = lookup::all(&targets, wanted, &Home { region, account });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                explained.reason = Some(ResolveError::NoTarget.code());
                explained.detail = Some(error.to_string());
                return explained;
            }
        };
        for (target, named) in found {
            match named {
                Ok(named) => {
                    let index = targets.iter().position(|it| it == target);
                    let index = index.unwrap_or_default();
                    explained.pipeline = Some(named.pipeline.name.clone());
                    explained.pipeline_arn = Some(named.pipeline.to_string());
                    explained.takes(self.taken(index, target, &named.pipeline, named.target));
                }
                Err(error) => {
                    if let lookup::NotNamed::Unusable { error, .. } = &error {
                        explained.reason = Some(error.code());
                    }
                    explained.detail = Some(error.to_string());
                }
            }
        }
        explained
    }

    /// The targets; where `queue.url` names no account, as they are in that of `pipeline`.
    fn at_home(self, pipeline: Option<&PipelineArn>) -> Result<Targets, NotAtHome> {
        let targets = self.config.targets.clone();
        let queue = &self.config.queue;
        let account = queue.account.as_ref().or(pipeline.map(|it| &it.account));
        let region = self.region.or(pipeline.map(|it| &*it.region));
        match account.zip(region) {
            Some((account, region)) => targets.at_home(account, region),
            None => Ok(targets),
        }
    }

    /// Why no target takes an event, with the target that was meant where one is near.
    fn why(self, unhandled: &Unhandled, targets: &Targets) -> String {
        let said = chain(unhandled);
        let Unhandled::NoTarget(rejection, ResolveError::NoTarget) = unhandled else {
            return said;
        };
        let pipeline = rejection.pipeline.to_string();
        let wanted = Wanted {
            pipeline: &pipeline,
            stage: Some(&rejection.stage),
            action: Some(&rejection.action),
        };
        let home = Home {
            region: rejection.pipeline.region.clone(),
            account: targets.home().unwrap_or_default().to_owned(),
        };
        match lookup::all(targets, wanted, &home) {
            Err(why) => format!("{said}: {why}"),
            Ok(_) => said,
        }
    }

    fn taken(
        self,
        index: usize,
        target: &Target,
        pipeline: &PipelineArn,
        resolved: ResolvedTarget,
    ) -> Taken {
        let role = resolved.access.role.as_ref();
        let own = || self.config.queue.account.clone();
        let parameters = resolved.parameters.as_ref();
        let pipeline_role = resolved.pipeline_access.role.as_ref();
        Taken {
            target: target.to_string(),
            line: self.origins.line_of_target(index),
            pipeline_arn: pipeline.to_string(),
            stage: target.stage().map(str::to_owned),
            action: target.action().map(str::to_owned),
            captures: target.captures(pipeline).into_iter().flatten().collect(),
            production_parameter: parameters.map(|it| it.production.clone()),
            staging_parameter: parameters.map(|it| it.staging.clone()),
            deploy_stage: resolved.deploy_stage.clone(),
            account: role.map(|it| it.account().to_owned()).or_else(own),
            region: resolved.access.region.clone(),
            role_arn: role.map(|it| it.arn().to_owned()),
            pipeline_role_arn: pipeline_role.map(|it| it.arn().to_owned()),
            mode: resolved.mode.code(),
            delay_ms: milliseconds(resolved.delay),
            program: resolved.program.as_ref().map(Program::words),
        }
    }
}

impl Explained {
    fn not_taken() -> Self {
        Self {
            outcome: "not_taken",
            reason: None,
            detail: None,
            message: None,
            pipeline: None,
            pipeline_arn: None,
            stage: None,
            action: None,
            execution_id: None,
            targets: Vec::new(),
        }
    }

    /// `queue.url` names no account, and the targets cannot work in the one at hand.
    fn at_fault(mut self, error: &NotAtHome) -> Self {
        self.reason = Some("bad_configuration");
        self.detail = Some(error.to_string());
        self
    }

    /// Whether a target takes it.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        !self.targets.is_empty()
    }

    fn about(&mut self, rejection: &Rejection) {
        self.pipeline = Some(rejection.pipeline.name.clone());
        self.pipeline_arn = Some(rejection.pipeline.to_string());
        self.stage = Some(rejection.stage.clone());
        self.action = Some(rejection.action.clone());
        self.execution_id = Some(rejection.execution_id.clone());
    }

    fn takes(&mut self, target: Taken) {
        self.outcome = "taken";
        self.targets.push(target);
    }
}

/// What the daemon does with a message, for people.
fn said(fate: Fate) -> &'static str {
    match fate {
        Fate::Deleted => "deleted, since it is no rejection",
        Fate::Refused { quick: true } => {
            "released at once, again and again, until the redrive policy ends it"
        }
        Fate::Refused { quick: false } => "released with backoff until the redrive policy ends it",
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const REJECTED: &str = include_str!("../../tests/events/approval-rejected.json");
    const APPROVED: &str = include_str!("../../tests/events/approval-approved.json");

    fn explained(config: &str, ask: impl Fn(Question<'_>) -> Explained) -> Explained {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let (config, origins) =
            Config::load_with_origins(Path::new(&path), &BTreeMap::new()).unwrap();
        ask(Question {
            config: &config,
            origins: &origins,
            region: config.queue.region.as_deref(),
        })
    }

    fn config(pipeline: &str, stage: &str) -> String {
        format!(
            "[queue]\nurl = \"https://sqs.us-west-2.amazonaws.com/210987654321/stagesweep\"\n\
             [[targets]]\npipeline = \"{pipeline}\"\nstage = \"{stage}\"\naction = \"Approve\"\n\
             production_parameter = \"/{{service}}/production\"\nstaging_parameter = \"/{{service}}/staging\"\n"
        )
    }

    #[test]
    fn an_event_is_taken_with_what_its_captures_took() {
        let mine = config("{service}-frontend-pipeline", "Approve");
        let taken = explained(&mine, |it| it.event(REJECTED));
        assert!(taken.is_taken(), "{taken:?}");
        let [target] = &*taken.targets else {
            panic!("{taken:?}")
        };
        let service = &target.captures["service"];
        assert_eq!(
            target.staging_parameter,
            Some(format!("/{service}/staging"))
        );
        assert_eq!((target.line, target.mode), (Some(3), "act"));
        assert_eq!(target.account.as_deref(), Some("210987654321"));

        let other = explained(&mine, |it| it.event(APPROVED));
        assert_eq!(
            (other.outcome, other.reason),
            ("not_taken", Some("not_failed"))
        );
        assert!(other.message.unwrap().starts_with("deleted"));
        let wrong = config("{service}-frontend-pipeline", "Aprove");
        let other = explained(&wrong, |it| it.event(REJECTED));
        assert_eq!(other.reason, Some("no_target"));
        let why = other.detail.unwrap();
        assert!(
            why.contains("its stage is Aprove, not \"Approve\""),
            "{why}"
        );
        let bad = explained(&mine, |it| it.event("{}"));
        assert_eq!(bad.reason, Some("missing_field"));
    }

    #[test]
    fn every_target_of_a_pipeline_is_shown() {
        let two = config("{service}-web", "Approve")
            + "[[targets]]\npipeline = \"shop-web\"\nstage = \"Other\"\naction = \"Approve\"\n\
               run = [\"/bin/true\", \"{pipeline}\"]\n";
        let both = explained(&two, |it| it.pipeline("shop-web"));
        assert_eq!(both.targets.len(), 2, "{both:?}");
        assert_eq!(both.targets[0].captures["service"], "shop");
        assert_eq!(both.targets[0].region, "us-west-2");
        let program = both.targets[1].program.as_ref().unwrap();
        assert_eq!(program, &["/bin/true", "{pipeline}"]);
        let none = explained(&two, |it| it.pipeline("blog"));
        assert_eq!(
            (none.outcome, none.reason),
            ("not_taken", Some("no_target"))
        );
    }
}
