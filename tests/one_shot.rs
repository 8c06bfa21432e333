//! `worker --once` and `POST /tick`: they come, do what is due, say what they leave, and go. Overlapping and dying are normal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use serde_json::{Value, json};
use tokio::process::Child;

const DEADLINE: Duration = Duration::from_secs(120);
const LIVE: [(&str, &str); 2] = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local")];

async fn once(stage: &Stage, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let arguments = [&["worker", "--once"], arguments].concat();
    stage
        .command(&arguments)
        .envs(env.iter().copied())
        .output()
        .await
        .unwrap()
}

/// The exit code, and the one line of the summary.
fn outcome(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{output:?}");
    (
        output.status.code().unwrap(),
        serde_json::from_str(lines[0]).unwrap(),
    )
}

fn refusal(output: &Output) -> (i32, String) {
    assert!(output.stdout.is_empty(), "{output:?}");
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

async fn ended_runs(stage: &Stage, status: &str) -> i64 {
    stage
        .sql_count(&format!(
            "SELECT count(*) FROM app.runs WHERE status = '{status}'"
        ))
        .await
}

/// Waits until `child` has claimed something; false when it ended before it did.
async fn holds_something(stage: &Stage, child: &mut Child) -> bool {
    let pid = child.id().expect("it was not waited for");
    let held = format!(
        "SELECT count(*) FROM app.claims c JOIN app.executors e ON e.id = c.executor_id WHERE e.pid = {pid}"
    );
    eventually(Duration::from_secs(30), "it claims or ends", || {
        let ended = child.try_wait().unwrap().is_some();
        let held = stage.sql_count(&held);
        async move {
            match held.await {
                _ if ended => Ok(false),
                0 => Err("no claim"),
                _ => Ok(true),
            }
        }
    })
    .await
}

on_both_databases! {
    async fn nothing_due_is_two_statements_and_writes_nothing(stage: Stage) {
        let (code, summary) = outcome(&once(&stage, &[], &[]).await);
        assert_eq!((code, &summary["claimed"]), (0, &json!(0)), "the first one makes the tables");
        let api = stage.start("api", &[]).await;
        api.start_golden_run().await;
        let (code, summary) = outcome(&once(&stage, &["--max-seconds", "20"], &[]).await);
        assert_eq!((code, &summary["suspended"], &summary["backlog"]), (0, &json!(1), &json!(0)), "{summary}");
        assert!(api.terminate().await.success());

        let rows = stage.row_counts().await;
        let asked = if stage.backend() == Backend::Postgres { stage.statements().await } else { 0 };
        let (code, summary) = outcome(&once(&stage, &[], &[]).await);
        let idle = json!({"claimed": 0, "completed": 0, "suspended": 0, "failed": 0, "released": 0, "backlog": 0, "nextWakeAt": null});
        assert_eq!((code, summary), (0, idle));
        if stage.backend() == Backend::Postgres {
            let asked = stage.statements().await - asked;
            // Which schedules there are, and whether anything is due; a run is suspended, and nobody lives who would look at what it waits for.
            assert_eq!(asked, 2);
        }
        assert_eq!(stage.row_counts().await, rows);
    }

    async fn a_run_goes_from_invocation_to_invocation(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let run = api.start_golden_run().await;
        let (code, summary) = outcome(&once(&stage, &["--max-jobs", "1"], &[]).await);
        assert_eq!((code, &summary["claimed"], &summary["suspended"]), (0, &json!(1), &json!(1)), "{summary}");
        assert_eq!(api.header(&run).await["nextAction"], "APPROVE_PLAN");
        api.approve(&run).await;

        // One claim at a time: the run, its task, the run again.
        let mut summaries = Vec::new();
        while api.header(&run).await["status"] != "SUCCESS" {
            summaries.push(outcome(&once(&stage, &["--max-jobs", "1"], &[]).await));
            assert!(summaries.len() < 10, "{summaries:?}");
        }
        let (last, earlier) = summaries.split_last().unwrap();
        assert!(earlier.iter().all(|(code, summary)| *code == 75 && summary["backlog"] == 1 && summary["nextWakeAt"].is_i64()), "{summaries:?}");
        assert_eq!((last.0, &last.1["completed"], &last.1["backlog"]), (0, &json!(1), &json!(0)), "{summaries:?}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.executors").await, 0);
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn one_invocation_takes_a_run_to_its_end(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let run = api.start_job(json!({"command": "echo", "tests": ["a", "b"]})).await;
        let (code, summary) = outcome(&once(&stage, &[], &[]).await);
        // The run, its two tasks one after the other, and the run after each of them.
        assert_eq!((code, &summary["completed"], &summary["failed"], &summary["backlog"]), (0, &json!(3), &json!(0), &json!(0)), "{summary}");
        assert_eq!(api.header(&run).await["status"], "SUCCESS");

        let failing = api.start_job(json!({"command": "exit 3"})).await;
        let (code, summary) = outcome(&once(&stage, &[], &[]).await);
        assert_eq!((code, &summary["failed"]), (0, &json!(1)), "a job's failure is none of the process: {summary}");
        assert_eq!(api.header(&failing).await["status"], "ERROR");
    }

    async fn what_does_not_end_in_time_is_cut_and_counts(stage: Stage) {
        let api = stage.start("api", &[]).await;
        api.start_job(json!({"command": "true"})).await;
        let begun = Instant::now();
        let (code, summary) = outcome(&once(&stage, &["--max-seconds", "3"], &[("CHAOS_SLEEP_EXECUTE", "60000")]).await);
        let took = begun.elapsed();

        assert_eq!((code, &summary["released"], &summary["backlog"]), (75, &json!(1), &json!(1)), "{summary}");
        assert!(took < Duration::from_secs(4), "it took {took:?}");
        let task = "SELECT recovery_attempts FROM dbos.workflow_status WHERE queue_name = 'sbxQ'";
        assert_eq!(stage.sql_count(task).await, 1, "a step that is cut has used up an attempt");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.claims").await, 0);

        let (code, _) = outcome(&once(&stage, &[], &[]).await);
        assert_eq!((code, ended_runs(&stage, "succeeded").await), (0, 1));
    }

    async fn a_task_that_declares_more_time_than_is_left_does_not_start(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let effect = stage.dir().join("effect");
        let run = api.start_job(json!({"command": format!("echo ran >> {}", effect.display()), "timeoutMs": 30_000})).await;

        let (code, summary) = outcome(&once(&stage, &["--max-seconds", "5"], &[]).await);
        assert_eq!((code, &summary["released"]), (75, &json!(1)), "{summary}");
        assert!(summary["nextWakeAt"].is_i64(), "{summary}");
        assert!(!effect.exists());
        let charged = "SELECT COALESCE(sum(recovery_attempts), 0) AS n FROM dbos.workflow_status";
        assert_eq!(stage.sql_count(charged).await, 0);

        eventually(DEADLINE, "an invocation that is long enough runs it", || async {
            let (code, summary) = outcome(&once(&stage, &["--max-seconds", "60"], &[]).await);
            if code == 0 && effect.exists() { Ok(()) } else { Err(summary) }
        })
        .await;
        api.wait_status(&run, "SUCCESS").await;
    }

    async fn a_signal_hands_back_uncharged(stage: Stage) {
        let api = stage.start("api", &[]).await;
        api.start_job(json!({"command": "true"})).await;
        let child = stage
            .command(&["worker", "--once", "--max-seconds", "300"])
            .envs([("CHAOS_SLEEP_EXECUTE", "600000"), ("SHUTDOWN_GRACE_MS", "300")])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        eventually(DEADLINE, "the task runs", || async {
            let found = stage.sql_count("SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'").await;
            if found == 1 { Ok(()) } else { Err(found) }
        })
        .await;
        send_signal(child.id().unwrap(), "TERM");

        let (code, summary) = outcome(&child.wait_with_output().await.unwrap());
        assert_eq!((code, &summary["released"], &summary["backlog"]), (75, &json!(1), &json!(1)), "{summary}");
        let charged = "SELECT COALESCE(sum(recovery_attempts), 0) AS n FROM dbos.workflow_status";
        assert_eq!((stage.sql_count(charged).await, stage.sql_count("SELECT count(*) FROM app.executors").await), (0, 0));
    }

    async fn another_versions_work_is_no_backlog(stage: Stage) {
        let api = stage.start("api", &[("DBOS__APPVERSION", "v1")]).await;
        api.start_job(json!({"command": "true"})).await;
        let (code, summary) = outcome(&once(&stage, &[], &[("DBOS__APPVERSION", "v2")]).await);
        assert_eq!((code, &summary["claimed"], &summary["backlog"]), (0, &json!(0), &json!(0)), "{summary}");
    }

    async fn a_used_up_rate_says_when_it_opens(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let run = api.start_job(json!({"command": "echo", "tests": ["a", "b"]})).await;
        let limited = [("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "1"), ("SBX_QUEUE_RATE_LIMIT_PERIOD_SEC", "3600")];
        let (code, summary) = outcome(&once(&stage, &[], &limited).await);
        let wake = summary["nextWakeAt"].as_i64().unwrap();
        assert_eq!((code, &summary["backlog"]), (0, &json!(1)), "nothing is due before the window opens: {summary}");
        assert!((3_000_000..3_700_000).contains(&(wake - now())), "{summary}");
        assert_eq!(api.header(&run).await["status"], "PENDING");
    }

    async fn bad_configuration_is_78_and_writes_nothing(stage: Stage) {
        stage.migrate().await;
        let rows = stage.row_counts().await;
        for (arguments, name) in [
            (vec!["--max-seconds", "0"], "--max-seconds"),
            (vec!["--max-seconds", "soon"], "--max-seconds"),
            (vec!["--max-seconds", "-1"], "--max-seconds"),
            (vec!["--max-jobs", "0"], "--max-jobs"),
            (vec!["--concurrency", "none"], "--concurrency"),
            (vec!["--queues", ""], "--queues"),
        ] {
            let (code, message) = refusal(&once(&stage, &arguments, &[]).await);
            assert!(code == 78 && message.contains(name), "{arguments:?}: {code} {message}");
        }
        let (code, message) = refusal(&once(&stage, &[], &[("EXECUTOR_EXPIRY_MS", "1")]).await);
        assert!(code == 78 && message.contains("EXECUTOR_EXPIRY_MS"), "{code} {message}");
        let stays = stage.command(&["worker", "--max-jobs", "3"]).output().await.unwrap();
        let (code, message) = refusal(&stays);
        assert!(code == 78 && message.contains("--once"), "{code} {message}");
        assert_eq!(stage.row_counts().await, rows);
    }

    async fn an_unreachable_database_is_69(stage: Stage) {
        let nobody = format!("postgres://nobody@127.0.0.1:{}/nothing", free_port());
        let directory = stage.dir().display().to_string();
        for url in [nobody, format!("sqlite://{directory}")] {
            let begun = Instant::now();
            let (code, message) = refusal(&once(&stage, &["--max-seconds", "3"], &[("DATABASE_URL", &url)]).await);
            assert_eq!(code, 69, "{message}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
    }

    async fn forty_runs_end_once_under_overlapping_workers_that_die(stage: Stage) {
        const RUNS: usize = 40;
        let env = [
            ("EXECUTOR_EXPIRY_MS", "1500"),
            ("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "100000"),
            ("SBX_QUEUE_WORKER_CONCURRENCY", "2"),
            ("CHAOS_SLEEP_EXECUTE", "400"),
        ];
        let api = stage.start("api", &env).await;
        for _ in 0..RUNS {
            api.start_job(json!({"command": "echo", "tests": ["a", "b"]})).await;
        }
        let (ended, killed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let lanes: Vec<_> = (0..3_u64)
            .map(|lane| {
                let (stage, ended, killed) = (stage.clone(), Arc::clone(&ended), Arc::clone(&killed));
                tokio::spawn(async move {
                    for invocation in 0_u64.. {
                        if ended.load(Ordering::SeqCst) {
                            return;
                        }
                        let mut child = stage
                            .command(&["worker", "--once", "--max-seconds", "6"])
                            .envs(env)
                            .stdout(std::process::Stdio::piped())
                            .stderr(std::process::Stdio::piped())
                            .spawn()
                            .unwrap();
                        // Two of three die in the middle of what they claimed, at another time each.
                        let dies = (lane + invocation) % 3 != 0;
                        if dies && holds_something(&stage, &mut child).await {
                            let patience = Duration::from_millis((lane * 277 + invocation * 613) % 800);
                            if tokio::time::timeout(patience, child.wait()).await.is_err() {
                                child.kill().await.unwrap();
                                killed.fetch_add(1, Ordering::SeqCst);
                                continue;
                            }
                        }
                        let output = child.wait_with_output().await.unwrap();
                        assert!(matches!(output.status.code(), Some(0 | 75)), "{output:?}");
                    }
                })
            })
            .collect();
        eventually(Duration::from_secs(300), "every run succeeds", || async {
            let found = ended_runs(&stage, "succeeded").await;
            if found == RUNS as i64 { Ok(()) } else { Err(found) }
        })
        .await;
        ended.store(true, Ordering::SeqCst);
        for lane in lanes {
            lane.await.unwrap();
        }

        assert!(killed.load(Ordering::SeqCst) >= 3, "{killed:?} were killed");
        let rows = RUNS as i64;
        for (table, count) in [("app.sbx_runs", rows * 2), ("app.run_steps", rows * 4), ("app.claims", 0), ("app.waits", 0)] {
            assert_eq!(stage.sql_count(&format!("SELECT count(*) FROM {table}")).await, count, "{table}");
        }
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn a_tick_needs_the_token_and_answers_the_summary(stage: Stage) {
        let closed = stage.start("api", &[]).await;
        let rows = stage.row_counts().await;
        closed.send("POST", "/tick", None).await.expect_refusal(403);
        let api = stage.start("api", &[("STEPWELL_TOKEN", "s3cret-of-this-test"), LIVE[0], LIVE[1]]).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let tick = async |token: &str, body: &str| {
            let request = client.post(format!("{}/tick", api.base())).header("content-type", "application/json").bearer_auth(token).body(body.to_owned());
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        assert_eq!(api.send("POST", "/tick", None).await.status, 401);
        assert_eq!(tick("wrong", "{}").await.0, 401);
        for body in [r#"{"maxSeconds": 0}"#, r#"{"maxSeconds": "5"}"#, r#"{"seconds": 5}"#, "{bad"] {
            assert_eq!(tick("s3cret-of-this-test", body).await.0, 400, "{body}");
        }
        let wrong_method = client.get(format!("{}/tick", api.base())).bearer_auth("s3cret-of-this-test").send().await.unwrap();
        assert_eq!(wrong_method.status().as_u16(), 405);
        assert_eq!(stage.row_counts().await, rows);

        let idle = json!({"claimed": 0, "completed": 0, "suspended": 0, "failed": 0, "released": 0, "backlog": 0, "nextWakeAt": null});
        assert_eq!(tick("s3cret-of-this-test", "").await, (200, idle));
        stage.sql_execute("INSERT INTO app.intents (id, goal, inputs, constraints, created_at) VALUES ('it_tick', 'tick', '{\"command\": \"true\"}', '{}', 1)").await;
        let run = closed.start_run("it_tick", "shell-default").await;
        let (status, summary) = tick("s3cret-of-this-test", r#"{"maxSeconds": 30, "maxJobs": 10}"#).await;
        assert_eq!((status, &summary["completed"], &summary["backlog"]), (200, &json!(2), &json!(0)), "{summary}");
        assert_eq!(closed.header(&run).await["status"], "SUCCESS");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.executors").await, 0);
    }

    async fn a_fifth_tick_beside_four_is_told_to_come_again(stage: Stage) {
        const AT_ONCE: i64 = 4;
        let token = "s3cret-of-this-test";
        let planning = stage.start("api", &[]).await;
        let gate = stage.dir().join("gate");
        for _ in 0..AT_ONCE {
            planning.start_job(json!({"command": format!("until [ -e {} ]; do sleep 0.05; done", gate.display())})).await;
        }
        // The runs are planned, and wait for their tasks.
        let (code, summary) = outcome(&once(&stage, &["--queues", "intentQ"], &[]).await);
        assert_eq!((code, &summary["suspended"]), (0, &json!(AT_ONCE)), "{summary}");
        let api = stage.start("api", &[("STEPWELL_TOKEN", token), LIVE[0], LIVE[1]]).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = |path: &str, body: &str| {
            let request = client.post(format!("{}{path}", api.base())).header("content-type", "application/json").bearer_auth(token);
            request.body(body.to_owned()).send()
        };
        let tick = || post("/tick", r#"{"maxSeconds": 60, "maxJobs": 1}"#);
        let mut ticks = Vec::new();
        for under_way in 1..=AT_ONCE {
            ticks.push(tokio::spawn(tick()));
            eventually(DEADLINE, &format!("{under_way} ticks have a task"), || async {
                let found = stage.sql_count("SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'").await;
                if found == under_way { Ok(()) } else { Err(found) }
            })
            .await;
        }

        let refused = tick().await.unwrap();

        assert_eq!(refused.status().as_u16(), 429);
        let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait} s");
        assert_eq!(refused.json::<Value>().await.unwrap()["code"], "tick_busy");
        let intent = post("/api/intents", r#"{"goal": "beside them", "inputs": {}, "constraints": {}}"#).await.unwrap();
        assert_eq!(intent.status().as_u16(), 201, "ticks keep nobody else from writing");
        std::fs::write(&gate, "").unwrap();
        for tick in ticks {
            let answer = tick.await.unwrap().unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            assert_eq!(answer.json::<Value>().await.unwrap()["completed"], 1);
        }
        assert_eq!(tick().await.unwrap().status().as_u16(), 200, "there is room again");
    }
}

on_own_postgres! {
    async fn a_database_that_is_lost_in_the_middle_is_69_and_costs_no_run(stage: Stage, []) {
        let api = stage.start("api", &[]).await;
        let (begun, gate) = (stage.dir().join("begun"), stage.dir().join("gate"));
        let command = format!("echo x >> {}; until [ -e {} ]; do sleep 0.05; done", begun.display(), gate.display());
        let run = api.start_job(json!({"command": command})).await;
        let started = Instant::now();
        let child = stage
            .command(&["worker", "--once", "--max-seconds", "6"])
            .envs(LIVE)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        eventually(DEADLINE, "the task runs", || async {
            if begun.exists() { Ok(()) } else { Err("not yet") }
        })
        .await;

        stage.cluster().stop().await;
        std::fs::write(&gate, "").unwrap();
        let (code, message) = refusal(&child.wait_with_output().await.unwrap());

        assert_eq!(code, 69, "{message}");
        // It has looked once more for as long as it may take to connect.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}: {message}", started.elapsed());
        stage.cluster().start().await;
        // What it held is taken over after its expiry.
        let env = [LIVE.as_slice(), &[("EXECUTOR_EXPIRY_MS", "1000")]].concat();
        eventually(DEADLINE, "a later invocation ends the run", || async {
            once(&stage, &["--max-seconds", "5"], &env).await;
            let header = api.header(&run).await;
            if header["status"] == "SUCCESS" { Ok(()) } else { Err(header) }
        })
        .await;
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }
}
