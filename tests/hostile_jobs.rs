//! Commands that mean harm, on a server: each ends with a typed error or its honest result, and the server neither grows nor keeps more of them than
//! it says. What the sandbox itself does stands in `sandbox_hostile.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::*;
use serde_json::{Value, json};

const LIVE: [(&str, &str); 2] = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local")];
const MEGABYTE: u64 = 1024 * 1024;
const FLOOD: u64 = 100_000_000;
/// What is kept of a command's output, and the line that says what is not.
const KEPT: u64 = MEGABYTE + 100;

/// A number that no other test on the machine uses, so that the processes that carry it are this one's.
fn unique(stage: &Stage) -> u64 {
    2 * u64::from(std::process::id()) + stage.backend() as u64
}

/// The attempts of a run's tasks: how each ended.
async fn attempts(stage: &Stage, run: &str) -> Vec<Value> {
    let sql = format!("SELECT err_code, exit FROM app.sbx_runs WHERE run_id = '{run}'");
    stage.sql(&sql).await
}

on_both_databases! {
    async fn neither_a_flood_nor_a_deaf_command_costs_the_server_more_than_it_says(stage: Stage) {
        let server = stage.serve_with(&LIVE).await;
        let warm = server.start_job(json!({"command": format!("head -c {MEGABYTE} /dev/zero")})).await;
        server.wait_status(&warm, "SUCCESS").await;
        let before = memory_of(server.pid().await, "VmHWM");
        let (printed, seconds) = (FLOOD + unique(&stage), format!("900.{}", unique(&stage)));

        let flood = server.start_job(json!({"command": format!("head -c {printed} /dev/zero")})).await;
        let deaf = format!("trap '' TERM HUP INT; while :; do sleep {seconds}; done");
        let deaf = server.start_job(json!({"command": deaf, "timeoutMs": 300})).await;

        server.wait_status(&flood, "SUCCESS").await;
        assert_eq!(attempts(&stage, &flood).await, [json!({"err_code": "NONE", "exit": 0})]);
        let header = server.wait_status(&deaf, "ERROR").await;
        assert_eq!(header["error"]["code"], "TIMEOUT", "{header}");
        assert_eq!(attempts(&stage, &deaf).await, [json!({"err_code": "TIMEOUT", "exit": null})]);

        let task = server.view(&flood).await["tasks"][0].clone();
        let kept = server.task_artifact(&task, "stdout").await;
        assert!(kept.ends_with(&format!("[cut here: {} more bytes]\n", printed - MEGABYTE)), "{} bytes are kept", kept.len());
        let streamed = stage.sql(&format!("SELECT count(*) AS n, sum(length(bytes)) AS bytes FROM app.run_stream_chunks WHERE run_id = '{flood}'")).await;
        assert!(streamed[0]["bytes"].as_u64().unwrap() <= KEPT + 1_000, "{streamed:?}");
        assert!(streamed[0]["n"].as_u64().unwrap() <= 100, "{streamed:?}");
        let grown = memory_of(server.pid().await, "VmHWM").saturating_sub(before);
        assert!(grown < 16 * MEGABYTE, "at most {} MB more in memory", grown / MEGABYTE);
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
        assert_eq!(living_processes(&format!("head -c {printed} ")), Vec::<String>::new());
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }
}
