//! Faults by rule and at random.

use http::Request;

use super::{cloudfront, detached, put, world};
use crate::{Action, Exchange, Faults, Rule, Seen, testing};

#[tokio::test(start_paused = true)]
async fn rules_strike_the_nth_call_and_hooks_come_between() {
    let (world, service) = world(|_| ());
    let id = service.production_id.clone();
    world.add_rule(
        Rule::on("UpdateDistribution")
            .about(&id)
            .nth(1)
            .then(Action::DropAfter),
    );
    let path = format!("distribution/{id}/config");
    let got = cloudfront(&world, "GET", &path, "", "").await;
    let request = |body: String| {
        Request::put(format!("/2020-05-31/{path}"))
            .header("if-match", &got.etag)
            .body(body.into_bytes())
            .unwrap()
    };
    let lost = world.handle(request(detached(got.body.clone()))).await;
    assert!(matches!(lost, Exchange::Dropped));
    assert_eq!(
        world.distribution(&id).unwrap().policy_id,
        "",
        "it took effect all the same"
    );
    let entry = world.journal().mutations().pop().unwrap();
    assert_eq!(entry.seen, Seen::Dropped);
    assert!(
        entry
            .to_string()
            .contains(&format!("policy {} detached", service.policy_id))
    );

    let other = service.clone();
    let between = Action::before(move |world, _| {
        world.deploy_again(&other).unwrap();
    });
    world.add_rule(Rule::on("UpdateDistribution").nth(1).then(between));
    assert_eq!(
        put(&world, &id, detached).await.outcome(),
        (412, "PreconditionFailed")
    );

    let denied = world.deny("GetDistribution");
    let path = format!("distribution/{id}");
    let answer = cloudfront(&world, "GET", &path, "", "").await;
    assert_eq!(answer.outcome(), (403, "AccessDenied"));
    world.remove_rule(denied);
    assert_eq!(cloudfront(&world, "GET", &path, "", "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_hurts_the_same_calls() {
    async fn run(seed: u64) -> Vec<String> {
        let world = testing::world(|settings| settings.seed = seed);
        let service = world.create_service("shop").unwrap();
        world.set_faults(Faults::storm());
        for _ in 0..60 {
            let path = format!("/2020-05-31/distribution/{}", service.staging_id);
            world
                .handle(Request::get(path).body(Vec::new()).unwrap())
                .await;
        }
        world
            .journal()
            .entries()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
    assert!(first.iter().any(|it| it.contains("throttled")));
    assert!(first.iter().any(|it| it.contains("connection cut")));
}
