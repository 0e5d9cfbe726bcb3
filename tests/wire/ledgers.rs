//! The suite for every ledger, over a file, a DynamoDB table in the embedded AWS, and one in a server that others wrote.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use embedded_aws::{Action, EmbeddedAws, Failure, Rule, Settings};
use jiff::SignedDuration;
use jiff::fmt::rfc2822;
use stagesweep::aws::Connector;
use stagesweep::domain::binding::{Binding, Evidence};
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::history::{Note, Notes};
use stagesweep::ledger::{Bound, Claim, DynamoDbLedger, EmbeddedLedger, LedgerError, Store};
use stagesweep::runtime::clock::Clock;
use stagesweep::telemetry::Telemetry;
use tempfile::TempDir;

use crate::ledgers_of_all::{Instance, NOTHING, Place, binding, each_scenario, key};

const TABLE: &str = "ledger";

/// Where a scenario takes place.
enum At {
    /// The first instance is the daemon, the others are its guests.
    File {
        directory: TempDir,
        clock: Clock,
        daemon: AtomicBool,
    },
    Table {
        aws: EmbeddedAws,
    },
    Server {
        endpoint: String,
        table: String,
        passed: Passed,
    },
}

/// What is told to have passed on a server, in milliseconds: its answers are dated so much later. A real wait would
/// have to be longer than whatever a loaded machine takes for a call.
#[derive(Clone, Debug, Default)]
struct Passed(Arc<AtomicI64>);

impl Passed {
    fn date_later(&self, answer: &mut HttpResponse) {
        let date = answer.headers().get("date");
        let Some(date) = date.and_then(|it| rfc2822::parse(it).ok()) else {
            return;
        };
        let passed = SignedDuration::from_millis(self.0.load(Ordering::Relaxed));
        let later = date.timestamp() + passed;
        let later = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&later);
        answer.headers_mut().insert("date", later.unwrap());
    }
}

/// A client, or the connector of one, that shows what is told to have passed.
#[derive(Clone, Debug)]
struct Later<T> {
    inner: T,
    passed: Passed,
}

impl HttpClient for Later<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Later {
            inner: self.inner.http_connector(settings, components),
            passed: self.passed.clone(),
        })
    }
}

impl HttpConnector for Later<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (answer, passed) = (self.inner.call(request), self.passed.clone());
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            passed.date_later(&mut answer);
            Ok(answer)
        })
    }
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
    async fn place(&self, table: &str) -> At {
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
        At::Server {
            endpoint: self.endpoint.clone(),
            table: table.to_owned(),
            passed: Passed::default(),
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

impl At {
    fn all() -> [Self; 2] {
        let clock = Clock::following_tokio("2026-09-03T14:21:08.6Z".parse().unwrap());
        let aws = EmbeddedAws::new(clock.clone(), Settings::default());
        aws.create_table(TABLE, "pk");
        let file = Self::File {
            directory: tempfile::tempdir().unwrap(),
            clock,
            daemon: AtomicBool::new(false),
        };
        [file, Self::Table { aws }]
    }
}

impl Place for At {
    fn slack(&self) -> Duration {
        Duration::from_secs(match self {
            Self::File { .. } | Self::Table { .. } => 3,
            Self::Server { .. } => 25,
        })
    }

    fn is_virtual(&self) -> bool {
        !matches!(self, Self::Server { .. })
    }

    async fn pass(&self, time: Duration) {
        match self {
            Self::File { .. } | Self::Table { .. } => tokio::time::advance(time).await,
            Self::Server { passed, .. } => {
                // Two of its dates, which are of whole seconds, are then in order whatever they are read as.
                let time = time.max(Duration::from_secs(2));
                let time = i64::try_from(time.as_millis()).unwrap();
                passed.0.fetch_add(time, Ordering::Relaxed);
            }
        }
    }

    async fn instance(&self, owner: &str, ahead: i64) -> Instance {
        let skew = Arc::new(AtomicI64::new(ahead * 60_000));
        let (ledger, clock): (Arc<dyn Store>, _) = match self {
            Self::File {
                directory,
                clock,
                daemon,
            } => {
                let (path, clock) = (directory.path().join("ledger.db"), clock.clone());
                let ledger = match daemon.swap(true, Ordering::Relaxed) {
                    false => EmbeddedLedger::open(&path, owner.to_owned(), clock.clone()),
                    true => EmbeddedLedger::open_beside(&path, owner, clock.clone()),
                };
                (Arc::new(ledger.unwrap()), clock)
            }
            Self::Table { aws } => {
                let clock = Clock::following_tokio(aws.now()).on_another_machine(skew);
                let ledger = in_table(aws, owner, &clock).await.unwrap();
                (Arc::new(ledger), clock)
            }
            Self::Server {
                endpoint,
                table,
                passed,
            } => {
                let clock = Clock::following_tokio(Clock::system().now());
                let clock = clock.on_another_machine(skew);
                let later = SharedHttpClient::new(Later {
                    inner: aws_smithy_http_client::Builder::new().build_http(),
                    passed: passed.clone(),
                });
                let table = connector(endpoint, Some(later), &clock).table(table);
                let ledger = DynamoDbLedger::open(table, owner.to_owned(), clock.clone()).await;
                (Arc::new(ledger.unwrap()), clock)
            }
        };
        Instance {
            ledger,
            clock,
            lease: self.lease(),
            slack: self.slack(),
        }
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

/// A test for each scenario, and one for all of them on a server.
macro_rules! suite {
    ($($scenario:ident,)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $scenario() {
            for place in At::all() {
                crate::ledgers_of_all::scenarios::$scenario(&place).await;
            }
        })*

        #[tokio::test]
        async fn a_server_that_others_wrote_agrees() {
            let server = Server::start().await;
            tokio::join!($(async {
                let place = server.place(stringify!($scenario)).await;
                crate::ledgers_of_all::scenarios::$scenario(&place).await;
            }),*);
        }
    };
}

each_scenario!(suite);

/// Of a file, the tests of [`stagesweep::ledger::EmbeddedLedger`] show the same.
#[tokio::test(start_paused = true)]
async fn an_item_of_an_older_stagesweep_has_no_evidence_and_a_damaged_one_is_an_error() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    aws.create_table(TABLE, "pk");
    let (one, two) = At::Table { aws: aws.clone() }.two().await;
    let changed = Binding {
        evidence: Evidence {
            changed: true,
            ..Evidence::default()
        },
        ..binding("EPROD")
    };
    let grant = one.grant("job").await;
    one.ledger.bind(&grant, &changed, &NOTHING).await.unwrap();
    one.ledger
        .release(&grant, "stopped", &NOTHING)
        .await
        .unwrap();
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
        Claim::Granted {
            grant, binding: it, ..
        } => {
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
    let aws = EmbeddedAws::new(clock.clone(), Settings::default());
    let missing = in_table(&aws, "one", &clock).await.unwrap_err();
    let message = missing.to_string();
    assert!(message.contains("create it"), "{message}");

    aws.create_table(TABLE, "id");
    let other_key = in_table(&aws, "one", &clock).await.unwrap_err();
    assert!(other_key.to_string().contains("partition key pk"));

    let aws = EmbeddedAws::new(clock.clone(), Settings::default());
    aws.create_table(TABLE, "pk");
    let throttled = "ProvisionedThroughputExceededException";
    let rule = aws.add_rule(Rule::on_any().then(Action::Refuse(Failure::new(
        400,
        throttled,
        "The level of configured provisioned throughput for the table was exceeded.",
    ))));
    // Not a reason to refuse to start.
    let place = At::Table { aws: aws.clone() };
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
    let (one, two) = At::Table { aws: aws.clone() }.two().await;
    for nth in [1, 3, 5, 7, 9, 11] {
        aws.add_rule(Rule::on("UpdateItem").nth(nth).then(Action::DropAfter));
    }
    let grant = one.bound("job", "EPROD").await;
    one.renew(&grant).await.unwrap();
    one.ledger
        .complete(&grant, Outcome::Cleaned, &NOTHING)
        .await
        .unwrap();
    assert!(matches!(two.claim("job").await, Claim::Done { .. }));
    two.bound("next", "EPROD").await;
}

/// Until the attribute `asked`, the trail alone said who asked.
#[tokio::test(start_paused = true)]
async fn an_item_of_an_older_stagesweep_says_by_its_trail_who_asked() {
    let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
    let aws = EmbeddedAws::new(clock, Settings::default());
    aws.create_table(TABLE, "pk");
    let one = At::Table { aws: aws.clone() }.instance("one", 0).await;
    let grant = one.grant("job").await;
    let mut notes = Notes::default();
    let about = stagesweep::domain::history::About {
        execution_id: "execution".to_owned(),
        pipeline_arn: "arn:aws:codepipeline:eu-west-1:123456789012:shop".to_owned(),
        stage: "Approve".to_owned(),
        action: "Approve".to_owned(),
        target: "shop".to_owned(),
        comment: None,
        rejected_at_ms: 1,
        unasked: false,
        last_receive: true,
    };
    notes.note(Note::Began(about), one.clock.now());
    one.ledger.release(&grant, "stopped", &notes).await.unwrap();
    write(&aws, "REMOVE asked, last_receive", None).await;
    match one.claim("job").await {
        Claim::Granted { past, .. } => assert_eq!(past.notes, notes),
        other => panic!("{other:?}"),
    }
}
