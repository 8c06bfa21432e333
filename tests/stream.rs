//! The live stream of a run: every chunk once and in order, over any number of connections and servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use harness::*;
use sea_orm::sqlx::{self, Connection as _};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpSocket};
use tokio_util::io::ReaderStream;

const DEADLINE: Duration = Duration::from_secs(120);
const MEGABYTE: usize = 1024 * 1024;
/// What a reader who does not read has asked the kernel to hold.
const IDLE_BYTES: usize = 64 * 1024;

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

    /// A connection of which nothing is read before somebody asks for an event, and for which the kernel holds little until then.
    async fn open_idle(server: &Server, run: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .set_recv_buffer_size(u32::try_from(IDLE_BYTES).unwrap())
            .unwrap();
        let address = server.base().trim_start_matches("http://").parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        // In the old version the body comes as it is, and ends with the connection.
        let request = format!("GET /api/runs/{run}/stream HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let body = ReaderStream::new(stream)
            .map(|piece| piece.ok().map(|bytes| bytes.to_vec()))
            .boxed();
        Self {
            body,
            text: String::new(),
        }
    }

    /// The next event; none when the connection has ended or broken.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = parse(&self.next_block().await?) {
                return Some(event);
            }
        }
    }

    /// The next event or comment, as it was written.
    async fn next_block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
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

/// What the last execution of each task has printed, by task.
fn printed_by_task(events: &[Event]) -> BTreeMap<String, String> {
    let mut printed: BTreeMap<String, String> = BTreeMap::new();
    for event in events {
        let Some(task) = event.data["taskKey"].as_str() else {
            continue;
        };
        let text = printed.entry(task.to_owned()).or_default();
        match event.name.as_str() {
            "task" if event.data["state"] == "began" => text.clear(),
            "stdout" => text.push_str(event.data["text"].as_str().unwrap()),
            _ => {}
        }
    }
    printed
}

/// What the last execution of the only task has printed.
fn printed(events: &[Event]) -> String {
    let mut tasks = printed_by_task(events).into_values();
    let only = tasks.next().unwrap_or_default();
    assert_eq!(tasks.next(), None, "there is one task");
    only
}

/// What the kernel holds at most for a connection to this machine that receives no more than `received`.
fn socket_buffers(received: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    let sent = limits.split_whitespace().nth(2).unwrap();
    // The kernel doubles what it is asked for.
    2 * received + sent.parse::<usize>().unwrap()
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
        // A task keeps a megabyte of its output: so many that a server that waited for its reader would wait for ever.
        let tasks = socket_buffers(IDLE_BYTES) / MEGABYTE + 2;
        let names: Vec<String> = (0..tasks).map(|n| n.to_string()).collect();
        let server = stage.serve().await;
        let command = format!("head -c {MEGABYTE} /dev/zero | tr '\\0' x; :");
        let run = server.create_intent("much output", json!({"command": command, "tests": names})).await;
        let mut request = Server::start_request(&run, "shell-default");
        request["workload"]["steps"] = tasks.into();
        server.post("/api/runs", &request).await.expect(202);
        let mut idle = Connection::open_idle(&server, &run).await;

        server.wait_status(&run, "SUCCESS").await;
        let stored = stage.sql_count("SELECT sum(length(bytes)) AS n FROM app.run_stream_chunks WHERE kind = 'stdout'").await;
        assert_eq!(usize::try_from(stored).unwrap(), tasks * MEGABYTE, "more than is on its way to somebody who has read nothing yet");

        let mut events = Vec::new();
        while let Some(event) = idle.next().await {
            events.push(event);
        }
        let printed = printed_by_task(&events);
        assert_eq!(printed.len(), tasks);
        let x = "x".repeat(MEGABYTE);
        assert!(printed.values().all(|text| *text == x), "all of it, and nothing twice");
        assert_eq!(events.last().unwrap().data, json!({"status": "SUCCESS"}));
    }

    async fn a_stream_on_which_nothing_happens_says_that_it_lives(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        let mut connection = Connection::open(&server, &run, None).await.unwrap();
        let opened = Instant::now();
        let comment = tokio::time::timeout(DEADLINE, async {
            loop {
                let block = connection.next_block().await.expect("the stream goes on");
                if block.starts_with(':') {
                    break block;
                }
            }
        })
        .await
        .expect("it says that it lives");
        let waited = opened.elapsed();
        assert!(comment.lines().all(|line| line.starts_with(':')), "{comment}");
        // Proxies let go of what is silent for half a minute.
        assert!((Duration::from_secs(10)..Duration::from_secs(30)).contains(&waited), "{waited:?}");

        server.approve(&run).await;
        let next = connection.next().await.expect("the stream goes on");
        assert_ne!(next.name, "stream_closed", "and is read on from where it stood");
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

    async fn a_command_prints_on_while_nothing_can_be_stored(stage: Stage) {
        let server = stage.serve().await;
        let file = |name: &str| stage.dir().join(name);
        let [started, locked, printed] = ["started", "locked", "printed"].map(file);
        let command = format!(
            "touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done; head -c 1000000 /dev/zero | tr '\\0' x; touch '{}'",
            started.display(),
            locked.display(),
            printed.display()
        );
        let run = server.start_job(json!({"command": command, "timeoutMs": 60_000})).await;
        let there = async |what: &'static str, file: &std::path::Path| {
            eventually(DEADLINE / 4, what, || async { if file.exists() { Ok(()) } else { Err("not yet") } }).await;
        };
        there("the command runs", &started).await;
        let url = stage.database_url();
        let mut sqlite = None;
        let mut postgres = None;
        match stage.backend() {
            Backend::Sqlite => {
                let lock = sqlite.insert(sqlx::SqliteConnection::connect(url).await.unwrap());
                sqlx::raw_sql("PRAGMA busy_timeout = 30000; BEGIN IMMEDIATE").execute(lock).await.unwrap();
            }
            Backend::Postgres => {
                let lock = postgres.insert(sqlx::PgConnection::connect(url).await.unwrap());
                sqlx::raw_sql("BEGIN; LOCK TABLE app.run_stream_chunks IN EXCLUSIVE MODE").execute(lock).await.unwrap();
            }
        }
        std::fs::write(&locked, "").unwrap();
        there("the command has printed everything", &printed).await;
        drop((sqlite, postgres));
        server.wait_status(&run, "SUCCESS").await;
        let streamed = "SELECT CAST(sum(length(bytes)) AS bigint) FROM app.run_stream_chunks WHERE kind = 'stdout'";
        assert_eq!(stage.sql_count(streamed).await, 1_000_000);
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
