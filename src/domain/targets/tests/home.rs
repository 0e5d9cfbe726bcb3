//! Whose a bare name is, as whom CodePipeline is asked, and which pipelines lead to one parameter.

use super::*;

const HOME: &str = "012345678901";
const TOOLS: &str = "345678901234";
const WORKLOAD: &str = "210987654321";

fn arn(account: &str, name: &str) -> PipelineArn {
    format!("arn:aws:codepipeline:ap-northeast-1:{account}:{name}")
        .parse()
        .unwrap()
}

fn role(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/stagesweep")
}

fn asking() -> Surroundings {
    Surroundings {
        asks_codepipeline: true,
        ..at_home()
    }
}

/// With these keys: `role_arn`, `pipeline_role_arn`.
fn with_roles(pipeline: &str, role_arn: Option<&str>, asked_as: Option<&str>) -> TargetSpec {
    TargetSpec {
        role_arn: role_arn.map(str::to_owned),
        pipeline_role_arn: asked_as.map(str::to_owned),
        ..captured(pipeline, "/{service}/production", "/{service}/staging")
    }
}

fn resolved(targets: &Targets, pipeline: &PipelineArn) -> ResolvedTarget {
    targets.resolve(pipeline, "Approve", "Approve").unwrap()
}

#[test]
fn a_bare_name_is_a_pipeline_of_the_queues_own_account() {
    let specs = [spec("{service}-pipeline"), spec("batch")];
    let targets = Targets::new(&specs, at_home()).unwrap();
    for name in ["shop-pipeline", "batch"] {
        let resolve = |account| targets.resolve(&arn(account, name), "Approve", "Approve");
        assert!(resolve(HOME).is_ok(), "{name}");
        assert_eq!(resolve(WORKLOAD), Err(ResolveError::NoTarget), "{name}");
    }

    // While the account is not known, the name is nobody's.
    let unknown = Targets::new(&specs, Surroundings::default()).unwrap();
    let batch = arn(HOME, "batch");
    let resolution = unknown.resolve(&batch, "Approve", "Approve");
    assert_eq!(resolution, Err(ResolveError::NoTarget));
    let known = unknown.at_home(HOME, "eu-west-1").unwrap();
    resolved(&known, &batch);
    // What the queue's URL says comes first.
    let known = known.at_home(WORKLOAD, "eu-west-1").unwrap();
    assert_eq!(known.home(), Some(HOME));
}

#[test]
fn the_same_name_in_two_accounts_is_two_targets() {
    let other = format!("arn:aws:codepipeline:us-east-1:{WORKLOAD}:shop-pipeline");
    let specs = [spec("shop-pipeline"), spec(&other)];
    assert!(Targets::new(&specs, at_home()).is_ok());
    // While the queue's account is not known, that may be one and the same.
    assert!(Targets::new(&specs, Surroundings::default()).is_err());
}

#[test]
fn codepipeline_is_asked_as_who_may_ask() {
    let any = "arn:aws:codepipeline:{region}:{account}:{service}-pipeline";
    let of = |account| format!("arn:aws:codepipeline:{{region}}:{account}:{{service}}-pipeline");
    let by_event = role("{account}");
    let read = "arn:aws:iam::345678901234:role/read";
    let (workload, tools) = (role(WORKLOAD), role(TOOLS));
    for (pattern, role_arn, asked_as, account, expected) in [
        // At home: with the daemon's own credentials, wherever the distributions are.
        ("{service}-pipeline", None, None, HOME, None),
        ("{service}-pipeline", Some(&workload), None, HOME, None),
        ("{service}-pipeline", Some(&by_event), None, HOME, None),
        (any, Some(&by_event), None, HOME, None),
        // In another account: as its own role.
        (any, Some(&by_event), None, WORKLOAD, Some(&*workload)),
        (
            &of(WORKLOAD),
            Some(&workload),
            None,
            WORKLOAD,
            Some(&*workload),
        ),
        // In a tools account: as the role that is named for it.
        (&of(TOOLS), Some(&workload), Some(read), TOOLS, Some(read)),
        (&of(TOOLS), None, Some(read), TOOLS, Some(read)),
        (any, Some(&workload), Some(&*by_event), TOOLS, Some(&*tools)),
    ] {
        let spec = with_roles(pattern, role_arn.map(String::as_str), asked_as);
        let targets = Targets::new(std::slice::from_ref(&spec), asking()).unwrap();
        let found = resolved(&targets, &arn(account, "shop-pipeline"));
        let asked = found.pipeline_access;
        assert_eq!(asked.role.as_ref().map(|it| it.arn()), expected, "{spec:?}");
        assert_eq!(asked.region, "ap-northeast-1");
        let found = found.access.role.map(|it| it.arn().to_owned());
        let written = role_arn.map(|it| it.replace("{account}", account));
        assert_eq!(found, written, "{spec:?}");
    }
}

#[test]
fn accounts_that_cannot_go_together_are_faults() {
    let of = |account| format!("arn:aws:codepipeline:us-east-1:{account}:{{service}}-pipeline");
    let any = of("{account}");
    let (by_event, workload) = (role("{account}"), role(WORKLOAD));
    let faults =
        |surroundings: Surroundings, spec: TargetSpec| match Targets::new(&[spec], surroundings) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(TargetError::to_string).collect(),
        };
    let asks_none =
        "where CodePipeline can be asked neither with the daemon's own credentials nor as";
    for (spec, fault) in [
        (
            with_roles(&any, None, None),
            "targets[0].pipeline: takes any account, and the target has no role_arn",
        ),
        (
            with_roles(&any, None, Some(&by_event)),
            "targets[0].pipeline: takes any account, and the target has no role_arn",
        ),
        (
            with_roles("{service}", None, Some(&workload)),
            "targets[0].pipeline_role_arn: is of account 210987654321, but the pipelines are of account \
             012345678901: name a role of the pipelines' account",
        ),
        (
            with_roles(&any, Some(&by_event), Some(&workload)),
            "targets[0].pipeline_role_arn: is of account 210987654321, but the pipelines are of any account: \
             name a role of the pipelines' account, with {account}",
        ),
    ] {
        for surroundings in [at_home(), asking()] {
            let found = faults(surroundings, spec.clone());
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(fault), "{found:?}");
        }
    }
    let only_a_program = program(&any, None, None);
    for (spec, whose, role) in [
        (
            with_roles(&of(TOOLS), None, None),
            "account 345678901234",
            "not set",
        ),
        (
            with_roles(&of(TOOLS), Some(&workload), None),
            "account 345678901234",
            "of account 210987654321",
        ),
        (
            with_roles(&any, Some(&workload), None),
            "any account",
            "of account 210987654321",
        ),
        (only_a_program, "any account", "not set"),
    ] {
        let found = faults(asking(), spec.clone());
        let fault = format!(
            "targets[0].pipeline: is of {whose}, {asks_none} role_arn ({role}); add pipeline_role_arn, a \
             role of the pipelines' account; or, without any asking, set verify.codepipeline = false"
        );
        assert_eq!(found, [fault], "{spec:?}");
        // Nobody need be able to ask where nothing is asked.
        assert_eq!(faults(at_home(), spec), [""; 0]);
    }

    // What the daemon's own account decides is found as soon as that is known.
    let unknown = Surroundings {
        asks_codepipeline: true,
        ..Surroundings::default()
    };
    for spec in [
        with_roles(&of(TOOLS), None, None),
        with_roles("{service}", None, Some(&workload)),
    ] {
        let targets = Targets::new(&[spec], unknown.clone()).unwrap();
        let said = targets.at_home(HOME, "us-east-1").unwrap_err();
        assert_eq!(said.errors.len(), 1, "{said}");
        let begins =
            "in account 012345678901, which is the daemon's own since queue.url names none";
        assert!(said.to_string().starts_with(begins), "{said}");
    }
}

#[test]
fn stages_come_with_a_target_and_belong_to_cleanups() {
    let spec = TargetSpec {
        deploy_stage: Some("Deploy".to_owned()),
        ..spec("shop")
    };
    let targets = Targets::new(std::slice::from_ref(&spec), at_home()).unwrap();
    let found = resolved(&targets, &pipeline("shop"));
    let stages = (found.stage.as_deref(), found.deploy_stage.as_deref());
    assert_eq!(stages, (Some("Approve"), Some("Deploy")));
    let capture = TargetSpec {
        deploy_stage: Some("{service}".to_owned()),
        ..spec
    };
    let alone = TargetSpec {
        deploy_stage: Some("Deploy".to_owned()),
        ..program("batch", None, None)
    };
    assert_eq!(
        problems(&[capture, alone]),
        [
            "targets[0].deploy_stage: must be a literal name: captures belong in `pipeline`",
            "targets[1].deploy_stage: is of no use without production_parameter and staging_parameter: a \
             program runs with the daemon's own credentials",
        ]
    );
}

/// Who leads to the parameters of one pipeline, itself included.
fn around(targets: &Targets, pipeline: &PipelineArn) -> Vec<String> {
    let found = resolved(targets, pipeline);
    let around = targets.leading_to(&found.parameters.unwrap(), &found.access);
    assert!(
        around.iter().any(|it| it.pipeline == *pipeline),
        "{around:?}"
    );
    around.iter().map(|it| it.pipeline.to_string()).collect()
}

#[test]
fn every_pipeline_that_leads_to_a_production_distribution_is_found() {
    let name = |name: &str| arn(HOME, name).to_string();
    let specs = [
        with_roles("{service}-pipeline", None, None),
        // Hot fixes go to the same distributions.
        captured(
            "{service}-fix",
            "/{service}/production",
            "/{service}/fix/staging",
        ),
        // One that shares the staging parameter only.
        captured("odd", "/odd/production", "/shop/staging"),
        // Nothing says the team.
        captured(
            "{service}.of.{team}.x",
            "/{service}/production",
            "/{service}/x",
        ),
        captured("elsewhere", "/shop2/production", "/shop2/staging"),
    ];
    let targets = Targets::new(&specs, at_home()).unwrap();
    let shop = around(&targets, &arn(HOME, "shop-pipeline"));
    assert_eq!(shop, ["shop-pipeline", "shop-fix", "odd"].map(name));
    let fix = around(&targets, &arn(HOME, "shop-fix"));
    assert_eq!(fix, ["shop-pipeline", "shop-fix"].map(name));
    assert_eq!(
        around(&targets, &arn(HOME, "odd")),
        ["odd-pipeline", "shop-pipeline", "odd-fix", "odd"].map(name)
    );
}

#[test]
fn parameters_of_the_same_name_in_another_account_or_region_are_others() {
    let of = |account| format!("arn:aws:codepipeline:{{region}}:{account}:{{service}}-pipeline");
    let elsewhere = TargetSpec {
        region: Some("us-east-1".to_owned()),
        ..captured("far", "/shop/production", "/shop/staging")
    };
    let workload = role(WORKLOAD);
    let specs = [
        with_roles("{service}-pipeline", None, None),
        with_roles(&of(WORKLOAD), Some(&workload), None),
        // From the tools account into the workload's.
        with_roles(&of(TOOLS), Some(&workload), Some(&role(TOOLS))),
        elsewhere,
    ];
    let targets = Targets::new(&specs, asking()).unwrap();
    let home = arn(HOME, "shop-pipeline");
    assert_eq!(around(&targets, &home), [home.to_string()]);
    let both = [WORKLOAD, TOOLS].map(|it| arn(it, "shop-pipeline"));
    for pipeline in &both {
        let found = around(&targets, pipeline);
        assert_eq!(found, both.each_ref().map(ToString::to_string));
    }
    let regions = |targets: &Targets| {
        let far = resolved(targets, &arn(HOME, "far"));
        let around = targets.leading_to(&far.parameters.unwrap(), &far.access);
        let far = around.into_iter().filter(|it| it.pipeline.name == "far");
        far.map(|it| it.pipeline.region).collect::<Vec<_>>()
    };
    // In which region the pipeline is, only the queue's says.
    assert_eq!(regions(&targets), ["us-east-1"]);
    let known = Surroundings {
        region: Some("ap-northeast-1".to_owned()),
        ..asking()
    };
    let targets = Targets::new(&specs, known).unwrap();
    assert_eq!(regions(&targets), ["ap-northeast-1"]);
}

#[test]
fn a_name_that_can_be_read_in_several_ways_leads_to_each() {
    let dotted = captured("{a}.{b}", "/{a}-{b}/production", "/{a}-{b}/staging");
    let targets = Targets::new(&[dotted], at_home()).unwrap();
    let found = around(&targets, &arn(HOME, "p.q-r"));
    let expected = ["p-q.r", "p.q-r"].map(|it| arn(HOME, it).to_string());
    assert_eq!(found, expected);
    // A capture that is used twice stands for one text.
    let twice = captured("{a}", "/{a}/{a}/production", "/{a}/{a}/staging");
    let targets = Targets::new(&[twice], at_home()).unwrap();
    assert_eq!(around(&targets, &arn(HOME, "x")).len(), 1);
    let parameters = Parameters {
        production: "/x/y/production".to_owned(),
        staging: "/x/y/staging".to_owned(),
    };
    let access = resolved(&targets, &arn(HOME, "x")).access;
    assert_eq!(targets.leading_to(&parameters, &access), []);
}
