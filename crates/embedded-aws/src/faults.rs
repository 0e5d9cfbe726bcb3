//! What goes wrong on purpose: at random by rate, or by rule.
//!
//! Random faults depend on the seed and, for each operation on each resource, on how many such
//! calls came before; not on what else happens between. So the same seed hurts the same calls
//! whatever the interleaving. Rules are for tests that need one certain thing to happen at one
//! certain call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::EmbeddedAws;
use super::exchange::{AwsService, Call, Failure};
use super::ids::stable_hash;

/// How often, from 0 to 1, each kind of random fault befalls a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Throttled as the service does.
    pub throttle: f64,
    /// 500 or 503 instead of the effect.
    pub error: f64,
    /// 500 although the effect took place.
    pub error_after: f64,
    /// The connection is cut and nothing took effect.
    pub drop_before: f64,
    /// The connection is cut after the effect.
    pub drop_after: f64,
    /// The call waits, up to [`Faults::max_delay`], before anything else.
    pub delay: f64,
    /// The longest such wait.
    pub max_delay: Duration,
    /// A read shows what was there before the last write.
    pub stale: f64,
    /// A received message leaves a copy in the queue, to be delivered again.
    pub duplicate: f64,
    /// A receive takes the newest messages first.
    pub reorder: f64,
    /// A deleted message reappears: the delete is answered, and not done.
    pub undelete: f64,
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            throttle: 0.0,
            error: 0.0,
            error_after: 0.0,
            drop_before: 0.0,
            drop_after: 0.0,
            delay: 0.0,
            max_delay: Duration::ZERO,
            stale: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            undelete: 0.0,
        }
    }

    /// A bad day: one call in twenty or so meets something.
    #[must_use]
    pub fn mild() -> Self {
        Self {
            throttle: 0.02,
            error: 0.01,
            error_after: 0.003,
            drop_before: 0.005,
            drop_after: 0.005,
            delay: 0.05,
            max_delay: Duration::from_secs(2),
            stale: 0.05,
            duplicate: 0.02,
            reorder: 0.1,
            undelete: 0.01,
        }
    }

    /// As bad as it gets: every third call or so meets something.
    #[must_use]
    pub fn storm() -> Self {
        Self {
            throttle: 0.12,
            error: 0.08,
            error_after: 0.03,
            drop_before: 0.05,
            drop_after: 0.05,
            delay: 0.2,
            max_delay: Duration::from_secs(15),
            stale: 0.25,
            duplicate: 0.1,
            reorder: 0.3,
            undelete: 0.05,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// A closure that a rule runs on the world.
pub type Hook = Arc<dyn Fn(&EmbeddedAws, &Call) + Send + Sync>;

/// What a rule does to a call.
#[derive(Clone)]
pub enum Action {
    /// Refuses it, without effect.
    Refuse(Failure),
    /// Throttles it as its service does.
    Throttle,
    /// Refuses it for want of permission, as its service does.
    Deny,
    /// Answers with this failure although the call took effect.
    RefuseAfter(Failure),
    /// Cuts the connection, without effect.
    DropBefore,
    /// Cuts the connection after the effect.
    DropAfter,
    /// Never answers; no effect. Ends when the caller gives up.
    Hang,
    /// Never answers, after the effect.
    HangAfter,
    /// Waits first.
    Delay(Duration),
    /// Shows a read what was there before the last write.
    Stale,
    /// Leaves a copy of received messages in the queue, to be delivered again.
    Duplicate,
    /// Delivers the newest messages first.
    Reorder,
    /// Answers a delete without deleting.
    Undelete,
    /// Answers 200, with every event of PutEvents refused.
    RefuseEntries,
    /// Runs a closure on the world before the effect.
    Before(Hook),
    /// Runs a closure on the world after the effect, before the caller gets to see the answer.
    After(Hook),
}

impl Action {
    /// [`Action::Before`] of a closure.
    pub fn before(hook: impl Fn(&EmbeddedAws, &Call) + Send + Sync + 'static) -> Self {
        Self::Before(Arc::new(hook))
    }

    /// [`Action::After`] of a closure.
    pub fn after(hook: impl Fn(&EmbeddedAws, &Call) + Send + Sync + 'static) -> Self {
        Self::After(Arc::new(hook))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Refuse(_) => "refused",
            Self::Throttle => "throttled",
            Self::Deny => "denied",
            Self::RefuseAfter(_) => "refused after the effect",
            Self::DropBefore => "cut before the effect",
            Self::DropAfter => "cut after the effect",
            Self::Hang => "hung before the effect",
            Self::HangAfter => "hung after the effect",
            Self::Delay(_) => "delayed",
            Self::Stale => "stale",
            Self::Duplicate => "duplicated",
            Self::Reorder => "reordered",
            Self::Undelete => "not deleted",
            Self::RefuseEntries => "entries refused",
            Self::Before(_) => "hook before",
            Self::After(_) => "hook after",
        }
    }
}

/// Which calls a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Any,
    Mutations,
    Operation(String),
}

/// "On the nth call of operation X, on resource Y, do Z."
///
/// ```ignore
/// world.add_rule(Rule::on("UpdateDistribution").about(&id).nth(1).then(Action::DropAfter));
/// ```
#[derive(Clone)]
pub struct Rule {
    which: Which,
    resource: Option<String>,
    account: Option<String>,
    /// The first and the last matching call, counted from 1, that it takes effect on.
    calls: (u64, u64),
    action: Action,
}

impl Rule {
    fn matching(which: Which) -> Self {
        Self {
            which,
            resource: None,
            account: None,
            calls: (1, u64::MAX),
            action: Action::Delay(Duration::ZERO),
        }
    }

    /// A rule for every call of the named operation. Does nothing until [`Rule::then`].
    pub fn on(operation: impl Into<String>) -> Self {
        Self::matching(Which::Operation(operation.into()))
    }

    /// A rule for every call.
    #[must_use]
    pub fn on_any() -> Self {
        Self::matching(Which::Any)
    }

    /// A rule for every call of an operation that changes something.
    #[must_use]
    pub fn on_mutations() -> Self {
        Self::matching(Which::Mutations)
    }

    /// Only calls about this distribution, policy, parameter or queue (by its name).
    #[must_use]
    pub fn about(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Only calls with credentials of this account.
    #[must_use]
    pub fn by_account(mut self, account: impl Into<String>) -> Self {
        self.account = Some(account.into());
        self
    }

    /// Only the nth matching call, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.calls = (nth, nth);
        self
    }

    /// Only the first so many matching calls.
    #[must_use]
    pub fn first(mut self, count: u64) -> Self {
        self.calls = (1, count);
        self
    }

    /// What to do.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    fn matches(&self, call: &Call) -> bool {
        let operation = match &self.which {
            Which::Any => true,
            Which::Mutations => call.may_mutate(),
            Which::Operation(name) => *name == call.operation,
        };
        operation
            && self
                .resource
                .as_ref()
                .is_none_or(|it| call.resource.as_ref() == Some(it))
            && self.account.as_ref().is_none_or(|it| call.account == *it)
    }
}

/// Names a rule for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

/// Changes to what an operation does, rather than to whether it does it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tweaks {
    pub(super) stale: bool,
    pub(super) duplicate: bool,
    pub(super) reorder: bool,
    pub(super) undelete: bool,
    pub(super) refuse_entries: bool,
}

/// How an exchange is to begin.
#[derive(Clone, Debug)]
pub(super) enum Entrance {
    Proceed,
    Refuse(Failure),
    Drop,
    Hang,
}

/// How an exchange is to end once it took effect.
#[derive(Clone, Debug)]
pub(super) enum Exit {
    Answer,
    Refuse(Failure),
    Drop,
    Hang,
}

/// Everything that is to go wrong with one call.
pub(super) struct Plan {
    pub(super) delay: Duration,
    pub(super) before: Vec<Hook>,
    pub(super) entrance: Entrance,
    pub(super) tweaks: Tweaks,
    pub(super) after: Vec<Hook>,
    pub(super) exit: Exit,
    pub(super) names: Vec<String>,
}

/// The injector of a world.
pub(super) struct Injector {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rates: Faults,
    rules: Vec<(RuleId, Rule, u64)>,
    next: u64,
    counts: HashMap<(String, Option<String>), u64>,
}

impl Injector {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_rates(&self, rates: Faults) {
        self.state().rates = rates;
    }

    pub(super) fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.state();
        let id = RuleId(state.next);
        state.next += 1;
        state.rules.push((id, rule, 0));
        id
    }

    pub(super) fn remove(&self, id: RuleId) {
        self.state().rules.retain(|(it, ..)| *it != id);
    }

    pub(super) fn clear_rules(&self) {
        self.state().rules.clear();
    }

    /// Whether a rule denies the call. It is not made: nothing is counted.
    pub(super) fn denies(&self, call: &Call) -> bool {
        let state = self.state();
        let mut rules = state.rules.iter();
        rules.any(|(_, rule, _)| matches!(rule.action, Action::Deny) && rule.matches(call))
    }

    /// Decides what goes wrong with a call. Rules come first; then chance.
    pub(super) fn plan(&self, call: &Call) -> Plan {
        let mut plan = Plan {
            delay: Duration::ZERO,
            before: Vec::new(),
            entrance: Entrance::Proceed,
            tweaks: Tweaks::default(),
            after: Vec::new(),
            exit: Exit::Answer,
            names: Vec::new(),
        };
        let mut state = self.state();
        let mut actions = Vec::new();
        for (_, rule, matched) in &mut state.rules {
            if rule.matches(call) {
                *matched += 1;
                if (rule.calls.0..=rule.calls.1).contains(matched) {
                    actions.push(rule.action.clone());
                }
            }
        }
        let key = (call.operation.clone(), call.resource.clone());
        let count = state.counts.entry(key).or_default();
        *count += 1;
        let parts: [&[u8]; 4] = [
            &self.seed.to_be_bytes(),
            call.operation.as_bytes(),
            call.resource.as_deref().unwrap_or_default().as_bytes(),
            &count.to_be_bytes(),
        ];
        let mut rng = fastrand::Rng::with_seed(stable_hash(&parts));
        actions.extend(by_chance(&state.rates, call, &mut rng));
        drop(state);
        for action in actions {
            plan.apply(action, call);
        }
        plan
    }
}

fn by_chance(rates: &Faults, call: &Call, rng: &mut fastrand::Rng) -> Vec<Action> {
    let mut actions = Vec::new();
    // Every kind draws, whether or not it can apply: a rate changed leaves the others' draws.
    let mut chance = |rate: f64| rng.f64() < rate;
    let delay = chance(rates.delay);
    let stale = chance(rates.stale) && call.service == AwsService::CloudFront;
    let duplicate = chance(rates.duplicate) && call.operation == "ReceiveMessage";
    let reorder = chance(rates.reorder) && call.operation == "ReceiveMessage";
    let undelete = chance(rates.undelete) && call.operation.starts_with("DeleteMessage");
    let throttle = chance(rates.throttle);
    let error = chance(rates.error);
    let error_after = chance(rates.error_after);
    let drop_before = chance(rates.drop_before);
    let drop_after = chance(rates.drop_after);
    if delay {
        actions.push(Action::Delay(rates.max_delay.mul_f64(rng.f64())));
    }
    let tweaks = [
        (stale, Action::Stale),
        (duplicate, Action::Duplicate),
        (reorder, Action::Reorder),
        (undelete, Action::Undelete),
        (throttle, Action::Throttle),
        (
            error,
            Action::Refuse(Failure::server_error(call.service, rng.bool())),
        ),
        (drop_before, Action::DropBefore),
        (
            error_after,
            Action::RefuseAfter(Failure::server_error(call.service, false)),
        ),
        (drop_after, Action::DropAfter),
    ];
    actions.extend(
        tweaks
            .into_iter()
            .filter(|(happens, _)| *happens)
            .map(|(_, action)| action),
    );
    actions
}

impl Plan {
    /// The account's calls come too fast.
    pub(super) fn throttle(&mut self, call: &Call) {
        self.apply(Action::Throttle, call);
    }

    /// The first word on the entrance and on the exit counts; hooks and waits add up.
    fn apply(&mut self, action: Action, call: &Call) {
        let name = action.name();
        let entering = matches!(self.entrance, Entrance::Proceed);
        let leaving = entering && matches!(self.exit, Exit::Answer);
        match action {
            Action::Delay(delay) => self.delay += delay,
            Action::Before(hook) => self.before.push(hook),
            Action::After(hook) => self.after.push(hook),
            Action::Stale => self.tweaks.stale = true,
            Action::Duplicate => self.tweaks.duplicate = true,
            Action::Reorder => self.tweaks.reorder = true,
            Action::Undelete => self.tweaks.undelete = true,
            Action::RefuseEntries => self.tweaks.refuse_entries = true,
            Action::Refuse(failure) if entering => self.entrance = Entrance::Refuse(failure),
            Action::Throttle if entering => {
                self.entrance = Entrance::Refuse(Failure::throttled(call.service));
            }
            Action::Deny if entering => {
                self.entrance = Entrance::Refuse(Failure::access_denied(call));
            }
            Action::DropBefore if entering => self.entrance = Entrance::Drop,
            Action::Hang if entering => self.entrance = Entrance::Hang,
            Action::RefuseAfter(failure) if leaving => self.exit = Exit::Refuse(failure),
            Action::DropAfter if leaving => self.exit = Exit::Drop,
            Action::HangAfter if leaving => self.exit = Exit::Hang,
            _ => return,
        }
        self.names.push(name.to_owned());
    }
}
