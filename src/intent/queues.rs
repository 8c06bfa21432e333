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

    /// Changes the settings of a queue, and wakes whoever may start more now.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn change_queue(
        &self,
        name: &str,
        change: &QueueChange,
    ) -> Result<QueueState, IntentError> {
        let there =
            retrying(|| async { queue_settings::change(&self.db().write(), name, change).await })
                .await?;
        if there {
            self.client.queue_changed(name).await;
        }
        self.queue(name).await
    }
}
