//! The way out to AWS: proxies, authorities, and the host of the queue's URL.

use std::path::PathBuf;

use crate::desk::{CONTAINER_TOKEN, Desk};
use crate::harness::{Launch, TARGET, World};

/// A key that the desk takes for one that holds until 2100.
const KEY: &str = "AKIATESTU4102444800";

/// A host that only the desk, as a proxy, leads to.
const HOST: &str = "aws.test";

async fn open() -> (World, Desk) {
    let world = World::new().await;
    let desk = Desk::open(&world).await;
    (world, desk)
}

/// The program, which finds nothing on this machine by itself.
fn program(world: &World, arguments: &[&str]) -> Launch {
    let config = world.write_config("config.toml", TARGET);
    let keyed = world.program(arguments).argument("--config");
    keyed
        .argument(config)
        .without("AWS_ENDPOINT_URL")
        .without("AWS_ACCESS_KEY_ID")
        .env("AWS_ACCESS_KEY_ID", KEY)
}

fn certificate(name: &str) -> String {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process/certificates");
    PathBuf::from(directory).join(name).display().to_string()
}

#[tokio::test]
async fn everything_goes_through_the_proxy_but_what_is_on_this_machine() {
    let (world, desk) = open().await;
    let service = world.service("shop");
    world.reject(&service);
    let container = format!("{}/container", desk.url());
    let daemon = program(&world, &["run", "--drain"])
        .without("AWS_ACCESS_KEY_ID")
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN)
        .env("AWS_ENDPOINT_URL", &format!("http://{HOST}"))
        .env("HTTP_PROXY", desk.url());
    let daemon = daemon.finish().await;
    assert_eq!(daemon.code, Some(0), "{}\n{}", daemon.stdout, daemon.stderr);
    world.assert_cleaned_once(&service);
    assert_eq!(desk.hosts().into_iter().collect::<Vec<_>>(), [HOST]);
    // The desk is a proxy and a container's door in one: the latter was asked by its own name.
    assert!(desk.asked("GET /container") > 0);
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named_and_nowhere_else() {
    let (world, desk) = open().await;
    world.service("shop");
    let plan = || {
        program(&world, &["plan", "shop-frontend-pipeline"])
            .env("AWS_ENDPOINT_URL", &format!("https://{HOST}"))
            .env("HTTPS_PROXY", desk.url())
    };
    let authority = certificate("authority.pem");
    let profile = world.path("profiles");
    std::fs::write(&profile, format!("[default]\nca_bundle = {authority}\n")).unwrap();
    for (name, value) in [
        ("AWS_CA_BUNDLE", &*authority),
        ("SSL_CERT_FILE", &*authority),
        ("AWS_CONFIG_FILE", profile.to_str().unwrap()),
    ] {
        let ended = plan().env(name, value).finish().await;
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
    }
    assert_eq!(desk.hosts().into_iter().collect::<Vec<_>>(), [HOST]);
    // In place of the machine's own, as the AWS CLI has it.
    let other = certificate("server.pem");
    for ended in [
        plan().finish().await,
        plan().env("AWS_CA_BUNDLE", &other).finish().await,
    ] {
        let said = &ended.stderr;
        assert_eq!(ended.code, Some(1), "{said}");
        for word in ["not trusted", "AWS_CA_BUNDLE", "ca_bundle", "SSL_CERT_FILE"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(said.contains("misconfigured"), "{said}");
    }
}

#[tokio::test]
async fn the_host_of_the_queues_url_is_asked_where_nothing_else_leads_to_the_queue() {
    let (world, desk) = open().await;
    let region = "ap-northeast-1";
    let plain = format!("sqs.{region}.amazonaws.com");
    for (host, asked) in [
        (
            format!("vpce-0abc-xyz.sqs.{region}.vpce.amazonaws.com"),
            None,
        ),
        (format!("sqs-fips.{region}.amazonaws.com"), None),
        (format!("sqs.{region}.api.aws"), None),
        (format!("{region}.queue.amazonaws.com"), Some(&plain)),
        (plain.clone(), None),
        ("queue.internal.example".to_owned(), None),
    ] {
        // What the SDK finds by itself is asked over TLS.
        let scheme = match host.starts_with("vpce") || host.ends_with("example") {
            true => "http",
            false => "https",
        };
        let mut daemon = program(&world, &["run", "--drain"])
            .env(
                "STAGESWEEP__QUEUE__URL",
                &format!("{scheme}://{host}/123456789012/stagesweep"),
            )
            .env("HTTP_PROXY", desk.url())
            .env("HTTPS_PROXY", desk.url());
        for service in ["STS", "SSM", "CLOUDFRONT", "CODEPIPELINE"] {
            daemon = daemon.env(
                &format!("AWS_ENDPOINT_URL_{service}"),
                &format!("http://{HOST}"),
            );
        }
        let daemon = daemon.spawn();
        let asked = asked.unwrap_or(&host);
        if scheme == "http" {
            daemon.says("started").await;
            assert!(desk.hosts().contains(asked), "{asked}: {:?}", desk.hosts());
        } else {
            // The desk has no certificate for this host, but notes who was to be tunnelled to.
            daemon
                .says("receiving fails; trying again with backoff")
                .await;
            let tunnel = format!("CONNECT {asked}:443");
            assert!(desk.asked(&tunnel) > 0, "{tunnel}\n{daemon:?}");
        }
    }
}

#[tokio::test]
async fn check_and_doctor_tell_where_aws_is_asked_and_by_which_way() {
    let (world, desk) = open().await;
    let queue =
        "https://vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com/123456789012/stagesweep.fifo";
    let ended = program(&world, &["check"])
        .env("STAGESWEEP__QUEUE__URL", queue)
        .finish()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line = |key: &str, rest: &str| {
        let line = format!("  {key:<38}{rest}");
        assert!(ended.stdout.contains(&line), "{line}\n{}", ended.stdout);
    };
    line("queue region", "eu-west-1 (queue.url)");
    let host = "https://vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com (queue.url)";
    line("queue endpoint", host);
    line("region", "ap-northeast-1 (AWS_REGION)");
    assert!(ended.stderr.contains("FIFO"), "{}", ended.stderr);

    let authority = certificate("authority.pem");
    let doctor = program(&world, &["doctor"])
        .env("AWS_ENDPOINT_URL", desk.url())
        .env("HTTPS_PROXY", "http://kim:secret@proxy.example.com:3128")
        .env("NO_PROXY", "10.0.0.0/8")
        .env("AWS_CA_BUNDLE", &authority);
    let ended = doctor.finish().await;
    for line in [
        "proxies: http://…@proxy.example.com:3128 (HTTPS_PROXY), 10.0.0.0/8 (NO_PROXY)".to_owned(),
        format!("authorities: {authority} (AWS_CA_BUNDLE)"),
        format!("endpoint: of the queue: {} (AWS_ENDPOINT_URL)", desk.url()),
    ] {
        assert!(ended.stdout.contains(&line), "{line}\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("secret"), "{}", ended.stdout);
}
