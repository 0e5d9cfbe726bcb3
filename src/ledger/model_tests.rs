//! The ledger against a model of it: a map, the rules in plain words, and several owners who do
//! whatever they like in whatever order, while the time goes on and jumps.
//!
//! `PROPTEST_CASES` sets how many runs there are.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::{Bound, Claim, Grant, LedgerError, OPEN_RETENTION, RETENTION, Records};
use crate::domain::binding::Binding;
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::Notes;

const OWNERS: [&str; 3] = ["one", "two", "three"];
const JOBS: usize = 4;
const PRODUCTIONS: usize = 2;
const DAY: i64 = 24 * 60 * 60;

/// What someone does, or what happens. Grants are numbered in the order in which they were given.
#[derive(Clone, Debug)]
enum Deed {
    Claim {
        owner: usize,
        job: usize,
        seconds: i64,
    },
    Bind {
        grant: usize,
        production: usize,
        staging: usize,
        policy: Option<usize>,
    },
    Renew {
        grant: usize,
        seconds: i64,
    },
    Complete {
        grant: usize,
        outcome: Outcome,
    },
    Release {
        grant: usize,
    },
    Prune,
    Check,
    /// The process ends, and another one has the records for itself.
    Reopen,
    /// Seconds; the clock may be set back.
    Pass(i64),
}

/// What a call answers, told by numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Granted { binding: Option<Ids> },
    Leased { until: i64 },
    Done(Outcome),
    Bound,
    Busy { until: i64 },
    NotOwner,
    BoundOtherwise,
    Pruned(usize),
}

/// Production, staging, policy.
type Ids = (usize, usize, Option<usize>);

/// A job as the model remembers it.
#[derive(Clone, Debug)]
struct Job {
    done: Option<Outcome>,
    /// The grant that is not void, and when its lease ends.
    grant: Option<usize>,
    until: i64,
    holds: bool,
    ids: Option<Ids>,
    touched: i64,
}

#[derive(Clone, Debug)]
struct Model {
    now: i64,
    jobs: BTreeMap<usize, Job>,
    /// Job and owner of every grant that was ever given.
    grants: Vec<(usize, usize)>,
    /// What the last deed must have been answered.
    answer: Answer,
}

impl Model {
    /// The job of a grant, if the grant is not void.
    fn granted(&mut self, grant: usize) -> Option<&mut Job> {
        let job = self.jobs.get_mut(&self.grants[grant].0)?;
        (job.grant == Some(grant)).then_some(job)
    }

    fn open(&mut self, grant: usize) -> Option<&mut Job> {
        self.granted(grant).filter(|job| job.done.is_none())
    }

    fn claim(&mut self, owner: usize, number: usize, seconds: i64) -> Answer {
        let now = self.now;
        let job = self.jobs.entry(number).or_insert(Job {
            done: None,
            grant: None,
            until: 0,
            holds: false,
            ids: None,
            touched: now,
        });
        if let Some(outcome) = job.done {
            return Answer::Done(outcome);
        }
        if let Some(grant) = job.grant
            && self.grants[grant].1 != owner
            && now < job.until
        {
            return Answer::Leased { until: job.until };
        }
        job.grant = Some(self.grants.len());
        job.until = now + seconds;
        job.holds = false;
        job.touched = now;
        self.grants.push((number, owner));
        Answer::Granted { binding: job.ids }
    }

    fn bind(&mut self, grant: usize, ids: Ids) -> Answer {
        let now = self.now;
        let Some(job) = self.open(grant) else {
            return Answer::NotOwner;
        };
        if job.ids.is_some_and(|(p, s, _)| (p, s) != (ids.0, ids.1)) {
            return Answer::BoundOtherwise;
        }
        let number = self.grants[grant].0;
        for (_, other) in self.jobs.iter_mut().filter(|(other, _)| **other != number) {
            if other.holds
                && other
                    .ids
                    .is_some_and(|(production, ..)| production == ids.0)
            {
                if now < other.until {
                    return Answer::Busy { until: other.until };
                }
                other.give_up();
            }
        }
        if let Some(job) = self.open(grant) {
            job.ids = Some(ids);
            job.holds = true;
            job.touched = now;
        }
        Answer::Bound
    }

    fn prune(&mut self) -> Answer {
        let (now, before) = (self.now, self.jobs.len());
        self.jobs.retain(|_, job| {
            let age = now - job.touched;
            match job.done {
                Some(_) => age <= RETENTION.as_secs() as i64,
                None => age <= OPEN_RETENTION.as_secs() as i64 || job.until >= now,
            }
        });
        Answer::Pruned(before - self.jobs.len())
    }
}

impl Job {
    fn give_up(&mut self) {
        self.grant = None;
        self.until = 0;
        self.holds = false;
    }
}

struct Rules;

impl ReferenceStateMachine for Rules {
    type State = Model;
    type Transition = Deed;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model {
            now: 1_788_445_268,
            jobs: BTreeMap::new(),
            grants: Vec::new(),
            answer: Answer::Nothing,
        })
        .boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Deed> {
        let claim =
            (0..OWNERS.len(), 0..JOBS, 1..300_i64).prop_map(|(owner, job, seconds)| Deed::Claim {
                owner,
                job,
                seconds,
            });
        let pass = prop_oneof![
            6 => 0..200_i64,
            1 => 0..20 * DAY,
            1 => Just(15 * DAY),
            1 => -2000..0_i64,
            1 => -20 * DAY..0,
        ];
        let outside = prop_oneof![
            6 => pass.prop_map(Deed::Pass),
            2 => Just(Deed::Prune),
            1 => Just(Deed::Check),
            1 => Just(Deed::Reopen),
        ];
        if model.grants.is_empty() {
            return prop_oneof![claim, outside].boxed();
        }
        // The latest grants most often: they are the ones that mean something.
        let count = model.grants.len();
        let grant = || prop_oneof![3 => count.saturating_sub(3)..count, 1 => 0..count];
        let outcome = prop_oneof![Just(Outcome::Cleaned), Just(Outcome::Superseded)];
        let policy = proptest::option::of(0..2_usize);
        let staging = prop_oneof![9 => Just(0_usize), 1 => Just(1)];
        prop_oneof![
            4 => claim,
            4 => outside,
            4 => (grant(), 0..PRODUCTIONS, staging, policy).prop_map(
                |(grant, production, staging, policy)| Deed::Bind { grant, production, staging, policy }
            ),
            2 => (grant(), 1..300_i64).prop_map(|(grant, seconds)| Deed::Renew { grant, seconds }),
            1 => (grant(), outcome).prop_map(|(grant, outcome)| Deed::Complete { grant, outcome }),
            1 => grant().prop_map(|grant| Deed::Release { grant }),
        ]
        .boxed()
    }

    fn preconditions(model: &Model, deed: &Deed) -> bool {
        match deed {
            Deed::Bind { grant, .. }
            | Deed::Renew { grant, .. }
            | Deed::Complete { grant, .. }
            | Deed::Release { grant } => *grant < model.grants.len(),
            _ => true,
        }
    }

    fn apply(mut model: Model, deed: &Deed) -> Model {
        let now = model.now;
        model.answer = match *deed {
            Deed::Claim {
                owner,
                job,
                seconds,
            } => model.claim(owner, job, seconds),
            Deed::Bind {
                grant,
                production,
                staging,
                policy,
            } => model.bind(grant, (production, staging, policy)),
            Deed::Renew { grant, seconds } => match model.open(grant) {
                Some(job) => {
                    job.until = now + seconds;
                    job.touched = now;
                    Answer::Nothing
                }
                None => Answer::NotOwner,
            },
            Deed::Complete { grant, outcome } => match model.granted(grant) {
                Some(job) => {
                    job.done = Some(outcome);
                    job.until = 0;
                    job.holds = false;
                    job.touched = now;
                    Answer::Nothing
                }
                None => Answer::NotOwner,
            },
            Deed::Release { grant } => {
                if let Some(job) = model.open(grant) {
                    job.give_up();
                    job.touched = now;
                }
                Answer::Nothing
            }
            Deed::Prune => model.prune(),
            Deed::Check => Answer::Nothing,
            Deed::Reopen => {
                let open = |job: &&mut Job| job.done.is_none();
                model.jobs.values_mut().filter(open).for_each(Job::give_up);
                Answer::Nothing
            }
            Deed::Pass(seconds) => {
                model.now += seconds;
                Answer::Nothing
            }
        };
        model
    }
}

/// The ledger, and the grants it gave.
struct Real {
    records: Records,
    grants: Vec<Grant>,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn key(job: usize) -> JobKey {
    JobKey::from(format!("job {job}"))
}

fn binding((production, staging, policy): Ids) -> Binding {
    Binding {
        production_id: format!("EPRODUCTION{production}"),
        staging_id: format!("ESTAGING{staging}"),
        staging_domain: Some(format!("d{staging}.cloudfront.net")),
        policy_id: policy.map(|policy| format!("policy {policy}")),
        overwriting: policy.map(|policy| i64::try_from(policy).unwrap()),
        evidence: Default::default(),
    }
}

/// The answer to a call that answers nothing.
fn plain(result: Result<(), LedgerError>) -> Answer {
    match result {
        Ok(()) => Answer::Nothing,
        Err(error) => refused(&error),
    }
}

fn refused(error: &LedgerError) -> Answer {
    match error {
        LedgerError::NotOwner { .. } => Answer::NotOwner,
        LedgerError::BoundOtherwise { .. } => Answer::BoundOtherwise,
        other => panic!("{other:?}"),
    }
}

impl StateMachineTest for Real {
    type SystemUnderTest = Self;
    type Reference = Rules;

    fn init_test(_: &Model) -> Self {
        Self {
            records: Records::in_memory().unwrap(),
            grants: Vec::new(),
        }
    }

    fn apply(mut real: Self, model: &Model, deed: Deed) -> Self {
        let now = at(model.now);
        let Self { records, grants } = &mut real;
        let answer = match deed {
            Deed::Claim {
                owner,
                job,
                seconds,
            } => {
                let until = at(model.now + seconds);
                match records.claim(OWNERS[owner], &key(job), "shop", now, until) {
                    Ok(Claim::Granted {
                        grant,
                        binding: kept,
                        ..
                    }) => {
                        assert_eq!((&grant.key, &*grant.owner), (&key(job), OWNERS[owner]));
                        assert!(grants.iter().all(|earlier| earlier.epoch < grant.epoch));
                        grants.push(grant);
                        let ids = model.jobs[&job].ids;
                        assert_eq!(kept, ids.map(binding), "the binding is another one");
                        Answer::Granted { binding: ids }
                    }
                    Ok(Claim::Leased { until }) => Answer::Leased {
                        until: until.as_second(),
                    },
                    Ok(Claim::Done { outcome }) => Answer::Done(outcome),
                    Err(error) => refused(&error),
                }
            }
            Deed::Bind {
                grant,
                production,
                staging,
                policy,
            } => match records.bind(
                &grants[grant],
                &binding((production, staging, policy)),
                &Notes::default(),
                now,
            ) {
                Ok(Bound::Bound) => Answer::Bound,
                Ok(Bound::ProductionBusy { until }) => Answer::Busy {
                    until: until.as_second(),
                },
                Err(error) => refused(&error),
            },
            Deed::Renew { grant, seconds } => plain(records.renew(
                &grants[grant],
                now,
                at(model.now + seconds),
                &Notes::default(),
            )),
            Deed::Complete { grant, outcome } => {
                plain(records.complete(&grants[grant], outcome, &Notes::default(), now))
            }
            Deed::Release { grant } => {
                plain(records.release(&grants[grant], "whatever", &Notes::default(), now))
            }
            Deed::Prune => Answer::Pruned(records.prune(now).unwrap()),
            Deed::Check => plain(records.check(now)),
            Deed::Reopen => plain(records.end_leases()),
            Deed::Pass(_) => Answer::Nothing,
        };
        assert_eq!(answer, model.answer);
        real
    }

    fn check_invariants(real: &Self, model: &Model) {
        let mut statement = real
            .records
            .database()
            .prepare_cached(
                "SELECT key, outcome, epoch, lease_until, holds, production_id, owner FROM jobs",
            )
            .unwrap();
        let rows = statement.query_map([], |row| {
            Ok(Row {
                key: row.get(0)?,
                outcome: row.get(1)?,
                epoch: row.get(2)?,
                until: row.get::<_, i64>(3)? / 1000,
                holds: row.get(4)?,
                production: row.get(5)?,
                owner: row.get(6)?,
            })
        });
        let rows: Vec<Row> = rows.unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), model.jobs.len(), "{rows:?}");
        let mut held = BTreeSet::new();
        for row in rows {
            let (_, job) = model
                .jobs
                .iter()
                .find(|(job, _)| key(**job).as_str() == row.key)
                .expect("the model has it");
            assert_eq!(row.outcome.as_deref(), job.done.map(Outcome::code));
            assert_eq!(row.until, job.until);
            match job.grant.map(|grant| &real.grants[grant]) {
                Some(grant) => assert_eq!((&grant.owner, grant.epoch), (&row.owner, row.epoch)),
                None => assert_eq!(row.owner, ""),
            }
            if row.outcome.is_none() && row.holds && row.until > model.now {
                assert!(held.insert(row.production), "held by two");
            }
        }
    }
}

#[derive(Debug)]
struct Row {
    key: String,
    outcome: Option<String>,
    epoch: i64,
    until: i64,
    holds: bool,
    production: Option<String>,
    owner: String,
}

prop_state_machine! {
    #[test]
    fn the_ledger_answers_as_the_model_of_it(sequential 1..80 => Real);
}
