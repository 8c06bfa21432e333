//! Lists of workflows: filters, pages that neither lose nor repeat a row, and plans that do not read everything.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{collections::BTreeSet, time::Instant};

use harness::*;
use serde_json::Value;
use stepwell::store::{
    Database, DatabaseOptions,
    status::WorkflowStatus,
    workflows::{self, WorkflowFilter},
};

/// Workflows of the test that looks at plans; `STEPWELL_TEST_LONG=1` makes them a million.
fn rows_to_list() -> i64 {
    if long_tests_are_wanted() {
        1_000_000
    } else {
        200_000
    }
}
const SEEDED_AT: i64 = 1_700_000_000_000;

/// Foreign workflows, so that nobody executes them: of a hundred ninety have succeeded, the others stand in every other state. Ten share each
/// millisecond.
async fn seed(stage: &Stage, rows: i64) {
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO dbos.workflow_status \
         (workflow_uuid, status, name, queue_name, application_name, priority, recovery_attempts, created_at, updated_at, completed_at, \
         was_forked_from, rate_limited, is_debounced, delay_until_epoch_ms) SELECT 'wf-' || i, CASE i % 100 WHEN 0 THEN 'ERROR' WHEN 1 THEN 'CANCELLED' \
         WHEN 2 THEN 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHEN 3 THEN 'ENQUEUED' WHEN 4 THEN 'PENDING' WHEN 5 THEN 'DELAYED' ELSE 'SUCCESS' END, \
         CASE WHEN i % 1000 = 7 THEN 'rare' ELSE 'common' END, CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END, 'shop', 0, 0, \
         {SEEDED_AT} + i / 10, {SEEDED_AT}, CASE WHEN i % 100 > 5 THEN {SEEDED_AT} END, false, false, false, 99000000000000 FROM n",
        rows - 1
    );
    assert_eq!(stage.sql_execute(&insert).await, rows as u64);
    let analyze = match stage.backend() {
        Backend::Sqlite => "ANALYZE",
        Backend::Postgres => "ANALYZE dbos.workflow_status",
    };
    stage.sql_execute(analyze).await;
}

/// Follows the cursors of a list to its end.
async fn pages(server: &Server, query: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = server.get(&format!("/api/ops/wf?{query}{cursor}")).await;
        pages.push(answer.expect(200).as_array().unwrap().clone());
        match answer.header("x-next-cursor") {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

fn ids(pages: &[Vec<Value>]) -> Vec<String> {
    let rows = pages.iter().flatten();
    rows.map(|row| row["workflowID"].as_str().unwrap().to_owned())
        .collect()
}

on_both_databases! {
    async fn pages_hold_every_workflow_once_newest_first(stage: Stage) {
        let server = stage.start("api", &[]).await;
        seed(&stage, 1_003).await;

        let pages_of_all = pages(&server, "limit=100").await;
        let all = ids(&pages_of_all);
        assert_eq!((pages_of_all.len(), all.len()), (11, 1_003));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1_003, "none twice");
        let times: Vec<i64> = pages_of_all.iter().flatten().map(|row| row["createdAt"].as_i64().unwrap()).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older));

        for (query, expected) in [
            ("status=ERROR", 11),
            ("status=DELAYED", 10),
            ("status=MAX_RECOVERY_ATTEMPTS_EXCEEDED", 11),
            ("name=rare", 1),
            ("queue=odd", 501),
            ("queue=odd&status=ENQUEUED", 10),
            ("name=nobody", 0),
            (&format!("since={}", SEEDED_AT + 100), 3),
        ] {
            assert_eq!(ids(&pages(&server, &format!("limit=7&{query}")).await).len(), expected, "{query}");
        }
        assert_eq!(server.get("/api/ops/wf").await.expect(200).as_array().unwrap().len(), 50, "the default");
    }

    async fn a_list_that_grows_while_it_is_read_repeats_nothing(stage: Stage) {
        let server = stage.start("api", &[]).await;
        seed(&stage, 60).await;
        let first = server.get("/api/ops/wf?limit=30").await;
        let cursor = first.header("x-next-cursor").unwrap().to_owned();
        server.send("POST", "/slowstep?wf=newest&sleep=0", None).await.expect(202);

        let second = server.get(&format!("/api/ops/wf?limit=30&cursor={cursor}")).await;
        let all = ids(&[first.expect(200).as_array().unwrap().clone(), second.expect(200).as_array().unwrap().clone()]);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 60);
        assert!(second.header("x-next-cursor").is_none());
    }

    async fn the_longest_id_is_a_cursor_too(stage: Stage) {
        let server = stage.start("api", &[]).await;
        let long = "ü".repeat(500);
        for id in ["older", &long, "newer"] {
            let row = format!(
                "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name, priority, recovery_attempts, created_at, updated_at, \
                 was_forked_from, rate_limited, is_debounced) VALUES ('{id}', 'SUCCESS', 'order', 'shop', 0, 0, {SEEDED_AT}, {SEEDED_AT}, false, false, false)"
            );
            stage.sql_execute(&row).await;
        }
        let found = ids(&pages(&server, "limit=1").await);
        assert_eq!(found.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["newer", "older", &long]));
        assert_eq!(found.len(), 3);
    }

    async fn bad_filters_are_refused(stage: Stage) {
        let server = stage.start("api", &[]).await;
        for query in ["limit=0", "limit=201", "limit=x", "status=DONE", "status=", "since=-1", "cursor=x", "cursor=1", "order=asc", "limit=1&limit=2"] {
            server.get(&format!("/api/ops/wf?{query}")).await.expect_refusal(400);
        }
        for query in ["cursor=5.zz_-", "cursor=5."] {
            server.get(&format!("/api/ops/wf?{query}")).await.expect(200);
        }
    }

    async fn no_page_is_found_by_reading_or_sorting_everything(stage: Stage) {
        stage.migrate().await;
        let seeded = rows_to_list();
        seed(&stage, seeded).await;
        let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
        let page = || WorkflowFilter { limit: 51, ..WorkflowFilter::default() };
        let middle = Some((SEEDED_AT + seeded / 20, "wf-1".to_owned()));
        let mut filters = vec![
            ("all", page()),
            ("all, in the middle", WorkflowFilter { after: middle.clone(), ..page() }),
            ("since", WorkflowFilter { since: Some(SEEDED_AT + seeded / 20), ..page() }),
        ];
        for status in [
            WorkflowStatus::Success,
            WorkflowStatus::Error,
            WorkflowStatus::Cancelled,
            WorkflowStatus::MaxRecoveryAttemptsExceeded,
            WorkflowStatus::Pending,
        ] {
            filters.push((status.as_str(), WorkflowFilter { status: Some(status), ..page() }));
            filters.push((status.as_str(), WorkflowFilter { status: Some(status), after: middle.clone(), ..page() }));
        }
        for (what, filter) in filters {
            let plan = workflows::plan(&db.read(), &filter).await.unwrap();
            assert!(plan.contains("INDEX") || plan.contains("Index Scan"), "{what}: {plan}");
            let reads_all = match stage.backend() {
                // `SCAN … USING INDEX` walks in the index's order and stops at the limit.
                Backend::Sqlite => plan.contains("USE TEMP B-TREE FOR ORDER BY") || plan.lines().any(|line| line.contains("SCAN") && !line.contains("USING INDEX")),
                // An incremental sort sorts the rows of one millisecond.
                Backend::Postgres => plan.contains("Seq Scan") || plan.contains("Bitmap") || plan.replace("Incremental Sort", "").contains("Sort  ("),
            };
            assert!(!reads_all, "{what}: {plan}");
            let began = Instant::now();
            let rows = workflows::list(&db.read(), &filter).await.unwrap();
            eprintln!("{what}: a page of {seeded} in {:.1} ms on {}", began.elapsed().as_secs_f64() * 1e3, stage.backend().name());
            assert_eq!(rows.len(), 51, "{what}");
        }
    }
}
