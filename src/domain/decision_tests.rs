use super::*;
use crate::domain::binding::Evidence;

#[path = "decision_property_tests.rs"]
mod properties;
#[path = "decision_row_tests.rs"]
mod rows;

const PRODUCTION: &str = "EPRODUCTION111";
const STAGING: &str = "ESTAGING222222";
const NEWER: &str = "ENEWER33333333";
const DOMAIN: &str = "d222.cloudfront.net";
const NEWER_DOMAIN: &str = "d333.cloudfront.net";
const POLICY: &str = "policy-ours";
const NEWER_POLICY: &str = "policy-newer";

fn binding() -> Binding {
    Binding {
        production_id: PRODUCTION.to_owned(),
        staging_id: STAGING.to_owned(),
        staging_domain: Some(DOMAIN.to_owned()),
        policy_id: Some(POLICY.to_owned()),
        overwriting: None,
        evidence: Evidence {
            version: 2,
            ..Evidence::default()
        },
    }
}

fn parameter(value: &str, version: i64) -> ParameterVersion {
    ParameterVersion {
        value: value.to_owned(),
        version,
        modified_at: None,
    }
}

fn policy(id: &str, domains: &[&str]) -> Policy {
    Policy {
        id: id.to_owned(),
        etag: format!("etag-of-{id}"),
        staging_domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
    }
}

fn distribution(id: &str, domain: &str, staging: bool) -> Distribution {
    Distribution {
        id: id.to_owned(),
        domain: domain.to_owned(),
        etag: format!("etag-of-{id}"),
        deployed: true,
        enabled: true,
        staging,
        aliases: 0,
        policy_id: Some(POLICY.to_owned()),
    }
}

/// A deployment that waits at its approval: nothing has been taken down yet.
fn untouched() -> Observed {
    Observed {
        production: Some(Distribution {
            aliases: 2,
            ..distribution(PRODUCTION, "d111.cloudfront.net", false)
        }),
        staging: Some(distribution(STAGING, DOMAIN, true)),
        policies: vec![policy(POLICY, &[DOMAIN])],
        parameter: Some(parameter(STAGING, 2)),
        listed_gone: true,
    }
}

/// The same after the record: the parameter names it no longer.
fn recorded() -> Observed {
    Observed {
        parameter: Some(parameter("deleted", 3)),
        ..untouched()
    }
}

/// Notes an accepted step as the reconciler does.
fn accept(progress: &mut Progress, step: &Step) {
    match step {
        Step::Detach(it) => progress.detached = Some(it.policy_id().to_owned()),
        Step::DeletePolicy { policy_id, .. } => progress.policy_deleted = Some(policy_id.clone()),
        Step::DisableStaging(_) => progress.disabled = true,
        Step::DeleteStaging(_) => progress.staging_deleted = true,
        Step::RecordDeleted { version } => progress.recorded = Some(version + 1),
    }
    progress.conflict = None;
}

/// Why the contract forbids this step on this observation. Written against the contract's words,
/// not after the code.
fn forbidden(
    binding: &Binding,
    observed: &Observed,
    progress: &Progress,
    step: &Step,
) -> Option<&'static str> {
    let (production, staging) = (observed.production.as_ref(), observed.staging.as_ref());
    let our_domain = staging
        .map(|staging| &staging.domain)
        .or(binding.staging_domain.as_ref());
    let lists_ours =
        |policy: &&Policy| our_domain.is_some_and(|our| policy.staging_domains.contains(our));
    let ours_alone = |policy: &Policy| {
        lists_ours(&policy)
            && policy
                .staging_domains
                .iter()
                .all(|it| Some(it) == our_domain)
    };
    let slot = observed.parameter.as_ref();
    let names_ours = slot.is_some_and(|it| it.value.trim() == binding.staging_id);
    if names_ours && slot.is_some_and(|it| it.version > binding.evidence.version) {
        return Some("somebody has written our id again");
    }
    let recorded_since =
        |it: &ParameterVersion| progress.recorded.is_some_and(|ours| it.version < ours);
    if names_ours
        && !matches!(step, Step::RecordDeleted { .. })
        && !slot.is_some_and(recorded_since)
    {
        return Some("before the record");
    }
    let junk = slot.is_some_and(|it| matches!(Slot::read(&it.value), Slot::Invalid | Slot::Secure));
    if junk && !progress.changed_anything() && !binding.evidence.changed {
        return Some("the parameter holds what is no id");
    }
    if staging.is_none() && !progress.staging_deleted && !observed.listed_gone {
        return Some("one reading is not enough for: it does not exist");
    }

    let Some(production) = production else {
        return Some("production was not seen");
    };
    if binding.production_id == binding.staging_id {
        return Some("both ids are the same");
    }
    if production.staging {
        return Some("production is a staging distribution");
    }
    if staging.is_some_and(|staging| !staging.staging || staging.aliases > 0) {
        return Some("the staging distribution serves someone");
    }
    if progress.conflict.is_some() {
        return Some("the last step met a conflict that was not waited for");
    }
    let our_policy_is_there = observed.policies.iter().any(|policy| lists_ours(&policy));
    match step {
        Step::Detach(detachable) => {
            let policy_id = detachable.policy_id();
            let policy = observed.policies.iter().find(|it| it.id == policy_id);
            if !policy.is_some_and(ours_alone) {
                return Some("detach: not our policy");
            }
            if production.policy_id.as_deref() != Some(policy_id) {
                return Some("detach: not attached");
            }
            if !production.deployed || staging.is_some_and(|staging| !staging.deployed) {
                return Some("detach: before both are deployed");
            }
            let matches = detachable.id() == production.id && detachable.etag() == production.etag;
            (!matches).then_some("detach: another distribution than observed")
        }
        Step::DeletePolicy { policy_id, etag } => {
            let policy = observed.policies.iter().find(|it| it.id == *policy_id);
            if !policy.is_some_and(ours_alone) {
                return Some("delete policy: not ours");
            }
            if production.policy_id.as_ref() == Some(policy_id) {
                return Some("delete policy: attached");
            }
            let etag_is_its = policy.is_some_and(|policy| policy.etag == *etag);
            (!etag_is_its).then_some("delete policy: another ETag than observed")
        }
        Step::DisableStaging(disableable) => {
            let Some(staging) = staging else {
                return Some("disable: no staging distribution");
            };
            if !production.deployed || our_policy_is_there {
                return Some("disable: production may still route to it");
            }
            let named = production.policy_id.as_ref();
            if named.is_some_and(|named| observed.policies.iter().all(|it| it.id != *named)) {
                return Some("disable: the reading of production is older than the detach");
            }
            if !staging.enabled || !staging.deployed {
                return Some("disable: not enabled everywhere");
            }
            let matches = disableable.id() == staging.id && disableable.etag() == staging.etag;
            (!matches).then_some("disable: another distribution than observed")
        }
        Step::DeleteStaging(deletable) => {
            let Some(staging) = staging else {
                return Some("delete: no staging distribution");
            };
            if staging.enabled || !staging.deployed {
                return Some("delete: not disabled everywhere");
            }
            if !production.deployed || our_policy_is_there {
                return Some("delete: production may still route to it");
            }
            let matches = deletable.id() == staging.id && deletable.etag() == staging.etag;
            (!matches).then_some("delete: another distribution than observed")
        }
        Step::RecordDeleted { version } => {
            let in_progress = !production.deployed || staging.is_some_and(|it| !it.deployed);
            if (staging.is_some() || our_policy_is_there) && in_progress {
                return Some("record: before both are deployed");
            }
            let still_ours = observed.parameter.as_ref().is_some_and(|parameter| {
                parameter.version == *version && parameter.value.trim() == binding.staging_id
            });
            (!still_ours).then_some("record: the parameter is not ours any more")
        }
    }
}

// ---- (a) the walk ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum PolicyIs {
    Attached,
    Detached,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum StagingIs {
    Enabled { deployed: bool },
    Disabled { deployed: bool },
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SlotIs {
    Ours,
    Newer,
    Dummy,
    Missing,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    policy: PolicyIs,
    staging: StagingIs,
    slot: SlotIs,
    production_deployed: bool,
    /// The first look after a step still shows what was before it.
    reads_lag: bool,
    /// The policy cannot be deleted while the detach propagates.
    policy_waits: bool,
    /// The daemon is killed after every step and forgets what it did.
    killed: bool,
}

fn all_starts() -> Vec<Start> {
    let mut starts = Vec::new();
    let flags = [false, true];
    for policy in [PolicyIs::Attached, PolicyIs::Detached, PolicyIs::Gone] {
        for staging in [
            StagingIs::Enabled { deployed: true },
            StagingIs::Enabled { deployed: false },
            StagingIs::Disabled { deployed: false },
            StagingIs::Disabled { deployed: true },
            StagingIs::Gone,
        ] {
            for slot in [SlotIs::Ours, SlotIs::Newer, SlotIs::Dummy, SlotIs::Missing] {
                for bits in 0..16_usize {
                    starts.push(Start {
                        policy,
                        staging,
                        slot,
                        production_deployed: flags[bits & 1],
                        reads_lag: flags[bits >> 1 & 1],
                        policy_waits: flags[bits >> 2 & 1],
                        killed: flags[bits >> 3 & 1],
                    });
                }
            }
        }
    }
    starts
}

/// Why the world did not do a step.
enum Refused {
    Changed,
    Conflict(Conflict),
}

/// CloudFront and SSM, as far as a job changes them.
#[derive(Clone)]
struct World {
    now: Observed,
    policy_waits: bool,
    changes: u32,
}

impl World {
    fn new(start: Start) -> Self {
        let mut now = untouched();
        let production = now.production.as_mut().unwrap();
        production.deployed = start.production_deployed;
        if start.policy != PolicyIs::Attached {
            production.policy_id = (start.slot == SlotIs::Newer).then(|| NEWER_POLICY.to_owned());
        }
        if start.policy == PolicyIs::Gone {
            now.policies.clear();
        }
        if start.slot == SlotIs::Newer {
            now.policies.push(policy(NEWER_POLICY, &[NEWER_DOMAIN]));
        }
        let staging = now.staging.as_mut().unwrap();
        match start.staging {
            StagingIs::Enabled { deployed } => staging.deployed = deployed,
            StagingIs::Disabled { deployed } => {
                (staging.enabled, staging.deployed) = (false, deployed);
            }
            StagingIs::Gone => now.staging = None,
        }
        now.parameter = match start.slot {
            SlotIs::Ours => Some(parameter(STAGING, 2)),
            SlotIs::Newer => Some(parameter(NEWER, 3)),
            SlotIs::Dummy => Some(parameter("dummy", 3)),
            SlotIs::Missing => None,
        };
        Self {
            now,
            policy_waits: start.policy_waits,
            changes: 0,
        }
    }

    fn etag(&mut self) -> String {
        self.changes += 1;
        format!("etag-{}", self.changes)
    }

    fn apply(&mut self, step: &Step) -> Result<(), Refused> {
        let new = self.etag();
        let production = self.now.production.as_mut().unwrap();
        let listed = |domain: &str, policies: &[Policy]| {
            policies
                .iter()
                .any(|policy| policy.staging_domains.iter().any(|it| it == domain))
        };
        let unless = |condition, refused| if condition { Err(refused) } else { Ok(()) };
        match step {
            Step::Detach(it) => {
                unless(it.etag() != production.etag, Refused::Changed)?;
                assert_eq!(production.policy_id.as_deref(), Some(it.policy_id()));
                production.policy_id = None;
                (production.etag, production.deployed) = (new, false);
            }
            Step::DeletePolicy { policy_id, etag } => {
                let policies = &mut self.now.policies;
                let Some(index) = policies.iter().position(|it| it.id == *policy_id) else {
                    // Gone already, which counts as done.
                    return Ok(());
                };
                unless(*etag != policies[index].etag, Refused::Changed)?;
                let in_use = production.policy_id.as_ref() == Some(policy_id)
                    || self.policy_waits && !production.deployed;
                unless(in_use, Refused::Conflict(Conflict::PolicyInUse))?;
                policies.remove(index);
            }
            Step::DisableStaging(it) => {
                let staging = self.now.staging.as_mut().unwrap();
                unless(it.etag() != staging.etag, Refused::Changed)?;
                let in_use = listed(&staging.domain, &self.now.policies);
                unless(in_use, Refused::Conflict(Conflict::StagingInUse))?;
                (staging.etag, staging.enabled, staging.deployed) = (new, false, false);
            }
            Step::DeleteStaging(deletable) => {
                let Some(staging) = &self.now.staging else {
                    return Ok(());
                };
                unless(deletable.etag() != staging.etag, Refused::Changed)?;
                let not_yet = staging.enabled || !staging.deployed;
                unless(not_yet, Refused::Conflict(Conflict::NotDisabled))?;
                self.now.staging = None;
            }
            Step::RecordDeleted { version } => {
                let parameter = self.now.parameter.as_mut().unwrap();
                unless(parameter.version != *version, Refused::Changed)?;
                parameter.value = crate::domain::binding::DELETED.to_owned();
                parameter.version += 1;
            }
        }
        Ok(())
    }

    /// Lets the time pass that a wait takes. Whatever it waits for must come by itself.
    fn pass(&mut self, wait: &Wait) {
        let production = self.now.production.as_mut().unwrap();
        match wait {
            Wait::BothDeployed | Wait::Detached { .. } | Wait::LookAgain => {
                production.deployed = true;
                if let Some(staging) = &mut self.now.staging {
                    staging.deployed = true;
                }
            }
            Wait::StagingDeployed | Wait::StagingDisabled => {
                self.now.staging.as_mut().unwrap().deployed = true;
            }
            Wait::StagingGone | Wait::PolicyUnused { .. } | Wait::Evidence => {}
        }
        let production = self.now.production.as_ref().unwrap();
        let staging = self.now.staging.as_ref();
        let over = match wait {
            Wait::BothDeployed => production.deployed && staging.is_none_or(|it| it.deployed),
            Wait::Detached { policy_id } => {
                production.deployed && (policy_id.is_none() || production.policy_id != *policy_id)
            }
            Wait::StagingDeployed => staging.is_none_or(|it| it.deployed),
            Wait::StagingDisabled => staging.is_none_or(|it| it.deployed && !it.enabled),
            Wait::StagingGone => staging.is_none(),
            Wait::LookAgain | Wait::PolicyUnused { .. } => true,
            Wait::Evidence => false,
        };
        assert!(over, "{wait:?} would never end");
    }
}

/// Carries decisions out until the job is done.
fn walk(start: Start) -> (World, Vec<&'static str>, Outcome) {
    let binding = binding();
    let mut world = World::new(start);
    let (mut progress, mut steps) = (Progress::default(), Vec::new());
    let mut behind = None;
    for _ in 0..40 {
        let observed = behind.take().unwrap_or_else(|| world.now.clone());
        match decide(&binding, &observed, &progress) {
            Decision::Done(outcome) => return (world, steps, outcome),
            Decision::Refuse(refusal) => panic!("{start:?}: {refusal:?}"),
            Decision::Wait(wait) => {
                world.pass(&wait);
                progress.conflict = None;
            }
            Decision::Apply(step) => {
                let why = forbidden(&binding, &observed, &progress, &step);
                assert_eq!(why, None, "{start:?}: {step:?} on {observed:?}");
                let before = world.now.clone();
                match world.apply(&step) {
                    Ok(()) => {
                        // A step that finds its work done already changes nothing again.
                        if world.now != before {
                            steps.push(step.name());
                        }
                        accept(&mut progress, &step);
                        behind = start.reads_lag.then_some(before);
                        if start.killed {
                            progress = Progress::default();
                        }
                    }
                    Err(Refused::Changed) => {}
                    Err(Refused::Conflict(conflict)) => progress.conflict = Some(conflict),
                }
            }
        }
    }
    panic!("{start:?} does not end: {steps:?}");
}

#[test]
fn from_wherever_it_is_resumed_a_job_takes_the_steps_that_are_left_once_in_the_safe_order() {
    for start in all_starts() {
        let (world, steps, outcome) = walk(start);
        let newer = start.slot == SlotIs::Newer;
        let mut expected = Vec::new();
        if start.slot == SlotIs::Ours {
            expected.push("record_deleted");
        }
        if start.policy == PolicyIs::Attached {
            expected.push("detach_policy");
        }
        if start.policy != PolicyIs::Gone {
            expected.push("delete_policy");
        }
        if matches!(start.staging, StagingIs::Enabled { .. }) {
            expected.push("disable_staging");
        }
        if start.staging != StagingIs::Gone {
            expected.push("delete_staging");
        }
        assert_eq!(steps, expected, "{start:?}");

        let expected = match (newer, expected.is_empty() || start.killed) {
            (true, _) => Outcome::Superseded,
            (false, true) => Outcome::AlreadyClean,
            (false, false) => Outcome::Cleaned,
        };
        assert_eq!(outcome, expected, "{start:?}");
        assert_eq!(world.now.staging, None);
        assert!(world.now.policies.iter().all(|it| it.id == NEWER_POLICY));
        let policy = world.now.production.as_ref().unwrap().policy_id.as_deref();
        let theirs = newer && start.policy != PolicyIs::Attached;
        assert_eq!(policy, theirs.then_some(NEWER_POLICY), "{start:?}");
        let slot = world.now.parameter.as_ref().map(|it| it.value.as_str());
        let untouched = match start.slot {
            SlotIs::Ours => Some("deleted"),
            SlotIs::Newer => Some(NEWER),
            SlotIs::Dummy => Some("dummy"),
            SlotIs::Missing => None,
        };
        assert_eq!(slot, untouched, "{start:?}");

        // The message comes again: nothing is done twice.
        let replayed = decide(&binding(), &world.now, &Progress::default());
        let expected = if newer {
            Outcome::Superseded
        } else {
            Outcome::AlreadyClean
        };
        assert_eq!(replayed, Decision::Done(expected), "{start:?}");
    }
}
