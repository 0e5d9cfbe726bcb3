//! `stagesweep rehearse`.

use crate::harness::{Launch, TARGET, World};

fn rehearse(world: &World, arguments: &[&str]) -> Launch {
    let launch = Launch::new(&world.path(""), &["rehearse", "--propagation", "300ms"]);
    arguments
        .iter()
        .fold(launch, |launch, argument| launch.argument(*argument))
}

#[tokio::test]
async fn a_rehearsal_leaves_nothing_behind_and_needs_nothing() {
    let world = World::new().await;
    let ended = rehearse(&world, &["--services", "2", "--duplicates", "2"])
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
    assert!(
        ended
            .stdout
            .contains("Messages: 6 deleted, 0 on the queue, 0 in the")
    );
    let left: Vec<_> = std::fs::read_dir(world.path("")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
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

#[tokio::test]
async fn a_daemon_with_the_served_environment_cleans_up_the_served_aws() {
    let world = World::new().await;
    let served = rehearse(&world, &["--serve", "127.0.0.1:0"]).spawn();
    served.writes("stagesweep run").await;
    let text = served.stdout.text();
    let exports = text.lines().filter_map(|line| line.strip_prefix("export "));
    let config = world.write_config("config.toml", TARGET);
    let daemon = Launch::new(&world.path(""), &["run", "--drain", "--config"]).argument(config);
    let daemon = exports
        .filter_map(|export| export.split_once('='))
        .fold(daemon, |daemon, (name, value)| daemon.env(name, value));
    let ended = daemon.finish().await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("\"outcome\":\"cleaned\""),
        "{}",
        ended.stdout
    );
    // It was the served one, and not this test's own.
    assert_eq!(world.aws.journal().count(), 0);
    served.stop().await;
}
