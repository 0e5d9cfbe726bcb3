use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// One exchange with SQS: how it goes and how long it takes.
#[derive(Clone, Copy, Debug)]
enum Extension {
    Confirmed,
    /// It never reached SQS.
    Failed,
    /// SQS did it, and the answer was lost.
    AnswerLost,
}

/// What SQS knows of one message: the truth that a lease must never overestimate.
struct Sqs {
    received_at: Instant,
    invisible_until: Instant,
}

impl Sqs {
    fn extend(&mut self, now: Instant, by: Duration) {
        assert_eq!(by.subsec_nanos(), 0, "SQS takes whole seconds");
        assert!(!by.is_zero(), "that would release it");
        assert!(now < self.invisible_until, "it is no longer ours");
        assert!(
            now + by <= self.received_at + VISIBILITY_CEILING,
            "SQS refuses what goes beyond its ceiling"
        );
        self.invisible_until = now + by;
    }
}

fn terms() -> impl Strategy<Value = Terms> {
    let visibility = prop_oneof![10_u64..600, 600_u64..43_200];
    (visibility, 0.05..0.75).prop_map(|(visibility, part)| Terms {
        visibility_timeout: Duration::from_secs(visibility),
        heartbeat_interval: Duration::from_secs(visibility).mul_f64(part),
    })
}

/// An extension's fate, how much of it passes before and after SQS acts (in thousandths of the
/// safety margin), and how late the keeper wakes (the same).
fn exchange() -> impl Strategy<Value = (Extension, u32, u32, u32)> {
    let fate = prop_oneof![
        4 => Just(Extension::Confirmed),
        1 => Just(Extension::Failed),
        1 => Just(Extension::AnswerLost),
    ];
    (fate, 0_u32..400, 0_u32..2000, 0_u32..300)
}

proptest! {
    #[test]
    fn a_lease_is_never_believed_longer_than_confirmed_and_is_given_up_while_it_still_holds(
        terms in terms(),
        latency_ms in 0_u64..2000,
        seed: u64,
        exchanges in proptest::collection::vec(exchange(), 1..200),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let start = { let _inside = runtime.enter(); Instant::now() };
        let margin = terms.safety_margin();
        // No call takes longer than its own time limit.
        let travels = |part: u32| (margin * part / 1000).min(20 * SECOND);
        // The reply to the receive travels for a while.
        let received_at = start + Duration::from_millis(latency_ms).min(margin / 4);
        let mut sqs = Sqs {
            received_at: start,
            invisible_until: start + terms.visibility_timeout,
        };
        let mut lease = Lease::new(terms, received_at);
        let mut now = received_at;
        // Counted from the receive, in the worst case.
        let mut confirmed = received_at + terms.visibility_timeout;
        let mut exchanges = exchanges.into_iter().cycle();
        let end = loop {
            prop_assert!(lease.until <= confirmed, "believed longer than confirmed");
            let (fate, before, after, late) = exchanges.next().unwrap();
            match lease.due(now) {
                Due::At(at) => {
                    prop_assert!(at > now);
                    now = at + margin * late / 1000;
                }
                Due::Extend(by) => {
                    // As the keeper does: nothing more until this one is answered.
                    lease.next = now + terms.visibility_timeout;
                    let sent_at = now;
                    if !matches!(fate, Extension::Failed) {
                        sqs.extend(sent_at + travels(before), by);
                    }
                    let answered = sent_at + travels(before) + travels(after);
                    // Meanwhile it may be lost.
                    let over = loop {
                        match lease.due(now) {
                            Due::At(at) if at < answered => now = at,
                            Due::Over(reason) => break Some(reason),
                            Due::At(_) => break None,
                            Due::Extend(_) => prop_assert!(false, "two at once"),
                        }
                    };
                    if let Some(reason) = over {
                        break reason;
                    }
                    now = answered;
                    match fate {
                        Extension::Confirmed => {
                            lease.confirmed(sent_at, by);
                            confirmed = sent_at + by;
                        }
                        Extension::Failed | Extension::AnswerLost => {
                            lease.failed(now, &mut rng);
                        }
                    }
                }
                Due::Over(reason) => break reason,
            }
        };
        prop_assert!(now < sqs.invisible_until, "others may have it already");
        prop_assert_eq!(lease.due(now), Due::Over(end), "over is over");
        let ceiling = start + VISIBILITY_CEILING;
        prop_assert!(now + CEILING_MARGIN / 2 < ceiling);
        match end {
            StopReason::VisibilityCeiling => {
                prop_assert!(now + CEILING_MARGIN.max(margin + CEILING_SLACK) + SECOND >= ceiling);
            }
            StopReason::LeaseLost => prop_assert!(now + margin >= confirmed),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_confirmation_of_an_earlier_request_changes_nothing() {
    let terms = Terms {
        visibility_timeout: 120 * SECOND,
        heartbeat_interval: 60 * SECOND,
    };
    let start = Instant::now();
    let mut lease = Lease::new(terms, start);
    lease.confirmed(start + 80 * SECOND, 120 * SECOND);
    let before = lease.due(start + 90 * SECOND);
    lease.confirmed(start + 60 * SECOND, 120 * SECOND);
    assert_eq!(lease.due(start + 90 * SECOND), before);
    assert_eq!(lease.left(start + 90 * SECOND), 110 * SECOND);
}

/// All leases together, against the embedded AWS.
mod kept {
    use super::*;
    use crate::aws::Connector;
    use crate::runtime::clock::Clock;
    use embedded_aws::{Action, EmbeddedAws, Failure, Rule, Settings};
    use tokio::task::AbortHandle;

    const EXTEND: &str = "ChangeMessageVisibilityBatch";

    const TERMS: Terms = Terms {
        visibility_timeout: Duration::from_secs(120),
        heartbeat_interval: Duration::from_secs(60),
    };

    struct Rig {
        aws: EmbeddedAws,
        url: String,
        queue: Queue,
        leases: Leases,
        telemetry: Arc<Telemetry>,
        told: Arc<Mutex<Vec<(Duration, Over)>>>,
        keeper: AbortHandle,
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.keeper.abort();
        }
    }

    impl Rig {
        fn new(terms: Terms) -> Self {
            let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
            let aws = EmbeddedAws::new(clock.clone(), Settings::default());
            let url = aws
                .create_queue_with_dlq("work", 100, terms.visibility_timeout)
                .url;
            let telemetry = Arc::new(Telemetry::new(clock.clone()));
            let queue = Connector::to_endpoint(
                "http://aws.test",
                "ap-northeast-1",
                Some(aws.http_client()),
                &clock,
                Arc::clone(&telemetry),
            )
            .queue(&url, None, Duration::ZERO);
            let leases = Leases::new(
                queue.clone(),
                terms,
                Arc::clone(&telemetry),
                Tasks::default(),
            );
            let told = Arc::new(Mutex::new(Vec::new()));
            let (keeping, telling, start) = (leases.clone(), Arc::clone(&told), Instant::now());
            let keeper = tokio::spawn(async move {
                keeping
                    .keep(|over| telling.lock().push((start.elapsed(), over)))
                    .await;
            })
            .abort_handle();
            Self {
                aws,
                url,
                queue,
                leases,
                telemetry,
                told,
                keeper,
            }
        }

        /// Sends, receives and holds so many messages; answers their ids.
        async fn hold(&self, count: usize) -> Vec<String> {
            let mut ids = Vec::new();
            for n in 0..count {
                self.aws.send(&self.url, format!("message {n}")).unwrap();
            }
            while ids.len() < count {
                let visibility = self.leases.0.terms.visibility_timeout;
                for message in self
                    .queue
                    .receive(10, visibility, Duration::ZERO)
                    .await
                    .unwrap()
                {
                    let again = self.leases.hold(
                        &message.message_id,
                        message.receipt_handle,
                        Instant::now(),
                    );
                    assert!(!again);
                    ids.push(message.message_id);
                }
            }
            ids
        }

        /// When each extension was asked for, in seconds since the first message was received.
        fn extensions(&self) -> Vec<f64> {
            let entries = self.aws.journal().entries();
            let start = entries[0].at;
            entries
                .iter()
                .filter(|entry| entry.is(EXTEND))
                .map(|entry| entry.at.duration_since(start).as_secs_f64())
                .collect()
        }

        fn told(&self) -> Vec<(Duration, Over)> {
            self.told.lock().clone()
        }

        fn in_flight(&self) -> usize {
            self.aws.depth(&self.url).unwrap().in_flight
        }
    }

    fn refused() -> Action {
        // Nothing that the SDK tries again by itself.
        Action::Refuse(Failure::new(400, "UnsupportedOperation", "no"))
    }

    #[tokio::test(start_paused = true)]
    async fn leases_are_extended_together_by_tens_at_every_heartbeat() {
        let rig = Rig::new(TERMS);
        rig.hold(25).await;
        tokio::time::sleep(601 * SECOND).await;
        let expected: Vec<f64> = (1..=10).flat_map(|n| [f64::from(n) * 60.0; 3]).collect();
        assert_eq!(rig.extensions(), expected);
        assert_eq!(rig.in_flight(), 25);
        assert_eq!(rig.told(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn leases_that_began_within_a_tenth_of_the_heartbeat_are_extended_together() {
        let rig = Rig::new(TERMS);
        for _ in 0..10 {
            rig.hold(1).await;
            tokio::time::sleep(SECOND / 2).await;
        }
        tokio::time::sleep(300 * SECOND).await;
        let expected: Vec<f64> = (1..=5).map(|n| f64::from(n) * 60.0).collect();
        assert_eq!(rig.extensions(), expected);
        assert_eq!(rig.in_flight(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_that_fails_is_tried_again_until_the_margin_and_its_end_is_told_once() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(1).await;
        rig.aws.add_rule(Rule::on(EXTEND).then(refused()));
        let told = Arc::clone(&rig.told);
        let ended = |_: &EmbeddedAws| !told.lock().is_empty();
        // The keeper itself drives the time on.
        while !ended(&rig.aws) {
            tokio::time::sleep(SECOND / 10).await;
        }
        assert_eq!(rig.in_flight(), 1, "it is given up while it still holds");
        let tries = rig.extensions();
        assert!((7..=21).contains(&tries.len()), "{tries:?}");
        assert!(tries.iter().all(|at| (60.0..=100.0).contains(at)));
        let gaps = tries.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(
            gaps.into_iter().all(|gap| (1.9..=6.1).contains(&gap)),
            "{tries:?}"
        );
        assert_eq!(
            rig.telemetry.metrics().count("HeartbeatFailures"),
            tries.len() as u64
        );

        tokio::time::sleep(600 * SECOND).await;
        let expected = Over {
            message_id: ids[0].clone(),
            reason: StopReason::LeaseLost,
        };
        assert_eq!(rig.told(), [(100 * SECOND, expected)]);
        assert_eq!(rig.extensions(), tries, "what is over is left alone");
        assert!(rig.leases.take(&ids[0]).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_that_fails_at_first_goes_on_as_if_it_had_not() {
        let rig = Rig::new(TERMS);
        rig.hold(1).await;
        rig.aws.add_rule(Rule::on(EXTEND).first(3).then(refused()));
        tokio::time::sleep(300 * SECOND).await;
        let tries = rig.extensions();
        assert!((tries[4] - tries[3] - 60.0).abs() < 0.1, "{tries:?}");
        assert_eq!(rig.told(), []);
        assert_eq!(rig.in_flight(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_told_in_time_although_the_call_hangs() {
        let rig = Rig::new(TERMS);
        rig.hold(1).await;
        rig.aws
            .add_rule(Rule::on(EXTEND).then(Action::Delay(3600 * SECOND)));
        tokio::time::sleep(119 * SECOND).await;
        let told = rig.told();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, 100 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_failed_is_lost_alone() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(2).await;
        // Its message was deleted by someone else.
        let taken = rig.leases.take(&ids[0]).await.unwrap();
        let handle = taken.receipt_handle().to_owned();
        rig.queue
            .delete(std::slice::from_ref(&handle))
            .await
            .unwrap();
        rig.leases.hold(&ids[0], handle, Instant::now());
        rig.leases
            .hold("never received", "no handle".to_owned(), Instant::now());
        tokio::time::sleep(300 * SECOND).await;
        let mut told = rig.told();
        told.sort_by(|a, b| a.1.message_id.cmp(&b.1.message_id));
        let lost: Vec<_> = told.iter().map(|(_, over)| &*over.message_id).collect();
        let mut expected = vec![&*ids[0], "never received"];
        expected.sort_unstable();
        assert_eq!(lost, expected);
        for (at, over) in &told {
            assert_eq!((*at, over.reason), (60 * SECOND, StopReason::LeaseLost));
        }
        assert_eq!(rig.in_flight(), 1, "the other one is still held");
    }

    #[tokio::test(start_paused = true)]
    async fn taking_a_message_waits_for_the_extension_under_way_and_is_the_last_use_of_it() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(2).await;
        rig.aws
            .add_rule(Rule::on(EXTEND).then(Action::Delay(3 * SECOND)));
        let start = Instant::now();
        tokio::time::sleep(61 * SECOND).await;
        assert!(rig.leases.take(&ids[0]).await.is_some());
        assert_eq!(start.elapsed(), 63 * SECOND, "the extension was answered");
        assert_eq!(rig.extensions().len(), 1);
        assert!(rig.leases.take(&ids[1]).await.is_some());
        assert_eq!(start.elapsed(), 63 * SECOND, "nothing to wait for");

        tokio::time::sleep(600 * SECOND).await;
        assert_eq!(rig.extensions().len(), 1);
        assert_eq!(rig.told(), []);
        assert!(rig.leases.take(&ids[0]).await.is_none());
    }

    /// The extension falls due in the very moment in which the message is taken.
    #[tokio::test(start_paused = true)]
    async fn no_extension_begins_once_a_message_has_been_taken() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(1).await;
        rig.aws
            .add_rule(Rule::on(EXTEND).then(Action::Delay(3 * SECOND)));
        let held = Arc::clone(&rig.leases.0.held.lock()[&ids[0]]);
        let decided = || held.state.lock().lease.next > Instant::now() + TERMS.heartbeat_interval;
        tokio::time::sleep(60 * SECOND).await;
        while !decided() {
            tokio::task::yield_now().await;
        }
        let start = Instant::now();
        assert!(rig.leases.take(&ids[0]).await.is_some());
        let begun = rig.extensions().len();
        let waited = start.elapsed() >= 3 * SECOND;
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(rig.extensions().len(), begun, "one began after the taking");
        assert!(begun == 0 || waited, "one was under way at the taking");
    }

    #[tokio::test(start_paused = true)]
    async fn taking_a_message_waits_for_an_extension_by_an_earlier_receipt_handle() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(1).await;
        rig.aws
            .add_rule(Rule::on(EXTEND).then(Action::Delay(4 * SECOND)));
        let start = Instant::now();
        tokio::time::sleep(61 * SECOND).await;
        // It comes back, twice, while the extension is under way.
        assert!(rig.leases.hold(&ids[0], "newer".to_owned(), Instant::now()));
        tokio::time::sleep(SECOND).await;
        assert!(
            rig.leases
                .hold(&ids[0], "newest".to_owned(), Instant::now())
        );
        let taken = rig.leases.take(&ids[0]).await.unwrap();
        assert_eq!(taken.receipt_handle(), "newest");
        assert_eq!(start.elapsed(), 64 * SECOND, "the extension was answered");
        assert_eq!(rig.extensions().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_back_while_it_is_held_brings_the_newer_handle() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(1).await;
        tokio::time::sleep(30 * SECOND).await;
        assert!(rig.leases.hold(&ids[0], "newer".to_owned(), Instant::now()));
        let taken = rig.leases.take(&ids[0]).await.unwrap();
        assert_eq!(taken.receipt_handle(), "newer");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_knows_when_its_message_was_received_again() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(2).await;
        let first = rig.leases.take(&ids[0]).await.unwrap();
        let other = rig.leases.take(&ids[1]).await.unwrap();
        assert!(!first.is_superseded());
        rig.leases.hold(&ids[0], "newer".to_owned(), Instant::now());
        assert!(first.is_superseded());
        let second = rig.leases.take(&ids[0]).await.unwrap();
        // An older one that goes does not make the newer one forgotten.
        drop(first);
        assert!(!second.is_superseded() && !other.is_superseded());
        rig.leases
            .hold(&ids[0], "newest".to_owned(), Instant::now());
        assert!(second.is_superseded() && !other.is_superseded());
        drop((second, other));
        assert!(rig.leases.0.taken.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_given_back_before_the_ceiling_and_never_asks_for_more() {
        for visibility in [120, 3_600, 43_200] {
            let terms = Terms {
                visibility_timeout: Duration::from_secs(visibility),
                heartbeat_interval: Duration::from_secs(visibility / 2),
            };
            let rig = Rig::new(terms);
            rig.hold(1).await;
            tokio::time::sleep(VISIBILITY_CEILING).await;
            let told = rig.told();
            assert_eq!(told.len(), 1, "{visibility}");
            assert_eq!(told[0].1.reason, StopReason::VisibilityCeiling);
            assert!(told[0].0 <= VISIBILITY_CEILING - CEILING_MARGIN);
            assert_eq!(rig.telemetry.metrics().count("HeartbeatFailures"), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_receipt_handle_that_nothing_uses_is_forgotten_at_once() {
        let rig = Rig::new(TERMS);
        let ids = rig.hold(1).await;
        let first = Arc::clone(&rig.leases.0.held.lock()[&ids[0]]);
        assert!(rig.leases.hold(&ids[0], "newer".to_owned(), Instant::now()));
        assert!(first.state.lock().over, "no extension of it may begin");
        assert!(rig.leases.0.held.lock()[&ids[0]].earlier.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_due_within_a_tenth_of_the_heartbeat_is_due_soon_and_nothing_else() {
    let terms = Terms {
        visibility_timeout: 120 * SECOND,
        heartbeat_interval: 60 * SECOND,
    };
    let start = Instant::now();
    let mut lease = Lease::new(terms, start);
    assert_eq!(lease.due_soon(start + 53 * SECOND), None);
    assert_eq!(lease.due_soon(start + 54 * SECOND), Some(120 * SECOND));
    // It is due.
    assert_eq!(lease.due_soon(start + 60 * SECOND), None);
    // One that is tried again keeps its time.
    let mut rng = fastrand::Rng::with_seed(1);
    lease.failed(start + 60 * SECOND, &mut rng);
    assert!(matches!(lease.due(start + 61 * SECOND), Due::At(_)));
    assert_eq!(lease.due_soon(start + 61 * SECOND), None);
    // Until it is confirmed.
    lease.confirmed(start + 70 * SECOND, 120 * SECOND);
    assert_eq!(lease.due_soon(start + 125 * SECOND), Some(120 * SECOND));
}
