//! What a cleanup that ends early has done, what it leaves, and the command that goes on with it.

use crate::cli::setup::TargetArgument;
use crate::cli::terminal::describe;
use crate::domain::decision::Step;
use crate::reconcile::dry_run::{Forecast, Planned};

/// The steps that were made: those of earlier runs, and those of this one.
pub(super) struct Made<'a> {
    pub(super) before: &'a [&'a str],
    pub(super) now: &'a [&'static str],
}

/// In words: `after 1 of 5: policy deleted. Left: staging E2 (enabled). … goes on`.
pub(super) fn said(forecast: &Forecast, made: &Made<'_>, target: &TargetArgument) -> String {
    let steps: Vec<&Step> = forecast
        .steps
        .iter()
        .filter_map(|planned| match planned {
            Planned::Apply(step) => Some(step),
            Planned::Wait(_) => None,
        })
        .collect();
    let done: Vec<&str> = made
        .before
        .iter()
        .copied()
        .chain(made.now.iter().copied())
        .collect();
    let all = made.before.len() + steps.len();
    let what: Vec<&str> = done.iter().map(|step| describe(step)).collect();
    let what = match what.is_empty() {
        true => String::new(),
        false => format!(": {}", what.join(", ")),
    };
    let left = left(&steps, made.now).join(", ");
    let left = match left.is_empty() {
        true => "nothing that is known".to_owned(),
        false => left,
    };
    format!(
        "after {} of {}{what}. Left: {left}. `stagesweep clean {target}` goes on",
        done.len(),
        all.max(done.len())
    )
}

/// What of the forecast is not done, by its ids.
fn left(steps: &[&Step], made: &[&'static str]) -> Vec<String> {
    let open = |step: &&&Step| !made.contains(&step.name());
    let disabled = !steps
        .iter()
        .filter(open)
        .any(|step| matches!(step, Step::DisableStaging(_)));
    let left = steps.iter().filter(open).filter_map(|step| match step {
        Step::RecordDeleted { .. } => Some("the parameter, which still names it".to_owned()),
        Step::DeletePolicy { policy_id, .. } => {
            let attached = steps
                .iter()
                .filter(open)
                .any(|step| matches!(step, Step::Detach(_)));
            let how = if attached {
                " (attached)"
            } else {
                " (detached)"
            };
            Some(format!("policy {policy_id}{how}"))
        }
        Step::DeleteStaging(staging) => {
            let how = if disabled { "disabled" } else { "enabled" };
            Some(format!("staging {} ({how})", staging.id()))
        }
        Step::Detach(_) | Step::DisableStaging(_) => None,
    });
    left.collect()
}
