//! Setting a world up, and looking at it without a protocol between.
//!
//! These helpers bypass faults and the journal: they are the test's own hand, not a caller's.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::cloudfront::{self, Distribution, Policy};
use super::cloudfront_xml::Document;
use super::exchange::Failure;
use super::sqs_queue::{Depth, Redrive};
use super::whose::By;
use super::{EmbeddedAws, sqs_base};

/// A queue and its dead-letter queue, by URL.
#[derive(Clone, Debug)]
pub struct Queues {
    /// The queue that consumers poll.
    pub url: String,
    /// Where messages go that were received too often.
    pub dead_letter_url: String,
}

/// A distribution as it is, whatever reads may show.
#[derive(Clone, Debug)]
pub struct DistributionView {
    /// Its id.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// Its own name under `cloudfront.net`.
    pub domain_name: String,
    /// Whether its last change has propagated.
    pub deployed: bool,
    /// When it has propagated, or will have.
    pub deployed_at: Timestamp,
    /// `Enabled`.
    pub enabled: bool,
    /// `Staging`.
    pub staging: bool,
    /// The names it serves besides its own.
    pub aliases: Vec<String>,
    /// The attached policy, or the one a staging distribution shows; empty if none.
    pub policy_id: String,
    /// The ETag that a write has to match.
    pub etag: String,
    /// When it was last written.
    pub modified: Timestamp,
    /// The configuration exactly as GetDistributionConfig answers it.
    pub config: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Who made it.
    pub made_by: By,
    /// Who wrote it last.
    pub modified_by: By,
    /// The last build of a deployment that wrote it, or whoever made it.
    pub deployed_by: By,
}

/// A continuous deployment policy.
#[derive(Clone, Debug)]
pub struct PolicyView {
    /// Its id.
    pub id: String,
    /// The ETag that a write has to match.
    pub etag: String,
    /// `Enabled`.
    pub enabled: bool,
    /// The domain names of the staging distributions that it lists.
    pub staging_domains: Vec<String>,
    /// The primary distributions that it is attached to.
    pub attached_to: Vec<String>,
    /// Who made it.
    pub made_by: By,
}

/// One version of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterVersion {
    /// Counts from 1.
    pub version: u64,
    /// What it holds.
    pub value: String,
    /// When it was written.
    pub at: Timestamp,
    /// Who wrote it.
    pub by: By,
}

/// A message in a queue, whether or not it is visible.
#[derive(Clone, Debug)]
pub struct MessageView {
    /// Its id.
    pub id: String,
    /// Its body.
    pub body: String,
    /// How often it has been received.
    pub receives: u32,
    /// When it was sent.
    pub sent: Timestamp,
}

/// Everything that exists in one account, its parameters in one region; and all queues.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Distributions that have not been deleted.
    pub distributions: Vec<DistributionView>,
    /// Policies.
    pub policies: Vec<PolicyView>,
    /// Parameters and what they hold now.
    pub parameters: BTreeMap<String, String>,
    /// Queues by name.
    pub queues: BTreeMap<String, Depth>,
}

impl EmbeddedAws {
    // ---- queues ----

    /// Makes a standard queue `name` and a dead-letter queue `{name}-dlq`.
    pub fn create_queue_with_dlq(
        &self,
        name: &str,
        max_receive_count: u32,
        visibility: Duration,
    ) -> Queues {
        let now = self.now();
        let mut state = self.state();
        let state = &mut *state;
        let dead_letters = format!("{name}-dlq");
        let target_arn = state
            .sqs
            .create(&state.settings, now, &dead_letters)
            .arn
            .clone();
        let queue = state.sqs.create(&state.settings, now, name);
        let redrive = serde_json::json!({
            "deadLetterTargetArn": target_arn,
            "maxReceiveCount": max_receive_count,
        });
        let set = [
            ("VisibilityTimeout", visibility.as_secs().to_string()),
            ("RedrivePolicy", redrive.to_string()),
        ];
        queue
            .attributes
            .extend(set.map(|(name, value)| (name.to_owned(), value)));
        queue.redrive = Some(Redrive {
            target_arn,
            max_receive_count,
        });
        let base = format!("{}/{}", sqs_base(&state.settings), state.settings.account);
        Queues {
            url: format!("{base}/{name}"),
            dead_letter_url: format!("{base}/{dead_letters}"),
        }
    }

    /// Sends a message to a queue, given by URL or name; answers the message's id.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn send(&self, queue: &str, body: impl Into<String>) -> Result<String, Failure> {
        let now = self.now();
        let id = {
            let mut state = self.state();
            let state = &mut *state;
            let queue = state.sqs.queue(queue)?;
            queue
                .send(
                    &mut state.ids,
                    now,
                    body.into(),
                    Value::Null,
                    Duration::ZERO,
                )
                .id
                .clone()
        };
        self.changed();
        Ok(id)
    }

    /// How many messages a queue holds; nothing if there is no such queue.
    #[must_use]
    pub fn depth(&self, queue: &str) -> Option<Depth> {
        let now = self.now();
        let mut state = self.state();
        let queue = state.sqs.queue(queue).ok()?;
        queue.expire(now);
        Some(queue.depth(now))
    }

    /// Every message of a queue, oldest first. Of a dead-letter queue, for instance.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<MessageView> {
        let mut state = self.state();
        let Ok(queue) = state.sqs.queue(queue) else {
            return Vec::new();
        };
        queue
            .messages()
            .map(|message| MessageView {
                id: message.id.clone(),
                body: message.body.clone(),
                receives: message.receives,
                sent: message.sent,
            })
            .collect()
    }

    /// Deletes every message of a queue.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn purge(&self, queue: &str) -> Result<(), Failure> {
        self.state().sqs.queue(queue)?.purge();
        self.changed();
        Ok(())
    }

    /// Sets a queue's policy.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn set_queue_policy(&self, queue: &str, policy: &str) -> Result<(), Failure> {
        let mut state = self.state();
        let queue = state.sqs.queue(queue)?;
        let attributes = &mut queue.attributes;
        attributes.insert("Policy".to_owned(), policy.to_owned());
        Ok(())
    }

    /// Lets the visibility timeout of every message of a queue have ended by now.
    ///
    /// # Errors
    /// `QueueDoesNotExist`.
    pub fn show_messages(&self, queue: &str) -> Result<(), Failure> {
        let now = self.now();
        self.state().sqs.queue(queue)?.show_all(now);
        self.changed();
        Ok(())
    }

    // ---- tables ----

    /// Makes a DynamoDB table with a partition key of type String; one of that name stays.
    pub fn create_table(&self, name: &str, key: &str) {
        self.state().dynamodb.create(name, key);
    }

    /// Every item of a table, in DynamoDB's typed JSON, in the order of the keys.
    #[must_use]
    pub fn items(&self, table: &str) -> Vec<serde_json::Map<String, Value>> {
        self.state().dynamodb.items(table)
    }

    // ---- parameters ----

    /// An operator writes a parameter; answers its version.
    pub fn put_parameter(&self, name: &str, value: &str) -> u64 {
        self.put_by(name, value, &By::operator(&self.place.account))
    }

    pub(super) fn put_by(&self, name: &str, value: &str, by: &By) -> u64 {
        let now = self.now();
        let version = self.state().here(&self.place).ssm.put(name, value, now, by);
        self.changed();
        version
    }

    /// What a parameter holds.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.parameter_history(name)
            .pop()
            .map(|latest| latest.value)
    }

    /// The versions of a parameter that are kept, oldest first.
    #[must_use]
    pub fn parameter_history(&self, name: &str) -> Vec<ParameterVersion> {
        let mut state = self.state();
        let here = state.here(&self.place);
        let versions = here
            .ssm
            .parameters
            .get(name)
            .map_or(&[][..], |it| &it.versions);
        versions
            .iter()
            .map(|it| ParameterVersion {
                version: it.number,
                value: it.value.clone(),
                at: it.at,
                by: it.by.clone(),
            })
            .collect()
    }

    // ---- CloudFront ----

    /// A distribution that exists.
    #[must_use]
    pub fn distribution(&self, id: &str) -> Option<DistributionView> {
        let mut state = self.state();
        let here = state.here(&self.place);
        here.cloudfront
            .distribution(id)
            .ok()
            .map(|it| self.distribution_view(it, &here.settings))
    }

    /// A continuous deployment policy.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<PolicyView> {
        let mut state = self.state();
        let cloudfront = &*state.here(&self.place).cloudfront;
        let policy = cloudfront.policy(id).ok()?;
        Some(policy_view(policy, cloudfront))
    }

    /// An operator sets one element of a distribution's configuration, under CloudFront's rules and with the
    /// ETag that is current: an operator who comes between.
    ///
    /// # Errors
    /// What UpdateDistribution refuses with.
    pub fn edit_distribution(&self, id: &str, element: &str, value: &str) -> Result<(), Failure> {
        self.update_distribution(id, |document| document.with_text(element, value))
    }

    pub(super) fn update_distribution(
        &self,
        id: &str,
        edit: impl FnOnce(&Document) -> String,
    ) -> Result<(), Failure> {
        let now = self.now();
        let by = By::operator(&self.place.account);
        self.state().edit(&self.place, id, None, &by, now, edit)?;
        self.changed();
        Ok(())
    }

    /// Deletes a policy under CloudFront's rules: an operator who comes between.
    ///
    /// # Errors
    /// What DeleteContinuousDeploymentPolicy refuses with.
    pub fn delete_policy(&self, id: &str) -> Result<(), Failure> {
        let now = self.now();
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            let etag = here.cloudfront.policy(id)?.etag.clone();
            let by = By::operator(&here.settings.account);
            let mut context = cloudfront::Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            here.cloudfront
                .delete_policy(&mut context, id, Some(&etag))?;
        }
        self.changed();
        Ok(())
    }

    /// Deletes a distribution under CloudFront's rules: an operator who comes between.
    ///
    /// # Errors
    /// What DeleteDistribution refuses with.
    pub fn delete_distribution(&self, id: &str) -> Result<(), Failure> {
        let now = self.now();
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            let etag = here.cloudfront.distribution(id)?.current.etag.clone();
            let by = By::operator(&here.settings.account);
            let context = cloudfront::Context {
                now,
                settings: &here.settings,
                ids: here.ids,
                by: &by,
            };
            here.cloudfront.delete(&context, id, Some(&etag))?;
        }
        self.changed();
        Ok(())
    }

    /// Lets every change have propagated by now.
    pub fn settle(&self) {
        let now = self.now();
        {
            let mut state = self.state();
            let cloudfront = state.here(&self.place).cloudfront;
            let ids: Vec<String> = cloudfront.distributions().map(|it| it.id.clone()).collect();
            for id in ids {
                cloudfront.settle(&id, now);
            }
        }
        self.changed();
    }

    /// Lets everything in CloudFront and Parameter Store have been written so much earlier.
    pub fn backdate(&self, by: Duration) {
        let earlier = |at: &mut Timestamp| *at = at.checked_sub(by).unwrap_or(Timestamp::MIN);
        {
            let mut state = self.state();
            let here = state.here(&self.place);
            for distribution in here.cloudfront.distributions.values_mut() {
                earlier(&mut distribution.current.modified);
            }
            for policy in here.cloudfront.policies.values_mut() {
                earlier(&mut policy.modified);
            }
            for parameter in here.ssm.parameters.values_mut() {
                for version in &mut parameter.versions {
                    earlier(&mut version.at);
                }
            }
        }
        self.changed();
    }

    /// Everything that exists.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let now = self.now();
        let mut state = self.state();
        let queues = state
            .sqs
            .queues
            .iter()
            .map(|(name, it)| (name.clone(), it.depth(now)))
            .collect();
        let here = state.here(&self.place);
        let cloudfront = &*here.cloudfront;
        let latest =
            |parameter: &super::ssm::Parameter| parameter.latest().map(|it| it.value.clone());
        Inventory {
            distributions: cloudfront
                .distributions()
                .map(|it| self.distribution_view(it, &here.settings))
                .collect(),
            policies: cloudfront
                .policies()
                .map(|it| policy_view(it, cloudfront))
                .collect(),
            parameters: here
                .ssm
                .parameters
                .iter()
                .filter_map(|(name, parameter)| Some((name.clone(), latest(parameter)?)))
                .collect(),
            queues,
        }
    }

    fn distribution_view(
        &self,
        distribution: &Distribution,
        settings: &super::Settings,
    ) -> DistributionView {
        let current = &distribution.current;
        DistributionView {
            id: distribution.id.clone(),
            arn: distribution.arn.clone(),
            domain_name: distribution.domain_name.clone(),
            deployed: current.deployed_at <= self.now(),
            deployed_at: current.deployed_at,
            enabled: current.enabled(),
            staging: current.staging(),
            aliases: current.document.root().items("Aliases").1,
            policy_id: current.shown_policy_id(&settings.switches).to_owned(),
            etag: current.etag.clone(),
            modified: current.shown_modified(self.now(), &settings.switches),
            config: current.shown(&settings.switches).text().to_owned(),
            tags: distribution.tags.clone(),
            made_by: distribution.made_by.clone(),
            modified_by: current.by.clone(),
            deployed_by: distribution.deployed_by.clone(),
        }
    }
}

fn policy_view(policy: &Policy, cloudfront: &cloudfront::CloudFront) -> PolicyView {
    PolicyView {
        id: policy.id.clone(),
        etag: policy.etag.clone(),
        enabled: policy.enabled(),
        staging_domains: policy.domains(),
        attached_to: cloudfront.attached_to(&policy.id),
        made_by: policy.made_by.clone(),
    }
}
