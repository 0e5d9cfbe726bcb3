//! The AWS calls of the daemon. The only files that import an AWS SDK; SDK types stop here.
//!
//! Each service has one small client that speaks the vocabulary of the rest of the program
//! ([`crate::domain::decision::Distribution`], [`crate::domain::binding::ParameterVersion`], [`sqs::Message`]) and
//! turns every failure into an [`AwsError`] of a known class.
//!
//! **Timeouts.** The SDK has none on reading by default, and a long poll on a dead connection then
//! hangs for ever. So there are three SQS clients: one for receiving, whose attempt may take the wait
//! time and [`RECEIVE_MARGIN`] more; one for settling, whose callers try again by themselves, because
//! they know whether the receipt handle is still the newest; and one for everything else. What is
//! retried here has retry tokens of its own.

pub mod authorities;
mod calls;
pub mod cloudfront;
pub mod codepipeline;
pub mod dynamodb;
pub mod edit;
mod endpoint;
pub mod error;
pub mod eventbridge;
pub mod iam;
pub mod identity;
pub mod limiter;
pub mod pulse;
mod reply;
pub mod settings;
pub mod sign_in;
pub mod sqs;
pub mod ssm;
mod sts;
mod web;
mod words;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sqs::config::retry::RetryPartition;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use aws_types::service_config::ServiceConfigKey;

pub use endpoint::queue_endpoint;
pub use error::AwsError;
pub use settings::{Asked, Said, Settings};
pub use sign_in::NotSignedIn;

use crate::domain::targets::Role;
use crate::runtime::activity::Activity;
use crate::runtime::clock::Clock;
use crate::runtime::stop::Stop;
use crate::telemetry::Telemetry;
use authorities::Authorities;
use calls::{CountCalls, NoteHost, TellLimiter};
use endpoint::Door;
use limiter::{Gate, Limiter};
use sign_in::{How, SignIn};
use web::Web;

/// What a receive may take above its wait time before the connection counts as dead.
pub const RECEIVE_MARGIN: Duration = Duration::from_secs(10);

/// One attempt of any other call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// All attempts of any other call together.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Attempts of one call by the SDK, the first included.
const MAX_ATTEMPTS: u32 = 3;

/// How long before its credentials end a role is assumed again; by chance up to half of that later, so
/// that not all roles are assumed at once. Longer than any call takes.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);

/// The clients of everything that a cleanup looks at and changes.
#[derive(Clone, Debug)]
pub struct Account {
    pub cloudfront: cloudfront::CloudFront,
    pub ssm: ssm::ParameterStore,
    /// CodePipeline, which a cleanup only asks.
    pub codepipeline: codepipeline::CodePipeline,
}

impl Account {
    /// The same clients for one job: a call that has to wait for the account's limiter shows that the
    /// job lives, and is not made once the job is told to stop.
    #[must_use]
    pub fn for_job(&self, stop: &Stop, activity: &Activity) -> Self {
        Self {
            cloudfront: self.cloudfront.for_job(stop, activity),
            ssm: self.ssm.for_job(stop, activity),
            codepipeline: self.codepipeline.for_job(stop, activity),
        }
    }
}

/// What every client's configuration begins with.
macro_rules! client {
    ($sdk:ident, $name:literal, $from:expr) => {
        $sdk::config::Builder::from(&$from.sdk)
            .retry_config(retry())
            .retry_partition(partition($name))
            .timeout_config(timeouts())
            .interceptor(CountCalls($from.telemetry.clone()))
            .interceptor(NoteHost)
    };
}

/// Where clients come from: the SDK's configuration and what every client shares.
#[derive(Clone, Debug)]
pub struct Connector {
    sdk: SdkConfig,
    telemetry: Arc<Telemetry>,
    /// Of credentials that are given, none.
    sign_in: Option<SignIn>,
}

/// The right to call: the daemon's own, or a role's.
#[derive(Clone, Debug)]
pub struct Principal {
    sdk: SdkConfig,
    telemetry: Arc<Telemetry>,
}

impl Connector {
    /// Takes credentials, region and endpoints from what is `asked` for, and then from the SDK's own chain:
    /// variables, profiles, and instance or task roles. Never fails: what is wrong fails the calls.
    ///
    /// `region` is used where the chain knows none.
    pub async fn from_environment(
        clock: &Clock,
        asked: &Asked,
        region: Option<String>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let settings = Settings::of_process(asked).ok();
        let authorities = settings.as_ref().map(Settings::authorities);
        let http = Web::client(authorities.unwrap_or_default());
        let known = settings.as_ref().and_then(Settings::region);
        let sign_in = SignIn::new(How {
            asked: asked.clone(),
            http: http.clone(),
            clock: clock.clone(),
            region: known
                .map(|it| it.value)
                .or_else(|| region.clone())
                .map(Region::new),
            last: Mutex::default(),
        });
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .time_source(clock.clone())
            .http_client(http)
            .credentials_provider(SharedCredentialsProvider::new(sign_in.clone()));
        if let Some(profile) = &asked.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &asked.region {
            loader = loader.region(Region::new(region.clone()));
        }
        let sdk = loader.load().await;
        let sdk = match region {
            Some(region) if sdk.region().is_none() => {
                sdk.into_builder().region(Region::new(region)).build()
            }
            _ => sdk,
        };
        Self {
            sdk,
            telemetry,
            sign_in: Some(sign_in),
        }
    }

    /// Looks whether there are credentials, and for what no waiting changes.
    ///
    /// # Errors
    /// [`NotSignedIn`], with what to set.
    pub async fn sign_in(&self) -> Result<(), NotSignedIn> {
        match &self.sign_in {
            Some(sign_in) => sign_in.look().await,
            None => Ok(()),
        }
    }

    /// Talks to `endpoint` with fixed credentials: a rehearsal, or a test.
    ///
    /// `http_client` replaces the SDK's own, so that no socket is needed.
    #[must_use]
    pub fn to_endpoint(
        endpoint: &str,
        region: &str,
        http_client: Option<SharedHttpClient>,
        clock: &Clock,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let credentials = aws_credential_types::Credentials::new(
            "rehearsal",
            "rehearsal",
            None,
            None,
            "rehearsal",
        );
        let mut builder = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region.to_owned()))
            .endpoint_url(endpoint)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .time_source(clock.clone())
            .sleep_impl(aws_smithy_async::rt::sleep::SharedAsyncSleep::new(
                aws_smithy_async::rt::sleep::TokioSleep::new(),
            ));
        let http = http_client.unwrap_or_else(|| Web::client(Authorities::default()));
        builder.set_http_client(Some(http));
        Self {
            sdk: builder.build(),
            telemetry,
            sign_in: None,
        }
    }

    /// Whether an endpoint is set for a service, or for all.
    fn has_endpoint(&self, service: &str) -> bool {
        let key = ServiceConfigKey::builder()
            .service_id(service)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        let set = |key| self.sdk.service_config()?.load_config(key);
        self.sdk.endpoint_url().is_some() || key.ok().and_then(set).is_some()
    }

    /// The region the clients will use.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.sdk.region().map(AsRef::as_ref)
    }

    /// The queue's clients. `wait_time` is the longest a receive will wait.
    ///
    /// Unless an endpoint is set for SQS, the kind of host that the URL names is asked: an interface endpoint
    /// or a host that is not AWS's itself, a FIPS or dual-stack host of its region.
    #[must_use]
    pub fn queue(&self, url: &str, region: Option<&str>, wait_time: Duration) -> sqs::Queue {
        let mut base = aws_sdk_sqs::config::Builder::from(&self.sdk)
            .retry_config(retry())
            .interceptor(CountCalls(self.telemetry.clone()))
            .interceptor(NoteHost);
        if let Some(region) = region {
            base = base.region(Region::new(region.to_owned()));
        }
        if !self.has_endpoint("SQS") {
            match Door::of(url) {
                Door::Named { endpoint, fips } => {
                    base.set_endpoint_url(Some(endpoint));
                    base.set_use_dual_stack(Some(false));
                    // Of a host that is no FIPS one the SDK says that it cannot be.
                    if fips {
                        base.set_use_fips(Some(false));
                    }
                }
                Door::Regional { fips, dual_stack } => {
                    if fips {
                        base.set_use_fips(Some(true));
                    }
                    if dual_stack {
                        base.set_use_dual_stack(Some(true));
                    }
                }
            }
        }
        let receive = base
            .clone()
            // A long poll is a stalled stream by design.
            .stalled_stream_protection(
                aws_sdk_sqs::config::StalledStreamProtectionConfig::disabled(),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(ATTEMPT_TIMEOUT)
                    .operation_attempt_timeout(wait_time + RECEIVE_MARGIN)
                    .build(),
            )
            // The consumer backs off by itself; a retry below it would hide what is wrong.
            .retry_config(RetryConfig::disabled())
            .build();
        let settle = base
            .clone()
            .timeout_config(timeouts())
            .retry_config(RetryConfig::disabled())
            .build();
        let other = base
            .retry_partition(partition("sqs"))
            .timeout_config(timeouts())
            .build();
        sqs::Queue::new(
            sqs::Clients {
                receive: aws_sdk_sqs::Client::from_conf(receive),
                settle: aws_sdk_sqs::Client::from_conf(settle),
                other: aws_sdk_sqs::Client::from_conf(other),
            },
            url.to_owned(),
            wait_time,
        )
    }

    /// The client of one DynamoDB table.
    #[must_use]
    pub fn table(&self, name: &str) -> dynamodb::Table {
        let time = Arc::new(dynamodb::ServerTime::default());
        let pulse = Arc::new(pulse::Pulse::default());
        let client = client!(aws_sdk_dynamodb, "dynamodb", self)
            .interceptor(dynamodb::LearnTime(Arc::clone(&time)))
            .interceptor(dynamodb::FeelPulse(Arc::clone(&pulse)))
            .build();
        let client = aws_sdk_dynamodb::Client::from_conf(client);
        dynamodb::Table::new(client, name.to_owned(), time, pulse)
    }

    /// The event buses of `region`, or of the daemon's own region.
    #[must_use]
    pub fn events(&self, region: Option<&str>) -> eventbridge::EventBridge {
        let mut config = client!(aws_sdk_eventbridge, "events", self);
        if let Some(region) = region {
            config = config.region(Region::new(region.to_owned()));
        }
        eventbridge::EventBridge::new(aws_sdk_eventbridge::Client::from_conf(config.build()))
    }

    /// Tells whose the credentials are.
    #[must_use]
    pub fn identity(&self) -> identity::Identity {
        let time = Arc::new(dynamodb::ServerTime::default());
        let sts = client!(aws_sdk_sts, "sts", self)
            .interceptor(dynamodb::LearnTime(Arc::clone(&time)))
            .build();
        identity::Identity::new(aws_sdk_sts::Client::from_conf(sts), time)
    }

    /// The clients of the account that the daemon's own credentials belong to, in its own region.
    #[must_use]
    pub fn account(&self) -> Account {
        let own = self.own();
        let region = self.region().unwrap_or_default();
        Account {
            cloudfront: own.cloudfront(region),
            ssm: own.parameters(region),
            codepipeline: own.pipelines(region),
        }
    }

    /// The daemon's own right to call.
    #[must_use]
    pub fn own(&self) -> Principal {
        Principal {
            sdk: self.sdk.clone(),
            telemetry: Arc::clone(&self.telemetry),
        }
    }

    /// The right of a role. It is assumed when the first call needs it, and again before its
    /// credentials end. `session_name` is what CloudTrail calls the caller: 2 to 64 letters, digits and
    /// `+ = , . @ - _`.
    #[must_use]
    pub fn assume(&self, role: &Role, session_name: &str) -> Principal {
        let sts = client!(aws_sdk_sts, "sts", self).build();
        let credentials = sts::AssumedRole::new(
            aws_sdk_sts::Client::from_conf(sts),
            role.clone(),
            session_name.to_owned(),
        );
        let sdk = self
            .sdk
            .to_builder()
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .identity_cache(IdentityCache::lazy().buffer_time(RENEW_BEFORE).build())
            .build();
        Principal {
            sdk,
            telemetry: Arc::clone(&self.telemetry),
        }
    }
}

impl Principal {
    /// A client of CloudFront, which is global: `region` tells its partition. What goes through it
    /// and its clones is paced together.
    #[must_use]
    pub fn cloudfront(&self, region: &str) -> cloudfront::CloudFront {
        let limiter = Limiter::new("cloudfront");
        let config = client!(aws_sdk_cloudfront, "cloudfront", self)
            .region(Region::new(region.to_owned()))
            .interceptor(TellLimiter(limiter.clone()))
            .build();
        cloudfront::CloudFront::new(
            aws_sdk_cloudfront::Client::from_conf(config),
            Gate::new(limiter),
        )
    }

    /// A client of the parameters of `region`.
    #[must_use]
    pub fn parameters(&self, region: &str) -> ssm::ParameterStore {
        let limiter = Limiter::new("ssm");
        let config = client!(aws_sdk_ssm, "ssm", self)
            .region(Region::new(region.to_owned()))
            .interceptor(TellLimiter(limiter.clone()))
            .build();
        ssm::ParameterStore::new(aws_sdk_ssm::Client::from_conf(config), Gate::new(limiter))
    }

    /// Tells what this right allows. IAM is global: `region` tells its partition.
    #[must_use]
    pub fn permissions(&self, region: &str) -> iam::Iam {
        let config = client!(aws_sdk_iam, "iam", self)
            .region(Region::new(region.to_owned()))
            .build();
        iam::Iam::new(aws_sdk_iam::Client::from_conf(config))
    }

    /// A client of the pipelines of `region`.
    #[must_use]
    pub fn pipelines(&self, region: &str) -> codepipeline::CodePipeline {
        let limiter = Limiter::new("codepipeline");
        let config = client!(aws_sdk_codepipeline, "codepipeline", self)
            .region(Region::new(region.to_owned()))
            .interceptor(TellLimiter(limiter.clone()))
            .build();
        let client = aws_sdk_codepipeline::Client::from_conf(config);
        codepipeline::CodePipeline::new(client, Gate::new(limiter))
    }
}

fn retry() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS)
}

/// Retry tokens of one client's own. Partitions that are not custom share theirs by name with every
/// other client of the process, those of another daemon too.
fn partition(name: &'static str) -> RetryPartition {
    RetryPartition::custom(name).build()
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(ATTEMPT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}
