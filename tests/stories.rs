//! The stories of `docs/stories.md`, typed as they stand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{fs, path::Path};

use harness::*;

/// The first shell block below a heading.
fn block(heading: &str) -> String {
    let page = include_str!("../docs/stories.md");
    let (_, story) = page
        .split_once(&format!("## {heading}\n"))
        .unwrap_or_else(|| panic!("no story {heading:?}"));
    let (_, rest) = story.split_once("```bash\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Types a story in a directory of its own; its output.
async fn tell(stage: &Stage, heading: &str) -> String {
    let directory = stage.dir().join("story");
    fs::create_dir_all(&directory).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_stepwell"));
    let path = format!(
        "{}:{}",
        binary.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let output = stage
        .tool("bash")
        .args(["-c", &block(heading)])
        .current_dir(&directory)
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{heading}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

on_both_databases! {
    async fn words_are_counted(stage: Stage) {
        assert_eq!(tell(&stage, "Count words").await.trim(), "3");
    }

    async fn a_crate_is_tested(stage: Stage) {
        let output = tell(&stage, "Test a crate").await;
        assert!(output.contains("test it_adds ... ok"), "{output}");
    }

    async fn a_report_is_written_once(stage: Stage) {
        let output = tell(&stage, "A nightly report").await;
        assert!(output.starts_with("day,orders\n2026-11-24,17\n"), "{output}");
        assert!(output.contains("files/report.csv"), "{output}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.sbx_runs").await, 1);
    }

    async fn a_command_outlives_its_machine(stage: Stage) {
        let output = tell(&stage, "The machine goes down").await;
        assert!(output.ends_with("copying\ncopied\n"), "{output}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs WHERE status = 'succeeded'").await, 1);
        stage.assert_no_duplicates().await;
    }

    async fn a_patch_fails_on_one_of_three(stage: Stage) {
        let output = tell(&stage, "A patch against three inputs").await;
        assert!(output.contains("10 is fine\n") && output.contains("20 is fine\n") && output.contains("exit 1\n"), "{output}");
        assert_eq!(output.matches(" well, exit 0").count(), 2, "{output}");
        assert!(output.contains("CMD_NONZERO, exit 1"), "{output}");
    }
}
