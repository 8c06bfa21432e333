//! A test per reason.

use super::*;
use crate::store::{
    explain::{Child, Holder, Worker},
    queue_limits::QueueRow,
};

const EXPIRY_MS: i64 = 15_000;
const NOW: i64 = 100_000;

fn run(status: RunStatus) -> runs::Model {
    runs::Model {
        id: "r".into(),
        intent_id: "r".into(),
        workflow_id: "r".into(),
        status,
        workflow_name: "w".into(),
        recipe_name: "x".into(),
        recipe_version: 1,
        queue_name: "intentQ".into(),
        queue_partition_key: None,
        priority: 0,
        tenant_id: None,
        request: "{}".into(),
        workload: "{}".into(),
        last_step: None,
        next_action: None,
        error: None,
        output: None,
        retry_count: 0,
        trace_id: String::new(),
        span_id: String::new(),
        forked_from: None,
        created_at: 0,
        updated_at: 0,
        started_at: None,
        ended_at: None,
    }
}

fn situation(status: WorkflowStatus) -> Situation {
    Situation {
        now: NOW,
        id: "r".into(),
        name: Some("stepwell.run".into()),
        status,
        queue_name: Some("intentQ".into()),
        partition: Some("t".into()),
        application_version: Some("v1".into()),
        recovery_attempts: 0,
        delay_until: None,
        deadline: None,
        claimed_by: None,
        claim_is_live: false,
        heartbeat_at: None,
        conditions: None,
        due_at: None,
        ahead: 2,
        live: 0,
        live_in_partition: 0,
        open_children: 0,
    }
}

fn evidence(workflow: Situation) -> Evidence {
    Evidence {
        workflow,
        queue: Some(no_limits()),
        holders: Vec::new(),
        workers: vec![worker("e1", "v1", 0)],
        children: Vec::new(),
    }
}

fn worker(id: &str, version: &str, live: i64) -> Worker {
    Worker {
        id: id.into(),
        app_version: version.into(),
        live,
    }
}

fn no_limits() -> QueueRow {
    QueueRow {
        concurrency: None,
        worker_concurrency: None,
        partition_concurrency: None,
        rate_limit_max: None,
        rate_limit_period_ms: None,
        fair: false,
        paused: false,
        window_started_at: 90_000,
        window_count: 0,
    }
}

fn holder(workflow: &str, partition: &str) -> Holder {
    Holder {
        workflow_id: workflow.into(),
        executor_id: "e1".into(),
        partition: Some(partition.into()),
    }
}

fn explained(status: RunStatus, own: Evidence) -> Explanation {
    let facts = Facts {
        own: Some(own),
        task: None,
        expiry_ms: EXPIRY_MS,
    };
    explain(&run(status), &facts)
}

fn queued() -> Situation {
    situation(WorkflowStatus::Enqueued)
}

fn waiting(conditions: &str) -> Situation {
    Situation {
        conditions: Some(conditions.into()),
        ..situation(WorkflowStatus::Pending)
    }
}

fn with_limits(queue: QueueRow, workflow: Situation) -> Evidence {
    Evidence {
        queue: Some(queue),
        holders: vec![holder("a", "t"), holder("b", "u")],
        ..evidence(workflow)
    }
}

#[test]
fn a_run_that_has_ended_says_how() {
    let explained = explained(
        RunStatus::Succeeded,
        evidence(situation(WorkflowStatus::Success)),
    );
    assert_eq!(explained.reason, Reason::Ended);
    assert_eq!(explained.data["status"], "succeeded");
}

#[test]
fn a_run_behind_its_workflow_says_so() {
    let explained = explained(
        RunStatus::Running,
        evidence(situation(WorkflowStatus::Cancelled)),
    );
    assert_eq!(explained.reason, Reason::Ended);
    assert_eq!(explained.data["status"], "CANCELLED");
}

#[test]
fn a_run_whose_workflow_is_gone_says_so() {
    let facts = Facts {
        own: None,
        task: None,
        expiry_ms: EXPIRY_MS,
    };
    assert_eq!(
        explain(&run(RunStatus::Running), &facts).reason,
        Reason::Ended
    );
}

#[test]
fn a_claimed_run_names_its_process_or_says_until_when_that_is_waited_for() {
    let claimed = |heartbeat_at| Situation {
        claimed_by: Some("e1".into()),
        claim_is_live: true,
        heartbeat_at,
        ..situation(WorkflowStatus::Pending)
    };
    let alive = explained(RunStatus::Running, evidence(claimed(Some(NOW - 5))));
    assert_eq!(
        (alive.reason, &alive.data["executor"]),
        (Reason::Executing, &json!("e1"))
    );
    let at_half = explained(RunStatus::Running, evidence(claimed(Some(NOW - 7_500))));
    assert_eq!(at_half.reason, Reason::Executing);
    let silent = explained(RunStatus::Running, evidence(claimed(Some(NOW - 7_501))));
    assert_eq!(
        (silent.reason, &silent.data["takenOverAt"]),
        (Reason::OwnerDead, &json!(NOW + 7_499))
    );
    assert_eq!(
        silent.sentence,
        "Its process has not been heard of for 8 s; unless it is, another one takes it over in 8 s."
    );
    let dead = explained(RunStatus::Running, evidence(claimed(Some(NOW - 20_000))));
    assert_eq!(
        (dead.reason, &dead.data["takenOverAt"]),
        (Reason::OwnerDead, &json!(NOW - 5_000))
    );
    assert!(dead.sentence.contains("has stopped beating"), "{dead:?}");
    let gone = explained(RunStatus::Running, evidence(claimed(None)));
    assert_eq!(gone.reason, Reason::OwnerDead);
}

#[test]
fn a_run_at_its_gate_waits_for_approval() {
    let explained = explained(
        RunStatus::WaitingInput,
        evidence(waiting(r#"[{"kind":"message","topic":"approve-plan"}]"#)),
    );
    assert_eq!(explained.reason, Reason::WaitingForApproval);
    assert_eq!(explained.data["nextAction"], "APPROVE_PLAN");
}

#[test]
fn a_run_names_the_tasks_that_it_waits_for() {
    let own = Evidence {
        children: vec![Child {
            id: "k".into(),
            status: WorkflowStatus::Pending,
            executing: true,
            due_at: None,
        }],
        ..evidence(Situation {
            open_children: 1,
            ..waiting(r#"[{"kind":"children","low":1,"high":2}]"#)
        })
    };
    let explained = explained(RunStatus::Running, own);
    assert_eq!(explained.reason, Reason::WaitingForChildren);
    assert_eq!(explained.data["children"][0]["workflowID"], "k");
}

#[test]
fn what_holds_its_task_back_holds_the_run_back() {
    let task = |situation: Situation| Evidence {
        workflow: Situation {
            id: "k".into(),
            name: Some("stepwell.task".into()),
            ..situation
        },
        ..evidence(queued())
    };
    let facts = |task| Facts {
        own: Some(evidence(waiting(
            r#"[{"kind":"children","low":1,"high":2}]"#,
        ))),
        task: Some(task),
        expiry_ms: EXPIRY_MS,
    };
    let backing_off = task(Situation {
        due_at: Some(NOW + 700),
        ..waiting(r#"[{"kind":"time","at":100700}]"#)
    });
    let explained = explain(&run(RunStatus::Running), &facts(backing_off));
    assert_eq!(explained.reason, Reason::RetryBackoff);
    assert_eq!(
        (&explained.data["nextAttemptAt"], &explained.data["task"]),
        (&json!(NOW + 700), &json!("k"))
    );
    assert!(explained.sentence.contains("task k"), "{explained:?}");

    let silent = task(Situation {
        claimed_by: Some("e1".into()),
        claim_is_live: true,
        heartbeat_at: Some(NOW - 10_000),
        ..situation(WorkflowStatus::Pending)
    });
    let explained = explain(&run(RunStatus::Running), &facts(silent));
    assert_eq!(explained.reason, Reason::OwnerDead);
    assert!(
        explained
            .sentence
            .contains("task k. Its process has not been heard of for 10 s"),
        "{explained:?}"
    );

    let about_to_start = explain(&run(RunStatus::Running), &facts(task(queued())));
    assert_eq!(about_to_start.reason, Reason::WaitingForChildren);
}

#[test]
fn a_run_that_waits_for_another_workflow_says_for_what() {
    let explained = explained(
        RunStatus::Running,
        evidence(waiting(r#"[{"kind":"event","workflow":"x","key":"k"}]"#)),
    );
    assert_eq!(explained.reason, Reason::WaitingForEvent);
    assert_eq!(explained.data["waitsFor"]["workflow"], "x");
}

#[test]
fn a_sleeper_says_until_when_and_one_that_is_due_says_that() {
    let sleeping = |due_at| Situation {
        due_at: Some(due_at),
        ..waiting(r#"[{"kind":"time","at":1}]"#)
    };
    let asleep = explained(RunStatus::Running, evidence(sleeping(NOW + 1)));
    assert_eq!(
        (asleep.reason, &asleep.data["dueAt"]),
        (Reason::Asleep, &json!(NOW + 1))
    );
    let due = explained(RunStatus::Running, evidence(sleeping(NOW)));
    assert_eq!(due.reason, Reason::Due);
}

#[test]
fn a_mismatch_says_where_and_when_it_is_tried_again() {
    let conditions = r#"[{"kind":"mismatch","function_id":3,"recorded":"a","called":"b"}]"#;
    let explained = explained(
        RunStatus::Running,
        evidence(Situation {
            due_at: Some(NOW + 9),
            ..waiting(conditions)
        }),
    );
    assert_eq!(explained.reason, Reason::ReplayMismatch);
    assert_eq!(explained.data["nextAttemptAt"], NOW + 9);
    assert!(
        explained.sentence.contains("function id 3"),
        "{explained:?}"
    );
}

#[test]
fn a_queued_run_says_how_many_come_before_it() {
    let explained = explained(RunStatus::Queued, evidence(queued()));
    assert_eq!(
        (explained.reason, &explained.data["ahead"]),
        (Reason::Queued, &json!(2))
    );
}

#[test]
fn a_delayed_run_says_when_it_may_start() {
    let delayed = Situation {
        delay_until: Some(NOW + 5),
        ..situation(WorkflowStatus::Delayed)
    };
    let explained = explained(RunStatus::Queued, evidence(delayed));
    assert_eq!(
        (explained.reason, &explained.data["startsAt"]),
        (Reason::Delayed, &json!(NOW + 5))
    );
}

#[test]
fn a_resumed_run_waits_for_the_end_of_what_was_in_progress() {
    let resumed = Situation {
        claimed_by: Some("e1".into()),
        heartbeat_at: Some(NOW),
        ..queued()
    };
    let explained = explained(RunStatus::Queued, evidence(resumed));
    assert_eq!(explained.reason, Reason::PreviousExecution);
    assert_eq!(explained.data["executor"], "e1");
}

#[test]
fn without_a_worker_of_its_version_the_living_versions_are_named() {
    let others = Evidence {
        workers: vec![
            worker("e1", "v2", 0),
            worker("e2", "v3", 0),
            worker("e3", "v2", 0),
        ],
        ..evidence(queued())
    };
    let explained = explained(RunStatus::Queued, others);
    assert_eq!(explained.reason, Reason::NoWorkerWithVersion);
    assert_eq!(
        explained.data,
        json!({"applicationVersion": "v1", "liveVersions": ["v2", "v3"]})
    );
}

#[test]
fn without_any_worker_that_is_said() {
    let nobody = Evidence {
        workers: Vec::new(),
        ..evidence(queued())
    };
    let explained = explained(RunStatus::Queued, nobody);
    assert_eq!(explained.reason, Reason::NoWorkerWithVersion);
    assert_eq!(explained.data["liveVersions"], json!([]));
}

#[test]
fn a_paused_queue_is_named() {
    let paused = QueueRow {
        paused: true,
        ..no_limits()
    };
    let explained = explained(RunStatus::Queued, with_limits(paused, queued()));
    assert_eq!(
        (explained.reason, &explained.data["queue"]),
        (Reason::QueuePaused, &json!("intentQ"))
    );
}

#[test]
fn a_full_queue_names_who_holds_its_places() {
    let full = QueueRow {
        concurrency: Some(2),
        ..no_limits()
    };
    let explained = explained(
        RunStatus::Queued,
        with_limits(
            full,
            Situation {
                live: 2,
                ..queued()
            },
        ),
    );
    assert_eq!(explained.reason, Reason::QueueConcurrency);
    assert_eq!(
        explained.data["holders"],
        json!([{"workflowID": "a", "executor": "e1"}, {"workflowID": "b", "executor": "e1"}])
    );
}

#[test]
fn a_full_partition_names_its_own_holders() {
    let full = QueueRow {
        partition_concurrency: Some(1),
        ..no_limits()
    };
    let explained = explained(
        RunStatus::Queued,
        with_limits(
            full,
            Situation {
                live_in_partition: 1,
                ..queued()
            },
        ),
    );
    assert_eq!(explained.reason, Reason::PartitionConcurrency);
    assert_eq!(
        (&explained.data["partition"], &explained.data["holders"]),
        (&json!("t"), &json!([{"workflowID": "a", "executor": "e1"}]))
    );
}

#[test]
fn processes_that_are_all_full_are_named_and_those_of_other_versions_do_not_count() {
    let full = QueueRow {
        worker_concurrency: Some(1),
        ..no_limits()
    };
    let own = |here| Evidence {
        workers: vec![worker("e1", "v1", here), worker("e2", "v2", 0)],
        ..with_limits(full.clone(), queued())
    };
    let full = explained(RunStatus::Queued, own(1));
    assert_eq!(full.reason, Reason::WorkerConcurrency);
    assert_eq!(full.data["workers"], json!([{"executor": "e1", "live": 1}]));
    assert_eq!(explained(RunStatus::Queued, own(0)).reason, Reason::Queued);
}

#[test]
fn a_used_up_rate_says_when_it_opens_and_holds_back_starts_only() {
    let used_up = QueueRow {
        rate_limit_max: Some(5),
        rate_limit_period_ms: Some(60_000),
        window_count: 5,
        ..no_limits()
    };
    let limited = explained(RunStatus::Queued, with_limits(used_up.clone(), queued()));
    assert_eq!(
        (limited.reason, &limited.data["opensAt"]),
        (Reason::RateLimit, &json!(150_000))
    );
    let woken = Situation {
        due_at: Some(NOW - 1),
        ..waiting("[]")
    };
    assert_eq!(
        explained(RunStatus::Running, with_limits(used_up, woken)).reason,
        Reason::Due
    );
}

#[test]
fn a_deadline_is_told_and_one_that_has_passed_is_the_reason() {
    let with_deadline = |at| Situation {
        deadline: Some(at),
        ..queued()
    };
    let ahead = explained(RunStatus::Queued, evidence(with_deadline(NOW + 50)));
    assert_eq!(
        (ahead.reason, &ahead.data["deadlineAt"]),
        (Reason::Queued, &json!(NOW + 50))
    );
    let passed = explained(RunStatus::Queued, evidence(with_deadline(NOW)));
    assert_eq!(passed.reason, Reason::DeadlinePassed);
}
