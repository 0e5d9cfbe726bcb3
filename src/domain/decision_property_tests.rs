//! Whatever is observed.

use proptest::prelude::*;

use super::*;

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
