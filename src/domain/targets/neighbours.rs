//! Which pipelines lead to given parameters: the templates read backwards. Pure.
//!
//! **Not handled.** What no name says: where the templates of both parameters leave out a capture of the
//! pipeline's name, any number of pipelines may lead to one parameter, and such a target yields none. Where the
//! parameters are in a region of their own, the pipelines are taken to be in the queue's.

use super::pattern::{Piece, PipelinePattern, Shape, value_of};
use super::template::{Template, Values};
use super::{
    Access, Parameters, PipelineArn, Surroundings, Target, Targets, is_name_byte, partition_of,
};

/// So many pieces are tried at most when a template is read backwards. A template that needs more has
/// several captures side by side, and a name that could be shared out among them in thousands of ways.
const MAX_TRIES: usize = 10_000;

/// A pipeline that leads to the same production distribution, or to the same staging parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The pipeline. One that only a parameter's name points to need not exist.
    pub pipeline: PipelineArn,
    /// As whom, and where, CodePipeline is asked about it.
    pub access: Access,
    /// The stage that holds the approval; any, if there is none.
    pub stage: Option<String>,
    /// The one stage whose actions make and change staging distributions; any, if there is none.
    pub deploy_stage: Option<String>,
}

impl Targets {
    /// Every pipeline that the targets lead to one of these parameters, as seen with this access, as far as
    /// names say: each with its target's stages.
    #[must_use]
    pub fn leading_to(&self, parameters: &Parameters, access: &Access) -> Vec<Neighbour> {
        let mut found = Vec::new();
        for target in &self.targets {
            for pipeline in target.candidates(parameters, access, &self.surroundings) {
                let Ok(resolved) = target.resolve(&pipeline) else {
                    continue;
                };
                let same = resolved.parameters.is_some_and(|theirs| {
                    theirs.production == parameters.production
                        || theirs.staging == parameters.staging
                });
                let place = |access: &Access| (self.owner(access), access.region.clone());
                let neighbour = Neighbour {
                    pipeline,
                    access: resolved.pipeline_access,
                    stage: resolved.stage,
                    deploy_stage: resolved.deploy_stage,
                };
                if same && place(&resolved.access) == place(access) && !found.contains(&neighbour) {
                    found.push(neighbour);
                }
            }
        }
        found
    }

    /// The account that an access leads into, while it is known.
    fn owner(&self, access: &Access) -> Option<String> {
        let role = access.role.as_ref().map(|role| role.account().to_owned());
        role.or_else(|| self.surroundings.account.clone())
    }
}

impl Target {
    /// The pipelines that one of the parameters may be of, by its name. Whether they are, applying the
    /// target to them shows.
    fn candidates(
        &self,
        parameters: &Parameters,
        access: &Access,
        surroundings: &Surroundings,
    ) -> Vec<PipelineArn> {
        let Some(staging) = &self.work.staging else {
            return Vec::new();
        };
        let regions = match &self.work.access.region {
            Some(region) => region.readings(&access.region),
            None => vec![Values::new()],
        };
        let production = &staging.production_parameter;
        let mut readings = production.readings(&parameters.production);
        readings.extend(staging.staging_parameter.readings(&parameters.staging));
        let own = surroundings.region.as_deref();
        let region = match &self.work.access.region {
            Some(_) => own.unwrap_or(&access.region),
            None => &access.region,
        };
        let owner = access.role.as_ref().map(|role| role.account());
        let known = Known {
            accounts: owner
                .into_iter()
                .chain(surroundings.account.as_deref())
                .collect(),
            region,
        };
        let mut found = Vec::new();
        for reading in &readings {
            for region in &regions {
                if let Some(values) = joined(reading, region) {
                    found.extend(known.pipelines(&self.trigger.pipeline, &values));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// What stands for the parts of an ARN that no name says.
struct Known<'a> {
    accounts: Vec<&'a str>,
    region: &'a str,
}

impl Known<'_> {
    /// The pipelines that these values make of a pattern; none, if they leave its name open.
    fn pipelines(&self, pattern: &PipelinePattern, values: &Values) -> Vec<PipelineArn> {
        let Some(name) = pattern.name().filled(values) else {
            return Vec::new();
        };
        // A value of the event's, unless the pattern has a capture of that name.
        let event = |name: &str| {
            let captured = pattern.captures().iter().any(|it| it == name);
            value_of(values, name).filter(|_| !captured)
        };
        let one_of = |said: Option<String>, of_the_event: &str, known: &[&str]| match said
            .or_else(|| event(of_the_event).map(str::to_owned))
        {
            Some(said) => vec![said],
            None => known.iter().map(|it| (*it).to_owned()).collect(),
        };
        let (partition, region, account) = match &pattern.shape {
            Shape::Name(_) => (None, None, pattern.home().map(str::to_owned)),
            Shape::Arn(globs) => (
                globs.partition.filled(values),
                globs.region.filled(values),
                globs.account.filled(values),
            ),
        };
        let mut found = Vec::new();
        for region in one_of(region, "region", &[self.region]) {
            for account in one_of(account.clone(), "account", &self.accounts) {
                let partition = partition.as_deref().unwrap_or(partition_of(&region));
                let arn = format!("arn:{partition}:codepipeline:{region}:{account}:{name}");
                found.extend(arn.parse::<PipelineArn>());
            }
        }
        found
    }
}

/// Both, where they do not contradict each other.
fn joined(a: &Values, b: &Values) -> Option<Values> {
    let agree = |(name, text): &(String, String)| value_of(a, name).is_none_or(|it| it == text);
    let all = b.iter().all(agree);
    all.then(|| a.iter().chain(b).cloned().collect())
}

impl Template {
    /// Every way to fill the captures in that comes to this text.
    fn readings(&self, text: &str) -> Vec<Values> {
        let mut search = Search {
            taken: Values::new(),
            found: Vec::new(),
            tries: MAX_TRIES,
        };
        search.read(self.pieces(), text);
        search.found
    }
}

/// The ways that were found so far.
struct Search {
    taken: Values,
    found: Vec<Values>,
    tries: usize,
}

impl Search {
    fn read(&mut self, pieces: &[Piece], text: &str) {
        let Some(tries) = self.tries.checked_sub(1) else {
            return;
        };
        self.tries = tries;
        match pieces {
            [] if text.is_empty() => self.found.push(self.taken.clone()),
            [] => {}
            [Piece::Literal(literal), rest @ ..] => {
                if let Some(text) = text.strip_prefix(literal.as_str()) {
                    self.read(rest, text);
                }
            }
            [Piece::Capture(name), rest @ ..] => {
                if let Some(same) = value_of(&self.taken, name).map(str::to_owned) {
                    if let Some(text) = text.strip_prefix(same.as_str()) {
                        self.read(rest, text);
                    }
                    return;
                }
                let longest = text.bytes().take_while(|byte| is_name_byte(*byte)).count();
                for end in 1..=longest {
                    let (takes, text) = text.split_at(end);
                    self.taken.push((name.clone(), takes.to_owned()));
                    self.read(rest, text);
                    self.taken.pop();
                }
            }
        }
    }
}
