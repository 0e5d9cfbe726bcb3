//! Where a queue is asked, by its URL. Pure.

use super::settings::{Said, Settings};
use crate::domain::partition::{QueueHost, sqs_host};

/// Where a queue is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// At this endpoint and no other.
    Named { endpoint: String, fips: bool },
    /// At a host of its region.
    Regional { fips: bool, dual_stack: bool },
}

/// The endpoint at which the queue of a URL is asked, and who says so.
#[must_use]
pub fn queue_endpoint(settings: &Settings, url: &str) -> Said {
    if let Some(set) = settings.endpoint("SQS") {
        return set;
    }
    let value = match (Door::of(url), QueueHost::of_url(url)) {
        (Door::Regional { fips, dual_stack }, Some(host)) => {
            let fips = fips || settings.fips().is_some();
            let dual_stack = dual_stack || settings.dual_stack().is_some();
            format!("https://{}", sqs_host(&host.region, fips, dual_stack))
        }
        (Door::Named { endpoint, .. }, _) => endpoint,
        (Door::Regional { .. }, None) => url.to_owned(),
    };
    Said {
        value,
        from: "queue.url".to_owned(),
    }
}

impl Door {
    pub(super) fn of(url: &str) -> Self {
        let uri: http::Uri = url.parse().unwrap_or_default();
        match (QueueHost::of_url(url), uri.scheme_str(), uri.authority()) {
            (Some(host), ..) if !host.interface => Self::Regional {
                fips: host.fips,
                dual_stack: host.dual_stack,
            },
            (host, Some(scheme), Some(authority)) => Self::Named {
                endpoint: format!("{scheme}://{authority}"),
                fips: host.is_some_and(|host| host.fips),
            },
            _ => Self::Regional {
                fips: false,
                dual_stack: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_the_url_is_asked_where_the_region_does_not_lead_to_it() {
        let named = |endpoint: &str, fips| Door::Named {
            endpoint: endpoint.to_owned(),
            fips,
        };
        let regional = |fips, dual_stack| Door::Regional { fips, dual_stack };
        for (host, door) in [
            (
                "https://sqs.eu-west-1.amazonaws.com",
                regional(false, false),
            ),
            ("https://queue.amazonaws.com", regional(false, false)),
            (
                "https://sqs-fips.us-east-1.amazonaws.com",
                regional(true, false),
            ),
            ("https://sqs-fips.us-east-1.api.aws", regional(true, true)),
            (
                "https://vpce-0a-b.sqs.eu-west-1.vpce.amazonaws.com",
                named("https://vpce-0a-b.sqs.eu-west-1.vpce.amazonaws.com", false),
            ),
            (
                "https://vpce-0a-b.sqs-fips.us-east-1.vpce.amazonaws.com",
                named(
                    "https://vpce-0a-b.sqs-fips.us-east-1.vpce.amazonaws.com",
                    true,
                ),
            ),
            (
                "http://127.0.0.1:9324",
                named("http://127.0.0.1:9324", false),
            ),
        ] {
            assert_eq!(
                Door::of(&format!("{host}/123456789012/queue")),
                door,
                "{host}"
            );
        }
    }

    #[test]
    fn check_tells_the_endpoint_and_who_says_so() {
        use aws_types::os_shim_internal::Env;
        let asked = |env: &[(&str, &str)], url: &str| {
            let settings = Settings::read(&Default::default(), Env::from_slice(env)).unwrap();
            queue_endpoint(&settings, url).to_string()
        };
        let url = "https://eu-west-1.queue.amazonaws.com/123456789012/queue";
        for (env, endpoint) in [
            (&[][..], "https://sqs.eu-west-1.amazonaws.com (queue.url)"),
            (
                &[
                    ("AWS_USE_FIPS_ENDPOINT", "true"),
                    ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
                ],
                "https://sqs-fips.eu-west-1.api.aws (queue.url)",
            ),
            (
                &[("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:9324")],
                "http://127.0.0.1:9324 (AWS_ENDPOINT_URL_SQS)",
            ),
        ] {
            assert_eq!(asked(env, url), endpoint);
        }
        let government = "https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/queue";
        let plain = "https://sqs.us-gov-west-1.amazonaws.com (queue.url)";
        assert_eq!(asked(&[], government), plain);
    }
}
