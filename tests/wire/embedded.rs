//! The embedded AWS, as the real SDK clients and a plain TCP connection meet it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use aws_sdk_cloudfront::error::ProvideErrorMetadata as _;
use aws_sdk_cloudfront::operation::update_distribution::UpdateDistributionError;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::TokioSleep;
use stagesweep::rehearsal::{Action, EmbeddedAws, EventOptions, Rule, Seen, Settings};
use stagesweep::runtime::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// The three clients, all through the in-process door.
struct Clients {
    sqs: aws_sdk_sqs::Client,
    ssm: aws_sdk_ssm::Client,
    cloudfront: aws_sdk_cloudfront::Client,
}

fn world() -> EmbeddedAws {
    let start = "2026-08-24T06:00:00Z".parse().expect("a time");
    EmbeddedAws::new(Clock::following_tokio(start), Settings::default())
}

fn clients(world: &EmbeddedAws) -> Clients {
    let credentials = Credentials::new("AKIDREHEARSAL", "secret", None, None, "test");
    let config = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("ap-northeast-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url("http://aws.test")
        .http_client(world.http_client())
        .time_source(world.clock().clone())
        .sleep_impl(TokioSleep::new())
        .retry_config(RetryConfig::standard())
        .build();
    Clients {
        sqs: aws_sdk_sqs::Client::new(&config),
        ssm: aws_sdk_ssm::Client::new(&config),
        cloudfront: aws_sdk_cloudfront::Client::new(&config),
    }
}

#[tokio::test(start_paused = true)]
async fn the_sdk_takes_a_deployment_down() {
    let world = world();
    let service = world.create_service("shop").expect("a service");
    let cloudfront = clients(&world).cloudfront;
    let got = cloudfront
        .get_distribution()
        .id(&service.production_id)
        .send()
        .await
        .expect("get");
    let distribution = got.distribution().expect("a distribution");
    assert_eq!(distribution.status(), "Deployed");
    let config = distribution.distribution_config().expect("a configuration");
    assert_eq!(
        config.continuous_deployment_policy_id(),
        Some(service.policy_id.as_str())
    );
    assert_eq!(config.aliases().map(|it| it.items().len()), Some(2));

    // The typed client detaches, and loses what it does not know: the world tells.
    let mut edited = config.clone();
    edited.continuous_deployment_policy_id = Some(String::new());
    let update = |etag: String, config: aws_sdk_cloudfront::types::DistributionConfig| {
        let update = cloudfront.update_distribution().id(&service.production_id);
        update.if_match(etag).distribution_config(config).send()
    };
    let etag = got.e_tag().expect("an ETag").to_owned();
    let updated = update(etag.clone(), edited.clone()).await.expect("update");
    assert_eq!(
        updated.distribution().map(|it| it.status()),
        Some("InProgress")
    );
    let change = world
        .journal()
        .mutations()
        .pop()
        .and_then(|it| it.change)
        .expect("a change");
    assert!(
        change
            .description
            .contains(&format!("policy {} detached", service.policy_id))
    );
    assert!(
        change.description.contains("FutureFeatureConfig removed"),
        "{}",
        change.description
    );

    let again = update(etag, edited)
        .await
        .expect_err("stale")
        .into_service_error();
    assert!(matches!(
        again,
        UpdateDistributionError::PreconditionFailed(_)
    ));

    let listed = cloudfront
        .list_distributions()
        .max_items(1)
        .send()
        .await
        .expect("list");
    let list = listed.distribution_list().expect("a list");
    assert!(list.is_truncated() && list.next_marker().is_some());
    assert!(list.items()[0].e_tag().is_some());

    let policies = cloudfront
        .list_continuous_deployment_policies()
        .send()
        .await
        .expect("list");
    let policies = policies
        .continuous_deployment_policy_list()
        .expect("a list")
        .clone();
    let found = policies.items()[0]
        .continuous_deployment_policy()
        .expect("a policy");
    let names = found
        .continuous_deployment_policy_config()
        .expect("a configuration");
    let names = names
        .staging_distribution_dns_names()
        .expect("names")
        .items();
    assert_eq!(names, std::slice::from_ref(&service.staging_domain));

    let policy = cloudfront.get_continuous_deployment_policy().id(found.id());
    let etag = policy
        .send()
        .await
        .expect("get")
        .e_tag()
        .expect("an ETag")
        .to_owned();
    let delete = cloudfront
        .delete_continuous_deployment_policy()
        .id(found.id())
        .if_match(&etag);
    let refused = delete
        .clone()
        .send()
        .await
        .expect_err("in use")
        .into_service_error();
    assert!(refused.is_continuous_deployment_policy_in_use());
    let deployed = |world: &EmbeddedAws| {
        world
            .distribution(&service.production_id)
            .is_some_and(|it| it.deployed)
    };
    world
        .wait_until(deployed, Duration::from_secs(600))
        .await
        .expect("deployed");
    delete.send().await.expect("deleted");
}

#[tokio::test(start_paused = true)]
async fn the_sdk_consumes_a_rejection() {
    let world = world();
    let service = world.create_service("shop").expect("a service");
    let queues = world.create_queue_with_dlq("stagesweep", 3, Duration::from_secs(120));
    let Clients { sqs, ssm, .. } = clients(&world);
    let receive = || {
        sqs.receive_message()
            .queue_url(&queues.url)
            .wait_time_seconds(20)
            .send()
    };

    // A long poll is silent for twenty seconds: stalled-stream protection must not mind.
    let began = Instant::now();
    assert!(
        receive()
            .await
            .expect("an empty receive")
            .messages()
            .is_empty()
    );
    assert_eq!(began.elapsed().as_secs(), 20);

    let body = world.rejection_event(&service, &EventOptions::default());
    world.send(&queues.url, &body).expect("sent");
    let message = receive().await.expect("a receive").messages()[0].clone();
    assert_eq!(message.body(), Some(body.as_str()));

    let read = ssm
        .get_parameter()
        .name(&service.staging_parameter)
        .send()
        .await
        .expect("get");
    let parameter = read.parameter().expect("a parameter");
    assert_eq!(parameter.value(), Some(service.staging_id.as_str()));
    assert_eq!(parameter.version(), 2);
    let missing = ssm
        .get_parameter()
        .name("/none")
        .send()
        .await
        .expect_err("missing");
    assert!(missing.into_service_error().is_parameter_not_found());

    let handle = message.receipt_handle().expect("a handle");
    let extend = |seconds| {
        let change = sqs.change_message_visibility().queue_url(&queues.url);
        change
            .receipt_handle(handle)
            .visibility_timeout(seconds)
            .send()
    };
    extend(0).await.expect("released");
    let late = extend(60)
        .await
        .expect_err("not in flight")
        .into_service_error();
    assert!(late.is_message_not_inflight());
    let nowhere = sqs
        .receive_message()
        .queue_url("http://aws.test/123456789012/none");
    let nowhere = nowhere
        .send()
        .await
        .expect_err("no queue")
        .into_service_error();
    assert!(nowhere.is_queue_does_not_exist(), "{:?}", nowhere.code());

    let delete = sqs
        .delete_message()
        .queue_url(&queues.url)
        .receipt_handle(handle);
    delete.send().await.expect("deleted");
    assert_eq!(
        world.depth(&queues.url).map(|it| it.visible + it.in_flight),
        Some(0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_sdk_retries_what_it_should_and_nothing_else() {
    let world = world();
    let service = world.create_service("shop").expect("a service");
    let Clients {
        cloudfront, ssm, ..
    } = clients(&world);
    let get = || cloudfront.get_distribution().id(&service.staging_id).send();
    for action in [Action::Throttle, Action::DropBefore, Action::DropAfter] {
        let rule = world.add_rule(Rule::on("GetDistribution").first(2).then(action));
        let before = world.journal().calls("GetDistribution", None);
        get().await.expect("third attempt");
        assert_eq!(world.journal().calls("GetDistribution", None) - before, 3);
        world.remove_rule(rule);
    }
    world.deny("GetParameter");
    let denied = ssm
        .get_parameter()
        .name(&service.staging_parameter)
        .send()
        .await;
    let denied = denied.expect_err("denied").into_service_error();
    assert_eq!(denied.code(), Some("AccessDeniedException"));
    assert_eq!(world.journal().calls("GetParameter", None), 1);

    world.add_rule(Rule::on("GetDistribution").then(Action::Hang));
    assert!(
        tokio::time::timeout(Duration::from_secs(60), get())
            .await
            .is_err()
    );
    let entry = world.journal().entries().pop().expect("an entry");
    assert_eq!(entry.seen, Seen::Nothing);
    assert_eq!(entry.call.caller.as_deref(), Some("AKIDREHEARSAL"));
}

#[tokio::test]
async fn the_loopback_door_answers_and_cuts() {
    let world = EmbeddedAws::new(Clock::system(), Settings::default());
    world.put_parameter("/p", "v");
    let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    assert!(world.listen(anywhere).await.is_err(), "loopback only");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = world.listen(address).await.expect("a door");
    let target = listener.local_addr();
    let exchange = || async move {
        let mut stream = tokio::net::TcpStream::connect(target)
            .await
            .expect("connected");
        let body = r#"{"Name":"/p"}"#;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {target}\r\nx-amz-target: AmazonSSM.GetParameter\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        // A cut connection may end in a reset as well as in silence.
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let answer = exchange().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: application/x-amz-json-1.1\r\n"),
        "{answer}"
    );
    assert!(answer.contains(r#""Value":"v""#), "{answer}");
    world.add_rule(Rule::on_any().nth(1).then(Action::DropAfter));
    assert_eq!(exchange().await, "");
    assert_eq!(world.journal().calls("GetParameter", Some("/p")), 2);

    // A call that never gets an answer does not hold the door open.
    world.add_rule(Rule::on_any().then(Action::Hang));
    let hanging = tokio::spawn(exchange());
    let arrived = |world: &EmbeddedAws| world.journal().count() == 3;
    world
        .wait_until(arrived, Duration::from_secs(10))
        .await
        .expect("arrived");
    listener.stop().await;
    assert_eq!(hanging.await.expect("ended"), "");
}
