//! Owns the rows of artifacts: finding and reading them. Checkpoints write them.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::{entity::artifacts, error::StoreError};

/// What is known of an artifact beside its content.
#[derive(Debug, Clone, FromQueryResult)]
pub struct ArtifactRow {
    /// Its id on the wire.
    pub uri: String,
    /// The run.
    pub run_id: String,
    /// The step.
    pub step_id: String,
    /// The task, or `-`.
    pub task_key: String,
    /// Its place in the step.
    pub idx: i32,
    /// Executions of the step in the run, from 1.
    pub attempt: i32,
    /// What it is to the product.
    pub kind: String,
    /// Its content type.
    pub mime: String,
    /// Bytes.
    pub size: i64,
    /// Of its content, hexadecimal.
    pub sha256: String,
    /// Where its content is kept, if not in the row.
    pub storage_key: Option<String>,
}

/// The artifacts of a run, in the order of its steps' numbering.
pub async fn of_run(db: &impl ConnectionTrait, run: &str) -> Result<Vec<ArtifactRow>, StoreError> {
    use artifacts::Column as C;
    let query = artifacts::Entity::find()
        .select_only()
        .columns([
            C::Uri,
            C::RunId,
            C::StepId,
            C::TaskKey,
            C::Idx,
            C::Attempt,
            C::Kind,
            C::Mime,
            C::Size,
            C::Sha256,
            C::StorageKey,
        ])
        .filter(C::RunId.eq(run))
        .order_by_asc(C::StepId)
        .order_by_asc(C::Attempt)
        .order_by_asc(C::Idx);
    Ok(query.into_model::<ArtifactRow>().all(db).await?)
}

/// The newest attempt of an artifact, content included.
pub async fn find(
    db: &impl ConnectionTrait,
    uri: &str,
) -> Result<Option<artifacts::Model>, StoreError> {
    let query = artifacts::Entity::find()
        .filter(artifacts::Column::Uri.eq(uri))
        .order_by_desc(artifacts::Column::Attempt);
    Ok(query.one(db).await?)
}
