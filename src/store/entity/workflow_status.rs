//! Owns the shape of `dbos.workflow_status`, DBOS schema version 123. Not of our making: columns that a later version adds are not read.

use sea_orm::entity::prelude::*;

use crate::store::status::WorkflowStatus;

/// A workflow: a durable execution of a function.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(schema_name = "dbos", table_name = "workflow_status")]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub workflow_uuid: String,
    /// Where it stands.
    pub status: Option<WorkflowStatus>,
    /// The function.
    pub name: Option<String>,
    /// On whose behalf it runs.
    pub authenticated_user: Option<String>,
    /// In which role.
    pub assumed_role: Option<String>,
    /// JSON array of roles.
    pub authenticated_roles: Option<String>,
    /// The HTTP request that started it, in DBOS applications.
    pub request: Option<String>,
    /// Older rows' output; newer ones have it in `workflow_output`.
    pub output: Option<String>,
    /// Older rows' error; newer ones have it in `workflow_output`.
    pub error: Option<String>,
    /// Who executes it.
    pub executor_id: Option<String>,
    /// Epoch milliseconds.
    pub created_at: i64,
    /// Epoch milliseconds.
    pub updated_at: i64,
    /// Only workers of this version may claim it; none: those of the newest.
    pub application_version: Option<String>,
    /// Set by DBOS's cloud.
    pub application_id: Option<String>,
    /// The class of the function, in DBOS applications.
    pub class_name: Option<String>,
    /// The instance of the class, in DBOS applications.
    pub config_name: Option<String>,
    /// Consecutive claims without progress.
    pub recovery_attempts: Option<i64>,
    /// Its queue; none for one started directly, or cancelled by an official client.
    pub queue_name: Option<String>,
    /// Milliseconds that it may take from its first claim.
    pub workflow_timeout_ms: Option<i64>,
    /// Epoch milliseconds after which it is cancelled.
    pub workflow_deadline_epoch_ms: Option<i64>,
    /// Older rows' input; newer ones have it in `workflow_input`.
    pub inputs: Option<String>,
    /// Epoch milliseconds of its claim.
    pub started_at_epoch_ms: Option<i64>,
    /// At most one live workflow of a queue has it.
    pub deduplication_id: Option<String>,
    /// Lower first; 0: none.
    pub priority: i32,
    /// Its tenant in the queue.
    pub queue_partition_key: Option<String>,
    /// The workflow it was forked from.
    pub forked_from: Option<String>,
    /// The token of its claim: the fence of every checkpoint.
    pub owner_xid: Option<String>,
    /// The workflow that started it.
    pub parent_workflow_id: Option<String>,
    /// How inputs, outputs and errors are written.
    pub serialization: Option<String>,
    /// Epoch milliseconds before which a delayed one is not queued.
    pub delay_until_epoch_ms: Option<i64>,
    /// Whether forks of it exist.
    pub was_forked_from: bool,
    /// Whether its claim counted against a rate.
    pub rate_limited: bool,
    /// Epoch milliseconds.
    pub completed_at: Option<i64>,
    /// Free-form labels.
    pub attributes: Option<Json>,
    /// The schedule that started it.
    pub schedule_name: Option<String>,
    /// Epoch milliseconds until which a debounced one may be put off.
    pub debounce_deadline_epoch_ms: Option<i64>,
    /// Whether a debouncer started it.
    pub is_debounced: bool,
    /// The application it belongs to; none: any.
    pub application_name: Option<String>,
    /// The token of the insert that made the row.
    pub creator_xid: Option<String>,
}

/// None: the rows stand alone.
#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
