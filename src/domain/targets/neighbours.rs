//! Which pipelines lead to given parameters: the templates read backwards. Pure.
//!
//! Where the template of a parameter leaves out a capture of the pipeline's name, any number of pipelines may lead to one
//! parameter: which ones there are must be listed ([`Targets::to_list`]).
//!
//! **Not handled.** Where the parameters are in a region of their own, the pipelines are taken to be in the queue's.
//! Production parameters with captures that name the same distribution.

use super::pattern::{Piece, PipelinePattern, Shape, value_of};
use super::template::{Template, Values};
use super::{
    Access, OF_THE_EVENT, Parameters, PipelineArn, Surroundings, Target, Targets, is_name_byte,
    partition_of,
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
                found.extend(self.neighbour(target, pipeline, parameters, access));
            }
        }
        distinct(found)
    }

    /// Those of a place's pipelines, by their names, that the targets lead to one of these parameters.
    #[must_use]
    pub fn among(
        &self,
        names: &[String],
        place: &PipelineArn,
        parameters: &Parameters,
        access: &Access,
    ) -> Vec<Neighbour> {
        let of_name = |name: &String| PipelineArn {
            name: name.clone(),
            ..place.clone()
        };
        let pipelines: Vec<_> = names.iter().map(of_name).collect();
        let targets = self.targets.iter();
        let found = targets.flat_map(|target| {
            let pipelines = pipelines.iter().cloned();
            pipelines.filter_map(move |it| self.neighbour(target, it, parameters, access))
        });
        distinct(found.collect())
    }

    fn neighbour(
        &self,
        target: &Target,
        pipeline: PipelineArn,
        parameters: &Parameters,
        access: &Access,
    ) -> Option<Neighbour> {
        let resolved = target.resolve(&pipeline).ok()?;
        let theirs = resolved.parameters?;
        let same =
            theirs.production == parameters.production || theirs.staging == parameters.staging;
        (same && self.same_place(&resolved.access, access)).then_some(Neighbour {
            pipeline,
            access: resolved.pipeline_access,
            stage: resolved.stage,
            deploy_stage: resolved.deploy_stage,
        })
    }

    /// Where pipelines must be listed to learn which lead to one of these parameters: as whom, and a pipeline's ARN with
    /// whatever name.
    #[must_use]
    pub fn to_list(&self, parameters: &Parameters, access: &Access) -> Vec<(Access, PipelineArn)> {
        let mut found = Vec::new();
        for target in self.targets.iter().filter(|it| it.leaves_out_captures()) {
            for (like, theirs, asked) in target.places(parameters, access, &self.surroundings) {
                let own = target.trigger.pipeline.home() == Some(&like.account);
                let askable = asked.role.is_some() || own;
                let place = (asked, like);
                if askable && self.same_place(&theirs, access) && !found.contains(&place) {
                    found.push(place);
                }
            }
        }
        found
    }

    /// The production parameters that targets name literally, but for that one, in the account and region of `access`:
    /// each with how it is read.
    #[must_use]
    pub fn beside(&self, parameters: &Parameters, access: &Access) -> Vec<(String, Access)> {
        let mut found = Vec::new();
        for target in &self.targets {
            let Some(name) = target.literal_production() else {
                continue;
            };
            let of_name = Parameters {
                production: name.clone(),
                staging: String::new(),
            };
            for (_, theirs, _) in target.places(&of_name, access, &self.surroundings) {
                let read = (name.clone(), theirs);
                let other = name != parameters.production;
                if other && self.same_place(&read.1, access) && !found.contains(&read) {
                    found.push(read);
                }
            }
        }
        found
    }

    fn same_place(&self, one: &Access, other: &Access) -> bool {
        self.owner(one) == self.owner(other) && one.region == other.region
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
        let pattern = &self.trigger.pipeline;
        let read = self.read(pattern, parameters, access, surroundings);
        let mut found: Vec<_> = read.into_iter().map(|(pipeline, _)| pipeline).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Where the pipelines are that one of the parameters may be of, whatever their names: as whom its distributions are
    /// looked at, and as whom CodePipeline is asked.
    fn places(
        &self,
        parameters: &Parameters,
        access: &Access,
        surroundings: &Surroundings,
    ) -> Vec<(PipelineArn, Access, Access)> {
        let pattern = self.trigger.pipeline.of_any_name();
        let read = self.read(&pattern, parameters, access, surroundings);
        let rendered = read.into_iter().filter_map(|(like, mut values)| {
            let of_the_event = OF_THE_EVENT.into_iter().map(str::to_owned);
            values.extend(of_the_event.zip([like.account.clone(), like.region.clone()]));
            let both = self.work.access.render(&like, pattern.home(), &values);
            let (theirs, asked) = both.ok()?;
            Some((like, theirs, asked))
        });
        rendered.collect()
    }

    /// The pipelines that the pattern and what can be read out of one of the parameters come to, each with that.
    fn read(
        &self,
        pattern: &PipelinePattern,
        parameters: &Parameters,
        access: &Access,
        surroundings: &Surroundings,
    ) -> Vec<(PipelineArn, Values)> {
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
                    let pipelines = known.pipelines(pattern, &values).into_iter();
                    found.extend(pipelines.map(|it| (it, values.clone())));
                }
            }
        }
        found
    }
}

impl Target {
    /// Whether the template of a parameter leaves out a capture of the pipeline's name: then any number of pipelines
    /// share that parameter.
    #[must_use]
    pub fn leaves_out_captures(&self) -> bool {
        let Some(staging) = &self.work.staging else {
            return false;
        };
        let templates = [&staging.production_parameter, &staging.staging_parameter];
        let mut captures = self.trigger.pipeline.name().captures();
        captures.any(|name| {
            let uses = |template: &Template| template.captures().any(|used| used == name);
            !templates.into_iter().all(uses)
        })
    }

    /// The name of the production parameter, if there is no capture in it.
    fn literal_production(&self) -> Option<String> {
        let template = &self.work.staging.as_ref()?.production_parameter;
        let is_literal = template.captures().next().is_none();
        is_literal.then(|| template.to_string())
    }
}

/// Each once.
fn distinct(neighbours: Vec<Neighbour>) -> Vec<Neighbour> {
    let mut found: Vec<Neighbour> = Vec::new();
    for neighbour in neighbours {
        if !found.contains(&neighbour) {
            found.push(neighbour);
        }
    }
    found
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
