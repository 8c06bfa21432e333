//! Dying at every write point that has a name: the process aborts there, another one takes over, and every effect has happened once. (Of every
//! write, named or not: `write_sweep.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use harness::*;
use serde_json::json;
use stepwell::engine::points::POINTS;

/// How long a server may live that is to die.
const DEATH_DEADLINE: Duration = Duration::from_secs(60);
const TASKS: [&str; 3] = ["a", "b", "c"];

/// How often each task has run, counted outside the database.
fn effects(directory: &Path) -> BTreeMap<&'static str, usize> {
    let count = |task: &str| {
        fs::read_to_string(directory.join(format!("effect-{task}")))
            .unwrap_or_default()
            .lines()
            .count()
    };
    TASKS.into_iter().map(|task| (task, count(task))).collect()
}

/// The tasks whose result the database holds.
async fn committed(stage: &Stage) -> BTreeSet<&'static str> {
    let rows = stage.sql("SELECT request FROM app.sbx_runs").await;
    let of = |task: &str| {
        rows.iter().any(|row| {
            row["request"]
                .to_string()
                .contains(&format!("count.sh {task}\\\""))
        })
    };
    TASKS.into_iter().filter(|task| of(task)).collect()
}

/// When the plan is approved: a gate that is passed at once is no suspension.
#[derive(PartialEq)]
enum Approved {
    AtTheGate,
    Afterwards,
}

async fn dies_at(stage: &Stage, point: &str, approved: Approved) {
    let quick = ("EXECUTOR_EXPIRY_MS", "1000");
    // The commands leave their marks outside, where bwrap would let them write nothing.
    let live = [
        quick,
        ("SBX_MODE", "live"),
        ("SBX_PROVIDER", "local"),
        ("SBX_LOCAL_BWRAP", "off"),
    ];
    let server = stage.serve_with(&live).await;
    // A tick would reach some of the points first.
    stage.pause_ticks().await;
    let effect = stage.dir().join("effect-");
    let inputs = json!({
        "command": "sh count.sh", "tests": TASKS,
        "files": [{"path": "count.sh", "inline": format!("echo ran >> {}$1\n", effect.display())}],
    });
    let run = server.create_intent("die and go on", inputs).await;
    server.kill_9().await;

    let request =
        json!({"intentId": run, "queuePartitionKey": "t", "recipeName": "sandbox-default"});
    server
        .start_again_with(&[live.as_slice(), &[("STEPWELL_DIE_AT", point)]].concat())
        .await;
    // The process may die before it answers.
    let _ = server
        .try_send("POST", "/api/runs", Some(request.to_string()))
        .await;
    let approval = json!({"approvedBy": "po"}).to_string();
    let approve = format!("/api/runs/{run}/approve-plan");
    if approved == Approved::AtTheGate {
        eventually(
            DEATH_DEADLINE,
            "the run is at its gate, or the server has died",
            || async {
                match server
                    .try_send("GET", &format!("/api/runs/{run}"), None)
                    .await
                {
                    Ok(answer) if answer.json()["nextAction"] != "APPROVE_PLAN" => {
                        Err(answer.to_string())
                    }
                    _ => Ok(()),
                }
            },
        )
        .await;
        let _ = server
            .try_send("POST", &approve, Some(approval.clone()))
            .await;
    }
    let status = tokio::time::timeout(DEATH_DEADLINE, server.wait_exit()).await;
    let status = status.unwrap_or_else(|_| panic!("{point} was never reached"));
    assert!(!status.success(), "{point}: {status}");
    let recorded = committed(stage).await;

    server.start_again_with(&live).await;
    server.post("/api/runs", &request).await.expect(202);
    let answer = server
        .try_send("POST", &approve, Some(approval))
        .await
        .unwrap();
    assert!(matches!(answer.status, 202 | 409), "{answer}");
    server.wait_status(&run, "SUCCESS").await;

    for (task, times) in effects(stage.dir()) {
        let most = if recorded.contains(task) { 1 } else { 2 };
        assert!(
            (1..=most).contains(&times),
            "{point}: task {task} ran {times} times; committed at the crash: {recorded:?}"
        );
    }
    for (table, rows) in [
        ("app.run_steps", 4),
        ("app.sbx_runs", 3),
        ("app.claims", 0),
        ("app.waits", 0),
    ] {
        assert_eq!(
            stage
                .sql_count(&format!("SELECT count(*) FROM {table}"))
                .await,
            rows,
            "{point}: {table}"
        );
    }
    let parent = format!(
        "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = '{run}' AND function_name <> 'DBOS.sleep'"
    );
    assert_eq!(
        stage.sql_count(&parent).await,
        11,
        "{point}: one record per operation of the run"
    );
    stage.assert_no_duplicates().await;
    stage.assert_sound().await;
}

macro_rules! sweep {
    ($($name:ident: $point:literal, $approved:ident;)+) => {
        const SWEPT: &[&str] = &[$($point),+];

        on_both_databases! { $(
            async fn $name(stage: Stage) {
                dies_at(&stage, $point, Approved::$approved).await;
            }
        )+ }
    };
}

#[test]
fn every_point_by_name_is_swept() {
    let here = |name: &str| {
        SWEPT
            .iter()
            .any(|swept| swept.split(':').next() == Some(name))
    };
    let elsewhere = [
        ("schedules.rs", ["before-fire", "after-fire"]),
        ("write_sweep.rs", ["before-write", "after-write"]),
    ];
    for (_, name) in POINTS {
        let file = elsewhere.iter().find(|(_, names)| names.contains(&name));
        assert!(here(name) != file.is_some(), "{name}");
    }
}

// Every write point on a run's way, in its order.
sweep! {
    before_the_claim: "before-claim", AtTheGate;
    after_the_claim: "after-claim", AtTheGate;
    before_the_plan_is_committed: "before-step:CompileST", AtTheGate;
    after_the_plan_is_committed: "after-step:CompileST", AtTheGate;
    before_the_patch_is_committed: "before-step:ApplyPatchST", AtTheGate;
    after_the_patch_is_committed: "after-step:ApplyPatchST", AtTheGate;
    before_the_gate_is_committed: "before-suspend:DBOS.sleep", Afterwards;
    after_the_gate_is_committed: "after-suspend:DBOS.sleep", Afterwards;
    before_the_wake_up: "before-wake", AtTheGate;
    after_the_wake_up: "after-wake", AtTheGate;
    before_the_decision_is_committed: "before-step:DecideST", AtTheGate;
    after_the_decision_is_committed: "after-step:DecideST", AtTheGate;
    before_the_fan_out: "before-fan-out", AtTheGate;
    after_the_fan_out: "after-fan-out", AtTheGate;
    before_a_task_is_committed: "before-step:ExecuteTask", AtTheGate;
    after_a_task_is_committed: "after-step:ExecuteTask", AtTheGate;
    after_a_task_has_ended: "after-completion:ExecuteTask", AtTheGate;
    after_a_look_at_waits: "after-look", AtTheGate;
    before_the_merge_is_committed: "before-step:ExecuteST", AtTheGate;
    after_the_merge_is_committed: "after-step:ExecuteST", AtTheGate;
    before_the_end: "before-completion:ExecuteST", AtTheGate;
    after_the_end: "after-completion:ExecuteST", AtTheGate;
}
