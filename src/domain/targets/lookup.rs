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

/// A target applied to the pipeline that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub pipeline: PipelineArn,
    /// The stage that holds the approval; any, if there is none.
    pub stage: Option<String>,
    /// The approval action; any, if there is none.
    pub action: Option<String>,
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

/// A target that matches, and what is meant then or why it cannot be used.
pub type Matching<'a> = (&'a Target, Result<Named, NotNamed>);

/// Why a name leads to no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNamed {
    /// No target matches it.
    #[error(
        "no target matches the pipeline {pipeline:?}; {}name one that a target matches: {}{}",
        near.as_ref().map(|near| format!("did you mean {near:?}? Else ")).unwrap_or_default(),
        .targets.join(", "), by_its_arn(.pipeline)
    )]
    NoTarget {
        /// What was named.
        pipeline: String,
        /// A pipeline with nearly this name that a target matches.
        near: Option<String>,
        /// The targets' pipelines as written.
        targets: Vec<String>,
    },
    /// The pipeline is that of a target, the stage or the action is not.
    #[error(
        "the target {target} matches the pipeline {pipeline:?}, but its {what} is {is}, not {wanted:?}"
    )]
    AnotherApproval {
        /// What was named.
        pipeline: String,
        /// The target that matches the pipeline.
        target: String,
        /// `stage` or `action`.
        what: &'static str,
        /// The target's.
        is: String,
        /// The one that was asked for.
        wanted: String,
    },
    /// A target's pattern was named, and not a pipeline.
    #[error("{pattern:?} is a pattern; name one pipeline that it matches, such as {example:?}")]
    Pattern {
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
        targets: Vec<String>,
    },
    /// One target matches, and cannot be used.
    #[error("the pipeline {pipeline:?}: {error}")]
    Unusable {
        /// What was named.
        pipeline: String,
        error: ResolveError,
    },
}

/// Finds the one target that is meant.
///
/// # Errors
/// [`NotNamed`] where there is none, or more than one.
pub fn find(targets: &Targets, wanted: Wanted<'_>, home: &Home) -> Result<Named, NotNamed> {
    let mut all = all(targets, wanted, home)?;
    match (all.pop(), all.is_empty()) {
        (Some((_, only)), true) => only,
        (last, _) => Err(NotNamed::Several {
            pipeline: wanted.pipeline.to_owned(),
            targets: all
                .iter()
                .chain(&last)
                .map(|(target, _)| target.to_string())
                .collect(),
        }),
    }
}

/// Finds every target that matches, each with the pipeline that is meant or why it cannot be used.
///
/// # Errors
/// [`NotNamed`] where there is none.
pub fn all<'a>(
    targets: &'a Targets,
    wanted: Wanted<'_>,
    home: &Home,
) -> Result<Vec<Matching<'a>>, NotNamed> {
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
    let of_pipeline: Vec<_> = targets
        .iter()
        .filter_map(|target| {
            let arn = arn(wanted.pipeline, target, home)?;
            let resolved = target.resolve(&arn);
            (resolved != Err(ResolveError::NoTarget)).then_some((target, arn, resolved))
        })
        .collect();
    let Some((first, ..)) = of_pipeline.first() else {
        return Err(NotNamed::NoTarget {
            near: near(wanted.pipeline, targets),
            pipeline,
            targets: targets.iter().map(ToString::to_string).collect(),
        });
    };
    let first = another_approval(first, wanted);
    let matching = of_pipeline
        .into_iter()
        .filter(|(target, ..)| another_approval(target, wanted).is_none());
    let named: Vec<_> = matching
        .map(|(target, arn, resolved)| {
            let pipeline = pipeline.clone();
            let named = resolved.map_err(|error| NotNamed::Unusable { pipeline, error });
            let named = named.map(|resolved| Named {
                pipeline: arn,
                stage: target.stage().map(str::to_owned),
                action: target.action().map(str::to_owned),
                target: resolved,
            });
            (target, named)
        })
        .collect();
    match first {
        Some(another) if named.is_empty() => Err(another),
        _ => Ok(named),
    }
}

/// Why a target that matches the pipeline is not the one that is meant, if it is not.
fn another_approval(target: &Target, wanted: Wanted<'_>) -> Option<NotNamed> {
    let parts = [
        ("stage", target.stage(), wanted.stage),
        ("action", target.action(), wanted.action),
    ];
    let other = parts.into_iter().find_map(|(what, is, wanted)| {
        let (is, wanted) = is.zip(wanted)?;
        (is != wanted).then_some((what, is, wanted))
    });
    other.map(|(what, is, another)| NotNamed::AnotherApproval {
        pipeline: wanted.pipeline.to_owned(),
        target: target.pipeline().to_owned(),
        what,
        is: is.to_owned(),
        wanted: another.to_owned(),
    })
}

/// The nearest name that a target matches: a slip of the hand away, or with this beginning.
fn near(pipeline: &str, targets: &Targets) -> Option<String> {
    let name_of =
        |text: &str| Arn::parse(text).map_or(text.to_owned(), |it| it.resource.to_owned());
    let wanted = name_of(pipeline);
    let candidates = targets.iter().flat_map(|target| {
        let pattern = name_of(target.pipeline());
        let Some((prefix, rest)) = pattern.split_once('{') else {
            return vec![pattern];
        };
        let suffix = rest.split_once('}').map_or("", |(_, suffix)| suffix);
        if suffix.contains('{') {
            return Vec::new();
        }
        // A capture that took any part of what was written.
        let taken = wanted.strip_prefix(prefix).unwrap_or(&wanted);
        let ends = taken.char_indices().map(|(at, c)| at + c.len_utf8());
        ends.map(|end| format!("{prefix}{}{suffix}", &taken[..end]))
            .collect()
    });
    let length = wanted.chars().count();
    candidates
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&wanted, &candidate);
            let slip = distance <= (length / 4).max(1) && distance < length;
            (slip || length >= 4 && candidate.starts_with(&wanted)).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
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
        let wrong = "the target shop matches the pipeline \"shop\", but its stage is Approve, not \"Aprove\"";
        assert_eq!(said("shop", Some("Aprove")), wrong);
    }

    #[test]
    fn the_nearest_pipeline_that_a_target_matches_is_named() {
        let two = targets(&[
            ("{service}-frontend-pipeline", "Approve"),
            ("landing", "Approve"),
        ]);
        let near = |text| match named(&two, text, None) {
            Err(NotNamed::NoTarget { near, .. }) => near,
            other => panic!("{text}: {other:?}"),
        };
        for (written, meant) in [
            ("demo-1-frontend", Some("demo-1-frontend-pipeline")),
            ("demo-1-fronted-pipeline", Some("demo-1-frontend-pipeline")),
            ("lnading", Some("landing")),
            ("blog", Some("blog-frontend-pipeline")),
            ("xyz", None),
        ] {
            assert_eq!(near(written).as_deref(), meant, "{written}");
        }
        let said = named(&two, "lnading", None).unwrap_err().to_string();
        assert!(
            said.contains("did you mean \"landing\"? Else name one"),
            "{said}"
        );
    }
}
