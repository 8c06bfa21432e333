//! A proxy before Postgres that does what networks do: it cuts, it stands still, it forgets connections without a word, it loses the
//! answer to a COMMIT, and it is slow to carry one whose sender has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// COMMIT as a simple query: type, length, text.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// What is done to connections now. Counters: a connection remembers what they were when it was made.
#[derive(Clone, Copy, Default)]
struct Mood {
    still: bool,
    holds_commits: bool,
    cuts: usize,
    forgotten: usize,
}

/// What becomes of a connection whose COMMIT gets no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It breaks.
    Broken,
    /// It stays open, and nothing comes.
    Silent,
}

/// Accepts until dropped.
pub(crate) struct Proxy {
    url: String,
    mood: watch::Sender<Mood>,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// How many answers to COMMIT are still to be lost, and how many were.
    to_lose: AtomicUsize,
    lost: AtomicUsize,
    silently: std::sync::atomic::AtomicBool,
}

impl Proxy {
    /// A proxy before the server of this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (authority, path) = rest.split_once('/').expect("a URL with a database");
        let (login, address) = authority.split_once('@').expect("a URL with a login");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("it is bound");
        let mood = watch::Sender::new(Mood::default());
        let shared = Arc::<Shared>::default();
        let (server, moods, of_all) = (address.to_owned(), mood.clone(), Arc::clone(&shared));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, moods, of_all) =
                    (server.clone(), moods.subscribe(), Arc::clone(&of_all));
                tokio::spawn(async move {
                    if let Ok(upstream) = TcpStream::connect(&server).await {
                        carry(client, upstream, moods, &of_all).await;
                    }
                });
            }
        });
        Self {
            url: format!("{scheme}://{login}@{own}/{path}"),
            mood,
            shared,
            accepting,
        }
    }

    /// The same database, behind this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Breaks every connection there is.
    pub(crate) fn cut(&self) {
        self.mood.send_modify(|mood| mood.cuts += 1);
    }

    /// Holds every byte back, or no longer.
    pub(crate) fn stand_still(&self, still: bool) {
        self.mood.send_modify(|mood| mood.still = still);
    }

    /// Forgets every connection there is: it stays open, and whatever is sent on it goes nowhere.
    pub(crate) fn forget(&self) {
        self.mood.send_modify(|mood| mood.forgotten += 1);
    }

    /// Loses the answers to the next `count` COMMITs, which the server has carried out.
    pub(crate) fn lose_commits(&self, count: usize, afterwards: Afterwards) {
        self.shared
            .silently
            .store(afterwards == Afterwards::Silent, Ordering::SeqCst);
        self.shared.to_lose.store(count, Ordering::SeqCst);
    }

    /// Breaks the connection of whoever commits, and carries the COMMIT to the server only when this is over.
    pub(crate) fn hold_commits(&self, hold: bool) {
        self.mood.send_modify(|mood| mood.holds_commits = hold);
    }

    /// How many answers to COMMIT were lost.
    pub(crate) fn lost_commits(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    mut moods: watch::Receiver<Mood>,
    shared: &Shared,
) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let born = *moods.borrow_and_update();
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let mood = *moods.borrow_and_update();
        if mood.cuts > born.cuts {
            return;
        }
        if mood.forgotten > born.forgotten {
            return swallow(client, &mut asked).await;
        }
        let moved = tokio::select! {
            changed = moods.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = client.read(&mut asked), if !mood.still => match read {
                Ok(length) if length > 0 => {
                    if asked[..length].ends_with(COMMIT) && moods.borrow().holds_commits {
                        drop(client);
                        if moods.wait_for(|mood| !mood.holds_commits).await.is_ok() {
                            let _ = server.write_all(&asked[..length]).await;
                            // The server has said something, so it has carried it out.
                            let _ = server.read(&mut answered).await;
                        }
                        return;
                    }
                    let is_lost = asked[..length].ends_with(COMMIT) && shared.takes_one();
                    let sent = server.write_all(&asked[..length]).await;
                    if is_lost {
                        // The server has said something, so it has carried it out.
                        let _ = server.read(&mut answered).await;
                        shared.lost.fetch_add(1, Ordering::SeqCst);
                        if shared.silently.load(Ordering::SeqCst) {
                            swallow(client, &mut asked).await;
                        }
                        return;
                    }
                    sent
                }
                _ => return,
            },
            read = server.read(&mut answered), if !mood.still => match read {
                Ok(length) if length > 0 => client.write_all(&answered[..length]).await,
                _ => return,
            },
        };
        if moved.is_err() {
            return;
        }
    }
}

/// Reads and answers nothing, until the client hangs up.
async fn swallow(mut client: TcpStream, buffer: &mut [u8]) {
    while client.read(buffer).await.is_ok_and(|length| length > 0) {}
}

impl Shared {
    fn takes_one(&self) -> bool {
        self.to_lose
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}
