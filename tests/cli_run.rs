//! `stepwell run` and its companions, as a person types them: exit codes, output, files, and going on after a kill.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use harness::*;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::ChildStderr,
};

const DEADLINE: Duration = Duration::from_secs(60);

struct Typed {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn type_in(stage: &Stage, words: &[&str]) -> Typed {
    let output = stage
        .command(words)
        .env("EXECUTOR_EXPIRY_MS", "1000")
        // Commands leave their marks outside their directory.
        .env("SBX_LOCAL_BWRAP", "off")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    Typed {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The documents that a command with `--json` prints.
fn documents(typed: &Typed) -> Vec<Value> {
    typed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// Starts a command in the background and waits until `file` is there.
async fn started(stage: &Stage, words: &[&str], file: &str) -> tokio::process::Child {
    started_with(stage, words, file, &[]).await
}

async fn started_with(
    stage: &Stage,
    words: &[&str],
    file: &str,
    env: &[(&str, &str)],
) -> tokio::process::Child {
    let child = stage
        .command(words)
        .env("EXECUTOR_EXPIRY_MS", "1000")
        .envs(env.iter().copied())
        // Commands leave their marks outside their directory.
        .env("SBX_LOCAL_BWRAP", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let path = stage.dir().join(file);
    eventually(DEADLINE, "the command runs", || async {
        if path.exists() {
            Ok(())
        } else {
            Err("not yet")
        }
    })
    .await;
    child
}

/// The next line with these words that a command says about what is going on.
async fn until_said(said: &mut Lines<BufReader<ChildStderr>>, words: &str) -> String {
    let found = async {
        while let Some(line) = said.next_line().await.unwrap() {
            if line.contains(words) {
                return line;
            }
        }
        panic!("it ended and never said: {words}");
    };
    let found = tokio::time::timeout(DEADLINE, found).await;
    found.unwrap_or_else(|_| panic!("it does not say: {words}"))
}

/// Ctrl-C, as a terminal sends it.
fn interrupt(child: &tokio::process::Child) {
    send_signal(child.id().expect("it runs"), "INT");
}

/// Interrupts a process that waits for something that takes a minute; it must have left long before.
async fn leaves_at_once(mut child: tokio::process::Child) {
    let asked = Instant::now();
    interrupt(&child);
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    let status = ended.expect("it does not wait").unwrap();
    assert_eq!(status.code(), Some(130));
    // A second for calls that block, and the rest for a busy machine.
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        asked.elapsed()
    );
}

on_both_databases! {
    async fn the_exit_code_is_the_commands(stage: Stage) {
        for (words, code) in [
            (vec!["run", "--", "true"], 0),
            (vec!["run", "--", "false"], 1),
            (vec!["run", "--", "exit 7"], 7),
            (vec!["run", "--timeout", "300ms", "--", "sleep 20"], 124),
            (vec!["run"], 2),
            (vec!["run", "--env", "NO_SUCH_VARIABLE_HERE", "--", "true"], 2),
        ] {
            let typed = type_in(&stage, &words).await;
            assert_eq!(typed.code, Some(code), "{words:?}: {}", typed.stderr);
        }
        let killed = type_in(&stage, &["run", "--", "sh", "-c", "kill -9 $$"]).await;
        assert_eq!(killed.code, Some(137), "{}", killed.stderr);
        assert!(killed.stderr.contains("signal 9"), "{}", killed.stderr);
    }

    async fn output_goes_where_it_went(stage: Stage) {
        let typed = type_in(&stage, &["run", "--env", "WHO=me", "--", "echo $WHO; echo oops >&2"]).await;
        assert_eq!((typed.code, typed.stdout.as_str()), (Some(0), "me\n"), "{}", typed.stderr);
        assert_eq!(typed.stderr, "oops\n", "and nothing of ours where nobody looks at a terminal");
    }

    async fn files_go_in_and_come_back(stage: Stage) {
        fs::write(stage.dir().join("words.txt"), "b\na\nb\n").unwrap();
        fs::write(stage.dir().join("bytes"), [0_u8, 255, 7]).unwrap();
        let line = "mkdir out; sort -u words.txt > out/sorted.txt; cp raw out/raw; touch other";
        let typed = type_in(&stage, &["run", "--file", "words.txt", "--file", "raw=bytes", "--out", "out/*", "--out-dir", "back", "--", line]).await;
        assert_eq!(typed.code, Some(0), "{}", typed.stderr);
        let back = stage.dir().join("back");
        assert_eq!(fs::read_to_string(back.join("out/sorted.txt")).unwrap(), "a\nb\n");
        assert_eq!(fs::read(back.join("out/raw")).unwrap(), [0, 255, 7]);
        assert!(!back.join("other").exists(), "nobody asked for it");
    }

    async fn files_that_no_run_could_be_given_are_refused_before_anything_is_stored(stage: Stage) {
        stage.migrate().await;
        let before = stage.row_counts().await;
        // Fewer bytes than an intent may have, and more once they are written as JSON.
        fs::write(stage.dir().join("quotes"), "\"".repeat(600_000)).unwrap();
        fs::write(stage.dir().join("bytes"), vec![255_u8; 800_000]).unwrap();
        fs::write(stage.dir().join("text"), "x".repeat(1_040_000)).unwrap();
        for file in ["quotes", "bytes", "text"] {
            let typed = type_in(&stage, &["run", "--file", file, "--", "true"]).await;
            assert_eq!(typed.code, Some(2), "{file}: {}", typed.stderr);
            assert!(typed.stderr.contains("artifact://"), "it says what to do: {}", typed.stderr);
        }
        assert_eq!(stage.row_counts().await, before);
        fs::write(stage.dir().join("bytes"), vec![255_u8; 760_000]).unwrap();
        let typed = type_in(&stage, &["run", "--file", "bytes", "--", "wc -c < bytes"]).await;
        assert_eq!((typed.code, typed.stdout.trim()), (Some(0), "760000"), "{}", typed.stderr);
    }

    async fn the_files_of_several_tasks_stay_apart(stage: Stage) {
        let words = ["run", "--id", "three", "--out", "r.txt", "--out-dir", "back", "--input", r#"tests=["a","b","c"]"#];
        let command = r#"command=sh -c 'echo "$0" > r.txt'"#;
        let typed = type_in(&stage, &[&words[..], &["--input", command]].concat()).await;
        assert_eq!(typed.code, Some(0), "{}", typed.stderr);
        let back = stage.dir().join("back");
        for (ordinal, written) in ["a\n", "b\n", "c\n"].iter().enumerate() {
            assert_eq!(fs::read_to_string(back.join(ordinal.to_string()).join("r.txt")).unwrap(), *written);
        }
        assert!(!back.join("r.txt").exists(), "whose would it be?");
    }

    async fn what_tasks_have_left_is_listed_before_the_run_has_ended_and_after_its_cancel(stage: Stage) {
        let server = stage.serve().await;
        let command = r#"sh -c 'echo "$0" > r.txt; [ "$0" = quick ] || sleep 600'"#;
        let run = server.start_job(json!({"command": command, "tests": ["quick", "slow"], "out": ["r.txt"]})).await;
        let files = async || {
            let listed = documents(&type_in(&stage, &["artifacts", "ls", &run, "--json"]).await);
            let files = listed.iter().filter(|artifact| artifact["kind"] == "file");
            let ids: Vec<_> = files.map(|artifact| artifact["id"].as_str().unwrap().to_owned()).collect();
            ids
        };
        let file = eventually(DEADLINE, "the first task's file is listed", || async {
            match files().await.as_slice() {
                [id] => Ok(id.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(type_in(&stage, &["artifacts", "get", &file]).await.stdout, "quick\n");

        server.send("POST", &format!("/api/ops/wf/{run}/cancel"), None).await.expect(202);
        server.wait_status(&run, "CANCELLED").await;
        assert_eq!(files().await, [file]);

        let ended = server.start_job(json!({"command": "echo x > r.txt", "out": ["r.txt"]})).await;
        server.wait_status(&ended, "SUCCESS").await;
        let listed = type_in(&stage, &["artifacts", "ls", &ended]).await.stdout;
        assert_eq!(listed.matches("/files/r.txt").count(), 1, "{listed}");
    }

    async fn killed_and_typed_again_it_goes_on(stage: Stage) {
        let effect = stage.dir().join("effect");
        let line = format!("echo ran >> {}; sleep 2; echo done", effect.display());
        let words = ["run", "--id", "backup-42", "--", line.as_str()];
        let mut first = started(&stage, &words, "effect").await;
        first.kill().await.unwrap();

        let second = type_in(&stage, &words).await;
        assert_eq!((second.code, second.stdout.as_str()), (Some(0), "done\n"), "{}", second.stderr);
        let ran = fs::read_to_string(&effect).unwrap().lines().count();
        assert_eq!(ran, 2, "the first execution was not committed, the second one was");

        let third = type_in(&stage, &words).await;
        assert_eq!((third.code, third.stdout.as_str()), (Some(0), "done\n"), "{}", third.stderr);
        assert_eq!(fs::read_to_string(&effect).unwrap().lines().count(), 2, "what has ended is not executed again");
        let other = type_in(&stage, &["run", "--id", "backup-42", "--", "true"]).await;
        assert_eq!(other.code, Some(1));
        assert!(other.stderr.contains("another intent"), "{}", other.stderr);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await, 1);
    }

    async fn an_interrupt_cancels_durably(stage: Stage) {
        let line = format!("touch {}; sleep 30", stage.dir().join("began").display());
        let child = started(&stage, &["run", "--id", "long", "--", &line], "began").await;
        interrupt(&child);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("cancelling long"), "{stderr}");
        let status = stage.sql_value("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'long'").await;
        assert_eq!(status, "CANCELLED");
    }

    async fn a_second_interrupt_waits_for_no_command(stage: Stage) {
        stage.migrate().await;
        // The command of a cancelled run ends by itself, and this one does not: the first interrupt leaves the process within its grace period.
        assert_eq!(stage.sql_execute("UPDATE app.recipes SET cancel = 'boundary' WHERE name = 'shell-default'").await, 1);
        let seconds = format!("900.{}{}", std::process::id(), stage.backend() as u8);
        let line = format!("trap '' TERM INT; touch {}; sleep {seconds}", stage.dir().join("began").display());
        let words = ["run", "--id", "stubborn", "--", &line];
        let mut child = started_with(&stage, &words, "began", &[("SHUTDOWN_GRACE_MS", "60000")]).await;
        interrupt(&child);
        eventually(DEADLINE, "the run is cancelled", || async {
            let status = stage.sql_value("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'stubborn'").await;
            if status == "CANCELLED" { Ok(()) } else { Err(status) }
        })
        .await;
        assert_eq!(child.try_wait().unwrap(), None, "its command runs on");

        leaves_at_once(child).await;

        eventually(DEADLINE, "the command has ended", || async {
            let living = living_processes(&seconds);
            if living.is_empty() { Ok(()) } else { Err(format!("{living:?}")) }
        })
        .await;
    }

    async fn a_second_interrupt_waits_for_no_cancel(stage: Stage) {
        let server = stage.serve().await;
        let line = format!("touch {}; sleep 60", stage.dir().join("began").display());
        let words = ["run", "--server", server.base(), "--", &line];
        let mut child = started(&stage, &words, "began").await;
        // It takes the request, and never answers.
        server.signal("STOP").await;
        interrupt(&child);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, said.next_line()).await.expect("it says something");
        let line = line.unwrap().unwrap();
        assert!(line.contains("cancelling"), "{line}");

        leaves_at_once(child).await;
    }

    async fn a_server_does_the_same(stage: Stage) {
        let server = stage.serve().await;
        let typed = type_in(&stage, &["run", "--server", server.base(), "--", "echo from afar; exit 4"]).await;
        assert_eq!((typed.code, typed.stdout.as_str()), (Some(4), "from afar\n"), "{}", typed.stderr);
        let nobody = type_in(&stage, &["runs", "--server", "http://127.0.0.1:1"]).await;
        assert_eq!(nobody.code, Some(69));
        assert!(nobody.stderr.contains("stepwell serve"), "it says what to do: {}", nobody.stderr);
    }

    async fn what_is_detached_is_executed_by_somebody_else(stage: Stage) {
        let typed = type_in(&stage, &["run", "--detach", "--id", "later", "--", "echo now"]).await;
        assert_eq!((typed.code, typed.stdout.as_str()), (Some(0), "later\n"), "{}", typed.stderr);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 0);
        let server = stage.serve().await;
        server.wait_status("later", "SUCCESS").await;
        let logs = type_in(&stage, &["logs", "later"]).await;
        assert_eq!((logs.code, logs.stdout.as_str()), (Some(0), "now\n"), "{}", logs.stderr);
    }

    async fn who_follows_a_run_is_told_that_its_process_is_gone(stage: Stage) {
        // Time for several looks between the missed heartbeats and the take-over.
        let expiry = [("EXECUTOR_EXPIRY_MS", "20000")];
        let api = stage.start("api", &expiry).await;
        let worker = stage.start("worker", &expiry).await;
        let go = stage.dir().join("go");
        let run = api.start_job(json!({"command": format!("until [ -e {} ]; do sleep 0.05; done; echo done", go.display())})).await;
        let begun = format!("SELECT count(*) FROM app.run_stream_chunks WHERE run_id = '{run}' AND kind = 'task'");
        stage.until_count("its command runs", &begun, 1).await;
        let mut logs = stage
            .command(&["logs", "--follow", "--server", api.base(), &run])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(logs.stderr.take().unwrap()).lines();

        worker.kill_9().await;

        let line = until_said(&mut said, "").await;
        assert!(line.contains("has not been heard of") && line.contains("another one takes it over"), "{line}");
        fs::write(&go, "").unwrap();
        worker.start_again().await;
        until_said(&mut said, "it runs again").await;
        let output = tokio::time::timeout(DEADLINE, logs.wait_with_output()).await.expect("it ends").unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().as_str()), (Some(0), "done\n"));
    }

    async fn the_place_in_the_queue_is_what_was_typed(stage: Stage) {
        let words = ["run", "--detach", "--id", "placed", "--queue", "intentQ", "--partition", "tenant-9", "--priority", "7", "--", "true"];
        let typed = type_in(&stage, &words).await;
        assert_eq!(typed.code, Some(0), "{}", typed.stderr);
        type_in(&stage, &["run", "--detach", "--id", "anywhere", "--", "true"]).await;
        let place = async |id: &str| {
            let sql = format!("SELECT queue_name, queue_partition_key, priority FROM dbos.workflow_status WHERE workflow_uuid = '{id}'");
            stage.sql(&sql).await
        };
        assert_eq!(place("placed").await, [json!({"queue_name": "intentQ", "queue_partition_key": "tenant-9", "priority": 7})]);
        assert_eq!(place("anywhere").await, [json!({"queue_name": "intentQ", "queue_partition_key": "cli", "priority": 0})]);

        let elsewhere = type_in(&stage, &["run", "--detach", "--id", "lost", "--queue", "sbxQ", "--", "true"]).await;
        assert_eq!(elsewhere.code, Some(1));
        assert!(elsewhere.stderr.contains("sbxQ"), "{}", elsewhere.stderr);
        assert!(place("lost").await.is_empty());
    }

    async fn people_see_what_there_is(stage: Stage) {
        // Whoever is in the wrong directory is told so, once.
        for new in [stage.backend() == Backend::Sqlite, false] {
            let none = type_in(&stage, &["runs"]).await;
            assert_eq!((none.code, none.stderr.contains("stepwell.db yet; a new one is made")), (Some(0), new), "{}", none.stderr);
        }
        type_in(&stage, &["run", "--id", "good", "--out", "r.csv", "--", "echo a,b > r.csv; echo printed"]).await;
        type_in(&stage, &["run", "--id", "bad", "--", "exit 3"]).await;

        let listed = documents(&type_in(&stage, &["runs", "--json"]).await);
        let ids: Vec<_> = listed.iter().map(|run| run["runId"].as_str().unwrap()).collect();
        assert_eq!(ids, ["bad", "good"], "newest first");
        let failed = documents(&type_in(&stage, &["runs", "--status", "ERROR", "--json"]).await);
        assert_eq!(failed.len(), 1);
        let shown = type_in(&stage, &["show", "good"]).await;
        for part in ["good SUCCESS", "CompileST", "ExecuteST", "task 0 well, exit 0", "files/r.csv", "echo a,b"] {
            assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
        }
        assert!(!shown.stdout.contains('\u{1b}'), "colours are for terminals");
        assert!(type_in(&stage, &["show", "bad"]).await.stdout.contains("CMD_NONZERO"));
        assert_eq!(type_in(&stage, &["explain", "bad"]).await.stdout, "The run has ended: failed.\n");
        assert_eq!(type_in(&stage, &["show", "nobody"]).await.code, Some(1));

        let artifacts = documents(&type_in(&stage, &["artifacts", "ls", "good", "--json"]).await);
        let file = artifacts.iter().find(|artifact| artifact["kind"] == "file").unwrap();
        let id = file["id"].as_str().unwrap();
        assert_eq!(type_in(&stage, &["artifacts", "get", id]).await.stdout, "a,b\n");
        type_in(&stage, &["artifacts", "get", id, "-o", "copy.csv"]).await;
        assert_eq!(fs::read_to_string(stage.dir().join("copy.csv")).unwrap(), "a,b\n");
    }

    async fn a_gate_is_passed_from_the_command_line(stage: Stage) {
        let words = ["run", "--detach", "--id", "gated", "--recipe", "sandbox-default", "--input", "command=echo hi"];
        assert_eq!(type_in(&stage, &words).await.code, Some(0));
        let approved = type_in(&stage, &["approve", "gated", "--by", "po"]).await;
        assert_eq!(approved.code, Some(0), "{}", approved.stderr);
        let server = stage.serve().await;
        server.wait_status("gated", "SUCCESS").await;
        assert_eq!(server.view("gated").await["approval"]["approvedBy"], "po");
        assert_eq!(type_in(&stage, &["approve", "gated"]).await.code, Some(1), "it has ended");
    }

    async fn who_wants_no_colours_gets_none(stage: Stage) {
        if missing_tools(&["script"]) {
            return;
        }
        // `script` is the terminal; both streams of the command end in it.
        let line = format!("'{}' run -- 'sleep 0.5; echo hi' && '{0}' runs", env!("CARGO_BIN_EXE_stepwell"));
        let shown = async |no_color: &str| {
            let mut script = stage.tool("script");
            script.args(["-qec", &line, "/dev/null"]).current_dir(stage.dir()).env("NO_COLOR", no_color).stdin(Stdio::null());
            let output = script.output().await.unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let is_coloured = |text: &str| text.split("\u{1b}[").skip(1).any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('m'));
        let (with, without) = (shown("").await, shown("1").await);
        assert!(is_coloured(&with), "{with:?}");
        assert!(!is_coloured(&without) && without.contains(" · it_"), "the status line is there, and plain: {without:?}");
    }

    async fn json_is_one_document_a_line(stage: Stage) {
        let typed = type_in(&stage, &["run", "--json", "--id", "j", "--", "echo hi"]).await;
        assert_eq!(typed.code, Some(0), "{}", typed.stderr);
        let events = documents(&typed);
        let output = events.iter().find(|event| event["event"] == "stdout").unwrap();
        assert_eq!(output["data"]["text"], "hi\n");
        let last = events.last().unwrap();
        assert_eq!((last["event"].as_str(), last["status"].as_str()), (Some("ended"), Some("SUCCESS")));
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell"))
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("approve")
        );
    }
}

#[test]
fn bash_completes_what_is_typed() {
    if missing_tools(&["bash"]) {
        return;
    }
    // As bash calls it: the words, which of them is typed, and the function with the command, that word and the one before.
    let lines = r#"
        eval "$("$STEPWELL" completions bash)"
        complete -p stepwell
        typed() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stepwell stepwell "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[*]}"; }
        typed stepwell app
        typed stepwell ops can
        typed stepwell run --det"#;
    let output = std::process::Command::new("bash")
        .args(["--noprofile", "--norc", "-c", lines])
        .env("STEPWELL", env!("CARGO_BIN_EXE_stepwell"))
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<&str> = said.lines().collect();
    let [registered, commands, actions, options] = said[..] else {
        panic!("{said:?}");
    };
    assert!(
        registered.starts_with("complete ") && registered.ends_with(" -F _stepwell stepwell"),
        "{registered}"
    );
    assert_eq!(
        (commands, actions, options),
        ("approve", "cancel", "--detach")
    );
}
