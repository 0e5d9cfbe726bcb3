//! What the replies of all services have in common: pages and times.

use aws_smithy_types::DateTime;
use jiff::Timestamp;

use super::error::AwsError;

/// Reads page by page until there is no next one. `page` is given a page's token, and answers the page's items
/// and the next one's token; an empty token is none. More than `max` pages mean that the paging goes in circles.
///
/// # Errors
/// That of a page; or if the pages do not end.
pub(super) async fn pages<T, P: Future<Output = Result<(Vec<T>, Option<String>), AwsError>>>(
    operation: &'static str,
    max: usize,
    page: impl Fn(Option<String>) -> P,
) -> Result<Vec<T>, AwsError> {
    let (mut all, mut token) = (Vec::new(), None);
    for _ in 0..max {
        let (items, next) = page(token).await?;
        all.extend(items);
        token = next.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(all);
        }
    }
    Err(AwsError::endless(operation))
}

pub(super) fn timestamp(at: &DateTime) -> Option<Timestamp> {
    Timestamp::from_millisecond(at.to_millis().ok()?).ok()
}
