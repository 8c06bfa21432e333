//! Old and new code side by side: each version executes its own, and what nobody executes says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::*;
use serde_json::json;

on_both_databases! {
    async fn a_mismatch_stalls_and_explain_names_the_versions_that_live(stage: Stage) {
        let api = stage.start("api", &[("DBOS__APPVERSION", "v1")]).await;
        let v2 = stage.start("worker", &[("DBOS__APPVERSION", "v2")]).await;
        let v3 = stage.start("worker", &[("DBOS__APPVERSION", "v3")]).await;

        let run = api.start_job(json!({"command": "true"})).await;
        let explain = api.view(&run).await["explain"].clone();

        assert_eq!(explain["reason"], "no_worker_with_version", "{explain}");
        let sentence = explain["sentence"].as_str().unwrap();
        assert!(sentence.contains("\"v1\"") && sentence.contains("v2, v3"), "{sentence}");
        assert_eq!(api.header(&run).await["status"], "ENQUEUED");
        drop((v2, v3));

        let v1 = stage.start("worker", &[("DBOS__APPVERSION", "v1")]).await;
        api.wait_status(&run, "SUCCESS").await;
        drop(v1);
    }

    async fn a_deploy_runs_old_and_new_side_by_side(stage: Stage) {
        let old = stage.serve_with(&[("DBOS__APPVERSION", "v1")]).await;
        let waiting = old.start_golden_run().await;
        old.wait_next_action(&waiting, "APPROVE_PLAN").await;
        let new = stage.serve_with(&[("DBOS__APPVERSION", "v2")]).await;
        let fresh = new.start_golden_run().await;
        new.wait_next_action(&fresh, "APPROVE_PLAN").await;

        // Whichever front is asked: each run goes on under the version it began with.
        new.approve(&waiting).await;
        old.approve(&fresh).await;
        new.wait_status(&waiting, "SUCCESS").await;
        old.wait_status(&fresh, "SUCCESS").await;
        let version = async |run: &str| stage.sql_value(&format!("SELECT application_version FROM dbos.workflow_status WHERE workflow_uuid = '{run}'")).await;
        assert_eq!((version(&waiting).await, version(&fresh).await), (json!("v1"), json!("v2")));
        let of_children = "SELECT count(*) FROM dbos.workflow_status k JOIN dbos.workflow_status p ON p.workflow_uuid = k.parent_workflow_id \
                           WHERE k.application_version <> p.application_version";
        assert_eq!(stage.sql_count(of_children).await, 0, "children run the version of their parent");
        stage.assert_no_duplicates().await;
        stage.assert_sound().await;
    }

    async fn what_waits_of_a_version_that_is_gone_waits_on(stage: Stage) {
        let old = stage.serve_with(&[("DBOS__APPVERSION", "v1")]).await;
        let run = old.start_golden_run().await;
        old.wait_next_action(&run, "APPROVE_PLAN").await;
        old.terminate().await;

        let new = stage.serve_with(&[("DBOS__APPVERSION", "v2")]).await;
        new.approve(&run).await;
        let other = new.start_job(json!({"command": "true"})).await;
        new.wait_status(&other, "SUCCESS").await;
        assert_eq!(new.header(&run).await["status"], "PENDING");

        old.start_again().await;
        old.wait_status(&run, "SUCCESS").await;
    }
}
