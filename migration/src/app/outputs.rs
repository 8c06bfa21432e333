//! Owns the tables of what tasks put out: content by its hash, and the live stream of each run.

use sea_orm_migration::{
    MigrationName, MigrationTrait, SchemaManager,
    async_trait::async_trait,
    sea_orm::{ConnectionTrait, DbErr},
};

use crate::dialect::translate;

pub(super) struct Outputs;

impl MigrationName for Outputs {
    fn name(&self) -> &str {
        "m20261124_000001_outputs"
    }
}

#[async_trait]
impl MigrationTrait for Outputs {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let db = manager.get_connection();
        for (name, columns) in TABLES {
            let create = format!("CREATE TABLE {name} ({columns})");
            db.execute_unprepared(&translate(manager.get_database_backend(), &create))
                .await?;
        }
        db.execute_unprepared("CREATE INDEX idx_artifacts_storage ON artifacts (storage_key) WHERE storage_key IS NOT NULL")
            .await?;
        Ok(())
    }
}

/// `run_streams` holds the next number of a run's stream; its row is the lock under which numbers are given, so that a reader who has seen a
/// number has seen all before it.
pub(super) const TABLES: &[(&str, &str)] = &[
    (
        "blobs",
        "sha256 text NOT NULL PRIMARY KEY, size bigint NOT NULL, used_at bigint NOT NULL",
    ),
    (
        "blob_chunks",
        "sha256 text NOT NULL, seq integer NOT NULL, bytes {bytes} NOT NULL, used_at bigint NOT NULL, PRIMARY KEY (sha256, seq)",
    ),
    (
        "run_streams",
        "run_id text NOT NULL PRIMARY KEY, next_seq bigint NOT NULL",
    ),
    (
        "run_stream_chunks",
        "run_id text NOT NULL, seq bigint NOT NULL, task_key text NOT NULL, attempt integer NOT NULL, kind text NOT NULL, \
         bytes {bytes} NOT NULL, created_at bigint NOT NULL, PRIMARY KEY (run_id, seq)",
    ),
];
