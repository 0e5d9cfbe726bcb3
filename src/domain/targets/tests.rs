//! Targets as they are written: their faults, and what they come to for an event.

mod access;
mod home;
mod patterns;
mod programs;

use super::*;
use crate::domain::arn::ArnError;

const ROLE: &str = "arn:aws:iam::012345678901:role/stagesweep";

fn spec(pipeline: &str) -> TargetSpec {
    TargetSpec {
        pipeline: pipeline.to_owned(),
        stage: Some("Approve".to_owned()),
        action: Some("Approve".to_owned()),
        production_parameter: Some("/web/production".to_owned()),
        staging_parameter: Some("/web/staging".to_owned()),
        // An ARN may take any account.
        role_arn: pipeline.starts_with("arn:").then(|| ROLE.to_owned()),
        ..TargetSpec::default()
    }
}

/// A target that only runs a program.
fn program(pipeline: &str, stage: Option<&str>, action: Option<&str>) -> TargetSpec {
    TargetSpec {
        pipeline: pipeline.to_owned(),
        stage: stage.map(str::to_owned),
        action: action.map(str::to_owned),
        program: Some(ProgramSpec {
            run: vec!["/bin/undo".to_owned()],
            ..ProgramSpec::default()
        }),
        ..TargetSpec::default()
    }
}

fn captured(pipeline: &str, production: &str, staging: &str) -> TargetSpec {
    TargetSpec {
        production_parameter: Some(production.to_owned()),
        staging_parameter: Some(staging.to_owned()),
        ..spec(pipeline)
    }
}

fn pipeline(name: &str) -> PipelineArn {
    format!("arn:aws:codepipeline:ap-northeast-1:012345678901:{name}")
        .parse()
        .unwrap()
}

/// In the account of [`pipeline`].
fn at_home() -> Surroundings {
    Surroundings {
        account: Some("012345678901".to_owned()),
        ..Surroundings::default()
    }
}

fn problems(specs: &[TargetSpec]) -> Vec<String> {
    Targets::new(specs, at_home())
        .unwrap_err()
        .iter()
        .map(TargetError::to_string)
        .collect()
}

#[test]
fn arns_survive_the_round_trip_and_nothing_else_parses() {
    let text = "arn:aws-us-gov:codepipeline:us-gov-west-1:012345678901:My.web@2_app-pipeline";
    assert_eq!(text.parse::<PipelineArn>().unwrap().to_string(), text);
    for (bad, error) in [
        ("my-pipeline", ArnError::Form),
        ("arn:aws:sqs:us-east-1:012345678901:x", ArnError::Form),
        (
            "arn:aws:codepipeline:us-east-1:012345678901:x:y",
            ArnError::Form,
        ),
        (
            "arn:AWS:codepipeline:us-east-1:012345678901:x",
            ArnError::Partition,
        ),
        ("arn:aws:codepipeline::012345678901:x", ArnError::Region),
        (
            "arn:aws:codepipeline:us-east-1:12345678901:x",
            ArnError::Account,
        ),
        (
            "arn:aws:codepipeline:us-east-1:012345678901:",
            ArnError::Name,
        ),
        (
            "arn:aws:codepipeline:us-east-1:012345678901:a/b",
            ArnError::Name,
        ),
    ] {
        assert_eq!(bad.parse::<PipelineArn>(), Err(error), "{bad}");
    }
}

#[test]
fn captures_of_names_and_arns_fill_the_parameters() {
    let targets = Targets::new(
        &[
            captured(
                "{service}-frontend-pipeline",
                "/{service}/cloudfront/cfcd-production",
                "/{service}/cloudfront/cfcd-staging",
            ),
            captured(
                "arn:aws:codepipeline:{region}:{account}:{service}-admin",
                "/{account}/{region}/{service}/production",
                "/{account}/{region}/{service}/staging",
            ),
        ],
        at_home(),
    )
    .unwrap();

    let resolved = |name| {
        let resolved = targets.resolve(&pipeline(name), "Approve", "Approve");
        resolved.unwrap()
    };
    let own = || Access {
        role: None,
        region: "ap-northeast-1".to_owned(),
    };
    assert_eq!(
        resolved("shop-eu-frontend-pipeline"),
        ResolvedTarget {
            label: "{service}-frontend-pipeline".to_owned(),
            parameters: Some(Parameters {
                production: "/shop-eu/cloudfront/cfcd-production".to_owned(),
                staging: "/shop-eu/cloudfront/cfcd-staging".to_owned(),
            }),
            access: own(),
            pipeline_access: own(),
            stage: Some("Approve".to_owned()),
            deploy_stage: None,
            mode: Mode::Act,
            delay: Duration::ZERO,
            program: None,
        }
    );
    assert_eq!(
        resolved("shop-admin").parameters.unwrap().staging,
        "/012345678901/ap-northeast-1/shop/staging"
    );

    // A capture takes at least one character, and a match is of the whole name.
    for (name, stage) in [
        ("-frontend-pipeline", "Approve"),
        ("shop-frontend-pipeline-2", "Approve"),
        ("shop-frontend-pipeline", "approve"),
    ] {
        let resolution = targets.resolve(&pipeline(name), stage, "Approve");
        assert_eq!(resolution, Err(ResolveError::NoTarget), "{name} {stage}");
    }
}

#[test]
fn rendered_names_are_checked_again() {
    let targets = Targets::new(&[captured("{a}-to-{b}", "/{a}/id", "/{b}/id")], at_home()).unwrap();
    let error = |name| match targets.resolve(&pipeline(name), "Approve", "Approve") {
        Err(ResolveError::Parameters(_, _, error)) => error,
        other => panic!("{name}: {other:?}"),
    };
    // A pipeline's name may have an @; a parameter's may not.
    assert_eq!(error("x-to-y@2"), ParameterNameError::Character('@'));
    assert_eq!(
        error("x-to-x"),
        ParameterNameError::Same("/x/id".to_owned())
    );
}

#[test]
fn a_parameter_that_another_account_shares_is_refused_in_words() {
    let arn = "arn:aws:ssm:eu-west-1:210987654321:parameter/{a}/id";
    for target in [
        captured("{a}-x", arn, "/{a}/id"),
        captured("{a}-x", "/{a}/id", arn),
    ] {
        let said = Targets::new(&[target], at_home()).unwrap_err()[0]
            .problem
            .to_string();
        assert!(
            said.contains("is an ARN: a parameter that another account shares"),
            "{said}"
        );
        assert!(said.contains("role_arn"), "{said}");
    }
}

#[test]
fn faults_of_an_entry_are_found_together() {
    let spec = TargetSpec {
        pipeline: "{service}-pipeline".to_owned(),
        stage: Some("{stage}".to_owned()),
        action: Some("Approve it".to_owned()),
        production_parameter: Some("/{svc}/production".to_owned()),
        staging_parameter: Some("{service}/staging".to_owned()),
        deploy_stage: Some(String::new()),
        role_arn: Some("arn:aws:iam::{service}:role/sweep".to_owned()),
        pipeline_role_arn: Some("arn:aws:iam::{service}:role/read".to_owned()),
        external_id: Some("{service} {team}".to_owned()),
        region: Some("EU".to_owned()),
        mode: Mode::Act,
        delay: Duration::ZERO,
        program: None,
    };
    assert_eq!(
        problems(&[spec]),
        [
            "targets[0].stage: must be a literal name: captures belong in `pipeline`",
            "targets[0].action: contains ' '; a name has letters, digits and . @ - _ only",
            "targets[0].production_parameter: uses the capture {svc}, which `pipeline` does not \
             have (there are {service}, {account}, {region})",
            "targets[0].staging_parameter: is a path and must begin with /",
            "targets[0].deploy_stage: is empty",
            "targets[0].role_arn: does not name an account: write twelve digits, or {account}",
            "targets[0].pipeline_role_arn: does not name an account: write twelve digits, or {account}",
            "targets[0].external_id: uses the capture {team}, which `pipeline` does not have (there \
             are {service}, {account}, {region})",
            "targets[0].region: is no region such as us-east-1: lower-case letters, digits and - \
             only",
        ]
    );
}

#[test]
fn an_event_is_compared_with_few_of_many_targets() {
    // Ten thousand literal names in two regions, and as many stages: reading them, which compares
    // what may overlap, and finding one must not take a look at all of the others.
    let mut specs: Vec<TargetSpec> = (0..10_000)
        .map(|n| match n % 2 {
            0 => spec(&format!("shop-{n}")),
            _ => spec(&format!("arn:aws:codepipeline:{{r}}:{{a}}:shop-{n}")),
        })
        .collect();
    specs.push(spec("{service}-frontend-pipeline"));
    let targets = Targets::new(&specs, at_home()).unwrap();
    for (name, candidates) in [
        ("shop-4711", 2),
        ("shop-4712", 2),
        ("x-frontend-pipeline", 1),
    ] {
        assert!(
            targets
                .resolve(&pipeline(name), "Approve", "Approve")
                .is_ok()
        );
        let found = targets.index.candidates("Approve", "Approve", name).count();
        assert_eq!(found, candidates, "{name}");
    }
    let new = Target::check(0, &spec("shop-10001"), &at_home()).0.unwrap();
    assert_eq!(targets.index.rivals(&new), [10_000]);
}

#[test]
fn an_index_finds_what_a_look_at_all_targets_finds() {
    let specs = [
        spec("shop"),
        TargetSpec {
            stage: Some("Other".to_owned()),
            ..spec("shop")
        },
        spec("arn:aws:codepipeline:us-{zone}:{account}:web"),
        spec("arn:aws:codepipeline:ap-{zone}:{account}:web"),
        spec("{service}-frontend"),
        spec("arn:aws:codepipeline:{r}:012345678901:{service}-admin"),
        program("batch", None, None),
        program("{night}-batch", Some("Other"), None),
        program("nightly", None, Some("Approve")),
    ];
    let targets = Targets::new(&specs, at_home()).unwrap();
    for name in [
        "shop",
        "web",
        "a-frontend",
        "b-admin",
        "batch",
        "x-batch",
        "nightly",
        "none",
    ] {
        for (stage, action) in [
            ("Approve", "Approve"),
            ("Other", "Approve"),
            ("x", "Approve"),
        ] {
            let by_hand = targets
                .iter()
                .filter(|target| target.stage().is_none_or(|it| it == stage))
                .filter(|target| target.action().is_none_or(|it| it == action))
                .map(|target| target.resolve(&pipeline(name)))
                .find(|resolution| *resolution != Err(ResolveError::NoTarget))
                .unwrap_or(Err(ResolveError::NoTarget));
            assert_eq!(targets.resolve(&pipeline(name), stage, action), by_hand);
        }
    }
}

#[test]
fn a_template_knows_the_names_that_it_may_render() {
    let spec = TargetSpec {
        pipeline: "{service}-{env}.pipeline".to_owned(),
        stage: Some("Approve".to_owned()),
        action: Some("Approve".to_owned()),
        production_parameter: Some("/{service}/production".to_owned()),
        staging_parameter: Some("/{service}/{env}-staging".to_owned()),
        ..TargetSpec::default()
    };
    let targets = Targets::new(&[spec], at_home()).unwrap();
    let target = targets.iter().next().unwrap();
    for name in ["/shop/eu-staging", "/a/b-c-staging"] {
        assert!(target.may_name_staging(name), "{name}");
    }
    for name in [
        "/shop/-staging",
        "/shop/eu/x-staging",
        "/shop/eu-staging2",
        "",
        "/",
    ] {
        assert!(!target.may_name_staging(name), "{name}");
    }
}

#[test]
fn what_is_as_long_as_it_may_be_is_taken_and_no_more() {
    let fault = |spec: TargetSpec| match Targets::new(&[spec], at_home()) {
        Ok(_) => None,
        Err(mut errors) => errors.pop().map(|error| error.problem),
    };
    let a = |count: usize| "a".repeat(count);
    let stage = |name: String| {
        fault(TargetSpec {
            stage: Some(name),
            ..spec("shop")
        })
    };
    assert_eq!(stage(a(100)), None);
    for longer in [101, 102] {
        let expected = Some(TargetProblem::Name(NameError::TooLong));
        assert_eq!(stage(a(longer)), expected);
        let expected = Some(TargetProblem::Pattern(PatternError::TooLong));
        assert_eq!(fault(spec(&a(longer))), expected);
        // A capture takes at least one character.
        assert_eq!(fault(spec(&format!("{{x}}{}", a(longer - 1)))), expected);
    }
    assert_eq!(fault(spec(&a(100))), None);
    assert_eq!(fault(spec(&format!("{{x}}{}", a(99)))), None);

    for (length, expected) in [
        (1011, Ok(())),
        (1012, Err(ParameterNameError::TooLong)),
        (1013, Err(ParameterNameError::TooLong)),
    ] {
        assert_eq!(check_parameter_name(&a(length)), expected, "{length}");
    }
    for (levels, expected) in [
        (15, Ok(())),
        (16, Err(ParameterNameError::TooDeep)),
        (17, Err(ParameterNameError::TooDeep)),
    ] {
        let name = "/a".repeat(levels);
        assert_eq!(check_parameter_name(&name), expected, "{levels}");
    }
}

#[test]
fn targets_are_counted_and_know_their_parameters() {
    assert!(Targets::default().is_empty());
    let targets = Targets::new(
        &[captured("{x}", "/{x}/production", "/{x}/staging")],
        at_home(),
    )
    .unwrap();
    assert!(!targets.is_empty());
    let target = targets.iter().next().unwrap();
    assert!(target.may_name_production("/shop/production"));
    assert!(!target.may_name_production("/shop/staging"));
}

#[test]
fn a_staging_parameter_tells_its_pipeline_where_it_can() {
    let target = |pipeline: &str, staging: &str| {
        let spec = TargetSpec {
            pipeline: pipeline.to_owned(),
            production_parameter: Some(format!("{staging}-production")),
            staging_parameter: Some(staging.to_owned()),
            stage: Some("Approve".to_owned()),
            action: Some("Approve".to_owned()),
            role_arn: Some(ROLE.to_owned()),
            ..TargetSpec::default()
        };
        let targets = Targets::new(&[spec], at_home()).unwrap();
        targets.iter().next().unwrap().clone()
    };
    let known = [("account", "123456789012")];
    let of = |target: &Target, name: &str| target.pipeline_of(name, &known);
    let usual = target("{service}-frontend", "/{service}/staging");
    assert_eq!(
        of(&usual, "/shop/staging").as_deref(),
        Some("shop-frontend")
    );
    assert_eq!(of(&usual, "/shop/production"), None);
    let arn = target(
        "arn:aws:codepipeline:eu-west-1:{account}:{a}-{b}",
        "/{b}/{a}/staging",
    );
    assert_eq!(
        of(&arn, "/x/y/staging").as_deref(),
        Some("arn:aws:codepipeline:eu-west-1:123456789012:y-x")
    );
    // What the parameter's name does not hold, it does not tell.
    let less = target("{service}-{kind}", "/{service}/staging");
    assert_eq!(of(&less, "/shop/staging"), None);
}
