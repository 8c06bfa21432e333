//! Owns the shape of `app.plan_approvals`.

use sea_orm::entity::prelude::*;

/// The approval of a run.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "plan_approvals")]
pub struct Model {
    /// The run.
    #[sea_orm(primary_key, auto_increment = false)]
    pub run_id: String,
    /// Who.
    pub approved_by: String,
    /// Why.
    pub notes: Option<String>,
    /// Epoch milliseconds.
    pub approved_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
