//! Operators against workers: random cancels, resumes and forks from many clients while two processes execute and one of them is killed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use harness::*;
use serde_json::json;

const SEED: u64 = 0x5eed_0007;
const WORKFLOWS: usize = 50;
const CLIENTS: usize = 8;
const CALLS: usize = 500;
const DEADLINE: Duration = Duration::from_secs(240);
/// Tasks take a while, so that calls meet steps in progress; nothing waits for a rate.
const ENV: [(&str, &str); 3] = [
    ("CHAOS_SLEEP_EXECUTE", "300"),
    ("EXECUTOR_EXPIRY_MS", "2000"),
    ("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "100000"),
];

/// A sequence that is the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Half of them sleep between two marks, half fan out into tasks.
async fn start_workflows(server: &Server) -> Vec<String> {
    let stage = server.stage();
    stage
        .sql_execute(
            "INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, \
             cancel, created_at) VALUES ('patient', 1, 'intentQ', 10, 10, 10, 'static', 'auto', 'configured', 'boundary', 1)",
        )
        .await;
    let mut ids = Vec::new();
    for n in 0..WORKFLOWS {
        if n % 2 == 0 {
            let id = format!("slow-{n}");
            let path = format!("/slowstep?wf={id}&sleep={}", n * 60);
            server.send("POST", &path, None).await.expect(202);
            ids.push(id);
        } else {
            let inputs = json!({"command": "work", "tests": ["a", "b", "c"]});
            let intent = server.create_intent("race", inputs).await;
            let request = json!({
                "intentId": intent, "queuePartitionKey": "t", "recipeName": "patient", "workload": {"concurrency": 2}
            });
            server.post("/api/runs", &request).await.expect(202);
            ids.push(intent);
        }
    }
    ids
}

/// One client's calls; answers how many were accepted.
async fn act(server: Server, ids: Arc<Vec<String>>, client: usize) -> usize {
    let mut chance = Chance(SEED + client as u64);
    let mut accepted = 0;
    for _ in (client..CALLS).step_by(CLIENTS) {
        let id = &ids[chance.below(ids.len())];
        let (action, body) = match chance.below(20) {
            0..=7 => ("cancel", json!({"actor": "racer"})),
            8..=16 => ("resume", json!({"actor": "racer"})),
            _ => ("fork", json!({"stepN": 1 + chance.below(3)})),
        };
        let answer = server
            .post(&format!("/api/ops/wf/{id}/{action}"), &body)
            .await;
        assert!(matches!(answer.status, 202 | 409), "{answer}");
        accepted += usize::from(answer.status == 202);
    }
    accepted
}

/// Watches that what has ended in a result stays as it ended, until told to stop. Answers how many ends were seen.
async fn watch(stage: Stage, stop: Arc<AtomicBool>) -> usize {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let last = stop.load(Ordering::Relaxed);
        let sql = "SELECT s.workflow_uuid, s.status, s.completed_at, o.output, o.error FROM dbos.workflow_status s \
                   LEFT JOIN dbos.workflow_output o ON o.workflow_uuid = s.workflow_uuid";
        for row in stage.sql(sql).await {
            let id = row["workflow_uuid"].as_str().unwrap().to_owned();
            let ended = matches!(row["status"].as_str(), Some("SUCCESS" | "ERROR"));
            match seen.get(&id) {
                Some(before) => {
                    assert_eq!(*before, row.to_string(), "a terminal state was overwritten")
                }
                None if ended => {
                    seen.insert(id, row.to_string());
                }
                None => {}
            }
        }
        if last {
            return seen.len();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn until_none(stage: &Stage, what: &str, sql: &str) {
    eventually(DEADLINE, what, || async {
        match stage.sql_count(sql).await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
}

on_both_databases! {
    async fn five_hundred_calls_against_fifty_workflows_double_nothing_and_lose_nothing(stage: Stage) {
        let server = stage.serve_with(&ENV).await;
        let doomed = stage.serve_with(&ENV).await;
        let ids = Arc::new(start_workflows(&server).await);
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = tokio::spawn(watch(stage.clone(), Arc::clone(&stop)));

        let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(act(server.clone(), Arc::clone(&ids), client))).collect();
        until_none(&stage, "a hundred calls", "SELECT CASE WHEN count(*) > 50 THEN 0 ELSE 1 END FROM app.artifacts WHERE step_id = 'OPS'").await;
        doomed.kill_9().await;
        let mut accepted = 0;
        for client in clients {
            accepted += client.await.unwrap();
        }

        let audited = stage.sql_count("SELECT count(*) FROM app.artifacts WHERE step_id = 'OPS'").await;
        assert_eq!(audited, accepted as i64, "one entry per accepted action");
        until_none(&stage, "every workflow has ended or is cancelled", "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'DELAYED', 'PENDING')").await;
        until_none(&stage, "no claim is left", "SELECT count(*) FROM app.claims").await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.waits").await, 0);
        let failed = stage.sql("SELECT s.workflow_uuid, s.status, o.error FROM dbos.workflow_status s LEFT JOIN dbos.workflow_output o \
                                ON o.workflow_uuid = s.workflow_uuid WHERE s.status NOT IN ('SUCCESS', 'CANCELLED')").await;
        assert!(failed.is_empty(), "{failed:?}");
        let drifted = "SELECT count(*) FROM app.runs r JOIN dbos.workflow_status s ON s.workflow_uuid = r.workflow_id \
                       WHERE (s.status = 'SUCCESS') <> (r.status = 'succeeded') OR (s.status = 'CANCELLED') <> (r.status = 'canceled')";
        assert_eq!(stage.sql_count(drifted).await, 0, "runs stand where their workflows do");

        // Whatever was cancelled goes on from where it was.
        for id in ids.iter() {
            if server.get(&format!("/api/ops/wf/{id}")).await.expect(200)["status"] == "CANCELLED" {
                server.send("POST", &format!("/api/ops/wf/{id}/resume"), None).await.expect(202);
            }
        }
        let unfinished = "SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS' AND forked_from IS NULL AND parent_workflow_id IS NULL";
        until_none(&stage, "everything that was started succeeds", unfinished).await;
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.await.unwrap() >= WORKFLOWS);

        assert_eq!(stage.sql_count("SELECT count(*) FROM app.marks WHERE count > 1").await, 0);
        let marks = stage.sql_count("SELECT count(*) FROM app.marks WHERE workflow_id LIKE 'slow-%'").await;
        assert_eq!(marks, WORKFLOWS as i64);
        let receipts = "SELECT count(*) FROM app.mock_receipts m JOIN app.runs r ON r.id = m.run_id WHERE r.forked_from IS NULL";
        assert_eq!(stage.sql_count(receipts).await, 3 * (WORKFLOWS as i64 / 2), "every task once");
        stage.assert_no_duplicates().await;
    }
}
