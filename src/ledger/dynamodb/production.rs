//! Holding a production distribution: an item of its own says which job's grant has it.
//!
//! Whether that grant lives says the job's item. Who finds a holder whose lease has ended makes its
//! grant void before taking its place, so that it cannot be renewed afterwards.

use jiff::Timestamp;

use super::item::{job_item, production_item};
use super::time::{MARGIN, expiry, lapsed};
use super::{DynamoDbLedger, not_owner};
use crate::aws::dynamodb::{Update, Updated};
use crate::domain::event::JobKey;
use crate::ledger::{Grant, LedgerError, OPEN_RETENTION};

/// Tries of taking a production distribution whose holder changes in the meantime.
const TRIES: usize = 4;

const TAKE: &str = "SET job_key = :job, held_by = :me, epoch = :epoch, changed_at = :now, \
                    expires = :expires";
const MAY_TAKE: &str = "attribute_not_exists(pk) OR (job_key = :job AND epoch <= :epoch) OR \
                        (job_key = :former AND epoch = :former_epoch)";

const GIVE_BACK: &str =
    "SET job_key = :nobody, held_by = :nobody, epoch = :zero, changed_at = :now";
const MAY_GIVE_BACK: &str = "job_key = :job AND epoch = :epoch";

const VOID: &str = "SET held_by = :nobody, lease_until = :zero";
const MAY_VOID: &str = "held_by = :owner AND epoch = :epoch AND lease_until = :until";

impl DynamoDbLedger {
    /// Takes the production distribution for a grant; answers until when another holds it.
    pub(super) async fn take(
        &self,
        grant: &Grant,
        production_id: &str,
    ) -> Result<Option<Timestamp>, LedgerError> {
        // The holder that has been found to hold it no longer.
        let mut former = (String::new(), 0);
        for _ in 0..TRIES {
            let (now, updated) = self
                .timed(|now| Update {
                    key: production_item(production_id),
                    change: TAKE,
                    condition: Some(MAY_TAKE),
                    values: vec![
                        (":job", grant.key.as_str().into()),
                        (":me", grant.owner.as_str().into()),
                        (":epoch", grant.epoch.into()),
                        (":now", now.as_millisecond().into()),
                        (":expires", expiry(now, OPEN_RETENTION)),
                        (":former", former.0.as_str().into()),
                        (":former_epoch", former.1.into()),
                    ],
                })
                .await?;
            let holder = match updated {
                Updated::Written(_) => return Ok(None),
                Updated::Unmet(holder) => holder.unwrap_or_default(),
            };
            let (key, epoch) = (holder.text("job_key"), holder.number("epoch"));
            let (key, epoch) = (
                key.unwrap_or_default().to_owned(),
                epoch.unwrap_or_default(),
            );
            if key == grant.key.as_str() {
                // A later grant of the same job holds it.
                return Err(not_owner(grant));
            }
            match self.holds(&key, epoch, now).await? {
                Some(until) => return Ok(Some(until)),
                None => former = (key, epoch),
            }
        }
        let soon = self.clock.now().checked_add(MARGIN);
        Ok(Some(soon.unwrap_or(Timestamp::MAX)))
    }

    /// Gives back the production distribution that a grant holds, if it still does.
    pub(super) async fn give_back(&self, grant: &Grant) -> Result<(), LedgerError> {
        let job = self.table.item(&job_item(&grant.key)).await;
        let job = job.map_err(self.failed())?.unwrap_or_default();
        let Some(production_id) = job.text("production_id") else {
            return Ok(());
        };
        self.timed(|now| Update {
            key: production_item(production_id),
            change: GIVE_BACK,
            condition: Some(MAY_GIVE_BACK),
            values: vec![
                (":job", grant.key.as_str().into()),
                (":epoch", grant.epoch.into()),
                (":nobody", "".into()),
                (":zero", 0.into()),
                (":now", now.as_millisecond().into()),
            ],
        })
        .await?;
        Ok(())
    }

    /// Until when the grant of this epoch of another job is held; `None` if it is not, from now on:
    /// where its lease has ended, the grant is made void, so that it cannot be renewed.
    async fn holds(
        &self,
        key: &str,
        epoch: i64,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, LedgerError> {
        let item = job_item(&JobKey::from(key.to_owned()));
        let job = self.table.item(&item).await.map_err(self.failed())?;
        let job = job.unwrap_or_default();
        let owner = job.text("held_by").unwrap_or_default();
        let until = job.number("lease_until").unwrap_or_default();
        if job.text("job_state") != Some("open")
            || owner.is_empty()
            || job.number("epoch") != Some(epoch)
        {
            return Ok(None);
        }
        if until >= lapsed(now) {
            return Ok(Some(self.over(now, until)));
        }
        let void = Update {
            key: item,
            change: VOID,
            condition: Some(MAY_VOID),
            values: vec![
                (":nobody", "".into()),
                (":zero", 0.into()),
                (":owner", owner.into()),
                (":epoch", epoch.into()),
                (":until", until.into()),
            ],
        };
        match self.table.update(void).await.map_err(self.failed())? {
            Updated::Written(_) => Ok(None),
            // It was renewed just now, or given up.
            Updated::Unmet(_) => Ok(Some(self.over(now, now.as_millisecond()))),
        }
    }
}
