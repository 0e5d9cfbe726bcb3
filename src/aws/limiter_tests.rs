use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;
use crate::runtime::stop::StopReason;

const SECOND: Duration = Duration::from_secs(1);

fn limiter() -> Limiter {
    Limiter::new("cloudfront")
}

/// A service that answers so many calls within any window, and throttles the rest, and some by chance.
struct Service {
    limiter: Limiter,
    answered: Mutex<Vec<Instant>>,
    throttled: Mutex<Vec<Instant>>,
    most: usize,
    window: Duration,
    chance: f64,
    dice: Mutex<fastrand::Rng>,
    takes: Duration,
}

impl Service {
    fn new(most: usize, window: Duration) -> Self {
        Self {
            limiter: limiter(),
            answered: Mutex::default(),
            throttled: Mutex::default(),
            most,
            window,
            chance: 0.0,
            dice: Mutex::new(fastrand::Rng::with_seed(0x5eed)),
            takes: Duration::from_millis(20),
        }
    }

    /// Calls until it is answered; nobody retries but through the limiter.
    async fn call(&self, kind: Kind) {
        let operation = match kind {
            Kind::Read => "GetDistribution",
            Kind::Change => "UpdateDistribution",
        };
        loop {
            let _turn = self.limiter.turn(kind).await;
            let sent = Instant::now();
            tokio::time::sleep(self.takes).await;
            let mut answered = self.answered.lock();
            let lately = answered
                .iter()
                .rev()
                .take_while(|at| **at + self.window > sent);
            let by_chance = self.dice.lock().f64() < self.chance;
            if lately.take(self.most).count() < self.most && !by_chance {
                answered.push(sent);
                self.limiter.answered(operation, sent);
                return;
            }
            self.throttled.lock().push(sent);
            self.limiter.throttled(operation, sent);
        }
    }

    /// So many callers call again and again for so long, each after a pause by chance.
    async fn used(&self, callers: usize, kinds: &[Kind], pause: Duration, span: Duration) {
        let callers = join_all((0..callers).map(|number| async move {
            loop {
                let part = self.dice.lock().f64();
                tokio::time::sleep(pause.mul_f64(part)).await;
                self.call(kinds[number % kinds.len()]).await;
            }
        }));
        assert!(timeout(span, callers).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_paced_until_something_is_throttled() {
    let service = Service::new(usize::MAX, SECOND);
    let start = Instant::now();
    join_all((0..200).map(|_| service.call(Kind::Read))).await;
    // Ten at a time, 20 ms each.
    assert!(start.elapsed() <= Duration::from_millis(450));
    let start = Instant::now();
    join_all((0..20).map(|_| service.call(Kind::Change))).await;
    // One at a time.
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert!(start.elapsed() <= Duration::from_millis(450));
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_nobody_knows_is_found_and_mostly_used() {
    const SPAN: Duration = Duration::from_secs(1200);
    let mixed = &[Kind::Read, Kind::Change][..];
    for (most, window) in [
        (10, SECOND),
        (1, SECOND),
        (60, 60 * SECOND),
        (2, 60 * SECOND),
    ] {
        for kinds in [&[Kind::Read][..], &[Kind::Change], mixed] {
            for pause in [Duration::ZERO, 4 * SECOND] {
                let service = Service::new(most, window);
                service.used(20, kinds, pause, SPAN).await;
                let throttled = service.throttled.lock();
                // Changes go one at a time, at two a second while calls are paced.
                let possible = (most as f64 / window.as_secs_f64()).min(match kinds {
                    [Kind::Change] => 2.0,
                    _ => 20.0 / pause.as_secs_f64().max(1.0),
                });
                let answered = service.answered.lock().len() as f64;
                let what = format!(
                    "{kinds:?} with pauses of {pause:?}, {most} in {window:?}: {answered} \
                     answered, {} throttled",
                    throttled.len()
                );
                println!("{what}");
                assert!(answered > 0.5 * possible * SPAN.as_secs_f64(), "{what}");
                // It is found in at most twelve halvings, some of which a first crowd repeats.
                let found = throttled.first().map(|first| *first + 90 * SECOND);
                let later = throttled.iter().filter(|at| Some(**at) > found).count();
                assert!(
                    later <= SPAN.as_secs() as usize / 30,
                    "{what}, {later} later"
                );
                assert!(throttled.len() - later <= 30, "{what}, {later} later");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttling_by_chance_slows_down_only_until_that_makes_no_difference() {
    const SPAN: Duration = Duration::from_secs(60);
    const SEEDS: u64 = 100;
    let kinds = [Kind::Read, Kind::Read, Kind::Read, Kind::Change];
    let mut slow = 0;
    for seed in 0..SEEDS {
        let mut service = Service::new(usize::MAX, SECOND);
        service.chance = 0.3;
        service.dice = Mutex::new(fastrand::Rng::with_seed(seed));
        // About two calls a second.
        service.used(4, &kinds, 4 * SECOND, SPAN).await;
        let answered = service.answered.lock().len();
        slow += u64::from(answered < 50);
    }
    assert!(slow <= SEEDS / 20, "{slow} of {SEEDS}");
}

#[tokio::test(start_paused = true)]
async fn the_whole_account_slows_down_and_recovers() {
    let limiter = limiter();
    let spacing = async |kind| {
        drop(limiter.turn(kind).await);
        let start = Instant::now();
        drop(limiter.turn(kind).await);
        start.elapsed()
    };
    assert_eq!(spacing(Kind::Read).await, Duration::ZERO);
    // Several that were under way at once count once.
    let sent = Instant::now();
    for _ in 0..5 {
        limiter.throttled("GetDistribution", sent);
    }
    let (read, change) = (spacing(Kind::Read).await, spacing(Kind::Change).await);
    assert!(read > READ_INTERVAL * 9 / 10 && read <= READ_INTERVAL + Duration::from_millis(1));
    assert!(change > CHANGE_INTERVAL * 9 / 10 && change <= CHANGE_INTERVAL);
    // The SDK's retry, later: again half the rate.
    limiter.throttled("GetDistribution", Instant::now());
    let slower = spacing(Kind::Change).await;
    assert!(slower > CHANGE_INTERVAL * 3 / 2, "{slower:?}");
    // However often, there is a floor.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        limiter.throttled("GetDistribution", Instant::now());
    }
    assert!(spacing(Kind::Change).await <= LONGEST_INTERVAL);
    assert!(spacing(Kind::Read).await <= LONGEST_INTERVAL);
    tokio::time::sleep(RECOVERY * 12).await;
    assert_eq!(spacing(Kind::Read).await, Duration::ZERO);
    assert_eq!(spacing(Kind::Change).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn first_come_first_served_and_who_goes_away_holds_up_nobody() {
    let limiter = limiter();
    limiter.throttled("GetDistribution", Instant::now());
    let order = Mutex::new(Vec::new());
    let callers = join_all((0..30).map(|number| {
        let (limiter, order) = (&limiter, &order);
        async move {
            let turn = limiter.turn(Kind::Read);
            if number % 3 == 0 {
                // Gives up while it waits, if its turn has not come by then.
                drop(timeout(Duration::from_millis(number * 10), turn).await);
                return;
            }
            drop(turn.await);
            order.lock().push(number);
        }
    }));
    callers.await;
    let order = order.into_inner();
    assert_eq!(order.len(), 20);
    assert!(order.is_sorted(), "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_told_to_stop_does_not_wait_for_its_turn() {
    let limiter = limiter();
    let (stop, activity) = (Stop::default(), Activity::default());
    let gate = Gate::new(limiter.clone()).for_job(&stop, &activity);
    let busy = limiter.turn(Kind::Change).await;
    let waiting = async { gate.turn(Kind::Change, "UpdateDistribution").await };
    let told = async {
        tokio::time::sleep(SECOND).await;
        stop.now(StopReason::ShuttingDown);
    };
    let start = Instant::now();
    let (refused, ()) = tokio::join!(waiting, told);
    assert!(refused.unwrap_err().class.is_transient());
    assert_eq!(start.elapsed().as_secs(), 1);
    // Not even if it is free.
    drop(busy);
    gate.turn(Kind::Change, "UpdateDistribution")
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_its_turn_is_not_stuck() {
    let limiter = limiter();
    let activity = Activity::default();
    activity.set("detach_policy");
    let gate = Gate::new(limiter.clone()).for_job(&Stop::default(), &activity);
    let busy = limiter.turn(Kind::Change).await;
    let waiting = gate.turn(Kind::Change, "UpdateDistribution");
    assert!(timeout(600 * SECOND, waiting).await.is_err());
    assert!(!activity.sign().is_stuck());
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn throttling_is_said_when_it_begins_every_five_minutes_and_when_it_ends() {
    let mut pressure = Pressure::default();
    let (mut said, began) = (Vec::new(), Instant::now());
    // A call in twenty seconds, the first of each half a minute throttled, for eleven minutes.
    for second in (0..660).step_by(20) {
        let now = Instant::now();
        assert_eq!(pressure.begin(Kind::Read, now), None, "after {second} s");
        match second % 60 {
            0 => said.extend(pressure.throttled(Kind::Read, now, now + SECOND)),
            _ => said.extend(pressure.answered(Kind::Read, now, now + SECOND)),
        }
        tokio::time::advance(20 * SECOND).await;
    }
    let said: Vec<_> = said
        .into_iter()
        .map(|lesson| match lesson {
            Lesson::SlowDown { lasts } => lasts.map(|it| it.as_secs()),
            Lesson::Unrelated { .. } => panic!("a limit explains it"),
        })
        .collect();
    assert_eq!(said, [None, Some(300), Some(600)]);
    tokio::time::advance(3600 * SECOND).await;
    let took = pressure.begin(Kind::Read, Instant::now()).unwrap();
    let lasted = took.as_secs();
    assert!(
        (600..720).contains(&lasted),
        "{lasted} s, of {:?}",
        began.elapsed()
    );
    assert_eq!(pressure.begin(Kind::Read, Instant::now()), None);
}
