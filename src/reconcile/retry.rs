//! Making a job's calls: again where the next try may succeed, and none once the job is told to stop.

use std::time::Duration;

use tracing::warn;

use super::{Ended, Halt, Job, Reconciler};
use crate::aws::AwsError;
use crate::domain::error_class::{Conflict, ErrorClass};
use crate::telemetry::{chain, ms};

/// Tries of one call within a job, each of which the SDK tries three times by itself. After that
/// the message is released, so that the redrive policy can end what never ends by itself.
pub(super) const CALL_TRIES: u32 = 3;

/// No pause between two tries of a call is longer: a job holds its production distribution.
const MAX_CALL_PAUSE: Duration = Duration::from_secs(5);

/// How one job makes its calls.
#[derive(Clone, Copy)]
pub(super) struct Calls<'a> {
    pub(super) context: &'a Reconciler,
    pub(super) job: &'a Job,
}

impl Calls<'_> {
    pub(super) fn heed_stop(&self) -> Result<(), Halt> {
        match self.job.stop.reason() {
            Some(reason) => Err(Ended::Stopped(reason).into()),
            None => Ok(()),
        }
    }

    /// Waits for something that can be given up at any time.
    pub(super) async fn unless_stopped<T>(&self, wait: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            biased;
            reason = self.job.stop.stopped() => Err(Ended::Stopped(reason).into()),
            done = wait => Ok(done),
        }
    }

    /// Waits after so many failures in a row, of which this is the last.
    pub(super) async fn pause(&self, error: &AwsError, failures: u32) -> Result<(), Halt> {
        let backoff = self.context.settings.backoff;
        let delay = backoff.delay(failures, &mut fastrand::Rng::new());
        let delay = delay.min(MAX_CALL_PAUSE);
        warn!(
            error = chain(error),
            retry.in_ms = ms(delay),
            "call failed; trying again"
        );
        self.unless_stopped(tokio::time::sleep(delay)).await
    }

    /// Makes a call, and again after a pause if it failed in a way that the next try may not.
    /// A call that has begun is never cut off.
    pub(super) async fn call<T, F>(&self, call: impl Fn() -> F) -> Result<T, Halt>
    where
        F: Future<Output = Result<T, AwsError>>,
    {
        let mut failures = 0;
        loop {
            self.heed_stop()?;
            self.job.activity.beat();
            let error = match Box::pin(call()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // It may not have been begun for that reason.
            self.heed_stop()?;
            let again = error.class.is_transient()
                || error.class == ErrorClass::Conflict(Conflict::ConcurrentWrite);
            failures += 1;
            if !again || failures == CALL_TRIES {
                return Err(error.into());
            }
            self.pause(&error, failures).await?;
        }
    }
}
