//! The targets: their parameters, and the distributions that these name.

use std::path::Path;

use super::questions::Reach;
use super::{Check, MANY, Preflight, Scene, at_once, is_here, mend, resolved};
use crate::aws::Account;
use crate::aws::cloudfront::Reading;
use crate::domain::binding::Slot;
use crate::domain::decision::Distribution;
use crate::domain::targets::lookup::{self, Named};
use crate::domain::targets::{Access, Target};
use crate::domain::words::counted;
use crate::reconcile::accounts::Accounts;
use crate::reconcile::dry_run::{End, Forecast, Planned, look};
use crate::runtime::programs;
use crate::telemetry::chain;

const PARAMETER: &str = "parameter";
const PIPELINE: &str = "pipeline";
const PROGRAM: &str = "program";

/// Which of a target's parameters it is.
#[derive(Clone, Copy)]
enum Role {
    Production,
    Staging,
}

/// Answers too what cleanups would change, by what was found.
pub(super) async fn examine(scene: &Scene<'_>) -> (Vec<Check>, Vec<Reach>) {
    let Preflight {
        config, accounts, ..
    } = scene.asked;
    let mut checks = Vec::new();
    let mut reaches = Vec::new();
    let told = scene.told.iter();
    let known = scene
        .named
        .iter()
        .map(|it| (it, true))
        .chain(told.map(|it| (it, false)));
    let looks = known.map(|(named, surely)| async move {
        let (check, reach) = pipeline(accounts, named).await;
        match surely {
            true => (check, reach),
            // What a parameter's name tells of need not be there any more.
            false => (check.at_most_a_warning(), reach),
        }
    });
    for (check, more) in at_once(looks).await {
        checks.push(check);
        merge(&mut reaches, more);
    }
    checks.extend(config.targets.iter().filter_map(program));
    for target in config.targets.iter().filter(|target| target.cleans()) {
        let named = scene.named_by(target);
        let (access, names) = match named.map(|it| (&it.target.access, &it.target.parameters)) {
            _ if is_here(target) => {
                let names = scene.parameters.iter().flatten().cloned();
                (scene.access(), names.collect::<Vec<_>>())
            }
            Some((access, Some(names))) => (
                access.clone(),
                vec![names.production.clone(), names.staging.clone()],
            ),
            _ => {
                let check = Check::warning(
                    "parameters",
                    "not looked at: the target has a role_arn or a region of its own",
                    "name a pipeline of it: `stagesweep doctor PIPELINE …`",
                );
                checks.push(check.about(target.to_string()));
                continue;
            }
        };
        let found = of(target, accounts, &access, &names).await;
        let none = found.is_empty();
        let mut reach = Reach::new(access);
        for (check, more) in found {
            checks.push(check);
            reach.extend(more);
        }
        if none {
            if scene.parameters.is_ok() {
                let check = Check::warning(
                    "parameters",
                    "no parameter has a name of its form",
                    "check production_parameter and staging_parameter, and the region",
                );
                checks.push(check.about(target.to_string()));
            }
            reach.staging_parameters.extend(example(scene, target));
        }
        merge(&mut reaches, reach);
    }
    if let Err(error) = &scene.parameters {
        // The daemon itself never asks for it.
        let allow = "allow ssm:DescribeParameters on *, or name the pipelines that matter: \
                     `stagesweep doctor PIPELINE …`";
        checks.push(Check::warning(
            "parameters",
            chain(error),
            mend(error, allow),
        ));
    }
    (checks, reaches)
}

/// A staging parameter that the target can come to, and its region.
fn example(scene: &Scene<'_>, target: &Target) -> Option<(String, String)> {
    let name = lookup::example(target.pipeline(), &scene.home);
    let target = resolved(scene.asked.config, &scene.home, &name, target)?.target;
    Some((target.access.region, target.parameters?.staging))
}

/// What one role reaches is kept together.
fn merge(reaches: &mut Vec<Reach>, more: Reach) {
    match reaches
        .iter_mut()
        .find(|it| it.access.role == more.access.role)
    {
        Some(reach) => reach.extend(more),
        None => reaches.push(more),
    }
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

/// One pipeline that is known by name: everything that a rejection of it would meet.
async fn pipeline(accounts: &Accounts, named: &Named) -> (Check, Reach) {
    let mut reach = Reach::new(named.target.access.clone());
    let about = named.pipeline.name.clone();
    let Some(parameters) = &named.target.parameters else {
        let check = Check::ok(PIPELINE, "a rejection would only run a program");
        return (check.about(about), reach);
    };
    let account = accounts.get(&named.target.access);
    let check = match look(&account.clients, parameters, None).await {
        Err(error) => Check::call(
            PIPELINE,
            &error,
            "ssm:GetParameter, cloudfront:GetDistribution and the policies' calls",
        ),
        Ok(found) => {
            let place = |name: &String| (named.target.access.region.clone(), name.clone());
            let production = place(&parameters.production);
            reach.production_parameters.insert(production);
            reach.staging_parameters.insert(place(&parameters.staging));
            let id = |reading: &Reading| reading.distribution.id.clone();
            reach.productions.extend(found.production.as_ref().map(id));
            let staging = found.staging.as_ref();
            let staging = staging.filter(|it| it.distribution.staging);
            reach.stagings.extend(staging.map(id));
            let forecast = found.forecast();
            match forecast.end {
                End::Done(outcome) => Check::ok(
                    PIPELINE,
                    format!(
                        "a rejection would come to {}{}",
                        outcome.code(),
                        amount(&forecast)
                    ),
                ),
                End::Open => Check::ok(PIPELINE, "a rejection would wait for what others do"),
                End::Refused(refusal) => Check::failure(
                    PIPELINE,
                    format!("a rejection would be refused: {refusal}"),
                    "`stagesweep plan` shows what is there",
                ),
            }
        }
    };
    (check.about(about), reach)
}

/// How much there is to do: ` in 5 changes and 2 waits`; nothing where there is nothing.
fn amount(forecast: &Forecast) -> String {
    let waits = forecast.steps.iter();
    let waits = waits.filter(|it| matches!(it, Planned::Wait(_))).count();
    match (forecast.steps.len() - waits, waits) {
        (0, 0) => String::new(),
        (changes, 0) => format!(" in {}", counted(changes, "change")),
        (changes, waits) => format!(
            " in {} and {}",
            counted(changes, "change"),
            counted(waits, "wait")
        ),
    }
}

/// The parameters of these names that the target can come to.
async fn of(
    target: &Target,
    accounts: &Accounts,
    access: &Access,
    names: &[String],
) -> Vec<(Check, Reach)> {
    let roles = names.iter().filter_map(|name| {
        if target.may_name_staging(name) {
            Some((name, Role::Staging))
        } else if target.may_name_production(name) {
            Some((name, Role::Production))
        } else {
            None
        }
    });
    let mut roles: Vec<(&String, Role)> = roles.collect();
    let more = roles.len() > MANY;
    roles.truncate(MANY);
    let account = accounts.get(access);
    let looks = roles.into_iter().map(|(name, role)| {
        let clients = &account.clients;
        async move {
            let mut reach = Reach::new(access.clone());
            let place = (access.region.clone(), name.clone());
            match role {
                Role::Production => reach.production_parameters.insert(place),
                Role::Staging => reach.staging_parameters.insert(place),
            };
            let check = parameter(clients, name, role, &mut reach).await;
            (check.about(name.clone()), reach)
        }
    });
    let mut found = at_once(looks).await;
    if more {
        let said = format!("more than {MANY}; the others were not looked at");
        let remedy = "name the pipelines that matter: `stagesweep doctor PIPELINE …`";
        let check = Check::warning("parameters", said, remedy).about(target.to_string());
        found.push((check, Reach::new(access.clone())));
    }
    found
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
    let found = match account.cloudfront.distribution(id).await {
        Err(error) => return Check::call(PARAMETER, &error, "cloudfront:GetDistribution on it"),
        Ok(None) => return gone(id, role),
        Ok(Some(found)) => found,
    };
    match account.cloudfront.beside(id).await {
        Err(error) => Check::call(PARAMETER, &error, "cloudfront:GetDistributionConfig on it"),
        Ok(beside) => {
            match found.staging {
                true => reach.stagings.insert(found.id.clone()),
                false => reach.productions.insert(found.id.clone()),
            };
            reach.log_buckets.extend(beside.log_bucket);
            reach.web_acls.extend(beside.web_acl);
            distribution(&found, role)
        }
    }
}

/// A parameter whose distribution does not exist.
fn gone(id: &str, role: Role) -> Check {
    let said = format!("it names {id}, which does not exist");
    match role {
        Role::Production => {
            let remedy = "write the production distribution's id to it";
            Check::failure(PARAMETER, said, remedy)
        }
        // A rejection would find nothing to do but to write that.
        Role::Staging => Check::warning(PARAMETER, said, "write `deleted` to it"),
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
