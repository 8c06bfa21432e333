//! A terminal for the manual's blocks: one bash in the repository's root with `BASE` set and the manual's shell kit
//! loaded. Variables live on from block to block, as they do for a reader who pastes them.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::stage::Stage;

const BLOCK_DEADLINE: Duration = Duration::from_secs(180);

/// Section 5 of the manual.
const SHELL_KIT: &str = r#"
BASE=http://127.0.0.1:3001
term='SUCCESS|ERROR|CANCELLED'
wait_h(){ id="$1"; for i in $(seq 1 240); do s=$(curl -sS "$BASE/api/runs/$id" | jq -r '.status // empty'); echo "$s" | grep -Eq "$term" && return 0; sleep 0.5; done; return 1; }
wait_next(){ id="$1"; want="$2"; for i in $(seq 1 240); do n=$(curl -sS "$BASE/api/runs/$id" | jq -r '.nextAction // empty'); [ "$n" = "$want" ] && return 0; sleep 0.5; done; return 1; }
sql_app(){ scripts/db/psql-app.sh -c "$1"; }
sql_sys(){ scripts/db/psql-sys.sh -c "$1"; }
"#;

/// One open shell. The manual's files in /tmp have fixed names, so only one is open on the machine; the others wait.
pub(crate) struct Lab {
    shell: Child,
    input: ChildStdin,
    statuses: Lines<BufReader<ChildStdout>>,
    dir: PathBuf,
    blocks: usize,
    _exclusive: File,
}

/// What one block printed, and the exit code of its last command.
#[derive(Debug)]
pub(crate) struct LabOutput {
    pub(crate) block: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl LabOutput {
    /// The output of a block that must end well and print no complaint.
    pub(crate) fn ok(self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "{self:#?}");
        self.stdout
    }
}

impl Lab {
    pub(super) async fn open(stage: &Stage, base: &str) -> Self {
        let lock =
            File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/lab.lock")).expect("a lock file");
        let exclusive = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await
            .expect("the lock is waited for")
            .expect("the lock is taken");
        let mut shell = stage
            .tool("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("bash runs");
        let input = shell.stdin.take().expect("piped");
        let statuses = BufReader::new(shell.stdout.take().expect("piped")).lines();
        let dir = stage.dir().to_owned();
        let mut lab = Self {
            shell,
            input,
            statuses,
            dir,
            blocks: 0,
            _exclusive: exclusive,
        };
        lab.block(SHELL_KIT).await.ok();
        lab.block(&format!("BASE={base}")).await.ok();
        lab
    }

    /// Pastes a block and waits for its end.
    pub(crate) async fn block(&mut self, block: &str) -> LabOutput {
        self.blocks += 1;
        let file = |suffix: &str| self.dir.join(format!("lab-{}.{suffix}", self.blocks));
        let (script, stdout, stderr) = (file("sh"), file("out"), file("err"));
        std::fs::write(&script, block).expect("the stage's directory is writable");
        let quoted = |path: &PathBuf| format!("'{}'", path.display());
        let line = format!(
            "source {} </dev/null >{} 2>{}; echo $?\n",
            quoted(&script),
            quoted(&stdout),
            quoted(&stderr)
        );
        self.input
            .write_all(line.as_bytes())
            .await
            .expect("bash listens");
        let status = tokio::time::timeout(BLOCK_DEADLINE, self.statuses.next_line())
            .await
            .unwrap_or_else(|_| panic!("no end within {} s: {block}", BLOCK_DEADLINE.as_secs()))
            .expect("bash's output is readable")
            .unwrap_or_else(|| panic!("the block ended the shell: {block}"));
        LabOutput {
            block: block.to_owned(),
            code: status
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("not an exit code: {status}")),
            stdout: std::fs::read_to_string(stdout).expect("the block's output is text"),
            stderr: std::fs::read_to_string(stderr).expect("the block's complaints are text"),
        }
    }

    /// The value of a shell variable that a block has set.
    pub(crate) async fn variable(&mut self, name: &str) -> String {
        self.block(&format!("printf '%s' \"${name}\"")).await.ok()
    }
}

impl Drop for Lab {
    /// The next reader of the manual may be another user, who could not overwrite these.
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir("/tmp") else {
            return;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("007-"))
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
