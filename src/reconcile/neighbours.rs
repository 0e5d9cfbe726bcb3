//! Which pipelines lead to a job's production distribution: those that names tell of, and those that must be looked for.
//!
//! A production parameter of another name may hold the same distribution's id: literal ones are read (GetParameter).
//! Where a target's parameters leave out a capture, the pipelines that share them are listed (ListPipelines). Both are
//! asked only where the configuration has such targets, and shared by all jobs for [`FRESH`].
//!
//! **Guarantees.** What cannot be asked fails the job for now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::question::Learned;
use super::retry::Calls;
use crate::aws::AwsError;
use crate::domain::binding::Slot;
use crate::domain::targets::{Access, Neighbour, Parameters, Targets};
use crate::reconcile::accounts::Accounts;
use crate::runtime::activity::Activity;
use crate::runtime::stop::Stop;

/// For so long what was found out counts.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// Whose calls these are: what tells it to stop, and where it shows that it lives.
pub(crate) type Asker<'a> = (&'a Stop, &'a Activity);

/// What one account was last asked, and when.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The names of its pipelines.
    pipelines: Mutex<Option<(Instant, Arc<Vec<String>>)>>,
    /// By name of a parameter, the distribution that it names.
    parameters: Mutex<HashMap<String, (Instant, Option<String>)>>,
}

impl Accounts {
    /// The pipelines that lead to these parameters, as seen with this access: by names, and by a listing where names
    /// leave it open.
    ///
    /// # Errors
    /// [`AwsError`] if the pipelines cannot be listed.
    pub(crate) async fn leading_to(
        &self,
        targets: &Targets,
        parameters: &Parameters,
        access: &Access,
        asker: Asker<'_>,
    ) -> Result<Vec<Neighbour>, AwsError> {
        let mut found = targets.leading_to(parameters, access);
        for (asked, place) in targets.to_list(parameters, access) {
            let names = self.pipelines(&asked, asker).await?;
            let listed = targets.among(&names, &place, parameters, access);
            found.extend(listed);
        }
        Ok(found)
    }

    async fn pipelines(
        &self,
        access: &Access,
        (stop, activity): Asker<'_>,
    ) -> Result<Arc<Vec<String>>, AwsError> {
        let account = self.get(access);
        let clients = account.clients.for_job(stop, activity);
        let mut newest = account.found.pipelines.lock().await;
        if let Some((at, names)) = &*newest
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(names));
        }
        let at = Instant::now();
        let names = Arc::new(clients.codepipeline.names().await?);
        *newest = Some((at, Arc::clone(&names)));
        Ok(names)
    }

    /// The distribution that a parameter names, if it names one.
    async fn named(
        &self,
        name: &str,
        access: &Access,
        (stop, activity): Asker<'_>,
    ) -> Result<Option<String>, AwsError> {
        let account = self.get(access);
        let clients = account.clients.for_job(stop, activity);
        let mut parameters = account.found.parameters.lock().await;
        if let Some((at, id)) = parameters.get(name)
            && at.elapsed() < FRESH
        {
            return Ok(id.clone());
        }
        let at = Instant::now();
        let parameter = clients.ssm.parameter(name).await?;
        let id = parameter.and_then(|it| match Slot::read(&it.value) {
            Slot::Distribution(id) => Some(id.to_owned()),
            _ => None,
        });
        parameters.insert(name.to_owned(), (at, id.clone()));
        Ok(id)
    }
}

impl Calls<'_> {
    /// Every pipeline that leads to the production distribution, the job's own first. An orphan has none of its own.
    pub(super) async fn neighbours(&self, learned: &Learned) -> Result<Vec<Neighbour>, AwsError> {
        if let Some(removal) = self.job.removal() {
            return Ok(removal.neighbours.clone());
        }
        let (job, accounts) = (self.job, &self.context.accounts);
        let access = &job.target().access;
        let asker = (&job.stop, &job.activity);
        let mut all = vec![self.own_pipeline()];
        let Some(parameters) = &job.target().parameters else {
            return Ok(all);
        };
        let mut lead = accounts
            .leading_to(&job.targets, parameters, access, asker)
            .await?;
        if let Some(production_id) = learned.production() {
            for (name, theirs) in job.targets.beside(parameters, access) {
                if accounts.named(&name, &theirs, asker).await?.as_ref() != Some(&production_id) {
                    continue;
                }
                let beside = Parameters {
                    production: name,
                    staging: String::new(),
                };
                let more = accounts.leading_to(&job.targets, &beside, access, asker);
                lead.extend(more.await?);
            }
        }
        for neighbour in lead {
            let same = |it: &Neighbour| it.pipeline == neighbour.pipeline;
            if !same(&all[0]) && !all.contains(&neighbour) {
                all.push(neighbour);
            }
        }
        Ok(all)
    }
}
