//! One open bash whose variables live on from block to block, as they do for a reader who pastes them. It knows nothing of the manual.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Ends with the value.
pub(crate) struct Terminal {
    shell: Child,
    input: ChildStdin,
    statuses: Lines<BufReader<ChildStdout>>,
    dir: PathBuf,
    blocks: usize,
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

impl Terminal {
    /// `bash` is the command of the shell with its environment; what blocks print is kept in `dir`.
    pub(crate) fn open(mut bash: Command, dir: PathBuf) -> Self {
        let mut shell = bash
            .args(["--noprofile", "--norc"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("bash runs");
        let input = shell.stdin.take().expect("piped");
        let statuses = BufReader::new(shell.stdout.take().expect("piped")).lines();
        Self {
            shell,
            input,
            statuses,
            dir,
            blocks: 0,
        }
    }

    /// Pastes a block and waits for its end; the error says why there is none.
    pub(crate) async fn try_block(
        &mut self,
        block: &str,
        deadline: Duration,
    ) -> Result<LabOutput, String> {
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
            .map_err(|error| format!("bash is gone: {error}"))?;
        let status = tokio::time::timeout(deadline, self.statuses.next_line())
            .await
            .map_err(|_| format!("no end within {} s: {block}", deadline.as_secs()))?
            .expect("bash's output is readable")
            .ok_or_else(|| format!("the block ended the shell: {block}"))?;
        let text = |path: PathBuf| {
            let bytes = std::fs::read(path).expect("bash has made the file");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok(LabOutput {
            block: block.to_owned(),
            code: status
                .trim()
                .parse()
                .map_err(|_| format!("not an exit code: {status}"))?,
            stdout: text(stdout),
            stderr: text(stderr),
        })
    }
}
