//! The lease against a model of it: a list of what was confirmed and when it was sent, in
//! milliseconds. Requests overlap, their answers come late and in any order, and the message comes
//! back under newer receipt handles.
//!
//! `PROPTEST_CASES` sets how many runs there are.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

const HOUR: u64 = 60 * 60 * 1000;

/// What happens. Everything is in milliseconds; requests are numbered in the order of sending.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    /// The time passes up to the moment that the lease itself named.
    PassUntilDue,
    /// An extension is sent, by so many seconds.
    Send(u64),
    Confirmed(usize),
    Failed(usize),
    Lost,
    /// The message comes back: from now on the newer receipt handle counts.
    ReceivedAgain,
}

#[derive(Clone, Debug)]
struct Request {
    /// Which receipt handle it was sent with.
    handle: usize,
    sent: u64,
    by: u64,
}

/// One receipt handle's history.
#[derive(Clone, Debug)]
struct History {
    received: u64,
    /// When they were sent, and by how much.
    confirmed: Vec<(u64, u64)>,
    /// When the last answer came that set the time of the next try.
    failed: Option<u64>,
    lost: Option<u64>,
}

#[derive(Clone, Debug)]
struct Model {
    visibility: u64,
    heartbeat: u64,
    now: u64,
    requests: Vec<Request>,
    handles: Vec<History>,
}

/// What must be so at the moment.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Ceiling,
    Lost,
    Extend(u64),
    /// Nothing before a moment between these two.
    Wait(u64, u64),
    /// A failure's jitter decides.
    ExtendOrWait(u64),
}

impl Model {
    fn margin(&self) -> u64 {
        self.visibility / 6
    }

    fn current(&self) -> &History {
        self.handles.last().expect("there always is one")
    }

    fn last(&mut self) -> &mut History {
        self.handles.last_mut().expect("there always is one")
    }

    /// The newest request that was confirmed; at first, the receive.
    fn proven(&self) -> (u64, u64) {
        let history = self.current();
        let first = self.visibility.min(12 * HOUR - 5 * 60_000);
        let receive = (history.received, first);
        // Of two that were sent in one moment, the later answer counts.
        let mut newest = receive;
        for confirmed in &history.confirmed {
            if confirmed.0 >= newest.0 {
                newest = *confirmed;
            }
        }
        newest
    }

    fn until(&self) -> u64 {
        let (sent, by) = self.proven();
        let until = sent + by;
        self.current().lost.map_or(until, |lost| lost.min(until))
    }

    /// The span in which the next try lies.
    fn next(&self) -> (u64, u64) {
        match self.current().failed {
            None => {
                let (sent, _) = self.proven();
                (sent + self.heartbeat, sent + self.heartbeat)
            }
            Some(at) => {
                let room = self.visibility - self.heartbeat;
                let interval = (room.saturating_sub(self.margin()) / 10).max(50);
                // Rounded to a millisecond.
                (at + interval / 2, at + interval * 3 / 2 + 2)
            }
        }
    }

    fn give_back(&self) -> u64 {
        let before = (10 * 60_000).max(self.margin() + 5 * 60_000);
        self.current().received + 12 * HOUR - before
    }

    fn expected(&self) -> Expected {
        let lost = self.until().saturating_sub(self.margin());
        let (earliest, latest) = self.next();
        let left = self.current().received + 12 * HOUR - 5 * 60_000;
        if self.now >= self.give_back() {
            Expected::Ceiling
        } else if self.current().lost.is_some() || self.now >= lost {
            Expected::Lost
        } else if self.now >= latest {
            Expected::Extend(self.visibility.min(left - self.now) / 1000)
        } else if self.now >= earliest {
            Expected::ExtendOrWait(self.visibility.min(left - self.now) / 1000)
        } else {
            let end = lost.min(self.give_back());
            Expected::Wait(earliest.min(end), latest.min(end))
        }
    }
}

struct Rules;

impl ReferenceStateMachine for Rules {
    type State = Model;
    type Transition = Happening;

    fn init_state() -> BoxedStrategy<Model> {
        let visibility = prop_oneof![2_u64..600, 600_u64..=43_200];
        (visibility, 1..=9_u64)
            .prop_map(|(visibility, part)| Model {
                // Multiples of 6 s and of 60 ms: the fractions that are made of it are whole.
                visibility: (visibility / 6).max(1) * 6000,
                heartbeat: (visibility / 6).max(1) * 6000 * part / 12,
                now: 0,
                requests: Vec::new(),
                handles: vec![History {
                    received: 0,
                    confirmed: Vec::new(),
                    failed: None,
                    lost: None,
                }],
            })
            .boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Happening> {
        let requests = model.requests.len();
        let others = prop_oneof![
            4 => (0..=model.visibility / 2).prop_map(Happening::Pass),
            1 => (0..=11 * HOUR).prop_map(Happening::Pass),
            6 => Just(Happening::PassUntilDue),
            6 => (1..=model.visibility / 1000).prop_map(Happening::Send),
            1 => Just(Happening::ReceivedAgain),
        ];
        if requests == 0 {
            return others.boxed();
        }
        let request = || prop_oneof![4 => requests.saturating_sub(2)..requests, 1 => 0..requests];
        prop_oneof![
            18 => others,
            6 => request().prop_map(Happening::Confirmed),
            3 => request().prop_map(Happening::Failed),
            1 => Just(Happening::Lost),
        ]
        .boxed()
    }

    fn preconditions(model: &Model, happening: &Happening) -> bool {
        match happening {
            Happening::Confirmed(request) | Happening::Failed(request) => {
                *request < model.requests.len()
            }
            _ => true,
        }
    }

    fn apply(mut model: Model, happening: &Happening) -> Model {
        let now = model.now;
        match *happening {
            Happening::Pass(time) => model.now += time,
            Happening::PassUntilDue => {
                if let Expected::Wait(_, latest) = model.expected() {
                    model.now = latest;
                }
            }
            Happening::Send(seconds) => {
                let handle = model.handles.len() - 1;
                let by = seconds * 1000;
                let sent = now;
                model.requests.push(Request { handle, sent, by });
            }
            Happening::Confirmed(request) => {
                let Request { handle, sent, by } = model.requests[request];
                let proven = model.proven();
                if handle == model.handles.len() - 1 && model.current().lost.is_none() {
                    let history = model.last();
                    history.confirmed.push((sent, by));
                    if sent >= proven.0 {
                        history.failed = None;
                    }
                }
            }
            Happening::Failed(request) => {
                if model.requests[request].handle == model.handles.len() - 1 {
                    model.last().failed = Some(now);
                }
            }
            Happening::Lost => {
                model.last().lost.get_or_insert(now);
            }
            Happening::ReceivedAgain => model.handles.push(History {
                received: now,
                confirmed: Vec::new(),
                failed: None,
                lost: None,
            }),
        }
        model
    }
}

/// A lease for each receipt handle, as [`Leases::hold`] makes them.
struct Real {
    terms: Terms,
    start: Instant,
    leases: Vec<Lease>,
    rng: fastrand::Rng,
}

impl Real {
    fn at(&self, time: u64) -> Instant {
        self.start + Duration::from_millis(time)
    }

    fn current(&self) -> &Lease {
        self.leases.last().expect("there always is one")
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Rules;

    fn init_test(model: &Model) -> Self {
        let terms = Terms {
            visibility_timeout: Duration::from_millis(model.visibility),
            heartbeat_interval: Duration::from_millis(model.heartbeat),
        };
        let start = Instant::now();
        Self {
            terms,
            start,
            leases: vec![Lease::new(terms, start)],
            rng: fastrand::Rng::with_seed(7),
        }
    }

    fn apply(mut real: Self, model: &Model, happening: Happening) -> Self {
        let now = real.at(model.now);
        match happening {
            Happening::Pass(_) | Happening::PassUntilDue | Happening::Send(_) => {}
            Happening::Confirmed(request) => {
                let Request { handle, sent, by } = model.requests[request];
                let sent = real.at(sent);
                real.leases[handle].confirmed(sent, Duration::from_millis(by));
            }
            Happening::Failed(request) => {
                let handle = model.requests[request].handle;
                real.leases[handle].failed(now, &mut real.rng);
            }
            Happening::Lost => {
                let last = real.leases.last_mut();
                last.expect("there always is one").lost(now);
            }
            Happening::ReceivedAgain => real.leases.push(Lease::new(real.terms, now)),
        }
        real
    }

    fn check_invariants(real: &Self, model: &Model) {
        let now = real.at(model.now);
        let left = model.until().saturating_sub(model.now);
        assert_eq!(real.current().left(now), Duration::from_millis(left));
        let due = real.current().due(now);
        let expected = model.expected();
        let extends = |by: u64| due == Due::Extend(Duration::from_secs(by));
        let waits = |from: u64, to: u64| matches!(due, Due::At(at) if real.at(from) <= at && at <= real.at(to));
        let right = match expected {
            Expected::Ceiling => due == Due::Over(StopReason::VisibilityCeiling),
            Expected::Lost => due == Due::Over(StopReason::LeaseLost),
            Expected::Extend(by) => extends(by),
            Expected::Wait(from, to) => waits(from, to),
            Expected::ExtendOrWait(by) => extends(by) || waits(model.now, model.next().1),
        };
        assert!(right, "{due:?}, but {expected:?}");
    }
}

prop_state_machine! {
    #[test]
    fn the_lease_does_as_the_model_of_it(sequential 1..100 => Real);
}
