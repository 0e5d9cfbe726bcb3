//! From what is written to checked targets: every fault of every entry. No I/O.

use super::access::{self, AccessTemplates, check_region, parse_external_id, parse_role_arn};
use super::fault::{NotAtHome, TargetError, TargetProblem, check_name};
use super::pattern::PipelinePattern;
use super::template::{Template, check_parameter_name};
use super::{Program, Staging, Surroundings, Target, TargetSpec, Targets, Trigger, Work, overlap};

/// Why a key must be there.
const NEEDED: &str = "every target that cleans needs it";

/// Why a key of the cleanup must be there.
const NEEDED_TO_CLEAN: &str =
    "a target that cleans needs both parameters, one that does not needs `run`";

/// Takes the faults of one entry, each at its key.
type Fail<'a> = &'a mut dyn FnMut(&'static str, TargetProblem);

impl Targets {
    /// Checks every entry, and every pair whose pipelines, stages and actions are sound for overlap.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of the entries, in their order.
    pub fn new(specs: &[TargetSpec], surroundings: Surroundings) -> Result<Self, Vec<TargetError>> {
        let mut errors = Vec::new();
        let mut checked = Self::default();
        // Of each entry whose trigger is sound, the rest of it may be faulty: the trigger and the entry.
        let mut triggers: Vec<(usize, Trigger)> = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let (trigger, work) = Target::check(index, spec, &surroundings);
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
        checked.surroundings = surroundings;
        if errors.is_empty() {
            Ok(checked)
        } else {
            Err(errors)
        }
    }

    /// The same, once the daemon knows where it is; what the queue's URL says comes first.
    ///
    /// # Errors
    ///
    /// [`NotAtHome`], where the account was not known before.
    pub fn at_home(mut self, account: &str, region: &str) -> Result<Self, NotAtHome> {
        let surroundings = &mut self.surroundings;
        surroundings.region.get_or_insert_with(|| region.to_owned());
        if surroundings.account.is_some() {
            return Ok(self);
        }
        surroundings.account = Some(account.to_owned());
        let mut errors = Vec::new();
        for (index, target) in self.targets.iter_mut().enumerate() {
            target.trigger.pipeline.set_home(account);
            let (pattern, work) = (&target.trigger.pipeline, &target.work);
            let faults = work
                .access
                .faults(pattern, work.staging.is_some(), surroundings);
            errors.extend(faults.map(|(key, problem)| TargetError {
                index,
                key: Some(key),
                element: None,
                problem,
            }));
        }
        if errors.is_empty() {
            Ok(self)
        } else {
            let account = account.to_owned();
            Err(NotAtHome { account, errors })
        }
    }
}

impl Target {
    /// Checks one entry; `index` only labels the errors. Where what it does is faulty, when it applies may
    /// still be sound.
    pub(super) fn check(
        index: usize,
        spec: &TargetSpec,
        surroundings: &Surroundings,
    ) -> (Option<Trigger>, Result<Work, Vec<TargetError>>) {
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

        let home = surroundings.account.as_deref();
        let pipeline = PipelinePattern::parse(&spec.pipeline, home)
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
        let staging = (cleans && !nothing_to_do)
            .then(|| Staging::check(spec, pattern, &mut fail))
            .flatten();
        if !cleans {
            of_no_use(spec, &mut fail);
        }
        let access = AccessTemplates::check(spec, pattern, &mut fail);
        if let (Some(pattern), false) = (pattern, nothing_to_do) {
            for (key, problem) in access.faults(pattern, cleans, surroundings) {
                fail(key, problem);
            }
        }
        let program = spec.program.as_ref().and_then(|program| {
            Program::check(program, pattern, &mut |key, element, error| {
                fail_at(Some(key), element, error.into());
            })
        });

        let work = if errors.is_empty() {
            Ok(Work {
                staging,
                program,
                mode: spec.mode,
                delay: spec.delay,
                access,
            })
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
}

/// Finds the keys that only a cleanup has a use for.
fn of_no_use(spec: &TargetSpec, fail: Fail<'_>) {
    let keys = [
        ("role_arn", &spec.role_arn),
        ("region", &spec.region),
        ("deploy_stage", &spec.deploy_stage),
    ];
    for (key, _) in keys.into_iter().filter(|(_, value)| value.is_some()) {
        fail(key, TargetProblem::NothingToClean);
    }
}

impl Staging {
    /// Checks what leads to the distributions.
    fn check(spec: &TargetSpec, pattern: Option<&PipelinePattern>, fail: Fail<'_>) -> Option<Self> {
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
        if let Some(Err(error)) = spec.deploy_stage.as_deref().map(check_name) {
            fail("deploy_stage", TargetProblem::Name(error));
        }
        Some(Self {
            production_parameter: production?,
            staging_parameter: staging?,
            deploy_stage: spec.deploy_stage.clone(),
        })
    }
}

impl AccessTemplates {
    /// Checks the keys that say as whom and where; what is faulty is left out.
    fn check(spec: &TargetSpec, pattern: Option<&PipelinePattern>, fail: Fail<'_>) -> Self {
        let mut role = |key, written: &Option<String>| {
            let parsed = parse_role_arn(written.as_deref()?, pattern);
            parsed.map_err(|error| fail(key, error.into())).ok()
        };
        let role_arn = role("role_arn", &spec.role_arn);
        let pipeline_role_arn = role("pipeline_role_arn", &spec.pipeline_role_arn);
        let mut access = Self {
            role_arn,
            pipeline_role_arn,
            ..Self::default()
        };
        if let Some(written) = &spec.external_id {
            access.external_id = parse_external_id(written, pattern)
                .map_err(|error| fail("external_id", error.into()))
                .ok();
            if spec.role_arn.is_none() && spec.pipeline_role_arn.is_none() {
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

    /// What cannot work because of the accounts.
    fn faults(
        &self,
        pattern: &PipelinePattern,
        cleans: bool,
        surroundings: &Surroundings,
    ) -> impl Iterator<Item = (&'static str, TargetProblem)> + use<> {
        let home = surroundings.account.as_deref();
        let pipeline = pattern.account();
        let any = pattern.takes_any_account();
        let (role, asked_as) = (self.role_arn.as_ref(), self.pipeline_role_arn.as_ref());
        let mut faults = Vec::new();
        if cleans && any && role.is_none() {
            faults.push(("pipeline", TargetProblem::AnyAccountWithoutRole));
        }
        match asked_as {
            Some(asked_as) => {
                let literal = access::literal_account(asked_as);
                let role = literal.filter(|role| any || pipeline.is_some_and(|it| it != role));
                faults.extend(role.map(|role| {
                    let pipeline = pipeline.map(str::to_owned);
                    let problem = TargetProblem::PipelineRoleAccount { role, pipeline };
                    ("pipeline_role_arn", problem)
                }));
            }
            None if surroundings.asks_codepipeline && faults.is_empty() => {
                let role = role.map(access::literal_account);
                let fits = match (&role, pipeline) {
                    // The event's account is the pipeline's.
                    (Some(None), _) => true,
                    (Some(Some(role)), Some(pipeline)) if role == pipeline => true,
                    (_, None) => !any,
                    (_, Some(pipeline)) => home.is_none_or(|home| home == pipeline),
                };
                if !fits {
                    let pipeline = pipeline.map(str::to_owned);
                    let role = role.flatten();
                    faults.push(("pipeline", TargetProblem::NobodyAsks { pipeline, role }));
                }
            }
            None => {}
        }
        faults.into_iter()
    }
}
