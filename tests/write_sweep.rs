//! Dying at every write: whatever a process is about to write, or has just written, from its start to the end of a run, another one goes on, and
//! every effect has happened once. Nobody lists the writes here: the process counts them, and the sweep goes on until a run ends before the next.
//! `STEPWELL_TEST_LONG=1` dies at each of them; otherwise at some.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{fs, time::Duration};

use harness::*;
use serde_json::{Value, json};

/// Writes between two deaths, unless every write is wanted.
const APART: usize = 9;
/// Fewer writes than this lead nobody through a run: then something is not counted.
const FEWEST: u64 = 25;
const TASKS: [&str; 2] = ["a", "b"];
const HEALTH_DEADLINE: Duration = Duration::from_secs(30);

/// The commands leave their marks outside, where bwrap would let them write nothing; dead processes are noticed soon.
const LIVE: [(&str, &str); 4] = [
    ("EXECUTOR_EXPIRY_MS", "1000"),
    ("SBX_MODE", "live"),
    ("SBX_PROVIDER", "local"),
    ("SBX_LOCAL_BWRAP", "off"),
];

/// A run, its approval, and where its tasks leave their marks.
struct Story {
    goal: String,
    marks: std::path::PathBuf,
}

impl Story {
    fn intent(&self) -> Value {
        let script = format!("echo ran >> {}-$1\n", self.marks.display());
        json!({"goal": self.goal, "constraints": {}, "inputs": {
            "command": "sh mark.sh", "tests": TASKS, "files": [{"path": "mark.sh", "inline": script}],
        }})
    }

    /// How often this task has run, counted outside the database.
    fn marks(&self, task: &str) -> usize {
        let marks = format!("{}-{task}", self.marks.display());
        fs::read_to_string(marks)
            .unwrap_or_default()
            .lines()
            .count()
    }
}

/// The answer of a process that may die first; then this never ends, and whoever saw the death does not wait for it.
async fn send(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let body = body.map(Value::to_string);
    match server.try_send(method, path, body).await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

fn id_in(created: &Answer) -> String {
    created.expect(201)["intentId"].as_str().unwrap().to_owned()
}

fn start_of(intent: &str) -> Value {
    json!({"intentId": intent, "queuePartitionKey": "t", "recipeName": "sandbox-default"})
}

/// From the first answer to the end of the run, unless the process dies.
async fn tell(server: &Server, story: &Story) {
    eventually(HEALTH_DEADLINE, "it answers, or is dead", || async {
        match server.try_send("GET", "/healthz", None).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let created = send(server, "POST", "/api/intents", Some(&story.intent())).await;
    let intent = id_in(&created);
    let start = start_of(&intent);
    send(server, "POST", "/api/runs", Some(&start))
        .await
        .expect(202);
    go_on(server, &intent).await;
}

/// From whatever a run has come to, to its end.
async fn go_on(server: &Server, run: &str) {
    eventually(Duration::from_secs(60), "the run has ended", || async {
        let header = send(server, "GET", &format!("/api/runs/{run}"), None)
            .await
            .expect(200);
        if header["nextAction"] == "APPROVE_PLAN" {
            let approve = format!("/api/runs/{run}/approve-plan");
            send(server, "POST", &approve, Some(&json!({"approvedBy": "po"}))).await;
        }
        match header["status"].as_str() {
            Some("SUCCESS") => Ok(()),
            _ => Err(header.to_string()),
        }
    })
    .await;
}

/// Lets a process die at its write number `n`; false when the run ended before it came to that.
async fn dies_at(stage: &Stage, side: &str, n: u64) -> bool {
    let story = Story {
        goal: format!("{side} {n}"),
        marks: stage.dir().join(format!("mark-{side}-{n}")),
    };
    let point = format!("{side}-write:{n}");
    let mortal = stage
        .spawn(
            "serve",
            &[LIVE.as_slice(), &[("STEPWELL_DIE_AT", &point)]].concat(),
        )
        .await;
    let died = tokio::select! {
        ended = mortal.wait_exit() => {
            assert!(!ended.success(), "{point}: {ended}");
            true
        }
        () = tell(&mortal, &story) => false,
    };
    mortal.kill_9().await;
    let of_run = |table: &str| {
        format!(
            "SELECT count(*) FROM {table} WHERE run_id IN (SELECT id FROM app.intents WHERE goal = '{}')",
            story.goal
        )
    };
    let recorded = stage.sql_count(&of_run("app.sbx_runs")).await;

    let heir = stage.serve_with(&LIVE).await;
    let intent = stage
        .sql(&format!(
            "SELECT id FROM app.intents WHERE goal = '{}'",
            story.goal
        ))
        .await;
    let intent = match intent.as_slice() {
        [] => id_in(&heir.post("/api/intents", &story.intent()).await),
        [row] => row["id"].as_str().unwrap().to_owned(),
        more => panic!("{point}: {more:?}"),
    };
    heir.post("/api/runs", &start_of(&intent)).await.expect(202);
    go_on(&heir, &intent).await;
    heir.kill_9().await;

    let times = TASKS.map(|task| story.marks(task));
    let twice = times.iter().filter(|times| **times == 2).count();
    assert!(
        times.iter().all(|times| (1..=2).contains(times)),
        "{point}: the tasks ran {times:?} times"
    );
    let unrecorded = TASKS.len() - usize::try_from(recorded).unwrap();
    assert!(
        twice <= unrecorded,
        "{point}: {twice} ran twice, {recorded} of {} were recorded",
        TASKS.len()
    );
    for (table, rows) in [
        ("app.run_steps", 4),
        ("app.sbx_runs", 2),
        ("app.plan_approvals", 1),
    ] {
        assert_eq!(
            stage.sql_count(&of_run(table)).await,
            rows,
            "{point}: {table}"
        );
    }
    for table in ["app.claims", "app.waits"] {
        assert_eq!(
            stage
                .sql_count(&format!(
                    "SELECT count(*) FROM {table} WHERE workflow_id NOT LIKE 'sched-%'"
                ))
                .await,
            0,
            "{point}: {table}"
        );
    }
    died
}

async fn sweep(stage: &Stage, side: &str, first: u64) {
    stage.migrate().await;
    let (first, apart) = if long_tests_are_wanted() {
        (1, 1)
    } else {
        (first, APART)
    };
    let mut deaths = Vec::new();
    for n in (first..).step_by(apart) {
        if !dies_at(stage, side, n).await {
            break;
        }
        deaths.push(n);
    }
    report(&format!(
        "{}: died {side} the writes {deaths:?}",
        stage.backend().name()
    ));
    assert!(
        deaths
            .last()
            .is_some_and(|last| *last + apart as u64 > FEWEST),
        "{deaths:?}"
    );
    stage.assert_no_duplicates().await;
    stage.assert_sound().await;
}

on_both_databases! {
    async fn before_a_write(stage: Stage) {
        sweep(&stage, "before", 1).await;
    }

    async fn after_a_write(stage: Stage) {
        sweep(&stage, "after", 5).await;
    }
}
