//! Owns the shape of `app.artifacts`.

use sea_orm::entity::prelude::*;

/// A durable output of a step.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "artifacts")]
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
    /// Its place in the step.
    #[sea_orm(primary_key, auto_increment = false)]
    pub idx: i32,
    /// Executions of it in this run, from 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub attempt: i32,
    /// What it is to the product.
    pub kind: String,
    /// Its file name.
    pub name: String,
    /// Its id on the wire.
    pub uri: String,
    /// Its content type.
    pub mime: String,
    /// Bytes.
    pub size: i64,
    /// Of its content, hexadecimal.
    pub sha256: String,
    /// Its content where that is JSON.
    pub inline: Option<Json>,
    /// Its content otherwise.
    pub content: Option<Vec<u8>>,
    /// Where its content is kept otherwise.
    pub storage_key: Option<String>,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
