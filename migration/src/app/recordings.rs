//! Owns the index that finds the newest recording of a call of the planner: of the rows with the same request only those that may answer, however
//! many others there are.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

pub(super) struct Recordings;

impl MigrationName for Recordings {
    fn name(&self) -> &str {
        "m20261125_000001_recordings"
    }
}

#[async_trait]
impl MigrationTrait for Recordings {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for statement in STATEMENTS {
            db.execute_unprepared(statement).await?;
        }
        Ok(())
    }
}

const STATEMENTS: &[&str] = &[
    "DROP INDEX idx_opencode_calls_request",
    "CREATE INDEX idx_opencode_calls_recorded ON opencode_calls (request_hash, created_at) WHERE mode IN ('record', 'live')",
];
