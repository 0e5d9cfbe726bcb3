//! One suite for every ledger. A scenario has instances that share one ledger; where it may not matter, their clocks
//! differ by minutes.

pub(crate) mod scenarios;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use stagesweep::domain::binding::Binding;
use stagesweep::domain::event::JobKey;
use stagesweep::domain::history::Notes;
use stagesweep::ledger::{Bound, Claim, Grant, LedgerError, Store};
use stagesweep::runtime::clock::Clock;

/// What any ledger waits at most beyond the end of a lease.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);

/// Nothing is noted of a job.
pub(crate) static NOTHING: LazyLock<Notes> = LazyLock::new(Notes::default);

/// Hands the names of all scenarios to a macro.
macro_rules! each_scenario {
    ($each:ident) => {
        $each! {
            a_job_is_granted_to_one_at_a_time,
            a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends,
            what_is_done_stays_done,
            a_binding_is_for_good,
            a_production_distribution_is_held_by_one_job_at_a_time,
            a_dead_holders_production_distribution_is_taken_and_its_grant_is_void,
            a_job_that_is_claimed_again_holds_nothing_until_it_is_bound_again,
            of_many_who_ask_at_once_one_is_granted,
            a_notice_is_kept_until_it_is_acknowledged_and_not_without_a_bound,
            who_waits_gives_the_production_distribution_back_and_keeps_the_grant,
            what_has_changed_something_is_unfinished_until_it_is_done,
            the_evidence_of_a_job_outlives_its_holder,
            what_is_noted_of_a_job_goes_with_each_change_and_outlives_its_holder,
        }
    };
}
pub(crate) use each_scenario;

/// Where a scenario takes place.
pub(crate) trait Place {
    /// How long leases are.
    fn lease(&self) -> Duration {
        Duration::from_secs(120)
    }

    /// What a call may take.
    fn slack(&self) -> Duration {
        Duration::from_secs(3)
    }

    /// Whether a call takes no real time.
    fn is_virtual(&self) -> bool {
        true
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    /// An instance whose clock is so many minutes ahead, where the place has more than one clock.
    async fn instance(&self, owner: &str, ahead: i64) -> Instance;

    async fn two(&self) -> (Instance, Instance) {
        (
            self.instance("one", 7).await,
            self.instance("two", -3).await,
        )
    }
}

/// An instance: its own ledger object, its own clock.
pub(crate) struct Instance {
    pub(crate) ledger: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) lease: Duration,
    pub(crate) slack: Duration,
}

impl Instance {
    pub(crate) fn until(&self) -> Timestamp {
        self.clock.now().checked_add(self.lease).unwrap()
    }

    pub(crate) async fn claim(&self, job: &str) -> Claim {
        let key = key(job);
        let claim = self.ledger.claim(&key, "shop", self.until());
        claim.await.unwrap()
    }

    pub(crate) async fn grant(&self, job: &str) -> Grant {
        match self.claim(job).await {
            Claim::Granted { grant, .. } => grant,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn bound(&self, job: &str, production: &str) -> Grant {
        let grant = self.grant(job).await;
        assert_eq!(self.bind(&grant, production).await, Bound::Bound);
        grant
    }

    pub(crate) async fn bind(&self, grant: &Grant, production: &str) -> Bound {
        let binding = binding(production);
        let bound = self.ledger.bind(grant, &binding, &NOTHING).await;
        bound.unwrap()
    }

    pub(crate) async fn renew(&self, grant: &Grant) -> Result<(), LedgerError> {
        self.ledger.renew(grant, self.until(), &NOTHING).await
    }

    /// Whether a time that the ledger named comes after the lease that was granted just now, and
    /// not long after it.
    fn is_end_of_lease(&self, until: Timestamp) {
        let left = until.duration_since(self.clock.now());
        let left = Duration::try_from(left).unwrap();
        assert!(self.lease - self.slack <= left, "{left:?}");
        assert!(left <= self.lease + MARGIN + self.slack, "{left:?}");
    }
}

pub(crate) fn key(job: &str) -> JobKey {
    JobKey::from(job.to_owned())
}

pub(crate) fn binding(production: &str) -> Binding {
    Binding {
        production_id: production.to_owned(),
        staging_id: "ESTAGING222222".to_owned(),
        staging_domain: Some("d222.cloudfront.net".to_owned()),
        policy_id: None,
        overwriting: None,
        evidence: Default::default(),
    }
}

pub(crate) fn not_owner<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> bool {
    matches!(result.unwrap_err(), LedgerError::NotOwner { .. })
}
