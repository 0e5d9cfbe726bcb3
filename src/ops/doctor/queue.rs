//! The queue, its dead-letter queue, and who may send to it.

use std::time::Duration;

use super::queue_policy::{QueuePolicy, Verdict};
use super::{Check, Preflight, Scene, Status, people, rule, skipped};
use crate::aws::sqs::{QueueAttributes, beside};
use crate::config::Config;
use crate::config::FIFO;
use crate::config::is_fifo;
use crate::domain::error_class::ErrorClass;
use crate::domain::words::counted;

/// With fewer receives, a failure that would have passed ends in the dead-letter queue, and so does a rejection
/// whose target a rolling update is just bringing: ten of them are some 25 minutes, by the default backoff.
const FEW_RECEIVES: u32 = 10;

/// With more, a message that can never be handled is tried for days.
const MANY_RECEIVES: u32 = 100;

/// A shorter retention does not outlast a night.
const SHORT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) const READ: &str = "sqs:GetQueueAttributes on it";

const FIFO_REMEDY: &str =
    "send the rule's events to a standard queue, and name that one in queue.url";

/// What is looked at of a queue that can be read.
const OF_THE_QUEUE: &str = "the queue's redrive policy, retention, visibility timeout, policy, rules, encryption \
                            and dead-letter queue";

/// The key that AWS manages for SQS. Its policy cannot be changed, so that no other service may use it.
const AWS_MANAGED_KEY: &str = "alias/aws/sqs";

/// Answers the queue's attributes too, if they can be read.
pub(super) async fn examine(scene: &Scene<'_>) -> (Vec<Check>, Option<QueueAttributes>) {
    let Preflight {
        config, connector, ..
    } = scene.asked;
    let queue =
        |url: &str| connector.queue(url, config.queue.region.as_deref(), config.queue.wait_time);
    let url = &config.queue.url;
    let attributes = match queue(url).attributes().await {
        Ok(attributes) => attributes,
        Err(error) if error.class == ErrorClass::NotFound => {
            let remedy = "check queue.url, the region and the account";
            let check = Check::failure("queue", "there is no such queue", remedy);
            return (vec![check.about(url), skipped(OF_THE_QUEUE)], None);
        }
        Err(error) => {
            let check = Check::call("queue", &error, READ).about(url);
            return (vec![check, skipped(OF_THE_QUEUE)], None);
        }
    };
    let said = format!(
        "{} visible, {} in flight, {} delayed",
        attributes.visible, attributes.in_flight, attributes.delayed
    );
    let mut checks = vec![Check::ok("queue", said).about(url)];
    checks.extend(is_fifo(url).then(|| Check::warning("queue", FIFO, FIFO_REMEDY).about(url)));
    checks.push(redrive(&attributes));
    let Config { cleanup, retry, .. } = config;
    checks.push(retention(
        cleanup.propagation_timeout,
        retry.max_backoff,
        &attributes,
    ));
    checks.push(visibility(config, &attributes));
    checks.push(policy(&attributes));
    checks.extend(attributes.key.as_deref().map(encryption));
    checks.extend(rule::examine(scene, &attributes).await);
    if let Some(arn) = &attributes.dead_letter_arn {
        let url = beside(url, arn);
        let check = match queue(&url).attributes().await {
            Ok(dead) => dead_letters(&attributes, &dead),
            Err(error) if error.class == ErrorClass::NotFound => Check::failure(
                "dead-letter queue",
                format!("there is no queue {arn}"),
                "create it, or point the redrive policy at another one",
            ),
            // The daemon itself never asks it.
            Err(error) => Check::call("dead-letter queue", &error, READ).at_most_a_warning(),
        };
        checks.push(check.about(arn));
    }
    (checks, Some(attributes))
}

/// Whether EventBridge can write to a queue that this key encrypts.
fn encryption(key: &str) -> Check {
    const NAME: &str = "encryption";
    match key.ends_with(AWS_MANAGED_KEY) {
        true => Check::failure(
            NAME,
            format!("with {AWS_MANAGED_KEY}, which EventBridge may not use: no event arrives"),
            "encrypt with a key of SQS (SqsManagedSseEnabled), or with a KMS key of yours whose policy \
             lets events.amazonaws.com use it",
        ),
        // Key policies are not the daemon's to read.
        false => Check::warning(
            NAME,
            format!("with the KMS key {key}, whose policy was not looked at"),
            "see that its policy allows kms:GenerateDataKey and kms:Decrypt to events.amazonaws.com, and \
             kms:Decrypt to the daemon's role",
        ),
    }
}

fn redrive(attributes: &QueueAttributes) -> Check {
    const NAME: &str = "redrive policy";
    let Some(count) = attributes.max_receive_count else {
        return Check::failure(
            NAME,
            "there is none: what can never be handled comes back until it expires",
            "set a RedrivePolicy with maxReceiveCount 10",
        );
    };
    let said = format!("to the dead-letter queue after {count} receives");
    match count {
        ..FEW_RECEIVES => Check::warning(
            NAME,
            format!(
                "{said}: a failure that would pass, or a target that a rolling update brings, ends there too"
            ),
            "set maxReceiveCount to 10",
        ),
        MANY_RECEIVES.. => Check::warning(
            NAME,
            format!("{said}: what can never be handled is tried for days"),
            "set maxReceiveCount to 10",
        ),
        _ => Check::ok(NAME, said),
    }
}

/// Whether a message is kept for as long as its job may take, and for all of its receives.
fn retention(
    propagation_timeout: Duration,
    max_backoff: Duration,
    attributes: &QueueAttributes,
) -> Check {
    const NAME: &str = "retention";
    let Some(time) = attributes.retention else {
        let said = "the queue does not say for how long messages are kept";
        return Check::warning(NAME, said, "look at its MessageRetentionPeriod");
    };
    let said = format!("messages are kept for {}", people(time));
    let remedy = "set MessageRetentionPeriod to 4 days or more";
    // Two propagations, one after the other.
    let job = propagation_timeout * 2;
    let receives = attributes.max_receive_count.unwrap_or(1);
    let all = job + max_backoff * receives;
    if time < job {
        let said = format!(
            "{said}: one may expire before its job is done, in {}",
            people(job)
        );
        Check::failure(NAME, said, remedy)
    } else if time < all {
        let said = format!(
            "{said}: one may expire before all its receives are used, in {}",
            people(all)
        );
        Check::warning(NAME, said, remedy)
    } else if time < SHORT_RETENTION {
        let said = format!("{said}: a daemon that is down for longer loses rejections");
        Check::warning(NAME, said, remedy)
    } else {
        Check::ok(NAME, said)
    }
}

fn visibility(config: &Config, attributes: &QueueAttributes) -> Check {
    let ours = people(config.queue.visibility_timeout);
    let said = match attributes.visibility_timeout {
        Some(queue) => format!(
            "{ours} by the configuration, which overrides the queue's {}",
            people(queue)
        ),
        None => format!("{ours} by the configuration"),
    };
    Check::ok("visibility timeout", said)
}

fn dead_letters(queue: &QueueAttributes, dead: &QueueAttributes) -> Check {
    const NAME: &str = "dead-letter queue";
    let waiting = dead.visible + dead.in_flight + dead.delayed;
    let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
    if waiting > 0 {
        return Check::warning(
            NAME,
            format!("{} in it", counted(waiting, "message")),
            "`stagesweep dead-letters` shows why; fix that, and redrive them",
        );
    }
    // A message keeps the time it was first sent at: in a shorter retention it would be gone at once.
    if dead.retention < queue.retention {
        return Check::warning(
            NAME,
            "it keeps messages for less long than the queue does",
            "set its MessageRetentionPeriod to 14 days",
        );
    }
    Check::ok(NAME, "empty")
}

/// Who may send, by the queue's policy. EventBridge must, and from the named rules alone.
fn policy(attributes: &QueueAttributes) -> Check {
    const NAME: &str = "queue policy";
    const REMEDY: &str = "allow events.amazonaws.com alone sqs:SendMessage, with a condition on \
                          aws:SourceArn that names the rule";
    let Some(text) = attributes.policy.as_deref().filter(|it| !it.is_empty()) else {
        let said = "there is none: no rule can deliver to the queue";
        return Check::failure(NAME, said, REMEDY);
    };
    let Some(arn) = attributes.arn.as_deref() else {
        let said = "not looked at: the queue does not say its ARN";
        return Check::warning(NAME, said, READ);
    };
    let Some(policy) = QueuePolicy::parse(text, arn) else {
        return Check::failure(NAME, "it is not JSON", REMEDY);
    };
    let Verdict { status, said } = policy.judge();
    match status {
        Status::Ok => Check::ok(NAME, said),
        Status::Warning => Check::warning(NAME, said, REMEDY),
        Status::Failure => Check::failure(NAME, said, REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_needs_a_policy_that_can_be_read() {
        let of = |text: Option<&str>, arn: Option<&str>| {
            policy(&QueueAttributes {
                policy: text.map(str::to_owned),
                arn: arn.map(str::to_owned),
                ..QueueAttributes::default()
            })
            .status
        };
        let arn = Some("arn:aws:sqs:eu-west-1:123456789012:stagesweep");
        for text in [None, Some(""), Some("no JSON"), Some("{}")] {
            assert_eq!(of(text, arn), Status::Failure, "{text:?}");
        }
        assert_eq!(of(Some("{}"), None), Status::Warning);
    }

    #[test]
    fn a_key_that_eventbridge_may_not_use_is_a_failure() {
        let ours = "arn:aws:kms:eu-west-1:123456789012:key/0a1b2c3d";
        assert_eq!(encryption(ours).status, Status::Warning);
        let managed = "arn:aws:kms:eu-west-1:123456789012:alias/aws/sqs";
        for key in ["alias/aws/sqs", managed] {
            assert_eq!(encryption(key).status, Status::Failure);
        }
    }

    #[test]
    fn messages_are_kept_for_as_long_as_jobs_and_receives_take() {
        const MINUTE: Duration = Duration::from_secs(60);
        let of = |seconds| {
            let attributes = QueueAttributes {
                max_receive_count: Some(10),
                retention: Some(Duration::from_secs(seconds)),
                ..QueueAttributes::default()
            };
            retention(30 * MINUTE, 10 * MINUTE, &attributes).status
        };
        assert_eq!(of(60), Status::Failure);
        assert_eq!(of(2 * 3600), Status::Warning);
        assert_eq!(of(12 * 3600), Status::Warning);
        assert_eq!(of(4 * 24 * 3600), Status::Ok);
    }

    #[test]
    fn a_redrive_policy_is_needed_and_its_count_sensible() {
        let of = |count| {
            redrive(&QueueAttributes {
                max_receive_count: count,
                ..QueueAttributes::default()
            })
            .status
        };
        assert_eq!(of(None), Status::Failure);
        assert_eq!(of(Some(1)), Status::Warning);
        assert_eq!(of(Some(9)), Status::Warning);
        assert_eq!(of(Some(10)), Status::Ok);
        assert_eq!(of(Some(1000)), Status::Warning);
    }
}
