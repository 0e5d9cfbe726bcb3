//! How fast CloudFront may be called before it throttles.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::wire::exchange::{AwsService, Call};
use crate::wire::settings::Switches;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The calls of late that were not throttled.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    calls: VecDeque<Timestamp>,
    changes: VecDeque<Timestamp>,
}

impl Rates {
    /// Whether a call is to be throttled. One that is not counts from now on.
    pub(crate) fn exceeds(&mut self, now: Timestamp, call: &Call, switches: &Switches) -> bool {
        if call.service != AwsService::CloudFront {
            return false;
        }
        let calls = has_room(&mut self.calls, now, SECOND, switches.calls_per_second);
        let changes = !call.may_mutate()
            || has_room(&mut self.changes, now, MINUTE, switches.changes_per_minute);
        if !calls || !changes {
            return true;
        }
        if switches.calls_per_second.is_some() {
            self.calls.push_back(now);
        }
        if call.may_mutate() && switches.changes_per_minute.is_some() {
            self.changes.push_back(now);
        }
        false
    }
}

fn has_room(
    lately: &mut VecDeque<Timestamp>,
    now: Timestamp,
    window: Duration,
    most: Option<usize>,
) -> bool {
    while lately
        .front()
        .is_some_and(|at| now.duration_since(*at).unsigned_abs() >= window)
    {
        lately.pop_front();
    }
    most.is_none_or(|most| lately.len() < most)
}
