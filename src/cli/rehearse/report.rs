//! What a rehearsal came to: the steps and their times, the calls, and what is left behind.
//!
//! What was done is told from the embedded AWS's record of the calls, as an answer that was lost leaves
//! the daemon without a word of it; what was waited for, and how a job ended, from the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::Options;
use super::scenarios::{Cast, Scenario, Spared, in_queues, left_behind};
use super::scene::{Rejection, Scene};
use crate::cli::terminal::{describe, line};
use crate::domain::history::News;
use crate::ledger::EmbeddedLedger;
use crate::runtime::clock::Clock;
use crate::telemetry::{Milestone, What};
use embedded_aws::{EmbeddedAws, Entry, Seen};

/// Steps are listed for so many services, outcomes for all.
const DETAILED: usize = 3;

/// What a job came to that was not done.
const FAILED: &str = "failed";
const REFUSED: &str = "refused";

/// What became of one rejection.
#[derive(Serialize)]
pub(super) struct Job {
    pub(super) pipeline: String,
    pipeline_arn: Option<String>,
    /// Not known: targets may be those of a file.
    target: Option<String>,
    stage: Option<String>,
    action: Option<String>,
    pub(super) execution_id: String,
    #[serde(skip)]
    service: String,
    /// How it was done, or `refused` or `failed`; `open` if it was not begun.
    #[serde(serialize_with = "word")]
    outcome: Option<&'static str>,
    /// Why it was not done; else the outcome.
    #[serde(serialize_with = "word")]
    pub(super) reason: Option<&'static str>,
    detail: Option<String>,
    #[serde(serialize_with = "moment")]
    began_at: Option<Timestamp>,
    duration_ms: Option<u64>,
    steps: Vec<Step>,
    #[serde(skip)]
    deleted: usize,
}

/// A change, or a wait.
#[derive(Clone, Serialize)]
struct Step {
    #[serde(serialize_with = "always")]
    at: Timestamp,
    name: &'static str,
    /// What was changed.
    id: Option<String>,
    /// How long it was waited.
    waited_ms: Option<u64>,
    /// The change was made, and the daemon did not get to see the answer.
    answer_lost: bool,
}

/// What was called.
#[derive(Serialize)]
struct Calls {
    total: usize,
    with_faults: usize,
    by_operation: BTreeMap<String, usize>,
}

/// What became of the messages.
#[derive(Serialize)]
struct Messages {
    deleted: usize,
    on_queue: usize,
    dead_letters: usize,
}

/// All of it, as `--json` writes it.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    version: u8,
    kind: &'static str,
    warnings: [String; 0],
    scenario: Option<Scenario>,
    /// Nothing is left behind; the scenario ended as it must.
    pub(super) passed: bool,
    interrupted: bool,
    seed: u64,
    propagation_ms: u64,
    fault_level: &'static str,
    #[serde(serialize_with = "always")]
    began_at: Timestamp,
    duration_ms: u64,
    items: Vec<&'a Job>,
    spared: &'a [Spared],
    why: Option<&'a str>,
    calls: Calls,
    messages: Messages,
    /// What is left behind; or what is not as the scenario must end.
    problems: Vec<String>,
    #[serde(skip)]
    observes: bool,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn moment<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => always(at, to),
        None => to.serialize_none(),
    }
}

fn word<S: Serializer>(word: &Option<&'static str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(word.unwrap_or("open"))
}

fn always<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{at:.3}"))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn between(from: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(from)).unwrap_or_default()
}

/// The rejection that a change in the embedded AWS is of, and which step it is.
pub(super) fn step_of<'a>(
    scene: &'a Scene,
    entry: &Entry,
) -> Option<(&'a Rejection, &'static str)> {
    if !entry.mutated() {
        return None;
    }
    scene.rejections.iter().find_map(|rejection| {
        let service = &rejection.service;
        let step = match entry.call.operation.as_str() {
            "PutParameter" if entry.about(&service.staging_parameter) => "record_deleted",
            "UpdateDistribution" if entry.about(&service.production_id) => "detach_policy",
            "UpdateDistribution" if entry.about(&service.staging_id) => "disable_staging",
            "DeleteDistribution" if entry.about(&service.staging_id) => "delete_staging",
            "DeleteContinuousDeploymentPolicy" if entry.about(&service.policy_id) => {
                "delete_policy"
            }
            _ => return None,
        };
        Some((rejection, step))
    })
}

/// Whether the daemon did not get to see that a call succeeded.
pub(super) fn is_unanswered(entry: &Entry) -> bool {
    !matches!(entry.seen, Seen::Status(200..300))
}

/// Collects milestones until the end.
pub(super) struct Report {
    clock: Clock,
    began: Timestamp,
    jobs: Vec<Job>,
}

impl Report {
    pub(super) fn new(scene: &Scene, clock: Clock) -> Self {
        let jobs = scene.rejections.iter().map(|rejection| Job {
            pipeline: rejection.service.pipeline.clone(),
            pipeline_arn: rejection.in_event("/resources/0"),
            target: None,
            stage: rejection.in_event("/detail/stage"),
            action: rejection.in_event("/detail/action"),
            execution_id: rejection.service.execution_id.clone(),
            service: rejection.service.name.clone(),
            outcome: None,
            reason: None,
            detail: None,
            began_at: None,
            duration_ms: None,
            steps: Vec::new(),
            deleted: 0,
        });
        Self {
            began: clock.now(),
            clock,
            jobs: jobs.collect(),
        }
    }

    pub(super) fn milestone(&mut self, milestone: &Milestone) {
        let mut jobs = self.jobs.iter_mut();
        let Some(job) = jobs.find(|it| it.execution_id == milestone.execution_id) else {
            return;
        };
        let now = self.clock.now();
        let began = *job.began_at.get_or_insert(now);
        match milestone.what {
            What::Applied { step } => job.steps.push(Step::at(now, step, None)),
            What::Waited { wait, took } => job.steps.push(Step::at(now, wait, Some(ms(took)))),
            What::Ended { code, success, .. } => {
                job.duration_ms = Some(ms(between(began, now)));
                job.outcome = Some(if success { code } else { FAILED });
                job.reason = Some(code);
            }
            What::Deleted => job.deleted += 1,
            // What is found done is among the changes that the embedded AWS has.
            What::Started { .. }
            | What::Found { .. }
            | What::Waiting { .. }
            | What::Held { .. } => {}
        }
    }

    /// Asks the ledger which jobs were refused.
    pub(super) fn ask(&mut self, ledger: &Path) {
        let records = EmbeddedLedger::history(ledger, &self.clock).unwrap_or_default();
        for job in self.jobs.iter_mut().filter(|it| it.outcome == Some(FAILED)) {
            let refused = records.iter().any(|record| {
                let told = &record.trail.told;
                record.execution_id() == job.execution_id
                    && job.reason.is_some_and(|it| told.refusal(it) == News::Known)
            });
            if refused {
                job.outcome = Some(REFUSED);
            }
        }
    }

    /// All that there is to say. `before` is what there was before a scenario's daemon came.
    pub(super) fn summary<'a>(
        &'a mut self,
        (aws, scene): (&EmbeddedAws, &Scene),
        options: &Options,
        cast: Option<&'a (Cast, BTreeMap<String, String>)>,
        interrupted: bool,
    ) -> Summary<'a> {
        let ended = self.clock.now();
        let entries = aws.journal().entries();
        for job in &mut self.jobs {
            job.take_changes(scene, &entries);
        }
        let messages = Messages {
            deleted: self.jobs.iter().map(|job| job.deleted).sum(),
            on_queue: scene.messages(aws),
            dead_letters: scene.dead_letters(aws),
        };
        let waiting = (messages.on_queue, messages.dead_letters);
        let problems = match cast {
            Some((cast, before)) => cast.deviations(aws, before, &self.jobs, waiting),
            None if scene.observes => in_queues(waiting).into_iter().collect(),
            None => left_behind(aws, scene, waiting),
        };
        Summary {
            version: 1,
            kind: "rehearsal",
            warnings: [],
            scenario: options.scenario,
            passed: problems.is_empty() && !interrupted,
            interrupted,
            seed: options.seed,
            propagation_ms: ms(options.propagation()),
            fault_level: options.faults_name(),
            began_at: self.began,
            duration_ms: ms(between(self.began, ended)),
            items: self.jobs.iter().collect(),
            spared: cast.map_or(&[], |(cast, _)| &cast.spared),
            why: cast.map(|(cast, _)| cast.why.as_str()),
            calls: calls(&entries),
            messages,
            problems,
            observes: scene.observes,
        }
    }
}

fn calls(entries: &[Entry]) -> Calls {
    let mut by_operation: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries {
        *by_operation
            .entry(entry.call.operation.clone())
            .or_default() += 1;
    }
    Calls {
        total: entries.len(),
        with_faults: entries.iter().filter(|it| !it.faults.is_empty()).count(),
        by_operation,
    }
}

impl Summary<'_> {
    /// Writes it for people.
    pub(super) fn print(&self) {
        let verb = if self.interrupted {
            "interrupted"
        } else {
            "ended"
        };
        let took = Duration::from_millis(self.duration_ms).as_secs_f64();
        line(&format!("\nThe rehearsal {verb} after {took:.1} s."));
        for (index, job) in self.items.iter().enumerate() {
            job.print(index < DETAILED);
        }
        if let Some(why) = self.why {
            line(&format!("\n{}", self.calls));
            line("Spared:");
            for Spared { id, what } in self.spared {
                line(&format!("  {id}  {what}"));
            }
            line(&format!("Why: {why}."));
        } else {
            self.calls.print();
        }
        let Messages {
            deleted,
            on_queue,
            dead_letters,
        } = self.messages;
        line(&format!(
            "Messages: {deleted} deleted, {on_queue} on the queue, {dead_letters} in the dead-letter queue."
        ));
        self.print_end();
    }

    fn print_end(&self) {
        let (good, bad) = match self.scenario {
            Some(_) => (
                "The embedded AWS's record of the calls agrees: the story ended as it must.",
                "The story did not end as it must:",
            ),
            None if self.observes => ("Mode observe: nothing was to be changed.", "Left behind:"),
            None => ("Left behind: nothing.", "Left behind:"),
        };
        if self.problems.is_empty() {
            return line(good);
        }
        line(bad);
        for problem in &self.problems {
            line(&format!("  {problem}"));
        }
    }
}

impl Step {
    fn at(at: Timestamp, name: &'static str, waited_ms: Option<u64>) -> Self {
        Self {
            at,
            name,
            id: None,
            waited_ms,
            answer_lost: false,
        }
    }
}

impl Job {
    /// The changes become those that the embedded AWS has, each at its own time. A wait ended before what
    /// the daemon did next, however late that it did is known here.
    fn take_changes(&mut self, scene: &Scene, entries: &[Entry]) {
        let mut unreported = Vec::new();
        for entry in entries {
            let Some((rejection, name)) = step_of(scene, entry) else {
                continue;
            };
            if rejection.service.execution_id != self.execution_id {
                continue;
            }
            let change = Step {
                id: entry.call.resource.clone(),
                answer_lost: is_unanswered(entry),
                ..Step::at(entry.at, name, None)
            };
            let mut reported = self.steps.iter_mut();
            match reported.find(|it| it.name == name && it.id.is_none()) {
                Some(step) => *step = change,
                None => unreported.push(change),
            }
        }
        let mut next = Timestamp::MAX;
        for step in self.steps.iter_mut().rev() {
            step.at = step.at.min(next);
            next = step.at;
        }
        self.steps.extend(unreported);
        self.steps
            .retain(|it| it.id.is_some() || it.waited_ms.is_some());
        self.steps.sort_by_key(|step| step.at);
    }

    fn print(&self, detailed: bool) {
        let took = match self.duration_ms {
            Some(ms) => format!("{:.1} s", Duration::from_millis(ms).as_secs_f64()),
            None => "-".to_owned(),
        };
        let end = match (self.outcome, self.reason) {
            (Some(outcome), Some(reason)) if outcome != reason => format!("{outcome} ({reason})"),
            (outcome, _) => describe(outcome.unwrap_or("not begun")).to_owned(),
        };
        line(&format!(
            "\n{}, execution {}: {end}, {took}",
            self.service, self.execution_id
        ));
        let Some(began) = self.began_at.filter(|_| detailed) else {
            return;
        };
        if self.steps.is_empty() {
            line("  nothing was changed");
        }
        for step in &self.steps {
            let at = between(began, step.at).as_secs_f64();
            let what = describe(step.name);
            let said = match (step.waited_ms, &step.id) {
                (Some(ms), _) => {
                    let took = Duration::from_millis(ms).as_secs_f64();
                    format!("waited {took:.2} s for {what}")
                }
                (None, id) => format!("{what}: {}", id.as_deref().unwrap_or_default()),
            };
            let lost = if step.answer_lost {
                ", answer lost"
            } else {
                ""
            };
            line(&format!("  {at:>7.2} s  {said}{lost}"));
        }
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Calls: {}, with a fault: {}.",
            self.total, self.with_faults
        )
    }
}

impl Calls {
    fn print(&self) {
        line(&format!("\n{self}"));
        for (operation, count) in &self.by_operation {
            line(&format!("  {count:>5}  {operation}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser;
    use embedded_aws::{Action, Rule, Settings};
    use serde_json::json;

    use super::*;
    use crate::cli::rehearse::scene;
    use crate::domain::binding::DELETED;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[tokio::test]
    async fn a_change_whose_answer_was_lost_is_reported_in_its_place() {
        let options = Line::parse_from(["rehearse"]).options;
        let config = scene::config(&options, &BTreeMap::new()).unwrap();
        let aws = EmbeddedAws::new(Clock::system(), Settings::default());
        let scene = Scene::set(&aws, &config, 1).unwrap();
        let service = scene.rejections[0].service.clone();
        let mut report = Report::new(&scene, Clock::system());
        aws.add_rule(Rule::on("PutParameter").then(Action::DropAfter));
        let body =
            json!({ "Name": service.staging_parameter, "Value": DELETED, "Overwrite": true });
        let request = http::Request::post("http://aws.test/")
            .header("x-amz-target", "AmazonSSM.PutParameter")
            .body(body.to_string().into_bytes());
        aws.handle(request.unwrap()).await;
        let what = What::Waited {
            wait: "detach_propagated",
            took: Duration::from_secs(1),
        };
        let execution_id = service.execution_id.clone();
        report.milestone(&Milestone { execution_id, what });
        let summary = report.summary((&aws, &scene), &options, None, false);
        let steps: Vec<_> = summary.items[0]
            .steps
            .iter()
            .map(|step| (step.name, step.answer_lost))
            .collect();
        let expected = [("record_deleted", true), ("detach_propagated", false)];
        assert_eq!((steps.as_slice(), summary.passed), (&expected[..], false));
    }
}
