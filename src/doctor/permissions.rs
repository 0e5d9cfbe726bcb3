//! The permissions to change something, which cannot be tried without changing it: IAM simulates them.

use std::collections::BTreeSet;

use super::{
    CONFIG, Check, DISTRIBUTION, LIST, LIST_POLICIES, NO_DISTRIBUTION, NO_POLICY, POLICY, Scene,
    mend,
};
use crate::aws::AwsError;
use crate::aws::iam::{Decision, Iam, Question, Verdict};
use crate::aws::identity::Caller;
use crate::aws::sqs::QueueAttributes;
use crate::config::LedgerBackend;
use crate::notify::DETAIL_TYPE;
use crate::retry::ErrorClass;
use crate::target::Access;
use crate::telemetry::chain;

const NAME: &str = "permissions";

/// So many resources are named where one is denied.
const FEW: usize = 3;

/// The tag that the templates let a role ask for ("DeleteOnlyTagged").
const TAG: (&str, &str) = ("aws:ResourceTag/stagesweep", "staging");

/// What the daemon would change in one account, by what was found there.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// As whom.
    pub(super) access: Access,
    /// The staging parameters, each with its region.
    pub(super) parameters: BTreeSet<(String, String)>,
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
            parameters: BTreeSet::new(),
            productions: BTreeSet::new(),
            stagings: BTreeSet::new(),
            log_buckets: BTreeSet::new(),
            web_acls: BTreeSet::new(),
        }
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.parameters.extend(more.parameters);
        self.productions.extend(more.productions);
        self.stagings.extend(more.stagings);
        self.log_buckets.extend(more.log_buckets);
        self.web_acls.extend(more.web_acls);
    }
}

/// What is known of the daemon itself.
pub(super) struct Own<'a> {
    /// Whose credentials these are, if that can be told.
    pub(super) caller: Option<&'a Caller>,
    /// The queue, if it can be read.
    pub(super) queue: Option<&'a QueueAttributes>,
}

/// Asks for the daemon's own role, and for each role that a target works with.
pub(super) async fn examine(scene: &Scene<'_>, own: Own<'_>, reaches: &[Reach]) -> Vec<Check> {
    let Own { caller, queue } = own;
    let role = scene.asked.role.map(str::to_owned);
    let own = role.or_else(|| principal(&caller?.arn));
    let mut checks = Vec::new();
    match &own {
        None => {
            let check = Check::warning(
                NAME,
                "those to change something were not looked at: the credentials are not known to be a \
                 role's or a user's",
                "name the daemon's role: `stagesweep doctor --role ARN`",
            );
            checks.push(match caller {
                Some(caller) => check.about(caller.arn.clone()),
                None => check,
            });
        }
        Some(own) => {
            let mut questions = of_the_daemon(scene, own, queue);
            let here = reaches.iter().find(|it| it.access.role.is_none());
            questions.extend(here.map(|it| of_a_cleanup(own, it)).into_iter().flatten());
            if scene.asked.role.is_some() {
                questions.extend(of_reading(scene, own, queue, here));
            }
            let iam = scene.asked.connector.own();
            let iam = iam.permissions(&scene.home.region);
            checks.extend(ask(&iam, own, &questions, queue).await);
        }
    }
    for reach in reaches {
        if let Some(role) = &reach.access.role {
            let account = scene.asked.accounts.get(&reach.access);
            let iam = account.permissions(&reach.access.region);
            let questions = of_a_cleanup(role.arn(), reach);
            let found = ask(&iam, role.arn(), &questions, None).await;
            checks.extend(found.into_iter().map(|it| match it.subject {
                Some(_) => it,
                None => it.about(role.arn()),
            }));
        }
    }
    checks
}

/// Whose policies count for a caller: those of the role that was assumed, or of the user.
fn principal(caller: &str) -> Option<String> {
    let parts: Vec<&str> = caller.splitn(6, ':').collect();
    let ["arn", partition, service, "", account, resource] = parts[..] else {
        return None;
    };
    let path: Vec<&str> = resource.split('/').collect();
    match (service, path.as_slice()) {
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
    let mut parts = principal.split(':').skip(1);
    let partition = parts.next().unwrap_or_default();
    (partition, parts.nth(2).unwrap_or_default())
}

/// What the daemon does besides cleaning up.
fn of_the_daemon(
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
fn of_reading(
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
        let staging = parameters(principal, reach);
        questions.push(Question::of("ssm:GetParameter", staging.clone()));
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
    questions.extend(table(scene, principal).map(|arn| Question::of("dynamodb:GetItem", [arn])));
    questions.retain(|it| !it.resources.is_empty());
    questions
}

/// The ARNs of the staging parameters.
fn parameters(principal: &str, reach: &Reach) -> Vec<String> {
    let (partition, account) = place(principal);
    let arns = reach.parameters.iter().map(|(region, name)| {
        let slash = if name.starts_with('/') { "" } else { "/" };
        format!("arn:{partition}:ssm:{region}:{account}:parameter{slash}{name}")
    });
    arns.collect()
}

/// What cleanups do. Where no distribution is known, one is asked about that does not exist.
fn of_a_cleanup(principal: &str, reach: &Reach) -> Vec<Question> {
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
        Question::of("ssm:PutParameter", parameters(principal, reach)),
        Question::of("s3:GetBucketAcl", buckets.clone()),
        Question::of("s3:PutBucketAcl", buckets),
        Question::of("wafv2:GetWebACL", web_acls),
    ];
    questions.retain(|it| !it.resources.is_empty());
    questions
}

/// Asks one after the other; where it cannot be asked at all, that is one check.
async fn ask(
    iam: &Iam,
    principal: &str,
    questions: &[Question],
    queue: Option<&QueueAttributes>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for question in questions {
        match decide(iam, principal, question).await {
            Ok(decisions) => {
                let elsewhere = granted_elsewhere(question.action, queue);
                checks.push(judge(question.action, &decisions, elsewhere));
            }
            Err(error) => {
                checks.push(not_asked(&error, principal));
                break;
            }
        }
    }
    checks
}

/// What IAM says. A condition's key that it was not told of need not be one that decides: with the tag
/// that the templates ask for, it is asked once more.
async fn decide(
    iam: &Iam,
    principal: &str,
    question: &Question,
) -> Result<Vec<Decision>, AwsError> {
    let mut decisions = iam.simulate(principal, question).await?;
    let tagged = |it: &Decision| match &it.verdict {
        Verdict::Depends(keys) => keys.iter().any(|key| key.eq_ignore_ascii_case(TAG.0)),
        _ => false,
    };
    if decisions.iter().any(tagged) {
        let mut with_tag = question.clone();
        with_tag.context.push((TAG.0, TAG.1.to_owned()));
        let told = iam.simulate(principal, &with_tag).await?;
        for (before, with_tag) in decisions.iter_mut().zip(told) {
            before.verdict = match (&before.verdict, with_tag.verdict) {
                (Verdict::Depends(_), Verdict::Allowed) => Verdict::Depends(vec![TAG.0.to_owned()]),
                (Verdict::Depends(_), verdict) => verdict,
                (verdict, _) => verdict.clone(),
            };
        }
    }
    Ok(decisions)
}

/// What may allow an action that no statement of the role does, if something may.
fn granted_elsewhere(action: &str, queue: Option<&QueueAttributes>) -> Option<&'static str> {
    let service = action.split(':').next().unwrap_or_default();
    let named = |it: &QueueAttributes| it.policy.as_ref().is_some_and(|it| it.contains("\"AWS\""));
    match service {
        "kms" => Some("the key's policy may"),
        "events" => Some("the event bus's policy may"),
        "s3" => Some("CloudFront may not ask for it, or the bucket's policy may allow it"),
        "wafv2" => Some("CloudFront may not ask for it"),
        "sqs" if queue.is_some_and(named) => Some("the queue's policy may"),
        _ => None,
    }
}

fn not_asked(error: &AwsError, principal: &str) -> Check {
    let remedy = match error.class {
        ErrorClass::NotFound => {
            "check the role's name, its path and its account: `stagesweep doctor --role ARN`"
                .to_owned()
        }
        _ => mend(
            error,
            &format!(
                "allow iam:SimulatePrincipalPolicy on {principal}, or run this as somebody who may, with \
                 --role {principal}"
            ),
        ),
    };
    let said = format!(
        "those to change something were not looked at: {}",
        chain(error)
    );
    Check::warning(NAME, said, remedy).about(principal)
}

/// `elsewhere` is what may allow it besides the role's own statements.
fn judge(action: &'static str, decisions: &[Decision], elsewhere: Option<&str>) -> Check {
    let named = |of: &dyn Fn(&Verdict) -> bool| {
        let found: Vec<&str> = decisions
            .iter()
            .filter(|it| of(&it.verdict))
            .map(|it| it.resource.as_str())
            .collect();
        match found.len() {
            ..=FEW => found.join(", "),
            more => format!("{} and {} more", found[..FEW].join(", "), more - FEW),
        }
    };
    let refusing = decisions
        .iter()
        .find_map(|it| Some((&it.verdict, refusal(&it.verdict)?)));
    if let Some((verdict, why)) = refusing {
        let resources = named(&|it| it == verdict);
        let remedy = match verdict {
            Verdict::Forbidden => {
                format!("take {action} on {resources} out of the statement that denies it")
            }
            Verdict::OutsideBoundary => {
                format!("allow {action} on {resources} in the role's permissions boundary")
            }
            Verdict::OutsideOrganization => {
                format!("allow {action} on {resources} in the organization's policies")
            }
            _ => format!("allow {action} on {resources}"),
        };
        let said = format!("denied by IAM's simulation: {why}");
        return match (verdict, elsewhere) {
            (Verdict::NotAllowed, Some(elsewhere)) => {
                Check::warning(action, format!("{said}; {elsewhere}"), remedy)
            }
            // The daemon then asks for each distribution by itself.
            _ if action == LIST => Check::warning(action, said, remedy),
            _ => Check::failure(action, said, remedy),
        };
    }
    let depends = decisions.iter().find_map(|it| match &it.verdict {
        Verdict::Depends(keys) => Some(keys.join(", ")),
        _ => None,
    });
    match depends {
        Some(keys) => Check::warning(
            action,
            format!("allowed or not by {keys}, which a simulation is not told"),
            format!(
                "see that {} has what the role's condition asks for",
                named(&|it| matches!(it, Verdict::Depends(_)))
            ),
        ),
        None => Check::ok(
            action,
            match decisions.len() {
                1 => "allowed by IAM's simulation".to_owned(),
                many => format!("allowed by IAM's simulation, on {many} resources"),
            },
        ),
    }
}

/// Why it would be refused, if it would.
fn refusal(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Allowed | Verdict::Depends(_) => None,
        Verdict::Forbidden => Some("a statement forbids it"),
        Verdict::NotAllowed => Some("no statement allows it"),
        Verdict::OutsideBoundary => Some("the permissions boundary does not allow it"),
        Verdict::OutsideOrganization => Some("a policy of the organization does not allow it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
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
    fn what_is_denied_is_a_failure_and_what_a_condition_decides_a_warning() {
        const ACTION: &str = "cloudfront:DeleteDistribution";
        let of = |verdicts: &[Verdict]| {
            let decisions = verdicts.iter().enumerate().map(|(n, verdict)| Decision {
                resource: format!("E{n}"),
                verdict: verdict.clone(),
            });
            judge(ACTION, &decisions.collect::<Vec<_>>(), None)
        };
        let depends = Verdict::Depends(vec!["aws:ResourceTag/stagesweep".to_owned()]);
        assert_eq!(of(&[Verdict::Allowed]).status, Status::Ok);
        let condition = of(&[Verdict::Allowed, depends.clone()]);
        assert_eq!(condition.status, Status::Warning);
        assert!(condition.remedy.unwrap().contains("E1"));
        let denied = of(&[depends, Verdict::NotAllowed, Verdict::Allowed]);
        assert_eq!(denied.status, Status::Failure);
        assert_eq!(
            denied.remedy.as_deref(),
            Some("allow cloudfront:DeleteDistribution on E1")
        );
        let many = of(&[const { Verdict::Forbidden }; 5]);
        assert!(many.remedy.unwrap().contains("E2 and 2 more out of"));
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
        reach.parameters = [parameter("flat"), parameter("/a/b")].into();
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter";
        assert_eq!(
            resources(&reach, "ssm:PutParameter"),
            Some(vec![format!("{arn}/a/b"), format!("{arn}/flat")])
        );
    }
}
