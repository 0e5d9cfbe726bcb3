//! `stagesweep rehearse`.

use crate::harness::{Finished, Launch, TARGET, World};

fn rehearse(world: &World, arguments: &[&str]) -> Launch {
    let launch = Launch::new(&world.path(""), &["rehearse", "--propagation", "300ms"]);
    arguments
        .iter()
        .fold(launch, |launch, argument| launch.argument(*argument))
}

/// A rehearsal that ends with 0 and leaves standard error empty.
async fn succeeds(world: &World, arguments: &[&str]) -> Finished {
    let ended = rehearse(world, arguments).finish().await;
    let found = (ended.code, ended.stderr.as_str());
    assert_eq!(found, (Some(0), ""), "{}", ended.stdout);
    ended
}

#[tokio::test]
async fn a_rehearsal_leaves_nothing_behind_and_needs_nothing() {
    let world = World::new().await;
    let ended = succeeds(&world, &["--services", "2", "--duplicates", "2"]).await;
    assert!(
        ended.stdout.contains("Left behind: nothing."),
        "{}",
        ended.stdout
    );
    assert!(
        ended
            .stdout
            .contains("Messages: 6 deleted, 0 on the queue, 0 in the")
    );
    let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Plays a scenario, and answers its report.
async fn scenario(name: &str) -> serde_json::Value {
    let world = World::new().await;
    let ended = succeeds(&world, &["--scenario", name, "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["scenario"], name);
    assert_eq!(
        (&report["passed"], &report["problems"]),
        (&true.into(), &serde_json::json!([]))
    );
    report
}

/// What was changed, as the embedded AWS has it.
fn changes(job: &serde_json::Value) -> Vec<&str> {
    let steps = job["steps"].as_array().unwrap().iter();
    let changes = steps.filter(|step| step["id"].is_string());
    changes.map(|step| step["name"].as_str().unwrap()).collect()
}

const ALL: [&str; 5] = [
    "record_deleted",
    "detach_policy",
    "delete_policy",
    "disable_staging",
    "delete_staging",
];

#[tokio::test]
async fn scenario_crash() {
    let report = scenario("crash").await;
    let job = &report["items"][0];
    assert_eq!(
        (&job["outcome"], changes(job)),
        (&"cleaned".into(), ALL.to_vec())
    );
}

#[tokio::test]
async fn a_crash_is_shown_with_its_story_in_so_many_lines() {
    let world = World::new().await;
    let ended = rehearse(&world, &["--scenario", "crash"]).finish().await;
    let text = &ended.stdout;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{text}");
    let (story, _) = text.split_once("\n\n").unwrap();
    assert!(story.lines().count() <= 5, "{story}");
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    let killed = text.find("with SIGKILL; a second one").unwrap();
    let detached = text.find("policy detached").unwrap();
    let deleted = text.find("policy deleted").unwrap();
    assert!(detached < killed && killed < deleted, "{text}");
    assert!(
        text.trim_end().ends_with("the story ended as it must."),
        "{text}"
    );
}

#[tokio::test]
async fn scenario_superseded() {
    let report = scenario("superseded").await;
    let job = &report["items"][0];
    assert_eq!(job["outcome"], "superseded");
    assert_eq!(changes(job), ALL[2..]);
    assert_eq!(report["spared"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn scenario_queued() {
    let report = scenario("queued").await;
    let jobs = report["items"].as_array().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        assert_eq!(job["outcome"], "superseded");
        assert_eq!(changes(job), ALL[2..]);
    }
}

#[tokio::test]
async fn scenarios_in_which_nothing_may_be_touched() {
    let refused = [
        ("reused", "staging_not_written_by_execution"),
        ("fence", "staging_is_production"),
    ];
    let refused = refused.map(async |(name, reason)| {
        let report = scenario(name).await;
        let job = &report["items"][0];
        assert_eq!(
            (&job["outcome"], &job["reason"]),
            (&"refused".into(), &reason.into())
        );
        assert_eq!(report["messages"]["dead_letters"], 1);
        assert!(changes(job).is_empty());
    });
    futures_util::future::join_all(refused).await;
    let report = scenario("promoted-after-all").await;
    let job = &report["items"][0];
    assert_eq!(
        (&job["outcome"], changes(job)),
        (&"retracted".into(), Vec::new())
    );
}

#[tokio::test]
async fn scenario_throttled() {
    let report = scenario("throttled").await;
    let job = &report["items"][0];
    assert_eq!(
        (&job["outcome"], changes(job)),
        (&"cleaned".into(), ALL.to_vec())
    );
    assert!(report["calls"]["with_faults"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_rehearsal_is_one_json_document() {
    let world = World::new().await;
    let ended = succeeds(&world, &["--json", "--services", "2"]).await;
    assert!(
        ended
            .stdout
            .starts_with("{\n  \"version\": 1,\n  \"kind\": \"rehearsal\"")
    );
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let jobs = report["items"].as_array().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        assert_eq!(
            (&job["outcome"], changes(job)),
            (&"cleaned".into(), ALL.to_vec())
        );
        let (name, arn) = (job["pipeline"].as_str().unwrap(), &job["pipeline_arn"]);
        let expected = format!("arn:aws:codepipeline:ap-northeast-1:123456789012:{name}");
        assert_eq!(arn, &expected);
        let at = job["began_at"].as_str().unwrap();
        assert_eq!(at.len(), "2026-08-24T06:05:07.123Z".len(), "{at}");
        assert!(job["duration_ms"].as_u64().unwrap() >= 600);
    }
    assert_eq!(report["messages"]["deleted"], 2);
    assert_eq!(report["calls"]["by_operation"]["PutParameter"], 2);
}

#[tokio::test]
async fn a_reader_that_goes_away_stops_no_work() {
    let world = World::new().await;
    let to_one_line = "\"$@\" | head -1; exit ${PIPESTATUS[0]}";
    let launch = rehearse(&world, &[]).through(["bash", "-c", to_one_line, "bash"]);
    let ended = launch.finish().await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_rehearsal_takes_targets_of_any_shape_from_a_file() {
    let world = World::new().await;
    let literal = r#"
[[targets]]
pipeline = "landing-pages"
stage = "Release"
action = "Review"
production_parameter = "/landing-pages/production-distribution"
staging_parameter = "/landing-pages/staging-distribution"
"#;
    let config = world.write_config("config.toml", &format!("{literal}{TARGET}"));
    let ended = rehearse(&world, &["--config"])
        .argument(config)
        .finish()
        .await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("Left behind: nothing."),
        "{}",
        ended.stdout
    );

    let config = world.write_config("bad.toml", "surprise = true\n");
    let ended = rehearse(&world, &["--config"])
        .argument(config)
        .finish()
        .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(78), ""));
    assert!(ended.stderr.contains("surprise"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_target_of_another_account_is_rehearsed_with_one_role_with_the_other_and_without() {
    let world = World::new().await;
    let target = r#"
[[targets]]
pipeline = "arn:aws:codepipeline:us-east-1:210987654321:shop"
stage = "Approve"
action = "Approve"
production_parameter = "/shop/production"
staging_parameter = "/shop/staging"
"#;
    let target = &format!("[events]\nallowed_accounts = [\"210987654321\"]\n{target}");
    // The distributions are in the daemon's own account; CodePipeline is asked in the pipeline's.
    let asked = "pipeline_role_arn = \"arn:aws:iam::210987654321:role/read\"\n";
    let config = world.write_config("tools.toml", &format!("{target}{asked}"));
    let ended = rehearse(&world, &["--config"])
        .argument(config)
        .finish()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("AssumeRole"), "{}", ended.stdout);
    // Who cannot ask goes without.
    let unasked = format!("[verify]\ncodepipeline = false\n{target}");
    let config = world.write_config("unasked.toml", &unasked);
    let ended = rehearse(&world, &["--config"])
        .argument(config)
        .finish()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stdout.contains("AssumeRole"), "{}", ended.stdout);

    // As a role of that account: parameters, distributions and credentials are there.
    let role = format!("{target}role_arn = \"arn:aws:iam::210987654321:role/stagesweep\"\n");
    let config = world.write_config("role.toml", &role);
    let ended = rehearse(&world, &["--config"])
        .argument(config)
        .finish()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    assert!(ended.stdout.contains("AssumeRole"), "{}", ended.stdout);
}

/// A client of the CodePipeline that is served there.
fn codepipeline(endpoint: &str) -> aws_sdk_codepipeline::Client {
    use aws_sdk_codepipeline::config::{BehaviorVersion, Credentials, Region};

    let credentials = Credentials::new("rehearsal", "rehearsal", None, None, "test");
    let config = aws_sdk_codepipeline::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("ap-northeast-1"))
        .credentials_provider(credentials)
        .endpoint_url(endpoint)
        .build();
    aws_sdk_codepipeline::Client::from_conf(config)
}

/// Deploys once more, and rejects that, as a person does with the AWS CLI.
async fn deploy_and_reject(client: &aws_sdk_codepipeline::Client) {
    use aws_sdk_codepipeline::types::{ApprovalResult, ApprovalStatus};

    let pipeline = "demo-1-frontend-pipeline";
    let start = client.start_pipeline_execution().name(pipeline);
    start.send().await.unwrap();
    let state = client
        .get_pipeline_state()
        .name(pipeline)
        .send()
        .await
        .unwrap();
    let mut stages = state.stage_states().iter();
    let approve = stages
        .find(|it| it.stage_name() == Some("Approve"))
        .unwrap();
    let approval = approve.action_states()[0].latest_execution().unwrap();
    let result = ApprovalResult::builder()
        .status(ApprovalStatus::Rejected)
        .summary("Once more, no");
    let put = client
        .put_approval_result()
        .pipeline_name(pipeline)
        .stage_name("Approve")
        .action_name("Approve")
        .result(result.build().unwrap())
        .token(approval.token().unwrap());
    put.send().await.unwrap();
}

#[tokio::test]
async fn a_daemon_cleans_up_the_served_aws_again_and_again_with_what_it_says() {
    let world = World::new().await;
    let served = rehearse(&world, &["--serve", "localhost:0"]).spawn();
    served.writes("put-approval-result").await;
    let text = served.stdout.text();
    let exports = text.lines().filter_map(|line| line.strip_prefix("export "));
    let exports: Vec<_> = exports.filter_map(|it| it.split_once('=')).collect();
    let (_, endpoint) = exports[0];
    let client = codepipeline(endpoint);
    for _ in 0..2 {
        // The configuration is among what it says, and complete.
        let daemon = Launch::new(&world.path(""), &["run", "--drain"]);
        let daemon = exports
            .iter()
            .fold(daemon, |daemon, (name, value)| daemon.env(name, value));
        let ended = daemon.finish().await;
        let found = (ended.code, ended.stderr.as_str());
        assert_eq!(found, (Some(0), ""), "{}", ended.stdout);
        let cleaned = ended.stdout.matches("\"outcome\":\"cleaned\"").count();
        assert_eq!(cleaned, 1, "{}", ended.stdout);
        deploy_and_reject(&client).await;
    }
    // It was the served one, and not this test's own.
    assert_eq!(world.aws.journal().count(), 0);
    served.stop().await;
}

#[tokio::test]
async fn what_is_no_address_is_answered_with_one() {
    let world = World::new().await;
    for bad in ["4701", "localhost", "127.0.0.1", "example.com:4701"] {
        let ended = rehearse(&world, &["--serve", bad]).finish().await;
        assert_eq!(ended.code, Some(2), "{bad}");
        let remedy = "write ADDR:PORT, such as 127.0.0.1:4701";
        assert!(ended.stderr.contains(remedy), "{}", ended.stderr);
    }
}
