//! What can be set about the embedded AWS, and the switches for what AWS does not document.

use std::time::Duration;

/// Where the embedded AWS stands and how fast it propagates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an accepted CloudFront change stays `InProgress`.
    pub propagation: Duration,
    /// Up to this much is added to each propagation, drawn from the seed.
    pub propagation_jitter: Duration,
    /// How long every call takes on its way, besides what it waits for.
    pub latency: Duration,
    /// The account that owns everything, twelve digits.
    pub account: String,
    /// The region of the queues and parameters. CloudFront is global.
    pub region: String,
    /// Every identifier, ETag and random choice follows from this.
    pub seed: u64,
    /// How many exchanges the journal remembers before it drops the oldest.
    pub journal_capacity: usize,
    /// What to do where AWS's documentation leaves the behaviour open.
    pub switches: Switches,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Measured medians lie between two and three minutes.
            propagation: Duration::from_secs(170),
            propagation_jitter: Duration::ZERO,
            latency: Duration::ZERO,
            account: "123456789012".to_owned(),
            region: "ap-northeast-1".to_owned(),
            seed: 0x5eed,
            journal_capacity: 100_000,
            switches: Switches::default(),
        }
    }
}

/// One switch for each behaviour that AWS does not document or that reports contradict.
///
/// The default is the likeliest behaviour. A client that is right works with every setting.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, not a state"
)]
pub struct Switches {
    /// DeleteContinuousDeploymentPolicy while the detach from its primary still propagates:
    /// refused with `ContinuousDeploymentPolicyInUse` (true), or accepted (false).
    pub policy_delete_waits_for_detach: bool,
    /// A policy that is attached to nothing still keeps the staging distribution that it lists
    /// from being disabled.
    pub unattached_policy_blocks_disable: bool,
    /// What deleting an attached policy does when that policy is disabled.
    pub disabled_attached_policy_delete: AttachedPolicyDelete,
    /// For this long after a write, GetDistribution and GetDistributionConfig show the version
    /// before it: old status, old fields, old ETag.
    pub stale_reads: Duration,
    /// Whether ListDistributions is as stale as [`Switches::stale_reads`] makes the reads.
    pub stale_lists: bool,
    /// For this long after a disabled distribution became `Deployed`, deleting it is still
    /// refused, with [`Switches::delete_lag_error`].
    pub delete_lag: Duration,
    /// What is answered during [`Switches::delete_lag`].
    pub delete_lag_error: DeleteLag,
    /// For this long after its deletion, reads and lists still show a distribution. Writes answer
    /// `NoSuchDistribution` at once.
    pub deleted_stays_visible: Duration,
    /// What an update of a primary that leaves `ContinuousDeploymentPolicyId` out means.
    pub omitted_policy_id: OmittedPolicyId,
    /// Whether a staging distribution shows the id of the policy that lists it.
    pub staging_shows_policy: bool,
    /// What a staging distribution shows once that policy has been deleted.
    pub staging_after_policy_delete: StagingAfterPolicyDelete,
    /// An update of a staging distribution that leaves out the policy id it shows is refused with
    /// `IllegalUpdate` (true), or keeps it (false).
    pub staging_update_needs_policy_id: bool,
    /// An update of a staging distribution that names a deleted policy, as it shows it, is refused with
    /// `NoSuchContinuousDeploymentPolicy`.
    pub staging_policy_is_looked_up: bool,
    /// An update that changes nothing still yields a new ETag and propagates again.
    pub unchanged_put_is_a_change: bool,
    /// Deleting a staging distribution that a policy lists is refused with `ResourceInUse`.
    pub listed_staging_delete_refused: bool,
    /// Changing an attached policy propagates through its primary, which is `InProgress`
    /// meanwhile. The primary's ETag stays.
    pub policy_update_redeploys_primary: bool,
    /// DeleteMessage with a handle of an earlier receive answers success and deletes nothing
    /// (true), or deletes all the same (false). SQS allows both for standard queues.
    pub old_receipt_is_ignored: bool,
    /// How many calls CloudFront answers within any second before it throttles the account.
    pub calls_per_second: Option<usize>,
    /// How many of them within any minute may change something.
    pub changes_per_minute: Option<usize>,
    /// What CodePipeline shows of an approval that timed out.
    pub expired_approval: ExpiredApproval,
    /// `LastModifiedTime` moves once more when `InProgress` becomes `Deployed`.
    pub modified_when_deployed: bool,
    /// UpdateDistributionWithStagingConfig is refused where no policy of the primary lists the
    /// staging distribution (true), or accepted (false).
    pub promotion_needs_policy: bool,
    /// As whom the builds of pipelines write.
    pub writer: Writer,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            policy_delete_waits_for_detach: true,
            unattached_policy_blocks_disable: true,
            disabled_attached_policy_delete: AttachedPolicyDelete::Refused,
            stale_reads: Duration::ZERO,
            stale_lists: false,
            delete_lag: Duration::ZERO,
            delete_lag_error: DeleteLag::NotDisabled,
            deleted_stays_visible: Duration::ZERO,
            omitted_policy_id: OmittedPolicyId::Keeps,
            staging_shows_policy: true,
            staging_after_policy_delete: StagingAfterPolicyDelete::Empty,
            staging_update_needs_policy_id: false,
            staging_policy_is_looked_up: false,
            unchanged_put_is_a_change: false,
            listed_staging_delete_refused: true,
            policy_update_redeploys_primary: true,
            old_receipt_is_ignored: true,
            calls_per_second: None,
            changes_per_minute: None,
            expired_approval: ExpiredApproval::Silent,
            modified_when_deployed: false,
            promotion_needs_policy: false,
            writer: Writer::Build,
        }
    }
}

/// What deleting an attached but disabled policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedPolicyDelete {
    /// 409 `ContinuousDeploymentPolicyInUse`, as for an enabled one.
    Refused,
    /// 204, and the primary's policy id becomes empty, which propagates.
    ClearsPrimary,
}

/// The error while a distribution is deployed and disabled but not yet deletable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteLag {
    /// 409 `DistributionNotDisabled`.
    NotDisabled,
    /// 412 `PreconditionFailed`, whatever the ETag.
    PreconditionFailed,
}

/// How an approval that timed out differs from one that was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredApproval {
    /// It names nobody and has no text.
    Silent,
    /// The code of its error says so.
    Code,
    /// Its text says so.
    Text,
}

/// As whom a build calls AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// `assumed-role/ROLE/AWSCodeBuild-UUID`, of the very build that CodePipeline shows.
    Build,
    /// The same with the UUID of another build, as a batch's builds are others than the batch.
    Batch,
    /// A role of the deployment's own, with a session that names no build.
    Deployer,
}

/// What leaving the policy id out of an update means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OmittedPolicyId {
    /// The policy stays attached; only an explicit empty element detaches it.
    Keeps,
    /// The policy is detached, as "an update replaces the whole configuration" would have it.
    Clears,
}

/// What a staging distribution shows after its policy has been deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingAfterPolicyDelete {
    /// No policy.
    Empty,
    /// Still the deleted policy's id.
    StaleId,
}

/// An account and a region in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) account: String,
    pub(crate) region: String,
}

impl Place {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            account: settings.account.clone(),
            region: settings.region.clone(),
        }
    }
}
