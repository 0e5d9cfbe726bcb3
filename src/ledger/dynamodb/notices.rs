//! The notices that are to be sent to somebody ([`crate::notify`]): attributes of one item.

use super::DynamoDbLedger;
use super::item::NOTICES;
use crate::aws::dynamodb::{Item, KEY, Update, Updated};
use crate::ledger::LedgerError;

/// So many are kept: an item may have 400 KB, and a notice has some 2 KB.
const MAX_NOTICES: usize = 100;

/// So many of them are named at once: an expression may have 4 KB.
const AT_ONCE: usize = 50;

impl DynamoDbLedger {
    /// Keeps a notice; of too many, the oldest goes.
    pub(super) async fn keep_notice(&self, id: &str, notice: &str) -> Result<(), LedgerError> {
        // By our own clock, which is finer than the service's dates: it only says which go first.
        let since = self.clock.now().as_millisecond();
        let kept = serde_json::json!([since, notice]).to_string();
        let change = format!("SET {} = :notice", notice_attribute(id));
        let update = Update {
            key: NOTICES.to_owned(),
            change: &change,
            condition: None,
            values: vec![(":notice", kept.as_str().into())],
        };
        let updated = self.table.update(update).await.map_err(self.failed())?;
        let Updated::Written(item) = updated else {
            return Ok(());
        };
        let mut kept = notices(&item);
        let surplus = kept.len().saturating_sub(MAX_NOTICES);
        let oldest: Vec<_> = kept.drain(..surplus).map(|it| it.attribute).collect();
        self.remove(&oldest).await
    }

    /// Every notice that is kept, the oldest first.
    pub(super) async fn kept_notices(&self) -> Result<Vec<String>, LedgerError> {
        let item = self.table.item(NOTICES).await.map_err(self.failed())?;
        let kept = notices(&item.unwrap_or_default());
        Ok(kept.into_iter().map(|it| it.notice).collect())
    }

    pub(super) async fn forget_notices(&self, ids: &[String]) -> Result<(), LedgerError> {
        let attributes: Vec<_> = ids.iter().map(|id| notice_attribute(id)).collect();
        self.remove(&attributes).await
    }

    /// Takes notices out of their item.
    async fn remove(&self, attributes: &[String]) -> Result<(), LedgerError> {
        for attributes in attributes.chunks(AT_ONCE) {
            let change = format!("REMOVE {}", attributes.join(", "));
            let update = Update {
                key: NOTICES.to_owned(),
                change: &change,
                condition: None,
                values: Vec::new(),
            };
            self.table.update(update).await.map_err(self.failed())?;
        }
        Ok(())
    }
}

/// A notice that is kept.
struct Kept {
    attribute: String,
    since: i64,
    notice: String,
}

/// What the item of the notices holds, the oldest first.
fn notices(item: &Item) -> Vec<Kept> {
    let mut kept: Vec<Kept> = item
        .texts()
        .filter(|(attribute, _)| *attribute != KEY)
        .filter_map(|(attribute, text)| {
            let (since, notice) = serde_json::from_str(text).ok()?;
            Some(Kept {
                attribute: attribute.to_owned(),
                since,
                notice,
            })
        })
        .collect();
    kept.sort_by_key(|it| it.since);
    kept
}

/// The attribute's name for a notice: ids are longer than a name may be, and have other characters. FNV-1a
/// of 128 bits.
fn notice_attribute(id: &str) -> String {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = id.bytes().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    });
    format!("n{hash:032x}")
}
