//! An execution of a pipeline, its actions, and what both come to.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::services::codepipeline::definition::{
    ActionDefinition, Category, Definition, Mode, StageDefinition, Work,
};
use crate::services::codepipeline::script::Script;
use crate::services::codepipeline::service::Service;
use crate::wire::ids::stable_hash;
use crate::wire::settings::Place;

/// What an execution is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It goes through the pipeline from the source on.
    #[default]
    Standard,
    /// It runs one stage again, with what an earlier execution built.
    Rollback,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::Rollback => "ROLLBACK",
        }
    }
}

pub(crate) const IN_PROGRESS: &str = "InProgress";
pub(crate) const SUCCEEDED: &str = "Succeeded";
pub(crate) const FAILED: &str = "Failed";
pub(crate) const ABANDONED: &str = "Abandoned";

/// One run of an action.
#[derive(Clone, Debug)]
pub(crate) struct ActionExecution {
    pub(crate) id: String,
    pub(crate) stage: String,
    pub(crate) action: String,
    pub(crate) category: Category,
    pub(crate) provider: String,
    pub(crate) work: Work,
    /// Of its stage, counted from 1.
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) status: &'static str,
    /// The ARN of whoever ended it.
    pub(crate) by: Option<String>,
    pub(crate) summary: Option<String>,
    pub(crate) error_code: Option<&'static str>,
    /// What carries it out calls it so: `PROJECT:UUID` of a build.
    pub(crate) external: Option<String>,
}

impl ActionExecution {
    pub(crate) fn runs(&self) -> bool {
        self.status == IN_PROGRESS
    }

    pub(crate) fn end(&mut self, status: &'static str, at: Timestamp) {
        self.status = status;
        self.updated = at.max(self.started);
    }

    /// The UUID of its build.
    pub(crate) fn build(&self) -> Option<&str> {
        let external = self.external.as_deref()?;
        external.split_once(':').map(|(_, uuid)| uuid)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) started: Timestamp,
    /// How it was ended other than by its actions, and when: `Stopped` or `Superseded`.
    pub(crate) ended: Option<(&'static str, Timestamp)>,
    /// It is to end as soon as what it is doing ends.
    pub(crate) stopping: bool,
    /// The stage in front of which it waits, and since when.
    pub(crate) waits: Option<(usize, Timestamp)>,
    /// In the order in which they began.
    pub(crate) actions: Vec<ActionExecution>,
    /// By stage: the attempt from which on its actions count. Earlier ones were run again.
    pub(crate) floors: BTreeMap<String, u32>,
    /// What it deploys; the newest of what it deployed.
    pub(crate) service: Service,
    pub(crate) things: Place,
    /// Its stages are entered when somebody says so, whoever else is in them.
    pub(crate) loose: bool,
    /// How its actions go on by themselves; without one they wait for whoever tells the story.
    pub(crate) script: Option<Script>,
}

impl Execution {
    pub(crate) fn of(service: &Service, things: &Place, started: Timestamp) -> Self {
        Self {
            id: service.execution_id.clone(),
            kind: Kind::Standard,
            mode: Mode::default(),
            started,
            ended: None,
            stopping: false,
            waits: None,
            actions: Vec::new(),
            floors: BTreeMap::new(),
            service: service.clone(),
            things: things.clone(),
            loose: false,
            script: None,
        }
    }

    /// What had begun by then.
    pub(crate) fn begun(
        &self,
        now: Timestamp,
    ) -> impl DoubleEndedIterator<Item = &ActionExecution> {
        self.actions
            .iter()
            .filter(move |action| action.started <= now)
    }

    pub(crate) fn action(&self, id: &str) -> Option<&ActionExecution> {
        self.actions.iter().find(|it| it.id == id)
    }

    pub(crate) fn action_mut(&mut self, id: &str) -> Option<&mut ActionExecution> {
        self.actions.iter_mut().find(|it| it.id == id)
    }

    /// The newest run of an action that counts.
    pub(crate) fn latest(
        &self,
        stage: &str,
        action: &str,
        now: Timestamp,
    ) -> Option<&ActionExecution> {
        let floor = self.floors.get(stage).copied().unwrap_or(0);
        self.begun(now)
            .rfind(|it| it.stage == stage && it.action == action && it.attempt >= floor)
    }

    /// How its run of a stage stands; none if there is none.
    pub(crate) fn stage_status(
        &self,
        stage: &StageDefinition,
        now: Timestamp,
    ) -> Option<&'static str> {
        let latest = |action: &ActionDefinition| self.latest(&stage.name, &action.name, now);
        let all: Vec<_> = stage.actions.iter().map(latest).collect();
        let has = |status| all.iter().flatten().any(|it| it.status == status);
        if all.iter().all(Option::is_none) {
            return None;
        }
        let over = self.ended.is_some() && !has(IN_PROGRESS);
        Some(if has(IN_PROGRESS) {
            IN_PROGRESS
        } else if has(ABANDONED) {
            "Stopped"
        } else if has(FAILED) {
            FAILED
        } else if all.iter().all(Option::is_some) {
            SUCCEEDED
        } else if over {
            "Stopped"
        } else {
            IN_PROGRESS
        })
    }

    /// The stage that it runs, or ran last.
    pub(crate) fn stage<'a>(
        &self,
        definition: &'a Definition,
        now: Timestamp,
    ) -> Option<&'a StageDefinition> {
        let last = self.begun(now).last()?;
        let place = definition.place_of(&last.stage)?;
        definition.stages.get(place)
    }

    pub(crate) fn status(&self, definition: &Definition, now: Timestamp) -> &'static str {
        if let Some((status, _)) = self.ended.filter(|(_, at)| *at <= now) {
            return status;
        }
        if self.waits.is_some() {
            return IN_PROGRESS;
        }
        let stage = self.stage(definition, now);
        match stage.and_then(|stage| Some((stage, self.stage_status(stage, now)?))) {
            Some((_, IN_PROGRESS)) if self.stopping => "Stopping",
            Some((stage, SUCCEEDED)) => {
                let last = definition.stages.last().map(|it| &it.name);
                if self.kind == Kind::Rollback || last == Some(&stage.name) {
                    SUCCEEDED
                } else {
                    IN_PROGRESS
                }
            }
            Some((_, status)) => status,
            None => IN_PROGRESS,
        }
    }

    pub(crate) fn updated(&self, now: Timestamp) -> Timestamp {
        let ended = self.ended.map(|(_, at)| at);
        let last = self.begun(now).map(|action| action.updated).max();
        let waits = self.waits.map(|(_, since)| since);
        let latest = [last, ended, waits].into_iter().flatten().max();
        latest.unwrap_or(self.started)
    }

    /// The attempt that a stage's next run is.
    pub(crate) fn next_attempt(&self, stage: &str) -> u32 {
        let of_stage = self.actions.iter().filter(|it| it.stage == stage);
        of_stage.map(|it| it.attempt).max().unwrap_or(0) + 1
    }

    /// A run of an action begins.
    pub(crate) fn begin(
        &mut self,
        stage: &str,
        action: &ActionDefinition,
        attempt: u32,
        at: Timestamp,
    ) -> &mut ActionExecution {
        let id = action_id(&self.id, stage, &action.name, attempt);
        let external = (action.provider == "CodeBuild").then(|| {
            let uuid = id_of(
                &self.id,
                attempt,
                format!("{stage}/{}#build", action.name).as_bytes(),
            );
            let project = format!("{}-{}", self.service.name, action.name.to_lowercase());
            format!("{project}:{uuid}")
        });
        self.actions.push(ActionExecution {
            id,
            stage: stage.to_owned(),
            action: action.name.clone(),
            category: action.category,
            provider: action.provider.clone(),
            work: action.work,
            attempt,
            started: at,
            updated: at,
            status: IN_PROGRESS,
            by: None,
            summary: None,
            error_code: None,
            external,
        });
        let last = self.actions.len() - 1;
        &mut self.actions[last]
    }
}

/// The id of a run of an action: always the same for the same execution and attempt.
pub(crate) fn action_id(execution_id: &str, stage: &str, action: &str, attempt: u32) -> String {
    match (stage, action) {
        ("Approve", "Approve") => id_of(execution_id, attempt, &[]),
        _ if stage == action => id_of(execution_id, attempt, stage.as_bytes()),
        _ => id_of(
            execution_id,
            attempt,
            format!("{stage}/{action}").as_bytes(),
        ),
    }
}

/// A UUID (version 4) that follows from what it is given.
pub(crate) fn id_of(execution_id: &str, attempt: u32, what: &[u8]) -> String {
    let half = |part: u8| {
        let (attempt, part) = (attempt.to_be_bytes(), [part]);
        let all: [&[u8]; 4] = [execution_id.as_bytes(), &attempt, &part, what];
        let used = if what.is_empty() { 3 } else { 4 };
        stable_hash(&all[..used])
    };
    let bytes = (u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}
