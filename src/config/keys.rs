//! The keys that there are, and the nearest one to a key that there is not.

/// The prefix of every environment variable that sets a key.
pub(super) const PREFIX: &str = "STAGESWEEP__";

/// What a key's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Text such as `"20s"`.
    Duration,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Flag,
    /// A list of texts; separated by commas in the environment.
    List,
    /// A list of whole numbers.
    Counts,
}

/// Every key outside of the targets: section, name, kind.
pub(super) const KEYS: [(&str, &str, Kind); 34] = [
    ("queue", "url", Kind::Text),
    ("queue", "wait_time", Kind::Duration),
    ("queue", "visibility_timeout", Kind::Duration),
    ("queue", "heartbeat_interval", Kind::Duration),
    ("queue", "max_in_flight", Kind::Count),
    ("cleanup", "mode", Kind::Text),
    ("cleanup", "delay", Kind::Duration),
    ("cleanup", "poll_interval_min", Kind::Duration),
    ("cleanup", "poll_interval_max", Kind::Duration),
    ("cleanup", "propagation_timeout", Kind::Duration),
    ("retry", "initial_backoff", Kind::Duration),
    ("retry", "max_backoff", Kind::Duration),
    ("shutdown", "grace_period", Kind::Duration),
    ("ledger", "backend", Kind::Text),
    ("ledger", "path", Kind::Text),
    ("ledger", "table", Kind::Text),
    ("health", "socket", Kind::Text),
    ("events", "allowed_accounts", Kind::List),
    ("verify", "codepipeline", Kind::Flag),
    ("verify", "on_timeout", Kind::Text),
    ("verify", "grace", Kind::Duration),
    ("catch_up", "interval", Kind::Duration),
    ("catch_up", "reclaim", Kind::Flag),
    ("notify", "event_bus", Kind::Text),
    ("notify", "source", Kind::Text),
    ("notify", "program", Kind::List),
    ("telemetry", "log_format", Kind::Text),
    ("telemetry", "log_level", Kind::Text),
    ("telemetry", "metrics_namespace", Kind::Text),
    ("telemetry", "metrics_interval", Kind::Duration),
    ("telemetry", "metrics_sink", Kind::Text),
    ("telemetry", "metrics_format", Kind::Text),
    ("telemetry", "metrics_detail", Kind::Text),
    ("telemetry", "metrics_log_group", Kind::Text),
];

/// The section that holds a list of tables.
pub(super) const TARGETS: &str = "targets";

/// The keys of one target.
pub(super) const TARGET_KEYS: [(&str, Kind); 16] = [
    ("pipeline", Kind::Text),
    ("stage", Kind::Text),
    ("action", Kind::Text),
    ("production_parameter", Kind::Text),
    ("staging_parameter", Kind::Text),
    ("deploy_stage", Kind::Text),
    ("mode", Kind::Text),
    ("delay", Kind::Duration),
    ("role_arn", Kind::Text),
    ("pipeline_role_arn", Kind::Text),
    ("external_id", Kind::Text),
    ("region", Kind::Text),
    ("run", Kind::List),
    ("timeout", Kind::Duration),
    ("retry_on", Kind::Counts),
    ("pass_environment", Kind::List),
];

pub(super) fn kind(section: &str, name: &str) -> Option<Kind> {
    KEYS.iter()
        .find(|key| (key.0, key.1) == (section, name))
        .map(|key| key.2)
}

pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.0 == name)
}

/// The variable that sets a dotted key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The known section nearest to `name`; or the key of that name, wherever it belongs.
pub(super) fn near_section(name: &str) -> Option<String> {
    let sections = KEYS.iter().map(|key| key.0).chain([TARGETS]);
    nearest(name, sections)
        .map(str::to_owned)
        .or_else(|| elsewhere(name))
}

/// The known key nearest to `section.name`, dotted: in the same section, or else by that very
/// name in another one.
pub(super) fn near_key(section: &str, name: &str) -> Option<String> {
    let names = KEYS.iter().filter(|key| key.0 == section).map(|key| key.1);
    nearest(name, names)
        .map(|near| format!("{section}.{near}"))
        .or_else(|| elsewhere(name))
}

/// The known key of a target nearest to `name`.
pub(super) fn near_target_key(name: &str) -> Option<String> {
    nearest(name, TARGET_KEYS.iter().map(|key| key.0)).map(str::to_owned)
}

fn elsewhere(name: &str) -> Option<String> {
    let names = KEYS.iter().map(|key| key.1);
    let near = nearest(name, names)?;
    let (section, name, _) = KEYS.iter().find(|key| key.1 == near)?;
    Some(format!("{section}.{name}"))
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
