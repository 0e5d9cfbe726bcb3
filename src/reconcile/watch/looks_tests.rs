use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const PACE: Pace = Pace {
    min: Duration::from_secs(2),
    max: Duration::from_secs(15),
};

/// One distribution that is waited for to be disabled.
fn looks(known: bool) -> (Looks, Instant) {
    let start = Instant::now();
    let mut looks = Looks::new(PACE);
    let number = looks.next_number();
    let watch = looks.watches.entry("E000".to_owned()).or_default();
    watch.waits.push(Waiting {
        number,
        began: start,
        changed_at: start,
        known,
        until: Until::Disabled,
        unseen: None,
        activity: Activity::default(),
        answer: oneshot::channel().0,
    });
    (looks, start)
}

#[tokio::test]
async fn what_was_learned_says_nothing_of_a_change_of_unknown_age() {
    for (known, latest) in [(true, 100), (false, 15)] {
        let (mut looks, start) = looks(known);
        looks.learned.record(160 * SECOND, 170 * SECOND);
        let mut now = start;
        let mut longest = Duration::ZERO;
        while now < start + 100 * SECOND {
            let (at, _) = looks.next().unwrap();
            longest = longest.max(at - now);
            now = at;
            let ask = looks.begin("E000");
            looks.failed_for_now(&ask, now, |_| Duration::ZERO, now);
        }
        assert!(longest <= latest * SECOND, "{longest:?}");
        assert_eq!(longest > 15 * SECOND, known);
    }
}
