//! Owns the rows of intents and recipes.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder,
};

use super::{
    entity::{intents, recipes},
    error::StoreError,
};

/// Stores an intent.
pub async fn insert(tx: &impl ConnectionTrait, intent: intents::Model) -> Result<(), StoreError> {
    intent.into_active_model().insert(tx).await?;
    Ok(())
}

/// One intent.
pub async fn find(
    db: &impl ConnectionTrait,
    id: &str,
) -> Result<Option<intents::Model>, StoreError> {
    Ok(intents::Entity::find_by_id(id).one(db).await?)
}

/// A recipe: the version asked for, or the newest.
pub async fn recipe(
    db: &impl ConnectionTrait,
    name: &str,
    version: Option<i32>,
) -> Result<Option<recipes::Model>, StoreError> {
    let mut query = recipes::Entity::find().filter(recipes::Column::Name.eq(name));
    if let Some(version) = version {
        query = query.filter(recipes::Column::Version.eq(version));
    }
    Ok(query
        .order_by_desc(recipes::Column::Version)
        .one(db)
        .await?)
}
