//! Owns work on call: one invocation of the engine, with everything that runs and tasks need, for cron and for platforms that call a URL.

use std::future::Future;

use super::{Sandboxes, projector, register};
use crate::{
    config::Config,
    engine::{Budget, Engine, EngineError, EngineOptions, Summary},
    store::Database,
};

/// How far back an invocation looks for runs whose workflow ended without them, milliseconds: a day.
const DRIFT_LOOK_BACK_MS: i64 = 24 * 60 * 60 * 1_000;

/// Invocations of the engine on one database. Each is a process of its own to all others, also where several run in one.
#[derive(Debug, Clone)]
pub struct OneShot {
    db: Database,
    config: Config,
    options: EngineOptions,
    sandboxes: Sandboxes,
}

impl OneShot {
    /// Invocations that behave as `options` say.
    pub fn new(db: Database, config: Config, options: EngineOptions, sandboxes: Sandboxes) -> Self {
        Self {
            db,
            config,
            options,
            sandboxes,
        }
    }

    /// Does what is due within `budget`, or until `stop` resolves.
    ///
    /// # Errors
    /// As [`EngineBuilder::run_once`](crate::engine::EngineBuilder::run_once).
    pub async fn run(
        &self,
        budget: Budget,
        stop: impl Future<Output = ()>,
    ) -> Result<Summary, EngineError> {
        let builder = Engine::builder(self.db.clone(), self.options.clone());
        let builder = register(builder, &self.db, &self.config, self.sandboxes.clone())?;
        let summary = builder.run_once(budget, stop).await?;
        if !summary.idle {
            projector::round(&self.db, DRIFT_LOOK_BACK_MS).await?;
        }
        Ok(summary)
    }
}
