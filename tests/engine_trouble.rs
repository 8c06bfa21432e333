//! What an engine meets when a transaction outlives its caller's patience: a COMMIT whose answer is late, a claim that stands still, and how long
//! a session waits for either.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::proxy::Proxy;
use harness::*;
use stepwell::{
    engine::{Context, Engine, EngineOptions, StartOptions, Workflow, WorkflowError},
    store::{Database, DatabaseOptions, backend, queue_limits, queue_limits::QueueSettings},
};
use tokio::sync::Semaphore;

const QUEUE: &str = "testQ";

/// Two steps; each waits until the test lets it go on.
struct TwoSteps {
    entered: Arc<Semaphore>,
    leave: Arc<Semaphore>,
}

impl Workflow for TwoSteps {
    const NAME: &'static str = "test.two_steps";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        for step in ["first", "second"] {
            ctx.step(step, || async {
                self.entered.add_permits(1);
                self.leave.acquire().await.unwrap().forget();
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// An engine that reaches its database by this URL.
async fn engine_at(url: &str, workflow: TwoSteps, queue: QueueSettings) -> Engine {
    let db = Database::connect(&DatabaseOptions::new(url)).await.unwrap();
    let options = EngineOptions {
        queues: vec![queue],
        ..EngineOptions::default()
    };
    Engine::builder(db, options)
        .register(workflow)
        .unwrap()
        .launch()
}

fn in_test_queue(id: &str) -> StartOptions {
    in_queue(QUEUE, id)
}

on_postgres! {
    async fn a_commit_that_is_still_under_way_is_waited_for(stage: Stage) {
        database(&stage).await;
        let proxy = Proxy::before(stage.database_url()).await;
        let (entered, leave) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let steps = TwoSteps { entered: Arc::clone(&entered), leave: Arc::clone(&leave) };
        let engine = engine_at(proxy.url(), steps, QueueSettings::unlimited(QUEUE)).await;
        engine.client().start::<TwoSteps>(&(), in_test_queue("slow")).await.unwrap();

        // The record of the first step; then that of the second one, with the end.
        for _ in 0..2 {
            entered.acquire().await.unwrap().forget();
            proxy.hold_commits(true);
            leave.add_permits(1);
            // Nothing is there yet, so it is handed in again, and meets the locks of what is to be committed.
            stage.until_count("the checkpoint waits for itself", SESSIONS_THAT_WAIT, 1).await;
            proxy.hold_commits(false);
        }

        engine.client().result::<()>("slow", Duration::from_millis(20)).await.unwrap().unwrap();
        let recorded = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'slow'";
        assert_eq!((stage.sql_count(recorded).await, entered.available_permits()), (2, 0));
        engine.shutdown().await;
    }

    async fn who_stands_still_in_a_transaction_does_not_hold_the_others_up(stage: Stage) {
        let db = database(&stage).await;
        let (entered, leave) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(2)));
        let one_at_a_time = QueueSettings { concurrency: Some(1), ..QueueSettings::unlimited(QUEUE) };
        let engine = engine_at(stage.database_url(), TwoSteps { entered, leave }, one_at_a_time).await;
        stage.until_count("the queue is there", "SELECT count(*) FROM app.queue_limits WHERE name = 'testQ'", 1).await;

        // As a process that is frozen between two statements of a claim: its connection stays open, and says nothing.
        let frozen = db.begin().await.unwrap();
        queue_limits::lock(&frozen, QUEUE).await.unwrap().unwrap();
        engine.client().start::<TwoSteps>(&(), in_test_queue("held-up")).await.unwrap();

        // A statement would wait for a minute.
        let ended = engine.client().result::<()>("held-up", Duration::from_millis(20));
        tokio::time::timeout(Duration::from_secs(45), ended).await.expect("the lock was let go").unwrap().unwrap();
        frozen.commit().await.unwrap_err();
        engine.shutdown().await;
    }

    async fn sessions_have_the_patience_that_an_operator_gives_them_or_ours(stage: Stage) {
        let name = stage.sql_value("SELECT current_database() AS name").await;
        let name = name.as_str().unwrap();
        let asked = "SELECT current_setting('idle_in_transaction_session_timeout') || ' ' || current_setting('lock_timeout')";
        for (setting, expected) in [("RESET lock_timeout", "10s 5s"), ("SET lock_timeout = '300ms'", "10s 300ms")] {
            stage.sql_execute(&format!("ALTER DATABASE \"{name}\" {setting}")).await;
            let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
            let found: Vec<String> = backend::column(&db.read(), asked, []).await.unwrap();
            assert_eq!(found, [expected]);
        }
    }
}
