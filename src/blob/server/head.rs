//! What is said of heads that are no HTTP: the API's JSON too.
//!
//! hyper refuses them by itself, with a status alone, which the SDKs take for an outage. As long as no request
//! was read on a connection, whatever hyper writes is such a refusal: it is replaced by one with the same status
//! and a body. After that nothing is touched: then bytes may be a blob's. (A later head that is broken gets
//! the status alone.)

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::blob::wire::{Code, ErrorBody, ErrorReply};

/// A connection on which refusals of heads have a body.
pub(super) struct Refusing<'a, S> {
    stream: S,
    /// Whether a request was read.
    asked: &'a AtomicBool,
    /// Said in every reply.
    extra: &'a HeaderMap,
    /// What is written in place of hyper's words, and how much of it was.
    reply: Option<(Vec<u8>, usize)>,
}

impl<'a, S: AsyncWrite + Unpin> Refusing<'a, S> {
    pub(super) const fn new(stream: S, asked: &'a AtomicBool, extra: &'a HeaderMap) -> Self {
        Self { stream, asked, extra, reply: None }
    }

    fn is_to_replace(&self) -> bool {
        !self.asked.load(Ordering::Relaxed)
    }

    /// Writes a whole reply in place of `words`, which count as written once all of it is.
    fn poll_replace(&mut self, context: &mut Context<'_>, words: &[u8]) -> Poll<io::Result<()>> {
        let (reply, written) = self.reply.get_or_insert_with(|| (refusal(words, self.extra), 0));
        while *written < reply.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &reply[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The reply with the status of hyper's.
fn refusal(words: &[u8], extra: &HeaderMap) -> Vec<u8> {
    let status = words.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
    let status = status.unwrap_or(StatusCode::BAD_REQUEST);
    let message = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the request's headers are too many or too long",
        StatusCode::URI_TOO_LONG => "the request's URL is too long",
        _ => "the request is not valid HTTP",
    };
    let error = ErrorBody { code: Code::BadRequest.name().to_owned(), message: message.to_owned() };
    let body = serde_json::to_vec(&ErrorReply { error }).expect("invariant: it is made of text");
    let mut reply =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n").into_bytes();
    reply.extend(format!("cache-control: no-store\r\ncontent-length: {}\r\n", body.len()).bytes());
    for (name, value) in extra {
        reply.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    reply.extend(b"\r\n");
    reply.extend(body);
    reply
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusing<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusing<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_to_replace() {
            ready!(self.poll_replace(context, bytes))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_to_replace() {
            let words = slices.first().map_or(&[][..], |first| first);
            ready!(self.poll_replace(context, words))?;
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
