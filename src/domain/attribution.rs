//! Which staging distributions are the rejected execution's own. Pure: no I/O, no clock.
//!
//! The rejected execution is called A here. What is asked of a *write*, a version of the staging
//! parameter or the last modification of a distribution, is first who made it, and only where that does
//! not say, when it was made. A's claim is narrow: its own actions and [`NARROW`] on each side. Everybody
//! else's claim is wide: their actions and the configured grace, or an hour after they were abandoned.
//!
//! The first line that fits decides whose a write is:
//!
//! | the write | is |
//! |---|---|
//! | a version by the session of a CodeBuild build of A | A's, whatever the times |
//! | the same by another build, where some version that was read is of a build that CodePipeline shows | not A's |
//! | a version that stagesweep wrote | nobody's |
//! | a version by an IAM user, root, or a person of IAM Identity Center | nobody's |
//! | within A's candidates only | A's |
//! | within others' only | somebody else's |
//! | within A's and others' | refused: `staging_writer_unclear` |
//! | within none | nobody's |
//!
//! A modification of nobody's is a firewall manager's, or the end of a propagation's, if `LastModifiedTime` moves
//! then; AWS documents neither. What the job is about follows in this order:
//!
//! | evidence | comes to |
//! |---|---|
//! | A ran no candidate, and is a rollback (asked before this) | nothing is A's, rightly |
//! | the history begins behind A's first candidate, and not with version 1 | refused: `history_too_short` |
//! | A was the first to write an id; or, where there is none, A modified last what the parameter held while A's candidates ran | that distribution is A's |
//! | later somebody else wrote the id of one of these, or another execution modified the distribution last | that one is `superseded` |
//! | later A or another execution wrote the id of one of these, and neither build nor time tells which | refused: `staging_writer_unclear` |
//! | one of these was modified last outside of A's deployment, and another execution has begun, since the deployment, an action that may deploy, and has written no id of its own | refused: `staging_writer_unclear`, as that modification hides an earlier one |
//! | one of these was modified last while A deployed, and so did another execution that was asked about and has written no id of its own | refused: `staging_writer_unclear` |
//! | nothing is A's, and a build of another execution wrote what the slot holds | nothing is A's, rightly |
//! | nothing is A's otherwise | refused: `staging_not_written_by_execution` |
//!
//! Where nothing is A's by this, [`crate::reconcile`] goes by an open job of the same execution, about an earlier attempt of
//! its approval, that has changed CloudFront.
//!
//! **Guarantees.** Nothing is A's that may be another execution's. What cannot be decided from the
//! evidence is refused, and the refusal names both executions.
//!
//! **Assumptions.** The UUID in the session of a CodeBuild role is that of the build; where no version
//! that was read bears that out, as with batch builds, times decide. Times are AWS's own.
//!
//! **Not handled.** A deployment that is no action of the pipeline, and deploys into a distribution that A
//! wrote, at a time at which only A ran.

mod candidates;
mod undecidable;

pub use candidates::{Candidate, NARROW, Others, build_of, others_candidates, own_candidates};
pub use undecidable::Undecidable;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use self::candidates::is_person;
use crate::domain::binding::{ParameterChange, Slot};
use crate::domain::executions::earlier;

/// Between A's first action and the last write no more executions than that are asked about.
pub const MAX_OTHERS: usize = 20;

/// Everything that attribution goes by.
pub struct Evidence<'a> {
    /// The versions of the staging parameter that SSM still keeps.
    pub versions: &'a [ParameterChange],
    /// A's candidates, in the order in which they began.
    pub own: &'a [Candidate],
    /// What is known of the others; nothing, if they were not asked about.
    pub others: &'a Others,
    /// By id of a distribution that exists, its `LastModifiedTime`.
    pub modified: &'a BTreeMap<String, Option<Timestamp>>,
    /// The versions that stagesweep wrote, by their numbers.
    pub written_by_us: &'a BTreeSet<i64>,
    /// How far a write may be from an action of somebody else's that made it.
    pub grace: Duration,
}

/// A staging distribution of A.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnStaging {
    pub id: String,
    /// The last version of the parameter that names it and is A's.
    pub version: i64,
}

/// A staging distribution of A that another execution is taken to have deployed into, since it ran when that was
/// modified last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// The distribution's id.
    pub id: String,
    /// The other execution.
    pub execution_id: String,
    /// The last modification.
    pub modified_at: Timestamp,
}

/// What the evidence comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// These are A's, the newest first.
    Own {
        /// At least one.
        staging: Vec<OwnStaging>,
        /// Another one was A's, and somebody else deploys into it by now.
        superseded: bool,
        /// Those of which only the last modification says so.
        taken: Vec<TakenOver>,
    },
    /// What was A's, somebody else deploys into by now: nothing is touched.
    Superseded {
        /// Those of which only the last modification says so.
        taken: Vec<TakenOver>,
    },
    /// Nothing is A's, and nothing need be.
    Nothing(WhyNothing),
    /// The executions that were open up to then must be asked about first.
    AskOthers {
        /// The latest write that cannot be decided without them.
        until: Timestamp,
    },
    /// It cannot be decided.
    Refused(Undecidable),
}

/// Why it is right that nothing is A's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNothing {
    /// A is a rollback, and ran nothing that could deploy.
    RolledBack,
    /// The slot was written by a build of this execution.
    SlotOf(String),
}

/// Whose a write is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Writer {
    Own,
    /// Not A's: of this execution, where that is known.
    Other(Option<String>),
    /// Stagesweep's own.
    Ours,
    /// Nobody's: a person's, or outside of everything that ran.
    Nobody,
    /// Of A, or of another.
    Unclear(Undecidable),
    /// Only the others can tell.
    Unknown(Timestamp),
}

/// Decides what is A's.
#[must_use]
pub fn attribute(evidence: &Evidence<'_>) -> Attribution {
    let mut versions: Vec<&ParameterChange> = evidence.versions.iter().collect();
    versions.sort_by_key(|change| change.version.version);
    if let Some(first) = evidence.own.first()
        && let Some(oldest) = versions.first()
        && oldest.version.version != 1
        && oldest
            .version
            .modified_at
            .is_none_or(|at| at > earlier(first.from, NARROW))
    {
        let oldest = oldest.version.version;
        return Attribution::Refused(Undecidable::HistoryTooShort { oldest });
    }
    Case {
        evidence,
        versions,
        unknown: None,
        taken: Vec::new(),
    }
    .decide()
}

impl Evidence<'_> {
    fn other_at(&self, at: Timestamp) -> Option<&Candidate> {
        self.others.at(at, self.grace)
    }

    fn knows_others_at(&self, at: Timestamp) -> bool {
        self.others.until.is_some_and(|until| until >= at)
    }

    fn has_build(&self, build: &str) -> bool {
        let mut own = self.own.iter();
        own.any(|own| own.build.as_deref() == Some(build))
    }
}

/// One question in the making.
struct Case<'a> {
    evidence: &'a Evidence<'a>,
    /// In their order.
    versions: Vec<&'a ParameterChange>,
    /// The latest write that only the others can tell of.
    unknown: Option<Timestamp>,
    taken: Vec<TakenOver>,
}

impl<'a> Case<'a> {
    fn decide(mut self) -> Attribution {
        let mut found = match self.written() {
            Ok(found) => found,
            Err(undecidable) => return Attribution::Refused(undecidable),
        };
        match self.deployed_into(&found) {
            Ok(more) => found.extend(more),
            Err(undecidable) => return Attribution::Refused(undecidable),
        }
        found.sort_by_key(|own| std::cmp::Reverse(own.version));
        let all = found.len();
        let mut own = Vec::new();
        for staging in found {
            match self.is_superseded(&staging) {
                Ok(true) => {}
                Ok(false) => own.push(staging),
                Err(undecidable) => return Attribution::Refused(undecidable),
            }
        }
        if let Some(until) = self.unknown {
            return Attribution::AskOthers { until };
        }
        match (own.is_empty(), all) {
            (false, all) => Attribution::Own {
                superseded: own.len() < all,
                staging: own,
                taken: self.taken,
            },
            (true, 0) => self.nothing(),
            (true, _) => Attribution::Superseded { taken: self.taken },
        }
    }

    /// The ids that A was the first to write.
    fn written(&mut self) -> Result<Vec<OwnStaging>, Undecidable> {
        let mut seen: Vec<&str> = Vec::new();
        let mut own = Vec::new();
        for index in 0..self.versions.len() {
            let change = self.versions[index];
            let Slot::Distribution(id) = Slot::read(&change.version.value) else {
                continue;
            };
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            match self.writer(change) {
                Writer::Own => own.push(OwnStaging {
                    id: id.to_owned(),
                    version: self.last_own_version(id, change.version.version),
                }),
                Writer::Unclear(undecidable) => return Err(undecidable),
                Writer::Unknown(at) => self.need(at),
                Writer::Other(_) | Writer::Ours | Writer::Nobody => {}
            }
        }
        Ok(own)
    }

    /// The ids that the parameter held while A's candidates ran, where A modified that distribution last. Who
    /// wrote an id of its own deployed into that one.
    fn deployed_into(&mut self, written: &[OwnStaging]) -> Result<Vec<OwnStaging>, Undecidable> {
        let mut own: Vec<OwnStaging> = Vec::new();
        if !written.is_empty() {
            return Ok(own);
        }
        let held = self.held();
        for change in held.iter().rev() {
            let Slot::Distribution(id) = Slot::read(&change.version.value) else {
                continue;
            };
            if own.iter().any(|it| it.id == id) {
                continue;
            }
            let Some(Some(at)) = self.evidence.modified.get(id).copied() else {
                continue;
            };
            let what = format!("to the distribution {id}, last modified at {at:.0},");
            match self.at(at, &what) {
                Writer::Own => own.push(OwnStaging {
                    id: id.to_owned(),
                    version: self.version_deployed_into(id, &held, at),
                }),
                Writer::Unclear(undecidable) => return Err(undecidable),
                Writer::Unknown(at) => self.need(at),
                Writer::Other(_) | Writer::Ours | Writer::Nobody => {}
            }
        }
        Ok(own)
    }

    /// The version by which A found an id in the parameter: the newest held that nobody else wrote since that
    /// candidate began which may have deployed at `deployed`. One that somebody else may have written then is a
    /// later version of the same id.
    fn version_deployed_into(
        &mut self,
        id: &str,
        held: &[&ParameterChange],
        deployed: Timestamp,
    ) -> i64 {
        let mut own = self.evidence.own.iter();
        let began = own.find(|it| it.narrowly(deployed)).map(|it| it.from);
        let same = held
            .iter()
            .rev()
            .filter(|it| Slot::read(&it.version.value) == Slot::Distribution(id));
        let mut oldest = None;
        for change in same {
            let written = change.version.modified_at;
            let anothers = written.is_some_and(|at| Some(at) >= began)
                && match self.writer(change) {
                    Writer::Other(_) | Writer::Unclear(_) => true,
                    Writer::Unknown(at) => {
                        self.need(at);
                        false
                    }
                    Writer::Own | Writer::Ours | Writer::Nobody => false,
                };
            if !anothers {
                return self.last_own_version(id, change.version.version);
            }
            oldest = Some(change.version.version - 1);
        }
        oldest.unwrap_or_default()
    }

    /// The versions that the parameter held from the start of A's first candidate to the end of its last, the
    /// oldest first; without those that stagesweep withdrew in that time, whose modifications may be its own.
    fn held(&self) -> Vec<&'a ParameterChange> {
        let own = self.evidence.own;
        let ends = own.iter().map(|own| own.until);
        let end = ends.reduce(|one, other| Some(one?.max(other?))).flatten();
        let until = |moment: Option<Timestamp>| {
            let versions = self.versions.iter();
            let written = versions.filter(|change| match (change.version.modified_at, moment) {
                (Some(at), Some(moment)) => at <= moment,
                (None, Some(_)) => false,
                (_, None) => true,
            });
            written.count()
        };
        let start = until(own.first().map(|first| first.from)).max(1) - 1;
        let held = &self.versions[start..until(end).max(start)];
        let withdrawn = |index: usize| {
            let next = held.get(index + 1);
            next.is_some_and(|it| self.evidence.written_by_us.contains(&it.version.version))
        };
        let held = held.iter().enumerate();
        held.filter(|(index, _)| !withdrawn(*index))
            .map(|(_, change)| *change)
            .collect()
    }

    /// Whether somebody else wrote the same id later, or modified the distribution last.
    ///
    /// A modification that is nobody's hides an earlier one: a firewall manager's, or the end of a
    /// propagation where `LastModifiedTime` moves with that. If another execution may have deployed into the
    /// distribution before it, that cannot be decided.
    fn is_superseded(&mut self, own: &OwnStaging) -> Result<bool, Undecidable> {
        let later_writes: Vec<&ParameterChange> = self
            .versions
            .iter()
            .copied()
            .filter(|it| it.version.version > own.version)
            .filter(|it| Slot::read(&it.version.value) == Slot::Distribution(&own.id))
            .collect();
        let mut unclear = None;
        for change in later_writes {
            match self.writer(change) {
                Writer::Own | Writer::Ours => {}
                Writer::Unknown(at) => self.need(at),
                Writer::Other(_) | Writer::Nobody => return Ok(true),
                Writer::Unclear(undecidable) => unclear = Some(undecidable),
            }
        }
        if let Some(undecidable) = unclear {
            return Err(undecidable);
        }
        let Some(Some(at)) = self.evidence.modified.get(&own.id).copied() else {
            return Ok(false);
        };
        let wrote = self.wrote(own);
        let by_writer = wrote.filter(|it| it.narrowly(at));
        if let Some(since) = by_writer {
            // Of others only where they were asked for: nobody is for this alone.
            return match self.evidence.knows_others_at(at) {
                true => self.undisturbed(own, (since, true), at).map(|()| false),
                false => Ok(false),
            };
        }
        if !self.evidence.knows_others_at(at) {
            self.need(at);
            return Ok(false);
        }
        let runs = self.evidence.own.iter().find(|it| it.narrowly(at));
        if runs.is_none()
            && let Some(other) = self.evidence.other_at(at)
        {
            self.taken.push(TakenOver {
                id: own.id.clone(),
                execution_id: other.execution_id.clone(),
                modified_at: at,
            });
            return Ok(true);
        }
        match wrote.or(runs) {
            Some(since) => self.undisturbed(own, (since, wrote.is_some()), at),
            None => Ok(()),
        }
        .map(|()| false)
    }

    /// The candidate of A that wrote the id of a distribution.
    fn wrote(&self, own: &OwnStaging) -> Option<&'a Candidate> {
        let mut versions = self.versions.iter();
        let change = versions.find(|it| it.version.version == own.version)?;
        let mut candidates = self.evidence.own.iter();
        match change.by.as_deref().and_then(build_of) {
            Some(build) if self.builds_are_told() => {
                candidates.find(|it| it.build.as_deref() == Some(build))
            }
            _ => candidates.find(|it| {
                let at = change.version.modified_at;
                at.is_some_and(|at| it.narrowly(at))
            }),
        }
    }

    /// That no other execution may have deployed into a distribution of A up to `at`: none ran then, or began since the
    /// action of A that deployed did, an action that may deploy without writing an id of its own. What
    /// deploys is known where A's action `wrote` the parameter.
    fn undisturbed(
        &self,
        own: &OwnStaging,
        (since, wrote): (&Candidate, bool),
        at: Timestamp,
    ) -> Result<(), Undecidable> {
        let deploys = |other: &Candidate| {
            let mut candidates = self.evidence.own.iter();
            !wrote || other.place == since.place || candidates.all(|it| it.place != other.place)
        };
        let made_another = |other: &Candidate| {
            let mut versions = self.versions.iter();
            versions.any(|it| match Slot::read(&it.version.value) {
                Slot::Distribution(id) if id != own.id => {
                    self.writer(it) == Writer::Other(Some(other.execution_id.clone()))
                }
                _ => false,
            })
        };
        let mut others = self.evidence.others.candidates.iter();
        let other = others.find(|other| {
            let between = since.from <= other.from && other.from <= at;
            let then = other.widely(at, self.evidence.grace);
            (between || then) && deploys(other) && !made_another(other)
        });
        match other {
            None => Ok(()),
            Some(other) => Err(Undecidable::WriterUnclear {
                what: format!("to the distribution {}, last modified at {at:.0},", own.id),
                own: since.place.clone(),
                other: other.place.clone(),
                execution_id: other.execution_id.clone(),
            }),
        }
    }

    /// Nothing is A's: whether that is right.
    fn nothing(&self) -> Attribution {
        let Some(current) = self.versions.last() else {
            return Attribution::Refused(Undecidable::NotWritten {
                value: String::new(),
                by: "nobody".to_owned(),
            });
        };
        let by = current.by.as_deref();
        if let Some(build) = by.and_then(build_of) {
            let others = self.evidence.others;
            if let Some(execution_id) = others.builds.get(build) {
                return Attribution::Nothing(WhyNothing::SlotOf(execution_id.clone()));
            }
            let at = current.version.modified_at.unwrap_or(Timestamp::MAX);
            if !self.evidence.knows_others_at(at) {
                return Attribution::AskOthers { until: at };
            }
        }
        Attribution::Refused(Undecidable::NotWritten {
            value: current.version.value.trim().to_owned(),
            by: by
                .unwrap_or("somebody that its history does not name")
                .to_owned(),
        })
    }

    /// The last version that holds this id, from `number` on, and is A's, or its value put back by us.
    fn last_own_version(&mut self, id: &str, number: i64) -> i64 {
        let of_id = self
            .versions
            .iter()
            .copied()
            .filter(|it| it.version.version >= number)
            .filter(|it| Slot::read(&it.version.value) == Slot::Distribution(id));
        let mut last = number;
        for change in of_id.collect::<Vec<_>>() {
            if matches!(self.writer(change), Writer::Own | Writer::Ours) {
                last = change.version.version;
            }
        }
        last
    }

    fn need(&mut self, at: Timestamp) {
        self.unknown = Some(self.unknown.map_or(at, |known| known.max(at)));
    }

    /// Whose a version of the parameter is.
    fn writer(&self, change: &ParameterChange) -> Writer {
        let Some(at) = change.version.modified_at else {
            return Writer::Nobody;
        };
        let by = change.by.as_deref();
        if let Some(build) = by.and_then(build_of) {
            if self.evidence.has_build(build) {
                return Writer::Own;
            }
            let others = self.evidence.others.builds.get(build);
            if others.is_some() || self.builds_are_told() {
                return Writer::Other(others.cloned());
            }
        } else if self
            .evidence
            .written_by_us
            .contains(&change.version.version)
        {
            return Writer::Ours;
        } else if by.is_some_and(is_person) {
            return Writer::Nobody;
        }
        let what = format!(
            "\"{}\" (version {}, at {at:.0})",
            change.version.value.trim(),
            change.version.version
        );
        self.at(at, &what)
    }

    /// Whether the session of any version that was read is that of a build that CodePipeline shows.
    fn builds_are_told(&self) -> bool {
        let known = |build: &str| {
            self.evidence.has_build(build) || self.evidence.others.builds.contains_key(build)
        };
        let mut builds = self
            .versions
            .iter()
            .filter_map(|change| build_of(change.by.as_deref()?));
        builds.any(known)
    }

    /// Whose a write of that moment is, by times alone.
    fn at(&self, at: Timestamp, what: &str) -> Writer {
        let own = self.evidence.own.iter().find(|own| own.narrowly(at));
        let other = self.evidence.other_at(at);
        match (own, other) {
            (None, other) => match other {
                Some(other) => Writer::Other(Some(other.execution_id.clone())),
                None => Writer::Nobody,
            },
            (Some(_), _) if !self.evidence.knows_others_at(at) => Writer::Unknown(at),
            (Some(_), None) => Writer::Own,
            (Some(own), Some(other)) => Writer::Unclear(Undecidable::WriterUnclear {
                what: what.to_owned(),
                own: own.place.clone(),
                other: other.place.clone(),
                execution_id: other.execution_id.clone(),
            }),
        }
    }
}

#[cfg(test)]
#[path = "attribution_tests.rs"]
mod tests;
