//! What a message's body is: a rejection and its target, or the reason why it makes no job. Pure: the daemon and
//! `dead-letters` read a body with the same eyes.

use crate::domain::event::{
    self, ACTION_DETAIL_TYPE, Failed, Kind, Malformed, NotARejection, Rejection,
};
use crate::domain::targets::{OptionArgument, ResolveError, ResolvedTarget, Targets};

/// Why a body makes no job. The text is for people; only a malformed body has a source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhandled {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(
        "the event comes from account {0}, which is neither the queue's nor in events.allowed_accounts"
    )]
    ForeignAccount(String, Option<Box<Rejection>>),
    #[error("the event is no rejection")]
    NotARejection(NotARejection),
    /// A stage or a pipeline of a target, as a whole.
    #[error(
        "the event's detail-type is `{}`, which is of no rejection: set the rule's detail-type to \
         `{ACTION_DETAIL_TYPE}`", .0.detail_type()
    )]
    WrongKind(Failed),
    #[error("{}: {}", approval(.0), .1)]
    NoTarget(Box<Rejection>, ResolveError),
    #[error("{}: the program of the target {} cannot be run: {}", approval(.0), .1, .2)]
    OptionArgument(Box<Rejection>, String, OptionArgument),
}

/// What becomes of a message that makes no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is deleted: it is well-formed, and no rejection.
    Deleted,
    /// It is released, and the redrive policy ends it; quickly where nothing that may change would help.
    Refused { quick: bool },
}

impl Unhandled {
    /// What the daemon does with the message.
    pub(crate) fn fate(&self) -> Fate {
        match self {
            Self::NotARejection(_) | Self::WrongKind(_) => Fate::Deleted,
            // The configuration may change: a rolling update may bring the target.
            Self::NoTarget(..) => Fate::Refused { quick: false },
            Self::Malformed(_) | Self::ForeignAccount(..) | Self::OptionArgument(..) => {
                Fate::Refused { quick: true }
            }
        }
    }

    /// A bounded code for logs, metrics and people.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Malformed(error) => error.code(),
            Self::ForeignAccount(..) => "foreign_account",
            Self::NotARejection(why) => why.code(),
            Self::WrongKind(failed) => failed.code(),
            Self::NoTarget(_, error) => error.code(),
            Self::OptionArgument(..) => OptionArgument::CODE,
        }
    }

    /// The rejection, where the body is one.
    pub(crate) fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::ForeignAccount(_, rejection) => rejection.as_deref(),
            Self::NoTarget(rejection, _) | Self::OptionArgument(rejection, ..) => Some(rejection),
            Self::Malformed(_) | Self::NotARejection(_) | Self::WrongKind(_) => None,
        }
    }
}

fn approval(of: &Rejection) -> String {
    let Rejection {
        pipeline,
        stage,
        action,
        ..
    } = of;
    format!("pipeline {pipeline}, stage {stage}, action {action}")
}

/// Reads a body. The rejection's key is that of its job.
///
/// # Errors
/// [`Unhandled`].
pub(crate) fn classify(
    body: &str,
    targets: &Targets,
    allows_account: impl Fn(&str) -> bool,
) -> Result<(Box<Rejection>, ResolvedTarget), Unhandled> {
    let event = event::parse(body)?;
    if !allows_account(&event.account) {
        let rejection = match event.kind {
            Kind::Rejection(rejection) => Some(rejection),
            Kind::NotARejection(_) => None,
        };
        return Err(Unhandled::ForeignAccount(event.account, rejection));
    }
    let mut rejection = match event.kind {
        Kind::Rejection(rejection) => rejection,
        Kind::NotARejection(why) => {
            let is_ours = |failed: &Failed| {
                let mut targets = targets.iter();
                targets.any(|it| it.resolve(&failed.pipeline) != Err(ResolveError::NoTarget))
            };
            let ours = event.failed.filter(is_ours);
            return Err(ours.map_or(Unhandled::NotARejection(why), Unhandled::WrongKind));
        }
    };
    let target = match targets.resolve(&rejection.pipeline, &rejection.stage, &rejection.action) {
        Ok(target) => target,
        Err(error) => return Err(Unhandled::NoTarget(rejection, error)),
    };
    if let Some(fault) = target.argument_fault(&rejection) {
        return Err(Unhandled::OptionArgument(rejection, target.label, fault));
    }
    rejection.key = target.key(&rejection.key);
    Ok((rejection, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::targets::{Mode, Surroundings, TargetSpec};
    use crate::telemetry::chain;

    const REJECTED: &str = include_str!("../../tests/events/approval-rejected.json");
    const APPROVED: &str = include_str!("../../tests/events/approval-approved.json");
    const STAGE_FAILED: &str = include_str!("../../tests/events/stage-failed.json");

    fn read(body: &str, pipeline: &str) -> Result<(Box<Rejection>, ResolvedTarget), Unhandled> {
        let account = "210987654321";
        let specs = [TargetSpec {
            pipeline: pipeline.to_owned(),
            stage: Some("Approve".to_owned()),
            action: Some("Approve".to_owned()),
            production_parameter: Some("/production".to_owned()),
            staging_parameter: Some("/staging".to_owned()),
            mode: Mode::Observe,
            ..TargetSpec::default()
        }];
        let surroundings = Surroundings {
            account: Some(account.to_owned()),
            ..Surroundings::default()
        };
        let targets = Targets::new(&specs, surroundings).unwrap();
        classify(body, &targets, |it| it == account)
    }

    #[test]
    fn a_body_has_one_code_and_one_text() {
        let foreign = REJECTED.replace("210987654321", "999999999999");
        let mine = "{service}-frontend-pipeline";
        for (body, pipeline, code, text) in [
            ("{}", mine, "missing_field", "`source`"),
            (&*foreign, mine, "foreign_account", "999999999999"),
            (APPROVED, mine, "not_failed", "no rejection"),
            (STAGE_FAILED, mine, "failed_stage", ACTION_DETAIL_TYPE),
            (STAGE_FAILED, "other", "not_an_action", "no rejection"),
            (REJECTED, "other", "no_target", "no target matches"),
            (REJECTED, "{a}-{b}", "ambiguous_target", "{a}-{b}"),
        ] {
            let unhandled = read(body, pipeline).unwrap_err();
            assert_eq!(unhandled.code(), code, "{unhandled}");
            assert!(chain(&unhandled).contains(text), "{code}: {unhandled}");
            let tells =
                body != "{}" && !matches!(code, "not_failed" | "failed_stage" | "not_an_action");
            assert_eq!(unhandled.rejection().is_some(), tells, "{code}");
        }
    }

    #[test]
    fn what_is_only_observed_has_a_key_of_its_own() {
        let (rejection, target) = read(REJECTED, "{service}-frontend-pipeline").unwrap();
        let Kind::Rejection(read) = event::parse(REJECTED).unwrap().kind else {
            panic!("{rejection:?}");
        };
        assert_eq!(rejection.key, target.key(&read.key));
        assert_ne!(rejection.key, read.key);
    }
}
