//! Refusals and waits, one by one.

use super::*;

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
