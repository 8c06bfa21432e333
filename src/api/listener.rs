//! Owns the connections: how many there are, how long one may be silent, and what becomes of them at the end. HTTP/1.1 only: one request at a
//! time on a connection keeps every limit of the front a limit per connection.

mod line;
mod table;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use openapi::ApiError;
use poem::{
    Endpoint, Request, Response,
    http::{StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use self::{
    line::{Answer, Line, refusal},
    table::{Place, Table},
};

/// Connections of the API at once.
pub const API_CONNECTIONS: usize = 1_024;
/// Connections of the admin port at once: few, and apart, so that a flood of the API does not hide the service's health.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Largest head of a request in bytes, its longest legal path included; hyper's own is six times as much.
const LARGEST_HEAD: usize = 64 * 1024;
/// Header lines of a request at most.
const MOST_HEADERS: usize = 100;
/// Pause after a connection could not be accepted: most often the process has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `app` until `stop` says so; then the connections end with the request that is under way. At most `connections` are open, and never
/// more than half of the descriptors that the process may have.
pub async fn serve<E>(
    listener: TcpListener,
    app: Arc<E>,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let table = Table::new(connections.min(half_of_the_descriptors()));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => match table.place().await {
                Some(place) => {
                    tasks.spawn(connection(
                        stream,
                        peer,
                        place,
                        Arc::clone(&app),
                        stop.clone(),
                    ));
                }
                None => turn_away(&stream),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Until the process is to end, or whoever could say so is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn half_of_the_descriptors() -> usize {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(soft, _)| soft);
    limit.map_or(usize::MAX, |most| {
        usize::try_from(most / 2).unwrap_or(usize::MAX)
    })
}

async fn connection<E>(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    app: Arc<E>,
    mut stop: watch::Receiver<bool>,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let Ok(local) = stream.local_addr() else {
        return;
    };
    // An answer goes out when it is complete; waiting for more to send only delays it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let progress = place.progress();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (app, progress) = (Arc::clone(&app), Arc::clone(&progress));
        progress.called();
        async move {
            let addresses = (LocalAddr(local.into()), RemoteAddr(peer.into()));
            let request = Request::from((request, addresses.0, addresses.1, Scheme::HTTP));
            let response = hyper::Response::from(app.get_response(request).await);
            Ok::<_, Infallible>(response.map(|body| Answer::new(body, progress)))
        }
    });
    let line = Line::new(stream, Arc::clone(&progress));
    let served = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_header_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(line), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = progress.evicted() => return,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// Says that every connection is at work, to one that is too many. It is new, so that its buffer has room for the few bytes; a caller that has
/// gone misses nothing.
fn turn_away(stream: &TcpStream) {
    let refused = ApiError {
        retry_after: Some(1),
        ..ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "overloaded",
            "too many connections; try again later",
        )
    };
    if let Err(error) = write_now(stream, &refusal(refused)) {
        tracing::debug!(%error, "a connection that was one too many is gone");
    }
}

fn write_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.try_write(bytes).map(|_| ())
}
