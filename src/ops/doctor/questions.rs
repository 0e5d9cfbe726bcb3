//! What IAM's simulator is asked: everything that the daemon does, of what was found.

use std::collections::BTreeSet;

use super::{CONFIG, DISTRIBUTION, LIST, LIST_POLICIES, NO_DISTRIBUTION, NO_POLICY, POLICY, Scene};
use crate::aws::iam::Question;
use crate::aws::sqs::QueueAttributes;
use crate::config::LedgerBackend;
use crate::domain::arn::Arn;
use crate::domain::targets::Access;
use crate::notify::DETAIL_TYPE;

const STATE: &str = "codepipeline:GetPipelineState";
const ACTIONS: &str = "codepipeline:ListActionExecutions";
const EXECUTIONS: &str = "codepipeline:ListPipelineExecutions";

/// What the daemon would change in one account, by what was found there.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// As whom.
    pub(super) access: Access,
    /// The production parameters, each with its region. They are only read.
    pub(super) production_parameters: BTreeSet<(String, String)>,
    /// The staging parameters, each with its region.
    pub(super) staging_parameters: BTreeSet<(String, String)>,
    /// Production distributions' ids.
    pub(super) productions: BTreeSet<String>,
    /// Staging distributions' ids.
    pub(super) stagings: BTreeSet<String>,
    /// The buckets of their legacy access logs, by their domain names.
    pub(super) log_buckets: BTreeSet<String>,
    /// The ARNs of their web ACLs.
    pub(super) web_acls: BTreeSet<String>,
}

impl Reach {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            production_parameters: BTreeSet::new(),
            staging_parameters: BTreeSet::new(),
            productions: BTreeSet::new(),
            stagings: BTreeSet::new(),
            log_buckets: BTreeSet::new(),
            web_acls: BTreeSet::new(),
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.production_parameters
            .extend(more.production_parameters);
        self.staging_parameters.extend(more.staging_parameters);
        self.productions.extend(more.productions);
        self.stagings.extend(more.stagings);
        self.log_buckets.extend(more.log_buckets);
        self.web_acls.extend(more.web_acls);
    }
}

/// Whose policies count for a caller: those of the role that was assumed, or of the user.
pub(super) fn principal(caller: &str) -> Option<String> {
    let arn = Arn::parse(caller).filter(|arn| arn.region.is_empty())?;
    let (partition, account) = (arn.partition, arn.account);
    let path: Vec<&str> = arn.resource.split('/').collect();
    match (arn.service, path.as_slice()) {
        // The role's path is not in it.
        ("sts", ["assumed-role", role, _]) => {
            Some(format!("arn:{partition}:iam::{account}:role/{role}"))
        }
        ("iam", ["user", ..]) => Some(caller.to_owned()),
        _ => None,
    }
}

/// The partition and the account of a role's or user's ARN.
fn place(principal: &str) -> (&str, &str) {
    Arn::parse(principal).map_or(("", ""), |arn| (arn.partition, arn.account))
}

/// What the daemon does besides cleaning up.
pub(super) fn of_the_daemon(
    scene: &Scene<'_>,
    principal: &str,
    queue: Option<&QueueAttributes>,
) -> Vec<Question> {
    let (config, region) = (scene.asked.config, &scene.home.region);
    let (partition, account) = place(principal);
    let mut questions = Vec::new();
    if let Some(arn) = queue.and_then(|it| it.arn.as_ref()) {
        let settles = [
            "sqs:ReceiveMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
        ];
        questions.extend(settles.map(|action| Question::of(action, [arn.clone()])));
    }
    match queue.and_then(|it| it.key.as_deref()) {
        Some(arn) if arn.contains(":key/") => {
            questions.push(Question::of("kms:Decrypt", [arn.to_owned()]));
        }
        // Which key an alias stands for is not known.
        Some(id) if !id.contains("alias/") => {
            let arn = format!("arn:{partition}:kms:{region}:{account}:key/{id}");
            questions.push(Question::of("kms:Decrypt", [arn]));
        }
        _ => {}
    }
    if let Some(arn) = table(scene, principal) {
        questions.push(Question::of("dynamodb:UpdateItem", [arn]));
    }
    let bus = &config.notify.event_bus;
    if !bus.is_empty() {
        let arn = match bus.starts_with("arn:") {
            true => bus.clone(),
            false => format!("arn:{partition}:events:{region}:{account}:event-bus/{bus}"),
        };
        questions.push(Question {
            context: vec![
                ("events:source", config.notify.source.clone()),
                ("events:detail-type", DETAIL_TYPE.to_owned()),
            ],
            ..Question::of("events:PutEvents", [arn])
        });
    }
    questions
}

/// The ledger's table, where it is one.
fn table(scene: &Scene<'_>, principal: &str) -> Option<String> {
    let (partition, account) = place(principal);
    let (ledger, region) = (&scene.asked.config.ledger, &scene.home.region);
    let table = &ledger.table;
    (ledger.backend == LedgerBackend::DynamoDb)
        .then(|| format!("arn:{partition}:dynamodb:{region}:{account}:table/{table}"))
}

/// What is read: of another role than the caller's, no call tells whether it may.
pub(super) fn of_reading(
    scene: &Scene<'_>,
    principal: &str,
    queue: Option<&QueueAttributes>,
    here: Option<&Reach>,
) -> Vec<Question> {
    let (partition, account) = place(principal);
    let cloudfront = |kind: &str, id: &str| {
        let arn = format!("arn:{partition}:cloudfront::{account}:{kind}/{id}");
        [arn]
    };
    let mut questions = Vec::new();
    questions.extend(
        queue
            .and_then(|it| it.arn.clone())
            .map(|arn| Question::of("sqs:GetQueueAttributes", [arn])),
    );
    if let Some(reach) = here {
        let staging = parameters(principal, &reach.staging_parameters);
        let mut both = parameters(principal, &reach.production_parameters);
        both.extend_from_slice(&staging);
        questions.push(Question::of("ssm:GetParameter", both));
        questions.push(Question::of("ssm:GetParameterHistory", staging));
        for action in [DISTRIBUTION, CONFIG] {
            let arn = cloudfront("distribution", NO_DISTRIBUTION);
            questions.push(Question::of(action, arn));
        }
        let arn = cloudfront("continuous-deployment-policy", NO_POLICY);
        questions.push(Question::of(POLICY, arn));
        for action in [LIST_POLICIES, LIST] {
            questions.push(Question::of(action, ["*".to_owned()]));
        }
    }
    if let Some(arn) = table(scene, principal) {
        let reads = ["dynamodb:GetItem", "dynamodb:Scan"];
        questions.extend(reads.map(|action| Question::of(action, [arn.clone()])));
    }
    if scene.asked.config.verify.codepipeline {
        let asked = scene.named.iter().chain(&scene.told).filter(|named| {
            named.target.pipeline_access.role.is_none() && named.pipeline.account == account
        });
        let pipelines: BTreeSet<String> = asked.map(|it| it.pipeline.to_string()).collect();
        let pipelines: Vec<String> = pipelines.into_iter().collect();
        for action in [STATE, ACTIONS, EXECUTIONS] {
            questions.push(Question::of(action, pipelines.clone()));
        }
    }
    questions.retain(|it| !it.resources.is_empty());
    questions
}

/// The ARNs of parameters.
fn parameters(principal: &str, of: &BTreeSet<(String, String)>) -> Vec<String> {
    let (partition, account) = place(principal);
    let arns = of.iter().map(|(region, name)| {
        let slash = if name.starts_with('/') { "" } else { "/" };
        format!("arn:{partition}:ssm:{region}:{account}:parameter{slash}{name}")
    });
    arns.collect()
}

/// What cleanups do. Where no distribution is known, one is asked about that does not exist.
pub(super) fn of_a_cleanup(principal: &str, reach: &Reach) -> Vec<Question> {
    let (partition, account) = place(principal);
    let cloudfront =
        |kind: &str, id: &str| format!("arn:{partition}:cloudfront::{account}:{kind}/{id}");
    let distributions = |ids: &BTreeSet<String>| -> Vec<String> {
        let ids = ids.iter().map(|id| cloudfront("distribution", id));
        ids.collect()
    };
    let or_none = |found: Vec<String>| match found.is_empty() {
        true => vec![cloudfront("distribution", NO_DISTRIBUTION)],
        false => found,
    };
    let stagings = distributions(&reach.stagings);
    let mut both = distributions(&reach.productions);
    both.extend_from_slice(&stagings);
    let policy = cloudfront("continuous-deployment-policy", NO_POLICY);
    let buckets: Vec<String> = reach
        .log_buckets
        .iter()
        .filter_map(|domain| domain.split_once(".s3").map(|(bucket, _)| bucket))
        .map(|bucket| format!("arn:{partition}:s3:::{bucket}"))
        .collect();
    let web_acls: Vec<String> = reach.web_acls.iter().cloned().collect();
    let mut questions = vec![
        Question::of("cloudfront:UpdateDistribution", or_none(both)),
        Question::of("cloudfront:DeleteDistribution", or_none(stagings)),
        Question::of("cloudfront:DeleteContinuousDeploymentPolicy", [policy]),
        Question::of(
            "ssm:PutParameter",
            parameters(principal, &reach.staging_parameters),
        ),
        Question::of("s3:GetBucketAcl", buckets.clone()),
        Question::of("s3:PutBucketAcl", buckets),
        Question::of("wafv2:GetWebACL", web_acls),
    ];
    questions.retain(|it| !it.resources.is_empty());
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_that_count_are_those_of_the_role_or_the_user() {
        let of = |arn: &str| principal(arn);
        assert_eq!(
            of("arn:aws:sts::123456789012:assumed-role/stagesweep/i-0abc").as_deref(),
            Some("arn:aws:iam::123456789012:role/stagesweep")
        );
        let user = "arn:aws-cn:iam::123456789012:user/ops/kim";
        assert_eq!(of(user).as_deref(), Some(user));
        assert_eq!(of("arn:aws:iam::123456789012:root"), None);
        assert_eq!(of("arn:aws:sts::123456789012:federated-user/kim"), None);
        assert_eq!(place(user), ("aws-cn", "123456789012"));
    }

    #[test]
    fn where_nothing_is_deployed_one_is_asked_about_that_does_not_exist() {
        let access = Access {
            role: None,
            region: "eu-west-1".to_owned(),
        };
        let mut reach = Reach::new(access);
        let role = "arn:aws:iam::123456789012:role/stagesweep";
        let resources = |reach: &Reach, action: &str| {
            let questions = of_a_cleanup(role, reach);
            let it = questions.into_iter().find(|it| it.action == action);
            it.map(|it| it.resources)
        };
        let none = "arn:aws:cloudfront::123456789012:distribution/E00000000000000".to_owned();
        let deletes = "cloudfront:DeleteDistribution";
        assert_eq!(resources(&reach, deletes), Some(vec![none]));
        assert_eq!(resources(&reach, "ssm:PutParameter"), None);
        let parameter = |name: &str| ("eu-west-1".to_owned(), name.to_owned());
        reach.staging_parameters = [parameter("flat"), parameter("/a/b")].into();
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter";
        assert_eq!(
            resources(&reach, "ssm:PutParameter"),
            Some(vec![format!("{arn}/a/b"), format!("{arn}/flat")])
        );
    }
}
