//! Owns the rows of intents and recipes.

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    sea_query::OnConflict,
};

use super::{
    entity::{intents, recipes},
    error::StoreError,
};

/// Stores an intent; false when there is one with its id.
pub async fn insert(tx: &impl ConnectionTrait, intent: intents::Model) -> Result<bool, StoreError> {
    let taken = OnConflict::column(intents::Column::Id)
        .do_nothing()
        .to_owned();
    let inserted = intents::Entity::insert(intent.into_active_model())
        .on_conflict(taken)
        .exec_without_returning(tx)
        .await?;
    Ok(inserted == 1)
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
