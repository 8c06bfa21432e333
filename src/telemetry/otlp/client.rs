//! Owns a conversation with a receiver: one request, and what its answer means. HTTP as it is, gRPC as HTTP/2 with five bytes before the message
//! and the status in the trailers.

use std::{error::Error, io::Write, time::Duration};

use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::{Message, bytes::Bytes};
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};

use crate::config::telemetry::{Compression, OtlpProtocol, OtlpTarget};

/// Bytes of an answer that are read: it says little.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Characters of what a receiver says that are told on.
const LONGEST_WORDS: usize = 500;
/// The statuses of gRPC after which a request may be sent again: cancelled, deadline, exhausted, aborted, out of range, unavailable, data loss.
const GRPC_AGAIN: [u32; 7] = [1, 4, 8, 10, 11, 14, 15];
/// The longest pause that a receiver may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A receiver of one signal.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: reqwest::Url,
    protocol: OtlpProtocol,
    compression: Compression,
    /// The endpoint as it may be shown.
    pub(super) shown: String,
}

/// A request that a receiver took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Items of it that the receiver rejected.
    pub(super) rejected: u64,
    /// Why, in its words.
    pub(super) reason: String,
}

/// Why a receiver did not take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    /// Whether the same request may be taken later.
    pub(super) again: bool,
    /// How long it asks to be left alone.
    pub(super) pause: Option<Duration>,
}

impl Refusal {
    fn lasting(message: String) -> Self {
        Self {
            message,
            again: false,
            pause: None,
        }
    }

    fn passing(message: String) -> Self {
        Self {
            message,
            again: true,
            pause: None,
        }
    }
}

impl Client {
    /// `service` is the signal's name in gRPC: `trace`, `logs` or `metrics`.
    pub(super) fn new(target: &OtlpTarget, service: &str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &target.headers.0 {
            let pair = name
                .parse::<HeaderName>()
                .ok()
                .zip(value.parse::<HeaderValue>().ok());
            let (name, mut value) = pair.ok_or_else(|| format!("{name:?} cannot be a header"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let kind = match target.protocol {
            OtlpProtocol::HttpProtobuf => "application/x-protobuf",
            OtlpProtocol::Grpc => "application/grpc",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let encoding = match target.protocol {
            OtlpProtocol::HttpProtobuf => CONTENT_ENCODING,
            OtlpProtocol::Grpc => HeaderName::from_static("grpc-encoding"),
        };
        match target.compression {
            Compression::None => {}
            Compression::Gzip => {
                headers.insert(encoding, HeaderValue::from_static("gzip"));
            }
        }
        let mut url = target.endpoint.clone();
        // The environment belongs to the configuration, so no proxy is read from it; a redirect would take the headers along.
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("stepwell/", env!("CARGO_PKG_VERSION")));
        if let Some(timeout) = target.timeout {
            http = http.timeout(timeout);
        }
        if target.protocol == OtlpProtocol::Grpc {
            headers.insert("te", HeaderValue::from_static("trailers"));
            let mut capital = service.to_owned();
            if let Some(first) = capital.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            url.set_path(&format!(
                "/opentelemetry.proto.collector.{service}.v1.{capital}Service/Export"
            ));
            http = http.http2_prior_knowledge();
        }
        Ok(Self {
            http: http
                .default_headers(headers)
                .build()
                .map_err(|e| format!("cannot speak HTTP: {e}"))?,
            url,
            protocol: target.protocol,
            compression: target.compression,
            shown: shown(&target.endpoint),
        })
    }

    /// `message` as it travels, however often it is sent.
    pub(super) fn body(&self, message: Vec<u8>) -> Result<Bytes, Refusal> {
        let message = match self.compression {
            Compression::None => message,
            Compression::Gzip => gzip(&message).map_err(|error| {
                Refusal::lasting(format!("the request cannot be compressed: {error}"))
            })?,
        };
        Ok(Bytes::from(match self.protocol {
            OtlpProtocol::HttpProtobuf => message,
            OtlpProtocol::Grpc => framed(self.compression, &message),
        }))
    }

    /// Sends a [`body`](Self::body).
    pub(super) async fn send(&self, body: Bytes) -> Result<Taken, Refusal> {
        let sent = self.http.post(self.url.clone()).body(body).send().await;
        let response = sent.map_err(|e| Refusal::passing(reason(&e)))?;
        match self.protocol {
            OtlpProtocol::HttpProtobuf => of_http(response).await,
            OtlpProtocol::Grpc => of_grpc(response).await,
        }
    }
}

/// An endpoint as it may be shown: what stands before its host or behind its path may be a secret.
pub(super) fn shown(endpoint: &reqwest::Url) -> String {
    let mut shown = endpoint.clone();
    // Both only fail on URLs without a host, which are refused before.
    let _ = (shown.set_username(""), shown.set_password(None));
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

async fn of_http(response: reqwest::Response) -> Result<Taken, Refusal> {
    let status = response.status();
    if status.is_success() {
        // What the answer says beside its status is no reason to send again what was taken.
        let (body, _) = read(response).await.unwrap_or_default();
        return Ok(rejected(&body));
    }
    let asked = response.headers().get(RETRY_AFTER);
    let pause = asked
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE));
    Err(Refusal {
        message: format!("it answered {status}"),
        // What the standard calls retryable, and 500, which receivers answer that are only starting.
        again: matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        pause,
    })
}

async fn of_grpc(response: reqwest::Response) -> Result<Taken, Refusal> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(Refusal::passing(format!(
            "it answered {status}, which is no answer of gRPC"
        )));
    }
    // An answer without a body carries its status in the headers.
    let mut metadata = response.headers().clone();
    let (body, trailers) = read(response).await.map_err(Refusal::passing)?;
    metadata.extend(trailers);
    let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").and_then(|code| code.parse().ok()) {
        Some(0) => Ok(rejected(body.get(5..).unwrap_or_default())),
        Some(code) => Err(Refusal {
            message: format!(
                "it answered gRPC status {code} {}",
                words(text("grpc-message").unwrap_or_default())
            ),
            again: GRPC_AGAIN.contains(&code),
            pause: None,
        }),
        None => Err(Refusal::lasting("it does not speak gRPC".into())),
    }
}

/// The body of an answer, as far as it is read, and its trailers.
async fn read(response: reqwest::Response) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut body = reqwest::Body::from(response);
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| reason(&e))?.into_data() {
            Ok(data) if bytes.len() + data.len() > LONGEST_ANSWER => {
                return Err("its answer is too long".into());
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(other) => trailers.extend(other.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes, trailers))
}

/// What an answer rejects. The answers of the three signals are the same on the wire.
fn rejected(body: &[u8]) -> Taken {
    ExportTraceServiceResponse::decode(body)
        .ok()
        .and_then(|answer| answer.partial_success)
        .map(|partial| Taken {
            rejected: u64::try_from(partial.rejected_spans).unwrap_or(0),
            reason: words(&partial.error_message),
        })
        .unwrap_or_default()
}

fn words(text: &str) -> String {
    text.chars().take(LONGEST_WORDS).collect()
}

fn gzip(message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(message)?;
    encoder.finish()
}

/// A message as gRPC sends it: whether it is compressed, its length, itself.
fn framed(compression: Compression, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(message.len() + 5);
    body.push(u8::from(compression != Compression::None));
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(message);
    body
}

/// What lies under an error of HTTP, without the URL, which may hold a password.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer in time".into();
    }
    let mut deepest: &dyn Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if deepest.is::<reqwest::Error>() {
        "it cannot be asked".into()
    } else {
        deepest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use opentelemetry_proto::tonic::collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    };

    use super::*;
    use crate::config::telemetry::Headers;

    #[test]
    fn one_decoder_reads_what_any_receiver_rejects() {
        let logs = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: 3,
                error_message: "no".into(),
            }),
        };
        let metrics = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 4,
                error_message: "no".into(),
            }),
        };
        let no = |rejected| Taken {
            rejected,
            reason: "no".into(),
        };
        assert_eq!(rejected(&logs.encode_to_vec()), no(3));
        assert_eq!(rejected(&metrics.encode_to_vec()), no(4));
        assert_eq!(rejected(b""), Taken::default());
        assert_eq!(rejected(b"<html>"), Taken::default());
    }

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_a_secret() {
        for (endpoint, expected) in [
            ("http://h:1/v1/traces", "http://h:1/v1/traces"),
            ("https://me:pass@h/a?api_key=k#f", "https://h/a"),
            ("http://h?api_key=k", "http://h/"),
        ] {
            assert_eq!(shown(&endpoint.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_compressed_message_says_so_and_is_the_same_again() {
        let message = b"span ".repeat(1_000);
        for (protocol, frame) in [(OtlpProtocol::HttpProtobuf, 0), (OtlpProtocol::Grpc, 5)] {
            let target = OtlpTarget {
                endpoint: "http://h:1".parse().unwrap(),
                protocol,
                headers: Headers::default(),
                timeout: None,
                compression: Compression::Gzip,
            };
            let client = Client::new(&target, "trace").unwrap();
            let body = client.body(message.clone()).unwrap();
            let (frame, compressed) = body.split_at(frame);
            assert!(compressed.len() < message.len() / 2, "{}", compressed.len());
            if let [flag, length @ ..] = frame {
                let length = u32::from_be_bytes(length.try_into().unwrap());
                assert_eq!((*flag, length as usize), (1, compressed.len()));
            }
            let mut inflated = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(compressed);
            decoder.read_to_end(&mut inflated).unwrap();
            assert_eq!(inflated, message);
        }
    }
}
