//! Clients that send half of something, or nothing, or do not read: they are dropped in time, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::*;
use serde_json::json;

/// Connections that the server has room for, and what it needs beside them: database, listeners, logs.
const CONNECTIONS: usize = 1_024;
const OTHER_DESCRIPTORS: usize = 100;

/// What the slow ones get to hear before the end; where the server drops them without a word, nothing.
async fn dropped(mut wire: Wire, words: &str) -> Duration {
    let begun = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(60), wire.ended()).await;
    ended.expect("the server ends the connection");
    let heard = wire.arrived();
    assert!(
        if words.is_empty() {
            heard.is_empty()
        } else {
            heard.contains(words)
        },
        "heard {heard:?} instead of {words:?}"
    );
    begun.elapsed()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

on_both_databases! {
    async fn half_a_request_is_dropped_and_nobody_else_waits(stage: Stage) {
        let server = stage.serve().await;
        let host = server.base().trim_start_matches("http://").to_owned();
        let post = format!("POST /api/intents HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"goal\":");
        let before = stage.row_counts().await;

        let mut slow = tokio::task::JoinSet::new();
        for (half, words) in [
            ("", ""),
            ("GET /hea", ""),
            ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-a: b\r\n", ""),
            (post.as_str(), "\"code\":\"slow_body\""),
        ] {
            let mut wire = server.wire().await;
            wire.send(half.as_bytes()).await;
            slow.spawn(dropped(wire, words));
        }
        // One that sends a header a second would never be silent for long.
        let mut drip = server.wire().await;
        slow.spawn(async move {
            let begun = Instant::now();
            drip.send(b"GET /healthz HTTP/1.1\r\n").await;
            while tokio::time::timeout(Duration::from_secs(1), drip.ended()).await.is_err() {
                drip.send(b"x-a: b\r\n").await;
                assert!(begun.elapsed() < Duration::from_secs(60), "it is still connected");
            }
            begun.elapsed()
        });
        let mut served = 0;
        let mut waited = Vec::new();
        while !slow.is_empty() {
            assert_eq!(server.get("/healthz").await.status, 200);
            assert_eq!(server.get("/api/runs").await.status, 200);
            served += 1;
            while let Some(ended) = slow.try_join_next() {
                waited.push(ended.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        assert!(served > 10, "others were served all the while: {served}");
        for time in waited {
            assert!(time > Duration::from_secs(8) && time < Duration::from_secs(30), "dropped after {time:?}");
        }
        assert_eq!(stage.row_counts().await, before);
    }

    async fn two_thousand_silent_connections_keep_nobody_out(stage: Stage) {
        let server = stage.serve().await;
        let pid = server.pid().await;
        let idle = descriptors(pid);

        let mut silent = Vec::new();
        for number in 0..2_000 {
            let mut wire = server.wire().await;
            if number % 2 == 0 {
                wire.send(b"POST /api/intents HTTP/1.1\r\n").await;
            }
            silent.push(wire);
            if number % 500 == 499 {
                // A newcomer finds a place: the oldest of the silent lose theirs.
                let fresh = server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                assert_eq!(fresh.status, 200, "{fresh}");
                server.create_intent("in the crowd", json!({})).await;
            }
            if number % 100 == 0 {
                let open = descriptors(pid);
                assert!(open <= CONNECTIONS + OTHER_DESCRIPTORS, "{open} descriptors");
            }
        }
        let open = descriptors(pid);
        assert!(open <= CONNECTIONS + OTHER_DESCRIPTORS, "{open} descriptors");
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        drop(silent);

        eventually(Duration::from_secs(30), "the server lets go of them", || async {
            let open = descriptors(pid);
            if open <= idle + 20 { Ok(()) } else { Err(open) }
        })
        .await;
    }

    async fn a_stop_does_not_wait_for_the_slow(stage: Stage) {
        let server = stage.serve().await;
        let mut slow = Vec::new();
        for half in ["", "GET /healthz HT", "POST /api/intents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"] {
            let mut wire = server.wire().await;
            wire.send(half.as_bytes()).await;
            slow.push(wire);
        }
        let mut kept = server.wire().await;
        kept.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(kept.answer("GET").await.status, 200);

        let begun = Instant::now();
        let ended = server.terminate().await;

        assert!(ended.success(), "{ended}");
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    }

    async fn who_rests_or_does_not_read_is_dropped_in_the_end(stage: Stage) {
        if !long_tests_are_wanted() {
            return;
        }
        let server = stage.serve().await;
        let host = server.base().trim_start_matches("http://").to_owned();
        let large = server.create_intent(&"x".repeat(20_000), json!({"a": "y".repeat(1_000_000)})).await;

        let mut resting = server.wire().await;
        resting.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(resting.answer("GET").await.status, 200);
        let begun = Instant::now();
        let mut unread = server.wire().await;
        unread.send(format!("GET /api/intents/{large} HTTP/1.1\r\nHost: {host}\r\n\r\n").repeat(190).as_bytes()).await;

        let pid = server.pid().await;
        let open = descriptors(pid);
        let closed = |many: usize| async move {
            let now = descriptors(pid);
            if now + many <= open { Ok(()) } else { Err(now) }
        };
        eventually(Duration::from_secs(60), "who does not read is dropped", || closed(1)).await;
        assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
        tokio::time::timeout(Duration::from_secs(100), resting.ended()).await.expect("who rests is dropped");
        assert!(begun.elapsed() > Duration::from_secs(60), "{:?}", begun.elapsed());
        drop((resting, unread));
    }
}
