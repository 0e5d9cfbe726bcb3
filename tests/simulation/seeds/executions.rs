//! What happens in worlds whose pipelines play whole executions: everything follows from the seed.

use std::time::Duration;

use embedded_aws::{
    ActionDefinition, Decision, Definition, Mode, Pattern, Script, StageDefinition, Work, Writer,
};

use super::scenario::{Happening, MINUTE, Meddling, SECOND, Scenario, pick, within};

/// The stage and the action of the approval; of two, the last one.
pub(crate) const APPROVE: &str = "Approve";

/// The action of an approval in front of it, and its stage, where it has one of its own.
pub(crate) const CHECK: &str = "Check";

/// A pipeline with an approval in front of its approval: in the same stage, or in one of its own.
pub(crate) fn with_check(mut definition: Definition, in_stage: bool) -> Definition {
    let check = ActionDefinition::approval(CHECK);
    if !in_stage {
        return definition.with_stage_before(APPROVE, StageDefinition::new(CHECK, [check]));
    }
    let mut stages = definition.stages.iter_mut();
    if let Some(stage) = stages.find(|stage| stage.name == APPROVE) {
        stage.actions = vec![check, ActionDefinition::approval(APPROVE).after(2)];
    }
    definition
}

/// The stage of that approval.
pub(crate) fn stage_of_check(in_stage: bool) -> &'static str {
    if in_stage { APPROVE } else { CHECK }
}

/// How the pipelines of a world are made and go about their work.
#[derive(Clone, Debug)]
pub(crate) struct Executions {
    pub(crate) mode: Mode,
    pub(crate) pattern: Pattern,
    /// A test of an hour or less stands between deployment and approval.
    pub(crate) tested: bool,
    /// Another pipeline leads to the same parameters.
    pub(crate) another: bool,
    /// The target names the stage that deploys.
    pub(crate) deploy_stage: bool,
    /// Another approval comes before the approval: in the same stage, or not.
    pub(crate) check: Option<bool>,
}

impl Executions {
    pub(crate) fn definition(&self) -> Definition {
        let mut definition = Definition::default().in_mode(self.mode);
        if self.tested {
            let test = [ActionDefinition::build("Test", Work::Nothing)];
            let stage = StageDefinition::new("Test", test);
            definition = definition.with_stage_before(APPROVE, stage);
        }
        match self.check {
            Some(in_stage) => with_check(definition, in_stage),
            None => definition,
        }
    }
}

/// One thing that happens in a pipeline.
#[derive(Clone, Debug)]
pub(crate) enum InPipeline {
    /// An execution begins; its parts take so long.
    Starts {
        another: bool,
        build: Duration,
        pace: Duration,
        cleans: bool,
    },
    /// An approval that waits is decided; its event arrives so much later, this many times.
    Decides {
        decision: Decision,
        late: Duration,
        copies: u32,
        older_form: bool,
    },
    /// The failed stage of an approval is retried.
    Retries,
    /// A stage is rolled back.
    RollsBack { stage: &'static str },
    /// Whatever runs is abandoned, and its builds go on.
    Abandons,
    /// A firewall manager modifies production, or the newest staging distribution.
    FirewallManager { production: bool },
    /// An earlier rejection's event comes again with its own ids, and with other times.
    Forged { minutes: i64 },
    /// An operator writes an id back that stood in the parameter before.
    WritesBack,
    /// Somebody disables the transition into a stage, or enables it.
    Transition { stage: &'static str, enabled: bool },
}

impl Scenario {
    /// In half of the worlds pipelines play whole executions. They draw from a generator of their own, as
    /// [`Scenario::retries`] does, and nothing else is told of deployments there.
    pub(super) fn executions(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6578_6563_7574_6500,
        );
        let rng = &mut rng;
        if rng.bool() {
            return;
        }
        let patterns = [
            Pattern::New,
            Pattern::New,
            Pattern::ReuseRecordedOnce,
            Pattern::ReuseRecordedAlways,
        ];
        self.executions = Some(Executions {
            mode: pick(rng, &[Mode::Superseded, Mode::Queued, Mode::Parallel]),
            pattern: pick(rng, &patterns),
            tested: rng.u32(..4) == 0,
            another: rng.u32(..4) == 0,
            deploy_stage: rng.bool(),
            check: None,
        });
        self.verify = true;
        self.services = self.services.min(6);
        let writers = [
            Writer::Build,
            Writer::Build,
            Writer::Batch,
            Writer::Deployer,
        ];
        self.switches.writer = pick(rng, &writers);
        self.switches.modified_when_deployed = rng.u32(..8) == 0;
        self.switches.promotion_needs_policy = rng.u32(..4) == 0;
        self.happenings.retain(|(_, what)| {
            !matches!(
                what,
                Happening::Reject { .. }
                    | Happening::Again { .. }
                    | Happening::Redeploy { .. }
                    | Happening::Approve { .. }
                    | Happening::Retry { .. }
                    | Happening::Operator {
                        what: Meddling::DisablesStaging,
                        ..
                    }
            )
        });
        for service in 0..self.services {
            for _ in 0..4 + rng.usize(..8) {
                let at = within(rng, self.calm_at);
                let what = self.in_pipeline(rng);
                self.happenings
                    .push((at, Happening::InPipeline { service, what }));
            }
            // At the end, somebody rejects what still waits.
            for after in 1..=2 {
                let at = self.calm_at + MINUTE * 10 * after;
                let what = InPipeline::Decides {
                    decision: Decision::Rejected(None),
                    late: Duration::ZERO,
                    copies: 1,
                    older_form: false,
                };
                self.happenings
                    .push((at, Happening::InPipeline { service, what }));
            }
        }
    }

    /// In some of those worlds an approval follows another one, and in some transitions are disabled for a while. Drawn
    /// from a generator of its own, as [`Scenario::retries`] is.
    pub(super) fn stages(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7374_6167_6573_0000,
        );
        let rng = &mut rng;
        let Some(executions) = &mut self.executions else {
            return;
        };
        executions.check = pick(rng, &[None, None, None, Some(true), Some(false)]);
        if rng.u32(..4) > 0 {
            return;
        }
        for service in 0..self.services {
            let stage = pick(rng, &["Deploy", APPROVE, "Promote"]);
            let from = within(rng, self.calm_at);
            let until = from + within(rng, self.calm_at - from);
            for (at, enabled) in [(from, false), (until, true)] {
                let what = InPipeline::Transition { stage, enabled };
                self.happenings
                    .push((at, Happening::InPipeline { service, what }));
            }
        }
    }

    fn in_pipeline(&self, rng: &mut fastrand::Rng) -> InPipeline {
        let another = self.executions.as_ref().is_some_and(|it| it.another);
        match rng.u32(..20) {
            0..7 => InPipeline::Starts {
                another: another && rng.bool(),
                build: pick(rng, &[SECOND, 30 * SECOND, 2 * MINUTE, 10 * MINUTE]),
                pace: pick(rng, &[SECOND, SECOND, 4 * SECOND, 20 * SECOND]),
                cleans: rng.u32(..3) == 0,
            },
            7..14 => {
                let rejected = Decision::Rejected(None);
                let decisions = [
                    rejected.clone(),
                    rejected.clone(),
                    rejected.clone(),
                    rejected,
                    Decision::Approved,
                    Decision::Approved,
                    Decision::Expired,
                    Decision::Misconfigured,
                ];
                InPipeline::Decides {
                    decision: pick(rng, &decisions),
                    late: match rng.u32(..4) {
                        0 => within(rng, 10 * MINUTE),
                        _ => Duration::ZERO,
                    },
                    copies: pick(rng, &[1, 1, 1, 2, 4]),
                    older_form: rng.u32(..8) == 0,
                }
            }
            14..16 => InPipeline::Retries,
            16 => InPipeline::RollsBack {
                stage: pick(rng, &["Deploy", APPROVE]),
            },
            17 => InPipeline::Abandons,
            18 => match rng.u32(..3) {
                0 => InPipeline::WritesBack,
                turn => InPipeline::FirewallManager {
                    production: turn == 1,
                },
            },
            _ => InPipeline::Forged {
                minutes: pick(rng, &[-60 * 24 * 90, -30, -1, 1, 30]),
            },
        }
    }

    /// The script of an execution that begins.
    pub(crate) fn script(&self, build: Duration, pace: Duration, cleans: bool) -> Script {
        let pattern = self.executions.as_ref().map(|it| it.pattern);
        Script {
            source: SECOND,
            build,
            pattern: pattern.unwrap_or_default(),
            pace,
            review: None,
            // Who deploys into one distribution for ever does not take it down.
            cleans: cleans && pattern == Some(Pattern::New),
        }
    }
}
