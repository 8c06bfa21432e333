//! Engines of the library as if each were a process: a runtime, a pool and a life of its own, which can end as abruptly as `kill -9`.

use std::time::Duration;

use stepwell::{
    engine::{Client, Engine, EngineBuilder, EngineOptions, StartOptions, migrate},
    store::{Database, DatabaseOptions, queue_limits::QueueSettings},
};
use tokio::runtime::{Builder, Runtime};

use super::stage::Stage;

/// Short, so that the work of a killed one is soon taken over, and long enough for a live one on a busy machine to beat in time.
const EXPIRY_MS: i64 = 2_500;
/// Nobody is given up because processes died around it.
const ATTEMPTS: i64 = 1_000;

/// The stage's database, with its schema.
pub(crate) async fn database(stage: &Stage) -> Database {
    let db = Database::connect(&DatabaseOptions::new(stage.database_url()))
        .await
        .expect("the database answers");
    migrate(&db).await.expect("the schema is made");
    db
}

/// An engine in the test's runtime, with a pool of its own, as another process would have.
pub(crate) async fn engine_with(
    stage: &Stage,
    queues: Vec<QueueSettings>,
    register: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Engine {
    let db = database(stage).await;
    let options = EngineOptions {
        queues,
        grace: Duration::from_secs(2),
        ..EngineOptions::default()
    };
    register(Engine::builder(db, options)).launch()
}

/// The start of a workflow under `id`.
pub(crate) fn in_queue(queue: &str, id: impl Into<String>) -> StartOptions {
    StartOptions {
        id: Some(id.into()),
        queue: queue.into(),
        ..StartOptions::default()
    }
}

/// An engine in a runtime of its own.
pub(crate) struct Process {
    engine: Option<Engine>,
    runtime: Option<Runtime>,
}

impl Process {
    pub(crate) async fn start(
        stage: &Stage,
        queues: Vec<QueueSettings>,
        register: impl FnOnce(EngineBuilder) -> EngineBuilder + Send + 'static,
    ) -> Self {
        let options = EngineOptions {
            executor_expiry_ms: EXPIRY_MS,
            ..EngineOptions::default()
        };
        Self::start_with(stage, queues, options, register).await
    }

    /// With options of its own, for tests that kill nobody: a busy machine must not make a live one look dead.
    pub(crate) async fn start_with(
        stage: &Stage,
        queues: Vec<QueueSettings>,
        options: EngineOptions,
        register: impl FnOnce(EngineBuilder) -> EngineBuilder + Send + 'static,
    ) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let options = EngineOptions {
            queues,
            grace: Duration::from_secs(2),
            max_recovery_attempts: ATTEMPTS,
            ..options
        };
        let url = DatabaseOptions::new(stage.database_url());
        let launched = runtime.spawn(async move {
            let db = Database::connect(&url).await.expect("the database answers");
            register(Engine::builder(db, options)).launch()
        });
        Self {
            engine: Some(launched.await.expect("the engine starts")),
            runtime: Some(runtime),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        self.engine.as_ref().expect("it lives").client()
    }

    /// Lets it finish what it does.
    pub(crate) async fn stop(mut self) {
        if let (Some(engine), Some(runtime)) = (self.engine.take(), self.runtime.as_ref()) {
            let stopped = runtime.spawn(engine.shutdown());
            stopped.await.expect("the engine stops");
        }
    }

    /// Ends it in the middle of whatever it does: futures are dropped, transactions are not committed.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
