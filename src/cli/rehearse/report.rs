//! What a rehearsal came to: the steps and their times, the calls, and what is left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::scene::Scene;
use crate::cli::terminal::{describe, found, line};
use crate::telemetry::{Milestone, What};
use embedded_aws::EmbeddedAws;

/// Steps are listed for so many services, outcomes for all.
const DETAILED: usize = 3;

#[derive(Default)]
struct Story {
    began: Option<Instant>,
    /// What happened, when, counted from the start, and how long it took if it was a wait.
    steps: Vec<(Duration, &'static str, Option<Duration>)>,
    ended: Option<(Duration, &'static str)>,
    deleted: usize,
}

/// Collects milestones until the end.
pub(super) struct Report {
    began: Instant,
    stories: HashMap<String, Story>,
}

impl Report {
    pub(super) fn new(scene: &Scene, began: Instant) -> Self {
        let stories = scene
            .rejections
            .iter()
            .map(|rejection| (rejection.service.execution_id.clone(), Story::default()))
            .collect();
        Self { began, stories }
    }

    pub(super) fn milestone(&mut self, milestone: Milestone) {
        let Some(story) = self.stories.get_mut(&milestone.execution_id) else {
            return;
        };
        let began = *story.began.get_or_insert_with(Instant::now);
        let at = began.elapsed();
        match milestone.what {
            What::Applied { step } => story.steps.push((at, step, None)),
            What::Found { step } => story.steps.push((at, found(step), None)),
            What::Waited { wait, took } => story.steps.push((at, wait, Some(took))),
            What::Ended { code, .. } => story.ended = Some((at, code)),
            What::Deleted => story.deleted += 1,
            What::Started { .. } | What::Waiting { .. } | What::Held { .. } => {}
        }
    }

    /// Prints the report. Returns whether everything was cleaned and nothing is left behind.
    pub(super) fn print(&self, aws: &EmbeddedAws, scene: &Scene, interrupted: bool) -> bool {
        let verb = if interrupted { "interrupted" } else { "ended" };
        line(&format!(
            "\nThe rehearsal {verb} after {:.1} s.",
            self.began.elapsed().as_secs_f64()
        ));
        self.print_services(scene);
        print_calls(aws);
        self.print_messages(aws, scene);
        if scene.observes {
            line("Mode observe: nothing was to be changed.");
            return scene.messages(aws) + scene.dead_letters(aws) == 0;
        }
        let left = left_behind(aws, scene);
        if left.is_empty() {
            line("Left behind: nothing.");
        } else {
            line("Left behind:");
            for thing in &left {
                line(&format!("  {thing}"));
            }
        }
        left.is_empty()
    }

    fn print_services(&self, scene: &Scene) {
        for (index, rejection) in scene.rejections.iter().enumerate() {
            let service = &rejection.service;
            let Some(story) = self.stories.get(&service.execution_id) else {
                continue;
            };
            let (took, outcome) = match story.ended {
                Some((at, code)) => (format!("{:.1} s", at.as_secs_f64()), describe(code)),
                None => ("-".to_owned(), "not begun"),
            };
            line(&format!("\n{}: {outcome}, {took}", service.name));
            if index >= DETAILED {
                continue;
            }
            for (at, code, took) in &story.steps {
                let at = at.as_secs_f64();
                match took {
                    Some(took) => {
                        let took = took.as_secs_f64();
                        line(&format!(
                            "  {at:>7.2} s  waited {took:.2} s for {}",
                            describe(code)
                        ));
                    }
                    None => line(&format!("  {at:>7.2} s  {}", describe(code))),
                }
            }
        }
    }

    fn print_messages(&self, aws: &EmbeddedAws, scene: &Scene) {
        let deleted: usize = self.stories.values().map(|story| story.deleted).sum();
        line(&format!(
            "Messages: {deleted} deleted, {} on the queue, {} in the dead-letter queue.",
            scene.messages(aws),
            scene.dead_letters(aws),
        ));
    }
}

fn print_calls(aws: &EmbeddedAws) {
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    let mut faults = 0;
    for entry in aws.journal().entries() {
        *calls.entry(entry.call.operation).or_default() += 1;
        faults += entry.faults.len();
    }
    let total: usize = calls.values().sum();
    line(&format!(
        "\nCalls: {total}, of which faults befell {faults}."
    ));
    for (operation, count) in calls {
        line(&format!("  {count:>5}  {operation}"));
    }
}

/// Everything that a finished cleanup would have taken down.
fn left_behind(aws: &EmbeddedAws, scene: &Scene) -> Vec<String> {
    let mut left = Vec::new();
    let services = scene.rejections.iter().map(|it| &it.service);
    let accounts: BTreeSet<&str> = services.map(|it| it.account.as_str()).collect();
    for account in accounts {
        let inventory = aws.in_account(account, aws.region()).inventory();
        for distribution in inventory
            .distributions
            .iter()
            .filter(|distribution| distribution.staging)
        {
            left.push(format!("staging distribution {}", distribution.id));
        }
        for policy in &inventory.policies {
            left.push(format!("continuous deployment policy {}", policy.id));
        }
    }
    for rejection in &scene.rejections {
        let service = &rejection.service;
        let aws = aws.in_account(&service.account, &service.region);
        let production = aws.distribution(&service.production_id);
        if production.is_none_or(|production| !production.policy_id.is_empty()) {
            left.push(format!(
                "a policy on production distribution {}",
                service.production_id
            ));
        }
        let value = aws.parameter(&service.staging_parameter);
        if value.as_deref() != Some(crate::domain::binding::DELETED) {
            left.push(format!(
                "{} = {}",
                service.staging_parameter,
                value.unwrap_or_default()
            ));
        }
    }
    let (queued, dead) = (scene.messages(aws), scene.dead_letters(aws));
    if queued + dead > 0 {
        left.push(format!(
            "{queued} message(s) on the queue, {dead} in the dead-letter queue"
        ));
    }
    left
}
