//! CodePipeline: whether the pipelines have the approvals that the targets are about, and whether what
//! `[verify]` and `[catch_up]` ask may be asked.

use std::collections::BTreeSet;
use std::iter;

use super::{Check, MANY, Preflight, Scene, at_once, resolved, writers};
use crate::aws::AwsError;
use crate::aws::codepipeline::CodePipeline;
use crate::daemon::catch_up::approvals;
use crate::domain::arn::PipelineArn;
use crate::domain::error_class::ErrorClass;
use crate::domain::executions::Stage;
use crate::domain::targets::lookup::{self, Named};
use crate::domain::targets::{Access, ResolveError, Target};
use crate::reconcile::accounts::Accounts;

const NAME: &str = "codepipeline";
const LIST: &str = "codepipeline:ListPipelines";

/// An execution that no pipeline has: asking for it tells whether one may ask.
const NO_EXECUTION: &str = "00000000-0000-0000-0000-000000000000";

/// What the daemon asks CodePipeline for, by the configuration.
#[derive(Clone, Copy)]
struct Asks {
    verify: bool,
    catch_up: bool,
}

impl Asks {
    /// A call that fails, and the permission that it takes: a failure where no job would go on without it.
    fn denied(self, error: &AwsError, operation: &str) -> Check {
        let permission = match self.verify || self.catch_up {
            true => format!("{operation} on it"),
            false => format!("{operation} on it; only `doctor` asks for it"),
        };
        let check = Check::call(NAME, error, &permission);
        match self.verify {
            true => check,
            false => check.at_most_a_warning(),
        }
    }
}

pub(super) async fn examine(scene: &Scene<'_>) -> Vec<Check> {
    let Preflight {
        config, accounts, ..
    } = scene.asked;
    let home = &scene.home;
    let asks = Asks {
        verify: config.verify.codepipeline,
        catch_up: config.catch_up.is_on(),
    };
    let mut checks = Vec::new();
    let mut wanted: Vec<&Named> = scene.named.iter().collect();
    let patterns = config.targets.iter().any(|it| it.pipeline().contains('{'));
    let mut listed = Vec::new();
    // Without it jobs fail; lost events are only not found.
    let shared = asks.verify && config.targets.iter().any(Target::leaves_out_captures);
    if asks.catch_up && patterns || shared {
        let own = codepipeline(accounts, &scene.access());
        match own.names().await {
            Ok(names) => {
                checks.push(Check::ok(LIST, "allowed"));
                listed.extend(
                    approvals(&config.targets, &names, home)
                        .into_iter()
                        .take(MANY),
                );
            }
            Err(error) => {
                let check = Check::call(LIST, &error, "codepipeline:ListPipelines on *");
                checks.push(match shared {
                    true => check,
                    false => check.at_most_a_warning(),
                });
            }
        }
    }
    wanted.extend(&listed);
    wanted.extend(&scene.told);
    let mut seen = BTreeSet::new();
    wanted.retain(|named| {
        let place = (
            named.pipeline.clone(),
            named.stage.clone(),
            named.action.clone(),
        );
        // Where CodePipeline is asked, there is somebody who may: that is checked with the configuration.
        let askable =
            named.target.pipeline_access.role.is_some() || named.pipeline.account == home.account;
        askable && seen.insert(place)
    });
    let looks = wanted.into_iter().map(|named| async move {
        let surely = scene.named.contains(named);
        match elsewhere(scene, named) {
            Some(check) => vec![check.about(named.pipeline.name.clone())],
            None => pipeline(accounts, asks, named, surely).await,
        }
    });
    checks.extend(at_once(looks).await.into_iter().flatten());
    checks.extend(patterns_alone(scene, asks, &seen).await);
    checks
}

type Seen = BTreeSet<(PipelineArn, Option<String>, Option<String>)>;

/// For patterns of which no pipeline is known, one is asked about that need not exist, where the daemon
/// would ask.
async fn patterns_alone(scene: &Scene<'_>, asks: Asks, seen: &Seen) -> Vec<Check> {
    let config = scene.asked.config;
    let mut checks = Vec::new();
    for target in config.targets.iter() {
        let resolves = |(pipeline, ..): &(PipelineArn, _, _)| {
            target.resolve(pipeline) != Err(ResolveError::NoTarget)
        };
        if !target.pipeline().contains('{') || seen.iter().any(resolves) {
            continue;
        }
        let name = lookup::example(target.pipeline(), &scene.home);
        let example = resolved(config, &scene.home, &name, target).filter(|named| {
            let asked_as = &named.target.pipeline_access.role;
            asked_as.is_none() && named.pipeline.account == scene.home.account
        });
        if asks.verify
            && let Some(named) = example
        {
            let elsewhere = elsewhere(scene, &named);
            let client = codepipeline(scene.asked.accounts, &named.target.pipeline_access);
            let denied = match elsewhere {
                Some(check) => Some(check),
                None => readable(&client, asks, &named.pipeline.name).await.err(),
            };
            if let Some(check) = denied {
                checks.push(check.about(target.to_string()));
                continue;
            }
        }
        let check = Check::warning(
            NAME,
            "none of its pipelines is known: whether they have the stage and the action was not looked at",
            "name a pipeline of it: `stagesweep doctor PIPELINE …`",
        );
        checks.push(check.about(target.to_string()));
    }
    checks
}

fn codepipeline(accounts: &Accounts, access: &Access) -> CodePipeline {
    accounts.get(access).clients.codepipeline.clone()
}

/// Whether the daemon's own credentials, as which CodePipeline would be asked, are of another account than
/// the pipeline: an answer would be about another pipeline of the same name.
fn elsewhere(scene: &Scene<'_>, named: &Named) -> Option<Check> {
    let own = scene.own_account.as_deref()?;
    let pipeline = &named.pipeline.account;
    let asked_as = &named.target.pipeline_access.role;
    (asked_as.is_none() && own != pipeline).then(|| {
        Check::failure(
            NAME,
            format!(
                "the pipeline is of account {pipeline}, and CodePipeline would be asked with credentials \
                 of account {own}"
            ),
            format!(
                "add pipeline_role_arn, a role of account {pipeline}; or give the daemon credentials of \
                 this account"
            ),
        )
    })
}

/// `surely`: somebody names it. Nothing is said of one that only a parameter's name tells and that is not
/// there.
async fn pipeline(accounts: &Accounts, asks: Asks, named: &Named, surely: bool) -> Vec<Check> {
    let PipelineArn {
        name,
        region,
        account,
        ..
    } = &named.pipeline;
    let client = codepipeline(accounts, &named.target.pipeline_access);
    let mut writers = None;
    let check = match readable(&client, asks, name).await {
        Err(check) => check,
        Ok(None) if !surely => return Vec::new(),
        Ok(None) => Check::warning(
            NAME,
            format!("there is no such pipeline in {region} of account {account}"),
            "check the target's pipeline, the region and the account",
        ),
        Ok(Some(stages)) if stages.iter().all(|stage| stage.actions.is_empty()) => Check::warning(
            NAME,
            "its state lists no actions: whether it has the approval is not known",
            "look at the pipeline: aws codepipeline get-pipeline",
        ),
        Ok(Some(stages)) => match lacking(named, &stages) {
            Some(said) => Check::failure(
                NAME,
                said,
                "check the target's stage, action and deploy_stage: a rejection of another is none of the \
                 daemon's",
            ),
            None => {
                if asks.verify {
                    writers = who_writes(accounts, &client, named, &stages).await;
                }
                Check::ok(NAME, "it has the approval, and may be asked about")
            }
        },
    };
    let checks = iter::once(check).chain(writers);
    checks.map(|it| it.about(name.clone())).collect()
}

/// Nothing where it cannot be read, which other checks say.
async fn who_writes(
    accounts: &Accounts,
    client: &CodePipeline,
    named: &Named,
    stages: &[Stage],
) -> Option<Check> {
    let target = &named.target;
    let parameters = target.parameters.as_ref()?;
    let ssm = &accounts.get(&target.access).clients.ssm;
    let changes = ssm.changes(&parameters.staging).await.ok()?;
    let attempts = client.newest_attempts(&named.pipeline.name).await.ok()?;
    let places = (named.stage.as_deref(), target.deploy_stage.as_deref());
    Some(writers::judge(&changes, &attempts, stages, places))
}

/// Asks everything that the daemon would. Answers the pipeline's stages; none if there is no such
/// pipeline.
async fn readable(
    client: &CodePipeline,
    asks: Asks,
    pipeline: &str,
) -> Result<Option<Vec<Stage>>, Check> {
    let absent = |error: &AwsError| error.class == ErrorClass::NotFound;
    let stages = match client.stages(pipeline).await {
        Ok(stages) => Some(stages),
        Err(error) if absent(&error) => None,
        Err(error) => return Err(asks.denied(&error, "codepipeline:GetPipelineState")),
    };
    if asks.verify || asks.catch_up {
        match client.attempts(pipeline, NO_EXECUTION).await {
            Err(error) if !absent(&error) => {
                return Err(asks.denied(&error, "codepipeline:ListActionExecutions"));
            }
            _ => {}
        }
        match client.executions(pipeline).await {
            Err(error) if !absent(&error) => {
                return Err(asks.denied(&error, "codepipeline:ListPipelineExecutions"));
            }
            _ => {}
        }
    }
    Ok(stages)
}

/// What the target names and the pipeline does not have. A pipeline has stages, and a stage actions: a
/// reply without any tells nothing.
fn lacking(named: &Named, stages: &[Stage]) -> Option<String> {
    let place = |name: &String| stages.iter().position(|it| it.name == *name);
    if let Some(deploy) = named
        .target
        .deploy_stage
        .as_ref()
        .filter(|_| !stages.is_empty())
    {
        let approval = named.stage.as_ref().and_then(place);
        match (place(deploy), approval) {
            (None, _) => {
                let there: Vec<&str> = stages.iter().map(|it| it.name.as_str()).collect();
                let there = there.join(", ");
                return Some(format!(
                    "it has no stage {deploy:?}, which is the target's deploy_stage; its stages: {there}"
                ));
            }
            (Some(deploys), Some(approves)) if deploys > approves => {
                return Some(format!(
                    "its stage {deploy:?}, which is the target's deploy_stage, comes after the approval's"
                ));
            }
            _ => {}
        }
    }
    let stages: Vec<&Stage> = match &named.stage {
        None => stages.iter().collect(),
        Some(wanted) => {
            let found: Vec<&Stage> = stages.iter().filter(|it| it.name == *wanted).collect();
            if found.is_empty() && !stages.is_empty() {
                let there: Vec<&str> = stages.iter().map(|it| it.name.as_str()).collect();
                let there = there.join(", ");
                return Some(format!("it has no stage {wanted:?}; its stages: {there}"));
            }
            found
        }
    };
    let wanted = named.action.as_ref()?;
    let actions = stages.iter().flat_map(|stage| &stage.actions);
    let there: Vec<&str> = actions.map(|action| action.name.as_str()).collect();
    if there.is_empty() || there.contains(&wanted.as_str()) {
        return None;
    }
    let there = there.join(", ");
    Some(match &named.stage {
        Some(stage) => {
            format!("its stage {stage:?} has no action {wanted:?}; its actions: {there}")
        }
        None => format!("it has no action {wanted:?}; its actions: {there}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::executions::StageAction;
    use crate::domain::targets::lookup::{Home, Wanted};
    use crate::domain::targets::{ProgramSpec, Surroundings, TargetSpec, Targets};

    fn said(stage: Option<&str>, action: Option<&str>, stages: &[Stage]) -> Option<String> {
        said_of(stage, action, None, stages)
    }

    fn said_of(
        stage: Option<&str>,
        action: Option<&str>,
        deploy_stage: Option<&str>,
        stages: &[Stage],
    ) -> Option<String> {
        let spec = TargetSpec {
            pipeline: "shop".to_owned(),
            stage: stage.map(str::to_owned),
            action: action.map(str::to_owned),
            // Only what runs a program alone may leave them out.
            program: Some(ProgramSpec {
                run: vec!["/bin/true".to_owned()],
                ..ProgramSpec::default()
            }),
            ..TargetSpec::default()
        };
        let home = Home {
            region: "eu-west-1".to_owned(),
            account: "123456789012".to_owned(),
        };
        let wanted = Wanted {
            pipeline: "shop",
            stage: None,
            action: None,
        };
        let surroundings = Surroundings {
            account: Some(home.account.clone()),
            ..Surroundings::default()
        };
        let targets = Targets::new(&[spec], surroundings).unwrap();
        let mut named = lookup::find(&targets, wanted, &home).unwrap();
        named.target.deploy_stage = deploy_stage.map(str::to_owned);
        lacking(&named, stages)
    }

    fn stage(name: &str, actions: &[&str]) -> Stage {
        Stage {
            name: name.to_owned(),
            latest: None,
            inbound: Vec::new(),
            actions: actions
                .iter()
                .map(|it| StageAction {
                    name: (*it).to_owned(),
                    id: None,
                    status: None,
                    updated_at: None,
                    awaits_review: false,
                })
                .collect(),
        }
    }

    #[test]
    fn a_stage_or_an_action_that_the_pipeline_lacks_is_told_with_those_it_has() {
        let all = [stage("Source", &["Fetch"]), stage("Review", &["Approve"])];
        assert_eq!(said(Some("Review"), Some("Approve"), &all), None);
        let lost = said(Some("review"), Some("Approve"), &all).unwrap();
        assert!(lost.ends_with("its stages: Source, Review"), "{lost}");
        for stage in [Some("Source"), None] {
            let lost = said(stage, Some("Deny"), &all).unwrap();
            assert!(lost.contains("its actions: Fetch"), "{lost}");
        }
        let deploys = |stage| said_of(Some("Review"), Some("Approve"), Some(stage), &all);
        assert_eq!(deploys("Source"), None);
        assert_eq!(deploys("Review"), None);
        let lost = deploys("Deploy").unwrap();
        assert!(lost.contains("its stages: Source, Review"), "{lost}");
        let late = said_of(Some("Source"), Some("Fetch"), Some("Review"), &all);
        assert!(late.unwrap().contains("comes after the approval's"));
        // Nothing is told by a reply that lists none.
        assert_eq!(said_of(None, None, Some("Deploy"), &[]), None);
        assert_eq!(said(Some("Review"), Some("Approve"), &[]), None);
        let bare = [stage("Review", &[])];
        assert_eq!(said(Some("Review"), Some("Approve"), &bare), None);
    }
}
