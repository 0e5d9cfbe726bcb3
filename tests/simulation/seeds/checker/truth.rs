//! What each exchange comes to: what the world allowed, and what it forbids.

use super::*;

impl Truth {
    /// A daemon wrote to the table. What a ledger granted is what stands in it, whatever became of the
    /// answer.
    pub(super) fn table_written(&mut self, now: Timestamp, life: &Life, entry: &Entry) {
        let Some(change) = &entry.change else { return };
        let Some(after) = change.after.as_ref() else {
            return;
        };
        let written: Value = serde_json::from_str(after).unwrap();
        let item = text_of(&written, "pk").unwrap_or_default();
        if item == NOTICES {
            let before = change.before.as_deref().map(|it| json(it.as_bytes()));
            self.notices_written(now, life, before.as_ref(), &written);
        } else if let Some(key) = item.strip_prefix("job#") {
            let earlier = Item::read(change.before.as_ref());
            let Some(job) = Item::read(Some(after)) else {
                return self.fail(format!("a job was written without its holder: {key}"));
            };
            if let Some(trace) = &mut self.trace {
                let said = |name| text_of(&written, name).unwrap_or_default();
                let (outcome, reason) = (said("job_outcome"), said("last_reason"));
                if !outcome.is_empty() || !reason.is_empty() {
                    trace.push(format!("{now:.3} -- {key}: {outcome} {reason}"));
                }
            }
            self.job_written(now, life, key, earlier, job);
        } else if let Some(production) = item.strip_prefix("production#") {
            let key = text_of(&written, "job_key").unwrap_or_default();
            self.production_taken(now, life, production, &key);
        }
    }

    pub(super) fn job_written(
        &mut self,
        now: Timestamp,
        life: &Life,
        key: &str,
        earlier: Option<Item>,
        job: Item,
    ) {
        if job.done && earlier.as_ref().is_none_or(|earlier| !earlier.done) {
            self.done_in_table(life, key);
        }
        if let Some(earlier) = earlier {
            if earlier.done && !job.done {
                self.fail(format!("a job that is done was granted: {key}"));
            }
            if job.epoch < earlier.epoch
                || job.held_by != earlier.held_by
                    && job.held_by == life.owner
                    && job.epoch == earlier.epoch
            {
                self.fail(format!("the epoch did not grow: {key}"));
            }
            let anothers = !earlier.held_by.is_empty() && earlier.held_by != life.owner;
            if anothers && !earlier.done && earlier.until > now.as_millisecond() {
                self.fail(format!(
                    "{} wrote to {key}, which {} holds",
                    life.owner, earlier.held_by
                ));
            }
        }
        let place = JobKey::from(key.to_owned());
        let held = self.grants.get(&place);
        let production_id = held
            .filter(|held| !job.done && held.owner == job.held_by && held.epoch == job.epoch)
            .and_then(|held| held.production_id.clone());
        let unasked = match held {
            Some(held) if held.owner == job.held_by && held.epoch == job.epoch => held.unasked,
            _ => !self.holds_message(&job.held_by, key, soon(now)),
        };
        let held = Held {
            owner: job.held_by,
            epoch: job.epoch,
            until: Timestamp::from_millisecond(job.until).unwrap(),
            production_id,
            done: job.done,
            unasked,
        };
        self.grants.insert(place, held);
    }

    /// Whoever held a production distribution does not any more.
    pub(super) fn given_back(&mut self, production: &str) {
        for held in self.grants.values_mut() {
            if held.production_id.as_deref() == Some(production) {
                held.production_id = None;
            }
        }
    }

    pub(super) fn production_taken(
        &mut self,
        now: Timestamp,
        life: &Life,
        production: &str,
        key: &str,
    ) {
        if key.is_empty() {
            return self.given_back(production);
        }
        self.begun.insert(key.to_owned());
        let mut taken = None;
        for (other, held) in &mut self.grants {
            let of_this = held.production_id.as_deref() == Some(production);
            if !of_this || other.as_str() == key {
                continue;
            }
            held.production_id = None;
            if held.until > now {
                taken = Some(other.clone());
            }
        }
        if let Some(other) = taken {
            self.fail(format!("{key} took {production}, which {other} holds"));
        }
        let place = JobKey::from(key.to_owned());
        if let Some(held) = self.grants.get_mut(&place)
            && held.owner == life.owner
        {
            held.production_id = Some(production.to_owned());
        }
    }

    /// The jobs that are done.
    pub(in super::super) fn done(&self) -> impl Iterator<Item = String> {
        let done = self.grants.iter().filter(|(_, held)| held.done);
        done.map(|(key, _)| key.to_string())
    }

    pub(in super::super) fn fail(&mut self, why: String) {
        if self.violation.is_none() {
            if let Some(trace) = &mut self.trace {
                trace.push(format!("VIOLATION: {why}"));
            }
            self.violation = Some(why);
        }
    }

    // ---- the queue ----

    pub(super) fn received(
        &mut self,
        now: Timestamp,
        life: &Life,
        request: &[u8],
        answer: Option<&http::Response<Vec<u8>>>,
    ) {
        let visibility = seconds(&json(request)["VisibilityTimeout"]);
        for (id, handle) in answer.map(messages).unwrap_or_default() {
            self.receipts.insert(handle, id.clone());
            let until = now.checked_add(visibility).unwrap();
            self.leases.insert((life.owner.clone(), id), until);
        }
    }

    pub(super) fn visibility_changed(
        &mut self,
        now: Timestamp,
        life: &Life,
        entry: &Entry,
        request: &[u8],
        answer: Option<&http::Response<Vec<u8>>>,
    ) {
        let answered = answer
            .filter(|answer| answer.status().is_success())
            .map(|answer| json(answer.body()));
        let confirmed: Option<BTreeSet<String>> = answered.map(|answer| {
            let entries = answer["Successful"].as_array().cloned().unwrap_or_default();
            entries.iter().map(|entry| text(&entry["Id"])).collect()
        });
        for asked in json(request)["Entries"].as_array().into_iter().flatten() {
            let Some(message) = self.message(&text(&asked["ReceiptHandle"])) else {
                return;
            };
            // An answer that was lost may have been a success: then the lease is longer than the
            // daemon can know.
            let took_effect = match &confirmed {
                Some(confirmed) => confirmed.contains(&text(&asked["Id"])),
                None => entry.mutated(),
            };
            let visibility = seconds(&asked["VisibilityTimeout"]);
            let lease = (life.owner.clone(), message);
            if visibility != HELD_FOR {
                self.given_back.insert(lease.clone());
            }
            if took_effect && let Some(until) = self.leases.get_mut(&lease) {
                *until = now.checked_add(visibility).unwrap();
            }
        }
    }

    /// The message of a receipt handle.
    pub(super) fn message(&mut self, handle: &str) -> Option<String> {
        let message = self.receipts.get(handle).cloned();
        if message.is_none() {
            self.fail(format!("a receipt handle that nobody was handed: {handle}"));
        }
        message
    }

    /// Invariant 5: an older receipt handle is not used once a newer one has come.
    pub(super) fn newest_handle(&mut self, now: Timestamp, life: &Life, handle: &str) {
        let Some(message) = self.message(handle) else {
            return;
        };
        let newest = self.handles.get(&(life.owner.clone(), message.clone()));
        // At the moment in which the newer one comes, the older one may be on its way.
        if newest.is_some_and(|(newest, came)| newest != handle && *came < now) {
            self.fail(format!("not the newest receipt handle of {message}"));
        }
    }

    /// Invariant 1: a message is deleted only when its job is done.
    pub(super) fn deleted(&mut self, aws: &EmbeddedAws, request: &[u8]) {
        for asked in json(request)["Entries"].as_array().into_iter().flatten() {
            let Some(message) = self.message(&text(&asked["ReceiptHandle"])) else {
                return;
            };
            self.notices.deleted.insert(message.clone());
            match self.messages.get(&message) {
                Some(Kind::Harmless) => {}
                Some(Kind::Rejection(number)) => {
                    let deployment = &self.deployments[*number];
                    if self.observes {
                        if !self.is_observed(&deployment.service.execution_id) {
                            self.fail(format!("deleted {message} before its job was done"));
                        }
                        continue;
                    }
                    // Taken back: by a retry, or by one that was rejected and has a message of its own.
                    let taken_back = deployment.retried_at.is_some()
                        || deployment.rejected_again
                        || taken_back(aws, &deployment.service).is_some();
                    let nobodys = deployment.undecided || deployment.excused || !self.times_tell;
                    if self.verify && (taken_back || nobodys) {
                        continue;
                    }
                    if let Some(left) = left_behind(aws, deployment) {
                        self.fail(format!("deleted {message} before its job was done: {left}"));
                    }
                }
                Some(Kind::Poison) => self.fail(format!("deleted {message}, which is poison")),
                None => self.fail(format!("deleted {message}, which nobody sent")),
            }
        }
    }

    // ---- CloudFront and Parameter Store ----

    pub(super) fn mutated(
        &mut self,
        now: Timestamp,
        life: &Life,
        entry: &Entry,
        before: Option<&Before>,
        aws: &EmbeddedAws,
    ) {
        let resource = entry.call.resource.clone().unwrap_or_default();
        let operation = entry.call.operation.as_str();
        if self.observes {
            return self.fail(format!("{operation} {resource}: only to be observed"));
        }
        let change = entry.change.as_ref();
        let old = change.and_then(|change| change.before.as_deref());
        let new = change.and_then(|change| change.after.as_deref());
        let verdict = match operation {
            "UpdateDistribution" => self.updated(life, &resource, old, new, before, aws),
            "DeleteContinuousDeploymentPolicy" if before.is_some_and(|it| it.policy_attached) => {
                Err("deleted a policy that is attached".to_owned())
            }
            "DeleteContinuousDeploymentPolicy" => self
                .of_policy(life, &resource, before)
                .map(|number| (number, Effect::PolicyDeleted, resource.clone())),
            "DeleteDistribution" => self
                .whose(life, &resource)
                .map(|number| (number, Effect::Deleted, resource.clone())),
            "PutParameter" => match self.recorded(life, &resource, new, before, aws) {
                Ok(None) => return,
                Ok(Some((number, held))) => Ok((number, Effect::Recorded, held)),
                Err(why) => Err(why),
            },
            other => Err(format!("a cleanup has no call of {other}")),
        };
        let (number, effect, what) = match verdict {
            Ok(verdict) => verdict,
            Err(why) => return self.fail(format!("{operation} {resource}: {why}")),
        };
        let times = self.effects.entry((what.clone(), effect)).or_default();
        *times += 1;
        if *times > 1 {
            self.fail(format!("{operation} {resource}: work done twice"));
        }
        if effect == Effect::Detached
            && let Some(production) = aws.distribution(&resource)
        {
            // Others may change production again, before and after that.
            self.detached.insert(what.clone(), production.deployed_at);
        }
        let asks = matches!(
            effect,
            Effect::Recorded | Effect::Detached | Effect::Disabled
        );
        if self.verify && asks && !self.deployments[number].excused {
            self.questioned(aws, life, number, effect, (&resource, &what));
        }
        self.entitled(now, life, number, operation);
    }

    /// Whose a policy is: that of the staging distribution that it lists.
    pub(super) fn of_policy(
        &self,
        life: &Life,
        policy: &str,
        before: Option<&Before>,
    ) -> Result<usize, String> {
        let listed = before.and_then(|it| it.listed.first());
        match listed {
            Some(staging) => self.whose(life, staging),
            None => self
                .rejected_by(|service| service.policy_id == policy)
                .ok_or(format!("policy {policy} is not a rejected deployment's")),
        }
    }

    pub(super) fn rejected_by(&self, matches: impl Fn(&Service) -> bool) -> Option<usize> {
        self.deployments
            .iter()
            .position(|deployment| deployment.rejected && matches(&deployment.service))
    }

    pub(super) fn updated(
        &self,
        life: &Life,
        resource: &str,
        old: Option<&str>,
        new: Option<&str>,
        before: Option<&Before>,
        aws: &EmbeddedAws,
    ) -> Result<(usize, Effect, String), String> {
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let before = before.ok_or("nothing is known of this distribution")?;
        let distribution = aws.distribution(resource).ok_or("it is gone")?;
        let named = |number: usize, staging: &str| {
            let deployment = &self.deployments[number];
            let value = aws.parameter(&deployment.service.staging_parameter);
            value.as_deref() == Some(staging) && !deployment.excused
        };
        if distribution.staging {
            let number = self.whose(life, resource)?;
            let named_policy = text_between(old, "<ContinuousDeploymentPolicyId>", "</");
            let filled = format!("<ContinuousDeploymentPolicyId>{named_policy}</");
            // The id of a policy that is gone may go with it.
            let is_emptied = !new.contains(&filled) && aws.policy(&named_policy).is_none();
            let emptied = old.replacen(&filled, "<ContinuousDeploymentPolicyId></", 1);
            let old = if is_emptied { &emptied } else { old };
            only_difference(old, new, "Enabled", "true", "false")?;
            if before.policy_exists {
                return Err("disabled before its policy was gone".to_owned());
            }
            let propagated = self.detached.get(resource);
            if propagated.is_some_and(|at| aws.now() < *at) {
                return Err("disabled before the detach had propagated".to_owned());
            }
            if named(number, resource) {
                return Err("disabled while the parameter names it".to_owned());
            }
            return Ok((number, Effect::Disabled, resource.to_owned()));
        }
        let policy = text_between(old, "<ContinuousDeploymentPolicyId>", "</");
        only_difference(old, new, "ContinuousDeploymentPolicyId", &policy, "")?;
        let view = aws
            .policy(&policy)
            .ok_or("detached a policy that is gone")?;
        let all = aws.inventory().distributions;
        let mut listed = all
            .iter()
            .filter(|it| view.staging_domains.contains(&it.domain_name));
        let staging = listed
            .next()
            .ok_or("detached a policy that lists nothing")?;
        let number = self.whose(life, &staging.id)?;
        if named(number, &staging.id) {
            return Err("detached while the parameter names its staging distribution".to_owned());
        }
        Ok((number, Effect::Detached, staging.id.clone()))
    }

    /// Whose cleanup a write of the parameter belongs to, and what it takes out of the slot; to none if it
    /// puts a value back.
    pub(super) fn recorded(
        &mut self,
        life: &Life,
        parameter: &str,
        value: Option<&str>,
        before: Option<&Before>,
        aws: &EmbeddedAws,
    ) -> Result<Option<(usize, String)>, String> {
        let value = value.unwrap_or_default();
        if self
            .raced
            .get(parameter)
            .is_some_and(|theirs| theirs == value)
        {
            self.raced.remove(parameter);
            return Ok(None);
        }
        let held = before.and_then(|before| before.parameter.clone());
        let held = held.unwrap_or_default();
        let verdict = self.withdrawn(life, parameter, value, &held, aws);
        if verdict.is_ok() || value != "deleted" {
            return verdict;
        }
        let history = aws.parameter_history(parameter);
        let now = aws.now();
        // The newest version is the write itself; the one before is what it covered.
        let mut covered = history.iter().rev().skip(1);
        let theirs = covered.next();
        let recently =
            theirs.is_some_and(|theirs| now.duration_since(theirs.at).unsigned_abs() <= RACE);
        let ours = covered.next().map(|earlier| earlier.value.clone());
        match ours.map(|ours| (self.whose(life, &ours), ours)) {
            // Someone else's value, just written.
            Some((Ok(number), ours)) if recently => {
                self.raced.insert(parameter.to_owned(), held);
                Ok(Some((number, ours)))
            }
            _ => verdict,
        }
    }

    /// Whether a job of an execution that is only observed is done.
    pub(super) fn is_observed(&self, execution_id: &str) -> bool {
        self.done()
            .any(|key| key.starts_with(execution_id) && key.ends_with("/observe"))
    }

    /// Whether somebody holds a message of an execution, whose id the job's key begins with.
    pub(super) fn holds_message(&self, owner: &str, key: &str, now: Timestamp) -> bool {
        let late = now.checked_sub(GRACE).unwrap();
        self.leases.iter().any(|((holder, message), until)| {
            let about = |kind: &Kind| match kind {
                Kind::Rejection(number) => {
                    key.starts_with(&self.deployments[*number].service.execution_id)
                }
                Kind::Harmless | Kind::Poison => false,
            };
            holder == owner && *until >= late && self.messages.get(message).is_some_and(about)
        })
    }

    /// Whether messages of an execution were given back.
    pub(super) fn gave_back_messages(&self, owner: &str, execution: &str) -> bool {
        self.given_back.iter().any(|(by, message)| {
            let kind = self.messages.get(message);
            let of_it = matches!(kind, Some(Kind::Rejection(number))
                if self.deployments[*number].service.execution_id == execution);
            by == owner && of_it
        })
    }

    /// Whether this life has a job of this deployment that a person began.
    pub(in super::super) fn works_by_hand(&self, life: &Life, number: usize) -> bool {
        let by_hand = by_hand(&self.deployments[number].service);
        self.grants.iter().any(|(key, held)| {
            let of_it = key.as_str().starts_with(&by_hand);
            of_it && held.owner == life.owner && !held.done
        })
    }

    /// Whether this life may work for this deployment now: it holds a message of its rejection, and
    /// the ledger has granted it the production distribution, and nobody else (invariant 3).
    pub(super) fn entitled(&mut self, now: Timestamp, life: &Life, number: usize, operation: &str) {
        let late = now.checked_sub(GRACE).unwrap();
        let execution = &self.deployments[number].service.execution_id;
        // A job that has changed something, or was about to, is finished by the ledger.
        let unasked = self.grants.iter().any(|(key, held)| {
            let of_it = key.as_str().starts_with(execution);
            let unasked = held.unasked || self.gave_back_messages(&life.owner, execution);
            of_it && held.owner == life.owner && unasked && self.begun.contains(key.as_str())
        });
        let unasked = unasked || self.works_by_hand(life, number);
        if !self.holds_message(&life.owner, execution, now) && !unasked && !self.catch_up {
            self.fail(format!(
                "{operation}: {} works without holding a message of deployment {number}",
                life.owner
            ));
        }
        let production = &self.deployments[number].service.production_id;
        let mut of_this = self
            .grants
            .values()
            .filter(|held| held.production_id.as_ref() == Some(production) && held.until >= late)
            .map(|held| &held.owner);
        let first = of_this.next();
        let why = match first {
            None => format!("{} was not granted {production}", life.owner),
            Some(owner) if *owner != life.owner || of_this.any(|it| it != owner) => {
                format!("{production} is another's, not only {}'s", life.owner)
            }
            Some(_) => return,
        };
        self.fail(format!("{operation}: {why}"));
    }
}
