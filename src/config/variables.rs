//! Variables whose names look as if they set something, and that set nothing.

use std::collections::BTreeMap;

use super::keys::{self, KEYS, PREFIX};
use super::{PATH_VARIABLE, TEXT_VARIABLE};

/// What the name of every variable of the program begins with.
const OURS: &str = "STAGESWEEP_";

/// What the daemon sets for the programs that it runs; such a program may use the verbs.
const OF_PROGRAMS: [&str; 7] = [
    "ACCOUNT",
    "ACTION",
    "EXECUTION_ID",
    "OUTCOME",
    "PIPELINE",
    "REGION",
    "STAGE",
];

/// What Kubernetes sets in every container beside a service that is called `stagesweep`.
const OF_KUBERNETES: [&str; 2] = ["SERVICE_", "PORT"];

/// A warning for each variable of `env` that begins with `STAGESWEEP_` and sets nothing. What begins with
/// `STAGESWEEP__` is not among them: there, an unknown key is a fault.
#[must_use]
pub fn without_effect(env: &BTreeMap<String, String>) -> Vec<String> {
    let names = env.keys().filter(|name| sets_nothing(name));
    names
        .map(|name| {
            let meant = meant(name).map(|it| format!("; did you mean {it}?"));
            format!("{name} sets nothing{}", meant.unwrap_or_default())
        })
        .collect()
}

fn sets_nothing(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let Some(rest) = upper.strip_prefix(OURS) else {
        return false;
    };
    let known = [PATH_VARIABLE, TEXT_VARIABLE].contains(&name)
        || name.starts_with(OURS)
            && (OF_PROGRAMS.contains(&rest) || OF_KUBERNETES.iter().any(|it| rest.starts_with(it)));
    !upper.starts_with(PREFIX) && !known
}

/// The variable whose name is nearest, however many underscores stand between section and key.
fn meant(name: &str) -> Option<String> {
    let known = KEYS
        .iter()
        .map(|(key, _)| (key.replace('.', "_"), keys::variable(key)));
    let own = [PATH_VARIABLE, TEXT_VARIABLE].map(|variable| {
        let rest = variable.trim_start_matches(OURS);
        (rest.to_ascii_lowercase(), variable.to_owned())
    });
    let known: Vec<_> = own.into_iter().chain(known).collect();
    let rest = &name[OURS.len()..];
    let near = keys::nearest(rest, known.iter().map(|(text, _)| &**text));
    let near = near.and_then(|near| known.iter().find(|(text, _)| text == near));
    match near {
        Some((_, variable)) => Some(variable.clone()),
        // A key without its section.
        None => keys::near_section(&rest.to_ascii_lowercase())
            .filter(|key| key.contains('.'))
            .map(|key| keys::variable(&key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_sets_nothing_is_reported_with_what_was_meant() {
        let warned = |names: &[&str]| {
            let env = names.iter().map(|name| ((*name).to_owned(), String::new()));
            without_effect(&env.collect())
        };
        for (name, meant) in [
            ("STAGESWEEP_QUEUE_URL", "STAGESWEEP__QUEUE__URL"),
            ("STAGESWEEP_QUEUE__URL", "STAGESWEEP__QUEUE__URL"),
            ("stagesweep_queue_url", "STAGESWEEP__QUEUE__URL"),
            ("STAGESWEEP_CONFIG_FILE", "STAGESWEEP_CONFIG"),
            ("STAGESWEEP_LOG_LEVEL", "STAGESWEEP__TELEMETRY__LOG_LEVEL"),
            ("STAGESWEEP_CLEANUP_MODE", "STAGESWEEP__CLEANUP__MODE"),
        ] {
            let expected = format!("{name} sets nothing; did you mean {meant}?");
            assert_eq!(warned(&[name]), [expected]);
        }
        assert_eq!(
            warned(&["STAGESWEEP_COLOUR"]),
            ["STAGESWEEP_COLOUR sets nothing"]
        );
        let known = [
            "STAGESWEEP_CONFIG",
            "STAGESWEEP_CONFIG_TOML",
            "STAGESWEEP_OUTCOME",
            "STAGESWEEP_SERVICE_HOST",
            "STAGESWEEP_PORT_80_TCP",
            "STAGESWEEP__QUEUE__URL",
            "PATH",
        ];
        assert_eq!(warned(&known), [""; 0]);
    }
}
