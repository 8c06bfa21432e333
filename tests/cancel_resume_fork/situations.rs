//! The situations in which somebody acts on a workflow, how each is brought about, and what holds in all of them.

use serde_json::{Value, json};

use super::harness::*;
use super::kit::*;

/// Where a workflow is when somebody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    Queued,
    Running,
    Asleep,
    WaitingForAnEvent,
    WaitingForChildren,
    InABackOff,
    Suspended,
    OwnedByADeadProcess,
}

/// A situation, the step that must not start after a cancel, and where a fork goes on (none: there is nothing to fork from).
struct Case {
    situation: Situation,
    next_step: &'static str,
    fork_at: Option<i32>,
}

/// What the contract promises holds in each of these: the cancel takes effect before the next step starts, the resume ends in the right
/// result, the fork in its own.
const TABLE: [Case; 8] = [
    Case {
        situation: Situation::Queued,
        next_step: "s1",
        fork_at: None,
    },
    Case {
        situation: Situation::Running,
        next_step: "ExecuteST",
        fork_at: Some(1),
    },
    Case {
        situation: Situation::Asleep,
        next_step: "s2",
        fork_at: Some(1),
    },
    Case {
        situation: Situation::WaitingForAnEvent,
        next_step: "DecideST",
        fork_at: Some(1),
    },
    Case {
        situation: Situation::WaitingForChildren,
        next_step: "ExecuteST",
        fork_at: Some(2),
    },
    Case {
        situation: Situation::InABackOff,
        next_step: "ExecuteST",
        fork_at: Some(2),
    },
    Case {
        situation: Situation::Suspended,
        next_step: "ExecuteST",
        fork_at: Some(2),
    },
    Case {
        situation: Situation::OwnedByADeadProcess,
        next_step: "ExecuteST",
        fork_at: Some(2),
    },
];

/// A workflow in its situation.
struct World {
    server: Server,
    workflow: String,
}

async fn bring_about(stage: &Stage, situation: Situation) -> World {
    // A process reads the limits of queues once a second; a pause from before it has started holds at once.
    let queue = match situation {
        Situation::Queued => Some("controlQ"),
        Situation::Suspended => Some("sbxQ"),
        _ => None,
    };
    let mock = [("SBX_MODE", "mock"), ("EXECUTOR_EXPIRY_MS", "2000")];
    let live = !matches!(situation, Situation::InABackOff);
    let env: &[(&str, &str)] = if live { &LIVE } else { &mock };
    let server = stage.serve_with(env).await;
    seed_patient_recipe(stage).await;
    if let Some(queue) = queue {
        server.kill_9().await;
        pause(stage, queue, true).await;
        server.start_again().await;
    }
    let workflow = match situation {
        Situation::Queued => {
            server
                .send("POST", "/slowstep?wf=w&sleep=0", None)
                .await
                .expect(202);
            "w".to_owned()
        }
        Situation::Asleep => {
            server
                .send("POST", "/slowstep?wf=w&sleep=4000", None)
                .await
                .expect(202);
            stage
                .until_count(
                    "s1 is marked",
                    "SELECT count(*) FROM app.marks WHERE workflow_id = 'w'",
                    1,
                )
                .await;
            "w".to_owned()
        }
        Situation::WaitingForAnEvent => {
            let run = server.start_golden_run().await;
            server.wait_next_action(&run, "APPROVE_PLAN").await;
            run
        }
        Situation::Running | Situation::WaitingForChildren | Situation::OwnedByADeadProcess => {
            let run = start(&server, "patient", json!({"command": command(stage)})).await;
            until_started(stage).await;
            run
        }
        Situation::InABackOff => {
            let run = start(&server, "patient", json!({"command": "FLAKY_INFRA_FAIL"})).await;
            // The pause before the second attempt is spent in memory; the one before the third is not, and cannot end in a paused queue.
            let attempted = "SELECT CASE WHEN count(*) > 0 THEN 1 ELSE 0 END FROM app.sbx_runs";
            stage.until_count("an attempt", attempted, 1).await;
            pause(stage, "sbxQ", true).await;
            stage
                .until_count("two attempts", "SELECT count(*) FROM app.sbx_runs", 2)
                .await;
            run
        }
        Situation::Suspended => {
            let run = start(&server, "patient", json!({"command": command(stage)})).await;
            stage.until_count("a child is queued", "SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ' AND status = 'ENQUEUED'", 1).await;
            run
        }
    };
    let server = if situation == Situation::OwnedByADeadProcess {
        server.kill_9().await;
        stage.serve_with(&LIVE).await
    } else {
        server
    };
    World { server, workflow }
}

pub(crate) async fn all_three_hold(stage: &Stage, situation: Situation) {
    let case = TABLE
        .iter()
        .find(|case| case.situation == situation)
        .unwrap();
    let World { server, workflow } = bring_about(stage, situation).await;
    let is_run = !matches!(situation, Situation::Queued | Situation::Asleep);

    // No task of the fork starts before it is cancelled. A queue with limits reads its row at every claim, so that this holds at once.
    pause(stage, "sbxQ", true).await;
    let forked = match case.fork_at {
        None => {
            server
                .post(
                    &format!("/api/ops/wf/{workflow}/fork"),
                    &json!({"stepN": 1}),
                )
                .await
                .expect_refusal(409);
            None
        }
        Some(step_n) => {
            let forked = fork(&server, &workflow, step_n).await;
            // Two runs of one command would be told apart by nobody: the fork waits until the original has ended.
            cancel(&server, &forked).await;
            Some(forked)
        }
    };
    cancel(&server, &workflow).await;

    assert_eq!(status(&server, &workflow).await, "CANCELLED");
    if is_run {
        let header = server.header(&workflow).await;
        assert_eq!(
            (&header["status"], &header["nextAction"]),
            (&json!("CANCELLED"), &Value::Null),
            "{header}"
        );
    }
    let_go(stage);
    until_nobody_executes(stage).await;
    assert!(
        !recorded(stage, &workflow)
            .await
            .contains(&case.next_step.to_owned()),
        "{} has started",
        case.next_step
    );
    for (child, status) in children(stage, &workflow).await {
        assert_eq!(status, "CANCELLED", "child {child}");
    }
    let open = "SELECT count(*) FROM app.waits w JOIN dbos.workflow_status s ON s.workflow_uuid = w.workflow_id WHERE s.status <> 'PENDING'";
    assert_eq!(
        stage.sql_count(open).await,
        0,
        "what was cancelled waits for nothing"
    );

    for queue in ["controlQ", "sbxQ"] {
        pause(stage, queue, false).await;
    }
    resume(&server, &workflow).await;
    if situation == Situation::WaitingForAnEvent {
        server.wait_next_action(&workflow, "APPROVE_PLAN").await;
        server.approve(&workflow).await;
    }
    until_status(&server, &workflow, "SUCCESS").await;
    if is_run {
        let header = server.wait_status(&workflow, "SUCCESS").await;
        assert_eq!(
            (&header["error"], &header["lastStep"]),
            (&Value::Null, &json!("ExecuteST")),
            "{header}"
        );
        assert_eq!(server.steps(&workflow).await.len(), 4);
    }
    let queue = if is_run { "intentQ" } else { "controlQ" };
    let workflow_row = server
        .get(&format!("/api/ops/wf/{workflow}"))
        .await
        .expect(200);
    assert_eq!(
        workflow_row["queueName"], queue,
        "it is still in its own queue"
    );

    match situation {
        Situation::Running | Situation::WaitingForChildren => assert_never_side_by_side(stage, 1),
        Situation::Suspended => assert_never_side_by_side(stage, 1),
        // The command of the dead process ended by itself, or with it; the second one is the one that counts.
        Situation::OwnedByADeadProcess => assert_eq!(
            effects(stage)
                .iter()
                .filter(|line| *line == "start")
                .count(),
            2
        ),
        Situation::InABackOff => assert_eq!(
            stage.sql_count("SELECT count(*) FROM app.sbx_runs").await,
            3
        ),
        Situation::Queued | Situation::Asleep => {
            assert_eq!(
                server.get("/slowmarks?wf=w").await.expect(200),
                json!({"s1": 1, "s2": 1})
            );
        }
        Situation::WaitingForAnEvent => {}
    }
    if let Some(forked) = forked {
        resume(&server, &forked).await;
        if situation == Situation::WaitingForAnEvent {
            server.wait_next_action(&forked, "APPROVE_PLAN").await;
            server.approve(&forked).await;
        }
        until_status(&server, &forked, "SUCCESS").await;
        assert_eq!(
            recorded(stage, &forked).await,
            recorded(stage, &workflow).await,
            "the same operations"
        );
    }
    let accepted = if case.fork_at.is_some() { 5 } else { 2 };
    assert_eq!(
        stage
            .sql_count("SELECT count(*) FROM app.artifacts WHERE step_id = 'OPS'")
            .await,
        accepted
    );
    stage.assert_no_duplicates().await;
}
