//! A job whose target is only observed: the rejection is verified, attributed and planned, and nothing is changed.
//!
//! **Guarantees.** No call that changes anything is made, no program is run, and nothing is bound in the ledger: the
//! job takes no turn, holds no production distribution and waits for nobody. It has a key of its own
//! ([`ResolvedTarget::key`](crate::domain::targets::ResolvedTarget::key)), so that it is not done for who acts.
//!
//! Whatever would touch nothing anyway ends as it does for who acts.

use super::question::{Answer, Learned};
use super::retry::Calls;
use super::run::Run;
use super::{Done, Ended, Halt, Job, Reconciler, complete};
use crate::domain::decision::{Decision, Observed, Outcome, Wait, decide};
use crate::domain::history::{Ids, Kind, Note};
use crate::reconcile::dry_run::{End, Planned, foresee};

/// The question's name in logs.
const OBSERVING: &str = "observe";

/// What the run of the target's program is called in a job's history.
const RUN_PROGRAM: &str = "run_program";

impl Reconciler {
    /// Finds out what would be done for the job, and notes it.
    pub(super) async fn observe(
        &self,
        job: &Job,
        cleanup: Option<&mut Run<'_>>,
    ) -> Result<Ended, Halt> {
        let calls = Calls { context: self, job };
        let mut planned: Vec<String> = Vec::new();
        let outcome = match cleanup {
            Some(run) => match run.foresee(&mut planned).await {
                Ok(outcome) => outcome,
                Err(Halt::Ended(Ended::Succeeded(done))) => done.outcome,
                Err(halt) => return Err(halt),
            },
            None => {
                calls.hold_for_delay().await?;
                Outcome::Ran
            }
        };
        if let Some(program) = job.target().program.as_ref().filter(|_| outcome.stands()) {
            self.note_planned(job, RUN_PROGRAM);
            planned.push(format!("run {}", program.path().display()));
        }
        if planned.is_empty() {
            return Ok(outcome.into());
        }
        calls.heed_stop()?;
        if self.settings.verify.is_some() {
            job.activity.set("asking_codepipeline");
            let learned = Learned::default();
            let reply = calls.call(|| calls.ask(None, &learned)).await?;
            // Whatever would have to be waited for is not waited for.
            if let Answer::Ends(ended) = calls.answer(OBSERVING, reply) {
                return Err(ended.into());
            }
        }
        Ok(Ended::Succeeded(Done {
            outcome: Outcome::Observed,
            detail: Some(format!(
                "nothing was changed; would: {}",
                planned.join(", ")
            )),
        }))
    }

    fn note_planned(&self, job: &Job, step: &'static str) {
        let note = Note::Entry(Kind::Planned, step);
        job.grant.note(note);
    }
}

impl Run<'_> {
    /// The steps that would be taken, in words, and how a run would end that has none.
    async fn foresee(&mut self, planned: &mut Vec<String>) -> Result<Outcome, Halt> {
        self.find_out().await?;
        let mut superseded = self.binding.evidence.superseded;
        for index in 0..self.binding.count() {
            if index > 0 {
                self.turn_to(index);
            }
            let Some(observed) = self.look_for_forecast().await? else {
                superseded = true;
                continue;
            };
            complete(&mut self.binding, index, &observed);
            self.note_found();
            let binding = self.binding.about(index);
            let forecast = foresee(&binding, observed.clone());
            match forecast.end {
                End::Refused(refusal) => return Err(self.fence(refusal, &observed)),
                End::Done(outcome) => superseded |= outcome == Outcome::Superseded,
                End::Open => {}
            }
            let mut steps = Vec::new();
            for step in &forecast.steps {
                let Planned::Apply(step) = step else { continue };
                self.note(Kind::Planned, step.name());
                steps.push(step.name());
            }
            if !steps.is_empty() {
                let (staging, production) = (&binding.staging_id, &binding.production_id);
                let steps = steps.join(", ");
                planned.push(format!("{steps} (staging {staging} of {production})"));
            }
        }
        Ok(match superseded {
            true => Outcome::Superseded,
            false => Outcome::AlreadyClean,
        })
    }

    fn note_found(&self) {
        let binding = &self.binding;
        let ids = Ids {
            production_id: Some(binding.production_id.clone()),
            staging_id: Some(binding.staging_id.clone()),
            policy_id: binding.policy_id.clone(),
            more_staging_ids: binding
                .evidence
                .more
                .iter()
                .map(|it| it.id.clone())
                .collect(),
        };
        self.job.grant.note(Note::Found(ids));
    }

    /// What a forecast goes by; `None` if the staging distribution is somebody else's by now.
    async fn look_for_forecast(&mut self) -> Result<Option<Observed>, Halt> {
        loop {
            self.calls.heed_stop()?;
            self.job.activity.set("observing");
            let observed = self.observe().await?;
            if self.is_modified_by_others(&observed).await? {
                return Ok(None);
            }
            let decision = decide(&self.binding.about(self.index), &observed, &self.progress);
            match decision {
                Decision::Wait(Wait::Evidence) => self.wait(Wait::Evidence).await?,
                _ => return Ok(Some(observed)),
            }
        }
    }
}
