//! The promotion as the sample's script does it, and the cleanup behind it.

use std::time::Duration;

use jiff::Timestamp;

use crate::services::by::By;
use crate::services::cloudfront::xml::Document;
use crate::services::cloudfront::{Context, POLICY_ID};
use crate::services::codepipeline::service::Service;
use crate::wire::exchange::Failure;
use crate::wire::settings::Place;
use crate::world::pipeline::builds::{Build, Next, Promotion, PromotionStep as Step};
use crate::world::state::State;

/// How often the script looks whether something is `Deployed`.
const LOOKS: Duration = Duration::from_secs(5);

/// How long every other step takes.
const PACE: Duration = Duration::from_secs(1);

/// After so many looks the build has run for an hour, which is its limit.
const MOST_LOOKS: u32 = 720;

impl State {
    /// The next step of a promotion.
    pub(crate) fn promote_on(
        &mut self,
        build: &Build,
        promotion: &mut Promotion,
        at: Timestamp,
    ) -> Next {
        let by = self.by_build(&build.key, &build.execution, &build.action);
        let Some(execution) = self.execution(&build.key, &build.execution) else {
            return Next::Fails("The execution is gone.".to_owned());
        };
        let (service, place) = (execution.service.clone(), execution.things.clone());
        match self.promote_step(&service, &place, promotion, &by, at) {
            Ok(Some(Step::Ends)) => Next::Succeeds,
            Ok(Some(step)) => {
                promotion.step = step;
                Next::After(PACE)
            }
            Ok(None) if promotion.looks < MOST_LOOKS => {
                promotion.looks += 1;
                Next::After(LOOKS)
            }
            Ok(None) => Next::Fails("Build has been timed out.".to_owned()),
            Err(failure) => Next::Fails(format!("{}: {}", failure.code, failure.message)),
        }
    }

    /// The step after this one; none while something is not `Deployed`.
    fn promote_step(
        &mut self,
        service: &Service,
        place: &Place,
        promotion: &mut Promotion,
        by: &By,
        at: Timestamp,
    ) -> Result<Option<Step>, Failure> {
        let staging = promotion.staging_id.clone();
        let production = &service.production_id;
        let step = match promotion.step {
            Step::Starts => {
                promotion.staging_id = self.named(service, place)?;
                Step::Promotes
            }
            Step::Promotes => {
                if !self.are_deployed(place, &[production, &staging], at)? {
                    return Ok(None);
                }
                self.promote(service, place, &staging, by, at)?;
                if promotion.cleans {
                    Step::Detaches
                } else {
                    Step::Ends
                }
            }
            Step::Detaches => {
                if !self.are_deployed(place, &[production, &staging], at)? {
                    return Ok(None);
                }
                let detached = |document: &Document| document.with_text(POLICY_ID, "");
                self.edit(place, production, None, by, at, detached)?;
                Step::DeletesPolicy
            }
            Step::DeletesPolicy => {
                if !self.are_deployed(place, &[production], at)? {
                    return Ok(None);
                }
                self.delete_policy_of(place, &staging, by, at)?;
                Step::Disables
            }
            Step::Disables => {
                let disabled = |document: &Document| document.with_text("Enabled", "false");
                self.edit(place, &staging, None, by, at, disabled)?;
                Step::Deletes
            }
            Step::Deletes => {
                if !self.are_deployed(place, &[&staging], at)? {
                    return Ok(None);
                }
                let here = self.here(place);
                let etag = here.cloudfront.distribution(&staging)?.current.etag.clone();
                let context = Context {
                    now: at,
                    settings: &here.settings,
                    ids: here.ids,
                    by,
                };
                here.cloudfront.delete(&context, &staging, Some(&etag))?;
                here.ssm.put(&service.staging_parameter, "deleted", at, by);
                Step::Ends
            }
            Step::Ends => Step::Ends,
        };
        Ok(Some(step))
    }

    /// What the parameter names; refused where the script gives up.
    fn named(&mut self, service: &Service, place: &Place) -> Result<String, Failure> {
        let parameters = &self.here(place).ssm.parameters;
        let latest = parameters.get(&service.staging_parameter);
        let value = latest.and_then(|it| it.latest()).map(|it| it.value.clone());
        let value = value.unwrap_or_default();
        if ["", "dummy", "deleted"].contains(&value.as_str()) {
            let why = format!("The staging distribution is {value:?}: nothing to promote.");
            return Err(Failure::new(400, "COMMAND_EXECUTION_ERROR", why));
        }
        Ok(value)
    }

    fn are_deployed(
        &mut self,
        place: &Place,
        ids: &[&String],
        at: Timestamp,
    ) -> Result<bool, Failure> {
        let here = self.here(place);
        for id in ids {
            if at < here.cloudfront.distribution(id)?.current.deployed_at {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn promote(
        &mut self,
        service: &Service,
        place: &Place,
        staging: &str,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let here = self.here(place);
        let production = &service.production_id;
        let tag = |id: &str| {
            here.cloudfront
                .distribution(id)
                .map(|it| it.current.etag.clone())
        };
        let tags = format!("{}, {}", tag(production)?, tag(staging)?);
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let cloudfront = here.cloudfront;
        cloudfront.promote(&mut context, production, staging, Some(&tags))?;
        Ok(())
    }

    fn delete_policy_of(
        &mut self,
        place: &Place,
        staging: &str,
        by: &By,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let here = self.here(place);
        let domain = here.cloudfront.distribution(staging)?.domain_name.clone();
        let Some(policy) = here.cloudfront.policy_listing(&domain) else {
            return Ok(());
        };
        let (id, etag) = (policy.id.clone(), policy.etag.clone());
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
            by,
        };
        let cloudfront = here.cloudfront;
        cloudfront.delete_policy(&mut context, &id, Some(&etag))?;
        Ok(())
    }
}
