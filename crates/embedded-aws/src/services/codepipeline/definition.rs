//! What a pipeline consists of.

/// How executions that follow each other share the stages of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A stage takes one execution at a time; of those that arrive in front of it, the newest waits and
    /// the one that waited there is over.
    #[default]
    Superseded,
    /// A stage takes one execution at a time; the others wait in their order.
    Queued,
    /// No execution waits for another.
    Parallel,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Superseded => "SUPERSEDED",
            Self::Queued => "QUEUED",
            Self::Parallel => "PARALLEL",
        }
    }
}

/// What an action is for, as CodePipeline sorts actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// It fetches what is built.
    Source,
    /// It builds, or runs anything else as a build.
    Build,
    /// It deploys by a provider of deployments.
    Deploy,
    /// Somebody decides.
    Approval,
}

impl Category {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "Source",
            Self::Build => "Build",
            Self::Deploy => "Deploy",
            Self::Approval => "Approval",
        }
    }
}

/// What the build of an action does to the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Nothing that this world knows of.
    #[default]
    Nothing,
    /// It deploys the service's staging distribution.
    Deploys,
    /// It promotes the staging distribution's configuration to production.
    Promotes,
}

/// An action of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionDefinition {
    pub name: String,
    pub category: Category,
    /// Who carries it out: `CodeBuild`, `Manual`, `S3` for instance.
    pub provider: String,
    /// The actions of a stage with the lowest number run first, all of them at once.
    pub run_order: u32,
    pub work: Work,
}

impl ActionDefinition {
    fn new(name: &str, category: Category, provider: &str, work: Work) -> Self {
        Self {
            name: name.to_owned(),
            category,
            provider: provider.to_owned(),
            run_order: 1,
            work,
        }
    }

    /// An action that fetches.
    #[must_use]
    pub fn source(name: &str) -> Self {
        Self::new(name, Category::Source, "S3", Work::Nothing)
    }

    #[must_use]
    pub fn build(name: &str, work: Work) -> Self {
        Self::new(name, Category::Build, "CodeBuild", work)
    }

    /// A manual approval.
    #[must_use]
    pub fn approval(name: &str) -> Self {
        Self::new(name, Category::Approval, "Manual", Work::Nothing)
    }

    /// The same action with this number in the order of its stage.
    #[must_use]
    pub fn after(mut self, run_order: u32) -> Self {
        self.run_order = run_order;
        self
    }
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDefinition {
    pub name: String,
    pub actions: Vec<ActionDefinition>,
}

impl StageDefinition {
    /// A stage with these actions.
    #[must_use]
    pub fn new(name: &str, actions: impl Into<Vec<ActionDefinition>>) -> Self {
        Self {
            name: name.to_owned(),
            actions: actions.into(),
        }
    }
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// In their order.
    pub stages: Vec<StageDefinition>,
    /// How executions share the stages.
    pub mode: Mode,
}

impl Default for Definition {
    /// `Source`, `Build`, `Deploy`, `Approve` and `Promote`, each with one action of the same name.
    fn default() -> Self {
        Self::with_approval("Approve", "Approve")
    }
}

impl Definition {
    /// The default with the approval's stage and action of these names.
    #[must_use]
    pub fn with_approval(stage: &str, action: &str) -> Self {
        let source = [ActionDefinition::source("Source")];
        let build = |name, work| StageDefinition::new(name, [ActionDefinition::build(name, work)]);
        Self {
            stages: vec![
                StageDefinition::new("Source", source),
                build("Build", Work::Nothing),
                build("Deploy", Work::Deploys),
                StageDefinition::new(stage, [ActionDefinition::approval(action)]),
                build("Promote", Work::Promotes),
            ],
            mode: Mode::default(),
        }
    }

    /// The same in this mode.
    #[must_use]
    pub fn in_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The same with this stage in front of another one.
    #[must_use]
    pub fn with_stage_before(mut self, before: &str, stage: StageDefinition) -> Self {
        let at = self.place_of(before).unwrap_or(self.stages.len());
        self.stages.insert(at, stage);
        self
    }

    /// The same with one more action in a stage.
    #[must_use]
    pub fn with_action(mut self, stage: &str, action: ActionDefinition) -> Self {
        if let Some(stage) = self.stages.iter_mut().find(|it| it.name == stage) {
            stage.actions.push(action);
        }
        self
    }

    pub(crate) fn place_of(&self, stage: &str) -> Option<usize> {
        self.stages.iter().position(|it| it.name == stage)
    }

    /// Each action with its stage.
    pub(crate) fn actions(&self) -> impl Iterator<Item = (&StageDefinition, &ActionDefinition)> {
        let stages = self.stages.iter();
        stages.flat_map(|stage| stage.actions.iter().map(move |action| (stage, action)))
    }

    /// The stage and the action of the first approval.
    pub(crate) fn approval(&self) -> (&str, &str) {
        let approval = |it: &(_, &ActionDefinition)| it.1.category == Category::Approval;
        let found = self.actions().find(approval);
        found.map_or(("Approve", "Approve"), |(stage, action)| {
            (&stage.name, &action.name)
        })
    }
}
