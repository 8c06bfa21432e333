//! Owns the tables of what DBOS's own table of schedules cannot say: policies, bounds, and the slots that did not fire.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

use crate::dialect::translate;

pub(super) struct Schedules;

impl MigrationName for Schedules {
    fn name(&self) -> &str {
        "m20261124_000010_schedules"
    }
}

#[async_trait]
impl MigrationTrait for Schedules {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for (name, columns) in TABLES {
            let create = format!("CREATE TABLE {name} ({columns})");
            db.execute_unprepared(&translate(manager.get_database_backend(), &create))
                .await?;
        }
        Ok(())
    }
}

/// A row of `schedules` belongs to the row of `dbos.workflow_schedules` with its name. `passed_at` is the slot up to which the last decision
/// passed over slots, `fired_at` the last one that had fired by then; a decision that only fires touches neither.
pub(super) const TABLES: &[(&str, &str)] = &[
    (
        "schedules",
        "name text NOT NULL PRIMARY KEY, every_ms bigint, catch_up text NOT NULL, window_ms bigint NOT NULL, overlap text NOT NULL, \
         jitter_ms bigint NOT NULL DEFAULT 0, starts_at bigint, ends_at bigint, queue_partition_key text, priority integer NOT NULL DEFAULT 0, \
         built_in boolean NOT NULL DEFAULT false, waiting_slot bigint, passed_at bigint, fired_at bigint, \
         missed bigint NOT NULL DEFAULT 0, created_at bigint NOT NULL, updated_at bigint NOT NULL",
    ),
    (
        "schedule_slots",
        "schedule_name text NOT NULL, first_slot bigint NOT NULL, last_slot bigint NOT NULL, count bigint NOT NULL, reason text NOT NULL, \
         decided_at bigint NOT NULL, PRIMARY KEY (schedule_name, first_slot)",
    ),
];
