//! What Blob has that this migration did not write: taken over by hand, or saved to a file and put right.
//!
//! Neither loses anything: what is replaced, in Blob or in DynamoDB, is in a file before. A blob whose content the
//! anchor, a note or an intent names is not foreign; a repair settles it. Which of the two is newer is judged in
//! `newer.rs`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{Anchored, Explained, Judged, Newer, Verdict, newer};
use crate::blob::{ETag, Fetched, ListedBlob, Pathname, Spooled};
use crate::converge::author::{Demand, NewVersion, Over};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::legible::quoted;
use crate::protocol::Rev;
use crate::protocol::converge::Purpose;
use crate::protocol::reverse::{Ending, Sent};
use crate::target::control::{Anchor, AnchorState, Behind, IntentRow, names};

/// What stands for the rev where there is no anchor.
pub const NO_ANCHOR: &str = "none";

const ADOPT: &str = "adopt a foreign blob";
const DISCARD: &str = "discard a foreign blob";
const VALIDATE: &str = "`migrate validate` shows what both stores hold now, and the commands for that";

/// What an adoption may replace.
#[derive(Debug, Clone, Copy)]
pub struct Replaces<'a> {
    /// The rev of the anchor that was shown; none: there was no anchor.
    pub rev: Option<&'a Rev>,
    /// Whether what DynamoDB holds may be newer than the blob, or may be for all that is known.
    pub newer: bool,
}

impl Anchored {
    /// Takes a foreign blob over into DynamoDB as the newest version of its pathname, if the anchor is still the one
    /// that was shown. What DynamoDB held is saved to a file in `directory` before; returns the file.
    ///
    /// # Errors
    /// `Usage` where nothing foreign is there, or what DynamoDB holds is not known to be older; `LostRace` where the
    /// anchor is another one, or somebody wrote meanwhile; `Unrepresentable` where the blob can't become items;
    /// `Internal` where the file can't be written; what the stores report. DynamoDB is unchanged after each of these.
    pub async fn adopt(
        &self,
        pathname: &Pathname,
        replaces: Replaces<'_>,
        directory: &Path,
    ) -> Result<Option<PathBuf>> {
        let (blob, anchor) = self.foreign(ADOPT, pathname).await?;
        let found = anchor.as_ref().map(|anchor| &anchor.rev);
        if found != replaces.rev {
            return Err(rewritten(pathname, found, replaces.rev));
        }
        let (which, why) = newer(&blob, anchor.as_ref());
        if which != Newer::Blob && !replaces.newer {
            let discard = commands(pathname, None, which).swap_remove(0);
            return Err(Error::new(ErrorKind::Usage, ADOPT).key(pathname).message(why).hint(format!(
                "`{discard}` loses nothing; with `--overwrite-newer` the blob replaces what DynamoDB holds"
            )));
        }
        let (body, content_type, cache_control) = self.fetched(ADOPT, &blob).await?;
        self.is_nobodys(pathname, body.sha256()).await?;
        let saved = match &anchor {
            Some(anchor) => self.replaced(anchor, directory).await?,
            None => None,
        };
        let new = NewVersion { body, content_type, cache_control, imported: Some(blob.version()) };
        let demand = Demand { overwrite: true, over: Over::Only(replaces.rev), ..Demand::default() };
        match self.converger.author(pathname, Some(&new), demand).await {
            Ok(_) => Ok(saved),
            Err(error) if error.kind() == ErrorKind::LostRace => Err(error.hint(VALIDATE)),
            Err(error) if error.kind() == ErrorKind::Unrepresentable => {
                let discard = commands(pathname, None, Newer::Unclear).swap_remove(0);
                Err(error.hint(format!("`{discard}` saves its bytes and puts back what DynamoDB holds")))
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses content that a write through a gateway is about to store: that write mirrors it by itself.
    async fn is_nobodys(&self, pathname: &Pathname, sha256: Digest) -> Result<()> {
        let intents = self.control().intents().await?;
        let is_its =
            |intent: &&IntentRow| intent.pathnames.contains(pathname) && intent.sha256 == Some(sha256);
        match intents.iter().find(is_its) {
            Some(intent) => Err(not_foreign(ADOPT, pathname, &Explained::Intent(intent.at))),
            None => Ok(()),
        }
    }

    /// Saves what an adoption replaces, where DynamoDB holds its bytes.
    async fn replaced(&self, anchor: &Anchor, directory: &Path) -> Result<Option<PathBuf>> {
        let Some(etag) = anchor.etag().filter(|_| !matches!(anchor.state, AnchorState::Quarantined { .. }))
        else {
            return Ok(None);
        };
        let body = match self.body_of(anchor).await {
            // The bytes of a version that was replaced are dropped.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let found = self.control().rev(&anchor.pathname).await?;
                let gone = found.as_ref() != Some(&anchor.rev);
                Err(if gone { rewritten(&anchor.pathname, found.as_ref(), Some(&anchor.rev)) } else { error })
            }
            body => body,
        }?;
        saved(ADOPT, &body, directory.join(file_name(&anchor.pathname, &etag))).map(Some)
    }

    /// Saves the bytes of a foreign blob to a file in `directory`, then puts back what DynamoDB holds. Returns the
    /// file.
    ///
    /// # Errors
    /// As [`Anchored::adopt`]; `Internal` where the file can't be written: then nothing was changed.
    pub async fn discard(&self, pathname: &Pathname, directory: &Path) -> Result<PathBuf> {
        let (blob, anchor) = self.foreign(DISCARD, pathname).await?;
        let (body, ..) = self.fetched(DISCARD, &blob).await?;
        let file = saved(DISCARD, &body, directory.join(file_name(pathname, &blob.etag)))?;
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
        let Verdict { judged, blob, anchor, explained } = self.judge(pathname).await?;
        match (judged, blob, explained) {
            (Judged::Foreign, Some(blob), _) => Ok((blob, anchor)),
            (Judged::Stale | Judged::Extra, _, Some(explained)) => {
                Err(not_foreign(operation, pathname, &explained))
            }
            (Judged::Moving, ..) => Err(refused("it is being written").hint("run the same command again")),
            (Judged::Missing, ..) => Err(refused("Blob has nothing there, and DynamoDB has")
                .hint("`migrate validate --repair` puts it into Blob")),
            _ => Err(refused("both stores are equal there").hint("`migrate validate` names what is foreign")),
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

/// The commands that settle a foreign blob beside an anchor of this rev (none: beside no anchor), as a shell takes them.
/// The first loses nothing.
#[must_use]
pub fn commands(pathname: &Pathname, rev: Option<&Rev>, newer: Newer) -> Vec<String> {
    let rev = rev.map_or(NO_ANCHOR, Rev::as_str);
    let adopt = format!("migrate validate --adopt {}", quoted(&format!("{}@{rev}", pathname.as_str())));
    let discard = format!("migrate validate --discard {}", quoted(pathname.as_str()));
    match newer {
        Newer::Blob => vec![adopt, discard],
        Newer::Dynamodb | Newer::Unclear => vec![discard, adopt + " --overwrite-newer"],
    }
}

fn not_foreign(operation: &'static str, pathname: &Pathname, explained: &Explained) -> Error {
    let (message, hint) = match explained {
        Explained::Intent(_) => {
            ("a write of ours", "that write settles it; run `migrate validate` afterwards")
        }
        Explained::Anchor | Explained::Note(_) => {
            ("an older version of ours", "`migrate validate --repair` makes Blob equal to DynamoDB")
        }
    };
    Error::new(ErrorKind::Usage, operation)
        .key(pathname)
        .message(format!("what Blob has is not foreign but {message}: {explained}"))
        .hint(hint)
}

fn rewritten(pathname: &Pathname, found: Option<&Rev>, shown: Option<&Rev>) -> Error {
    let named = |rev: Option<&Rev>| rev.map_or_else(|| "nothing".to_owned(), |rev| format!("rev {rev}"));
    let message =
        format!("DynamoDB was written since it was shown: it has {}, not {}", named(found), named(shown));
    Error::new(ErrorKind::LostRace, ADOPT).key(pathname).message(message).hint(VALIDATE)
}

fn saved(operation: &'static str, body: &Spooled, file: PathBuf) -> Result<PathBuf> {
    match save(body, &file) {
        Ok(()) => Ok(file),
        Err(error) => {
            let otherwise = Error::new(ErrorKind::Internal, operation).key(file.display());
            Err(crate::folder::failed(otherwise, &file, error))
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
    let mut target = crate::folder::create(file)?;
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
