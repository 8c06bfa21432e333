//! The engine alone, as a library: waking up under contention, limits, the fence, and what a replay may meet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::*;
use serde_json::Value;
use stepwell::{
    engine::{
        ChildOptions, Context, Engine, EngineBuilder, Receive, StartOptions, Workflow,
        WorkflowError,
    },
    store::{
        app_rows::{Row, RowChange},
        dialect::TableShape,
        queue_limits::QueueSettings,
    },
};
use tokio::sync::Semaphore;

const QUEUE: &str = "testQ";
const CHILDREN: &str = "childQ";
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);

async fn engine(stage: &Stage, register: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
    engine_with(
        stage,
        vec![
            QueueSettings::unlimited(QUEUE),
            QueueSettings::unlimited(CHILDREN),
        ],
        register,
    )
    .await
}

fn start(id: impl Into<String>) -> StartOptions {
    in_queue(QUEUE, id)
}

async fn all_succeed(stage: &Stage, name: &str, count: i64) {
    let done = format!(
        "SELECT count(*) FROM dbos.workflow_status WHERE name = '{name}' AND status = 'SUCCESS'"
    );
    eventually(DEADLINE, &format!("{count} of {name} succeed"), || async {
        let found = stage.sql_count(&done).await;
        if found == count {
            Ok(())
        } else {
            Err(format!("{found} did"))
        }
    })
    .await;
}

async fn status(stage: &Stage, id: &str) -> String {
    let row = stage
        .sql_value(&format!(
            "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = '{id}'"
        ))
        .await;
    row.as_str().unwrap_or_default().to_owned()
}

async fn until_status(stage: &Stage, id: &str, wanted: &str) {
    eventually(DEADLINE, &format!("{id} is {wanted}"), || async {
        let found = status(stage, id).await;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Until nobody executes and nobody waits to be claimed: every workflow has ended or is suspended.
async fn until_quiet(stage: &Stage) {
    eventually(DEADLINE, "nothing is claimed or queued", || async {
        let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
        let queued = stage
            .sql_count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED'")
            .await;
        if claims + queued == 0 {
            Ok(())
        } else {
            Err(format!("{claims} claims, {queued} queued"))
        }
    })
    .await;
}

struct Leaf;

impl Workflow for Leaf {
    const NAME: &'static str = "test.leaf";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, n: u32) -> Result<u32, WorkflowError> {
        ctx.step("double", move || async move { Ok(2 * n) }).await
    }
}

struct Parent;

impl Workflow for Parent {
    const NAME: &'static str = "test.parent";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, children: u32) -> Result<u32, WorkflowError> {
        let mut started = Vec::new();
        for n in 0..children {
            started.push(
                ctx.start_child::<Leaf>(
                    &n,
                    ChildOptions {
                        queue: CHILDREN.into(),
                        ..ChildOptions::default()
                    },
                )
                .await?,
            );
        }
        let results = ctx.await_children(started).await?;
        results.into_iter().sum()
    }
}

/// Receives as many messages as it is told to, and answers their sum.
struct Receiver;

impl Workflow for Receiver {
    const NAME: &'static str = "test.receiver";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, messages: u32) -> Result<u32, WorkflowError> {
        let mut sum = 0;
        for _ in 0..messages {
            let message: Option<u32> = ctx
                .receive(Receive {
                    topic: "t".into(),
                    ..Receive::default()
                })
                .await?;
            sum += message.unwrap_or(0);
        }
        Ok(sum)
    }
}

/// Counts how many of it run at the same time.
struct Alone(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Workflow for Alone {
    const NAME: &'static str = "test.alone";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        ctx.step("alone", || async {
            let now = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            self.1.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
        .await
    }
}

/// Two steps; the first one waits until the test lets it go on.
struct Held {
    entered: Arc<Semaphore>,
    leave: Arc<Semaphore>,
    second: Arc<AtomicUsize>,
}

impl Workflow for Held {
    const NAME: &'static str = "test.held";
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

/// The same name, another program: what it calls after the wait depends on who runs it.
struct Changed(&'static str);

impl Workflow for Changed {
    const NAME: &'static str = "test.changed";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        ctx.step(self.0, || async { Ok(()) }).await?;
        let _: Option<Value> = ctx
            .receive(Receive {
                topic: "go".into(),
                ..Receive::default()
            })
            .await?;
        Ok(())
    }
}

struct Recorded;

impl Workflow for Recorded {
    const NAME: &'static str = "test.recorded";
    type Input = ();
    type Output = bool;

    async fn run(&self, ctx: &Context, (): ()) -> Result<bool, WorkflowError> {
        let first = (
            ctx.now().await?,
            ctx.uuid().await?,
            ctx.random().await?.to_bits(),
        );
        let seen: (i64, String, u64) = ctx
            .step("see", || {
                let first = first.clone();
                async move { Ok(first) }
            })
            .await?;
        ctx.set_event("progress", &"half").await?;
        let nothing: Option<u32> = ctx
            .receive(Receive {
                topic: "never".into(),
                timeout: Some(Duration::from_millis(1_200)),
                ..Receive::default()
            })
            .await?;
        Ok(seen == first && nothing.is_none())
    }
}

/// Waits for an event of another workflow.
struct Watcher;

impl Workflow for Watcher {
    const NAME: &'static str = "test.watcher";
    type Input = String;
    type Output = Option<String>;

    async fn run(&self, ctx: &Context, watched: String) -> Result<Option<String>, WorkflowError> {
        ctx.get_event(&watched, "progress", Some(Duration::from_secs(60)))
            .await
    }
}

struct Careless;

impl Workflow for Careless {
    const NAME: &'static str = "test.careless";
    type Input = bool;
    type Output = ();

    async fn run(&self, _: &Context, panics: bool) -> Result<(), WorkflowError> {
        assert!(!panics, "on purpose");
        std::future::pending().await
    }
}

/// A table that nobody has made.
static MISSING: TableShape = TableShape {
    name: "missing",
    key: &["id"],
    bytes: &[],
    json: &[],
};

/// Its record comes with a row that the database cannot take.
struct Homeless;

impl Workflow for Homeless {
    const NAME: &'static str = "test.homeless";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        let row = Row {
            table: &MISSING,
            change: RowChange::Insert,
            values: [("id".to_owned(), Value::from(ctx.workflow_id()))]
                .into_iter()
                .collect(),
            body: true,
        };
        ctx.step_with_rows("write", || async { Ok(((), vec![row])) })
            .await
    }
}

on_both_databases! {
    async fn parents_wake_when_their_last_child_has_ended(stage: Stage) {
        let both = |b: EngineBuilder| b.register(Parent).unwrap().register(Leaf).unwrap();
        let (one, two) = (engine(&stage, both).await, engine(&stage, both).await);

        for n in 0..200 {
            let starter = if n % 2 == 0 { &one } else { &two };
            starter.client().start::<Parent>(&10, start(format!("parent-{n}"))).await.unwrap();
        }

        all_succeed(&stage, Parent::NAME, 200).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.workflow_output WHERE workflow_uuid LIKE 'parent-%' AND output = '90' AND LENGTH(workflow_uuid) < 11").await, 200);
        let per_parent = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid IN (SELECT workflow_uuid FROM dbos.workflow_status WHERE name = 'test.parent')";
        assert_eq!(stage.sql_count(per_parent).await, 200 * 20, "ten starts and ten results each");
        until_quiet(&stage).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.waits").await, 0);
        one.shutdown().await;
        two.shutdown().await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.executors").await, 0);
    }

    async fn no_message_is_lost_between_two_racing_senders(stage: Stage) {
        let receives = |b: EngineBuilder| b.register(Receiver).unwrap();
        let (one, two) = (engine(&stage, receives).await, engine(&stage, receives).await);

        let mut senders = Vec::new();
        for n in 0..100 {
            let id = format!("receiver-{n}");
            one.client().start::<Receiver>(&2, start(&id)).await.unwrap();
            for (client, value) in [(one.client().clone(), 3_u32), (two.client().clone(), 4_u32)] {
                let id = id.clone();
                senders.push(tokio::spawn(async move { client.send(&id, "t", &value, None).await.unwrap() }));
            }
        }
        for sender in senders {
            sender.await.unwrap();
        }

        all_succeed(&stage, Receiver::NAME, 100).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.workflow_output WHERE output = '7'").await, 100);
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.notifications WHERE consumed").await, 200);
        one.shutdown().await;
        two.shutdown().await;
    }

    async fn a_message_sent_twice_arrives_once(stage: Stage) {
        let engine = engine(&stage, |b| b.register(Receiver).unwrap()).await;
        engine.client().start::<Receiver>(&2, start("r")).await.unwrap();
        for _ in 0..2 {
            engine.client().send("r", "t", &3, Some("m1".into())).await.unwrap();
        }
        engine.client().send("r", "t", &4, Some("m2".into())).await.unwrap();
        assert_eq!(engine.client().result::<u32>("r", LOOK).await.unwrap(), Ok(7));
        engine.shutdown().await;
    }

    async fn eight_claimers_keep_a_limit_of_one(stage: Stage) {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let limited = || vec![QueueSettings { concurrency: Some(1), ..QueueSettings::unlimited(QUEUE) }];
        let mut engines = Vec::new();
        for _ in 0..8 {
            let alone = Alone(Arc::clone(&running), Arc::clone(&most));
            engines.push(engine_with(&stage, limited(), |b| b.register(alone).unwrap()).await);
        }

        for n in 0..40 {
            engines[n % 8].client().start::<Alone>(&(), start(format!("alone-{n}"))).await.unwrap();
        }

        all_succeed(&stage, Alone::NAME, 40).await;
        assert_eq!(most.load(Ordering::SeqCst), 1);
        for engine in engines {
            engine.shutdown().await;
        }
    }

    async fn a_cancelled_workflow_keeps_what_it_did_and_stops(stage: Stage) {
        let (entered, leave, second) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let held = Held { entered: Arc::clone(&entered), leave: Arc::clone(&leave), second: Arc::clone(&second) };
        let engine = engine(&stage, |b| b.register(held).unwrap()).await;
        engine.client().start::<Held>(&(), start("held")).await.unwrap();
        entered.acquire().await.unwrap().forget();

        // As an official client cancels.
        stage.sql_execute("UPDATE dbos.workflow_status SET status = 'CANCELLED', owner_xid = NULL, queue_name = NULL WHERE workflow_uuid = 'held'").await;
        leave.add_permits(1);

        until_quiet(&stage).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'held'").await, 1);
        assert_eq!((status(&stage, "held").await.as_str(), second.load(Ordering::SeqCst)), ("CANCELLED", 0));

        // Resumed, it goes on after what it did.
        stage.sql_execute("UPDATE dbos.workflow_status SET status = 'ENQUEUED', queue_name = '_dbos_internal_queue' WHERE workflow_uuid = 'held'").await;
        until_status(&stage, "held", "SUCCESS").await;
        assert_eq!(second.load(Ordering::SeqCst), 1);
        engine.shutdown().await;
    }

    async fn a_lost_claim_writes_nothing(stage: Stage) {
        let (entered, leave, second) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let held = Held { entered: Arc::clone(&entered), leave: Arc::clone(&leave), second: Arc::clone(&second) };
        let engine = engine(&stage, |b| b.register(held).unwrap()).await;
        engine.client().start::<Held>(&(), start("held")).await.unwrap();
        entered.acquire().await.unwrap().forget();

        stage.sql_execute("UPDATE dbos.workflow_status SET owner_xid = 'somebody-else' WHERE workflow_uuid = 'held'").await;
        stage.sql_execute("UPDATE app.claims SET token = 'somebody-else', executor_id = 'alive' WHERE workflow_id = 'held'").await;
        stage.sql_execute("INSERT INTO app.executors VALUES ('alive', 'v0', 'h', 1, 0, 99999999999999)").await;
        leave.add_permits(1);
        engine.shutdown().await;

        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'held'").await, 0);
        assert_eq!((status(&stage, "held").await.as_str(), second.load(Ordering::SeqCst)), ("PENDING", 0));
    }

    async fn statuses_that_nobody_knows_hold_nobody_up(stage: Stage) {
        let (entered, leave, second) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let held = Held { entered: Arc::clone(&entered), leave: Arc::clone(&leave), second: Arc::clone(&second) };
        let engine = engine(&stage, |b| b.register(held).unwrap().register(Leaf).unwrap()).await;
        // One for each that commits.
        for id in ["unknown", "none"] {
            engine.client().start::<Held>(&(), start(id)).await.unwrap();
        }
        entered.acquire_many(2).await.unwrap().forget();

        // As psql writes them, or a newer version of another program.
        stage.sql_execute("UPDATE dbos.workflow_status SET status = CASE workflow_uuid WHEN 'unknown' THEN 'PARKED' END WHERE name = 'test.held'").await;
        leave.add_permits(2);
        for n in 0..20 {
            engine.client().start::<Leaf>(&n, start(format!("leaf-{n}"))).await.unwrap();
        }

        all_succeed(&stage, Leaf::NAME, 20).await;
        // What nobody executes any more is released.
        until_quiet(&stage).await;
        let recorded = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid IN ('unknown', 'none')";
        assert_eq!((stage.sql_count(recorded).await, second.load(Ordering::SeqCst)), (0, 0));
        assert_eq!(status(&stage, "unknown").await, "PARKED");
        engine.shutdown().await;
    }

    async fn what_cannot_be_written_waits_aside(stage: Stage) {
        let engine = engine(&stage, |b| b.register(Homeless).unwrap().register(Leaf).unwrap()).await;
        for n in 0..20 {
            engine.client().start::<Homeless>(&(), start(format!("homeless-{n}"))).await.unwrap();
            engine.client().start::<Leaf>(&n, start(format!("leaf-{n}"))).await.unwrap();
        }

        all_succeed(&stage, Leaf::NAME, 20).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE name = 'test.homeless' AND status = 'PENDING'").await, 20);

        stage.sql_execute("CREATE TABLE app.missing (id TEXT PRIMARY KEY)").await;
        all_succeed(&stage, Homeless::NAME, 20).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.missing").await, 20);
        engine.shutdown().await;
    }

    async fn code_that_does_not_fit_its_record_is_released_and_waits_for_code_that_does(stage: Stage) {
        let first = engine(&stage, |b| b.register(Changed("old")).unwrap()).await;
        first.client().start::<Changed>(&(), start("changed")).await.unwrap();
        until_status(&stage, "changed", "PENDING").await;
        until_quiet(&stage).await;
        first.shutdown().await;

        let second = engine(&stage, |b| b.register(Changed("new")).unwrap()).await;
        second.client().send("changed", "go", &1, None).await.unwrap();
        let conditions = eventually(DEADLINE, "the mismatch is told", || async {
            // No row while it is claimed.
            let waits = serde_json::json!(stage.sql("SELECT conditions FROM app.waits WHERE workflow_id = 'changed'").await).to_string();
            if waits.contains("mismatch") { Ok(waits) } else { Err(waits) }
        })
        .await;
        second.shutdown().await;
        assert!(conditions.contains("old") && conditions.contains("new"), "{conditions}");
        assert_eq!(status(&stage, "changed").await, "PENDING");

        let third = engine(&stage, |b| b.register(Changed("old")).unwrap()).await;
        until_status(&stage, "changed", "SUCCESS").await;
        third.shutdown().await;
    }

    async fn time_chance_and_time_outs_are_recorded(stage: Stage) {
        let engine = engine(&stage, |b| b.register(Recorded).unwrap().register(Watcher).unwrap()).await;
        engine.client().start::<Watcher>(&"recorded".to_owned(), start("watcher")).await.unwrap();
        until_status(&stage, "watcher", "PENDING").await;
        engine.client().start::<Recorded>(&(), start("recorded")).await.unwrap();

        assert_eq!(engine.client().result::<bool>("recorded", LOOK).await.unwrap(), Ok(true));
        assert_eq!(engine.client().result::<Option<String>>("watcher", LOOK).await.unwrap(), Ok(Some("half".into())));
        engine.shutdown().await;
    }

    async fn careless_code_ends_in_an_error_and_harms_nobody(stage: Stage) {
        let engine = engine(&stage, |b| b.register(Careless).unwrap().register(Leaf).unwrap()).await;
        engine.client().start::<Careless>(&true, start("panics")).await.unwrap();
        engine.client().start::<Careless>(&false, start("hangs")).await.unwrap();
        engine.client().start::<Leaf>(&4, start("leaf")).await.unwrap();

        assert_eq!(engine.client().result::<()>("panics", LOOK).await.unwrap().unwrap_err().code(), "panicked");
        assert_eq!(engine.client().result::<()>("hangs", LOOK).await.unwrap().unwrap_err().code(), "awaits_outside_context");
        assert_eq!(engine.client().result::<u32>("leaf", LOOK).await.unwrap(), Ok(8));
        engine.shutdown().await;
    }

    async fn what_the_reconciler_finds_was_signalled_by_nobody(stage: Stage) {
        let engine = engine(&stage, |b| b.register(Receiver).unwrap()).await;
        engine.client().start::<Receiver>(&1, start("r")).await.unwrap();
        until_status(&stage, "r", "PENDING").await;
        until_quiet(&stage).await;

        // Straight into the table, as psql would.
        stage.sql_execute("INSERT INTO dbos.notifications (message_uuid, destination_uuid, topic, message, created_at_epoch_ms, consumed) VALUES ('m', 'r', 't', '5', 1, false)").await;

        assert_eq!(engine.client().result::<u32>("r", LOOK).await.unwrap(), Ok(5));
        engine.shutdown().await;
    }
}
