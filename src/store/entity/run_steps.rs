//! Owns the shape of `app.run_steps`.

use sea_orm::entity::prelude::*;

/// One execution of a product step.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "run_steps")]
pub struct Model {
    /// The run.
    #[sea_orm(primary_key, auto_increment = false)]
    pub run_id: String,
    /// The product step.
    #[sea_orm(primary_key, auto_increment = false)]
    pub step_id: String,
    /// Executions of it in this run, from 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i32,
    /// The phase.
    pub name: String,
    /// W3C trace id.
    pub trace_id: String,
    /// W3C span id.
    pub span_id: String,
    /// Epoch milliseconds; strictly increasing within a run.
    pub started_at: i64,
    /// Epoch milliseconds.
    pub finished_at: Option<i64>,
    /// JSON text.
    pub error: Option<String>,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
