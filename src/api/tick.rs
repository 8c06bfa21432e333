//! `POST /tick`: an invocation of the one-shot worker for platforms that call a URL.

use std::{sync::Arc, time::Duration};

use openapi::{ApiError, models};
use poem::http::StatusCode;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{errors, service::ApiService};
use crate::{
    config::Access,
    engine::{Budget, EngineError, Summary},
    intent::OneShot,
};

/// Invocations at the same time in this process; more are told to come again.
const AT_ONCE: usize = 4;
/// Seconds after which a refused invocation should try again.
const RETRY_AFTER_S: u64 = 5;
/// How long an invocation lasts that does not say.
const DEFAULT_SECONDS: i64 = 20;

/// The invocations of a process.
#[derive(Debug, Clone)]
pub struct Ticks {
    one_shot: OneShot,
    /// Whether the front lets in only who brings a token; ticks are for nobody else.
    guarded: bool,
    slots: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

impl Ticks {
    /// Invocations for those who bring the token; for nobody where there is none.
    pub fn new(one_shot: OneShot, access: &Access) -> Self {
        Self {
            one_shot,
            guarded: access.token.is_some(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            stop: watch::Sender::new(false),
        }
    }

    /// Lets the invocations under way hand back what they hold, and waits for that.
    pub async fn finish(&self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }

    async fn run(&self, body: &models::Tick) -> Result<Summary, ApiError> {
        let busy = || ApiError {
            retry_after: Some(RETRY_AFTER_S),
            ..ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "tick_busy",
                format!("{AT_ONCE} ticks are under way in this process; try again"),
            )
        };
        let slot = Arc::clone(&self.slots)
            .try_acquire_owned()
            .map_err(|_| busy())?;
        let seconds = body.max_seconds.0.unwrap_or(DEFAULT_SECONDS).unsigned_abs();
        let budget = Budget {
            started: Instant::now(),
            time: Duration::from_secs(seconds),
            jobs: body.max_jobs.0.map(i64::unsigned_abs),
        };
        let (one_shot, mut stopped) = (self.one_shot.clone(), self.stop.subscribe());
        // A task of its own: a caller that hangs up does not leave claims behind.
        let invocation = tokio::spawn(async move {
            let _slot = slot;
            let stop = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            Box::pin(one_shot.run(budget, stop)).await
        });
        match invocation.await {
            Ok(Ok(summary)) => Ok(summary),
            Ok(Err(EngineError::Store(error))) => Err(errors::of_store(&error)),
            Ok(Err(error)) => {
                tracing::error!(%error, "a tick failed");
                Err(errors::internal())
            }
            Err(error) => {
                tracing::error!(%error, "a tick panicked");
                Err(errors::internal())
            }
        }
    }
}

pub(super) async fn post(
    service: &ApiService,
    body: models::Tick,
) -> Result<models::TickSummary, ApiError> {
    let disabled = || {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "tick_disabled",
            "this process takes ticks only when STEPWELL_TOKEN is set, from those who bring it as a bearer token",
        )
    };
    let ticks = service.ticks.as_ref().ok_or_else(disabled)?;
    if !ticks.guarded {
        return Err(disabled());
    }
    let summary = ticks.run(&body).await?;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(models::TickSummary {
        claimed: count(summary.claimed),
        completed: count(summary.completed),
        suspended: count(summary.suspended),
        failed: count(summary.failed),
        released: count(summary.released),
        backlog: count(summary.backlog),
        next_wake_at: summary.next_wake_at,
    })
}
