//! Owns the shape of `app.runs`.

use sea_orm::entity::prelude::*;
use serde::Serialize;

use crate::store::status::RunStatus;

/// A run: one execution of an intent.
#[derive(Clone, Debug, PartialEq, Serialize, DeriveEntityModel)]
#[sea_orm(schema_name = "app", table_name = "runs")]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// The intent it executes.
    pub intent_id: String,
    /// Its workflow.
    pub workflow_id: String,
    /// Where it stands.
    pub status: RunStatus,
    /// The function it runs.
    pub workflow_name: String,
    /// Its recipe.
    pub recipe_name: String,
    /// The version, resolved when it was started.
    pub recipe_version: i32,
    /// Its queue.
    pub queue_name: String,
    /// Its tenant in the queue.
    pub queue_partition_key: Option<String>,
    /// Lower first.
    pub priority: i32,
    /// Whose it is.
    pub tenant_id: Option<String>,
    /// The request as it was sent, canonical JSON without its trace.
    pub request: String,
    /// The caps that hold for it, JSON text.
    pub workload: String,
    /// The last product step that ended.
    pub last_step: Option<String>,
    /// What is asked of somebody.
    pub next_action: Option<String>,
    /// JSON text.
    pub error: Option<String>,
    /// JSON text.
    pub output: Option<String>,
    /// How many retries led to it.
    pub retry_count: i32,
    /// W3C trace id.
    pub trace_id: String,
    /// W3C span id.
    pub span_id: String,
    /// The run it was forked from.
    pub forked_from: Option<String>,
    /// Epoch milliseconds.
    pub created_at: i64,
    /// Epoch milliseconds.
    pub updated_at: i64,
    /// Epoch milliseconds.
    pub started_at: Option<i64>,
    /// Epoch milliseconds.
    pub ended_at: Option<i64>,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
