//! A parent that awaits its children is claimed when there is something for it to do, and not before.
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
use stepwell::{
    engine::{ChildOptions, Context, Engine, EngineBuilder, StartOptions, Workflow, WorkflowError},
    store::queue_limits::QueueSettings,
};
use tokio::sync::Semaphore;

const QUEUE: &str = "testQ";
const CHILDREN: &str = "childQ";
/// A queue that nobody serves.
const NOBODYS: &str = "nobodyQ";
const LOOK: Duration = Duration::from_millis(20);

async fn engine(stage: &Stage, register: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
    let queues = [QUEUE, CHILDREN].map(QueueSettings::unlimited);
    engine_with(stage, queues.into(), register).await
}

fn start(id: &str) -> StartOptions {
    in_queue(QUEUE, id)
}

fn within(queue: &str) -> ChildOptions {
    ChildOptions {
        queue: queue.into(),
        ..ChildOptions::default()
    }
}

/// Ends at once, or when the test lets it, if it is the last one.
struct Child {
    last_may_end: Arc<Semaphore>,
}

const LAST: u32 = 2;

impl Workflow for Child {
    const NAME: &'static str = "test.child";
    type Input = u32;
    type Output = u32;

    async fn run(&self, ctx: &Context, n: u32) -> Result<u32, WorkflowError> {
        ctx.step("work", || async {
            if n == LAST {
                self.last_may_end.acquire().await.unwrap().forget();
            }
            Ok(n)
        })
        .await
    }
}

/// Starts three children with something else between, so that their function ids are 0, 2 and 4. Counts its claims.
struct Gapped {
    claims: Arc<AtomicUsize>,
}

impl Workflow for Gapped {
    const NAME: &'static str = "test.gapped";
    type Input = ();
    type Output = Vec<u32>;

    async fn run(&self, ctx: &Context, (): ()) -> Result<Vec<u32>, WorkflowError> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        let mut children = Vec::new();
        for n in 0..=LAST {
            children.push(ctx.start_child::<Child>(&n, within(CHILDREN)).await?);
            ctx.now().await?;
        }
        ctx.await_children(children).await?.into_iter().collect()
    }
}

/// Awaits a child that nobody executes, and another one; answers the codes of their errors. Counts its claims.
struct Bereft {
    claims: Arc<AtomicUsize>,
}

impl Workflow for Bereft {
    const NAME: &'static str = "test.bereft";
    type Input = ();
    type Output = Vec<Option<String>>;

    async fn run(&self, ctx: &Context, (): ()) -> Result<Vec<Option<String>>, WorkflowError> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        let children = vec![
            ctx.start_child::<Child>(&0, within(NOBODYS)).await?,
            ctx.start_child::<Child>(&1, within(CHILDREN)).await?,
        ];
        let results = ctx.await_children(children).await?;
        let code = |result: Result<u32, WorkflowError>| result.err().map(|e| e.code().to_owned());
        Ok(results.into_iter().map(code).collect())
    }
}

async fn until_it_has_ended(stage: &Stage, id: &str) {
    let ended = format!(
        "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{id}' AND status = 'SUCCESS'"
    );
    stage.until_count("it has ended", &ended, 1).await;
}

on_both_databases! {
    async fn a_parent_whose_children_have_gaps_between_them_is_claimed_once_for_each(stage: Stage) {
        let (claims, last_may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let gapped = Gapped { claims: Arc::clone(&claims) };
        let child = Child { last_may_end: Arc::clone(&last_may_end) };
        let engine = engine(&stage, |b| b.register(gapped).unwrap().register(child).unwrap()).await;

        engine.client().start::<Gapped>(&(), start("gapped")).await.unwrap();
        let waits = "SELECT count(*) FROM app.waits WHERE workflow_id = 'gapped' AND conditions = '[{\"kind\":\"children\",\"low\":4,\"high\":4}]'";
        stage.until_count("it waits for the last child alone", waits, 1).await;
        last_may_end.add_permits(1);

        until_it_has_ended(&stage, "gapped").await;
        assert_eq!(engine.client().result::<Vec<u32>>("gapped", LOOK).await.unwrap(), Ok(vec![0, 1, 2]));
        let claims = claims.load(Ordering::SeqCst);
        assert!((2..=4).contains(&claims), "claimed {claims} times: at its start, and when a child had ended");
        engine.shutdown().await;
    }

    async fn a_child_that_was_deleted_is_an_error_of_its_parent(stage: Stage) {
        let claims = Arc::new(AtomicUsize::new(0));
        let bereft = Bereft { claims: Arc::clone(&claims) };
        let child = Child { last_may_end: Arc::new(Semaphore::new(0)) };
        let engine = engine(&stage, |b| b.register(bereft).unwrap().register(child).unwrap()).await;
        engine.client().start::<Bereft>(&(), start("bereft")).await.unwrap();
        stage.until_count("it waits", "SELECT count(*) FROM app.waits WHERE workflow_id = 'bereft'", 1).await;

        let deleted = stage.sql_execute("DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'bereft-0'").await;

        assert_eq!(deleted, 1);
        until_it_has_ended(&stage, "bereft").await;
        let codes = engine.client().result::<Vec<Option<String>>>("bereft", LOOK).await.unwrap();
        assert_eq!(codes, Ok(vec![Some("child_missing".into()), None]));
        let claims = claims.load(Ordering::SeqCst);
        assert!((2..=3).contains(&claims), "claimed {claims} times");
        engine.shutdown().await;
    }
}
