//! Owns the list of questions, by invariant. Invariant 9 (a refusal writes nothing) leaves no row to ask for: its tests count rows.

use super::Check;

/// Every question.
pub(super) const ALL: &[Check] = &[
    Check {
        name: "run_without_intent",
        invariant: 1,
        sentence: "Every run executes an intent that exists.",
        sql: "SELECT r.id AS subject, 'intent ' || r.intent_id AS detail FROM \"app\".runs r \
              WHERE NOT EXISTS (SELECT 1 FROM \"app\".intents i WHERE i.id = r.intent_id)",
    },
    Check {
        name: "run_without_workflow",
        invariant: 1,
        sentence: "Every run that was accepted and has not ended has a workflow; without one nothing will ever move it.",
        sql: "SELECT r.id AS subject, 'workflow ' || r.workflow_id || ', run ' || r.status AS detail FROM \"app\".runs r \
              WHERE r.status IN {open_run} AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = r.workflow_id)",
    },
    Check {
        name: "workflow_without_run",
        invariant: 1,
        sentence: "Every workflow of a run has its row in app.runs, written in the same transaction.",
        sql: "SELECT s.workflow_uuid AS subject, s.status AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.name = 'stepwell.run' \
              AND s.forked_from IS NULL AND NOT EXISTS (SELECT 1 FROM \"app\".runs r WHERE r.workflow_id = s.workflow_uuid)",
    },
    Check {
        name: "workflow_without_input",
        invariant: 1,
        sentence: "Every workflow of ours that has not ended has the input it was accepted with.",
        sql: "SELECT s.workflow_uuid AS subject, s.status AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.status IN {open} \
              AND s.inputs IS NULL AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_input i WHERE i.workflow_uuid = s.workflow_uuid)",
    },
    Check {
        name: "child_that_is_gone",
        invariant: 1,
        sentence: "Every child that a living workflow has started exists; its parent would wait for ever.",
        sql: "SELECT o.child_workflow_id AS subject, 'parent ' || o.workflow_uuid AS detail FROM \"dbos\".operation_outputs o \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = o.workflow_uuid WHERE {ours} AND s.status IN {open} \
              AND o.child_workflow_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_status k WHERE k.workflow_uuid = o.child_workflow_id)",
    },
    Check {
        name: "approval_without_message",
        invariant: 1,
        sentence: "An approval and the message that lets the run go on are written together; without the message the run waits for ever.",
        sql: "SELECT a.run_id AS subject, 'approved by ' || a.approved_by AS detail FROM \"app\".plan_approvals a JOIN \"app\".runs r ON r.id = a.run_id \
              WHERE r.status IN {open_run} AND NOT EXISTS (SELECT 1 FROM \"dbos\".notifications n \
              WHERE n.destination_uuid = r.workflow_id AND n.topic = 'approve-plan')",
    },
    Check {
        name: "open_run_of_an_ended_workflow",
        invariant: 1,
        sentence: "A run ends with its workflow, or within a round of the projector when another client ended it; some worker or tick must live for that.",
        sql: "SELECT r.id AS subject, 'run ' || r.status || ', workflow ' || s.status AS detail FROM \"app\".runs r \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = r.workflow_id WHERE r.status IN {open_run} AND s.status NOT IN {open} \
              AND COALESCE(s.completed_at, s.updated_at) < {settled}",
    },
    Check {
        name: "ended_run_of_a_suspended_workflow",
        invariant: 2,
        sentence: "A run that has ended goes on only through a resume or retry, which opens it again.",
        sql: "SELECT r.id AS subject, 'run ' || r.status || ', workflow ' || s.status AS detail FROM \"app\".runs r \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = r.workflow_id WHERE r.status NOT IN {open_run} AND s.status = 'PENDING' \
              AND s.owner_xid IS NULL AND s.updated_at < {settled}",
    },
    Check {
        name: "run_that_ended_otherwise",
        invariant: 2,
        sentence: "The outcome is written once: a run says of its end what its workflow says.",
        sql: "SELECT r.id AS subject, 'run ' || r.status || ', workflow ' || s.status AS detail FROM \"app\".runs r \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = r.workflow_id WHERE (r.status = 'succeeded' AND s.status IN \
              ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')) OR (r.status IN ('failed', 'retries_exceeded', 'canceled') AND s.status = 'SUCCESS')",
    },
    Check {
        name: "ended_without_time",
        invariant: 2,
        sentence: "A workflow of ours that has ended says when.",
        sql: "SELECT s.workflow_uuid AS subject, s.status AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.status NOT IN {open} \
              AND s.completed_at IS NULL",
    },
    Check {
        name: "success_without_output",
        invariant: 2,
        sentence: "A workflow's success and its output are written together.",
        sql: "SELECT s.workflow_uuid AS subject, s.name AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.status = 'SUCCESS' \
              AND s.output IS NULL AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_output o WHERE o.workflow_uuid = s.workflow_uuid)",
    },
    Check {
        name: "owner_of_an_ended_workflow",
        invariant: 2,
        sentence: "Nobody owns a workflow that has ended: its outcome could be written again.",
        sql: "SELECT s.workflow_uuid AS subject, s.status || ', owner ' || s.owner_xid AS detail FROM \"dbos\".workflow_status s WHERE {ours} \
              AND s.status NOT IN {open} AND s.owner_xid IS NOT NULL",
    },
    Check {
        name: "receipt_seen_twice",
        invariant: 3,
        sentence: "A task's attempt is recorded once.",
        sql: "SELECT m.run_id AS subject, 'task ' || m.task_key || ', attempt ' || m.attempt || ', seen ' || m.seen_count AS detail \
              FROM \"app\".mock_receipts m WHERE m.seen_count > 1",
    },
    Check {
        name: "step_recorded_twice",
        invariant: 3,
        sentence: "A step of a run is recorded once per attempt.",
        sql: "SELECT t.run_id AS subject, t.step_id || ', attempt ' || t.attempt AS detail FROM \"app\".run_steps t \
              GROUP BY t.run_id, t.step_id, t.attempt HAVING count(*) > 1",
    },
    Check {
        name: "artifact_number_given_twice",
        invariant: 3,
        sentence: "The number of an artifact is given once per run, step and attempt.",
        sql: "SELECT a.run_id AS subject, a.step_id || ', attempt ' || a.attempt || ', idx ' || a.idx AS detail FROM \"app\".artifacts a \
              GROUP BY a.run_id, a.step_id, a.attempt, a.idx HAVING count(*) > 1",
    },
    Check {
        name: "step_without_checkpoint",
        invariant: 3,
        sentence: "The rows of a step exist if and only if its checkpoint does: here is a row without one.",
        sql: "SELECT t.run_id AS subject, t.step_id AS detail FROM \"app\".run_steps t JOIN \"app\".runs r ON r.id = t.run_id \
              WHERE t.finished_at IS NOT NULL AND t.step_id IN {steps} AND EXISTS (SELECT 1 FROM \"dbos\".workflow_status s \
              WHERE s.workflow_uuid = r.workflow_id) AND NOT EXISTS (SELECT 1 FROM \"dbos\".operation_outputs o \
              WHERE o.workflow_uuid = r.workflow_id AND o.function_name = t.step_id)",
    },
    Check {
        name: "checkpoint_without_step",
        invariant: 3,
        sentence: "The rows of a step exist if and only if its checkpoint does: here is a checkpoint without one.",
        sql: "SELECT r.id AS subject, o.function_name AS detail FROM \"dbos\".operation_outputs o JOIN \"app\".runs r ON r.workflow_id = o.workflow_uuid \
              WHERE r.forked_from IS NULL AND o.function_name IN {steps} \
              AND NOT EXISTS (SELECT 1 FROM \"app\".run_steps t WHERE t.run_id = r.id AND t.step_id = o.function_name)",
    },
    Check {
        name: "task_rows_differ_from_checkpoints",
        invariant: 3,
        sentence: "Each attempt of a task has one checkpoint and one row in app.sbx_runs.",
        sql: "SELECT q.id AS subject, q.recorded || ' checkpoints, ' || q.kept || ' rows' AS detail FROM (SELECT s.workflow_uuid AS id, \
              (SELECT count(*) FROM \"dbos\".operation_outputs o WHERE o.workflow_uuid = s.workflow_uuid AND o.function_name = 'ExecuteTask' \
              AND o.error IS NULL) AS recorded, (SELECT count(*) FROM \"app\".sbx_runs x JOIN \"app\".runs r ON r.id = x.run_id \
              WHERE x.task_key = s.workflow_uuid AND r.workflow_id = s.parent_workflow_id) AS kept \
              FROM \"dbos\".workflow_status s WHERE {ours} AND s.name = 'stepwell.task' AND s.forked_from IS NULL \
              AND EXISTS (SELECT 1 FROM \"app\".runs r WHERE r.workflow_id = s.parent_workflow_id)) AS q WHERE q.recorded <> q.kept",
    },
    Check {
        name: "claim_without_workflow",
        invariant: 4,
        sentence: "A claim is one of a workflow that exists.",
        sql: "SELECT c.workflow_id AS subject, 'executor ' || c.executor_id AS detail FROM \"app\".claims c \
              WHERE NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = c.workflow_id)",
    },
    Check {
        name: "claim_of_an_ended_workflow",
        invariant: 4,
        sentence: "The claim ends with the workflow; only that of a cancelled one stands until its step has ended.",
        sql: "SELECT c.workflow_id AS subject, s.status || ', executor ' || c.executor_id AS detail FROM \"app\".claims c \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = c.workflow_id WHERE s.status IN ('SUCCESS', 'ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')",
    },
    Check {
        name: "claim_without_its_fence",
        invariant: 4,
        sentence: "A live claim carries the token that its workflow's row names as owner; another one owns nothing.",
        sql: "SELECT c.workflow_id AS subject, 'claim ' || c.token || ', owner ' || COALESCE(s.owner_xid, 'nobody') AS detail FROM \"app\".claims c \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = c.workflow_id WHERE s.status = 'PENDING' AND (s.owner_xid IS NULL OR s.owner_xid <> c.token)",
    },
    Check {
        name: "claim_of_nobody",
        invariant: 4,
        sentence: "The claims of a dead process are released after its expiry; some worker or tick must live for that.",
        sql: "SELECT c.workflow_id AS subject, 'executor ' || c.executor_id AS detail FROM \"app\".claims c WHERE c.claimed_at < {dead} \
              AND NOT EXISTS (SELECT 1 FROM \"app\".executors e WHERE e.id = c.executor_id)",
    },
    Check {
        name: "more_live_than_the_queue_allows",
        invariant: 5,
        sentence: "No more workflows of a queue are in execution than its concurrency; what was claimed before the limit changed does not count.",
        sql: "SELECT q.name AS subject, count(*) || ' live, ' || q.concurrency || ' allowed' AS detail FROM \"app\".queue_limits q \
              JOIN \"app\".claims c ON c.queue_name = q.name AND c.claimed_at > q.updated_at JOIN \"dbos\".workflow_status s \
              ON s.workflow_uuid = c.workflow_id AND s.owner_xid = c.token AND s.status = 'PENDING' WHERE q.concurrency IS NOT NULL \
              GROUP BY q.name, q.concurrency HAVING count(*) > q.concurrency",
    },
    Check {
        name: "more_live_than_a_worker_may",
        invariant: 5,
        sentence: "No more workflows of a queue are in execution in one process than its worker concurrency.",
        sql: "SELECT q.name AS subject, c.executor_id || ': ' || count(*) || ' live, ' || q.worker_concurrency || ' allowed' AS detail \
              FROM \"app\".queue_limits q JOIN \"app\".claims c ON c.queue_name = q.name AND c.claimed_at > q.updated_at \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = c.workflow_id AND s.owner_xid = c.token AND s.status = 'PENDING' \
              WHERE q.worker_concurrency IS NOT NULL GROUP BY q.name, c.executor_id, q.worker_concurrency HAVING count(*) > q.worker_concurrency",
    },
    Check {
        name: "more_live_than_a_partition_may",
        invariant: 5,
        sentence: "No more workflows of a queue are in execution in one partition than its partition concurrency.",
        sql: "SELECT q.name AS subject, COALESCE(c.queue_partition_key, '') || ': ' || count(*) || ' live, ' || q.partition_concurrency || ' allowed' AS detail \
              FROM \"app\".queue_limits q JOIN \"app\".claims c ON c.queue_name = q.name AND c.claimed_at > q.updated_at \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = c.workflow_id AND s.owner_xid = c.token AND s.status = 'PENDING' \
              WHERE q.partition_concurrency IS NOT NULL GROUP BY q.name, c.queue_partition_key, q.partition_concurrency \
              HAVING count(*) > q.partition_concurrency",
    },
    Check {
        name: "more_started_than_the_rate_allows",
        invariant: 5,
        sentence: "No more workflows of a queue start in a period than its rate.",
        sql: "SELECT q.name AS subject, q.window_count || ' started, ' || q.rate_limit_max || ' allowed' AS detail FROM \"app\".queue_limits q \
              WHERE q.rate_limit_max IS NOT NULL AND q.window_count > q.rate_limit_max AND q.window_started_at > q.updated_at",
    },
    Check {
        name: "slot_executed_twice",
        invariant: 6,
        sentence: "A slot of a schedule is executed once.",
        sql: "SELECT a.run_id AS subject, count(*) || ' ticks' AS detail FROM \"app\".artifacts a WHERE a.step_id = 'ScheduledTick' \
              GROUP BY a.run_id HAVING count(*) > 1",
    },
    Check {
        name: "attempts_above_the_cap",
        invariant: 7,
        sentence: "A workflow is given up after MAX_RECOVERY_ATTEMPTS claims without progress (as this process is configured).",
        sql: "SELECT s.workflow_uuid AS subject, s.recovery_attempts || ' attempts' AS detail FROM \"dbos\".workflow_status s WHERE {ours} \
              AND s.recovery_attempts > {attempts}",
    },
    Check {
        name: "artifact_without_hash",
        invariant: 8,
        sentence: "Every artifact has the SHA-256 of its content.",
        sql: "SELECT a.uri AS subject, 'sha256 ' || a.sha256 AS detail FROM \"app\".artifacts a WHERE length(a.sha256) <> 64",
    },
    Check {
        name: "artifact_without_content",
        invariant: 8,
        sentence: "Every artifact has its content: as JSON, as bytes, or stored by its hash.",
        sql: "SELECT a.uri AS subject, a.kind AS detail FROM \"app\".artifacts a WHERE a.kind <> 'none' AND a.size > 0 AND a.inline IS NULL \
              AND a.content IS NULL AND a.storage_key IS NULL",
    },
    Check {
        name: "artifact_of_another_size",
        invariant: 8,
        sentence: "The content of an artifact is as long as its row says.",
        sql: "SELECT a.uri AS subject, length(a.content) || ' bytes, not ' || a.size AS detail FROM \"app\".artifacts a \
              WHERE a.content IS NOT NULL AND length(a.content) <> a.size",
    },
    Check {
        name: "artifact_whose_content_is_gone",
        invariant: 8,
        sentence: "Content that an artifact names is stored as long as the artifact is.",
        sql: "SELECT a.uri AS subject, a.storage_key AS detail FROM \"app\".artifacts a WHERE a.storage_key LIKE 'blob:%' \
              AND NOT EXISTS (SELECT 1 FROM \"app\".blobs b WHERE b.sha256 = substr(a.storage_key, 6))",
    },
    Check {
        name: "content_with_a_gap",
        invariant: 8,
        sentence: "Stored content has all its chunks.",
        sql: "SELECT b.sha256 AS subject, COALESCE(k.stored, 0) || ' bytes, not ' || b.size AS detail FROM \"app\".blobs b LEFT JOIN \
              (SELECT sha256, CAST(sum(length(bytes)) AS bigint) AS stored FROM \"app\".blob_chunks GROUP BY sha256) AS k ON k.sha256 = b.sha256 \
              WHERE COALESCE(k.stored, 0) <> b.size",
    },
    Check {
        name: "ops_action_without_its_data",
        invariant: 8,
        sentence: "The artifact of an ops action says what was done, and to which workflow.",
        sql: "SELECT a.uri AS subject, 'attempt ' || a.attempt AS detail FROM \"app\".artifacts a WHERE a.step_id = 'OPS' \
              AND (a.inline->>'op' IS NULL OR a.inline->>'targetWorkflowID' IS NULL)",
    },
    Check {
        name: "suspended_without_wait",
        invariant: 10,
        sentence: "A suspended workflow has a row in app.waits; without one nothing wakes it.",
        sql: "SELECT s.workflow_uuid AS subject, s.name AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.status = 'PENDING' \
              AND s.owner_xid IS NULL AND s.updated_at < {settled} AND NOT EXISTS (SELECT 1 FROM \"app\".waits w WHERE w.workflow_id = s.workflow_uuid)",
    },
    Check {
        name: "wait_of_a_workflow_that_is_not_suspended",
        invariant: 10,
        sentence: "A wait belongs to a suspended workflow; another client leaves one behind for a round of the reconciler at most.",
        sql: "SELECT w.workflow_id AS subject, COALESCE(s.status, 'gone') AS detail FROM \"app\".waits w \
              LEFT JOIN \"dbos\".workflow_status s ON s.workflow_uuid = w.workflow_id \
              WHERE s.workflow_uuid IS NULL OR (s.updated_at < {settled} AND NOT (s.status = 'PENDING' AND s.owner_xid IS NULL))",
    },
    Check {
        name: "wait_beside_a_claim",
        invariant: 10,
        sentence: "A workflow is suspended or claimed, never both.",
        sql: "SELECT w.workflow_id AS subject, 'executor ' || c.executor_id AS detail FROM \"app\".waits w JOIN \"app\".claims c ON c.workflow_id = w.workflow_id \
              JOIN \"dbos\".workflow_status s ON s.workflow_uuid = w.workflow_id WHERE s.status = 'PENDING' AND s.owner_xid = c.token",
    },
    Check {
        name: "owner_without_claim",
        invariant: 10,
        sentence: "Every live claim has its row in app.claims; an owner without one is taken back after the expiry.",
        sql: "SELECT s.workflow_uuid AS subject, 'owner ' || s.owner_xid AS detail FROM \"dbos\".workflow_status s WHERE {ours} AND s.status = 'PENDING' \
              AND s.owner_xid IS NOT NULL AND s.updated_at < {dead} AND NOT EXISTS (SELECT 1 FROM \"app\".claims c \
              WHERE c.workflow_id = s.workflow_uuid AND c.token = s.owner_xid)",
    },
    Check {
        name: "dead_process_that_nobody_buried",
        invariant: 11,
        sentence: "A process that has stopped beating is removed by another one; some worker or tick must live for that.",
        sql: "SELECT e.id AS subject, e.hostname || ', pid ' || e.pid AS detail FROM \"app\".executors e WHERE e.heartbeat_at < {dead}",
    },
    Check {
        name: "step_of_a_run_that_is_gone",
        invariant: 12,
        sentence: "Garbage collection deletes whole runs, and never one that has not ended.",
        sql: "SELECT t.run_id AS subject, 'step ' || t.step_id AS detail FROM \"app\".run_steps t \
              WHERE NOT EXISTS (SELECT 1 FROM \"app\".runs r WHERE r.id = t.run_id) \
              AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_status s WHERE s.workflow_uuid = t.run_id)",
    },
];
