//! The deployment as the sample's script does it, step by step.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::services::by::By;
use crate::services::cloudfront::xml::{Document, NAMESPACE, parsed};
use crate::services::cloudfront::{Context, POLICY_ID};
use crate::services::codepipeline::script::Pattern;
use crate::services::codepipeline::service::Service;
use crate::wire::exchange::Failure;
use crate::wire::settings::Place;
use crate::world::pipeline::builds::{Build, Deployment, DeploymentStep as Step, Next};
use crate::world::state::State;

impl State {
    /// The next step of a deployment; one that is refused ends it, and leaves what it has made.
    pub(crate) fn deploy_on(
        &mut self,
        build: &Build,
        deployment: &mut Deployment,
        at: Timestamp,
    ) -> Next {
        let by = self.by_build(&build.key, &build.execution, &build.action);
        let Some(execution) = self.execution(&build.key, &build.execution) else {
            return Next::Fails("The execution is gone.".to_owned());
        };
        let (mut service, place) = (execution.service.clone(), execution.things.clone());
        let next = self.deploy_step(&mut service, &place, deployment, &by, at);
        if let Some(execution) = self.execution(&build.key, &build.execution) {
            execution.service = service;
        }
        match next {
            Ok(Step::Ends) => Next::Succeeds,
            Ok(step) => {
                deployment.step = step;
                Next::After(deployment.pace)
            }
            Err(failure) => Next::Fails(format!("{}: {}", failure.code, failure.message)),
        }
    }

    fn deploy_step(
        &mut self,
        service: &mut Service,
        place: &Place,
        deployment: &mut Deployment,
        by: &By,
        at: Timestamp,
    ) -> Result<Step, Failure> {
        let etag = deployment.etag.clone();
        Ok(match deployment.step {
            Step::Reads => {
                deployment.etag = Some(self.etag(place, &service.production_id)?);
                if deployment.pattern != Pattern::New && self.finds_staging(service, place) {
                    Step::Enables
                } else {
                    Step::Copies
                }
            }
            Step::Copies => {
                self.copy(service, place, etag, by, at)?;
                Step::MakesPolicy
            }
            Step::MakesPolicy => {
                self.make_policy(service, place, by, at)?;
                Step::Attaches
            }
            Step::Attaches => {
                self.attach(service, place, etag, by, at)?;
                Step::Records
            }
            Step::Records => {
                self.record(service, place, by, at);
                Step::Changes
            }
            Step::Enables => {
                self.enable_policy(service, place, by, at)?;
                Step::Changes
            }
            Step::Changes => {
                self.change_staging(service, place, by, at)?;
                match deployment.pattern {
                    Pattern::ReuseRecordedAlways => Step::RecordsAgain,
                    Pattern::New | Pattern::ReuseRecordedOnce => Step::Ends,
                }
            }
            Step::RecordsAgain => {
                if self.recorded(service, place) < at {
                    self.record(service, place, by, at);
                }
                Step::Ends
            }
            Step::Ends => Step::Ends,
        })
    }

    fn etag(&mut self, place: &Place, id: &str) -> Result<String, Failure> {
        let here = self.here(place);
        Ok(here.cloudfront.distribution(id)?.current.etag.clone())
    }

    /// When the staging parameter was last written.
    fn recorded(&mut self, service: &Service, place: &Place) -> Timestamp {
        let parameters = &self.here(place).ssm.parameters;
        let latest = parameters.get(&service.staging_parameter);
        let latest = latest.and_then(|it| it.latest());
        latest.map_or(Timestamp::MIN, |it| it.at)
    }

    /// Whether the parameter names a staging distribution; the deployment is into that one then.
    fn finds_staging(&mut self, service: &mut Service, place: &Place) -> bool {
        let here = self.here(place);
        let named = here.ssm.parameters.get(&service.staging_parameter);
        let Some(id) = named.and_then(|it| it.latest()).map(|it| &it.value) else {
            return false;
        };
        let Ok(staging) = here.cloudfront.distribution(id) else {
            return false;
        };
        service.staging_id.clone_from(&staging.id);
        service.staging_domain.clone_from(&staging.domain_name);
        let policy = here.cloudfront.policy_listing(&staging.domain_name);
        service.policy_id = policy.map_or_else(String::new, |it| it.id.clone());
        true
    }

    /// The staging copy. Without an ETag, of whatever production is now.
    pub(crate) fn copy(
        &mut self,
        service: &mut Service,
        place: &Place,
        etag: Option<String>,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let here = self.here(place);
        let production = here.cloudfront.distribution(&service.production_id)?;
        let etag = etag.unwrap_or_else(|| production.current.etag.clone());
        let reference = here.ids.uuid();
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let primary = &service.production_id;
        let cloudfront = here.cloudfront;
        let copy = cloudfront.copy(&mut context, primary, Some(&etag), &reference, true)?;
        service.staging_id.clone_from(&copy.id);
        service.staging_domain.clone_from(&copy.domain_name);
        Ok(())
    }

    /// A policy that lists the staging distribution.
    pub(crate) fn make_policy(
        &mut self,
        service: &mut Service,
        place: &Place,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let document = parsed(&policy_config(&service.staging_domain))?;
        let here = self.here(place);
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let policy = here.cloudfront.create_policy(&mut context, document)?;
        service.policy_id.clone_from(&policy.id);
        Ok(())
    }

    /// The policy attached to production, in the place of any other. Without an ETag, to whatever
    /// production is now.
    pub(crate) fn attach(
        &mut self,
        service: &Service,
        place: &Place,
        etag: Option<String>,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let policy_id = service.policy_id.clone();
        self.edit(place, &service.production_id, etag, by, at, |document| {
            document.with_text(POLICY_ID, &policy_id)
        })
    }

    /// The staging distribution's id written to the parameter; answers the version.
    pub(crate) fn record(
        &mut self,
        service: &Service,
        place: &Place,
        by: &By,
        at: Timestamp,
    ) -> u64 {
        let ssm = self.here(place).ssm;
        ssm.put(&service.staging_parameter, &service.staging_id, at, by)
    }

    /// The policy of the one staging distribution is enabled again; if there is none, one is made.
    fn enable_policy(
        &mut self,
        service: &mut Service,
        place: &Place,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        if service.policy_id.is_empty() {
            self.make_policy(service, place, by, at)?;
            return self.attach(service, place, None, by, at);
        }
        let here = self.here(place);
        let policy = here.cloudfront.policy(&service.policy_id)?;
        if policy.enabled() {
            return Ok(());
        }
        let etag = policy.etag.clone();
        let document = parsed(&policy.document.with_text("Enabled", "true"))?;
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let id = &service.policy_id;
        let cloudfront = here.cloudfront;
        cloudfront.update_policy(&mut context, id, Some(&etag), document)?;
        Ok(())
    }

    /// The staging distribution serves what the execution has built, and is tagged so.
    pub(crate) fn change_staging(
        &mut self,
        service: &Service,
        place: &Place,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let build = service.execution_id.split('-').next().unwrap_or_default();
        let path = format!("<OriginPath>/releases/{build}</OriginPath>");
        self.edit(place, &service.staging_id, None, by, at, |document| {
            let origins = document.raw_of("Origins").unwrap_or_default();
            let old = origins.split("</OriginPath>").next().unwrap_or_default();
            let old = old.rfind("<OriginPath>").map_or("", |start| &old[start..]);
            let old = format!("{old}</OriginPath>");
            document.with_raw("Origins", Some(&origins.replacen(&old, &path, 1)))
        })?;
        let here = self.here(place);
        let staging = here.cloudfront.distribution_mut(&service.staging_id)?;
        let commit = service.execution_id.replace('-', "");
        staging
            .tags
            .extend(BTreeMap::from([("CommitHash".to_owned(), commit)]));
        Ok(())
    }

    /// UpdateDistribution, under CloudFront's rules. Without an ETag, of whatever there is now.
    pub(crate) fn edit(
        &mut self,
        place: &Place,
        id: &str,
        etag: Option<String>,
        by: &By,
        at: Timestamp,
        edit: impl FnOnce(&Document) -> String,
    ) -> Result<(), Failure> {
        let here = self.here(place);
        let current = &here.cloudfront.distribution(id)?.current;
        let etag = etag.unwrap_or_else(|| current.etag.clone());
        let document = parsed(&edit(&current.shown(&here.settings.switches)))?;
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let cloudfront = here.cloudfront;
        cloudfront.update(&mut context, id, Some(&etag), document)?;
        Ok(())
    }
}

fn policy_config(domain: &str) -> String {
    format!(
        "<ContinuousDeploymentPolicyConfig xmlns=\"{NAMESPACE}\">\
         <StagingDistributionDnsNames><Quantity>1</Quantity>\
         <Items><DnsName>{domain}</DnsName></Items></StagingDistributionDnsNames>\
         <Enabled>true</Enabled>\
         <TrafficConfig><SingleWeightConfig><Weight>0.05</Weight></SingleWeightConfig>\
         <Type>SingleWeight</Type></TrafficConfig>\
         </ContinuousDeploymentPolicyConfig>"
    )
}
