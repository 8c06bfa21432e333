//! A terminal for the manual's blocks: one bash in the repository's root with `BASE` set and the manual's shell kit
//! loaded.

use std::fs::File;
use std::time::Duration;

use super::stage::Stage;
use super::terminal::{LabOutput, Terminal};
use super::tools::machine_lock;

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
    terminal: Terminal,
    _exclusive: File,
}

impl Lab {
    pub(super) async fn open(stage: &Stage, base: &str) -> Self {
        let exclusive = machine_lock("lab").await;
        let terminal = Terminal::open(stage.tool("bash"), stage.dir().to_owned());
        let mut lab = Self {
            terminal,
            _exclusive: exclusive,
        };
        lab.block(SHELL_KIT).await.ok();
        lab.block(&format!("BASE={base}")).await.ok();
        lab
    }

    /// Pastes a block and waits for its end.
    pub(crate) async fn block(&mut self, block: &str) -> LabOutput {
        let output = self.terminal.try_block(block, BLOCK_DEADLINE).await;
        output.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The value of a shell variable that a block has set.
    pub(crate) async fn variable(&mut self, name: &str) -> String {
        self.block(&format!("printf '%s' \"${name}\"")).await.ok()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove_files_of_the_manual();
    }
}

/// The next reader of the manual may be another user, who could not overwrite these.
pub(crate) fn remove_files_of_the_manual() {
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
