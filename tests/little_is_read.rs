//! What is stored costs nobody who comes later: no statement reads more because there is more in its tables. On Postgres, which says what it read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{collections::BTreeMap, time::Duration};

use harness::*;
use serde_json::Value;

/// Runs that are executed before and after the tables have grown, and how many copies of each of the first are put beside it.
const RUNS: usize = 20;
const COPIES: u64 = 1_000;
const GROWN_BY: u64 = RUNS as u64 * COPIES;
const CALLERS: usize = 4;
/// Blocks of 8 KiB that a statement may look at on average: it writes a batch of some rows, and every row is in some indexes.
const MOST_BLOCKS: i64 = 200;

/// Table, and what tells a copy from what it was made of.
const GROWING: [(&str, &str); 6] = [
    (
        "app.runs",
        "'id', t.id || '-' || i, 'workflow_id', t.workflow_id || '-' || i",
    ),
    ("app.run_steps", "'run_id', t.run_id || '-' || i"),
    ("app.opencode_calls", "'op_key', t.op_key || '-' || i"),
    ("app.sbx_runs", "'run_id', t.run_id || '-' || i"),
    // Of what shares its millisecond DBOS's index sorts nothing.
    (
        "dbos.workflow_status",
        "'workflow_uuid', t.workflow_uuid || '-' || i, 'created_at', t.created_at - 60000 * i",
    ),
    (
        "dbos.operation_outputs",
        "'workflow_uuid', t.workflow_uuid || '-' || i",
    ),
];

async fn grow(stage: &Stage) {
    for (table, changed) in GROWING {
        let copied = stage
            .sql_execute(&format!(
                "INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object({changed}))).* FROM {table} t, generate_series(1, {COPIES}) i \
                 LIMIT {GROWN_BY}"
            ))
            .await;
        assert_eq!(copied, GROWN_BY, "{table}");
    }
}

async fn work(server: &Server) {
    let told = server.load(RUNS, CALLERS, Duration::ZERO).await;
    for run in &told.accepted {
        server.wait_status(run, "SUCCESS").await;
        for path in ["", "/steps", "/view"] {
            server
                .get(&format!("/api/runs/{run}{path}"))
                .await
                .expect(200);
        }
        server.get(&format!("/api/ops/wf/{run}")).await.expect(200);
        server
            .get(&format!("/api/ops/wf/{run}/steps"))
            .await
            .expect(200);
    }
    let mut cursor = String::new();
    for list in ["/api/runs", "/api/ops/wf"] {
        for _ in 0..3 {
            let page = server.get(&format!("{list}?limit=20{cursor}")).await;
            page.expect(200);
            let Some(next) = page.header("x-next-cursor") else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        cursor.clear();
    }
}

/// Of each statement that was asked so far: how often, and how many blocks it looked at.
async fn asked(stage: &Stage) -> BTreeMap<String, (i64, i64)> {
    let rows = stage
        .sql(&format!(
            "SELECT sum(s.calls)::bigint AS calls, sum(s.shared_blks_hit + s.shared_blks_read)::bigint AS blocks, s.query FROM {ASKED_BY_OTHERS} \
             GROUP BY s.query"
        ))
        .await;
    let number = |value: &Value| value.as_i64().unwrap();
    rows.iter()
        .map(|row| {
            (
                row["query"].as_str().unwrap().to_owned(),
                (number(&row["calls"]), number(&row["blocks"])),
            )
        })
        .collect()
}

on_postgres! {
    async fn no_statement_reads_more_because_more_is_stored(stage: Stage) {
        let server = stage.serve_with(&ROOMY).await;
        stage.prepare_load().await;
        stage.sql_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
        // Plans are made for small tables, and kept.
        work(&server).await;
        grow(&stage).await;
        let before = asked(&stage).await;
        work(&server).await;

        let after = asked(&stage).await;
        assert!(after.len() > 50, "{} statements", after.len());
        let per_call = after.iter().filter_map(|(query, (calls, blocks))| {
            let (calls_then, blocks_then) = before.get(query).unwrap_or(&(0, 0));
            (blocks - blocks_then).checked_div(calls - calls_then).map(|blocks| (blocks, query))
        });
        let many: Vec<_> = per_call.filter(|(blocks, _)| *blocks > MOST_BLOCKS).collect();
        assert!(many.is_empty(), "blocks per call: {many:#?}");
    }
}
