//! Which steps an observation shows as done, whoever did them: an earlier run, somebody else, or a change of ours
//! whose answer was lost. Which ones is for people only; what is decided goes by the observation itself.

use crate::domain::binding::Binding;
use crate::domain::decision::{Observed, Owner, owner};

/// The names of those steps, in the order of a cleanup. A step that there was no need of is none.
#[must_use]
pub fn done_already(binding: &Binding, observed: &Observed) -> Vec<&'static str> {
    let parameter = observed.parameter.as_ref();
    let was_named = binding.evidence.version > 0;
    // A reading may be older than the write that named the staging distribution.
    let is_recent = parameter.is_none_or(|it| it.version > binding.evidence.version);
    let names_another = matches!(
        owner(binding, parameter),
        Owner::Nobody | Owner::SomeoneNewer
    );
    let mut done = Vec::new();
    if was_named && is_recent && names_another {
        done.push("record_deleted");
    }
    if let Some(policy_id) = &binding.policy_id {
        let mut distributions = observed.production.iter();
        if distributions.all(|it| it.policy_id.as_ref() != Some(policy_id)) {
            done.push("detach_policy");
        }
        if !observed.policies.iter().any(|it| it.id == *policy_id) {
            done.push("delete_policy");
        }
    }
    match &observed.staging {
        Some(staging) if !staging.enabled => done.push("disable_staging"),
        None if observed.listed_gone => done.push("delete_staging"),
        _ => {}
    }
    done
}

/// Whether a change of CloudFront has taken effect that a job was about to make, whose answer nobody knows.
#[must_use]
pub fn took_effect(binding: &Binding, observed: &Observed) -> bool {
    let Some(staging) = observed.staging.as_ref().filter(|it| it.enabled) else {
        return true;
    };
    let named = observed.production.as_ref();
    let named = named.and_then(|it| it.policy_id.as_ref());
    let is_ours = |id: &String| {
        let mut policies = observed.policies.iter();
        let policy = policies.find(|it| it.id == *id);
        policy.is_some_and(|it| it.staging_domains.contains(&staging.domain))
    };
    if named.is_some_and(|id| binding.policy_id.as_ref() == Some(id) || is_ours(id)) {
        return false;
    }
    let is_gone = |id: &String| !observed.policies.iter().any(|it| it.id == *id);
    binding.evidence.detaching || binding.policy_id.as_ref().is_some_and(is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::binding::{Evidence, ParameterVersion};
    use crate::domain::decision::{Distribution, Policy};

    fn binding() -> Binding {
        Binding {
            production_id: "EPRODUCTION111".to_owned(),
            staging_id: "ESTAGING222222".to_owned(),
            policy_id: Some("ours".to_owned()),
            evidence: Evidence {
                version: 2,
                ..Evidence::default()
            },
            ..Binding::default()
        }
    }

    fn distribution(id: &str, policy_id: Option<&str>, enabled: bool) -> Distribution {
        Distribution {
            id: id.to_owned(),
            domain: "d.cloudfront.net".to_owned(),
            etag: "etag".to_owned(),
            deployed: true,
            enabled,
            staging: policy_id.is_none(),
            aliases: 0,
            policy_id: policy_id.map(str::to_owned),
        }
    }

    fn observed() -> Observed {
        Observed {
            production: Some(distribution("EPRODUCTION111", Some("ours"), true)),
            staging: Some(distribution("ESTAGING222222", None, true)),
            policies: vec![Policy {
                id: "ours".to_owned(),
                etag: "etag".to_owned(),
                staging_domains: Vec::new(),
            }],
            parameter: Some(parameter("ESTAGING222222", 2)),
            listed_gone: false,
        }
    }

    fn parameter(value: &str, version: i64) -> ParameterVersion {
        ParameterVersion {
            value: value.to_owned(),
            version,
            modified_at: None,
        }
    }

    #[test]
    fn what_is_found_done_is_named_in_order_and_what_was_never_there_is_not() {
        let mut seen = observed();
        let done = |seen: &Observed| done_already(&binding(), seen);
        assert!(done(&seen).is_empty());
        // An old reading says nothing.
        seen.parameter = Some(parameter("dummy", 1));
        assert!(done(&seen).is_empty());
        seen.parameter = Some(parameter("deleted", 3));
        assert_eq!(done(&seen), ["record_deleted"]);
        seen.production.as_mut().unwrap().policy_id = None;
        assert_eq!(done(&seen), ["record_deleted", "detach_policy"]);
        seen.policies.clear();
        seen.staging.as_mut().unwrap().enabled = false;
        let four = [
            "record_deleted",
            "detach_policy",
            "delete_policy",
            "disable_staging",
        ];
        assert_eq!(done(&seen), four);
        // One reading is not enough.
        seen.staging = None;
        assert_eq!(done(&seen), four[..3]);
        seen.listed_gone = true;
        assert_eq!(done(&seen).last(), Some(&"delete_staging"));

        let bare = Binding {
            policy_id: None,
            evidence: Evidence::default(),
            ..binding()
        };
        assert_eq!(done_already(&bare, &seen), ["delete_staging"]);
    }
}
