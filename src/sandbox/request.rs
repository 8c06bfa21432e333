//! Owns what is asked of a sandbox and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use super::limits::Limits;
use crate::redact::hide_values;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Well.
    None,
    /// The sandbox did not start.
    BootFail,
    /// The command ended with another exit code than 0.
    CmdNonzero,
    /// The command took too long.
    Timeout,
    /// The command took too much memory.
    Oom,
    /// The sandbox could not be reached.
    NetFail,
    /// The files could not be handed in.
    UploadFail,
    /// The files could not be fetched.
    DownloadFail,
}

impl ErrorCode {
    /// As the database and the wire write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::BootFail => "BOOT_FAIL",
            Self::CmdNonzero => "CMD_NONZERO",
            Self::Timeout => "TIMEOUT",
            Self::Oom => "OOM",
            Self::NetFail => "NET_FAIL",
            Self::UploadFail => "UPLOAD_FAIL",
            Self::DownloadFail => "DOWNLOAD_FAIL",
        }
    }

    /// Whether the infrastructure failed, and not the command.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::BootFail | Self::NetFail | Self::UploadFail | Self::DownloadFail
        )
    }
}

/// The content of a file.
pub enum FileContent {
    /// Text that is at hand.
    Text(String),
    /// Whatever this reads, which need not fit in memory.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

/// A file that the command finds in its directory.
pub struct FileIn {
    /// Relative to the directory.
    pub path: String,
    /// Its content.
    pub content: FileContent,
}

/// A command to run.
pub struct SandboxRequest {
    /// The environment it runs in.
    pub env_ref: String,
    /// The command, for `sh`.
    pub cmd: String,
    /// The files it finds.
    pub files_in: Vec<FileIn>,
    /// The files that are fetched afterwards: paths and globs, relative to the directory. Nothing else is.
    pub out: Vec<String>,
    /// Variables beside the few that every command has.
    pub env: BTreeMap<String, String>,
    /// The directory it starts in, below its own.
    pub workdir: Option<String>,
    /// Milliseconds that it may take.
    pub timeout_ms: u64,
    /// What it may use.
    pub limits: Limits,
    /// Whether it may use the network.
    pub net: bool,
    /// The task.
    pub task_key: String,
}

impl SandboxRequest {
    /// A command with nothing but its directory, for `timeout_ms`.
    pub fn command(cmd: impl Into<String>, timeout_ms: u64) -> Self {
        Self {
            env_ref: "local".into(),
            cmd: cmd.into(),
            files_in: Vec::new(),
            out: Vec::new(),
            env: BTreeMap::new(),
            workdir: None,
            timeout_ms,
            limits: Limits::default(),
            net: true,
            task_key: String::new(),
        }
    }

    /// The request as a document, without the contents of files and the values of variables, which may be secrets.
    pub fn describe(&self) -> Value {
        let files: Vec<Value> = self
            .files_in
            .iter()
            .map(|file| json!({"path": file.path}))
            .collect();
        let mut document = json!({
            "envRef": self.env_ref, "cmd": self.cmd, "filesIn": files, "out": self.out, "env": self.env,
            "timeoutMs": self.timeout_ms, "limits": self.limits, "net": self.net, "taskKey": self.task_key,
        });
        if let Some(workdir) = &self.workdir {
            document["workdir"] = json!(workdir);
        }
        hide_values(&mut document, "/env");
        document
    }
}

/// One of the two streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What it says.
    Stdout,
    /// What it complains.
    Stderr,
}

/// A piece of what a command writes, as it writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
}

/// What the command took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Milliseconds from start to end.
    pub wall_ms: u64,
    /// Milliseconds of processor time; 0 where nobody knows.
    pub cpu_ms: u64,
    /// Most megabytes of memory at once; 0 where nobody knows.
    #[serde(rename = "memPeakMB")]
    pub mem_peak_mb: u64,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxResult {
    /// The exit code; 128 and the signal's number for a command that was killed.
    pub exit: Option<i32>,
    /// The signal that killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote, up to a cap.
    #[serde(serialize_with = "lossy")]
    pub stdout: Vec<u8>,
    /// What it complained, up to a cap.
    #[serde(serialize_with = "lossy")]
    pub stderr: Vec<u8>,
    /// What it took.
    pub metrics: Metrics,
    /// Where it ran.
    pub sandbox_ref: String,
    /// How it ended.
    pub err_code: ErrorCode,
    /// The task.
    pub task_key: String,
    /// What else is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Value>,
}

impl SandboxResult {
    /// A result without output.
    pub(super) fn ended(
        task_key: impl Into<String>,
        sandbox_ref: impl Into<String>,
        err_code: ErrorCode,
        exit: Option<i32>,
    ) -> Self {
        Self {
            exit,
            signal: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            metrics: Metrics::default(),
            sandbox_ref: sandbox_ref.into(),
            err_code,
            task_key: task_key.into(),
            raw: None,
        }
    }

    /// Says in words what went wrong.
    pub(super) fn explained(self, message: &str) -> Self {
        let raw = json!({
            "errCode": self.err_code, "exit": self.exit, "signal": self.signal, "sandboxRef": self.sandbox_ref, "message": message,
        });
        Self {
            raw: Some(raw),
            ..self
        }
    }
}

fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}
