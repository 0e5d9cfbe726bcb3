//! The permissions to change something, which cannot be tried without changing it: IAM simulates them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::questions::{Reach, of_a_cleanup, of_reading, of_the_daemon, principal};
use super::queue_policy::QueuePolicy;
use super::{Check, Scene, mend};
use crate::aws::AwsError;
use crate::aws::iam::{Decision, Iam, Question, Verdict};
use crate::aws::identity::Caller;
use crate::aws::sqs::QueueAttributes;
use crate::domain::error_class::ErrorClass;
use crate::telemetry::chain;

const NAME: &str = "permissions";

/// So many resources are named where one is denied.
const FEW: usize = 3;

/// The tag that the templates let a role ask for ("DeleteOnlyTagged").
const TAG: (&str, &str) = ("aws:ResourceTag/stagesweep", "staging");

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
    let acts = scene.asked.config.targets.iter().any(|it| it.acts());
    let mut checks = Vec::new();
    if !acts {
        let said = "those to change something are not needed: every target is only observed";
        checks.push(Check::ok(NAME, said));
    }
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
            let cleanup = here.filter(|_| acts).map(|it| of_a_cleanup(own, it));
            questions.extend(cleanup.into_iter().flatten());
            if scene.asked.role.is_some() {
                questions.extend(of_reading(scene, own, queue, here));
            }
            let iam = scene.asked.connector.own();
            let iam = iam.permissions(&scene.home.region);
            checks.extend(ask(&iam, own, &questions, queue).await);
        }
    }
    for reach in reaches.iter().filter(|_| acts) {
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

/// All that is missing, as statements of a policy; `None` if nothing is.
pub(super) fn missing(checks: &[Check]) -> Option<Check> {
    let mut by_resource: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (action, resource) in checks.iter().flat_map(|check| &check.lacks) {
        by_resource.entry(resource).or_default().insert(action);
    }
    let statements: Vec<_> = by_resource
        .iter()
        .map(|(resource, actions)| json!({"Effect": "Allow", "Action": actions, "Resource": resource}))
        .collect();
    (!statements.is_empty()).then(|| {
        let remedy = "add these statements to the role, or all that `stagesweep iam-policy` writes";
        Check::warning("missing permissions", json!(statements).to_string(), remedy)
    })
}

/// Asks one after the other; where it cannot be asked at all, that is one check.
async fn ask(
    iam: &Iam,
    principal: &str,
    questions: &[Question],
    queue: Option<&QueueAttributes>,
) -> Vec<Check> {
    let policy = queue.and_then(QueuePolicy::of);
    let mut checks = Vec::new();
    for question in questions {
        match decide(iam, principal, question).await {
            Ok(decisions) => {
                let elsewhere = granted_elsewhere(question.action, principal, policy.as_ref());
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
            before.verdict = settled(&before.verdict, with_tag.verdict);
        }
    }
    Ok(decisions)
}

/// What the answers without the tag and with it come to.
fn settled(without: &Verdict, with_tag: Verdict) -> Verdict {
    match (without, with_tag) {
        (Verdict::Depends(_), Verdict::Allowed) => Verdict::Depends(vec![TAG.0.to_owned()]),
        (Verdict::Depends(_), verdict) => verdict,
        (verdict, _) => verdict.clone(),
    }
}

/// What may allow an action that no statement of the role does, if something may.
fn granted_elsewhere(
    action: &str,
    principal: &str,
    queue: Option<&QueuePolicy>,
) -> Option<&'static str> {
    let service = action.split(':').next().unwrap_or_default();
    match service {
        "kms" => Some("the key's policy may"),
        "events" => Some("the event bus's policy may"),
        "s3" => Some("CloudFront may not ask for it, or the bucket's policy may allow it"),
        "wafv2" => Some("CloudFront may not ask for it"),
        "sqs" if queue.is_some_and(|it| it.may_grant(action, principal)) => {
            Some("the queue's policy may")
        }
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
            _ => Check {
                lacks: decisions
                    .iter()
                    .filter(|it| it.verdict == Verdict::NotAllowed)
                    .map(|it| (action.to_owned(), it.resource.clone()))
                    .collect(),
                ..Check::failure(action, said, remedy)
            },
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
        let lacks = [("cloudfront:DeleteDistribution".to_owned(), "E1".to_owned())];
        assert_eq!(denied.lacks, lacks);
        let all = missing(&[Check::ok("region", ""), denied.clone()]).unwrap();
        assert_eq!(
            all.detail,
            r#"[{"Action":["cloudfront:DeleteDistribution"],"Effect":"Allow","Resource":"E1"}]"#
        );
        assert_eq!(missing(&[Check::ok("region", "")]), None);
        assert_eq!(
            denied.remedy.as_deref(),
            Some("allow cloudfront:DeleteDistribution on E1")
        );
        let elsewhere = Some("the key's policy may");
        let resource = "key".to_owned();
        let verdict = Verdict::NotAllowed;
        let granted = judge("kms:Decrypt", &[Decision { resource, verdict }], elsewhere);
        assert_eq!(granted.status, Status::Warning);
        let many = of(&[const { Verdict::Forbidden }; 5]);
        assert!(many.remedy.unwrap().contains("E2 and 2 more out of"));
    }

    #[test]
    fn a_key_that_does_not_decide_makes_no_denial_a_doubt() {
        let tag = || vec![TAG.0.to_owned()];
        let depends = Verdict::Depends(vec![TAG.0.to_owned(), "events:source".to_owned()]);
        assert_eq!(settled(&depends, Verdict::Allowed), Verdict::Depends(tag()));
        assert_eq!(settled(&depends, Verdict::NotAllowed), Verdict::NotAllowed);
        assert_eq!(
            settled(&Verdict::Allowed, Verdict::Allowed),
            Verdict::Allowed
        );
    }
}
