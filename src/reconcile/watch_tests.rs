use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;
use crate::aws::Connector;
use crate::domain::error_class::ErrorClass;
use crate::runtime::clock::Clock;
use crate::telemetry::Telemetry;
use embedded_aws::{Action, EmbeddedAws, Failure, Rule, Service, Settings};

const SECOND: Duration = Duration::from_secs(1);

const LOOK: &str = "GetDistribution";

const LIST: &str = "ListDistributions";

const PACE: Pace = Pace {
    min: Duration::from_secs(2),
    max: Duration::from_secs(15),
};

struct Rig {
    aws: EmbeddedAws,
    service: Service,
    watcher: Watcher,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
        let mut settings = Settings::default();
        change(&mut settings);
        let aws = EmbeddedAws::new(clock.clone(), settings);
        let service = aws.create_service("shop").unwrap();
        let telemetry = Arc::new(Telemetry::new(clock.clone()));
        let account = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(aws.http_client()),
            &clock,
            telemetry,
        )
        .account();
        let watcher = Watcher::new(account.cloudfront, PACE, Tasks::default());
        Self {
            aws,
            service,
            watcher,
        }
    }

    /// A change of production that propagates from now on.
    fn change(&self) -> Instant {
        let comment = format!("changed at {}", self.aws.now());
        self.aws
            .edit_distribution(&self.service.production_id, "Comment", &comment)
            .unwrap();
        Instant::now()
    }

    async fn deployed(&self, changed_at: Instant) -> Result<Seen, Arc<AwsError>> {
        self.wait(&self.service.production_id, changed_at, Until::Deployed)
            .await
    }

    async fn wait(
        &self,
        id: &str,
        changed_at: Instant,
        until: Until,
    ) -> Result<Seen, Arc<AwsError>> {
        let ended = self.watcher.wait(id, Some(changed_at), until).await?;
        Ok(ended.seen)
    }

    fn looks(&self) -> usize {
        self.aws.journal().calls(LOOK, None)
    }

    /// When each look was made, in seconds since `start`.
    fn look_times(&self, start: jiff::Timestamp) -> Vec<f64> {
        self.aws
            .journal()
            .entries()
            .iter()
            .filter(|entry| entry.is(LOOK))
            .map(|entry| entry.at.duration_since(start).as_secs_f64())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn many_waits_for_one_distribution_cost_the_looks_of_one() {
    let rig = Rig::new(|_| {});
    let changed_at = rig.change();
    let alone = rig.deployed(changed_at).await.unwrap();
    let looks_alone = rig.looks();
    assert!(alone.after >= 170 * SECOND && alone.unseen < 170 * SECOND);

    let rig = Rig::new(|_| {});
    let changed_at = rig.change();
    let all = join_all((0..50).map(|_| rig.deployed(changed_at))).await;
    assert_eq!(rig.looks(), looks_alone);
    for seen in all {
        assert_eq!(seen.unwrap(), alone);
    }
    // One who comes late does not make looks any closer.
    let start = rig.aws.now();
    let changed_at = rig.change();
    let late = async {
        tokio::time::sleep(10 * SECOND).await;
        rig.deployed(Instant::now()).await
    };
    let (first, late) = tokio::join!(rig.deployed(changed_at), late);
    assert_eq!(first.unwrap().after, alone.after);
    late.unwrap();
    let times = rig.look_times(start);
    let closest = times
        .windows(2)
        .filter(|pair| pair[0] > 0.0)
        .map(|pair| pair[1] - pair[0])
        .fold(f64::MAX, f64::min);
    // A twentieth is allowed for timers that fire late.
    assert!(closest > PACE.min.as_secs_f64() * 0.949, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn distributions_are_watched_apart() {
    let rig = Rig::new(|_| {});
    let changed_at = rig.change();
    let staging = rig.wait(&rig.service.staging_id, changed_at, Until::Deployed);
    let (production, staging) = tokio::join!(rig.deployed(changed_at), staging);
    assert!(
        staging.unwrap().after < 3 * SECOND,
        "it was deployed already"
    );
    assert!(production.unwrap().after >= 170 * SECOND);
    let journal = rig.aws.journal();
    assert_eq!(journal.calls(LOOK, Some(&rig.service.staging_id)), 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_several_distributions_is_seen_soon() {
    let rig = Rig::new(|_| {});
    let all: Vec<_> = (0..6)
        .map(|number| {
            let name = format!("shop{number}");
            rig.aws.create_service(&name).unwrap().production_id
        })
        .collect();
    // Each is changed a little after the one before.
    let waits = all.iter().zip(0_u32..).map(|(id, number)| {
        let rig = &rig;
        async move {
            tokio::time::sleep(SECOND.mul_f64(0.15) * number).await;
            rig.aws.edit_distribution(id, "Comment", "changed").unwrap();
            rig.wait(id, Instant::now(), Until::Deployed).await.unwrap()
        }
    });
    for seen in join_all(waits).await {
        assert!(seen.after >= 170 * SECOND && seen.after < 172 * SECOND);
        assert!(seen.unseen > 155 * SECOND && seen.unseen < 170 * SECOND);
    }
    assert_eq!(rig.aws.journal().calls(LIST, None), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_was_begun_before_the_wait_does_not_end_it() {
    let rig = Rig::new(|_| {});
    // The look at 2.1 s is answered at 6.1 s only, the next one at 10.1 s.
    rig.aws
        .add_rule(Rule::on(LOOK).then(Action::Delay(4 * SECOND)));
    let changed_at = Instant::now();
    let early = rig.deployed(changed_at);
    let late = async {
        tokio::time::sleep(3 * SECOND).await;
        let seen = rig.deployed(changed_at).await;
        (seen, rig.looks())
    };
    let (early, (late, looks)) = tokio::join!(early, late);
    assert!(early.unwrap().after < 3 * SECOND);
    assert!(late.unwrap().after > 5 * SECOND);
    assert_eq!(looks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_reading_is_not_what_is_waited_for() {
    let rig = Rig::new(|settings| settings.switches.stale_reads = 30 * SECOND);
    // Old status, old fields: deployed, but without the change.
    let id = &rig.service.production_id;
    rig.aws
        .edit_distribution(id, "ContinuousDeploymentPolicyId", "")
        .unwrap();
    let policy_id = Some(rig.service.policy_id.clone());
    let changed_at = Instant::now();
    let old = rig.watcher.inner.cloudfront.distribution(id).await.unwrap();
    assert_eq!(old.map(|old| old.policy_id), Some(policy_id.clone()));
    let seen = rig
        .wait(id, changed_at, Until::Detached { policy_id })
        .await
        .unwrap();
    assert!(seen.after >= 170 * SECOND, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn when_the_last_wait_is_gone_so_are_the_looks() {
    let rig = Rig::new(|_| {});
    let changed_at = rig.change();
    let first = timeout(20 * SECOND, rig.deployed(changed_at));
    let second = timeout(40 * SECOND, rig.deployed(changed_at));
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err() && second.is_err());
    let start = rig.aws.now();
    let times = rig.look_times(start);
    // The first to go did not end the other's looks.
    assert!(times.iter().any(|at| *at > -15.0), "{times:?}");
    let looks = rig.looks();
    tokio::time::sleep(600 * SECOND).await;
    assert_eq!(rig.looks(), looks);
    assert!(rig.watcher.inner.looks.lock().watches.is_empty());

    // The next one starts a watch of its own.
    rig.deployed(Instant::now()).await.unwrap();
    assert_eq!(rig.looks(), looks + 1);
}

#[tokio::test(start_paused = true)]
async fn transient_failures_of_a_look_are_retried_for_ever_with_backoff() {
    let rig = Rig::new(|_| {});
    let rule = rig.aws.add_rule(Rule::on(LOOK).then(Action::Throttle));
    let changed_at = rig.change();
    let wait = rig.deployed(changed_at);
    tokio::pin!(wait);
    assert!(timeout(3600 * SECOND, &mut wait).await.is_err());
    let looks = rig.looks();
    // Each look is up to three attempts of the SDK.
    assert!((3600 / 20..3 * 3600 / 7).contains(&looks), "{looks}");
    rig.aws.remove_rule(rule);
    // After an hour of it the limiter lets one read through in about a minute.
    assert!(timeout(90 * SECOND, wait).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_the_next_look_cannot_mend_ends_every_wait() {
    let rig = Rig::new(|_| {});
    rig.aws.deny(LOOK);
    let changed_at = rig.change();
    let (one, two) = tokio::join!(rig.deployed(changed_at), rig.deployed(changed_at));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(error.class, ErrorClass::AccessDenied);
    }
    assert_eq!(rig.looks(), 1);
    assert!(rig.watcher.inner.looks.lock().watches.is_empty());

    // What does not exist is a reading, no failure.
    rig.aws.calm();
    let gone = rig.wait("ENOSUCH", Instant::now(), Until::Gone);
    gone.await.unwrap();
    // A proxy's word for it is neither.
    let page = Failure::new(404, "NoSuchKey", "not CloudFront's");
    rig.aws
        .add_rule(Rule::on(LOOK).first(9).then(Action::Refuse(page)));
    let gone = rig.wait(&rig.service.production_id, Instant::now(), Until::Gone);
    assert!(timeout(600 * SECOND, gone).await.is_err());
}
