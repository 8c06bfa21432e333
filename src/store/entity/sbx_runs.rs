//! Owns the shape of `app.sbx_runs`.

use sea_orm::entity::prelude::*;

/// One attempt of a task.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "sbx_runs")]
pub struct Model {
    /// The run.
    #[sea_orm(primary_key, auto_increment = false)]
    pub run_id: String,
    /// The product step.
    #[sea_orm(primary_key, auto_increment = false)]
    pub step_id: String,
    /// The task, or `-`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub task_key: String,
    /// Executions of it in this run, from 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i32,
    /// Its place among the tasks of the run, from 0.
    pub ordinal: i32,
    /// How it ended.
    pub err_code: String,
    /// The exit code.
    pub exit: Option<i32>,
    /// How long it took.
    pub wall_ms: i64,
    /// JSON text.
    pub request: String,
    /// JSON text, without the contents.
    pub response: String,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
