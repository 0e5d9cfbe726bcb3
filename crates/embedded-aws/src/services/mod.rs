//! The services, each over its own protocol. None knows another but EventBridge, which sends to queues.

pub(crate) mod by;
pub(crate) mod cloudfront;
pub(crate) mod codepipeline;
pub(crate) mod dynamodb;
pub(crate) mod eventbridge;
pub(crate) mod iam;
pub(crate) mod identities;
pub(crate) mod protocol;
pub(crate) mod sqs;
pub(crate) mod ssm;
pub(crate) mod sts;

/// Changes to what an operation does, rather than to whether it does it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tweaks {
    pub(crate) stale: bool,
    pub(crate) duplicate: bool,
    pub(crate) reorder: bool,
    pub(crate) undelete: bool,
    pub(crate) refuse_entries: bool,
}
