//! Owns the bounded way from those who tell to those who export: full, it loses what comes, counts it, and nobody waits. What waits is encoded
//! already and lies in one piece of memory per request: while a receiver hangs it stays, and thousands of small pieces that stay between everything
//! else make every allocation search longer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::timeout};

use super::instruments::DROPPED;
use crate::config::telemetry::Batches;

/// Appends an item to others, as it travels.
pub(super) type Encode<T> = fn(T, &mut Vec<u8>);

/// The end that takes.
#[derive(Debug)]
pub(super) struct Queue<T> {
    shared: Arc<Shared>,
    signal: &'static str,
    encode: Encode<T>,
}

/// The end that gives, for one reader.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Shared>);

/// What travels in one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// The encoded items, one behind the other.
    pub(super) bytes: Vec<u8>,
    /// How many they are.
    pub(super) items: usize,
}

#[derive(Debug)]
struct Shared {
    limits: Batches,
    state: Mutex<State>,
    /// Something came that whoever waits for a batch may have to hear of.
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// All but the last are as large as a batch may be.
    batches: VecDeque<Batch>,
    items: usize,
    closed: bool,
}

impl<T> Queue<T> {
    /// A queue within `limits`, and the end that gives.
    pub(super) fn new(signal: &'static str, limits: Batches, encode: Encode<T>) -> (Self, Waiting) {
        let shared = Arc::new(Shared {
            limits,
            state: Mutex::default(),
            came: Notify::new(),
        });
        let queue = Self {
            shared: Arc::clone(&shared),
            signal,
            encode,
        };
        (queue, Waiting(shared))
    }

    /// Whether it would take one more. If not, that one is counted as lost: it need not be made, and must not be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.admits(&self.shared.lock())
    }

    /// Takes `item`, or loses and counts it.
    pub(super) fn push(&self, item: T) {
        let mut state = self.shared.lock();
        if !self.admits(&state) {
            return;
        }
        let Batches { size, .. } = self.shared.limits;
        state.items += 1;
        if state.batches.back().is_none_or(|last| last.items >= size) {
            state.batches.push_back(Batch::default());
        }
        if let Some(last) = state.batches.back_mut() {
            (self.encode)(item, &mut last.bytes);
            last.items += 1;
        }
        if state.items == 1 || self.shared.is_full(&state) {
            self.shared.came.notify_one();
        }
    }

    fn admits(&self, state: &State) -> bool {
        let reason = if state.closed {
            "stopped"
        } else if state.items >= self.shared.limits.queue {
            "queue_full"
        } else {
            return true;
        };
        DROPPED.add(&[self.signal, reason], 1);
        false
    }
}

impl Waiting {
    /// The next batch: once it is as large as it may be, or the limits' delay after it was first asked for with something in it. A closed queue
    /// gives what there is, then nothing.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        self.until(|state| state.items > 0).await;
        let full = self.until(|state| self.0.is_full(state));
        // Whatever there is now goes.
        let _ = timeout(self.0.limits.delay, full).await;
        let mut state = self.0.lock();
        let batch = state.batches.pop_front()?;
        state.items -= batch.items;
        Some(batch)
    }

    /// From now on nothing is taken any more.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.came.notify_one();
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.0.lock().items
    }

    /// Until `enough` holds, or the queue is closed.
    async fn until(&self, enough: impl Fn(&State) -> bool) {
        loop {
            {
                let state = self.0.lock();
                if state.closed || enough(&state) {
                    return;
                }
            }
            self.0.came.notified().await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is as much for one request as there can be.
    fn is_full(&self, state: &State) -> bool {
        state.items >= self.limits.size.min(self.limits.queue)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::instruments::{Value, read},
        *,
    };

    /// Items of `signal` that were lost for `reason`.
    fn lost(signal: &str, reason: &str) -> Option<Value> {
        let mut points = read().into_iter().flat_map(|metric| metric.points);
        let (_, value) = points.find(|(labels, _)| *labels == [signal, reason])?;
        Some(value)
    }

    fn batch(bytes: &[u8]) -> Option<Batch> {
        let bytes = bytes.to_vec();
        let items = bytes.len();
        Some(Batch { bytes, items })
    }

    fn queue(signal: &'static str, delay: Duration) -> (Queue<u8>, Waiting) {
        let limits = Batches {
            queue: 3,
            size: 2,
            delay,
        };
        Queue::new(signal, limits, |item, to| to.push(item))
    }

    #[tokio::test]
    async fn a_full_queue_loses_what_comes_and_batches_are_bounded() {
        let (queue, mut waiting) = queue("full", Duration::from_millis(1));
        for n in 0..3 {
            assert!(queue.has_room());
            queue.push(n);
        }
        queue.push(3);
        assert_eq!(lost("full", "queue_full"), Some(Value::Number(1.0)));
        assert!(!queue.has_room());
        let both = Some(Value::Number(2.0));
        let now = lost("full", "queue_full");
        assert_eq!(now, both, "what is not made is lost too");
        assert_eq!(waiting.next().await, batch(&[0, 1]));
        assert_eq!(waiting.len(), 1);
        assert!(queue.has_room());
        assert_eq!(waiting.next().await, batch(&[2]));
    }

    #[tokio::test]
    async fn a_closed_queue_gives_what_there_is_at_once_and_takes_nothing() {
        let (queue, mut waiting) = queue("closed", Duration::from_secs(600));
        queue.push(0);
        waiting.close();
        assert!(!queue.has_room());
        assert_eq!(lost("closed", "stopped"), Some(Value::Number(1.0)));
        assert_eq!(waiting.next().await, batch(&[0]));
        assert_eq!(waiting.next().await, None);
    }

    #[tokio::test]
    async fn who_waits_for_a_batch_hears_of_the_item_that_fills_it_and_may_give_up_before() {
        let (queue, mut waiting) = queue("heard", Duration::from_secs(600));
        queue.push(0);
        let given_up = timeout(Duration::from_millis(1), waiting.next()).await;
        given_up.unwrap_err();
        let taken = tokio::spawn(async move { waiting.next().await });
        tokio::task::yield_now().await;
        queue.push(1);
        let taken = timeout(Duration::from_secs(30), taken).await.unwrap();
        assert_eq!(taken.unwrap(), batch(&[0, 1]));
    }
}
