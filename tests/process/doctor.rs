//! `doctor`: what it finds amiss, and what it says of it.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{TARGET, World};
use crate::verbs::{PIPELINE, document, ends};

/// The one check of this name that is about this subject.
fn of(report: &Value, check: &str, subject: &str) -> Value {
    let mut all = report["items"].as_array().unwrap().iter();
    let it = all.find(|it| {
        let about = it["subject"].as_str().unwrap_or_default();
        it["check"] == *check && about.contains(subject)
    });
    it.unwrap_or_else(|| panic!("no {check} {subject} in {report}"))
        .clone()
}

#[tokio::test]
async fn doctor_finds_what_is_amiss_says_how_to_mend_it_and_changes_nothing() {
    let world = World::new().await;
    let shop = world.service("shop");
    let routed = world.aws.route_rejections("stagesweep", &world.queues.url);
    routed.unwrap();
    let report = document(&world, &["doctor", PIPELINE, "--json"], 0).await;
    for check in [
        "credentials",
        "clock",
        "queue policy",
        "rule",
        "cloudfront:GetDistributionConfig",
        "quota",
        "codepipeline",
        "sqs:DeleteMessage",
        "cloudfront:UpdateDistribution",
        "cloudfront:DeleteDistribution",
        "cloudfront:DeleteContinuousDeploymentPolicy",
        "ssm:PutParameter",
    ] {
        assert_eq!(of(&report, check, "")["outcome"], "ok", "{report}");
    }
    assert_eq!(of(&report, "pipeline", PIPELINE)["outcome"], "ok");
    assert_eq!(of(&report, "parameter", "cfcd-staging")["outcome"], "ok");
    // Five receives are few: a rolling update may take longer.
    assert_eq!(of(&report, "redrive policy", "")["outcome"], "warning");
    // Before the first start.
    assert_eq!(of(&report, "ledger", "ledger.db")["outcome"], "warning");
    assert_eq!(report["outcome"], "warning");

    world.aws.set_queue_policy(&world.queues.url, "{}").unwrap();
    let pattern =
        serde_json::json!({ "source": ["aws.codepipeline"], "detail": { "stage": ["Test"] } });
    world.aws.put_rule(
        "stagesweep",
        &pattern,
        Some(serde_json::json!({
            "Id": "queue",
            "Arn": "arn:aws:sqs:ap-northeast-1:123456789012:stagesweep",
        })),
    );
    world
        .aws
        .put_parameter(&shop.staging_parameter, &shop.production_id);
    world.aws.deny("ListContinuousDeploymentPolicies");
    let report = document(&world, &["doctor", "--json"], 1).await;
    for (check, subject, remedy) in [
        ("queue policy", "", "aws:SourceArn"),
        ("rule", "stagesweep", "state FAILED"),
        ("parameter", "cfcd-staging", "staging distribution's id"),
        ("cloudfront:ListContinuousDeploymentPolicies", "", "allow"),
    ] {
        let found = of(&report, check, subject);
        assert_eq!(found["outcome"], "failure", "{found}");
        assert!(
            found["remedy"].as_str().unwrap().contains(remedy),
            "{found}"
        );
    }
    let said = ends(&world, &["doctor"], 1).await.stdout;
    assert!(said.contains("5 failures"), "{said}");
    // Nobody but `doctor` asks for the rule: that is no failure of the daemon.
    let denied = world.aws.deny("ListRuleNamesByTarget");
    let report = document(&world, &["doctor", "--json"], 1).await;
    let found = of(&report, "rule", "");
    assert_eq!(found["outcome"], "warning", "{found}");
    assert_eq!(found["remedy"], "allow events:ListRuleNamesByTarget on *");
    world.aws.remove_rule(denied);
    world.aws.deny("GetDistributionConfig");
    let report = document(&world, &["doctor", "--json"], 1).await;
    let found = of(&report, "cloudfront:GetDistributionConfig", "");
    assert_eq!(found["outcome"], "failure", "{found}");
    let found = of(&report, "parameter", "cfcd-production");
    assert_eq!(found["outcome"], "failure", "{found}");
    world.assert_untouched();
    let entries = world.aws.journal().entries();
    let reads = entries.iter().all(|entry| !entry.call.may_mutate());
    assert!(reads, "{}", world.journal());
}

#[tokio::test]
async fn permissions_to_change_something_are_simulated_and_not_tried() {
    let world = World::new().await;
    let shop = world.service("shop");
    let role = "arn:aws:iam::123456789012:role/platform/stagesweep";
    world.aws.create_role(role, None);
    let report = document(&world, &["doctor", "--role", role, "--json"], 1).await;
    assert_eq!(of(&report, "ssm:PutParameter", "")["outcome"], "ok");
    // What these credentials may read says nothing of what the role may.
    let read = of(&report, "cloudfront:GetDistribution", "");
    assert!(
        read["detail"].as_str().unwrap().contains("simulation"),
        "{read}"
    );

    for operation in [
        "DeleteMessage",
        "DeleteDistribution",
        "DeleteContinuousDeploymentPolicy",
        "PutParameter",
    ] {
        world.aws.deny(operation);
    }
    let report = document(&world, &["doctor", "--json"], 1).await;
    for (action, resource) in [
        ("sqs:DeleteMessage", "arn:aws:sqs:ap-northeast-1:"),
        ("cloudfront:DeleteDistribution", shop.staging_id.as_str()),
        (
            "cloudfront:DeleteContinuousDeploymentPolicy",
            "continuous-deployment-policy/",
        ),
        ("ssm:PutParameter", shop.staging_parameter.as_str()),
    ] {
        let found = of(&report, action, "");
        assert_eq!(found["outcome"], "failure", "{found}");
        let remedy = found["remedy"].as_str().unwrap();
        assert!(
            remedy.starts_with(&format!("allow {action} on ")),
            "{found}"
        );
        assert!(remedy.contains(resource), "{found}");
    }
    for allowed in ["sqs:ReceiveMessage", "cloudfront:UpdateDistribution"] {
        assert_eq!(of(&report, allowed, "")["outcome"], "ok", "{report}");
    }

    // Who only observes changes nothing, and needs none of these.
    let observing = world
        .program(&["doctor", "--json", "--config"])
        .argument(world.path("config.toml"))
        .env("STAGESWEEP__CLEANUP__MODE", "observe");
    let report: Value = serde_json::from_str(&observing.finish().await.stdout).unwrap();
    assert_eq!(of(&report, "permissions", "")["outcome"], "ok", "{report}");
    let asked = report["items"].as_array().unwrap().iter();
    let asked: Vec<_> = asked.filter_map(|it| it["check"].as_str()).collect();
    assert!(!asked.contains(&"ssm:PutParameter"), "{report}");

    // Who may not ask learns what was not looked at, and whom to ask.
    let unknown = "arn:aws:iam::123456789012:role/unknown";
    let report = document(&world, &["doctor", "--role", unknown, "--json"], 1).await;
    let found = of(&report, "permissions", unknown);
    assert_eq!(found["outcome"], "warning", "{found}");
    world.aws.deny("SimulatePrincipalPolicy");
    let report = document(&world, &["doctor", "--json"], 1).await;
    let found = of(&report, "permissions", "user/rehearsal");
    assert_eq!(found["outcome"], "warning", "{found}");
    assert!(
        found["remedy"].as_str().unwrap().contains("--role"),
        "{found}"
    );

    let refused = ends(&world, &["doctor", "--role", "stagesweep"], 2).await;
    assert!(refused.stderr.contains("role/NAME"), "{}", refused.stderr);
    world.assert_untouched();
    let entries = world.aws.journal().entries();
    let reads = entries.iter().all(|entry| !entry.call.may_mutate());
    assert!(reads, "{}", world.journal());
}

#[tokio::test]
async fn what_the_configuration_asks_of_codepipeline_and_whom_it_tells_is_looked_at() {
    let world = World::new().await;
    world.service("shop");
    world
        .aws
        .route_rejections("stagesweep", &world.queues.url)
        .unwrap();
    let program = world.path("tell");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    let bus = "outcomes";
    let settings = format!(
        "[verify]\ncodepipeline = true\n[catch_up]\ninterval = \"1h\"\n\
         [notify]\nevent_bus = \"{bus}\"\nprogram = [{program:?}]\n"
    );
    let literal = TARGET.replace("{service}", "shop");
    let report = async |targets: &str, status: i32| {
        let config = world.write_config("doctor.toml", &format!("{settings}{targets}"));
        let verb = world.program(&["doctor", "--json", "--config"]);
        let ended = verb.argument(config).finish().await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(status), "{said}");
        serde_json::from_str::<Value>(&ended.stdout).unwrap()
    };
    // A bus that does not exist takes events all the same; a file that nobody may execute.
    let found = report(TARGET, 1).await;
    assert_eq!(of(&found, "notify event bus", bus)["outcome"], "failure");
    assert_eq!(of(&found, "notify program", "")["outcome"], "failure");
    world.aws.create_event_bus(bus);
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let found = report(TARGET, 0).await;
    for (check, subject) in [
        ("notify program", ""),
        ("notify event bus", bus),
        ("events:PutEvents", ""),
        ("codepipeline:ListPipelines", ""),
        ("codepipeline", PIPELINE),
    ] {
        assert_eq!(of(&found, check, subject)["outcome"], "ok", "{found}");
    }

    // A pipeline that the target names is looked at without being named.
    let mistyped = literal.replace("action = \"Approve\"", "action = \"Aprove\"");
    let found = of(&report(&mistyped, 1).await, "codepipeline", PIPELINE);
    let said = found["detail"].as_str().unwrap();
    assert!(
        said.contains("\"Aprove\"") && said.contains("Approve"),
        "{said}"
    );
    let elsewhere = literal.replace("shop-frontend-pipeline", "other-pipeline");
    let found = of(
        &report(&elsewhere, 0).await,
        "codepipeline",
        "other-pipeline",
    );
    assert_eq!(found["outcome"], "warning", "{found}");

    // Without any of these, no job goes on.
    for call in [
        "GetPipelineState",
        "ListActionExecutions",
        "ListPipelineExecutions",
    ] {
        let denied = world.aws.deny(call);
        let found = of(&report(&literal, 1).await, "codepipeline", PIPELINE);
        assert_eq!(found["outcome"], "failure", "{found}");
        assert_eq!(found["remedy"], format!("allow codepipeline:{call} on it"));
        world.aws.remove_rule(denied);
    }
    // A stage that the pipeline does not have.
    let lost = literal.replace("action = ", "deploy_stage = \"Deliver\"\naction = ");
    let found = of(&report(&lost, 1).await, "codepipeline", PIPELINE);
    let said = found["detail"].as_str().unwrap();
    assert!(said.contains("deploy_stage; its stages: "), "{said}");
    world.aws.deny("PutEvents");
    // The bus's own policy may allow it.
    let found = report(&literal, 0).await;
    assert_eq!(of(&found, "events:PutEvents", "")["outcome"], "warning");
    world.assert_untouched();
}

#[tokio::test]
async fn a_parameter_that_cannot_be_read_or_may_not_say_deleted_is_found_and_no_ciphertext_shown() {
    let world = World::new().await;
    let [secure, pattern] = ["shop", "blog"].map(|name| world.service(name));
    world.aws.secure_parameter(&secure.staging_parameter);
    let name = &pattern.staging_parameter;
    world.aws.allow_in_parameter(name, "^E[A-Z0-9]+$");
    let report = document(&world, &["doctor", "--json"], 1).await;
    for (service, words) in [
        (&secure, "SecureString"),
        (&pattern, "AllowedPattern \"^E[A-Z0-9]+$\""),
    ] {
        let found = of(&report, "parameter", &service.staging_parameter);
        assert_eq!(found["outcome"], "failure", "{found}");
        assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
    }
    let ended = ends(&world, &["plan", PIPELINE], 1).await;
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("SecureString"), "{said}");
    for shown in [report.to_string(), said] {
        assert!(!shown.contains("AQICAH"), "{shown}");
    }
}

#[tokio::test]
async fn pipelines_of_a_pattern_are_known_by_their_parameters() {
    let world = World::new().await;
    let shop = world.service("shop");
    world
        .aws
        .route_rejections("stagesweep", &world.queues.url)
        .unwrap();
    let report = document(&world, &["doctor", "--json"], 0).await;
    assert_eq!(of(&report, "codepipeline", PIPELINE)["outcome"], "ok");
    let found = of(&report, "pipeline", PIPELINE);
    assert!(
        found["detail"]
            .as_str()
            .unwrap()
            .contains("come to cleaned"),
        "{found}"
    );

    // A rule for pipelines of another name.
    let pattern = serde_json::json!({
        "source": ["aws.codepipeline"],
        "detail": { "state": ["FAILED"], "pipeline": [{ "suffix": "-backend-pipeline" }] },
    });
    let queue = "arn:aws:sqs:ap-northeast-1:123456789012:stagesweep";
    let target = serde_json::json!({ "Id": "queue", "Arn": queue });
    world.aws.put_rule("stagesweep", &pattern, Some(target));
    let report = document(&world, &["doctor", "--json"], 1).await;
    let found = of(&report, "rule", "stagesweep");
    assert_eq!(found["outcome"], "failure", "{found}");

    // A stage that no pipeline has.
    let config = TARGET.replace("stage = \"Approve\"", "stage = \"Approved\"");
    let config = world.write_config("other.toml", &config);
    let verb = world.program(&["doctor", "--json", "--config"]);
    let ended = verb.argument(config).finish().await;
    let report = serde_json::from_str::<Value>(&ended.stdout).unwrap();
    let found = of(&report, "codepipeline", PIPELINE);
    assert!(
        found["detail"].as_str().unwrap().contains("\"Approved\""),
        "{found}"
    );

    // Taken down already, by hand: a rejection would only record it.
    world
        .aws
        .put_parameter(&shop.staging_parameter, "E0123456789ABC");
    let report = document(&world, &["doctor", "--json"], 1).await;
    let found = of(&report, "parameter", &shop.staging_parameter);
    assert_eq!(found["outcome"], "warning", "{found}");
}

#[tokio::test]
async fn where_nothing_can_be_asked_one_line_says_why() {
    let world = World::new().await;
    let config = world.write_config("config.toml", TARGET);
    let without = |name: &str| {
        let verb = world.program(&["doctor", "--json", "--config"]);
        verb.argument(&config).without(name)
    };
    for (name, check, remedy) in [
        ("AWS_ACCESS_KEY_ID", "credentials", "give it credentials"),
        ("AWS_REGION", "region", "AWS_REGION"),
    ] {
        let ended = without(name).finish().await;
        assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
        let report = serde_json::from_str::<Value>(&ended.stdout).unwrap();
        let found = of(&report, check, "");
        assert_eq!(found["outcome"], "failure", "{report}");
        assert!(
            found["remedy"].as_str().unwrap().contains(remedy),
            "{found}"
        );
        let all = report["items"].as_array().unwrap();
        let failures = all.iter().filter(|it| it["outcome"] == "failure");
        assert_eq!(failures.count(), 1, "{report}");
    }
}
