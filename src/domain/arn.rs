//! The ARN of a pipeline.

use std::fmt;
use std::str::FromStr;

/// The largest number of characters in the name of a pipeline, a stage or an action
/// (CodePipeline API reference: `PipelineDeclaration`, `StageDeclaration`, `ActionDeclaration`).
pub(super) const MAX_NAME: usize = 100;

/// Whether CodePipeline allows `byte` in the name of a pipeline, a stage or an action.
pub(super) const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'@' | b'-' | b'_')
}

/// The parts of an ARN, or of a pattern of one; none is checked. Only the resource may have colons in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arn<'a> {
    pub(crate) partition: &'a str,
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) resource: &'a str,
}

impl<'a> Arn<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix("arn:")?.splitn(5, ':');
        Some(Self {
            partition: parts.next()?,
            service: parts.next()?,
            region: parts.next()?,
            account: parts.next()?,
            resource: parts.next()?,
        })
    }
}

/// `arn:PARTITION:codepipeline:REGION:ACCOUNT:NAME`, checked for its shape and its characters.
///
/// See "Resource types defined by AWS CodePipeline" in the Service Authorization Reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineArn {
    /// `aws`, `aws-cn`, `aws-us-gov`, …
    pub partition: String,
    /// The region's code, such as `ap-northeast-1`.
    pub region: String,
    /// The account's id: twelve digits.
    pub account: String,
    /// The pipeline's name: 1 to 100 of `A-Za-z0-9.@-_`.
    pub name: String,
}

/// Why a text is not the ARN of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArnError {
    /// It does not have the form of a pipeline's ARN.
    #[error("is not of the form arn:PARTITION:codepipeline:REGION:ACCOUNT:NAME")]
    Form,
    /// The partition is none.
    #[error("does not name a partition such as aws or aws-cn")]
    Partition,
    /// The region is none.
    #[error("does not name a region such as us-east-1")]
    Region,
    /// The account is none.
    #[error("does not name an account of twelve digits")]
    Account,
    /// The name is none that CodePipeline allows.
    #[error("does not end in a pipeline's name: 1 to {MAX_NAME} letters, digits and . @ - _")]
    Name,
}

impl FromStr for PipelineArn {
    type Err = ArnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Arn {
            partition,
            service,
            region,
            account,
            resource: name,
        } = Arn::parse(text).ok_or(ArnError::Form)?;
        if service != "codepipeline" || name.contains(':') {
            return Err(ArnError::Form);
        }
        if !is_partition(partition) {
            return Err(ArnError::Partition);
        }
        if !is_region(region) {
            return Err(ArnError::Region);
        }
        if !is_account(account) {
            return Err(ArnError::Account);
        }
        if !is_name(name) {
            return Err(ArnError::Name);
        }
        Ok(Self {
            partition: partition.to_owned(),
            region: region.to_owned(),
            account: account.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for PipelineArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            region,
            account,
            name,
        } = self;
        write!(f, "arn:{partition}:codepipeline:{region}:{account}:{name}")
    }
}

/// Whether a region's code may hold `byte`.
pub(super) const fn is_region_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

pub(super) fn is_partition(text: &str) -> bool {
    (text == "aws" || text.starts_with("aws-")) && text.bytes().all(is_region_byte)
}

pub(super) fn is_region(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_region_byte)
}

/// Whether `text` is an AWS account id: exactly twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether CodePipeline allows `text` as the name of a pipeline, a stage or an action.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_name_byte)
}
