//! What the command line, the environment and the AWS profile say of the way to AWS. Calls nobody.
//!
//! **Guarantees.** What no waiting changes is found here, before a call fails of it: a profile that is not
//! there, an endpoint together with FIPS or dual stack, a proxy that is no URL, an authority that cannot be
//! read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use aws_config::profile::{self, ProfileSet};
use aws_runtime::env_config::EnvConfigValue;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_types::origin::Origin;
use aws_types::os_shim_internal::{Env, Fs};
use futures_util::FutureExt;

use super::authorities::Authorities;

/// The services that are called, as `AWS_ENDPOINT_URL_…` and `services` of a profile name them.
const SERVICES: [&str; 8] = [
    "SQS",
    "CloudFront",
    "SSM",
    "CodePipeline",
    "DynamoDB",
    "EventBridge",
    "STS",
    "IAM",
];

/// What the command line asks for, before the environment and the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub profile: Option<String>,
    pub region: Option<String>,
}

/// A value, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub value: String,
    /// A variable, an option, or a key of the profile.
    pub from: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.from)
    }
}

/// What no waiting changes, and what to set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub(super) String);

/// What is said of the way to AWS.
#[derive(Clone, Debug)]
pub struct Settings {
    asked: Asked,
    env: Env,
    sections: ProfileSet,
}

impl Settings {
    /// Reads the profile's files as the process's own environment says.
    ///
    /// # Errors
    /// If they cannot be understood.
    pub fn of_process(asked: &Asked) -> Result<Self, Misconfigured> {
        Self::read(asked, Env::real())
    }

    /// Reads the profile's files as these variables say.
    ///
    /// # Errors
    /// If they cannot be understood.
    pub fn of_variables(
        asked: &Asked,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, Misconfigured> {
        let variables = variables.iter().map(|(name, value)| (&**name, &**value));
        Self::read(asked, Env::from_slice(&variables.collect::<Vec<_>>()))
    }

    pub(super) fn read(asked: &Asked, env: Env) -> Result<Self, Misconfigured> {
        let files = EnvConfigFiles::default();
        let name = asked.profile.clone().map(Into::into);
        let sections = profile::load(&Fs::real(), &env, &files, name)
            // The files are read without waiting.
            .now_or_never()
            .unwrap_or_else(|| Ok(ProfileSet::default()))
            .map_err(|error| Misconfigured(format!("the AWS profiles: {error}")))?;
        Ok(Self {
            asked: asked.clone(),
            env,
            sections,
        })
    }

    fn variable(&self, name: &str) -> Option<Said> {
        let value = self.env.get(name).ok().filter(|it| !it.is_empty())?;
        Some(Said {
            value,
            from: name.to_owned(),
        })
    }

    fn option(value: Option<&String>, name: &str) -> Option<Said> {
        value.map(|value| Said {
            value: value.clone(),
            from: name.to_owned(),
        })
    }

    fn named(&self) -> Option<Said> {
        Self::option(self.asked.profile.as_ref(), "--profile")
            .or_else(|| self.variable("AWS_PROFILE"))
    }

    /// The profile that is named, or the one called `default`, if there is one.
    #[must_use]
    pub fn profile(&self) -> Option<Said> {
        let named = self.named().unwrap_or_else(|| Said {
            value: "default".to_owned(),
            from: "the default".to_owned(),
        });
        let found = self.sections.get_profile(&named.value).is_some();
        found.then_some(named)
    }

    fn no_such_profile(&self, named: &Said) -> Misconfigured {
        let mut known: Vec<&str> = self.sections.profiles().collect();
        known.sort_unstable();
        let file = match self.variable("AWS_CONFIG_FILE") {
            Some(said) => said.value,
            None => "~/.aws/config".to_owned(),
        };
        let known = match known[..] {
            [] => format!("there is none in {file}"),
            _ => format!("there are {}", known.join(", ")),
        };
        Misconfigured(format!(
            "there is no AWS profile {:?}, which {} names; {known}",
            named.value, named.from
        ))
    }

    /// A key of the profile.
    fn key(&self, key: &str) -> Option<Said> {
        let value = self.sections.get(key).filter(|it| !it.is_empty())?;
        Some(Said {
            value: value.to_owned(),
            from: format!(
                "{key} of the profile {:?}",
                self.sections.selected_profile()
            ),
        })
    }

    /// Whether the profile has a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.key(key).is_some()
    }

    /// The region. `None`: the instance is asked for it, and then the queue's URL counts.
    #[must_use]
    pub fn region(&self) -> Option<Said> {
        Self::option(self.asked.region.as_ref(), "--region")
            .or_else(|| self.variable("AWS_REGION"))
            .or_else(|| self.variable("AWS_DEFAULT_REGION"))
            .or_else(|| self.key("region"))
    }

    /// The endpoint that is set for a service, or for all.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<Said> {
        const VARIABLE: &str = "AWS_ENDPOINT_URL";
        const KEY: &str = "endpoint_url";
        let ignored = self
            .variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
            .or_else(|| self.key("ignore_configured_endpoint_urls"));
        if ignored.is_some_and(|it| it.value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let value = EnvConfigValue::new()
            .env(VARIABLE)
            .profile(KEY)
            .service_id(service);
        let (value, source) = value.load(&self.env, Some(&self.sections))?;
        let origin: Origin = (&source).into();
        let profile = self.sections.selected_profile();
        let from = if origin == Origin::service_environment_variable() {
            format!("{VARIABLE}_{}", service.to_ascii_uppercase())
        } else if origin == Origin::service_profile_file() {
            format!("services of the profile {profile:?}")
        } else if origin == Origin::shared_profile_file() {
            format!("{KEY} of the profile {profile:?}")
        } else {
            VARIABLE.to_owned()
        };
        Some(Said {
            value: value.into_owned(),
            from,
        })
    }

    fn switch(&self, variable: &str, key: &str) -> Option<Said> {
        let said = self.variable(variable).or_else(|| self.key(key));
        said.filter(|it| it.value.eq_ignore_ascii_case("true"))
    }

    /// Who wants FIPS endpoints, if somebody does.
    #[must_use]
    pub fn fips(&self) -> Option<Said> {
        self.switch("AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint")
    }

    /// Who wants dual-stack endpoints, if somebody does.
    #[must_use]
    pub fn dual_stack(&self) -> Option<Said> {
        self.switch("AWS_USE_DUALSTACK_ENDPOINT", "use_dualstack_endpoint")
    }

    /// The authorities that the certificates of AWS, or of whoever reads along, are checked against.
    #[must_use]
    pub fn authorities(&self) -> Authorities {
        let bundle = self.variable("AWS_CA_BUNDLE");
        match bundle.or_else(|| self.key("ca_bundle")) {
            Some(said) => Authorities::bundle(PathBuf::from(self.at_home(&said.value)), said.from),
            None => match self.variable("SSL_CERT_FILE") {
                Some(said) => Authorities::file_of_the_machine(said.value.into(), said.from),
                None => Authorities::machine(self.variable("SSL_CERT_DIR")),
            },
        }
    }

    /// A path of a profile, whose `~` is the home directory.
    fn at_home(&self, path: &str) -> String {
        match (path.strip_prefix("~/"), self.variable("HOME")) {
            (Some(rest), Some(home)) => format!("{}/{rest}", home.value),
            _ => path.to_owned(),
        }
    }

    /// The proxies, without their passwords, and where none is asked. The names in capitals come first.
    #[must_use]
    pub fn proxies(&self) -> Vec<Said> {
        let either = |upper: &str| {
            self.env
                .get(upper)
                .map(|value| (value, upper.to_owned()))
                .or_else(|_| {
                    let lower = upper.to_ascii_lowercase();
                    self.env.get(&lower).map(|value| (value, lower))
                })
                .ok()
                .filter(|(value, _)| !value.is_empty())
                .map(|(value, from)| Said { value, from })
        };
        let names = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];
        let mut proxies: Vec<Said> = names.into_iter().filter_map(either).collect();
        if !proxies.is_empty() {
            proxies.extend(either("NO_PROXY"));
        }
        for proxy in &mut proxies {
            if let Some((before, host)) = proxy.value.rsplit_once('@') {
                let scheme = before.split_once("://").map_or("", |it| it.0);
                let sep = if scheme.is_empty() { "" } else { "://" };
                proxy.value = format!("{scheme}{sep}…@{host}");
            }
        }
        proxies
    }

    /// What no waiting changes.
    ///
    /// # Errors
    /// The first such thing.
    pub fn check(&self) -> Result<(), Misconfigured> {
        if let Some(named) = self.named()
            && self.profile().is_none()
        {
            return Err(self.no_such_profile(&named));
        }
        for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            // One that is not there has no profiles.
            if let Some(file) = self.variable(name)
                && let Err(error) = std::fs::File::open(self.at_home(&file.value))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(Misconfigured(format!(
                    "{name} names {}, which cannot be read: {error}",
                    file.value
                )));
            }
        }
        for (switch, what) in [(self.fips(), "FIPS"), (self.dual_stack(), "dual-stack")] {
            let Some(switch) = switch else { continue };
            let endpoints = SERVICES.into_iter();
            let mut set = endpoints.filter_map(|it| Some((it, self.endpoint(it)?)));
            if let Some((service, endpoint)) = set.next() {
                return Err(Misconfigured(format!(
                    "{} asks for {what} endpoints, and {} names one for {service}: the AWS SDK takes no \
                     endpoint together with that; unset one of them, and name the {what} host in the endpoint",
                    switch.from, endpoint
                )));
            }
        }
        for proxy in self.proxies() {
            if !proxy.from.eq_ignore_ascii_case("NO_PROXY") && !is_proxy(&proxy.value) {
                return Err(Misconfigured(format!(
                    "{} holds {:?}, which is no proxy: expected for instance http://proxy.example.com:3128",
                    proxy.from, proxy.value
                )));
            }
        }
        self.authorities().load().map(drop)
    }
}

/// An http or https URL; one without a scheme is an http one.
fn is_proxy(text: &str) -> bool {
    let plain = text.replace("…@", "");
    let uri: http::Uri = plain.parse().unwrap_or_default();
    // A port that is no number is none.
    let sound = |it: &http::uri::Authority| it.port_u16().is_some() || it.as_str() == it.host();
    matches!(uri.scheme_str(), None | Some("http" | "https")) && uri.authority().is_some_and(sound)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
