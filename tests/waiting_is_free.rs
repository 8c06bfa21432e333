//! Ten thousand runs at their gate: they cost rows, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::*;
use serde_json::json;

const RUNS: usize = 10_000;
/// Runs that warm up the server's pools and caches before its memory is read.
const WARM_UP: usize = 1_000;
/// Requests under way at the same time.
const LANES: usize = 32;
const DEADLINE: Duration = Duration::from_secs(240);
const MEGABYTE: u64 = 1024 * 1024;
/// How long the idle database is watched: a whole minute, because the sweep of every fifteen seconds asks more than the others.
const WATCHED: Duration = Duration::from_secs(60);
/// Statements that an idle minute may ask while something is suspended.
const STATEMENTS_PER_MINUTE: i64 = 120;

/// Starts `count` runs of intents that are put straight into their table: not their creation is measured here.
async fn start_runs(server: &Server, prefix: &str, count: usize) -> Vec<String> {
    let intents = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO app.intents \
         (id, goal, inputs, constraints, created_at) SELECT '{prefix}_' || i, 'wait', '{{}}', '{{}}', 1 FROM n",
        count - 1
    );
    assert_eq!(server.stage().sql_execute(&intents).await, count as u64);
    let lanes = (0..LANES).map(|lane| {
        let (server, prefix) = (server.clone(), prefix.to_owned());
        tokio::spawn(async move {
            let mut runs = Vec::new();
            for n in (lane..count).step_by(LANES) {
                runs.push(
                    server
                        .start_run(&format!("{prefix}_{n}"), "sandbox-default")
                        .await,
                );
            }
            runs
        })
    });
    let mut runs = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        runs.extend(lane.await.unwrap());
    }
    runs
}

async fn until_waiting(stage: &Stage, count: usize) {
    eventually(
        DEADLINE,
        &format!("{count} runs are at their gate"),
        || async {
            let waiting = stage
                .sql_count("SELECT count(*) FROM app.runs WHERE status = 'waiting_input'")
                .await;
            let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
            if waiting == count as i64 && claims == 0 {
                Ok(())
            } else {
                Err(format!("{waiting} wait, {claims} claims"))
            }
        },
    )
    .await;
}

on_both_databases! {
    async fn ten_thousand_waiting_runs_cost_rows_and_nothing_else(stage: Stage) {
        let server = stage.serve_with(&[("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "100000")]).await;
        start_runs(&server, "warm", WARM_UP).await;
        until_waiting(&stage, WARM_UP).await;
        // A tick is work, not waiting: it costs as much as ten idle seconds.
        stage.pause_ticks().await;
        let before = memory_of(server.pid().await, "VmRSS");

        let runs = start_runs(&server, "run", RUNS).await;
        until_waiting(&stage, WARM_UP + RUNS).await;

        let grown = memory_of(server.pid().await, "VmRSS").saturating_sub(before);
        assert!(grown < 20 * MEGABYTE, "resident memory grew by {} MB", grown / MEGABYTE);
        let waits = stage.sql_count("SELECT count(*) FROM app.waits").await;
        assert_eq!(waits, (WARM_UP + RUNS) as i64);

        if stage.backend() == Backend::Postgres {
            let active = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()";
            // A heartbeat may be under way at any instant; a held connection would be so at every one.
            eventually(Duration::from_secs(20), "no connection is held", || async {
                let held = stage.sql_count(active).await;
                if held == 0 { Ok(()) } else { Err(held) }
            })
            .await;
            stage.sql_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
            let first = stage.statements().await;
            // The one thing here that is a span of time, and not a condition.
            tokio::time::sleep(WATCHED).await;
            let asked = stage.statements().await - first;
            let per_minute = asked * 60 / i64::try_from(WATCHED.as_secs()).unwrap();
            assert!(per_minute < STATEMENTS_PER_MINUTE, "{per_minute} statements in an idle minute");
        }

        for run in &runs[..100] {
            server.approve(run).await;
        }
        for run in &runs[..100] {
            server.wait_status(run, "SUCCESS").await;
        }
        let others = stage.sql_count("SELECT count(*) FROM app.runs WHERE status = 'waiting_input'").await;
        assert_eq!(others, (WARM_UP + RUNS - 100) as i64, "the others wait");
        assert_eq!(server.header(&runs[100]).await["nextAction"], json!("APPROVE_PLAN"));
    }
}
