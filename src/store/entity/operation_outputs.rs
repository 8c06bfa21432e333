//! Owns the shape of `dbos.operation_outputs`, DBOS schema version 123. Not of our making: columns that a later version adds are not read.

use sea_orm::entity::prelude::*;

/// The checkpoint of a step.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "dbos", table_name = "operation_outputs")]
pub struct Model {
    /// The workflow.
    #[sea_orm(primary_key, auto_increment = false)]
    pub workflow_uuid: String,
    /// Its place in call order, from 0.
    #[sea_orm(primary_key, auto_increment = false)]
    pub function_id: i32,
    /// The step's name.
    pub function_name: String,
    /// What it gave, in the row's serialization.
    pub output: Option<String>,
    /// How it failed, in the row's serialization.
    pub error: Option<String>,
    /// The child that it started or awaited.
    pub child_workflow_id: Option<String>,
    /// Epoch milliseconds.
    pub started_at_epoch_ms: Option<i64>,
    /// Epoch milliseconds.
    pub completed_at_epoch_ms: Option<i64>,
    /// How output and error are written.
    pub serialization: Option<String>,
    /// The application that it belongs to.
    pub application_name: Option<String>,
    /// Epoch milliseconds from which DBOS's garbage collection counts.
    pub retention_timestamp: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
