//! Owns the reading of `app.marks`: how often a workflow of the labs has done what it is to do once.

use std::collections::BTreeMap;

use sea_orm::ConnectionTrait;

use super::{backend::statement, error::StoreError};

/// The marks of `workflow`, by name.
pub async fn counts(
    db: &impl ConnectionTrait,
    workflow: &str,
) -> Result<BTreeMap<String, i64>, StoreError> {
    let text = "SELECT mark, CAST(count AS bigint) FROM \"app\".marks WHERE workflow_id = $1";
    db.query_all_raw(statement(db, text, [workflow.into()]))
        .await?
        .iter()
        .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
        .collect()
}
