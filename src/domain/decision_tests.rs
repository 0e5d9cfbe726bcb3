use proptest::prelude::*;

use super::*;
use crate::domain::binding::Evidence;

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

// ---- (b) whatever is observed ----

fn id() -> impl Strategy<Value = String> {
    prop::sample::select(vec![PRODUCTION, STAGING, NEWER]).prop_map(str::to_owned)
}

fn domain() -> impl Strategy<Value = String> {
    prop::sample::select(vec![DOMAIN, NEWER_DOMAIN]).prop_map(str::to_owned)
}

fn policy_id() -> impl Strategy<Value = String> {
    prop::sample::select(vec![POLICY, NEWER_POLICY, "policy-third"]).prop_map(str::to_owned)
}

fn any_distribution(usually_staging: bool) -> impl Strategy<Value = Distribution> {
    (
        (id(), domain(), "[a-c]"),
        (prop::bool::weighted(0.8), any::<bool>()),
        prop::bool::weighted(0.9),
        prop_oneof![9 => Just(0_usize), 1 => Just(1)],
        prop::option::of(policy_id()),
    )
        .prop_map(
            move |((id, domain, etag), (deployed, enabled), usual, aliases, policy_id)| {
                Distribution {
                    id,
                    domain,
                    etag,
                    deployed,
                    enabled,
                    staging: usual == usually_staging,
                    aliases,
                    policy_id,
                }
            },
        )
}

fn any_parameter() -> impl Strategy<Value = ParameterVersion> {
    let value = prop::sample::select(vec![
        STAGING, STAGING, STAGING, NEWER, PRODUCTION, "dummy", "deleted", "", "junk", "Deleted",
    ]);
    (value, 1_i64..4).prop_map(|(value, version)| parameter(value, version))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let domains = proptest::collection::vec(domain(), 0..3);
    (policy_id(), "[a-c]", domains).prop_map(|(id, etag, staging_domains)| Policy {
        id,
        etag,
        staging_domains,
    })
}

fn any_observed() -> impl Strategy<Value = Observed> {
    // An id names one policy, in any reading.
    let policies = proptest::collection::vec(any_policy(), 0..4).prop_map(|mut policies| {
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        policies.dedup_by(|a, b| a.id == b.id);
        policies
    });
    (
        prop::option::weighted(0.95, any_distribution(false)),
        prop::option::weighted(0.7, any_distribution(true)),
        policies.prop_shuffle(),
        prop::option::weighted(0.9, any_parameter()),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(production, staging, policies, parameter, listed_gone)| Observed {
                production,
                staging,
                policies,
                parameter,
                listed_gone,
            },
        )
}

fn any_binding() -> impl Strategy<Value = Binding> {
    let production = prop_oneof![9 => Just(PRODUCTION), 1 => Just(STAGING)];
    let domain = prop_oneof![3 => Just(Some(DOMAIN.to_owned())), 1 => Just(None)];
    (production, domain, prop::option::of(policy_id())).prop_map(
        |(production, staging_domain, policy_id)| Binding {
            production_id: production.to_owned(),
            staging_id: STAGING.to_owned(),
            staging_domain,
            policy_id,
            overwriting: None,
            evidence: Evidence {
                version: 2,
                ..Evidence::default()
            },
        },
    )
}

fn any_progress() -> impl Strategy<Value = Progress> {
    let conflict = prop::sample::select(vec![
        Conflict::PolicyInUse,
        Conflict::StagingInUse,
        Conflict::NotDisabled,
        Conflict::ResourceInUse,
        Conflict::ConcurrentWrite,
    ]);
    (
        prop::option::weighted(0.3, policy_id()),
        prop::option::weighted(0.3, policy_id()),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 1_i64..5),
        prop::option::weighted(0.2, conflict),
    )
        .prop_map(
            |(detached, policy_deleted, disabled, staging_deleted, recorded, conflict)| Progress {
                detached,
                policy_deleted,
                disabled,
                staging_deleted,
                recorded,
                conflict,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_is_observed_no_step_is_decided_that_a_fence_forbids(
        binding in any_binding(), observed in any_observed(), progress in any_progress(),
    ) {
        match decide(&binding, &observed, &progress) {
            Decision::Apply(step) => {
                prop_assert_eq!(forbidden(&binding, &observed, &progress, &step), None, "{:?}", step);
            }
            Decision::Done(Outcome::Superseded)
                if owner(&binding, observed.parameter.as_ref()) == Owner::Rewritten => {}
            Decision::Done(outcome) => {
                prop_assert!(observed.staging.is_none());
                prop_assert!(observed.listed_gone || progress.staging_deleted);
                let ours = observed.parameter.as_ref().map(|it| it.value.as_str()) == Some(STAGING);
                prop_assert!(!ours, "the parameter still names what is gone");
                if let Some(domain) = &binding.staging_domain {
                    let left = observed.policies.iter().any(|it| it.staging_domains.contains(domain));
                    prop_assert!(!left, "our policy is left");
                }
                let newer = observed.parameter.as_ref().is_some_and(|parameter| {
                    [NEWER, PRODUCTION].contains(&parameter.value.as_str())
                });
                prop_assert_eq!(newer, outcome == Outcome::Superseded);
            }
            Decision::Wait(_) | Decision::Refuse(_) => {}
        }
    }

    #[test]
    fn a_step_that_was_accepted_is_never_decided_again_on_the_reading_that_led_to_it(
        binding in any_binding(), observed in any_observed(), progress in any_progress(),
    ) {
        if let Decision::Apply(step) = decide(&binding, &observed, &progress) {
            let mut later = progress.clone();
            accept(&mut later, &step);
            let again = decide(&binding, &observed, &later);
            prop_assert!(matches!(again, Decision::Wait(_)), "{:?} after {:?}", again, step);
        }
    }
}

// ---- (c) refusals and waits, one by one ----

#[test]
fn each_fence_refuses_with_its_reason_whatever_else_is_so() {
    type Change = fn(&mut Binding, &mut Observed);
    let table: [(Refusal, Change); 8] = [
        (Refusal::StagingIsProduction, |binding, _| {
            binding.staging_id = binding.production_id.clone();
        }),
        (Refusal::ProductionMissing, |_, observed| {
            observed.production = None;
        }),
        (Refusal::ProductionIsStaging, |_, observed| {
            observed.production.as_mut().unwrap().staging = true;
        }),
        (Refusal::ProductionDisabled, |binding, observed| {
            binding.evidence.production_enabled = true;
            observed.production.as_mut().unwrap().enabled = false;
        }),
        (Refusal::NotAStagingDistribution, |_, observed| {
            observed.staging.as_mut().unwrap().staging = false;
        }),
        (Refusal::StagingHasAliases, |_, observed| {
            observed.staging.as_mut().unwrap().aliases = 1;
        }),
        (Refusal::PolicyShared, |_, observed| {
            observed.policies = vec![policy(POLICY, &[DOMAIN, NEWER_DOMAIN])];
        }),
        (Refusal::PolicyShared, |_, observed| {
            observed.policies = vec![policy(POLICY, &[NEWER_DOMAIN, DOMAIN])];
            observed.staging = None;
        }),
    ];
    for (refusal, change) in table {
        let (mut binding, mut observed) = (binding(), untouched());
        change(&mut binding, &mut observed);
        for deployed in [true, false] {
            if let Some(production) = &mut observed.production {
                production.deployed = deployed;
            }
            assert_eq!(
                decide(&binding, &observed, &Progress::default()),
                Decision::Refuse(refusal),
                "{observed:?}"
            );
        }
    }
}

#[test]
fn only_a_staging_distribution_without_aliases_disabled_everywhere_is_deletable() {
    let disabled = Distribution {
        enabled: false,
        ..distribution(STAGING, DOMAIN, true)
    };
    assert_eq!(Deletable::of(&disabled).unwrap().id(), STAGING);
    // Whoever calls it, and whatever fences stood before.
    let changes: [fn(&mut Distribution); 4] = [
        |it| it.enabled = true,
        |it| it.deployed = false,
        |it| it.staging = false,
        |it| it.aliases = 1,
    ];
    for change in changes {
        let mut distribution = disabled.clone();
        change(&mut distribution);
        assert_eq!(Deletable::of(&distribution), None, "{distribution:?}");
    }
}

#[test]
fn production_is_detachable_only_as_it_was_seen_and_staging_disableable_alike() {
    let observed = untouched();
    let (production, ours) = (observed.production.unwrap(), policy(POLICY, &[DOMAIN]));
    assert_eq!(Detachable::of(&production, &ours).unwrap().id(), PRODUCTION);
    let changes: [fn(&mut Distribution); 3] = [
        |it| it.deployed = false,
        |it| it.staging = true,
        |it| it.policy_id = Some(NEWER_POLICY.to_owned()),
    ];
    for change in changes {
        let mut distribution = production.clone();
        change(&mut distribution);
        assert_eq!(
            Detachable::of(&distribution, &ours),
            None,
            "{distribution:?}"
        );
    }
    let staging = observed.staging.unwrap();
    assert_eq!(Disableable::of(&staging).unwrap().id(), STAGING);
    let changes: [fn(&mut Distribution); 3] = [
        |it| it.deployed = false,
        |it| it.staging = false,
        |it| it.aliases = 1,
    ];
    for change in changes {
        let mut distribution = staging.clone();
        change(&mut distribution);
        assert_eq!(Disableable::of(&distribution), None, "{distribution:?}");
    }
}

#[test]
fn someone_elses_policy_stays_attached() {
    let mut observed = recorded();
    observed.policies = vec![policy(POLICY, &[NEWER_DOMAIN])];
    let decision = decide(&binding(), &observed, &Progress::default());
    // Nothing lists our staging distribution, so that one can go.
    let disableable = Disableable::of(observed.staging.as_ref().unwrap()).unwrap();
    assert_eq!(decision, Decision::Apply(Step::DisableStaging(disableable)));
}

#[test]
fn who_writes_our_id_again_deploys_into_it() {
    let mut observed = untouched();
    observed.parameter = Some(parameter(STAGING, 3));
    let superseded = Decision::Done(Outcome::Superseded);
    let decided = |binding: &Binding| decide(binding, &observed, &Progress::default());
    assert_eq!(decided(&binding()), superseded);
    // Unless it was us: the rejection fell away, and stood again.
    let mut restored = binding();
    restored.evidence.restored = Some(3);
    let record = Decision::Apply(Step::RecordDeleted { version: 3 });
    assert_eq!(decided(&restored), record);
}

#[test]
fn what_is_no_id_is_refused_before_the_first_change_and_left_after_it() {
    for value in ["none", crate::domain::binding::SECURE] {
        let mut observed = untouched();
        observed.parameter = Some(parameter(value, 3));
        let decided = |binding: &Binding| decide(binding, &observed, &Progress::default());
        let refused = Decision::Refuse(Refusal::StagingParameterInvalid);
        assert_eq!(decided(&binding()), refused);
        let mut begun = binding();
        begun.evidence.changed = true;
        assert!(matches!(decided(&begun), Decision::Apply(Step::Detach(_))));
    }
}

#[test]
fn one_reading_is_not_enough_for_it_does_not_exist() {
    let mut observed = recorded();
    observed.staging = None;
    observed.listed_gone = false;
    let decision = decide(&binding(), &observed, &Progress::default());
    assert_eq!(decision, Decision::Wait(Wait::Evidence));
    let deleted = Progress {
        staging_deleted: true,
        ..Progress::default()
    };
    let decision = decide(&binding(), &observed, &deleted);
    assert!(matches!(decision, Decision::Apply(Step::Detach(_))));
}

#[test]
fn each_wait_is_for_what_stands_in_the_way() {
    type Change = fn(&mut Observed, &mut Progress);
    fn production(observed: &mut Observed) -> &mut Distribution {
        observed.production.as_mut().unwrap()
    }
    fn staging(observed: &mut Observed) -> &mut Distribution {
        observed.staging.as_mut().unwrap()
    }
    fn detached(observed: &mut Observed) {
        production(observed).policy_id = None;
    }
    fn policy_gone(observed: &mut Observed) {
        detached(observed);
        observed.policies.clear();
    }
    let of_ours = || Wait::Detached {
        policy_id: Some(POLICY.to_owned()),
    };
    let table: Vec<(&str, Wait, Change)> = vec![
        ("production is in progress", Wait::BothDeployed, |it, _| {
            production(it).deployed = false;
        }),
        ("staging is in progress", Wait::BothDeployed, |it, _| {
            staging(it).deployed = false;
        }),
        ("our detach is not to be seen yet", of_ours(), |_, done| {
            done.detached = Some(POLICY.to_owned());
        }),
        ("the detach propagates", of_ours(), |it, done| {
            detached(it);
            production(it).deployed = false;
            done.conflict = Some(Conflict::PolicyInUse);
        }),
        ("production names our lost policy", of_ours(), |it, _| {
            it.policies.clear();
        }),
        (
            "production names a lost policy of who knows whom",
            Wait::Detached {
                policy_id: Some("lost".to_owned()),
            },
            |it, _| {
                it.policies.clear();
                production(it).policy_id = Some("lost".to_owned());
            },
        ),
        (
            "production is in progress, before the record",
            Wait::BothDeployed,
            |it, _| {
                it.parameter = Some(parameter(STAGING, 2));
                production(it).deployed = false;
            },
        ),
        (
            "staging is in progress, before the record",
            Wait::BothDeployed,
            |it, _| {
                it.parameter = Some(parameter(STAGING, 2));
                staging(it).deployed = false;
            },
        ),
        (
            "production may still route to staging",
            Wait::Detached { policy_id: None },
            |it, _| {
                policy_gone(it);
                production(it).deployed = false;
            },
        ),
        ("staging still changes", Wait::StagingDeployed, |it, _| {
            policy_gone(it);
            staging(it).deployed = false;
        }),
        (
            "our disable is not to be seen yet",
            Wait::StagingDisabled,
            |it, done| {
                policy_gone(it);
                done.disabled = true;
            },
        ),
        ("the disable propagates", Wait::StagingDisabled, |it, _| {
            policy_gone(it);
            staging(it).enabled = false;
            staging(it).deployed = false;
        }),
        (
            "our deletion is not to be seen yet",
            Wait::StagingGone,
            |it, done| {
                policy_gone(it);
                staging(it).enabled = false;
                done.staging_deleted = true;
            },
        ),
        (
            "our policy's deletion is not to be seen yet",
            Wait::LookAgain,
            |it, done| {
                detached(it);
                done.policy_deleted = Some(POLICY.to_owned());
            },
        ),
        ("the detach met a conflict", Wait::LookAgain, |_, done| {
            done.conflict = Some(Conflict::StagingInUse);
        }),
        (
            "the policy is in use for no reason to be seen",
            Wait::PolicyUnused {
                policy_id: POLICY.to_owned(),
            },
            |it, done| {
                detached(it);
                done.conflict = Some(Conflict::PolicyInUse);
            },
        ),
        ("the disable met a conflict", Wait::LookAgain, |it, done| {
            policy_gone(it);
            done.conflict = Some(Conflict::StagingInUse);
        }),
        (
            "the deletion met a conflict",
            Wait::LookAgain,
            |it, done| {
                policy_gone(it);
                staging(it).enabled = false;
                done.conflict = Some(Conflict::NotDisabled);
            },
        ),
        (
            "our write is not to be seen yet",
            Wait::LookAgain,
            |it, done| {
                it.parameter = Some(parameter(STAGING, 2));
                done.recorded = Some(3);
            },
        ),
        ("the write met another", Wait::LookAgain, |it, done| {
            it.parameter = Some(parameter(STAGING, 2));
            done.conflict = Some(Conflict::ConcurrentWrite);
        }),
    ];
    for (why, wait, change) in table {
        let (mut observed, mut progress) = (recorded(), Progress::default());
        change(&mut observed, &mut progress);
        let decision = decide(&binding(), &observed, &progress);
        assert_eq!(decision, Decision::Wait(wait), "{why}");
    }
}

fn orphan() -> Orphan {
    Orphan {
        staging_id: STAGING.to_owned(),
        policy_id: Some(POLICY.to_owned()),
    }
}

/// A staging distribution that nobody owns.
fn unowned() -> Observed {
    Observed {
        production: None,
        parameter: None,
        listed_gone: false,
        ..untouched()
    }
}

#[test]
fn an_orphan_goes_in_the_safe_order() {
    let (orphan, mut observed, mut progress) = (orphan(), unowned(), Progress::default());
    let mut names = Vec::new();
    let outcome = loop {
        match decide(Goal::Orphan(&orphan), &observed, &progress) {
            Decision::Apply(step) => {
                names.push(step.name());
                accept(&mut progress, &step);
                match step {
                    Step::DeletePolicy { .. } => observed.policies.clear(),
                    Step::DeleteStaging(_) => observed.staging = None,
                    Step::DisableStaging(_) => {
                        let staging = observed.staging.as_mut().unwrap();
                        (staging.enabled, staging.deployed) = (false, false);
                    }
                    Step::RecordDeleted { .. } | Step::Detach(_) => panic!("{step:?}"),
                }
            }
            Decision::Wait(wait) => {
                names.push(wait.name());
                observed.staging.as_mut().unwrap().deployed = true;
            }
            Decision::Done(outcome) => break outcome,
            Decision::Refuse(refusal) => panic!("{refusal:?}"),
        }
    };
    assert_eq!(outcome, Outcome::Cleaned);
    let order = [
        "delete_policy",
        "disable_staging",
        "disable_propagated",
        "delete_staging",
    ];
    assert_eq!(names, order);
}

#[test]
fn an_orphan_that_is_none_any_more_is_left() {
    type Change = fn(&mut Observed, &mut Progress);
    let decided = |change: Change| {
        let (mut observed, mut progress) = (unowned(), Progress::default());
        change(&mut observed, &mut progress);
        decide(Goal::Orphan(&orphan()), &observed, &progress)
    };
    let refused: [(Change, Refusal); 7] = [
        (
            |it, _| it.staging.as_mut().unwrap().staging = false,
            Refusal::NotAStagingDistribution,
        ),
        (
            |it, _| it.staging.as_mut().unwrap().aliases = 1,
            Refusal::StagingHasAliases,
        ),
        (
            |it, _| it.policies = vec![policy(POLICY, &[DOMAIN, NEWER_DOMAIN])],
            Refusal::PolicyShared,
        ),
        (
            |it, _| it.policies = vec![policy(POLICY, &[NEWER_DOMAIN])],
            Refusal::PolicyShared,
        ),
        (
            |_, progress| progress.conflict = Some(Conflict::PolicyInUse),
            Refusal::PolicyAttachedElsewhere,
        ),
        (
            |it, _| it.policies = vec![policy(NEWER_POLICY, &[DOMAIN])],
            Refusal::OrphanOwned,
        ),
        (
            |it, _| it.policies = vec![policy(NEWER_POLICY, &[DOMAIN, NEWER_DOMAIN])],
            Refusal::OrphanOwned,
        ),
    ];
    for (change, refusal) in refused {
        assert_eq!(decided(change), Decision::Refuse(refusal));
    }
    // One reading is not enough for "gone".
    let gone = decided(|it, _| it.staging = None);
    assert_eq!(gone, Decision::Wait(Wait::Evidence));
    let listed = decided(|it, _| (it.staging, it.listed_gone) = (None, true));
    assert_eq!(listed, Decision::Done(Outcome::Cleaned));
}
