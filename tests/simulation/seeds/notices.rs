//! What `[notify]` promises (`docs/NOTIFY.md`), held against what was kept, told and forgotten; and who is
//! told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use embedded_aws::{Action, AwsService, EmbeddedAws, Failure};
use jiff::Timestamp;
use serde_json::Value;
use stagesweep::ledger::Grant;
use stagesweep::notify::Notice;
use stagesweep::runtime::programs::{Finish, Invocation, Listener, Programs};
use stagesweep::runtime::stop::Stop;

use super::checker::{Checker, Kind, Truth};
use super::whose::left_behind;
use super::wire::{Life, Point};

/// The event bus.
pub(crate) const BUS: &str = "outcomes";

/// Between the keeping of a notice and the end that it tells of there is nothing to wait for.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A daemon that is asked to stop has its grace period, and two seconds for notices.
const TIME_TO_STOP: Duration = Duration::from_secs(25 + 2);

/// A table keeps no more notices.
const MAX_IN_TABLE: usize = 100;

/// How long one that is slow takes.
const SLOW: Duration = Duration::from_secs(40);

/// Ends of a run that are no news: the job goes on.
const NO_NEWS: [&str; 7] = [
    "shutting_down",
    "lease_lost",
    "crowded",
    "visibility_ceiling",
    "ledger_lost",
    "production_busy",
    "ledger_not_owner",
];

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlet {
    Bus,
    Program,
}

/// What is wrong with one who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Denied; exits with 1.
    Refuses,
    /// A server's error; cannot be started.
    Fails,
    /// Never answers; runs until it is ended.
    Hangs,
    Slow,
    /// Takes it, and does not say so.
    TakesSecretly,
    /// Says yes and takes none; is killed.
    TakesNone,
}

impl Trouble {
    /// How the event bus shows it.
    pub(crate) fn of_the_bus(self) -> Action {
        match self {
            Self::Refuses => Action::Deny,
            Self::Fails => Action::Refuse(Failure::server_error(AwsService::EventBridge, false)),
            Self::Hangs => Action::Hang,
            Self::Slow => Action::Delay(SLOW),
            Self::TakesSecretly => Action::DropAfter,
            Self::TakesNone => Action::RefuseEntries,
        }
    }
}

/// The program of one life that is told; virtual time passes in it.
pub(crate) struct Teller {
    pub(crate) life: Arc<Life>,
    pub(crate) checker: Arc<Checker>,
    pub(crate) aws: EmbeddedAws,
    pub(crate) trouble: Arc<Mutex<Option<Trouble>>>,
    pub(crate) running: AtomicBool,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}

#[async_trait]
impl Programs for Teller {
    async fn run(
        &self,
        invocation: &Invocation,
        _stop: &Stop,
        _told: Listener<'_>,
    ) -> io::Result<Finish> {
        self.life.survive(Point::BeforeCall).await;
        if self.running.swap(true, Ordering::Relaxed) {
            self.checker.fail("two notices at once".to_owned());
        }
        let trouble = *self.trouble.lock().unwrap();
        let end = match trouble {
            None => Ok(Finish::Exited(0)),
            Some(Trouble::Refuses) => Ok(Finish::Exited(1)),
            Some(Trouble::Fails) => Err(io::ErrorKind::NotFound.into()),
            Some(Trouble::Hangs) => {
                tokio::time::sleep(invocation.timeout).await;
                Ok(Finish::TimedOut)
            }
            Some(Trouble::Slow) => {
                tokio::time::sleep(SLOW).await;
                Ok(Finish::Exited(0))
            }
            Some(Trouble::TakesSecretly) => Ok(Finish::Exited(3)),
            Some(Trouble::TakesNone) => Ok(Finish::Signalled(9)),
        };
        if matches!(trouble, None | Some(Trouble::Slow | Trouble::TakesSecretly)) {
            self.checker
                .told(&self.aws, Outlet::Program, &invocation.input);
        }
        self.running.store(false, Ordering::Relaxed);
        self.life.survive(Point::AfterCall).await;
        end
    }
}

/// What is known of notices.
#[derive(Default)]
pub(super) struct Notices {
    /// Who is to be told; nobody, where that is switched off.
    outlets: BTreeSet<Outlet>,
    max_receives: u32,
    /// What is kept.
    kept: BTreeSet<String>,
    /// By owner and id: when it was last made known to the ledger, which may have failed to keep it.
    made: BTreeMap<(String, String), Timestamp>,
    /// Those that a ledger failed to keep.
    unkept: BTreeSet<String>,
    /// By owner and execution: a message was received for the last time, perhaps not for the first time so. What
    /// is told of dead letters is told once, but what is met after each may be told again.
    may_tell_again: BTreeSet<(String, String)>,
    /// By owner and what is told once, the id of its notice; until it may be told again.
    once: BTreeMap<(String, String), String>,
    /// By owner what of it was ever told.
    ever: BTreeSet<(String, String)>,
    /// Runs that came to news: owner, job, reason, and when.
    news: Vec<(String, String, String, Timestamp)>,
    taken: BTreeMap<Outlet, BTreeSet<String>>,
    /// So many events on the bus were looked at.
    seen: usize,
    /// Who knows of the redrive policy.
    know: BTreeSet<String>,
    /// By message who has received it for the last time.
    last: BTreeMap<String, String>,
    /// Messages that were deleted. A copy of one may become a dead letter all the same.
    pub(super) deleted: BTreeSet<String>,
    stopping: BTreeMap<String, Timestamp>,
    /// When each life ended.
    gone: BTreeMap<String, Timestamp>,
}

fn done_id(key: &str) -> String {
    format!("{key}/done")
}

impl Checker {
    /// From now on these are told.
    pub(crate) fn tells(&self, outlets: BTreeSet<Outlet>, max_receives: u32) {
        let notices = &mut self.truth().notices;
        notices.outlets = outlets;
        notices.max_receives = max_receives;
    }

    /// A ledger was asked to keep a notice.
    pub(crate) fn owed(&self, now: Timestamp, life: &Life, id: &str, text: &str, kept: bool) {
        self.truth().owed(now, life, id, text, kept);
    }

    /// A ledger forgets notices.
    pub(crate) fn paid(&self, ids: &[String]) {
        let mut truth = self.truth();
        for id in ids {
            truth.paid(id);
        }
    }

    /// One who is told has taken a notice.
    pub(crate) fn told(&self, aws: &EmbeddedAws, outlet: Outlet, detail: &str) {
        self.note(aws.now(), || format!("{outlet:?} takes {detail}"));
        let detail = serde_json::from_str(detail).unwrap();
        self.truth().told(aws, outlet, &detail);
    }

    /// A run of a job ended, and its ledger knows why.
    pub(crate) fn ended(&self, now: Timestamp, grant: &Grant, reason: &str) {
        let mut truth = self.truth();
        if truth.notices.outlets.is_empty() || truth.catch_up || NO_NEWS.contains(&reason) {
            return;
        }
        let key = grant.key.to_string();
        let news = (grant.owner.clone(), key, reason.to_owned(), now);
        truth.notices.news.push(news);
    }

    /// A daemon is asked to stop.
    pub(crate) fn stopping(&self, now: Timestamp, life: &Life) {
        let stopping = &mut self.truth().notices.stopping;
        stopping.entry(life.owner.clone()).or_insert(now);
    }

    /// A life is over.
    pub(crate) fn gone(&self, now: Timestamp, life: &Life) {
        let mut truth = self.truth();
        truth.notices.gone.insert(life.owner.clone(), now);
        let asked = truth.notices.stopping.get(&life.owner);
        if asked.is_some_and(|asked| now.duration_since(*asked).unsigned_abs() > TIME_TO_STOP) {
            truth.fail(format!("{} took long to stop", life.owner));
        }
    }

    /// Everything was told that is to be told.
    pub(crate) fn everything_is_told(&self, aws: &EmbeddedAws, dead_letter_url: &str) {
        let mut truth = self.truth();
        truth.listen(aws);
        for message in aws.messages(dead_letter_url) {
            truth.dead_letter_is_told(&message.id);
        }
        if let Some(id) = truth.notices.kept.first().cloned() {
            truth.fail(format!("still owed: {id}"));
        }
        let done = truth.done().map(|key| done_id(&key));
        let untold: Vec<_> = done
            .filter(|id| !truth.notices.is_taken(id) && !truth.notices.unkept.contains(id))
            // Of what a person cleans, he is told on his terminal.
            .filter(|id| !id.starts_with("manual/"))
            .collect();
        for id in untold {
            truth.fail(format!("never told: {id}"));
        }
        let notices = &truth.notices;
        let untold = notices.news.iter().find(|(owner, key, reason, at)| {
            let made = ["failed", "refused"].iter().any(|outcome| {
                let once = format!("{key}/{outcome}/{reason}");
                notices.ever.contains(&(owner.clone(), once))
            });
            // Of what a person cleans, he is told on his terminal. Not promised of one that is killed meanwhile.
            let died = notices.gone.get(owner);
            let by_hand = key.starts_with("manual/");
            !made
                && !by_hand
                && died.is_none_or(|died| died.duration_since(*at).unsigned_abs() > AT_ONCE)
        });
        if let Some((owner, key, reason, _)) = untold.cloned() {
            truth.fail(format!("{owner} did not tell that {key} ended as {reason}"));
        }
    }
}

impl Notices {
    pub(super) fn are_on(&self) -> bool {
        !self.outlets.is_empty()
    }

    fn is_taken(&self, id: &str) -> bool {
        let by = |outlet| self.taken.get(outlet).is_some_and(|it| it.contains(id));
        self.outlets.iter().all(by)
    }
}

impl Truth {
    fn owed(&mut self, now: Timestamp, life: &Life, id: &str, text: &str, kept: bool) {
        let notice: Notice = serde_json::from_str(text).unwrap();
        let detail: Value = serde_json::from_str(&notice.detail).unwrap();
        let execution = detail["execution_id"].as_str().unwrap_or_default();
        let notices = &mut self.notices;
        notices
            .made
            .insert((life.owner.clone(), id.to_owned()), now);
        if kept {
            notices.kept.insert(id.to_owned());
        } else {
            notices.unkept.insert(id.to_owned());
        }
        match detail["outcome"].as_str().unwrap_or_default() {
            "refused" | "failed" => {
                // The last part is the run's number.
                let (once, _) = id.rsplit_once('/').unwrap();
                let place = (life.owner.clone(), once.to_owned());
                notices.ever.insert(place.clone());
                let earlier = notices.once.insert(place, id.to_owned());
                let again = earlier.is_some_and(|earlier| earlier != id);
                let may = (life.owner.clone(), execution.to_owned());
                if again && !notices.may_tell_again.contains(&may) {
                    self.fail(format!("{} told again: {id}", life.owner));
                }
            }
            // Should it be sent back one day, what is met then is news.
            "dead_lettered" if !execution.is_empty() => notices
                .once
                .retain(|(owner, once), _| *owner != life.owner || !once.starts_with(execution)),
            _ => {}
        }
    }

    fn paid(&mut self, id: &str) {
        let kept = self.notices.kept.remove(id);
        if kept && !self.notices.is_taken(id) {
            self.fail(format!("forgotten before everyone had taken it: {id}"));
        }
    }

    /// A daemon gets an answer of the queue's.
    pub(super) fn hear(&mut self, life: &Life, answer: &Value) {
        let notices = &mut self.notices;
        if answer["Attributes"]["RedrivePolicy"].is_string() {
            notices.know.insert(life.owner.clone());
        }
        let max = notices.max_receives.to_string();
        for message in answer["Messages"].as_array().into_iter().flatten() {
            let last = message["Attributes"]["ApproximateReceiveCount"] == *max;
            if let Some(id) = message["MessageId"].as_str().filter(|_| last) {
                notices.last.insert(id.to_owned(), life.owner.clone());
                if let Some(Kind::Rejection(number)) = self.messages.get(id) {
                    let execution = &self.deployments[*number].service.execution_id;
                    let may = (life.owner.clone(), execution.clone());
                    notices.may_tell_again.insert(may);
                }
            }
        }
    }

    /// A table was not written: what is told of dead letters then is not kept.
    pub(super) fn table_failed(&mut self, request: &[u8]) {
        let request = String::from_utf8_lossy(request);
        let max = self.notices.max_receives;
        let ids = self.notices.last.keys();
        let ids = ids.map(|message| format!("{message}/dead_lettered/{max}"));
        let unkept: Vec<_> = ids.filter(|id| request.contains(id.as_str())).collect();
        self.notices.unkept.extend(unkept);
    }

    /// Promised where whoever received it last knew so, and was not killed.
    fn dead_letter_is_told(&mut self, message: &str) {
        let notices = &self.notices;
        let Some(owner) = notices.last.get(message) else {
            return;
        };
        let id = format!("{message}/dead_lettered/{}", notices.max_receives);
        let killed = notices.gone.contains_key(owner) && !notices.stopping.contains_key(owner);
        let deleted = notices.deleted.contains(message);
        let told = notices.is_taken(&id) || notices.unkept.contains(&id);
        if notices.know.contains(owner) && !killed && !deleted && !told {
            self.fail(format!("{owner} did not tell of {id}"));
        }
    }

    /// A job is recorded as done: its notice was kept before, and nothing was waited for since.
    pub(super) fn done_and_told(&mut self, now: Timestamp, owner: &str, key: &str) {
        // Of what a person cleans, he is told on his terminal.
        if !self.notices.are_on() || owner.starts_with("person") {
            return;
        }
        let made = self.notices.made.get(&(owner.to_owned(), done_id(key)));
        match made.map(|made| now.duration_since(*made).unsigned_abs()) {
            None => self.fail(format!("{key} was done before its notice was kept")),
            Some(held_up) if held_up > AT_ONCE => {
                self.fail(format!("{key} was held up by its notice: {held_up:?}"));
            }
            Some(_) => {}
        }
    }

    /// The item of a table that keeps notices was written.
    pub(super) fn notices_written(
        &mut self,
        now: Timestamp,
        life: &Life,
        before: Option<&Value>,
        after: &Value,
    ) {
        let (before, after) = (before.map(in_item).unwrap_or_default(), in_item(after));
        for (id, text) in &after {
            if before.get(id) != Some(text) {
                self.owed(now, life, id, text, true);
            }
        }
        if before.len() <= MAX_IN_TABLE {
            for id in before.keys().filter(|id| !after.contains_key(*id)) {
                self.paid(id);
            }
        }
    }

    /// A job was recorded as done in a table; whether its notice could be kept there is seen in it.
    pub(super) fn done_in_table(&mut self, life: &Life, key: &str) {
        let id = done_id(key);
        if !self
            .notices
            .made
            .contains_key(&(life.owner.clone(), id.clone()))
        {
            self.notices.unkept.insert(id);
        }
    }

    /// Hears what is new on the bus.
    pub(super) fn listen(&mut self, aws: &EmbeddedAws) {
        if !self.notices.outlets.contains(&Outlet::Bus) {
            return;
        }
        let events = aws.events_on(BUS);
        let seen = std::mem::replace(&mut self.notices.seen, events.len());
        for event in &events[seen..] {
            self.told(aws, Outlet::Bus, &event["detail"]);
        }
    }

    fn told(&mut self, aws: &EmbeddedAws, outlet: Outlet, detail: &Value) {
        let id = detail["id"].as_str().unwrap_or_default().to_owned();
        if let Err(why) = self.is_true(aws, detail) {
            self.fail(format!(
                "{outlet:?} was told what is not so: {why}: {detail}"
            ));
        }
        self.notices.taken.entry(outlet).or_default().insert(id);
    }

    /// Whether what is told is so.
    fn is_true(&self, aws: &EmbeddedAws, detail: &Value) -> Result<(), &'static str> {
        let text = |name: &str| detail[name].as_str().unwrap_or_default();
        // Of what a person cleaned, that is the name of his job.
        let of_it = |it: &&super::checker::Deployment| {
            let by_hand = super::checker::by_hand(&it.service);
            let execution_id = text("execution_id");
            it.service.execution_id == execution_id || execution_id.starts_with(&by_hand)
        };
        let deployment = self.deployments.iter().find(of_it);
        if text("outcome") == "dead_lettered" {
            let counts = [&detail["receive_count"], &detail["max_receive_count"]];
            let last = Value::from(self.notices.max_receives);
            return match self.messages.get(text("message_id")) {
                None => Err("no such message"),
                Some(_) if counts != [&last, &last] => Err("it comes back"),
                Some(Kind::Rejection(number))
                    if deployment.is_some_and(|it| {
                        it.service.execution_id != self.deployments[*number].service.execution_id
                    }) =>
                {
                    Err("another's message")
                }
                Some(_) => Ok(()),
            };
        }
        let deployment = deployment.ok_or("no such deployment")?;
        if !deployment.rejected && !deployment.undecided {
            return Err("it was not rejected");
        }
        if deployment.service.pipeline != text("pipeline") {
            return Err("another pipeline");
        }
        match text("outcome") {
            "cleaned" | "already_clean" | "superseded" => match left_behind(aws, deployment) {
                Some(_) if !deployment.excused && self.times_tell => Err("something is left"),
                _ => Ok(()),
            },
            "observed" if !self.observes => Err("it was to be done"),
            "observed" => Ok(()),
            "undecided" if !deployment.undecided_once => Err("somebody decided"),
            "undecided" => Ok(()),
            "retracted" | "expired" if !self.verify => Err("nobody was asked"),
            "retracted" | "expired" | "refused" | "failed" => Ok(()),
            _ => Err("no such outcome"),
        }
    }
}

/// The notices in an item of a table, by id.
fn in_item(item: &Value) -> BTreeMap<String, String> {
    let attributes = item.as_object().into_iter().flatten();
    attributes
        .filter_map(|(_, value)| serde_json::from_str(value["S"].as_str()?).ok())
        .map(|(_since, text): (i64, String)| {
            let notice: Notice = serde_json::from_str(&text).unwrap();
            (notice.id, text)
        })
        .collect()
}
