//! Owns one connection's bytes below HTTP: the clock of the silent, and the JSON of refusals that hyper would give without a body. It tells
//! hyper's own words from an answer of ours by the time: what is written while no request is worked on is not ours.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use openapi::{ApiError, models};
use poem::http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    super::front::{REQUEST_ID, new_request_id},
    LARGEST_HEAD,
    table::{Phase, Progress},
};

/// How long the head of a request may take, from its first byte; for the first request, from the connection on.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection may rest between two requests. Clients that keep connections drop them after a minute or later.
const IDLE: Duration = Duration::from_secs(75);
/// How long a client may leave an answer unread.
const STALL: Duration = Duration::from_secs(30);
/// How long, and how much, is taken in after a refusal of ours, so that its reader is not met by a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// The bytes of a connection.
pub(super) struct Line {
    stream: TcpStream,
    progress: Arc<Progress>,
    /// What of the head has arrived.
    head: Vec<u8>,
    clock: Pin<Box<Sleep>>,
    refusing: Option<Refusing>,
}

/// A refusal on its way out; afterwards what still arrives is taken in for a while.
struct Refusing {
    bytes: Vec<u8>,
    written: usize,
    shut: bool,
    taken: usize,
    until: Instant,
}

impl Line {
    pub(super) fn new(stream: TcpStream, progress: Arc<Progress>) -> Self {
        Self {
            stream,
            progress,
            head: Vec::new(),
            clock: Box::pin(tokio::time::sleep(HEAD)),
            refusing: None,
        }
    }

    /// Ready when `deadline` has passed.
    fn poll_clock(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.deadline() != deadline {
            self.clock.as_mut().reset(deadline);
        }
        self.clock.as_mut().poll(cx)
    }

    /// Begins to refuse, once.
    fn refuse(&mut self, error: ApiError) {
        self.refusing.get_or_insert_with(|| Refusing {
            bytes: refusal(error),
            written: 0,
            shut: false,
            taken: 0,
            until: Instant::now() + LINGER,
        });
    }

    /// Writes the refusal and ends the connection from this side; ready when the other side has ended it, too, or has had its time.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.refusing.as_ref().map(|refusing| refusing.until);
        if until.is_none_or(|until| self.poll_clock(until, cx).is_ready()) {
            return Poll::Ready(());
        }
        let Some(refusing) = &mut self.refusing else {
            return Poll::Ready(());
        };
        let mut stream = Pin::new(&mut self.stream);
        while let Some(rest @ [_, ..]) = refusing.bytes.get(refusing.written..) {
            match ready!(stream.as_mut().poll_write(cx, rest)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(written) => refusing.written += written,
            }
        }
        if !refusing.shut {
            if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
                return Poll::Ready(());
            }
            refusing.shut = true;
        }
        let mut dump = [0_u8; 4096];
        while refusing.taken < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut dump);
            match ready!(stream.as_mut().poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => refusing.taken += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }

    /// Passes `write` on, unless nothing of ours is to be written: then hyper refuses a head, and what it says is said in JSON.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        length: usize,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let (phase, _) = self.progress.phase();
        if self.refusing.is_some() || matches!(phase, Phase::Idle | Phase::Receiving) {
            self.refuse(of_head(first));
            return self.poll_refuse(cx).map(|()| Ok(length));
        }
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.progress.wrote();
            return written;
        }
        self.progress.stalled();
        let (_, since) = self.progress.phase();
        ready!(self.poll_clock(since + STALL, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refusing.is_some() {
            ready!(this.poll_refuse(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let (phase, since) = this.progress.phase();
        if matches!(phase, Phase::Busy | Phase::Stalled) {
            this.head.clear();
            return read;
        }
        if read.is_pending() {
            let patience = if phase == Phase::Idle { IDLE } else { HEAD };
            ready!(this.poll_clock(since + patience, cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        this.progress.received();
        let arrived = buffer.filled().get(before..).unwrap_or_default();
        if this.head.len() < LARGEST_HEAD {
            this.head.extend_from_slice(arrived);
        }
        if is_ambiguous(&this.head) {
            this.refuse(ApiError::new(
                StatusCode::BAD_REQUEST,
                "ambiguous_length",
                "the request has both Content-Length and Transfer-Encoding",
            ));
            ready!(this.poll_refuse(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_pass(cx, bytes, bytes.len(), |stream, cx| {
            stream.poll_write(cx, bytes)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.first().map_or(&[][..], |slice| slice);
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_pass(cx, first, length, |stream, cx| {
            stream.poll_write_vectored(cx, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.progress.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether the lines of a head name both lengths. hyper reads such a request by its chunks and forgets the other length; a proxy before us may
/// have gone by that one, and take for a request of its own what we take for a body.
fn is_ambiguous(head: &[u8]) -> bool {
    let mut lengths = false;
    let mut codings = false;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        lengths |= name.eq_ignore_ascii_case(b"content-length");
        codings |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }
    lengths && codings
}

/// What hyper means by the first line of its refusal. The contract knows no other status for a head than 400.
fn of_head(first: &[u8]) -> ApiError {
    let status = first.get(9..12).unwrap_or_default();
    let (code, message) = match status {
        b"414" => ("uri_too_long", "the path is too long"),
        b"431" => (
            "headers_too_large",
            "the head of the request has more than 64 KiB or 100 headers",
        ),
        _ => ("malformed_request", "this is no HTTP/1.1 request"),
    };
    ApiError::new(StatusCode::BAD_REQUEST, code, message)
}

/// A whole refusal as bytes, after which the connection ends.
pub(super) fn refusal(error: ApiError) -> Vec<u8> {
    let retry = error
        .retry_after
        .map_or(String::new(), |s| format!("retry-after: {s}\r\n"));
    let body = models::Error {
        error: error.message,
        code: error.code,
        details: None,
    };
    let body = body.to_text();
    format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n{REQUEST_ID}: {}\r\n{retry}\r\n{body}",
        error.status,
        body.len(),
        new_request_id(),
    )
    .into_bytes()
}

/// The body of an answer of ours; its end is noted.
pub(super) struct Answer<B> {
    body: B,
    progress: Arc<Progress>,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, progress: Arc<Progress>) -> Self {
        Self { body, progress }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.progress.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lengths_in_one_head_are_seen_and_a_body_is_not_searched() {
        let head =
            |lines: &str| is_ambiguous(format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes());
        assert!(head("Content-Length: 3\r\nTransfer-Encoding: chunked"));
        assert!(head("transfer-encoding: identity\nX: y\ncontent-length: 0"));
        assert!(!head("Content-Length: 3"));
        assert!(!head("X-Content-Length: 3\r\nTransfer-Encoding: chunked"));
        assert!(!head(
            "Content-Length: 40\r\n\r\n{}\r\nTransfer-Encoding: chunked"
        ));
    }

    #[test]
    fn what_hyper_says_of_a_head_is_400_in_json() {
        let code = |line: &str| of_head(line.as_bytes()).code;
        assert_eq!(code("HTTP/1.1 400 Bad Request\r\n"), "malformed_request");
        assert_eq!(code("HTTP/1.1 414 URI Too Long\r\n"), "uri_too_long");
        assert_eq!(
            code("HTTP/1.1 431 Request Header Fields Too Large\r\n"),
            "headers_too_large"
        );
        let text = String::from_utf8(refusal(of_head(b""))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        assert!(body.contains("\"code\":\"malformed_request\""), "{body}");
    }
}
