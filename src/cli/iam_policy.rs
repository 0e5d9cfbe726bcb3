//! `iam-policy`: the least policy that this configuration needs. No call is made.
//!
//! Where the configuration leaves something open, a `*` stands for it: a capture, an account that the queue's URL
//! does not name, the ids of distributions. Source of the actions and their resources: the Service Authorization
//! Reference.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Value, json};

use super::EX_CONFIG;
use crate::config::{Config, LedgerBackend};
use crate::domain::arn::Arn;
use crate::domain::partition::partition_of;
use crate::domain::targets::{Target, lookup};

/// Whose policy is written.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// That of whoever uses the other verbs, instead of the daemon's.
    #[arg(long)]
    operator: bool,
    /// That of the role with this ARN, or pattern of one, which targets name: what is done in its account.
    #[arg(long, value_name = "ARN", conflicts_with = "operator")]
    role: Option<String>,
}

/// Writes the policy to `out`. Returns the exit status.
///
/// # Errors
/// What writing comes to.
pub(super) fn iam_policy(
    config: &Config,
    options: &Options,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let mut policy = Policy::new(config, options.operator);
    match &options.role {
        Some(role) => {
            let named: BTreeSet<String> = config.targets.iter().flat_map(roles).collect();
            if !named.contains(role) {
                let named = Vec::from_iter(named).join(", ");
                writeln!(err, "no target names the role {role}; named are: {named}")?;
                return Ok(EX_CONFIG);
            }
            policy.of_targets(config, Some(role));
        }
        None => {
            if !options.operator {
                policy.of_the_queue();
            }
            policy.of_targets(config, None);
            policy.of_roles(config);
            policy.of_the_ledger(config);
            policy.of_notices(config, options.operator);
            if options.operator {
                policy.of_the_verbs();
            }
        }
    }
    writeln!(out, "{:#}", policy.document())?;
    Ok(0)
}

/// The roles that a target names, as written.
fn roles(target: &Target) -> Vec<String> {
    let roles = target.access().filter(|(key, _)| key.ends_with("role_arn"));
    roles.map(|(_, arn)| wildcards(&arn)).collect()
}

/// What a target says under a key, with `*` for each capture.
fn written(target: &Target, key: &str) -> Option<String> {
    let mut access = target.access();
    let (_, text) = access.find(|(name, _)| *name == key)?;
    Some(wildcards(&text))
}

/// `*` for each capture of a template or pattern.
fn wildcards(text: &str) -> String {
    lookup::filled(text, "*")
}

/// The statements of one policy, by their names.
struct Policy {
    partition: &'static str,
    region: String,
    account: String,
    /// The queue's ARN.
    queue: String,
    /// Whether what changes something is allowed for targets that are only observed, too: `clean` acts in either mode.
    always_acts: bool,
    statements: BTreeMap<&'static str, (BTreeSet<&'static str>, BTreeSet<String>)>,
}

impl Policy {
    fn new(config: &Config, always_acts: bool) -> Self {
        let any = || "*".to_owned();
        let region = config.queue.region.clone().unwrap_or_else(any);
        let account = config.queue.account.clone().unwrap_or_else(any);
        let partition = partition_of(&region);
        let name = config.queue.url.rsplit('/').next().unwrap_or_default();
        Self {
            queue: format!("arn:{partition}:sqs:{region}:{account}:{name}"),
            always_acts,
            partition,
            region,
            account,
            statements: BTreeMap::new(),
        }
    }

    fn allow<const N: usize>(
        &mut self,
        name: &'static str,
        actions: [&'static str; N],
        resource: impl Into<String>,
    ) {
        let (allowed, resources) = self.statements.entry(name).or_default();
        allowed.extend(actions);
        resources.insert(resource.into());
    }

    fn arn(&self, service: &str, region: &str, account: &str, resource: &str) -> String {
        format!(
            "arn:{}:{service}:{region}:{account}:{resource}",
            self.partition
        )
    }

    fn of_the_queue(&mut self) {
        let actions = [
            "sqs:ReceiveMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
        ];
        self.allow("Queue", actions, self.queue.clone());
    }

    /// What is done for the targets that name this role, or for those that name none: in the account of the
    /// distributions, and where CodePipeline is asked.
    fn of_targets(&mut self, config: &Config, role: Option<&str>) {
        for target in config.targets.iter() {
            let deploys_as = written(target, "role_arn");
            let pipelines = wildcards(target.pipeline());
            let (region, account, name) = match Arn::parse(&pipelines) {
                Some(arn) => (arn.region.to_owned(), arn.account.to_owned(), arn.resource),
                None => (self.region.clone(), self.account.clone(), &*pipelines),
            };
            if deploys_as.as_deref() == role && target.cleans() {
                let own = self.account.clone();
                let in_account = role.and_then(Arn::parse).map_or(&*own, |arn| arn.account);
                let region = written(target, "region").unwrap_or_else(|| region.clone());
                self.of_cleanups(target, &region, in_account);
            }
            // The order in which a role is chosen: its own, the daemon's own account, the distributions' role.
            let asks_as = written(target, "pipeline_role_arn");
            let asks_as = asks_as.or_else(|| deploys_as.filter(|_| account != self.account));
            if asks_as.as_deref() == role && (config.verify.codepipeline || config.catch_up.is_on())
            {
                let arn = self.arn("codepipeline", &region, &account, name);
                let actions = [
                    "codepipeline:GetPipelineState",
                    "codepipeline:ListActionExecutions",
                    "codepipeline:ListPipelineExecutions",
                ];
                self.allow("Pipelines", actions, arn);
                let lists = config.verify.codepipeline && target.leaves_out_captures();
                if lists || config.catch_up.is_on() {
                    self.allow("AllPipelines", ["codepipeline:ListPipelines"], "*");
                }
            }
        }
    }

    fn of_cleanups(&mut self, target: &Target, region: &str, account: &str) {
        let parameter = |name: &str| {
            let slash = if name.starts_with('/') { "" } else { "/" };
            format!("parameter{slash}{}", wildcards(name))
        };
        let Some((production, staging)) = target.parameters() else {
            return;
        };
        for name in [&production, &staging] {
            let arn = self.arn("ssm", region, account, &parameter(name));
            self.allow("BothParameters", ["ssm:GetParameter"], arn);
        }
        let parameter = self.arn("ssm", region, account, &parameter(&staging));
        let distributions = self.arn("cloudfront", "", account, "distribution/*");
        let policies = self.arn("cloudfront", "", account, "continuous-deployment-policy/*");
        if self.always_acts || target.acts() {
            self.allow("StagingParameter", ["ssm:PutParameter"], &*parameter);
            let actions = [
                "cloudfront:UpdateDistribution",
                "cloudfront:DeleteDistribution",
            ];
            self.allow("Distributions", actions, &*distributions);
            let actions = ["cloudfront:DeleteContinuousDeploymentPolicy"];
            self.allow("Policies", actions, &*policies);
        }
        self.allow("StagingParameter", ["ssm:GetParameterHistory"], parameter);
        let actions = [
            "cloudfront:GetDistribution",
            "cloudfront:GetDistributionConfig",
        ];
        self.allow("Distributions", actions, distributions);
        let actions = ["cloudfront:GetContinuousDeploymentPolicy"];
        self.allow("Policies", actions, policies);
        let actions = [
            "cloudfront:ListContinuousDeploymentPolicies",
            "cloudfront:ListDistributions",
        ];
        self.allow("Lists", actions, "*");
    }

    fn of_roles(&mut self, config: &Config) {
        for role in config.targets.iter().flat_map(roles) {
            self.allow("Roles", ["sts:AssumeRole"], role);
        }
    }

    fn of_the_ledger(&mut self, config: &Config) {
        if config.ledger.backend != LedgerBackend::DynamoDb {
            return;
        }
        let table = format!("table/{}", config.ledger.table);
        let arn = self.arn("dynamodb", &self.region, &self.account, &table);
        let actions = ["dynamodb:GetItem", "dynamodb:Scan", "dynamodb:UpdateItem"];
        self.allow("Ledger", actions, arn);
    }

    fn of_notices(&mut self, config: &Config, operator: bool) {
        let bus = &config.notify.event_bus;
        if bus.is_empty() {
            return;
        }
        let arn = match bus.starts_with("arn:") {
            true => bus.clone(),
            false => self.arn(
                "events",
                &self.region,
                &self.account,
                &format!("event-bus/{bus}"),
            ),
        };
        let actions = match operator {
            true => ["events:DescribeEventBus"],
            false => ["events:PutEvents"],
        };
        self.allow("Notices", actions, arn);
    }

    /// What the verbs do besides a cleanup: look at what surrounds the queue, and send dead letters back.
    fn of_the_verbs(&mut self) {
        let here = |policy: &Self, service: &str, resource: &str| {
            policy.arn(service, &policy.region, &policy.account, resource)
        };
        self.allow(
            "Queue",
            ["sqs:GetQueueAttributes", "sqs:SendMessage"],
            self.queue.clone(),
        );
        // Which queues those are, the queue's redrive policy and the rules' targets say.
        let dead_letters = here(self, "sqs", "*");
        let actions = [
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
        ];
        self.allow("DeadLetters", actions, dead_letters);
        self.allow("RulesByTarget", ["events:ListRuleNamesByTarget"], "*");
        let rules = here(self, "events", "rule/*");
        let actions = ["events:DescribeRule", "events:ListTargetsByRule"];
        self.allow("Rules", actions, rules);
        self.allow("FindParameters", ["ssm:DescribeParameters"], "*");
        let roles = self.arn("iam", "", &self.account, "role/*");
        self.allow("OwnPermissions", ["iam:SimulatePrincipalPolicy"], roles);
    }

    fn document(self) -> Value {
        let statements = self.statements.into_iter();
        let statements = statements.map(|(name, (actions, resources))| {
            json!({
                "Sid": name,
                "Effect": "Allow",
                "Action": actions,
                "Resource": resources,
            })
        });
        json!({ "Version": "2012-10-17", "Statement": Vec::from_iter(statements) })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The policy of a configuration with these targets: each statement's resources.
    fn of(targets: &str, more: &[&str]) -> BTreeMap<String, Vec<String>> {
        part_of(targets, more, "Resource")
    }

    /// One part of each statement, by the statement's name.
    fn part_of(targets: &str, more: &[&str], part: &str) -> BTreeMap<String, Vec<String>> {
        let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/stagesweep";
        let text = format!("[queue]\nurl = \"{queue}\"\n{targets}");
        let config = Config::parse(Path::new("test"), &text, &BTreeMap::new()).unwrap();
        let options = Options {
            operator: more == ["--operator"],
            role: more.iter().skip(1).map(|it| (*it).to_owned()).next(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = iam_policy(&config, &options, &mut out, &mut err).unwrap();
        assert_eq!((code, String::from_utf8(err).unwrap().as_str()), (0, ""));
        let document: Value = serde_json::from_slice(&out).unwrap();
        let texts = |value: &Value| -> Vec<String> {
            let values = value.as_array().unwrap().iter();
            values.map(|it| it.as_str().unwrap().to_owned()).collect()
        };
        let statements = document["Statement"].as_array().unwrap().iter();
        statements
            .map(|it| (it["Sid"].as_str().unwrap().to_owned(), texts(&it[part])))
            .collect()
    }

    const HERE: &str = r#"
[[targets]]
pipeline = "{service}-frontend-pipeline"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/cloudfront/cfcd-production"
staging_parameter = "/{service}/cloudfront/cfcd-staging"
"#;

    const ELSEWHERE: &str = r#"
[[targets]]
pipeline = "arn:aws:codepipeline:us-east-1:123456789012:{service}-site"
stage = "Approve"
action = "Approve"
production_parameter = "/{service}/production"
staging_parameter = "/{service}/staging"
role_arn = "arn:aws:iam::210987654321:role/stagesweep"
"#;

    #[test]
    fn a_star_stands_for_what_the_configuration_leaves_open() {
        let policy = of(HERE, &[]);
        let names: Vec<&str> = policy.keys().map(String::as_str).collect();
        let expected = [
            "BothParameters",
            "Distributions",
            "Lists",
            "Pipelines",
            "Policies",
            "Queue",
            "StagingParameter",
        ];
        assert_eq!(names, expected);
        let of = |name: &str| policy[name].join(" ");
        assert_eq!(of("Queue"), "arn:aws:sqs:eu-west-1:123456789012:stagesweep");
        let parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/*/cloudfront/cfcd-staging";
        assert_eq!(of("StagingParameter"), parameter);
        let pipelines = "arn:aws:codepipeline:eu-west-1:123456789012:*-frontend-pipeline";
        assert_eq!(of("Pipelines"), pipelines);
        assert_eq!(
            of("Distributions"),
            "arn:aws:cloudfront::123456789012:distribution/*"
        );
    }

    #[test]
    fn pipelines_are_listed_where_a_pattern_leaves_a_capture_out() {
        assert!(!of(HERE, &[]).contains_key("AllPipelines"));
        let shared = HERE.replace("/{service}/", "/shop/");
        assert_eq!(of(&shared, &[])["AllPipelines"], ["*"]);
        let unasked = format!("[verify]\ncodepipeline = false\n{shared}");
        assert!(!of(&unasked, &[]).contains_key("AllPipelines"));
    }

    #[test]
    fn what_a_role_does_is_in_the_roles_policy() {
        let daemon = of(ELSEWHERE, &[]);
        let role = "arn:aws:iam::210987654321:role/stagesweep";
        assert_eq!(daemon["Roles"], [role]);
        assert!(!daemon.contains_key("StagingParameter"), "{daemon:?}");
        // The daemon asks CodePipeline in its own account.
        let pipelines = "arn:aws:codepipeline:us-east-1:123456789012:*-site";
        assert_eq!(daemon["Pipelines"], [pipelines]);
        let roles = of(ELSEWHERE, &["--role", role]);
        let parameter = "arn:aws:ssm:us-east-1:210987654321:parameter/*/staging";
        assert_eq!(roles["StagingParameter"], [parameter]);
        assert!(
            !roles.contains_key("Pipelines") && !roles.contains_key("Queue"),
            "{roles:?}"
        );
    }

    #[test]
    fn who_only_observes_may_change_nothing_but_a_person_may() {
        let observed = format!("{HERE}mode = \"observe\"\n");
        let actions = |more: &[&str]| -> BTreeSet<String> {
            let actions = part_of(&observed, more, "Action").into_values().flatten();
            actions.collect()
        };
        let changes = [
            "cloudfront:DeleteContinuousDeploymentPolicy",
            "cloudfront:DeleteDistribution",
            "cloudfront:UpdateDistribution",
            "ssm:PutParameter",
        ];
        let changes = BTreeSet::from(changes.map(str::to_owned));
        assert!(actions(&[]).is_disjoint(&changes));
        assert!(actions(&["--operator"]).is_superset(&changes));
    }

    #[test]
    fn an_operator_needs_no_receive_on_the_queue_and_more_to_look_around() {
        let policy = of(HERE, &["--operator"]);
        for name in ["DeadLetters", "Rules", "FindParameters", "StagingParameter"] {
            assert!(policy.contains_key(name), "{name}: {policy:?}");
        }
    }
}
