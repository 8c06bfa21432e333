//! The gates, and the tasks of lab R: what they contain, what they need, and that mise names the nearest task and skips only what it may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use harness::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn path(relative: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(relative)
}

fn text(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn script(stage: &Stage, name: &str, env: Settings<'_>) -> Output {
    stage
        .tool(path("scripts").join(name).to_str().unwrap())
        .env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"))
        .envs(env.iter().copied())
        .output()
        .await
        .unwrap()
}

/// Variables of the environment.
type Settings<'a> = &'a [(&'a str, &'a str)];

/// What a daemon answers, by method and path.
type Answers = Vec<(&'static str, Value)>;

/// As opencode 1.18 answers, as far as the contract asks.
fn good_answers() -> Answers {
    let document = json!({"openapi": "3.1.0", "paths": {
        "/session": {"get": {}, "post": {}},
        "/session/{sessionID}": {"get": {}, "delete": {}},
        "/session/{sessionID}/message": {"post": {}},
    }});
    vec![
        (
            "GET /global/health",
            json!({"healthy": true, "version": "1.18.33"}),
        ),
        ("GET /doc", document),
        (
            "POST /session",
            json!({"id": "ses_1", "title": "stepwell contract"}),
        ),
        ("GET /session/ses_1", json!({"id": "ses_1"})),
        ("DELETE /session/ses_1", json!(true)),
    ]
}

/// A daemon that gives these answers, and 404 to everything else; its port.
async fn daemon(answers: Answers) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move { answer(connection, &answers).await });
        }
    });
    port
}

/// One request and its answer; what the body says does not matter.
async fn answer(mut connection: TcpStream, answers: &Answers) {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if matches!(connection.read_buf(&mut head).await, Ok(0) | Err(_)) {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let asked = head.split(" HTTP/").next().unwrap_or_default();
    let found = answers.iter().find(|(request, _)| *request == asked);
    let (status, body) = found.map_or((404, String::new()), |(_, body)| (200, body.to_string()));
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = connection.write_all(answer.as_bytes()).await;
}

#[test]
fn the_gates_contain_one_another_and_say_so() {
    let lists = text("scripts/lib-gates.sh");
    let suites: Vec<&str> = lists
        .lines()
        .filter_map(|line| line.strip_prefix("readonly ")?.split_once("_SUITES=("))
        .flat_map(|(_, names)| names.trim_end_matches(')').split_whitespace())
        .collect();
    assert!(suites.len() >= 15, "{suites:?}");
    for suite in suites {
        assert!(
            path(&format!("tests/{suite}.rs")).is_file(),
            "there is no test target {suite}"
        );
    }
    for gate in ["quick", "check", "full"] {
        let output = std::process::Command::new(path(&format!("scripts/{gate}.sh")))
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("Each gate contains the one before"),
            "{gate}: {help}"
        );
        assert!(help.contains("MISE_NO_RESET=1"), "{gate}: {help}");
        let refused = std::process::Command::new(path(&format!("scripts/{gate}.sh")))
            .arg("golden_flow")
            .output()
            .unwrap();
        assert_eq!(
            refused.status.code(),
            Some(64),
            "a gate is whole: {refused:?}"
        );
    }
}

#[test]
fn a_gate_ends_at_the_first_step_that_fails_with_its_exit_code() {
    let steps = r#"
        . "$(dirname "$0")/lib.sh"
        . "$STEPWELL_ROOT/scripts/lib-gates.sh"
        step "the first" true
        step "the second" sh -c 'exit 7'
        step "the third" touch "$REACHED"
        passed"#;
    let reached = std::env::temp_dir().join(format!("stepwell-gate-{}", std::process::id()));
    let output = std::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", steps])
        .arg(path("scripts/a-gate.sh"))
        .env("REACHED", &reached)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(
        said(&output).contains("FAILED at 'the second'"),
        "{output:?}"
    );
    assert!(!reached.exists());
}

/// A directory with programs that stand before the machine's own: this script as `cargo`, and nothing that installs anything.
fn with_cargo(directory: &Path, cargo: &str) -> String {
    let bin = directory.join("bin");
    std::fs::create_dir(&bin).unwrap();
    for (name, script) in [("cargo", cargo), ("apt-get", "exit 1"), ("sudo", "exit 1")] {
        let program = bin.join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_gate_says_which_settings_do_not_reach_its_servers() {
    let directory = tempfile::tempdir().unwrap();
    // The first step fails: what is said before it is enough.
    let path_of_tools = with_cargo(directory.path(), "exit 3");
    for gate in ["quick", "check", "full"] {
        let called = |settings: Settings<'_>| {
            let mut command = std::process::Command::new(path(&format!("scripts/{gate}.sh")));
            for (name, _) in std::env::vars() {
                if name.starts_with("OC_") || name.starts_with("SBX_") {
                    command.env_remove(name);
                }
            }
            let output = command
                .env("PATH", &path_of_tools)
                .envs(settings.iter().copied())
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(3), "{gate}: {output:?}");
            said(&output)
        };
        let with = called(&[("SBX_QUEUE_PARTITION", "true"), ("OC_STRICT_MODE", "1")]);
        let first = with.lines().next().unwrap();
        for part in ["not passed on", "OC_STRICT_MODE", "SBX_QUEUE_PARTITION"] {
            assert!(first.contains(part), "{gate}, {part}: {with}");
        }
        let without = called(&[]);
        assert!(!without.contains("not passed on"), "{gate}: {without}");
    }
}

#[test]
fn what_is_kept_is_where_the_suite_says() {
    let directory = tempfile::tempdir().unwrap();
    let temp = directory.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    // What cargo would build and run is there: this program, of which one small test is enough.
    let path_of_tools = with_cargo(
        directory.path(),
        r#"exec "$BUILT" --exact tables_are_made_without_a_server::sqlite"#,
    );
    let suite = |keep: &str| {
        let output = std::process::Command::new(path("scripts/test.sh"))
            .args(["--test", "gates"])
            .env("BUILT", std::env::current_exe().unwrap())
            .env("PATH", &path_of_tools)
            .env("TMPDIR", &temp)
            .env("MISE_NO_RESET", keep)
            .env("STEPWELL_TEST_BACKENDS", "sqlite")
            .env_remove("CI")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        said(&output)
    };
    let left = || std::fs::read_dir(&temp).unwrap().map(|left| left.unwrap());

    let said = suite("0");
    assert!(!said.contains("kept: "), "{said}");
    assert_eq!(left().count(), 0);

    let said = suite("1");
    let kept = format!("{}/stepwell-*_*/stepwell.db", temp.display());
    assert!(
        said.contains("kept: tests' directories: 1,") && said.contains(&kept),
        "{said}"
    );
    let names: Vec<String> = left()
        .map(|left| left.file_name().into_string().unwrap())
        .collect();
    let [name] = &names[..] else {
        panic!("{names:?}");
    };
    assert!(
        name.starts_with("stepwell-") && name.contains('_'),
        "{name}"
    );
    assert!(temp.join(name).join("stepwell.db").is_file(), "{name}");
}

#[test]
fn every_task_is_a_script_and_only_the_build_may_be_skipped() {
    let tasks = text("mise.toml");
    let mut scripts = 0;
    for line in tasks.lines().filter_map(|line| line.strip_prefix("run = ")) {
        let script = line.trim_matches('"').split_whitespace().next().unwrap();
        assert!(path(script).is_file(), "{line}");
        scripts += 1;
    }
    assert_eq!(scripts, tasks.matches("[tasks.").count());
    let cached: Vec<&str> = tasks
        .split("[tasks.")
        .filter(|task| task.contains("\nsources = "))
        .filter_map(|task| task.lines().next())
        .collect();
    assert_eq!(cached, ["build]"]);
}

on_both_databases! {
    async fn tables_are_made_without_a_server(stage: Stage) {
        stage.migrate().await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.recipes").await, 4);
    }

    async fn lab_r_without_daemons_and_keys_says_what_it_needs(stage: Stage) {
        if missing_tools(&["bash", "curl", "jq", "node", "npm"]) {
            return;
        }
        let Some(bin) = mise_bin().await else { return };
        let nobody = free_port().to_string();
        let base = format!("http://127.0.0.1:{nobody}");
        let commands: [(&str, Settings, &[&str]); 4] = [
            ("oc:daemon:signoff", &[("OC_SERVER_PORT", &nobody)], &[&base, "opencode serve --port"]),
            ("oc:daemon:contract", &[("OC_SERVER_PORT", &nobody)], &[&base, "opencode serve --port", "OC_BASE_URL"]),
            ("oc:live:smoke", &[("OC_MODE", "live")], &["OC_MODE is \"live\"", "not built into this version"]),
            ("sbx:live:smoke", &[("SBX_MODE", "live"), ("SBX_PROVIDER", "e2b")], &["E2B_API_KEY", "SBX_PROVIDER is \"e2b\"", "not built into this version"]),
        ];
        for (task, env, parts) in commands {
            let output = mise_command(&stage, &bin, &["run", task]).envs(env.iter().copied()).output().await.unwrap();
            let said = said(&output);
            assert_eq!(output.status.code(), Some(78), "{task}: {said}");
            for part in parts {
                assert!(said.contains(part), "{task}, {part}: {said}");
            }
        }
    }

    async fn the_live_smoke_runs_a_command_in_the_sandbox_that_there_is(stage: Stage) {
        let output = script(&stage, "sbx-live-smoke.sh", &[("SBX_PROVIDER", "local")]).await;
        assert!(output.status.success(), "{output:?}");
        let pretending = script(&stage, "sbx-live-smoke.sh", &[("SBX_MODE", "mock")]).await;
        assert_eq!(pretending.status.code(), Some(78), "{pretending:?}");
    }

    async fn a_daemon_is_asked_over_http_and_every_break_of_the_contract_is_found(stage: Stage) {
        if missing_tools(&["bash", "curl", "jq"]) {
            return;
        }
        let contract = async |answers: Answers| {
            let port = daemon(answers).await.to_string();
            script(&stage, "oc-daemon-contract.sh", &[("OC_SERVER_PORT", &port)]).await
        };
        let kept = contract(good_answers()).await;
        assert!(kept.status.success() && said(&kept).contains("opencode 1.18.33"), "{kept:?}");

        let breaks = [
            ("GET /global/health", json!({"healthy": false, "version": "1"})),
            ("GET /global/health", json!({"healthy": true})),
            ("GET /doc", json!({"swagger": "2.0"})),
            ("GET /doc", json!({"openapi": "3.1.0", "paths": {"/session": {"post": {}}}})),
            ("POST /session", json!({"title": "no id"})),
            ("GET /session/ses_1", json!({"id": "another"})),
            ("DELETE /session/ses_1", json!(false)),
        ];
        for (request, body) in breaks {
            let mut answers = good_answers();
            let changed = answers.iter_mut().find(|(known, _)| *known == request).unwrap();
            changed.1 = body;
            let broken = contract(answers).await;
            assert_eq!(broken.status.code(), Some(1), "{request}: {broken:?}");
        }
        for gone in 0..5 {
            let mut answers = good_answers();
            let (request, _) = answers.remove(gone);
            let broken = contract(answers).await;
            assert_eq!(broken.status.code(), Some(1), "{request}: {broken:?}");
            assert!(said(&broken).contains("answers 404"), "{request}: {broken:?}");
        }

        // What is signed off beyond the contract is a plan, and that is said, too.
        let port = daemon(good_answers()).await.to_string();
        let signoff = script(&stage, "oc-daemon-signoff.sh", &[("OC_SERVER_PORT", &port)]).await;
        assert_eq!(signoff.status.code(), Some(78), "{signoff:?}");
        assert!(said(&signoff).contains("opencode 1.18.33") && said(&signoff).contains("not built into this version"), "{signoff:?}");
    }

    async fn a_missing_task_is_an_error_that_names_the_nearest(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let Some(bin) = mise_bin().await else { return };
        for (typed, nearest) in [("quik", "quick"), ("chek", "check"), ("test:unti", "test:unit"), ("oc:daemon:contrct", "oc:daemon:contract")] {
            let output = mise_command(&stage, &bin, &["run", typed]).output().await.unwrap();
            assert!(!output.status.success(), "{output:?}");
            let said = said(&output);
            let meant = said.split_once("Did you mean").map(|(_, rest)| rest.split("Available").next().unwrap_or_default());
            assert!(meant.is_some_and(|list| list.contains(&format!("- {nearest}"))), "{typed}: {said}");
        }
    }

    async fn a_build_that_is_up_to_date_is_skipped_unless_it_is_forced(stage: Stage) {
        if missing_tools(&["node", "npm"]) {
            return;
        }
        let Some(bin) = mise_bin().await else { return };
        // Another clone, in which a program that only notes its calls stands for cargo: what decides is mise.
        let clone = stage.dir().join("clone");
        for dir in ["bin", "src", "scripts", ".git/logs"] {
            std::fs::create_dir_all(clone.join(dir)).unwrap();
        }
        for file in ["mise.toml", "Cargo.toml", "Cargo.lock", "build.rs", "src/lib.rs", "scripts/lib.sh", "scripts/build.sh"] {
            std::fs::copy(path(file), clone.join(file)).unwrap();
        }
        std::fs::write(clone.join(".git/logs/HEAD"), "a commit\n").unwrap();
        let cargo = clone.join("bin/cargo");
        std::fs::write(&cargo, "#!/bin/sh\necho called >>calls\nmkdir -p target/release && touch target/release/stepwell\n").unwrap();
        let made = stage.tool("chmod").arg("+x").arg(&cargo).status().await.unwrap();
        assert!(made.success());
        let build = async |arguments: &[&str]| {
            let search = format!("{}:{}", clone.join("bin").display(), std::env::var("PATH").unwrap());
            let output = mise_command(&stage, &bin, arguments)
                .current_dir(&clone)
                .env("PATH", search)
                .env("MISE_TRUSTED_CONFIG_PATHS", &clone)
                .output()
                .await
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            std::fs::read_to_string(clone.join("calls")).unwrap().lines().count()
        };

        assert_eq!(build(&["run", "build"]).await, 1);
        assert_eq!(build(&["run", "build"]).await, 1, "nothing has changed");
        assert_eq!(build(&["run", "-f", "build"]).await, 2, "forced");
        std::fs::write(clone.join("src/new.rs"), "").unwrap();
        assert_eq!(build(&["run", "build"]).await, 3, "a source is new");
        std::fs::remove_file(clone.join("target/release/stepwell")).unwrap();
        assert_eq!(build(&["run", "build"]).await, 4, "the binary is gone");
        std::fs::write(clone.join(".git/logs/HEAD"), "another commit\n").unwrap();
        assert_eq!(build(&["run", "build"]).await, 5, "the commit is another one");
        std::fs::write(clone.join("build.rs"), "").unwrap();
        assert_eq!(build(&["run", "build"]).await, 6, "what tells the commit is another one");
    }
}
