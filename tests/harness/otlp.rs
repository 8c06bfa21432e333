//! A receiver of OTLP for tests: decodes the official protobufs, over HTTP and over gRPC, and misbehaves on demand.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

/// Everything that arrived.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) spans: Vec<Span>,
    pub(crate) logs: Vec<LogRecord>,
    pub(crate) metrics: Vec<Metric>,
    /// Attributes of the resources, `name=value`.
    pub(crate) resources: Vec<String>,
    /// `path name: value` of every request's headers.
    pub(crate) headers: Vec<String>,
    /// The messages, one after the other.
    pub(crate) raw: Vec<u8>,
    pub(crate) requests: usize,
    /// Requests that were compressed.
    pub(crate) compressed: usize,
}

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Takes it.
    Takes,
    /// Answers with this status of HTTP.
    Answers(u16),
    /// Never answers.
    Hangs,
    /// Takes it, and says that it rejected one of its items.
    RejectsOne,
}

/// A listening receiver; it ends with the runtime.
#[derive(Clone)]
pub(crate) struct Receiver {
    port: u16,
    received: Arc<Mutex<Received>>,
    manners: Arc<Mutex<Manners>>,
}

impl Receiver {
    /// One that speaks HTTP/1.1.
    pub(crate) async fn http(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::listen(listener, manners, false)
    }

    /// One that speaks gRPC.
    pub(crate) async fn grpc(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::listen(listener, manners, true)
    }

    pub(crate) fn listen(listener: TcpListener, manners: Manners, grpc: bool) -> Self {
        let receiver = Self {
            port: listener.local_addr().expect("it listens").port(),
            received: Arc::default(),
            manners: Arc::new(Mutex::new(manners)),
        };
        let of_task = receiver.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let receiver = of_task.clone();
                tokio::spawn(async move {
                    if grpc {
                        receiver.serve_grpc(connection).await;
                    } else {
                        receiver.serve_http(connection).await;
                    }
                });
            }
        });
        receiver
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.manners.lock().expect("no panic holds it") = manners;
    }

    pub(crate) fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().expect("no panic holds it")
    }

    fn manners(&self) -> Manners {
        *self.manners.lock().expect("no panic holds it")
    }

    /// HTTP/1.1 as far as an exporter needs it: requests with a content length, one after the other.
    async fn serve_http(&self, mut connection: TcpStream) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                match connection.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let headers: Vec<String> = head.lines().skip(1).map(str::to_owned).collect();
            let length = headers.iter().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length
                    .then(|| value.trim().parse::<usize>().ok())
                    .flatten()
            });
            let length = length.unwrap_or(0);
            while buffer.len() < end + length {
                match connection.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
            let compressed = says_gzip(&headers, "content-encoding");
            let body = buffer[end..end + length].to_vec();
            buffer.drain(..end + length);
            let (status, answer) = match self.manners() {
                Manners::Hangs => std::future::pending().await,
                Manners::Answers(status) => (status, Vec::new()),
                Manners::Takes if !self.take(&path, &headers, &body, compressed) => {
                    (400, Vec::new())
                }
                Manners::Takes => (200, Vec::new()),
                Manners::RejectsOne => {
                    self.take(&path, &headers, &body, compressed);
                    // partial_success { rejected: 1, error_message: "no" }
                    (200, vec![0x0a, 0x06, 0x08, 0x01, 0x12, 0x02, b'n', b'o'])
                }
            };
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\n\r\n"
            );
            let mut response = head.into_bytes();
            response.extend(answer);
            if connection.write_all(&response).await.is_err() {
                return;
            }
        }
    }

    async fn serve_grpc(&self, connection: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(connection).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let receiver = self.clone();
            tokio::spawn(async move { receiver.answer_grpc(request, respond).await });
        }
    }

    async fn answer_grpc(
        &self,
        request: poem::http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<prost::bytes::Bytes>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut frame = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            frame.extend_from_slice(&data);
        }
        let path = match head.uri.path() {
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => "/v1/traces",
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => "/v1/logs",
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => "/v1/metrics",
            other => panic!("no method of OTLP: {other}"),
        };
        let headers: Vec<String> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
            .collect();
        let status = match self.manners() {
            Manners::Hangs => std::future::pending().await,
            Manners::Takes | Manners::RejectsOne => {
                // Each message says for itself whether it is compressed; how, the headers say.
                let compressed = frame.first() == Some(&1) && says_gzip(&headers, "grpc-encoding");
                let message = frame.get(5..).unwrap_or_default();
                let taken = self.take(path, &headers, message, compressed);
                if taken { "0" } else { "3" }
            }
            Manners::Answers(_) => "14",
        };
        let response = poem::http::Response::builder().header("content-type", "application/grpc");
        let response = response.body(()).expect("a response");
        let mut stream = respond
            .send_response(response, false)
            .expect("the stream is open");
        let _ = stream.send_data(vec![0, 0, 0, 0, 0].into(), false);
        let mut trailers = poem::http::HeaderMap::new();
        trailers.insert("grpc-status", status.parse().expect("a header"));
        let _ = stream.send_trailers(trailers);
    }

    /// Decodes and keeps a request; false when it is none.
    fn take(&self, path: &str, headers: &[String], body: &[u8], compressed: bool) -> bool {
        let mut received = self.received();
        received.requests += 1;
        let mut inflated = Vec::new();
        let body = if compressed {
            let mut decoder = flate2::read::GzDecoder::new(body);
            if decoder.read_to_end(&mut inflated).is_err() {
                return false;
            }
            received.compressed += 1;
            &inflated
        } else {
            body
        };
        received.raw.extend_from_slice(body);
        let headers = headers.iter().filter(|line| !line.is_empty());
        let headers: Vec<String> = headers.map(|line| format!("{path} {line}")).collect();
        received.headers.extend(headers);
        let mut resources = Vec::new();
        match path {
            "/v1/traces" => {
                let Ok(request) = ExportTraceServiceRequest::decode(body) else {
                    return false;
                };
                for of_resource in request.resource_spans {
                    resources.extend(of_resource.resource);
                    let spans = of_resource
                        .scope_spans
                        .into_iter()
                        .flat_map(|scope| scope.spans);
                    received.spans.extend(spans);
                }
            }
            "/v1/logs" => {
                let Ok(request) = ExportLogsServiceRequest::decode(body) else {
                    return false;
                };
                for of_resource in request.resource_logs {
                    resources.extend(of_resource.resource);
                    let logs = of_resource
                        .scope_logs
                        .into_iter()
                        .flat_map(|scope| scope.log_records);
                    received.logs.extend(logs);
                }
            }
            "/v1/metrics" => {
                let Ok(request) = ExportMetricsServiceRequest::decode(body) else {
                    return false;
                };
                for of_resource in request.resource_metrics {
                    resources.extend(of_resource.resource);
                    let metrics = of_resource
                        .scope_metrics
                        .into_iter()
                        .flat_map(|scope| scope.metrics);
                    received.metrics.extend(metrics);
                }
            }
            _ => return false,
        }
        let attributes = resources.iter().flat_map(|resource| &resource.attributes);
        let attributes: Vec<String> = attributes
            .map(|pair| format!("{}={}", pair.key, text_of(pair)))
            .collect();
        received.resources.extend(attributes);
        true
    }
}

fn says_gzip(headers: &[String], name: &str) -> bool {
    let wanted = format!("{name}: gzip");
    headers
        .iter()
        .any(|line| line.eq_ignore_ascii_case(&wanted))
}

/// The value of an attribute as text.
pub(crate) fn text_of(pair: &KeyValue) -> String {
    match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    }
}

/// The attribute of this name, empty when there is none.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> String {
    attributes
        .iter()
        .find(|pair| pair.key == name)
        .map(text_of)
        .unwrap_or_default()
}

/// Bytes as hexadecimal digits, as the rows write ids.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
