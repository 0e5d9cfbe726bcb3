//! Where notices go: an event bus, and a program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument;

use super::notice::Notice;
use crate::aws::AwsError;
use crate::aws::eventbridge::{Event, EventBridge, MAX_BYTES, MAX_ENTRIES, PutResult};
use crate::domain::error_class::ErrorClass;
use crate::runtime::programs::{Finish, Invocation, Output, Programs, TIME_TO_END};
use crate::runtime::stop::Stop;
use crate::telemetry::{Telemetry, chain, events};

/// The `detail-type` of every event.
pub const DETAIL_TYPE: &str = "stagesweep Outcome";

/// How long the program may take for one notice.
pub const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a notice did not go out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeliveryError {
    pub(super) why: String,
    /// It would be refused again, whatever is mended around it.
    pub(super) permanent: bool,
}

/// Takes notices.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// How many of these, from the first on, go at once. At least one.
    fn at_once(&self, notices: &[Arc<Notice>]) -> usize;

    /// Tries once. The result of each, in their order.
    async fn take(&self, notices: &[Arc<Notice>]) -> Vec<Result<(), DeliveryError>>;
}

pub(super) struct Bus {
    pub(super) events: EventBridge,
    /// By name or ARN.
    pub(super) bus: String,
    pub(super) source: String,
}

impl Bus {
    fn event(&self, notice: &Notice) -> Event {
        Event {
            bus: self.bus.clone(),
            source: self.source.clone(),
            detail_type: DETAIL_TYPE.to_owned(),
            detail: notice.detail.clone(),
            resources: notice.resources.clone(),
        }
    }
}

#[async_trait]
impl Sink for Bus {
    fn name(&self) -> &'static str {
        "event_bus"
    }

    fn at_once(&self, notices: &[Arc<Notice>]) -> usize {
        let mut bytes = 0;
        let fit = notices.iter().take(MAX_ENTRIES).take_while(|notice| {
            bytes += self.event(notice).bytes();
            bytes <= MAX_BYTES
        });
        fit.count().max(1)
    }

    async fn take(&self, notices: &[Arc<Notice>]) -> Vec<Result<(), DeliveryError>> {
        let put: Vec<Event> = notices.iter().map(|notice| self.event(notice)).collect();
        results(self.events.put(&put).await, notices.len())
    }
}

/// What became of each of `count` events. A call that is refused as a whole says nothing of each.
fn results(put: Result<PutResult, AwsError>, count: usize) -> Vec<Result<(), DeliveryError>> {
    let not_taken = |error: &AwsError, alone: bool| DeliveryError {
        why: chain(error),
        permanent: alone && error.class == ErrorClass::Rejected,
    };
    match put {
        Ok(results) => results
            .into_iter()
            .map(|result| result.map_err(|error| not_taken(&error, true)))
            .collect(),
        Err(error) => vec![Err(not_taken(&error, count == 1)); count],
    }
}

/// A program, which gets the notice's JSON on its standard input.
pub(super) struct Program {
    pub(super) programs: Arc<dyn Programs>,
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) telemetry: Arc<Telemetry>,
}

#[async_trait]
impl Sink for Program {
    fn name(&self) -> &'static str {
        "program"
    }

    fn at_once(&self, _notices: &[Arc<Notice>]) -> usize {
        1
    }

    async fn take(&self, notices: &[Arc<Notice>]) -> Vec<Result<(), DeliveryError>> {
        let mut results = Vec::new();
        for notice in notices {
            let invocation = Invocation {
                path: self.path.clone(),
                arguments: self.arguments.clone(),
                pass_environment: Vec::new(),
                environment: Vec::new(),
                input: notice.detail.clone(),
                timeout: PROGRAM_TIMEOUT,
                after_stop: Duration::ZERO,
                time_to_end: TIME_TO_END,
            };
            let told = |output: Output, line: &str| {
                self.telemetry.emit(events::ProgramOutput {
                    output: output.name(),
                    line,
                });
            };
            let stop = Stop::default();
            let finish = self.programs.run(&invocation, &stop, &told);
            let why = match finish.instrument(notice.span()).await {
                Ok(Finish::Exited(0)) => None,
                Ok(Finish::Exited(status)) => Some(format!("exit status {status}")),
                Ok(Finish::Signalled(signal)) => Some(format!("ended by signal {signal}")),
                Ok(Finish::TimedOut) => Some("it took longer than a minute".to_owned()),
                Ok(Finish::Stopped(_)) => Some("it was stopped".to_owned()),
                Err(error) => Some(chain(&error)),
            };
            let permanent = false;
            results.push(why.map_or(Ok(()), |why| Err(DeliveryError { why, permanent })));
        }
        results
    }
}
