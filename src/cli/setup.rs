//! What every verb that looks at the account begins with.

use std::sync::Arc;

use anyhow::Context;
use uuid::Uuid;

use super::{Invocation, environment};
use crate::aws::Connector;
use crate::config::{self, Config, Faults, LedgerBackend};
use crate::daemon;
use crate::domain::history::Record;
use crate::domain::targets::lookup::{self, Home, Named, Wanted};
use crate::ledger::{DynamoDbLedger, EmbeddedLedger, Ledger, LedgerError, OpenError, Store};
use crate::reconcile::Reconciler;
use crate::reconcile::accounts::Accounts;
use crate::runtime::clock::Clock;
use crate::runtime::programs::Processes;
use crate::runtime::tasks::Tasks;
use crate::telemetry::Telemetry;

/// The configuration, and the way to AWS.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) connector: Connector,
}

/// Names one target on the command line.
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgument {
    /// The target, by its pipeline's name or ARN. For a pattern, the name of one pipeline that it
    /// matches.
    #[arg(value_name = "TARGET")]
    pipeline: String,
    /// The stage, where several targets match the pipeline.
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// The approval action, where several targets match the pipeline.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
}

impl TargetArgument {
    /// As it was written.
    pub(super) fn name(&self) -> &str {
        &self.pipeline
    }
}

impl std::fmt::Display for TargetArgument {
    /// As it is written on a command line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.pipeline)?;
        for (option, name) in [("--stage", &self.stage), ("--action", &self.action)] {
            if let Some(name) = name {
                write!(f, " {option} '{name}'")?;
            }
        }
        Ok(())
    }
}

impl From<&str> for TargetArgument {
    /// A target that its pipeline's name alone tells.
    fn from(pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            stage: None,
            action: None,
        }
    }
}

/// Reads the configuration as the environment has it.
pub(super) fn load(from: &Invocation) -> Result<Config, Faults> {
    Config::load(&from.path(), &environment())
}

/// The way to AWS, as the invocation and the environment say.
pub(super) async fn connect(
    config: &Config,
    from: &Invocation,
    clock: &Clock,
    telemetry: &Arc<Telemetry>,
) -> Connector {
    let (asked, region) = (from.asked(), config.queue.region.clone());
    Connector::from_environment(clock, &asked, region, Arc::clone(telemetry)).await
}

/// The region of the way to AWS.
///
/// # Errors
/// If there is none.
pub(super) fn region_of(connector: &Connector) -> anyhow::Result<&str> {
    let region = connector.region();
    region.context("no AWS region: set AWS_REGION, or region in the AWS profile")
}

/// Opens the ledger as an owner of its own; `beside` a daemon that may have it open.
pub(super) async fn open_ledger(
    config: &config::Ledger,
    connector: &Connector,
    clock: &Clock,
    beside: bool,
) -> Result<Arc<dyn Store>, LedgerError> {
    let (owner, clock, path) = (Uuid::new_v4().to_string(), clock.clone(), &config.path);
    Ok(match config.backend {
        LedgerBackend::Embedded if beside => {
            Arc::new(EmbeddedLedger::open_beside(path, &owner, clock)?)
        }
        LedgerBackend::Embedded => Arc::new(EmbeddedLedger::open(path, owner, clock)?),
        LedgerBackend::DynamoDb => {
            let table = connector.table(&config.table);
            Arc::new(DynamoDbLedger::open(table, owner, clock).await?)
        }
    })
}

impl Setup {
    /// Takes credentials and region as the invocation and the environment say, and counts with `telemetry`.
    ///
    /// # Errors
    /// [`NotSignedIn`](crate::aws::NotSignedIn). If there is no region; or
    /// [`NotAtHome`](crate::domain::targets::NotAtHome).
    pub(super) async fn new(
        mut config: Config,
        from: &Invocation,
        telemetry: impl FnOnce(Telemetry) -> Telemetry,
    ) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let telemetry = Arc::new(telemetry(Telemetry::new(clock.clone())));
        let connector = connect(&config, from, &clock, &telemetry).await;
        connector.sign_in().await?;
        let region = region_of(&connector)?.to_owned();
        let account = match &config.queue.account {
            Some(account) => Some(account.clone()),
            // Where STS does not answer, a pipeline is named by its ARN.
            None => connector
                .identity()
                .caller()
                .await
                .ok()
                .map(|it| it.account),
        };
        if let Some(account) = account {
            config.targets = config.targets.at_home(&account, &region)?;
        }
        Ok(Self {
            config,
            clock,
            telemetry,
            connector,
        })
    }

    /// The target that is named.
    ///
    /// # Errors
    /// If the name leads to no single target. Or if it is no ARN, and neither the queue's URL nor the
    /// credentials tell the account.
    pub(super) async fn named(&self, argument: &TargetArgument) -> anyhow::Result<Named> {
        let config = &self.config;
        let account = match &config.queue.account {
            Some(account) => account.clone(),
            // An ARN has its own.
            None if argument.pipeline.contains(':') => String::new(),
            None => {
                let caller = self.connector.identity().caller().await;
                caller
                    .context("the pipeline's account is not known: name the pipeline by its ARN")?
                    .account
            }
        };
        let home = Home {
            region: self.connector.region().unwrap_or_default().to_owned(),
            account,
        };
        let wanted = Wanted {
            pipeline: &argument.pipeline,
            stage: argument.stage.as_deref(),
            action: argument.action.as_deref(),
        };
        Ok(lookup::find(&config.targets, wanted, &home)?)
    }

    /// The accounts that jobs work in. What is done there beside them belongs to `tasks`.
    pub(super) fn accounts(&self, tasks: &Tasks) -> Accounts {
        daemon::accounts(&self.config, &self.connector, tasks)
    }

    /// What carries out jobs, as the daemon would.
    pub(super) fn reconciler(&self, accounts: Accounts, ledger: Arc<dyn Ledger>) -> Reconciler {
        daemon::reconciler(
            &self.config,
            accounts,
            ledger,
            Arc::clone(&self.telemetry),
            Arc::new(Processes),
            self.clock.clone(),
        )
    }

    /// That there is no file of the ledger yet, where it is one.
    pub(super) fn missing_ledger(&self) -> Option<LedgerError> {
        let ledger = &self.config.ledger;
        let is_file = ledger.backend == LedgerBackend::Embedded;
        (is_file && !ledger.path.exists()).then(|| {
            let path = ledger.path.display().to_string();
            OpenError::Missing { path }.into()
        })
    }

    /// The daemon's ledger, whether or not one runs.
    pub(super) async fn ledger_beside(&self) -> Result<Arc<dyn Ledger>, LedgerError> {
        let ledger = &self.config.ledger;
        let store = open_ledger(ledger, &self.connector, &self.clock, true).await?;
        Ok(store)
    }

    /// What the ledger knows of the jobs, newest first.
    pub(super) async fn history(&self) -> Result<Vec<Record>, LedgerError> {
        match self.config.ledger.backend {
            LedgerBackend::Embedded => {
                EmbeddedLedger::history(&self.config.ledger.path, &self.clock)
            }
            LedgerBackend::DynamoDb => {
                let table = self.connector.table(&self.config.ledger.table);
                DynamoDbLedger::history(&table, &self.clock).await
            }
        }
    }

    /// The same; AWS is asked only where the ledger is there.
    pub(super) async fn records(
        config: &Config,
        from: &Invocation,
        clock: &Clock,
    ) -> anyhow::Result<Vec<Record>> {
        if config.ledger.backend == LedgerBackend::Embedded {
            return Ok(EmbeddedLedger::history(&config.ledger.path, clock)?);
        }
        let setup = Self::new(config.clone(), from, |telemetry| telemetry).await?;
        Ok(setup.history().await?)
    }
}
