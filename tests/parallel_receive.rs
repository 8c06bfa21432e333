//! Receiving beside something else: what was sent meanwhile is received, and by one call only.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{sync::Arc, time::Duration};

use harness::*;
use stepwell::{
    engine::{
        Client, Context, Engine, EngineBuilder, Receive, StartOptions, Workflow, WorkflowError,
    },
    store::queue_limits::QueueSettings,
};
use tokio::sync::Semaphore;

const QUEUE: &str = "testQ";
const TOPIC: &str = "t";
const VERSION: &str = "v1";
const LOOK: Duration = Duration::from_millis(20);
/// How long is received: long enough for the test to send on a busy machine.
const TIME_OUT: Duration = Duration::from_secs(5);

async fn engine(stage: &Stage, register: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
    engine_with(stage, vec![QueueSettings::unlimited(QUEUE)], register).await
}

fn start(id: &str) -> StartOptions {
    in_queue(QUEUE, id)
}

fn receive(timeout: Option<Duration>) -> Receive {
    Receive {
        topic: TOPIC.into(),
        timeout,
        ..Receive::default()
    }
}

/// Receives a message and waits for an event beside a step that outlasts both.
struct Busy {
    step_may_end: Arc<Semaphore>,
}

impl Workflow for Busy {
    const NAME: &'static str = "test.busy";
    type Input = ();
    type Output = (Option<u32>, Option<u32>);

    async fn run(&self, ctx: &Context, (): ()) -> Result<Self::Output, WorkflowError> {
        let step = ctx.step("long", || async {
            self.step_may_end.acquire().await.unwrap().forget();
            Ok(())
        });
        let message = ctx.receive(receive(Some(TIME_OUT)));
        let event = ctx.get_event("setter", "e", Some(TIME_OUT));
        let both = async {
            let both = tokio::join!(message, event);
            self.step_may_end.add_permits(1);
            both
        };
        let (step, (message, event)) = tokio::join!(step, both);
        step?;
        Ok((message?, event?))
    }
}

struct Setter;

impl Workflow for Setter {
    const NAME: &'static str = "test.setter";
    type Input = ();
    type Output = ();

    async fn run(&self, ctx: &Context, (): ()) -> Result<(), WorkflowError> {
        ctx.set_event("e", &7).await
    }
}

/// Receives three messages at the same time.
struct Thirsty;

impl Workflow for Thirsty {
    const NAME: &'static str = "test.thirsty";
    type Input = ();
    type Output = Vec<Option<u32>>;

    async fn run(&self, ctx: &Context, (): ()) -> Result<Vec<Option<u32>>, WorkflowError> {
        let (first, second, third) = tokio::join!(
            ctx.receive(receive(None)),
            ctx.receive(receive(None)),
            ctx.receive(receive(None))
        );
        let mut received = vec![first?, second?, third?];
        // Which call gets which one is nobody's business.
        received.sort_unstable();
        Ok(received)
    }
}

on_both_databases! {
    async fn what_is_sent_while_a_step_runs_is_received_before_the_time_is_out(stage: Stage) {
        let busy = Busy { step_may_end: Arc::new(Semaphore::new(0)) };
        let engine = engine(&stage, |b| b.register(busy).unwrap().register(Setter).unwrap()).await;
        let client = engine.client();
        client.start::<Busy>(&(), start("busy")).await.unwrap();
        let timers = "SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'busy' AND function_name = 'DBOS.sleep'";
        stage.until_count("both have looked once and found nothing", timers, 2).await;

        client.send("busy", TOPIC, &5, None).await.unwrap();
        client.start::<Setter>(&(), start("setter")).await.unwrap();

        let answer = client.result::<(Option<u32>, Option<u32>)>("busy", LOOK).await.unwrap();
        assert_eq!(answer, Ok((Some(5), Some(7))));
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.notifications WHERE NOT consumed").await, 0);
        engine.shutdown().await;
    }

    async fn calls_that_receive_at_the_same_time_get_a_message_each(stage: Stage) {
        let outside = Client::without_engine(database(&stage).await, VERSION.into());
        outside.start::<Thirsty>(&(), start("thirsty")).await.unwrap();
        for message in [3, 4, 5] {
            outside.send("thirsty", TOPIC, &message, None).await.unwrap();
        }

        let engine = engine(&stage, |b| b.register(Thirsty).unwrap()).await;

        let received = engine.client().result::<Vec<Option<u32>>>("thirsty", LOOK).await.unwrap();
        assert_eq!(received, Ok(vec![Some(3), Some(4), Some(5)]));
        let consumers = "SELECT count(DISTINCT consumed_by_function_id) FROM dbos.notifications WHERE consumed";
        assert_eq!(stage.sql_count(consumers).await, 3);
        engine.shutdown().await;
    }
}
