//! Owns the export over OTLP: a bounded queue and a task per signal, so that neither a slow receiver nor a missing one is noticed by anybody
//! but the count of what was lost.

mod client;
mod messages;

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use self::{
    client::{Client, Refusal},
    messages::Exporter,
};
use super::{
    instruments::{DROPPED, EXPORTED},
    logs::Entry,
    metrics,
    queue::fill,
    spans::Span,
};
use crate::{
    config::telemetry::{Batches, OtlpTarget, TelemetryConfig},
    store::backend::jitter,
};

/// How often a request is sent that a receiver does not take at the moment.
const TRIES: u32 = 5;
/// The pause after the first try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How long a process that ends lets its last telemetry travel.
const FAREWELL: Duration = Duration::from_secs(2);
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

/// What is exported, and where from.
pub(super) struct Sources {
    pub(super) spans: Option<mpsc::Receiver<Span>>,
    pub(super) logs: Option<mpsc::Receiver<Entry>>,
}

/// The tasks that export.
#[derive(Debug)]
pub(super) struct Exports {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Exports {
    /// Starts to export. When receivers are required, each must have answered first.
    pub(super) async fn start(
        config: &TelemetryConfig,
        sources: Sources,
    ) -> Result<Self, ReceiverError> {
        let exporter = Exporter::new(&config.resource);
        let spans = Receiver::of("spans", "TRACES_", "trace", config.traces.as_ref())?;
        let logs = Receiver::of("logs", "LOGS_", "logs", config.logs.as_ref())?;
        let metrics = Receiver::of("metrics", "METRICS_", "metrics", config.metrics.as_ref())?;
        if config.required {
            let empty = [
                (&spans, exporter.spans(Vec::new())),
                (&logs, exporter.logs(Vec::new())),
                (&metrics, exporter.metrics(&[])),
            ];
            for (receiver, message) in empty {
                if let Some(receiver) = receiver {
                    receiver.check(message).await?;
                }
            }
        }
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let (Some(receiver), Some(queue)) = (spans, sources.spans) {
            let exporter = exporter.clone();
            let encode = move |spans| exporter.spans(spans);
            let export = Batcher::new(receiver, config.span_batches, stopping.clone(), encode);
            tasks.spawn(export.run(queue));
        }
        if let (Some(receiver), Some(queue)) = (logs, sources.logs) {
            let exporter = exporter.clone();
            let encode = move |entries| exporter.logs(entries);
            let export = Batcher::new(receiver, config.log_batches, stopping.clone(), encode);
            tasks.spawn(export.run(queue));
        }
        if let Some(receiver) = metrics {
            tasks.spawn(export_metrics(
                receiver,
                exporter,
                config.metric_interval,
                stopping,
            ));
        }
        Ok(Self { stop, tasks })
    }

    /// Sends what waits, for a moment; the rest is lost.
    pub(super) async fn stop(mut self) {
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = timeout(FAREWELL, ended).await;
    }
}

/// The receiver of a signal, and what was said of it.
struct Receiver {
    client: Client,
    signal: &'static str,
    variable: &'static str,
    complained: Option<tokio::time::Instant>,
}

impl Receiver {
    fn of(
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
            endpoint: target.endpoint.to_string(),
            reason,
        })?;
        Ok(Some(Self {
            client,
            signal,
            variable,
            complained: None,
        }))
    }

    /// Whether it takes a request that holds nothing.
    async fn check(&self, message: Vec<u8>) -> Result<(), ReceiverError> {
        match self.client.send(message).await {
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
    async fn deliver(
        &mut self,
        message: Vec<u8>,
        items: usize,
        stopping: &mut watch::Receiver<bool>,
    ) {
        let items = items as u64;
        let mut pause = FIRST_PAUSE;
        let mut left = TRIES;
        loop {
            left = if *stopping.borrow() {
                0
            } else {
                left.saturating_sub(1)
            };
            match self.client.send(message.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(items);
                    EXPORTED.add(&[self.signal], items - rejected);
                    DROPPED.add(&[self.signal, "rejected"], rejected);
                    if rejected == 0 {
                        self.praise();
                    }
                    return;
                }
                Err(refusal) if refusal.again && left > 0 => {
                    self.complain(&refusal);
                    let wait = refusal.pause.unwrap_or_else(|| jitter(pause));
                    // Either way it is sent again.
                    let _ = timeout(wait, stopping.wait_for(|stop| *stop)).await;
                    pause *= 2;
                }
                Err(refusal) => {
                    let reason = if refusal.again {
                        "unreachable"
                    } else {
                        "refused"
                    };
                    DROPPED.add(&[self.signal, reason], items);
                    self.complain(&refusal);
                    return;
                }
            }
        }
    }

    fn complain(&mut self, refusal: &Refusal) {
        if self
            .complained
            .is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY)
        {
            self.complained = Some(tokio::time::Instant::now());
            tracing::warn!(
                signal = self.signal,
                endpoint = self.client.shown,
                reason = refusal.message,
                lost = DROPPED.total(),
                "telemetry cannot be delivered; work goes on"
            );
        }
    }

    fn praise(&mut self) {
        if self.complained.take().is_some() {
            tracing::info!(
                signal = self.signal,
                lost = DROPPED.total(),
                "telemetry is delivered again"
            );
        }
    }
}

/// Exports what comes out of a queue.
struct Batcher<E> {
    receiver: Receiver,
    batches: Batches,
    stopping: watch::Receiver<bool>,
    encode: E,
}

impl<E> Batcher<E> {
    fn new(
        receiver: Receiver,
        batches: Batches,
        stopping: watch::Receiver<bool>,
        encode: E,
    ) -> Self {
        Self {
            receiver,
            batches,
            stopping,
            encode,
        }
    }

    /// Until told to stop; then what waits is sent once.
    async fn run<T>(mut self, mut queue: mpsc::Receiver<T>)
    where
        E: Fn(Vec<T>) -> Vec<u8>,
    {
        let Batches { size, delay, .. } = self.batches;
        let mut stopping = self.stopping.clone();
        let mut batch = Vec::new();
        loop {
            let open = tokio::select! {
                open = fill(&mut batch, &mut queue, size, delay) => open,
                _ = stopping.wait_for(|stop| *stop) => false,
            };
            if !open {
                break;
            }
            let items = batch.len();
            let message = (self.encode)(std::mem::take(&mut batch));
            self.receiver.deliver(message, items, &mut stopping).await;
        }
        queue.close();
        while !batch.is_empty() || fill(&mut batch, &mut queue, size, Duration::ZERO).await {
            let items = batch.len();
            let message = (self.encode)(std::mem::take(&mut batch));
            self.receiver.deliver(message, items, &mut stopping).await;
        }
    }
}

/// Exports what the instruments show, every `interval` and at the end.
async fn export_metrics(
    mut receiver: Receiver,
    exporter: Exporter,
    interval: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut more = true;
    while more {
        more = tokio::select! {
            () = tokio::time::sleep(interval) => true,
            _ = stopping.wait_for(|stop| *stop) => false,
        };
        let message = exporter.metrics(&metrics::gather().await);
        receiver.deliver(message, 1, &mut stopping).await;
    }
}
