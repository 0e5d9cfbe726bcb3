//! The distributions of an account as one listing shows them: a second source for "does not exist".
//!
//! **Guarantees.** A listing that is handed out was begun after the moment that was asked about. Whoever
//! asks while a listing is under way waits for it, and makes a new one only if that was begun too early.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::aws::AwsError;
use crate::aws::cloudfront::CloudFront;

/// By id, the domain name of every distribution.
pub(crate) type Listing = BTreeMap<String, String>;

/// The newest listing of an account, shared by all of its jobs.
#[derive(Debug, Default)]
pub(crate) struct SharedListing(Mutex<Option<(Instant, Arc<Listing>)>>);

impl SharedListing {
    /// A listing that was begun after `moment` (ListDistributions).
    ///
    /// # Errors
    /// [`AwsError`] if a page cannot be read.
    pub(crate) async fn since(
        &self,
        cloudfront: &CloudFront,
        moment: Instant,
    ) -> Result<Arc<Listing>, AwsError> {
        let mut newest = self.0.lock().await;
        if let Some((begun, listing)) = &*newest
            && *begun > moment
        {
            return Ok(Arc::clone(listing));
        }
        let begun = Instant::now();
        let all = cloudfront.distributions().await?.into_iter();
        let listing = Arc::new(all.map(|it| (it.id, it.domain)).collect());
        *newest = Some((begun, Arc::clone(&listing)));
        Ok(listing)
    }
}
