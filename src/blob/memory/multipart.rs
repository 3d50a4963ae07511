//! Multipart uploads: parts wait here, in memory only, until they are put together.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use md5::Digest as _;

use super::state::State;
use crate::blob::store::{self, Part, PutOptions};
use crate::blob::suffix;
use crate::blob::types::{ETag, Head, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// The most parts of an upload (Vercel Blob documentation, 2026).
const PARTS_MAX: u32 = 10_000;

/// An upload that was begun.
#[derive(Debug)]
pub(super) struct Upload {
    asked: Pathname,
    key: String,
    target: Pathname,
    options: PutOptions,
    parts: BTreeMap<u32, (ETag, Bytes)>,
}

impl State {
    pub(super) fn create_multipart(&mut self, pathname: &Pathname, options: &PutOptions) -> store::Upload {
        let target = suffix::named(pathname, options.add_random_suffix);
        let key = format!("{}/{}", self.config.store_id, target.as_str());
        let upload_id = hex::encode(rand::random::<[u8; 16]>());
        let upload = Upload {
            asked: pathname.clone(),
            key: key.clone(),
            target,
            options: options.clone(),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(upload_id.clone(), upload);
        store::Upload { upload_id, key }
    }

    pub(super) fn upload_part(
        &mut self,
        pathname: &Pathname,
        upload: &store::Upload,
        number: u32,
        body: Bytes,
    ) -> Result<Part> {
        const OPERATION: &str = "upload a part";
        if number == 0 || number > PARTS_MAX {
            return Err(Error::new(ErrorKind::Usage, OPERATION)
                .key(pathname)
                .message(format!("part number {number} is not between 1 and {PARTS_MAX}")));
        }
        let parts = &mut self.upload(OPERATION, pathname, upload)?.parts;
        let etag = ETag::of(&body);
        parts.insert(number, (etag.clone(), body));
        Ok(Part { number, etag })
    }

    pub(super) fn complete_multipart(
        &mut self,
        pathname: &Pathname,
        upload: &store::Upload,
        parts: &[Part],
        options: &PutOptions,
        at: Timestamp,
    ) -> Result<Head> {
        const OPERATION: &str = "complete a multipart upload";
        let (bytes_min, bytes_max) = (self.config.part_bytes_min, self.config.blob_bytes_max);
        let begun = self.upload(OPERATION, pathname, upload)?;
        let refuse = |message: String| Error::new(ErrorKind::Usage, OPERATION).key(pathname).message(message);
        let (etag, body) = assemble(&begun.parts, parts, bytes_min, bytes_max).map_err(refuse)?;
        let target = begun.target.clone();
        // Options of the creation hold; those of the completion go before them where they say something.
        let created = begun.options.clone();
        let options = PutOptions {
            access: options.access.or(created.access),
            add_random_suffix: false,
            allow_overwrite: options.allow_overwrite || created.allow_overwrite,
            content_type: options.content_type.clone().or(created.content_type),
            cache_control_max_age: options.cache_control_max_age.or(created.cache_control_max_age),
            if_match: options.if_match.clone().or(created.if_match),
            request: None,
            deadline: None,
        };
        let head = self.put(OPERATION, &target, body, etag, &options, at)?;
        self.uploads.remove(&upload.upload_id);
        Ok(head)
    }

    fn upload(
        &mut self,
        operation: &'static str,
        pathname: &Pathname,
        upload: &store::Upload,
    ) -> Result<&mut Upload> {
        self.uploads
            .get_mut(&upload.upload_id)
            .filter(|begun| begun.asked == *pathname && begun.key == upload.key)
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, operation)
                    .key(pathname)
                    .message("no such multipart upload of this pathname")
            })
    }
}

/// Puts the listed parts together in the order of their numbers. The ETag is that of S3: the MD5 of the
/// parts' MD5s, and their count.
fn assemble(
    uploaded: &BTreeMap<u32, (ETag, Bytes)>,
    listed: &[Part],
    part_bytes_min: u64,
    blob_bytes_max: u64,
) -> Result<(ETag, Bytes), String> {
    let mut listed: Vec<&Part> = listed.iter().collect();
    listed.sort_by_key(|part| part.number);
    let Some(last) = listed.last() else { return Err("no parts are listed".to_owned()) };
    let last = last.number;
    if let Some(pair) = listed.windows(2).find(|pair| pair[0].number == pair[1].number) {
        return Err(format!("part {} is listed twice", pair[0].number));
    }
    let size =
        listed.iter().filter_map(|part| uploaded.get(&part.number)).map(|(_, bytes)| bytes.len()).sum();
    let mut body = BytesMut::with_capacity(size);
    let mut digests = md5::Md5::new();
    for part in &listed {
        let bytes = match uploaded.get(&part.number) {
            Some((etag, bytes)) if *etag == part.etag => bytes,
            Some(_) => return Err(format!("part {} was uploaded with another ETag", part.number)),
            None => return Err(format!("part {} was not uploaded", part.number)),
        };
        if part.number != last && (bytes.len() as u64) < part_bytes_min {
            return Err(format!("part {} is smaller than {part_bytes_min} bytes", part.number));
        }
        if (body.len() + bytes.len()) as u64 > blob_bytes_max {
            return Err(format!("the file length cannot be greater than {blob_bytes_max} bytes"));
        }
        digests.update(md5::Md5::digest(bytes));
        body.extend_from_slice(bytes);
    }
    let etag = ETag::new(&format!("{}-{}", hex::encode(digests.finalize()), listed.len()));
    Ok((etag, body.freeze()))
}
