//! Why a job must not be done, and the sentence that people read of it: the parameter, what was found there, and
//! what to do. The log, `plan`, `clean`, `doctor`, `history`, `dead-letters` and the notice have it from here. Pure.
//!
//! **Guarantees.** What AWS holds is shown without its control characters, and cut. Of a SecureString nothing is shown.

use jiff::Timestamp;

use crate::domain::attribution::{MAX_OTHERS, Undecidable};
use crate::domain::binding::{Binding, ParameterVersion, SECURE, Slot};
use crate::domain::decision::Observed;
use crate::domain::event::Rejection;
use crate::domain::plain::plain;
use crate::domain::targets::Parameters;
use crate::domain::verdict::Doubt;

/// A value is shown up to so many characters.
const MAX_SHOWN: usize = 80;

/// Why a job must not be done. Its message is never deleted; it goes to the dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The production parameter holds no distribution id, or does not exist.
    ProductionParameterInvalid,
    /// The staging parameter holds neither a distribution's id nor `dummy` or `deleted`, or does not exist.
    StagingParameterInvalid,
    /// The staging parameter's AllowedPattern does not allow `deleted`.
    DeletedNotAllowed,
    /// One of the two parameters is a SecureString.
    ParameterIsSecureString,
    /// The parameter's history does not reach back far enough.
    HistoryTooShort,
    /// The event has no start time, and the parameter changed in the second of its own time.
    StagingParameterJustWritten,
    /// A write lies within actions of the rejected execution and of another one.
    StagingWriterUnclear,
    /// No write is the rejected execution's.
    StagingNotWrittenByExecution,
    /// Too many executions were open beside the rejected one.
    TooManyExecutions,
    /// The event says what CodePipeline does not show.
    EventContradictsCodePipeline,
    /// Both parameters name the same distribution.
    StagingIsProduction,
    /// There is no distribution of the id the production parameter holds.
    ProductionMissing,
    /// The production distribution says that it is a staging one.
    ProductionIsStaging,
    /// The production distribution was switched off since the job was bound.
    ProductionDisabled,
    /// The staging distribution does not say that it is one.
    NotAStagingDistribution,
    /// The staging distribution has aliases: it serves someone.
    StagingHasAliases,
    /// The policy lists our staging distribution and others.
    PolicyShared,
    /// The policy of our staging distribution is attached, and not to production.
    PolicyAttachedElsewhere,
    /// An orphan is none any more.
    OrphanOwned,
    /// The staging distribution was modified after a person was shown it.
    StagingModified,
}

impl Refusal {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ProductionParameterInvalid => "production_parameter_invalid",
            Self::StagingParameterInvalid => "staging_parameter_invalid",
            Self::DeletedNotAllowed => "deleted_not_allowed",
            Self::ParameterIsSecureString => "parameter_is_secure_string",
            Self::HistoryTooShort => "history_too_short",
            Self::StagingParameterJustWritten => "staging_parameter_just_written",
            Self::StagingWriterUnclear => "staging_writer_unclear",
            Self::StagingNotWrittenByExecution => "staging_not_written_by_execution",
            Self::TooManyExecutions => "too_many_executions",
            Self::EventContradictsCodePipeline => "event_contradicts_codepipeline",
            Self::StagingIsProduction => "staging_is_production",
            Self::ProductionMissing => "production_missing",
            Self::ProductionIsStaging => "production_is_staging",
            Self::ProductionDisabled => "production_disabled",
            Self::NotAStagingDistribution => "not_a_staging_distribution",
            Self::StagingHasAliases => "staging_has_aliases",
            Self::PolicyShared => "policy_shared",
            Self::PolicyAttachedElsewhere => "policy_attached_elsewhere",
            Self::OrphanOwned => "orphan_owned",
            Self::StagingModified => "staging_modified",
        }
    }
}

/// Where the two parameters of a job are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Their names.
    pub parameters: &'a Parameters,
    /// Their region.
    pub region: &'a str,
    /// Their account, where it is known.
    pub account: Option<&'a str>,
}

/// One of the two parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that names the production distribution.
    Production,
    /// The one that names the staging distribution.
    Staging,
}

impl Place<'_> {
    /// A parameter's name, with where it is.
    #[must_use]
    pub fn of(&self, which: Which) -> String {
        let name = self.name(which);
        match self.account {
            Some(account) => format!("{name} in {} of account {account}", self.region),
            None => format!("{name} in {}", self.region),
        }
    }

    fn name(&self, which: Which) -> &str {
        match which {
            Which::Production => &self.parameters.production,
            Which::Staging => &self.parameters.staging,
        }
    }

    /// A parameter that names no distribution.
    #[must_use]
    pub fn misleads(&self, which: Which, parameter: Option<&ParameterVersion>) -> String {
        let name = self.of(which);
        let (key, id) = match which {
            Which::Production => ("production_parameter", "the production distribution's id"),
            Which::Staging => (
                "staging_parameter",
                "`deleted`, or the staging distribution's id",
            ),
        };
        let Some(ParameterVersion { value, version, .. }) = parameter else {
            return format!(
                "{name} does not exist: create it with {id}, or correct the target's {key}, role_arn or region"
            );
        };
        if Slot::read(value) == Slot::Secure {
            return format!(
                "{name} is a SecureString, which stagesweep does not decrypt: make it a String; a \
                 distribution's id is no secret"
            );
        }
        let held = format!("{name} holds {} in version {version}", shown(value));
        match which {
            Which::Production => {
                format!("{held}, which is no distribution's id: write {id} to it")
            }
            Which::Staging => format!(
                "{held}: neither a distribution's id nor `dummy` or `deleted`; write `deleted` if there is no \
                 staging distribution"
            ),
        }
    }

    /// The staging parameter takes no `deleted`: by its pattern, or by what Systems Manager says.
    #[must_use]
    pub fn forbids_deleted(&self, pattern: Option<&str>) -> String {
        let pattern = pattern.map_or(String::new(), |it| format!(" {}", shown(it)));
        format!(
            "{} has the AllowedPattern{pattern}, which `deleted` does not match: set one that `deleted` and a \
             distribution's id match, such as ^(E[A-Z0-9]+|dummy|deleted)$",
            self.of(Which::Staging)
        )
    }

    /// A fence, by what one look at the account shows.
    #[must_use]
    pub fn fence(&self, refusal: Refusal, binding: &Binding, observed: &Observed) -> String {
        let Binding {
            production_id,
            staging_id,
            ..
        } = binding;
        let production = format!("{} names {production_id}", self.of(Which::Production));
        let staging = match binding.evidence.version {
            0 => format!("staging {staging_id} of {}", self.of(Which::Staging)),
            version => format!(
                "{} named {staging_id} in version {version}",
                self.of(Which::Staging)
            ),
        };
        let write = "write the production distribution's id to it";
        match refusal {
            Refusal::StagingParameterInvalid => {
                self.misleads(Which::Staging, observed.parameter.as_ref())
            }
            Refusal::StagingIsProduction => format!(
                "{staging}, which is the production distribution that {} names: write `deleted` or the staging \
                 distribution's id to it",
                self.name(Which::Production)
            ),
            Refusal::ProductionMissing => {
                format!("{production}, and there is no such distribution: {write}")
            }
            Refusal::ProductionIsStaging => {
                format!(
                    "{production}, which is a staging distribution (`Staging` is true): {write}"
                )
            }
            Refusal::ProductionDisabled => format!(
                "{production}, which was switched off (`Enabled` is false) while the job ran: viewers get \
                 errors; find out who did that, and enable it"
            ),
            Refusal::NotAStagingDistribution => format!(
                "{staging}, which is no staging distribution (`Staging` is false): write `deleted` or the \
                 staging distribution's id to it"
            ),
            Refusal::StagingHasAliases => {
                let aliases = observed.staging.as_ref().map_or(0, |it| it.aliases);
                format!(
                    "{staging}, which has aliases ({aliases}) and so serves somebody: take them off it, or find \
                     out what it is"
                )
            }
            Refusal::PolicyShared => shared(&staging, binding, observed),
            _ => format!("{staging}; {production}"),
        }
    }

    /// The policy of the staging distribution is in use, and production does not name it.
    #[must_use]
    pub fn policy_in_use(&self, policy_id: &str, binding: &Binding) -> String {
        let production = self.name(Which::Production);
        let evidence = &binding.evidence;
        let then = match evidence.changed {
            true => "the job then goes on by itself within fifteen minutes",
            false => "then send the message back",
        };
        let recorded = match evidence.recorded {
            Some(version) => format!(
                "; {} holds `deleted` since version {version}, which stays",
                self.name(Which::Staging)
            ),
            None => String::new(),
        };
        format!(
            "{} named {}, which does not name the policy {policy_id} of staging {staging}, and that policy is in \
             use: detach it from the distribution that names it, such as the one that {production} named before; \
             {then}. Left: {staging} and the policy{recorded}",
            self.of(Which::Production),
            binding.production_id,
            staging = binding.staging_id,
        )
    }

    /// Nothing in the slot is the execution's, and production names a policy all the same.
    #[must_use]
    pub fn policy_left(&self, production_id: &str, policy_id: &str) -> String {
        format!(
            "{} says that there is no staging distribution, and production {production_id} names the policy \
             {policy_id}: find out whose that is, then detach it or clean by hand",
            self.of(Which::Staging)
        )
    }

    /// The staging distribution was modified after a person was shown it.
    #[must_use]
    pub fn modified(&self, staging_id: &str, shown: Timestamp, now: Timestamp) -> String {
        format!(
            "staging {staging_id} of {} was modified at {now:.0}, and when it was shown, it had last been modified at \
             {shown:.0}: it is left, as somebody may use it by now; see with `plan` whose it is, then begin again",
            self.of(Which::Staging)
        )
    }

    /// Attribution comes to no answer.
    #[must_use]
    pub fn undecidable(&self, why: &Undecidable) -> String {
        format!("{}: {}", self.of(Which::Staging), plain(&why.to_string()))
    }

    /// The execution ran something that could deploy, and nothing in the stage that is said to.
    #[must_use]
    pub fn not_in_deploy_stage(&self, stage: &str, ran: &str) -> String {
        format!(
            "{}: the rejected execution is no rollback and ran nothing in the stage \"{}\" before its approval, but {}: \
             set the target's deploy_stage to the one stage that deploys, or leave it out",
            self.of(Which::Staging),
            plain(stage),
            plain(ran)
        )
    }

    /// Too many executions were open between two moments.
    #[must_use]
    pub fn too_many(&self, from: Timestamp, to: Timestamp) -> String {
        format!(
            "more than {MAX_OTHERS} executions were open between {from:.0} and {to:.0}, so that whose {} is cannot \
             be decided; clean by hand",
            self.of(Which::Staging)
        )
    }

    /// The history does not reach back to the start of the approval.
    #[must_use]
    pub fn begins_later(&self, approval: Timestamp) -> String {
        format!(
            "the history of {} does not reach back to {approval:.0}, when the approval began; clean by hand",
            self.of(Which::Staging)
        )
    }

    /// The event has no start time, and the parameter changed in the second of its own time.
    #[must_use]
    pub fn just_written(&self, event: Timestamp, newest: Option<&ParameterVersion>) -> String {
        let held = newest.map_or(String::new(), |it| {
            format!(" (it holds {} in version {})", shown(&it.value), it.version)
        });
        format!(
            "{}{held} was written in the very second of the event, {event:.0}: which of two deployments was \
             rejected cannot be decided; clean by hand",
            self.of(Which::Staging)
        )
    }
}

/// CodePipeline does not show what the event says.
#[must_use]
pub fn contradicted(doubt: &Doubt, rejection: &Rejection) -> String {
    format!(
        "{doubt}: the event is about execution {} of {}, stage {}, action {}; nothing was touched. If the rejection \
         is real, send it again by a redrive or clean by hand",
        rejection.execution_id,
        rejection.pipeline,
        plain(&rejection.stage),
        plain(&rejection.action)
    )
}

fn shared(staging: &str, binding: &Binding, observed: &Observed) -> String {
    let domain = observed.staging.as_ref().map(|it| &it.domain);
    let domain = domain.or(binding.staging_domain.as_ref());
    let mut policies = observed.policies.iter();
    let policy = policies.find(|it| domain.is_some_and(|own| it.staging_domains.contains(own)));
    let (id, others) = match policy {
        Some(policy) => {
            let others = policy.staging_domains.iter();
            let others = others.filter(|it| Some(*it) != domain);
            let others: Vec<&str> = others.map(String::as_str).collect();
            (policy.id.as_str(), others.join(", "))
        }
        None => ("of it", "others".to_owned()),
    };
    format!(
        "{staging}, whose policy {id} lists other staging distributions too ({others}): give them a policy of their \
         own"
    )
}

/// A parameter's value, for people.
#[must_use]
pub fn shown(value: &str) -> String {
    let value = value.trim();
    if value == SECURE {
        return SECURE.to_owned();
    }
    let cut: String = plain(value).chars().take(MAX_SHOWN).collect();
    let more = if value.chars().count() > MAX_SHOWN {
        "…"
    } else {
        ""
    };
    format!("\"{cut}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(value: &str) -> ParameterVersion {
        ParameterVersion {
            value: value.to_owned(),
            version: 3,
            modified_at: None,
        }
    }

    #[test]
    fn every_code_has_a_row_of_its_own_in_the_documentation() {
        let source = include_str!("refusal.rs");
        let (_, codes) = source.split_once("fn code(self)").unwrap();
        let (codes, _) = codes.split_once("\n    }\n").unwrap();
        let codes: Vec<&str> = codes.split('"').skip(1).step_by(2).collect();
        assert!(codes.len() > 15, "{codes:?}");
        for code in codes {
            let row = format!("\n| `{code}` |");
            let page = include_str!("../../docs/TROUBLESHOOTING.md");
            assert!(page.contains(&row), "{code}");
            let named = format!("`{code}`");
            let reasons = include_str!("../../docs/RUNBOOK.md");
            assert!(code == "orphan_owned" || reasons.contains(&named), "{code}");
        }
    }

    #[test]
    fn a_parameter_that_leads_nowhere_is_said_with_its_place_its_value_and_what_to_do() {
        let parameters = Parameters {
            production: "/shop/production".to_owned(),
            staging: "/shop/staging".to_owned(),
        };
        let place = Place {
            parameters: &parameters,
            region: "eu-west-1",
            account: Some("123456789012"),
        };
        assert_eq!(
            place.misleads(Which::Production, None),
            "/shop/production in eu-west-1 of account 123456789012 does not exist: create it with the production \
             distribution's id, or correct the target's production_parameter, role_arn or region"
        );
        assert_eq!(
            place.misleads(Which::Staging, Some(&version("no\u{1b}[2Jne\n"))),
            "/shop/staging in eu-west-1 of account 123456789012 holds \"no [2Jne\" in version 3: neither a \
             distribution's id nor `dummy` or `deleted`; write `deleted` if there is no staging distribution"
        );
        let secure = place.misleads(Which::Staging, Some(&version(SECURE)));
        assert!(secure.contains("is a SecureString"), "{secure}");
        assert_eq!(shown(&"x".repeat(200)).chars().count(), MAX_SHOWN + 3);
        assert_eq!(shown(SECURE), SECURE);
    }
}
