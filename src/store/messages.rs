//! Owns messages and events between workflows: reading what was sent. (Checkpoints write what workflows send.)

use sea_orm::ConnectionTrait;

use super::{
    backend::{Database, statement},
    checkpoints::{Message, insert_messages},
    error::StoreError,
    waits,
};

/// The oldest unread message to `workflow` about `topic`: its id and its JSON text.
pub async fn first_unread(
    db: &impl ConnectionTrait,
    workflow: &str,
    topic: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let text = "SELECT message_uuid, message FROM \"dbos\".notifications WHERE destination_uuid = $1 AND topic = $2 AND NOT consumed \
                ORDER BY created_at_epoch_ms, message_uuid LIMIT 1";
    let row = db
        .query_one_raw(statement(db, text, [workflow.into(), topic.into()]))
        .await?;
    row.map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
        .transpose()
}

/// The event `key` of `workflow`, JSON text.
pub async fn event(
    db: &impl ConnectionTrait,
    workflow: &str,
    key: &str,
) -> Result<Option<String>, StoreError> {
    let text =
        "SELECT value FROM \"dbos\".workflow_events WHERE workflow_uuid = $1 AND \"key\" = $2";
    let row = db
        .query_one_raw(statement(db, text, [workflow.into(), key.into()]))
        .await?;
    Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
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
