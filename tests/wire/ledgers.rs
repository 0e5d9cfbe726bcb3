//! One suite for every ledger: the rules over SQLite, and a DynamoDB table in the embedded AWS.
//!
//! Each scenario has instances that share one ledger. Those of DynamoDB have clocks that differ by
//! minutes.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use stagesweep::aws::Connector;
use stagesweep::binding::Binding;
use stagesweep::clock::Clock;
use stagesweep::event::JobKey;
use stagesweep::ledger::{
    Bound, Claim, DynamoDbLedger, Grant, Ledger, LedgerError, RETENTION, Records,
};
use stagesweep::plan::Outcome;
use stagesweep::rehearsal::{Action, EmbeddedAws, Failure, Rule, Settings};
use stagesweep::telemetry::Telemetry;

/// How long leases are.
const LEASE: Duration = Duration::from_secs(120);

/// More than what any ledger waits beyond the end of a lease.
const MARGIN: Duration = Duration::from_secs(8);

const TABLE: &str = "ledger";

/// Where a scenario takes place.
enum Place {
    Records {
        records: Arc<Mutex<Records>>,
        clock: Clock,
    },
    Table {
        aws: EmbeddedAws,
    },
}

/// An instance: its own ledger object, its own clock.
struct Instance {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
}

impl Place {
    fn all() -> [Self; 2] {
        let clock = Clock::following_tokio("2026-09-03T14:21:08.6Z".parse().unwrap());
        let records = Arc::new(Mutex::new(Records::in_memory().unwrap()));
        let aws = EmbeddedAws::new(clock.clone(), Settings::default());
        aws.create_table(TABLE, "pk");
        [Self::Records { records, clock }, Self::Table { aws }]
    }

    /// An instance whose clock is so many minutes ahead.
    async fn instance(&self, owner: &str, ahead: i64) -> Instance {
        match self {
            Self::Records { records, clock } => Instance {
                ledger: Arc::new(SharedRecords {
                    records: Arc::clone(records),
                    owner: owner.to_owned(),
                    clock: clock.clone(),
                }),
                clock: clock.clone(),
            },
            Self::Table { aws } => table_instance(aws, owner, ahead).await.unwrap(),
        }
    }

    /// Two instances; where it may not matter, their clocks are ten minutes apart.
    async fn two(&self) -> (Instance, Instance) {
        (
            self.instance("one", 7).await,
            self.instance("two", -3).await,
        )
    }
}

async fn table_instance(
    aws: &EmbeddedAws,
    owner: &str,
    ahead: i64,
) -> Result<Instance, LedgerError> {
    let skew = Arc::new(AtomicI64::new(ahead * 60_000));
    let clock = aws.clock().on_another_machine(skew);
    let telemetry = Arc::new(Telemetry::new(clock.clone()));
    let connector = Connector::to_endpoint(
        "http://aws.test",
        "ap-northeast-1",
        Some(aws.http_client()),
        &clock,
        telemetry,
    );
    let table = connector.table(TABLE);
    let ledger = DynamoDbLedger::open(table, owner.to_owned(), clock.clone()).await?;
    Ok(Instance {
        ledger: Arc::new(ledger),
        clock,
    })
}

impl Instance {
    fn until(&self, lease: Duration) -> Timestamp {
        self.clock.now().checked_add(lease).unwrap()
    }

    async fn claim(&self, job: &str) -> Claim {
        let key = key(job);
        let claim = self.ledger.claim(&key, "shop", self.until(LEASE));
        claim.await.unwrap()
    }

    async fn grant(&self, job: &str) -> Grant {
        match self.claim(job).await {
            Claim::Granted { grant, .. } => grant,
            other => panic!("{other:?}"),
        }
    }

    async fn bound(&self, job: &str, production: &str) -> Grant {
        let grant = self.grant(job).await;
        let bound = self.ledger.bind(&grant, &binding(production)).await;
        assert_eq!(bound.unwrap(), Bound::Bound);
        grant
    }

    async fn bind(&self, grant: &Grant, production: &str) -> Bound {
        let bound = self.ledger.bind(grant, &binding(production)).await;
        bound.unwrap()
    }

    async fn renew(&self, grant: &Grant) -> Result<(), LedgerError> {
        self.ledger.renew(grant, self.until(LEASE)).await
    }

    /// Whether a time that the ledger named comes after the lease that was granted just now, and
    /// not long after it.
    fn is_end_of_lease(&self, until: Timestamp) {
        let left = until.duration_since(self.clock.now());
        let left = Duration::try_from(left).unwrap();
        assert!(LEASE - Duration::from_secs(2) <= left, "{left:?}");
        assert!(left <= LEASE + MARGIN, "{left:?}");
    }
}

fn key(job: &str) -> JobKey {
    JobKey::from(job.to_owned())
}

fn binding(production: &str) -> Binding {
    Binding {
        production_id: production.to_owned(),
        staging_id: "ESTAGING222222".to_owned(),
        staging_domain: Some("d222.cloudfront.net".to_owned()),
        policy_id: None,
        overwriting: None,
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

fn not_owner<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> bool {
    matches!(result.unwrap_err(), LedgerError::NotOwner { .. })
}

#[tokio::test(start_paused = true)]
async fn a_job_is_granted_to_one_at_a_time() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let grant = one.grant("job").await;
        match two.claim("job").await {
            Claim::Leased { until } => two.is_end_of_lease(until),
            other => panic!("{other:?}"),
        }
        // Its own may be claimed again, which voids the grant it had.
        let again = one.grant("job").await;
        assert!(again.epoch > grant.epoch);
        assert!(not_owner(one.renew(&grant).await));
        one.renew(&again).await.unwrap();
        one.ledger.release(&again, "stopped").await.unwrap();
        assert!(not_owner(one.renew(&again).await));
        let next = two.grant("job").await;
        assert!(next.epoch > again.epoch);
        // A void grant is given back in vain.
        one.ledger.release(&again, "stopped").await.unwrap();
        two.renew(&next).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let grant = one.grant("job").await;
        for _ in 0..5 {
            pass(LEASE * 3 / 4).await;
            one.renew(&grant).await.unwrap();
            assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
        }
        pass(LEASE - Duration::from_secs(3)).await;
        assert!(matches!(two.claim("job").await, Claim::Leased { .. }));
        pass(MARGIN + Duration::from_secs(3)).await;
        let taken = two.grant("job").await;
        assert!(taken.epoch > grant.epoch);
        assert!(not_owner(one.renew(&grant).await));
        assert!(not_owner(
            one.ledger.complete(&grant, Outcome::Cleaned).await
        ));
        assert!(not_owner(one.ledger.bind(&grant, &binding("EPROD")).await));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_done_stays_done() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let grant = one.bound("job", "EPROD").await;
        let complete = || one.ledger.complete(&grant, Outcome::Superseded);
        complete().await.unwrap();
        // The answer may have been lost.
        complete().await.unwrap();
        for instance in [&one, &two] {
            let outcome = Outcome::Superseded;
            assert_eq!(instance.claim("job").await, Claim::Done { outcome });
        }
        assert!(not_owner(one.renew(&grant).await));
        pass(RETENTION - Duration::from_secs(60)).await;
        two.ledger.prune().await.unwrap();
        assert!(matches!(two.claim("job").await, Claim::Done { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_binding_is_for_good() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let grant = one.bound("job", "EPROD").await;
        let complete = Binding {
            policy_id: Some("policy".to_owned()),
            overwriting: Some(7),
            ..binding("EPROD")
        };
        one.ledger.bind(&grant, &complete).await.unwrap();
        let elsewhere = one.ledger.bind(&grant, &binding("EOTHER")).await;
        assert!(matches!(
            elsewhere.unwrap_err(),
            LedgerError::BoundOtherwise { .. }
        ));
        pass(LEASE + MARGIN).await;
        match two.claim("job").await {
            Claim::Granted { binding, .. } => assert_eq!(binding, Some(complete)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_production_distribution_is_held_by_one_job_at_a_time() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let holder = one.bound("first", "EPROD").await;
        let waiting = two.grant("second").await;
        match two.bind(&waiting, "EPROD").await {
            Bound::ProductionBusy { until } => two.is_end_of_lease(until),
            Bound::Bound => panic!("both hold it"),
        }
        // Another one is free, and bound again by the same job.
        let third = two.bound("third", "EOTHER").await;
        assert_eq!(two.bind(&third, "EOTHER").await, Bound::Bound);

        one.ledger
            .complete(&holder, Outcome::Cleaned)
            .await
            .unwrap();
        assert_eq!(two.bind(&waiting, "EPROD").await, Bound::Bound);
        two.ledger.release(&waiting, "stopped").await.unwrap();
        one.bound("fourth", "EPROD").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_holders_production_distribution_is_taken_and_its_grant_is_void() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        let dead = one.bound("first", "EPROD").await;
        pass(LEASE / 2).await;
        let second = two.grant("second").await;
        assert_ne!(two.bind(&second, "EPROD").await, Bound::Bound);
        pass(LEASE / 2 + MARGIN).await;
        assert_eq!(two.bind(&second, "EPROD").await, Bound::Bound);
        assert!(not_owner(one.renew(&dead).await));
        assert!(not_owner(one.ledger.bind(&dead, &binding("EPROD")).await));
        // Claimed anew it waits its turn.
        let again = one.grant("first").await;
        assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
        two.renew(&second).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_claimed_again_holds_nothing_until_it_is_bound_again() {
    for place in Place::all() {
        let (one, two) = place.two().await;
        one.bound("first", "EPROD").await;
        let again = one.grant("first").await;
        let second = two.bound("second", "EPROD").await;
        assert_ne!(one.bind(&again, "EPROD").await, Bound::Bound);
        two.ledger
            .complete(&second, Outcome::Cleaned)
            .await
            .unwrap();
        assert_eq!(one.bind(&again, "EPROD").await, Bound::Bound);
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_who_ask_at_once_one_is_granted() {
    for place in Place::all() {
        let mut instances = Vec::new();
        for number in 0..8 {
            let owner = number.to_string();
            instances.push(place.instance(&owner, i64::from(number) - 4).await);
        }
        let claims = instances.iter().map(|it| it.claim("job"));
        let claims = futures_util::future::join_all(claims).await;
        let granted = |claim: &&Claim| matches!(claim, Claim::Granted { .. });
        assert_eq!(claims.iter().filter(granted).count(), 1, "{claims:?}");

        let mut grants = Vec::new();
        for (number, instance) in instances.iter().enumerate() {
            grants.push(instance.grant(&format!("job {number}")).await);
        }
        let binds = instances.iter().zip(&grants);
        let binds = binds.map(|(instance, grant)| instance.bind(grant, "EPROD"));
        let binds = futures_util::future::join_all(binds).await;
        let bound = |bound: &&Bound| **bound == Bound::Bound;
        assert_eq!(binds.iter().filter(bound).count(), 1, "{binds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_fails_is_an_error_and_works_again_when_it_is_mended() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    let missing = table_instance(&aws, "one", 0).await.err().unwrap();
    let message = missing.to_string();
    assert!(message.contains("create it"), "{message}");

    aws.create_table(TABLE, "id");
    let other_key = table_instance(&aws, "one", 0).await.err().unwrap();
    assert!(other_key.to_string().contains("partition key pk"));

    let aws = EmbeddedAws::new(aws.clock().clone(), Settings::default());
    aws.create_table(TABLE, "pk");
    let throttled = "ProvisionedThroughputExceededException";
    let rule = aws.add_rule(Rule::on_any().then(Action::Refuse(Failure::new(
        400,
        throttled,
        "The level of configured provisioned throughput for the table was exceeded.",
    ))));
    // Not a reason to refuse to start.
    let one = table_instance(&aws, "one", 0).await.unwrap();
    let claim = one
        .ledger
        .claim(&key("job"), "shop", one.until(LEASE))
        .await;
    assert!(matches!(claim.unwrap_err(), LedgerError::Table { .. }));
    assert!(one.ledger.check().await.is_err());
    aws.remove_rule(rule);
    one.ledger.check().await.unwrap();
    one.grant("job").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_made_again() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    aws.create_table(TABLE, "pk");
    let one = table_instance(&aws, "one", 2).await.unwrap();
    let two = table_instance(&aws, "two", -2).await.unwrap();
    for nth in [1, 3, 5, 7, 9, 11] {
        aws.add_rule(Rule::on("UpdateItem").nth(nth).then(Action::DropAfter));
    }
    let grant = one.bound("job", "EPROD").await;
    one.renew(&grant).await.unwrap();
    one.ledger.complete(&grant, Outcome::Cleaned).await.unwrap();
    assert!(matches!(two.claim("job").await, Claim::Done { .. }));
    two.bound("next", "EPROD").await;
}

/// The rules over SQLite, as several instances would share them.
#[derive(Debug)]
struct SharedRecords {
    records: Arc<Mutex<Records>>,
    owner: String,
    clock: Clock,
}

impl SharedRecords {
    fn with<T>(&self, work: impl FnOnce(&mut Records, Timestamp) -> T) -> T {
        work(&mut self.records.lock().unwrap(), self.clock.now())
    }
}

#[async_trait]
impl Ledger for SharedRecords {
    async fn claim(
        &self,
        key: &JobKey,
        pipeline: &str,
        until: Timestamp,
    ) -> Result<Claim, LedgerError> {
        self.with(|records, now| records.claim(&self.owner, key, pipeline, now, until))
    }

    async fn bind(&self, grant: &Grant, binding: &Binding) -> Result<Bound, LedgerError> {
        self.with(|records, now| records.bind(grant, binding, now))
    }

    async fn renew(&self, grant: &Grant, until: Timestamp) -> Result<(), LedgerError> {
        self.with(|records, now| records.renew(grant, now, until))
    }

    async fn complete(&self, grant: &Grant, outcome: Outcome) -> Result<(), LedgerError> {
        self.with(|records, now| records.complete(grant, outcome, now))
    }

    async fn release(&self, grant: &Grant, reason: &str) -> Result<(), LedgerError> {
        self.with(|records, now| records.release(grant, reason, now))
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.with(Records::check)
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        self.with(Records::prune)
    }
}
