//! What can be wrong with a target as it is written.

use super::pattern::PatternError;
use super::program::ProgramError;
use super::template::TemplateError;
use super::{MAX_NAME, is_name_byte};

/// What is wrong with one target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("targets[{index}]{}{}: {problem}", dotted(*.key), bracketed(*.element))]
pub struct TargetError {
    /// The entry at fault, counted from zero.
    pub index: usize,
    /// The key at fault, as spelled in the configuration; `None` where it is the entry as a whole.
    pub key: Option<&'static str>,
    /// Which element of the key's list it is, counted from zero, where it is one.
    pub element: Option<usize>,
    /// What is wrong with it.
    pub problem: TargetProblem,
}

/// Targets that cannot work where the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "in account {account}, which is the daemon's own since queue.url names none, the configuration cannot \
     work: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
)]
pub struct NotAtHome {
    /// The daemon's own account.
    pub account: String,
    /// Why not.
    pub errors: Vec<TargetError>,
}

/// The ways in which a target can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetProblem {
    /// The pipeline is neither a name, an ARN nor a pattern of one.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A parameter's template is not valid.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A stage or an action is no name that CodePipeline allows.
    #[error("{0}")]
    Name(NameError),
    /// Both parameters would always have the same name.
    #[error("is the same as production_parameter; the two name different distributions")]
    SameParameter,
    /// Neither a cleanup nor a program.
    #[error(
        "has nothing to do; a cleanup needs stage, action, production_parameter and \
         staging_parameter, a program needs `run`"
    )]
    NothingToDo,
    /// The key is missing.
    #[error("is missing; {0}")]
    Missing(&'static str),
    /// A key of the cleanup in a target that has none.
    #[error(
        "is of no use without production_parameter and staging_parameter: a program runs with the \
         daemon's own credentials"
    )]
    NothingToClean,
    /// The program cannot be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// There is no role that would ask for it.
    #[error(
        "needs role_arn or pipeline_role_arn: an external id is presented when a role is assumed"
    )]
    ExternalIdWithoutRole,
    /// The distributions of every account would be looked for in the daemon's own.
    #[error(
        "takes any account, and the target has no role_arn: the distributions of all these accounts \
         would be looked for in the daemon's own; add role_arn, such as \
         \"arn:aws:iam::{{account}}:role/stagesweep\", or write an account"
    )]
    AnyAccountWithoutRole,
    /// CodePipeline is asked about pipelines of one account as a role of another.
    #[error(
        "is of account {role}, but the pipelines are of {}: name a role of the pipelines' account{}",
        pipelines(.pipeline), if pipeline.is_none() { ", with {account}" } else { "" }
    )]
    PipelineRoleAccount {
        /// The role's account.
        role: String,
        /// The pipelines' account; any, if there is none.
        pipeline: Option<String>,
    },
    /// There is nobody as whom CodePipeline could be asked.
    #[error(
        "is of {}, where CodePipeline can be asked neither with the daemon's own credentials nor as \
         role_arn ({}); add pipeline_role_arn, a role of the pipelines' account; or, without any \
         asking, set verify.codepipeline = false",
        pipelines(.pipeline),
        role.as_ref().map_or("not set".to_owned(), |role| format!("of account {role}"))
    )]
    NobodyAsks {
        /// The pipelines' account; any, if there is none.
        pipeline: Option<String>,
        /// The literal account of `role_arn`, if there is one.
        role: Option<String>,
    },
    /// An approval action could match this target and another one.
    #[error(
        "overlaps targets[{other}] ({other_pipeline:?}): both match pipeline {example:?} \
         at the same stage and action"
    )]
    Overlap {
        /// The other entry, counted from zero.
        other: usize,
        /// The other entry's pipeline as written.
        other_pipeline: String,
        /// A pipeline's name, or ARN where one of the two needs it, that both match.
        example: String,
    },
}

/// Why a text cannot be the name of a stage or an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// It is longer than CodePipeline allows.
    #[error("is longer than the {MAX_NAME} characters that CodePipeline allows")]
    TooLong,
    /// A capture; only `pipeline` has those.
    #[error("must be a literal name: captures belong in `pipeline`")]
    Capture,
    /// A character that CodePipeline does not allow.
    #[error("contains {0:?}; a name has letters, digits and . @ - _ only")]
    Character(char),
}

fn pipelines(account: &Option<String>) -> String {
    match account {
        Some(account) => format!("account {account}"),
        None => "any account".to_owned(),
    }
}

fn dotted(key: Option<&str>) -> String {
    key.map(|key| format!(".{key}")).unwrap_or_default()
}

fn bracketed(element: Option<usize>) -> String {
    let shown = element.map(|element| format!("[{element}]"));
    shown.unwrap_or_default()
}

/// Whether a text can be the name of a stage or an action.
pub(super) fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    match name
        .chars()
        .find(|&c| !u8::try_from(c).is_ok_and(is_name_byte))
    {
        Some('{' | '}') => Err(NameError::Capture),
        Some(c) => Err(NameError::Character(c)),
        None if name.len() > MAX_NAME => Err(NameError::TooLong),
        None => Ok(()),
    }
}
