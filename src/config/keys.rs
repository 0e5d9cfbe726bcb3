//! The keys that there are, what each takes, and the nearest one to a key that there is not.

use std::time::Duration;

use serde_json::{Value, json};

use super::formats::{
    check_account, check_event_bus, check_event_source, check_ledger_path, check_log_group,
    check_log_level, check_namespace, check_program, check_socket, parse_duration, parse_queue_url,
    parse_sink, quoted, time,
};

/// The prefix of every environment variable that sets a key.
pub(super) const PREFIX: &str = "STAGESWEEP__";

/// What a key takes. The error of a check completes a sentence that begins with the text.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    Text(fn(&str) -> Result<(), String>),
    Choice(&'static [&'static str]),
    /// Text such as `"20s"`.
    Duration(Bounds),
    /// A whole number.
    Count {
        min: i64,
        max: i64,
    },
    /// `true` or `false`.
    Flag,
    /// A list of texts, separated by commas in the environment. The check gets the index of each, too.
    List(fn(usize, &str) -> Result<(), String>),
    /// A list of whole numbers.
    Counts,
}

/// The bounds of a duration.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    min: Duration,
    max: Duration,
    /// Whose maximum it is.
    whose: &'static str,
    whole_seconds: bool,
}

const ZERO: Duration = Duration::ZERO;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// SQS waits no longer for a message (SQS API reference: `ReceiveMessage`).
const SQS_MAX_WAIT: Duration = Duration::from_secs(20);

/// SQS hides no message for longer (SQS API reference: `ChangeMessageVisibility`).
const SQS_MAX_VISIBILITY: Duration = HOUR.saturating_mul(12);

/// Far above the 20 staging distributions that an account has by default; a larger number is a
/// slip, and every job in flight costs a share of CloudFront's request rate.
const MAX_IN_FLIGHT: i64 = 1000;

/// With the longest propagation behind it, a message is done before SQS's ceiling of 12 h.
const MAX_DELAY: Duration = HOUR.saturating_mul(6);

/// Over a longer time than this, the times of writes say nothing.
const MAX_GRACE: Duration = MINUTE.saturating_mul(10);

/// A program must have ended before its message has been invisible for 12 hours.
const MAX_PROGRAM_TIMEOUT: Duration = HOUR.saturating_mul(11);

const fn between(min: Duration, max: Duration) -> Rule {
    Rule::Duration(Bounds {
        min,
        max,
        whose: "the",
        whole_seconds: false,
    })
}

/// Bounds that SQS sets.
const fn sqs(min: Duration, max: Duration, whole_seconds: bool) -> Rule {
    Rule::Duration(Bounds {
        min,
        max,
        whose: "SQS's",
        whole_seconds,
    })
}

/// A text that is checked with other values, or by whoever uses it.
const ANY_TEXT: Rule = Rule::Text(|_| Ok(()));

const ANY_TEXTS: Rule = Rule::List(|_, _| Ok(()));

const MODE: Rule = Rule::Choice(&["act", "observe"]);

/// Every key outside of the targets. The sections of a [`Config`](super::Config) have a field for each.
#[rustfmt::skip]
pub(super) const KEYS: [(&str, Rule); 34] = [
    ("queue.url", Rule::Text(|url| parse_queue_url(url).map(drop))),
    ("queue.wait_time", sqs(ZERO, SQS_MAX_WAIT, true)),
    ("queue.visibility_timeout", sqs(SECOND, SQS_MAX_VISIBILITY, true)),
    ("queue.heartbeat_interval", sqs(MILLISECOND, SQS_MAX_VISIBILITY, false)),
    ("queue.max_in_flight", Rule::Count { min: 1, max: MAX_IN_FLIGHT }),
    ("cleanup.mode", MODE),
    ("cleanup.delay", between(ZERO, MAX_DELAY)),
    ("cleanup.poll_interval_min", between(MILLISECOND, HOUR)),
    ("cleanup.poll_interval_max", between(MILLISECOND, HOUR)),
    ("cleanup.propagation_timeout", between(MILLISECOND, HOUR.saturating_mul(24))),
    ("retry.initial_backoff", sqs(MILLISECOND, SQS_MAX_VISIBILITY, false)),
    ("retry.max_backoff", sqs(MILLISECOND, SQS_MAX_VISIBILITY, false)),
    ("shutdown.grace_period", between(ZERO, HOUR)),
    ("ledger.backend", Rule::Choice(&["embedded", "dynamodb"])),
    ("ledger.path", Rule::Text(check_ledger_path)),
    ("ledger.table", ANY_TEXT),
    ("health.socket", Rule::Text(check_socket)),
    ("events.allowed_accounts", Rule::List(|_, account| check_account(account))),
    ("verify.codepipeline", Rule::Flag),
    ("verify.on_timeout", Rule::Choice(&["clean", "ignore"])),
    ("verify.grace", between(ZERO, MAX_GRACE)),
    ("catch_up.interval", between(ZERO, HOUR.saturating_mul(24))),
    ("catch_up.reclaim", Rule::Flag),
    ("notify.event_bus", Rule::Text(check_event_bus)),
    ("notify.source", Rule::Text(check_event_source)),
    ("notify.program", Rule::List(check_program)),
    ("telemetry.log_format", Rule::Choice(&["auto", "json", "pretty"])),
    ("telemetry.log_level", Rule::Text(check_log_level)),
    ("telemetry.metrics_namespace", Rule::Text(check_namespace)),
    ("telemetry.metrics_interval", between(MILLISECOND.saturating_mul(100), HOUR)),
    ("telemetry.metrics_sink", Rule::Text(|sink| parse_sink(sink).map(drop))),
    ("telemetry.metrics_format", Rule::Choice(&["emf", "json"])),
    ("telemetry.metrics_detail", Rule::Choice(&["basic", "full"])),
    ("telemetry.metrics_log_group", Rule::Text(check_log_group)),
];

/// The section that holds a list of tables.
pub(super) const TARGETS: &str = "targets";

/// The keys of one target.
pub(super) const TARGET_KEYS: [(&str, Rule); 16] = [
    ("pipeline", ANY_TEXT),
    ("stage", ANY_TEXT),
    ("action", ANY_TEXT),
    ("production_parameter", ANY_TEXT),
    ("staging_parameter", ANY_TEXT),
    ("deploy_stage", ANY_TEXT),
    ("mode", MODE),
    ("delay", between(ZERO, MAX_DELAY)),
    ("role_arn", ANY_TEXT),
    ("pipeline_role_arn", ANY_TEXT),
    ("external_id", ANY_TEXT),
    ("region", ANY_TEXT),
    ("run", ANY_TEXTS),
    (
        "timeout",
        between(Duration::from_nanos(1), MAX_PROGRAM_TIMEOUT),
    ),
    ("retry_on", Rule::Counts),
    ("pass_environment", ANY_TEXTS),
];

impl Rule {
    /// The value that `text` is, as serde reads it; or what is wrong with it.
    pub(super) fn read(&self, text: &str) -> Result<Value, String> {
        let checked = match self {
            Self::Flag => Ok(json!(text == "true")),
            Self::Count { min, max } => {
                let number = text.parse().unwrap_or_default();
                if !(*min..=*max).contains(&number) {
                    return Err(format!("{number} is outside of {min} to {max}"));
                }
                Ok(json!(number))
            }
            Self::Duration(bounds) => bounds.read(text).map(|duration| json!(duration)),
            Self::Choice(choices) if choices.contains(&text) => Ok(json!(text)),
            Self::Choice(choices) => {
                let choices: Vec<String> = choices.iter().map(|it| quoted(it)).collect();
                Err(format!("is unknown; expected {}", choices.join(" or ")))
            }
            Self::Text(check) => check(text).map(|()| json!(text)),
            // Their elements are read one by one.
            Self::List(_) | Self::Counts => Ok(json!(text)),
        };
        checked.map_err(|problem| format!("{} {problem}", quoted(text)))
    }
}

impl Bounds {
    fn read(&self, text: &str) -> Result<Duration, String> {
        let Self {
            min, max, whose, ..
        } = *self;
        match parse_duration(text)? {
            found if found > max => Err(format!("is longer than {whose} maximum of {}", time(max))),
            found if found.is_zero() && !min.is_zero() => {
                Err("must be longer than zero".to_owned())
            }
            found if found < min => {
                Err(format!("is shorter than {whose} minimum of {}", time(min)))
            }
            found if self.whole_seconds && found.subsec_nanos() != 0 => {
                Err("has a fraction of a second; SQS takes whole seconds".to_owned())
            }
            found => Ok(found),
        }
    }
}

/// The section and the name of a dotted key.
pub(super) fn parts(key: &str) -> (&str, &str) {
    key.split_once('.').unwrap_or((key, ""))
}

/// Those of one section.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static (&'static str, Rule)> {
    KEYS.iter().filter(move |(key, _)| parts(key).0 == section)
}

pub(super) fn rule(section: &str, name: &str) -> Option<Rule> {
    let known = of_section(section).find(|(key, _)| parts(key).1 == name);
    known.map(|(_, rule)| *rule)
}

pub(super) fn is_section(name: &str) -> bool {
    of_section(name).next().is_some()
}

/// The variable that sets a dotted key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The known section nearest to `name`; or the key of that name, wherever it belongs.
pub(super) fn near_section(name: &str) -> Option<String> {
    let sections = KEYS.iter().map(|(key, _)| parts(key).0).chain([TARGETS]);
    nearest(name, sections)
        .map(str::to_owned)
        .or_else(|| elsewhere(name))
}

/// The known key nearest to `section.name`, dotted: in the same section, or else by that very
/// name in another one.
pub(super) fn near_key(section: &str, name: &str) -> Option<String> {
    nearest(name, of_section(section).map(|(key, _)| parts(key).1))
        .map(|near| format!("{section}.{near}"))
        .or_else(|| elsewhere(name))
}

/// The known key of a target nearest to `name`.
pub(super) fn near_target_key(name: &str) -> Option<String> {
    nearest(name, TARGET_KEYS.iter().map(|(key, _)| *key)).map(str::to_owned)
}

fn elsewhere(name: &str) -> Option<String> {
    let near = nearest(name, KEYS.iter().map(|(key, _)| parts(key).1))?;
    let (key, _) = KEYS.iter().find(|(key, _)| parts(key).1 == near)?;
    Some((*key).to_owned())
}

/// The candidate that a slip of the hand would turn into `name`: at most a third of its
/// characters differ, or one is the beginning of the other.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    candidates
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&name, candidate);
            let shorter = name.chars().count().min(candidate.len());
            let begins =
                shorter >= 4 && (candidate.starts_with(&name) || name.starts_with(candidate));
            (begins || distance <= (candidate.len() / 3).max(1) && distance < shorter)
                .then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_what_was_meant() {
        let key = |section, name| near_key(section, name);
        assert_eq!(key("queue", "waittime").as_deref(), Some("queue.wait_time"));
        assert_eq!(
            key("queue", "visibility").as_deref(),
            Some("queue.visibility_timeout")
        );
        assert_eq!(
            key("queue", "grace_period").as_deref(),
            Some("shutdown.grace_period")
        );
        // Two letters that changed places are one slip.
        assert_eq!(key("queue", "ulr").as_deref(), Some("queue.url"));
        assert_eq!(key("queue", "colour"), None);
        assert_eq!(near_section("cleanups").as_deref(), Some("cleanup"));
        assert_eq!(near_section("target").as_deref(), Some("targets"));
        assert_eq!(
            near_section("log-level").as_deref(),
            Some("telemetry.log_level")
        );
        assert_eq!(near_section("colours"), None);
        assert_eq!(near_target_key("pipelines").as_deref(), Some("pipeline"));
        assert_eq!(near_target_key("runs").as_deref(), Some("run"));
        assert_eq!(near_target_key("colour"), None);
    }
}
