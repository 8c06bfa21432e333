//! What only Postgres has: a `dbos` that equals DBOS Transact's, its functions, and the manual's operator. With
//! `STEPWELL_TEST_BACKENDS=sqlite` these pass without looking.

use crate::support::Empty;
use migration::up;
use sea_orm_migration::sea_orm::{ConnectionTrait, Statement, TransactionTrait};

/// Read off a database that npm `@dbos-inc/dbos-sdk` 5.3.0 created, with the query beside it.
const FACTS: &str = include_str!("../dbos_schema_123.txt");

async fn migrated() -> Option<Empty> {
    let database = Empty::postgres().await?;
    up(&database.db).await.unwrap();
    Some(database)
}

#[tokio::test]
async fn our_dbos_schema_is_the_one_that_the_sdk_creates() {
    let Some(database) = migrated().await else {
        return;
    };
    let ours: Vec<String> = database.column(include_str!("../dbos_facts.sql")).await;
    let theirs: Vec<&str> = FACTS.lines().collect();

    let missing: Vec<_> = theirs
        .iter()
        .filter(|fact| !ours.iter().any(|ours| ours == *fact))
        .collect();
    let extra: Vec<_> = ours
        .iter()
        .filter(|fact| !theirs.contains(&fact.as_str()))
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing: {missing:#?}\nextra: {extra:#?}"
    );
    assert_eq!(ours.len(), theirs.len());
    database.remove().await;
}

#[tokio::test]
async fn plain_sql_enqueues_once_and_sends_once() {
    let Some(database) = migrated().await else {
        return;
    };
    for _ in 0..2 {
        let enqueue = "SELECT dbos.enqueue_workflow('w', 'q', ARRAY['1', '\"two\"']::json[], workflow_id => 'wf', deduplication_id => 'd')";
        assert_eq!(database.column::<String>(enqueue).await, ["wf"]);
        database
            .execute("SELECT dbos.send_message('wf', '{\"a\": 1}', message_id => 'm')")
            .await;
    }
    assert_eq!(
        database.column::<String>("SELECT concat_ws(' ', status, priority, serialization, recovery_attempts) FROM dbos.workflow_status").await,
        ["ENQUEUED 0 portable_json 0"]
    );
    assert_eq!(
        database
            .column::<String>("SELECT inputs FROM dbos.workflow_input")
            .await,
        [r#"{"positionalArgs" : ["1","\"two\""], "namedArgs" : {}}"#
            .replace(r#""1","\"two\"""#, r#"1,"two""#)]
    );
    assert_eq!(
        database
            .column::<String>("SELECT topic || ' ' || message FROM dbos.notifications")
            .await,
        ["__null__topic__ {\"a\": 1}"]
    );

    let duplicate = database
        .db
        .execute_unprepared("SELECT dbos.enqueue_workflow('w', 'q', deduplication_id => 'd')")
        .await
        .unwrap_err();
    assert!(
        duplicate.to_string().contains("DBOS queue duplicated"),
        "{duplicate}"
    );
    let nobody = database
        .db
        .execute_unprepared("SELECT dbos.send_message('nobody', '1')")
        .await
        .unwrap_err();
    assert!(
        nobody.to_string().contains("DBOS non-existent workflow"),
        "{nobody}"
    );
    database.remove().await;
}

#[tokio::test]
async fn the_manual_concatenates_counts() {
    let Some(database) = migrated().await else {
        return;
    };
    let probe = "SELECT (SELECT count(*) FROM app.intents)||(SELECT count(*) FROM app.runs)||(SELECT count(*) FROM app.recipes)";
    assert!(
        database.db.execute_unprepared(probe).await.is_err(),
        "Postgres has no such operator of its own"
    );

    let tx = database.db.begin().await.unwrap();
    tx.execute_unprepared("SET LOCAL search_path TO app, manual, public")
        .await
        .unwrap();
    for (sql, expected) in [
        (probe, "004"),
        ("SELECT 'x'||count(*) FROM app.recipes", "x4"),
        ("SELECT 'a'||'b'", "ab"),
    ] {
        let statement = Statement::from_string(tx.get_database_backend(), sql);
        let row = tx.query_one_raw(statement).await.unwrap().unwrap();
        assert_eq!(
            row.try_get_by_index::<String>(0).unwrap(),
            expected,
            "{sql}"
        );
    }
    tx.rollback().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn migrating_leaves_no_trace_in_the_session() {
    let Some(database) = Empty::postgres().await else {
        return;
    };
    let before: Vec<String> = database.column("SHOW search_path").await;
    up(&database.db).await.unwrap();
    assert_eq!(database.column::<String>("SHOW search_path").await, before);
    assert_eq!(database.count("pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").await, 0);
    database.remove().await;
}
