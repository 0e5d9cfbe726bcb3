//! Exit codes, and what is said before the daemon gets to work.

use crate::harness::{Finished, TARGET, World};
use crate::verbs::{PIPELINE, ends, leaked};

#[tokio::test]
async fn a_bad_configuration_exits_78_with_every_fault_and_polls_nothing() {
    let world = World::new().await;
    let bad = r#"
surprise = true
[events]
allowed_accounts = [12]
[[targets]]
pipeline = "{a}{b}"
stage = "Approve"
production_parameter = "/x/production"
staging_parameter = "/x/production"
"#;
    let config = world.write_config("bad.toml", bad);
    let mut said = Vec::new();
    for verb in ["run", "check"] {
        let launch = world.program(&[verb, "--config"]).argument(&config);
        let ended = launch
            .env("STAGESWEEP__QUEUE__WAIT_TIME", "a while")
            .finish()
            .await;
        assert_eq!(
            (ended.code, ended.stdout.as_str()),
            (Some(78), ""),
            "{}",
            ended.stderr
        );
        said.push(ended.stderr);
    }
    assert_eq!(said[0], said[1]);
    let faults = [
        "surprise",
        "events.allowed_accounts",
        "targets[0].pipeline",
        "targets[0].action",
        "STAGESWEEP__QUEUE__WAIT_TIME",
    ];
    for fault in faults {
        assert!(said[0].contains(fault), "no word of {fault}:\n{}", said[0]);
    }

    let missing = world
        .program(&["run", "--config", "/nowhere.toml"])
        .finish()
        .await;
    assert_eq!(missing.code, Some(78));
    assert!(
        missing.stderr.contains("/nowhere.toml"),
        "{}",
        missing.stderr
    );
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn check_accepts_what_the_daemon_accepts_and_asks_nobody() {
    let world = World::new().await;
    let config = world.write_config("config.toml", TARGET);
    let launch = world.program(&["check", "--config"]).argument(config);
    let ended = launch.without("AWS_REGION").finish().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    assert!(
        ended.stdout.contains(&world.queue_url()),
        "{}",
        ended.stdout
    );
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn a_daemon_that_cannot_start_exits_1_and_says_why() {
    let world = World::new().await;
    let nowhere = world.queue_url().replace("stagesweep", "nowhere");
    let launch = world.daemon().env("STAGESWEEP__QUEUE__URL", &nowhere);
    let ended = launch.finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stdout
            .contains(&format!("there is no queue {nowhere}")),
        "{}",
        ended.stdout
    );
    assert_eq!(world.aws.journal().calls("ReceiveMessage", None), 0);

    let ended = world.daemon().without("AWS_REGION").finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("no AWS region: set AWS_REGION"),
        "{}",
        ended.stdout
    );

    let launch = world
        .daemon()
        .env("STAGESWEEP__LEDGER__PATH", "/dev/null/ledger.db");
    let ended = launch.finish().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("/dev/null/ledger.db"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn a_usage_error_exits_2() {
    let world = World::new().await;
    for arguments in [&["sweep"][..], &["run", "--dry"], &[]] {
        let ended = world.program(arguments).finish().await;
        assert_eq!(ended.code, Some(2), "{arguments:?}\n{}", ended.stderr);
        assert!(
            ended.stderr.contains("Usage: stagesweep"),
            "{}",
            ended.stderr
        );
    }
    let ended = world.program(&["--version"]).finish().await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let built = format!("stagesweep {} (", env!("CARGO_PKG_VERSION"));
    assert!(ended.stdout.starts_with(&built), "{}", ended.stdout);
    assert!(ended.stdout.contains("rehearsal"), "{}", ended.stdout);
    let ended = world.program(&["help", "--help"]).finish().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// `check` with more arguments, through a shell's line where there is one.
async fn check(world: &World, line: Option<&str>, more: &[&str]) -> Finished {
    let config = world.write_config("config.toml", TARGET);
    let mut launch = world.program(&["-c"]).argument(config).argument("check");
    for argument in more {
        launch = launch.argument(*argument);
    }
    if let Some(line) = line {
        launch = launch.through(["sh", "-c", line, "sh"]);
    }
    launch.finish().await
}

#[tokio::test]
async fn check_says_which_target_takes_an_event_or_a_pipeline_and_asks_nobody() {
    let world = World::new().await;
    let shop = world.service("shop");
    let event = world.aws.rejection_event(&shop, &Default::default());
    let file = world.path("event.json");
    std::fs::write(&file, &event).unwrap();
    let asked = ["--event", file.to_str().unwrap()];
    let taken = check(&world, None, &asked).await;
    assert_eq!(
        (taken.code, taken.stderr.as_str()),
        (Some(0), ""),
        "{}",
        taken.stdout
    );
    for text in [
        "the target {service}-frontend-pipeline / Approve / Approve takes it",
        "service = shop",
        &shop.staging_parameter,
        &shop.execution_id,
    ] {
        assert!(
            taken.stdout.contains(text),
            "no {text} in\n{}",
            taken.stdout
        );
    }
    // The harness closes standard input; this line opens it again.
    let piped = format!("exec \"$@\" < {}", file.display());
    let piped = check(&world, Some(&piped), &["--event", "-"]).await;
    assert_eq!((piped.code, piped.stdout), (Some(0), taken.stdout));

    let named = check(&world, None, &["--pipeline", PIPELINE]).await;
    assert_eq!(named.code, Some(0), "{}", named.stdout);
    assert!(
        named.stdout.contains(&shop.staging_parameter),
        "{}",
        named.stdout
    );
    let named = check(&world, None, &["--pipeline", "shop-frontend"]).await;
    assert_eq!(named.code, Some(78), "{}", named.stdout);
    let near = "\"shop-frontend-pipeline\"? Else";
    assert!(named.stdout.contains(near), "{}", named.stdout);

    std::fs::write(&file, event.replace("FAILED", "SUCCEEDED")).unwrap();
    let other = check(&world, None, &asked).await;
    assert_eq!(other.code, Some(78));
    assert!(
        other.stdout.contains("no target takes it (not_failed)"),
        "{}",
        other.stdout
    );
    assert!(
        other.stdout.contains("deleted, since it is no rejection"),
        "{}",
        other.stdout
    );
    let missing = check(&world, None, &["--event", "/nowhere.json"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(
        missing
            .stderr
            .contains("the event /nowhere.json cannot be read"),
        "{}",
        missing.stderr
    );
    assert_eq!(world.aws.journal().count(), 0);
}

#[tokio::test]
async fn what_sets_nothing_is_warned_about_and_what_sets_something_is_counted() {
    let world = World::new().await;
    let config = world.write_config("config.toml", TARGET);
    let path = config.display().to_string();
    let said = "STAGESWEEP_QUEUE_URL sets nothing; did you mean STAGESWEEP__QUEUE__URL?";
    let launch = |arguments: &[&str]| {
        let launch = world.program(arguments).env("STAGESWEEP_QUEUE_URL", "x");
        launch.env("STAGESWEEP_CONFIG", &path)
    };
    let checked = launch(&["validate"]).env("STAGESWEEP__QUEUE__WAIT_TIME", "2s");
    let checked = checked.finish().await;
    assert_eq!(checked.stderr, format!("warning: {said}"));
    let read = format!("{path} (+1 from the environment) is valid: 1 target\n");
    assert!(checked.stdout.starts_with(&read), "{}", checked.stdout);
    let row = |key: &str| {
        let row = checked
            .stdout
            .lines()
            .find(|line| line.trim_start().starts_with(key));
        row.unwrap()
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("queue.wait_time"), "env 2s");
    assert_eq!(row("queue.visibility_timeout"), "file 2s");
    assert_eq!(row("queue.max_in_flight"), "default 64");
    assert_eq!(
        row("staging_parameter"),
        "/{service}/cloudfront/cfcd-staging"
    );
    let quiet = launch(&["check", "-q"]).finish().await;
    assert_eq!((quiet.code, &*quiet.stdout), (Some(0), ""));

    let history = launch(&["history"]).finish().await;
    assert!(
        history.stderr.starts_with(&format!("warning: {said}\n")),
        "{}",
        history.stderr
    );
    let daemon = launch(&["run", "--drain"]).finish().await;
    assert_eq!(daemon.code, Some(0));
    assert!(daemon.stdout.contains(said), "{}", daemon.stdout);
}

#[tokio::test]
async fn what_cannot_be_written_is_named() {
    let world = World::new().await;
    let full = check(&world, Some("exec \"$@\" > /dev/full"), &[]).await;
    assert_eq!(full.code, Some(1));
    assert!(
        full.stderr
            .contains("standard output cannot be written: No space left"),
        "{}",
        full.stderr
    );
}

#[tokio::test]
async fn a_reader_that_went_away_makes_no_difference_to_any_verb() {
    let world = World::new().await;
    world.service("shop");
    let config = world.write_config("config.toml", TARGET);
    let verbs: [&[&str]; 12] = [
        &["--help"],
        &["--version"],
        &["completion", "bash"],
        &["check"],
        &["check", "--json"],
        &["plan", PIPELINE],
        &["plan", PIPELINE, "--json"],
        &["doctor"],
        &["orphans"],
        &["dead-letters"],
        &["history"],
        &["iam-policy"],
    ];
    for verb in verbs {
        let with = |reader: &str| {
            let shell = format!("\"$@\" | {reader}; exit ${{PIPESTATUS[0]}}");
            let launch = world.program(verb);
            let launch = launch.env("STAGESWEEP_CONFIG", config.to_str().unwrap());
            let launch = launch.through(["bash", "-c", &shell, "bash"]);
            launch.finish()
        };
        let (read, gone) = (with("cat").await, with("true").await);
        assert_eq!(
            (gone.code, gone.stderr),
            (read.code, read.stderr),
            "{verb:?}"
        );
        assert!(
            matches!(read.code, Some(0 | 1)),
            "{verb:?}: {:?}",
            read.code
        );
    }
}

#[tokio::test]
async fn completions_of_a_shell_are_written_to_standard_output() {
    let world = World::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let ended = world.program(&["completion", shell]).finish().await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("dead-letters"), "{shell}");
    }
    let ended = world.program(&["completion", "tcsh"]).finish().await;
    assert_eq!(ended.code, Some(2));
}

#[tokio::test]
async fn a_plan_says_by_its_status_and_in_a_line_how_much_there_is_to_do() {
    let world = World::new().await;
    let shop = world.service("shop");
    let detailed = ["plan", PIPELINE, "--detailed-exitcode"];
    let said = ends(&world, &detailed, 2).await.stdout;
    let last = said.lines().last();
    assert_eq!(last, Some("Plan: 2 deletions, 2 changes, 1 parameter."));
    let fits = |line: &str| line.len() <= 80 || !line.trim().contains(' ');
    assert!(said.lines().all(fits), "{said}");
    let wide = ends(&world, &["plan", PIPELINE, "--wide"], 0).await.stdout;
    assert!(!wide.lines().all(fits), "{wide}");

    let dry = ends(&world, &["clean", PIPELINE, "--dry-run"], 0)
        .await
        .stdout;
    assert!(dry.contains("Plan: 2 deletions"), "{dry}");
    world.assert_untouched();
    world
        .aws
        .put_parameter(&shop.staging_parameter, &shop.production_id);
    ends(&world, &detailed, 3).await;
    let wrong = ends(&world, &["plan", PIPELINE, "--stage", "Aprove"], 1).await;
    let why =
        "matches the pipeline \"shop-frontend-pipeline\", but its stage is Approve, not \"Aprove\"";
    assert!(wrong.stderr.contains(why), "{}", wrong.stderr);
    world.aws.deny("GetDistribution");
    ends(&world, &detailed, 1).await;
}

#[tokio::test]
async fn what_no_job_has_is_answered_with_what_they_have_and_a_star_stands_for_anything() {
    let world = World::new().await;
    world.service("shop");
    ends(&world, &["clean", PIPELINE, "--yes"], 0).await;
    let detailed = ["plan", PIPELINE, "--detailed-exitcode"];
    ends(&world, &detailed, 0).await;
    let none = ends(&world, &["history", "--outcome", "banana"], 0).await;
    assert!(
        none.stderr
            .contains("no job came to \"banana\"; what jobs come to: already_clean, cleaned"),
        "{}",
        none.stderr
    );
    let none = ends(&world, &["history", "--outcome", "superseded"], 0).await;
    assert_eq!((&*none.stdout, &*none.stderr), ("No jobs.", ""));
    let none = ends(&world, &["history", "--pipeline", "demo"], 0).await;
    assert!(none.stderr.contains(PIPELINE), "{}", none.stderr);
    let some = ends(&world, &["history", "--pipeline", "shop*"], 0)
        .await
        .stdout;
    assert!(
        some.contains(PIPELINE) && some.contains("5 steps"),
        "{some}"
    );
    let table = ends(&world, &["history", "--wide"], 0).await.stdout;
    assert!(table.starts_with("EXECUTION"), "{table}");
}

#[tokio::test]
async fn orphans_have_a_heading_and_a_short_age_is_raised() {
    let world = World::new().await;
    leaked(&world).await;
    // Without a ledger open jobs are not known.
    let ended = ends(&world, &["orphans", "--min-age", "1m"], 1).await;
    assert!(
        ended
            .stderr
            .contains("--min-age 1m was raised to 1h, the least"),
        "{}",
        ended.stderr
    );
    assert!(ended.stdout.contains("VERDICT  ID"), "{}", ended.stdout);
    assert!(
        ended.stdout.lines().all(|line| line.len() <= 80),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn doctor_says_what_it_skips_and_can_be_quiet() {
    let world = World::new().await;
    let denied = world.program(&["doctor", "-q", "--config"]);
    let denied = denied.argument(world.write_config("config.toml", TARGET));
    let denied = denied
        .without("AWS_ACCESS_KEY_ID")
        .without("AWS_SECRET_ACCESS_KEY");
    let ended = denied.finish().await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let mut lines = ended.stdout.lines();
    assert!(
        lines.all(|line| !line.starts_with("ok ")),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("warning  skipped: queue, ledger,"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn clean_that_is_stopped_says_what_is_done_and_what_is_left() {
    let world = World::with(crate::harness::NEVER).await;
    let shop = world.service("shop");
    let config = world.write_config("config.toml", TARGET);
    let cleaning = world
        .program(&["clean", PIPELINE, "-y", "-c"])
        .argument(config);
    let cleaning = cleaning.spawn();
    cleaning.writes("What will be done").await;
    cleaning.writes("waiting for the detach to propagate").await;
    cleaning.signal("INT");
    assert_eq!(cleaning.exited().await.code(), Some(1), "{cleaning:?}");
    let said = cleaning.stderr.text();
    let expected = format!(
        "stopped after 2 of 5: parameter set to `deleted`, policy detached from production. Left: policy {} \
         (detached), staging {} (enabled). `stagesweep clean {PIPELINE}` goes on",
        shop.policy_id, shop.staging_id
    );
    assert!(said.contains(&expected), "{said}");
}
