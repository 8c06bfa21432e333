//! Somebody who reads the manual on one database: the shell, the terminals beside it, and what became of each block.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::process::Command;

use super::document::Block;
use super::servers::Servers;
use crate::harness::*;

/// Lab Q's gates, where they really run, take their time.
const BLOCK_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);
/// How long an effect may be on its way.
const ARRIVAL: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// What cargo and rustup go by; without it the manual's commands would build everything anew somewhere else.
const OF_THE_TOOLCHAIN: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "CI",
    "RUSTFLAGS",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "XDG_CACHE_HOME",
];

/// How much of the manual is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Without the blocks that call gates or whole test files.
    Short,
    Whole,
}

/// What became of a block that did not fail.
pub(crate) enum Outcome {
    Held,
    NotRun(&'static str),
}

/// What came of a pasted text.
#[derive(Debug)]
pub(crate) struct Pasted {
    pub(super) output: LabOutput,
    /// Every command of it that failed, a line each.
    pub(super) failed: String,
}

impl Pasted {
    /// What it printed, if every command succeeded.
    pub(super) fn succeeded(self) -> Result<String, String> {
        if self.failed.is_empty() && self.output.code == 0 {
            Ok(self.output.stdout)
        } else {
            Err(format!("{self:#?}"))
        }
    }
}

/// One line of the table's making.
pub(crate) struct Row {
    pub(crate) lab: String,
    pub(crate) block: usize,
    pub(crate) outcome: Result<Outcome, String>,
    pub(crate) took: Duration,
}

/// Ends with its servers ended: see [`Reader::leave`].
pub(crate) struct Reader {
    pub(crate) stage: Stage,
    extent: Extent,
    shell: Terminal,
    environment: Vec<(&'static str, String)>,
    pub(super) servers: Servers,
}

impl Reader {
    /// `mise` is the directory of the real one, `gates` the list of what became of gates: one for both databases, because gates bring their own.
    pub(crate) async fn sit_down(stage: &Stage, extent: Extent, mise: &Path, gates: &Path) -> Self {
        let own = |name: &str| stage.dir().join(name);
        std::fs::write(own("notes"), "").expect("the stage's directory is writable");

        let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/manual/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let text = |path: PathBuf| path.display().to_string();
        let mut environment = vec![
            ("PATH", format!("{wrapper}:{path}")),
            ("MANUAL_MISE", text(mise.join("mise"))),
            ("MANUAL_GATES", text(gates.to_owned())),
            ("MANUAL_NOTES", text(own("notes"))),
        ];
        environment.extend(mise_env(stage));
        if extent == Extent::Whole {
            // Section 3 builds the release that the scripts then find, as it does for everybody else.
            environment.retain(|(name, _)| *name != "STEPWELL_BIN");
        }
        for name in OF_THE_TOOLCHAIN {
            if let Ok(value) = std::env::var(name) {
                environment.push((name, value));
            }
        }
        let bash = command(stage, &environment);
        let mut reader = Self {
            stage: stage.clone(),
            extent,
            shell: Terminal::open(bash, stage.dir().to_owned()),
            environment,
            servers: Servers::default(),
        };
        // Tells of every command that fails, not only of a block's last one.
        let trap = format!(
            "trap 'printf \"exit %s: %s\\n\" \"$?\" \"$BASH_COMMAND\" >>\"{}\"' ERR",
            text(own("errors"))
        );
        let set = reader.shell.try_block(&trap, PAUSE * 20).await;
        set.expect("the shell takes a trap").ok();
        reader
    }

    /// Reads one block, if this extent does.
    pub(crate) async fn read(&mut self, block: &Block) -> Row {
        let started = Instant::now();
        let outcome = if block.lab == "R" {
            Ok(Outcome::NotRun(
                "needs a daemon, keys and a network; tests/gates.rs runs its tasks",
            ))
        } else if self.extent == Extent::Short && is_long(block) {
            Ok(Outcome::NotRun(
                "long: it calls gates or whole test files; scripts/manual.sh and scripts/full.sh run it",
            ))
        } else {
            self.expect(block).await.map(|()| Outcome::Held)
        };
        Row {
            lab: block.lab.clone(),
            block: block.number,
            outcome,
            took: started.elapsed(),
        }
    }

    /// Closes everything, and asks whether every invariant holds after all that.
    pub(crate) async fn leave(self) -> Result<String, String> {
        let notes = std::fs::read_to_string(self.stage.dir().join("notes")).expect("it was made");
        self.servers.end(self.stage.dir()).await?;
        let output = self.stage.command(&["doctor"]).output().await;
        let doctor = output.expect("the binary runs");
        if doctor.status.success() {
            Ok(notes)
        } else {
            Err(format!(
                "stepwell doctor: {}",
                String::from_utf8_lossy(&doctor.stdout)
            ))
        }
    }

    /// Pastes a block of which every command must succeed; what it printed.
    pub(super) async fn paste(&mut self, block: &Block) -> Result<String, String> {
        self.try_paste(&block.text).await?.succeeded()
    }

    /// As [`Reader::paste`], at a moment in which the built-in schedule will write nothing.
    pub(super) async fn paste_between_ticks(&mut self, block: &Block) -> Result<String, String> {
        let _exclusive = alone_with_the_files_of(&block.text).await;
        between_ticks().await;
        self.run(&block.text).await?.succeeded()
    }

    /// Pastes text, whatever comes of it.
    pub(super) async fn try_paste(&mut self, text: &str) -> Result<Pasted, String> {
        let _exclusive = alone_with_the_files_of(text).await;
        self.run(text).await
    }

    async fn run(&mut self, text: &str) -> Result<Pasted, String> {
        let errors = self.stage.dir().join("errors");
        let _ = std::fs::remove_file(&errors);
        let output = self.shell.try_block(text, BLOCK_DEADLINE).await?;
        let failed = std::fs::read_to_string(errors).unwrap_or_default();
        Ok(Pasted { output, failed })
    }

    /// Opens a terminal for a block whose command does not end.
    pub(super) async fn serve(&mut self, block: &Block) -> Result<(), String> {
        let bash = command(&self.stage, &self.environment);
        let dir = self.stage.dir().to_owned();
        self.servers.start(bash, block, &dir).await?;
        Ok(())
    }

    /// Pastes a block whose last statement asks for something that may still be on its way: that statement is repeated until the answer is as expected.
    pub(super) async fn paste_until(
        &mut self,
        block: &Block,
        expected: impl Fn(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut seen = self.paste(block).await?;
        let started = Instant::now();
        loop {
            match expected(&seen) {
                Ok(()) => return Ok(()),
                Err(error) if started.elapsed() >= ARRIVAL => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            seen = self.try_paste(block.last_question()).await?.output.stdout;
        }
    }

    /// The value of a shell variable that a block has set.
    pub(super) async fn variable(&mut self, name: &str) -> Result<String, String> {
        let pasted = self.try_paste(&format!("printf '%s' \"${name}\"")).await?;
        if pasted.output.stdout.is_empty() {
            return Err(format!("${name} is empty"));
        }
        Ok(pasted.output.stdout)
    }
}

/// A shell of the reader's.
fn command(stage: &Stage, environment: &[(&'static str, String)]) -> Command {
    let mut bash = stage.tool("bash");
    bash.envs(environment.iter().map(|(name, value)| (name, value)));
    bash
}

/// Files of that name are other readers' files, too. Blocks that use them start no test, so nobody waits for himself.
async fn alone_with_the_files_of(text: &str) -> Option<File> {
    if text.contains("/tmp/007-") {
        Some(machine_lock("lab").await)
    } else {
        None
    }
}

fn is_long(block: &Block) -> bool {
    const LONG: [&str; 8] = [
        "build",
        "quick",
        "check",
        "full",
        "-f",
        "test:integration",
        "test:e2e",
        "wf:",
    ];
    LONG.iter()
        .any(|task| block.text.contains(&format!("mise run {task}")))
}

/// The built-in schedule writes at seconds 0 and 30 of every minute; this returns when it will not do so for some seconds.
async fn between_ticks() {
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let into = now.expect("after 1970").as_secs() % 30;
        if (5..20).contains(&into) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Several JSON values one after the other, as jq prints them.
pub(super) fn json_values(text: &str) -> Result<Vec<Value>, String> {
    let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect();
    values.map_err(|error| format!("not JSON ({error}): {text}"))
}
