//! Owns the export over OTLP: a bounded queue and a task per signal, so that neither a slow receiver nor a missing one is noticed by anybody
//! but the count of what was lost.

mod client;
mod messages;
mod receiver;

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

pub use self::receiver::ReceiverError;
use self::{messages::Exporter, receiver::Receiver};
use super::{logs::Entry, metrics, queue::fill, spans::Span};
use crate::config::telemetry::{Batches, TelemetryConfig};

/// How long a process that ends lets its last telemetry travel.
const FAREWELL: Duration = Duration::from_secs(2);

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

    /// Sends what waits, for a moment; the rest is lost, counted and told.
    pub(super) async fn stop(mut self) {
        let _ = self.stop.send(true);
        // Each ends by itself after [`FAREWELL`].
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Until a process that ends has waited long enough for its last telemetry.
async fn too_late(mut stopping: watch::Receiver<bool>) {
    // An error says that nobody waits.
    let _ = stopping.wait_for(|stop| *stop).await;
    sleep(FAREWELL).await;
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

    /// Until told to stop; then what waits is sent once, as far as there is time.
    async fn run<T>(mut self, mut queue: mpsc::Receiver<T>)
    where
        E: Fn(Vec<T>) -> Vec<u8>,
    {
        let mut batch = Vec::new();
        let too_late = too_late(self.stopping.clone());
        tokio::select! {
            () = self.work(&mut batch, &mut queue) => {}
            () = too_late => {}
        }
        queue.close();
        self.receiver.farewell(batch.len() + queue.len());
    }

    async fn work<T>(&mut self, batch: &mut Vec<T>, queue: &mut mpsc::Receiver<T>)
    where
        E: Fn(Vec<T>) -> Vec<u8>,
    {
        let Batches { size, delay, .. } = self.batches;
        let mut stopping = self.stopping.clone();
        loop {
            let open = tokio::select! {
                open = fill(batch, queue, size, delay) => open,
                _ = stopping.wait_for(|stop| *stop) => false,
            };
            if !open {
                break;
            }
            self.send(batch, &mut stopping).await;
        }
        queue.close();
        while !batch.is_empty() || fill(batch, queue, size, Duration::ZERO).await {
            self.send(batch, &mut stopping).await;
        }
    }

    async fn send<T>(&mut self, batch: &mut Vec<T>, stopping: &mut watch::Receiver<bool>)
    where
        E: Fn(Vec<T>) -> Vec<u8>,
    {
        let items = batch.len();
        let message = (self.encode)(std::mem::take(batch));
        self.receiver.deliver(message, items, stopping).await;
    }
}

/// Exports what the instruments show, every `interval` and at the end.
async fn export_metrics(
    mut receiver: Receiver,
    exporter: Exporter,
    interval: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let too_late = too_late(stopping.clone());
    let work = async {
        let mut more = true;
        while more {
            more = tokio::select! {
                () = sleep(interval) => true,
                _ = stopping.wait_for(|stop| *stop) => false,
            };
            let message = exporter.metrics(&metrics::gather().await);
            receiver.deliver(message, 1, &mut stopping).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = too_late => {}
    }
    receiver.farewell(0);
}
