//! The daemon's own credentials: every way to sign in that the AWS CLI has.
//!
//! **Guarantees.** Each time that credentials are needed, everything is looked at anew: variables, the profile's
//! files, tokens. So keys that someone renews in a file are taken up, within `LOOK_AGAIN`, and a profile
//! or a role that comes late is found. Who asks while a load is under way shares it, and a load that its
//! caller did not wait for goes on for the next: a program (`credential_process`) may take longer than a call
//! waits. Credentials that still hold are used on while they cannot be renewed.
//!
//! **Not handled.** What a program asks on a terminal.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::error::ErrorMetadata;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::error::{causes, classify_code, unreached};
use super::settings::{Asked, Misconfigured, Settings};
use super::words::untrusted;
use crate::domain::error_class::ErrorClass;
use crate::runtime::clock::Clock;

/// How long a load may take. Nobody is asked for so long: a program that waits for a person is.
const LOAD: Duration = Duration::from_secs(60);

/// When keys that do not say how long they hold are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// There are no credentials, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{said}")]
pub struct NotSignedIn {
    /// [`NoCredentials`](ErrorClass::NoCredentials) or [`Misconfigured`](ErrorClass::Misconfigured); or what
    /// the call for them failed with.
    pub class: ErrorClass,
    said: String,
}

impl From<Misconfigured> for NotSignedIn {
    fn from(error: Misconfigured) -> Self {
        Self {
            class: ErrorClass::Misconfigured,
            said: error.to_string(),
        }
    }
}

/// Provides the credentials. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct SignIn {
    how: Arc<How>,
    under_way: Arc<Mutex<Option<Load>>>,
}

type Load = Shared<BoxFuture<'static, Result<Credentials, NotSignedIn>>>;

/// What the credentials are looked for with.
#[derive(Debug)]
pub(super) struct How {
    pub(super) asked: Asked,
    pub(super) http: SharedHttpClient,
    pub(super) clock: Clock,
    /// For STS, where the profile names none.
    pub(super) region: Option<Region>,
    /// The last ones.
    pub(super) last: Mutex<Option<Credentials>>,
}

impl SignIn {
    pub(super) fn new(how: How) -> Self {
        Self {
            how: Arc::new(how),
            under_way: Arc::default(),
        }
    }

    /// Whether there are credentials. The next call goes with these.
    pub(super) async fn look(&self) -> Result<(), NotSignedIn> {
        self.load().await.map(drop)
    }

    /// The load that is under way, or that nobody has taken yet; or a new one.
    fn load(&self) -> Load {
        let mut under_way = lock(&self.under_way);
        let load = under_way.get_or_insert_with(|| {
            let how = Arc::clone(&self.how);
            let loading = tokio::spawn(async move { how.load().await });
            let load = async move {
                loading.await.unwrap_or_else(|error| {
                    Err(NotSignedIn {
                        class: ErrorClass::Unavailable,
                        said: format!("the credentials could not be loaded: {error}"),
                    })
                })
            };
            load.boxed().shared()
        });
        load.clone()
    }

    async fn take(&self) -> Result<Credentials, NotSignedIn> {
        let load = self.load();
        let loaded = load.clone().await;
        let mut under_way = lock(&self.under_way);
        if under_way.as_ref().is_some_and(|it| it.ptr_eq(&load)) {
            *under_way = None;
        }
        loaded
    }
}

impl ProvideCredentials for SignIn {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.take().await.map_err(CredentialsError::provider_error)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.how.still_valid()
    }
}

impl How {
    async fn load(&self) -> Result<Credentials, NotSignedIn> {
        let loaded = tokio::time::timeout(LOAD, self.look()).await;
        let loaded = loaded.unwrap_or_else(|_| {
            Err(NotSignedIn {
                class: ErrorClass::Unavailable,
                said: format!("no credentials within {} s", LOAD.as_secs()),
            })
        });
        match loaded {
            Ok(credentials) => {
                *lock(&self.last) = Some(credentials.clone());
                Ok(credentials)
            }
            Err(error) => self.still_valid().ok_or(error),
        }
    }

    fn still_valid(&self) -> Option<Credentials> {
        let last = lock(&self.last).clone()?;
        last.expiry()
            .is_some_and(|until| until > TimeSource::now(&self.clock))
            .then_some(last)
    }

    async fn look(&self) -> Result<Credentials, NotSignedIn> {
        let settings = Settings::of_process(&self.asked)?;
        settings.check()?;
        let region = settings.region().map(|it| Region::new(it.value));
        let region = region.or_else(|| self.region.clone());
        let config = ProviderConfig::without_region()
            .with_time_source(self.clock.clone())
            .with_http_client(self.http.clone())
            .with_region(region.clone())
            .with_use_fips(settings.fips().map(|_| true))
            .with_use_dual_stack(settings.dual_stack().map(|_| true))
            .with_behavior_version(Some(BehaviorVersion::v2026_01_12()));
        let loaded = match &self.asked.profile {
            // As the AWS CLI does: a profile that is asked for comes before keys in variables.
            Some(name) => {
                let profile = ProfileFileCredentialsProvider::builder().profile_name(name);
                let profile = profile.configure(&config).build();
                profile.provide_credentials().await
            }
            None => {
                let mut chain = DefaultCredentialsChain::builder();
                chain.set_region(region);
                let chain = chain.configure(config).build().await;
                chain.provide_credentials().await
            }
        };
        let mut credentials = loaded.map_err(|error| explain(&error, &settings))?;
        // A program that does not say how long they hold is not started again.
        if credentials.expiry().is_none() && !settings.has("credential_process") {
            *credentials.expiry_mut() = Some(TimeSource::now(&self.clock) + LOOK_AGAIN);
        }
        Ok(credentials)
    }
}

/// What it means that there are no credentials, and what to do.
fn explain(error: &CredentialsError, settings: &Settings) -> NotSignedIn {
    let profile = settings.profile().map(|it| it.value);
    let whose = match &profile {
        Some(name) => format!("the credentials of the profile {name:?}"),
        None => "the credentials".to_owned(),
    };
    let words = words(error);
    let not = |class, said| NotSignedIn { class, said };
    match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            not(ErrorClass::NoCredentials, nothing_found(settings))
        }
        CredentialsError::InvalidConfiguration(_) => not(
            ErrorClass::Misconfigured,
            format!("{whose} are set in a way that cannot be: {words}"),
        ),
        _ if let Some(untrusted) = untrusted(error) => not(
            ErrorClass::Misconfigured,
            format!("{whose} cannot be had: {untrusted}"),
        ),
        CredentialsError::ProviderTimedOut(_) => not(
            ErrorClass::Unavailable,
            format!("{whose} cannot be had: {words}"),
        ),
        _ if unreached(error) => not(
            ErrorClass::Unavailable,
            format!("{whose} cannot be had: {words}"),
        ),
        _ => not(
            refused_with(error).unwrap_or(ErrorClass::NoCredentials),
            format!("{whose} cannot be had: {words}{}", remedy(settings, &words)),
        ),
    }
}

fn nothing_found(settings: &Settings) -> String {
    match settings.profile() {
        Some(named) if named.from == "--profile" => format!(
            "no AWS credentials: the profile {:?} has none; give it keys, a role or a sign-in",
            named.value
        ),
        profile => {
            let profile =
                profile.map_or("profile".to_owned(), |it| format!("profile {:?}", it.value));
            format!(
                "no AWS credentials: set AWS_PROFILE or keys, or run with a role (tried: environment, \
                 {profile}, web identity, container, instance metadata)"
            )
        }
    }
}

/// The class of the code that an error carries, where that is no matter of signing in.
fn refused_with(error: &CredentialsError) -> Option<ErrorClass> {
    causes(error).find_map(|cause| {
        let text = cause.to_string();
        let code = match cause.downcast_ref::<ErrorMetadata>() {
            Some(metadata) => metadata.code()?,
            None => text.split(':').next()?,
        };
        classify_code(code).filter(|class| {
            matches!(
                class,
                ErrorClass::Throttled | ErrorClass::AccessDenied | ErrorClass::Unavailable
            )
        })
    })
}

fn remedy(settings: &Settings, words: &str) -> String {
    let name = settings
        .profile()
        .map_or("default".to_owned(), |it| it.value);
    if settings.has("sso_session") || settings.has("sso_start_url") {
        format!("; sign in with: aws sso login --profile {name}")
    } else if settings.has("login_session") {
        format!("; sign in with: aws login --profile {name}")
    } else if words.contains("IMDS is disabled") {
        "; enable the instance's metadata service (aws ec2 modify-instance-metadata-options --http-endpoint \
         enabled), or set AWS_PROFILE or keys"
            .to_owned()
    } else if settings.has("credential_process") {
        "; try the program of credential_process by itself".to_owned()
    } else {
        String::new()
    }
}

/// What an error and its causes say, each thing once, and nothing in a form for debugging.
fn words(error: &CredentialsError) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes(error) {
        let said = match cause.downcast_ref::<ErrorMetadata>() {
            Some(metadata) => match (metadata.code(), metadata.message()) {
                (Some(code), Some(message)) => format!("{code}: {message}"),
                (Some(only), None) | (None, Some(only)) => only.to_owned(),
                (None, None) => continue,
            },
            None => cause.to_string(),
        };
        let idle = [
            "an error occurred while loading credentials",
            "service error",
            "dispatch failure",
            "unhandled error",
        ];
        let known = words.iter().any(|earlier| earlier.contains(&said));
        if !known && !idle.iter().any(|it| said.starts_with(it)) {
            words.push(said);
        }
    }
    words.join(": ")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every critical section here is an assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
