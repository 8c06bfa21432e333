//! Schemathesis makes requests of the document that the server serves, good ones and bad ones, and checks every answer against it. It is a Python package,
//! in a virtual environment outside the repository; skipped, loudly, where it cannot be had.
//! `STEPWELL_TEST_LONG=1` gives it two minutes instead of twenty seconds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::path::Path;

use harness::*;

const SETTINGS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/schemathesis/schemathesis.toml"
);
const REQUIREMENTS: &str = include_str!("schemathesis/requirements.txt");

async fn every_answer_conforms(stage: &Stage, python: &Path) {
    let server = stage.serve().await;
    let seconds = if long_tests_are_wanted() { "120" } else { "20" };
    let document = format!("{}/openapi.json", server.base());
    let output = stage
        .tool(&python.join("bin/schemathesis").display().to_string())
        .args(["--config-file", SETTINGS, "run", &document])
        .args([
            "--max-time",
            seconds,
            "--seed",
            "20261124",
            "--no-color",
            "--max-examples",
            "40",
        ])
        .current_dir(stage.dir())
        .output()
        .await
        .expect("schemathesis runs");

    let report = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{complaint}");
    assert!(report.contains("Test cases:"), "{report}");
    assert!(!server.log().contains("panicked"), "{}", server.log_tail());
    assert_eq!(server.get("/healthz").await.status, 200);
}

on_both_databases! {
    async fn what_is_served_is_what_the_document_says(stage: Stage) {
        if missing_tools(&["python3"]) {
            return;
        }
        if let Some(packages) = pip_packages("schemathesis", REQUIREMENTS).await {
            every_answer_conforms(&stage, &packages.join("venv")).await;
        }
    }
}
