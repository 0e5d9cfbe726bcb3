//! The end, in time, whatever hangs.
//!
//! `ENDS=200 cargo test --test process hangs -- --nocapture` for more of them.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use stagesweep::runtime::clock::Clock;
use tokio::time::{Duration, Instant};

use crate::harness::{Launch, Process, World};
use crate::telemetry::until;

const GRACE: Duration = Duration::from_secs(2);

/// What the end may take above the grace period.
const ABOVE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    /// The name of AWS's endpoint is looked up for ever.
    Lookups,
    /// Nobody reads the named pipe that the metrics go to.
    Sink,
    /// No write to the ledger returns.
    Disk,
    /// The program ignores SIGTERM.
    Program,
    /// Who gives credentials accepts the connection, and says nothing.
    Credentials,
}

const ALL: [Hang; 5] = [
    Hang::Lookups,
    Hang::Sink,
    Hang::Disk,
    Hang::Program,
    Hang::Credentials,
];

/// The library that makes calls of the program hang. Built once.
fn library() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    const LIBRARY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/hangs.so");
    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process/hangs.c");
    BUILT.get_or_init(|| {
        let options = ["-shared", "-fPIC", "-o", LIBRARY, SOURCE, "-ldl"];
        assert!(Command::new("cc").args(options).status().unwrap().success());
    });
    LIBRARY
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Gives credentials that have to be renewed for the next call, until `hangs` is there. Ends with the
/// process.
fn credentials(hangs: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if hangs.exists() {
                silent.push(stream);
                continue;
            }
            let soon = Clock::system().now() + Duration::from_secs(5);
            let body = format!(
                r#"{{"AccessKeyId":"a","SecretAccessKey":"s","Token":"t","Expiration":"{soon}"}}"#
            );
            let length = body.len();
            // The request is one segment. A daemon that was killed does not read the answer.
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    url
}

/// The file that makes something hang while it is there.
fn switch(world: &World, hang: Hang) -> PathBuf {
    world.path(&format!("{hang:?}.hangs"))
}

fn begin(world: &World, hangs: &[Hang]) {
    for hang in hangs {
        fs::write(switch(world, *hang), "").unwrap();
    }
}

/// A daemon of which all that can be made to hang does as soon as it is to.
fn daemon(world: &World, hangs: &[Hang]) -> Launch {
    let has = |hang| hangs.contains(&hang);
    let trap = if has(Hang::Program) {
        "trap '' TERM"
    } else {
        ""
    };
    let (program, wait) = (world.path("undo"), world.path("wait"));
    make_pipe(&wait);
    let wait = wait.display();
    fs::write(
        &program,
        format!("#!/bin/sh\n{trap}\necho runs\nread line < {wait}\n"),
    )
    .unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let target =
        format!("[[targets]]\npipeline = \"shop-frontend-pipeline\"\nrun = [{program:?}]\n");
    let config = world.write_config("config.toml", &target);
    let file = |hang| switch(world, hang).display().to_string();
    let mut launch = world
        .program(&["run", "--config"])
        .argument(config)
        .env("LD_PRELOAD", library())
        .env("HANG_LOOKUPS", &file(Hang::Lookups))
        .env("HANG_DISK", &file(Hang::Disk))
        .env(
            "STAGESWEEP__SHUTDOWN__GRACE_PERIOD",
            &format!("{}s", GRACE.as_secs()),
        )
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "100ms")
        .env(
            "AWS_ENDPOINT_URL",
            &world.endpoint_url().replace("127.0.0.1", "localhost"),
        );
    if has(Hang::Sink) {
        let pipe = world.path("metrics.pipe");
        make_pipe(&pipe);
        let sink = format!("file://{}", pipe.display());
        launch = launch.env("STAGESWEEP__TELEMETRY__METRICS_SINK", &sink);
    }
    if has(Hang::Credentials) {
        launch = launch
            .without("AWS_ACCESS_KEY_ID")
            .without("AWS_SECRET_ACCESS_KEY")
            .env(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                &credentials(switch(world, Hang::Credentials)),
            );
    }
    launch
}

/// Stops a daemon; how long that takes.
async fn end(daemon: &Process, hangs: &[Hang]) -> Duration {
    let asked = Instant::now();
    daemon.signal("TERM");
    let status = daemon.exited().await;
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{hangs:?}\n{daemon:?}");
    assert!(took <= GRACE + ABOVE, "{hangs:?}: {took:?}\n{daemon:?}");
    took
}

/// Everything hangs from the moment on at which a job's program runs; then the daemon is stopped.
async fn ends_in_mid_work(hangs: &[Hang]) -> Duration {
    let world = World::new().await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = daemon(&world, hangs).spawn();
    daemon
        .line("the program's", |line| line["line"] == "runs")
        .await;
    begin(&world, hangs);
    end(&daemon, hangs).await
}

#[tokio::test]
async fn each_hang_alone_and_all_at_once_end_within_the_grace_period() {
    for hang in ALL {
        println!("{hang:?}: {:?}", ends_in_mid_work(&[hang]).await);
    }
    println!("all at once: {:?}", ends_in_mid_work(&ALL).await);
}

#[tokio::test]
async fn a_start_that_hangs_ends_within_the_grace_period() {
    for hang in [Hang::Lookups, Hang::Disk, Hang::Credentials] {
        let world = World::new().await;
        let daemon = daemon(&world, &[hang]);
        begin(&world, &[hang]);
        let daemon = daemon.spawn();
        // SIGUSR1 is the last signal that a handler is installed for.
        let listens = || {
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()));
            let status = status.unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            caught.is_some_and(|caught| caught & (1 << 9) != 0)
        };
        until("signals are listened for", listens).await;
        println!("{hang:?} from the start: {:?}", end(&daemon, &[hang]).await);
    }
}

#[tokio::test]
async fn ends_under_random_hangs_are_in_time() {
    let ends = std::env::var("ENDS").map_or(4, |ends| ends.parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(0x5eed);
    let mut took = Vec::new();
    for _ in 0..ends {
        let hangs: Vec<_> = ALL.into_iter().filter(|_| rng.bool()).collect();
        took.push(ends_in_mid_work(&hangs).await);
    }
    took.sort();
    let above = took.iter().filter(|took| **took > GRACE).count();
    println!(
        "{ends} ends: {above} above the grace period, the longest {:?}",
        took.last()
    );
}
