//! An embedded AWS: SQS, Parameter Store, CloudFront continuous deployment and more, in memory.
//!
//! It speaks the services' own wire protocols, so the daemon under rehearsal is the real one
//! with the real SDK. There are two doors to the same world: [`EmbeddedAws::http_client`] inside
//! the process, where time may be virtual, and [`EmbeddedAws::listen`] on a loopback address,
//! where any AWS client can come in.
//!
//! | file | what |
//! |---|---|
//! | `settings` | propagation time, seed, and a switch for every behaviour AWS leaves open |
//! | `exchange` | one request and its answer; errors on the wire |
//! | `sqs`, `sqs_queue` | the queue interface; one queue |
//! | `ssm` | Parameter Store |
//! | `iam`, `sts`, `accounts` | roles, their credentials and permissions; which account they open |
//! | `codepipeline`, `pipeline` | the interface of CodePipeline; pipelines whose executions play |
//! | `eventbridge` | buses, rules that send to queues, and events |
//! | `dynamodb`, `dynamodb_expression` | tables, and the expressions of their writes |
//! | `cloudfront` | what CloudFront holds, and what reads show of it |
//! | `cloudfront_distributions`, `cloudfront_policies`, `cloudfront_errors` | the rules of change |
//! | `cloudfront_api`, `cloudfront_xml` | the REST-XML interface; configurations as bytes |
//! | `faults` | faults at random and by rule |
//! | `rates` | throttling by rate |
//! | `journal` | every exchange, in order |
//! | `client`, `listener` | the two doors |
//! | `world` | setting things up and looking at them |
//! | `whose` | who wrote what |
//! | `service`, `review`, `events` | a service that deploys blue/green, its approval, and its pipeline's events |
//!
//! **Guarantees.** Every call takes effect at one moment, in the order of the journal. A call
//! whose caller goes away before that moment has no effect; a long poll that is given up has
//! taken nothing. All waiting is tokio's, so it follows a paused clock. The same seed and the
//! same calls in the same order give the same bytes.
//!
//! **Not handled.** Signatures are not checked and permissions are only denied by rule; of credentials
//! it is only told whose they are, and whether they have ended. FIFO
//! queues, message encryption, parameter tiers, and what CloudFront validates inside origins and
//! cache behaviours are not modelled.

mod accounts;
mod client;
mod cloudfront;
mod cloudfront_api;
mod cloudfront_distributions;
mod cloudfront_errors;
mod cloudfront_policies;
mod cloudfront_xml;
mod codepipeline;
mod dynamodb;
mod dynamodb_expression;
mod eventbridge;
mod events;
mod exchange;
mod faults;
mod iam;
mod ids;
mod journal;
mod listener;
pub mod pipeline;
mod rates;
mod review;
mod service;
mod settings;
mod sqs;
mod sqs_queue;
mod ssm;
mod sts;
#[cfg(test)]
mod tests;
mod whose;
mod world;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::clock::Clock;

pub use self::client::EmbeddedHttpClient;
pub use self::events::{EventOptions, Form, Level, Outcome};
pub use self::exchange::{AwsService, Call, Change, Exchange, Failure};
pub use self::faults::{Action, Faults, Hook, Rule, RuleId};
pub use self::journal::{Entry, Journal, Seen};
pub use self::listener::Listener;
pub use self::pipeline::{
    ActionDefinition, ActionView, Category, Decision, Definition, ExecutionView, Kind, Mode,
    Pattern, Retry, Script, StageDefinition, Work,
};
pub use self::review::Review;
pub use self::service::{Service, Shape};
pub use self::settings::{
    AttachedPolicyDelete, DeleteLag, ExpiredApproval, OmittedPolicyId, Settings,
    StagingAfterPolicyDelete, Switches, Writer,
};
pub use self::sqs_queue::Depth;
pub use self::whose::By;
pub use self::world::{
    DistributionView, Inventory, MessageView, ParameterVersion, PolicyView, Queues,
};

use self::accounts::{Account, Place, Role, Session};
use self::exchange::Reply;
use self::faults::{Entrance, Exit, Injector, Plan};
use self::ids::Ids;
use self::pipeline::Builds;

/// A world of its own. Clones share it.
#[derive(Clone)]
pub struct EmbeddedAws {
    inner: Arc<Inner>,
    /// What is made and looked at through this is there.
    place: Place,
}

struct Inner {
    clock: Clock,
    state: Mutex<State>,
    injector: Injector,
    journal: Journal,
    /// The world has changed; long polls wait for it. Wakes in the order of waiting.
    changes: Notify,
    /// There was an exchange, with or without a change.
    exchanges: Notify,
}

struct State {
    settings: Settings,
    /// By account id.
    accounts: BTreeMap<String, Account>,
    /// By ARN.
    roles: BTreeMap<String, Role>,
    /// By access key id.
    sessions: BTreeMap<String, Session>,
    /// What pipelines are still to do.
    builds: Builds,
    dynamodb: dynamodb::DynamoDb,
    sqs: sqs::Sqs,
    events: eventbridge::EventBridge,
    ids: Ids,
    /// Request ids draw from their own source: looking does not change what is made later.
    request_ids: Ids,
}

/// A condition did not come true in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the condition did not come true within {0:?}")]
pub struct NotInTime(pub Duration);

/// One try at carrying a call out.
enum Step {
    Done(Result<Reply, Failure>),
    /// A receive that found nothing and may wait.
    Wait {
        wait: Duration,
        next_visible: Option<Timestamp>,
    },
}

impl std::fmt::Debug for EmbeddedAws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedAws").finish_non_exhaustive()
    }
}

impl EmbeddedAws {
    /// An empty world.
    #[must_use]
    pub fn new(clock: Clock, settings: Settings) -> Self {
        let seed = settings.seed;
        let place = Place::of(&settings);
        let inner = Inner {
            clock,
            injector: Injector::new(seed),
            journal: Journal::new(settings.journal_capacity),
            changes: Notify::new(),
            exchanges: Notify::new(),
            state: Mutex::new(State {
                settings,
                accounts: BTreeMap::new(),
                roles: BTreeMap::new(),
                sessions: BTreeMap::new(),
                builds: Builds::default(),
                dynamodb: dynamodb::DynamoDb::default(),
                sqs: sqs::Sqs::default(),
                events: eventbridge::EventBridge::default(),
                ids: Ids::new(seed),
                request_ids: Ids::new(!seed),
            }),
        };
        Self {
            inner: Arc::new(inner),
            place,
        }
    }

    /// The world as it is now: what pipelines do by themselves is done by then.
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.catch_up(self.inner.clock.now());
        state
    }

    /// The world's clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// What has been asked so far.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// A copy of the settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Changes settings or switches; calls from now on go by them. The seed and the journal's
    /// capacity are fixed when a world is made.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// Sets how often random faults strike from now on; [`Faults::none`] ends them.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.injector.set_rates(faults);
    }

    /// Adds a rule. It counts matching calls from now on.
    pub fn add_rule(&self, rule: Rule) -> RuleId {
        self.inner.injector.add(rule)
    }

    /// Takes a rule away again.
    pub fn remove_rule(&self, rule: RuleId) {
        self.inner.injector.remove(rule);
    }

    /// Refuses every call of the operation for want of permission.
    pub fn deny(&self, operation: &str) -> RuleId {
        self.add_rule(Rule::on(operation).then(Action::Deny))
    }

    /// Ends all faults: the random ones and the rules.
    pub fn calm(&self) {
        self.set_faults(Faults::none());
        self.inner.injector.clear_rules();
    }

    /// One HTTP exchange.
    ///
    /// Waits for long polls and injected delays; never answers where a fault says so. Dropping
    /// the future is the caller going away.
    pub async fn handle(&self, request: Request<Vec<u8>>) -> Exchange {
        let call = Call::identify(&request, |caller| self.state().account_of(caller));
        let mut plan = self.inner.injector.plan(&call);
        let delay = plan.delay + self.state().settings.latency;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        for hook in &plan.before {
            hook(self, &call);
        }
        let request_id = self.state().request_ids.uuid();
        if matches!(plan.entrance, Entrance::Proceed) && self.is_too_fast(&call) {
            plan.throttle(&call);
        }
        let refused = match &plan.entrance {
            Entrance::Proceed => None,
            Entrance::Refuse(failure) => Some(Seen::Status(failure.status)),
            Entrance::Drop => Some(Seen::Dropped),
            Entrance::Hang => Some(Seen::Nothing),
        };
        if let Some(seen) = refused {
            self.record(&self.state(), &call, &plan, seen, None, None);
        }
        match plan.entrance {
            Entrance::Proceed => {}
            Entrance::Refuse(failure) => {
                let reply = failure.into_reply(call.service, &request_id);
                let now = self.inner.clock.now();
                return Exchange::Reply(reply.into_response(call.service, &request_id, now));
            }
            Entrance::Drop => return Exchange::Dropped,
            Entrance::Hang => std::future::pending().await,
        }
        let result = self.carry_out(&call, &request, &plan).await;
        for hook in &plan.after {
            hook(self, &call);
        }
        let reply = match plan.exit {
            Exit::Answer => match result {
                Ok(reply) => reply,
                Err(failure) => failure.into_reply(call.service, &request_id),
            },
            Exit::Refuse(failure) => failure.into_reply(call.service, &request_id),
            Exit::Drop => return Exchange::Dropped,
            Exit::Hang => std::future::pending().await,
        };
        let now = self.inner.clock.now();
        Exchange::Reply(reply.into_response(call.service, &request_id, now))
    }

    fn is_too_fast(&self, call: &Call) -> bool {
        let now = self.inner.clock.now();
        let mut state = self.state();
        let State {
            accounts, settings, ..
        } = &mut *state;
        let account = accounts.entry(call.account.clone()).or_default();
        account.rates.exceeds(now, call, &settings.switches)
    }

    /// Carries a call out; a receive on an empty queue waits for as long as it asked to.
    async fn carry_out(
        &self,
        call: &Call,
        request: &Request<Vec<u8>>,
        plan: &Plan,
    ) -> Result<Reply, Failure> {
        let began = Instant::now();
        let mut last = false;
        loop {
            // Listening before the look, so that nothing that arrives after it is missed.
            let mut changed = pin!(self.inner.changes.notified());
            changed.as_mut().enable();
            match self.step(call, request, plan, last) {
                Step::Done(result) => return result,
                Step::Wait { wait, next_visible } => {
                    let deadline = began + wait;
                    let until = self
                        .instant_of(next_visible)
                        .map_or(deadline, |it| it.min(deadline));
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                    last = Instant::now() >= deadline;
                }
            }
        }
    }

    /// When, on tokio's clock, a time of the world's clock comes.
    fn instant_of(&self, at: Option<Timestamp>) -> Option<Instant> {
        let ahead = at?.duration_since(self.inner.clock.now());
        Instant::now().checked_add(Duration::try_from(ahead).unwrap_or(Duration::ZERO))
    }

    /// Looks at or changes the world once, and records it in the same breath.
    fn step(&self, call: &Call, request: &Request<Vec<u8>>, plan: &Plan, last: bool) -> Step {
        let mut state = self.state();
        let result = match state.perform(
            &self.inner.injector,
            self.inner.clock.now(),
            call,
            request,
            plan,
        ) {
            Step::Wait { wait, .. } if last || wait.is_zero() => {
                Ok(Reply::json(&Value::Object(serde_json::Map::new())))
            }
            waiting @ Step::Wait { .. } => return waiting,
            Step::Done(result) => result,
        };
        let (status, code, change) = match &result {
            Ok(reply) => (reply.status, reply.code.clone(), reply.change.clone()),
            Err(failure) => (failure.status, Some(failure.code.clone()), None),
        };
        let seen = match &plan.exit {
            Exit::Answer => Seen::Status(status),
            Exit::Refuse(failure) => Seen::Status(failure.status),
            Exit::Drop => Seen::Dropped,
            Exit::Hang => Seen::Nothing,
        };
        let changed = change.is_some();
        self.record(&state, call, plan, seen, code, change);
        drop(state);
        if changed {
            self.changed();
        }
        Step::Done(result)
    }

    /// Records an exchange. Takes the guard as a witness that the world cannot change meanwhile.
    fn record(
        &self,
        _state: &MutexGuard<'_, State>,
        call: &Call,
        plan: &Plan,
        seen: Seen,
        code: Option<String>,
        change: Option<Change>,
    ) {
        let refusal = match &plan.entrance {
            Entrance::Refuse(failure) => Some(failure.code.clone()),
            _ => None,
        };
        self.inner.journal.record(Entry {
            number: 0,
            at: self.inner.clock.now(),
            call: call.clone(),
            seen,
            code: code.or(refusal),
            change,
            faults: plan.names.clone(),
        });
        self.inner.exchanges.notify_waiters();
    }

    /// Tells everyone who waits that the world has changed.
    fn changed(&self) {
        self.inner.changes.notify_waiters();
    }

    /// Waits until a condition on the world holds. It is looked at again after every exchange and
    /// change, and whenever something is due to change by time alone.
    ///
    /// # Errors
    /// [`NotInTime`] if it did not come true within `timeout`.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&Self) -> bool,
        timeout: Duration,
    ) -> Result<(), NotInTime> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut changed = pin!(self.inner.changes.notified());
            let mut exchanged = pin!(self.inner.exchanges.notified());
            changed.as_mut().enable();
            exchanged.as_mut().enable();
            if condition(self) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NotInTime(timeout));
            }
            let now = self.inner.clock.now();
            let due = {
                let state = self.state();
                let accounts = state.accounts.values();
                let due = accounts.filter_map(|account| account.cloudfront.next_change(now));
                let due = due.chain(state.sqs.next_change(now));
                due.chain(state.builds.next()).min()
            };
            let until = self.instant_of(due).map_or(deadline, |it| it.min(deadline));
            tokio::select! {
                biased;
                () = changed => {}
                () = exchanged => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

impl State {
    fn perform(
        &mut self,
        injector: &Injector,
        now: Timestamp,
        call: &Call,
        request: &Request<Vec<u8>>,
        plan: &Plan,
    ) -> Step {
        let token = request.headers().get("x-amz-security-token");
        let token = token.and_then(|value| value.to_str().ok());
        if let Err(failure) = self.admit(call, token, now) {
            return Step::Done(Err(failure));
        }
        let stale = plan.tweaks.stale;
        let by = self.caller_of(call);
        let place = Place {
            account: call.account.clone(),
            region: call
                .region
                .as_ref()
                .unwrap_or(&self.settings.region)
                .clone(),
        };
        if call.service == AwsService::CloudFront {
            let here = self.here(&place);
            let mut context = cloudfront::Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            return Step::Done(cloudfront_api::call(
                here.cloudfront,
                &mut context,
                call,
                request,
                stale,
            ));
        }
        if call.service == AwsService::Sts {
            return Step::Done(sts::call(self, now, call, request.body()));
        }
        if call.service == AwsService::Iam {
            return Step::Done(iam::call(self, injector, call, request.body()));
        }
        if call.service == AwsService::Unknown {
            return Step::Done(Err(unknown_service(request)));
        }
        let body = match request.body().as_slice() {
            [] => Ok(Value::Object(serde_json::Map::new())),
            bytes => serde_json::from_slice(bytes),
        };
        let body: Value = match body {
            Ok(body) => body,
            Err(error) => {
                let failure = Failure::new(400, "SerializationException", error.to_string());
                return Step::Done(Err(failure));
            }
        };
        if call.service == AwsService::Ssm {
            let here = self.here(&place);
            let result = here.ssm.call(&here.settings, now, call, &by, &body, stale);
            return Step::Done(result);
        }
        if call.service == AwsService::CodePipeline {
            let account = self.accounts.entry(place.account).or_default();
            let codepipeline = account.codepipeline(&place.region);
            return Step::Done(codepipeline.call(now, call, &body));
        }
        let Self {
            settings,
            sqs,
            events,
            dynamodb,
            ids,
            ..
        } = self;
        match call.service {
            AwsService::Sqs => {
                let base = base_url(request, settings);
                let mut context = sqs::Context {
                    now,
                    settings,
                    ids,
                    tweaks: &plan.tweaks,
                    base: &base,
                };
                if call.operation == "ReceiveMessage" {
                    return match sqs.receive(&mut context, &body) {
                        Ok(sqs::Polled::Messages(reply)) => Step::Done(Ok(reply)),
                        Ok(sqs::Polled::Nothing { wait, next_visible }) => {
                            Step::Wait { wait, next_visible }
                        }
                        Err(failure) => Step::Done(Err(failure)),
                    };
                }
                Step::Done(sqs.call(&mut context, call, &body))
            }
            AwsService::DynamoDb => Step::Done(dynamodb.call(settings, call, &body)),
            AwsService::EventBridge => {
                let mut context = eventbridge::Context {
                    now,
                    settings,
                    ids,
                    tweaks: &plan.tweaks,
                    sqs,
                };
                Step::Done(events.call(&mut context, call, &body))
            }
            AwsService::Unknown
            | AwsService::CloudFront
            | AwsService::CodePipeline
            | AwsService::Iam
            | AwsService::Ssm
            | AwsService::Sts => Step::Done(Err(unknown_service(request))),
        }
    }
}

fn unknown_service(request: &Request<Vec<u8>>) -> Failure {
    let message = format!(
        "The embedded AWS knows SQS, Parameter Store, CloudFront, CodePipeline, DynamoDB, EventBridge, \
         IAM and STS; {} {} is none of theirs.",
        request.method(),
        request.uri().path()
    );
    Failure::new(404, "UnknownOperationException", message)
}

/// `scheme://host` by which the caller reached the world, for the URLs of queues.
fn base_url(request: &Request<Vec<u8>>, settings: &Settings) -> String {
    let host = request
        .headers()
        .get(http::header::HOST)
        .and_then(|value| value.to_str().ok());
    let uri = request.uri();
    match uri.authority().map(http::uri::Authority::as_str).or(host) {
        Some(host) => format!("{}://{host}", uri.scheme_str().unwrap_or("http")),
        None => sqs_base(settings),
    }
}

fn sqs_base(settings: &Settings) -> String {
    format!("https://sqs.{}.amazonaws.com", settings.region)
}
