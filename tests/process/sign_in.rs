//! Every way to sign in that the AWS CLI has. Each time the credentials end in mid-job, and are renewed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use stagesweep::runtime::clock::Clock;

use crate::desk::{CONTAINER_TOKEN, Desk, LIFETIME, SSO_TOKENS, WEB_TOKEN};
use crate::harness::{Finished, Launch, World};

/// A job waits twice for this long, and what the desk hands out is renewed within four seconds.
const PROPAGATION: Duration = Duration::from_millis(2500);

/// A job that waits twice for this long needs keys again after those of a file have been looked for again, which is
/// within ten seconds.
const LONG_PROPAGATION: Duration = Duration::from_secs(6);

/// Where `aws sso login` keeps the token of the session `corp`: the SHA-1 of that name.
const SESSION_FILE: &str = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";

/// Where it keeps the token of a profile without a session: the SHA-1 of the start URL.
const URL_FILE: &str = ".aws/sso/cache/a51746d4aa793ae07b25e90c3a5db96fc7832bd7.json";

/// Where `aws login` keeps a session: the SHA-256 of its ARN.
const LOGIN_FILE: &str =
    ".aws/login/cache/5eac23c3ea68e3e98073a267164421d21c59b8690ad6ed6f2e6bb534b6c11dcb.json";

/// A world with a desk in front of it, and with a home directory.
struct Home {
    world: World,
    desk: Desk,
}

impl Home {
    async fn new() -> Self {
        Self::with(PROPAGATION).await
    }

    async fn with(propagation: Duration) -> Self {
        let world = World::with(propagation).await;
        Self {
            desk: Desk::open(&world).await,
            world,
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.world.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The program, which is told the way to the desk alone. What goes to a loopback address and is sent
    /// to a proxy is lost.
    fn program(&self, arguments: &[&str]) -> Launch {
        let nobody = "http://127.0.0.1:9";
        self.world
            .program(arguments)
            .without("AWS_ACCESS_KEY_ID")
            .without("AWS_SECRET_ACCESS_KEY")
            .without("AWS_ENDPOINT_URL")
            .env("AWS_ENDPOINT_URL", self.desk.url())
            .env("HTTP_PROXY", nobody)
            .env("HTTPS_PROXY", nobody)
    }

    fn drain(&self) -> Launch {
        let config = self
            .world
            .write_config("config.toml", crate::harness::TARGET);
        self.program(&["run", "--drain", "--config"])
            .argument(config)
    }

    /// A cleanup with credentials that end while it works.
    async fn cleans_with(&self, daemon: Launch) {
        let service = self.world.service("shop");
        self.world.reject(&service);
        let daemon = daemon.spawn();
        assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
        self.world.assert_cleaned_once(&service);
        let used = self.desk.used();
        assert!(used.len() > 1, "nothing was renewed: {used:?}\n{daemon:?}");
    }

    /// What `aws sso login --profile staff` leaves: a token that ends soon.
    fn sign_in_by_session(&self) {
        self.write(
            ".aws/config",
            "[profile staff]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = ReadOnly\n\
             region = ap-northeast-1\n\
             [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.awsapps.com/start\n",
        );
        let token = json!({
            "startUrl": "https://corp.awsapps.com/start", "region": "eu-west-1",
            "accessToken": SSO_TOKENS[0], "expiresAt": in_seconds(60),
            "clientId": "id", "clientSecret": "secret", "refreshToken": "once",
            "registrationExpiresAt": in_seconds(86_400),
        });
        self.write(SESSION_FILE, &token.to_string());
    }

    /// `plan`, which ends badly.
    async fn fails(&self, launch: Launch) -> Finished {
        let config = self
            .world
            .write_config("config.toml", crate::harness::TARGET);
        let launch = launch.argument("--config").argument(config);
        let ended = launch.finish().await;
        assert_eq!(ended.code, Some(1), "{}\n{}", ended.stdout, ended.stderr);
        ended
    }
}

fn in_seconds(seconds: i64) -> String {
    let then = Clock::system().now().as_second() + seconds;
    jiff::Timestamp::from_second(then).unwrap().to_string()
}

/// A key for a file. It tells the desk until when it holds.
fn key(name: &str, seconds: i64) -> String {
    format!("AKIA{name}U{}", Clock::system().now().as_second() + seconds)
}

fn keys(profile: &str, key: &str) -> String {
    format!("[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn keys_of_a_file_that_are_renewed_there_are_taken_up() {
    let home = Home::with(LONG_PROPAGATION).await;
    home.write(".aws/credentials", &keys("default", &key("FIRST", 3600)));
    let service = home.world.service("shop");
    home.world.reject(&service);
    let daemon = home.drain().spawn();
    daemon.says("started").await;
    home.write(".aws/credentials", &keys("default", &key("NEXT", 3600)));
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    home.world.assert_cleaned_once(&service);
    assert_eq!(home.desk.used().len(), 2, "{:?}", home.desk.used());
}

#[tokio::test]
async fn a_program_gives_credentials_even_if_it_takes_longer_than_a_call_waits() {
    let home = Home::new().await;
    let program = home.world.path("credentials.sh");
    // Slow at its first run.
    let text = format!(
        r#"#!/bin/sh
if mkdir "$HOME/ran" 2>/dev/null; then sleep 6; fi
until=$(($(date +%s) + {LIFETIME}))
printf '{{"Version": 1, "AccessKeyId": "ASIAPROC%sU%s", "SecretAccessKey": "secret", "SessionToken": "token", "Expiration": "%s"}}' \
    $$ $until "$(date -u -d @$until +%Y-%m-%dT%H:%M:%SZ)"
"#
    );
    script(&program, &text);
    let config = format!("[default]\ncredential_process = {}\n", program.display());
    home.write(".aws/config", &config);
    let daemon = home.drain().env("PATH", "/usr/bin:/bin");
    home.cleans_with(daemon).await;
}

#[tokio::test]
async fn iam_identity_center_by_a_session_whose_token_is_renewed() {
    let home = Home::new().await;
    home.sign_in_by_session();
    home.cleans_with(home.drain().env("AWS_PROFILE", "staff"))
        .await;
    assert_eq!(home.desk.asked("POST /token"), 1);
}

#[tokio::test]
async fn a_person_who_signed_in_by_iam_identity_center_uses_the_verbs() {
    let home = Home::new().await;
    home.sign_in_by_session();
    let service = home.world.service("shop");
    let routed = home
        .world
        .aws
        .route_rejections("stagesweep", &home.world.queues.url);
    routed.unwrap();
    home.world.reject(&service);
    let config = home
        .world
        .write_config("config.toml", crate::harness::TARGET);
    for (verb, more, shows) in [
        ("doctor", None, "profile: staff (--profile)"),
        ("plan", None, &*service.staging_id),
        ("clean", Some("--yes"), ""),
        ("plan", None, "shop-frontend-pipeline"),
    ] {
        let mut launch = home
            .program(&[verb, "shop-frontend-pipeline", "--profile", "staff"])
            .argument("--config")
            .argument(&config);
        if let Some(more) = more {
            launch = launch.argument(more);
        }
        let ended = launch.finish().await;
        let (out, err) = (&ended.stdout, &ended.stderr);
        assert_eq!(ended.code, Some(0), "{verb}\n{out}\n{err}");
        assert!(out.contains(shows), "{verb}: {shows}\n{out}");
    }
    home.world.assert_cleaned_once(&service);
}

#[tokio::test]
async fn iam_identity_center_as_it_was_before_sessions() {
    let home = Home::new().await;
    let url = "https://corp.awsapps.com/start";
    let config = format!(
        "[profile staff]\nsso_start_url = {url}\nsso_region = eu-west-1\nsso_account_id = 123456789012\n\
         sso_role_name = ReadOnly\nregion = ap-northeast-1\n"
    );
    home.write(".aws/config", &config);
    let token = json!({ "accessToken": SSO_TOKENS[0], "expiresAt": in_seconds(3600) });
    home.write(URL_FILE, &token.to_string());
    home.cleans_with(home.drain().env("AWS_PROFILE", "staff"))
        .await;
    assert!(home.desk.asked("GET /federation/credentials") > 1);

    // Signed out, it says how to sign in again.
    let token = json!({ "accessToken": "gone", "expiresAt": in_seconds(3600) });
    home.write(URL_FILE, &token.to_string());
    let plan = home.program(&["plan", "shop-frontend-pipeline", "--profile", "staff"]);
    let ended = home.fails(plan).await;
    let said = &ended.stderr;
    assert!(
        said.contains("Session token not found or invalid")
            && said.contains("aws sso login --profile staff"),
        "{said}"
    );
}

#[tokio::test]
async fn a_console_session_by_aws_login() {
    let home = Home::new().await;
    let session = "arn:aws:iam::123456789012:user/kim";
    home.write(
        ".aws/config",
        &format!("[default]\nlogin_session = {session}\nregion = ap-northeast-1\n"),
    );
    let token = json!({
        "accessToken": {
            "accessKeyId": key("LOGIN", 0), "secretAccessKey": "secret", "sessionToken": "token",
            "accountId": "123456789012", "expiresAt": in_seconds(0),
        },
        "tokenType": "aws_sigv4", "refreshToken": "once",
        "clientId": "arn:aws:signin:::devtools/same-device",
        "dpopKey": include_str!("certificates/dpop.key"),
    });
    home.write(LOGIN_FILE, &token.to_string());
    home.cleans_with(home.drain()).await;
    assert!(home.desk.asked("POST /v1/token") > 1);
}

#[tokio::test]
async fn a_chain_of_roles_from_the_keys_of_another_profile() {
    let home = Home::new().await;
    home.write(
        ".aws/config",
        "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = hub\n\
         [profile hub]\nrole_arn = arn:aws:iam::210987654321:role/hub\nsource_profile = base\n\
         external_id = shared\n",
    );
    home.write(".aws/credentials", &keys("base", &key("BASE", 3600)));
    home.cleans_with(home.drain().env("AWS_PROFILE", "deploy"))
        .await;
    assert!(home.desk.asked("POST /") > 3, "two roles, twice");
}

#[tokio::test]
async fn a_role_whose_credential_source_is_the_environment_or_the_container() {
    let home = Home::new().await;
    home.write(
        ".aws/config",
        "[profile variables]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n\
         credential_source = Environment\n\
         [profile task]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n\
         credential_source = EcsContainer\n\
         [profile instance]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n\
         credential_source = Ec2InstanceMetadata\n",
    );
    let task = home
        .drain()
        .env("AWS_PROFILE", "task")
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &format!("{}/container", home.desk.url()),
        )
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
    home.cleans_with(task).await;
    assert!(home.desk.asked("GET /container") > 1);

    let config = home.world.path("config.toml");
    let config = config.to_str().unwrap();
    for (profile, asked) in [
        ("variables", ""),
        (
            "instance",
            "GET /latest/meta-data/iam/security-credentials/stagesweep",
        ),
    ] {
        // In the way of a verb: an explicit profile comes before the keys in variables.
        let ended = home
            .program(&["plan", "shop-frontend-pipeline", "--profile", profile])
            .argument("--config")
            .argument(config)
            .env("AWS_ACCESS_KEY_ID", &key("BASE", 3600))
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .without("AWS_EC2_METADATA_DISABLED")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", home.desk.url())
            .finish()
            .await;
        assert_eq!(ended.code, Some(0), "{profile}: {}", ended.stderr);
        assert!(asked.is_empty() || home.desk.asked(asked) > 0, "{profile}");
    }
}

#[tokio::test]
async fn a_web_identity_whose_token_is_in_a_file() {
    let home = Home::new().await;
    home.write("token", WEB_TOKEN);
    let token = home.world.path("token");
    let daemon = home
        .drain()
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/stagesweep");
    home.cleans_with(daemon).await;
}

#[tokio::test]
async fn a_container_whose_token_is_in_a_file() {
    let home = Home::new().await;
    home.write("token", CONTAINER_TOKEN);
    let token = home.world.path("token");
    let daemon = home
        .drain()
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &format!("{}/container", home.desk.url()),
        )
        .env(
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            token.to_str().unwrap(),
        );
    home.cleans_with(daemon).await;
}

#[tokio::test]
async fn an_instance_by_its_metadata_service() {
    let home = Home::new().await;
    let daemon = home
        .drain()
        .without("AWS_EC2_METADATA_DISABLED")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", home.desk.url());
    home.cleans_with(daemon).await;
}

#[tokio::test]
async fn a_profile_that_is_asked_for_comes_before_keys_in_variables_and_so_does_a_region() {
    let home = Home::new().await;
    let service = home.world.service("shop");
    home.write(".aws/credentials", &keys("staff", &key("STAFF", 3600)));
    let config = home
        .world
        .write_config("config.toml", crate::harness::TARGET);
    let plan = |more: &[&str]| {
        let mut plan = home
            .program(&["plan", "shop-frontend-pipeline", "--config"])
            .argument(&config)
            .env("AWS_ACCESS_KEY_ID", &key("OTHER", 3600))
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        for argument in more {
            plan = plan.argument(argument);
        }
        plan
    };
    let ended = plan(&["--profile", "staff"]).finish().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains(&service.staging_id));
    let used = home.desk.used();
    assert!(
        used.iter().all(|it| it.starts_with("AKIASTAFF")),
        "{used:?}"
    );
    // In another region there is no such parameter.
    let ended = plan(&["--region", "eu-west-1"]).finish().await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(!ended.stdout.contains(&service.staging_id));
}

#[tokio::test]
async fn what_no_waiting_mends_is_said_at_once_with_what_to_set() {
    let home = Home::new().await;
    home.write(".aws/config", "[profile dev]\nregion = ap-northeast-1\n");
    let plan = || home.program(&["plan", "shop-frontend-pipeline"]);
    let keys = |plan: Launch| {
        plan.env("AWS_ACCESS_KEY_ID", &key("KEY", 3600))
            .env("AWS_SECRET_ACCESS_KEY", "secret")
    };
    let broken = home.world.path("broken.pem");
    std::fs::write(&broken, "no certificate").unwrap();
    let broken = broken.to_str().unwrap();
    for (launch, said) in [
        (plan(), "no AWS credentials: set AWS_PROFILE or keys"),
        (
            plan().env("AWS_PROFILE", "prod"),
            r#"there is no AWS profile "prod", which AWS_PROFILE names; there are dev"#,
        ),
        (
            plan().argument("--profile").argument("dev"),
            r#"the profile "dev" has none"#,
        ),
        (
            keys(plan()).env("AWS_USE_DUALSTACK_ENDPOINT", "true"),
            "AWS_USE_DUALSTACK_ENDPOINT asks for dual-stack endpoints",
        ),
        (
            keys(plan()).env("AWS_USE_FIPS_ENDPOINT", "true"),
            "AWS_USE_FIPS_ENDPOINT asks for FIPS endpoints",
        ),
        (
            keys(plan()).env("AWS_CA_BUNDLE", broken),
            "which holds no certificate of an authority",
        ),
        (
            keys(plan()).env("SSL_CERT_FILE", "/nowhere/ca.pem"),
            "SSL_CERT_FILE names /nowhere/ca.pem, which cannot be read",
        ),
        (
            keys(plan())
                .without("HTTPS_PROXY")
                .env("HTTPS_PROXY", "socks5://proxy.example.com"),
            "HTTPS_PROXY holds",
        ),
    ] {
        let ended = home.fails(launch).await;
        let text = &ended.stderr;
        assert!(text.contains(said), "{said}\n{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert!(home.desk.used().is_empty(), "{:?}", home.desk.used());
}

#[tokio::test]
async fn a_daemon_without_credentials_says_so_and_works_once_they_come() {
    let home = Home::new().await;
    let service = home.world.service("shop");
    home.world.reject(&service);
    let daemon = home.drain().spawn();
    let said = daemon
        .says("receiving fails; trying again with backoff")
        .await;
    assert_eq!(said["error.class"], "no_credentials", "{said}");
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("set AWS_PROFILE or keys"), "{error}");
    let config = home.world.path("config.toml");
    let health = home.program(&["health", "--config"]).argument(config);
    let health = health.finish().await;
    assert_eq!(health.code, Some(1));
    let text = format!("{}{}", health.stdout, health.stderr);
    assert!(text.contains("no_credentials"), "{text}");
    home.write(".aws/credentials", &keys("default", &key("LATE", 3600)));
    assert_eq!(daemon.exited().await.code(), Some(0), "{daemon:?}");
    home.world.assert_cleaned_once(&service);
}
