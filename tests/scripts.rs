//! The scripts and the mise tasks: help everywhere, the manual's SQL on whichever database is configured, a cluster that
//! comes and goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Output;

use harness::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TASKS: [&str; 32] = [
    "build",
    "check",
    "db:down",
    "db:reset",
    "db:sys:reset",
    "db:up",
    "full",
    "manual",
    "oc:daemon:contract",
    "oc:daemon:signoff",
    "oc:live:smoke",
    "ops:cancel-batch",
    "ops:fork-batch",
    "ops:list-failed",
    "ops:resume-batch",
    "ops:sql:inbox",
    "ops:sql:queues",
    "ops:sql:slow",
    "otlp:smoke",
    "quick",
    "sandbox:soak",
    "sbx:live:smoke",
    "start",
    "start:api-shim",
    "start:worker",
    "test",
    "test:e2e:file",
    "test:integration:mock:file",
    "test:unit",
    "wf:intent:chaos:soak",
    "wf:time:scheduler",
    "wf:time:sleep",
];

/// The scripts a person calls; the others are sourced.
fn executable_scripts() -> Vec<PathBuf> {
    let mut found = vec![Path::new(ROOT).join(".ci/run")];
    for dir in ["scripts", "scripts/db"] {
        for entry in std::fs::read_dir(Path::new(ROOT).join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let is_script = path.extension().is_some_and(|extension| extension == "sh");
            if is_script && std::fs::read_to_string(&path).unwrap().starts_with("#!") {
                found.push(path);
            }
        }
    }
    found
}

async fn run_script(stage: &Stage, script: &str, arguments: &[&str]) -> Output {
    stage
        .tool("bash")
        .arg(Path::new(ROOT).join("scripts").join(script))
        .args(arguments)
        .env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"))
        .current_dir(stage.dir())
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap()
}

async fn psql_app(stage: &Stage, arguments: &[&str]) -> String {
    let output = run_script(stage, "db/psql-app.sh", arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn client_is_missing(backend: Backend) -> bool {
    missing_tools(&[
        "bash",
        if backend == Backend::Sqlite {
            "sqlite3"
        } else {
            "psql"
        },
    ])
}

#[test]
fn every_script_explains_itself() {
    let scripts = executable_scripts();
    assert!(scripts.len() >= 11, "{scripts:?}");
    for script in scripts {
        let output = std::process::Command::new(&script)
            .arg("--help")
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = script.file_name().unwrap().to_string_lossy().into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(
            text.contains("usage: ") && text.contains(&name),
            "{}: {text}",
            script.display()
        );
    }
}

#[test]
fn an_unknown_test_file_is_an_error_that_lists_what_exists() {
    for name in ["test/e2e/no-such.test.ts", "../Cargo.toml", ""] {
        let output = std::process::Command::new(Path::new(ROOT).join("scripts/test-file.sh"))
            .arg(name)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{name}: {text}");
        assert!(
            text.contains("time-durability") && text.contains("golden-flow"),
            "{name}: {text}"
        );
    }
}

#[test]
fn a_build_is_used_until_a_source_or_the_commit_is_newer() {
    if missing_tools(&["bash", "git"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let clone = directory.path();
    let bash = |line: &str| {
        let search = format!("{}/bin:{}", clone.display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .arg(clone.join("scripts/a-script.sh"))
            .current_dir(clone)
            .env("PATH", search)
            .env_remove("STEPWELL_BIN")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("GIT_DIR")
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for file in [
        "bin/cargo",
        "src/lib.rs",
        "migration/lib.rs",
        "openapi/main.rs",
        "build.rs",
        "Cargo.toml",
        "Cargo.lock",
        "scripts/lib.sh",
        "target/debug/stepwell",
        "target/release/stepwell",
    ] {
        std::fs::create_dir_all(clone.join(file).parent().unwrap()).unwrap();
        std::fs::write(clone.join(file), "").unwrap();
    }
    std::fs::copy(
        Path::new(ROOT).join("scripts/lib.sh"),
        clone.join("scripts/lib.sh"),
    )
    .unwrap();
    bash("chmod +x bin/cargo target/*/stepwell");
    bash("git init -q && git -c user.name=n -c user.email=e commit -q --allow-empty -m first");
    let begun = std::time::SystemTime::now();
    let touch = |file: &str, seconds: u64| {
        let file = std::fs::File::options().append(true).open(clone.join(file));
        let at = begun + std::time::Duration::from_secs(seconds);
        file.unwrap().set_modified(at).unwrap();
    };
    let used = || bash(". scripts/lib.sh; find_stepwell; echo \"${STEPWELL[*]}\"");

    touch("target/debug/stepwell", 10);
    touch("target/release/stepwell", 10);
    assert_eq!(used(), "target/release/stepwell");
    let cargo = "cargo run --release --bin stepwell --";
    for file in ["src/lib.rs", "build.rs", ".git/HEAD", ".git/logs/HEAD"] {
        touch(file, 20);
        assert_eq!(used(), cargo, "{file}");
        touch(file, 0);
        assert_eq!(used(), "target/release/stepwell", "{file}");
    }
    // A debug build knows no commit.
    std::fs::remove_file(clone.join("target/release/stepwell")).unwrap();
    touch(".git/logs/HEAD", 20);
    assert_eq!(used(), "target/debug/stepwell");
}

on_both_databases! {
    async fn the_psql_flags_work_alone_and_combined(stage: Stage) {
        if client_is_missing(stage.backend()) {
            return;
        }
        stage.migrate().await;
        let query = "SELECT name, max_steps FROM app.recipes WHERE name LIKE 's%-default' ORDER BY name";

        for flags in [vec!["-t", "-A", "-c", query], vec!["-tAc", query], vec!["-c", query, "-At"]] {
            assert_eq!(psql_app(&stage, &flags).await, "sandbox-default|128\nshell-default|128\n", "{flags:?}");
        }
        let aligned = psql_app(&stage, &["-c", query]).await;
        assert_eq!(
            aligned,
            "      name       | max_steps \n-----------------+-----------\n sandbox-default |       128\n \
             shell-default   |       128\n(2 rows)\n\n"
        );
        let several = psql_app(&stage, &["-tA", "-c", "SELECT 1", "-c", "SELECT 'x'"]).await;
        assert_eq!(several, "1\nx\n");
    }

    async fn the_psql_scripts_write_and_report_errors(stage: Stage) {
        if client_is_missing(stage.backend()) {
            return;
        }
        stage.migrate().await;
        psql_app(&stage, &["-c", "INSERT INTO app.marks (workflow_id, mark, count) VALUES ('w', 's1', 1)"]).await;

        assert_eq!(stage.sql_count("SELECT count(*) FROM app.marks").await, 1);
        psql_app(&stage, &["-c", "DELETE FROM app.marks WHERE workflow_id = 'w';"]).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.marks").await, 0);
        let failed = run_script(&stage, "db/psql-sys.sh", &["-c", "SELECT nope FROM dbos.workflow_status"]).await;
        assert!(!failed.status.success() && !failed.stderr.is_empty(), "{failed:?}");
        let unknown = run_script(&stage, "db/psql-app.sh", &["-z"]).await;
        assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");
    }

    async fn the_manuals_count_probe_compares_counts(stage: Stage) {
        if client_is_missing(stage.backend()) {
            return;
        }
        stage.migrate().await;
        let probe = "SELECT (SELECT COUNT(*) FROM app.intents)||(SELECT COUNT(*) FROM app.runs)||(SELECT COUNT(*) FROM app.artifacts)";

        assert_eq!(psql_app(&stage, &["-t", "-A", "-c", probe]).await, "000\n");
    }

    async fn up_migrates_and_each_reset_rebuilds_its_half(stage: Stage) {
        for _ in 0..2 {
            let up = run_script(&stage, "db/up.sh", &[]).await;
            assert!(up.status.success(), "{up:?}");
        }
        stage.sql_execute("INSERT INTO app.marks (workflow_id, mark, count) VALUES ('w', 's1', 1)").await;

        let sys_reset = run_script(&stage, "db/sys-reset.sh", &[]).await;
        assert!(sys_reset.status.success(), "{sys_reset:?}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.marks").await, 1, "the other half is left alone");

        let reset = run_script(&stage, "db/reset.sh", &[]).await;
        assert!(reset.status.success(), "{reset:?}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.marks").await, 0);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.recipes").await, 4, "the seed is back");
    }

    async fn mise_lists_and_runs_the_tasks_and_installs_nothing(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let Some(bin) = mise_bin().await else { return };
        let run = async |arguments: &[&str]| {
            let output = mise_command(&stage, &bin, arguments).output().await.unwrap();
            assert!(output.status.success(), "mise {arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };

        let listed = run(&["tasks", "--name-only"]).await;
        for task in TASKS {
            assert!(listed.lines().any(|line| line == task), "{task} is missing: {listed}");
        }
        run(&["install"]).await;
        assert!(!stage.dir().join("mise/installs").exists(), "mise installed something");
        run(&["run", "db:up"]).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.recipes").await, 4);
    }
}

on_postgres! {
    async fn up_starts_a_cluster_where_nothing_listens_and_down_stops_it(stage: Stage) {
        // A copy of the scripts is another clone: its cluster has nothing to do with the one of this repository.
        let clone = stage.dir().join("clone");
        let copied = stage.tool("cp").arg("-R").arg(Path::new(ROOT).join("scripts")).arg(&clone).status().await.unwrap();
        assert!(copied.success());
        let port = free_port();
        let url = format!("postgres://ann:s%27ecret@127.0.0.1:{port}/ledger");
        let run = async |script: &str, arguments: &[&str]| {
            stage
                .tool("bash")
                .arg(clone.join(script))
                .args(arguments)
                .env("DATABASE_URL", &url)
                .env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"))
                .output()
                .await
                .unwrap()
        };

        let up = run("db/up.sh", &[]).await;
        let asked = run("db/psql-sys.sh", &["-tAc", "SELECT current_user, count(*) > 0 FROM dbos.dbos_migrations"]).await;
        let again = run("db/up.sh", &[]).await;
        let down = run("db/down.sh", &[]).await;
        let refused = run("db/psql-sys.sh", &["-tAc", "SELECT 1"]).await;
        let data = run("db/down.sh", &["--where"]).await;

        assert!(up.status.success(), "{up:?}");
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "ann|t\n", "{asked:?}");
        assert!(again.status.success(), "{again:?}");
        assert!(down.status.success(), "{down:?}");
        assert!(!refused.status.success(), "{refused:?}");
        let home = PathBuf::from(String::from_utf8(data.stdout).unwrap().trim());
        assert!(home.join("data/PG_VERSION").exists(), "the data stay: {}", home.display());
        std::fs::remove_dir_all(home).unwrap();
    }
}
