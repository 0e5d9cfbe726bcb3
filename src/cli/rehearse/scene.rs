//! What a rehearsal starts with: services that wait at their approval, and their rejections.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Options;
use crate::config::{Config, Faults};
use crate::domain::arn::{Arn, PipelineArn};
use crate::domain::targets::lookup::filled;
use crate::domain::targets::{Mode, Parameters, Target};
use embedded_aws::{Definition, EmbeddedAws, EventOptions, Queues, Service, Shape};

/// The times of a rehearsal without a configuration of one's own: short, so that one with faults ends
/// within minutes; everything else is at its default.
const TIMES: &str = r#"
visibility_timeout = "30s"
heartbeat_interval = "10s"

[retry]
initial_backoff = "1s"
max_backoff = "10s"
"#;

/// The times of a scenario: shorter, as what it shows is not how long something takes.
const SCENARIO_TIMES: &str = r#"
wait_time = "1s"
visibility_timeout = "2s"
heartbeat_interval = "700ms"

[cleanup]
poll_interval_min = "100ms"
poll_interval_max = "250ms"

[retry]
initial_backoff = "300ms"
max_backoff = "1s"
"#;

const TARGET: &str = r#"
[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"#;

const QUEUE: &str = "stagesweep";

/// After so many receives a message goes to the dead-letter queue.
const MAX_RECEIVES: u32 = 20;

/// A complete configuration for this queue.
fn text(queue_url: &str, times: &str) -> String {
    format!("[queue]\nurl = \"{queue_url}\"{times}{TARGET}")
}

/// Reads the configuration that is rehearsed.
pub(super) fn config(
    options: &Options,
    environment: &BTreeMap<String, String>,
) -> Result<Config, Faults> {
    match &options.config {
        Some(path) => Config::load(path, environment),
        None => {
            let queue_url = "https://sqs.ap-northeast-1.amazonaws.com/123456789012/stagesweep";
            let text = text(queue_url, times(options));
            Config::parse(Path::new("rehearsal"), &text, &BTreeMap::new())
        }
    }
}

fn times(options: &Options) -> &'static str {
    match options.scenario {
        Some(_) => SCENARIO_TIMES,
        None => TIMES,
    }
}

/// One rejection to be sent.
pub(super) struct Rejection {
    pub(super) service: Service,
    /// The message's body.
    body: String,
}

impl Rejection {
    /// A text of the event, by its JSON pointer.
    pub(super) fn in_event(&self, pointer: &str) -> Option<String> {
        let event: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(event.pointer(pointer)?.as_str()?.to_owned())
    }
}

/// The set of a rehearsal.
pub(super) struct Scene {
    pub(super) rejections: Vec<Rejection>,
    /// Every target is only observed.
    pub(super) observes: bool,
    /// Stage and action of the first target's approval.
    approval: Option<(String, String)>,
    queues: Queues,
    /// Accounts that literal ARNs in targets name.
    accounts: Vec<String>,
}

impl Scene {
    /// Makes the queue, and the rule that sends rejections to it.
    fn empty(aws: &EmbeddedAws, config: &Config, max_receives: u32) -> anyhow::Result<Self> {
        let visibility = config.queue.visibility_timeout.max(Duration::from_secs(1));
        let queues = aws.create_queue_with_dlq(QUEUE, max_receives, visibility);
        aws.route_rejections(QUEUE, &queues.url)
            .map_err(|failure| anyhow::anyhow!("{}: {}", failure.code, failure.message))?;
        Ok(Self {
            rejections: Vec::new(),
            observes: config.targets.iter().all(|it| it.mode() == Mode::Observe),
            queues,
            approval: config.targets.iter().find_map(|it| {
                let (stage, action) = (it.stage()?, it.action()?);
                Some((stage.to_owned(), action.to_owned()))
            }),
            accounts: Vec::new(),
        })
    }

    /// What a scenario begins with.
    pub(super) fn of_scenario(
        aws: &EmbeddedAws,
        config: &Config,
        max_receives: u32,
        rejected: &[(Service, String)],
    ) -> anyhow::Result<Self> {
        let mut scene = Self::empty(aws, config, max_receives)?;
        let rejections = rejected.iter().cloned();
        let rejections = rejections.map(|(service, body)| Rejection { service, body });
        scene.rejections.extend(rejections);
        Ok(scene)
    }

    /// Makes `services` services for each target, all waiting at their approval.
    pub(super) fn set(aws: &EmbeddedAws, config: &Config, services: u16) -> anyhow::Result<Self> {
        let mut scene = Self::empty(aws, config, MAX_RECEIVES)?;
        // A program has no part in a rehearsal, and what has no cleanup has none either.
        let targets: Vec<_> = config.targets.iter().filter(|it| it.cleans()).collect();
        ensure!(
            !targets.is_empty(),
            "no target takes a staging distribution down: there is nothing to rehearse"
        );
        for (index, target) in targets.iter().enumerate() {
            for number in 1..=services {
                // Only a capture tells several services of one target apart.
                if number > 1 && !target.pipeline().contains('{') {
                    break;
                }
                let name = match targets.len() {
                    1 => format!("demo-{number}"),
                    _ => format!("demo{}-{number}", index + 1),
                };
                scene
                    .add(aws, target, &name)
                    .with_context(|| format!("target {target}"))?;
            }
        }
        Ok(scene)
    }

    fn add(&mut self, aws: &EmbeddedAws, target: &Target, name: &str) -> anyhow::Result<()> {
        let settings = aws.settings();
        let arn = example(target.pipeline(), name, &settings.region, &settings.account)?;
        let resolved = target
            .resolve(&arn)
            .with_context(|| format!("pipeline {arn}"))?;
        let access = &resolved.access;
        let account = match &access.role {
            Some(role) => {
                aws.create_role(role.arn(), role.external_id());
                role.account()
            }
            None => &settings.account,
        };
        if let Some(role) = &resolved.pipeline_access.role {
            aws.create_role(role.arn(), role.external_id());
        }
        let aws = &aws.in_account(account, &access.region);
        let mut shape = Shape {
            pipeline: Some(arn.name.clone()),
            // What cleans up names both.
            definition: Definition::with_approval(
                target.stage().unwrap_or("Approve"),
                target.action().unwrap_or("Approve"),
            ),
            ..Shape::default()
        };
        if let Some(Parameters {
            production,
            staging,
        }) = resolved.parameters
        {
            (shape.production_parameter, shape.staging_parameter) =
                (Some(production), Some(staging));
        }
        let service = aws
            .create_service_as(name, &shape)
            .map_err(|failure| anyhow::anyhow!("{}: {}", failure.code, failure.message))?;
        let body = envelope(aws, &service, &arn);
        if arn.account != settings.account {
            self.accounts.push(arn.account);
        }
        self.rejections.push(Rejection { service, body });
        Ok(())
    }

    /// Points a configuration at the embedded AWS.
    pub(super) fn point(&self, mut config: Config, endpoint: &str, ledger: &Path) -> Config {
        config.queue.url = self.queue_url(endpoint);
        config.queue.account = self.account().map(str::to_owned);
        config.queue.region = None;
        config.ledger.path = ledger.to_owned();
        config
            .events
            .allowed_accounts
            .extend(self.accounts.iter().cloned());
        config
    }

    /// Sends a rejection as EventBridge would.
    fn send(&self, aws: &EmbeddedAws, rejection: &Rejection) -> anyhow::Result<()> {
        aws.send(&self.queues.url, rejection.body.as_str())
            .map_err(|failure| anyhow::anyhow!("{}: {}", failure.code, failure.message))?;
        Ok(())
    }

    /// Sends so many of each rejection.
    pub(super) fn send_all(&self, aws: &EmbeddedAws, each: u16) -> anyhow::Result<()> {
        for rejection in &self.rejections {
            for _ in 0..each {
                self.send(aws, rejection)?;
            }
        }
        Ok(())
    }

    /// Returns once the queue holds no message any more.
    pub(super) async fn settled(&self, aws: &EmbeddedAws) {
        let empty = |aws: &EmbeddedAws| {
            aws.depth(&self.queues.url)
                .is_none_or(|depth| depth.visible + depth.in_flight + depth.delayed == 0)
        };
        while aws
            .wait_until(empty, Duration::from_secs(60 * 60))
            .await
            .is_err()
        {}
    }

    /// How many messages went to the dead-letter queue.
    pub(super) fn dead_letters(&self, aws: &EmbeddedAws) -> usize {
        aws.messages(&self.queues.dead_letter_url).len()
    }

    /// How many messages are still on the queue.
    pub(super) fn messages(&self, aws: &EmbeddedAws) -> usize {
        aws.messages(&self.queues.url).len()
    }

    /// The late half of the duplicates.
    pub(super) fn late_duplicates(&self, duplicates: u16) -> LateDuplicates {
        let each = duplicates / 2;
        let pending = self
            .rejections
            .iter()
            .filter(|_| each > 0)
            .enumerate()
            .map(|(index, rejection)| (rejection.service.execution_id.clone(), index))
            .collect();
        LateDuplicates { each, pending }
    }

    /// Writes a complete configuration for the embedded AWS, unless there is one, and answers what points
    /// a program at both.
    pub(super) fn environment(
        &self,
        aws: &EmbeddedAws,
        options: &Options,
        endpoint: &str,
        directory: &WorkDirectory,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let queue_url = self.queue_url(endpoint);
        let config = match &options.config {
            Some(path) => std::path::absolute(path)?,
            None => {
                let path = directory.path().join("config.toml");
                std::fs::write(&path, text(&queue_url, times(options)))
                    .with_context(|| format!("{} cannot be written", path.display()))?;
                path
            }
        };
        let region = &aws.settings().region;
        Ok(vec![
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_REGION", region.clone()),
            ("AWS_DEFAULT_REGION", region.clone()),
            ("AWS_ACCESS_KEY_ID", "rehearsal".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "rehearsal".to_owned()),
            ("STAGESWEEP_CONFIG", config.display().to_string()),
            ("STAGESWEEP__QUEUE__URL", queue_url),
            (
                "STAGESWEEP__LEDGER__PATH",
                directory.ledger().display().to_string(),
            ),
        ])
    }

    /// What a person types to use the embedded AWS.
    pub(super) fn instructions(
        &self,
        endpoint: &str,
        environment: &[(&'static str, String)],
    ) -> String {
        let exports = environment.iter();
        let exports: String = exports
            .map(|(name, value)| format!("export {name}={value}\n"))
            .collect();
        let service = self.rejections.first().map(|it| &it.service);
        let pipeline = service.map_or("PIPELINE", |service| service.pipeline.as_str());
        let (stage, action) = self
            .approval
            .as_ref()
            .map_or(("Approve", "Approve"), |(stage, action)| {
                (stage.as_str(), action.as_str())
            });
        format!(
            "\
# The embedded AWS serves SQS, SSM, CloudFront, CodePipeline, EventBridge, IAM, STS and DynamoDB at
# {endpoint}. It stops with Ctrl-C, and all is gone then.
# Rejections on its queue: {count}. In another terminal, after these lines (version 1 of the AWS CLI honours
# AWS_ENDPOINT_URL only in part, hence --endpoint-url):
{exports}\
aws() {{ command aws --endpoint-url {endpoint} \"$@\"; }}
#   stagesweep plan {pipeline}
#   stagesweep run --drain
# To try again, deploy once more, and reject that:
#   aws codepipeline start-pipeline-execution --name {pipeline}
#   aws codepipeline put-approval-result --pipeline-name {pipeline} --stage-name {stage} \\
#     --action-name {action} --result status=Rejected,summary=no --token \"$(aws codepipeline \\
#     get-pipeline-state --name {pipeline} --output text \\
#     --query \"stageStates[?stageName=='{stage}'].actionStates[0].latestExecution.token\")\"
",
            count = self.rejections.len(),
        )
    }

    fn account(&self) -> Option<&str> {
        self.queues.url.rsplit('/').nth(1)
    }

    fn queue_url(&self, endpoint: &str) -> String {
        format!("{endpoint}/{}/{QUEUE}", self.account().unwrap_or_default())
    }
}

/// Duplicates that arrive when their job is already done.
pub(super) struct LateDuplicates {
    each: u16,
    /// By execution id, the index of the rejection.
    pending: HashMap<String, usize>,
}

impl LateDuplicates {
    /// How many there are of each rejection.
    pub(super) fn each(&self) -> u16 {
        self.each
    }

    /// Whether all were sent.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Sends those of one execution.
    pub(super) fn send(
        &mut self,
        aws: &EmbeddedAws,
        scene: &Scene,
        execution_id: &str,
    ) -> anyhow::Result<()> {
        let Some(index) = self.pending.remove(execution_id) else {
            return Ok(());
        };
        for _ in 0..self.each {
            scene.send(aws, &scene.rejections[index])?;
        }
        Ok(())
    }
}

/// A pipeline that the pattern matches: each capture replaced by something it can stand for.
fn example(
    pattern: &str,
    service: &str,
    region: &str,
    account: &str,
) -> anyhow::Result<PipelineArn> {
    let text = match Arn::parse(pattern) {
        Some(arn) => format!(
            "arn:{}:codepipeline:{}:{}:{}",
            filled(arn.partition, "aws"),
            filled(arn.region, region),
            filled(arn.account, account),
            filled(arn.resource, service),
        ),
        None => format!(
            "arn:aws:codepipeline:{region}:{account}:{}",
            filled(pattern, service)
        ),
    };
    text.parse()
        .with_context(|| format!("no pipeline can be made up for {pattern}"))
}

/// The event of the service's rejection, in the account and region of its pipeline, which need not be
/// those of its distributions.
fn envelope(aws: &EmbeddedAws, service: &Service, arn: &PipelineArn) -> String {
    let options = EventOptions {
        summary: Some("Header is broken on mobile".to_owned()),
        ..EventOptions::default()
    };
    let there = Service {
        account: arn.account.clone(),
        region: arn.region.clone(),
        ..service.clone()
    };
    let event = aws.rejection_event(&there, &options);
    // In another partition its ARN is another one.
    let usual = format!(
        "arn:aws:codepipeline:{}:{}:{}",
        arn.region, arn.account, arn.name
    );
    event.replace(&usual, &arn.to_string())
}

/// A directory that goes with the rehearsal.
pub(super) struct WorkDirectory(PathBuf);

impl WorkDirectory {
    pub(super) fn new() -> anyhow::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("stagesweep-rehearsal-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.0.join("ledger.db")
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        // Nothing depends on it; the system clears its temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
