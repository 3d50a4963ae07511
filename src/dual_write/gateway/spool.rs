//! The bodies of writes: received whole before anything is sent, sent once, and offered to the converge.

use async_trait::async_trait;
use futures::StreamExt as _;

use crate::blob::spool::{Spool, unwritten};
use crate::blob::{Body, ETag, Head, Pathname, Spooled};
use crate::converge::{Bodies, LONG_BODY_BYTES_MAX, SavedBody};
use crate::error::{Error, ErrorKind, Result};

/// Bodies up to this many bytes stay in memory: many writes may be under way.
const MEMORY_BYTES_MAX: u64 = 256 * 1024;

/// Receives a body to its end.
///
/// # Errors
/// `NotApplied` where it ends early; `NoSpace` where the disk can't hold it; what the stream reports.
pub(super) async fn receive(body: Body) -> Result<Spooled> {
    let expected = body.length();
    let mut stream = body.into_stream();
    let mut spool = Spool::new(MEMORY_BYTES_MAX);
    while let Some(chunk) = stream.next().await {
        spool.push(&chunk?).map_err(unwritten)?;
    }
    let spooled = spool.finish();
    match expected {
        Some(expected) if expected != spooled.length() => {
            Err(Error::new(ErrorKind::NotApplied, "receive a body")
                .message(format!("it ended after {} bytes of {expected}", spooled.length())))
        }
        _ => Ok(spooled),
    }
}

/// The body of the version that a put stored; of every other version, what another cache has.
pub(super) struct Offered {
    pub(super) body: Spooled,
    pub(super) head: Head,
    pub(super) others: std::sync::Arc<dyn Bodies>,
}

#[async_trait]
impl Bodies for Offered {
    async fn body(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<SavedBody>> {
        let stored = &self.head.blob;
        let ours = stored.pathname == *pathname && stored.etag == *etag;
        if !ours || self.body.length() > LONG_BODY_BYTES_MAX {
            return self.others.body(pathname, etag).await;
        }
        Ok(Some(SavedBody {
            body: self.body.clone(),
            content_type: self.head.content_type.clone(),
            cache_control: self.head.cache_control.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;

    use super::*;

    fn body(chunks: usize, length: Option<u64>) -> Body {
        let chunks = (0..chunks).map(|n| Ok(Bytes::from(vec![u8::try_from(n % 251).unwrap(); 10_000])));
        Body::stream(length, stream::iter(chunks.collect::<Vec<_>>()).boxed())
    }

    #[tokio::test]
    async fn it_is_the_same_body_in_memory_and_on_disk_as_often_as_it_is_asked_for() {
        for (chunks, in_memory) in [(0, true), (3, true), (26, true), (27, false), (200, false)] {
            let expected = body(chunks, None).collect(u64::MAX).await.unwrap();
            let spooled = receive(body(chunks, Some(expected.len() as u64))).await.unwrap();
            assert_eq!(spooled.in_memory().is_some(), in_memory, "{chunks}");
            for _ in 0..2 {
                let again = spooled.body();
                assert_eq!(again.length(), Some(expected.len() as u64));
                assert_eq!(again.collect(u64::MAX).await.unwrap(), expected, "{chunks}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_refused() {
        let error = receive(body(3, Some(30_001))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotApplied);
    }
}
