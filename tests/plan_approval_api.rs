//! Approving a plan: before the gate, at the gate, twice, by many at once, and when there is nothing to approve.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use harness::*;
use serde_json::json;

on_both_databases! {
    async fn an_approval_before_the_gate_is_not_lost(stage: Stage) {
        let server = stage.serve().await;

        let mut runs = Vec::new();
        for _ in 0..10 {
            let run = server.start_golden_run().await;
            server.approve(&run).await;
            runs.push(run);
        }

        for run in runs {
            server.wait_status(&run, "SUCCESS").await;
        }
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.plan_approvals").await, 10);
        stage.assert_no_duplicates().await;
    }

    async fn the_first_approval_wins(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;

        let first = server.try_approve(&run, "po-007").await.expect(202);
        let second = server.try_approve(&run, "somebody-else").await;

        // The run may have ended in between; then there is nothing left to approve.
        if second.status != 409 {
            assert_eq!(second.expect(202), first);
        }
        server.wait_status(&run, "SUCCESS").await;
        let stored = stage.sql("SELECT run_id, approved_by, notes FROM app.plan_approvals").await;
        assert_eq!(stored, [json!({"run_id": run, "approved_by": "po-007", "notes": "ship it"})]);
        let approval = server.view(&run).await["approval"].clone();
        assert_eq!(approval["approvedBy"], "po-007", "{approval}");
    }

    async fn of_many_approvals_at_once_one_counts(stage: Stage) {
        let server = stage.serve_with(&[("CHAOS_SLEEP_EXECUTE", "2000")]).await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;

        let racing: Vec<_> = (0..8)
            .map(|number| {
                let (server, run) = (server.clone(), run.clone());
                tokio::spawn(async move { server.try_approve(&run, &format!("po-{number}")).await.expect(202) })
            })
            .collect();

        let mut approved_at = Vec::new();
        for answer in racing {
            approved_at.push(answer.await.unwrap()["approvedAt"].clone());
        }
        approved_at.dedup();
        assert_eq!(approved_at.len(), 1, "everybody is told of the same approval: {approved_at:?}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.plan_approvals").await, 1);
        server.wait_status(&run, "SUCCESS").await;
        let executed = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ'").await;
        assert_eq!(executed, 1, "the run went on once");
        stage.assert_no_duplicates().await;
    }

    async fn an_approval_at_the_gate_survives_a_kill(stage: Stage) {
        let server = stage.serve_with(&[("EXECUTOR_EXPIRY_MS", "2000")]).await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        server.kill_9().await;
        server.start_again().await;
        let header = server.header(&run).await;
        assert_eq!(header["nextAction"], "APPROVE_PLAN", "{header}");

        server.approve(&run).await;
        server.kill_9().await;
        server.start_again().await;

        server.wait_status(&run, "SUCCESS").await;
        stage.assert_no_duplicates().await;
    }

    async fn a_finished_run_cannot_be_approved(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;
        let before = stage.row_counts().await;

        server.try_approve(&run, "po-008").await.expect_refusal(409);

        assert_eq!(stage.row_counts().await, before);
    }

    async fn a_run_without_a_gate_cannot_be_approved(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_job(json!({"command": "sleep 3"})).await;

        server.try_approve(&run, "po-007").await.expect_refusal(409);

        server.wait_status(&run, "SUCCESS").await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.plan_approvals").await, 0);
    }

    async fn a_malformed_approval_is_refused_before_the_run_is_looked_up(stage: Stage) {
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        let before = stage.row_counts().await;

        for target in [run.as_str(), "nobody"] {
            let path = format!("/api/runs/{target}/approve-plan");
            server.post(&path, &json!({})).await.expect_refusal(400);
            server.post(&path, &json!({"approvedBy": " "})).await.expect_refusal(400);
            server.post(&path, &json!({"approvedBy": "po-007", "extra": 1})).await.expect_refusal(400);
            server.post(&path, &json!({"approvedBy": 7})).await.expect_refusal(400);
            server.post_raw(&path, "{bad").await.expect_refusal(400);
        }
        server.try_approve("nobody", "po-007").await.expect_refusal(404);

        assert_eq!(stage.row_counts().await, before);
    }
}
