//! What the suites of the local sandbox share: each test runs twice, with `bwrap` around the command and without, on the library itself with the
//! real binary as shim, and no database.

#![allow(dead_code, unused_imports, unused_macros)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stepwell::sandbox::{FileContent, FileIn, Finished, Local, Output, Sandbox, SandboxRequest};
use tokio::sync::mpsc::Sender;

use super::harness::{eventually, living_processes, memory_of, say_skipped};

/// Time for everything to end; a directory full of small files is removed at the disk's pace.
const GONE_DEADLINE: Duration = Duration::from_secs(60);

/// One test's sandbox.
pub(crate) struct Given {
    pub(crate) root: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
    /// Whether `bwrap` is around the commands.
    pub(crate) wrapped: bool,
}

impl Given {
    /// Nothing, with a loud message, when the test cannot run here.
    pub(crate) async fn new(wrapped: bool) -> Option<Self> {
        let root = tempfile::tempdir().expect("a directory");
        let shim = PathBuf::from(env!("CARGO_BIN_EXE_stepwell"));
        let local = Local::detect(root.path().join("sandbox"), shim, Duration::ZERO).await;
        if wrapped && local.bwrap.is_none() {
            say_skipped("bwrap is not installed or does not work here");
            return None;
        }
        let bwrap = local.bwrap.clone().filter(|_| wrapped);
        Some(Self {
            root,
            sandbox: Sandbox::Local(Local { bwrap, ..local }),
            wrapped,
        })
    }

    pub(crate) async fn run(&self, request: SandboxRequest) -> Finished {
        self.sandbox.run(request, 1, None).await
    }

    pub(crate) async fn run_heard(
        &self,
        request: SandboxRequest,
        output: Sender<Output>,
    ) -> Finished {
        self.sandbox.run(request, 1, Some(output)).await
    }

    /// What is left of all tasks.
    pub(crate) fn left(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.sandbox_root()) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    pub(crate) fn sandbox_root(&self) -> PathBuf {
        self.root.path().join("sandbox")
    }

    /// The directory in which the one task works, from outside.
    pub(crate) fn only_work(&self) -> PathBuf {
        let left = self.left();
        let name = left
            .iter()
            .find(|name| !name.ends_with(".owner"))
            .expect("a task");
        self.sandbox_root().join(name).join("work")
    }

    /// Waits until no process carries the marker, and no directory and no record is left.
    pub(crate) async fn nothing_left(&self, marker: &str) {
        eventually(GONE_DEADLINE, "nothing is left", || async {
            let (living, left) = (living_processes(marker), self.left());
            if living.is_empty() && left.is_empty() {
                Ok(())
            } else {
                Err(format!("{living:?} {left:?}"))
            }
        })
        .await;
    }
}

pub(crate) fn request(cmd: &str) -> SandboxRequest {
    SandboxRequest::command(cmd, 60_000)
}

pub(crate) fn file(path: &str, text: &str) -> FileIn {
    FileIn {
        path: path.into(),
        content: FileContent::Text(text.into()),
    }
}

pub(crate) fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

/// A duration for `sleep` that no other process on the machine uses, so that it is a marker.
pub(crate) fn marker(given: &Given, n: u32) -> String {
    let digits: String = given
        .root
        .path()
        .to_string_lossy()
        .bytes()
        .map(|byte| char::from(b'0' + byte % 10))
        .collect();
    format!("900.{}{digits}{n}", std::process::id())
}

pub(crate) fn stdout(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.result.stdout).into_owned()
}

/// What the result says in words.
pub(crate) fn message(finished: &Finished) -> String {
    let raw = finished.result.raw.as_ref();
    raw.and_then(|raw| raw["message"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// Bytes of memory that this process holds.
pub(crate) fn own_memory() -> u64 {
    memory_of(std::process::id(), "VmRSS")
}

/// Makes two tests of each function: without `bwrap`, and with it.
macro_rules! in_both_sandboxes {
    ($($(#[$meta:meta])* async fn $name:ident($given:ident: Given) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn test($given: &Given) $body

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn plain() {
                if let Some(given) = Given::new(false).await {
                    test(&given).await;
                }
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn bwrap() {
                if let Some(given) = Given::new(true).await {
                    test(&given).await;
                }
            }
        })+
    };
}
pub(crate) use in_both_sandboxes;
