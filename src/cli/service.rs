//! Owns what `serve`, `api` and `worker` share: listening, answering, and the way they end.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use poem::{Endpoint, Response};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::CliError;
use crate::{api, config::Config};

/// Takes a port on the configured address; 0 takes a free one.
pub(super) async fn bind(config: &Config, port: u16, what: &str) -> Result<TcpListener, CliError> {
    let address = SocketAddr::new(config.access.host, port);
    TcpListener::bind(address)
        .await
        .map_err(|e| CliError::Failed(format!("cannot listen on {address} for {what}: {e}")))
}

/// The ports that a process answers on.
pub(super) struct Servers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    grace: Duration,
}

impl Servers {
    /// Servers whose requests under way may take `grace` when they stop.
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
            grace,
        }
    }

    /// Answers on `listener`, to so many connections at once, and says where that is.
    pub(super) fn answer(
        &mut self,
        listener: TcpListener,
        app: impl Endpoint<Output = Response> + 'static,
        connections: usize,
    ) -> Result<SocketAddr, CliError> {
        let address = listener
            .local_addr()
            .map_err(|e| CliError::Failed(e.to_string()))?;
        let stopped = self.stop.subscribe();
        self.tasks
            .spawn(api::serve(listener, Arc::new(app), connections, stopped));
        Ok(address)
    }

    /// Accepts nothing more; what is under way may end within the grace period.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.grace, ended).await.is_err() {
            tracing::info!("some callers were too slow for their answers");
        }
        self.tasks.shutdown().await;
    }
}

/// The signals that ask a process to end. Caught from the moment this exists.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, CliError> {
        let caught = |kind| {
            signal(kind).map_err(|e| CliError::Failed(format!("cannot listen for signals: {e}")))
        };
        Ok(Self {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
        })
    }

    /// Until somebody wants this process to end; answers the exit code of one that the signal has killed.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 143,
            _ = self.interrupt.recv() => 130,
        }
    }

    /// Runs `end`, unless another signal comes before it has: then this answers at once, and everything that runs ends with the process.
    pub(super) async fn unless_again(
        &mut self,
        end: impl Future<Output = ()>,
    ) -> Result<(), CliError> {
        tokio::select! {
            () = end => Ok(()),
            code = self.next() => Err(CliError::Killed(code)),
        }
    }
}
