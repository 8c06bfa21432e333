//! Owns the calls of the planner: one per run and step, and the recordings that answer others.

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr,
};

use super::{entity::opencode_calls, error::StoreError};

/// Modes whose answers came from a planner, and may answer the same call of another run. Text, so that both databases see that this is what
/// `idx_opencode_calls_recorded` holds.
const RECORDED: &str = "mode IN ('record', 'live')";

/// The answer that is kept for this call: its own, or the newest recording of an equal one.
pub async fn recorded(
    db: &impl ConnectionTrait,
    op_key: &str,
    request_hash: &str,
) -> Result<Option<opencode_calls::Model>, StoreError> {
    use opencode_calls::Column as C;
    if let Some(own) = opencode_calls::Entity::find_by_id(op_key).one(db).await? {
        return Ok(Some(own));
    }
    let equal = Condition::all()
        .add(C::RequestHash.eq(request_hash))
        .add(Expr::cust(RECORDED));
    Ok(opencode_calls::Entity::find()
        .filter(equal)
        .order_by_desc(C::CreatedAt)
        .one(db)
        .await?)
}
