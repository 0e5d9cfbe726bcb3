use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::aws::Connector;
use crate::aws::sqs::Queue;
use crate::consumer::lease::Leases;
use crate::domain::error_class::ErrorClass;
use crate::domain::lease_terms::Terms;
use crate::rehearsal::{EmbeddedAws, Settings};
use crate::runtime::clock::Clock;
use crate::telemetry::Telemetry;

const TICK: Duration = Duration::from_millis(1);

/// How each call goes: what its entries, or it as a whole, come to.
type Replies = dyn Fn(usize) -> Result<BatchResult, AwsError> + Send + Sync;

struct Rig {
    queue: Queue,
    leases: Leases,
    tasks: Tasks,
    pushed: AtomicUsize,
    /// How many entries each call had.
    calls: Arc<Mutex<Vec<usize>>>,
    /// What became of each entry.
    done: Arc<Mutex<Vec<Result<(), SettleError>>>>,
}

impl Rig {
    fn new() -> Self {
        let clock = Clock::following_tokio("2026-09-03T14:21:08Z".parse().unwrap());
        let aws = EmbeddedAws::new(clock.clone(), Settings::default());
        let telemetry = Arc::new(Telemetry::new(clock.clone()));
        let url = aws
            .create_queue_with_dlq("work", 100, Duration::from_secs(120))
            .url;
        let queue = Connector::to_endpoint(
            "http://aws.test",
            "ap-northeast-1",
            Some(aws.http_client()),
            &clock,
            Arc::clone(&telemetry),
        )
        .queue(&url, None, Duration::ZERO);
        let tasks = Tasks::default();
        let terms = Terms {
            visibility_timeout: Duration::from_secs(120),
            heartbeat_interval: Duration::from_secs(60),
        };
        Self {
            leases: Leases::new(queue.clone(), terms, telemetry, tasks.clone()),
            queue,
            tasks,
            pushed: AtomicUsize::new(0),
            calls: Arc::default(),
            done: Arc::default(),
        }
    }

    fn batcher(&self, reply: Arc<Replies>) -> Batcher<()> {
        let calls = Arc::clone(&self.calls);
        let call: Call<()> = Arc::new(move |entries| {
            calls.lock().unwrap().push(entries.len());
            let reply = Arc::clone(&reply);
            async move { reply(entries.len()) }.boxed()
        });
        Batcher::start(call, &self.tasks)
    }

    async fn push(&self, batcher: &Batcher<()>, entries: usize) {
        for _ in 0..entries {
            let id = format!("message {}", self.pushed.fetch_add(1, Ordering::Relaxed));
            self.leases.hold(&id, id.clone(), Instant::now());
            let taken = self.leases.take(&id).await.unwrap();
            let done = Arc::clone(&self.done);
            let told = Box::new(move |result| done.lock().unwrap().push(result));
            batcher.push(taken, (), told);
        }
    }

    /// What each call had, once all is through.
    async fn calls(&self) -> Vec<usize> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

fn failed(class: ErrorClass) -> AwsError {
    let mut error = AwsError::changed("DeleteMessageBatch", "a test");
    error.class = class;
    error
}

#[tokio::test(start_paused = true)]
async fn entries_that_come_within_the_linger_are_sent_together_ten_at_most() {
    let rig = Rig::new();
    let batcher = rig.batcher(Arc::new(|entries| {
        Ok((0..entries).map(|_| Ok(())).collect())
    }));
    rig.push(&batcher, 3).await;
    tokio::time::sleep(TICK).await;
    rig.push(&batcher, 2).await;
    assert_eq!(rig.calls().await, [5]);
    for first in [1, 3] {
        rig.push(&batcher, first).await;
        tokio::time::sleep(TICK).await;
        rig.push(&batcher, 12).await;
        assert_eq!(rig.calls().await, [10, first + 2]);
    }
    // No entry waits for longer than that.
    rig.push(&batcher, 1).await;
    tokio::time::sleep(LINGER + TICK).await;
    rig.push(&batcher, 1).await;
    assert_eq!(rig.calls().await, [1, 1]);
    assert!(rig.done.lock().unwrap().iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_tried_again_if_it_may_succeed_and_a_few_times_only() {
    for (class, tries) in [(ErrorClass::Throttled, 8), (ErrorClass::AccessDenied, 1)] {
        let rig = Rig::new();
        let batcher = rig.batcher(Arc::new(move |_| Err(failed(class))));
        rig.push(&batcher, 2).await;
        assert_eq!(rig.calls().await, vec![2; tries], "{class}");
        let done = rig.done.lock().unwrap();
        assert_eq!(done.len(), 2);
        assert!(matches!(done[0], Err(SettleError::Call(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_fails_is_tried_again_alone_unless_its_handle_is_lost() {
    let rig = Rig::new();
    let unknown: Vec<_> = (0..9).map(|n| format!("no handle {n}")).collect();
    let mut errors = rig.queue.delete(&unknown).await.unwrap();
    for error in errors.iter_mut().skip(1) {
        let error = error.as_mut().unwrap_err();
        error.handle_lost = false;
    }
    let errors = Mutex::new(errors.into_iter());
    let batcher = rig.batcher(Arc::new(move |entries| {
        Ok(errors.lock().unwrap().by_ref().take(entries).collect())
    }));
    rig.push(&batcher, 2).await;
    assert_eq!(rig.calls().await, [2, 1, 1, 1, 1, 1, 1, 1]);
    let done = rig.done.lock().unwrap();
    assert!(matches!(&done[..], [
        Err(SettleError::Entry(lost)),
        Err(SettleError::Entry(given_up)),
    ] if lost.handle_lost && !given_up.handle_lost));
}
