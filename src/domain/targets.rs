//! Which rejections are ours, and which parameters they are about. No I/O.
//!
//! A target selects an approval action by its pipeline (a name, an ARN, or a pattern of either
//! with captures), its stage and its action. It says what is to be done when that is rejected: take
//! the staging distribution down that two Systems Manager parameters lead to, run a program, or both in
//! this order. The parameters' names, the role and the region in which they are looked at, and the
//! program's arguments are rendered from what the captures took.
//!
//! **Guarantees.** No two targets of one [`Targets`] can match the same approval action, so the
//! order of the entries means nothing. A text that the captures could share out in more than one
//! way is reported as ambiguous, never guessed: the parameters decide what is deleted.

mod access;
mod changes;
mod check;
mod fault;
mod index;
pub mod lookup;
mod neighbours;
mod overlap;
mod pattern;
mod program;
mod template;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::access::{Access, AccessError, ExternalIdError, RegionError, Role, RoleArnError};
pub use self::changes::Changes;
pub use self::fault::{NameError, NotAtHome, TargetError, TargetProblem};
pub use self::neighbours::Neighbour;
pub use self::pattern::PatternError;
pub use self::program::{OptionArgument, Program, ProgramError, ProgramSpec, TRY_AGAIN};
pub use self::template::{ParameterNameError, TemplateError};
pub(crate) use crate::domain::partition::partition_of;

use crate::domain::arn::{Arn, MAX_NAME, PipelineArn, is_name_byte};
use crate::domain::event::JobKey;

use self::access::AccessTemplates;
use self::index::Index;
use self::pattern::{Match, PipelinePattern};
use self::template::{OF_THE_EVENT, Template, Values, check_parameter_name};

/// Whether anything is changed for a rejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Act,
    /// It is only told what would be.
    Observe,
}

impl Mode {
    /// As the configuration writes it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Observe => "observe",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// One target as the user wrote it, nothing checked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSpec {
    /// A pipeline's name or ARN, or a pattern of either: `{service}-frontend-pipeline`.
    pub pipeline: String,
    /// The name of the stage that holds the approval, literally; any, where only a program is run.
    pub stage: Option<String>,
    /// The name of the approval action, literally; any, where only a program is run.
    pub action: Option<String>,
    /// The parameter that names the production distribution; may use the pipeline's captures.
    pub production_parameter: Option<String>,
    /// The parameter that names the staging distribution; may use the pipeline's captures.
    pub staging_parameter: Option<String>,
    /// The one stage whose actions make and change staging distributions, literally; any, if there is none.
    pub deploy_stage: Option<String>,
    /// Whether anything is changed.
    pub mode: Mode,
    /// How long a rejection is held before the first change.
    pub delay: Duration,
    /// The role to assume for the distributions and parameters; may use the pipeline's captures.
    pub role_arn: Option<String>,
    /// The role as which CodePipeline is asked; may use the pipeline's captures.
    pub pipeline_role_arn: Option<String>,
    /// What the roles' trust policies ask for; may use the pipeline's captures.
    pub external_id: Option<String>,
    /// The region of the parameters, if it is not the pipeline's; may use its captures.
    pub region: Option<String>,
    /// What is run, after the cleanup where there is one.
    pub program: Option<ProgramSpec>,
}

/// What targets are checked and matched with, besides what is written in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The queue's account, which is the daemon's own: a bare name is a pipeline of this account. While
    /// the account is not known, a bare name matches no pipeline.
    pub account: Option<String>,
    /// The queue's region, where known: pipelines are looked for there whose region nothing else says.
    pub region: Option<String>,
    /// Whether CodePipeline is asked before anything is changed: there must be somebody who may ask.
    pub asks_codepipeline: bool,
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
    /// Any, if there is none.
    stage: Option<String>,
    /// Any, if there is none.
    action: Option<String>,
}

/// What there is to do for a rejection: at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Work {
    /// Take the staging distribution down.
    staging: Option<Staging>,
    /// Then run this.
    program: Option<Program>,
    mode: Mode,
    /// Only so long after the rejection.
    delay: Duration,
    /// As whom, and where.
    access: AccessTemplates,
}

/// What leads to the distributions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Staging {
    production_parameter: Template,
    staging_parameter: Template,
    deploy_stage: Option<String>,
}

/// Every target of a configuration; no two of them overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    targets: Vec<Target>,
    index: Index,
    surroundings: Surroundings,
}

/// Why no target can be used for an approval action. The text is the target's pipeline pattern as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No target's pattern, stage and action match.
    #[error("no target matches; add one, or narrow the rule that sends the event")]
    NoTarget,
    /// The captures can share the pipeline's name out in several ways.
    #[error(
        "the target {0} can be read in more than one way; write a target of its own for this pipeline"
    )]
    Ambiguous(String),
    /// The rendered texts cannot be the names of two parameters.
    #[error("the target {} cannot be used: {}", .0, invalid(.1, .2))]
    Parameters(String, String, ParameterNameError),
    /// A rendered role or region is not valid.
    #[error("the target {0} cannot be used: {1}")]
    Access(String, AccessError),
}

impl ResolveError {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTarget => "no_target",
            Self::Ambiguous(_) => "ambiguous_target",
            Self::Parameters(..) => "invalid_parameter_name",
            Self::Access(_, error) => error.code(),
        }
    }
}

/// A rendered name that is none of a parameter.
fn invalid(name: &str, error: &ParameterNameError) -> String {
    match error {
        ParameterNameError::Same(_) => error.to_string(),
        _ => format!(
            "the parameter {name:?} {error}; give this pipeline a target of its own, or another name"
        ),
    }
}

/// A target applied to one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// The target's pipeline pattern as written: one value per target, fit for logs and metrics.
    pub label: String,
    /// What leads to the distributions, if a staging distribution is to be taken down.
    pub parameters: Option<Parameters>,
    /// As whom, and where, the distributions and parameters are looked at and changed.
    pub access: Access,
    /// As whom, and where, CodePipeline is asked about the pipeline.
    pub pipeline_access: Access,
    /// The stage that holds the approval; any, if there is none.
    pub stage: Option<String>,
    /// The one stage whose actions make and change staging distributions; any, if there is none.
    pub deploy_stage: Option<String>,
    /// Whether anything is changed.
    pub mode: Mode,
    /// How long a rejection is held before the first change.
    pub delay: Duration,
    /// What is to be run then.
    pub program: Option<Program>,
}

impl ResolvedTarget {
    /// The key of a rejection's job. What was only observed is not done for who acts.
    #[must_use]
    pub fn key(&self, rejection: &JobKey) -> JobKey {
        match self.mode {
            Mode::Act => rejection.clone(),
            Mode::Observe => rejection.observed(),
        }
    }

    /// Who waits for the same: all that is to be done at one production distribution. A program waits for
    /// nobody.
    #[must_use]
    pub fn crowd(&self, execution_id: &str) -> String {
        let Some(parameters) = &self.parameters else {
            return execution_id.to_owned();
        };
        let Access { role, region } = &self.access;
        match role {
            None => format!("{} in {region}", parameters.production),
            Some(role) => format!("{} in {region} as {}", parameters.production, role.arn()),
        }
    }
}

/// The names of the two parameters of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The one that names the production distribution.
    pub production: String,
    /// The one that names the staging distribution.
    pub staging: String,
}

impl Target {
    /// The keys that say as whom and where, as far as they are set, with their templates.
    pub fn access(&self) -> impl Iterator<Item = (&'static str, String)> {
        let access = &self.work.access;
        [
            ("role_arn", &access.role_arn),
            ("pipeline_role_arn", &access.pipeline_role_arn),
            ("external_id", &access.external_id),
            ("region", &access.region),
        ]
        .into_iter()
        .filter_map(|(key, template)| Some((key, template.as_ref()?.to_string())))
    }

    /// Whether its parameters are, or may be, in another account than the daemon's own, or in another
    /// region than the pipeline's: by a role, or by a region of its own.
    #[must_use]
    pub fn deploys_elsewhere(&self) -> bool {
        self.work.access.role_arn.is_some() || self.work.access.region.is_some()
    }

    /// The one account that its pipelines are in, where the configuration says; for a bare name the
    /// queue's.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.trigger.pipeline.account()
    }

    /// The pipeline, or pattern of pipelines, as written.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        self.trigger.pipeline.as_str()
    }

    /// The name of the stage; any, if there is none.
    #[must_use]
    pub fn stage(&self) -> Option<&str> {
        self.trigger.stage.as_deref()
    }

    /// The name of the approval action; any, if there is none.
    #[must_use]
    pub fn action(&self) -> Option<&str> {
        self.trigger.action.as_deref()
    }

    /// The one stage whose actions make and change staging distributions; any, if there is none.
    #[must_use]
    pub fn deploy_stage(&self) -> Option<&str> {
        self.work.staging.as_ref()?.deploy_stage.as_deref()
    }

    /// The templates of the production and of the staging parameter, if there are any.
    #[must_use]
    pub fn parameters(&self) -> Option<(String, String)> {
        let staging = self.work.staging.as_ref()?;
        let written = |template: &Template| template.to_string();
        Some((
            written(&staging.production_parameter),
            written(&staging.staging_parameter),
        ))
    }

    /// Whether anything is changed: the target's own mode, else what is set for all.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.work.mode
    }

    /// Whether anything is changed.
    pub(crate) fn acts(&self) -> bool {
        self.mode() == Mode::Act
    }

    /// How long a rejection is held before the first change: the target's own, else what is set for all.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.work.delay
    }

    /// What is run, if anything is.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        self.work.program.as_ref()
    }

    /// Whether a staging distribution is taken down.
    #[must_use]
    pub fn cleans(&self) -> bool {
        self.work.staging.is_some()
    }

    /// Fills the templates in for `pipeline`, whatever the stage and the action.
    ///
    /// # Errors
    /// [`ResolveError`]; [`ResolveError::NoTarget`] where the pattern does not match.
    pub fn resolve(&self, pipeline: &PipelineArn) -> Result<ResolvedTarget, ResolveError> {
        let label = self.pipeline().to_owned();
        let mut values = match self.trigger.pipeline.matches(pipeline) {
            Match::No => return Err(ResolveError::NoTarget),
            Match::Ambiguous => return Err(ResolveError::Ambiguous(label)),
            Match::Yes(captures) => captures,
        };
        // After the captures: those of the same name come first.
        let of_the_event = OF_THE_EVENT.into_iter().map(str::to_owned);
        values.extend(of_the_event.zip([pipeline.account.clone(), pipeline.region.clone()]));
        let home = self.trigger.pipeline.home();
        let (access, pipeline_access) = match self.work.access.render(pipeline, home, &values) {
            Ok(both) => both,
            Err(error) => return Err(ResolveError::Access(label, error)),
        };
        let staging = self.work.staging.as_ref();
        let parameters = match staging.map(|staging| staging.render(&values)).transpose() {
            Ok(parameters) => parameters,
            Err((name, error)) => return Err(ResolveError::Parameters(label, name, error)),
        };
        let program = self.work.program.as_ref();
        Ok(ResolvedTarget {
            label,
            parameters,
            access,
            pipeline_access,
            stage: self.trigger.stage.clone(),
            deploy_stage: self.deploy_stage().map(str::to_owned),
            mode: self.work.mode,
            delay: self.work.delay,
            program: program.map(|program| program.fill_in(&values)),
        })
    }

    /// What each capture of the pattern takes of a pipeline; `None` where it does not match, or matches in
    /// several ways.
    #[must_use]
    pub fn captures(&self, pipeline: &PipelineArn) -> Option<Vec<(String, String)>> {
        match self.trigger.pipeline.matches(pipeline) {
            Match::Yes(captured) => Some(captured),
            Match::No | Match::Ambiguous => None,
        }
    }

    /// Whether it leads, or may lead, elsewhere than to the daemon's own account and the parameters of
    /// `region`: by a role, a region of its own, or the region in its pipeline's ARN. A bare name counts
    /// as one of `region`.
    #[must_use]
    pub fn leads_elsewhere(&self, region: &str) -> bool {
        let arn = Arn::parse(self.pipeline());
        self.deploys_elsewhere() || arn.is_some_and(|arn| arn.region != region)
    }

    /// Whether the staging parameter of some pipeline may have this name, by its template alone.
    #[must_use]
    pub fn may_name_staging(&self, parameter: &str) -> bool {
        let staging = self.work.staging.as_ref();
        staging.is_some_and(|staging| staging.staging_parameter.may_render(parameter))
    }

    /// The pipeline whose staging parameter has this name, as far as the name tells; `known` is what it
    /// does not tell. A name, or an ARN where the target's pattern is one.
    #[must_use]
    pub fn pipeline_of(&self, staging_parameter: &str, known: &[(&str, &str)]) -> Option<String> {
        let staging = self.work.staging.as_ref()?;
        let captured = staging.staging_parameter.captured(staging_parameter)?;
        let mut pipeline = self.pipeline().to_owned();
        let told = captured.iter().map(|(name, text)| (&**name, &**text));
        for (name, text) in told.chain(known.iter().copied()) {
            pipeline = pipeline.replace(&format!("{{{name}}}"), text);
        }
        (!pipeline.contains('{')).then_some(pipeline)
    }

    /// Whether the production parameter of some pipeline may have this name, by its template alone.
    #[must_use]
    pub fn may_name_production(&self, parameter: &str) -> bool {
        let staging = self.work.staging.as_ref();
        staging.is_some_and(|staging| staging.production_parameter.may_render(parameter))
    }
}

impl Staging {
    /// Or the name that is none, with why.
    fn render(&self, values: &Values) -> Result<Parameters, (String, ParameterNameError)> {
        let check =
            |name: &str| check_parameter_name(name).map_err(|error| (name.to_owned(), error));
        let render = |template: &Template| template.render(values, check);
        let production = render(&self.production_parameter)?;
        let staging = render(&self.staging_parameter)?;
        // Different templates can still come to the same name: /{a}/x and /{b}/x.
        if production == staging {
            return Err((staging.clone(), ParameterNameError::Same(staging)));
        }
        Ok(Parameters {
            production,
            staging,
        })
    }
}

impl Targets {
    /// Finds the one target that an approval action belongs to.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(
        &self,
        pipeline: &PipelineArn,
        stage: &str,
        action: &str,
    ) -> Result<ResolvedTarget, ResolveError> {
        self.index
            .candidates(stage, action, &pipeline.name)
            .map(|place| self.targets[place].resolve(pipeline))
            .find(|resolved| *resolved != Err(ResolveError::NoTarget))
            .unwrap_or(Err(ResolveError::NoTarget))
    }

    /// The queue's account, while it is known.
    #[must_use]
    pub fn home(&self) -> Option<&str> {
        self.surroundings.account.as_deref()
    }

    /// The targets in the order in which they were written.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.targets.iter()
    }

    /// The mode of all targets; `mixed` where they differ.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        let mut modes = self.iter().map(Target::mode);
        let first = modes.next().unwrap_or_default();
        match modes.all(|mode| mode == first) {
            true => first.code(),
            false => "mixed",
        }
    }

    /// How many targets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is no target at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} / {} / {}",
            self.pipeline(),
            self.stage().unwrap_or("any stage"),
            self.action().unwrap_or("any approval")
        )
    }
}

#[cfg(test)]
mod tests;
