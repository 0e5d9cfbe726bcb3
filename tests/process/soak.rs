//! Cleanup after cleanup at speed, with faults, while the process is watched from outside: what it
//! uses must not grow.
//!
//! A few seconds in the test run. An hour, of a release build:
//!
//! `SOAK=1h STAGESWEEP_BINARY=target/release/stagesweep cargo test --test process soak -- --nocapture`
//!
//! It prints one line of comma-separated values for each look at the process.

use std::collections::BTreeSet;
use std::time::Duration;

use embedded_aws::{Faults, Service};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::harness::{Process, World};

/// How long without `SOAK`.
const SHORT: Duration = Duration::from_secs(6);

/// Deployments that are rejected again and again, side by side.
const SERVICES: usize = 10;

/// Looks at the process in a soak, whatever it lasts.
const LOOKS: u32 = 240;

/// What a cleanup may take under the worst of the faults.
const CLEANUP: Duration = Duration::from_secs(600);

/// What the daemon uses, as the kernel shows it.
#[derive(Clone, Copy, Debug)]
struct Look {
    cleanups: u64,
    resident_kib: u64,
    threads: u64,
    descriptors: u64,
}

impl Look {
    fn at(process: &Process, cleanups: u64) -> Self {
        let proc = format!("/proc/{}", process.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.unwrap().split_whitespace().next().unwrap();
            number.parse().unwrap()
        };
        Self {
            cleanups,
            resident_kib: field("VmRSS:"),
            threads: field("Threads:"),
            descriptors: std::fs::read_dir(format!("{proc}/fd")).unwrap().count() as u64,
        }
    }
}

/// What the whole soak counts.
#[derive(Default)]
struct Tally {
    cleanups: std::cell::Cell<u64>,
    redriven: std::cell::RefCell<BTreeSet<String>>,
}

#[tokio::test]
async fn what_a_long_life_uses_does_not_grow() {
    let lasts =
        std::env::var("SOAK").map_or(SHORT, |text| humantime::parse_duration(&text).unwrap());
    let world = World::new().await;
    let log = world.path("log");
    let to_file = format!("exec \"$@\" > {}", log.display());
    let daemon = world.daemon().through(["sh", "-c", &to_file, "sh"]).spawn();
    let services: Vec<_> = (0..SERVICES)
        .map(|number| world.service(&format!("soak{number}")).service)
        .collect();
    let tally = Tally::default();
    let began = Instant::now();
    let end = began + lasts;
    let mut looks = Vec::new();
    let watching = async {
        println!("seconds,cleanups,resident_kib,threads,descriptors,ledger_kib");
        for number in 1..=LOOKS {
            // Now and then a storm; most of the time the usual faults.
            world.aws.set_faults(if number % 6 == 0 {
                Faults::storm()
            } else {
                Faults::mild()
            });
            tokio::time::sleep_until(began + lasts * number / LOOKS).await;
            let look = Look::at(&daemon, tally.cleanups.get());
            println!(
                "{:.0},{},{},{},{},{}",
                began.elapsed().as_secs_f64(),
                look.cleanups,
                look.resident_kib,
                look.threads,
                look.descriptors,
                kib_of_ledger(&world)
            );
            looks.push(look);
        }
        world.aws.calm();
    };
    let lives = services
        .into_iter()
        .map(|service| live(&world, service, end, &tally));
    tokio::join!(watching, join_all(lives));
    daemon.stop().await;

    let (cleanups, redriven) = (tally.cleanups.get(), tally.redriven.borrow().len());
    println!("{cleanups} cleanups, {redriven} rejections redriven");
    assert!(cleanups > 0);
    assert_flat("KiB of memory", &looks, |look| look.resident_kib, 4096);
    assert_flat("threads", &looks, |look| look.threads, 4);
    assert_flat("descriptors", &looks, |look| look.descriptors, 8);
}

/// One service: deployed, rejected, cleaned, and so on.
async fn live(world: &World, mut service: Service, end: Instant, tally: &Tally) {
    while Instant::now() < end {
        let mut message = world.reject(&service);
        loop {
            let dead = |message: &str| contains(world, &world.queues.dead_letter_url, message);
            let over = |message: &str| !contains(world, &world.queues.url, message);
            let ended = |_: &_| over(&message);
            if world.aws.wait_until(ended, CLEANUP).await.is_err() {
                panic!("never ends: {message}\n{}", world.journal());
            }
            if !dead(&message) {
                break;
            }
            tally.redriven.borrow_mut().insert(message);
            message = world.reject(&service);
        }
        assert!(world.aws.distribution(&service.staging_id).is_none());
        assert!(world.aws.policy(&service.policy_id).is_none());
        let value = world.aws.parameter(&service.staging_parameter);
        assert_eq!(value.as_deref(), Some("deleted"));
        tally.cleanups.set(tally.cleanups.get() + 1);
        service = world.aws.deploy_again(&service).unwrap();
        // Its approval opens a second after it was deployed.
        let opens = world.aws.now() < service.start_time;
        if opens {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

fn contains(world: &World, queue: &str, message: &str) -> bool {
    let messages = world.aws.messages(queue);
    messages.iter().any(|it| it.id == message)
}

fn kib_of_ledger(world: &World) -> u64 {
    let size = |name: &str| std::fs::metadata(world.path(name)).map_or(0, |file| file.len());
    (size("ledger.db") + size("ledger.db-wal")) / 1024
}

/// The last quarter of the looks shows no more than the second, but for what an allocator may add.
fn assert_flat(what: &str, looks: &[Look], figure: fn(&Look) -> u64, allowance: u64) {
    let median = |looks: &[Look]| {
        let mut figures: Vec<_> = looks.iter().map(figure).collect();
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    let quarter = looks.len() / 4;
    let before = median(&looks[quarter..2 * quarter]);
    let after = median(&looks[3 * quarter..]);
    println!("{what}: {before}, then {after}");
    assert!(
        after <= before + before / 10 + allowance,
        "{what} grew from {before} to {after}"
    );
}
