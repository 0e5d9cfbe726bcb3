//! One cause is one report, however often it is met, and by whom.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_aws::{Action, Rule, Service};
use serde_json::Value;

use crate::harness::{Instance, Log, World};

/// The table of a ledger that is shared.
const TABLE: &str = "ledger";

/// The lines that fulfil a condition.
fn lines(log: &Log, condition: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut lines = log.with("");
    lines.retain(condition);
    lines
}

/// The reasons of the lines of level `ERROR`, in their order.
fn errors(log: &Log) -> Vec<String> {
    let errors = lines(log, |line| line["level"] == "ERROR");
    let reason = |line: &Value| line["reason"].as_str().unwrap_or_default().to_owned();
    errors.iter().map(reason).collect()
}

/// What several daemons counted, in total.
fn counted(daemons: &[&Instance], metric: &str) -> u64 {
    let count = |it: &&Instance| it.telemetry.metrics().count(metric);
    daemons.iter().map(count).sum()
}

const REFUSED: &str = "CleanupsRefused";
const FAILED: &str = "CleanupsFailed";
const MESSAGES: &str = "MessagesRefused";

/// What goes wrong with a message at each receive, by which reason, and which metric counts it.
type Trouble = (&'static str, &'static str, fn(&World, &Service));

const TROUBLES: [Trouble; 4] = [
    (REFUSED, "production_missing", |world, service| {
        let name = &service.production_parameter;
        world.aws.put_parameter(name, "ENOWHERETOBESEEN");
        world.reject(service);
    }),
    (FAILED, "access_denied", |world, service| {
        world.aws.deny("GetParameter");
        world.reject(service);
    }),
    (MESSAGES, "not_an_envelope", |world, _| {
        world.send("{\"half\": ");
    }),
    (MESSAGES, "no_target", |world, service| {
        let event = world.aws.rejection_event(service, &Default::default());
        world.send(&event.replace("\"stage\":\"Approve\"", "\"stage\":\"Another\""));
    }),
];

fn assert_one_report(log: &Log, daemons: &[&Instance], metric: &str, reason: &str) {
    assert_eq!(errors(log), [reason], "{metric}");
    for it in [REFUSED, FAILED, MESSAGES] {
        assert_eq!(
            counted(daemons, it),
            u64::from(it == metric),
            "{it}: {reason}"
        );
    }
    // The others are there, for who looks for them.
    let again = lines(log, |it| it["level"] == "DEBUG" && it["reason"] == reason);
    assert!(again.len() >= 4, "{reason}: {again:?}");
}

#[tokio::test(start_paused = true)]
async fn whatever_is_wrong_is_one_error_and_counts_once_over_five_receives() {
    for (metric, reason, trouble) in TROUBLES {
        let world = World::new();
        let service = world.service("shop");
        let (log, _listening) = Log::listen();
        trouble(&world, &service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_eq!(world.dead_letters(), 1, "{reason}");
        assert_one_report(&log, &[&daemon], metric, reason);
        daemon.stop().await;
    }
}

/// A process that is killed in between reports it once more, rather than never.
#[tokio::test(start_paused = true)]
async fn an_end_is_logged_before_the_ledger_keeps_that_it_was() {
    for (metric, reason, trouble) in TROUBLES.into_iter().filter(|it| it.0 != MESSAGES) {
        let world = World::new();
        world.aws.create_table(TABLE, "pk");
        let service = world.service("shop");
        let (log, _listening) = Log::listen();
        trouble(&world, &service);
        let logged: Arc<Mutex<Vec<usize>>> = Arc::default();
        let count = {
            let (log, logged) = (log.clone(), Arc::clone(&logged));
            Action::before(move |_, _| logged.lock().unwrap().push(errors(&log).len()))
        };
        world.aws.add_rule(Rule::on("UpdateItem").then(count));
        let daemon = world.start_in_table(TABLE, "").await;
        let released = |it: &Value| it["message"] == "message released";
        while lines(&log, released).is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let logged = logged.lock().unwrap().clone();
        assert_eq!(logged.first(), Some(&0), "{metric}, {reason}: its claim");
        assert_eq!(logged.last(), Some(&1), "{metric}, {reason}: its end");
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_between_two_receives_makes_no_cause_a_new_one() {
    for (metric, reason, trouble) in TROUBLES {
        let world = World::new();
        let service = world.service("shop");
        let (log, _listening) = Log::listen();
        trouble(&world, &service);
        let first = world.start("ledger.db");
        let received = |it: &Value| it["message"] == "message released";
        while lines(&log, received).len() < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let before = first.telemetry.clone();
        first.crash().await;
        let counts = [REFUSED, FAILED, MESSAGES].map(|it| before.metrics().count(it));
        assert_eq!(counts.iter().sum::<u64>(), 1, "{metric}, {reason}");
        let second = world.start("ledger.db");
        world.settled().await;
        assert_eq!(world.dead_letters(), 1, "{reason}");
        assert_eq!(errors(&log), [reason]);
        // Of a message without a job nobody knows whether its first report was ever written.
        let unsure = lines(&log, |it| it["level"] == "WARN" && it["reason"] == reason);
        let again = counted(&[&second], "MessagesReceived") > 0 && metric == MESSAGES;
        assert_eq!(unsure.len(), usize::from(again), "{unsure:?}");
        for it in [REFUSED, FAILED, MESSAGES] {
            assert_eq!(counted(&[&second], it), 0, "{it}: {reason}");
        }
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn several_instances_of_one_ledger_report_a_cause_once() {
    for (metric, reason, trouble) in TROUBLES {
        let world = World::new();
        world.aws.create_table(TABLE, "pk");
        let service = world.service("shop");
        let (log, _listening) = Log::listen();
        trouble(&world, &service);
        // They take turns, and each is a process of its own.
        let (mut reports, mut receives) = (0, 0);
        while world.dead_letters() == 0 {
            let daemon = world.start_in_table(TABLE, "").await;
            let metrics = daemon.telemetry.metrics();
            while metrics.count("MessagesReleased") == 0 && world.dead_letters() == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            receives += metrics.count("MessagesReceived");
            reports += metrics.count(metric);
            daemon.crash().await;
        }
        assert!(receives >= 5, "{receives}");
        assert_eq!((reports, errors(&log)), (1, vec![reason.to_owned()]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_sent_back_is_reported_once_more() {
    for (metric, reason, deny) in [
        (FAILED, "access_denied", true),
        (REFUSED, "production_missing", false),
    ] {
        let world = World::new();
        let service = world.service("shop");
        let (log, _listening) = Log::listen();
        if deny {
            world.aws.deny("GetParameter");
        } else {
            let name = &service.production_parameter;
            world.aws.put_parameter(name, "ENOWHERETOBESEEN");
        }
        let body = world.aws.rejection_event(&service, &Default::default());
        let daemon = world.start("ledger.db");
        for reports in 1..=2 {
            world.send(&body);
            world.settled().await;
            assert_eq!(world.dead_letters(), reports);
            assert_eq!(errors(&log), vec![reason; reports]);
            assert_eq!(counted(&[&daemon], metric), reports as u64);
        }
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_cause_is_a_new_error_and_the_job_counts_once() {
    let world = World::new();
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    let denied = world.aws.deny("GetParameter");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    while errors(&log).is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.aws.remove_rule(denied);
    // The second cause is of another kind, and counts as such.
    let name = &service.production_parameter;
    world.aws.put_parameter(name, "ENOWHERETOBESEEN");
    while errors(&log).len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.aws.put_parameter(name, "nowhere");
    world.settled().await;
    assert_eq!(
        errors(&log),
        [
            "access_denied",
            "production_missing",
            "production_parameter_invalid"
        ]
    );
    for (metric, reason) in [(FAILED, "access_denied"), (REFUSED, "production_missing")] {
        let metrics = daemon.telemetry.metrics();
        assert_eq!(metrics.count(metric), 1, "{metric}");
        assert_eq!(metrics.count_by_reason(metric, reason), 1, "{metric}");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_job_failed_is_counted_when_it_is_refused_itself() {
    let world = World::new();
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    world.aws.deny("GetParameter");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    while errors(&log).is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let consumer = daemon.daemon.consumer();
    consumer.set_targets(Default::default()).unwrap();
    world.settled().await;
    assert_eq!(errors(&log), ["access_denied", "no_target"]);
    for metric in [FAILED, MESSAGES] {
        assert_eq!(counted(&[&daemon], metric), 1, "{metric}");
    }
    daemon.stop().await;
}

/// The levels of the lines with this message, and for how many minutes what they tell of has lasted.
fn told(log: &Log, message: &str, field: &str) -> Vec<(String, Option<u64>)> {
    let told = lines(log, |line| line["message"] == message);
    let of = |line: &Value| {
        let level = line["level"].as_str().unwrap().to_owned();
        (level, line[field].as_u64().map(|ms| ms / 60_000))
    };
    told.iter().map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn what_lasts_is_logged_when_it_begins_every_five_minutes_and_when_it_ends() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let world = World::with(|settings| settings.propagation = minutes(12));
    let service = world.service("shop");
    let (log, _listening) = Log::listen();
    let denied = world.aws.deny("ReceiveMessage");
    let daemon = world.start("ledger.db");
    tokio::time::sleep(minutes(14)).await;
    world.aws.remove_rule(denied);
    world.reject(&service);
    world.settled().await;
    let fails = told(
        &log,
        "receiving fails; trying again with backoff",
        "took_ms",
    );
    assert_eq!(fails[0], ("ERROR".to_owned(), None));
    assert_eq!(fails.len(), 3, "{fails:?}");
    for ((level, lasts), at_least) in fails[1..].iter().zip([5, 10]) {
        let lasts = lasts.unwrap();
        assert!(
            level == "WARN" && (at_least..at_least + 4).contains(&lasts),
            "{fails:?}"
        );
    }
    let [(level, Some(took))] = &told(&log, "receiving works again", "took_ms")[..] else {
        panic!("it works again")
    };
    assert!(level == "INFO" && *took >= 14);

    // Both propagations.
    let waits = told(&log, "still waiting", "wait.took_ms");
    let waits: Vec<_> = waits
        .into_iter()
        .map(|(_, minutes)| minutes.unwrap())
        .collect();
    assert_eq!(waits, [5, 10, 5, 10]);
    assert_eq!(told(&log, "waiting", "").len(), 2);
    assert_eq!(told(&log, "wait ended", "").len(), 2);
    daemon.stop().await;
}
