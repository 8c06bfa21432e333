//! Real commands through the recipe `shell-default`: the right answer, an honest failure, a time-out that leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::*;
use serde_json::{Value, json};

fn only_task(view: &Value) -> Value {
    let tasks = view["tasks"]
        .as_array()
        .unwrap_or_else(|| panic!("no tasks in {view}"));
    assert_eq!(tasks.len(), 1, "{view}");
    tasks[0].clone()
}

/// A duration for `sleep` that no other process on the machine uses.
fn unique_seconds(stage: &Stage) -> String {
    let digits: String = stage
        .dir()
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    format!(
        "900.{digits}{}",
        if stage.backend() == Backend::Sqlite {
            1
        } else {
            2
        }
    )
}

on_both_databases! {
    async fn a_pipeline_over_an_inline_file_prints_the_right_number(stage: Stage) {
        let server = stage.serve().await;

        let run = server
            .start_job(json!({
                "command": "sort -u words.txt | wc -l",
                "files": [{"path": "words.txt", "inline": "pear\napple\npear\nfig\napple\n"}]
            }))
            .await;

        let header = server.wait_status(&run, "SUCCESS").await;
        assert_eq!(header["workflowID"], run.as_str());
        let task = only_task(&server.view(&run).await);
        assert_eq!(task["errCode"], "NONE", "{task}");
        assert_eq!(task["exit"], 0, "{task}");
        assert_eq!(server.task_artifact(&task, "stdout").await.trim(), "3");
        stage.assert_no_duplicates().await;
    }

    async fn each_test_is_a_task_of_its_own(stage: Stage) {
        let server = stage.serve().await;

        let run = server
            .start_job(json!({"command": "echo said", "tests": ["one", "two"], "env": {"IGNORED": "yes"}}))
            .await;

        server.wait_status(&run, "SUCCESS").await;
        let view = server.view(&run).await;
        let mut said = Vec::new();
        for task in view["tasks"].as_array().unwrap() {
            said.push(server.task_artifact(task, "stdout").await);
        }
        said.sort();
        assert_eq!(said, ["said one\n", "said two\n"]);
        let children = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ'").await;
        assert_eq!(children, 2);
        stage.assert_no_duplicates().await;
    }

    async fn the_environment_and_stderr_reach_their_places(stage: Stage) {
        let server = stage.serve().await;

        let run = server
            .start_job(json!({"command": "echo $GREETING; echo trouble >&2", "env": {"GREETING": "hello"}}))
            .await;

        server.wait_status(&run, "SUCCESS").await;
        let task = only_task(&server.view(&run).await);
        assert_eq!(server.task_artifact(&task, "stdout").await, "hello\n");
        assert_eq!(server.task_artifact(&task, "stderr").await, "trouble\n");
    }

    async fn a_non_zero_exit_is_an_error_with_its_code(stage: Stage) {
        let server = stage.serve().await;

        let run = server.start_job(json!({"command": "exit 3"})).await;

        let header = server.wait_status(&run, "ERROR").await;
        assert_eq!(header["error"]["code"], "CMD_NONZERO", "{header}");
        let task = only_task(&server.view(&run).await);
        assert_eq!(task["errCode"], "CMD_NONZERO", "{task}");
        assert_eq!(task["exit"], 3, "{task}");
        assert_eq!(task["attempt"], 1, "a command's own failure is not retried: {task}");
    }

    async fn a_time_out_is_an_error_and_kills_every_process(stage: Stage) {
        let server = stage.serve_with(&[("SBX_DEFAULT_TIMEOUT_MS", "3000")]).await;
        let seconds = unique_seconds(&stage);

        let run = server
            .start_job(json!({"command": format!("sleep {seconds} & (trap '' TERM; sleep {seconds}) & sleep {seconds}")}))
            .await;

        eventually(Duration::from_secs(30), "the command runs", || async {
            let living = living_processes(&seconds);
            if living.is_empty() { Err(format!("{living:?}")) } else { Ok(()) }
        })
        .await;
        let header = server.wait_status(&run, "ERROR").await;
        assert_eq!(header["error"]["code"], "TIMEOUT", "{header}");
        assert_eq!(only_task(&server.view(&run).await)["errCode"], "TIMEOUT");
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
    }
}
