//! Everything that is to go wrong with one call.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::chance::{Faults, by_chance};
use super::rule::{Action, Hook, Rule, RuleId};
use crate::services::Tweaks;
use crate::wire::exchange::{Call, Failure};
use crate::wire::ids::stable_hash;

/// How an exchange is to begin.
#[derive(Clone, Debug)]
pub(crate) enum Entrance {
    Proceed,
    Refuse(Failure),
    Drop,
    Hang,
}

/// How an exchange is to end once it took effect.
#[derive(Clone, Debug)]
pub(crate) enum Exit {
    Answer,
    Refuse(Failure),
    Drop,
    Hang,
}

/// Everything that is to go wrong with one call.
pub(crate) struct Plan<W> {
    pub(crate) delay: Duration,
    pub(crate) before: Vec<Hook<W>>,
    pub(crate) entrance: Entrance,
    pub(crate) tweaks: Tweaks,
    pub(crate) after: Vec<Hook<W>>,
    pub(crate) exit: Exit,
    pub(crate) names: Vec<String>,
}

/// The injector of a world.
pub(crate) struct Injector<W> {
    seed: u64,
    state: Mutex<State<W>>,
}

struct State<W> {
    rates: Faults,
    rules: Vec<(RuleId, Rule<W>, u64)>,
    next: u64,
    counts: HashMap<(String, Option<String>), u64>,
}

impl<W: Clone> Injector<W> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            state: Mutex::new(State {
                rates: Faults::none(),
                rules: Vec::new(),
                next: 0,
                counts: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_rates(&self, rates: Faults) {
        self.state().rates = rates;
    }

    pub(crate) fn add(&self, rule: Rule<W>) -> RuleId {
        let mut state = self.state();
        let id = RuleId(state.next);
        state.next += 1;
        state.rules.push((id, rule, 0));
        id
    }

    pub(crate) fn remove(&self, id: RuleId) {
        self.state().rules.retain(|(it, ..)| *it != id);
    }

    pub(crate) fn clear_rules(&self) {
        self.state().rules.clear();
    }

    /// Whether a rule denies the call. It is not made: nothing is counted.
    pub(crate) fn denies(&self, call: &Call) -> bool {
        let state = self.state();
        let mut rules = state.rules.iter();
        rules.any(|(_, rule, _)| matches!(rule.action, Action::Deny) && rule.matches(call))
    }

    /// Decides what goes wrong with a call. Rules come first; then chance.
    pub(crate) fn plan(&self, call: &Call) -> Plan<W> {
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

impl<W> Plan<W> {
    /// The account's calls come too fast.
    pub(crate) fn throttle(&mut self, call: &Call) {
        self.apply(Action::Throttle, call);
    }

    /// The first word on the entrance and on the exit counts; hooks and waits add up.
    fn apply(&mut self, action: Action<W>, call: &Call) {
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
