//! The operations of a store as calls of the API.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::HttpBlob;
use super::meter::Class;
use super::send::{Call, Payload, To};
use crate::blob::store::{BlobStore, Body, Content, Deadline, GetOptions, Part, PutOptions, Upload};
use crate::blob::types::{ETag, Head, ListPage, ListRequest, ListedBlob, Pathname};
use crate::blob::wire::{
    DeleteRequest, HeadReply, ListReply, PartEntry, PartReply, PutReply, UploadReply, header,
};
use crate::error::{Error, ErrorKind, Result};

/// The most blobs of one delete (Vercel's Python SDK 0.5.0; the service's own bound is not known).
const DELETE_MAX: usize = 1000;

#[async_trait]
impl BlobStore for HttpBlob {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        let call = self.call("look up a blob", pathname, Method::GET, "", &[("url", pathname.as_str())]);
        let call = Call { class: Class::Simple, write: false, ..call };
        let reply: HeadReply = match self.json(call).await {
            Ok(reply) => reply,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let head = Head::try_from(reply)?;
        if head.blob.pathname != *pathname {
            return Err(Error::new(ErrorKind::Corrupt, "look up a blob")
                .key(pathname)
                .message(format!("the store answered about {}", head.blob.pathname)));
        }
        self.origins.learn(&head.blob.pathname, &head.blob.url);
        Ok(Some(head))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let limit = request.limit.map(|limit| limit.to_string());
        let mut query = Vec::new();
        if let Some(limit) = &limit {
            query.push(("limit", limit.as_str()));
        }
        if !request.prefix.is_empty() {
            query.push(("prefix", request.prefix.as_str()));
        }
        if let Some(cursor) = &request.cursor {
            query.push(("cursor", cursor.as_str()));
        }
        if request.folded {
            query.push(("mode", "folded"));
        }
        let prefix = Pathname::new(request.prefix.clone());
        let call = self.call("list blobs", &prefix, Method::GET, "", &query);
        let reply: ListReply = self.json(Call { write: false, ..call }).await?;
        let page = ListPage::try_from(reply)?;
        if let Some(blob) = page.blobs.first() {
            self.origins.learn(&blob.pathname, &blob.url);
        }
        Ok(page)
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        self.read_content(pathname, options).await
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        if let Some(deadline) = options.deadline {
            return self.put_before(pathname, body, options, deadline).await;
        }
        let call = self.call("put a blob", pathname, Method::PUT, "/", &[("pathname", pathname.as_str())]);
        let headers = self.write_headers(options, Overwrite::WithIfMatch)?;
        let size = body.length();
        let reply = self.json(Call { headers, payload: body.into(), ..call }).await?;
        self.stored(reply, size, options).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let query = [("pathname", to.as_str()), ("fromUrl", from.as_str())];
        let call = self.call("copy a blob", to, Method::PUT, "", &query);
        let headers = self.write_headers(options, Overwrite::AsAsked)?;
        let reply = self.json(Call { headers, ..call }).await?;
        self.stored(reply, None, options).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let query = [("pathname", to.as_str()), ("fromUrl", from.as_str())];
        let call = self.call("rename a blob", to, Method::POST, "/rename", &query);
        let headers = self.write_headers(options, Overwrite::AsAsked)?;
        let reply = self.json(Call { headers, ..call }).await?;
        self.stored(reply, None, options).await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        if if_match.is_some() && pathnames.len() != 1 {
            return Err(Error::new(ErrorKind::Usage, "delete blobs")
                .message("a condition is for one blob, not for several"));
        }
        for batch in pathnames.chunks(DELETE_MAX) {
            let urls = batch.iter().map(|pathname| pathname.as_str().to_owned()).collect();
            let mut headers = HeaderMap::new();
            if let Some(etag) = if_match {
                insert(&mut headers, header::IF_MATCH, etag.as_str())?;
            }
            let blobs = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let mut call = Call {
                headers,
                payload: Payload::Json(json(&DeleteRequest { urls })?),
                class: Class::Delete(blobs),
                ..self.call("delete blobs", &batch[0], Method::POST, "/delete", &[])
            };
            // Its reply says nothing but that it is done.
            let _reply = self.whole(&mut call).await?;
        }
        Ok(())
    }

    async fn deadline(&self, within: Duration) -> Result<Option<Deadline>> {
        self.moment(within).await
    }

    async fn delete_before(&self, pathname: &Pathname, if_match: &ETag, deadline: Deadline) -> Result<()> {
        self.delete_signed(pathname, if_match, deadline).await
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        let mut headers = self.write_headers(options, Overwrite::WithIfMatch)?;
        insert(&mut headers, header::MPU_ACTION, "create")?;
        let call = self.multipart("begin an upload", pathname);
        let reply: UploadReply = self.json(Call { headers, ..call }).await?;
        if reply.upload_id.is_empty() || reply.key.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "begin an upload")
                .key(pathname)
                .message("the store gave it no id"));
        }
        Ok(reply.into())
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        let mut headers = self.write_headers(&PutOptions::default(), Overwrite::Unsaid)?;
        insert(&mut headers, header::MPU_ACTION, "upload")?;
        insert(&mut headers, header::MPU_PART_NUMBER, &number.to_string())?;
        upload_headers(&mut headers, upload)?;
        let call = self.multipart("upload a part", pathname);
        let payload = body.into();
        let reply: PartReply = self.json(Call { headers, payload, ..call }).await?;
        Ok(Part { number, etag: ETag::new(&reply.etag) })
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        let mut headers = self.write_headers(options, Overwrite::WithIfMatch)?;
        insert(&mut headers, header::MPU_ACTION, "complete")?;
        upload_headers(&mut headers, upload)?;
        let entries: Vec<PartEntry> = parts.iter().map(PartEntry::from).collect();
        let call = self.multipart("complete an upload", pathname);
        let payload = Payload::Json(json(&entries)?);
        let reply = self.json(Call { headers, payload, ..call }).await?;
        self.stored(reply, None, options).await
    }
}

/// What a write says of overwriting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    /// What was asked for; a condition on the destination is a permission to overwrite it.
    WithIfMatch,
    /// What was asked for; the condition is on the source.
    AsAsked,
    /// Nothing: the upload's beginning said it.
    Unsaid,
}

impl HttpBlob {
    /// A write of the API without headers and body; its callers replace what is different.
    pub(super) fn call<'a>(
        &self,
        operation: &'static str,
        pathname: &'a Pathname,
        method: Method,
        route: &str,
        query: &[(&str, &str)],
    ) -> Call<'a> {
        Call {
            operation,
            key: pathname.as_str(),
            method,
            url: self.origins.api(route, query),
            headers: HeaderMap::new(),
            payload: Payload::Empty,
            class: Class::Advanced,
            write: true,
            to: To::Api,
        }
    }

    fn multipart<'a>(&self, operation: &'static str, pathname: &'a Pathname) -> Call<'a> {
        self.call(operation, pathname, Method::POST, "/mpu", &[("pathname", pathname.as_str())])
    }

    fn write_headers(&self, options: &PutOptions, overwrite: Overwrite) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        insert(&mut headers, header::ACCESS, options.access.unwrap_or(self.access).as_str())?;
        if overwrite == Overwrite::Unsaid {
            return Ok(headers);
        }
        let flag = |set| if set { "1" } else { "0" };
        let allow_overwrite =
            options.allow_overwrite || (overwrite == Overwrite::WithIfMatch && options.if_match.is_some());
        insert(&mut headers, header::ADD_RANDOM_SUFFIX, flag(options.add_random_suffix))?;
        insert(&mut headers, header::ALLOW_OVERWRITE, flag(allow_overwrite))?;
        if let Some(content_type) = &options.content_type {
            insert(&mut headers, header::CONTENT_TYPE, content_type)?;
        }
        if let Some(max_age) = options.cache_control_max_age {
            insert(&mut headers, header::CACHE_MAX_AGE, &max_age.as_secs().to_string())?;
        }
        if let Some(etag) = &options.if_match {
            insert(&mut headers, header::IF_MATCH, etag.as_str())?;
        }
        Ok(headers)
    }

    /// What a write stored. Its reply has no time and no length, so the blob is looked up, unless this client
    /// only forwards; where that fails, or finds another version, the write still succeeded and is described
    /// by what is known: the time is then this machine's.
    pub(super) async fn stored(
        &self,
        reply: PutReply,
        size: Option<u64>,
        options: &PutOptions,
    ) -> Result<Head> {
        let pathname = Pathname::new(reply.pathname);
        let etag = ETag::new(&reply.etag);
        self.origins.learn(&pathname, &reply.url);
        if !self.forwards
            && let Ok(Some(head)) = self.head(&pathname).await
            && head.blob.etag == etag
        {
            return Ok(head);
        }
        let max_age = options.cache_control_max_age.map_or(2_592_000, |max_age| max_age.as_secs());
        Ok(Head {
            blob: ListedBlob {
                pathname,
                size: size.unwrap_or_default(),
                uploaded_at: to_milliseconds(self.clock.now()),
                etag,
                url: reply.url,
                download_url: reply.download_url,
            },
            content_type: reply.content_type,
            content_disposition: reply.content_disposition,
            cache_control: format!("public, max-age={max_age}"),
        })
    }
}

fn to_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

fn upload_headers(headers: &mut HeaderMap, upload: &Upload) -> Result<()> {
    insert(headers, header::MPU_UPLOAD_ID, &upload.upload_id)?;
    let key = utf8_percent_encode(&upload.key, NON_ALPHANUMERIC).to_string();
    insert(headers, header::MPU_KEY, &key)
}

pub(super) fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value).map_err(|error| {
        Error::new(ErrorKind::Usage, "write a blob")
            .key(name)
            .message("this value can't be sent in a header")
            .source(error)
    })?;
    headers.insert(HeaderName::from_static(name), value);
    Ok(())
}

pub(super) fn json(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::new(ErrorKind::Internal, "write a request").source(error))
}
