//! The packages on a machine with a real systemd: from the installation to the removal.
//!
//! One machine for all of it, as on a user's; so this is one test, told in chapters.

use std::time::Duration;

use embedded_aws::{Action, Rule, Service};
use tokio::time::Instant;

use crate::desk::Desk;
use crate::harness::{NEVER, PROPAGATION, SAFE_ORDER, TARGET, World, noticed};
use crate::machine::{Machine, UNIT};
use crate::{AUTHORITY, HOST, behind, released, text, until};

/// What is stopped or found out without waiting for anything.
const PROMPT: Duration = Duration::from_secs(8);

const CONFIG: &str = "/etc/stagesweep/config.toml";

/// What copies the log for an agent, and what looks for orphans.
const LOG: &str = "stagesweep-log.service";
const LOG_TIMER: &str = "stagesweep-log.timer";
const ORPHANS: &str = "stagesweep-orphans.service";

// The machine and the AWS at the other end of its calls go on while this test waits for a command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_package_from_its_installation_to_its_removal() {
    let machine = Machine::boot();
    installs_without_starting(&machine);
    a_bad_configuration_is_not_tried_again(&machine).await;
    is_ready_when_the_queue_has_answered(&machine).await;
    cleans_up_in_its_sandbox_and_reloads(&machine).await;
    goes_out_through_a_proxy_and_trusts_the_authority_that_is_named(&machine).await;
    hands_its_log_and_metrics_to_agents(&machine).await;
    survives_being_frozen_and_killed(&machine).await;
    stops_in_mid_wait_and_loses_nothing(&machine).await;
    is_given_the_time_of_its_grace_period(&machine).await;
    leaves_nothing(&machine).await;
    the_other_package_starts_too(&machine).await;
}

fn say(chapter: &str) {
    println!("-- {chapter}");
}

/// Configures the machine for a world.
fn configure(machine: &Machine, world: &World, more: &str) {
    let endpoint = format!("AWS_ENDPOINT_URL={}", world.endpoint_url());
    let environment = [
        &*endpoint,
        "AWS_REGION=ap-northeast-1",
        "AWS_ACCESS_KEY_ID=test",
        "AWS_SECRET_ACCESS_KEY=test",
    ];
    configure_with(machine, world, more, &environment.join("\n"));
}

/// The same, with another environment.
fn configure_with(machine: &Machine, world: &World, more: &str, environment: &str) {
    let config = std::fs::read_to_string(world.write_config("config.toml", more)).unwrap();
    let here = world.path("ledger.db").display().to_string();
    let config = config.replace(&here, "/var/lib/stagesweep/ledger.db");
    machine.write(CONFIG, config.as_bytes());
    let environment = format!("{environment}\n");
    machine.write("/etc/stagesweep/environment", environment.as_bytes());
}

/// Another world: with nothing in the log, and nothing in the ledger. (Each world has the same ids.)
fn anew(machine: &Machine) {
    machine.forget();
    machine.must(&["rm", "-rf", "/var/lib/private/stagesweep"]);
}

async fn waits(machine: &Machine, wait: &str, times: usize) {
    let waiting = |line: &serde_json::Value| line["message"] == "waiting" && line["wait"] == wait;
    machine.logs(wait, times, waiting).await;
}

async fn says(machine: &Machine, message: &str, times: usize) -> serde_json::Value {
    machine
        .logs(message, times, |line| line["message"] == message)
        .await
}

fn copy(machine: &Machine, ending: &str) -> String {
    let package = std::fs::read(released(ending)).unwrap();
    let path = format!("/tmp/stagesweep{ending}");
    machine.write(&path, &package);
    path
}

fn installs_without_starting(machine: &Machine) {
    say("the package installs, and waits for a configuration");
    let package = copy(machine, ".deb");
    machine.must(&["dpkg", "--path-include=/usr/share/*", "--install", &package]);
    assert_eq!(machine.property("ActiveState"), "inactive");
    let version = machine.must(&["stagesweep", "--version"]);
    let built = concat!("stagesweep ", env!("CARGO_PKG_VERSION"), " (");
    assert!(version.starts_with(built), "{version}");
    let help = machine.must(&["stagesweep", "--help"]);
    assert!(
        !help.contains("rehearse"),
        "no rehearsal is shipped\n{help}"
    );
    // From the same source as the help.
    let page = machine.must(&["zcat", "/usr/share/man/man1/stagesweep.1.gz"]);
    let completion = "/usr/share/bash-completion/completions/stagesweep";
    let completion = machine.must(&["cat", completion]);
    for verb in ["run", "check", "health"] {
        for (what, text) in [("page", &page), ("completion", &completion)] {
            assert!(text.contains(verb), "{verb} in the {what}");
        }
        let own = format!("/usr/share/man/man1/stagesweep-{verb}.1.gz");
        machine.must(&["zcat", &own]);
    }
    let example = "/usr/share/doc/stagesweep/examples/config.toml";
    machine.must(&["stagesweep", "check", "--config", example]);

    let unit = |name: &str| format!("/usr/lib/systemd/system/{name}");
    for name in [UNIT, LOG, LOG_TIMER, ORPHANS, "stagesweep-orphans.timer"] {
        let unit = unit(name);
        let verify = [
            "systemd-analyze",
            "verify",
            "--recursive-errors=no",
            "--man=no",
            &unit,
        ];
        assert_eq!(machine.must(&verify), "");
    }
    for (name, most) in [(UNIT, "12"), (ORPHANS, "12"), (LOG, "15")] {
        let threshold = format!("--threshold={most}");
        let exposure = [
            "systemd-analyze",
            "security",
            "--offline=true",
            &threshold,
            "--no-pager",
            &unit(name),
        ];
        machine.must(&exposure);
    }
}

async fn a_bad_configuration_is_not_tried_again(machine: &Machine) {
    say("a bad configuration is told in full, and not tried again");
    machine.write(CONFIG, b"[queue]\nwait_time = \"25s\"\n");
    machine.must_fail(&["systemctl", "start", UNIT]);
    machine
        .shows("ActiveState", |state| state == "failed")
        .await;
    assert_eq!(
        machine.property("SubState"),
        "failed",
        "it would be auto-restart"
    );
    assert_eq!(machine.property("ExecMainStatus"), "78");
    assert_eq!(machine.property("NRestarts"), "0");
    let log = machine.tell();
    assert!(
        log.contains("queue.url") && log.contains("queue.wait_time"),
        "{log}"
    );
    let (code, why) = machine.health();
    assert_eq!(code, Some(1), "{why}");
    machine.systemctl(&["reset-failed", UNIT]);
}

async fn is_ready_when_the_queue_has_answered(machine: &Machine) {
    say("it is ready when the queue has answered, and not before");
    let world = World::new().await;
    let denied = world.notice(Rule::on("ReceiveMessage"));
    world
        .aws
        .add_rule(Rule::on("ReceiveMessage").then(Action::Deny));
    configure(machine, &world, TARGET);
    machine.systemctl(&["start", "--no-block", UNIT]);
    noticed(denied).await;
    machine
        .shows("StatusText", |status| status.contains("first answer"))
        .await;
    assert_eq!(machine.property("ActiveState"), "activating");
    let (code, why) = machine.health();
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("access_denied"), "{why}");
    world.aws.calm();
    machine
        .shows("ActiveState", |state| state == "active")
        .await;
    machine
        .shows("StatusText", |status| status.starts_with("polling"))
        .await;
    let (code, how) = machine.health();
    assert_eq!(code, Some(0), "{how}");
    machine.systemctl(&["stop", UNIT]);
    assert_eq!(machine.property("Result"), "success");
    let (code, why) = machine.health();
    assert_eq!(code, Some(1));
    assert!(why.contains("no daemon"), "{why}");
}

async fn cleans_up_in_its_sandbox_and_reloads(machine: &Machine) {
    say("it cleans up in its sandbox, and reloads what is good");
    anew(machine);
    let world = World::new().await;
    let (shop, blog) = (world.service("shop"), world.service("blog"));
    let elsewhere = TARGET.replace("frontend", "backend");
    configure(machine, &world, &elsewhere);
    machine.systemctl(&["start", UNIT]);
    configure(machine, &world, TARGET);
    machine.systemctl(&["reload", UNIT]);
    let message = "configuration reloaded: targets and log level";
    says(machine, message, 1).await;
    world.reject(&shop);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    // It has no user of the machine's, and nothing but its state.
    let process = machine.property("MainPID");
    let status = machine.must(&["cat", &format!("/proc/{process}/status")]);
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}\n{status}");
    }
    machine.must(&["test", "-s", "/var/lib/private/stagesweep/ledger.db"]);

    configure(machine, &world, "surprise = true");
    let (_, why) = machine.must_fail(&["systemctl", "reload", UNIT]);
    assert!(why.contains("failed"), "{why}");
    machine.systemctl(&["kill", "--kill-whom=main", "--signal=HUP", UNIT]);
    says(
        machine,
        "the new configuration is bad; the old one stays",
        1,
    )
    .await;
    assert_eq!(machine.property("MainPID"), process);
    machine
        .shows("ActiveState", |state| state == "active")
        .await;
    world.reject(&blog);
    world.settled().await;
    world.assert_cleaned_once(&blog);
    machine.systemctl(&["stop", UNIT]);
}

async fn goes_out_through_a_proxy_and_trusts_the_authority_that_is_named(machine: &Machine) {
    say("it goes out through a proxy, and trusts the authority that its environment names");
    anew(machine);
    let world = World::new().await;
    let desk = Desk::open(&world).await;
    let shop = world.service("shop");
    world.reject(&shop);
    // As the environment file that is shipped has it.
    let authority = "/etc/stagesweep/authority.pem";
    machine.write(authority, &std::fs::read(AUTHORITY).unwrap());
    let environment = behind(&desk, authority).join("\n");
    configure_with(machine, &world, TARGET, &environment);
    machine.systemctl(&["start", UNIT]);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    assert_eq!(desk.hosts().into_iter().collect::<Vec<_>>(), [HOST]);
    machine.systemctl(&["stop", UNIT]);

    // Without the authority nobody is trusted who shows that certificate.
    anew(machine);
    let untrusting = environment.replace("AWS_CA_BUNDLE", "UNUSED");
    configure_with(machine, &world, TARGET, &untrusting);
    machine.systemctl(&["start", "--no-block", UNIT]);
    let failing = "receiving fails; trying again with backoff";
    let line = says(machine, failing, 1).await;
    let error = line["error"].to_string();
    assert!(
        error.contains("not trusted") && error.contains("AWS_CA_BUNDLE"),
        "{error}"
    );
    machine.systemctl(&["stop", UNIT]);
    machine.must(&["rm", authority]);
}

async fn hands_its_log_and_metrics_to_agents(machine: &Machine) {
    say("its log is a file that the agent reads and nobody else; rotated, nothing of it is lost");
    anew(machine);
    machine.must(&["groupadd", "--system", "cwagent"]);
    for user in ["cwagent", "nosy"] {
        let group = if user == "nosy" { "nogroup" } else { user };
        machine.must(&["useradd", "--system", "--gid", group, user]);
    }
    let world = World::new().await;
    let shop = world.service("shop");
    let metrics = "[telemetry]\nmetrics_interval = \"100ms\"\n\
                   metrics_sink = \"file:///var/log/stagesweep/metrics.log\"\n";
    configure(machine, &world, &format!("{metrics}{TARGET}"));
    machine.systemctl(&["start", UNIT]);
    machine.systemctl(&["enable", "--now", LOG_TIMER]);
    let path = "/var/log/stagesweep-log/stagesweep.log";
    let reads = |user: &str| machine.run(&["runuser", "--user", user, "--", "cat", path]);
    let copied = || {
        text(&reads("cwagent"))
            .contains("\"started\"")
            .then_some(())
    };
    until("the timer copies it", copied, || machine.tell()).await;
    assert!(!reads("nosy").status.success());

    // Both open a new file where theirs was renamed, and the daemon goes on.
    let counted = || {
        let count = machine.run(&["grep", "--count", "_aws", "/var/log/stagesweep/metrics.log"]);
        text(&count).trim().parse().unwrap_or(0_u32)
    };
    let some = || (counted() > 0).then_some(());
    until("there are metrics", some, || machine.tell()).await;
    machine.must(&["logrotate", "--force", "/etc/logrotate.d/stagesweep"]);
    until("there are metrics again", some, || machine.tell()).await;
    machine.must(&["test", "-s", "/var/log/stagesweep/metrics.log.1"]);
    world.reject(&shop);
    world.settled().await;
    world.assert_cleaned_once(&shop);

    // Beside the daemon, with its ledger.
    machine.systemctl(&["start", ORPHANS]);
    machine.systemctl(&["stop", UNIT]);
    machine.systemctl(&["disable", "--now", LOG_TIMER]);
    machine.systemctl(&["start", LOG]);
    let files = machine.must(&["sh", "-c", &format!("cat {path}.1 {path}")]);
    let units = [format!("--unit={UNIT}"), format!("--unit={ORPHANS}")];
    let journal = [
        "journalctl",
        "--quiet",
        "--output=cat",
        &units[0],
        &units[1],
    ];
    // The log of the chapters before this one is in it too.
    assert_eq!(files, machine.must(&journal));
    assert!(files.contains("\"quota\""), "{files}");
}

async fn survives_being_frozen_and_killed(machine: &Machine) {
    say("a frozen one is found out, killed and started again; a killed one goes on");
    anew(machine);
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    let message = world.reject(&shop);
    configure(machine, &world, TARGET);
    machine.drop_in("watchdog", "WatchdogSec=8s\nRestartSec=100ms");
    machine.systemctl(&["start", UNIT]);
    waits(machine, "detach_propagated", 1).await;
    let status = |status: &str| status.contains("1 detach_propagated");
    machine.shows("StatusText", status).await;
    let frozen = machine.property("MainPID");
    machine.must(&["kill", "-s", "STOP", &frozen]);
    let asked = Instant::now();
    let (code, why) = machine.health();
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("does not answer"), "{why}");
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    machine.shows("NRestarts", |restarts| restarts == "1").await;
    says(machine, "cleanup started", 2).await;
    waits(machine, "detach_propagated", 2).await;
    machine
        .shows("ActiveState", |state| state == "active")
        .await;
    let log = machine.tell();
    assert!(log.contains("Watchdog timeout"), "{log}");
    assert_ne!(machine.property("MainPID"), frozen);

    machine.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", UNIT]);
    machine.shows("NRestarts", |restarts| restarts == "2").await;
    let resumed = says(machine, "cleanup started", 3).await;
    assert_eq!(resumed["resumed"], true, "bound in the state directory");
    world.aws.settle();
    waits(machine, "disable_propagated", 1).await;
    world.aws.settle();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    world.assert_deleted_last(&shop, &message);
    machine.systemctl(&["stop", UNIT]);
}

/// Rejects, and waits until the job of it waits.
async fn waiting_job(machine: &Machine, world: &World, service: &Service) {
    world.reject(service);
    configure(machine, world, TARGET);
    // Or else the message would come back by itself.
    let drop_in = "Environment=STAGESWEEP__QUEUE__VISIBILITY_TIMEOUT=10m";
    machine.drop_in("visibility", drop_in);
    machine.systemctl(&["start", UNIT]);
    waits(machine, "detach_propagated", 1).await;
}

async fn stops_in_mid_wait_and_loses_nothing(machine: &Machine) {
    say("it stops in mid-wait within its time, and loses no message");
    anew(machine);
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    waiting_job(machine, &world, &shop).await;
    let asked = Instant::now();
    machine.systemctl(&["stop", UNIT]);
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    assert_eq!(machine.property("Result"), "success");
    assert_eq!((world.depth().visible, world.depth().in_flight), (1, 0));
    machine.systemctl(&["start", UNIT]);
    world.aws.settle();
    waits(machine, "disable_propagated", 1).await;
    world.aws.settle();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    machine.systemctl(&["stop", UNIT]);
}

async fn is_given_the_time_of_its_grace_period(machine: &Machine) {
    say("systemd gives it the time of its grace period");
    anew(machine);
    let world = World::with(PROPAGATION).await;
    let shop = world.service("shop");
    let began = world.notice(Rule::on("UpdateDistribution"));
    let slow = Action::Delay(Duration::from_secs(4));
    world
        .aws
        .add_rule(Rule::on("UpdateDistribution").first(1).then(slow));
    world.reject(&shop);
    configure(machine, &world, TARGET);
    machine.drop_in("stop", "TimeoutStopSec=2s");
    machine.systemctl(&["start", UNIT]);
    noticed(began).await;
    // The change has begun, and is not cut off.
    machine.systemctl(&["stop", UNIT]);
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(world.changes_of(&shop), SAFE_ORDER[..2]);
    assert_eq!(says(machine, "stopped", 1).await["messages.unsettled"], 0);
}

async fn leaves_nothing(machine: &Machine) {
    say("removed, it stops; purged, nothing of it is left");
    let world = World::new().await;
    configure(machine, &world, TARGET);
    machine.systemctl(&["start", UNIT]);
    machine.must(&["dpkg", "--remove", "stagesweep"]);
    machine.must_fail(&["systemctl", "is-active", UNIT]);
    machine.must(&["test", "-d", "/var/lib/private/stagesweep"]);
    machine.must(&["dpkg", "--purge", "stagesweep"]);
    for path in [
        "/var/lib/private/stagesweep",
        "/usr/bin/stagesweep",
        "/etc/stagesweep/environment",
        "/etc/logrotate.d/stagesweep",
        "/var/log/private/stagesweep",
        "/var/log/stagesweep-log",
    ] {
        machine.must_fail(&["test", "-e", path]);
    }
}

async fn the_other_package_starts_too(machine: &Machine) {
    say("the other distributions' package starts too");
    let world = World::new().await;
    let package = copy(machine, ".rpm");
    let rpm = ["rpm", "--install", "--nodeps", "--force-debian", &package];
    machine.must(&rpm);
    configure(machine, &world, TARGET);
    machine.systemctl(&["start", UNIT]);
    machine.must(&["stagesweep", "health"]);
    machine.must(&["rpm", "--erase", "--force-debian", "stagesweep"]);
    machine.must_fail(&["systemctl", "is-active", UNIT]);
    machine.must_fail(&["test", "-e", "/usr/bin/stagesweep"]);
}
