//! Owns the tables and indexes of `dbos`, schema version 123. They are DBOS Transact's, to the column and the constraint's name (Postgres's own
//! naming gives those of inline keys): nothing of ours is ever added here.

/// Tables and their columns, referenced ones first.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("dbos_migrations", "version bigint NOT NULL PRIMARY KEY"),
    (
        "workflow_status",
        "workflow_uuid text NOT NULL PRIMARY KEY, status text, name text, authenticated_user text, assumed_role text, \
         authenticated_roles text, request text, output text, error text, executor_id text, created_at bigint NOT NULL {default_now}, \
         updated_at bigint NOT NULL {default_now}, application_version text, application_id text, class_name varchar(255) DEFAULT NULL, \
         config_name varchar(255) DEFAULT NULL, recovery_attempts bigint DEFAULT 0, queue_name text, workflow_timeout_ms bigint, \
         workflow_deadline_epoch_ms bigint, inputs text, started_at_epoch_ms bigint, deduplication_id text, \
         priority integer NOT NULL DEFAULT 0, queue_partition_key text, forked_from text, owner_xid text, parent_workflow_id text, \
         serialization text, delay_until_epoch_ms bigint, was_forked_from boolean NOT NULL DEFAULT false, \
         rate_limited boolean NOT NULL DEFAULT false, completed_at bigint, attributes {json}, schedule_name text, \
         debounce_deadline_epoch_ms bigint, is_debounced boolean NOT NULL DEFAULT false, application_name text, creator_xid text",
    ),
    (
        "workflow_input",
        "workflow_uuid text NOT NULL PRIMARY KEY, inputs text, retention_timestamp bigint NOT NULL {default_now}",
    ),
    (
        "workflow_output",
        "workflow_uuid text NOT NULL PRIMARY KEY, output text, error text, retention_timestamp bigint NOT NULL {default_now}",
    ),
    (
        "operation_outputs",
        "workflow_uuid text NOT NULL, function_id integer NOT NULL, function_name text NOT NULL DEFAULT '', output text, error text, \
         child_workflow_id text, started_at_epoch_ms bigint, completed_at_epoch_ms bigint, serialization text, application_name text, \
         retention_timestamp bigint NOT NULL {default_now}, PRIMARY KEY (workflow_uuid, function_id)",
    ),
    (
        "notifications",
        "message_uuid text NOT NULL {default_uuid} PRIMARY KEY, destination_uuid text NOT NULL REFERENCES {dbos}workflow_status \
         (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE, topic text, message text NOT NULL, \
         created_at_epoch_ms bigint NOT NULL {default_now}, serialization text, consumed boolean NOT NULL DEFAULT false, \
         consumed_by_function_id integer",
    ),
    (
        "workflow_events",
        "workflow_uuid text NOT NULL REFERENCES {dbos}workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE, \
         key text NOT NULL, value text NOT NULL, serialization text, PRIMARY KEY (workflow_uuid, key)",
    ),
    (
        "workflow_events_history",
        "workflow_uuid text NOT NULL REFERENCES {dbos}workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE, \
         function_id integer NOT NULL, key text NOT NULL, value text NOT NULL, serialization text, \
         PRIMARY KEY (workflow_uuid, function_id, key)",
    ),
    (
        "streams",
        "workflow_uuid text NOT NULL REFERENCES {dbos}workflow_status (workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE, \
         key text NOT NULL, value text NOT NULL, \"offset\" integer NOT NULL, function_id integer NOT NULL DEFAULT 0, serialization text, \
         PRIMARY KEY (workflow_uuid, key, \"offset\")",
    ),
    (
        "workflow_schedules",
        "schedule_id text NOT NULL PRIMARY KEY, schedule_name text NOT NULL UNIQUE, workflow_name text NOT NULL, workflow_class_name text, \
         schedule text NOT NULL, status text NOT NULL DEFAULT 'ACTIVE', context text NOT NULL, last_fired_at text, \
         automatic_backfill boolean NOT NULL DEFAULT false, cron_timezone text, queue_name text, application_name text",
    ),
    (
        "application_versions",
        "version_id text NOT NULL PRIMARY KEY, version_name text NOT NULL UNIQUE, version_timestamp bigint NOT NULL {default_now}, \
         created_at bigint NOT NULL {default_now}, application_name text",
    ),
    (
        "queues",
        "queue_id text NOT NULL {default_uuid_text} PRIMARY KEY, name text NOT NULL UNIQUE, concurrency integer, worker_concurrency integer, \
         rate_limit_max integer, rate_limit_period_sec double precision, priority_enabled boolean NOT NULL DEFAULT false, \
         partition_queue boolean NOT NULL DEFAULT false, polling_interval_sec double precision NOT NULL DEFAULT 1.0, \
         created_at bigint NOT NULL {default_now}, updated_at bigint NOT NULL {default_now}, application_name text, \
         partition_concurrency integer, partition_worker_concurrency integer, partition_rate_limit_max integer, \
         partition_rate_limit_period_sec double precision",
    ),
    (
        "event_dispatch_kv",
        "service_name text NOT NULL, workflow_fn_name text NOT NULL, key text NOT NULL, value text, update_seq numeric(38, 0), \
         update_time numeric(38, 15), PRIMARY KEY (service_name, workflow_fn_name, key)",
    ),
];

/// An index: its name, what it is on, and of which rows.
pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) unique: bool,
    pub(super) table: &'static str,
    pub(super) columns: &'static str,
    /// Postgres keeps it in the leaves only; SQLite, which cannot, goes without.
    pub(super) include: Option<&'static str>,
    pub(super) only: Only,
}

/// Which rows an index holds.
pub(super) enum Only {
    /// All.
    Any,
    /// Those where this is true.
    Where(&'static str),
    /// Those in one of two statuses. SQLite uses a partial index for a query only if it can prove that the query stays inside: it can for
    /// `a OR b` when the query says `a`, and cannot for `IN (a, b)`.
    Status(&'static str, &'static str, Option<&'static str>),
}

const fn plain(
    name: &'static str,
    table: &'static str,
    columns: &'static str,
    only: Only,
) -> Index {
    Index {
        name,
        unique: false,
        table,
        columns,
        include: None,
        only,
    }
}

const fn including(
    name: &'static str,
    table: &'static str,
    columns: &'static str,
    only: Only,
) -> Index {
    Index {
        name,
        unique: false,
        table,
        columns,
        include: Some("application_name"),
        only,
    }
}

const fn unique(
    name: &'static str,
    table: &'static str,
    columns: &'static str,
    only: Only,
) -> Index {
    Index {
        name,
        unique: true,
        table,
        columns,
        include: None,
        only,
    }
}

/// The indexes that no key brings with it.
pub(super) const INDEXES: &[Index] = &[
    unique(
        "uq_application_versions_owner_version",
        "application_versions",
        "application_name, version_name",
        Only::Where("application_name IS NOT NULL"),
    ),
    unique(
        "uq_application_versions_unclaimed_version",
        "application_versions",
        "version_name",
        Only::Where("application_name IS NULL"),
    ),
    unique(
        "uq_workflow_status_dedup_id",
        "workflow_status",
        "queue_name, deduplication_id",
        Only::Where("deduplication_id IS NOT NULL"),
    ),
    plain(
        "idx_workflow_topic",
        "notifications",
        "destination_uuid, topic",
        Only::Any,
    ),
    plain(
        "idx_operation_outputs_retention",
        "operation_outputs",
        "retention_timestamp",
        Only::Any,
    ),
    plain(
        "idx_workflow_input_retention",
        "workflow_input",
        "retention_timestamp",
        Only::Any,
    ),
    plain(
        "idx_workflow_output_retention",
        "workflow_output",
        "retention_timestamp",
        Only::Any,
    ),
    plain(
        "workflow_status_created_at_index",
        "workflow_status",
        "created_at",
        Only::Any,
    ),
    plain(
        "idx_workflow_status_completed_at",
        "workflow_status",
        "completed_at",
        Only::Where("completed_at IS NOT NULL"),
    ),
    plain(
        "idx_workflow_status_deadline",
        "workflow_status",
        "workflow_deadline_epoch_ms",
        Only::Where(
            "status IN ('ENQUEUED', 'PENDING', 'DELAYED') AND workflow_deadline_epoch_ms IS NOT NULL",
        ),
    ),
    plain(
        "idx_workflow_status_delayed",
        "workflow_status",
        "delay_until_epoch_ms",
        Only::Where("status = 'DELAYED'"),
    ),
    plain(
        "idx_workflow_status_failed",
        "workflow_status",
        "status, created_at",
        Only::Where("status IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')"),
    ),
    plain(
        "idx_workflow_status_forked_from",
        "workflow_status",
        "forked_from",
        Only::Where("forked_from IS NOT NULL"),
    ),
    plain(
        "idx_workflow_status_parent_workflow_id",
        "workflow_status",
        "parent_workflow_id",
        Only::Where("parent_workflow_id IS NOT NULL"),
    ),
    plain(
        "idx_workflow_status_pending",
        "workflow_status",
        "created_at",
        Only::Where("status = 'PENDING'"),
    ),
    plain(
        "idx_workflow_status_rate_limited",
        "workflow_status",
        "queue_name, started_at_epoch_ms",
        Only::Where("rate_limited = true"),
    ),
    plain(
        "idx_workflow_status_schedule_name",
        "workflow_status",
        "schedule_name",
        Only::Where("schedule_name IS NOT NULL"),
    ),
    plain(
        "idx_workflow_status_started_at",
        "workflow_status",
        "started_at_epoch_ms",
        Only::Where("started_at_epoch_ms IS NOT NULL"),
    ),
    including(
        "idx_operation_outputs_completed_at_function_name_v2",
        "operation_outputs",
        "completed_at_epoch_ms, function_name",
        Only::Any,
    ),
    including(
        "idx_workflow_status_in_flight_v2",
        "workflow_status",
        "queue_name, status, priority, created_at",
        Only::Status("ENQUEUED", "PENDING", None),
    ),
    including(
        "idx_workflow_status_partition_dequeue_v3",
        "workflow_status",
        "queue_name, status, queue_partition_key, priority, created_at, workflow_uuid",
        Only::Status(
            "ENQUEUED",
            "PENDING",
            Some("queue_partition_key IS NOT NULL"),
        ),
    ),
];
