//! What steps, waits, ends and durations are called for people, in logs and on a terminal.

use std::time::Duration;

/// A duration in its two largest units.
#[must_use]
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// What is not ours to trust may hold control characters, or ones that turn the direction of writing:
/// neither is obeyed.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .collect()
}

/// Unicode's characters that reorder what stands around them.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What steps, waits and ends are called for people.
#[must_use]
pub fn describe(code: &str) -> &str {
    match code {
        "detach_policy" => "policy detached from production",
        "delete_policy" => "policy deleted",
        "disable_staging" => "staging distribution disabled",
        "delete_staging" => "staging distribution deleted",
        "record_deleted" => "parameter set to `deleted`",
        "both_deployed" => "both distributions to be deployed",
        "detach_propagated" => "the detach to propagate",
        "staging_deployed" => "the staging distribution to be deployed",
        "disable_propagated" => "the disable to propagate",
        "staging_gone" => "the staging distribution to be gone",
        "evidence_agrees" => "CloudFront's answers to agree",
        "delay" => "the target's delay to be over",
        "execution_at_work" => "another execution to end its work",
        "production_busy" => "another job of the same production distribution",
        "cleaned" => "cleaned",
        "already_clean" => "already clean",
        "superseded" => "superseded by another deployment",
        "observed" => "observed: nothing was changed",
        "run_program" => "the program run",
        "ran" => "the program ran",
        "running_program" => "the program to end",
        other => other,
    }
}

/// What a step is called that is found done.
#[must_use]
pub fn found(step: &str) -> &str {
    match step {
        "record_deleted" => "parameter no longer names the staging distribution",
        "detach_policy" => "policy already detached",
        "delete_policy" => "policy already deleted",
        "disable_staging" => "staging distribution already disabled",
        "delete_staging" => "staging distribution already deleted",
        other => other,
    }
}

/// `1 target`, `2 targets`, `2 aliases`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    let ending = match noun {
        _ if count == 1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let said = [0, 1, 2].map(|count| counted(count, "step"));
        assert_eq!(said, ["0 steps", "1 step", "2 steps"]);
        assert_eq!(counted(2, "alias"), "2 aliases");
    }
}
