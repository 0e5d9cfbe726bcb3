//! How AWS is reached, as the environment and the profile say: the queue's endpoint, proxies, authorities.
//! Calls nobody.

use super::{CREDENTIALS, Check, EVERYTHING, skipped};
use crate::aws::{Asked, NotSignedIn, Settings, queue_endpoint};
use crate::config::Config;
use crate::domain::error_class::ErrorClass;

/// What is in force, whether it works or not.
#[must_use]
pub fn connection(config: &Config, asked: &Asked) -> Vec<Check> {
    let settings = match Settings::of_process(asked) {
        Ok(settings) => settings,
        // Signing in fails of it, and says so.
        Err(_) => return Vec::new(),
    };
    let proxies: Vec<String> = settings.proxies().iter().map(ToString::to_string).collect();
    let proxies = match proxies.is_empty() {
        true => "none".to_owned(),
        false => proxies.join(", "),
    };
    let profile = settings
        .profile()
        .map(|it| Check::ok("profile", it.to_string()));
    let endpoint = queue_endpoint(&settings, &config.queue.url).to_string();
    let mut checks: Vec<Check> = profile.into_iter().collect();
    checks.push(Check::ok("endpoint", format!("of the queue: {endpoint}")));
    checks.push(Check::ok("proxies", proxies));
    checks.push(Check::ok("authorities", settings.authorities().to_string()));
    checks
}

/// All that can be said without credentials.
#[must_use]
pub fn not_signed_in(error: &NotSignedIn, config: &Config, asked: &Asked) -> Vec<Check> {
    let remedy = match error.class {
        ErrorClass::NoCredentials => CREDENTIALS,
        _ => "set what it says",
    };
    let mut checks = connection(config, asked);
    checks.push(Check::failure("credentials", error.to_string(), remedy));
    checks.push(skipped(EVERYTHING));
    checks
}
