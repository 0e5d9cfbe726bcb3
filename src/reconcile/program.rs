//! Running the program of a target, once the cleanup is done where it has one.
//!
//! **Guarantees.** The program runs under the job's grant, and the job is done only after the program's
//! own success: it runs at least once. **Not guaranteed** that it runs only once: a process that is
//! killed, or loses its lease, between the program's end and the ledger's record of it, leaves the job
//! to be resumed.

use std::io;
use std::time::Duration;

use super::retry::Calls;
use super::{Ended, Failure, Halt, Job, Reconciler};
use crate::domain::decision::Outcome;
use crate::domain::history::{Kind, Note};
use crate::domain::targets::{OptionArgument, Program};
use crate::runtime::lasting::Lasting;
use crate::runtime::programs::{Finish, Invocation, Output, TIME_TO_END};
use crate::telemetry::events;

/// The activity's name, in the log and in a job's history.
const RUNNING: &str = "running_program";

/// Of the grace period so much is kept for giving the message back; of a short one a quarter.
const TIME_TO_SETTLE: Duration = Duration::from_secs(2);

/// Why a program's work is not done yet.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFailure {
    /// One of its arguments would be an option.
    #[error(transparent)]
    Argument(OptionArgument),
    /// It could not be started.
    #[error("the program could not be started")]
    NotStarted(#[source] io::Error),
    /// It was ended after its timeout.
    #[error("the program ran for longer than {}, and was ended", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// Something else ended it.
    #[error("the program was ended by signal {0}")]
    Signalled(i32),
    /// Its exit status asks for another try.
    #[error("the program asks to be run again: exit status {0}")]
    TryAgain(i32),
}

impl ProgramFailure {
    /// A bounded code for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Argument(_) => OptionArgument::CODE,
            Self::NotStarted(_) => "program_not_started",
            Self::TimedOut(_) => "program_timed_out",
            Self::Signalled(_) => "program_signalled",
            Self::TryAgain(_) => "program_try_again",
        }
    }
}

/// What a cleanup has seen to already, and the program after it need not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cleared {
    /// The target's delay is over.
    pub(super) delayed: bool,
    /// CodePipeline has told this run that the rejection stands.
    pub(super) verified: bool,
}

impl Reconciler {
    /// Runs the program of a job whose cleanup, if it has one, came to `outcome`. Unless the cleanup
    /// has done so, the delay is waited for, and it is verified that the rejection still stands.
    pub(super) async fn run_program(
        &self,
        job: &Job,
        program: &Program,
        outcome: Outcome,
        cleared: Cleared,
    ) -> Result<Ended, Halt> {
        let calls = Calls { context: self, job };
        calls.heed_stop()?;
        let arguments = match program.arguments(job.rejection()) {
            Ok(arguments) => arguments,
            Err(fault) => {
                return Ok(Ended::Failed(Failure::Program(ProgramFailure::Argument(
                    fault,
                ))));
            }
        };
        if !cleared.delayed {
            calls.hold_for_delay().await?;
        }
        if !cleared.verified {
            calls.verify(RUNNING).await?;
        }
        job.activity
            .set_for(RUNNING, program.timeout + 2 * TIME_TO_END);
        let execution_id = job.execution_id();
        self.telemetry.emit(events::ProgramStarted {
            execution_id,
            program: &program.path().to_string_lossy(),
        });
        job.grant.note(Note::Entry(Kind::Waiting, RUNNING));
        let mut running = Lasting::begin();
        let invocation = invocation(job, program, arguments, outcome, self.settings.grace_period);
        let told = |output: Output, line: &str| {
            self.telemetry.emit(events::ProgramOutput {
                output: output.name(),
                line,
            });
        };
        let lasts = |took| {
            let wait = RUNNING;
            self.telemetry.emit(events::WaitLasts { wait, took });
        };
        let run = self.programs.run(&invocation, &job.stop, &told);
        let finish = running.until(run, lasts).await;
        job.grant.note(Note::Entry(Kind::Waited, RUNNING));
        self.telemetry.emit(events::ProgramEnded {
            execution_id,
            finish: finish.as_ref().ok(),
            took: running.took(),
        });
        let failure = match finish {
            Ok(Finish::Exited(0)) => return Ok(outcome.into()),
            Ok(Finish::Stopped(reason)) => return Ok(Ended::Stopped(reason)),
            Ok(Finish::Exited(status)) if program.retry_on.contains(&status) => {
                ProgramFailure::TryAgain(status)
            }
            Ok(Finish::Exited(status)) => return Ok(Ended::ProgramFailed { status }),
            Ok(Finish::Signalled(signal)) => ProgramFailure::Signalled(signal),
            Ok(Finish::TimedOut) => ProgramFailure::TimedOut(program.timeout),
            Err(error) => ProgramFailure::NotStarted(error),
        };
        Ok(Ended::Failed(Failure::Program(failure)))
    }
}

fn invocation(
    job: &Job,
    program: &Program,
    arguments: Vec<String>,
    outcome: Outcome,
    grace: Duration,
) -> Invocation {
    let time_to_end = TIME_TO_END.min(grace / 2);
    let after_stop = grace - time_to_end - TIME_TO_SETTLE.min(grace / 4);
    let rejection = job.rejection();
    let pipeline = &rejection.pipeline;
    let environment = [
        ("STAGESWEEP_OUTCOME", outcome.code()),
        ("STAGESWEEP_EXECUTION_ID", &rejection.execution_id),
        ("STAGESWEEP_PIPELINE", &pipeline.name),
        ("STAGESWEEP_STAGE", &rejection.stage),
        ("STAGESWEEP_ACTION", &rejection.action),
        ("STAGESWEEP_ACCOUNT", &pipeline.account),
        ("STAGESWEEP_REGION", &pipeline.region),
    ];
    Invocation {
        path: program.path().to_owned(),
        arguments,
        pass_environment: program.pass_environment.clone(),
        environment: environment
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        input: job
            .assignment
            .event
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        timeout: program.timeout,
        after_stop,
        time_to_end,
    }
}
