//! Owns the shape of `app.opencode_calls`.

use sea_orm::entity::prelude::*;

/// A call of the planner.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "opencode_calls")]
pub struct Model {
    /// The call, one per run and step.
    #[sea_orm(primary_key, auto_increment = false)]
    pub op_key: String,
    /// Of what was asked.
    pub request_hash: String,
    /// Who asked.
    pub run_id: String,
    /// In which step.
    pub step_id: String,
    /// How it was answered.
    pub mode: String,
    /// JSON text.
    pub request: String,
    /// JSON text.
    pub response: String,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
