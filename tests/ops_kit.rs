//! The operator's kit: labs N and O of the manual as they are written, batches of a thousand, and `stepwell ops` with and without a server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{process::Output, process::Stdio, time::Duration};

use harness::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

const DEADLINE: Duration = Duration::from_secs(60);

/// Lab N, command by command.
const LAB_N: [&str; 8] = [
    "mise run ops:list-failed",
    r#"printf '%s\n' "$WF" | mise run ops:cancel-batch"#,
    r#"printf '%s\n' "$WF" | mise run ops:resume-batch"#,
    r#"printf '%s\n' "$WF" | mise run ops:fork-batch 1 v1"#,
    "mise run ops:sql:inbox",
    "mise run ops:sql:slow",
    "mise run ops:sql:queues",
    "scripts/policy-ops-surface.sh",
];

/// Lab O, and how many rows each answers at least.
const LAB_O: [(&str, usize); 5] = [
    (
        r#"sql_app "SELECT id,intent_id,workflow_id,status,last_step,retry_count,next_action,error FROM app.runs ORDER BY created_at DESC LIMIT 20;""#,
        1,
    ),
    (
        r#"sql_app "SELECT run_id,step_id,attempt,trace_id,span_id,started_at,finished_at FROM app.run_steps ORDER BY started_at DESC NULLS LAST, step_id, attempt LIMIT 40;""#,
        4,
    ),
    (
        r#"sql_app "SELECT run_id,step_id,idx,kind,uri,sha256 FROM app.artifacts ORDER BY created_at DESC LIMIT 60;""#,
        4,
    ),
    (
        r#"sql_app "SELECT run_id,task_key,attempt,err_code,created_at FROM app.sbx_runs ORDER BY created_at DESC LIMIT 60;""#,
        1,
    ),
    (
        r#"sql_sys "SELECT workflow_uuid,status,queue_name,application_version,recovery_attempts FROM dbos.workflow_status ORDER BY updated_at DESC LIMIT 40;""#,
        2,
    ),
];

/// The exactly-once checks of lab O.
const LAB_O_DUPLICATES: [&str; 3] = [
    r#"sql_app "SELECT run_id,count(*) dup FROM app.mock_receipts WHERE seen_count>1 GROUP BY run_id;""#,
    r#"sql_app "SELECT run_id,step_id,attempt,count(*) c FROM app.run_steps GROUP BY run_id,step_id,attempt HAVING count(*)>1;""#,
    r#"sql_app "SELECT run_id,step_id,attempt,idx,count(*) c FROM app.artifacts GROUP BY run_id,step_id,attempt,idx HAVING count(*)>1;""#,
];

fn tools_are_missing(backend: Backend) -> bool {
    let client = match backend {
        Backend::Sqlite => "sqlite3",
        Backend::Postgres => "psql",
    };
    missing_tools(&["bash", "curl", "jq", "node", "npm", client])
}

/// Runs `stepwell` with `input` on its standard input.
async fn stepwell(stage: &Stage, arguments: &[&str], input: &str) -> Output {
    let mut child = stage
        .command(arguments)
        .env("USER", "operator")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let written = tokio::spawn(async move {
        // A command that refuses its arguments reads nothing.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output = child.wait_with_output().await.unwrap();
    written.await.unwrap();
    output
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The standard output of a command that must end well.
async fn told(stage: &Stage, arguments: &[&str], input: &str) -> String {
    let output = stepwell(stage, arguments, input).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    out(&output)
}

/// The summary of a batch run with `--json`: accepted, refused, unknown, failed.
fn counts(output: &Output) -> [u64; 4] {
    let text = out(output);
    let last: Value = serde_json::from_str(text.lines().last().expect("a summary")).unwrap();
    ["accepted", "refused", "unknown", "failed"].map(|key| last[key].as_u64().unwrap())
}

/// Queued workflows of a version that no process here has: they stay where they are put.
async fn queue_of_another_version(stage: &Stage, how_many: usize) -> Vec<String> {
    let ids: Vec<String> = (0..how_many).map(|n| format!("bulk-{n:04}")).collect();
    for ids in ids.chunks(500) {
        let rows: Vec<String> = ids
            .iter()
            .map(|id| {
                format!(
                    "('{id}', 'ENQUEUED', 'stepwell.marks', 'controlQ', 'another', 'stepwell', 0, false, false, false, 1, 1)"
                )
            })
            .collect();
        stage
            .sql_execute(&format!(
                "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_version, application_name, priority, \
                 was_forked_from, rate_limited, is_debounced, created_at, updated_at) VALUES {}",
                rows.join(", ")
            ))
            .await;
    }
    ids
}

async fn done(server: &Server, id: &str) {
    let path = format!("/slowstep?wf={id}&sleep=0");
    server.send("POST", &path, None).await.expect(202);
    eventually(DEADLINE, &format!("{id} has ended"), || async {
        let found = server.get(&format!("/api/ops/wf/{id}")).await.json();
        if found["status"] == "SUCCESS" {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
}

async fn statuses(stage: &Stage, like: &str) -> Vec<Value> {
    let sql = format!(
        "SELECT status, count(*) AS n FROM dbos.workflow_status WHERE workflow_uuid LIKE '{like}' GROUP BY status ORDER BY status"
    );
    stage.sql(&sql).await
}

on_both_databases! {
    async fn lab_n_runs_as_it_is_written(stage: Stage) {
        if tools_are_missing(stage.backend()) {
            return;
        }
        let Some(bin) = mise_bin().await else { return };
        let server = stage.serve().await;
        done(&server, "lab-n").await;
        let mut lab = stage.lab(&server).await;
        let settings: Vec<String> = mise_env(&stage).iter().map(|(name, value)| format!("export {name}='{value}'")).collect();
        lab.block(&format!("{}\nexport PATH='{}':$PATH\nWF=lab-n", settings.join("\n"), bin.display())).await.ok();

        let mut outputs = Vec::new();
        for command in LAB_N {
            let output = lab.block(command).await;
            assert_eq!(output.code, 0, "{output:#?}");
            outputs.push(output.stdout);
        }
        let [_, cancelled, resumed, forked, inbox, slow, queues, _] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert!(cancelled.contains("cancel: accepted 0, refused 1, unknown 0, failed 0"), "{cancelled}");
        assert!(resumed.contains("resume: accepted 0, refused 1, unknown 0, failed 0"), "{resumed}");
        assert!(forked.contains("fork: accepted 1, refused 0, unknown 0, failed 0") && forked.contains("fork lab-n -> rn_"), "{forked}");
        for view in [inbox, slow, queues] {
            assert!(view.contains(" row"), "{view}");
        }
        let forks = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE forked_from = 'lab-n' AND application_version = 'v1'").await;
        assert_eq!(forks, 1);
    }

    async fn the_views_show_failures_slow_steps_and_queues(stage: Stage) {
        if tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let intent = server.create_intent("fails", json!({"command": "exit 3"})).await;
        let run = server.start_run(&intent, "shell-default").await;
        server.wait_status(&run, "ERROR").await;
        stage.sql_execute(&format!("UPDATE app.run_steps SET finished_at = started_at + 7000 WHERE run_id = '{run}' AND step_id = 'CompileST'")).await;
        queue_of_another_version(&stage, 3).await;

        for (script, shown) in [
            ("ops-sql-inbox.sh", format!("{run}|")),
            ("ops-sql-slow.sh", format!("{run}|CompileST|1|")),
            ("ops-sql-queues.sh", "controlQ|ENQUEUED|3|".to_owned()),
        ] {
            let script = format!("{}/scripts/{script}", env!("CARGO_MANIFEST_DIR"));
            let output = stage.tool("bash").args([&script, "-t", "-A"]).output().await.unwrap();
            assert!(output.status.success() && out(&output).contains(&shown), "{shown}: {output:?}");
        }
        let failed = told(&stage, &["ops", "ls", "--status", "ERROR", "--status", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "--ids"], "").await;
        assert_eq!(failed.trim(), run);
    }

    async fn lab_o_answers_on_both_databases(stage: Stage) {
        if tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;
        let mut lab = stage.lab(&server).await;

        for (query, least) in LAB_O {
            let table = lab.block(query).await.ok();
            let rows = table.lines().filter(|line| line.contains('|')).count() - 1;
            assert!(rows >= least, "{query}: {table}");
        }
        for query in LAB_O_DUPLICATES {
            let table = lab.block(query).await.ok();
            assert!(table.contains("(0 rows)"), "{query}: {table}");
        }
    }

    async fn a_batch_of_a_thousand_goes_on_after_refusals_and_may_run_twice(stage: Stage) {
        let server = stage.serve().await;
        done(&server, "finished").await;
        let ids = queue_of_another_version(&stage, 1_000).await;
        let mut lines = ids.join("\n");
        lines.push_str("\n\nfinished\nbulk-0000\n  bulk-0001  \n");
        let before = stage.row_counts().await;

        let dry = stepwell(&stage, &["ops", "--json", "cancel", "--batch", "--dry-run"], &lines).await;
        assert!(dry.status.success(), "{dry:?}");
        assert_eq!(counts(&dry), [1_000, 1, 0, 0]);
        assert_eq!(stage.row_counts().await, before, "a dry run writes nothing");

        let first = stepwell(&stage, &["ops", "cancel", "--batch", "--reason", "cleaning up"], &lines).await;
        assert!(first.status.success(), "{}", err(&first));
        assert!(out(&first).ends_with("cancel: accepted 1000, refused 1, unknown 0, failed 0\n"), "{}", out(&first));
        let progress = err(&first);
        for told in ["cancel: 100 of 1001", "cancel: 1000 of 1001", "2 lines name an id again", "workflow finished is SUCCESS"] {
            assert!(progress.contains(told), "{told}: {progress}");
        }
        assert_eq!(statuses(&stage, "bulk-%").await, [json!({"status": "CANCELLED", "n": 1_000})]);

        let after = stage.row_counts().await;
        let again = stepwell(&stage, &["ops", "--json", "cancel", "--batch"], &lines).await;
        assert!(again.status.success(), "what is refused for its state is no failure");
        assert_eq!(counts(&again), [0, 1_001, 0, 0]);
        assert_eq!(stage.row_counts().await, after, "a refusal writes nothing");

        let resumed = stepwell(&stage, &["ops", "--json", "resume", "--batch"], &ids.join("\n")).await;
        assert!(resumed.status.success(), "{}", err(&resumed));
        assert_eq!(counts(&resumed), [1_000, 0, 0, 0]);
        assert_eq!(statuses(&stage, "bulk-%").await, [json!({"status": "ENQUEUED", "n": 1_000})]);
        let kept = stage.sql("SELECT attempt, count(*) AS n FROM app.artifacts WHERE step_id = 'OPS' GROUP BY attempt ORDER BY attempt").await;
        assert_eq!(kept, [json!({"attempt": 1, "n": 1_000}), json!({"attempt": 2, "n": 1_000})]);
        stage.assert_no_duplicates().await;
    }

    async fn the_exit_code_says_what_a_batch_met(stage: Stage) {
        stage.migrate().await;
        queue_of_another_version(&stage, 2).await;
        told(&stage, &["ops", "cancel", "bulk-0000"], "").await;
        let before = stage.row_counts().await;
        for (arguments, input, code, words) in [
            (vec!["ops", "cancel", "--batch"], "", 2, "no ids on standard input"),
            (vec!["ops", "resume", "--batch"], "\n\n", 2, "no ids on standard input"),
            (vec!["ops", "cancel"], "", 2, "required"),
            (vec!["ops", "cancel", "bulk-0001", "--batch"], "", 2, "cannot be used with"),
            (vec!["ops", "fork", "--step", "0", "--batch"], "bulk-0001\n", 2, "0"),
            (vec!["ops", "cancel", "--batch"], "bulk-0000\n", 0, "CANCELLED"),
            (vec!["ops", "cancel", "--batch", "--strict"], "bulk-0000\n", 1, "CANCELLED"),
            (vec!["ops", "cancel", "bulk-0000"], "", 1, "legal from CANCELLED: resume, fork"),
            (vec!["ops", "cancel", "--batch"], "nobody\n", 1, "workflow not found: nobody"),
            (vec!["ops", "cancel", "--batch", "--dry-run"], "nobody\n", 1, "workflow not found: nobody"),
            (vec!["ops", "fork", "--step", "9", "--batch"], "bulk-0001\n", 0, "no step yet"),
            (vec!["ops", "fork", "--step", "9", "--batch", "--dry-run"], "bulk-0001\n", 0, "no step yet"),
            (vec!["ops", "get", "nobody"], "", 1, "workflow not found: nobody"),
            (vec!["retry", "nobody"], "", 1, "run not found: nobody"),
        ] {
            let output = stepwell(&stage, &arguments, input).await;
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
            assert!(err(&output).contains(words), "{arguments:?}: {words}: {output:?}");
        }
        assert_eq!(stage.row_counts().await, before);
    }

    async fn the_commands_do_the_same_with_a_server_and_without(stage: Stage) {
        let server = stage.serve().await;
        done(&server, "done").await;
        server.send("POST", "/slowstep?wf=asleep&sleep=600000", None).await.expect(202);
        eventually(DEADLINE, "asleep has slept", || async {
            let marks = server.get("/slowmarks?wf=asleep").await.json();
            if marks["s1"] == 1 { Ok(()) } else { Err(marks) }
        })
        .await;

        for target in [vec![], vec!["--server", server.base()]] {
            let with = |more: &[&'static str]| -> Vec<&str> {
                std::iter::once("ops").chain(target.iter().copied()).chain(more.iter().copied()).collect()
            };
            let listed = told(&stage, &with(&["ls", "--name", "stepwell.marks", "--ids"]), "").await;
            assert!(listed.ends_with("asleep\ndone\n"), "{listed}");
            let page = told(&stage, &with(&["--json", "ls", "--name", "stepwell.marks", "--status", "SUCCESS", "--limit", "1"]), "").await;
            assert_eq!(serde_json::from_str::<Value>(&page).unwrap()["workflowID"], "done");
            let got = told(&stage, &with(&["get", "done"]), "").await;
            assert!(got.starts_with("done SUCCESS") && got.contains("controlQ"), "{got}");
            let steps = told(&stage, &with(&["steps", "done"]), "").await;
            assert_eq!(steps.lines().count(), 3, "{steps}");
            assert!(steps.contains("DBOS.sleep"), "{steps}");

            told(&stage, &with(&["cancel", "asleep", "--actor", "ann", "--reason", "why not"]), "").await;
            told(&stage, &with(&["resume", "asleep"]), "").await;
            // Of a version that nobody executes: had it ended, it would be the newest in the second round.
            let forked = told(&stage, &with(&["fork", "done", "--step", "2", "--app-version", "v0"]), "").await;
            assert!(forked.starts_with("fork done -> rn_"), "{forked}");
        }

        let trail = told(&stage, &["ops", "--json", "log", "asleep"], "").await;
        let trail: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ops: Vec<_> = trail.iter().map(|action| action["op"].as_str().unwrap()).collect();
        assert_eq!(ops, ["resume", "cancel", "resume", "cancel"]);
        assert_eq!((&trail[1]["actor"], &trail[1]["reason"]), (&json!("ann"), &json!("why not")));
        assert_eq!((&trail[0]["actor"], &trail[0]["reason"]), (&json!("operator"), &Value::Null));
        let all = told(&stage, &["ops", "log"], "").await;
        assert_eq!(all.lines().count(), 6, "{all}");
        assert!(all.contains("done -> rn_"), "{all}");
        let refused = stepwell(&stage, &["ops", "--server", server.base(), "log"], "").await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }

    async fn a_list_longer_than_a_page_is_read_page_by_page(stage: Stage) {
        stage.migrate().await;
        let mut ids = queue_of_another_version(&stage, 450).await;
        let listed = told(&stage, &["ops", "ls", "--ids", "--limit", "1000"], "").await;
        ids.reverse();
        assert_eq!(listed.lines().collect::<Vec<_>>(), ids);
        let some = told(&stage, &["ops", "ls", "--ids", "--limit", "250"], "").await;
        assert_eq!(some.lines().count(), 250);
    }

    async fn a_failed_run_is_retried_from_the_command_line(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("fails", json!({"command": "exit 3"})).await;
        let run = server.start_run(&intent, "shell-default").await;
        server.wait_status(&run, "ERROR").await;

        let retried = told(&stage, &["retry", "--json", &run, "--reason", "again"], "").await;
        let retried: Value = serde_json::from_str(&retried).unwrap();
        assert_eq!(retried["fromStep"], "ExecuteST");
        let again = retried["newRunId"].as_str().unwrap();
        let header = server.wait_status(again, "ERROR").await;
        assert_eq!((&header["forkedFrom"], &header["retryCount"]), (&json!(run), &json!(1)));
        let trail = told(&stage, &["ops", "log", &run], "").await;
        assert!(trail.contains("retry") && trail.contains(again) && trail.contains("again"), "{trail}");
    }
}

#[test]
fn an_address_where_nobody_listens_is_told() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["ops", "--server", "http://127.0.0.1:9", "ls"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(err(&output).contains("nothing answers"), "{output:?}");
}
