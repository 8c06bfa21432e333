//! What the ops plane needs beside the tables there were: who cancelled what, and whether a recipe's tasks are killed when their run is cancelled.

use sea_orm_migration::sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager, async_trait::async_trait};

/// The table that this migration makes.
pub(super) const TABLE: &str = "cancellations";

const STATEMENTS: [&str; 3] = [
    "CREATE TABLE cancellations (workflow_id text NOT NULL PRIMARY KEY, cancelled_by text, at bigint NOT NULL)",
    "ALTER TABLE recipes ADD COLUMN cancel text NOT NULL DEFAULT 'boundary'",
    // An ordinary command may run for hours, and whoever cancels it wants it gone.
    "UPDATE recipes SET cancel = 'kill' WHERE name = 'shell-default' AND version = 1",
];

pub(super) struct Cancellations;

impl MigrationName for Cancellations {
    fn name(&self) -> &str {
        "m20261124_000002_cancellations"
    }
}

#[async_trait]
impl MigrationTrait for Cancellations {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for text in STATEMENTS {
            manager.get_connection().execute_unprepared(text).await?;
        }
        Ok(())
    }
}
