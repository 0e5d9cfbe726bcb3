//! Where the work of a target is done: as which role, and in which region. No I/O.
//!
//! Two questions: where the distributions are (`role_arn`), and where the pipeline is, about which
//! CodePipeline is asked (`pipeline_role_arn`).
//!
//! **Guarantees.** A role's account is what the configuration says literally, or else the event's: what
//! any other capture takes can never lead into an account.

use super::pattern::PipelinePattern;
use super::template::{Template, TemplateError, Values};
use crate::domain::arn::{Arn, PipelineArn, is_account, is_partition, is_region};

/// The largest number of characters in a role's ARN (STS API reference: `AssumeRole`).
const MAX_ROLE_ARN: usize = 2048;

/// The largest number of characters in a role's name (IAM API reference: `CreateRole`).
const MAX_ROLE_NAME: usize = 64;

/// How long an external id may be (STS API reference: `AssumeRole`).
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;

/// The largest number of characters in a region's code; the longest today has 15.
const MAX_REGION: usize = 32;

/// As whom, and where, calls are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The role that is assumed; the daemon's own credentials if there is none.
    pub role: Option<Role>,
    /// The region of the parameters, or of the pipeline. CloudFront is global.
    pub region: String,
}

/// A role that is assumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Role {
    arn: String,
    external_id: Option<String>,
}

impl Role {
    /// The role's ARN.
    #[must_use]
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// What its trust policy asks for beside the caller's identity.
    #[must_use]
    pub fn external_id(&self) -> Option<&str> {
        self.external_id.as_deref()
    }

    /// The account that the role belongs to.
    #[must_use]
    pub fn account(&self) -> &str {
        account_of(&self.arn)
    }
}

/// The account that an ARN names.
fn account_of(arn: &str) -> &str {
    Arn::parse(arn).map_or("", |arn| arn.account)
}

/// Why a text is not the ARN of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleArnError {
    /// It does not have the form of a role's ARN.
    #[error("is not of the form arn:PARTITION:iam::ACCOUNT:role/NAME")]
    Form,
    /// The partition is none.
    #[error("does not name a partition such as aws or aws-cn")]
    Partition,
    /// The account is none.
    #[error("does not name an account: write twelve digits, or {{account}}")]
    Account,
    /// The role's name or path is none that IAM allows.
    #[error(
        "does not end in a role's name: up to {MAX_ROLE_NAME} letters, digits and + = , . @ - _, \
         after a path if there is one"
    )]
    Name,
    /// Longer than STS allows.
    #[error("is longer than {MAX_ROLE_ARN} characters")]
    TooLong,
}

/// Why a text cannot be an external id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalIdError {
    /// Too short or too long.
    #[error("is not {} to {} characters long", EXTERNAL_ID.start(), EXTERNAL_ID.end())]
    Length,
    /// A character that STS does not allow.
    #[error("contains {0:?}; an external id has letters, digits and + = , . @ : / - _ only")]
    Character(char),
}

/// Why a text cannot be a region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no region such as us-east-1: lower-case letters, digits and - only")]
pub struct RegionError;

/// Why a target cannot be worked on for an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// What `role_arn` comes to is no role's ARN.
    #[error("role_arn {0}")]
    RoleArn(RoleArnError),
    /// What `pipeline_role_arn` comes to is no role's ARN.
    #[error("pipeline_role_arn {0}")]
    PipelineRoleArn(RoleArnError),
    /// What `external_id` comes to is none.
    #[error("external_id {0}")]
    ExternalId(ExternalIdError),
    /// What `region` comes to is none.
    #[error("region {0}")]
    Region(RegionError),
}

impl AccessError {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoleArn(_) | Self::PipelineRoleArn(_) | Self::ExternalId(_) => "invalid_role",
            Self::Region(_) => "invalid_region",
        }
    }
}

/// The templates of an [`Access`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AccessTemplates {
    pub(super) role_arn: Option<Template>,
    pub(super) pipeline_role_arn: Option<Template>,
    pub(super) external_id: Option<Template>,
    pub(super) region: Option<Template>,
}

impl AccessTemplates {
    /// Fills the templates in for the event of `pipeline`: as whom and where the distributions are looked
    /// at, and as whom and where CodePipeline is asked. `home` is the daemon's own account.
    ///
    /// Where no region is written it is the pipeline's: its deployments write the parameters there.
    pub(super) fn render(
        &self,
        pipeline: &PipelineArn,
        home: Option<&str>,
        values: &Values,
    ) -> Result<(Access, Access), AccessError> {
        let region = match &self.region {
            Some(region) => region
                .render(values, check_region)
                .map_err(AccessError::Region)?,
            None => pipeline.region.clone(),
        };
        let external_id = self
            .external_id
            .as_ref()
            .map(|id| id.render(values, check_external_id))
            .transpose()
            .map_err(AccessError::ExternalId)?;
        let role = |template: &Option<Template>| {
            let arn = template.as_ref()?.render(values, check_role_arn);
            let external_id = external_id.clone();
            Some(arn.map(|arn| Role { arn, external_id }))
        };
        let distributions = role(&self.role_arn)
            .transpose()
            .map_err(AccessError::RoleArn)?;
        let asked_as = role(&self.pipeline_role_arn)
            .transpose()
            .map_err(AccessError::PipelineRoleArn)?;
        let own = home == Some(&pipeline.account);
        let theirs = distributions.clone();
        let theirs = theirs.filter(|role| !own && role.account() == pipeline.account);
        let access = Access {
            role: distributions,
            region,
        };
        let pipeline_access = Access {
            role: asked_as.or(theirs),
            region: pipeline.region.clone(),
        };
        Ok((access, pipeline_access))
    }
}

/// Reads the template of a role's ARN.
pub(super) fn parse_role_arn(
    written: &str,
    pattern: Option<&PipelinePattern>,
) -> Result<Template, TemplateError> {
    Template::parse(written, pattern, check_role_arn)
}

/// The account of a role's template, where it is a literal one; otherwise it is the event's.
pub(super) fn literal_account(role: &Template) -> Option<String> {
    let written = role.to_string();
    let account = account_of(&written);
    is_account(account).then(|| account.to_owned())
}

/// Reads the template of an external id.
pub(super) fn parse_external_id(
    written: &str,
    pattern: Option<&PipelinePattern>,
) -> Result<Template, TemplateError> {
    // A capture alone may take enough characters; whether it does is seen when it is filled in.
    Template::parse(written, pattern, |sample| match check_external_id(sample) {
        Err(ExternalIdError::Length) if sample != written && sample.len() == 1 => Ok(()),
        checked => checked,
    })
}

fn check_role_arn(arn: &str) -> Result<(), RoleArnError> {
    if arn.len() > MAX_ROLE_ARN {
        return Err(RoleArnError::TooLong);
    }
    let Some(Arn {
        partition,
        service: "iam",
        region: "",
        account,
        resource: role,
    }) = Arn::parse(arn).filter(|arn| !arn.resource.contains(':'))
    else {
        return Err(RoleArnError::Form);
    };
    if !is_partition(partition) {
        return Err(RoleArnError::Partition);
    }
    if !is_account(account) {
        return Err(RoleArnError::Account);
    }
    let path = role.strip_prefix("role/").ok_or(RoleArnError::Form)?;
    let name = path.rsplit('/').next().unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte);
    let visible = path.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=MAX_ROLE_NAME).contains(&name.len()) || !name.bytes().all(allowed) || !visible {
        return Err(RoleArnError::Name);
    }
    Ok(())
}

fn check_external_id(id: &str) -> Result<(), ExternalIdError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+=,.@:/-_".contains(c);
    if let Some(c) = id.chars().find(|&c| !allowed(c)) {
        return Err(ExternalIdError::Character(c));
    }
    if !EXTERNAL_ID.contains(&id.len()) {
        return Err(ExternalIdError::Length);
    }
    Ok(())
}

pub(super) fn check_region(region: &str) -> Result<(), RegionError> {
    if is_region(region) && region.len() <= MAX_REGION {
        Ok(())
    } else {
        Err(RegionError)
    }
}
