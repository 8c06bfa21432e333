//! The official client of npm `@dbos-inc/dbos-sdk` reads our runs and their steps on Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::path::Path;

use harness::*;
use serde_json::{Value, json};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dbos_client");

/// What `list.mjs` reports: `{workflows, workflow, steps}`.
async fn seen_by_the_official_client(stage: &Stage, workflow: &str) -> Value {
    let packages = npm_packages("dbos", include_str!("dbos_client/package.json")).await;
    let output = stage
        .tool("node")
        .arg(Path::new(SCRIPTS).join("list.mjs"))
        .args([stage.database_url(), workflow])
        .env("STEPWELL_NPM", packages)
        .output()
        .await
        .expect("node runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "list.mjs: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {complaint}"))
}

fn field<'a>(rows: &'a Value, name: &str) -> Vec<&'a Value> {
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| &row[name])
        .collect()
}

on_postgres! {
    async fn the_official_client_lists_our_runs_and_their_steps(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let server = stage.serve().await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        server.approve(&run).await;
        server.wait_status(&run, "SUCCESS").await;

        let seen = seen_by_the_official_client(&stage, &run).await;

        let listed = seen["workflows"].as_array().unwrap();
        let parent = listed.iter().find(|workflow| workflow["workflowID"] == run.as_str()).expect("our run is listed");
        assert_eq!(parent["status"], "SUCCESS", "{parent}");
        assert_eq!(parent["queueName"], "intentQ", "{parent}");
        assert!(parent["workflowName"].as_str().unwrap().starts_with("stepwell."), "{parent}");
        let child = listed.iter().find(|workflow| workflow["queueName"] == "sbxQ").expect("its task is listed");
        assert_eq!(child["status"], "SUCCESS", "{child}");
        assert_eq!(child["parentWorkflowID"], run.as_str(), "{child}");
        assert_eq!(&seen["workflow"], parent);

        let steps = &seen["steps"];
        let names = field(steps, "name");
        assert_eq!(names[..5], ["CompileST", "ApplyPatchST", "DBOS.recv", "DBOS.sleep", "DecideST"], "{steps}");
        assert_eq!(names.last().unwrap().as_str(), Some("ExecuteST"), "{steps}");
        assert!(names.contains(&&json!("DBOS.getResult")), "{steps}");
        let ids: Vec<_> = field(steps, "functionID").into_iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>());
        assert!(field(steps, "childWorkflowID").contains(&&child["workflowID"]), "{steps}");
        assert!(field(steps, "error").iter().all(|error| error.is_null()), "{steps}");
    }
}
