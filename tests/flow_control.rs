//! Limits of queues: each alone and all together, watched from rows while four workers work; turns, starvation, and changes at run time.
//!
//! `STEPWELL_FLOW_TASKS` says how many tasks run under all limits together.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use harness::*;
use serde_json::{Value, json};
use stepwell::{
    engine::{
        Client, Context, EngineBuilder, EngineOptions, StartOptions, Workflow, WorkflowError,
    },
    store::{
        Database,
        queue_limits::QueueSettings,
        queue_settings::{self, QueueChange},
        workflows,
    },
};
use tokio::sync::RwLock;

const QUEUE: &str = "testQ";
const DEADLINE: Duration = Duration::from_secs(240);
const WORKERS: usize = 4;
const SAMPLE_EVERY: Duration = Duration::from_millis(10);
/// How often a sampler must have looked on the average; a busy machine does not keep to the pace above.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// The limits are tried by processes that take all of the machine, and how long a job waits is measured without them.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// A task that takes as many milliseconds as it is told.
struct Task;

impl Workflow for Task {
    const NAME: &'static str = "test.task";
    type Input = u64;
    type Output = ();

    async fn run(&self, ctx: &Context, takes_ms: u64) -> Result<(), WorkflowError> {
        ctx.step("work", move || async move {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
            Ok(())
        })
        .await
    }
}

/// A task that sleeps durably as long as it is told.
struct Sleeper;

impl Workflow for Sleeper {
    const NAME: &'static str = "test.sleeper";
    type Input = u64;
    type Output = ();

    async fn run(&self, ctx: &Context, sleeps_ms: u64) -> Result<(), WorkflowError> {
        ctx.sleep(Duration::from_millis(sleeps_ms)).await
    }
}

fn register(builder: EngineBuilder) -> EngineBuilder {
    builder.register(Task).unwrap().register(Sleeper).unwrap()
}

async fn workers(stage: &Stage, count: usize, settings: &QueueSettings) -> Vec<Process> {
    let db = database(stage).await;
    // Here, so that a test can change them at once: a process makes them in its own time.
    queue_settings::ensure(&db.write(), std::slice::from_ref(settings))
        .await
        .unwrap();
    let mut processes = Vec::new();
    for _ in 0..count {
        let queues = vec![settings.clone()];
        processes
            .push(Process::start_with(stage, queues, EngineOptions::default(), register).await);
    }
    processes
}

async fn stop(processes: Vec<Process>) {
    for process in processes {
        process.stop().await;
    }
}

fn limits() -> QueueSettings {
    QueueSettings::unlimited(QUEUE)
}

fn tenant(id: String, partition: &str) -> StartOptions {
    StartOptions {
        id: Some(id),
        queue: QUEUE.into(),
        partition_key: Some(partition.into()),
        ..StartOptions::default()
    }
}

/// Queues tasks in one transaction per thousand.
async fn enqueue<W: Workflow>(
    client: &Client,
    input: &W::Input,
    options: impl IntoIterator<Item = StartOptions>,
) {
    let all: Vec<_> = options
        .into_iter()
        .map(|options| client.prepare::<W>(input, options).unwrap())
        .collect();
    for batch in all.chunks(1_000) {
        let tx = client.database().begin().await.unwrap();
        workflows::insert(&tx, batch).await.unwrap();
        tx.commit().await.unwrap();
    }
    client.queued(QUEUE);
}

async fn until_done(stage: &Stage, name: &str, count: i64) {
    let sql = format!(
        "SELECT count(*) FROM dbos.workflow_status WHERE name = '{name}' AND status = 'SUCCESS'"
    );
    eventually(
        DEADLINE,
        &format!("{count} of {name} have ended"),
        || async {
            let found = stage.sql_count(&sql).await;
            if found == count { Ok(()) } else { Err(found) }
        },
    )
    .await;
}

async fn change(db: &Database, change: QueueChange) {
    assert!(
        queue_settings::change(&db.write(), QUEUE, &change)
            .await
            .unwrap()
    );
    Client::without_engine(db.clone(), "v1".into())
        .queue_changed(QUEUE)
        .await;
}

/// What was most at one instant.
#[derive(Debug, Default)]
struct Most {
    everywhere: i64,
    worker: i64,
    partition: i64,
    samples: u64,
}

/// Reads what is live, in one statement, until told to stop.
async fn sample(stage: Stage, done: Arc<AtomicBool>) -> Most {
    let sql = "SELECT c.executor_id, c.queue_partition_key AS partition, count(*) AS n FROM app.claims c JOIN dbos.workflow_status s \
               ON s.workflow_uuid = c.workflow_id AND s.owner_xid = c.token AND s.status = 'PENDING' GROUP BY c.executor_id, c.queue_partition_key";
    let mut most = Most::default();
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    while !done.load(Ordering::SeqCst) {
        tick.tick().await;
        let rows = stage.sql(sql).await;
        let sums = |key: &str| {
            let mut sums: HashMap<String, i64> = HashMap::new();
            for row in &rows {
                *sums.entry(row[key].to_string()).or_default() += row["n"].as_i64().unwrap();
            }
            sums.into_values().max().unwrap_or(0)
        };
        let all = rows.iter().map(|row| row["n"].as_i64().unwrap()).sum();
        most.everywhere = most.everywhere.max(all);
        most.worker = most.worker.max(sums("executor_id"));
        most.partition = most.partition.max(sums("partition"));
        most.samples += 1;
    }
    most
}

/// The most starts in one window; windows begin with the first start that no earlier window holds.
async fn fullest_window(stage: &Stage, period_ms: i64) -> i64 {
    let starts = stage
        .sql("SELECT started_at_epoch_ms AS at FROM dbos.workflow_status WHERE rate_limited ORDER BY started_at_epoch_ms")
        .await;
    let mut fullest = 0;
    let (mut window, mut count) = (i64::MIN, 0);
    for start in starts {
        let at = start["at"].as_i64().unwrap();
        if window == i64::MIN || at >= window + period_ms {
            (window, count) = (at, 0);
        }
        count += 1;
        fullest = fullest.max(count);
    }
    fullest
}

/// Runs `tasks` under `settings`, on four workers, for ten tenants, and answers what was most.
async fn watched(stage: &Stage, tasks: usize, settings: &QueueSettings) -> Most {
    let _busy = MACHINE.read().await;
    let processes = workers(stage, WORKERS, settings).await;
    let done = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let sampler = tokio::spawn(sample(stage.clone(), Arc::clone(&done)));
    enqueue::<Task>(
        processes[0].client(),
        &2,
        (0..tasks).map(|n| StartOptions {
            priority: i32::try_from(n % 3).unwrap(),
            ..tenant(format!("task-{n:05}"), &format!("tenant-{}", n % 10))
        }),
    )
    .await;
    for process in &processes {
        process.client().queued(QUEUE);
    }
    until_done(stage, Task::NAME, tasks as i64).await;
    done.store(true, Ordering::SeqCst);
    let most = sampler.await.unwrap();
    // Whatever it lasted, somebody looked all the time: a limit that is broken between two looks a second apart is not seen.
    let looks = began.elapsed().as_millis() / LOOKS_EVERY.as_millis();
    assert!(
        u128::from(most.samples) > looks,
        "{most:?}, at least {looks} expected"
    );
    stop(processes).await;
    most
}

/// Tasks under all limits together.
fn tasks() -> usize {
    usize::try_from(number_from("STEPWELL_FLOW_TASKS", 5_000)).unwrap()
}

/// Tasks under a limit alone: a part of them, where tests must not take minutes.
fn tasks_alone() -> usize {
    if long_tests_are_wanted() {
        tasks()
    } else {
        tasks() / 5
    }
}

/// When workflows started, by id.
async fn order(stage: &Stage, like: &str) -> Vec<String> {
    let rows = stage
        .sql(&format!(
            "SELECT workflow_uuid FROM dbos.workflow_status WHERE workflow_uuid LIKE '{like}' ORDER BY started_at_epoch_ms, completed_at"
        ))
        .await;
    rows.iter()
        .map(|row| row["workflow_uuid"].as_str().unwrap().to_owned())
        .collect()
}

on_both_databases! {
    async fn all_limits_hold_together(stage: Stage) {
        let settings = QueueSettings {
            concurrency: Some(30),
            worker_concurrency: Some(10),
            partition_concurrency: Some(4),
            rate_limit_max: Some(400),
            rate_limit_period_ms: Some(500),
            fair: true,
            ..limits()
        };
        let most = watched(&stage, tasks(), &settings).await;
        assert!(most.everywhere <= 30 && most.worker <= 10 && most.partition <= 4, "{most:?}");
        // Most of the room is used, or the limits were not tried.
        assert!(most.everywhere > 15 && most.worker > 5 && most.partition > 2, "{most:?}");
        assert!(fullest_window(&stage, 500).await <= 400);
    }

    async fn concurrency_alone_holds(stage: Stage) {
        let most = watched(&stage, tasks_alone(), &QueueSettings { concurrency: Some(12), ..limits() }).await;
        assert!(most.everywhere <= 12 && most.everywhere > 3, "{most:?}");
    }

    async fn worker_concurrency_alone_holds(stage: Stage) {
        let most = watched(&stage, tasks_alone(), &QueueSettings { worker_concurrency: Some(5), ..limits() }).await;
        assert!(most.worker <= 5 && most.everywhere <= 20, "{most:?}");
    }

    async fn partition_concurrency_alone_holds(stage: Stage) {
        let most = watched(&stage, tasks_alone(), &QueueSettings { partition_concurrency: Some(2), ..limits() }).await;
        assert!(most.partition <= 2 && most.everywhere <= 20, "{most:?}");
    }

    async fn a_rate_alone_holds_in_every_window_of_the_databases_clock(stage: Stage) {
        let settings = QueueSettings { rate_limit_max: Some(150), rate_limit_period_ms: Some(300), ..limits() };
        watched(&stage, tasks_alone(), &settings).await;
        assert_eq!(fullest_window(&stage, 300).await, 150, "and each window is used");
    }

    async fn a_woken_workflow_needs_a_slot_and_no_start(stage: Stage) {
        let settings = QueueSettings { concurrency: Some(1), rate_limit_max: Some(3), rate_limit_period_ms: Some(3_600_000), ..limits() };
        let processes = workers(&stage, 2, &settings).await;
        // More than a second, so that they suspend: three sleep at the same time where only one may run.
        enqueue::<Sleeper>(processes[0].client(), &6_000, (0..5).map(|n| tenant(format!("sleeper-{n}"), "t"))).await;

        eventually(DEADLINE, "three sleep at once", || async {
            let waits = stage.sql_count("SELECT count(*) FROM app.waits").await;
            if waits == 3 { Ok(()) } else { Err(waits) }
        })
        .await;
        until_done(&stage, Sleeper::NAME, 3).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED'").await, 2, "the rate has let three start");
        stop(processes).await;
    }

    async fn partitions_bound_the_woken_too(stage: Stage) {
        let settings = QueueSettings { partition_concurrency: Some(2), ..limits() };
        let processes = workers(&stage, 2, &settings).await;
        let done = Arc::new(AtomicBool::new(false));
        let sampler = tokio::spawn(sample(stage.clone(), Arc::clone(&done)));
        enqueue::<Sleeper>(processes[0].client(), &1_200, (0..200).map(|n| tenant(format!("sleeper-{n}"), &format!("t{}", n % 2)))).await;
        until_done(&stage, Sleeper::NAME, 200).await;
        done.store(true, Ordering::SeqCst);
        let most = sampler.await.unwrap();
        assert!(most.partition <= 2, "{most:?}");
        stop(processes).await;
    }

    async fn tenants_take_turns(stage: Stage) {
        let processes = workers(&stage, 1, &QueueSettings { concurrency: Some(1), fair: true, ..limits() }).await;
        let db = processes[0].client().database().clone();
        change(&db, QueueChange { paused: Some(true), ..QueueChange::default() }).await;
        enqueue::<Task>(processes[0].client(), &1, (0..50).map(|n| tenant(format!("many-{n:02}"), "big"))).await;
        enqueue::<Task>(processes[0].client(), &1, (0..2).map(|n| tenant(format!("few-{n}"), "small"))).await;
        enqueue::<Task>(processes[0].client(), &1, [StartOptions { id: Some("few-none".into()), queue: QUEUE.into(), ..StartOptions::default() }]).await;
        change(&db, QueueChange { paused: Some(false), ..QueueChange::default() }).await;

        until_done(&stage, Task::NAME, 53).await;
        let order = order(&stage, "%").await;
        let last = order.iter().rposition(|id| id.starts_with("few")).unwrap();
        assert!(last < 6, "{order:?}");
        stop(processes).await;
    }

    async fn priority_counts_first_and_then_who_came_first(stage: Stage) {
        let processes = workers(&stage, 1, &QueueSettings { concurrency: Some(1), ..limits() }).await;
        let db = processes[0].client().database().clone();
        change(&db, QueueChange { paused: Some(true), ..QueueChange::default() }).await;
        for (id, priority) in [("c1", 5), ("a1", 0), ("b1", 2), ("a2", 0), ("b2", 2), ("c2", 5)] {
            let options = StartOptions { id: Some(id.into()), queue: QUEUE.into(), priority, ..StartOptions::default() };
            processes[0].client().start::<Task>(&1, options).await.unwrap();
            // Two of one millisecond have no order.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.claims").await, 0, "a paused queue starts nothing");
        change(&db, QueueChange { paused: Some(false), ..QueueChange::default() }).await;

        until_done(&stage, Task::NAME, 6).await;
        assert_eq!(order(&stage, "%").await, ["a1", "a2", "b1", "b2", "c1", "c2"]);
        stop(processes).await;
    }

    async fn a_new_tenant_is_not_held_up_by_one_that_is_throttled(stage: Stage) {
        let _alone = MACHINE.write().await;
        let processes = workers(&stage, 1, &QueueSettings { partition_concurrency: Some(1), ..limits() }).await;
        let client = processes[0].client();
        // Its first job takes its one slot for as long as the test lasts.
        enqueue::<Task>(client, &600_000, (0..10_000).map(|n| tenant(format!("many-{n}"), "big"))).await;
        eventually(DEADLINE, "the big tenant is at work", || async {
            let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
            if claims == 1 { Ok(()) } else { Err(claims) }
        })
        .await;

        let mut waited = Vec::new();
        for n in 0..15 {
            let id = format!("lone-{n}");
            client.start::<Task>(&1, tenant(id.clone(), &format!("small-{n}"))).await.unwrap();
            let sql = format!("SELECT started_at_epoch_ms - created_at FROM dbos.workflow_status WHERE workflow_uuid = '{id}'");
            let took = eventually(DEADLINE, &format!("{id} has started"), || async {
                let took = stage.sql_value(&sql).await;
                took.as_i64().ok_or(took)
            })
            .await;
            waited.push(took);
        }
        waited.sort_unstable();
        assert!(waited[waited.len() / 2] < 100, "{waited:?} ms");
        // Not worth waiting for: its work takes ten minutes.
        for process in processes {
            process.kill();
        }
    }

    async fn a_delayed_start_waits_for_its_time(stage: Stage) {
        let processes = workers(&stage, 1, &limits()).await;
        let options = StartOptions { id: Some("later".into()), queue: QUEUE.into(), delay: Some(Duration::from_millis(1_500)), ..StartOptions::default() };
        processes[0].client().start::<Task>(&1, options).await.unwrap();
        assert_eq!(stage.sql_value("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'later'").await, "DELAYED");
        until_done(&stage, Task::NAME, 1).await;
        let early = "SELECT count(*) FROM dbos.workflow_status WHERE started_at_epoch_ms < delay_until_epoch_ms";
        assert_eq!(stage.sql_count(early).await, 0);
        stop(processes).await;
    }

    async fn settings_change_while_the_queue_is_in_use(stage: Stage) {
        let server = stage.serve().await;
        let before = server.get("/api/queues/sbxQ").await.expect(200);
        assert_eq!(before["rateLimit"], json!({"max": 100, "periodMs": 60_000}));
        assert_eq!((&before["fair"], &before["paused"], &before["partitionConcurrency"]), (&json!(true), &json!(false), &Value::Null));

        let change = json!({"concurrency": 7, "partitionConcurrency": 2, "rateLimit": null, "maxBacklog": 10});
        let after = server.put("/api/queues/sbxQ", &change).await.expect(200);
        assert_eq!((after["concurrency"].as_i64(), after["workerConcurrency"].as_i64()), (Some(7), Some(10)), "what is absent stays");
        assert_eq!((&after["rateLimit"], &after["partitionConcurrency"], &after["maxBacklog"]), (&Value::Null, &json!(2), &json!(10)));
        assert_eq!(server.get("/api/queues/sbxQ").await.expect(200), after);
        let names: Vec<Value> = server.get("/api/queues").await.expect(200).as_array().unwrap().iter().map(|queue| queue["name"].clone()).collect();
        assert_eq!(names, ["compileQ", "controlQ", "intentQ", "sbxQ"]);

        let counts = stage.row_counts().await;
        for (path, body, status) in [
            ("/api/queues/nope", json!({"concurrency": 1}), 404),
            ("/api/queues/sbxQ", json!({"concurrency": 0}), 400),
            ("/api/queues/sbxQ", json!({"concurrency": "many"}), 400),
            ("/api/queues/sbxQ", json!({"rateLimit": {"max": 5}}), 400),
            ("/api/queues/sbxQ", json!({"unknown": 1}), 400),
        ] {
            let answer = server.put(path, &body).await;
            assert_eq!(answer.status, status, "{body}: {answer}");
        }
        assert_eq!(stage.row_counts().await, counts);
        assert_eq!(server.get("/api/queues/sbxQ").await.expect(200), after, "a refused change changes nothing");
    }

    async fn a_paused_queue_of_runs_resumes(stage: Stage) {
        let server = stage.serve().await;
        assert_eq!(server.send("POST", "/api/queues/intentQ/pause", None).await.expect(200)["paused"], true);
        // Within a second every process knows.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let run = server.start_golden_run().await;
        let queue = server.get("/api/queues/intentQ").await.expect(200);
        assert_eq!((queue["queued"].as_i64(), queue["running"].as_i64()), (Some(1), Some(0)));
        assert_eq!(server.header(&run).await["status"], "ENQUEUED");

        server.send("POST", "/api/queues/intentQ/resume", None).await.expect(200);
        server.wait_next_action(&run, "APPROVE_PLAN").await;
    }

    async fn a_queue_is_paused_before_anything_executes(stage: Stage) {
        let api = stage.start("api", &[]).await;
        api.put("/api/queues/nobodyQ", &json!({"paused": true})).await.expect_refusal(404);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.queue_limits").await, 0, "a refusal creates no queue");
        assert_eq!(api.send("POST", "/api/queues/intentQ/pause", None).await.expect(200)["paused"], true);
        let run = api.start_golden_run().await;
        let worker = stage.start("worker", &[]).await;
        stage.until_count("the worker has started", "SELECT count(*) FROM app.executors", 1).await;
        assert_eq!(api.get("/api/queues/intentQ").await.expect(200)["paused"], true, "a worker changes nothing of it");
        assert_eq!(api.header(&run).await["status"], "ENQUEUED");

        api.send("POST", "/api/queues/intentQ/resume", None).await.expect(200);
        api.wait_next_action(&run, "APPROVE_PLAN").await;
        drop(worker);
    }

    async fn a_full_backlog_refuses_runs_and_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        server.put("/api/queues/intentQ", &json!({"maxBacklog": 2, "paused": true})).await.expect(200);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let first = server.start_golden_run().await;
        server.start_golden_run().await;
        let third = server.create_intent("one too many", json!({})).await;
        let counts = stage.row_counts().await;

        let refused = server.post("/api/runs", &Server::start_request(&third, "sandbox-default")).await;

        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")), "{refused}");
        assert_eq!(refused.json()["code"], "backlog_full");
        assert_eq!(stage.row_counts().await, counts);
        // A start that was answered before is answered again.
        server.post("/api/runs", &Server::start_request(&first, "sandbox-default")).await.expect(202);

        server.put("/api/queues/intentQ", &json!({"maxBacklog": null, "paused": false})).await.expect(200);
        server.start_run(&third, "sandbox-default").await;
    }

    async fn one_live_run_holds_a_deduplication_id(stage: Stage) {
        let server = stage.serve().await;
        let request = |intent: &str| {
            let mut request = Server::start_request(intent, "sandbox-default");
            request["deduplicationID"] = "nightly".into();
            request
        };
        let (first, second) = (server.create_intent("a", json!({})).await, server.create_intent("b", json!({})).await);
        server.post("/api/runs", &request(&first)).await.expect(202);
        server.wait_next_action(&first, "APPROVE_PLAN").await;
        let counts = stage.row_counts().await;

        let refused = server.post("/api/runs", &request(&second)).await;
        assert_eq!((refused.status, refused.json()["code"].clone()), (409, json!("deduplication_conflict")));
        assert_eq!(stage.row_counts().await, counts);

        server.approve(&first).await;
        server.wait_status(&first, "SUCCESS").await;
        server.post("/api/runs", &request(&second)).await.expect(202);
    }

    async fn the_command_line_lists_and_changes_queues(stage: Stage) {
        let server = stage.serve().await;
        let queue = |arguments: &'static [&'static str]| {
            let mut command = stage.command(&[&["queue"], arguments].concat());
            async move {
                let output = command.output().await.unwrap();
                (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
            }
        };
        let (code, listed, _) = queue(&["ls"]).await;
        assert_eq!(code, Some(0));
        assert!(listed.lines().any(|line| line.starts_with("sbxQ") && line.contains("concurrency 50") && line.contains("100 per 1 min")), "{listed}");

        let (code, set, _) = queue(&["set", "sbxQ", "--concurrency", "none", "--rate", "5/1s", "--partition-concurrency", "3", "--json"]).await;
        let set: Value = serde_json::from_str(&set).unwrap();
        assert_eq!((code, &set["concurrency"], &set["rateLimit"]["periodMs"]), (Some(0), &Value::Null, &json!(1_000)));
        assert_eq!(server.get("/api/queues/sbxQ").await.expect(200)["partitionConcurrency"], 3);

        assert_eq!(queue(&["pause", "sbxQ"]).await.0, Some(0));
        assert_eq!(server.get("/api/queues/sbxQ").await.expect(200)["paused"], true);
        assert_eq!(queue(&["resume", "sbxQ"]).await.0, Some(0));
        assert_eq!(server.get("/api/queues/sbxQ").await.expect(200)["paused"], false);
        let (code, _, error) = queue(&["set", "sbxQ"]).await;
        assert!(code == Some(2) && error.contains("--concurrency"), "{error}");
        assert_eq!(queue(&["pause", "nope"]).await.0, Some(1));
    }
}
