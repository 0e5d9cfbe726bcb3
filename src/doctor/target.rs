//! The targets: their parameters, and the distributions that these name.

use super::Check;
use crate::accounts::Accounts;
use crate::aws::Account;
use crate::binding::Slot;
use crate::config::Config;
use crate::named::Named;
use crate::plan::Distribution;
use crate::preview::{End, look};
use crate::programs;
use crate::target::Target;
use crate::telemetry::chain;

/// So many parameters of one target are looked at.
const MANY: usize = 50;

const PARAMETER: &str = "parameter";
const PIPELINE: &str = "pipeline";
const PROGRAM: &str = "program";

/// Which of a target's parameters it is.
#[derive(Clone, Copy)]
enum Role {
    Production,
    Staging,
}

pub(super) async fn examine(
    config: &Config,
    own: &Account,
    accounts: &Accounts,
    named: &[Named],
) -> Vec<Check> {
    let mut checks = Vec::new();
    for named in named {
        let account = accounts.get(&named.target.access);
        checks.push(pipeline(&account.clients, named).await);
    }
    checks.extend(config.targets.iter().filter_map(program));
    let (elsewhere, here): (Vec<_>, Vec<_>) = config
        .targets
        .iter()
        .filter(|target| target.cleans())
        .partition(|target| target.access().next().is_some());
    for target in elsewhere {
        let label = target.pipeline();
        if !named.iter().any(|named| named.target.label == label) {
            let check = Check::warning(
                "parameters",
                "not looked at: the target has a role_arn or a region of its own",
                "name a pipeline of it: `stagesweep doctor PIPELINE …`",
            );
            checks.push(check.about(target.to_string()));
        }
    }
    if here.is_empty() {
        return checks;
    }
    let names = match own.ssm.names().await {
        Ok(names) => names,
        Err(error) => {
            // The daemon itself never asks for it.
            let check = Check::call("parameters", &error, "ssm:DescribeParameters on *");
            checks.push(check.at_most_a_warning());
            return checks;
        }
    };
    for target in here {
        let found = of(target, own, &names).await;
        if found.is_empty() {
            let check = Check::warning(
                "parameters",
                "no parameter has a name of its form",
                "check production_parameter and staging_parameter, and the region",
            );
            checks.push(check.about(target.to_string()));
        }
        checks.extend(found);
    }
    checks
}

/// Whether a target's program can be run, as far as its file tells.
fn program(target: &Target) -> Option<Check> {
    let path = target.program()?.path();
    let said = path.display();
    let remedy = "install it, with leave to execute it for the daemon's user";
    let check = match programs::look(path) {
        Err(error) => Check::failure(PROGRAM, format!("{said} {}", chain(&error)), remedy),
        Ok(()) => Check::ok(PROGRAM, format!("{said} is executable")),
    };
    Some(check.about(target.to_string()))
}

/// One pipeline that was named: everything that a rejection of it would meet.
async fn pipeline(account: &Account, named: &Named) -> Check {
    let Some(parameters) = &named.target.parameters else {
        return Check::ok(PIPELINE, "a rejection would only run a program")
            .about(named.pipeline.name.clone());
    };
    let check = match look(account, parameters).await {
        Err(error) => Check::call(
            PIPELINE,
            &error,
            "ssm:GetParameter, cloudfront:GetDistribution and the policies' calls; with a role_arn, \
             sts:AssumeRole on it",
        ),
        Ok(found) => {
            let forecast = found.forecast();
            match forecast.end {
                End::Done(outcome) => Check::ok(
                    PIPELINE,
                    format!(
                        "a rejection would come to {} in {} step(s)",
                        outcome.code(),
                        forecast.steps.len()
                    ),
                ),
                End::Open => Check::ok(PIPELINE, "a rejection would wait for a newer deployment"),
                End::Refused(refusal) => Check::failure(
                    PIPELINE,
                    format!("a rejection would be refused: {refusal}"),
                    "`stagesweep plan` shows what is there",
                ),
            }
        }
    };
    check.about(named.pipeline.name.clone())
}

async fn of(target: &Target, account: &Account, names: &[String]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut left = MANY;
    for name in names {
        let role = if target.may_name_staging(name) {
            Role::Staging
        } else if target.may_name_production(name) {
            Role::Production
        } else {
            continue;
        };
        if left == 0 {
            let said = format!("more than {MANY}; the others were not looked at");
            let remedy = "name the pipelines that matter: `stagesweep doctor PIPELINE …`";
            checks.push(Check::warning("parameters", said, remedy).about(target.to_string()));
            break;
        }
        left -= 1;
        checks.push(parameter(account, name, role).await.about(name.clone()));
    }
    checks
}

async fn parameter(account: &Account, name: &str, role: Role) -> Check {
    let value = match account.ssm.parameter(name).await {
        Ok(parameter) => parameter.map(|it| it.value).unwrap_or_default(),
        Err(error) => return Check::call(PARAMETER, &error, "ssm:GetParameter on it"),
    };
    if let Role::Staging = role
        && let Err(error) = account.ssm.history(name).await
    {
        return Check::call(PARAMETER, &error, "ssm:GetParameterHistory on it");
    }
    let id = match (Slot::read(&value), role) {
        (Slot::Distribution(id), _) => id,
        (Slot::Vacant, Role::Staging) => return Check::ok(PARAMETER, "no staging distribution"),
        _ => {
            return Check::failure(
                PARAMETER,
                format!("it names no distribution: {value:?}"),
                "write the distribution's id to it",
            );
        }
    };
    match account.cloudfront.distribution(id).await {
        Err(error) => Check::call(PARAMETER, &error, "cloudfront:GetDistribution on it"),
        Ok(None) => Check::failure(
            PARAMETER,
            format!("it names {id}, which does not exist"),
            match role {
                Role::Production => "write the production distribution's id to it",
                Role::Staging => "write `deleted` to it",
            },
        ),
        Ok(Some(found)) => match account.cloudfront.may_read_config(id).await {
            Err(error) => Check::call(PARAMETER, &error, "cloudfront:GetDistributionConfig on it"),
            Ok(()) => distribution(&found, role),
        },
    }
}

fn distribution(found: &Distribution, role: Role) -> Check {
    let id = &found.id;
    match role {
        Role::Production if found.staging => Check::failure(
            PARAMETER,
            format!("it names {id}, which says that it is a staging distribution"),
            "write the production distribution's id to it",
        ),
        Role::Staging if !found.staging => Check::failure(
            PARAMETER,
            format!("it names {id}, which is no staging distribution"),
            "write the staging distribution's id to it, or `deleted`",
        ),
        Role::Staging if found.aliases > 0 => Check::failure(
            PARAMETER,
            format!("it names {id}, which has aliases"),
            "take the aliases off it, or find out what it serves",
        ),
        Role::Production => Check::ok(PARAMETER, format!("names {id}, a production distribution")),
        Role::Staging => Check::ok(PARAMETER, format!("names {id}, a staging distribution")),
    }
}
