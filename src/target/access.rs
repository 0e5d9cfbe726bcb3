//! Where the work of a target is done: as which role, and in which region. No I/O.
//!
//! **Guarantees.** A target that has a role acts in the account that its event comes from, or not at
//! all: what a capture takes can never lead into another account.

use super::arn::{PipelineArn, is_account, is_partition, is_region};
use super::pattern::PipelinePattern;
use super::template::{Template, TemplateError, Values};

/// The largest number of characters in a role's ARN (STS API reference: `AssumeRole`).
const MAX_ROLE_ARN: usize = 2048;

/// The largest number of characters in a role's name (IAM API reference: `CreateRole`).
const MAX_ROLE_NAME: usize = 64;

/// How long an external id may be (STS API reference: `AssumeRole`).
const EXTERNAL_ID: std::ops::RangeInclusive<usize> = 2..=1224;

/// The largest number of characters in a region's code; the longest today has 15.
const MAX_REGION: usize = 32;

/// As whom, and where, the distributions and the parameters of one pipeline are looked at and
/// changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The role that is assumed; the daemon's own credentials if there is none.
    pub role: Option<Role>,
    /// The region of the parameters. CloudFront is global.
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
    arn.split(':').nth(4).unwrap_or_default()
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
    /// What `external_id` comes to is none.
    #[error("external_id {0}")]
    ExternalId(ExternalIdError),
    /// What `region` comes to is none.
    #[error("region {0}")]
    Region(RegionError),
    /// The role belongs to another account than the event.
    #[error("role_arn is of account {role}, and the event of account {event}")]
    Account {
        /// The role's account.
        role: String,
        /// The event's account.
        event: String,
    },
}

impl AccessError {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoleArn(_) | Self::ExternalId(_) => "invalid_role",
            Self::Region(_) => "invalid_region",
            Self::Account { .. } => "account_mismatch",
        }
    }
}

/// The templates of an [`Access`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AccessTemplates {
    pub(super) role_arn: Option<Template>,
    pub(super) external_id: Option<Template>,
    pub(super) region: Option<Template>,
}

impl AccessTemplates {
    /// Fills the templates in for the event of `pipeline`. Where no region is written it is the
    /// pipeline's: its deployments write the parameters there.
    pub(super) fn render(
        &self,
        pipeline: &PipelineArn,
        values: &Values,
    ) -> Result<Access, AccessError> {
        let region = match &self.region {
            Some(region) => region
                .render(values, check_region)
                .map_err(AccessError::Region)?,
            None => pipeline.region.clone(),
        };
        let Some(arn) = &self.role_arn else {
            return Ok(Access { role: None, region });
        };
        let arn = arn
            .render(values, check_role_arn)
            .map_err(AccessError::RoleArn)?;
        if account_of(&arn) != pipeline.account {
            return Err(AccessError::Account {
                role: account_of(&arn).to_owned(),
                event: pipeline.account.clone(),
            });
        }
        let external_id = self
            .external_id
            .as_ref()
            .map(|id| id.render(values, check_external_id))
            .transpose()
            .map_err(AccessError::ExternalId)?;
        Ok(Access {
            role: Some(Role { arn, external_id }),
            region,
        })
    }
}

/// Reads the template of a role's ARN. Also answers the account in it, if it is a literal one.
pub(super) fn parse_role_arn(
    written: &str,
    pattern: Option<&PipelinePattern>,
) -> Result<(Template, Option<String>), TemplateError> {
    let template = Template::parse(written, pattern, check_role_arn)?;
    let account = account_of(written);
    let literal = is_account(account).then(|| account.to_owned());
    Ok((template, literal))
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
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", partition, "iam", "", account, role] = parts[..] else {
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
