//! SIGTERM: what runs goes to its next boundary, the rest is handed back uncharged, and nothing outlives the process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use serde_json::json;
use stepwell::{
    engine::{Context, Engine, EngineOptions, StartOptions, Workflow, WorkflowError, migrate},
    store::{Database, DatabaseOptions, queue_limits::QueueSettings},
};
use tokio::sync::Semaphore;

const DEADLINE: Duration = Duration::from_secs(60);
const LIVE: [(&str, &str); 2] = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local")];

/// Until `count` tasks are in execution.
async fn until_tasks_run(stage: &Stage, count: i64) {
    let claims = "SELECT count(*) FROM app.claims WHERE queue_name = 'sbxQ'";
    eventually(DEADLINE, &format!("{count} tasks run"), || async {
        let found = stage.sql_count(claims).await;
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Nobody owns anything, nobody lives, and no attempt is held against anybody.
async fn assert_handed_back(stage: &Stage) {
    for (sql, expected) in [
        ("SELECT count(*) FROM app.claims", 0),
        ("SELECT count(*) FROM app.executors", 0),
        (
            "SELECT COALESCE(sum(recovery_attempts), 0) AS n FROM dbos.workflow_status",
            0,
        ),
        (
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING' AND (owner_xid IS NOT NULL OR executor_id IS NOT NULL)",
            0,
        ),
        (
            "SELECT count(*) FROM dbos.workflow_status s WHERE s.status = 'PENDING' \
             AND NOT EXISTS (SELECT 1 FROM app.waits w WHERE w.workflow_id = s.workflow_uuid)",
            0,
        ),
    ] {
        assert_eq!(stage.sql_count(sql).await, expected, "{sql}");
    }
}

struct TwoSteps {
    entered: Arc<Semaphore>,
    leave: Arc<Semaphore>,
    second: Arc<AtomicUsize>,
}

impl Workflow for TwoSteps {
    const NAME: &'static str = "test.two_steps";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        ctx.step("first", || async {
            self.entered.add_permits(1);
            self.leave.acquire().await.unwrap().forget();
            Ok(())
        })
        .await?;
        ctx.step("second", || async {
            self.second.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .await
    }
}

on_both_databases! {
    async fn a_step_that_ends_in_time_is_kept_and_the_next_one_does_not_start(stage: Stage) {
        let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
        migrate(&db).await.unwrap();
        let (entered, leave, second) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let launch = || {
            let workflow = TwoSteps { entered: Arc::clone(&entered), leave: Arc::clone(&leave), second: Arc::clone(&second) };
            let options = EngineOptions { queues: vec![QueueSettings::unlimited("testQ")], grace: DEADLINE, ..EngineOptions::default() };
            Engine::builder(db.clone(), options).register(workflow).unwrap().launch()
        };
        let engine = launch();
        let options = StartOptions { id: Some("two".into()), queue: "testQ".into(), ..StartOptions::default() };
        engine.client().start::<TwoSteps>(&(), options).await.unwrap();
        entered.acquire().await.unwrap().forget();

        let vitals = engine.vitals().clone();
        let stopping = tokio::spawn(engine.shutdown());
        eventually(DEADLINE, "the engine has begun to stop", || async { if vitals.is_draining() { Ok(()) } else { Err("it claims") } }).await;
        leave.add_permits(1);
        stopping.await.unwrap();

        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'two'").await, 1);
        assert_eq!(second.load(Ordering::SeqCst), 0);
        assert_handed_back(&stage).await;

        let engine = launch();
        engine.client().result::<()>("two", Duration::from_millis(20)).await.unwrap().unwrap();
        assert_eq!((second.load(Ordering::SeqCst), entered.available_permits()), (1, 0), "the first step did not run again");
        engine.shutdown().await;
    }

    async fn what_is_too_long_is_handed_back_uncharged_and_goes_on_elsewhere(stage: Stage) {
        let server = stage.serve_with(&[("CHAOS_SLEEP_EXECUTE", "60000"), ("SHUTDOWN_GRACE_MS", "500")]).await;
        let run = server.start_job(json!({"command": "true", "tests": ["a", "b"]})).await;
        until_tasks_run(&stage, 1).await;

        let asked = Instant::now();
        let status = server.terminate().await;

        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
        assert_handed_back(&stage).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 0);

        server.start_again_with(&[("CHAOS_SLEEP_EXECUTE", "0")]).await;
        server.wait_status(&run, "SUCCESS").await;
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn the_heart_beats_while_the_last_step_ends(stage: Stage) {
        let quick = ("EXECUTOR_EXPIRY_MS", "1000");
        let long = [quick, ("CHAOS_SLEEP_EXECUTE", "4000"), ("SHUTDOWN_GRACE_MS", "30000")];
        let leaving = stage.serve_with(&[long.as_slice(), &LIVE].concat()).await;
        let effect = stage.dir().join("effects");
        let run = leaving.start_job(json!({"command": format!("echo ran >> {}", effect.display())})).await;
        until_tasks_run(&stage, 1).await;
        let other = stage.serve_with(&[[quick].as_slice(), &LIVE].concat()).await;

        let status = leaving.terminate().await;

        assert!(status.success(), "{status}");
        other.wait_status(&run, "SUCCESS").await;
        assert_eq!(std::fs::read_to_string(effect).unwrap(), "ran\n", "nobody took the task over while it ran");
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn sandboxes_end_with_the_grace_period(stage: Stage) {
        let server = stage.serve_with(&[LIVE.as_slice(), &[("SHUTDOWN_GRACE_MS", "300")]].concat()).await;
        let marker = format!("{}.7401{}", std::process::id(), stage.backend() as u8);
        server.start_job(json!({"command": format!("trap '' TERM; sleep {marker} & sleep {marker}")})).await;
        until_sandbox_lives(&marker).await;

        let status = server.terminate().await;

        assert!(status.success(), "{status}");
        eventually(DEADLINE, "the shim ends what its server leaves", || async {
            let living = living_processes(&format!("sleep {marker}"));
            if living.is_empty() { Ok(()) } else { Err(living.join("\n")) }
        })
        .await;
        assert_handed_back(&stage).await;
    }

    async fn a_second_signal_ends_everything_at_once(stage: Stage) {
        let server = stage.serve_with(&[LIVE.as_slice(), &[("SHUTDOWN_GRACE_MS", "600000")]].concat()).await;
        let marker = format!("{}.7402{}", std::process::id(), stage.backend() as u8);
        server.start_job(json!({"command": format!("trap '' TERM; sleep {marker} & sleep {marker}")})).await;
        until_sandbox_lives(&marker).await;

        server.signal("TERM").await;
        eventually(DEADLINE, "it has begun to stop", || async {
            if server.log().contains("stopping:") { Ok(()) } else { Err(server.log_tail()) }
        })
        .await;
        let asked = Instant::now();
        let status = server.terminate().await;

        assert_eq!(status.code(), Some(143), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
        assert_eq!(living_processes(&format!("sleep {marker}")), Vec::<String>::new());
    }

    async fn a_drained_worker_claims_nothing_and_beats(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let worker = stage.start("worker", &[("EXECUTOR_EXPIRY_MS", "1000")]).await;
        assert_eq!(worker.get("/healthz").await.expect(200)["draining"], false);

        let drained = worker.send("POST", "/drain", None).await.expect(202);
        assert_eq!(drained["draining"], true);
        let run = api.start_job(json!({"command": "true"})).await;

        let beat = "SELECT heartbeat_at FROM app.executors";
        let first = stage.sql_count(beat).await;
        eventually(DEADLINE, "the heart beats a few times", || async {
            let now = stage.sql_count(beat).await;
            if now > first + 1_500 { Ok(()) } else { Err(now) }
        })
        .await;
        assert_eq!(api.header(&run).await["status"], "ENQUEUED");
        assert_eq!(worker.get("/healthz").await.expect(200)["draining"], true);
        assert!(worker.terminate().await.success());
    }

    async fn pages_in_a_browser_cannot_drain_a_worker(stage: Stage) {
        let worker = stage.start("worker", &[]).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (name, value) in [("origin", "https://evil.example"), ("host", "rebound.example")] {
            let answer = client.post(format!("{}/drain", worker.base())).header(name, value).send().await.unwrap();
            assert_eq!(answer.status(), 403, "{name}");
        }
        worker.send("GET", "/drain", None).await.expect_refusal(405);
        worker.get("/elsewhere").await.expect_refusal(404);
        assert_eq!(worker.get("/healthz").await.expect(200)["draining"], false);
    }
}

async fn until_sandbox_lives(marker: &str) {
    let command = format!("sleep {marker}");
    eventually(DEADLINE, "the command runs", || async {
        let found = living_processes(&command).len();
        if found >= 2 { Ok(()) } else { Err(found) }
    })
    .await;
}
