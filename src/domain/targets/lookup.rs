//! Which target a person means who names a pipeline. Pure: no I/O.
//!
//! An event states its pipeline's region and account; a name on a command line does not. Such a name is a
//! pipeline of the queue's own account, in the region that the target's pattern has literally, or else in
//! the one at hand. A pipeline of another account is named by its ARN.

use crate::domain::arn::{Arn, PipelineArn};
use crate::domain::binding::Subject;
use crate::domain::partition::partition_of;
use crate::domain::targets::{ResolveError, ResolvedTarget, Target, Targets};

/// What a bare name is completed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The region's code.
    pub region: String,
    /// The account's id.
    pub account: String,
}

/// What the person asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// A pipeline's name or ARN.
    pub pipeline: &'a str,
    /// The stage, where several targets match the pipeline.
    pub stage: Option<&'a str>,
    /// The approval action, where several targets match the pipeline.
    pub action: Option<&'a str>,
}

impl Wanted<'_> {
    /// What stage or action a target has instead of the one that is asked for.
    fn differs_from(&self, target: &Target) -> Option<String> {
        let of = |what, wanted: Option<&str>, is: Option<&str>| {
            let (wanted, is) = (wanted?, is?);
            (wanted != is).then(|| format!("its {what} is {is}, not {wanted}"))
        };
        let stage = of("stage", self.stage, target.stage());
        let action = of("action", self.action, target.action());
        let differs: Vec<String> = stage.into_iter().chain(action).collect();
        (!differs.is_empty()).then(|| {
            format!(
                "target {} matches, but {}",
                target.pipeline(),
                differs.join(", and ")
            )
        })
    }
}

/// A target applied to the pipeline that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pipeline.
    pub pipeline: PipelineArn,
    /// The stage that holds the approval; any, if there is none.
    pub stage: Option<String>,
    /// The approval action; any, if there is none.
    pub action: Option<String>,
    /// Its target.
    pub target: ResolvedTarget,
}

impl Named {
    /// Whether a job is one of this pipeline, and of the stage and action, where the target names them.
    #[must_use]
    pub fn is_about(&self, subject: &Subject) -> bool {
        let same = |wanted: &Option<String>, is: &str| {
            is.is_empty() || wanted.as_ref().is_none_or(|wanted| wanted == is)
        };
        subject.pipeline == self.pipeline.to_string()
            && same(&self.stage, &subject.stage)
            && same(&self.action, &subject.action)
    }
}

/// Why a name leads to no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNamed {
    /// No target matches it.
    #[error(
        "no target matches the pipeline {pipeline:?}. {}Targets: {}{}",
        .nearest.as_ref().map_or(String::new(), |it| format!("Nearest: {it}. ")),
        .targets.join(", "), by_its_arn(.pipeline)
    )]
    NoTarget {
        /// What was named.
        pipeline: String,
        /// A name much like it that a target matches.
        nearest: Option<String>,
        /// The targets' pipelines as written.
        targets: Vec<String>,
    },
    /// Targets match it, of another stage or action.
    #[error("the pipeline {pipeline:?}: {}", .targets.join("; "))]
    Elsewhere {
        /// What was named.
        pipeline: String,
        /// Each with what it has instead.
        targets: Vec<String>,
    },
    /// A target's pattern was named, and not a pipeline.
    #[error("{pattern:?} is a pattern; name one pipeline that it matches, such as {example:?}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// A name that it matches.
        example: String,
    },
    /// Several targets match it.
    #[error(
        "several targets match the pipeline {pipeline:?}; add --stage and --action: {}",
        .targets.join(", ")
    )]
    Several {
        /// What was named.
        pipeline: String,
        /// The targets.
        targets: Vec<String>,
    },
    /// One target matches, and cannot be used.
    #[error("the pipeline {pipeline:?}: {error}")]
    Unusable {
        /// What was named.
        pipeline: String,
        /// Why.
        error: ResolveError,
    },
}

/// Finds the one target that is meant.
///
/// # Errors
/// [`NotNamed`] where there is none, or more than one.
pub fn find(targets: &Targets, wanted: Wanted<'_>, home: &Home) -> Result<Named, NotNamed> {
    let pipeline = wanted.pipeline.to_owned();
    if let Some(target) = targets
        .iter()
        .find(|target| target.pipeline() == wanted.pipeline && wanted.pipeline.contains('{'))
    {
        return Err(NotNamed::Pattern {
            pattern: pipeline,
            example: example(target.pipeline(), home),
        });
    }
    let (mut matching, elsewhere): (Vec<_>, Vec<_>) = targets
        .iter()
        .filter_map(|target| {
            let arn = arn(wanted.pipeline, target, home)?;
            let resolved = target.resolve(&arn);
            (resolved != Err(ResolveError::NoTarget)).then_some((target, arn, resolved))
        })
        .partition(|(target, ..)| wanted.differs_from(target).is_none());
    if matching.len() > 1 {
        return Err(NotNamed::Several {
            pipeline,
            targets: matching
                .iter()
                .map(|(target, ..)| target.to_string())
                .collect(),
        });
    }
    let Some((target, arn, resolved)) = matching.pop() else {
        let elsewhere = elsewhere.iter();
        let elsewhere: Vec<_> = elsewhere
            .filter_map(|(target, ..)| wanted.differs_from(target))
            .collect();
        return Err(match elsewhere.is_empty() {
            true => NotNamed::NoTarget {
                nearest: nearest(targets, wanted.pipeline),
                targets: targets.iter().map(ToString::to_string).collect(),
                pipeline,
            },
            false => NotNamed::Elsewhere {
                pipeline,
                targets: elsewhere,
            },
        });
    };
    Ok(Named {
        pipeline: arn,
        stage: target.stage().map(str::to_owned),
        action: target.action().map(str::to_owned),
        target: resolved.map_err(|error| NotNamed::Unusable { pipeline, error })?,
    })
}

/// The pipeline that a text names, as the target would hear of it in an event.
fn arn(text: &str, target: &Target, home: &Home) -> Option<PipelineArn> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let pattern = Arn::parse(target.pipeline());
    let literal = |part: &&str| !part.contains('{');
    let region = pattern.map(|arn| arn.region).filter(literal);
    let region = region.unwrap_or(&home.region);
    let partition = pattern.map(|arn| arn.partition).filter(literal);
    let partition = partition.unwrap_or(partition_of(region));
    let account = &home.account;
    format!("arn:{partition}:codepipeline:{region}:{account}:{text}")
        .parse()
        .ok()
}

/// What to do about a name that no target matches.
fn by_its_arn(pipeline: &str) -> &'static str {
    match pipeline.contains(':') {
        true => "",
        false => {
            "; a bare name is a pipeline of the queue's own account, and one of another account is \
                  named by its ARN"
        }
    }
}

/// The name most like this one that a target matches, if it is much like it.
fn nearest(targets: &Targets, pipeline: &str) -> Option<String> {
    let name = |text| Arn::parse(text).map_or(text, |arn| arn.resource);
    let names = targets
        .iter()
        .map(|target| like(name(target.pipeline()), name(pipeline)));
    let nearest = names.min_by_key(|(_, edits, _)| *edits)?;
    let (nearest, edits, literal) = nearest;
    (edits * 2 <= literal).then_some(nearest)
}

/// The name that a pattern matches and that is most like `text`; how many characters are put in, taken out or
/// changed; and how many characters of the pattern are literal.
fn like(pattern: &str, text: &str) -> (String, usize, usize) {
    // Literal characters, and captures.
    let mut pieces: Vec<Option<char>> = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let capture = rest.split_once('}').filter(|_| first == '{');
        pieces.push(capture.is_none().then_some(first));
        rest = capture.map_or(&rest[first.len_utf8()..], |(_, after)| after);
    }
    // By so many characters of the text: the name so far, and what it cost.
    let mut row: Vec<(usize, String)> = Vec::new();
    row.extend((0..=text.chars().count()).map(|taken| (taken, String::new())));
    for piece in &pieces {
        let mut next: Vec<(usize, String)> = Vec::new();
        for taken in 0..row.len() {
            let with = |from: &(usize, String), cost: usize, more: &str| {
                (from.0 + cost, format!("{}{more}", from.1))
            };
            let last = taken.checked_sub(1).and_then(|at| text.chars().nth(at));
            let best = match (piece, last) {
                (Some(c), None) => vec![with(&row[0], 1, &c.to_string())],
                (Some(c), Some(last)) => vec![
                    with(&row[taken - 1], usize::from(*c != last), &c.to_string()),
                    with(&row[taken], 1, &c.to_string()),
                    with(&next[taken - 1], 1, ""),
                ],
                // A capture takes one character at least.
                (None, None) => vec![(usize::MAX / 2, String::new())],
                (None, Some(last)) => vec![
                    with(&row[taken - 1], 0, &last.to_string()),
                    with(&next[taken - 1], 0, &last.to_string()),
                ],
            };
            next.extend(best.into_iter().min_by_key(|(cost, _)| *cost));
        }
        row = next;
    }
    let (edits, name) = row.pop().unwrap_or_default();
    (name, edits, pieces.iter().flatten().count())
}

/// A name that the pattern matches; an ARN, where the pattern is one of another account than the queue's.
pub(crate) fn example(pattern: &str, home: &Home) -> String {
    let Some(Arn {
        partition,
        service,
        region,
        account,
        resource,
    }) = Arn::parse(pattern)
    else {
        return filled(pattern, "shop");
    };
    let name = filled(resource, "shop");
    if account.contains('{') || account == home.account {
        return name;
    }
    let region = match region.contains('{') {
        true => &home.region,
        false => region,
    };
    let partition = match partition.contains('{') {
        true => partition_of(region),
        false => partition,
    };
    format!("arn:{partition}:{service}:{region}:{account}:{name}")
}

/// A pattern with this text for each of its captures.
pub(crate) fn filled(pattern: &str, capture: &str) -> String {
    let mut parts = pattern.split('{');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(capture);
        text.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::targets::{Surroundings, TargetSpec};

    fn targets(pipelines: &[(&str, &str)]) -> Targets {
        let specs: Vec<TargetSpec> = pipelines
            .iter()
            .map(|(pipeline, stage)| TargetSpec {
                pipeline: (*pipeline).to_owned(),
                stage: Some((*stage).to_owned()),
                action: Some("Approve".to_owned()),
                production_parameter: Some("/x/production".to_owned()),
                staging_parameter: Some("/x/staging".to_owned()),
                // An ARN may take any account.
                role_arn: pipeline
                    .starts_with("arn:")
                    .then(|| "arn:aws:iam::{account}:role/stagesweep".to_owned()),
                ..TargetSpec::default()
            })
            .collect();
        Targets::new(&specs, at_home()).unwrap()
    }

    fn at_home() -> Surroundings {
        Surroundings {
            account: Some("123456789012".to_owned()),
            ..Surroundings::default()
        }
    }

    fn named(targets: &Targets, pipeline: &str, stage: Option<&str>) -> Result<Named, NotNamed> {
        let home = Home {
            region: "eu-west-1".to_owned(),
            account: "123456789012".to_owned(),
        };
        let wanted = Wanted {
            pipeline,
            stage,
            action: None,
        };
        find(targets, wanted, &home)
    }

    #[test]
    fn a_name_is_completed_with_what_the_target_says_literally() {
        let targets = targets(&[
            (
                "arn:aws:codepipeline:us-east-1:{account}:landing",
                "Approve",
            ),
            ("{service}-pipeline", "Approve"),
        ]);
        let found = named(&targets, "landing", None).unwrap();
        let arn = "arn:aws:codepipeline:us-east-1:123456789012:landing";
        assert_eq!(found.pipeline.to_string(), arn);
        let found = named(&targets, "shop-pipeline", None).unwrap();
        assert_eq!(found.pipeline.region, "eu-west-1");
        assert_eq!(found.target.label, "{service}-pipeline");
        assert_eq!(named(&targets, arn, None).unwrap().pipeline.name, "landing");
    }

    #[test]
    fn a_bare_name_by_hand_is_a_pipeline_of_the_queues_own_account() {
        let elsewhere = "arn:aws:codepipeline:{region}:210987654321:{service}-pipeline";
        let targets = targets(&[(elsewhere, "Approve")]);
        let said = named(&targets, "shop-pipeline", None)
            .unwrap_err()
            .to_string();
        assert!(said.contains("named by its ARN"), "{said}");
        let arn = "arn:aws:codepipeline:eu-west-1:210987654321:shop-pipeline";
        let said = named(&targets, elsewhere, None).unwrap_err().to_string();
        assert!(said.contains(&format!("such as {arn:?}")), "{said}");
        let found = named(&targets, arn, None).unwrap();
        assert_eq!(found.pipeline.to_string(), arn);
    }

    #[test]
    fn what_leads_to_no_single_target_is_said_with_what_to_do() {
        let two = targets(&[
            ("shop", "Approve"),
            ("shop", "Review"),
            ("{a}-x", "Approve"),
        ]);
        let said = |text, stage| named(&two, text, stage).unwrap_err().to_string();
        assert!(
            said("shop", None).contains("--stage"),
            "{}",
            said("shop", None)
        );
        assert!(named(&two, "shop", Some("Review")).is_ok());
        assert!(said("{a}-x", None).contains("\"shop-x\""));
        assert!(said("blog", None).contains("{a}-x / Approve / Approve"));
        assert!(!said("blog", None).contains("Nearest"));
        assert!(said("shpo", None).contains("Nearest: shop. Targets: "));
        assert_eq!(
            said("shop", Some("Aprove")),
            "the pipeline \"shop\": target shop matches, but its stage is Approve, not Aprove; target shop \
             matches, but its stage is Review, not Aprove"
        );
    }

    #[test]
    fn the_nearest_name_is_one_that_the_pattern_matches() {
        let of = |pattern, text| {
            let (name, edits, _) = like(pattern, text);
            (name, edits)
        };
        let pattern = "{service}-frontend-pipeline";
        let wanted = ("demo-1-frontend-pipeline".to_owned(), 9);
        assert_eq!(of(pattern, "demo-1-frontend"), wanted);
        let wanted = ("demo-1-frontend-pipeline".to_owned(), 1);
        assert_eq!(of(pattern, "demo-1-frontent-pipeline"), wanted);
        assert_eq!(of("shop", "shpo"), ("shop".to_owned(), 2));
        assert_eq!(of("a{b}c", "axyc"), ("axyc".to_owned(), 0));
    }
}
