//! Starting a run: the same request twice is one run, another request is a conflict that names the difference, and a
//! refusal of any kind writes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::*;
use serde_json::{Value, json};

fn with(mut request: Value, field: &str, value: Value) -> Value {
    request[field] = value;
    request
}

fn without(mut request: Value, field: &str) -> Value {
    request.as_object_mut().unwrap().remove(field);
    request
}

/// The fields of a header that a second start must not change.
fn identity(header: &Value) -> Vec<Value> {
    let fields = [
        "workflowID",
        "runId",
        "intentId",
        "recipeName",
        "recipeVersion",
        "queue",
        "queuePartitionKey",
        "createdAt",
        "traceId",
    ];
    fields.iter().map(|field| header[*field].clone()).collect()
}

on_both_databases! {
    async fn the_same_request_twice_is_one_run(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("twice", json!({})).await;
        let request = Server::start_request(&intent, "sandbox-default");
        let first = server.post("/api/runs", &request).await.expect(202);
        server.wait_next_action(&intent, "APPROVE_PLAN").await;
        let before = stage.row_counts().await;

        let again = server.post("/api/runs", &request).await.expect(202);
        let other_trace = with(request, "traceId", json!("4bf92f3577b34da6a3ce929d0e0e4736"));
        let traced = server.post("/api/runs", &other_trace).await.expect(202);

        assert_eq!(identity(&again), identity(&first));
        assert_eq!(identity(&traced), identity(&first), "traceId is not part of the comparison");
        assert_eq!(stage.row_counts().await, before);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await, 1);
    }

    async fn what_has_started_stays_started_when_the_policy_changes(stage: Stage) {
        let lax = stage.start("api", &[("SBX_QUEUE_PARTITION", "false")]).await;
        let request = |intent: &str| without(Server::start_request(intent, "sandbox-default"), "queuePartitionKey");
        let intent = lax.create_intent("started before", json!({})).await;
        let first = lax.post("/api/runs", &request(&intent)).await.expect(202);

        let strict = stage.start("api", &[]).await;
        let other = strict.create_intent("never started", json!({})).await;
        let before = stage.row_counts().await;
        strict.post("/api/runs", &request(&other)).await.expect_refusal(400);
        let drifted = with(request(&intent), "priority", json!(3));
        strict.post("/api/runs", &drifted).await.expect_refusal(400);
        assert_eq!(identity(&strict.post("/api/runs", &request(&intent)).await.expect(202)), identity(&first));
        assert_eq!(stage.row_counts().await, before);
    }

    async fn an_intent_with_the_id_of_another_workflow_says_so(stage: Stage) {
        let server = stage.serve().await;
        server.send("POST", "/slowstep?wf=taken&sleep=0", None).await.expect(202);
        server.post("/api/intents", &json!({"goal": "late", "inputs": {}, "constraints": {}, "intentId": "taken"})).await.expect(201);
        eventually(Duration::from_secs(30), "the other workflow has ended", || async {
            match stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS' AND workflow_uuid = 'taken'").await { 1 => Ok(()), n => Err(n) }
        })
        .await;
        let before = stage.row_counts().await;
        let refusal = server.post("/api/runs", &Server::start_request("taken", "sandbox-default")).await;
        assert_eq!(refusal.expect_refusal(409)["code"], "workflow_exists");
        assert_eq!(stage.row_counts().await, before);
    }

    async fn a_resumed_run_that_has_not_ended_keeps_its_deduplication_id(stage: Stage) {
        let server = stage.start("api", &[]).await;
        let start = async |goal: &str| {
            let intent = server.create_intent(goal, json!({})).await;
            server.post("/api/runs", &with(Server::start_request(&intent, "sandbox-default"), "deduplicationID", json!("only one"))).await
        };
        let first = start("first").await.expect(202)["workflowID"].as_str().unwrap().to_owned();
        server.post(&format!("/api/ops/wf/{first}/resume"), &json!({})).await.expect(202);
        let refusal = start("second").await;
        assert_eq!(refusal.expect_refusal(409)["code"], "deduplication_conflict");

        server.post(&format!("/api/ops/wf/{first}/cancel"), &json!({})).await.expect(202);
        let second = start("third").await.expect(202)["workflowID"].as_str().unwrap().to_owned();
        // It is another's by now.
        server.post(&format!("/api/ops/wf/{first}/resume"), &json!({})).await.expect(202);
        let holds = format!("SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{second}' AND deduplication_id = 'only one'");
        assert_eq!(stage.sql_count(&holds).await, 1);
    }

    async fn a_delayed_start_waits_for_its_time_and_is_no_backlog(stage: Stage) {
        let server = stage.serve_with(&[("STEPWELL_MAX_BACKLOG", "1")]).await;
        let mut delayed = Vec::new();
        for (goal, delay) in [("late", 3_600_000), ("soon", 2_000)] {
            let intent = server.create_intent(goal, json!({})).await;
            let request = with(Server::start_request(&intent, "sandbox-default"), "delayMS", json!(delay));
            delayed.push(server.post("/api/runs", &request).await.expect(202)["workflowID"].as_str().unwrap().to_owned());
        }
        let (late, soon) = (&delayed[0], &delayed[1]);

        server.wait_next_action(soon, "APPROVE_PLAN").await;
        let in_time = format!(
            "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{soon}' AND delay_until_epoch_ms = created_at + 2000 \
             AND started_at_epoch_ms >= delay_until_epoch_ms"
        );
        assert_eq!(stage.sql_count(&in_time).await, 1);
        let put_off = format!(
            "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{late}' AND status = 'DELAYED' \
             AND delay_until_epoch_ms = created_at + 3600000"
        );
        assert_eq!(stage.sql_count(&put_off).await, 1);
        assert_eq!(server.header(late).await["status"], json!("ENQUEUED"));
    }

    async fn racing_starts_are_one_run(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("raced", json!({})).await;
        let request = Server::start_request(&intent, "sandbox-default");

        let starts: Vec<_> = (0..12)
            .map(|_| {
                let (server, request) = (server.clone(), request.clone());
                tokio::spawn(async move { server.post("/api/runs", &request).await.expect(202) })
            })
            .collect();

        for start in starts {
            assert_eq!(start.await.unwrap()["workflowID"], intent.as_str());
        }
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await, 1);
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'intentQ'").await, 1);
    }

    async fn another_request_is_a_conflict_that_names_the_fields(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("drift", json!({})).await;
        let request = Server::start_request(&intent, "sandbox-default");
        server.post("/api/runs", &request).await.expect(202);
        server.wait_next_action(&intent, "APPROVE_PLAN").await;
        let before = stage.row_counts().await;

        let drifts = [
            ("queuePartitionKey", with(request.clone(), "queuePartitionKey", json!("tenant-008"))),
            ("recipeName", with(request.clone(), "recipeName", json!("control-default"))),
            ("workload", with(request.clone(), "workload", json!({"concurrency": 2, "steps": 2, "sandboxMinutes": 1}))),
            ("priority", with(request.clone(), "priority", json!(5))),
            ("workload", without(request.clone(), "workload")),
        ];
        for (field, drift) in drifts {
            let answer = server.post("/api/runs", &drift).await;
            answer.expect_refusal(409);
            assert!(answer.text().contains(field), "the answer names {field}: {answer}");
            assert!(!answer.text().contains("tenantId"), "what is equal is not named: {answer}");
        }
        assert_eq!(stage.row_counts().await, before);
    }

    async fn a_refused_start_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("refused", json!({})).await;
        let request = Server::start_request(&intent, "sandbox-default");
        let before = stage.row_counts().await;

        let policy = [
            with(request.clone(), "queueName", json!("sbxQ")),
            with(request.clone(), "queueName", json!("nobodyQ")),
            with(request.clone(), "queuePartitionKey", json!("  ")),
            without(request.clone(), "queuePartitionKey"),
            with(request.clone(), "recipeName", json!("nobody-default")),
            with(request.clone(), "recipeVersion", json!(99)),
            with(request.clone(), "workload", json!({"concurrency": 21, "steps": 2, "sandboxMinutes": 1})),
            with(request.clone(), "workload", json!({"concurrency": 1, "steps": 129, "sandboxMinutes": 1})),
            with(request.clone(), "workload", json!({"concurrency": 1, "steps": 2, "sandboxMinutes": 61})),
        ];
        for body in policy {
            let answer = server.post("/api/runs", &body).await;
            let refusal = answer.expect_refusal(400);
            assert_eq!(refusal["code"], "queue_policy_violation", "{answer}");
        }
        let schema = [
            with(request.clone(), "extra", json!(true)),
            with(request.clone(), "intentId", json!("")),
            with(request.clone(), "priority", json!("high")),
            with(request.clone(), "workload", json!({"concurrency": 1, "steps": 2, "sandboxMinutes": 1, "extra": 1})),
            without(request.clone(), "intentId"),
            json!([]),
            json!(null),
        ];
        for body in schema {
            server.post("/api/runs", &body).await.expect_refusal(400);
        }
        let doubled = format!("{{\"intentId\":\"{intent}\",\"intentId\":\"{intent}\",\"queuePartitionKey\":\"t\"}}");
        for body in ["{bad", "", "{} {}", &format!("{request} trailing"), &doubled] {
            server.post_raw("/api/runs", body).await.expect_refusal(400);
        }
        server.post("/api/runs?unknown=1", &request).await.expect_refusal(400);
        server.post("/api/runs", &with(request.clone(), "intentId", json!("it_0000000000000000"))).await.expect_refusal(404);

        assert_eq!(stage.row_counts().await, before);
    }

    async fn a_refused_intent_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        server.create_intent("accepted", json!({})).await;
        let before = stage.row_counts().await;

        let refused = [
            json!({"goal": "  ", "inputs": {}, "constraints": {}}),
            json!({"goal": "x", "inputs": [], "constraints": {}}),
            json!({"goal": "x", "inputs": {}}),
            json!({"goal": "x", "inputs": {}, "constraints": {}, "extra": 1}),
            json!({"goal": "x", "inputs": {}, "constraints": {}, "connectors": [1]}),
        ];
        for body in refused {
            server.post("/api/intents", &body).await.expect_refusal(400);
        }
        server.post_raw("/api/intents", "{bad").await.expect_refusal(400);
        server.send("PUT", "/api/intents", Some("{}".to_owned())).await.expect_refusal(405);
        server.get("/api/nowhere").await.expect_refusal(404);

        assert_eq!(stage.row_counts().await, before);
    }

    async fn no_recipe_named_is_compile_default_in_its_newest_version(stage: Stage) {
        let server = stage.serve().await;
        let intent = server.create_intent("defaults", json!({})).await;

        let header = server.post("/api/runs", &json!({"intentId": intent, "queuePartitionKey": "t"})).await.expect(202);

        assert_eq!(header["recipeName"], "compile-default");
        assert_eq!(header["recipeVersion"], 1);
        assert_eq!(header["queue"], "intentQ");
    }
}
