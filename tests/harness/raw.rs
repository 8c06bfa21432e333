//! HTTP as bytes, for requests that no client library sends: broken ones, half ones, slow ones.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::Answer;
use super::server::Server;

/// Longer than any patience of the server.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    arrived: Vec<u8>,
}

impl Server {
    /// A connection to the public port.
    pub(crate) async fn wire(&self) -> Wire {
        self.try_wire().await.expect("the server accepts")
    }

    /// As `wire`, for moments when there may be no room.
    pub(crate) async fn try_wire(&self) -> std::io::Result<Wire> {
        let address = self.base().trim_start_matches("http://");
        Ok(Wire {
            stream: TcpStream::connect(address).await?,
            arrived: Vec::new(),
        })
    }

    /// Sends these bytes on a connection of their own and reads the answer.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut wire = self.wire().await;
        wire.send(bytes).await;
        wire.answer(&String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))
            .await
    }
}

impl Wire {
    /// Sends these bytes. A server that has heard enough may have hung up: its answer tells.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads one answer whose length is announced; panics when none comes.
    pub(crate) async fn answer(&mut self, request: &str) -> Answer {
        match tokio::time::timeout(ANSWER_DEADLINE, self.try_answer(request)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => panic!(
                "the connection ended without an answer to {request}: {:?}",
                String::from_utf8_lossy(&self.arrived)
            ),
            Err(_) => panic!("no answer to {request}"),
        }
    }

    /// Reads one answer; none when the connection ends without a whole one.
    pub(crate) async fn try_answer(&mut self, request: &str) -> Option<Answer> {
        loop {
            if let Some(answer) = self.take_answer(request) {
                return Some(answer);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Waits, without a deadline, for the other side to end the connection; whatever it still says is kept.
    pub(crate) async fn ended(&mut self) {
        while self.more().await {}
    }

    /// What has arrived and belongs to no answer that was read.
    pub(crate) fn arrived(&self) -> String {
        String::from_utf8_lossy(&self.arrived).into_owned()
    }

    async fn more(&mut self) -> bool {
        match self.stream.read_buf(&mut self.arrived).await {
            Ok(0) | Err(_) => false,
            Ok(_) => true,
        }
    }

    fn take_answer(&mut self, request: &str) -> Option<Answer> {
        let end = self
            .arrived
            .windows(4)
            .position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.arrived[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').expect("a header line");
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
                HeaderValue::from_str(value.trim()).expect("a header value"),
            );
        }
        let length = headers
            .get("content-length")
            .filter(|_| status >= 200 && !request.starts_with("HEAD"))
            .map_or(0, |value| {
                value.to_str().expect("text").parse().expect("a number")
            });
        let all = end + 4 + length;
        if self.arrived.len() < all {
            return None;
        }
        let bytes = self.arrived[end + 4..all].to_vec();
        self.arrived.drain(..all);
        Some(Answer {
            request: request.to_owned(),
            status,
            headers,
            bytes,
        })
    }
}
