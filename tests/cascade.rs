//! Cancelling over more than two generations, on the engine alone: each child is cancelled by its own parent, and goes back to its queue when
//! that parent awaits it again.
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
use serde_json::json;
use stepwell::{
    engine::{
        ChildOptions, Context, Engine, EngineOptions, StartOptions, Workflow, WorkflowError,
        migrate,
    },
    store::{Database, DatabaseOptions, cancellations, ops, queue_limits::QueueSettings},
};
use tokio::sync::Semaphore;

const QUEUE: &str = "treeQ";

/// A line of descendants; the last of them has one step, which the test holds.
struct Tree {
    entered: Arc<Semaphore>,
    leave: Arc<Semaphore>,
    bodies: Arc<AtomicUsize>,
}

impl Workflow for Tree {
    const NAME: &'static str = "test.tree";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, below: u32) -> Result<u32, WorkflowError> {
        if below == 0 {
            return ctx
                .step("leaf", || async {
                    self.bodies.fetch_add(1, Ordering::SeqCst);
                    self.entered.add_permits(1);
                    self.leave.acquire().await.unwrap().forget();
                    Ok(1)
                })
                .await;
        }
        let options = ChildOptions {
            id: None,
            queue: QUEUE.into(),
            ..ChildOptions::default()
        };
        let child = ctx.start_child::<Self>(&(below - 1), options).await?;
        let results = ctx.await_children(vec![child]).await?;
        Ok(1 + results.into_iter().sum::<Result<u32, _>>()?)
    }
}

on_both_databases! {
    async fn grandchildren_are_cancelled_by_their_own_parents_and_come_back_one_by_one(stage: Stage) {
        let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
        migrate(&db).await.unwrap();
        let (entered, leave, bodies) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let tree = Tree { entered: Arc::clone(&entered), leave: Arc::clone(&leave), bodies: Arc::clone(&bodies) };
        let options = EngineOptions { queues: vec![QueueSettings::unlimited(QUEUE)], ..EngineOptions::default() };
        let engine = Engine::builder(db.clone(), options).register(tree).unwrap().launch();
        let start = StartOptions { id: Some("w".into()), queue: QUEUE.into(), ..StartOptions::default() };
        engine.client().start::<Tree>(&3, start).await.unwrap();
        entered.acquire().await.unwrap().forget();

        let tx = db.begin().await.unwrap();
        let cancelled = cancellations::cancel(&tx, &["w"]).await.unwrap();
        tx.commit().await.unwrap();
        engine.client().cancelled();

        assert_eq!(cancelled.len(), 4);
        let notes = stage.sql("SELECT workflow_id, cancelled_by FROM app.cancellations ORDER BY workflow_id").await;
        assert_eq!(notes, [
            json!({"workflow_id": "w", "cancelled_by": null}),
            json!({"workflow_id": "w-0", "cancelled_by": "w"}),
            json!({"workflow_id": "w-0-0", "cancelled_by": "w-0"}),
            json!({"workflow_id": "w-0-0-0", "cancelled_by": "w-0-0"}),
        ]);
        leave.add_permits(1);
        stage.until_count("nothing is claimed", "SELECT count(*) FROM app.claims", 0).await;
        stage.until_count("all stay cancelled", "SELECT count(*) FROM dbos.workflow_status WHERE status = 'CANCELLED'", 4).await;

        let tx = db.begin().await.unwrap();
        let target = ops::lock(&tx, "w").await.unwrap().unwrap();
        ops::resume(&tx, &target, QUEUE).await.unwrap();
        tx.commit().await.unwrap();
        engine.client().queued(QUEUE);

        let result = engine.client().result::<u32>("w", Duration::from_millis(20)).await.unwrap();
        assert_eq!((result, bodies.load(Ordering::SeqCst)), (Ok(4), 1), "what the leaf did was kept");
        stage.until_count("all succeed", "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'", 4).await;
        engine.shutdown().await;
    }

    async fn a_note_is_worthless_once_somebody_else_has_touched_the_child(stage: Stage) {
        let db = Database::connect(&DatabaseOptions::new(stage.database_url())).await.unwrap();
        migrate(&db).await.unwrap();
        stage.sql_execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, application_name, parent_workflow_id, queue_name, created_at, updated_at) VALUES \
             ('p', 'PENDING', 'stepwell', NULL, 'q', 1, 1), ('a', 'ENQUEUED', 'stepwell', 'p', 'q', 1, 1), ('b', 'DELAYED', 'stepwell', 'p', 'q', 1, 1), \
             ('c', 'SUCCESS', 'stepwell', 'p', 'q', 1, 1)",
        ).await;
        let tx = db.begin().await.unwrap();
        cancellations::cancel(&tx, &["p"]).await.unwrap();
        tx.commit().await.unwrap();
        let by_parent = async |ids: &[&str]| {
            let mut found = cancellations::by_parent(&db.read(), "p", ids).await.unwrap();
            found.sort();
            found
        };
        assert_eq!(by_parent(&["a", "b", "c"]).await, ["a", "b"]);

        // Resumed and cancelled again by another client, later.
        stage.sql_execute("UPDATE dbos.workflow_status SET completed_at = completed_at + 1 WHERE workflow_uuid = 'a'").await;
        assert_eq!(by_parent(&["a", "b", "c"]).await, ["b"]);
    }
}
