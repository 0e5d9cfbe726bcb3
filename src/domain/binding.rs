//! Which staging distribution a rejection is about. Pure: no I/O, no clock.
//!
//! While execution A waits at its approval, execution B may already be deploying and overwrite the
//! staging parameter. So the job of A is bound to the parameter's value **as of the start of A's
//! approval action**, found in the parameter's history, and never to what the parameter names when
//! the message happens to arrive.
//!
//! **Assumptions.** The deployment writes the parameter before the approval opens. SSM stamps
//! versions in the order in which they were written.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::event::{JobKey, Rejection};

/// The two values of the staging parameter that say: there is no staging distribution.
const VACANT: [&str; 2] = ["dummy", "deleted"];

/// What stagesweep writes when the staging distribution is gone.
pub const DELETED: &str = "deleted";

/// What a job is bound to from its first claim on, through every restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    pub production_id: String,
    /// The staging distribution that the rejected execution made.
    pub staging_id: String,
    /// The staging distribution's domain name, by which its policy is found. `None` when the
    /// distribution was already gone when the job was bound.
    pub staging_domain: Option<String>,
    /// The continuous deployment policy that listed the staging distribution when the job was
    /// bound. Where to look first, never proof of ownership.
    pub policy_id: Option<String>,
    /// The version of the staging parameter that the job set out to overwrite with [`DELETED`].
    /// Noted before it writes: who finds it knows where to look for a value that came in between.
    pub overwriting: Option<i64>,
    /// What else later runs go by.
    pub evidence: Evidence,
}

/// What a job remembers beside the ids of its distributions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// The last version of the staging parameter that names the staging distribution and is the
    /// execution's own; 0 if none does.
    pub version: i64,
    /// Further staging distributions of the execution, the newest first.
    pub more: Vec<Staged>,
    /// Another one of its staging distributions is somebody else's by now.
    pub superseded: bool,
    /// The version of the parameter that recorded [`DELETED`].
    pub recorded: Option<i64>,
    /// When the job was bound, the newest version of the parameter was stagesweep's own, and said that there is
    /// no staging distribution: an earlier job withdrew the name.
    pub withdrawn: bool,
    /// The version of the parameter that put the id back.
    pub restored: Option<i64>,
    /// The job has changed something, or was about to.
    pub changed: bool,
    /// The job has changed CloudFront, or was about to.
    pub touched: bool,
    /// The job has taken its policy off production, or was about to.
    pub detaching: bool,
    /// Production's `Enabled` when the job was bound.
    pub production_enabled: bool,
    /// `LastModifiedTime` of the staging distribution when the job was bound. Milliseconds since the Unix
    /// epoch.
    pub modified_at_ms: Option<i64>,
    /// Its ETag then: as long as it is the same, nobody has modified the distribution, whatever its time says.
    pub etag: Option<String>,
    /// What was done, and what is left, where the rejection fell away half way.
    pub left: Option<String>,
    /// What the job is about: enough to finish it without its message.
    pub subject: Option<Subject>,
}

/// A further staging distribution of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    pub id: String,
    /// As [`Binding::staging_domain`].
    pub domain: Option<String>,
    /// As [`Binding::policy_id`].
    pub policy_id: Option<String>,
    /// As [`Evidence::version`].
    pub version: i64,
    /// As [`Evidence::modified_at_ms`].
    #[serde(default)]
    pub modified_at_ms: Option<i64>,
    /// As [`Evidence::etag`].
    #[serde(default)]
    pub etag: Option<String>,
    /// As [`Evidence::detaching`].
    #[serde(default)]
    pub detaching: bool,
}

/// What shows whether anybody has modified a distribution since it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modified {
    /// When it had last been modified.
    pub at: Timestamp,
    /// Its ETag.
    pub etag: String,
}

/// What a job is about, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The pipeline's ARN.
    pub pipeline: String,
    /// The pipeline execution; of a cleanup by hand, the job's key.
    pub execution_id: String,
    /// The approval's attempt.
    pub action_execution_id: Option<String>,
    pub stage: String,
    pub action: String,
    /// When the event was emitted. Milliseconds since the Unix epoch.
    pub rejected_at_ms: i64,
    /// A person began it: there is no execution to ask about.
    pub by_hand: bool,
    /// The execution was ended while its approval waited.
    #[serde(default)]
    pub ended: bool,
}

impl Subject {
    /// What a rejection is about.
    #[must_use]
    pub fn of(rejection: &Rejection, by_hand: bool, ended: bool) -> Self {
        Self {
            pipeline: rejection.pipeline.to_string(),
            execution_id: rejection.execution_id.clone(),
            action_execution_id: rejection.action_execution_id.clone(),
            stage: rejection.stage.clone(),
            action: rejection.action.clone(),
            rejected_at_ms: rejection.rejected_at.as_millisecond(),
            by_hand,
            ended,
        }
    }

    /// The rejection again, but for its comment; `None` if the record is damaged.
    #[must_use]
    pub fn rejection(&self, key: JobKey) -> Option<Rejection> {
        let rejected_at = Timestamp::from_millisecond(self.rejected_at_ms).ok()?;
        Some(Rejection {
            key,
            pipeline: self.pipeline.parse().ok()?,
            execution_id: self.execution_id.clone(),
            action_execution_id: self.action_execution_id.clone(),
            stage: self.stage.clone(),
            action: self.action.clone(),
            as_of: rejected_at,
            as_of_uncertainty: Duration::ZERO,
            rejected_at,
            comment: None,
        })
    }
}

impl Evidence {
    /// The text that a ledger keeps.
    #[must_use]
    pub fn text(&self) -> String {
        // Texts and numbers under keys that are texts: there is always a form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The last version of the staging parameter that is known to name the staging distribution and to be nobody
    /// else's.
    #[must_use]
    pub fn known_version(&self) -> i64 {
        self.version.max(self.restored.unwrap_or(0))
    }

    /// Reads what [`Evidence::text`] wrote; `None` for anything else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl Binding {
    /// How many staging distributions the job is bound to.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.evidence.more.len()
    }

    /// The binding as it is about one of them alone; the first is the newest.
    #[must_use]
    pub fn about(&self, index: usize) -> Self {
        let mut view = self.clone();
        if let Some(staged) = index
            .checked_sub(1)
            .and_then(|it| self.evidence.more.get(it))
        {
            view.staging_id = staged.id.clone();
            view.staging_domain = staged.domain.clone();
            view.policy_id = staged.policy_id.clone();
            view.evidence.version = staged.version;
            view.evidence.modified_at_ms = staged.modified_at_ms;
            view.evidence.etag = staged.etag.clone();
            view.evidence.detaching = staged.detaching;
        }
        view
    }

    /// A later version of the staging parameter names one of them, and is nobody else's.
    pub fn name(&mut self, index: usize, version: i64) {
        match index.checked_sub(1) {
            None => self.evidence.version = version,
            Some(index) => {
                if let Some(staged) = self.evidence.more.get_mut(index) {
                    staged.version = version;
                }
            }
        }
    }

    /// One of them was looked at.
    pub fn see(&mut self, index: usize, modified: &Modified) {
        let (at_ms, etag) = match index.checked_sub(1) {
            None => (&mut self.evidence.modified_at_ms, &mut self.evidence.etag),
            Some(index) => match self.evidence.more.get_mut(index) {
                Some(staged) => (&mut staged.modified_at_ms, &mut staged.etag),
                None => return,
            },
        };
        *at_ms = Some(modified.at.as_millisecond());
        *etag = Some(modified.etag.clone());
    }

    /// The policy of one of them is about to be taken off production.
    pub fn detach(&mut self, index: usize) {
        match index.checked_sub(1) {
            None => self.evidence.detaching = true,
            Some(index) => {
                if let Some(staged) = self.evidence.more.get_mut(index) {
                    staged.detaching = true;
                }
            }
        }
    }

    /// Takes over what was learned of one of them.
    pub fn learn(&mut self, index: usize, domain: Option<&String>, policy_id: Option<&String>) {
        let (own_domain, own_policy) = match index.checked_sub(1) {
            None => (&mut self.staging_domain, &mut self.policy_id),
            Some(index) => match self.evidence.more.get_mut(index) {
                Some(staged) => (&mut staged.domain, &mut staged.policy_id),
                None => return,
            },
        };
        if domain.is_some() {
            *own_domain = domain.cloned();
        }
        if policy_id.is_some() {
            *own_policy = policy_id.cloned();
        }
    }
}

/// One version of an SSM parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterVersion {
    pub value: String,
    /// The version's number, from 1.
    pub version: i64,
    /// When it was written. `None` if the reply carried no time.
    pub modified_at: Option<Timestamp>,
}

/// How a parameter is kept: what a new version of it must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// `Standard`, `Advanced` or `Intelligent-Tiering`.
    pub tier: Option<String>,
    /// The regular expression that a value must match.
    pub allowed_pattern: Option<String>,
}

impl Form {
    /// The pattern, if it surely allows no such value: not even a part of the value matches. One that cannot be
    /// read here is left to Systems Manager to judge.
    #[must_use]
    pub fn forbids(&self, value: &str) -> Option<&str> {
        let pattern = self.allowed_pattern.as_deref()?;
        let read = regex_lite::Regex::new(pattern).ok()?;
        (!read.is_match(value)).then_some(pattern)
    }
}

/// A version of a parameter, and who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterChange {
    pub version: ParameterVersion,
    /// The ARN of whoever wrote it (`LastModifiedUser`).
    pub by: Option<String>,
}

/// What a parameter's value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// `dummy` or `deleted`: no distribution.
    Vacant,
    /// A distribution's id.
    Distribution(&'a str),
    /// The parameter is a SecureString, whose ciphertext nobody reads.
    Secure,
    /// Anything else.
    Invalid,
}

/// What stands for the value of a SecureString: its ciphertext goes no further than the client.
pub const SECURE: &str = "(SecureString)";

impl<'a> Slot<'a> {
    /// Reads a parameter's value.
    #[must_use]
    pub fn read(value: &'a str) -> Self {
        let value = value.trim();
        if VACANT.contains(&value) {
            Self::Vacant
        } else if is_distribution_id(value) {
            Self::Distribution(value)
        } else if value == SECURE {
            Self::Secure
        } else {
            Self::Invalid
        }
    }
}

/// CloudFront's distribution ids: an `E`, then capitals and digits; 13 or 14 characters today.
fn is_distribution_id(text: &str) -> bool {
    (6..=32).contains(&text.len())
        && text.starts_with('E')
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// The staging parameter's value as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf<'a> {
    /// This version was the newest at that moment.
    Version(&'a ParameterVersion),
    /// Only its history can tell: what is known here was all written later.
    NeedsHistory,
}

/// The newest of `versions` that had been written at `moment`.
///
/// Call it with the current version alone first; where that is too young, with the whole history.
/// With the history, [`AsOf::NeedsHistory`] means that even the oldest version kept is too young.
#[must_use]
pub fn as_of(versions: &[ParameterVersion], moment: Timestamp) -> AsOf<'_> {
    versions
        .iter()
        .filter(|version| version.modified_at.is_some_and(|at| at <= moment))
        .max_by_key(|version| version.version)
        .map_or(AsOf::NeedsHistory, AsOf::Version)
}

/// Whether two of `versions` name different distributions, and either may have been the newest one at
/// `moment`: that may have been as much as `uncertainty` earlier. Call it with what [`as_of`] needed
/// for the earlier of the two.
#[must_use]
pub fn is_uncertain(
    versions: &[ParameterVersion],
    moment: Timestamp,
    uncertainty: Duration,
) -> bool {
    let earliest = moment.checked_sub(uncertainty).unwrap_or(Timestamp::MIN);
    let named = |at| match as_of(versions, at) {
        AsOf::Version(version) => match Slot::read(&version.value) {
            Slot::Distribution(id) => Some(id),
            Slot::Vacant | Slot::Secure | Slot::Invalid => None,
        },
        AsOf::NeedsHistory => None,
    };
    matches!((named(earliest), named(moment)), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: i64, value: &str, at: &str) -> ParameterVersion {
        ParameterVersion {
            value: value.to_owned(),
            version: number,
            modified_at: Some(at.parse().unwrap()),
        }
    }

    #[test]
    fn the_value_is_the_one_the_approval_started_with_not_the_newest() {
        let history = [
            version(1, "dummy", "2026-08-01T00:00:00Z"),
            version(2, "EAAAAAAAAAAAAA", "2026-08-24T06:00:00Z"),
            version(3, "EBBBBBBBBBBBBB", "2026-08-24T06:20:00Z"),
        ];
        let started = "2026-08-24T06:05:07.104Z".parse().unwrap();
        assert_eq!(as_of(&history[2..], started), AsOf::NeedsHistory);
        assert_eq!(as_of(&history, started), AsOf::Version(&history[1]));
        // Written in the very millisecond: the deployment writes before the approval opens.
        let exact = "2026-08-24T06:20:00Z".parse().unwrap();
        assert_eq!(as_of(&history, exact), AsOf::Version(&history[2]));
        // A history that was trimmed cannot tell, and nothing is guessed.
        assert_eq!(as_of(&history[2..], started), AsOf::NeedsHistory);
        assert_eq!(as_of(&[], started), AsOf::NeedsHistory);
    }

    #[test]
    fn a_moment_in_whole_seconds_does_not_choose_between_two_distributions() {
        let history = [
            version(1, "EAAAAAAAAAAAAA", "2026-08-24T06:00:00Z"),
            version(2, "EBBBBBBBBBBBBB", "2026-08-24T06:20:00.823Z"),
            version(3, "deleted", "2026-08-24T06:40:00.5Z"),
            version(4, "ECCCCCCCCCCCCC", "2026-08-24T06:50:00.5Z"),
        ];
        let uncertain = |moment: &str, by| {
            is_uncertain(&history, moment.parse().unwrap(), Duration::from_secs(by))
        };
        assert!(uncertain("2026-08-24T06:20:01Z", 1));
        assert!(!uncertain("2026-08-24T06:20:01Z", 0));
        assert!(!uncertain("2026-08-24T06:20:00Z", 1));
        assert!(!uncertain("2026-08-24T06:20:02Z", 1));
        // One of the two is none.
        assert!(!uncertain("2026-08-24T06:40:01Z", 1));
        assert!(!uncertain("2026-08-24T06:50:01Z", 1));
        // The very first version.
        assert!(!uncertain("2026-08-24T06:00:00Z", 1));
    }

    #[test]
    fn a_pattern_forbids_what_no_part_of_matches_and_nothing_where_it_cannot_be_read() {
        let forbids = |pattern: &str| {
            let form = Form {
                allowed_pattern: Some(pattern.to_owned()),
                ..Form::default()
            };
            form.forbids(DELETED).is_some()
        };
        assert!(forbids("^E[A-Z0-9]{12,13}$"));
        assert!(forbids("^(E[A-Z0-9]+|dummy)$"));
        for allows in ["^(E[A-Z0-9]+|dummy|deleted)$", "[a-z]+", "(?!E).*", ""] {
            assert!(!forbids(allows), "{allows}");
        }
        assert_eq!(Form::default().forbids(DELETED), None);
    }

    #[test]
    fn only_a_distribution_id_names_a_distribution() {
        assert_eq!(
            Slot::read("E2QWRUHEXAMPLE"),
            Slot::Distribution("E2QWRUHEXAMPLE")
        );
        assert_eq!(Slot::read("dummy"), Slot::Vacant);
        assert_eq!(Slot::read("deleted\n"), Slot::Vacant);
        for junk in [
            "",
            "Deleted",
            "e2qwruhexample",
            "E2QWRU/../X",
            "EMPTY",
            "arn:aws:cloudfront",
        ] {
            assert_eq!(Slot::read(junk), Slot::Invalid, "{junk}");
        }
    }
}
