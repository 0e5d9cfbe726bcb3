//! Holding a rejection for second thoughts: until the target's delay is over, nothing is changed.
//!
//! The delay counts from when the approval was rejected, by CodePipeline's own record of the attempt. Where
//! CodePipeline is not asked, or does not show the attempt, it counts from when the job was first begun.
//!
//! **Guarantees.** Whoever waits has no place among those that work, and no turn. A restart goes on with what
//! is left of the delay. What CodePipeline does not answer meanwhile ends nothing: it is asked again before
//! the first change.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::hold::Pauses;
use super::question::{Answer, Learned};
use super::retry::Calls;
use super::{Ended, Halt};
use crate::domain::history::{Kind, Note};
use crate::domain::verdict;
use crate::runtime::lasting::Lasting;
use crate::telemetry::events;

/// The name of the wait, in logs and in a job's history.
const DELAY: &str = "delay";

/// Between two looks whether the rejection still stands, of two calls each: the first pause, and the longest.
const FIRST_LOOK: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

impl Calls<'_> {
    /// Waits until the delay is over, unless the job goes on with an earlier run or is a person's. Answers
    /// whether that took any time. A rejection that does not stand any more ends the job.
    pub(super) async fn hold_for_delay(&self) -> Result<bool, Halt> {
        let delay = self.job.target().delay;
        if delay.is_zero() || self.job.is_by_hand() || self.job.binding.is_some() {
            return Ok(false);
        }
        let rejected_at = self.rejected_at().await?;
        let left = || delay.saturating_sub(self.context.clock.since(rejected_at));
        if left().is_zero() {
            return Ok(false);
        }
        let say = |since| {
            self.context.telemetry.emit(events::HeldForDelay {
                job: self.job.execution_id(),
                delay,
                left: left(),
                since,
            });
        };
        let note = |kind| {
            let note = Note::Entry(kind, DELAY);
            self.job.grant.note(note);
        };
        note(Kind::Waiting);
        say(None);
        let mut waiting = Lasting::begin();
        let mut pauses = Pauses {
            next: FIRST_LOOK,
            longest: LONGEST_PAUSE,
        };
        self.job.place.leave();
        while !left().is_zero() {
            self.job.activity.rest(DELAY);
            let pause = sleep(pauses.pause().min(left()));
            let pause = waiting.until(pause, |took| say(Some(took)));
            self.unless_stopped(pause).await?;
            if let Some(ended) = self.fallen_away().await {
                return Err(ended.into());
            }
        }
        note(Kind::Waited);
        self.context.telemetry.emit(events::HoldEnded {
            job: self.job.execution_id(),
            waiting_for: DELAY,
            took: waiting.took(),
        });
        self.unless_stopped(self.job.place.take()).await?;
        Ok(true)
    }

    /// From when the delay counts.
    async fn rejected_at(&self) -> Result<Timestamp, Halt> {
        if self.context.settings.verify.is_some() {
            let attempts = self.call(|| self.own_attempts()).await?;
            let attempt = verdict::attempt_of(self.job.rejection(), &attempts);
            if let Some(at) = attempt.ok().and_then(|attempt| attempt.updated_at) {
                return Ok(at);
            }
        }
        Ok(self.job.grant.first_claimed_at())
    }

    /// How the job ends, if CodePipeline shows that the rejection does not stand any more.
    async fn fallen_away(&self) -> Option<Ended> {
        self.context.settings.verify?;
        let reply = self.ask(None, &Learned::default()).await.ok()?;
        match self.answer(DELAY, reply) {
            Answer::Ends(ended @ Ended::Succeeded(_)) => Some(ended),
            Answer::Yes | Answer::NotNow(_) | Answer::Ends(_) => None,
        }
    }
}
