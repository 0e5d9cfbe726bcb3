//! The cleanup itself: its order, from every state it can find, under every behaviour of AWS.

use std::time::Duration;

use embedded_aws::{
    Action, AttachedPolicyDelete, DeleteLag, OmittedPolicyId, Rule, Service,
    StagingAfterPolicyDelete, Switches,
};

use crate::harness::{PROPAGATION, World, assert_clean};

/// What a crash or an operator did before the daemon starts.
type Preparation = fn(&World, &Service);

/// Sets a switch; the duration is how long things lag.
type Switch = fn(&mut Switches, Duration);

const SAFE_ORDER: [&str; 5] = [
    "PutParameter",
    "UpdateDistribution",
    "DeleteContinuousDeploymentPolicy",
    "UpdateDistribution",
    "DeleteDistribution",
];

#[tokio::test(start_paused = true)]
async fn a_rejection_is_cleaned_up_in_the_safe_order_and_the_message_deleted_last() {
    let world = World::new();
    let service = world.service("shop");
    let before = world
        .aws
        .distribution(&service.production_id)
        .unwrap()
        .config;
    let began = tokio::time::Instant::now();
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;

    let took = began.elapsed();
    assert!(
        took >= 2 * PROPAGATION,
        "two propagations in sequence: {took:?}"
    );
    assert!(
        took.as_secs_f64() <= 2.0 * PROPAGATION.as_secs_f64() * 1.03,
        "{took:?}"
    );
    assert_eq!(world.changes(), SAFE_ORDER);
    assert_clean(&world, &service);

    let entries = world.aws.journal().entries();
    let position = |operation: &str| {
        entries
            .iter()
            .position(|entry| entry.is(operation) && entry.mutated())
            .unwrap()
    };
    assert!(position("DeleteDistribution") < position("DeleteMessageBatch"));
    let first = &entries[position("UpdateDistribution")];
    assert_eq!(first.call.resource.as_ref(), Some(&service.production_id));

    // Production changed in one element; everything else is what it was, byte for byte.
    let after = world
        .aws
        .distribution(&service.production_id)
        .unwrap()
        .config;
    let element =
        |id: &str| format!("<ContinuousDeploymentPolicyId>{id}</ContinuousDeploymentPolicyId>");
    assert!(after.contains("<FutureFeatureConfig mode=\"strict\">"));
    assert_eq!(
        before.replace(&element(&service.policy_id), &element("")),
        after
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_resumes_from_whatever_state_it_finds() {
    // Each is what a crash, or an operator, may have left.
    let states: [(&str, Preparation); 7] = [
        ("detached", detach),
        ("policy deleted", |world, service| {
            detach(world, service);
            world.aws.settle();
            world.aws.delete_policy(&service.policy_id).unwrap();
        }),
        ("staging disabled", disable),
        ("staging disabled and deployed", |world, service| {
            disable(world, service);
            world.aws.settle();
        }),
        ("staging deleted", |world, service| {
            disable(world, service);
            world.aws.settle();
            world.aws.delete_distribution(&service.staging_id).unwrap();
        }),
        ("all done but the parameter says so", |world, service| {
            disable(world, service);
            world.aws.settle();
            world.aws.delete_distribution(&service.staging_id).unwrap();
            world
                .aws
                .put_parameter(&service.staging_parameter, "deleted");
        }),
        ("production in progress", |world, service| {
            world
                .aws
                .edit_distribution(&service.production_id, "Comment", "someone else was here")
                .unwrap();
        }),
    ];
    for (name, prepare) in states {
        let world = World::new();
        let service = world.service("shop");
        prepare(&world, &service);
        world.reject(&service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        let changes = world.changes();
        assert!(
            is_subsequence(&changes, &SAFE_ORDER),
            "{name}: steps out of order: {changes:?}"
        );
        daemon.stop().await;
    }
}

fn detach(world: &World, service: &Service) {
    let element = "ContinuousDeploymentPolicyId";
    world
        .aws
        .edit_distribution(&service.production_id, element, "")
        .unwrap();
}

fn disable(world: &World, service: &Service) {
    detach(world, service);
    world.aws.settle();
    world.aws.delete_policy(&service.policy_id).unwrap();
    world
        .aws
        .edit_distribution(&service.staging_id, "Enabled", "false")
        .unwrap();
}

fn is_subsequence(part: &[String], whole: &[&str]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|step| whole.any(|next| next == step))
}

#[tokio::test(start_paused = true)]
async fn every_undocumented_behaviour_of_cloudfront_is_borne() {
    let lag = Duration::from_secs(20);
    let switches: [(&str, Switch); 15] = [
        ("policy delete during the detach", |s, _| {
            s.policy_delete_waits_for_detach = false
        }),
        ("unattached policy does not block", |s, _| {
            s.unattached_policy_blocks_disable = false
        }),
        ("disabled attached policy", |s, _| {
            s.disabled_attached_policy_delete = AttachedPolicyDelete::ClearsPrimary;
        }),
        ("stale reads", |s, lag| s.stale_reads = lag),
        ("stale reads and lists", |s, lag| {
            s.stale_reads = lag;
            s.stale_lists = true;
        }),
        ("delete lags with 409", |s, lag| s.delete_lag = lag),
        ("delete lags with 412", |s, lag| {
            s.delete_lag = lag;
            s.delete_lag_error = DeleteLag::PreconditionFailed;
        }),
        ("deleted stays visible", |s, lag| {
            s.deleted_stays_visible = lag
        }),
        ("omitted policy id clears", |s, _| {
            s.omitted_policy_id = OmittedPolicyId::Clears
        }),
        ("staging hides the policy", |s, _| {
            s.staging_shows_policy = false
        }),
        ("staging keeps the deleted policy's id", |s, _| {
            s.staging_after_policy_delete = StagingAfterPolicyDelete::StaleId;
        }),
        ("and looks it up when staging is updated", |s, _| {
            s.staging_after_policy_delete = StagingAfterPolicyDelete::StaleId;
            s.staging_policy_is_looked_up = true;
        }),
        ("staging update needs the policy id", |s, _| {
            s.staging_update_needs_policy_id = true
        }),
        ("an unchanged put is a change", |s, _| {
            s.unchanged_put_is_a_change = true
        }),
        ("everything lags", |s, lag| {
            s.stale_reads = lag;
            s.delete_lag = lag;
            s.deleted_stays_visible = lag;
            s.staging_after_policy_delete = StagingAfterPolicyDelete::StaleId;
        }),
    ];
    for (name, set) in switches {
        let world = World::with(|settings| set(&mut settings.switches, lag));
        let service = world.service("shop");
        world.reject(&service);
        let daemon = world.start("ledger.db");
        world.settled().await;
        assert_clean(&world, &service);
        assert_eq!(world.dead_letters(), 0, "{name}");
        assert_eq!(
            world.changes(),
            SAFE_ORDER,
            "{name}: a step was done twice, or out of order"
        );
        daemon.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_found_again_by_the_staging_domain_when_nothing_names_it() {
    // Detached by a process whose ledger is lost, and the staging distribution does not show it.
    let world = World::with(|settings| settings.switches.staging_shows_policy = false);
    let service = world.service("shop");
    detach(&world, &service);
    world.aws.settle();
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    assert!(
        world
            .aws
            .journal()
            .calls("ListContinuousDeploymentPolicies", None)
            > 0
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_that_leads_nowhere_gives_up_and_is_resumed_on_the_next_receive() {
    // One propagation takes longer than the propagation timeout.
    let world = World::with(|settings| settings.propagation = Duration::from_secs(15 * 60));
    let service = world.service("shop");
    world.reject(&service);
    let more = "[cleanup]\npropagation_timeout = \"10m\"\n";
    let daemon = world.start_with("ledger.db", more, false);
    world.settled().await;
    assert_clean(&world, &service);
    let metrics = daemon.telemetry.metrics();
    assert!(metrics.count("CleanupsStarted") >= 3);
    assert_eq!(
        metrics.count_by_reason("CleanupsFailed", "propagation_timeout"),
        1
    );
    assert_eq!(world.changes(), SAFE_ORDER);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_by_someone_else_between_reading_and_writing_is_looked_at_again() {
    let world = World::new();
    let service = world.service("shop");
    let id = service.production_id.clone();
    let meddled = id.clone();
    world.aws.add_rule(
        Rule::on("UpdateDistribution")
            .about(&id)
            .nth(1)
            .then(Action::before(move |aws, _| {
                aws.edit_distribution(&meddled, "Comment", "meanwhile")
                    .unwrap();
            })),
    );
    world.reject(&service);
    let daemon = world.start("ledger.db");
    world.settled().await;
    assert_clean(&world, &service);
    let config = world.aws.distribution(&id).unwrap().config;
    assert!(
        config.contains("<Comment>meanwhile</Comment>"),
        "their change was overwritten"
    );
    daemon.stop().await;
}
