//! Owns the export over OTLP: a bounded queue and a task per signal, so that neither a slow receiver nor a missing one is noticed by anybody
//! but the count of what was lost.

mod client;
mod messages;
mod receiver;

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet, time::sleep};

pub(super) use self::messages::{encode_entry, encode_span};
pub use self::receiver::ReceiverError;
use self::{messages::Exporter, receiver::Receiver};
use super::{
    metrics,
    queue::{Batch, Waiting},
};
use crate::config::telemetry::TelemetryConfig;

/// How long a process that ends lets its last telemetry travel.
const FAREWELL: Duration = Duration::from_secs(2);

/// What is exported, and where from.
pub(super) struct Sources {
    pub(super) spans: Option<Waiting>,
    pub(super) logs: Option<Waiting>,
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
                (&spans, exporter.request(Vec::new())),
                (&logs, exporter.request(Vec::new())),
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
        for (receiver, queue) in [(spans, sources.spans), (logs, sources.logs)] {
            if let (Some(receiver), Some(queue)) = (receiver, queue) {
                let batcher = Batcher {
                    receiver,
                    exporter: exporter.clone(),
                    stopping: stopping.clone(),
                };
                tasks.spawn(batcher.run(queue));
            }
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
struct Batcher {
    receiver: Receiver,
    exporter: Exporter,
    stopping: watch::Receiver<bool>,
}

impl Batcher {
    /// Until told to stop; then what waits is sent once, as far as there is time.
    async fn run(mut self, mut queue: Waiting) {
        let too_late = too_late(self.stopping.clone());
        tokio::select! {
            () = self.work(&mut queue) => {}
            () = too_late => {}
        }
        queue.close();
        self.receiver.farewell(queue.len());
    }

    async fn work(&mut self, queue: &mut Waiting) {
        let mut stopping = self.stopping.clone();
        loop {
            let batch = tokio::select! {
                batch = queue.next() => batch,
                _ = stopping.wait_for(|stop| *stop) => None,
            };
            let Some(batch) = batch else {
                break;
            };
            self.send(batch, &mut stopping).await;
        }
        queue.close();
        while let Some(batch) = queue.next().await {
            self.send(batch, &mut stopping).await;
        }
    }

    async fn send(&mut self, batch: Batch, stopping: &mut watch::Receiver<bool>) {
        let message = self.exporter.request(batch.bytes);
        self.receiver.deliver(message, batch.items, stopping).await;
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
