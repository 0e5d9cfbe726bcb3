//! Ledger, lease and queue in every order: two instances on one ledger, one production distribution, two executions
//! that were rejected, and three messages, of which two are about the older execution.
//!
//! The rules are the program's own: who may work and who holds the production distribution is asked of
//! [`crate::ledger::Records`], when a message's lease is to be extended or is over of
//! [`Lease`], when a grant counts as lost of [`Terms`], and what a job does next of [`crate::domain::decision`].
//!
//! **Bounds.** A message is received [`RECEIVES`] times, then it is a dead letter. An instance works on one job at a
//! time. A lease lasts three ticks of the time; a change has propagated at the next tick. The second instance's
//! reading of the ledger's time is ahead by as much as two readings may differ. As many crashes and as many
//! lost answers as [`Model`] says. Nothing else is bounded: there may be any number of ticks and of tries.
//!
//! **Not modelled.** Stale readings of the account, and other executions at work: the seeds have both.

mod deeds;
mod records;
mod world;

use std::time::Duration;

use stateright::{Checker, Property};
use tokio::time::Instant;

use self::records::{LONG_OVER, Ledger, Rows};
use self::world::{Accepted, Next, World};
use super::lease::{Due, Lease};
use crate::domain::lease_terms::Terms;

const INSTANCES: usize = 2;
const EXECUTIONS: usize = 2;
/// The execution that deployed last.
const NEWER: usize = 1;
/// Which execution each message is about.
const MESSAGES: [usize; 3] = [0, 0, NEWER];
/// After so many receives a message is a dead letter.
const RECEIVES: u8 = 2;

/// What two readings of the ledger's time may differ by.
const TICK: Duration = Duration::from_secs(5);
const TERMS: Terms = Terms {
    visibility_timeout: Duration::from_secs(15),
    heartbeat_interval: Duration::from_secs(5),
};
const LEASE: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Message {
    Visible { receives: u8 },
    Hidden { receives: u8, left: u8 },
    Deleted,
    Dead,
}

/// A message that an instance holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    /// Ticks since the extension was asked for that was confirmed last.
    age: u8,
    /// It was not received again since.
    newest: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    Asking,
    Granted(Granted),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Granted {
    /// The job was not granted to anybody since.
    newest: bool,
    age: u8,
    bound: bool,
    accepted: Accepted,
    next: Option<Next>,
    /// The ledger has taken note that `next` is about to be made.
    noted: bool,
}

/// What an instance works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Work {
    execution: usize,
    held: [Option<Held>; MESSAGES.len()],
    run: Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    queue: [Message; MESSAGES.len()],
    ledger: Rows,
    world: World,
    instances: [Option<Work>; INSTANCES],
    crashes: u8,
    lost: u8,
    broken: Option<Broken>,
}

/// A promise that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    /// A message is deleted, and its job is not done.
    DeletedEarly,
    /// A job is granted while another instance has good reason to work on it.
    GrantedTwice,
    /// Two jobs hold the production distribution.
    HeldTwice,
    /// A change is made under a grant that is void, or without the production distribution.
    ActedWithoutGrant,
    /// A change is made while no message of the job is held.
    ActedWithoutMessage,
    /// A change to what is not the execution's own, or one that was made before.
    Forbidden,
    /// A job is done by a grant that is void.
    CompletedStale,
    /// A job is done, and its staging distribution is there.
    DoneUnclean,
}

/// How a call ends for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It has its effect; the caller does not learn of it.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Receive(usize),
    Claim,
    Bind,
    /// Looks at the account, and decides.
    Look,
    Note,
    Change,
    Complete,
    Delete(usize),
    /// Extends the leases of messages and grant.
    Beat,
    /// No extension comes through.
    BeatInVain,
    /// Gives up for now: messages and grant are given back.
    Release,
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Deed(usize, Deed, Fate),
}

/// Mistakes made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    DeletesEarly,
    /// A lease that has not ended is no obstacle.
    GrantsTwice,
    /// The time is believed to be read alike by all.
    TrustsTheTime,
    /// A second job for a production distribution is let in.
    SharesProduction,
    /// A lease that is over is worked on.
    ActsAfterLoss,
    /// An extension counts before it is confirmed.
    BelievesExtensions,
    /// The grant is not asked for at the end.
    CompletesStale,
}

#[derive(Debug)]
struct Model {
    crashes: u8,
    lost: u8,
    mistake: Option<Mistake>,
    ledger: Ledger,
    /// By a message's age, whether its lease is over.
    over: [bool; LEASE as usize + 1],
}

impl Model {
    fn new(crashes: u8, lost: u8, mistake: Option<Mistake>) -> Self {
        let received_at = Instant::now();
        let lease = Lease::new(TERMS, received_at);
        let over = std::array::from_fn(|age| {
            let due = lease.due(received_at + TICK * u32::try_from(age).unwrap());
            assert_eq!(matches!(due, Due::At(_)), age == 0, "extended at each tick");
            matches!(due, Due::Over(_))
        });
        Self {
            crashes,
            lost,
            mistake,
            ledger: Ledger::new(),
            over,
        }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn is_lost(granted: &Granted) -> bool {
        TERMS.is_lost(TICK * granted.age.into())
    }

    /// Whether an instance believes that it may go on.
    fn goes_on(&self, work: &Work) -> bool {
        let mut held = work.held.iter().flatten();
        let held = held.any(|held| !self.over[usize::from(held.age)]);
        held && !matches!(&work.run, Run::Granted(granted) if Self::is_lost(granted))
    }

    /// Whether it may take a further step.
    fn may_go_on(&self, work: &Work) -> bool {
        self.makes(Mistake::ActsAfterLoss) || self.goes_on(work)
    }

    fn deeds(&self, state: &State, instance: usize) -> Vec<Deed> {
        let received = |work: Option<&Work>, message: usize| {
            matches!(state.queue[message], Message::Visible { .. })
                && work
                    .is_none_or(|work| work.execution == MESSAGES[message] && work.run != Run::Done)
        };
        let work = state.instances[instance].as_ref();
        let mut deeds: Vec<_> = (0..MESSAGES.len())
            .filter(|message| received(work, *message))
            .map(Deed::Receive)
            .collect();
        let Some(work) = work else { return deeds };
        deeds.push(Deed::Crash);
        if work.run == Run::Done || self.makes(Mistake::DeletesEarly) {
            let held = (0..MESSAGES.len()).filter(|message| work.held[*message].is_some());
            deeds.extend(held.map(Deed::Delete));
        }
        if work.run == Run::Done {
            return deeds;
        }
        deeds.extend([Deed::Release, Deed::Beat, Deed::BeatInVain]);
        if !self.may_go_on(work) {
            return deeds;
        }
        deeds.push(match work.run {
            Run::Asking | Run::Done => Deed::Claim,
            Run::Granted(Granted { bound: false, .. }) => Deed::Bind,
            Run::Granted(Granted { next: None, .. }) => Deed::Look,
            Run::Granted(Granted {
                next: Some(Next::Finish(_)),
                ..
            }) => Deed::Complete,
            Run::Granted(Granted { noted: false, .. }) => Deed::Note,
            Run::Granted(_) => Deed::Change,
        });
        deeds
    }
}

fn tick(state: &mut State) {
    for message in &mut state.queue {
        if let Message::Hidden { receives, left } = *message {
            *message = match left {
                1 => Message::Visible { receives },
                _ => Message::Hidden {
                    receives,
                    left: left - 1,
                },
            };
        }
    }
    for row in state
        .ledger
        .iter_mut()
        .flatten()
        .filter(|row| row.owner.is_some())
    {
        row.left = (row.left - 1).max(LONG_OVER);
    }
    for work in state.instances.iter_mut().flatten() {
        for held in work.held.iter_mut().flatten() {
            held.age = (held.age + 1).min(LEASE);
        }
        if let Run::Granted(granted) = &mut work.run {
            granted.age = (granted.age + 1).min(LEASE);
        }
    }
    state.world.propagate();
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            queue: [Message::Visible { receives: 0 }; MESSAGES.len()],
            ledger: [None; EXECUTIONS],
            world: World::new(),
            instances: [None; INSTANCES],
            crashes: self.crashes,
            lost: self.lost,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        actions.push(Action::Tick);
        for instance in 0..INSTANCES {
            for deed in self.deeds(state, instance) {
                if deed != Deed::Crash || state.crashes > 0 {
                    actions.push(Action::Deed(instance, deed, Fate::Answered));
                }
                let is_call = !matches!(
                    deed,
                    Deed::Crash | Deed::Release | Deed::Look | Deed::BeatInVain
                );
                if is_call && state.lost > 0 {
                    actions.push(Action::Deed(instance, deed, Fate::Lost));
                }
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Tick => tick(&mut state),
            Action::Deed(instance, deed, fate) => {
                self.deed(&mut state, instance, deed, fate);
                state.lost -= u8::from(fate == Fate::Lost);
                state.crashes -= u8::from(deed == Deed::Crash);
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("promises are kept", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::sometimes("everything is cleaned", |_, state: &State| {
                state.world.staging == [None; EXECUTIONS]
                    && state.queue == [Message::Deleted; MESSAGES.len()]
            }),
            Property::sometimes("there is a dead letter", |_, state: &State| {
                state.queue.contains(&Message::Dead)
            }),
        ]
    }
}

/// So many crashes and so many lost answers; `MODEL_FAULTS` sets another number.
fn faults() -> u8 {
    std::env::var("MODEL_FAULTS").map_or(1, |number| number.parse().unwrap())
}

#[test]
fn in_every_order_every_promise_is_kept() {
    use stateright::Model as _;
    let checker = Model::new(faults(), faults(), None).checker();
    let checker = checker.threads(2).spawn_bfs().join();
    println!(
        "{} different states, {} steps, {} questions to the ledger",
        checker.unique_state_count(),
        checker.state_count(),
        checker.model().ledger.questions(),
    );
    if let Some(path) = checker.discovery("promises are kept") {
        let broken = path.last_state().broken;
        panic!("{broken:?} by {:#?}", path.into_actions());
    }
    checker.assert_properties();
}

/// The first promise that the model finds broken.
fn found(mistake: Mistake) -> Option<Broken> {
    use stateright::{HasDiscoveries, Model as _};
    let checker = Model::new(1, 1, Some(mistake)).checker();
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let path = checker.spawn_bfs().join().discovery("promises are kept")?;
    path.last_state().broken
}

#[test]
fn every_mistake_is_found() {
    for (mistake, broken) in [
        (Mistake::DeletesEarly, Broken::DeletedEarly),
        (Mistake::GrantsTwice, Broken::GrantedTwice),
        (Mistake::TrustsTheTime, Broken::GrantedTwice),
        (Mistake::SharesProduction, Broken::HeldTwice),
        (Mistake::ActsAfterLoss, Broken::ActedWithoutMessage),
        (Mistake::BelievesExtensions, Broken::GrantedTwice),
        (Mistake::CompletesStale, Broken::CompletedStale),
    ] {
        assert_eq!(found(mistake), Some(broken), "{mistake:?}");
    }
}
