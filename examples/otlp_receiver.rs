//! A receiver of OTLP over HTTP that prints what arrives, one JSON document a line: `cargo run --example otlp_receiver -- 4318`, or, as the second
//! argument says, one that `hangs`, or answers with a status such as `500`. It is the one that the tests use; it keeps everything in memory.
#![allow(clippy::print_stdout, clippy::expect_used, dead_code)]

#[path = "../tests/harness/otlp.rs"]
mod otlp;

use std::time::Duration;

use otlp::{Manners, Receiver, attribute, hex};
use serde_json::json;

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).unwrap_or_else(|| "4318".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .expect("the port is free");
    let manners = match std::env::args().nth(2).as_deref() {
        None | Some("takes") => Manners::Takes,
        Some("hangs") => Manners::Hangs,
        Some(status) => Manners::Answers(status.parse().expect("takes, hangs or a status")),
    };
    let receiver = Receiver::listen(listener, manners, false);
    println!("{}", json!({"listening": receiver.base()}));
    loop {
        let taken = std::mem::take(&mut *receiver.received());
        for span in &taken.spans {
            println!(
                "{}",
                json!({
                    "span": span.name, "traceId": hex(&span.trace_id), "spanId": hex(&span.span_id), "parentSpanId": hex(&span.parent_span_id),
                    "run": attribute(&span.attributes, "stepwell.run.id"),
                })
            );
        }
        for log in &taken.logs {
            let body = log.body.as_ref().map(|body| format!("{:?}", body.value));
            println!(
                "{}",
                json!({"log": body, "traceId": hex(&log.trace_id), "severity": log.severity_text})
            );
        }
        for metric in &taken.metrics {
            println!("{}", json!({"metric": metric.name}));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
