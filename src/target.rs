//! Which rejections are ours, and which parameters they are about. No I/O.
//!
//! A target selects an approval action by its pipeline (a name, an ARN, or a pattern of either
//! with captures), its stage and its action, and renders the names of two Systems Manager
//! parameters from what the captures took.
//!
//! **Guarantees.** No two targets of one [`Targets`] can match the same approval action, so the
//! order of the entries means nothing. A text that the captures could share out in more than one
//! way is reported as ambiguous, never guessed: the parameters decide what is deleted.

mod arn;
mod overlap;
mod pattern;
mod template;

use std::fmt;

pub use self::arn::{ArnError, PipelineArn};
pub(crate) use self::arn::{is_account, is_name};
pub use self::pattern::PatternError;
pub use self::template::{ParameterNameError, TemplateError};

use self::pattern::{Match, PipelinePattern};
use self::template::Template;

/// The largest number of characters in the name of a pipeline, a stage or an action
/// (CodePipeline API reference: `PipelineDeclaration`, `StageDeclaration`, `ActionDeclaration`).
const MAX_NAME: usize = 100;

/// Whether CodePipeline allows `byte` in the name of a pipeline, a stage or an action.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'@' | b'-' | b'_')
}

/// One target as the user wrote it, nothing checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// A pipeline's name or ARN, or a pattern of either: `{service}-frontend-pipeline`.
    pub pipeline: String,
    /// The name of the stage that holds the approval, literally.
    pub stage: String,
    /// The name of the approval action, literally.
    pub action: String,
    /// The parameter that names the production distribution; may use the pipeline's captures.
    pub production_parameter: String,
    /// The parameter that names the staging distribution; may use the pipeline's captures.
    pub staging_parameter: String,
}

/// A checked target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    trigger: Trigger,
    work: Work,
}

/// What an event must be about for a target to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trigger {
    pipeline: PipelinePattern,
    stage: String,
    action: String,
}

/// What there is to do for a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    /// Take the staging distribution down.
    Staging {
        production_parameter: Template,
        staging_parameter: Template,
    },
}

/// Every target of a configuration; no two of them overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

/// What the targets say about one approval action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Exactly one target applies, in exactly one way.
    Target(ResolvedTarget),
    /// No target applies.
    NoTarget,
    /// A target applies, but its captures can share the pipeline's name out in several ways.
    Ambiguous {
        /// The target's pipeline pattern as written.
        label: String,
    },
    /// A target applies, but what it renders cannot be used as the names of two parameters.
    InvalidParameter {
        /// The target's pipeline pattern as written.
        label: String,
        /// Why not.
        error: ParameterNameError,
    },
}

/// A target applied to one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// The target's pipeline pattern as written: one value per target, fit for logs and metrics.
    pub label: String,
    /// The name of the parameter that names the production distribution.
    pub production_parameter: String,
    /// The name of the parameter that names the staging distribution.
    pub staging_parameter: String,
}

/// What is wrong with one target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("targets[{index}].{key}: {problem}")]
pub struct TargetError {
    /// The entry at fault, counted from zero.
    pub index: usize,
    /// The key at fault, as spelled in the configuration.
    pub key: &'static str,
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

impl Target {
    /// Checks one entry; `index` only labels the errors.
    fn check(index: usize, spec: &TargetSpec) -> Result<Self, Vec<TargetError>> {
        let mut errors = Vec::new();
        let mut fail = |key, problem| {
            errors.push(TargetError {
                index,
                key,
                problem,
            });
        };

        let pipeline = PipelinePattern::parse(&spec.pipeline)
            .map_err(|error| fail("pipeline", error.into()))
            .ok();
        if let Err(error) = check_name(&spec.stage) {
            fail("stage", TargetProblem::Name(error));
        }
        if let Err(error) = check_name(&spec.action) {
            fail("action", TargetProblem::Name(error));
        }
        // Without the pattern nobody knows which captures there are.
        let captures = pipeline.as_ref().map(PipelinePattern::captures);
        let production = Template::parse(&spec.production_parameter, captures)
            .map_err(|error| fail("production_parameter", error.into()))
            .ok();
        let staging = Template::parse(&spec.staging_parameter, captures)
            .map_err(|error| fail("staging_parameter", error.into()))
            .ok();
        if production.is_some() && production == staging {
            fail("staging_parameter", TargetProblem::SameParameter);
        }

        match (pipeline, production, staging) {
            (Some(pipeline), Some(production_parameter), Some(staging_parameter))
                if errors.is_empty() =>
            {
                Ok(Self {
                    trigger: Trigger {
                        pipeline,
                        stage: spec.stage.clone(),
                        action: spec.action.clone(),
                    },
                    work: Work::Staging {
                        production_parameter,
                        staging_parameter,
                    },
                })
            }
            _ => Err(errors),
        }
    }

    /// The pipeline, or pattern of pipelines, as written.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        self.trigger.pipeline.as_str()
    }

    /// The name of the stage.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.trigger.stage
    }

    /// The name of the approval action.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.trigger.action
    }

    /// Renders the parameters for `pipeline`, whatever the stage and the action;
    /// [`Resolution::NoTarget`] where the pattern does not match it.
    #[must_use]
    pub fn resolve(&self, pipeline: &PipelineArn) -> Resolution {
        let label = self.pipeline().to_owned();
        let captures = match self.trigger.pipeline.matches(pipeline) {
            Match::No => return Resolution::NoTarget,
            Match::Ambiguous => return Resolution::Ambiguous { label },
            Match::Yes(captures) => captures,
        };
        let Work::Staging {
            production_parameter,
            staging_parameter,
        } = &self.work;
        let rendered = production_parameter
            .render(&captures)
            .and_then(|production| Ok((production, staging_parameter.render(&captures)?)));
        match rendered {
            // Different templates can still come to the same name: /{a}/x and /{b}/x.
            Ok((production, staging)) if production == staging => Resolution::InvalidParameter {
                label,
                error: ParameterNameError::Same(staging),
            },
            Ok((production_parameter, staging_parameter)) => Resolution::Target(ResolvedTarget {
                label,
                production_parameter,
                staging_parameter,
            }),
            Err(error) => Resolution::InvalidParameter { label, error },
        }
    }

    /// Whether the staging parameter of some pipeline may have this name, by its template alone.
    #[must_use]
    pub fn may_name_staging(&self, parameter: &str) -> bool {
        let Work::Staging {
            staging_parameter, ..
        } = &self.work;
        staging_parameter.may_render(parameter)
    }

    /// Whether the production parameter of some pipeline may have this name, by its template alone.
    #[must_use]
    pub fn may_name_production(&self, parameter: &str) -> bool {
        let Work::Staging {
            production_parameter,
            ..
        } = &self.work;
        production_parameter.may_render(parameter)
    }

    fn overlap(&self, other: &Self) -> Option<String> {
        if self.stage() != other.stage() || self.action() != other.action() {
            return None;
        }
        overlap::example(&self.trigger.pipeline, &other.trigger.pipeline)
    }
}

impl Targets {
    /// Checks every entry, and every pair of sound entries for overlap.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of the entries, in their order.
    pub fn new(specs: &[TargetSpec]) -> Result<Self, Vec<TargetError>> {
        let mut errors = Vec::new();
        let mut targets: Vec<(usize, Target)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let target = match Target::check(index, spec) {
                Ok(target) => target,
                Err(found) => {
                    errors.extend(found);
                    continue;
                }
            };
            for (other, earlier) in &targets {
                if let Some(example) = target.overlap(earlier) {
                    errors.push(TargetError {
                        index,
                        key: "pipeline",
                        problem: TargetProblem::Overlap {
                            other: *other,
                            other_pipeline: earlier.pipeline().to_owned(),
                            example,
                        },
                    });
                }
            }
            targets.push((index, target));
        }
        if errors.is_empty() {
            Ok(Self(
                targets.into_iter().map(|(_, target)| target).collect(),
            ))
        } else {
            Err(errors)
        }
    }

    /// Finds the one target that an approval action belongs to.
    #[must_use]
    pub fn resolve(&self, pipeline: &PipelineArn, stage: &str, action: &str) -> Resolution {
        self.0
            .iter()
            .filter(|target| target.stage() == stage && target.action() == action)
            .map(|target| target.resolve(pipeline))
            .find(|resolution| *resolution != Resolution::NoTarget)
            .unwrap_or(Resolution::NoTarget)
    }

    /// The targets in the order in which they were written.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.0.iter()
    }

    /// How many targets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no target at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} / {} / {}",
            self.pipeline(),
            self.stage(),
            self.action()
        )
    }
}

fn check_name(name: &str) -> Result<(), NameError> {
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

#[cfg(test)]
mod tests;
