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
    NothingToAccess,
    /// The program cannot be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// There is no role that would ask for it.
    #[error("needs role_arn: an external id is presented when a role is assumed")]
    ExternalIdWithoutRole,
    /// No event can be of both accounts.
    #[error(
        "is of account {role}, but `pipeline` matches in account {pipeline} only; the role must be \
         of the event's account"
    )]
    RoleAccount {
        /// The role's account.
        role: String,
        /// The pipeline's account.
        pipeline: String,
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
