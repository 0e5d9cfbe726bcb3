//! The preflight: what would keep the daemon from its work, found before the first rejection does.
//!
//! Everything is read and nothing is written. Each [`Check`] is a verdict with one line of what was
//! found and, where something is amiss, one line of how to mend it.
//!
//! **Not checked.** The permissions to change something are not tried, since that would change it: IAM is
//! asked to simulate them.

mod notify;
mod permissions;
mod pipelines;
mod queue;
mod rule;
mod target;

use std::time::Duration;

use jiff::SignedDuration;

use crate::accounts::Accounts;
use crate::aws::identity::Caller;
use crate::aws::{Account, AwsError, Connector};
use crate::clock::Clock;
use crate::config::{Config, LedgerBackend};
use crate::ledger::{EmbeddedLedger, LedgerError};
use crate::named::{self, Home, Named, Wanted};
use crate::orphans::QUOTA;
use crate::retry::ErrorClass;
use crate::telemetry::chain;

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
        let remedy = match error.class {
            ErrorClass::AccessDenied => format!("allow {permission}"),
            ErrorClass::Throttled => "try again in a minute".to_owned(),
            _ => "look at the network, the endpoint and the region".to_owned(),
        };
        Self::failure(name, chain(error), remedy)
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

/// Looks at everything. `named` are pipelines that are looked at besides what the configuration tells
/// by itself. `role` is whose permissions to change something are looked at, instead of those of the
/// credentials.
pub async fn examine(
    config: &Config,
    connector: &Connector,
    accounts: &Accounts,
    clock: &Clock,
    named: &[Named],
    role: Option<&str>,
) -> Vec<Check> {
    let mut checks = vec![Check::ok(
        "configuration",
        format!("valid, {} target(s)", config.targets.len()),
    )];
    let caller = connector.identity().caller().await;
    checks.extend(credentials(&caller, config, clock));
    let home = Home {
        region: connector.region().unwrap_or_default().to_owned(),
        account: match (&config.queue.account, &caller) {
            (Some(account), _) => account.clone(),
            (None, Ok(caller)) => caller.account.clone(),
            (None, Err(_)) => String::new(),
        },
    };
    let named = &with_literals(config, named, &home);
    let (found, queue) = queue::examine(config, connector, named).await;
    checks.extend(found);
    checks.push(ledger(config, connector, clock).await);
    checks.extend(notify::examine(config, connector).await);
    let account = connector.account();
    checks.extend(distributions(&account).await);
    let (found, reaches) = target::examine(config, &account, accounts, &home, named).await;
    checks.extend(found);
    checks.extend(pipelines::examine(config, accounts, &home, named).await);
    if let Ok(caller) = &caller {
        let own = permissions::Own {
            caller,
            role,
            queue: queue.as_ref(),
        };
        checks.extend(permissions::examine(config, connector, accounts, own, &reaches).await);
    }
    checks
}

/// The pipelines that are named, and those whose name is a target's, without a pattern.
fn with_literals(config: &Config, named: &[Named], home: &Home) -> Vec<Named> {
    let mut all = named.to_vec();
    for target in config.targets.iter() {
        let wanted = Wanted {
            pipeline: target.pipeline(),
            stage: target.stage(),
            action: target.action(),
        };
        // A pattern is none that could be found.
        if let Ok(literal) = named::find(&config.targets, wanted, home)
            && !all.contains(&literal)
        {
            all.push(literal);
        }
    }
    all
}

/// A duration as people write it: humantime joins days to their number.
fn people(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace("day", " day")
}

fn credentials(caller: &Result<Caller, AwsError>, config: &Config, clock: &Clock) -> Vec<Check> {
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => {
            let remedy = "give it credentials: a task or instance role, AWS_PROFILE, or keys";
            return vec![Check::failure("credentials", chain(error), remedy)];
        }
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

async fn ledger(config: &Config, connector: &Connector, clock: &Clock) -> Check {
    const NAME: &str = "ledger";
    match config.ledger.backend {
        LedgerBackend::Embedded => {
            let path = &config.ledger.path;
            let subject = path.display().to_string();
            match EmbeddedLedger::history(path, clock) {
                Ok(records) => Check::ok(NAME, format!("{} job(s)", records.len())),
                Err(LedgerError::Missing { .. }) => Check::warning(
                    NAME,
                    "there is none yet",
                    "none is needed before the first start; else run this where the daemon runs",
                ),
                Err(error) => {
                    Check::failure(NAME, chain(&error), "without it nothing is processed")
                }
            }
            .about(subject)
        }
        LedgerBackend::DynamoDb => {
            let table = connector.table(&config.ledger.table);
            match table.item("check").await {
                Ok(_) => Check::ok(NAME, "the table can be read"),
                Err(error) if error.class == ErrorClass::NotFound => Check::failure(
                    NAME,
                    "there is no such table",
                    "create it with the partition key pk of type String",
                ),
                Err(error) => Check::call(
                    NAME,
                    &error,
                    "dynamodb:GetItem and dynamodb:UpdateItem on it",
                ),
            }
            .about(config.ledger.table.clone())
        }
    }
}

/// What may be read in CloudFront, and how much of the quota is used.
async fn distributions(account: &Account) -> Vec<Check> {
    let cloudfront = &account.cloudfront;
    let mut checks = Vec::new();
    let mut may = |name, failed: Option<AwsError>, permission: &str| {
        checks.push(match failed {
            None => Check::ok(name, "allowed"),
            Some(error) => Check::call(name, &error, permission),
        });
    };
    may(
        "cloudfront:GetDistribution",
        cloudfront.distribution(NO_DISTRIBUTION).await.err(),
        "cloudfront:GetDistribution on distribution/*",
    );
    may(
        "cloudfront:GetDistributionConfig",
        cloudfront.may_read_config(NO_DISTRIBUTION).await.err(),
        "cloudfront:GetDistributionConfig on distribution/*",
    );
    may(
        "cloudfront:GetContinuousDeploymentPolicy",
        cloudfront.policy(NO_POLICY).await.err(),
        "cloudfront:GetContinuousDeploymentPolicy on continuous-deployment-policy/*",
    );
    let policies = cloudfront.policies().await;
    may(
        "cloudfront:ListContinuousDeploymentPolicies",
        policies.err(),
        "cloudfront:ListContinuousDeploymentPolicies on *",
    );
    const LIST: &str = "cloudfront:ListDistributions";
    match cloudfront.distributions().await {
        Ok(all) => {
            checks.push(Check::ok(LIST, "allowed"));
            checks.push(quota(all.iter().filter(|it| it.staging).count()));
        }
        // The daemon then asks for each distribution by itself.
        Err(error) => {
            let check = Check::call(LIST, &error, "cloudfront:ListDistributions on *");
            checks.push(check.at_most_a_warning());
        }
    }
    checks
}

fn quota(used: usize) -> Check {
    let said = format!("{used} of {QUOTA} staging distributions are in use, by the default quota");
    let remedy = "`stagesweep orphans` shows which of them nobody owns";
    match used {
        QUOTA.. => Check::failure("quota", said, remedy),
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
            [Status::Ok, Status::Warning, Status::Failure]
        );
    }
}
