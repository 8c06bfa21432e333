//! Owns the bound on runs that wait in their queue: what nobody gets to is better refused than stored.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

use super::{IntentError, RUN_QUEUE};
use crate::store::{Database, workflows};

/// How long a count holds. In between, what starts here is added to it.
const HOLDS: Duration = Duration::from_millis(250);

/// How many runs may wait, and how many did when somebody last looked.
#[derive(Debug)]
pub(super) struct Backlog {
    most: i64,
    counted: Mutex<Option<(Instant, i64)>>,
}

impl Backlog {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most: i64::try_from(most).unwrap_or(i64::MAX),
            counted: Mutex::default(),
        }
    }

    /// Takes room for one more run; one that is `put_off` needs some, and takes none.
    ///
    /// # Errors
    /// [`IntentError::Backlog`] when there is none.
    pub(super) async fn take(&self, db: &Database, put_off: bool) -> Result<(), IntentError> {
        // Held while it counts: of many that ask at once, one counts.
        let mut counted = self.counted.lock().await;
        let fresh = counted.filter(|(at, _)| at.elapsed() < HOLDS);
        let (at, waiting) = match fresh {
            Some(fresh) => fresh,
            None => {
                let waiting = workflows::count_queued(&db.read(), RUN_QUEUE, self.most).await?;
                (Instant::now(), waiting)
            }
        };
        if waiting >= self.most {
            *counted = Some((at, waiting));
            return Err(IntentError::Backlog {
                message: format!(
                    "{waiting} runs wait in {RUN_QUEUE} already, and at most {} may; try again later",
                    self.most
                ),
            });
        }
        *counted = Some((at, waiting + i64::from(!put_off)));
        Ok(())
    }
}
