//! Targets that run a program: with a cleanup before it, and alone.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use embedded_aws::{Action, EventOptions, Form, Outcome, Review, Rule, Service};
use stagesweep::runtime::programs::{Finish, Invocation, Listener, Output, Programs};
use stagesweep::runtime::stop::{Stop, StopReason};

use crate::harness::{Log, World, assert_clean, assert_untouched};

/// Stands for programs: what each run comes to, and with what it was called. Virtual time passes in it.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    ends: Mutex<VecDeque<Result<Finish, io::ErrorKind>>>,
    took: Mutex<Duration>,
    calls: Mutex<Vec<Invocation>>,
}

impl Scripted {
    /// The next runs end so; those after them succeed.
    pub(crate) fn end_with(&self, ends: impl IntoIterator<Item = Result<Finish, io::ErrorKind>>) {
        self.ends.lock().unwrap().extend(ends);
    }

    /// Every run takes that long.
    fn take(&self, long: Duration) {
        *self.took.lock().unwrap() = long;
    }

    pub(crate) fn calls(&self) -> Vec<Invocation> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl Programs for Scripted {
    async fn run(
        &self,
        invocation: &Invocation,
        stop: &Stop,
        told: Listener<'_>,
    ) -> io::Result<Finish> {
        self.calls.lock().unwrap().push(invocation.clone());
        told(Output::Stderr, "working");
        let took = *self.took.lock().unwrap();
        tokio::select! {
            () = tokio::time::sleep(took) => {}
            reason = async {
                let reason = stop.stopped().await;
                if reason == StopReason::ShuttingDown {
                    tokio::time::sleep(invocation.after_stop).await;
                }
                reason
            } => return Ok(Finish::Stopped(reason)),
        }
        let end = self.ends.lock().unwrap().pop_front();
        end.unwrap_or(Ok(Finish::Exited(0)))
            .map_err(io::Error::from)
    }
}

const RUN: &str = r#"
run = ["/opt/undo", "--id={execution_id}", "{service}", "{stage}/{action} of {pipeline}"]
retry_on = [7]
timeout = "30m"
pass_environment = ["HTTPS_PROXY"]
"#;

/// A world whose target cleans, then runs a program.
fn both() -> World {
    let mut world = World::new();
    world.target = RUN.to_owned();
    world
}

/// A world with another target, which only runs a program for any approval of its pipeline.
fn alone() -> World {
    let mut world = World::new();
    world.target = format!(
        "[[targets]]\npipeline = \"batch-pipeline\"{}",
        RUN.replace("{service}", "-")
    );
    world
}

/// A rejection of the pipeline that only has a program.
fn batch_rejection(world: &World, name: &str) -> String {
    let service = batch(world, name);
    let options = EventOptions::default();
    world.aws.rejection_event(&service, &options)
}

/// An execution of the pipeline that only has a program.
fn batch(world: &World, name: &str) -> Service {
    Service {
        pipeline: "batch-pipeline".to_owned(),
        ..world.service(name)
    }
}

#[tokio::test(start_paused = true)]
async fn the_program_runs_once_after_the_cleanup_with_the_event_on_its_input() {
    let world = both();
    let service = world.service("shop");
    let program = world.programs.clone();
    // Not before everything is gone.
    let parameter = service.staging_parameter.clone();
    let body = world
        .aws
        .rejection_event(&service, &EventOptions::default());
    world.send(&body);
    world.send(&body);
    let seen = program.clone();
    world.aws.add_rule(
        Rule::on("DeleteDistribution").then(Action::before(move |aws, _| {
            assert_eq!(aws.parameter(&parameter).as_deref(), Some("deleted"));
            assert!(seen.calls().is_empty());
        })),
    );
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);

    let calls = program.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let event: serde_json::Value = serde_json::from_str(&body).unwrap();
    let id = event["detail"]["execution-id"].as_str().unwrap();
    assert_eq!(calls[0].path.to_str(), Some("/opt/undo"));
    let pipeline = &service.pipeline;
    assert_eq!(
        calls[0].arguments,
        [
            format!("--id={id}"),
            "shop".to_owned(),
            format!("Approve/Approve of {pipeline}")
        ]
    );
    assert_eq!(calls[0].input, body);
    assert_eq!(calls[0].timeout, Duration::from_secs(30 * 60));
    assert_eq!(calls[0].pass_environment, ["HTTPS_PROXY"]);
    let given = [
        ("STAGESWEEP_OUTCOME", "cleaned"),
        ("STAGESWEEP_EXECUTION_ID", id),
        ("STAGESWEEP_PIPELINE", pipeline),
        ("STAGESWEEP_STAGE", "Approve"),
        ("STAGESWEEP_ACTION", "Approve"),
        ("STAGESWEEP_ACCOUNT", &service.account),
        ("STAGESWEEP_REGION", &service.region),
    ];
    assert_eq!(
        calls[0].environment,
        given.map(|(name, value)| (name, value.to_owned()))
    );
    assert_eq!(daemon.telemetry.metrics().count("CleanupsSucceeded"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_alone_touches_nothing_else_and_is_for_any_approval_of_its_pipeline() {
    let world = alone();
    let body = batch_rejection(&world, "batch").replace("\"Approve\"", "\"Elsewhere\"");
    world.send(&body);
    // CodePipeline knows of no such stage.
    let unasked = "[verify]\ncodepipeline = false\n";
    let daemon = world.start_with("ledger.db", unasked, false);
    world.settled().await;
    assert_eq!(world.programs.calls().len(), 1);
    assert_eq!(
        world.programs.calls()[0].arguments[2],
        "Elsewhere/Elsewhere of batch-pipeline"
    );
    let ran = ("STAGESWEEP_OUTCOME", "ran".to_owned());
    assert!(world.programs.calls()[0].environment.contains(&ran));
    assert!(world.changes().is_empty(), "{:?}", world.changes());
    assert_eq!(world.dead_letters(), 0);
    // A duplicate after the end.
    world.send(&body);
    world.settled().await;
    assert_eq!(world.programs.calls().len(), 1);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "ran"), 1);
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "duplicate"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_another_try_gets_it_and_what_says_no_goes_to_the_dead_letter_queue() {
    use Finish::{Exited, Signalled, TimedOut};
    let world = alone();
    let again = [
        Ok(Exited(75)),
        Ok(Exited(7)),
        Ok(Signalled(9)),
        Ok(TimedOut),
    ];
    world.programs.end_with(again);
    world.send(&batch_rejection(&world, "batch"));
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_eq!((world.programs.calls().len(), world.dead_letters()), (5, 0));

    world.programs.end_with([Ok(Exited(3))]);
    world.send(&batch_rejection(&world, "other"));
    let began = tokio::time::Instant::now();
    world.settled().await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        (world.programs.calls().len(), world.dead_letters()),
        (6, 1),
        "it is asked once, and the message goes its way without it"
    );
    let metrics = daemon.telemetry.metrics();
    // Each job once, by its first cause.
    for (metric, reason) in [
        ("CleanupsFailed", "program_try_again"),
        ("CleanupsRefused", "program_failed"),
    ] {
        assert_eq!(metrics.count_by_reason(metric, reason), 1);
        assert_eq!(metrics.count(metric), 1);
    }
    assert_eq!(metrics.count("MessagesRefused"), 0);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_whose_program_cannot_start_is_not_done_twice_and_not_given_up() {
    let world = both();
    let service = world.service("shop");
    world.programs.end_with([
        Err(io::ErrorKind::NotFound),
        Err(io::ErrorKind::PermissionDenied),
    ]);
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(world.changes().len(), 5, "{:?}", world.changes());
    let calls = world.programs.calls();
    assert_eq!(calls.len(), 3);
    // The outcome is that of the whole job, whichever run did the cleanup.
    let cleaned = ("STAGESWEEP_OUTCOME", "cleaned".to_owned());
    assert!(calls.iter().all(|call| call.environment.contains(&cleaned)));
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "cleaned"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_cleanup_runs_no_program() {
    let world = both();
    let service = world.service("shop");
    world
        .aws
        .put_parameter(&service.production_parameter, "not an id");
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert!(world.programs.calls().is_empty());
    assert_untouched(&world, &service);
    assert_eq!(world.dead_letters(), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_a_program_runs_has_it_run_again_and_a_stop_lets_it_end() {
    let world = alone();
    world.programs.take(Duration::from_secs(600));
    world.send(&batch_rejection(&world, "batch"));
    let daemon = world.start("ledger.db");
    // Its message stays hidden, and the daemon well, for as long as it runs.
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(world.aws.depth(&world.queues.url).unwrap().in_flight, 1);
    assert!(daemon.daemon.consumer().vitals().stuck().is_none());
    daemon.crash().await;

    let daemon = world.start("ledger.db");
    world
        .aws
        .wait_until(
            |_| world.programs.calls().len() == 2,
            Duration::from_secs(600),
        )
        .await
        .unwrap();
    world.programs.take(Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(590)).await;
    // Within the grace period.
    daemon.stop().await;
    assert_eq!(world.programs.calls().len(), 2);
    assert_eq!(world.aws.messages(&world.queues.url).len(), 0);
    assert_eq!(world.dead_letters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_sooner_than_the_program_gives_the_message_back() {
    let world = alone();
    world.programs.take(Duration::from_secs(600));
    world.send(&batch_rejection(&world, "batch"));
    let daemon = world.start("ledger.db");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let began = tokio::time::Instant::now();
    daemon.stop().await;
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.aws.depth(&world.queues.url).unwrap().visible, 1);
    world.programs.take(Duration::ZERO);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_eq!(world.programs.calls().len(), 2);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_form_of_the_event_reaches_a_program_as_it_came() {
    let world = alone();
    let service = batch(&world, "batch");
    let options = EventOptions {
        form: Form::Older,
        ..EventOptions::default()
    };
    let body = world.aws.rejection_event(&service, &options);
    world.send(&body);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_eq!(world.programs.calls()[0].input, body);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_was_taken_back_runs_no_program() {
    for approved in [false, true] {
        let world = both();
        // Nothing to clean: only the program is left to be verified.
        let service = world.rolled_back("shop");
        tokio::time::advance(Duration::from_secs(60)).await;
        world.send(&world.aws.reject(&service).unwrap());
        if approved {
            world.aws.retry_approval(&service, 2);
            world.aws.review(&service, 2, Review::Approved);
        }
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_eq!(world.programs.calls().len(), usize::from(!approved));
        let outcome = if approved {
            "retracted"
        } else {
            "already_clean"
        };
        let metrics = daemon.telemetry.metrics();
        assert_eq!(metrics.count_by_reason("MessagesDeleted", outcome), 1);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_approval_that_expired_runs_no_program_where_such_are_ignored_and_the_log_says_so() {
    let (log, _listening) = Log::listen();
    let world = alone();
    let service = batch(&world, "batch");
    let options = EventOptions {
        outcome: Outcome::Expired,
        ..EventOptions::default()
    };
    world.send(&world.aws.rejection_event(&service, &options));
    let ignore = "[verify]\non_timeout = \"ignore\"\n";
    let daemon = world.start_with("ledger.db", ignore, false);
    world.settled().await;
    assert!(world.programs.calls().is_empty());
    assert_eq!(world.dead_letters(), 0);
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count_by_reason("MessagesDeleted", "undecided"), 1);
    let said = log.with("the approval expired");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        (&said[0]["level"], &said[0]["code"]),
        (&"WARN".into(), &"JobFailed".into())
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_whose_name_would_be_an_option_of_its_program_is_refused_before_anything_changes()
 {
    for both in [true, false] {
        let mut world = World::new();
        let run = "run = [\"/opt/undo\", \"{pipeline}\"]\n";
        // By a target that cleans first; by one that only runs the program.
        world.target = match both {
            true => run.to_owned(),
            false => {
                format!("[[targets]]\npipeline = \"{{name}}-pipeline\"\nstage = \"Gate\"\n{run}")
            }
        };
        let service = world.service("--profile-x");
        let body = world
            .aws
            .rejection_event(&service, &EventOptions::default());
        let body = match both {
            true => body,
            false => body.replace("\"stage\":\"Approve\"", "\"stage\":\"Gate\""),
        };
        world.send(&body);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_untouched(&world, &service);
        assert_eq!(world.programs.calls().len(), 0);
        assert_eq!(world.dead_letters(), 1);
        let metrics = daemon.telemetry.metrics();
        let reason = "program_argument_is_option";
        assert_eq!(metrics.count_by_reason("MessagesRefused", reason), 1);
        daemon.stop().await;
    }
}
