//! Owns the shape of `app.recipes`.

use sea_orm::entity::prelude::*;

/// A named, versioned policy and program for runs.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "recipes")]
pub struct Model {
    /// Its name.
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// Its version.
    #[sea_orm(primary_key, auto_increment = false)]
    pub version: i32,
    /// The queue of its runs.
    pub queue_name: String,
    /// Most tasks of a run at once.
    pub max_concurrency: i32,
    /// Most tasks of a run.
    pub max_steps: i32,
    /// Most minutes of all tasks together.
    pub max_sandbox_minutes: i32,
    /// `configured` or `static`.
    pub planner: String,
    /// `required` or `auto`.
    pub approval: String,
    /// `configured` or `local`.
    pub sandbox: String,
    /// `boundary` or `kill`: what becomes of a command that runs while its run is cancelled.
    pub cancel: String,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
