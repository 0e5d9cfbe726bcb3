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
mod arn;
mod fault;
mod index;
mod overlap;
mod pattern;
mod program;
mod template;

use std::fmt;

pub use self::access::{Access, AccessError, ExternalIdError, RegionError, Role, RoleArnError};
pub use self::arn::{ArnError, PipelineArn};
pub(crate) use self::arn::{is_account, is_name};
pub use self::fault::{NameError, TargetError, TargetProblem};
pub use self::pattern::PatternError;
pub use self::program::{Program, ProgramError, ProgramSpec, TRY_AGAIN};
pub use self::template::{ParameterNameError, TemplateError};

use self::access::{AccessTemplates, check_region, parse_external_id, parse_role_arn};
use self::fault::check_name;
use self::index::Index;
use self::pattern::{Match, PipelinePattern};
use self::template::{OF_THE_EVENT, Template, Values, check_parameter_name};

/// The largest number of characters in the name of a pipeline, a stage or an action
/// (CodePipeline API reference: `PipelineDeclaration`, `StageDeclaration`, `ActionDeclaration`).
const MAX_NAME: usize = 100;

/// Why a key must be there.
const NEEDED: &str = "every target that cleans needs it";

/// Why a key of the cleanup must be there.
const NEEDED_TO_CLEAN: &str =
    "a target that cleans needs both parameters, one that does not needs `run`";

/// Whether CodePipeline allows `byte` in the name of a pipeline, a stage or an action.
const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'@' | b'-' | b'_')
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
    /// The role to assume; may use the pipeline's captures.
    pub role_arn: Option<String>,
    /// What the role's trust policy asks for; may use the pipeline's captures.
    pub external_id: Option<String>,
    /// The region of the parameters, if it is not the pipeline's; may use its captures.
    pub region: Option<String>,
    /// What is run, after the cleanup where there is one.
    pub program: Option<ProgramSpec>,
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
}

/// What leads to the distributions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Staging {
    production_parameter: Template,
    staging_parameter: Template,
    access: AccessTemplates,
}

/// Every target of a configuration; no two of them overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    targets: Vec<Target>,
    index: Index,
}

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
    /// A target applies, but its role or region cannot be used, or leads into another account than
    /// the event's.
    InvalidAccess {
        /// The target's pipeline pattern as written.
        label: String,
        /// Why not.
        error: AccessError,
    },
}

/// A target applied to one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTarget {
    /// The target's pipeline pattern as written: one value per target, fit for logs and metrics.
    pub label: String,
    /// What leads to the distributions, if a staging distribution is to be taken down.
    pub parameters: Option<Parameters>,
    /// As whom, and where, all of it is looked at and changed.
    pub access: Access,
    /// What is to be run then.
    pub program: Option<Program>,
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
    /// Checks one entry; `index` only labels the errors. Where what it does is faulty, when it applies may
    /// still be sound.
    fn check(index: usize, spec: &TargetSpec) -> (Option<Trigger>, Result<Work, Vec<TargetError>>) {
        let mut errors = Vec::new();
        let mut fail_at = |key: Option<&'static str>, element, problem| {
            errors.push(TargetError {
                index,
                key,
                element,
                problem,
            });
        };
        let nothing_to_do = spec.program.is_none()
            && spec.production_parameter.is_none()
            && spec.staging_parameter.is_none();
        if nothing_to_do {
            fail_at(None, None, TargetProblem::NothingToDo);
        }
        let mut fail = |key, problem| fail_at(Some(key), None, problem);

        let pipeline = PipelinePattern::parse(&spec.pipeline)
            .map_err(|error| fail("pipeline", error.into()))
            .ok();
        // A program may be for every approval of a pipeline. What is deleted must be named.
        let cleans = spec.program.is_none()
            || spec.production_parameter.is_some()
            || spec.staging_parameter.is_some();
        let mut named = true;
        for (key, name) in [("stage", &spec.stage), ("action", &spec.action)] {
            let problem = match name {
                Some(name) => check_name(name).err().map(TargetProblem::Name),
                None => (cleans && !nothing_to_do).then_some(TargetProblem::Missing(NEEDED)),
            };
            named &= problem.is_none() && (name.is_some() || !cleans);
            if let Some(problem) = problem {
                fail(key, problem);
            }
        }
        // Without the pattern nobody knows which captures there are.
        let pattern = pipeline.as_ref();
        let staging = if nothing_to_do {
            Self::check_access(spec, pattern, &mut fail);
            None
        } else if cleans {
            Self::check_staging(spec, pattern, &mut fail)
        } else {
            let keys = [
                ("role_arn", &spec.role_arn),
                ("external_id", &spec.external_id),
                ("region", &spec.region),
            ];
            for (key, _) in keys.into_iter().filter(|(_, value)| value.is_some()) {
                fail(key, TargetProblem::NothingToAccess);
            }
            None
        };
        let program = spec.program.as_ref().and_then(|program| {
            Program::check(program, pattern, &mut |key, element, error| {
                fail_at(Some(key), element, error.into());
            })
        });

        let work = if errors.is_empty() {
            Ok(Work { staging, program })
        } else {
            Err(errors)
        };
        let trigger = pipeline.filter(|_| named).map(|pipeline| Trigger {
            pipeline,
            stage: spec.stage.clone(),
            action: spec.action.clone(),
        });
        (trigger, work)
    }

    /// Checks what leads to the distributions.
    fn check_staging(
        spec: &TargetSpec,
        pattern: Option<&PipelinePattern>,
        fail: &mut impl FnMut(&'static str, TargetProblem),
    ) -> Option<Staging> {
        let mut template = |key, written: &Option<String>| match written {
            Some(written) => Template::parse(written, pattern, check_parameter_name)
                .map_err(|error| fail(key, error.into()))
                .ok(),
            None => {
                fail(key, TargetProblem::Missing(NEEDED_TO_CLEAN));
                None
            }
        };
        let production = template("production_parameter", &spec.production_parameter);
        let staging = template("staging_parameter", &spec.staging_parameter);
        if production.is_some() && production == staging {
            fail("staging_parameter", TargetProblem::SameParameter);
        }
        let access = Self::check_access(spec, pattern, fail);
        Some(Staging {
            production_parameter: production?,
            staging_parameter: staging?,
            access,
        })
    }

    /// Checks the keys that say as whom and where; what is faulty is left out.
    fn check_access(
        spec: &TargetSpec,
        pattern: Option<&PipelinePattern>,
        fail: &mut impl FnMut(&'static str, TargetProblem),
    ) -> AccessTemplates {
        let mut access = AccessTemplates::default();
        match spec
            .role_arn
            .as_deref()
            .map(|it| parse_role_arn(it, pattern))
        {
            None => {}
            Some(Err(error)) => fail("role_arn", error.into()),
            Some(Ok((template, account))) => {
                if let (Some(role), Some(pipeline)) =
                    (account, pattern.and_then(PipelinePattern::account))
                    && role != pipeline
                {
                    let pipeline = pipeline.to_owned();
                    fail("role_arn", TargetProblem::RoleAccount { role, pipeline });
                }
                access.role_arn = Some(template);
            }
        }
        if let Some(written) = &spec.external_id {
            access.external_id = parse_external_id(written, pattern)
                .map_err(|error| fail("external_id", error.into()))
                .ok();
            if spec.role_arn.is_none() {
                fail("external_id", TargetProblem::ExternalIdWithoutRole);
            }
        }
        if let Some(written) = &spec.region {
            access.region = Template::parse(written, pattern, check_region)
                .map_err(|error| fail("region", error.into()))
                .ok();
        }
        access
    }

    /// The keys that say as whom and where, as far as they are set, with their templates.
    pub fn access(&self) -> impl Iterator<Item = (&'static str, String)> {
        let access = self.work.staging.iter().map(|staging| &staging.access);
        access
            .flat_map(|access| {
                [
                    ("role_arn", &access.role_arn),
                    ("external_id", &access.external_id),
                    ("region", &access.region),
                ]
            })
            .filter_map(|(key, template)| Some((key, template.as_ref()?.to_string())))
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

    /// Fills the templates in for `pipeline`, whatever the stage and the action;
    /// [`Resolution::NoTarget`] where the pattern does not match it.
    #[must_use]
    pub fn resolve(&self, pipeline: &PipelineArn) -> Resolution {
        let label = self.pipeline().to_owned();
        let mut values = match self.trigger.pipeline.matches(pipeline) {
            Match::No => return Resolution::NoTarget,
            Match::Ambiguous => return Resolution::Ambiguous { label },
            Match::Yes(captures) => captures,
        };
        // After the captures: those of the same name come first.
        let of_the_event = OF_THE_EVENT.into_iter().map(str::to_owned);
        values.extend(of_the_event.zip([pipeline.account.clone(), pipeline.region.clone()]));
        let program = self.work.program.as_ref();
        let program = program.map(|program| program.fill_in(&values));
        let staging = self.work.staging.as_ref();
        let own = AccessTemplates::default();
        let access = staging.map_or(&own, |staging| &staging.access);
        let access = match access.render(pipeline, &values) {
            Ok(access) => access,
            Err(error) => return Resolution::InvalidAccess { label, error },
        };
        match staging.map(|staging| staging.render(&values)).transpose() {
            Ok(parameters) => Resolution::Target(ResolvedTarget {
                label,
                parameters,
                access,
                program,
            }),
            Err(error) => Resolution::InvalidParameter { label, error },
        }
    }

    /// Whether it leads, or may lead, elsewhere than to the daemon's own account and the parameters of
    /// `region`: by a role, a region of its own, or the region in its pipeline's ARN. A bare name counts
    /// as one of `region`.
    #[must_use]
    pub fn leads_elsewhere(&self, region: &str) -> bool {
        let arn: Vec<&str> = self.pipeline().split(':').collect();
        self.access().next().is_some() || (arn.len() == 6 && arn[3] != region)
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
    fn render(&self, values: &Values) -> Result<Parameters, ParameterNameError> {
        let render = |template: &Template| template.render(values, check_parameter_name);
        let production = render(&self.production_parameter)?;
        let staging = render(&self.staging_parameter)?;
        // Different templates can still come to the same name: /{a}/x and /{b}/x.
        if production == staging {
            return Err(ParameterNameError::Same(staging));
        }
        Ok(Parameters {
            production,
            staging,
        })
    }
}

impl Targets {
    /// Checks every entry, and every pair whose pipelines, stages and actions are sound for overlap.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of the entries, in their order.
    pub fn new(specs: &[TargetSpec]) -> Result<Self, Vec<TargetError>> {
        let mut errors = Vec::new();
        let mut checked = Self::default();
        // Of each entry whose trigger is sound, the rest of it may be faulty: the trigger and the entry.
        let mut triggers: Vec<(usize, Trigger)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let (trigger, work) = Target::check(index, spec);
            let work = work.map_err(|found| errors.extend(found)).ok();
            let Some(trigger) = trigger else { continue };
            for place in checked.index.rivals(&trigger) {
                let (other, earlier) = &triggers[place];
                if let Some(example) = overlap::example(&trigger.pipeline, &earlier.pipeline) {
                    errors.push(TargetError {
                        index,
                        key: Some("pipeline"),
                        element: None,
                        problem: TargetProblem::Overlap {
                            other: *other,
                            other_pipeline: earlier.pipeline.as_str().to_owned(),
                            example,
                        },
                    });
                }
            }
            // Without any fault there is one target for each trigger, at the same place.
            checked.index.add(triggers.len(), &trigger);
            triggers.push((index, trigger.clone()));
            checked
                .targets
                .extend(work.map(|work| Target { trigger, work }));
        }
        if errors.is_empty() {
            Ok(checked)
        } else {
            Err(errors)
        }
    }

    /// Finds the one target that an approval action belongs to.
    #[must_use]
    pub fn resolve(&self, pipeline: &PipelineArn, stage: &str, action: &str) -> Resolution {
        self.index
            .candidates(stage, action, &pipeline.name)
            .map(|place| self.targets[place].resolve(pipeline))
            .find(|resolution| *resolution != Resolution::NoTarget)
            .unwrap_or(Resolution::NoTarget)
    }

    /// The targets in the order in which they were written.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.targets.iter()
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
