//! Staging distributions and policies that nobody takes down: which are orphans, and which are not.
//!
//! [`judge`] is pure. A [`Survey`] reads the account for it, and a [`Remover`] takes one orphan down.
//!
//! **Guarantees.** Only that is an orphan which nothing is known to own: no target's parameter names
//! it, no production distribution has its policy attached, no open job of the ledger is bound to it,
//! and nothing about it was changed for [`MIN_AGE`] at least, so that a deployment which has not yet
//! written its parameter is left alone. What cannot be told is kept.
//!
//! **Not handled.** A deployment that waits for longer than that between copying the distribution
//! and writing the parameter; `--min-age` is for such pipelines. Who else may own what no parameter
//! of a target ever named: someone who uses staging distributions without stagesweep in the same
//! account will find them listed as orphans.

mod remove;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::aws::cloudfront::{Listed, ListedPolicy};
use crate::domain::executions::MIN_AGE;
use crate::domain::history::Record;

pub use remove::{ReadRecords, Reading, Removed, Remover, removed_by};
pub use survey::Survey;

/// CloudFront's default quota of staging distributions an account, and of policies (Service Quotas:
/// "Staging distributions", "Continuous deployment policies").
pub const QUOTA: usize = 20;

/// What is there, and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// All staging distributions.
    pub staging: Vec<Listed>,
    /// All policies.
    pub policies: Vec<ListedPolicy>,
    /// By policy, the production distribution that it is attached to.
    pub attached: BTreeMap<String, String>,
    /// By distribution, the parameter that names it.
    pub named: BTreeMap<String, String>,
    /// By distribution, the open job that is bound to it.
    pub bound: BTreeMap<String, String>,
    /// By distribution, what is known of its past.
    pub past: BTreeMap<String, Past>,
}

/// What is known of a distribution's past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The parameter that named it once.
    pub parameter: Option<String>,
    /// When that was overwritten.
    pub replaced_at: Option<Timestamp>,
    /// The pipeline execution that a job for it was about.
    pub execution_id: Option<String>,
    /// That job.
    pub record: Option<Record>,
}

/// Whether something is an orphan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody owns it.
    Orphan,
    Kept(Reason),
}

/// Why something is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A parameter names it.
    #[error("{parameter} names it")]
    Named { parameter: String },
    /// Its policy is attached.
    #[error("its policy is attached to {production_id}")]
    Attached { production_id: String },
    /// A job is bound to it.
    #[error("the open job {key} is bound to it")]
    Bound {
        /// The job.
        key: String,
    },
    /// It is too young.
    #[error("it was changed, or replaced in its parameter, too short a time ago")]
    Young,
    /// Nothing tells how old it is.
    #[error("nothing tells how old it is")]
    UnknownAge,
    /// Its policy lists one that is kept, too.
    #[error("its policy lists {other} too, which is kept")]
    Shared {
        /// The other one's domain name, or its id.
        other: String,
    },
}

impl Reason {
    /// A bounded code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Named { .. } => "named",
            Self::Attached { .. } => "attached",
            Self::Bound { .. } => "bound",
            Self::Young => "young",
            Self::UnknownAge => "unknown_age",
            Self::Shared { .. } => "shared",
        }
    }
}

/// A staging distribution and what is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagingFinding {
    /// The distribution.
    pub listed: Listed,
    /// The policy that lists it.
    pub policy_id: Option<String>,
    /// For how long nothing about it was changed.
    pub age: Option<Duration>,
    /// What is known of its past.
    pub past: Past,
    /// Whether it is an orphan.
    pub verdict: Verdict,
}

/// A policy that lists no staging distribution that exists, and what is to become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFinding {
    /// The policy.
    pub listed: ListedPolicy,
    /// For how long it was not changed.
    pub age: Option<Duration>,
    /// Whether it is an orphan.
    pub verdict: Verdict,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All staging distributions.
    pub staging: Vec<StagingFinding>,
    /// The policies that belong to none of them.
    pub policies: Vec<PolicyFinding>,
    /// How many policies there are in all.
    pub policies_used: usize,
}

/// Decides what is an orphan. `min_age` counts as [`MIN_AGE`] where it is shorter.
#[must_use]
pub fn judge(inventory: &Inventory, now: Timestamp, min_age: Duration) -> Report {
    let min_age = min_age.max(MIN_AGE);
    Report {
        staging: judge_staging(inventory, now, min_age),
        policies: judge_policies(inventory, now, min_age),
        policies_used: inventory.policies.len(),
    }
}

fn judge_staging(inventory: &Inventory, now: Timestamp, min_age: Duration) -> Vec<StagingFinding> {
    let mut staging: Vec<StagingFinding> = inventory
        .staging
        .iter()
        .map(|listed| {
            let policy = inventory
                .policies
                .iter()
                .find(|policy| policy.staging_domains.contains(&listed.domain));
            let past = inventory.past.get(&listed.id).cloned().unwrap_or_default();
            let mut last = listed.modified_at;
            if let Some(replaced_at) = past.replaced_at {
                last = last.map(|last| last.max(replaced_at));
            }
            if let Some(changed_at) = policy.and_then(|policy| policy.modified_at) {
                last = last.map(|last| last.max(changed_at));
            }
            let age = age(last, now);
            let owner = inventory
                .named
                .get(&listed.id)
                .map(|parameter| Reason::Named {
                    parameter: parameter.clone(),
                });
            let attached = policy.and_then(|policy| inventory.attached.get(&policy.id));
            let attached = attached.map(|production_id| Reason::Attached {
                production_id: production_id.clone(),
            });
            let bound = inventory.bound.get(&listed.id);
            let bound = bound.map(|key| Reason::Bound { key: key.clone() });
            let kept = owner.or(attached).or(bound).or(too_young(age, min_age));
            StagingFinding {
                listed: listed.clone(),
                policy_id: policy.map(|policy| policy.id.clone()),
                age,
                past,
                verdict: kept.map_or(Verdict::Orphan, Verdict::Kept),
            }
        })
        .collect();

    // A policy stays as long as one that it lists does, and so do the others that it lists.
    for policy in &inventory.policies {
        let of_it = |finding: &StagingFinding| finding.policy_id.as_ref() == Some(&policy.id);
        let kept = staging
            .iter()
            .find(|finding| of_it(finding) && finding.verdict != Verdict::Orphan)
            .map(|finding| finding.listed.id.clone());
        let Some(other) = kept else { continue };
        for finding in staging.iter_mut().filter(|finding| of_it(finding)) {
            if finding.verdict == Verdict::Orphan {
                finding.verdict = Verdict::Kept(Reason::Shared {
                    other: other.clone(),
                });
            }
        }
    }
    staging
}

/// The policies that belong to no staging distribution.
fn judge_policies(inventory: &Inventory, now: Timestamp, min_age: Duration) -> Vec<PolicyFinding> {
    let domains: BTreeSet<&str> = inventory
        .staging
        .iter()
        .map(|staging| staging.domain.as_str())
        .collect();
    inventory
        .policies
        .iter()
        .filter(|policy| {
            let mut listed = policy.staging_domains.iter();
            !listed.any(|domain| domains.contains(domain.as_str()))
        })
        .map(|policy| {
            let age = age(policy.modified_at, now);
            let attached = inventory.attached.get(&policy.id);
            let attached = attached.map(|production_id| Reason::Attached {
                production_id: production_id.clone(),
            });
            let kept = attached.or(too_young(age, min_age));
            PolicyFinding {
                listed: policy.clone(),
                age,
                verdict: kept.map_or(Verdict::Orphan, Verdict::Kept),
            }
        })
        .collect()
}

fn age(since: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    Some(Duration::try_from(now.duration_since(since?)).unwrap_or_default())
}

fn too_young(age: Option<Duration>, min_age: Duration) -> Option<Reason> {
    match age {
        None => Some(Reason::UnknownAge),
        Some(age) if age < min_age => Some(Reason::Young),
        Some(_) => None,
    }
}

impl Report {
    /// The staging distributions that are orphans.
    pub fn orphaned_staging(&self) -> impl Iterator<Item = &StagingFinding> {
        let all = self.staging.iter();
        all.filter(|finding| finding.verdict == Verdict::Orphan)
    }

    /// The policies that are orphans and list none of them.
    pub fn orphaned_policies(&self) -> impl Iterator<Item = &PolicyFinding> {
        let all = self.policies.iter();
        all.filter(|finding| finding.verdict == Verdict::Orphan)
    }

    /// The ids of everything that is an orphan.
    #[must_use]
    pub fn orphans(&self) -> BTreeSet<&str> {
        let staging = self.orphaned_staging().map(|it| it.listed.id.as_str());
        let policies = self.orphaned_policies().map(|it| it.listed.id.as_str());
        staging.chain(policies).collect()
    }
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
