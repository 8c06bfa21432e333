//! Owns what becomes of a request: it is sent several times if need be, what is lost is counted, and somebody is told, seldom.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::client::{Client, Refusal, shown};
use crate::{
    config::telemetry::OtlpTarget,
    store::backend::jitter,
    telemetry::instruments::{DROPPED, EXPORTED},
};

/// How often a request is sent that a receiver does not take at the moment.
const TRIES: u32 = 5;
/// The pause after the first try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often a receiver that takes nothing is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Why a process with `OTLP_REQUIRED=1` does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "OTLP_REQUIRED is 1, and the receiver of {signal} at {endpoint} is no use: {reason}; start it, correct OTEL_EXPORTER_OTLP_{variable}ENDPOINT, \
     or set OTLP_REQUIRED=0 to go on without"
)]
pub struct ReceiverError {
    signal: &'static str,
    variable: &'static str,
    endpoint: String,
    reason: String,
}

/// The receiver of a signal, and what was said of it.
pub(super) struct Receiver {
    client: Client,
    signal: &'static str,
    variable: &'static str,
    /// Items of the request that is being sent.
    under_way: u64,
    /// Items lost since the last complaint.
    untold: u64,
    complained: Option<Instant>,
    /// Whether the last thing that was said of it is a complaint.
    blamed: bool,
}

impl Receiver {
    pub(super) fn of(
        signal: &'static str,
        variable: &'static str,
        service: &str,
        target: Option<&OtlpTarget>,
    ) -> Result<Option<Self>, ReceiverError> {
        let Some(target) = target else {
            return Ok(None);
        };
        let client = Client::new(target, service).map_err(|reason| ReceiverError {
            signal,
            variable,
            endpoint: shown(&target.endpoint),
            reason,
        })?;
        Ok(Some(Self {
            client,
            signal,
            variable,
            under_way: 0,
            untold: 0,
            complained: None,
            blamed: false,
        }))
    }

    /// Whether it takes a request that holds nothing.
    pub(super) async fn check(&self, message: Vec<u8>) -> Result<(), ReceiverError> {
        let answer = match self.client.body(message) {
            Ok(body) => self.client.send(body).await,
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(_) => Ok(()),
            Err(refusal) => Err(ReceiverError {
                signal: self.signal,
                variable: self.variable,
                endpoint: self.client.shown.clone(),
                reason: refusal.message,
            }),
        }
    }

    /// Sends a request with `items`, several times if need be, and counts what became of them. Who is stopping tries once more.
    pub(super) async fn deliver(
        &mut self,
        message: Vec<u8>,
        items: usize,
        stopping: &mut watch::Receiver<bool>,
    ) {
        self.under_way = items as u64;
        let body = match self.client.body(message) {
            Ok(body) => body,
            Err(refusal) => return self.give_up(&refusal),
        };
        let mut pause = FIRST_PAUSE;
        let mut left = TRIES;
        loop {
            left = if *stopping.borrow() {
                0
            } else {
                left.saturating_sub(1)
            };
            match self.client.send(body.clone()).await {
                Ok(taken) => return self.took(taken.rejected, &taken.reason),
                Err(refusal) if refusal.again && left > 0 => {
                    self.complain(&refusal.message);
                    let wait = refusal.pause.unwrap_or_else(|| jitter(pause));
                    // Either way it is sent again.
                    let _ = timeout(wait, stopping.wait_for(|stop| *stop)).await;
                    pause *= 2;
                }
                Err(refusal) => return self.give_up(&refusal),
            }
        }
    }

    /// Nothing is sent any more, and `waiting` items never were: they are lost, with those of a request under way. Losses that no complaint has told of
    /// are told now: there is no later.
    pub(super) fn farewell(&mut self, waiting: usize) {
        let left = std::mem::take(&mut self.under_way) + waiting as u64;
        self.lose("stopped", left);
        if self.untold > 0 {
            tracing::warn!(
                signal = self.signal,
                endpoint = self.client.shown,
                lost = self.untold,
                "telemetry is lost, for this process ends"
            );
        }
    }

    fn took(&mut self, rejected: u64, reason: &str) {
        let items = std::mem::take(&mut self.under_way);
        let said = rejected;
        // Of metrics one item is a batch, and what is rejected are its points.
        let rejected = rejected.min(items);
        EXPORTED.add(&[self.signal], items - rejected);
        self.lose("rejected", rejected);
        if rejected == 0 {
            self.praise();
        } else {
            let reason = if reason.is_empty() {
                "without a reason"
            } else {
                reason
            };
            self.complain(&format!("it rejects {said} of what it was sent: {reason}"));
        }
    }

    fn give_up(&mut self, refusal: &Refusal) {
        let items = std::mem::take(&mut self.under_way);
        let reason = if refusal.again {
            "unreachable"
        } else {
            "refused"
        };
        self.lose(reason, items);
        self.complain(&refusal.message);
    }

    fn lose(&mut self, reason: &str, items: u64) {
        DROPPED.add(&[self.signal, reason], items);
        self.untold += items;
    }

    fn complain(&mut self, reason: &str) {
        if self
            .complained
            .is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY)
        {
            self.complained = Some(Instant::now());
            self.blamed = true;
            self.untold = 0;
            tracing::warn!(
                signal = self.signal,
                endpoint = self.client.shown,
                reason,
                lost = DROPPED.total(),
                "telemetry cannot be delivered; work goes on"
            );
        }
    }

    fn praise(&mut self) {
        if std::mem::take(&mut self.blamed) {
            tracing::info!(
                signal = self.signal,
                lost = DROPPED.total(),
                "telemetry is delivered again"
            );
        }
    }
}
