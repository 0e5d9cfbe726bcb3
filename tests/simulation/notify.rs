//! Outcomes that are told: on an event bus and to a program, at least once, and in nobody's way.

use std::collections::BTreeSet;
use std::time::Duration;

use embedded_aws::{Action, EmbeddedAws, Failure, Rule};
use serde_json::Value;
use stagesweep::notify::DETAIL_TYPE;
use stagesweep::runtime::programs::Finish;

use crate::harness::{PATIENCE, World, assert_clean};

const ON: &str = "[notify]\nevent_bus = \"outcomes\"\nsource = \"releases\"";

fn world() -> World {
    let world = World::new();
    world.aws.create_event_bus("outcomes");
    world
}

/// The details of the events on the bus.
fn told(aws: &EmbeddedAws) -> Vec<Value> {
    let events = aws.events_on("outcomes");
    events.iter().map(|it| it["detail"].clone()).collect()
}

fn outcomes(aws: &EmbeddedAws) -> Vec<String> {
    let told = told(aws);
    let outcome = |it: &Value| it["outcome"].as_str().unwrap().to_owned();
    told.iter().map(outcome).collect()
}

async fn until(world: &World, count: usize) {
    let arrived = |aws: &EmbeddedAws| told(aws).len() >= count;
    world.aws.wait_until(arrived, PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_end_is_told_once_where_nothing_goes_wrong() {
    let world = world();
    let shop = world.service("shop");
    let blog = world.service("blog");
    let staging = world.aws.distribution(&blog.staging_id).unwrap();
    world
        .aws
        .put_parameter(&blog.production_parameter, "nonsense");
    world.reject(&shop);
    world.reject(&shop);
    let refused = world.reject(&blog);
    let junk = world.send("{}");
    let daemon = world.start_with("ledger.db", ON, false);
    world.settled().await;
    until(&world, 4).await;
    let detailed = |outcome: &str| -> Vec<Value> {
        let all = told(&world.aws).into_iter();
        all.filter(|it| it["outcome"] == *outcome).collect()
    };
    let cleaned = detailed("cleaned");
    assert_eq!(cleaned.len(), 1);
    assert_eq!(cleaned[0]["execution_id"], shop.execution_id);
    assert_eq!(cleaned[0]["pipeline"], shop.pipeline);
    let took = cleaned[0]["duration_ms"].as_u64().unwrap();
    assert!((340_000..400_000).contains(&took), "{took}");
    assert!(cleaned[0]["comment"].is_string(), "{}", cleaned[0]);
    let once = detailed("refused");
    assert_eq!(once.len(), 1, "it is met at each of five receives");
    assert_eq!(once[0]["reason"], "production_parameter_invalid");
    let dead = detailed("dead_lettered");
    let of = |id: &str| dead.iter().find(|it| it["message_id"] == *id).unwrap();
    assert_eq!(of(&refused)["execution_id"], blog.execution_id);
    assert_eq!(of(&refused)["receive_count"], 5);
    assert_eq!(of(&refused)["max_receive_count"], 5);
    assert_eq!(of(&junk)["reason"], "missing_field");
    assert!(of(&junk)["pipeline"].is_null());
    // And nothing else, later or at the next start.
    daemon.stop().await;
    let daemon = world.start_with("ledger.db", ON, false);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(outcomes(&world.aws).len(), 4, "{:?}", outcomes(&world.aws));
    let ids: BTreeSet<_> = told(&world.aws)
        .iter()
        .map(|it| it["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 4);
    let event = &world.aws.events_on("outcomes")[0];
    assert_eq!(event["source"], "releases");
    assert_eq!(event["detail-type"], DETAIL_TYPE);
    assert!(world.aws.distribution(&staging.id).is_some());
    daemon.stop().await;
}

/// Its job goes on, and counts the receives: the last of them is the last, wherever it was met.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_told_of_whose_last_receive_came_while_its_job_was_running() {
    let world = world();
    let service = world.service("shop");
    world.aws.deny("DeleteDistribution");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", ON, false);
    world.detached().await;
    // SQS delivers it four times more, although it is held.
    for receives in 2..=5 {
        world.aws.show_messages(&world.queues.url).unwrap();
        let received = |aws: &EmbeddedAws| aws.messages(&world.queues.url)[0].receives == receives;
        world.aws.wait_until(received, PATIENCE).await.unwrap();
    }
    world.settled().await;
    until(&world, 2).await;
    assert_eq!(outcomes(&world.aws), ["failed", "dead_lettered"]);
    assert_eq!(told(&world.aws)[1]["receive_count"], 5);
    for it in told(&world.aws) {
        let detail = it["detail"].to_string();
        let done = format!("{} says `deleted`, policy ", service.staging_parameter);
        assert!(detail.contains(&done), "{detail}");
        let left = format!("; left: staging distribution {}\"", service.staging_id);
        assert!(detail.contains(&left), "{detail}");
    }
    let metrics = daemon.telemetry.metrics();
    assert_eq!(metrics.count("CleanupsStarted"), 1);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_down_holds_no_job_up_and_gets_its_events_later() {
    let world = world();
    let service = world.service("shop");
    let down = world.aws.deny("PutEvents");
    world.reject(&service);
    let daemon = world.start_with("ledger.db", ON, false);
    world.settled().await;
    assert_clean(&world, &service);
    assert_eq!(told(&world.aws).len(), 0);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // It is not hammered meanwhile.
    let tried = world.aws.journal().calls("PutEvents", None);
    assert!((10..40).contains(&tried), "{tried}");
    world.aws.remove_rule(down);
    until(&world, 1).await;
    assert_eq!(outcomes(&world.aws), ["cleaned"]);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_outlives_the_process() {
    for crash in [false, true] {
        let world = world();
        let service = world.service("shop");
        world
            .aws
            .put_parameter(&service.production_parameter, "nonsense");
        let down = world.aws.deny("PutEvents");
        world.reject(&service);
        let daemon = world.start_with("ledger.db", ON, false);
        world.settled().await;
        let told_of = |aws: &EmbeddedAws| aws.journal().calls("PutEvents", None) > 0;
        world.aws.wait_until(told_of, PATIENCE).await.unwrap();
        if crash {
            daemon.crash().await;
        } else {
            daemon.stop().await;
        }
        world.aws.remove_rule(down);
        // With notifications switched off, they stay where they are.
        let daemon = world.start("ledger.db");
        tokio::time::sleep(Duration::from_secs(60)).await;
        daemon.stop().await;
        let daemon = world.start_with("ledger.db", ON, false);
        until(&world, 2).await;
        assert_eq!(outcomes(&world.aws), ["refused", "dead_lettered"]);
        daemon.stop().await;
        let daemon = world.start_with("ledger.db", ON, false);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(told(&world.aws).len(), 2);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_the_end_and_the_event_loses_nothing() {
    let world = world();
    let service = world.service("shop");
    // The very moment: the bus has not answered, and the message may be deleted or not.
    let hung = world.aws.add_rule(Rule::on("PutEvents").then(Action::Hang));
    world.reject(&service);
    let daemon = world.start_with("ledger.db", ON, false);
    let asked = |aws: &EmbeddedAws| aws.journal().calls("PutEvents", None) > 0;
    world.aws.wait_until(asked, PATIENCE).await.unwrap();
    daemon.crash().await;
    world.aws.remove_rule(hung);
    let daemon = world.start_with("ledger.db", ON, false);
    until(&world, 1).await;
    world.settled().await;
    assert_eq!(outcomes(&world.aws), ["cleaned"]);
    assert_clean(&world, &service);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_in_a_200_and_a_lost_answer_are_tried_again() {
    for action in [
        Action::RefuseEntries,
        Action::Refuse(Failure::server_error(
            embedded_aws::AwsService::EventBridge,
            false,
        )),
        Action::Throttle,
        Action::DropBefore,
    ] {
        let world = world();
        let service = world.service("shop");
        world
            .aws
            .add_rule(Rule::on("PutEvents").first(4).then(action));
        world.reject(&service);
        let daemon = world.start_with("ledger.db", ON, false);
        until(&world, 1).await;
        world.settled().await;
        assert_eq!(outcomes(&world.aws), ["cleaned"]);
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_outcomes_at_once_go_in_few_calls_and_a_drain_waits_for_them() {
    let world = world();
    for n in 0..18 {
        // There is nothing to take down: all are done at the same time.
        let service = world.rolled_back(&format!("shop{n}"));
        world.send(&world.aws.reject(&service).unwrap());
    }
    let slow = Action::Delay(Duration::from_millis(500));
    world.aws.add_rule(Rule::on("PutEvents").then(slow));
    world.start_with("ledger.db", ON, true).ended().await;
    assert_eq!(outcomes(&world.aws), ["already_clean"; 18]);
    let calls = world.aws.journal().calls("PutEvents", None);
    assert!((2..=4).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_once_for_each_reason_and_then_the_success() {
    let world = world();
    let service = world.service("shop");
    world
        .aws
        .add_rule(Rule::on("DeleteDistribution").first(2).then(Action::Deny));
    world.reject(&service);
    let daemon = world.start_with("ledger.db", ON, false);
    world.settled().await;
    until(&world, 2).await;
    assert_eq!(outcomes(&world.aws), ["failed", "cleaned"]);
    assert_eq!(told(&world.aws)[0]["reason"], "access_denied");
    let detail = told(&world.aws)[0]["detail"].to_string();
    assert!(detail.contains("DeleteDistribution"), "{detail}");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_gets_the_same_json_and_is_run_again_until_it_succeeds() {
    let world = world();
    let service = world.service("shop");
    let both = format!("{ON}\nprogram = [\"/opt/tell\", \"--channel\", \"releases\"]");
    world.programs.end_with([
        Ok(Finish::Exited(1)),
        Err(std::io::ErrorKind::NotFound),
        Ok(Finish::TimedOut),
    ]);
    world.reject(&service);
    let daemon = world.start_with("ledger.db", &both, false);
    world.settled().await;
    until(&world, 1).await;
    let tried = |_: &EmbeddedAws| world.programs.calls().len() == 4;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(tried(&world.aws), "{:?}", world.programs.calls());
    let calls = world.programs.calls();
    assert_eq!(calls[3].path.to_str(), Some("/opt/tell"));
    assert_eq!(calls[3].arguments, ["--channel", "releases"]);
    let input: Value = serde_json::from_str(&calls[3].input).unwrap();
    assert_eq!(input, told(&world.aws)[0]);
    daemon.stop().await;
    // Both took it: nothing is left for the next start.
    let daemon = world.start_with("ledger.db", &both, false);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.programs.calls().len(), 4);
    assert_eq!(told(&world.aws).len(), 1);
    daemon.stop().await;
}
