//! A ledger whose file or disk is not as it should be, at the start and in mid-run.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use rusqlite::{Connection, TransactionBehavior};
use serde_json::Value;

use crate::harness::{Deployed, Launch, NEVER, PROPAGATION, Process, TARGET, World};

const FAILING: &str = "the ledger fails; nothing is processed or deleted until it works again";

/// A world with a rejection, and a daemon that is in the middle of it.
async fn underway(launch: impl FnOnce(&World) -> Launch) -> (World, Deployed, Process) {
    let world = World::with(NEVER).await;
    let shop = world.service("shop");
    world.reject(&shop);
    let daemon = launch(&world).spawn();
    daemon.waits_for("detach_propagated").await;
    (world, shop, daemon)
}

/// A launch in which this has been mounted at the directory, for the program alone; `None` where
/// this machine allows no such thing.
fn with_mount(launch: Launch, mount: &str, directory: &Path) -> Option<Launch> {
    const NAMESPACE: [&str; 4] = ["/bin/sh", "-c", "exec unshare -rm \"$@\"", "sh"];
    let directory = directory.to_str().unwrap();
    let [shell, option, namespace, name] = NAMESPACE;
    let trial = Command::new(shell)
        .args([
            option, namespace, name, shell, option, mount, directory, "true",
        ])
        .output()
        .unwrap();
    if !trial.status.success() {
        eprintln!("NOT TESTED: no mounts here: {trial:?}");
        return None;
    }
    Some(launch.through([
        shell, option, namespace, name, shell, option, mount, directory,
    ]))
}

/// The ledger fails in mid-run: the daemon says which one and why, gives its message back, and
/// changes nothing more.
async fn fails(world: &World, daemon: &Process, why: &str) {
    let line = daemon.says(FAILING).await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("ledger.db"), "{error}");
    assert!(error.contains(why), "{error}");
    daemon.says("message released").await;
    // Nobody asks for it again.
    let changes = world.changes().len();
    world
        .until("the message waits", |aws| {
            let visible = aws.depth(&world.queues.url).unwrap().visible;
            visible == 1
        })
        .await;
    assert_eq!(world.changes().len(), changes, "{daemon:?}");
    assert_eq!(world.aws.messages(&world.queues.url).len(), 1);
}

/// The ledger works again: the daemon goes on where it was.
async fn recovers(world: &World, shop: &Deployed, daemon: &Process) {
    daemon.says("the ledger works again").await;
    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    world.settled().await;
    world.assert_cleaned_once(shop);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

/// Every write is refused, on every machine, by the limit on the size of files.
#[tokio::test]
async fn a_disk_that_takes_no_more_stops_the_work_until_it_does() {
    // The signal that comes with a write that is too large would end the program.
    let ignoring = ["/bin/sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let (world, shop, daemon) = underway(|world| world.daemon().through(ignoring)).await;
    let limit = |limit: &str| {
        let limited = Command::new("prlimit")
            .args(["--pid", &daemon.id().to_string()])
            .arg(format!("--fsize={limit}:"))
            .status();
        assert!(limited.unwrap().success());
    };
    limit("0");
    fails(&world, &daemon, "disk I/O error").await;
    limit("unlimited");
    recovers(&world, &shop, &daemon).await;
}

/// The same with a disk of the program's own that is really full, where one can be had.
#[tokio::test]
async fn a_full_disk_stops_the_work_until_there_is_space() {
    const SMALL_DISK: &str = "mount -t tmpfs -o size=256k tmpfs \"$0\" && exec \"$@\"";
    let world = World::new().await;
    let disk = world.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let path = disk.join("ledger.db");
    let launch = world
        .daemon()
        .env("STAGESWEEP__LEDGER__PATH", path.to_str().unwrap());
    let Some(launch) = with_mount(launch, SMALL_DISK, &disk) else {
        return;
    };
    let daemon = launch.spawn();
    daemon.says("started").await;

    // The disk as the program sees it.
    let seen = format!("/proc/{}/root{}", daemon.id(), disk.display());
    let filler = Path::new(&seen).join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&[0; 1024]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    let shop = world.service("shop");
    world.reject(&shop);
    fails(&world, &daemon, "database or disk is full").await;
    world.assert_untouched();
    drop(file);
    std::fs::remove_file(filler).unwrap();
    recovers(&world, &shop, &daemon).await;
}

#[tokio::test]
async fn a_file_that_is_damaged_in_mid_run_stops_the_work_until_it_is_restored() {
    let (world, shop, daemon) = underway(World::daemon).await;
    let path = world.path("ledger.db");
    let mut database = Connection::open(&path).unwrap();
    let whole = loop {
        // All of it in the one file, and nothing of it in the daemon's memory.
        let everything = "UPDATE checks SET checked = 7; PRAGMA wal_checkpoint(TRUNCATE)";
        database.execute_batch(everything).unwrap();
        let held = database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .unwrap();
        if world.path("ledger.db-wal").metadata().unwrap().len() == 0 {
            let whole = std::fs::read(&path).unwrap();
            damage(&path, 4096..whole.len());
            held.rollback().unwrap();
            break whole;
        }
    };
    fails(&world, &daemon, "database disk image is malformed").await;
    std::fs::write(&path, whole).unwrap();
    recovers(&world, &shop, &daemon).await;
}

fn damage(path: &Path, bytes: std::ops::Range<usize>) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(bytes.start as u64)).unwrap();
    file.write_all(&vec![0x5a; bytes.len()]).unwrap();
}

#[tokio::test]
async fn a_ledger_that_fails_stops_the_work_until_it_is_mended() {
    let world = World::with(NEVER).await;
    let (shop, blog) = (world.service("shop"), world.service("blog"));
    world.reject(&shop);
    let daemon = world
        .daemon()
        .env("STAGESWEEP__TELEMETRY__METRICS_INTERVAL", "200ms")
        .spawn();
    daemon.waits_for("detach_propagated").await;

    // Someone else holds the database's write lock, and does not let go.
    let mut database = Connection::open(world.path("ledger.db")).unwrap();
    let held = database
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    daemon.says(FAILING).await;
    // The ledger's own line is the report; no job adds one.
    let released = daemon.says("message released").await;
    assert_eq!(released["reason"], "ledger_failed");
    let errors = daemon.lines();
    let errors = errors.iter().filter(|line| line["level"] == "ERROR");
    assert_eq!(errors.count(), 1, "{daemon:?}");
    world.reject(&blog);
    let changes = world.changes().len();
    // Another try at the ledger, which takes as long as the first one.
    let failures = |line: &Value| line["LedgerFailures"].as_u64() > Some(0);
    let before = daemon.lines().iter().filter(|line| failures(line)).count();
    daemon
        .lines_with("the ledger failed again", before + 1, failures)
        .await;
    assert_eq!(world.changes().len(), changes, "{daemon:?}");
    let waiting = world.aws.messages(&world.queues.url);
    let receives: Vec<_> = waiting.iter().map(|message| message.receives).collect();
    assert_eq!(receives, [1, 0], "{daemon:?}");

    drop(held);
    daemon.says("the ledger works again").await;
    world.aws.settle();
    world
        .aws
        .change_settings(|settings| settings.propagation = PROPAGATION);
    world.settled().await;
    world.assert_cleaned_once(&shop);
    world.assert_cleaned_once(&blog);
    assert_eq!(world.dead_letters(), 0);
    daemon.stop().await;
}

#[tokio::test]
async fn a_ledger_that_cannot_be_used_is_fatal_named_and_left_as_it_is() {
    let world = World::new().await;
    let shop = world.service("shop");
    let path = world.path("ledger.db");
    let ended = world.daemon().argument("--drain").finish().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let ledger = std::fs::read(&path).unwrap();
    let database = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    world.reject(&shop);
    let received = || {
        let entries = world.aws.journal().entries();
        let receives = entries.iter().filter(|entry| entry.is("ReceiveMessage"));
        receives.count()
    };
    let before = received();

    let notes = "these are somebody's notes, and no database at all\n".repeat(20);
    let cases: [(&str, &str, &dyn Fn()); 5] = [
        ("file is not a database", "restore it", &|| {
            std::fs::write(&path, &notes).unwrap();
        }),
        ("no ledger of stagesweep", "move it away", &|| {
            std::fs::remove_file(&path).unwrap();
            database("CREATE TABLE notes (text TEXT)");
        }),
        ("schema version 9", "run the newer one", &|| {
            std::fs::write(&path, &ledger).unwrap();
            database("PRAGMA user_version = 9");
        }),
        ("cannot be opened", "restore it", &|| {
            std::fs::write(&path, &ledger).unwrap();
            damage(&path, 4096..ledger.len());
        }),
        ("cannot be opened", "restore it", &|| {
            std::fs::write(&path, &ledger[..ledger.len() / 2]).unwrap();
        }),
    ];
    for (why, remedy, spoil) in cases {
        spoil();
        let spoiled = std::fs::read(&path).unwrap();
        let ended = world.daemon().finish().await;
        assert_eq!(ended.code, Some(1), "{why}");
        for text in [why, remedy, "ledger.db"] {
            assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
            // And in words, for who does not read the log.
            assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
        }
        assert!(ended.stderr.starts_with("stagesweep: "), "{}", ended.stderr);
        assert_eq!(std::fs::read(&path).unwrap(), spoiled, "{why}");
    }
    assert_eq!(received(), before, "nothing was received");
    world.assert_untouched();

    // As the errors say: move it away, and all goes on.
    std::fs::rename(&path, world.path("aside.db")).unwrap();
    let daemon = world.daemon().spawn();
    world.settled().await;
    world.assert_cleaned_once(&shop);
    daemon.stop().await;
}

#[tokio::test]
async fn a_ledger_whose_place_cannot_be_written_is_fatal_and_named() {
    let world = World::new().await;
    let (blocked, config) = (
        world.path("a file"),
        world.write_config("config.toml", TARGET),
    );
    std::fs::write(&blocked, "").unwrap();
    // Root cannot write to the second one either.
    for path in [&*blocked.join("ledger.db"), Path::new("/sys/ledger.db")] {
        let path = path.to_str().unwrap();
        let ended = world
            .program(&["run", "--config"])
            .argument(&config)
            .env("STAGESWEEP__LEDGER__PATH", path)
            .finish()
            .await;
        assert_eq!(ended.code, Some(1), "{path}");
        for text in [path, "must be writable"] {
            assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
        }
    }
    assert!(world.aws.journal().entries().is_empty());
    // A good ledger, on a file system that can only be read.
    let directory = world.path("volume");
    let path = directory.join("ledger.db");
    let on_volume = |drain: bool| {
        let launch = world.program(&["run", "--config"]).argument(&config);
        let launch = launch.env("STAGESWEEP__LEDGER__PATH", path.to_str().unwrap());
        if drain {
            launch.argument("--drain")
        } else {
            launch
        }
    };
    let ended = on_volume(true).finish().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stdout);
    let calls = world.aws.journal().entries().len();
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    if let Some(launch) = with_mount(on_volume(false), read_only, &directory) {
        let ended = launch.finish().await;
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        for text in [
            path.to_str().unwrap(),
            "must be writable",
            "Read-only file system",
        ] {
            assert!(ended.stdout.contains(text), "{text}: {}", ended.stdout);
        }
    }
    assert_eq!(world.aws.journal().entries().len(), calls);
}
