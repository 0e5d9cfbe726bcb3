//! The ledger of the model: the real one's rules, asked once for each different question.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::world::binding;
use super::{EXECUTIONS, TERMS, TICK};
use crate::domain::decision::Outcome;
use crate::domain::event::JobKey;
use crate::domain::history::Notes;
use crate::ledger::{Bound, Claim, Grant, LedgerError, Records, lapsed};

/// The record of a job. Its epoch is [`EPOCH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) owner: Option<usize>,
    /// Ticks until the lease ends, of the true time.
    pub(super) left: i8,
    pub(super) holds: bool,
    pub(super) bound: bool,
    pub(super) changed: bool,
    pub(super) done: Option<Outcome>,
}

impl Row {
    /// The record of a job that was given back after a change.
    pub(super) const fn begun() -> Self {
        Self {
            owner: None,
            left: LONG_OVER,
            holds: false,
            bound: true,
            changed: true,
            done: None,
        }
    }
}

pub(super) type Rows = [Option<Row>; EXECUTIONS];

/// A lease that ended longer ago is as one that ended then.
pub(super) const LONG_OVER: i8 = -1;

/// The epoch of whatever grant is the newest of its job. Those before have a lower one.
const EPOCH: i64 = 10;

/// What is asked, about the job of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    /// Far in the future, if `late`; without the margin that readings of the time may differ by, if `rash`.
    Claim {
        late: bool,
        rash: bool,
    },
    Bind {
        changed: bool,
    },
    Renew,
    Complete(Outcome),
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Yes,
    Granted,
    Leased,
    Done,
    Busy,
    NotOwner,
}

/// Who asks, about which execution, and whether by the newest grant of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    pub(super) instance: usize,
    pub(super) execution: usize,
    pub(super) current: bool,
}

type Question = (Rows, Asker, Call);

#[derive(Debug)]
pub(super) struct Ledger {
    records: Mutex<Records>,
    answers: Mutex<HashMap<Question, (Rows, Answer)>>,
}

const OWNERS: [&str; 2] = ["one", "two"];
const KEYS: [&str; EXECUTIONS] = ["older", "newer"];

/// The true time.
fn now() -> Timestamp {
    Timestamp::from_second(1_788_445_268).unwrap()
}

fn ticks(number: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(number * TICK.as_secs().cast_signed())
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            records: Mutex::new(Records::in_memory().unwrap()),
            answers: Mutex::default(),
        }
    }

    /// How many different questions there were.
    pub(super) fn questions(&self) -> usize {
        self.answers.lock().len()
    }

    pub(super) fn ask(&self, rows: Rows, asker: Asker, call: Call) -> (Rows, Answer) {
        let question = (rows, asker, call);
        if let Some(known) = self.answers.lock().get(&question) {
            return *known;
        }
        let mut records = self.records.lock();
        write(&records, &rows);
        let answer = call_records(&mut records, asker, call);
        let found = (read(&records), answer);
        self.answers.lock().insert(question, found);
        found
    }
}

/// The second instance reads the time a margin too late.
fn call_records(records: &mut Records, asker: Asker, call: Call) -> Answer {
    let (owner, key) = (
        OWNERS[asker.instance],
        JobKey::from(KEYS[asker.execution].to_owned()),
    );
    let reading = now() + ticks(asker.instance.try_into().unwrap());
    let judged = Timestamp::from_millisecond(lapsed(reading)).unwrap();
    let until = reading + TERMS.visibility_timeout;
    let grant = Grant {
        key: key.clone(),
        owner: owner.to_owned(),
        epoch: if asker.current { EPOCH } else { EPOCH - 1 },
    };
    let notes = Notes::default();
    let plain = |result| match result {
        Ok(()) => Answer::Yes,
        Err(LedgerError::NotOwner { .. }) => Answer::NotOwner,
        Err(error) => panic!("{error:?}"),
    };
    match call {
        Call::Claim { late, rash } => {
            let judged = match (late, rash) {
                (true, _) => reading + ticks(1000),
                (false, true) => reading,
                (false, false) => judged,
            };
            match records.claim(owner, &key, "shop", judged, until).unwrap() {
                Claim::Granted { .. } => Answer::Granted,
                Claim::Leased { .. } => Answer::Leased,
                Claim::Done { .. } => Answer::Done,
            }
        }
        Call::Bind { changed } => {
            let binding = binding(asker.execution, changed);
            match records.bind(&grant, &binding, &notes, judged) {
                Ok(Bound::Bound) => Answer::Yes,
                Ok(Bound::ProductionBusy { .. }) => Answer::Busy,
                Err(error) => plain(Err(error)),
            }
        }
        Call::Renew => plain(records.renew(&grant, reading, until, &notes)),
        Call::Complete(outcome) => plain(records.complete(&grant, outcome, &notes, reading)),
        Call::Release => plain(records.release(&grant, "whatever", &notes, reading)),
    }
}

fn write(records: &Records, rows: &Rows) {
    let database = records.database();
    let reset = format!("DELETE FROM jobs; UPDATE grants SET last_epoch = {EPOCH};");
    database.execute_batch(&reset).unwrap();
    for (execution, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let binding = row.bound.then(|| binding(execution, row.changed));
        let until = match row.owner {
            Some(_) => (now() + ticks(row.left.into())).as_millisecond(),
            None => 0,
        };
        database
            .prepare_cached(
                "INSERT INTO jobs (key, pipeline, state, owner, epoch, lease_until, holds, production_id, staging_id,
                                   evidence, changed, outcome, first_seen, updated)
                 VALUES (?1, 'shop', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, 0)",
            )
            .unwrap()
            .execute(rusqlite::params![
                KEYS[execution],
                row.done.map_or("open", |_| "done"),
                row.owner.map_or("", |owner| OWNERS[owner]),
                EPOCH,
                until,
                row.holds,
                binding.as_ref().map(|it| &it.production_id),
                binding.as_ref().map(|it| &it.staging_id),
                binding.as_ref().map(|it| it.evidence.text()),
                row.changed,
                row.done.map(Outcome::code),
            ])
            .unwrap();
    }
}

fn read(records: &Records) -> Rows {
    KEYS.map(|key| {
        let mut statement = records
            .database()
            .prepare_cached(
                "SELECT owner, lease_until, holds, production_id IS NOT NULL, changed, outcome FROM jobs WHERE key = ?1",
            )
            .unwrap();
        let mut found = statement.query([key]).unwrap();
        let row = found.next().unwrap()?;
        let owner: String = row.get(0).unwrap();
        let outcome: Option<String> = row.get(5).unwrap();
        let left = (row.get::<_, i64>(1).unwrap() - now().as_millisecond())
            / i64::try_from(TICK.as_millis()).unwrap();
        let left = left.clamp(LONG_OVER.into(), i8::MAX.into());
        Some(Row {
            owner: OWNERS.iter().position(|it| *it == owner),
            left: left.try_into().unwrap(),
            holds: row.get(2).unwrap(),
            bound: row.get(3).unwrap(),
            changed: row.get(4).unwrap(),
            done: outcome.and_then(|code| Outcome::from_code(&code)),
        })
    })
}
