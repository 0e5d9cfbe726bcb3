//! One suite for every ledger: the rules over SQLite, a DynamoDB table in the embedded AWS, and one
//! in a server that others wrote.
//!
//! Each scenario has instances that share one ledger. Those of DynamoDB have clocks that differ by
//! minutes.

mod scenarios;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use jiff::Timestamp;
use stagesweep::aws::Connector;
use stagesweep::domain::binding::{Binding, Evidence};
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::event::JobKey;
use stagesweep::ledger::{
    Bound, Claim, DynamoDbLedger, Grant, Ledger, LedgerError, Records, Unfinished,
};
use stagesweep::rehearsal::{Action, EmbeddedAws, Failure, Rule, Settings};
use stagesweep::runtime::clock::Clock;
use stagesweep::telemetry::Telemetry;

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
    Server {
        endpoint: String,
        table: String,
    },
}

/// ministack, as `./tests/run` installs it.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    /// Starts one, and waits until it answers. Where somebody else was quicker to take its port, it ends,
    /// and is started on another one.
    async fn start() -> Self {
        let answers = async {
            loop {
                let mut server = Self::spawn();
                while server.child.try_wait().unwrap().is_none() {
                    if server.client().list_tables().send().await.is_ok() {
                        return server;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let answers = tokio::time::timeout(Duration::from_secs(90), answers);
        answers.await.expect("ministack never answers")
    }

    fn spawn() -> Self {
        let program = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/target/tools/python/bin/ministack"
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let child = Command::new(program)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("SFTP_ENABLED", "0")
            .env("IOT_MTLS_ENABLED", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program}: {error}; `./tests/run test` installs it");
            });
        Self {
            child,
            endpoint: format!("http://127.0.0.1:{port}"),
        }
    }

    fn client(&self) -> aws_sdk_dynamodb::Client {
        use aws_sdk_dynamodb::config::retry::RetryConfig;
        use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
        use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};

        let credentials = Credentials::new("rehearsal", "rehearsal", None, None, "test");
        let timeouts = TimeoutConfig::builder().operation_timeout(Duration::from_secs(20));
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("ap-northeast-1"))
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build())
            .endpoint_url(&self.endpoint)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// A table of its own.
    async fn place(&self, table: &str) -> Place {
        use aws_sdk_dynamodb::types::{
            AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
        };

        let key = KeySchemaElement::builder()
            .attribute_name("pk")
            .key_type(KeyType::Hash);
        let attribute = AttributeDefinition::builder()
            .attribute_name("pk")
            .attribute_type(ScalarAttributeType::S);
        self.client()
            .create_table()
            .table_name(table)
            .key_schema(key.build().unwrap())
            .attribute_definitions(attribute.build().unwrap())
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await
            .unwrap();
        Place::Server {
            endpoint: self.endpoint.clone(),
            table: table.to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An instance: its own ledger object, its own clock.
struct Instance {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    lease: Duration,
}

impl Place {
    fn all() -> [Self; 2] {
        let clock = Clock::following_tokio("2026-09-03T14:21:08.6Z".parse().unwrap());
        let records = Arc::new(Mutex::new(Records::in_memory().unwrap()));
        let aws = EmbeddedAws::new(clock.clone(), Settings::default());
        aws.create_table(TABLE, "pk");
        [Self::Records { records, clock }, Self::Table { aws }]
    }

    /// How long leases are: where time is real, short.
    fn lease(&self) -> Duration {
        Duration::from_secs(match self {
            Self::Records { .. } | Self::Table { .. } => 120,
            Self::Server { .. } => 6,
        })
    }

    fn is_virtual(&self) -> bool {
        !matches!(self, Self::Server { .. })
    }

    async fn pass(&self, time: Duration) {
        match self {
            Self::Records { .. } | Self::Table { .. } => tokio::time::advance(time).await,
            Self::Server { .. } => tokio::time::sleep(time).await,
        }
    }

    /// An instance whose clock is so many minutes ahead.
    async fn instance(&self, owner: &str, ahead: i64) -> Instance {
        let skew = Arc::new(AtomicI64::new(ahead * 60_000));
        let (ledger, clock): (Arc<dyn Ledger>, _) = match self {
            Self::Records { records, clock } => {
                let ledger = SharedRecords {
                    records: Arc::clone(records),
                    owner: owner.to_owned(),
                    clock: clock.clone(),
                };
                (Arc::new(ledger), clock.clone())
            }
            Self::Table { aws } => {
                let clock = aws.clock().on_another_machine(skew);
                let ledger = in_table(aws, owner, &clock).await.unwrap();
                (Arc::new(ledger), clock)
            }
            Self::Server { endpoint, table } => {
                let clock = Clock::following_tokio(Clock::system().now());
                let clock = clock.on_another_machine(skew);
                let table = connector(endpoint, None, &clock).table(table);
                let ledger = DynamoDbLedger::open(table, owner.to_owned(), clock.clone()).await;
                (Arc::new(ledger.unwrap()), clock)
            }
        };
        Instance {
            ledger,
            clock,
            lease: self.lease(),
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

fn connector(endpoint: &str, http: Option<SharedHttpClient>, clock: &Clock) -> Connector {
    let telemetry = Arc::new(Telemetry::new(clock.clone()));
    Connector::to_endpoint(endpoint, "ap-northeast-1", http, clock, telemetry)
}

async fn in_table(
    aws: &EmbeddedAws,
    owner: &str,
    clock: &Clock,
) -> Result<DynamoDbLedger, LedgerError> {
    let table = connector("http://aws.test", Some(aws.http_client()), clock).table(TABLE);
    DynamoDbLedger::open(table, owner.to_owned(), clock.clone()).await
}

impl Instance {
    fn until(&self) -> Timestamp {
        self.clock.now().checked_add(self.lease).unwrap()
    }

    async fn claim(&self, job: &str) -> Claim {
        let key = key(job);
        let claim = self.ledger.claim(&key, "shop", self.until());
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
        self.ledger.renew(grant, self.until()).await
    }

    /// Whether a time that the ledger named comes after the lease that was granted just now, and
    /// not long after it.
    fn is_end_of_lease(&self, until: Timestamp) {
        let left = until.duration_since(self.clock.now());
        let left = Duration::try_from(left).unwrap();
        assert!(self.lease - Duration::from_secs(3) <= left, "{left:?}");
        assert!(left <= self.lease + MARGIN, "{left:?}");
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
        evidence: Default::default(),
    }
}

fn not_owner<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> bool {
    matches!(result.unwrap_err(), LedgerError::NotOwner { .. })
}

/// A test for each scenario, and one for all of them on a server.
macro_rules! suite {
    ($($scenario:ident,)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $scenario() {
            for place in Place::all() {
                scenarios::$scenario(&place).await;
            }
        })*

        #[tokio::test]
        async fn a_server_that_others_wrote_agrees() {
            let server = Server::start().await;
            tokio::join!($(async {
                let place = server.place(stringify!($scenario)).await;
                scenarios::$scenario(&place).await;
            }),*);
        }
    };
}

suite! {
    a_job_is_granted_to_one_at_a_time,
    a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends,
    what_is_done_stays_done,
    a_binding_is_for_good,
    a_production_distribution_is_held_by_one_job_at_a_time,
    a_dead_holders_production_distribution_is_taken_and_its_grant_is_void,
    a_job_that_is_claimed_again_holds_nothing_until_it_is_bound_again,
    of_many_who_ask_at_once_one_is_granted,
    what_is_owed_is_kept_until_it_is_paid_and_not_without_a_bound,
    who_waits_gives_the_production_distribution_back_and_keeps_the_grant,
    what_has_changed_something_is_unfinished_until_it_is_done,
    the_evidence_of_a_job_outlives_its_holder,
}

/// Of a file, the tests of [`stagesweep::ledger::EmbeddedLedger`] show the same.
#[tokio::test(start_paused = true)]
async fn an_item_of_an_older_stagesweep_has_no_evidence_and_a_damaged_one_is_an_error() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    aws.create_table(TABLE, "pk");
    let (one, two) = Place::Table { aws: aws.clone() }.two().await;
    let changed = Binding {
        evidence: Evidence {
            changed: true,
            ..Evidence::default()
        },
        ..binding("EPROD")
    };
    let grant = one.grant("job").await;
    one.ledger.bind(&grant, &changed).await.unwrap();
    one.ledger.release(&grant, "stopped").await.unwrap();
    assert_eq!(two.ledger.unfinished().await.unwrap().len(), 1);

    write(
        &aws,
        "SET evidence = :evidence",
        Some("{\"version\": \"many\"}"),
    )
    .await;
    assert_eq!(two.ledger.unfinished().await.unwrap(), []);
    let claim = two.ledger.claim(&key("job"), "shop", two.until()).await;
    assert!(matches!(claim.unwrap_err(), LedgerError::Damaged { .. }));

    write(&aws, "REMOVE evidence, changed", None).await;
    assert_eq!(two.ledger.unfinished().await.unwrap(), []);
    match two.claim("job").await {
        Claim::Granted { grant, binding: it } => {
            assert_eq!(it, Some(binding("EPROD")));
            assert_eq!(two.bind(&grant, "EPROD").await, Bound::Bound);
        }
        other => panic!("{other:?}"),
    }
}

/// Changes the item of "job" as nobody but another version of stagesweep would.
async fn write(aws: &EmbeddedAws, change: &str, evidence: Option<&str>) {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::types::AttributeValue;

    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("ap-northeast-1"))
        .credentials_provider(Credentials::new(
            "rehearsal",
            "rehearsal",
            None,
            None,
            "test",
        ))
        .endpoint_url("http://aws.test")
        .http_client(aws.http_client())
        .build();
    let mut update = aws_sdk_dynamodb::Client::from_conf(config)
        .update_item()
        .table_name(TABLE)
        .key("pk", AttributeValue::S("job#job".to_owned()))
        .update_expression(change);
    if let Some(evidence) = evidence {
        update =
            update.expression_attribute_values(":evidence", AttributeValue::S(evidence.to_owned()));
    }
    update.send().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_table_that_fails_is_an_error_and_works_again_when_it_is_mended() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    let missing = in_table(&aws, "one", aws.clock()).await.unwrap_err();
    let message = missing.to_string();
    assert!(message.contains("create it"), "{message}");

    aws.create_table(TABLE, "id");
    let other_key = in_table(&aws, "one", aws.clock()).await.unwrap_err();
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
    let place = Place::Table { aws: aws.clone() };
    let one = place.instance("one", 0).await;
    let claim = one.ledger.claim(&key("job"), "shop", one.until()).await;
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
    let (one, two) = Place::Table { aws: aws.clone() }.two().await;
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

    async fn yield_production(&self, grant: &Grant) -> Result<(), LedgerError> {
        self.with(|records, _| records.yield_production(grant))
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, LedgerError> {
        self.with(Records::unfinished)
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

    async fn owe(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        self.with(|records, _| records.owe(id, notice))
    }

    async fn owed(&self) -> Result<Vec<String>, LedgerError> {
        self.with(|records, _| records.owed())
    }

    async fn paid(&self, ids: &[String]) -> Result<(), LedgerError> {
        self.with(|records, _| records.paid(ids))
    }

    async fn check(&self) -> Result<(), LedgerError> {
        self.with(Records::check)
    }

    async fn prune(&self) -> Result<usize, LedgerError> {
        self.with(Records::prune)
    }
}
