//! Types the commands of a page: every block in order, in one shell, in an empty directory, without a configured database.
//!
//! | mark of a block | what it means |
//! | --- | --- |
//! | none | must succeed |
//! | `exit=N` | its last command ends with N |
//! | `server` | each line is a process that stays until the page ends; the next block begins when each has printed something |
//! | `not-run="why"` | is not run |
//! | `output`, of a `text` block | lines that the block before has printed, in this order; `…` stands for anything |
//!
//! Two things are not as on the reader's machine: the ports are free ones, and `cargo run` and `target/release/stepwell` are the binary under test.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
    time::Duration,
};

use super::{
    harness::{Stage, free_port},
    page::{Block, Page},
};

const STEPWELL: &str = env!("CARGO_BIN_EXE_stepwell");
const PORTS: [&str; 5] = ["3001", "3002", "3011", "3012", "3013"];
/// Stands in for cargo where a page runs the program with it.
const CARGO: &str = r#"#!/bin/sh
[ "$1" = run ] || exec "$REAL_CARGO" "$@"
while [ "$1" != -- ]; do shift; done
shift
exec stepwell "$@"
"#;
/// Starts one line of a block and leaves it running.
const START: &str = r#"
start() {
  bash -c "exec env $2" >"$1" 2>&1 &
  local until=$((SECONDS + 60))
  until [ -s "$1" ]; do
    kill -0 $! || { cat "$1"; return 1; }
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.05
  done
}
"#;

/// Types a page, and compares what it prints with what it says that it prints.
pub(crate) async fn type_page(stage: &Stage, page: &Page) {
    let blocks = page.blocks();
    let ports = PORTS.map(|port| (port, free_port().to_string()));
    let on_free_ports = |text: &str| {
        let with = |text: String, (port, free): &(&str, String)| text.replace(port, free);
        ports.iter().fold(text.to_owned(), with)
    };
    let (directory, notes) = (stage.dir().join("page"), stage.dir().join("notes"));
    let bin = stage.dir().join("bin");
    for made in [&directory.join("target/release"), &notes, &bin] {
        fs::create_dir_all(made).unwrap();
    }
    symlink(STEPWELL, directory.join("target/release/stepwell")).unwrap();
    symlink(STEPWELL, bin.join("stepwell")).unwrap();
    fs::write(bin.join("cargo"), CARGO).unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();

    let mut script = format!("set -eo pipefail\n{START}");
    for block in typed(&blocks) {
        let text = on_free_ports(&block.text);
        script.push_str(&step(&notes, block, &text));
    }
    fs::write(notes.join("page.sh"), &script).unwrap();

    let mut shell = stage.tool("bash");
    shell
        .arg(notes.join("page.sh"))
        .current_dir(&directory)
        .env_remove("DATABASE_URL")
        .env(
            "PATH",
            format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
        )
        .env("REAL_CARGO", env!("CARGO"))
        .env("PORT", &ports[0].1)
        .env("ADMIN_PORT", &ports[1].1)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        // Whatever a page leaves running ends with it.
        .process_group(0);
    let mut shell = shell.spawn().unwrap();
    let group = shell.id().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(240), shell.wait()).await;
    let _ = std::process::Command::new("kill")
        .args(["-KILL", "--", &format!("-{group}")])
        .stderr(Stdio::null())
        .status();

    let read = |name: String| fs::read_to_string(notes.join(name)).unwrap_or_default();
    let at = read("at".into());
    let said = read(format!("out-{}", at.trim()));
    let status =
        ended.unwrap_or_else(|_| panic!("{}:{} takes too long: {said}", page.path, at.trim()));
    assert!(
        status.unwrap().success(),
        "{}:{} failed: {said}",
        page.path,
        at.trim()
    );
    for pair in blocks.windows(2) {
        let [block, output] = pair else { continue };
        if output.mark("output").is_some() && block.mark("not-run").is_none() {
            let printed = read(format!("out-{}", block.line));
            let expected = on_free_ports(&output.text);
            shows(&expected, &printed).unwrap_or_else(|line| {
                panic!(
                    "{}:{} does not print {line:?} there:\n{printed}",
                    page.path, block.line
                )
            });
        }
    }
}

/// The blocks that are run.
pub(crate) fn typed(blocks: &[Block]) -> impl Iterator<Item = &Block> {
    let run = |block: &&Block| block.is_typed() && block.mark("not-run").is_none();
    blocks.iter().filter(run)
}

/// What the shell of the page does for a block.
fn step(notes: &Path, block: &Block, text: &str) -> String {
    let line = block.line;
    let out = notes.join(format!("out-{line}"));
    let file = notes.join(format!("block-{line}.sh"));
    fs::write(&file, text).unwrap();
    let (out, file, at) = (out.display(), file.display(), notes.join("at"));
    let mut step = format!("echo {line} >'{}'\nexec >'{out}' 2>&1\n", at.display());
    if block.mark("server").is_some() {
        for (number, command) in text.lines().enumerate() {
            let command = command.replace('\'', r"'\''");
            writeln!(
                step,
                "start '{out}.{number}' '{command}'; cat '{out}.{number}'"
            )
            .unwrap();
        }
    } else if let Some(code) = block.mark("exit") {
        writeln!(step, "code=0; . '{file}' || code=$?").unwrap();
        writeln!(
            step,
            "[ $code = {code} ] || {{ echo \"exit code $code\"; exit 1; }}"
        )
        .unwrap();
    } else {
        writeln!(step, ". '{file}'").unwrap();
    }
    step
}

/// Whether these lines are among what was printed, in this order; else the first that is not.
fn shows<'a>(expected: &'a str, printed: &str) -> Result<(), &'a str> {
    let mut printed = printed.lines();
    for line in expected.lines().filter(|line| !line.trim().is_empty()) {
        if !printed.any(|found| fits(line.trim_end(), found.trim_end())) {
            return Err(line);
        }
    }
    Ok(())
}

/// Whether a line is as it was told; `…` stands for anything.
fn fits(told: &str, line: &str) -> bool {
    let mut parts = told.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        (rest, last) = (after, Some(part));
    }
    rest.is_empty() || last == Some("") || last.is_some_and(|part| rest.ends_with(part))
}

#[test]
fn dots_stand_for_anything() {
    assert!(fits("a … c", "a b c") && fits("a…", "abc") && fits("a", "a"));
    assert!(fits("…b", "xbyb") && fits("x… ms", "x 5 ms 6 ms"));
    assert!(!fits("a … c", "a b d") && !fits("a", "ab") && !fits("…b", "ba"));
    assert_eq!(shows("b\na\n", "a\nb\n"), Err("a"));
}
