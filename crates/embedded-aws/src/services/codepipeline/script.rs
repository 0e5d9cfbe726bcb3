//! How an execution goes on by itself.

use std::time::Duration;

/// How a deployment goes about the staging distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// Every deployment makes a staging distribution and a policy of its own, and names it in the
    /// parameter: the sample with its cleanup on.
    #[default]
    New,
    /// Every deployment changes the one staging distribution that there is. The parameter is written
    /// by the first one only: the sample with its cleanup off.
    ReuseRecordedOnce,
    /// The same, and every deployment writes the same id to the parameter again.
    ReuseRecordedAlways,
}

/// How an approval is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A reviewer rejects, with this comment if there is one.
    Rejected(Option<String>),
    /// A reviewer approves.
    Approved,
    /// Nobody decides in time.
    Expired,
    /// CodePipeline cannot tell anybody of it, and gives up.
    Misconfigured,
}

impl Decision {
    pub(crate) fn review(&self) -> Review<'_> {
        match self {
            Self::Rejected(comment) => Review::Rejected(comment.as_deref()),
            Self::Approved => Review::Approved,
            Self::Expired => Review::Expired,
            Self::Misconfigured => Review::Misconfigured,
        }
    }
}

/// How an attempt of an approval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review<'a> {
    /// A reviewer rejects, with this comment if there is one.
    Rejected(Option<&'a str>),
    /// A reviewer approves: the promotion begins.
    Approved,
    /// Nobody decides in time.
    Expired,
    /// CodePipeline cannot tell anybody that it waits: its topic is broken.
    Misconfigured,
}

/// What every action of an execution does and how long that takes. Waiting in front of stages comes on
/// top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// How long a source action takes.
    pub source: Duration,
    /// How long a build takes that neither deploys nor promotes.
    pub build: Duration,
    /// How it deploys.
    pub pattern: Pattern,
    /// How long every step of a deployment takes: reading production, the copy, the policy, its
    /// attachment, the parameter, the change of the staging distribution.
    pub pace: Duration,
    /// So long after its approval opens, it is decided so; else it waits for a reviewer.
    pub review: Option<(Duration, Decision)>,
    /// Its promotion's build takes down the staging distribution afterwards, and writes `deleted`.
    pub cleans: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            source: Duration::from_secs(5),
            build: Duration::from_secs(120),
            pattern: Pattern::default(),
            pace: Duration::from_secs(1),
            review: None,
            cleans: false,
        }
    }
}
