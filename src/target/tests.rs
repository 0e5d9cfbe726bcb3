use proptest::prelude::*;

use super::overlap::shortest_common;
use super::pattern::{Glob, Match, Piece};
use super::*;
use crate::event::{JobKey, Rejection};
use jiff::Timestamp;

fn spec(pipeline: &str) -> TargetSpec {
    TargetSpec {
        pipeline: pipeline.to_owned(),
        stage: Some("Approve".to_owned()),
        action: Some("Approve".to_owned()),
        production_parameter: Some("/web/production".to_owned()),
        staging_parameter: Some("/web/staging".to_owned()),
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

fn problems(specs: &[TargetSpec]) -> Vec<String> {
    Targets::new(specs)
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
    let targets = Targets::new(&[
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
    ])
    .unwrap();

    let resolved = |name| match targets.resolve(&pipeline(name), "Approve", "Approve") {
        Resolution::Target(target) => target,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(
        resolved("shop-eu-frontend-pipeline"),
        ResolvedTarget {
            label: "{service}-frontend-pipeline".to_owned(),
            parameters: Some(Parameters {
                production: "/shop-eu/cloudfront/cfcd-production".to_owned(),
                staging: "/shop-eu/cloudfront/cfcd-staging".to_owned(),
            }),
            access: Access {
                role: None,
                region: "ap-northeast-1".to_owned(),
            },
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
        assert_eq!(resolution, Resolution::NoTarget, "{name} {stage}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let targets = Targets::new(&[captured(
        "{service}-{env}-pipeline",
        "/{service}/{env}/production",
        "/{service}/{env}/staging",
    )])
    .unwrap();
    let resolve = |name| targets.resolve(&pipeline(name), "Approve", "Approve");
    assert!(matches!(resolve("shop-eu-pipeline"), Resolution::Target(_)));
    assert_eq!(
        resolve("shop-a-eu-pipeline"),
        Resolution::Ambiguous {
            label: "{service}-{env}-pipeline".to_owned()
        }
    );
}

#[test]
fn rendered_names_are_checked_again() {
    let targets = Targets::new(&[captured("{a}-to-{b}", "/{a}/id", "/{b}/id")]).unwrap();
    let error = |name| match targets.resolve(&pipeline(name), "Approve", "Approve") {
        Resolution::InvalidParameter { error, .. } => error,
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
fn faults_of_an_entry_are_found_together() {
    let spec = TargetSpec {
        pipeline: "{service}-pipeline".to_owned(),
        stage: Some("{stage}".to_owned()),
        action: Some("Approve it".to_owned()),
        production_parameter: Some("/{svc}/production".to_owned()),
        staging_parameter: Some("{service}/staging".to_owned()),
        role_arn: Some("arn:aws:iam::{service}:role/sweep".to_owned()),
        external_id: Some("{service} {team}".to_owned()),
        region: Some("EU".to_owned()),
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
            "targets[0].role_arn: does not name an account: write twelve digits, or {account}",
            "targets[0].external_id: uses the capture {team}, which `pipeline` does not have (there \
             are {service}, {account}, {region})",
            "targets[0].region: is no region such as us-east-1: lower-case letters, digits and - \
             only",
        ]
    );
}

#[test]
fn malformed_patterns_are_named() {
    use PatternError as E;
    let s = str::to_owned;
    for (written, error) in [
        ("", E::Empty),
        ("{a}{b}", E::Adjacent(s("a"), s("b"))),
        ("{a}-{a}", E::Duplicate(s("a"))),
        ("arn:aws:codepipeline:{a}:{b}:{a}", E::Duplicate(s("a"))),
        ("{a", E::Unbalanced),
        ("a}", E::Unbalanced),
        ("{a{b}}", E::Unbalanced),
        ("{}-x", E::CaptureName(s(""))),
        ("{1}-x", E::CaptureName(s("1"))),
        ("a b", E::Character(' ')),
        ("{a}:b", E::Character(':')),
        ("arn:aws:sqs:{r}:{a}:{b}", E::ArnForm),
        ("arn:aws:codepipeline:{r}:{a}:", E::ArnForm),
        ("arn:aws:codepipeline:{r}:1{a}:{b}", E::Account(s("1{a}"))),
        ("arn:aws:codepipeline::{a}:{b}", E::Region(s(""))),
    ] {
        let errors = Targets::new(&[spec(written)]).unwrap_err();
        assert_eq!(
            errors[0].problem,
            TargetProblem::Pattern(error),
            "{written}"
        );
    }
}

#[test]
fn overlapping_targets_name_both_and_show_an_example() {
    let arn = "arn:aws:codepipeline:eu-{zone}:{account}:web-{service}";
    assert_eq!(
        problems(&[spec("{service}-pipeline"), spec(arn), spec("web-{x}")]),
        [
            "targets[1].pipeline: overlaps targets[0] (\"{service}-pipeline\"): both match \
             pipeline \"arn:aws:codepipeline:eu-x:123456789012:web-pipeline\" at the same \
             stage and action",
            "targets[2].pipeline: overlaps targets[0] (\"{service}-pipeline\"): both match \
             pipeline \"web-pipeline\" at the same stage and action",
            "targets[2].pipeline: overlaps targets[1] \
             (\"arn:aws:codepipeline:eu-{zone}:{account}:web-{service}\"): both match pipeline \
             \"arn:aws:codepipeline:eu-x:123456789012:web-x\" at the same stage and action",
        ]
    );

    // A fault in what a target does hides no overlap of when it applies.
    let same = captured("web-{x}", "/web/staging", "/web/staging");
    assert_eq!(
        problems(&[same, spec("web-shop")]),
        [
            "targets[0].staging_parameter: is the same as production_parameter; the two name \
             different distributions",
            "targets[1].pipeline: overlaps targets[0] (\"web-{x}\"): both match pipeline \
             \"web-shop\" at the same stage and action",
        ]
    );

    let elsewhere = TargetSpec {
        stage: Some("Other".to_owned()),
        ..spec("{x}-pipeline")
    };
    let disjoint = "arn:aws:codepipeline:us-{zone}:{account}:web-{service}";
    assert!(Targets::new(&[spec("{service}-pipeline"), elsewhere]).is_ok());
    assert!(Targets::new(&[spec(arn), spec(disjoint)]).is_ok());
}

fn with_access(
    pipeline: &str,
    role_arn: Option<&str>,
    external_id: Option<&str>,
    region: Option<&str>,
) -> TargetSpec {
    TargetSpec {
        role_arn: role_arn.map(str::to_owned),
        external_id: external_id.map(str::to_owned),
        region: region.map(str::to_owned),
        ..spec(pipeline)
    }
}

#[test]
fn roles_and_regions_are_filled_in_from_captures_and_from_the_event() {
    let role = |account: &str, name: &str, external_id: Option<&str>| {
        let arn = format!("arn:aws:iam::{account}:role/{name}");
        Some((arn, external_id.map(str::to_owned)))
    };
    let by_event = "arn:aws:iam::{account}:role/stagesweep";
    for (spec, expected) in [
        // The event's own account and region, for a pattern of names as for one of ARNs.
        (
            with_access("{service}-web", Some(by_event), Some("org/{account}"), None),
            (
                role("012345678901", "stagesweep", Some("org/012345678901")),
                "ap-northeast-1",
            ),
        ),
        (
            with_access(
                "arn:aws:codepipeline:{region}:{account}:{service}",
                Some(by_event),
                None,
                Some("{region}"),
            ),
            (role("012345678901", "stagesweep", None), "ap-northeast-1"),
        ),
        (
            with_access(
                "arn:aws:codepipeline:{r}:{owner}:{service}-web",
                Some("arn:aws:iam::{owner}:role/teams/{service}/sweep-{service}"),
                Some("{service}-{r}"),
                Some("us-east-1"),
            ),
            (
                role(
                    "012345678901",
                    "teams/shop/sweep-shop",
                    Some("shop-ap-northeast-1"),
                ),
                "us-east-1",
            ),
        ),
        (
            with_access("shop-web", None, None, Some("eu-west-1")),
            (None, "eu-west-1"),
        ),
    ] {
        let targets = Targets::new(std::slice::from_ref(&spec)).unwrap();
        let Resolution::Target(target) =
            targets.resolve(&pipeline("shop-web"), "Approve", "Approve")
        else {
            panic!("{spec:?}")
        };
        let Access { role, region } = target.access;
        let role = role.map(|role| {
            let external_id = role.external_id().map(str::to_owned);
            (role.arn().to_owned(), external_id)
        });
        assert_eq!((role, region.as_str()), expected, "{spec:?}");
    }
}

#[test]
fn a_role_leads_into_the_account_of_the_event_or_nowhere() {
    let resolve = |spec: TargetSpec, name: &str| {
        let targets = Targets::new(&[spec]).unwrap();
        match targets.resolve(&pipeline(name), "Approve", "Approve") {
            Resolution::InvalidAccess { error, .. } => error.code(),
            Resolution::Target(_) => "target",
            other => panic!("{other:?}"),
        }
    };
    let literal = |account| {
        let arn = format!("arn:aws:iam::{account}:role/stagesweep");
        with_access("{service}", Some(&arn), None, None)
    };
    assert_eq!(resolve(literal("012345678901"), "shop"), "target");
    assert_eq!(resolve(literal("210987654321"), "shop"), "account_mismatch");
    // A capture of a name may be called `account`, but it is not the event's.
    let named = with_access(
        "web-{account}-x",
        Some("arn:aws:iam::012345678901:role/{account}"),
        Some("{account}"),
        None,
    );
    assert_eq!(resolve(named, "web-210987654321-x"), "target");
    // Rendered values are checked again.
    let with = |external_id, region| {
        let arn = "arn:aws:iam::{account}:role/stagesweep";
        with_access("{s}-x", Some(arn), external_id, region)
    };
    assert_eq!(resolve(with(Some("{s}"), None), "a-x"), "invalid_role");
    assert_eq!(resolve(with(Some("{s}"), None), "ab-x"), "target");
    assert_eq!(resolve(with(None, Some("{s}")), "EU-x"), "invalid_region");
}

#[test]
fn roles_that_can_never_be_assumed_are_faults() {
    let role = |arn: &str| problems(&[with_access("{s}-x", Some(arn), None, None)]).remove(0);
    for (arn, problem) in [
        (
            "",
            "is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME",
        ),
        (
            "arn:aws:iam::{account}:user/x",
            "is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME",
        ),
        (
            "arn:aws:iam::{s}:role/x",
            "does not name an account: write twelve digits, or {account}",
        ),
        (
            "arn:aws:iam::1234:role/x",
            "does not name an account: write twelve digits, or {account}",
        ),
    ] {
        assert_eq!(
            role(arn),
            format!("targets[0].role_arn: {problem}"),
            "{arn}"
        );
    }
    assert!(role("arn:aws:iam::{account}:role/").contains("does not end in a role's name"));
    assert!(role("arn:aws:iam::{account}:role/a b").contains("does not end in a role's name"));
    assert!(role("arn:AWS:iam::{account}:role/a").contains("does not name a partition"));

    let literal = "arn:aws:codepipeline:us-east-1:012345678901:shop";
    let other = with_access(
        literal,
        Some("arn:aws:iam::210987654321:role/x"),
        None,
        None,
    );
    let alone = with_access("b-{s}", None, Some("x y"), None);
    assert_eq!(
        problems(&[other, alone]),
        [
            "targets[0].role_arn: is of account 210987654321, but `pipeline` matches in account \
             012345678901 only; the role must be of the event's account",
            "targets[1].external_id: contains ' '; an external id has letters, digits and + = , . \
             @ : / - _ only",
            "targets[1].external_id: needs role_arn: an external id is presented when a role is \
             assumed",
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
    let targets = Targets::new(&specs).unwrap();
    for (name, candidates) in [
        ("shop-4711", 2),
        ("shop-4712", 2),
        ("x-frontend-pipeline", 1),
    ] {
        assert!(matches!(
            targets.resolve(&pipeline(name), "Approve", "Approve"),
            Resolution::Target(_)
        ));
        let found = targets.index.candidates("Approve", "Approve", name).count();
        assert_eq!(found, candidates, "{name}");
    }
    let new = Target::check(0, &spec("shop-10001")).0.unwrap();
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
    let targets = Targets::new(&specs).unwrap();
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
                .find(|resolution| *resolution != Resolution::NoTarget)
                .unwrap_or(Resolution::NoTarget);
            assert_eq!(targets.resolve(&pipeline(name), stage, action), by_hand);
        }
    }
}

/// A pattern over a two-letter alphabet; literals stay short so that brute force stays complete.
fn glob() -> impl Strategy<Value = Glob> {
    (
        prop::option::of("[ab]{1,2}".prop_map(Piece::Literal)),
        prop::collection::vec("[ab]".prop_map(Piece::Literal), 0..3),
        any::<[bool; 2]>(),
    )
        .prop_map(|(first, between, [leading, trailing])| {
            // Captures and literals in turn, so that no two captures are adjacent.
            let mut pieces: Vec<Piece> = first.into_iter().collect();
            let capture = |n: usize| Piece::Capture(format!("c{n}"));
            if leading || pieces.is_empty() {
                pieces.push(capture(0));
            }
            for (n, literal) in between.into_iter().enumerate() {
                pieces.push(literal);
                if trailing {
                    pieces.push(capture(n + 1));
                }
            }
            Glob(pieces)
        })
}

/// Every text of 1 to `longest` letters.
fn texts(longest: u32) -> impl Iterator<Item = String> {
    (1..=longest).flat_map(|length| {
        (0..1_u32 << length).map(move |bits| {
            (0..length)
                .map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' })
                .collect()
        })
    })
}

/// The ways to share `text` out, by trying them all.
fn ways(pieces: &[Piece], text: &str) -> usize {
    match pieces {
        [] => usize::from(text.is_empty()),
        [Piece::Literal(literal), rest @ ..] => text
            .strip_prefix(literal.as_str())
            .map_or(0, |text| ways(rest, text)),
        [Piece::Capture(_), rest @ ..] => (1..=text.len())
            .map(|taken| ways(rest, &text[taken..]))
            .sum(),
    }
}

proptest! {
    #[test]
    fn overlap_agrees_with_brute_force(a in glob(), b in glob()) {
        // Ten letters are more than any two of these patterns need.
        let matching = |glob: &Glob, text: &str| glob.matches(text) != Match::No;
        let brute = texts(10).find(|text| matching(&a, text) && matching(&b, text));
        let found = shortest_common(&a, &b);
        prop_assert_eq!(
            found.as_ref().map(String::len),
            brute.as_ref().map(String::len),
            "{:?} {:?}", found, brute
        );
        if let Some(text) = found {
            prop_assert!(matching(&a, &text) && matching(&b, &text), "{}", text);
        }
    }

    #[test]
    fn matches_agree_with_every_way_of_sharing_out(glob in glob(), text in "[ab]{1,7}") {
        match glob.matches(&text) {
            Match::No => prop_assert_eq!(ways(&glob.0, &text), 0),
            Match::Ambiguous => prop_assert!(ways(&glob.0, &text) > 1),
            Match::Yes(captured) => {
                prop_assert_eq!(ways(&glob.0, &text), 1);
                let mut captured = captured.into_iter();
                let again: String = glob.0.iter().map(|piece| match piece {
                    Piece::Literal(literal) => literal.clone(),
                    Piece::Capture(_) => captured.next().unwrap().1,
                }).collect();
                prop_assert_eq!(again, text);
            }
        }
    }
}

#[test]
fn a_target_knows_whether_it_leads_elsewhere() {
    let leads = |pipeline: &str, role_arn: Option<&str>, region: Option<&str>| {
        let spec = TargetSpec {
            pipeline: pipeline.to_owned(),
            stage: Some("Approve".to_owned()),
            action: Some("Approve".to_owned()),
            production_parameter: Some("/shop/production".to_owned()),
            staging_parameter: Some("/shop/staging".to_owned()),
            role_arn: role_arn.map(str::to_owned),
            external_id: None,
            region: region.map(str::to_owned),
            program: None,
        };
        let targets = Targets::new(&[spec]).unwrap();
        let target = targets.iter().next().unwrap();
        target.leads_elsewhere("eu-west-1")
    };
    let arn = |region: &str| format!("arn:aws:codepipeline:{region}:123456789012:shop");
    assert!(!leads("shop", None, None));
    assert!(!leads(&arn("eu-west-1"), None, None));
    assert!(leads(&arn("us-east-1"), None, None));
    assert!(leads(&arn("{where}"), None, None));
    assert!(leads("shop", None, Some("us-east-1")));
    let role = "arn:aws:iam::{account}:role/stagesweep";
    assert!(leads("shop", Some(role), None));
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
    let targets = Targets::new(&[spec]).unwrap();
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
fn an_event_fills_the_arguments_of_a_program_and_never_chooses_it() {
    let mut spec = program("{service}-{stage}.pipeline", None, None);
    let run = [
        "/opt/undo",
        "",
        "{service}: {pipeline} of {account} in {region}",
        "{stage} {action}",
        "{execution_id}",
    ];
    spec.program = Some(ProgramSpec {
        run: run.map(str::to_owned).into(),
        timeout: None,
        retry_on: vec![1, 255],
        pass_environment: vec!["HTTPS_PROXY".to_owned()],
    });
    let targets = Targets::new(&[spec]).unwrap();
    let rejection = Rejection {
        key: JobKey::from("key".to_owned()),
        pipeline: pipeline("shop-eu.pipeline"),
        execution_id: "11-22".to_owned(),
        action_execution_id: None,
        stage: "Gate".to_owned(),
        action: "Review".to_owned(),
        as_of: Timestamp::UNIX_EPOCH,
        as_of_uncertainty: std::time::Duration::ZERO,
        rejected_at: Timestamp::UNIX_EPOCH,
        comment: Some("{service} --help".to_owned()),
    };
    let resolution = targets.resolve(&rejection.pipeline, "Gate", "Review");
    let Resolution::Target(ResolvedTarget {
        parameters: None,
        program: Some(program),
        ..
    }) = resolution
    else {
        panic!("{resolution:?}");
    };
    assert_eq!(program.path(), std::path::Path::new("/opt/undo"));
    // The capture `stage` comes before the stage of the event.
    let account = "012345678901";
    assert_eq!(
        program.arguments(&rejection),
        [
            "".to_owned(),
            format!("shop: shop-eu.pipeline of {account} in ap-northeast-1"),
            "eu Review".to_owned(),
            "11-22".to_owned(),
        ]
    );
    assert_eq!(program.timeout, std::time::Duration::from_secs(600));
    assert_eq!(program.retry_on, [1, TRY_AGAIN, 255].into());
}

#[test]
fn what_is_wrong_with_a_program_is_found_together() {
    let spec = TargetSpec {
        role_arn: Some("arn:aws:iam::{account}:role/x".to_owned()),
        program: Some(ProgramSpec {
            run: ["bin/undo", "{what}", "a\0b", "{open", "\0"]
                .map(str::to_owned)
                .into(),
            timeout: None,
            retry_on: vec![0, 1, 256],
            pass_environment: ["A=B", "A", ""].map(str::to_owned).into(),
        }),
        ..program("batch", None, Some("not a name"))
    };
    let mut braces = program("x", None, None);
    braces.program.as_mut().unwrap().run = vec!["/opt/{pipeline}".to_owned()];
    let mut empty = program("y", None, None);
    empty.program.as_mut().unwrap().run.clear();
    let mut half = program("z", None, None);
    half.staging_parameter = Some("/z/staging".to_owned());
    assert_eq!(
        problems(&[spec, braces, empty, half]),
        [
            "targets[0].action: contains ' '; a name has letters, digits and . @ - _ only",
            "targets[0].role_arn: is of no use without production_parameter and \
             staging_parameter: a program runs with the daemon's own credentials",
            "targets[0].run[0]: is not an absolute path, such as \"/usr/local/bin/undo\"",
            "targets[0].run[2]: has a zero byte",
            "targets[0].run[4]: has a zero byte",
            "targets[0].run[1]: uses the capture {what}, which `pipeline` does not have \
             (there are {account}, {region}, {execution_id}, {pipeline}, {stage}, {action})",
            "targets[0].run[3]: has unbalanced braces; a capture is written {name}",
            "targets[0].retry_on[0]: is no exit status that can ask for another try; those are 1 to 255",
            "targets[0].retry_on[2]: is no exit status that can ask for another try; those are 1 to 255",
            "targets[0].pass_environment[0]: is not the name of an environment variable",
            "targets[0].pass_environment[2]: is not the name of an environment variable",
            "targets[1].run[0]: has braces and is the program's path; captures belong in its arguments",
            "targets[2].run: is empty; the first text is the program's path",
            "targets[3].stage: is missing; every target that cleans needs it",
            "targets[3].action: is missing; every target that cleans needs it",
            "targets[3].production_parameter: is missing; a target that cleans needs both parameters, \
             one that does not needs `run`",
        ]
    );
}

#[test]
fn a_target_of_any_approval_overlaps_every_other_of_its_pipeline() {
    let alone = [
        program("batch", None, None),
        program("night", Some("Gate"), None),
        program("{x}-night", None, Some("Review")),
    ];
    assert!(Targets::new(&alone).is_ok());
    for (one, other) in [
        (spec("batch"), program("{b}tch", None, None)),
        (program("batch", None, None), spec("batch")),
        (program("batch", Some("Approve"), None), spec("batch")),
        (
            program("batch", Some("Gate"), None),
            program("batch", None, Some("Review")),
        ),
    ] {
        let found = problems(&[one, other]);
        assert!(
            found.len() == 1 && found[0].contains("overlaps targets[0]"),
            "{found:?}"
        );
    }
    assert!(Targets::new(&[program("batch", Some("Gate"), None), spec("batch")]).is_ok());
}

#[test]
fn what_is_as_long_as_it_may_be_is_taken_and_no_more() {
    let fault = |spec: TargetSpec| match Targets::new(&[spec]) {
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
fn a_roles_arn_and_an_external_id_are_checked_to_the_letter() {
    use super::access::{ExternalIdError, RoleArnError};
    let fault = |role: &str, external_id: Option<&str>| {
        let spec = with_access("{service}-web", Some(role), external_id, None);
        let errors = Targets::new(&[spec]).err()?;
        Some(errors[0].problem.to_string())
    };
    let arn = |role: &str| format!("arn:aws:iam::123456789012:role/{role}");
    let longest = arn(&format!("{}/a", "p".repeat(2048 - arn("/a").len())));
    assert_eq!(longest.len(), 2048);
    assert_eq!(fault(&longest, None), None);
    for longer in ["a", "aa"] {
        let expected = Some(RoleArnError::TooLong.to_string());
        assert_eq!(fault(&format!("{longest}{longer}"), None), expected);
    }
    let expected = Some(RoleArnError::Name.to_string());
    assert_eq!(fault(&arn("a$b"), None), expected);
    assert_eq!(fault(&arn("a b/c"), None), expected);

    let too_long = format!("{{service}}{}", "a".repeat(1224));
    let expected = Some(ExternalIdError::Length.to_string());
    for external_id in ["x", &too_long] {
        assert_eq!(fault(&arn("r"), Some(external_id)), expected);
    }
    assert_eq!(fault(&arn("r"), Some("{service}")), None);
}

#[test]
fn a_role_knows_its_account() {
    let role = "arn:aws:iam::{account}:role/sweep";
    let targets = Targets::new(&[with_access("shop", Some(role), None, None)]).unwrap();
    match targets.resolve(&pipeline("shop"), "Approve", "Approve") {
        Resolution::Target(target) => {
            assert_eq!(target.access.role.unwrap().account(), "012345678901");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_partition_is_one_of_aws() {
    for partition in ["amazon", "aws-CN"] {
        let arn = format!("arn:{partition}:codepipeline:us-east-1:012345678901:x");
        assert_eq!(arn.parse::<PipelineArn>(), Err(ArnError::Partition));
        let errors = Targets::new(&[spec(&arn)]).unwrap_err();
        let expected = PatternError::Partition(partition.to_owned());
        assert_eq!(errors[0].problem, TargetProblem::Pattern(expected));
    }
    let any = "arn:{partition}:codepipeline:{region}:{account}:{service}";
    assert!(Targets::new(&[spec(any)]).is_ok());
}

#[test]
fn the_example_of_an_overlap_fits_both_where_one_of_them_is_literal() {
    let literal = "arn:aws:codepipeline:eu-west-1:012345678901:web";
    let captures = "arn:{p}:codepipeline:{r}:{a}:{service}";
    for pair in [[literal, captures], [captures, literal]] {
        let problem = problems(&pair.map(spec)).remove(0);
        assert!(
            problem.contains(&format!("pipeline {literal:?}")),
            "{problem}"
        );
    }
}

#[test]
fn captures_have_names_and_take_what_only_they_can() {
    let glob = |written: &str| Targets::new(&[spec(written)]);
    assert!(glob("{my_service}-web").is_ok());
    let errors = glob("{my-service}-web").unwrap_err();
    let expected = PatternError::CaptureName("my-service".to_owned());
    assert_eq!(errors[0].problem, TargetProblem::Pattern(expected));

    // What follows the capture would match where the capture begins, too.
    let targets = Targets::new(&[captured("{a}b{c}", "/{a}/{c}/p", "/{a}/{c}/s")]).unwrap();
    match targets.resolve(&pipeline("bbc"), "Approve", "Approve") {
        Resolution::Target(target) => {
            assert_eq!(target.parameters.unwrap().staging, "/b/c/s");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn targets_are_counted_and_know_their_parameters() {
    assert!(Targets::default().is_empty());
    let targets = Targets::new(&[captured("{x}", "/{x}/production", "/{x}/staging")]).unwrap();
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
            ..TargetSpec::default()
        };
        let targets = Targets::new(&[spec]).unwrap();
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
