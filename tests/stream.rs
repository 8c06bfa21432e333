//! The live stream of a run: every chunk once and in order, over any number of connections and servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use futures_util::StreamExt;
use harness::*;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);

/// A connection to the stream of a run, read event by event.
struct Connection {
    body: futures_util::stream::BoxStream<'static, Option<Vec<u8>>>,
    text: String,
}

#[derive(Debug, Clone)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Connection {
    async fn open(server: &Server, run: &str, last: Option<&str>) -> Option<Self> {
        let url = format!("{}/api/runs/{run}/stream", server.base());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.ok()?;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response
            .bytes_stream()
            .map(|piece| piece.ok().map(|bytes| bytes.to_vec()))
            .boxed();
        Some(Self {
            body,
            text: String::new(),
        })
    }

    /// The next event; none when the connection has ended or broken.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let event = parse(block);
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let piece = self.body.next().await??;
            self.text.push_str(&String::from_utf8(piece).unwrap());
        }
    }
}

/// None for a comment.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let prefix = format!("{name}: ");
        block.lines().find_map(|line| line.strip_prefix(&prefix))
    };
    Some(Event {
        id: field("id")?.to_owned(),
        name: field("event").unwrap().to_owned(),
        data: serde_json::from_str(field("data").unwrap()).unwrap(),
    })
}

/// Reads to the end of the stream; `cut` says after which numbers of events the connection is dropped.
async fn read_to_the_end(server: &Server, run: &str, cuts: &[usize]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let last = events.last().map(|event| event.id.clone());
        let Some(mut connection) = Connection::open(server, run, last.as_deref()).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while let Some(event) = connection.next().await {
            let closed = event.name == "stream_closed";
            events.push(event);
            if closed {
                return events;
            }
            if cuts.contains(&events.len()) {
                break;
            }
        }
    }
}

fn seqs(events: &[Event]) -> Vec<i64> {
    events
        .iter()
        .filter_map(|event| event.data["seq"].as_i64())
        .collect()
}

/// What the last execution of the only task has printed.
fn printed(events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        match event.name.as_str() {
            "task" if event.data["state"] == "began" => text.clear(),
            "stdout" => text.push_str(event.data["text"].as_str().unwrap()),
            _ => {}
        }
    }
    text
}

on_both_databases! {
    async fn every_chunk_arrives_once_and_in_order_over_five_cuts_and_a_kill(stage: Stage) {
        let server = stage.serve_with(&[("EXECUTOR_EXPIRY_MS", "1000")]).await;
        let command = "for i in $(seq 1 40); do echo line $i é; sleep 0.05; done";
        let run = server.start_job(json!({"command": command})).await;

        let reader = {
            let (server, run) = (server.clone(), run.clone());
            tokio::spawn(async move { read_to_the_end(&server, &run, &[2, 4, 7, 9, 12]).await })
        };
        eventually(DEADLINE, "some output is stored", || async {
            let chunks = stage.sql_count("SELECT count(*) FROM app.run_stream_chunks WHERE kind = 'stdout'").await;
            if chunks >= 3 { Ok(()) } else { Err(chunks) }
        })
        .await;
        server.kill_9().await;
        server.start_again().await;

        let events = tokio::time::timeout(DEADLINE, reader).await.expect("the stream ends").unwrap();
        let stored = stage.sql_count("SELECT count(*) FROM app.run_stream_chunks").await;
        assert_eq!(seqs(&events), (1..=stored).collect::<Vec<_>>(), "each once, in order");
        let expected: String = (1..=40).map(|n| format!("line {n} é\n")).collect();
        assert_eq!(printed(&events), expected);
        assert!(events.iter().filter(|event| event.data["state"] == "began").count() >= 2, "it was executed again");
        let steps: Vec<_> = events.iter().filter(|event| event.name == "step").map(|event| event.data["stepID"].clone()).collect();
        assert_eq!(steps, ["CompileST", "ApplyPatchST", "DecideST", "ExecuteST"]);
        let last = events.last().unwrap();
        assert_eq!((last.name.as_str(), &last.data["status"]), ("stream_closed", &json!("SUCCESS")));
    }

    async fn a_reader_who_does_not_read_slows_nobody(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "sleep 1; seq 1 120000"})).await;
        let mut idle = Connection::open(&server, &run, None).await.unwrap();

        server.wait_status(&run, "SUCCESS").await;

        let mut events = Vec::new();
        while let Some(event) = idle.next().await {
            events.push(event);
        }
        let expected: String = (1..=120_000).map(|n| format!("{n}\n")).collect();
        assert!(printed(&events) == expected, "all of it, and nothing twice");
    }

    async fn the_gate_is_told_and_what_comes_after(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        let mut connection = Connection::open(&server, &run, None).await.unwrap();
        loop {
            let event = connection.next().await.expect("the stream goes on");
            if event.data["nextAction"] == "APPROVE_PLAN" {
                break;
            }
        }
        server.approve(&run).await;
        let mut last = None;
        while let Some(event) = connection.next().await {
            last = Some(event);
        }
        assert_eq!(last.unwrap().data, json!({"status": "SUCCESS"}));
    }

    async fn bytes_that_are_no_text_arrive_as_they_are(stage: Stage) {
        use base64::Engine;
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "printf 'a\\377b'"})).await;
        let events = read_to_the_end(&server, &run, &[]).await;
        let encoded: Vec<_> = events.iter().filter_map(|event| event.data["base64"].as_str()).collect();
        let bytes: Vec<u8> = encoded.iter().flat_map(|text| base64::engine::general_purpose::STANDARD.decode(text).unwrap()).collect();
        assert_eq!(bytes, b"a\xffb");
    }

    async fn a_stream_of_nobody_or_from_nowhere_is_refused(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.get("/api/runs/nobody/stream").await.expect_refusal(404);
        server.get(&format!("/api/runs/{run}/stream?follow=maybe")).await.expect_refusal(400);
        let url = format!("{}/api/runs/{run}/stream", server.base());
        let answer = reqwest::Client::new().get(url).header("last-event-id", "nowhere").send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "invalid_last_event_id");
    }

    async fn without_follow_the_stream_ends_where_the_run_stands(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        let answer = server.get(&format!("/api/runs/{run}/stream?follow=false")).await;
        assert_eq!(answer.status, 200, "{answer}");
        let text = answer.text();
        assert!(text.contains("APPROVE_PLAN") && !text.contains("stream_closed"), "{text}");
    }
}
