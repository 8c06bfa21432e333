//! Owns `app.waits`: what each suspended workflow waits for, and the one condition in SQL that says whether it is due.

use sea_orm::ConnectionTrait;
use serde::Serialize;

use super::{
    backend::{json_rows, statement},
    dialect::{Dialect, dialect},
    error::StoreError,
    status::UNFINISHED,
};

/// Waits that one round of the reconciler looks at.
pub const ROUND: u32 = 2_000;

/// One of the things that make a suspended workflow due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Condition {
    /// The time has come.
    Time {
        /// Epoch milliseconds.
        at: i64,
    },
    /// A message with this topic was sent to the workflow.
    Message {
        /// The topic.
        topic: String,
    },
    /// Another workflow has set an event.
    Event {
        /// That workflow.
        workflow: String,
        /// The event.
        key: String,
    },
    /// All children started by the calls `low` to `high` have ended.
    Children {
        /// First function id.
        low: i32,
        /// Last function id.
        high: i32,
    },
    /// The replay met another step than the one recorded; it is tried again at the time given beside.
    Mismatch {
        /// Where.
        function_id: i32,
        /// What is recorded.
        recorded: String,
        /// What the code called.
        called: String,
    },
}

/// What conditions are called. Of several, the first in this list says what a workflow waits for: the time beside a message is only its end.
pub const KINDS: [&str; 5] = ["children", "message", "event", "mismatch", "time"];
/// What a workflow waits for that was handed back.
pub const NOTHING: &str = "nothing";

impl Condition {
    fn kind(&self) -> &'static str {
        match self {
            Self::Time { .. } => "time",
            Self::Message { .. } => "message",
            Self::Event { .. } => "event",
            Self::Children { .. } => "children",
            Self::Mismatch { .. } => "mismatch",
        }
    }
}

/// What the conditions of a row say that its workflow waits for.
pub fn kind_of(conditions: &str) -> &'static str {
    let written = |kind: &&str| conditions.contains(&format!("\"kind\":\"{kind}\""));
    KINDS.into_iter().find(written).unwrap_or(NOTHING)
}

/// What a workflow that suspends leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wait {
    /// It is due when any of them holds.
    pub conditions: Vec<Condition>,
}

impl Wait {
    /// A wait that is due now.
    pub fn due_now() -> Self {
        Self::default()
    }

    /// What the workflow waits for.
    pub fn kind(&self) -> &'static str {
        let has = |kind: &&str| self.conditions.iter().any(|c| c.kind() == *kind);
        KINDS.into_iter().find(has).unwrap_or(NOTHING)
    }

    /// The earliest time among the conditions, epoch milliseconds.
    pub fn due_at(&self) -> Option<i64> {
        self.conditions
            .iter()
            .filter_map(|c| {
                if let Condition::Time { at } = c {
                    Some(*at)
                } else {
                    None
                }
            })
            .min()
    }

    /// The workflow whose events matter. With several, the reconciler sees to the others.
    pub fn watches(&self) -> Option<&str> {
        self.conditions.iter().find_map(|c| {
            if let Condition::Event { workflow, .. } = c {
                Some(workflow.as_str())
            } else {
                None
            }
        })
    }
}

/// Whether a condition of the wait `w` other than a time holds.
fn holds(sql: Dialect) -> String {
    format!(
        "EXISTS (SELECT 1 FROM {conditions} WHERE (c.kind = 'message' AND EXISTS (SELECT 1 FROM \"dbos\".notifications n \
         WHERE n.destination_uuid = w.workflow_id AND n.topic = c.topic AND NOT n.consumed)) \
         OR (c.kind = 'event' AND EXISTS (SELECT 1 FROM \"dbos\".workflow_events e WHERE e.workflow_uuid = c.workflow AND e.\"key\" = c.\"key\")) \
         OR (c.kind = 'children' AND NOT EXISTS (SELECT 1 FROM \"dbos\".operation_outputs o JOIN \"dbos\".workflow_status k \
         ON k.workflow_uuid = o.child_workflow_id WHERE o.workflow_uuid = w.workflow_id AND o.function_id BETWEEN c.low AND c.high \
         AND k.status IN {UNFINISHED})))",
        conditions = sql.conditions("w.conditions", "c")
    )
}

/// Whether the wait `w` holds, and nobody has said so.
pub(super) fn is_unsignalled(sql: Dialect) -> String {
    format!(
        "(w.due_at IS NULL OR w.due_at > {}) AND {}",
        sql.now(),
        holds(sql)
    )
}

fn mark_due(sql: Dialect, which: &str) -> String {
    format!(
        "UPDATE \"app\".waits AS w SET due_at = {} WHERE {which} AND {}",
        sql.now(),
        is_unsignalled(sql)
    )
}

/// Whether `workflow` is suspended and waits for a message.
pub async fn is_for_a_message(
    db: &impl ConnectionTrait,
    workflow: &str,
) -> Result<bool, StoreError> {
    let text = format!(
        "SELECT 1 FROM \"app\".waits w WHERE w.workflow_id = $1 AND EXISTS (SELECT 1 FROM {} WHERE c.kind = 'message')",
        dialect(db).conditions("w.conditions", "c")
    );
    let row = db
        .query_one_raw(statement(db, text, [workflow.into()]))
        .await?;
    Ok(row.is_some())
}

/// Marks the waits of `workflows` due whose conditions hold; answers how many. Call it after the commit of the fact that may fulfil them,
/// in a statement of its own: whoever looks later sees both the fact and the wait.
pub async fn look(db: &impl ConnectionTrait, workflows: &[&str]) -> Result<u64, StoreError> {
    let sql = dialect(db);
    let text = mark_due(sql, &sql.is_one_of("w.workflow_id", 1));
    Ok(db
        .execute_raw(statement(db, text, [json_rows(&workflows)?]))
        .await?
        .rows_affected())
}

/// Like [`look`], for the waits that watch events of `workflows`.
pub async fn look_at_watchers(
    db: &impl ConnectionTrait,
    workflows: &[&str],
) -> Result<u64, StoreError> {
    let sql = dialect(db);
    let text = mark_due(sql, &sql.is_one_of("w.watches", 1));
    Ok(db
        .execute_raw(statement(db, text, [json_rows(&workflows)?]))
        .await?
        .rows_affected())
}

/// Marks due what nobody signalled among the waits in (`from`, `to`]: a crash between a commit and its look, psql, an official client.
pub async fn reconcile(db: &impl ConnectionTrait, from: &str, to: &str) -> Result<u64, StoreError> {
    let text = mark_due(dialect(db), "w.workflow_id > $1 AND w.workflow_id <= $2");
    Ok(db
        .execute_raw(statement(db, text, [from.into(), to.into()]))
        .await?
        .rows_affected())
}

/// The last key of the round that begins after `from`; none at the end.
pub async fn round_end(
    db: &impl ConnectionTrait,
    from: &str,
) -> Result<Option<String>, StoreError> {
    let text = format!(
        "SELECT max(workflow_id) FROM (SELECT workflow_id FROM \"app\".waits WHERE workflow_id > $1 ORDER BY workflow_id LIMIT {ROUND}) AS r"
    );
    let row = db.query_one_raw(statement(db, text, [from.into()])).await?;
    Ok(row
        .map(|row| row.try_get_by_index::<Option<String>>(0))
        .transpose()?
        .flatten())
}

/// Deletes waits in (`from`, `to`] whose workflow is no longer suspended: somebody else's client cancelled or resumed it.
pub async fn delete_stale(
    db: &impl ConnectionTrait,
    from: &str,
    to: &str,
) -> Result<u64, StoreError> {
    let text = "DELETE FROM \"app\".waits WHERE workflow_id > $1 AND workflow_id <= $2 AND NOT EXISTS (SELECT 1 FROM \"dbos\".workflow_status s \
                WHERE s.workflow_uuid = workflow_id AND s.status = 'PENDING' AND s.owner_xid IS NULL)";
    Ok(db
        .execute_raw(statement(db, text, [from.into(), to.into()]))
        .await?
        .rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_due_at_its_earliest_time() {
        let wait = Wait {
            conditions: vec![
                Condition::Time { at: 9 },
                Condition::Message { topic: "t".into() },
                Condition::Time { at: 4 },
            ],
        };
        assert_eq!(wait.due_at(), Some(4));
        assert_eq!(wait.kind(), "message");
    }

    #[test]
    fn conditions_are_written_as_the_sql_reads_them() {
        let written = serde_json::to_string(&[Condition::Children { low: 4, high: 9 }]).unwrap();
        assert_eq!(written, r#"[{"kind":"children","low":4,"high":9}]"#);
        assert_eq!(kind_of(&written), "children");
        assert_eq!(kind_of("[]"), NOTHING);
    }
}
