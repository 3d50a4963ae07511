//! What Blob has that this migration did not write: taken over by hand, or saved to a file and put right.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{Anchored, Judged};
use crate::blob::{ETag, Fetched, ListedBlob, Pathname, Spooled};
use crate::converge::author::{Demand, NewVersion};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::converge::Purpose;
use crate::protocol::reverse::{Ending, Sent};
use crate::target::control::{Anchor, Behind, names};

const ADOPT: &str = "adopt a foreign blob";
const DISCARD: &str = "discard a foreign blob";

impl Anchored {
    /// Takes a foreign blob over into DynamoDB as the newest version of its pathname.
    ///
    /// # Errors
    /// `Usage` where nothing foreign is there; `Unrepresentable` where it can't become items; `LostRace` and
    /// `AlreadyExists` where the application wrote meanwhile; what the stores report.
    pub async fn adopt(&self, pathname: &Pathname) -> Result<()> {
        let (blob, anchor) = self.foreign(ADOPT, pathname).await?;
        let (body, content_type, cache_control) = self.fetched(ADOPT, &blob).await?;
        let new = NewVersion { body, content_type, cache_control, imported: Some(blob.version()) };
        // Only over what was there when it was found foreign.
        let etag = anchor.as_ref().and_then(Anchor::etag);
        let demand = Demand { if_match: etag.as_ref(), ..Demand::default() };
        self.converger.author(pathname, Some(&new), demand).await.map(drop)
    }

    /// Saves the bytes of a foreign blob to a file in `directory`, then puts back what DynamoDB holds. Returns the
    /// file.
    ///
    /// # Errors
    /// As [`Anchored::adopt`]; `Internal` where the file can't be written: then nothing was changed.
    pub async fn discard(&self, pathname: &Pathname, directory: &Path) -> Result<PathBuf> {
        let (blob, anchor) = self.foreign(DISCARD, pathname).await?;
        let (body, ..) = self.fetched(DISCARD, &blob).await?;
        let file = directory.join(file_name(pathname, &blob.etag));
        save(&body, &file)
            .map_err(|error| Error::new(ErrorKind::Internal, DISCARD).key(file.display()).message(error))?;
        // From here on it is known, and no longer foreign.
        let rev = names::new_rev();
        let behind = Some(Behind { etag: Some(blob.etag), sha256: Some(body.sha256()) });
        let known = match &anchor {
            Some(seen) => Anchor { rev, behind, ..seen.clone() },
            None => Anchor { behind, ..Anchor::tombstone(pathname.clone(), rev) },
        };
        let moved =
            || Error::new(ErrorKind::LostRace, DISCARD).key(pathname).message("it was written meanwhile");
        if self.replace(anchor.as_ref(), &known, None).await? != Sent::Applied {
            return Err(moved());
        }
        match self.settle(pathname, Purpose::Intent, None).await? {
            Ending::Equal | Ending::Written => Ok(file),
            Ending::Foreign { .. } | Ending::GaveUp => Err(moved()),
        }
    }

    async fn foreign(
        &self,
        operation: &'static str,
        pathname: &Pathname,
    ) -> Result<(ListedBlob, Option<Anchor>)> {
        let refused = |message: &str| Error::new(ErrorKind::Usage, operation).key(pathname).message(message);
        if !self.maps(pathname) {
            return Err(refused("no entity of the plan maps it: it is Blob's"));
        }
        match self.judge(pathname).await? {
            (Judged::Foreign, Some(blob), anchor) => Ok((blob, anchor)),
            (Judged::Moving, ..) => Err(refused("it is being written")),
            _ => {
                Err(refused("Blob has nothing foreign there")
                    .hint("`migrate validate` names what is foreign"))
            }
        }
    }

    async fn fetched(&self, operation: &'static str, blob: &ListedBlob) -> Result<(Spooled, String, String)> {
        match self.converger.fetcher.fetch(&blob.pathname, &blob.etag, blob.size).await? {
            Fetched::Body { body, content_type, cache_control } => Ok((body, content_type, cache_control)),
            Fetched::Changed(_) | Fetched::Gone => Err(Error::new(ErrorKind::LostRace, operation)
                .key(&blob.pathname)
                .message("it changed meanwhile")),
        }
    }
}

/// A name that says which blob and which version, in characters that every file system takes.
fn file_name(pathname: &Pathname, etag: &ETag) -> String {
    let plain = |text: &str, most: usize| -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
        text.chars().map(plain).take(most).collect()
    };
    let digest = hex::encode(&Digest::of(pathname.as_str()).as_bytes()[..4]);
    format!("{}-{digest}-{}", plain(pathname.as_str(), 80), plain(etag.as_str().trim_matches('"'), 40))
}

fn save(body: &Spooled, file: &Path) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    crate::folder::make(directory)?;
    let mut target = std::fs::File::create(file)?;
    std::io::copy(&mut body.reader(), &mut target)?;
    target.flush()?;
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_file_is_named_for_its_blob() {
        let name = |pathname: &str| file_name(&Pathname::from(pathname), &ETag::new("e1"));
        assert!(name("r/1.json").starts_with("r_1.json-") && name("r/1.json").ends_with("-e1"));
        assert_ne!(name("r/1.json"), name("r_1.json"));
        assert!(name(&"é/../".repeat(300)).len() < 150);
    }
}
