//! `kill -9` before and after the effect of every call of a cleanup, a restart, and a verdict.
//!
//! The calls are those of an undisturbed run. Every moment of every case is tried; `KILL` tries one
//! and shows what happened:
//!
//! `KILL='plain, UpdateDistribution 1 after' cargo test --test process kill_matrix -- --nocapture`

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use embedded_aws::{Action, DistributionView, Rule, Service};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::harness::{Deployed, PATIENCE, Process, World};

/// So many worlds at once. Most of the time of each is spent waiting for a propagation.
const CONCURRENT: usize = 4;

/// Long enough that a propagation is waited for, and not found to be over.
const PROPAGATION: Duration = Duration::from_millis(200);

/// What the daemon finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// A rejected deployment, and its message. The first change is the record.
    Plain,
    /// The message comes twice.
    Duplicates,
    /// A newer deployment took the slot before the daemon started.
    Superseded,
    /// A newer deployment takes the slot when the policy has been deleted.
    Overtaken,
    /// Someone detached and deleted the policy by hand.
    Partly,
    /// As `Plain`; the second daemon is killed as well.
    Twice,
    /// As `Plain`; the queue is purged when the daemon has been killed at a change. Only the ledger has the
    /// job then.
    Purged,
}

/// What changes the account. Before each of these the ledger knows that something is about to be changed.
const CHANGES: [&str; 4] = [
    "PutParameter",
    "UpdateDistribution",
    "DeleteContinuousDeploymentPolicy",
    "DeleteDistribution",
];

const CASES: [Case; 7] = [
    Case::Plain,
    Case::Duplicates,
    Case::Superseded,
    Case::Overtaken,
    Case::Partly,
    Case::Twice,
    Case::Purged,
];

/// Matches any operation.
const ANY: &str = "any";

/// The `nth` call of an operation, before or after it takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) operation: String,
    pub(crate) nth: u64,
    pub(crate) after: bool,
}

/// A case, and when its daemons die.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kill {
    case: Case,
    moments: Vec<Moment>,
}

impl Display for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let when = if self.after { "after" } else { "before" };
        write!(f, "{} {} {when}", self.operation, self.nth)
    }
}

impl Display for Kill {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", format!("{:?}", self.case).to_lowercase())?;
        self.moments
            .iter()
            .try_for_each(|moment| write!(f, ", {moment}"))
    }
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(", ");
        let name = parts.next().unwrap_or_default();
        let case = CASES
            .into_iter()
            .find(|case| format!("{case:?}").eq_ignore_ascii_case(name))
            .ok_or_else(|| format!("no such case: {name}"))?;
        let moment = |part: &str| {
            let words: Vec<_> = part.split(' ').collect();
            let [operation, nth, when @ ("before" | "after")] = words[..] else {
                return Err(format!("not a moment: {part}"));
            };
            Ok(Moment {
                operation: operation.to_owned(),
                nth: nth.parse().map_err(|_| format!("not a number: {nth}"))?,
                after: when == "after",
            })
        };
        let moments = parts.map(moment).collect::<Result<_, _>>()?;
        Ok(Self { case, moments })
    }
}

/// Starts a daemon that dies at that moment. Its call is never answered. Tells whether it came.
pub(crate) fn start_doomed(world: &World, moment: &Moment) -> (Process, Arc<AtomicBool>) {
    let rule = || match &*moment.operation {
        ANY => Rule::on_any().nth(moment.nth),
        operation => Rule::on(operation).nth(moment.nth),
    };
    let died = Arc::new(AtomicBool::new(false));
    let killer: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>> = Arc::default();
    let kill = {
        let (died, killer) = (Arc::clone(&died), Arc::clone(&killer));
        move |_: &_, _: &_| {
            // The next daemon counts its calls from one, and would come to this moment as well.
            if !died.swap(true, Ordering::SeqCst) {
                killer.wait()();
            }
        }
    };
    let (kill, hang) = if moment.after {
        (Action::after(kill), Action::HangAfter)
    } else {
        (Action::before(kill), Action::Hang)
    };
    world.aws.add_rule(rule().then(kill));
    world.aws.add_rule(rule().then(hang));
    let daemon = world.daemon().spawn();
    drop(killer.set(Box::new(daemon.killer())));
    (daemon, died)
}

/// A case set up in a world.
struct Scene {
    case: Case,
    world: World,
    shop: Deployed,
    messages: Vec<String>,
    /// The deployment that has the slot in the end.
    newer: Arc<OnceLock<(Service, DistributionView)>>,
    purged: AtomicBool,
}

impl Scene {
    async fn new(case: Case) -> Self {
        let world = World::with(PROPAGATION).await;
        world.service("bystander");
        let shop = world.service("shop");
        let mut messages = vec![world.reject(&shop)];
        let newer: Arc<OnceLock<_>> = Arc::default();
        match case {
            Case::Plain | Case::Twice | Case::Purged => {}
            Case::Duplicates => messages.push(world.reject(&shop)),
            Case::Superseded => {
                let service = world.aws.deploy_again(&shop).unwrap();
                world.aws.settle();
                let production = world.aws.distribution(&shop.production_id).unwrap();
                newer.set((service, production)).unwrap();
            }
            Case::Overtaken => {
                let (newer, shop) = (Arc::clone(&newer), shop.service.clone());
                let deploy = Action::after(move |aws, _| {
                    if aws.policy(&shop.policy_id).is_none() {
                        newer.get_or_init(|| {
                            let newer = aws.deploy_again(&shop).unwrap();
                            (newer, aws.distribution(&shop.production_id).unwrap())
                        });
                    }
                });
                let rule = Rule::on("DeleteContinuousDeploymentPolicy");
                world.aws.add_rule(rule.then(deploy));
            }
            Case::Partly => {
                let (aws, production) = (&world.aws, &shop.production_id);
                aws.edit_distribution(production, "ContinuousDeploymentPolicyId", "")
                    .unwrap();
                aws.settle();
                aws.delete_policy(&shop.policy_id).unwrap();
            }
        }
        Self {
            case,
            world,
            shop,
            messages,
            newer,
            purged: AtomicBool::new(false),
        }
    }

    /// What is changed, whoever dies: once each, in this order, and nothing else.
    fn expected(&self) -> Vec<(&str, &str)> {
        let shop = &self.shop;
        let detach = ("UpdateDistribution", &*shop.production_id);
        let delete_policy = ("DeleteContinuousDeploymentPolicy", &*shop.policy_id);
        let disable = ("UpdateDistribution", &*shop.staging_id);
        let delete = ("DeleteDistribution", &*shop.staging_id);
        let record = ("PutParameter", &*shop.staging_parameter);
        match self.case {
            Case::Plain | Case::Duplicates | Case::Twice | Case::Purged => {
                vec![record, detach, delete_policy, disable, delete]
            }
            Case::Superseded => vec![delete_policy, disable, delete],
            Case::Overtaken => vec![record, detach, delete_policy, disable, delete],
            Case::Partly => vec![record, disable, delete],
        }
    }

    /// Nobody has a message of it any more.
    fn is_purged(&self) -> bool {
        self.purged.load(Ordering::SeqCst)
    }

    fn purge(&self) {
        self.purged.store(true, Ordering::SeqCst);
        self.world.aws.purge(&self.world.queues.url).unwrap();
    }

    fn judge(&self) {
        let Self { world, shop, .. } = self;
        let journal = world.journal();
        let changes = world.changes();
        let made: Vec<_> = changes
            .iter()
            .map(|it| {
                (
                    &*it.call.operation,
                    it.call.resource.as_deref().unwrap_or_default(),
                )
            })
            .collect();
        assert_eq!(made, self.expected(), "\n{journal}");
        let last = changes.last().unwrap().number;
        for message in self.messages.iter().filter(|_| !self.is_purged()) {
            let deleted = world.deletion_of(message);
            assert!(
                deleted.is_some_and(|deleted| last < deleted),
                "{message}\n{journal}"
            );
        }
        assert_eq!(world.dead_letters(), 0, "\n{journal}");
        let Some((newer, production)) = self.newer.get() else {
            world.assert_clean(shop);
            return;
        };
        let aws = &world.aws;
        assert!(aws.distribution(&shop.staging_id).is_none(), "\n{journal}");
        assert!(aws.policy(&shop.policy_id).is_none(), "\n{journal}");
        assert!(aws.distribution(&newer.staging_id).is_some());
        assert!(aws.policy(&newer.policy_id).is_some());
        let value = aws.parameter(&shop.staging_parameter);
        assert_eq!(value.as_ref(), Some(&newer.staging_id), "\n{journal}");
        let now = aws.distribution(&shop.production_id).unwrap();
        assert_eq!(
            (&now.config, &now.etag),
            (&production.config, &production.etag)
        );
    }
}

/// Kills, restarts and judges. Returns how many of the moments came.
async fn survives(kill: &Kill) -> usize {
    let scene = Scene::new(kill.case).await;
    let world = &scene.world;
    let mut kills = 0;
    for moment in &kill.moments {
        let (doomed, died) = start_doomed(world, moment);
        let ended = async {
            tokio::select! {
                _ = doomed.exited() => {}
                () = world.settled() => {}
            }
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            panic!("neither killed nor done\n{doomed:?}");
        }
        if died.load(Ordering::SeqCst) {
            doomed.exited().await;
            kills += 1;
            if kill.case == Case::Purged {
                scene.purge();
            }
        }
        drop(doomed);
        // Nothing is gained by waiting for the end of the visibility timeout.
        world.aws.show_messages(&world.queues.url).unwrap();
    }
    let daemon = world.daemon().spawn();
    daemon.says("started").await;
    if scene.is_purged() {
        daemon.says("cleanup succeeded").await;
    }
    world.settled().await;
    scene.judge();
    kills
}

/// The calls of an undisturbed run, by operation.
async fn undisturbed(case: Case) -> BTreeMap<String, u64> {
    let scene = Scene::new(case).await;
    let daemon = scene.world.daemon().spawn();
    scene.world.settled().await;
    scene.judge();
    daemon.stop().await;
    let mut calls = BTreeMap::new();
    for entry in scene.world.aws.journal().entries() {
        *calls.entry(entry.call.operation).or_default() += 1;
    }
    // The one that brings the messages, and the one that is under way while the job goes on.
    calls.insert("ReceiveMessage".to_owned(), 2);
    if case == Case::Purged {
        calls.retain(|operation, _| CHANGES.contains(&operation.as_str()));
    }
    calls
}

/// Every moment of a case.
async fn kills(case: Case) -> Vec<Kill> {
    let calls = undisturbed(case).await;
    let moments = calls.iter().flat_map(|(operation, count)| {
        (1..=*count).flat_map(move |nth| {
            [false, true].map(|after| Moment {
                operation: operation.clone(),
                nth,
                after,
            })
        })
    });
    let all: u64 = calls.values().sum();
    // The second daemon has less to do: it dies at one of its first calls, another one each time.
    let second = |index: usize| Moment {
        operation: ANY.to_owned(),
        nth: 1 + (index as u64 * 7) % (all / 2),
        after: index % 4 < 2,
    };
    moments
        .enumerate()
        .map(|(index, first)| {
            let second = (case == Case::Twice).then(|| second(index));
            let moments = [first].into_iter().chain(second).collect();
            Kill { case, moments }
        })
        .collect()
}

/// How often the daemon looks depends on the machine's speed; what it changes does not. Some calls it
/// makes only if a job lasts for long enough.
fn must_come(moment: &Moment) -> bool {
    let looks = ["Get", "List", "Receive", "Change"];
    let by_chance = ["List", "Change"];
    let is_any = |prefixes: &[&str]| {
        let operation = &moment.operation;
        prefixes.iter().any(|prefix| operation.starts_with(prefix))
    };
    !is_any(&looks) || moment.nth == 1 && !is_any(&by_chance)
}

#[tokio::test]
async fn a_daemon_that_is_killed_at_any_call_ends_the_job_after_a_restart() {
    let began = Instant::now();
    let mut all = Vec::new();
    if let Ok(kill) = std::env::var("KILL") {
        all.push(kill.parse().unwrap());
    } else {
        for case in CASES {
            all.extend(kills(case).await);
        }
    }
    let ended: Vec<(Kill, Option<usize>)> = futures_util::stream::iter(all)
        .map(|kill| async {
            let survived = AssertUnwindSafe(survives(&kill)).catch_unwind().await;
            (kill, survived.ok())
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await;
    let (mut came, mut failed) = (0, Vec::new());
    for (kill, kills) in &ended {
        came += kills.unwrap_or_default();
        let first_came = *kills != Some(0) || !kill.moments.first().is_some_and(must_come);
        if kills.is_none() || !first_came {
            failed.push(format!(
                "replay: KILL='{kill}' cargo test --test process kill_matrix -- --nocapture"
            ));
        }
    }
    let planned: usize = ended.iter().map(|(kill, _)| kill.moments.len()).sum();
    println!(
        "{} cases, {came} kills of {planned}, {:.0} s",
        ended.len(),
        began.elapsed().as_secs_f64()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(came * 4 > planned * 3, "{came} of {planned} moments came");
}
