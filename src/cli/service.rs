//! Owns what `serve`, `api` and `worker` share: listening, answering, and the way they end.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use poem::{IntoEndpoint, Server, listener::TcpAcceptor};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::CliError;

/// Takes a port on loopback; 0 takes a free one.
pub(super) async fn bind(port: u16, what: &str) -> Result<TcpListener, CliError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|e| CliError::Failed(format!("cannot listen on 127.0.0.1:{port} for {what}: {e}")))
}

/// The ports that a process answers on.
pub(super) struct Servers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<io::Result<()>>,
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

    /// Answers on `listener`, and says where that is.
    pub(super) fn answer<E>(
        &mut self,
        listener: TcpListener,
        app: E,
    ) -> Result<SocketAddr, CliError>
    where
        E: IntoEndpoint,
        E::Endpoint: 'static,
    {
        let failed = |e: io::Error| CliError::Failed(e.to_string());
        let address = listener.local_addr().map_err(failed)?;
        let acceptor = TcpAcceptor::from_tokio(listener).map_err(failed)?;
        let (mut stopped, grace) = (self.stop.subscribe(), self.grace);
        let app = app.into_endpoint();
        self.tasks.spawn(async move {
            let signal = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            Server::new_with_acceptor(acceptor)
                .run_with_graceful_shutdown(app, signal, Some(grace))
                .await
        });
        Ok(address)
    }

    /// Accepts nothing more; what is under way may end within the grace period.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.grace, ended).await;
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
