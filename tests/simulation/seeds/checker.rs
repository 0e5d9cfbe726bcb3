//! The invariants of the contract, checked after every call by someone who sees the world, the
//! ledgers and the script, and nothing of what a daemon thinks.

mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use embedded_aws::{AwsService, Call, EmbeddedAws, Entry, PolicyView, Service};
use jiff::Timestamp;
use serde_json::Value;
use stagesweep::domain::binding::Binding;
use stagesweep::domain::decision::Outcome;
use stagesweep::domain::event::JobKey;
use stagesweep::ledger::Grant;

use super::misreadings::Memory;
use super::notices::Notices;
use super::whose::{Look, left_behind, taken_back};
use super::wire::Life;
use super::xml::only_difference;

/// The item of a table that keeps notices.
const NOTICES: &str = "notices";

/// What a call that had begun when its lease ended may still take.
const GRACE: Duration = Duration::from_secs(1);

/// A message is given up so long before its lease ends: the margin is a sixth of the lease, and what is under
/// way then takes its time.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// By so much a message that is held is extended.
const HELD_FOR: Duration = Duration::from_secs(120);

/// A write of the parameter that comes between a daemon's read and its own write is a race, which
/// Parameter Store cannot prevent. No read is older than one call with all its tries.
const RACE: Duration = Duration::from_secs(45);

/// What a message is, as whoever sent it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The rejection of the deployment of this number.
    Rejection(usize),
    /// No rejection: to be deleted, and nothing done.
    Harmless,
    /// Never to be deleted.
    Poison,
}

/// A deployment of the script.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    pub(crate) service: Service,
    pub(crate) rejected: bool,
    pub(crate) rejected_again: bool,
    pub(crate) approved: bool,
    /// When its rejection was taken back by a retry.
    pub(crate) retried_at: Option<Timestamp>,
    /// Its approval failed without anybody deciding, and has not been decided since.
    pub(crate) undecided: bool,
    /// That was so once.
    pub(crate) undecided_once: bool,
    /// Somebody meddled: whose everything is cannot be told any more, or should not be.
    pub(crate) excused: bool,
}

/// The changes that a cleanup may make once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    Detached,
    PolicyDeleted,
    Disabled,
    Deleted,
    Recorded,
}

/// What a ledger granted and has not taken back.
#[derive(Clone, Debug)]
struct Held {
    owner: String,
    epoch: i64,
    until: Timestamp,
    production_id: Option<String>,
    done: bool,
    /// No message was held when it was granted: the ledger has it finished.
    unasked: bool,
}

#[derive(Default)]
pub(super) struct Truth {
    pub(super) deployments: Vec<Deployment>,
    pub(super) messages: BTreeMap<String, Kind>,
    /// The message of each receipt handle that was handed out.
    receipts: BTreeMap<String, String>,
    /// By owner and message: until when the message is invisible to others.
    leases: BTreeMap<(String, String), Timestamp>,
    /// By owner and message: those that were given back before their time.
    given_back: BTreeSet<(String, String)>,
    /// By owner and message: the newest handle that it was handed, and when.
    handles: BTreeMap<(String, String), (String, Timestamp)>,
    /// By owner and message: the first handle that it was handed.
    firsts: BTreeMap<(String, String), String>,
    /// By job.
    grants: BTreeMap<JobKey, Held>,
    /// By what they were done to.
    pub(super) effects: BTreeMap<(String, Effect), u32>,
    /// Jobs that were bound once.
    begun: BTreeSet<String>,
    /// By owner and pipeline execution: when CodePipeline was last asked about it.
    pub(super) asked: BTreeMap<(String, String), Timestamp>,
    /// By owner and pipeline: what there was to see when it last asked who is at work.
    pub(super) looks: BTreeMap<(String, String), Look>,
    /// By owner and what is changed: when the change was last sent.
    pub(super) sent: BTreeMap<(String, String), Timestamp>,
    /// The target names the stage that deploys.
    pub(super) deploy_stage: bool,
    /// A modification time is that of a modification. Otherwise a deployment may be taken for superseded,
    /// and left.
    pub(super) times_tell: bool,
    /// Production distributions that were switched off before a daemon had disabled anything beside them.
    pub(super) off_without_us: BTreeSet<String>,
    /// By staging distribution: the execution that deployed into it last.
    pub(super) owners: BTreeMap<String, String>,
    /// Rejections are verified.
    pub(super) verify: bool,
    /// No daemon may change anything.
    pub(super) observes: bool,
    /// Rejections are worked on that no message is held of.
    pub(super) catch_up: bool,
    pub(super) notices: Notices,
    /// By staging distribution whose policy was detached: when that has propagated.
    detached: BTreeMap<String, Timestamp>,
    /// Parameters whose newer value was overwritten in a race, and that value.
    raced: BTreeMap<String, String>,
    /// What the world was like just before the mutation that is under way.
    before: Option<Before>,
    violation: Option<String>,
    trace: Option<Vec<String>>,
    calls: u64,
    mutations: u64,
}

/// What has to be known from before a mutation.
#[derive(Clone, Debug)]
pub(super) struct Before {
    policy_exists: bool,
    policy_attached: bool,
    /// The staging distributions that the policy lists.
    listed: Vec<String>,
    parameter: Option<String>,
}

pub(crate) struct Checker {
    truth: Mutex<Truth>,
    pub(super) memory: Memory,
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) calls: u64,
    pub(crate) mutations: u64,
}

impl Checker {
    /// From now on no daemon may change anything.
    pub(crate) fn observes(&self) {
        self.truth().observes = true;
    }

    pub(crate) fn new(trace: bool, verify: bool, catch_up: bool) -> Self {
        let truth = Truth {
            verify,
            catch_up,
            trace: trace.then(Vec::new),
            ..Truth::default()
        };
        Self {
            truth: Mutex::new(truth),
            memory: Memory::default(),
        }
    }

    pub(super) fn truth(&self) -> std::sync::MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    // ---- what the script tells ----

    pub(crate) fn deployed(&self, service: Service) -> usize {
        let mut truth = self.truth();
        truth.deployments.push(Deployment {
            service,
            rejected: false,
            rejected_again: false,
            approved: false,
            retried_at: None,
            undecided: false,
            undecided_once: false,
            excused: false,
        });
        truth.deployments.len() - 1
    }

    pub(crate) fn rejected(&self, deployment: usize, attempt: u32) {
        let deployment = &mut self.truth().deployments[deployment];
        deployment.rejected = true;
        deployment.rejected_again |= attempt > 1;
    }

    pub(crate) fn approved(&self, deployment: usize) {
        self.truth().deployments[deployment].approved = true;
    }

    pub(crate) fn retried(&self, deployment: usize, at: Timestamp) {
        self.truth().deployments[deployment].retried_at = Some(at);
    }

    pub(crate) fn sent(&self, message_id: String, kind: Kind) {
        self.truth().messages.insert(message_id, kind);
    }

    pub(crate) fn deployments(&self) -> Vec<Deployment> {
        self.truth().deployments.clone()
    }

    pub(crate) fn kind(&self, message_id: &str) -> Option<Kind> {
        self.truth().messages.get(message_id).copied()
    }

    /// The first handle that this life was handed of the message that has this handle.
    pub(crate) fn first_handle(&self, life: &Life, handle: &str) -> Option<String> {
        let truth = self.truth();
        let message = truth.receipts.get(handle)?.clone();
        truth.firsts.get(&(life.owner.clone(), message)).cloned()
    }

    pub(crate) fn note(&self, at: Timestamp, line: impl FnOnce() -> String) {
        let mut truth = self.truth();
        if let Some(trace) = &mut truth.trace {
            trace.push(format!("{at:.3} -- {}", line()));
        }
    }

    // ---- verdicts ----

    pub(crate) fn fail(&self, why: String) {
        let mut truth = self.truth();
        truth.fail(why);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.truth().violation.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.truth().trace.take().unwrap_or_default()
    }

    pub(crate) fn figures(&self) -> Figures {
        let truth = self.truth();
        Figures {
            calls: truth.calls,
            mutations: truth.mutations,
        }
    }

    /// Whether a newer value of this parameter was overwritten and could not be put back.
    pub(crate) fn raced(&self, parameter: &str) -> bool {
        self.truth().raced.contains_key(parameter)
    }

    // ---- what the ledgers granted ----

    pub(crate) fn granted(&self, grant: &Grant, now: Timestamp, until: Timestamp) {
        let mut truth = self.truth();
        let unasked = !truth.holds_message(&grant.owner, grant.key.as_str(), soon(now));
        let held = Held {
            owner: grant.owner.clone(),
            epoch: grant.epoch,
            until,
            production_id: None,
            done: false,
            unasked,
        };
        let earlier = truth.grants.insert(grant.key.clone(), held);
        if let Some(earlier) = earlier {
            if earlier.done {
                truth.fail(format!("a job that is done was granted: {}", grant.key));
            }
            if earlier.epoch >= grant.epoch {
                truth.fail(format!("the epoch did not grow: {}", grant.key));
            }
        }
    }

    /// The ledger of one daemon was opened anew: whoever held leases in it is dead.
    pub(crate) fn leases_ended(&self) {
        let mut truth = self.truth();
        for held in truth.grants.values_mut() {
            held.production_id = None;
        }
    }

    fn honoured(&self, grant: &Grant, what: &str, change: impl FnOnce(&mut Held)) {
        let mut truth = self.truth();
        match truth.grants.get_mut(&grant.key) {
            Some(held) if held.owner == grant.owner && held.epoch == grant.epoch => change(held),
            _ => truth.fail(format!("a void grant was honoured: {what} {}", grant.key)),
        }
    }

    /// A production distribution is bound to one job at a time: whoever had it before has lost it,
    /// and its lease must be over.
    pub(crate) fn bound(&self, grant: &Grant, binding: &Binding, now: Timestamp) {
        let mut truth = self.truth();
        truth.begun.insert(grant.key.to_string());
        let mut taken = None;
        for (key, held) in &mut truth.grants {
            if *key != grant.key && held.production_id.as_ref() == Some(&binding.production_id) {
                held.production_id = None;
                // The ledger keeps whole milliseconds.
                if held.until.as_millisecond() > now.as_millisecond() {
                    taken = Some(key.clone());
                }
            }
        }
        if let Some(key) = taken {
            truth.fail(format!("{} was bound to what {key} holds", grant.key));
        }
        drop(truth);
        self.honoured(grant, "bind", |held| {
            held.production_id = Some(binding.production_id.clone());
        });
    }

    pub(crate) fn renewed(&self, grant: &Grant, until: Timestamp) {
        self.honoured(grant, "renew", |held| held.until = until);
    }

    pub(crate) fn completed(&self, grant: &Grant, outcome: Outcome, now: Timestamp) {
        let key = grant.key.to_string();
        self.note(now, || format!("{key}: {}", outcome.code()));
        self.truth().done_and_told(now, &grant.owner, &key);
        self.honoured(grant, "complete", |held| {
            held.done = true;
            held.production_id = None;
        });
    }

    /// The production distribution was given back, and the grant kept.
    pub(crate) fn yielded(&self, grant: &Grant) {
        self.released(grant);
    }

    pub(crate) fn released(&self, grant: &Grant) {
        let mut truth = self.truth();
        if let Some(held) = truth.grants.get_mut(&grant.key)
            && held.owner == grant.owner
            && held.epoch == grant.epoch
        {
            held.production_id = None;
        }
    }

    // ---- what the daemons do ----

    /// Runs right before a mutation takes effect.
    pub(crate) fn about_to(&self, aws: &EmbeddedAws, call: &Call) {
        let mut truth = self.truth();
        truth.before = None;
        let Some(resource) = &call.resource else {
            return;
        };
        if !matches!(call.service, AwsService::CloudFront | AwsService::Ssm) {
            return;
        }
        truth.watch_owners(aws);
        let inventory = aws.inventory();
        let domain = aws.distribution(resource).map(|it| it.domain_name);
        let lists = |it: &&PolicyView| {
            it.id == *resource
                || domain
                    .as_ref()
                    .is_some_and(|it2| it.staging_domains.contains(it2))
        };
        let policy = inventory.policies.iter().find(lists);
        let listed = |policy: &PolicyView| {
            let all = inventory.distributions.iter();
            let of_it = all.filter(|it| policy.staging_domains.contains(&it.domain_name));
            of_it.map(|it| it.id.clone()).collect()
        };
        truth.before = Some(Before {
            policy_exists: policy.is_some(),
            policy_attached: policy.is_some_and(|policy| !policy.attached_to.is_empty()),
            listed: policy.map(listed).unwrap_or_default(),
            parameter: aws.parameter(resource),
        });
    }

    /// Runs when a daemon sends a request.
    pub(crate) fn asked(&self, aws: &EmbeddedAws, life: &Life, request: &http::Request<Vec<u8>>) {
        let mut truth = self.truth();
        if let Some(resource) = changed(request) {
            let sent = (life.owner.clone(), resource);
            truth.sent.insert(sent, aws.now());
        }
        for entry in json(request.body())["Entries"]
            .as_array()
            .into_iter()
            .flatten()
        {
            // Not only the queue has entries.
            if let Some(handle) = entry["ReceiptHandle"].as_str() {
                truth.newest_handle(aws.now(), life, handle);
            }
        }
    }

    /// Runs when a daemon gets an answer.
    pub(crate) fn delivered(
        &self,
        aws: &EmbeddedAws,
        life: &Life,
        answer: &http::Response<Vec<u8>>,
    ) {
        let mut truth = self.truth();
        for (id, handle) in messages(answer) {
            let lease = (life.owner.clone(), id);
            truth.firsts.entry(lease.clone()).or_insert(handle.clone());
            truth.handles.insert(lease, (handle, aws.now()));
        }
        truth.hear(life, &json(answer.body()));
    }

    /// Runs right after a call, in the same breath.
    pub(crate) fn answered(
        &self,
        aws: &EmbeddedAws,
        life: &Life,
        entry: &Entry,
        request: &[u8],
        answer: Option<&http::Response<Vec<u8>>>,
    ) {
        let now = aws.now();
        let mut truth = self.truth();
        truth.calls += 1;
        if let Some(trace) = &mut truth.trace {
            trace.push(format!("{entry} <- {}", life.owner));
        }
        let before = truth.before.take();
        match entry.call.operation.as_str() {
            "ReceiveMessage" => truth.received(now, life, request, answer),
            "ChangeMessageVisibilityBatch" => {
                truth.visibility_changed(now, life, entry, request, answer);
            }
            "DeleteMessageBatch" => truth.deleted(aws, request),
            "GetPipelineState" => {
                let pipeline = entry.call.resource.clone().unwrap_or_default();
                truth.looked(aws, life, &pipeline);
            }
            "ListActionExecutions" => {
                let execution = text(&json(request)["filter"]["pipelineExecutionId"]);
                truth.asked.insert((life.owner.clone(), execution), now);
            }
            "UpdateItem" if entry.change.is_none() => truth.table_failed(request),
            "UpdateItem" => truth.table_written(now, life, entry),
            "PutEvents" => truth.listen(aws),
            _ if entry.mutated() => {
                truth.mutations += 1;
                truth.mutated(now, life, entry, before.as_ref(), aws);
            }
            _ => {}
        }
    }
}

impl Checker {
    /// Looks at the world before something happens to it that is no call.
    pub(crate) fn look(&self, aws: &EmbeddedAws) {
        let mut truth = self.truth();
        truth.watch_owners(aws);
    }
}

/// What a job's item in the table says of who works on it.
struct Item {
    held_by: String,
    epoch: i64,
    until: i64,
    done: bool,
}

impl Item {
    fn read(text: Option<&std::sync::Arc<str>>) -> Option<Self> {
        let item: Value = serde_json::from_str(text?).ok()?;
        let number = |name: &str| item[name]["N"].as_str()?.parse().ok();
        Some(Self {
            held_by: text_of(&item, "held_by")?,
            epoch: number("epoch")?,
            until: number("lease_until")?,
            done: item["job_state"]["S"] == "done",
        })
    }
}

fn text_of(item: &Value, name: &str) -> Option<String> {
    item[name]["S"].as_str().map(str::to_owned)
}

/// What the keys of jobs begin with by which a person cleans a deployment.
pub(super) fn by_hand(service: &Service) -> String {
    format!("manual/{}/{}/", service.pipeline, service.staging_id)
}

/// When a lease must not have ended yet to count for a job that begins now.
fn soon(now: Timestamp) -> Timestamp {
    now.checked_add(GIVEN_UP).unwrap()
}

/// What a request is to change: a distribution, or a parameter.
fn changed(request: &http::Request<Vec<u8>>) -> Option<String> {
    let target = request.headers().get("x-amz-target");
    match target.and_then(|it| it.to_str().ok()) {
        Some("AmazonSSM.PutParameter") => Some(text(&json(request.body())["Name"])),
        Some(_) => None,
        None if request.method() == http::Method::PUT => {
            let mut parts = request.uri().path().split('/').skip(3);
            parts.next().map(str::to_owned)
        }
        None => None,
    }
}

fn text_between(text: &str, from: &str, to: &str) -> String {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to)
        .map_or("", |(found, _)| found)
        .to_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// The ids and receipt handles of the messages in an answer.
fn messages(answer: &http::Response<Vec<u8>>) -> Vec<(String, String)> {
    let answer = json(answer.body());
    let messages = answer["Messages"].as_array().into_iter().flatten();
    messages
        .map(|message| (text(&message["MessageId"]), text(&message["ReceiptHandle"])))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_default())
}
