//! The preflight: what would keep the daemon from its work, found before the first rejection does.
//!
//! Everything is read and nothing is written. Each [`Check`] is a verdict with one line of what was
//! found and, where something is amiss, one line of how to mend it.
//!
//! **Not checked.** The permissions to change something are not tried, since that would change it: IAM is
//! asked to simulate them.

mod connection;
pub mod event_pattern;
mod ledger;
mod notify;
mod permissions;
mod pipelines;
mod questions;
mod queue;
mod queue_policy;
mod rule;
mod statement;
mod target;
pub(crate) mod wildcard;
mod writers;

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::SignedDuration;

use crate::aws::Asked;
use crate::aws::identity::Caller;
use crate::aws::{Account, AwsError, Connector};
use crate::config::Config;
use crate::domain::arn::Arn;
use crate::domain::error_class::ErrorClass;
use crate::domain::targets::lookup::{self, Home, Named, Wanted};
use crate::domain::targets::{Access, NotAtHome, Target};
use crate::domain::words::counted;
use crate::ops::orphans::QUOTA;
use crate::reconcile::accounts::Accounts;
use crate::runtime::clock::Clock;
use crate::telemetry::chain;

pub use connection::{connection, not_signed_in};

/// Requests that are signed with a clock that is further off are refused.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// A clock that is further off deserves a look.
const SKEW: Duration = Duration::from_secs(60);

/// From so many staging distributions on, the quota is nearly used up.
const NEARLY: usize = QUOTA - 4;

/// An id of the form that CloudFront's have, which no distribution has: asking for it tells whether
/// one may ask.
const NO_DISTRIBUTION: &str = "E00000000000000";

/// The same for a policy.
const NO_POLICY: &str = "00000000-0000-0000-0000-000000000000";

/// So many pipelines or parameters of one pattern are looked at.
const MANY: usize = 50;

/// So many of them at the same time.
const AT_ONCE: usize = 8;

const CREDENTIALS: &str = "give it credentials: a task or instance role, AWS_PROFILE, or keys";

const DISTRIBUTION: &str = "cloudfront:GetDistribution";
const CONFIG: &str = "cloudfront:GetDistributionConfig";
const POLICY: &str = "cloudfront:GetContinuousDeploymentPolicy";
const LIST_POLICIES: &str = "cloudfront:ListContinuousDeploymentPolicies";
const LIST: &str = "cloudfront:ListDistributions";

/// What was looked at, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: a short name, stable.
    pub name: &'static str,
    /// The parameter, pipeline or queue that it is about, where there are several.
    pub subject: Option<String>,
    /// The verdict.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// How to mend it.
    pub remedy: Option<String>,
    /// The permissions that are missing: an action, and what it is on.
    pub lacks: Vec<(String, String)>,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// The daemon works, but not as well as it could; or it could not be looked at.
    Warning,
    /// The daemon would not work.
    Failure,
}

impl Status {
    /// A bounded code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            subject: None,
            status: Status::Ok,
            detail: detail.into(),
            remedy: None,
            lacks: Vec::new(),
        }
    }

    fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, detail)
        }
    }

    fn failure(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Failure,
            ..Self::warning(name, detail, remedy)
        }
    }

    /// A call that failed: what it means for the permission, or for the network.
    fn call(name: &'static str, error: &AwsError, permission: &str) -> Self {
        let lacks = error.denied().map(|(action, resource)| {
            let resource = resource.unwrap_or("*");
            (action.to_owned(), resource.to_owned())
        });
        Self {
            lacks: lacks.into_iter().collect(),
            ..Self::failure(
                name,
                chain(error),
                mend(error, &format!("allow {permission}")),
            )
        }
    }

    fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// A look that is not needed for the daemon's own work.
    fn at_most_a_warning(mut self) -> Self {
        self.status = self.status.min(Status::Warning);
        self
    }
}

/// What is looked at once AWS can be asked.
const EVERYTHING: &str =
    "queue, ledger, notices, distributions, targets, pipelines and permissions";

/// That something was not looked at, because of a failure before.
fn skipped(what: &str) -> Check {
    let said = format!("{what} were not looked at");
    Check::warning("skipped", said, "fix the failure, then run doctor again")
}

/// All that can be said where no region is known: nothing is looked for anywhere.
#[must_use]
pub fn without_region() -> Vec<Check> {
    let remedy = "set AWS_REGION, or region in the AWS profile";
    let failure = Check::failure("region", "there is no AWS region", remedy);
    vec![failure, skipped(EVERYTHING)]
}

/// All that can be said of targets that cannot work in the daemon's own account.
#[must_use]
pub fn not_at_home(error: &NotAtHome) -> Vec<Check> {
    let remedy =
        "correct the targets; with the account in queue.url, `stagesweep check` finds the same";
    let failure = Check::failure("configuration", error.to_string(), remedy);
    vec![failure, skipped(EVERYTHING)]
}

/// What to do about a call that failed; `allow` is for one that was denied.
fn mend(error: &AwsError, allow: &str) -> String {
    let text = match error.class {
        ErrorClass::NoCredentials => CREDENTIALS,
        ErrorClass::Misconfigured => "set what the message says",
        _ if error.is_not_assumed() => {
            "allow sts:AssumeRole on the target's role, and the daemon in the role's trust policy"
        }
        ErrorClass::AccessDenied => match error.code.as_deref() {
            Some("ExpiredToken" | "ExpiredTokenException") => {
                "renew the credentials: they have expired"
            }
            Some("RequestExpired" | "RequestTimeTooSkewed") => "set this machine's clock",
            Some(
                "InvalidClientTokenId"
                | "UnrecognizedClientException"
                | "SignatureDoesNotMatch"
                | "InvalidSignatureException",
            ) => CREDENTIALS,
            _ => allow,
        },
        ErrorClass::Throttled => "try again in a minute",
        ErrorClass::Rejected => "the request was not understood: is that endpoint AWS?",
        _ if error.is_unreached() => {
            "try again once it can be reached; of this nothing was looked at"
        }
        _ => "look at the network, the endpoint and the region",
    };
    text.to_owned()
}

/// What is looked at, with what.
#[derive(Debug)]
pub struct Preflight<'a> {
    /// What the daemon would run with.
    pub config: &'a Config,
    /// The credentials at hand.
    pub connector: &'a Connector,
    /// What the command line asks for, before the environment.
    pub asked: &'a Asked,
    /// The accounts that targets lead to.
    pub accounts: &'a Accounts,
    /// This machine's clock.
    pub clock: &'a Clock,
    /// Pipelines that are looked at besides what the configuration tells by itself.
    pub named: &'a [Named],
    /// The daemon's role, where these are not its credentials: what it may do is asked of IAM.
    pub role: Option<&'a str>,
}

/// What everything else is looked at with.
struct Scene<'a> {
    asked: &'a Preflight<'a>,
    home: Home,
    /// The account of the daemon's own credentials, where known.
    own_account: Option<String>,
    /// Its clients.
    own: Account,
    /// The names of all parameters there. None are asked for where no pattern is to be filled in.
    parameters: Result<Vec<String>, AwsError>,
    /// The pipelines that were named, and those that targets name without a pattern.
    named: Vec<Named>,
    /// Pipelines of patterns, told by the names of staging parameters.
    told: Vec<Named>,
}

impl Preflight<'_> {
    /// Looks at everything. What can be asked at the same time is.
    pub async fn examine(&self) -> Vec<Check> {
        let Self {
            config, connector, ..
        } = self;
        let said = format!("valid, {}", counted(config.targets.len(), "target"));
        let mut checks = vec![Check::ok("configuration", said)];
        checks.push(region(config, connector));
        checks.extend(connection(config, self.asked));
        let caller = connector.identity().caller().await;
        checks.extend(credentials(&caller, config, self.clock));
        if let Err(error) = &caller
            && error.lacks_credentials()
        {
            // Each other call would fail in the same way.
            checks.push(skipped(EVERYTHING));
            return checks;
        }
        let scene = Scene::new(self, caller.as_ref().ok()).await;
        let (queue, ledger, notify, distributions, targets, pipelines) = tokio::join!(
            queue::examine(&scene),
            ledger::examine(config, connector, self.clock),
            notify::examine(config, connector),
            distributions(&scene),
            target::examine(&scene),
            pipelines::examine(&scene),
        );
        let (about_queue, queue) = queue;
        let (about_targets, reaches) = targets;
        checks.extend(about_queue);
        checks.push(ledger);
        checks.extend(notify);
        checks.extend(distributions);
        checks.extend(about_targets);
        checks.extend(pipelines);
        let caller = caller.as_ref();
        let own = permissions::Own {
            caller: caller.ok(),
            queue: queue.as_ref(),
        };
        checks.extend(permissions::examine(&scene, own, &reaches).await);
        checks.extend(permissions::missing(&checks));
        checks
    }
}

impl<'a> Scene<'a> {
    async fn new(asked: &'a Preflight<'a>, caller: Option<&Caller>) -> Self {
        let config = asked.config;
        let account = config.queue.account.as_ref();
        let account = account.or(caller.map(|caller| &caller.account));
        let home = Home {
            region: asked.connector.region().unwrap_or_default().to_owned(),
            account: account.cloned().unwrap_or_default(),
        };
        // Of another role than the caller's, its ARN tells.
        let role = asked.role.and_then(Arn::parse).map(|arn| arn.account);
        let own_account = role.or(caller.map(|caller| caller.account.as_str()));
        let own_account = own_account.map(str::to_owned);
        let own = asked.connector.account();
        let patterns = config.targets.iter().any(is_here);
        let parameters = match patterns {
            true => own.ssm.names().await,
            false => Ok(Vec::new()),
        };
        let mut named = asked.named.to_vec();
        for target in config.targets.iter() {
            // A pattern is none that could be found.
            let literal = target.pipeline();
            named.extend(resolved(config, &home, literal, target).filter(|it| !named.contains(it)));
        }
        let mut told: Vec<Named> = Vec::new();
        let known = [("account", &*home.account), ("region", &*home.region)];
        for target in config.targets.iter().filter(|target| is_here(target)) {
            let pipelines = parameters.iter().flatten();
            let pipelines = pipelines.filter_map(|name| target.pipeline_of(name, &known));
            let found = pipelines.filter_map(|it| resolved(config, &home, &it, target));
            let new: Vec<Named> = found.filter(|it| !named.contains(it)).take(MANY).collect();
            told.extend(new);
        }
        Self {
            asked,
            home,
            own_account,
            own,
            parameters,
            named,
            told,
        }
    }
}

impl Scene<'_> {
    /// The daemon's own account and region.
    fn access(&self) -> Access {
        Access {
            role: None,
            region: self.home.region.clone(),
        }
    }

    /// A pipeline of this target that is known by name.
    fn named_by(&self, target: &Target) -> Option<&Named> {
        let mut named = self.named.iter();
        named.find(|it| it.target.label == target.pipeline())
    }
}

/// Whether a target is a pattern of pipelines, whose parameters are in the daemon's own account.
fn is_here(target: &Target) -> bool {
    target.cleans() && target.pipeline().contains('{') && !target.deploys_elsewhere()
}

/// A pipeline by its name, if this target is the one for it.
fn resolved(config: &Config, home: &Home, pipeline: &str, target: &Target) -> Option<Named> {
    let wanted = Wanted {
        pipeline,
        stage: target.stage(),
        action: target.action(),
    };
    let named = lookup::find(&config.targets, wanted, home).ok()?;
    (named.target.label == target.pipeline()).then_some(named)
}

/// Some at the same time, in their order.
async fn at_once<F: Future>(looks: impl Iterator<Item = F>) -> Vec<F::Output> {
    stream::iter(looks).buffered(AT_ONCE).collect().await
}

/// A duration as people write it: humantime joins days to their number.
fn people(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace("day", " day")
}

/// Where everything is looked for.
fn region(config: &Config, connector: &Connector) -> Check {
    const NAME: &str = "region";
    let region = connector.region().unwrap_or_default();
    match config.queue.region.as_deref() {
        Some(queue) if queue != region => Check::warning(
            NAME,
            format!("{region}; the queue is in {queue}"),
            format!("set AWS_REGION={queue}, unless parameters and pipelines are in {region}"),
        ),
        _ => Check::ok(NAME, region),
    }
}

fn credentials(caller: &Result<Caller, AwsError>, config: &Config, clock: &Clock) -> Vec<Check> {
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return vec![Check::call("credentials", error, "sts:GetCallerIdentity")],
    };
    let whose = format!("{} in account {}", caller.arn, caller.account);
    let own = config.queue.account.as_deref();
    let mut checks = vec![match own {
        Some(own) if own != caller.account => Check::warning(
            "credentials",
            format!("{whose}; the queue is of account {own}"),
            "what has no role_arn is looked for in the credentials' account: use credentials of the \
             account that deploys, or give the targets a role_arn",
        ),
        _ => Check::ok("credentials", whose),
    }];
    if let Some(there) = caller.at {
        let skew = clock.now().duration_since(there).abs();
        checks.push(clock_skew(skew));
    }
    checks
}

fn clock_skew(skew: SignedDuration) -> Check {
    let skew = Duration::try_from(skew).unwrap_or_default();
    let said = format!("{} s off AWS's", skew.as_secs());
    let remedy = "let the machine keep its time, with chrony for instance";
    match skew {
        skew if skew >= MAX_SKEW => Check::failure("clock", said, remedy),
        skew if skew >= SKEW => Check::warning("clock", said, remedy),
        _ => Check::ok("clock", said),
    }
}

/// What may be read in CloudFront, and how much of the quota is used. What another role may read is for
/// IAM to say.
async fn distributions(scene: &Scene<'_>) -> Vec<Check> {
    let cloudfront = &scene.own.cloudfront;
    let (distribution, config, policy, policies, all) = tokio::join!(
        cloudfront.distribution(NO_DISTRIBUTION),
        cloudfront.beside(NO_DISTRIBUTION),
        cloudfront.policy(NO_POLICY),
        cloudfront.policies(),
        cloudfront.distributions(),
    );
    let own = scene.asked.role.is_none();
    let mut checks = Vec::new();
    let mut may = |name, failed: Option<AwsError>, on: &str| {
        let check = match failed {
            Some(error) => Some(Check::call(name, &error, &format!("{name} on {on}"))),
            None => own.then(|| Check::ok(name, "allowed")),
        };
        checks.extend(check);
    };
    may(DISTRIBUTION, distribution.err(), "distribution/*");
    may(CONFIG, config.err(), "distribution/*");
    may(POLICY, policy.err(), "continuous-deployment-policy/*");
    may(LIST_POLICIES, policies.err(), "*");
    match all {
        Ok(all) => {
            may(LIST, None, "*");
            checks.push(quota(all.iter().filter(|it| it.staging).count()));
        }
        Err(error) => may(LIST, Some(error), "*"),
    }
    checks
}

fn quota(used: usize) -> Check {
    let said = format!("{used} of {QUOTA} staging distributions are in use, by the default quota");
    let remedy = "`stagesweep orphans` shows which of them nobody owns";
    match used {
        // It is deployments that fail then, unless more were granted.
        NEARLY.. => Check::warning("quota", said, remedy),
        _ => Check::ok("quota", said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_and_a_quota_are_judged_by_how_far_they_are_off() {
        let skew = |seconds| clock_skew(SignedDuration::from_secs(seconds)).status;
        assert_eq!(skew(3), Status::Ok);
        assert_eq!(skew(90), Status::Warning);
        assert_eq!(skew(600), Status::Failure);
        assert_eq!(people(Duration::from_secs(345_600)), "4 days");
        assert_eq!(people(Duration::from_secs(90)), "1m 30s");
        let quota = |used| quota(used).status;
        assert_eq!(
            [quota(15), quota(16), quota(20)],
            [Status::Ok, Status::Warning, Status::Warning]
        );
    }
}
