//! Targets that run a program, with real programs; and the programs that come with the documentation.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use embedded_aws::EventOptions;
use serde_json::Value;

use crate::harness::{Launch, TARGET, World};

/// Writes an executable script.
fn script(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A daemon whose target cleans and then runs `run`.
fn daemon(world: &World, run: &Path, more: &str) -> Launch {
    let target = format!("{TARGET}run = [{run:?}, \"{{execution_id}}\"]\n{more}\n");
    let config = world.write_config("config.toml", &target);
    world.program(&["run", "--config"]).argument(config)
}

#[tokio::test]
async fn a_program_sees_the_event_and_no_secret_and_what_it_writes_is_logged() {
    let world = World::new().await;
    let shop = world.service("shop");
    let seen = world.path("seen.json");
    let text = format!(
        "#!/bin/sh\ncat > {}\necho \"$1 $STAGESWEEP_OUTCOME ${{AWS_SECRET_ACCESS_KEY-none}} $GREETING\"\n\
         echo trouble >&2\n",
        seen.display()
    );
    let program = script(world.path("undo"), &text);
    let daemon = daemon(&world, &program, "pass_environment = [\"GREETING\"]")
        .env("GREETING", "hello")
        .spawn();
    let body = world.aws.rejection_event(&shop, &EventOptions::default());
    world.send(&body);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    let event: Value = serde_json::from_str(&body).unwrap();
    let id = event["detail"]["execution-id"].as_str().unwrap();
    assert_eq!(fs::read_to_string(&seen).unwrap(), body);
    let line = daemon
        .line("its output", |line| line["program.output"] == "stdout")
        .await;
    assert_eq!(line["line"], format!("{id} cleaned none hello"));
    assert_eq!(line["execution.id"], id, "{line}");
    daemon
        .line("its errors", |line| line["line"] == "trouble")
        .await;
    assert_eq!(daemon.says("program ended").await["program.exit_status"], 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_killed_daemon_has_the_program_run_again_and_a_stop_ends_it_within_the_grace_period() {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let (runs, go) = (world.path("runs"), world.path("go"));
    // Waits for leave to end: a named pipe, which nothing is ever written to.
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    let text = format!(
        "#!/bin/sh\necho $$ >> {}\nread line < {}\n",
        runs.display(),
        go.display()
    );
    let program = script(world.path("undo"), &text);
    let started = || {
        fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };

    let first = daemon(&world, &program, "").spawn();
    first.says("program started").await;
    world.until("it runs", |_| started() == 1).await;
    first.signal("KILL");
    first.exited().await;

    let second = daemon(&world, &program, "").spawn();
    world.until("it runs again", |_| started() == 2).await;
    second.stop().await;
    let ended = second.says("program ended").await;
    assert_eq!(ended["program.end"], "shutting_down", "{second:?}");
    assert_eq!((world.depth().visible, world.depth().in_flight), (1, 0));
    let pids = fs::read_to_string(&runs).unwrap();
    let pid = pids.lines().nth(1).unwrap();
    assert!(!Path::new("/proc").join(pid).exists(), "{pid} still runs");

    // The first one is nobody's: its daemon was killed.
    let first = pids.lines().next().unwrap();
    Command::new("kill").arg(first).status().unwrap();
    script(
        program.clone(),
        &format!("#!/bin/sh\necho $$ >> {}\n", runs.display()),
    );
    let third = daemon(&world, &program, "").spawn();
    world.settled().await;
    assert_eq!(started(), 3);
    world.assert_cleaned_once(&shop);
    third.stop().await;
}

#[tokio::test]
async fn the_log_speaks_of_the_program_where_there_is_no_cleanup_and_the_metrics_stay() {
    let world = World::new().await;
    let (shop, bank) = (world.service("shop"), world.service("bank"));
    let again = world.path("again");
    let text = format!(
        "#!/bin/sh\ntest -e {0} && exit $1\ntouch {0}\nexit 75\n",
        again.display()
    );
    let program = script(world.path("undo"), &text);
    let targets = format!(
        "[[targets]]\npipeline = \"shop-frontend-pipeline\"\nrun = [{program:?}, \"0\"]\n\
         [[targets]]\npipeline = \"bank-frontend-pipeline\"\nrun = [{program:?}, \"3\"]\n"
    );
    let config = world.write_config("config.toml", &targets);
    let daemon = world.program(&["run", "--config"]).argument(config).spawn();
    world.reject(&shop);
    let failed = daemon
        .says("program run failed for now; it is tried again")
        .await;
    assert_eq!(failed["reason"], "program_try_again");
    world.reject(&bank);
    let failed = daemon.says("program run failed for good").await;
    assert_eq!(failed["reason"], "program_failed");
    let succeeded = daemon.says("program run succeeded").await;
    assert_eq!(succeeded["outcome"], "ran");
    daemon.stop().await;
    let totals = daemon
        .line("the totals", |line| line["InFlight"] == 0)
        .await;
    for (metric, expected) in [
        ("CleanupsStarted", 3),
        ("CleanupsSucceeded", 1),
        ("CleanupsFailed", 1),
        ("CleanupsRefused", 1),
        ("MessagesRefused", 0),
    ] {
        let count = totals[metric].as_u64().unwrap_or_default();
        assert_eq!(count, expected, "{metric}\n{daemon:?}");
    }
    for line in daemon.lines() {
        let said = line["message"].as_str().unwrap_or_default();
        assert!(!said.contains("cleanup"), "{line}");
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/programs")
        .join(name)
}

/// Runs a program with `event` on its input.
fn run(command: &mut Command, event: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read it closes it.
    let _ = child.stdin.take().unwrap().write_all(event.as_bytes());
    child.wait_with_output().unwrap()
}

/// Answers one request with `status`; its body.
fn answer(listener: &TcpListener, status: &str) -> String {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(number) = line.to_lowercase().strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn the_example_that_posts_to_a_chat_does() {
    let world = World::new().await;
    let shop = world.service("shop");
    let options = EventOptions {
        summary: Some("\"basket\" is empty".to_owned()),
        ..EventOptions::default()
    };
    let event = world.aws.rejection_event(&shop, &options);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let post = |url: &str, event: &str| {
        let mut command = Command::new("python3");
        command
            .arg(shipped("post-to-chat"))
            .env("CHAT_WEBHOOK_URL", url);
        run(
            command
                .env("STAGESWEEP_OUTCOME", "cleaned")
                .env_remove("http_proxy"),
            event,
        )
    };
    for (status, expected) in [
        ("200 OK", 0),
        ("429 Too Many Requests", 75),
        ("503 Busy", 75),
        ("404 Gone", 1),
    ] {
        let (url, event) = (url.clone(), event.clone());
        let output = std::thread::scope(|scope| {
            let posting = scope.spawn(move || post(&url, &event));
            let body: Value = serde_json::from_str(&answer(&listener, status)).unwrap();
            let text =
                "shop-frontend-pipeline was rejected at Approve (cleaned): \"basket\" is empty";
            assert_eq!(body["text"], text);
            posting.join().unwrap()
        });
        assert_eq!(output.status.code(), Some(expected), "{status}: {output:?}");
    }
    drop(listener);
    assert_eq!(post(&url, &event).status.code(), Some(75));
}

#[test]
fn the_example_that_starts_a_build_calls_the_aws_cli() {
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let start = |status: u8| {
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\nexit {status}\n",
            seen.display()
        );
        script(directory.path().join("aws"), &text);
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let mut command = Command::new(shipped("start-codebuild"));
        run(command.args(["undo-shop", "11-22"]).env("PATH", path), "")
            .status
            .code()
    };
    assert_eq!(start(0), Some(0));
    let arguments = fs::read_to_string(&seen).unwrap();
    let arguments: Vec<&str> = arguments.lines().collect();
    assert!(arguments.starts_with(&["codebuild", "start-build", "--project-name", "undo-shop"]));
    let after = |name: &str| arguments[arguments.iter().position(|it| *it == name).unwrap() + 1];
    assert_eq!(after("--idempotency-token"), "11-22");
    assert_eq!(start(254), Some(75));
    assert_eq!(start(252), Some(252));
}
