//! The permissions to change something, which cannot be tried without changing it: IAM simulates them.

use std::collections::BTreeSet;

use super::Check;
use crate::accounts::Accounts;
use crate::aws::iam::{Decision, Iam, Question, Verdict};
use crate::aws::identity::Caller;
use crate::aws::sqs::QueueAttributes;
use crate::aws::{AwsError, Connector};
use crate::config::{Config, LedgerBackend};
use crate::notify::DETAIL_TYPE;
use crate::retry::ErrorClass;
use crate::target::Access;
use crate::telemetry::chain;

use super::{NO_DISTRIBUTION, NO_POLICY};

const NAME: &str = "permissions";

/// So many resources are named where one is denied.
const FEW: usize = 3;

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
}

impl Reach {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            parameters: BTreeSet::new(),
            productions: BTreeSet::new(),
            stagings: BTreeSet::new(),
        }
    }
}

/// What is known of the daemon itself.
pub(super) struct Own<'a> {
    /// Whose credentials these are.
    pub(super) caller: &'a Caller,
    /// Whose permissions are looked at instead.
    pub(super) role: Option<&'a str>,
    /// The queue, if it can be read.
    pub(super) queue: Option<&'a QueueAttributes>,
}

/// Asks for the daemon's own role, and for each role that a target works with.
pub(super) async fn examine(
    config: &Config,
    connector: &Connector,
    accounts: &Accounts,
    own: Own<'_>,
    reaches: &[Reach],
) -> Vec<Check> {
    let Own {
        caller,
        role,
        queue,
    } = own;
    let region = connector.region().unwrap_or_default();
    let own = role.map(str::to_owned).or_else(|| principal(&caller.arn));
    let mut checks = match &own {
        None => vec![
            Check::warning(
                NAME,
                "those to change something were not looked at: the credentials are no role's or user's",
                "name the daemon's role: `stagesweep doctor --role ARN`",
            )
            .about(caller.arn.clone()),
        ],
        Some(own) => {
            let mut questions = of_the_daemon(config, own, region, queue);
            let here = reaches.iter().find(|it| it.access.role.is_none());
            questions.extend(here.map(|it| of_a_cleanup(own, it)).into_iter().flatten());
            let iam = connector.own().permissions(region);
            ask(&iam, own, &questions).await
        }
    };
    for reach in reaches {
        if let Some(role) = &reach.access.role {
            let iam = accounts
                .get(&reach.access)
                .permissions(&reach.access.region);
            let questions = of_a_cleanup(role.arn(), reach);
            let found = ask(&iam, role.arn(), &questions).await;
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
    config: &Config,
    principal: &str,
    region: &str,
    queue: Option<&QueueAttributes>,
) -> Vec<Question> {
    let (partition, account) = place(principal);
    let ask = |action, resource: String| Question {
        action,
        resources: vec![resource],
        context: Vec::new(),
    };
    let mut questions = Vec::new();
    if let Some(arn) = queue.and_then(|it| it.arn.as_ref()) {
        let settles = [
            "sqs:ReceiveMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
        ];
        questions.extend(settles.map(|action| ask(action, arn.clone())));
    }
    match queue.and_then(|it| it.key.as_deref()) {
        Some(arn) if arn.contains(":key/") => questions.push(ask("kms:Decrypt", arn.to_owned())),
        // Which key an alias stands for is not known.
        Some(id) if !id.contains("alias/") => {
            let arn = format!("arn:{partition}:kms:{region}:{account}:key/{id}");
            questions.push(ask("kms:Decrypt", arn));
        }
        _ => {}
    }
    if config.ledger.backend == LedgerBackend::DynamoDb {
        let table = &config.ledger.table;
        let arn = match table.starts_with("arn:") {
            true => table.clone(),
            false => format!("arn:{partition}:dynamodb:{region}:{account}:table/{table}"),
        };
        questions.push(ask("dynamodb:UpdateItem", arn));
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
            ..ask("events:PutEvents", arn)
        });
    }
    questions
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
    let parameters = reach.parameters.iter().map(|(region, name)| {
        let slash = if name.starts_with('/') { "" } else { "/" };
        format!("arn:{partition}:ssm:{region}:{account}:parameter{slash}{name}")
    });
    let policy = cloudfront("continuous-deployment-policy", NO_POLICY);
    [
        ("cloudfront:UpdateDistribution", or_none(both)),
        ("cloudfront:DeleteDistribution", or_none(stagings)),
        ("cloudfront:DeleteContinuousDeploymentPolicy", vec![policy]),
        ("ssm:PutParameter", parameters.collect()),
    ]
    .into_iter()
    .filter(|(_, resources)| !resources.is_empty())
    .map(|(action, resources)| Question {
        action,
        resources,
        context: Vec::new(),
    })
    .collect()
}

/// Asks one after the other; where it cannot be asked at all, that is one check.
async fn ask(iam: &Iam, principal: &str, questions: &[Question]) -> Vec<Check> {
    let mut checks = Vec::new();
    for question in questions {
        match iam.simulate(principal, question).await {
            Ok(decisions) => checks.push(judge(question.action, &decisions)),
            Err(error) => {
                checks.push(not_asked(&error, principal));
                break;
            }
        }
    }
    checks
}

fn not_asked(error: &AwsError, principal: &str) -> Check {
    let remedy = match error.class {
        ErrorClass::AccessDenied => format!(
            "allow iam:SimulatePrincipalPolicy on {principal}, or run this as somebody who may, with \
             --role {principal}"
        ),
        ErrorClass::NotFound => {
            "name the role with its path: `stagesweep doctor --role ARN`".to_owned()
        }
        _ => "look at the network: IAM is asked at its global endpoint".to_owned(),
    };
    let said = format!(
        "those to change something were not looked at: {}",
        chain(error)
    );
    Check::warning(NAME, said, remedy).about(principal)
}

fn judge(action: &'static str, decisions: &[Decision]) -> Check {
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
        return Check::failure(
            action,
            format!("denied by IAM's simulation: {why}"),
            format!("allow {action} on {resources}"),
        );
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
            judge(ACTION, &decisions.collect::<Vec<_>>())
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
        assert!(many.remedy.unwrap().ends_with("E2 and 2 more"));
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
