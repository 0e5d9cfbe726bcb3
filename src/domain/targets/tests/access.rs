//! As whom and where a target's cleanups work.

use super::*;

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
        let targets = Targets::new(std::slice::from_ref(&spec), at_home()).unwrap();
        let Ok(target) = targets.resolve(&pipeline("shop-web"), "Approve", "Approve") else {
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
fn a_role_is_of_the_account_that_is_written_or_of_the_events() {
    let resolve = |spec: TargetSpec, name: &str| {
        let targets = Targets::new(&[spec], at_home()).unwrap();
        match targets.resolve(&pipeline(name), "Approve", "Approve") {
            Err(ResolveError::Access(_, error)) => error.code().to_owned(),
            Ok(target) => target.access.role.unwrap().account().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let literal = |account| {
        let arn = format!("arn:aws:iam::{account}:role/stagesweep");
        with_access("{service}", Some(&arn), None, None)
    };
    for account in ["012345678901", "210987654321"] {
        assert_eq!(resolve(literal(account), "shop"), account);
    }
    // A capture of a name may be called `account`, but it is not the event's.
    let named = with_access(
        "web-{account}-x",
        Some("arn:aws:iam::012345678901:role/{account}"),
        Some("{account}"),
        None,
    );
    assert_eq!(resolve(named, "web-210987654321-x"), "012345678901");
    // Rendered values are checked again.
    let with = |external_id, region| {
        let arn = "arn:aws:iam::{account}:role/stagesweep";
        with_access("{s}-x", Some(arn), external_id, region)
    };
    assert_eq!(resolve(with(Some("{s}"), None), "a-x"), "invalid_role");
    assert_eq!(resolve(with(Some("{s}"), None), "ab-x"), "012345678901");
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

    let alone = with_access("b-{s}", None, Some("x y"), None);
    assert_eq!(
        problems(&[alone]),
        [
            "targets[0].external_id: contains ' '; an external id has letters, digits and + = , . \
             @ : / - _ only",
            "targets[0].external_id: needs role_arn or pipeline_role_arn: an external id is presented \
             when a role is assumed",
        ]
    );
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
            region: region.map(str::to_owned),
            ..TargetSpec::default()
        };
        let targets = Targets::new(&[spec], at_home()).unwrap();
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
fn a_roles_arn_and_an_external_id_are_checked_to_the_letter() {
    use super::access::{ExternalIdError, RoleArnError};
    let fault = |role: &str, external_id: Option<&str>| {
        let spec = with_access("{service}-web", Some(role), external_id, None);
        let errors = Targets::new(&[spec], at_home()).err()?;
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
    let targets = Targets::new(&[with_access("shop", Some(role), None, None)], at_home()).unwrap();
    let target = targets.resolve(&pipeline("shop"), "Approve", "Approve");
    assert_eq!(
        target.unwrap().access.role.unwrap().account(),
        "012345678901"
    );
}

#[test]
fn a_partition_is_one_of_aws() {
    for partition in ["amazon", "aws-CN"] {
        let arn = format!("arn:{partition}:codepipeline:us-east-1:012345678901:x");
        assert_eq!(arn.parse::<PipelineArn>(), Err(ArnError::Partition));
        let errors = Targets::new(&[spec(&arn)], at_home()).unwrap_err();
        let expected = PatternError::Partition(partition.to_owned());
        assert_eq!(errors[0].problem, TargetProblem::Pattern(expected));
    }
    let any = "arn:{partition}:codepipeline:{region}:{account}:{service}";
    assert!(Targets::new(&[spec(any)], at_home()).is_ok());
}
