//! The accounts that cleanups work in: the clients of each, and its look at propagation.
//!
//! **Guarantees.** Whatever works in one account as one role shares its clients, its credentials and
//! its watcher; nothing of them is shared with another account. So throttling, a denied role or an
//! outage of one slows none of the others. What is kept is bounded: clients that nobody uses go first.
//!
//! **Not handled here.** Whether an event may lead into an account: [`crate::domain::targets`] and
//! [`crate::consumer`] decide that before.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::aws::iam::Iam;
use crate::aws::{self, AwsError, Connector, Principal};
use crate::domain::arn::{Arn, is_account};
use crate::domain::refusal::Place;
use crate::domain::targets::{Access, Parameters, Role};
use crate::reconcile::listing::SharedListing;
use crate::reconcile::neighbours::Found;
use crate::reconcile::watch::Watcher;
use crate::reconcile::watch::pace::Pace;
use crate::runtime::tasks::Tasks;

/// How many accounts' clients are kept for later while nobody uses them. A client takes some 50 KB, and
/// an account as a role sees it has four. Beyond that, a role is assumed again when it is needed.
const MAX_KEPT: usize = 128;

/// STS's longest session name (STS API reference: `AssumeRole`).
const MAX_SESSION_NAME: usize = 64;

/// Where the clients of every account are to be had.
#[derive(Clone, Debug)]
pub struct Accounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    /// The queue's account, where its URL names it.
    home: Option<String>,
    session_name: String,
    pace: Pace,
    tasks: Tasks,
    kept: Mutex<Kept>,
    /// The ARN of the daemon's own credentials, once it is known.
    own_arn: tokio::sync::OnceCell<String>,
}

/// One account, as one role sees it, and the parameters and pipelines of one region.
#[derive(Debug)]
pub struct Account {
    pub clients: aws::Account,
    /// Waits for its distributions.
    pub watcher: Watcher,
    /// What a listing of its distributions shows.
    pub(crate) listing: Arc<SharedListing>,
    /// What its parameters and pipelines were last found to be.
    pub(super) found: Found,
    role: Option<Role>,
    principal: Principal,
}

#[derive(Debug, Default)]
struct Kept {
    accounts: HashMap<Access, Entry>,
    /// Counts the uses, to tell which was the last.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    used: u64,
}

impl Account {
    /// Tells what the role, or the daemon's own right, allows. `region` tells the partition.
    #[must_use]
    pub fn permissions(&self, region: &str) -> Iam {
        self.principal.permissions(region)
    }
}

impl Accounts {
    /// Makes clients as they are needed. `queue_url` is what the daemon consumes: roles are assumed in
    /// its name.
    #[must_use]
    pub fn new(connector: Connector, queue_url: &str, pace: Pace, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            connector,
            home: queue_url
                .rsplit('/')
                .nth(1)
                .filter(|it| is_account(it))
                .map(str::to_owned),
            session_name: session_name(queue_url),
            pace,
            tasks,
            kept: Mutex::default(),
            own_arn: tokio::sync::OnceCell::new(),
        }))
    }

    /// The account to work in. Makes no call: a role is assumed when the first call needs it.
    #[must_use]
    pub fn get(&self, access: &Access) -> Arc<Account> {
        let mut kept = self.0.kept.lock();
        kept.uses += 1;
        let used = kept.uses;
        if let Some(entry) = kept.accounts.get_mut(access) {
            entry.used = used;
            return Arc::clone(&entry.account);
        }
        let account = Arc::new(self.make(access, kept.same_account(access.role.as_ref())));
        kept.make_room();
        let entry = Entry {
            account: Arc::clone(&account),
            used,
        };
        kept.accounts.insert(access.clone(), entry);
        account
    }

    /// Where the parameters of a target are.
    #[must_use]
    pub fn place<'a>(&'a self, parameters: &'a Parameters, access: &'a Access) -> Place<'a> {
        let role = access.role.as_ref().and_then(|role| Arn::parse(role.arn()));
        Place {
            parameters,
            region: &access.region,
            account: role.map(|arn| arn.account).or(self.0.home.as_deref()),
        }
    }

    /// Whether `user`, as SSM's history names whoever wrote, is stagesweep as it works in that account: the
    /// same role in whatever session, or the very same user. Unknown counts as no.
    pub async fn is_ours(&self, account: &Account, user: &str) -> bool {
        match &account.role {
            Some(role) => role_of(user) == role.arn().rsplit('/').next(),
            None => {
                let identity = self.0.connector.identity();
                let caller = || async { Ok::<_, AwsError>(identity.caller().await?.arn) };
                let own = self.0.own_arn.get_or_try_init(caller).await;
                own.is_ok_and(|own| {
                    own == user || role_of(own).is_some_and(|it| role_of(user) == Some(it))
                })
            }
        }
    }

    /// The clients of an account. CloudFront is global: in every region of it the watcher, the client
    /// and the credentials are the same.
    fn make(&self, access: &Access, elsewhere: Option<&Account>) -> Account {
        let inner = &self.0;
        let (principal, cloudfront, watcher, listing) = match elsewhere {
            Some(same) => (
                same.principal.clone(),
                same.clients.cloudfront.clone(),
                same.watcher.clone(),
                Arc::clone(&same.listing),
            ),
            None => {
                let principal = match &access.role {
                    Some(role) => inner.connector.assume(role, &inner.session_name),
                    None => inner.connector.own(),
                };
                let cloudfront = principal.cloudfront(&access.region);
                let watcher = Watcher::new(cloudfront.clone(), inner.pace, inner.tasks.clone());
                (principal, cloudfront, watcher, Arc::default())
            }
        };
        Account {
            clients: aws::Account {
                cloudfront,
                ssm: principal.parameters(&access.region),
                codepipeline: principal.pipelines(&access.region),
            },
            watcher,
            listing,
            found: Found::default(),
            role: access.role.clone(),
            principal,
        }
    }
}

impl Kept {
    /// What is kept of the same account in another region.
    fn same_account(&self, role: Option<&Role>) -> Option<&Account> {
        self.accounts
            .iter()
            .find(|(access, _)| access.role.as_ref() == role)
            .map(|(_, entry)| &*entry.account)
    }

    /// Lets go of what was not used for the longest time and is not in use.
    fn make_room(&mut self) {
        while self.accounts.len() >= MAX_KEPT {
            let oldest = self
                .accounts
                .iter()
                .filter(|(_, entry)| Arc::strong_count(&entry.account) == 1)
                .min_by_key(|(_, entry)| entry.used)
                .map(|(access, _)| access.clone());
            match oldest {
                Some(access) => self.accounts.remove(&access),
                // As many jobs as that are in flight, and each needs its own.
                None => return,
            };
        }
    }
}

/// The name of the role whose session an ARN names.
fn role_of(user: &str) -> Option<&str> {
    let (_, session) = user.split_once(":assumed-role/")?;
    session.split('/').next()
}

/// What CloudTrail calls the daemon in the accounts of its roles: `stagesweep-QUEUE`.
fn session_name(queue_url: &str) -> String {
    let queue = queue_url.rsplit('/').next().unwrap_or_default();
    let mut name = format!("stagesweep-{queue}");
    // A queue's name is ASCII.
    name.truncate(MAX_SESSION_NAME);
    name
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock::Clock;
    use crate::telemetry::Telemetry;

    #[test]
    fn what_is_kept_is_bounded_and_what_is_in_use_stays() {
        let clock = Clock::system();
        let telemetry = Arc::new(Telemetry::new(clock.clone()));
        let connector =
            Connector::to_endpoint("http://127.0.0.1:9", "us-east-1", None, &clock, telemetry);
        let pace = Pace {
            min: Duration::from_secs(2),
            max: Duration::from_secs(15),
        };
        let url = "http://127.0.0.1:9/123456789012/a-queue-whose-name-is-as-long-as-names-may-be-\
                   which-is-eighty-characters-";
        let accounts = Accounts::new(connector, url, pace, Tasks::default());
        assert_eq!(accounts.0.session_name.len(), MAX_SESSION_NAME);

        let access = |n: usize| Access {
            role: None,
            region: format!("region-{n}"),
        };
        let in_use = accounts.get(&access(0));
        let unused = Arc::downgrade(&accounts.get(&access(1)));
        for n in 2..=MAX_KEPT {
            // Used again and again, so that it is never the one that goes.
            drop(accounts.get(&access(2)));
            drop(accounts.get(&access(n)));
        }
        assert_eq!(accounts.0.kept.lock().accounts.len(), MAX_KEPT);
        assert!(Arc::ptr_eq(&in_use, &accounts.get(&access(0))));
        assert!(unused.upgrade().is_none());
        assert!(accounts.0.kept.lock().accounts.contains_key(&access(2)));
    }
}
