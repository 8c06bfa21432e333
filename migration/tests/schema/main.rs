//! Both halves come up on an empty database, whoever else is at it, and are left alone once they are there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod postgres;
mod support;

use migration::{DBOS_VERSION, MigrateError, Status, reset_app, reset_dbos, status, up};
use sea_orm_migration::sea_orm::{ConnectOptions, ConnectionTrait, Database, DbBackend, Statement};
use support::Empty;

const INTENT: &str = "INSERT INTO app.intents (id, goal, inputs, constraints, created_at) VALUES ('it_1', 'g', '{}', '{}', 1)";
const WORKFLOW: &str = "INSERT INTO dbos.workflow_status (workflow_uuid, status, queue_name, created_at, updated_at) VALUES ('it_1', 'ENQUEUED', 'intentQ', 1, 1)";
const CLAIM: &str = "INSERT INTO app.claims (workflow_id, token, executor_id, queue_name, outputs_at_claim, claimed_at) \
     VALUES ('it_1', 't', 'e', 'intentQ', 0, 1)";
const VIEWS: [&str; 3] = [
    "app.v_ops_failures_24h",
    "app.v_ops_slow_steps",
    "app.v_ops_queue_depth",
];

#[tokio::test]
async fn an_empty_database_comes_up_and_a_second_time_changes_nothing() {
    for database in Empty::each().await {
        assert_eq!(
            status(&database.db).await.unwrap(),
            Status {
                dbos: None,
                app: vec![]
            }
        );
        up(&database.db).await.unwrap();

        let after = status(&database.db).await.unwrap();
        assert!(after.is_current(), "{after:?}");
        assert_eq!(after.dbos, Some(DBOS_VERSION));

        database.execute(INTENT).await;
        up(&database.db).await.unwrap();
        assert_eq!(status(&database.db).await.unwrap(), after);
        assert_eq!(database.count("app.intents").await, 1);
        assert_eq!(database.count("dbos.dbos_migrations").await, 1);
        database.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_started_at_once_all_come_up() {
    for database in Empty::each().await {
        let servers = (0..8).map(|_| {
            let url = database.url.clone();
            tokio::spawn(async move {
                let mut options = ConnectOptions::new(url);
                // One connection is enough: the lock and the work share it.
                options.max_connections(1);
                let db = Database::connect(options).await.unwrap();
                up(&db).await.map_err(|error| error.to_string())
            })
        });
        for server in servers.collect::<Vec<_>>() {
            assert_eq!(server.await.unwrap(), Ok(()), "{}", database.url);
        }
        assert_eq!(database.count("app.recipes").await, 4);
        assert_eq!(database.count("dbos.dbos_migrations").await, 1);
        database.remove().await;
    }
}

#[tokio::test]
async fn the_recipes_of_the_contract_are_seeded() {
    for database in Empty::each().await {
        up(&database.db).await.unwrap();
        let recipes: Vec<String> = database
            .column(
                "SELECT name || ' ' || version || ' ' || queue_name || ' ' || max_concurrency || '/' || max_steps || '/' || max_sandbox_minutes \
                 || ' ' || planner || ' ' || approval || ' ' || sandbox FROM app.recipes ORDER BY name",
            )
            .await;
        assert_eq!(
            recipes,
            [
                "compile-default 1 intentQ 10/32/15 configured required configured",
                "control-default 1 intentQ 5/16/10 configured required configured",
                "sandbox-default 1 intentQ 20/128/60 configured required configured",
                "shell-default 1 intentQ 20/128/60 static auto local",
            ]
        );
        database.remove().await;
    }
}

#[tokio::test]
async fn each_half_is_rebuilt_without_the_other() {
    for database in Empty::each().await {
        up(&database.db).await.unwrap();
        for insert in [INTENT, WORKFLOW, CLAIM] {
            database.execute(insert).await;
        }

        reset_dbos(&database.db).await.unwrap();
        assert_eq!(database.count("app.intents").await, 1);
        assert_eq!(database.count("dbos.workflow_status").await, 0);
        assert_eq!(
            database.count("app.claims").await,
            0,
            "a claim of a workflow that is gone"
        );

        database.execute(WORKFLOW).await;
        reset_app(&database.db).await.unwrap();
        assert_eq!(database.count("app.intents").await, 0);
        assert_eq!(database.count("app.recipes").await, 4);
        assert_eq!(database.count("dbos.workflow_status").await, 1);

        for view in VIEWS {
            database.count(view).await;
        }
        assert!(status(&database.db).await.unwrap().is_current());
        database.remove().await;
    }
}

#[tokio::test]
async fn a_reset_works_on_an_empty_database() {
    for database in Empty::each().await {
        reset_dbos(&database.db).await.unwrap();
        assert!(status(&database.db).await.unwrap().is_current());
        database.remove().await;
    }
}

#[tokio::test]
async fn an_older_dbos_is_refused_and_nothing_is_created() {
    for (tables, found) in [
        (
            "CREATE TABLE dbos.dbos_migrations (version bigint PRIMARY KEY); INSERT INTO dbos.dbos_migrations VALUES (108)",
            108,
        ),
        (
            "CREATE TABLE dbos.dbos_migrations (version bigint PRIMARY KEY)",
            0,
        ),
        (
            "CREATE TABLE dbos.workflow_status (workflow_uuid text PRIMARY KEY)",
            0,
        ),
    ] {
        for database in Empty::each().await {
            if database.is_postgres() {
                database.execute("CREATE SCHEMA dbos").await;
            }
            database.execute(tables).await;

            let error = up(&database.db).await.unwrap_err();
            assert!(
                matches!(error, MigrateError::DbosTooOld { found: version } if version == found),
                "{error:?}"
            );
            assert!(error.to_string().contains("npx dbos schema"), "{error}");
            assert_eq!(
                status(&database.db).await.unwrap(),
                Status {
                    dbos: Some(found),
                    app: vec![]
                }
            );
            database.remove().await;
        }
    }
}

#[tokio::test]
async fn a_newer_dbos_is_left_as_it_is() {
    for database in Empty::each().await {
        up(&database.db).await.unwrap();
        database
            .execute("UPDATE dbos.dbos_migrations SET version = 125")
            .await;
        database
            .execute("DROP INDEX dbos.idx_workflow_status_schedule_name")
            .await;
        database
            .execute("ALTER TABLE dbos.workflow_status ADD COLUMN of_tomorrow text")
            .await;

        up(&database.db).await.unwrap();
        reset_app(&database.db).await.unwrap();

        assert_eq!(status(&database.db).await.unwrap().dbos, Some(125));
        let catalogue = if database.is_postgres() {
            "pg_indexes WHERE indexname"
        } else {
            "sqlite_master WHERE name"
        };
        assert_eq!(
            database
                .count(&format!(
                    "{catalogue} = 'idx_workflow_status_schedule_name'"
                ))
                .await,
            0
        );
        database.remove().await;
    }
}

#[tokio::test]
async fn rows_of_dbos_clients_get_their_times_and_ids() {
    for database in Empty::each().await {
        up(&database.db).await.unwrap();
        database
            .execute("INSERT INTO dbos.workflow_status (workflow_uuid) VALUES ('w')")
            .await;
        database
            .execute("INSERT INTO dbos.notifications (destination_uuid, message) VALUES ('w', 'm')")
            .await;
        database
            .execute("INSERT INTO dbos.queues (name) VALUES ('q')")
            .await;
        let missed = "workflow_status s, dbos.notifications n, dbos.queues q WHERE s.created_at < 1700000000000 \
                      OR s.updated_at > s.created_at + 1000 OR n.created_at_epoch_ms < s.created_at OR n.message_uuid IS NULL \
                      OR length(q.queue_id) < 32";
        assert_eq!(database.count(&format!("dbos.{missed}")).await, 0);
        assert_eq!(database.count("dbos.notifications").await, 1);
        database.remove().await;
    }
}

#[tokio::test]
async fn the_views_show_what_operators_ask_for() {
    for database in Empty::each().await {
        up(&database.db).await.unwrap();
        let now = if database.is_postgres() {
            "(extract(epoch FROM now()) * 1000)::bigint"
        } else {
            "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
        };
        for (id, status, age_ms) in [
            ("new", "failed", 1000),
            ("old", "failed", 90_000_000),
            ("good", "succeeded", 1000),
        ] {
            database
                .execute(&format!(
                    "INSERT INTO app.runs (id, intent_id, workflow_id, status, workflow_name, recipe_name, recipe_version, queue_name, request, \
                     workload, trace_id, span_id, created_at, updated_at) \
                     VALUES ('{id}', 'i', '{id}', '{status}', 'w', 'r', 1, 'intentQ', '{{}}', '{{}}', 't', 's', 1, {now} - {age_ms})"
                ))
                .await;
        }
        for (step, took_ms) in [("CompileST", 5000), ("ExecuteST", 5001)] {
            database
                .execute(&format!(
                    "INSERT INTO app.run_steps (run_id, step_id, attempt, name, trace_id, span_id, started_at, finished_at) \
                     VALUES ('new', '{step}', 1, 'n', 't', 's', 0, {took_ms})"
                ))
                .await;
        }
        database.execute(WORKFLOW).await;

        assert_eq!(
            database
                .column::<String>("SELECT run_id FROM app.v_ops_failures_24h")
                .await,
            ["new"]
        );
        assert_eq!(
            database
                .column::<String>("SELECT step_id FROM app.v_ops_slow_steps")
                .await,
            ["ExecuteST"]
        );
        assert_eq!(
            database
                .column::<String>(
                    "SELECT queue_name || ' ' || status || ' ' || depth FROM app.v_ops_queue_depth"
                )
                .await,
            ["intentQ ENQUEUED 1"]
        );
        database.remove().await;
    }
}

#[tokio::test]
async fn sqlite_claims_through_the_index_of_what_is_in_flight() {
    let database = Empty::sqlite().await;
    up(&database.db).await.unwrap();
    for (filter, index) in [
        (
            "queue_name = 'q' AND status = 'ENQUEUED' ORDER BY priority, created_at",
            "idx_workflow_status_in_flight_v2",
        ),
        (
            "queue_name = 'q' AND status = 'ENQUEUED' AND queue_partition_key = 'p' ORDER BY priority, created_at, workflow_uuid",
            "idx_workflow_status_partition_dequeue_v3",
        ),
    ] {
        let explain =
            format!("EXPLAIN QUERY PLAN SELECT workflow_uuid FROM workflow_status WHERE {filter}");
        let statement = Statement::from_string(DbBackend::Sqlite, explain);
        let rows = database.db.query_all_raw(statement).await.unwrap();
        let plan: Vec<String> = rows
            .iter()
            .map(|row| row.try_get("", "detail").unwrap())
            .collect();
        assert!(plan.iter().any(|line| line.contains(index)), "{plan:?}");
        assert!(
            !plan.iter().any(|line| line.contains("TEMP B-TREE")),
            "{plan:?}"
        );
    }
    database.remove().await;
}
