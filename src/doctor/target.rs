//! The targets: their parameters, and the distributions that these name.

use std::path::Path;

use super::Check;
use super::permissions::Reach;
use crate::accounts::Accounts;
use crate::aws::Account;
use crate::aws::cloudfront::Details;
use crate::binding::Slot;
use crate::config::Config;
use crate::named::{self, Home, Named, Wanted};
use crate::plan::Distribution;
use crate::preview::{End, look};
use crate::programs;
use crate::target::{Access, Target};
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
    home: &Home,
    named: &[Named],
) -> (Vec<Check>, Vec<Reach>) {
    let mut checks = Vec::new();
    let mut reaches = Vec::new();
    for named in named {
        let account = accounts.get(&named.target.access);
        checks.push(pipeline(&account.clients, named, &mut reaches).await);
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
    let (patterns, literals): (Vec<&Target>, Vec<&Target>) = here
        .into_iter()
        .partition(|target| target.pipeline().contains('{'));
    for target in literals {
        // With an account that is not known, none can be told.
        let Some(named) = named.iter().find(|it| it.target.label == target.pipeline()) else {
            continue;
        };
        let names = named.target.parameters.iter();
        let names: Vec<String> = names
            .flat_map(|it| [it.production.clone(), it.staging.clone()])
            .collect();
        let access = &named.target.access;
        let account = accounts.get(access);
        let reach = reach(&mut reaches, access);
        checks.extend(of(target, &account.clients, &access.region, &names, reach).await);
    }
    if patterns.is_empty() {
        return (checks, reaches);
    }
    let listed = own.ssm.names().await;
    if let Err(error) = &listed {
        // The daemon itself never asks for it.
        let check = Check::call("parameters", error, "ssm:DescribeParameters on *");
        checks.push(check.at_most_a_warning());
    }
    let names = listed.as_deref().unwrap_or_default();
    let access = Access {
        role: None,
        region: home.region.clone(),
    };
    for target in patterns {
        let reach = reach(&mut reaches, &access);
        let found = of(target, own, &access.region, names, reach).await;
        if found.is_empty() {
            if listed.is_ok() {
                let check = Check::warning(
                    "parameters",
                    "no parameter has a name of its form",
                    "check production_parameter and staging_parameter, and the region",
                );
                checks.push(check.about(target.to_string()));
            }
            reach.parameters.extend(example(config, target, home));
        }
        checks.extend(found);
    }
    (checks, reaches)
}

/// A staging parameter that the target can come to, and its region.
fn example(config: &Config, target: &Target, home: &Home) -> Option<(String, String)> {
    let name = named::example(target.pipeline());
    let wanted = Wanted {
        pipeline: &name,
        stage: target.stage(),
        action: target.action(),
    };
    let target = named::find(&config.targets, wanted, home).ok()?.target;
    Some((target.access.region, target.parameters?.staging))
}

/// What is reached as this role, or without one.
fn reach<'a>(reaches: &'a mut Vec<Reach>, access: &Access) -> &'a mut Reach {
    let place = reaches.iter().position(|it| it.access.role == access.role);
    let place = place.unwrap_or_else(|| {
        reaches.push(Reach::new(access.clone()));
        reaches.len() - 1
    });
    &mut reaches[place]
}

/// Whether a target's program can be run, as far as its file tells.
fn program(target: &Target) -> Option<Check> {
    let check = executable(PROGRAM, target.program()?.path());
    Some(check.about(target.to_string()))
}

/// Whether a program can be run, as far as its file tells.
pub(super) fn executable(name: &'static str, path: &Path) -> Check {
    let said = path.display();
    let remedy = "install it, with leave to execute it for the daemon's user";
    match programs::look(path) {
        Err(error) => Check::failure(name, format!("{said} {}", chain(&error)), remedy),
        Ok(()) => Check::ok(name, format!("{said} is executable")),
    }
}

/// One pipeline that was named: everything that a rejection of it would meet.
async fn pipeline(account: &Account, named: &Named, reaches: &mut Vec<Reach>) -> Check {
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
            let access = &named.target.access;
            let reach = reach(reaches, access);
            let parameter = (access.region.clone(), parameters.staging.clone());
            reach.parameters.insert(parameter);
            let id = |details: &Details| details.distribution.id.clone();
            reach.productions.extend(found.production.as_ref().map(id));
            reach.stagings.extend(found.staging.as_ref().map(id));
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

async fn of(
    target: &Target,
    account: &Account,
    region: &str,
    names: &[String],
    reach: &mut Reach,
) -> Vec<Check> {
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
        if let Role::Staging = role {
            reach.parameters.insert((region.to_owned(), name.clone()));
        }
        let check = parameter(account, name, role, reach).await;
        checks.push(check.about(name.clone()));
    }
    checks
}

async fn parameter(account: &Account, name: &str, role: Role, reach: &mut Reach) -> Check {
    let value = match account.ssm.parameter(name).await {
        Ok(Some(parameter)) => parameter.value,
        Ok(None) => {
            return Check::failure(
                PARAMETER,
                "there is no such parameter",
                match role {
                    Role::Production => "create it with the production distribution's id",
                    Role::Staging => "create it with the staging distribution's id, or `dummy`",
                },
            );
        }
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
            Ok(()) => {
                match found.staging {
                    true => reach.stagings.insert(found.id.clone()),
                    false => reach.productions.insert(found.id.clone()),
                };
                distribution(&found, role)
            }
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
