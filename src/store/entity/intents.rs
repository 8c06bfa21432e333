//! Owns the shape of `app.intents`.

use sea_orm::entity::prelude::*;
use serde::Serialize;

/// An intent: what somebody wants done.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "intents")]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Goal.
    pub goal: String,
    /// JSON text.
    pub inputs: String,
    /// JSON text.
    pub constraints: String,
    /// JSON text.
    pub connectors: Option<String>,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
