//! IAM: what a role or a user may do, by its policy simulator, which carries nothing out.

use aws_sdk_iam::types::{
    ContextEntry, ContextKeyTypeEnum, EvaluationResult, PolicyEvaluationDecisionType,
};

use super::error::{AwsError, from_sdk};
use super::reply::pages;

/// More pages than any question has resources mean that the paging goes in circles.
const MAX_PAGES: usize = 50;

/// So many resources are asked about in one call.
const RESOURCES: usize = 20;

/// What the simulator is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// An IAM action, such as `cloudfront:UpdateDistribution`.
    pub action: &'static str,
    /// The ARNs of what it would be done to; at least one.
    pub resources: Vec<String>,
    /// What the request would say besides: condition keys, and the value of each.
    pub context: Vec<(&'static str, String)>,
}

impl Question {
    /// Whether the action may be done to these.
    pub fn of(action: &'static str, resources: impl Into<Vec<String>>) -> Self {
        Self {
            action,
            resources: resources.into(),
            context: Vec::new(),
        }
    }
}

/// What the simulator says of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its ARN.
    pub resource: String,
    pub verdict: Verdict,
}

/// Whether it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// It may be: these condition keys decide, and the simulator was not told of them.
    Depends(Vec<String>),
    /// A statement forbids it.
    Forbidden,
    /// No statement allows it.
    NotAllowed,
    /// The permissions boundary does not allow it.
    OutsideBoundary,
    /// A policy of the organization does not allow it.
    OutsideOrganization,
}

/// The identities of one account.
#[derive(Clone, Debug)]
pub struct Iam(aws_sdk_iam::Client);

impl Iam {
    pub(super) fn new(client: aws_sdk_iam::Client) -> Self {
        Self(client)
    }

    /// Whether the role or user `principal`, an ARN, may do this (SimulatePrincipalPolicy). Its own
    /// policies count, its permissions boundary and the organization's policies; policies of resources
    /// do not.
    ///
    /// # Errors
    /// [`AwsError`]; of class [`NotFound`](crate::domain::error_class::ErrorClass::NotFound) if there is no such
    /// principal.
    pub async fn simulate(
        &self,
        principal: &str,
        question: &Question,
    ) -> Result<Vec<Decision>, AwsError> {
        let mut decisions = Vec::new();
        for resources in question.resources.chunks(RESOURCES) {
            let results = self.results(principal, question, resources).await?;
            for resource in resources {
                let told = match told(&results, resource) {
                    Some(verdict) => Some(verdict),
                    // Simulators there are that answer for one resource of several.
                    None => {
                        let alone = std::slice::from_ref(resource);
                        told(&self.results(principal, question, alone).await?, resource)
                    }
                };
                let lacking = || AwsError::unusable(OPERATION, "the reply lacks a resource");
                decisions.push(Decision {
                    resource: resource.clone(),
                    verdict: told.ok_or_else(lacking)?,
                });
            }
        }
        Ok(decisions)
    }

    async fn results(
        &self,
        principal: &str,
        question: &Question,
        resources: &[String],
    ) -> Result<Vec<EvaluationResult>, AwsError> {
        let entry = |key: &str, value: &str, kind| {
            ContextEntry::builder()
                .context_key_name(key)
                .context_key_values(value)
                .context_key_type(kind)
                .build()
        };
        let context = question.context.iter();
        let context = context
            .map(|(key, value)| entry(key, value, ContextKeyTypeEnum::String))
            // Every call goes over TLS.
            .chain([entry(
                "aws:SecureTransport",
                "true",
                ContextKeyTypeEnum::Boolean,
            )]);
        let request = self
            .0
            .simulate_principal_policy()
            .policy_source_arn(principal)
            .action_names(question.action)
            .set_resource_arns(Some(resources.to_vec()))
            .set_context_entries(Some(context.collect()));
        let request = &request;
        pages(OPERATION, MAX_PAGES, |marker| async move {
            let page = request.clone().set_marker(marker).send().await;
            let page = page.map_err(from_sdk(OPERATION))?;
            let found = page.evaluation_results.unwrap_or_default();
            Ok((found, page.marker.filter(|_| page.is_truncated)))
        })
        .await
    }
}

const OPERATION: &str = "SimulatePrincipalPolicy";

fn told(results: &[EvaluationResult], resource: &str) -> Option<Verdict> {
    results.iter().find_map(|result| verdict(result, resource))
}

/// What a result says of a resource, if it is about it. One result may be about one resource or about
/// several.
fn verdict(result: &EvaluationResult, resource: &str) -> Option<Verdict> {
    let organization = result.organizations_decision_detail.as_ref();
    let outside = organization.is_some_and(|it| !it.allowed_by_organizations);
    let mut specific = result.resource_specific_results().iter();
    let (decision, missing, boundary) = match specific.find(|it| it.eval_resource_name == resource)
    {
        Some(it) => (
            &it.eval_resource_decision,
            it.missing_context_values(),
            &it.permissions_boundary_decision_detail,
        ),
        None if result.eval_resource_name() == Some(resource) => (
            &result.eval_decision,
            result.missing_context_values(),
            &result.permissions_boundary_decision_detail,
        ),
        None => return None,
    };
    let within = boundary
        .as_ref()
        .is_none_or(|it| it.allowed_by_permissions_boundary);
    Some(match decision {
        _ if outside => Verdict::OutsideOrganization,
        PolicyEvaluationDecisionType::Allowed => Verdict::Allowed,
        PolicyEvaluationDecisionType::ImplicitDeny if !missing.is_empty() => {
            Verdict::Depends(missing.to_vec())
        }
        _ if !within => Verdict::OutsideBoundary,
        PolicyEvaluationDecisionType::ExplicitDeny => Verdict::Forbidden,
        PolicyEvaluationDecisionType::ImplicitDeny => Verdict::NotAllowed,
        // It says nothing that is known.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_iam::types::{
        OrganizationsDecisionDetail, PermissionsBoundaryDecisionDetail, ResourceSpecificResult,
    };

    use super::*;

    const DENIED: PolicyEvaluationDecisionType = PolicyEvaluationDecisionType::ImplicitDeny;

    fn result(decision: PolicyEvaluationDecisionType) -> EvaluationResult {
        EvaluationResult::builder()
            .eval_action_name("cloudfront:DeleteDistribution")
            .eval_resource_name("one")
            .eval_decision(decision)
            .build()
            .unwrap()
    }

    #[test]
    fn the_verdict_is_that_of_the_resource_with_what_bounds_it() {
        let allowed = result(PolicyEvaluationDecisionType::Allowed);
        assert_eq!(verdict(&allowed, "one"), Some(Verdict::Allowed));
        assert_eq!(verdict(&allowed, "two"), None);
        let mut both = result(DENIED);
        both.resource_specific_results = Some(vec![
            ResourceSpecificResult::builder()
                .eval_resource_name("two")
                .eval_resource_decision(PolicyEvaluationDecisionType::ExplicitDeny)
                .build()
                .unwrap(),
        ]);
        assert_eq!(verdict(&both, "one"), Some(Verdict::NotAllowed));
        assert_eq!(verdict(&both, "two"), Some(Verdict::Forbidden));
        let mut depends = result(DENIED);
        let key = "aws:ResourceTag/stagesweep".to_owned();
        depends.missing_context_values = Some(vec![key.clone()]);
        assert_eq!(verdict(&depends, "one"), Some(Verdict::Depends(vec![key])));
        let mut bounded = result(DENIED);
        let boundary = PermissionsBoundaryDecisionDetail::builder();
        bounded.permissions_boundary_decision_detail =
            Some(boundary.allowed_by_permissions_boundary(false).build());
        assert_eq!(verdict(&bounded, "one"), Some(Verdict::OutsideBoundary));
        let organization = OrganizationsDecisionDetail::builder();
        let mut outside = result(PolicyEvaluationDecisionType::Allowed);
        outside.organizations_decision_detail =
            Some(organization.allowed_by_organizations(false).build());
        assert_eq!(verdict(&outside, "one"), Some(Verdict::OutsideOrganization));
    }
}
