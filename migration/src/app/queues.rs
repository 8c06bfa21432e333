//! Owns what fair queues need: the setting itself, and waits that know their queue, so that what is due in one queue is found without a walk
//! over what is due in the others.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

use crate::dialect::translate;

pub(super) struct Queues;

impl MigrationName for Queues {
    fn name(&self) -> &str {
        "m20261124_000005_queues"
    }
}

#[async_trait]
impl MigrationTrait for Queues {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for statement in STATEMENTS {
            db.execute_unprepared(&translate(manager.get_database_backend(), statement))
                .await?;
        }
        Ok(())
    }
}

/// `queue_name` has no default: whoever writes a wait must say where it is looked for, or the workflow would never wake. SQLite adds such a
/// column only by building the table anew.
const STATEMENTS: &[&str] = &[
    "ALTER TABLE queue_limits ADD COLUMN fair boolean NOT NULL DEFAULT false",
    "CREATE TABLE waits_of_queues (workflow_id text NOT NULL PRIMARY KEY, queue_name text NOT NULL, conditions text NOT NULL, due_at bigint, \
     watches text, created_at bigint NOT NULL)",
    "INSERT INTO waits_of_queues (workflow_id, queue_name, conditions, due_at, watches, created_at) SELECT w.workflow_id, \
     COALESCE(s.queue_name, ''), w.conditions, w.due_at, w.watches, w.created_at FROM waits w \
     LEFT JOIN {dbos}workflow_status s ON s.workflow_uuid = w.workflow_id",
    "DROP TABLE waits",
    "ALTER TABLE waits_of_queues RENAME TO waits",
    "CREATE INDEX idx_waits_due ON waits (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX idx_waits_queue_due ON waits (queue_name, due_at, workflow_id) WHERE due_at IS NOT NULL",
    "CREATE INDEX idx_waits_watches ON waits (watches) WHERE watches IS NOT NULL",
];
