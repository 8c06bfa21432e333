//! Artifacts: one content is stored once, parts and unchanged ones are not sent again, and large ones pass without being in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::*;
use serde_json::{Value, json};

const MEGABYTE: u64 = 1024 * 1024;

/// The references of the files that a finished run has left.
async fn files(server: &Server, run: &str) -> Vec<Value> {
    let view = server.view(run).await;
    let refs = view["tasks"][0]["artifactRefs"].as_array().unwrap().clone();
    refs.into_iter()
        .filter(|artifact| artifact["kind"] == "file")
        .collect()
}

fn url(server: &Server, artifact: &Value) -> String {
    let id = artifact["id"].as_str().unwrap();
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("{}/api/artifacts/{encoded}", server.base())
}

on_both_databases! {
    async fn one_content_is_stored_once(stage: Stage) {
        let server = stage.serve().await;
        let command = "seq 1 100000 > a; cp a b; seq 1 100000";
        let first = server.start_job(json!({"command": command, "out": ["a", "b"]})).await;
        let second = server.start_job(json!({"command": "seq 1 100000 > c", "out": ["c"]})).await;
        server.wait_status(&first, "SUCCESS").await;
        server.wait_status(&second, "SUCCESS").await;

        let mut hashes: Vec<_> = files(&server, &first).await.iter().map(|file| file["sha256"].clone()).collect();
        hashes.extend(files(&server, &second).await.iter().map(|file| file["sha256"].clone()));
        assert_eq!(hashes.len(), 3);
        assert!(hashes.iter().all(|hash| *hash == hashes[0]));
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.blobs").await, 1, "two runs, three files and one output");
        let named = stage.sql_count("SELECT count(*) FROM app.artifacts WHERE storage_key LIKE 'blob:%'").await;
        assert_eq!(named, 4);
    }

    async fn a_part_is_sent_as_a_part_and_what_is_known_not_at_all(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "head -c 1300000 /dev/zero | tr '\\0' x > big; printf hello > small", "out": ["big", "small"]})).await;
        server.wait_status(&run, "SUCCESS").await;
        let files = files(&server, &run).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = |file: &Value, name: &'static str, value: String| client.get(url(&server, file)).header(name, value).send();

        let across_chunks = get(&files[0], "range", "bytes=524286-524290".into()).await.unwrap();
        assert_eq!(across_chunks.status(), 206);
        assert_eq!(across_chunks.headers()["content-range"], "bytes 524286-524290/1300000");
        assert_eq!(across_chunks.headers()["content-length"], "5");
        assert_eq!(across_chunks.text().await.unwrap(), "xxxxx");
        let end = get(&files[1], "range", "bytes=-3".into()).await.unwrap();
        assert_eq!((end.status().as_u16(), end.text().await.unwrap()), (206, "llo".to_owned()));
        let behind = get(&files[1], "range", "bytes=5-".into()).await.unwrap();
        assert_eq!(behind.status(), 416);
        assert_eq!(behind.json::<Value>().await.unwrap()["code"], "range_not_satisfiable");

        let etag = format!("\"{}\"", files[0]["sha256"].as_str().unwrap());
        let known = get(&files[0], "if-none-match", etag.clone()).await.unwrap();
        assert_eq!(known.status(), 304);
        assert_eq!(known.headers()["etag"], etag.as_str());
        assert!(known.bytes().await.unwrap().is_empty());
        let whole = get(&files[0], "if-none-match", "\"other\"".into()).await.unwrap();
        assert_eq!(whole.status(), 200);
        assert_eq!(whole.bytes().await.unwrap().len(), 1_300_000);
    }

    async fn a_large_file_passes_without_being_in_memory(stage: Stage) {
        let megabytes = if long_tests_are_wanted() { 1_024 } else { 96 };
        let server = stage.serve().await;
        let warm = server.start_job(json!({"command": "head -c 5000000 /dev/urandom > warm", "out": ["warm"]})).await;
        server.wait_status(&warm, "SUCCESS").await;
        let before = memory_of(server.pid().await, "VmHWM");

        let make = server.start_job(json!({"command": format!("yes | head -c {megabytes}M > large"), "out": ["large"], "timeoutMs": 600000})).await;
        server.wait_status(&make, "SUCCESS").await;
        let large = files(&server, &make).await[0].clone();
        assert_eq!(large["size"].as_u64().unwrap(), megabytes * MEGABYTE);
        let take = json!({"command": "wc -c < taken", "files": [{"path": "taken", "uri": large["id"]}], "timeoutMs": 600000});
        let take = server.start_job(take).await;
        server.wait_status(&take, "SUCCESS").await;
        let view = server.view(&take).await;
        assert_eq!(server.task_artifact(&view["tasks"][0], "stdout").await.trim(), (megabytes * MEGABYTE).to_string());

        let mut answer = reqwest::get(url(&server, &large)).await.unwrap();
        let mut size = 0;
        while let Some(bytes) = answer.chunk().await.unwrap() {
            size += bytes.len() as u64;
        }
        assert_eq!(size, megabytes * MEGABYTE);
        let grown = memory_of(server.pid().await, "VmHWM").saturating_sub(before);
        assert!(grown < 40 * MEGABYTE, "at most {} MB more in memory", grown / MEGABYTE);
    }

    async fn an_artifact_that_is_not_there_is_no_input(stage: Stage) {
        let server = stage.serve().await;
        let inputs = json!({"command": "true", "files": [{"path": "x", "uri": "artifact://run/nobody/step/s/task/-/x"}]});
        let intent = server.create_intent("missing", inputs).await;
        let before = stage.row_counts().await;
        let request = json!({"intentId": intent, "recipeName": "shell-default", "queuePartitionKey": "t"});
        let refusal = server.post("/api/runs", &request).await.expect_refusal(400);
        assert_eq!(refusal["code"], "inputs_invalid");
        assert_eq!(stage.row_counts().await, before);
    }

    async fn an_intent_under_an_id_of_its_own_is_stored_once(stage: Stage) {
        let server = stage.serve().await;
        let intent = json!({"intentId": "nightly-1", "goal": "g", "inputs": {"b": 1, "a": 2}, "constraints": {}});
        assert_eq!(server.post("/api/intents", &intent).await.expect(201), json!({"intentId": "nightly-1"}));
        let before = stage.row_counts().await;
        let same = json!({"goal": "g", "constraints": {}, "inputs": {"a": 2, "b": 1}, "intentId": "nightly-1"});
        server.post("/api/intents", &same).await.expect(201);
        let other = json!({"intentId": "nightly-1", "goal": "h", "inputs": {}, "constraints": {}});
        assert_eq!(server.post("/api/intents", &other).await.expect_refusal(409)["code"], "intent_drift");
        for id in ["", "a/b", " x", "-x"] {
            let bad = json!({"intentId": id, "goal": "g", "inputs": {}, "constraints": {}});
            server.post("/api/intents", &bad).await.expect_refusal(400);
        }
        assert_eq!(stage.row_counts().await, before);
    }
}
