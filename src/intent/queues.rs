//! Owns the settings of queues as callers see and change them.

use super::{IntentError, Product};
use crate::store::{
    backend::retrying,
    queue_settings::{self, QueueChange, QueueState},
};

impl Product {
    /// Every queue, by name.
    ///
    /// # Errors
    /// [`IntentError::Store`].
    pub async fn queues(&self) -> Result<Vec<QueueState>, IntentError> {
        Ok(queue_settings::list(&self.db().read(), None).await?)
    }

    /// One queue.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn queue(&self, name: &str) -> Result<QueueState, IntentError> {
        let found = queue_settings::list(&self.db().read(), Some(name)).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| IntentError::NotFound {
                what: "queue",
                id: name.to_owned(),
            })
    }

    /// Changes the settings of a queue, and wakes whoever may start more now. One of ours may be changed before anything has executed, and so
    /// paused before the first run.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn change_queue(
        &self,
        name: &str,
        change: &QueueChange,
    ) -> Result<QueueState, IntentError> {
        let ours: Vec<_> = self
            .queues
            .iter()
            .filter(|queue| queue.name == name)
            .cloned()
            .collect();
        let there = retrying(|| async {
            let tx = self.db().begin().await?;
            queue_settings::ensure(&tx, &ours).await?;
            let there = queue_settings::change(&tx, name, change).await?;
            tx.commit().await?;
            Ok(there)
        })
        .await?;
        if there {
            self.client.queue_changed(name).await;
        }
        self.queue(name).await
    }
}
