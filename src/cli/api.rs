//! Owns the conversation with the API: that of a server, or that of this very process, which is called without a network in between. Either way it is
//! the same API, so that a command does the same in both.

use std::time::Duration;

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, Stream},
};
use poem::{
    Body, Endpoint, EndpointExt, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderMap, Method, StatusCode, Uri, header},
};
use serde_json::Value;
use tokio::time::timeout;

use super::CliError;
use crate::config::Token;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may say nothing, before an answer and within one: a stream shows a sign of life each 15 seconds, and a request that waits for the
/// database is answered within 20.
const SILENCE: Duration = Duration::from_secs(45);

/// Where the API is.
enum Transport {
    Server {
        base: String,
        token: Option<Token>,
        http: reqwest::Client,
        silence: Duration,
    },
    Here(BoxEndpoint<'static, Response>),
}

/// An answer whose body has not been read.
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: BoxStream<'static, Result<Vec<u8>, String>>,
}

/// The API, wherever it is.
pub(super) struct Api(Transport);

impl Api {
    /// The API of the server at `base`.
    pub(super) fn of_server(base: &str, token: Option<Token>) -> Result<Self, CliError> {
        Self::of_silent_server(base, token, SILENCE)
    }

    /// The same for a server that may be silent for so long.
    fn of_silent_server(
        base: &str,
        token: Option<Token>,
        silence: Duration,
    ) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .build()
            .map_err(|e| CliError::Failed(e.to_string()))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self(Transport::Server {
            base,
            token,
            http,
            silence,
        }))
    }

    /// The API of this process.
    pub(super) fn here(app: impl Endpoint<Output = Response> + 'static) -> Self {
        Self(Transport::Here(app.boxed()))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        document(self.call(Method::GET, path, None, &[]).await?).await
    }

    /// A page of a list, and where the next one begins.
    pub(super) async fn page(&self, path: &str) -> Result<(Value, Option<String>), CliError> {
        let answer = self.open(path, &[]).await?;
        let next = answer.headers.get("x-next-cursor");
        let next = next
            .and_then(|cursor| cursor.to_str().ok())
            .map(str::to_owned);
        Ok((document(answer).await?, next))
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        document(self.call(Method::POST, path, Some(body), &[]).await?).await
    }

    /// Posts without a body.
    pub(super) async fn tell(&self, path: &str) -> Result<Value, CliError> {
        document(self.call(Method::POST, path, None, &[]).await?).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        document(self.call(Method::DELETE, path, None, &[]).await?).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        document(self.call(Method::PUT, path, Some(body), &[]).await?).await
    }

    /// Asks with headers, and leaves the body to be read as it comes.
    pub(super) async fn open(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, CliError> {
        self.call(Method::GET, path, None, headers).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, CliError> {
        let (status, answer) = match &self.0 {
            Transport::Server {
                base,
                token,
                http,
                silence,
            } => {
                let mut request = http.request(method, format!("{base}{path}"));
                if let Some(token) = token {
                    request = request.bearer_auth(token.reveal());
                }
                if let Some(body) = body {
                    request = request.json(body);
                }
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let response = timeout(*silence, request.send())
                    .await
                    .map_err(|_| silent(base))?
                    .map_err(|e| unreachable(base, &e))?;
                let (status, headers) = (response.status(), response.headers().clone());
                let body = heard(response, base.clone(), *silence);
                (status, Answer { headers, body })
            }
            Transport::Here(app) => {
                let uri: Uri = path
                    .parse()
                    .map_err(|_| CliError::Failed(format!("{path:?} is no path")))?;
                let mut request = Request::builder()
                    .method(method)
                    .uri(uri)
                    .header(header::HOST, "localhost");
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let request = match body {
                    None => request.finish(),
                    Some(body) => request
                        .header(header::CONTENT_TYPE, "application/json")
                        .body(body.to_string()),
                };
                let response = app
                    .call(request)
                    .await
                    .map_err(|e| CliError::Failed(e.to_string()))?;
                let (parts, body) = response.into_parts();
                let headers = parts.headers;
                (
                    parts.status,
                    Answer {
                        headers,
                        body: pieces(body).boxed(),
                    },
                )
            }
        };
        if status.is_success() {
            Ok(answer)
        } else {
            Err(refused(status, answer).await)
        }
    }
}

fn pieces(body: Body) -> impl Stream<Item = Result<Vec<u8>, String>> + Send + 'static {
    body.into_bytes_stream()
        .map_ok(|bytes| bytes.to_vec())
        .map_err(|e| e.to_string())
}

/// All of a body; small, as documents are.
async fn whole(answer: Answer) -> Result<Vec<u8>, String> {
    answer.body.try_concat().await
}

async fn document(answer: Answer) -> Result<Value, CliError> {
    let bytes = whole(answer).await.map_err(CliError::Unavailable)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| CliError::Failed(format!("the answer is not JSON: {e}")))
}

async fn refused(status: StatusCode, answer: Answer) -> CliError {
    let bytes = whole(answer).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = body["error"]
        .as_str()
        .map_or_else(|| format!("the server answered {status}"), str::to_owned);
    CliError::Refused {
        status: status.as_u16(),
        message,
    }
}

/// The body of an answer as it comes. The server may be silent while somebody waits for more, not while nobody reads.
fn heard(
    response: reqwest::Response,
    base: String,
    silence: Duration,
) -> BoxStream<'static, Result<Vec<u8>, String>> {
    let pieces = Some(response.bytes_stream().boxed());
    stream::unfold(pieces, move |pieces| {
        let base = base.clone();
        async move {
            let mut pieces = pieces?;
            match timeout(silence, pieces.next()).await {
                Err(_) => Some((Err(silent(&base).to_string()), None)),
                Ok(piece) => {
                    let piece = piece?.map(|bytes| bytes.to_vec());
                    let piece = piece.map_err(|e| unreachable(&base, &e).to_string());
                    Some((piece, Some(pieces)))
                }
            }
        }
    })
    .boxed()
}

fn silent(base: &str) -> CliError {
    CliError::Unavailable(format!(
        "{base} has taken the request, and says nothing; whether it has done what was asked for is not known"
    ))
}

fn unreachable(base: &str, error: &reqwest::Error) -> CliError {
    CliError::Unavailable(if error.is_connect() {
        format!(
            "nothing answers at {base}; start a server with `stepwell serve`, or leave --server out to work on the database itself"
        )
    } else {
        format!("{base} did not answer: {error}")
    })
}

/// Text as a segment of a path or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// Where somebody takes requests, sends `answer` to each, and keeps the connection.
    async fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = [0; 1_024];
                let _ = connection.read(&mut request).await;
                connection.write_all(answer.as_bytes()).await.unwrap();
                kept.push(connection);
            }
        });
        base
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_is_given_up_and_named() {
        let begun =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{\"a\":";
        for answer in ["", begun] {
            let base = answering(answer).await;
            let api = Api::of_silent_server(&base, None, Duration::from_millis(100)).unwrap();
            for asked in [
                api.get("/api/runs").await,
                api.post("/api/intents", &json!({})).await,
            ] {
                let error = asked.unwrap_err();
                assert!(matches!(error, CliError::Unavailable(_)), "{error:?}");
                assert!(
                    error.to_string().contains(&base) && error.to_string().contains("says nothing"),
                    "{answer:?}: {error}"
                );
            }
        }
    }
}
