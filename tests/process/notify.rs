//! Outcomes that the real daemon tells: on a bus, and to a real program; after a `kill -9` too.

use embedded_aws::{Action, EmbeddedAws, Rule};
use serde_json::Value;

use crate::harness::{TARGET, World, noticed};
use crate::kept;

/// A configuration that tells both, the program writing a line for each outcome to a file.
fn both(world: &World) -> std::path::PathBuf {
    let file = world.path("told");
    let script = format!("cat >> {0}; echo >> {0}; echo noted", file.display());
    let notify = format!(
        "[notify]\nevent_bus = \"outcomes\"\nprogram = [\"/bin/sh\", \"-c\", \"{script}\"]\n{TARGET}"
    );
    world.write_config("notify.toml", &notify)
}

fn outcomes(aws: &EmbeddedAws) -> Vec<Value> {
    let events = aws.events_on("outcomes").into_iter();
    events.map(|mut it| it["detail"].take()).collect()
}

#[tokio::test]
async fn an_outcome_is_on_the_bus_and_on_a_programs_standard_input() {
    let world = World::new().await;
    world.aws.create_event_bus("outcomes");
    let shop = world.service("shop");
    world.reject(&shop);
    let config = both(&world);
    let daemon = world.program(&["run", "--drain", "--config"]);
    let daemon = daemon.argument(config).spawn();
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    world.assert_cleaned_once(&shop);
    let events = outcomes(&world.aws);
    assert_eq!(events.len(), 1, "{daemon:?}");
    kept::keep_document(&events[0]);
    assert_eq!(events[0]["outcome"], "cleaned");
    assert_eq!(events[0]["execution_id"], shop.execution_id);
    let told = std::fs::read_to_string(world.path("told")).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told, events[0]);
    let lines = daemon.lines();
    let wrote = |line: &Value| line["message"] == "program wrote" && line["line"] == "noted";
    assert!(lines.iter().any(wrote), "{daemon:?}");
}

#[tokio::test]
async fn an_outcome_that_was_not_sent_before_a_kill_is_sent_at_the_next_start() {
    let world = World::new().await;
    world.aws.create_event_bus("outcomes");
    let shop = world.service("shop");
    world.reject(&shop);
    let config = both(&world);
    let hung = world.aws.add_rule(Rule::on("PutEvents").then(Action::Hang));
    let asked = world.notice(Rule::on("PutEvents"));
    let run = || world.program(&["run", "--config"]).argument(config.clone());
    let daemon = run().spawn();
    noticed(asked).await;
    daemon.says("message deleted").await;
    daemon.killer()();
    daemon.exited().await;
    assert_eq!(outcomes(&world.aws).len(), 0);

    world.aws.remove_rule(hung);
    let daemon = run().spawn();
    let sent = |aws: &EmbeddedAws| outcomes(aws).len() == 1;
    world.until("the outcome is on the bus", sent).await;
    assert_eq!(outcomes(&world.aws)[0]["outcome"], "cleaned");
    daemon.stop().await;
    world.assert_cleaned_once(&shop);
}
