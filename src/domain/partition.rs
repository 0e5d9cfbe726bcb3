//! AWS's partitions, and what the host of a queue's URL tells.
//!
//! Source: `partitions.json` of the AWS SDKs (region patterns and DNS suffixes); "Amazon SQS endpoints and
//! quotas" and "Interface VPC endpoints for Amazon SQS" for the hosts.

struct Partition {
    id: &'static str,
    /// How the codes of its regions begin; of `aws`, which has many, nothing.
    prefix: &'static str,
    dns_suffix: &'static str,
    dual_stack_suffix: &'static str,
    /// The host of its console, where it is public.
    console: Option<&'static str>,
}

const fn partition(
    id: &'static str,
    prefix: &'static str,
    dns_suffix: &'static str,
    dual_stack_suffix: &'static str,
    console: Option<&'static str>,
) -> Partition {
    Partition {
        id,
        prefix,
        dns_suffix,
        dual_stack_suffix,
        console,
    }
}

const COMMERCIAL: Partition = partition(
    "aws",
    "",
    "amazonaws.com",
    "api.aws",
    Some("console.aws.amazon.com"),
);

/// Every other one.
const PARTITIONS: [Partition; 7] = [
    partition(
        "aws-cn",
        "cn-",
        "amazonaws.com.cn",
        "api.amazonwebservices.com.cn",
        Some("console.amazonaws.cn"),
    ),
    partition(
        "aws-us-gov",
        "us-gov-",
        "amazonaws.com",
        "api.aws",
        Some("console.amazonaws-us-gov.com"),
    ),
    partition(
        "aws-eusc",
        "eusc-",
        "amazonaws.eu",
        "api.amazonwebservices.eu",
        Some("console.amazonaws-eusc.eu"),
    ),
    partition("aws-iso", "us-iso-", "c2s.ic.gov", "api.aws.ic.gov", None),
    partition(
        "aws-iso-b",
        "us-isob-",
        "sc2s.sgov.gov",
        "api.aws.scloud",
        None,
    ),
    partition(
        "aws-iso-e",
        "eu-isoe-",
        "cloud.adc-e.uk",
        "api.cloud-aws.adc-e.uk",
        None,
    ),
    partition(
        "aws-iso-f",
        "us-isof-",
        "csp.hci.ic.gov",
        "api.aws.hci.ic.gov",
        None,
    ),
];

fn of(region: &str) -> &'static Partition {
    let other = PARTITIONS.iter().find(|it| region.starts_with(it.prefix));
    other.unwrap_or(&COMMERCIAL)
}

/// The partition that a region is in.
pub(crate) fn partition_of(region: &str) -> &'static str {
    of(region).id
}

/// The host of a partition's console. `None` where it is not public.
pub(crate) fn console_of(id: &str) -> Option<&'static str> {
    let other = PARTITIONS.iter().find(|it| it.id == id);
    other.unwrap_or(&COMMERCIAL).console
}

/// The host of SQS in a region, as the SDK's endpoint rules have it.
pub(crate) fn sqs_host(region: &str, fips: bool, dual_stack: bool) -> String {
    let partition = of(region);
    // The ordinary hosts of GovCloud are FIPS ones.
    let service = match fips && (dual_stack || partition.id != "aws-us-gov") {
        true => "sqs-fips",
        false => "sqs",
    };
    let suffix = match dual_stack {
        true => partition.dual_stack_suffix,
        false => partition.dns_suffix,
    };
    format!("{service}.{region}.{suffix}")
}

/// What the host of a queue's URL says, where it is one of AWS's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueHost {
    /// The queue's region.
    pub region: String,
    /// It is a FIPS endpoint.
    pub fips: bool,
    /// It answers over IPv6 too.
    pub dual_stack: bool,
    /// It is an interface endpoint (AWS PrivateLink), which nothing but its own name leads to.
    pub interface: bool,
}

impl QueueHost {
    /// The host of a queue's URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        Self::parse(uri.host()?)
    }

    /// Reads `host`: `sqs.REGION.SUFFIX`, `sqs-fips.REGION.SUFFIX`, either with the suffix of dual-stack
    /// endpoints, `REGION.queue.SUFFIX`, `queue.amazonaws.com` (us-east-1), and
    /// `vpce-ID.sqs.REGION.vpce.SUFFIX`. `None`: it is no host of SQS.
    #[must_use]
    pub fn parse(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        if host == "queue.amazonaws.com" {
            return Some(Self::plain("us-east-1"));
        }
        PARTITIONS
            .iter()
            .chain([&COMMERCIAL])
            .find_map(|partition| Self::within(partition, &host))
    }

    /// Reads a host of this partition: its region tells which one it is.
    fn within(partition: &Partition, host: &str) -> Option<Self> {
        let under = |suffix: &str| host.strip_suffix(suffix)?.strip_suffix('.');
        let read = if let Some(rest) = under(partition.dns_suffix) {
            let labels: Vec<&str> = rest.split('.').collect();
            match labels[..] {
                ["sqs", region] | [region, "queue"] => Self::plain(region),
                ["sqs-fips", region] => Self {
                    fips: true,
                    ..Self::plain(region)
                },
                [id, service @ ("sqs" | "sqs-fips"), region, "vpce"] if id.starts_with("vpce-") => {
                    Self {
                        fips: service == "sqs-fips",
                        interface: true,
                        ..Self::plain(region)
                    }
                }
                _ => return None,
            }
        } else {
            let rest = under(partition.dual_stack_suffix)?;
            let (service, region) = rest.split_once('.')?;
            Self {
                fips: match service {
                    "sqs" => false,
                    "sqs-fips" => true,
                    _ => return None,
                },
                dual_stack: true,
                ..Self::plain(region)
            }
        };
        let sound = !read.region.is_empty() && !read.region.contains('.');
        (sound && of(&read.region).id == partition.id).then_some(read)
    }

    fn plain(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            fips: false,
            dual_stack: false,
            interface: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_sqs_tells_its_region() {
        for (host, region, marks) in [
            ("sqs.eu-west-1.amazonaws.com", "eu-west-1", ""),
            ("SQS.eu-west-1.amazonaws.com", "eu-west-1", ""),
            (
                "sqs-fips.us-gov-west-1.amazonaws.com",
                "us-gov-west-1",
                "fips",
            ),
            ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1", ""),
            ("sqs.us-gov-west-1.api.aws", "us-gov-west-1", "dual"),
            ("sqs-fips.us-east-1.api.aws", "us-east-1", "fips dual"),
            ("eu-west-1.queue.amazonaws.com", "eu-west-1", ""),
            ("queue.amazonaws.com", "us-east-1", ""),
            ("cn-north-1.queue.amazonaws.com.cn", "cn-north-1", ""),
            ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", ""),
            (
                "sqs.cn-north-1.api.amazonwebservices.com.cn",
                "cn-north-1",
                "dual",
            ),
            ("sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", ""),
            ("sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", ""),
            ("sqs.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", ""),
            ("sqs.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", ""),
            ("sqs.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", ""),
            (
                "vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com",
                "eu-west-1",
                "interface",
            ),
            (
                "vpce-0abc-xyz-eu-west-1a.sqs.eu-west-1.vpce.amazonaws.com",
                "eu-west-1",
                "interface",
            ),
            (
                "vpce-0abc-xyz.sqs-fips.us-east-1.vpce.amazonaws.com",
                "us-east-1",
                "fips interface",
            ),
        ] {
            let read = QueueHost::parse(host).unwrap_or_else(|| panic!("{host} is not read"));
            assert_eq!(read.region, region, "{host}");
            let has = |mark| marks.split(' ').any(|it| it == mark);
            let expected = (has("fips"), has("dual"), has("interface"));
            assert_eq!(
                (read.fips, read.dual_stack, read.interface),
                expected,
                "{host}"
            );
        }
        for host in [
            "localhost",
            "sqs.example.com",
            "sqs.eu-west-1.amazonaws.com.example",
            "s3.eu-west-1.amazonaws.com",
            "sqs..amazonaws.com",
            "amazonaws.com",
            "sqs.cn-north-1.amazonaws.com",
            "sqs.eu-west-1.amazonaws.com.cn",
            "vpce-0abc.sqs.eu-west-1.amazonaws.com",
        ] {
            assert_eq!(QueueHost::parse(host), None, "{host}");
        }
    }

    #[test]
    fn a_region_tells_its_partition_and_a_partition_its_console() {
        for (region, partition, console) in [
            ("eu-west-1", "aws", Some("console.aws.amazon.com")),
            ("cn-north-1", "aws-cn", Some("console.amazonaws.cn")),
            (
                "us-gov-west-1",
                "aws-us-gov",
                Some("console.amazonaws-us-gov.com"),
            ),
            (
                "eusc-de-east-1",
                "aws-eusc",
                Some("console.amazonaws-eusc.eu"),
            ),
            ("us-iso-east-1", "aws-iso", None),
            ("us-isob-east-1", "aws-iso-b", None),
            ("eu-isoe-west-1", "aws-iso-e", None),
            ("us-isof-south-1", "aws-iso-f", None),
        ] {
            assert_eq!(partition_of(region), partition, "{region}");
            assert_eq!(console_of(partition), console, "{region}");
        }
    }
}
