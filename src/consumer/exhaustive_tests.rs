//! Ledger, lease and queue in every order: two instances on one ledger, one production distribution, two executions
//! that were rejected, and one message or two.
//!
//! The rules are the program's own: who may work and who holds the production distribution is asked of
//! [`crate::ledger::Records`], when a message's lease is to be extended or is over of [`Lease`], when a grant counts
//! as lost of [`Terms`], and what a job does next of [`crate::domain::decision`].
//!
//! **Bounds.** Each [`Story`] is checked to its end: there may be any number of ticks and of tries. A message is
//! received [`RECEIVES`] times, then it is a dead letter. An instance works on one job at a time. A lease lasts two
//! ticks of the time; a change has propagated at the next tick. The second instance's reading of the ledger's time is
//! ahead by as much as two readings may differ. Of crashes, lost answers and late calls to the ledger there are as
//! many as the story says, all told. An instance extends all its leases in one call. Once it counts its leases as
//! lost, it takes no message and extends nothing before it has given the job back.
//!
//! **Not modelled.** Stale readings of the account, other executions at work, a job that the ledger finishes without a
//! message: the seeds have those. A change to the account that arrives late. That the ledger takes note twice, before
//! the first change of all and before the first one of CloudFront: here once.

mod deeds;
mod records;
mod world;

use std::time::Duration;

use stateright::{Checker, Property};
use tokio::time::Instant;

use self::records::{LONG_OVER, Ledger, Row, Rows};
use self::world::{Accepted, Decisions, Next, World};
use super::lease::{Due, Lease};
use crate::domain::lease_terms::Terms;

const INSTANCES: usize = 2;
const MESSAGES: usize = 2;
const EXECUTIONS: usize = 2;
const OLDER: usize = 0;
/// The execution that deployed last.
const NEWER: usize = 1;
/// After so many receives a message is a dead letter.
const RECEIVES: u8 = 2;

/// What two readings of the ledger's time may differ by.
const TICK: Duration = Duration::from_secs(5);
const TERMS: Terms = Terms {
    visibility_timeout: Duration::from_secs(10),
    heartbeat_interval: Duration::from_secs(5),
};
/// In ticks.
const LEASE: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Visible { receives: u8 },
    Hidden { receives: u8, left: u8 },
    Deleted,
    Dead,
}

/// A message that an instance holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The ledger has taken note that the job changes something.
    noted: bool,
}

/// What an instance works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Work {
    execution: usize,
    held: [Option<Held>; MESSAGES],
    run: Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    queue: [Message; MESSAGES],
    ledger: Rows,
    world: World,
    instances: [Option<Work>; INSTANCES],
    /// So many may still come.
    faults: u8,
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
    /// It was sent in time, and has its effect when the caller's leases are over.
    Late,
}

impl Fate {
    fn is_fault(self) -> bool {
        self != Self::Answered
    }
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
    /// A job is done before its steps are.
    FinishesEarly,
    /// A job is taken for the newer execution's.
    MistakesTheExecution,
}

/// What there is at first.
#[derive(Clone, Copy, Debug)]
struct Story {
    name: &'static str,
    /// Which execution each message is about.
    messages: [usize; MESSAGES],
    /// So many of the messages there are.
    sent: usize,
    world: World,
    /// Earlier runs have bound the jobs, and changed something.
    begun: bool,
    /// Crashes, lost answers and late calls, at most.
    faults: u8,
}

/// One message, and a cleanup from the first step to the last.
const WHOLE: Story = Story {
    name: "a whole cleanup",
    messages: [NEWER; MESSAGES],
    sent: 1,
    world: World::new(),
    begun: false,
    faults: 2,
};

/// One message about the older execution: production is the newer one's.
const SUPERSEDED: Story = Story {
    name: "superseded",
    messages: [OLDER; MESSAGES],
    ..WHOLE
};

/// Two messages about one execution, of which earlier runs left the staging distribution.
const DUPLICATES: Story = Story {
    name: "duplicates",
    messages: [OLDER; MESSAGES],
    sent: MESSAGES,
    world: World::detached(),
    begun: true,
    faults: 1,
};

/// One message about each execution; earlier runs have disabled both staging distributions.
const TWO_JOBS: Story = Story {
    name: "two jobs",
    messages: [OLDER, NEWER],
    world: World::disabled(),
    ..DUPLICATES
};

#[derive(Debug)]
struct Model {
    story: Story,
    mistake: Option<Mistake>,
    ledger: Ledger,
    decisions: Decisions,
    /// By a message's age, whether its lease is over.
    over: [bool; LEASE as usize + 1],
}

impl Model {
    fn new(story: Story, mistake: Option<Mistake>) -> Self {
        let received_at = Instant::now();
        let lease = Lease::new(TERMS, received_at);
        let over = std::array::from_fn(|age| {
            let due = lease.due(received_at + TICK * u32::try_from(age).unwrap());
            assert_eq!(matches!(due, Due::At(_)), age == 0, "extended at each tick");
            matches!(due, Due::Over(_))
        });
        Self {
            story,
            mistake,
            ledger: Ledger::new(),
            decisions: Decisions::default(),
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
            let execution = self.story.messages[message];
            matches!(state.queue[message], Message::Visible { .. })
                && work.is_none_or(|work| {
                    work.execution == execution && work.run != Run::Done && self.goes_on(work)
                })
        };
        let work = state.instances[instance].as_ref();
        let mut deeds: Vec<_> = (0..MESSAGES)
            .filter(|message| received(work, *message))
            .map(Deed::Receive)
            .collect();
        let Some(work) = work else { return deeds };
        deeds.push(Deed::Crash);
        if work.run == Run::Done || self.makes(Mistake::DeletesEarly) {
            let held = (0..MESSAGES).filter(|message| work.held[*message].is_some());
            deeds.extend(held.map(Deed::Delete));
        }
        if work.run != Run::Done {
            deeds.extend([Deed::Release, next_deed(&work.run)]);
            if self.goes_on(work) {
                deeds.push(Deed::Beat);
            }
            // Without the mistake it changes nothing.
            if self.goes_on(work) && self.makes(Mistake::BelievesExtensions) {
                deeds.push(Deed::BeatInVain);
            }
        }
        deeds
    }

    /// How a deed may end.
    fn fates(&self, state: &State, instance: usize, deed: Deed) -> Vec<Fate> {
        let is_step = matches!(
            deed,
            Deed::Claim | Deed::Bind | Deed::Look | Deed::Note | Deed::Change | Deed::Complete
        );
        let in_time = !is_step
            || state.instances[instance]
                .as_ref()
                .is_some_and(|work| self.may_go_on(work));
        let may_fail = state.faults > 0;
        let may_be_lost = !matches!(
            deed,
            Deed::Crash | Deed::Release | Deed::Look | Deed::BeatInVain
        );
        let may_be_late = matches!(deed, Deed::Bind | Deed::Note | Deed::Complete);
        let mut fates = Vec::new();
        if in_time && (may_fail || deed != Deed::Crash) {
            fates.push(Fate::Answered);
        }
        if in_time && may_fail && may_be_lost {
            fates.push(Fate::Lost);
        }
        if !in_time && may_fail && may_be_late {
            fates.push(Fate::Late);
        }
        fates
    }

    /// The one state that stands for all that differ in nothing that matters: how old the leases of a job are that is
    /// done or has to stop, and which of two messages about the same execution is the first.
    fn representative(&self, mut state: State) -> State {
        for work in state.instances.iter_mut().flatten() {
            let is_done = work.run == Run::Done;
            if !is_done && self.goes_on(work) {
                continue;
            }
            for held in work.held.iter_mut().flatten() {
                held.age = LEASE;
                held.newest &= !is_done;
            }
            if let Run::Granted(granted) = &mut work.run {
                granted.age = LEASE;
            }
        }
        let looks = |message: usize| {
            let held = state
                .instances
                .map(|work| work.and_then(|it| it.held[message]));
            (state.queue[message], held)
        };
        if self.story.messages[0] == self.story.messages[1] && looks(0) > looks(1) {
            state.queue.swap(0, 1);
            for work in state.instances.iter_mut().flatten() {
                work.held.swap(0, 1);
            }
        }
        state
    }
}

/// The next step of a run that is not done.
fn next_deed(run: &Run) -> Deed {
    let Run::Granted(granted) = run else {
        return Deed::Claim;
    };
    match granted.next {
        _ if !granted.bound => Deed::Bind,
        None => Deed::Look,
        Some(Next::Finish(_)) => Deed::Complete,
        Some(_) if !granted.noted => Deed::Note,
        Some(_) => Deed::Change,
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
            queue: std::array::from_fn(|message| match message < self.story.sent {
                true => Message::Visible { receives: 0 },
                false => Message::Deleted,
            }),
            ledger: [self.story.begun.then(Row::begun); EXECUTIONS],
            world: self.story.world,
            instances: [None; INSTANCES],
            faults: self.story.faults,
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
                let fates = self.fates(state, instance, deed).into_iter();
                actions.extend(fates.map(|fate| Action::Deed(instance, deed, fate)));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = *before;
        match action {
            Action::Tick => tick(&mut state),
            Action::Deed(instance, deed, fate) => {
                self.deed(&mut state, instance, deed, fate);
                state.faults -= u8::from(fate.is_fault() || deed == Deed::Crash);
            }
        }
        let state = self.representative(state);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("promises are kept", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::sometimes("everything is cleaned", |model: &Self, state: &State| {
                model
                    .story
                    .messages
                    .iter()
                    .all(|it| state.world.staging[*it].is_none())
                    && state.queue == [Message::Deleted; MESSAGES]
            }),
            Property::sometimes("there is a dead letter", |_, state: &State| {
                state.queue.contains(&Message::Dead)
            }),
        ]
    }
}

/// Checks a story to its end: in every order, every promise is kept. There are `at_least` so many different states.
/// `MODEL_FAULTS` allows for more faults.
fn check(mut story: Story, at_least: usize) {
    use stateright::Model as _;
    let faults = std::env::var("MODEL_FAULTS").map_or(0, |number| number.parse().unwrap());
    story.faults = story.faults.max(faults);
    let checker = Model::new(story, None).checker().spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "{}: {states} different states, {} steps, at most {} from the first; {} questions to the ledger",
        story.name,
        checker.state_count(),
        checker.max_depth() - 1,
        checker.model().ledger.questions(),
    );
    if let Some(path) = checker.discovery("promises are kept") {
        let broken = path.last_state().broken;
        panic!("{broken:?} by {:#?}", path.into_actions());
    }
    checker.assert_properties();
    assert!(checker.is_done() && states >= at_least);
}

#[test]
fn a_whole_cleanup_in_every_order() {
    check(WHOLE, 50_000);
}

#[test]
fn a_superseded_cleanup_in_every_order() {
    check(SUPERSEDED, 14_000);
}

#[test]
fn duplicates_in_every_order() {
    check(DUPLICATES, 240_000);
}

#[test]
fn two_jobs_in_every_order() {
    check(TWO_JOBS, 450_000);
}

/// The first promise that the model finds broken.
fn found(story: Story, mistake: Mistake) -> Option<Broken> {
    use stateright::{HasDiscoveries, Model as _};
    let checker = Model::new(story, Some(mistake)).checker();
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    let path = checker.spawn_bfs().join().discovery("promises are kept")?;
    path.last_state().broken
}

#[test]
fn every_mistake_is_found() {
    use {Broken as B, Mistake as M};
    for (mistake, story, broken) in [
        (M::DeletesEarly, WHOLE, B::DeletedEarly),
        (M::GrantsTwice, DUPLICATES, B::GrantedTwice),
        (M::TrustsTheTime, DUPLICATES, B::GrantedTwice),
        (M::SharesProduction, TWO_JOBS, B::HeldTwice),
        (M::ActsAfterLoss, WHOLE, B::ActedWithoutMessage),
        (M::ActsAfterLoss, TWO_JOBS, B::ActedWithoutGrant),
        (M::BelievesExtensions, WHOLE, B::GrantedTwice),
        (M::CompletesStale, SUPERSEDED, B::CompletedStale),
        (M::FinishesEarly, WHOLE, B::DoneUnclean),
        (M::MistakesTheExecution, SUPERSEDED, B::Forbidden),
    ] {
        assert_eq!(found(story, mistake), Some(broken), "{mistake:?}");
    }
}
