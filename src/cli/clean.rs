//! `clean`: one cleanup by hand, with progress on the terminal.

mod document;
mod halfway;
mod progress;

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Invocation;
use super::setup::{Setup, TargetArgument, load};
use super::terminal::{self, Style, describe, moment, print, print_json};
use super::width::Width;
use super::{FATAL, open_job, plan};
use crate::aws::cloudfront::Reading;
use crate::daemon::signals::{Request, Requests};
use crate::domain::binding::Slot;
use crate::domain::history::{self, State, usual_propagation};
use crate::domain::targets::Mode;
use crate::domain::targets::lookup::Named;
use crate::ledger::{Ledger, Unfinished};
use crate::ops::clean::{ByHand, Cleaned, Order};
use crate::reconcile::accounts::Accounts;
use crate::reconcile::dry_run::{End, Forecast, Found, look};
use crate::reconcile::{Done, Ended, Refused};
use crate::runtime::clock::Clock;
use crate::runtime::stop::{Stop, StopReason};
use crate::runtime::tasks::Tasks;
use crate::telemetry::{Milestone, What};
use progress::Progress;

/// What `clean` takes besides its target.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Do not ask. Needed where there is no terminal.
    #[arg(short, long)]
    yes: bool,
    /// Only look, as `plan` does.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Write one JSON document at the end, and no progress. Needs --yes.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    width: Width,
}

impl Options {
    /// Whether there would be nobody to ask.
    pub(super) fn needs_yes(&self) -> bool {
        self.json && !self.yes && !self.dry_run
    }

    /// What `plan` is to do in its place.
    pub(super) fn only_looks(&self) -> Option<plan::Options> {
        let Self { json, width, .. } = *self;
        self.dry_run.then(|| plan::Options::of_clean(json, width))
    }
}

/// Cleans, and returns 0 if nothing is left behind.
///
/// # Errors
/// If the target cannot be told, AWS cannot be asked, or the ledger cannot be used.
pub(super) async fn clean(
    from: &Invocation,
    target: &TargetArgument,
    options: &Options,
) -> anyhow::Result<u8> {
    let config = load(from)?;
    let (sender, milestones) = mpsc::unbounded_channel();
    let setup = Setup::new(config, from, |telemetry| telemetry.with_milestones(sender)).await?;
    let named = setup.named(target).await?;
    let tasks = Tasks::default();
    let _ended = tasks.end_on_drop();
    let accounts = setup.accounts(&tasks);
    let account = accounts.get(&named.target.access);
    let access = &named.target.access;
    let Some(parameters) = &named.target.parameters else {
        anyhow::bail!(
            "the target {} takes nothing down: it only runs a program, for an event",
            named.target.label
        );
    };
    let warnings = warnings(&setup, options);
    let place = accounts.place(parameters, access);
    let ledger = setup.ledger_beside().await?;
    let resumes = ByHand::open_job(&*ledger, &named).await?;
    let bound = resumes.as_ref().map(|open| open.binding.clone());
    let found = look(&account.clients, parameters, bound).await?;
    let forecast = found.forecast();
    let records = setup.history().await.unwrap_or_default();
    let resumed = resumes.as_ref();
    let resumed = resumed.and_then(|open| open_job::of_key(&records, &open.key));
    if !options.json {
        let style = Style::stdout();
        let mut text = plan::heading(&named, style);
        if named.target.mode == Mode::Observe {
            text.push_str("mode observe is the daemon's: this takes down, after your yes\n");
        }
        text.push_str(&plan::inventory(parameters, &found, &setup.clock, style));
        match &resumes {
            Some(open) => {
                let listed = plan::listed(&forecast, &found, place, style);
                text.push_str(&left(open, resumed, &listed, &setup.clock, style));
            }
            // What is left is what somebody is doing.
            None if at_work(&records, &named).is_some() => {}
            None => {
                let heading = "What will be done";
                text.push_str(&plan::steps(&forecast, &found, place, heading, style));
            }
        }
        print(&options.width.fit(&text))?;
    }
    let Some(order) = order(&named, resumes, &found, &forecast) else {
        if let Some(record) = at_work(&records, &named) {
            return beside_another(&named, &warnings, &forecast, record, options);
        }
        if options.json {
            let came = plan::came(&found, place, &forecast);
            print_json(&document::nothing(&named, &warnings, &forecast, came))?;
        }
        return Ok(match forecast.end {
            End::Refused(_) => FATAL,
            End::Done(_) | End::Open => 0,
        });
    };
    if !options.yes && !confirmed(&order)? {
        return Ok(FATAL);
    }
    let done = resumed.map(open_job::done).unwrap_or_default();
    let shown = Shown {
        forecast,
        done,
        target,
        warnings: &warnings,
    };
    perform(
        &setup, accounts, ledger, &order, &shown, options, milestones,
    )
    .await
}

/// What a person is told before anything is looked at.
fn warnings(setup: &Setup, options: &Options) -> Vec<String> {
    let Some(missing) = setup.missing_ledger() else {
        return Vec::new();
    };
    let warning = format!(
        "{missing}; this makes one, of which a daemon whose ledger is elsewhere does not know"
    );
    if !options.json {
        eprintln!("stagesweep: {warning}");
    }
    vec![warning]
}

/// Somebody else works on it.
fn beside_another(
    named: &Named,
    warnings: &[String],
    forecast: &Forecast,
    record: &history::Record,
    options: &Options,
) -> anyhow::Result<u8> {
    if options.json {
        print_json(&document::busy(named, warnings, forecast, record))?;
    } else {
        eprintln!(
            "stagesweep: {}; nothing was changed. Watch it with `stagesweep history show {}`",
            being_cleaned(record),
            record.execution_id()
        );
    }
    Ok(FATAL)
}

/// What the person was shown.
struct Shown<'a> {
    forecast: Forecast,
    /// The steps that earlier runs of the job have done.
    done: Vec<&'a str>,
    /// What was named.
    target: &'a TargetArgument,
    warnings: &'a [String],
}

/// What is to be cleaned: the open job, or else what the parameter names.
fn order(
    named: &Named,
    resumes: Option<Unfinished>,
    found: &Found,
    forecast: &Forecast,
) -> Option<Order> {
    let named = named.clone();
    let shown = found.staging.as_ref().and_then(Reading::modified);
    if let Some(open) = resumes {
        return Some(Order {
            named,
            staging_id: open.binding.staging_id.clone(),
            version: open.binding.evidence.version,
            shown,
            resumes: Some(open),
        });
    }
    let parameter = found.staging_parameter.as_ref();
    let parameter = parameter.filter(|_| !matches!(forecast.end, End::Refused(_)))?;
    match Slot::read(&parameter.value) {
        Slot::Distribution(id) => Some(Order {
            named,
            staging_id: id.to_owned(),
            version: parameter.version,
            shown,
            resumes: None,
        }),
        Slot::Vacant | Slot::Secure | Slot::Invalid => None,
    }
}

/// What an open job has done already, and what is left of it.
fn left(
    open: &Unfinished,
    record: Option<&history::Record>,
    listed: &str,
    clock: &Clock,
    style: Style,
) -> String {
    let heading = "An open job, which this goes on with";
    let mut text = match record {
        Some(record) => open_job::told(record, heading, clock, style),
        None => format!("\n{}\n  {}\n", style.bold(heading), open.key.as_str()),
    };
    text.push_str(&format!("\n{}\n", style.bold("What is left of it")));
    text.push_str(listed);
    let more = open.binding.evidence.more.iter();
    let more: Vec<&str> = more.map(|staged| staged.id.as_str()).collect();
    if !more.is_empty() {
        let more = more.join(", ");
        text.push_str(&format!(
            "  Then the same for the execution's other ones: {more}.\n"
        ));
    }
    text
}

/// Asks the person at the terminal.
fn confirmed(order: &Order) -> anyhow::Result<bool> {
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "there is no terminal to ask on: add --yes to take {} down",
        order.staging_id
    );
    let ask = match order.resumes {
        Some(_) => "Go on taking down",
        None => "Take down",
    };
    let yes = terminal::confirmed(&format!(
        "\n{ask} the staging distribution {} of {}",
        order.staging_id, order.named.pipeline.name
    ))?;
    if !yes {
        println!("Nothing was changed.");
    }
    Ok(yes)
}

fn by_hand(setup: &Setup, accounts: Accounts, ledger: Arc<dyn Ledger>) -> ByHand {
    ByHand {
        reconciler: setup.reconciler(accounts, Arc::clone(&ledger)),
        ledger,
        targets: Arc::new(setup.config.targets.clone()),
        clock: setup.clock.clone(),
        terms: setup.config.queue.terms(),
    }
}

async fn perform(
    setup: &Setup,
    accounts: Accounts,
    ledger: Arc<dyn Ledger>,
    order: &Order,
    shown: &Shown<'_>,
    options: &Options,
    mut milestones: mpsc::UnboundedReceiver<Milestone>,
) -> anyhow::Result<u8> {
    let by_hand = by_hand(setup, accounts, ledger);
    let mut requests = Requests::listen().context("signal handlers could not be installed")?;
    // Only an estimate hangs on it.
    let usual = usual_propagation(&setup.history().await.unwrap_or_default());
    let began = Instant::now();
    let mut progress = (!options.json).then(|| Progress::new(&shown.forecast, usual, began));

    let mut made: Vec<&'static str> = Vec::new();
    let mut happened = |milestone: &Milestone, progress: &mut Option<Progress>| {
        if let What::Applied { step } = milestone.what {
            made.push(step);
        }
        if let Some(progress) = progress {
            progress.milestone(milestone);
        }
    };
    let stop = Stop::default();
    let cleaning = by_hand.clean(order, &stop);
    tokio::pin!(cleaning);
    let cleaned = loop {
        tokio::select! {
            biased;
            cleaned = &mut cleaning => break cleaned,
            Some(milestone) = milestones.recv() => happened(&milestone, &mut progress),
            request = requests.next() => {
                if let Request::Stop { .. } = request {
                    if let Some(progress) = &progress {
                        progress.say("stopping at the next step boundary");
                    }
                    stop.now(StopReason::ShuttingDown);
                }
            }
            () = Progress::tick(progress.as_ref()) => {}
        }
    };
    while let Ok(milestone) = milestones.try_recv() {
        happened(&milestone, &mut progress);
    }
    if let Some(progress) = progress {
        progress.close();
    }
    let halfway = halfway::Made {
        before: &shown.done,
        now: &made,
    };
    let halfway = halfway::said(&shown.forecast, &halfway, shown.target);
    let cleaned = cleaned?;
    let outcome = document::outcome(&cleaned);
    let verdict = verdict(setup, order, cleaned, &halfway).await;
    if options.json {
        let records = setup.history().await.unwrap_or_default();
        let record = open_job::of_key(&records, &order.key());
        let ended = document::End {
            outcome,
            verdict: &verdict,
            record,
            took: began.elapsed(),
        };
        print_json(&document::ended(order, shown, &ended))?;
    } else if verdict.clean {
        let style = Style::stdout();
        print(&format!("{} {}\n", style.good("Done:"), verdict.detail))?;
    } else {
        eprintln!("stagesweep: {}", verdict.detail);
    }
    Ok(if verdict.clean { 0 } else { FATAL })
}

/// What is said at the end.
struct Verdict {
    clean: bool,
    code: String,
    detail: String,
}

impl Verdict {
    fn new(clean: bool, code: &str, detail: String) -> Self {
        Self {
            clean,
            code: code.to_owned(),
            detail,
        }
    }
}

async fn verdict(setup: &Setup, order: &Order, cleaned: Cleaned, halfway: &str) -> Verdict {
    let staging = &order.staging_id;
    let ended = match cleaned {
        Cleaned::Before(outcome) => {
            let detail = format!("{staging} was taken down before; nothing was changed.");
            return Verdict::new(true, outcome.code(), detail);
        }
        Cleaned::Elsewhere { until } => {
            let detail = format!(
                "{staging} is being taken down elsewhere; should that have been killed, try again after {}",
                moment(until)
            );
            return Verdict::new(false, "leased_elsewhere", detail);
        }
        Cleaned::Ran(ended) => ended,
    };
    let (clean, code, detail) = match ended {
        Ended::Succeeded(Done { outcome, detail }) => (
            true,
            outcome.code(),
            match detail {
                None => format!("{staging}: {}.", describe(outcome.code())),
                Some(detail) => format!("{staging}: {} ({detail}).", describe(outcome.code())),
            },
        ),
        Ended::Refused(Refused { refusal, detail }) => (
            false,
            refusal.code(),
            format!(
                "refused ({}): {detail}; nothing more is touched",
                refusal.code()
            ),
        ),
        Ended::ProgramFailed { status } => (
            false,
            "program_failed",
            format!("the program's exit status is {status}"),
        ),
        Ended::Stopped(StopReason::ShuttingDown) => (
            false,
            StopReason::ShuttingDown.code(),
            format!("stopped {halfway}"),
        ),
        Ended::Stopped(reason) => (
            false,
            reason.code(),
            format!(
                "the right to work on it was lost ({}) {halfway}",
                reason.code()
            ),
        ),
        Ended::ProductionBusy { until } => (
            false,
            "production_busy",
            format!(
                "{}; nothing was changed. Watch it with `stagesweep history`; its lease ends at \
                 {} unless it is renewed",
                busy(&setup.history().await.unwrap_or_default(), order),
                moment(until)
            ),
        ),
        Ended::Failed(failure) => (
            false,
            failure.code(),
            format!("{}; failed {halfway}", failure.cause().detail()),
        ),
    };
    Verdict::new(clean, code, detail)
}

/// The job of the target's pipeline that somebody works on now: the parameter may say `deleted` already.
fn at_work<'a>(records: &'a [history::Record], named: &Named) -> Option<&'a history::Record> {
    let mut records = records.iter();
    records.find(|record| record.state == State::Working && record.pipeline == named.pipeline.name)
}

fn being_cleaned(record: &history::Record) -> String {
    format!(
        "execution {} is being cleaned on the same production distribution; should whoever does it have been \
         killed, his lease ends within queue.visibility_timeout, and this goes on with it then",
        record.execution_id()
    )
}

/// Who holds the production distribution.
fn busy(records: &[history::Record], order: &Order) -> String {
    let key = order.key();
    let other = records.iter().find(|record| {
        record.state == State::Working
            && record.pipeline == order.named.pipeline.name
            && record.key != key
    });
    match other {
        Some(record) => being_cleaned(record),
        None => "another job works on the same production distribution".to_owned(),
    }
}
