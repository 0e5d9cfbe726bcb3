use std::time::Duration;

use super::*;
use crate::aws::cloudfront::Version;

const SECOND: Duration = Duration::from_secs(1);

const PACE: Pace = Pace {
    min: Duration::from_secs(2),
    max: Duration::from_secs(15),
};

/// So many distributions that are waited for to be disabled, each since a moment after the one
/// before.
fn looks(count: u32, moment: Duration) -> (Looks, Instant) {
    let start = Instant::now();
    let mut looks = Looks::new(PACE);
    for index in 0..count {
        let at = start + moment * index;
        let number = looks.next_number();
        let watch = looks.watches.entry(format!("E{index:03}")).or_default();
        watch.waits.push(Waiting {
            number,
            began: at,
            changed_at: at,
            known: true,
            until: Until::Disabled,
            unseen: None,
            activity: Activity::default(),
            answer: oneshot::channel().0,
        });
    }
    (looks, start)
}

/// A list on which nothing is disabled yet.
fn nothing_yet(looks: &Looks, at: Instant) -> Listing {
    let summary = Summary {
        domain: "d111111abcdef8.cloudfront.net".to_owned(),
        staging: true,
        comment: String::new(),
        deployed: false,
        enabled: true,
        version: Version::unknown(),
    };
    let ids = looks.watches.keys().cloned();
    Listing {
        at,
        summaries: ids.map(|id| (id, summary.clone())).collect(),
        complete: true,
        pages: 1,
    }
}

/// Makes the next look: a list; answers when that was and what must be asked for.
fn list(looks: &mut Looks, now: Instant) -> (Instant, Vec<Ask>) {
    let (at, look) = looks.next(now).unwrap();
    assert!(matches!(look, Look::Listed(_)), "{look:?}");
    let number = looks.begin_list(at);
    let listing = nothing_yet(looks, at);
    (at, looks.listed(number, listing))
}

#[tokio::test]
async fn those_that_began_one_after_the_other_come_to_share_their_looks() {
    // Eight seconds between the first and the last.
    let (mut looks, start) = looks(21, SECOND.mul_f64(0.4));
    let mut now = start;
    let mut lists = 0;
    while now < start + 150 * SECOND {
        let (at, look) = looks.next(now).unwrap();
        now = at;
        match look {
            Look::One(id) => {
                let ask = looks.begin_one(&id);
                let sighting = Sighting {
                    at: now,
                    found: None,
                };
                // Whatever was found: it is not over.
                let waits = std::mem::take(&mut looks.watches.get_mut(&id).unwrap().waits);
                looks.seen(&ask, &sighting);
                looks.watches.get_mut(&id).unwrap().waits = waits;
            }
            Look::Listed(_) => {
                list(&mut looks, now);
                lists += 1;
            }
        }
    }
    // One alone makes 13 in that time.
    assert!(lists <= 40, "{lists} lists");
}

#[tokio::test]
async fn a_list_that_shows_nothing_for_unusually_long_is_not_believed_for_ever() {
    let (mut looks, start) = looks(5, Duration::ZERO);
    let (mut now, mut lists) = (start, 0);
    let asks = loop {
        let (at, asks) = list(&mut looks, now);
        now = at;
        lists += 1;
        if !asks.is_empty() {
            break asks;
        }
    };
    assert!(now > start + 240 * SECOND && now < start + 270 * SECOND);
    assert_eq!(asks.len(), 5);
    assert!(lists >= 4);
    for ask in &asks {
        looks.failed_for_now(ask, now, |_| Duration::ZERO, now);
    }
    // Some are believed again.
    for _ in 0..3 {
        let (at, asks) = list(&mut looks, now);
        now = at;
        assert_eq!(asks, []);
    }
    assert_eq!(list(&mut looks, now).1.len(), 5);
}

#[tokio::test]
async fn many_pages_are_read_only_for_more_than_as_many() {
    let (mut looks, start) = looks(6, Duration::ZERO);
    let (at, look) = looks.next(start).unwrap();
    assert!(matches!(look, Look::Listed(_)));
    let number = looks.begin_list(at);
    let listing = Listing {
        complete: false,
        summaries: BTreeMap::new(),
        pages: 7,
        ..nothing_yet(&looks, at)
    };
    // Those that were not on the pages that were read are asked for.
    let asks = looks.listed(number, listing);
    assert_eq!(asks.len(), 6);
    for ask in &asks {
        looks.failed_for_now(ask, at, |_| Duration::ZERO, at);
    }
    assert!(matches!(looks.next(at), Some((_, Look::One(_)))));
}

#[tokio::test]
async fn what_was_learned_says_nothing_of_a_change_of_unknown_age() {
    for (known, latest) in [(true, 100), (false, 15)] {
        let (mut looks, start) = looks(1, Duration::ZERO);
        looks.learned.record(160 * SECOND, 170 * SECOND);
        for watch in looks.watches.values_mut() {
            watch.waits[0].known = known;
        }
        let mut now = start;
        let mut longest = Duration::ZERO;
        while now < start + 100 * SECOND {
            let (at, _) = looks.next(now).unwrap();
            longest = longest.max(at - now);
            now = at;
            let ask = looks.begin_one("E000");
            looks.failed_for_now(&ask, now, |_| Duration::ZERO, now);
        }
        assert!(longest <= latest * SECOND, "{longest:?}");
        assert_eq!(longest > 15 * SECOND, known);
    }
}
