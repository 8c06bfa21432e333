//! Owns messages and events between workflows: reading what was sent. (Checkpoints write what workflows send.)

use sea_orm::ConnectionTrait;

use super::{
    backend::{Database, statement},
    checkpoints::{Message, insert_messages},
    error::StoreError,
    portable::portable,
    waits,
};

/// The oldest unread message to `workflow` about `topic`: its id and its JSON text, whoever sent it.
pub async fn first_unread(
    db: &impl ConnectionTrait,
    workflow: &str,
    topic: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let text = "SELECT message_uuid, message, serialization FROM \"dbos\".notifications WHERE destination_uuid = $1 AND topic = $2 AND NOT consumed \
                ORDER BY created_at_epoch_ms, message_uuid LIMIT 1";
    let row = db
        .query_one_raw(statement(db, text, [workflow.into(), topic.into()]))
        .await?;
    row.map(|row| {
        let serialization: Option<String> = row.try_get_by_index(2)?;
        let message = portable(row.try_get_by_index(1)?, serialization.as_deref());
        Ok((row.try_get_by_index(0)?, message))
    })
    .transpose()
}

/// The event `key` of `workflow`, JSON text, whoever set it.
pub async fn event(
    db: &impl ConnectionTrait,
    workflow: &str,
    key: &str,
) -> Result<Option<String>, StoreError> {
    let text = "SELECT value, serialization FROM \"dbos\".workflow_events WHERE workflow_uuid = $1 AND \"key\" = $2";
    let row = db
        .query_one_raw(statement(db, text, [workflow.into(), key.into()]))
        .await?;
    row.map(|row| {
        let serialization: Option<String> = row.try_get_by_index(1)?;
        Ok(portable(row.try_get_by_index(0)?, serialization.as_deref()))
    })
    .transpose()
}

/// Sends `message` from outside any workflow and wakes its receiver. Once this returns, the message is received at most once and not lost.
///
/// # Errors
/// [`StoreError::Refused`] when there is no such workflow.
pub async fn send(db: &Database, message: &Message) -> Result<(), StoreError> {
    insert_messages(&db.write(), std::iter::once(message)).await?;
    waits::look(&db.write(), &[&message.destination]).await?;
    Ok(())
}
