//! The image in real containers: read-only, without capabilities, without a user of the machine's.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::desk::Desk;
use crate::harness::{NEVER, TARGET, World};
use crate::{AUTHORITY, HOST, behind, output, released, succeed, text, until};

/// What mounts the configuration of a world.
fn configured(world: &World) -> String {
    let config = std::fs::read_to_string(world.write_config("config.toml", TARGET)).unwrap();
    let here = world.path("ledger.db").display().to_string();
    let config = config.replace(&here, "/var/lib/stagesweep/ledger.db");
    let path = world.path("container.toml");
    std::fs::write(&path, config).unwrap();
    format!("--volume={}:/etc/stagesweep/config.toml:ro", path.display())
}

/// A store of images and containers of its own, and the tools that use it.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        let store = Self(tempfile::tempdir().unwrap());
        let at = |name: &str| store.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            at("graph"),
            at("run")
        );
        let containers = "[containers]\n\
             default_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        std::fs::write(at("storage.conf"), storage).unwrap();
        std::fs::write(at("containers.conf"), containers).unwrap();
        store
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("CONTAINERS_STORAGE_CONF", self.path().join("storage.conf"))
            .env("CONTAINERS_CONF", self.path().join("containers.conf"))
            // Health is asked for by the test, not by timers of a systemd.
            .env("DISABLE_HC_SYSTEMD", "true");
        command
    }

    fn podman(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command("podman", arguments))
    }

    /// `podman run` as hardened as an image for production should bear it.
    fn run(&self, arguments: &[&str]) -> Command {
        let hardened = [
            "run",
            "--network=host",
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ];
        self.command("podman", &[&hardened[..], arguments].concat())
    }

    /// Builds the image, and returns its id.
    fn build(&self, features: &str) -> String {
        let release = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/release");
        let made = succeed(self.command(release, &["image"]).env("FEATURES", features));
        let is_id = |line: &&str| line.len() == 64 && line.bytes().all(|it| it.is_ascii_hexdigit());
        made.lines().find(is_id).unwrap().to_owned()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        output(&mut self.command("podman", &["rm", "--all", "--force", "--time=0"]));
    }
}

#[test]
fn the_same_program_gives_the_same_image_and_it_is_small() {
    let images = [(), ()].map(|()| Store::new().build(""));
    assert_eq!(images[0], images[1]);
    let archive = released(&format!("-{}-image.tar", env!("CARGO_PKG_VERSION")));
    let size = archive.metadata().unwrap().len();
    assert!(size <= 16 * 1024 * 1024, "{size} bytes");
}

#[test]
fn a_whole_rehearsal_runs_in_the_image() {
    let store = Store::new();
    let image = store.build("rehearsal");
    let memory = "--tmpfs=/tmp:mode=1777";
    let rehearsal = [
        "--rm",
        memory,
        &image,
        "rehearse",
        "--propagation=500ms",
        "--duplicates=4",
    ];
    let report = succeed(&mut store.run(&rehearsal));
    assert!(report.contains("Left behind: nothing."), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_in_the_image_says_how_it_is_and_drains_as_pid_1() {
    let store = Store::new();
    let image = store.build("");
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let config = configured(&world);
    let endpoint = format!("--env=AWS_ENDPOINT_URL={}", world.endpoint_url());
    let start = [
        "--detach",
        "--name=daemon",
        "--volume=ledger:/var/lib/stagesweep",
        "--env=STAGESWEEP__QUEUE__VISIBILITY_TIMEOUT=10m",
        "--env=AWS_REGION=ap-northeast-1",
        "--env=AWS_ACCESS_KEY_ID=test",
        "--env=AWS_SECRET_ACCESS_KEY=test",
        &config,
        &endpoint,
        &image,
    ];
    succeed(&mut store.run(&start));
    let logs = || text(&output(&mut store.command("podman", &["logs", "daemon"])));
    let waits = || logs().contains("\"detach_propagated\"").then_some(());
    until("the job waits", waits, logs).await;
    // As its health check is run, by whatever runs it.
    store.podman(&["healthcheck", "run", "daemon"]);
    let how = store.podman(&["exec", "daemon", "/usr/bin/stagesweep", "health"]);
    assert!(how.contains("1 detach_propagated"), "{how}");
    let user = "--format={{.Config.User}}";
    assert_eq!(store.podman(&["inspect", user, "daemon"]), "65532:65532");

    let asked = Instant::now();
    store.podman(&["stop", "--time=20", "daemon"]);
    assert!(asked.elapsed() < Duration::from_secs(10), "{}", logs());
    let code = "--format={{.State.ExitCode}}";
    assert_eq!(
        store.podman(&["inspect", code, "daemon"]),
        "0",
        "{}",
        logs()
    );
    assert_eq!((world.depth().visible, world.depth().in_flight), (1, 0));

    store.podman(&["start", "daemon"]);
    world.aws.settle();
    let disabled = || logs().contains("\"disable_propagated\"").then_some(());
    until("the job goes on", disabled, logs).await;
    world.aws.settle();
    world.settled().await;
    world.assert_cleaned_once(&shop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_in_the_image_goes_out_through_a_proxy_and_trusts_the_authority_that_is_named() {
    let store = Store::new();
    let image = store.build("");
    let world = World::new().await;
    let desk = Desk::open(&world).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let authority = "/etc/stagesweep/authority.pem";
    let environment = behind(&desk, authority).map(|variable| format!("--env={variable}"));
    let (config, authority) = (
        configured(&world),
        format!("--volume={AUTHORITY}:{authority}:ro"),
    );
    let mut drain = vec!["--rm", "--volume=ledger:/var/lib/stagesweep"];
    drain.extend(environment.iter().map(String::as_str));
    drain.extend([&*config, &authority, &image, "run", "--drain"]);
    succeed(&mut store.run(&drain));
    world.assert_cleaned_once(&shop);
    assert_eq!(desk.hosts().into_iter().collect::<Vec<_>>(), [HOST]);
}
