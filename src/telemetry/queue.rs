//! Owns the bounded way from those who tell to those who export: full, it loses what comes, counts it, and nobody waits.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::instruments::DROPPED;

/// The end that takes.
#[derive(Debug)]
pub(super) struct Queue<T> {
    sender: mpsc::Sender<T>,
    signal: &'static str,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            signal: self.signal,
        }
    }
}

impl<T> Queue<T> {
    /// A queue for at most `most`.
    pub(super) fn new(signal: &'static str, most: usize) -> (Self, mpsc::Receiver<T>) {
        let (sender, receiver) = mpsc::channel(most);
        (Self { sender, signal }, receiver)
    }

    /// Whether it would take one more. If not, that one is counted as lost: it need not be made, and must not be pushed.
    pub(super) fn has_room(&self) -> bool {
        let full = self.sender.capacity() == 0 && !self.sender.is_closed();
        if full {
            self.lose("queue_full");
        }
        !full
    }

    /// Takes `item`, or loses and counts it.
    pub(super) fn push(&self, item: T) {
        match self.sender.try_send(item) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.lose("queue_full"),
            Err(mpsc::error::TrySendError::Closed(_)) => self.lose("stopped"),
        }
    }

    fn lose(&self, reason: &'static str) {
        DROPPED.add(&[self.signal, reason], 1);
    }
}

/// Fills `batch` until it holds `most`, or what it holds has waited for `delay`. False when the queue was closed and everything is taken. What is
/// in `batch` stays there when this is dropped.
pub(super) async fn fill<T>(
    batch: &mut Vec<T>,
    queue: &mut mpsc::Receiver<T>,
    most: usize,
    delay: Duration,
) -> bool {
    if batch.is_empty() && queue.recv_many(batch, most).await == 0 {
        return false;
    }
    let until = Instant::now() + delay;
    while batch.len() < most {
        let left = most - batch.len();
        match timeout_at(until, queue.recv_many(batch, left)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{
        super::instruments::{Value, read},
        *,
    };

    /// Items of `signal` that were lost because its queue was full.
    fn lost(signal: &str) -> Option<Value> {
        let mut points = read().into_iter().flat_map(|metric| metric.points);
        let (_, value) = points.find(|(labels, _)| *labels == [signal, "queue_full"])?;
        Some(value)
    }

    #[tokio::test]
    async fn a_full_queue_loses_what_comes_and_batches_are_bounded() {
        let (queue, mut taken) = Queue::new("full", 3);
        for n in 0..3 {
            assert!(queue.has_room());
            queue.push(n);
        }
        queue.push(3);
        assert_eq!(lost("full"), Some(Value::Number(1.0)));
        assert!(!queue.has_room());
        let both = Some(Value::Number(2.0));
        assert_eq!(lost("full"), both, "what is not made is lost too");
        let delay = Duration::from_millis(1);
        let mut batch = Vec::new();
        assert!(fill(&mut batch, &mut taken, 2, delay).await);
        assert_eq!(std::mem::take(&mut batch), [0, 1]);
        assert!(queue.has_room());
        assert!(fill(&mut batch, &mut taken, 2, delay).await);
        assert_eq!(std::mem::take(&mut batch), [2]);
        drop(queue);
        assert!(!fill(&mut batch, &mut taken, 2, delay).await);
    }
}
