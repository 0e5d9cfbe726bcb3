//! The accounts of a world, and who may look at which.
//!
//! Whatever credentials come in belong to the account of the settings, unless STS gave them out:
//! those belong to their role's account, until they end. Queues, buses and tables exist in the account of
//! the settings only.

use super::aws::EmbeddedAws;
use crate::services::identities::Role;
use crate::wire::settings::Place;

impl EmbeddedAws {
    /// The same world as it looks from another account and region: what is made or looked at through
    /// the answer is there. Calls that come in through a door go by their credentials instead.
    #[must_use]
    pub fn in_account(&self, account: &str, region: &str) -> Self {
        Self {
            inner: self.inner.clone(),
            place: Place {
                account: account.to_owned(),
                region: region.to_owned(),
            },
        }
    }

    /// The account that this looks at.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.place.account
    }

    /// The region that this looks at.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.place.region
    }

    /// Makes a role that everyone may assume who presents the external id, if there is one.
    pub fn create_role(&self, arn: &str, external_id: Option<&str>) {
        let role = Role {
            external_id: external_id.map(str::to_owned),
        };
        self.state().identities.roles.insert(arn.to_owned(), role);
    }

    /// Deletes a role. Credentials that were given out stay valid.
    pub fn delete_role(&self, arn: &str) {
        self.state().identities.roles.remove(arn);
    }
}
