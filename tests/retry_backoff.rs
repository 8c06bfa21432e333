//! Lab L: a task is tried three times for errors of the infrastructure, with growing pauses, and a crash in a pause neither loses nor repeats an
//! attempt. And the engine's own retries of steps, which any workflow may use.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use harness::*;
use serde_json::json;
use stepwell::{
    engine::{Context, Retry, StartOptions, Workflow, WorkflowError},
    store::queue_limits::QueueSettings,
};

const DEADLINE: Duration = Duration::from_secs(60);
const QUEUE: &str = "testQ";

async fn run_with(server: &Server, command: &str) -> String {
    let inputs = json!({"command": command});
    let intent = server.create_intent("lab L", inputs).await;
    let run = server.start_run(&intent, "sandbox-default").await;
    server.approve(&run).await;
    run
}

/// When each attempt of the run's task was written, in order.
async fn attempts(stage: &Stage, run: &str) -> Vec<i64> {
    let rows = stage
        .sql(&format!(
            "SELECT attempt, created_at FROM app.sbx_runs WHERE run_id = '{run}' ORDER BY attempt"
        ))
        .await;
    rows.iter()
        .zip(1..)
        .map(|(row, attempt)| {
            assert_eq!(row["attempt"].as_i64(), Some(attempt));
            row["created_at"].as_i64().unwrap()
        })
        .collect()
}

/// An attempt's row has the time of its process, a pause is measured by the database's clock, and a process learns that with every heartbeat anew,
/// on a busy machine some milliseconds late.
const CLOCKS_MS: i64 = 100;

fn assert_gaps(attempts: &[i64]) {
    let gaps: Vec<i64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps.len(), 2, "{attempts:?}");
    assert!(
        gaps[0] >= 1_000 - CLOCKS_MS && gaps[1] >= 2_000 - CLOCKS_MS && gaps[1] > gaps[0],
        "{gaps:?}"
    );
}

/// Fails as often as it is told to, then answers the number of its execution.
struct Flaky(Arc<AtomicU32>);

impl Workflow for Flaky {
    const NAME: &'static str = "test.flaky";
    type Input = (u32, String, u64);
    type Output = u32;

    async fn run(
        &self,
        ctx: &Context,
        (failures, code, pause_ms): (u32, String, u64),
    ) -> Result<u32, WorkflowError> {
        let retry = Retry {
            first_pause: Duration::from_millis(pause_ms),
            retries: |error| error.code() == "flaky",
            ..Retry::default()
        };
        ctx.step_retried("flaky", retry, |execution| {
            let code = &code;
            async move {
                self.0.fetch_add(1, Ordering::SeqCst);
                if execution <= failures {
                    return Err(WorkflowError::new(code.as_str(), "not this time"));
                }
                Ok(execution)
            }
        })
        .await
    }
}

async fn flaky(stage: &Stage) -> (Process, Arc<AtomicU32>) {
    let executions = Arc::new(AtomicU32::new(0));
    let flaky = Flaky(Arc::clone(&executions));
    let queues = vec![QueueSettings::unlimited(QUEUE)];
    let process = Process::start(stage, queues, |b| b.register(flaky).unwrap()).await;
    (process, executions)
}

fn start(id: &str) -> StartOptions {
    in_queue(QUEUE, id)
}

/// What is recorded of a workflow: names, by function id.
async fn recorded(stage: &Stage, id: &str) -> Vec<String> {
    let rows = stage
        .sql(&format!(
            "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = '{id}' ORDER BY function_id"
        ))
        .await;
    rows.iter()
        .map(|row| row["function_name"].as_str().unwrap().to_owned())
        .collect()
}

on_both_databases! {
    async fn three_attempts_with_growing_gaps_end_in_repair(stage: Stage) {
        let server = stage.serve().await;
        let run = run_with(&server, "INFRA_FAIL now").await;

        let header = server.wait_status(&run, "ERROR").await;

        assert_eq!(header["nextAction"], "REPAIR");
        assert_eq!(header["error"]["code"], "BOOT_FAIL");
        let status = stage.sql_value(&format!("SELECT status FROM app.runs WHERE id = '{run}'")).await;
        assert_eq!(status, "retries_exceeded");
        assert_gaps(&attempts(&stage, &run).await);
        stage.assert_no_duplicates().await;
    }

    async fn a_task_that_recovers_succeeds_with_its_third_attempt(stage: Stage) {
        let server = stage.serve().await;
        let run = run_with(&server, "FLAKY_INFRA_FAIL twice").await;

        server.wait_status(&run, "SUCCESS").await;

        assert_gaps(&attempts(&stage, &run).await);
        let last = stage.sql_value(&format!("SELECT err_code FROM app.sbx_runs WHERE run_id = '{run}' AND attempt = 3")).await;
        assert_eq!(last, "NONE");
    }

    async fn errors_of_the_command_are_not_tried_again(stage: Stage) {
        let server = stage.serve().await;
        for (command, code) in [("FAIL_ME", "CMD_NONZERO"), ("TIMEOUT_ME", "TIMEOUT"), ("OOM_ME", "OOM")] {
            let run = run_with(&server, command).await;
            let header = server.wait_status(&run, "ERROR").await;
            assert_eq!(header["error"]["code"], code);
            assert!(header["nextAction"].is_null(), "{header}");
            assert_eq!(attempts(&stage, &run).await.len(), 1, "{command}");
        }
    }

    async fn a_crash_in_a_pause_neither_loses_nor_repeats_an_attempt(stage: Stage) {
        let server = stage.serve_with(&[("EXECUTOR_EXPIRY_MS", "1000")]).await;
        let run = run_with(&server, "INFRA_FAIL now").await;
        for made in [1, 2] {
            eventually(DEADLINE, &format!("attempt {made} is written"), || async {
                let found = attempts(&stage, &run).await.len();
                if found >= made { Ok(()) } else { Err(found) }
            })
            .await;
            server.kill_9().await;
            server.start_again().await;
        }

        let header = server.wait_status(&run, "ERROR").await;

        assert_eq!(header["nextAction"], "REPAIR");
        let attempts = attempts(&stage, &run).await;
        assert_eq!(attempts.len(), 3);
        // Recovery may stretch either gap, so they need not grow.
        let gaps = [attempts[1] - attempts[0], attempts[2] - attempts[1]];
        assert!(gaps[0] >= 1_000 - CLOCKS_MS && gaps[1] >= 2_000 - CLOCKS_MS, "{attempts:?}");
        stage.assert_no_duplicates().await;
    }

    async fn a_step_is_tried_again_for_the_errors_that_are_worth_it(stage: Stage) {
        database(&stage).await;
        let (process, executions) = flaky(&stage).await;
        let client = process.client();
        for (id, failures, code) in [("at-once", 0, "flaky"), ("third", 2, "flaky"), ("never", 9, "flaky"), ("other", 1, "broken")] {
            client.start::<Flaky>(&(failures, code.to_owned(), 20), start(id)).await.unwrap();
        }
        let look = Duration::from_millis(20);

        assert_eq!(client.result::<u32>("at-once", look).await.unwrap(), Ok(1));
        assert_eq!(client.result::<u32>("third", look).await.unwrap(), Ok(3));
        assert_eq!(client.result::<u32>("never", look).await.unwrap().unwrap_err().code(), "flaky");
        assert_eq!(client.result::<u32>("other", look).await.unwrap().unwrap_err().code(), "broken");

        assert_eq!(executions.load(Ordering::SeqCst), 1 + 3 + 3 + 1);
        assert_eq!(recorded(&stage, "at-once").await, ["flaky"]);
        assert_eq!(recorded(&stage, "never").await, ["flaky", "DBOS.sleep", "flaky", "DBOS.sleep", "flaky"]);
        process.stop().await;
    }

    async fn a_long_pause_is_a_row_and_survives_a_crash(stage: Stage) {
        database(&stage).await;
        let (first, executions) = flaky(&stage).await;
        first.client().start::<Flaky>(&(1, "flaky".to_owned(), 2_000), start("long")).await.unwrap();
        eventually(DEADLINE, "it is suspended", || async {
            let waits = stage.sql_count("SELECT count(*) FROM app.waits WHERE workflow_id = 'long'").await;
            let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
            if (waits, claims) == (1, 0) { Ok(()) } else { Err(format!("{waits} waits, {claims} claims")) }
        })
        .await;
        assert_eq!(recorded(&stage, "long").await, ["flaky", "DBOS.sleep"]);
        first.kill();

        let (second, more) = flaky(&stage).await;
        let look = Duration::from_millis(20);
        assert_eq!(second.client().result::<u32>("long", look).await.unwrap(), Ok(2));

        assert_eq!((executions.load(Ordering::SeqCst), more.load(Ordering::SeqCst)), (1, 1));
        let rows = stage.sql("SELECT started_at_epoch_ms AS at FROM dbos.operation_outputs WHERE workflow_uuid = 'long' AND function_name = 'flaky' ORDER BY function_id").await;
        let gap = rows[1]["at"].as_i64().unwrap() - rows[0]["at"].as_i64().unwrap();
        assert!(gap >= 2_000, "{gap} ms");
        second.stop().await;
    }
}
