//! Owns the shape of `dbos.workflow_output`, DBOS schema version 123.

use sea_orm::entity::prelude::*;

/// What a workflow ended with.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "dbos", table_name = "workflow_output")]
pub struct Model {
    /// The workflow.
    #[sea_orm(primary_key, auto_increment = false)]
    pub workflow_uuid: String,
    /// In the workflow's serialization.
    pub output: Option<String>,
    /// In the workflow's serialization.
    pub error: Option<String>,
    /// Epoch milliseconds from which DBOS's garbage collection counts.
    pub retention_timestamp: i64,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
