//! Owns what is asked of a sandbox and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

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

/// A file that the command finds in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIn {
    /// Relative to the directory.
    pub path: String,
    /// Its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
    /// Where its content is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// What the command may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Megabytes of memory.
    #[serde(rename = "memMB", skip_serializing_if = "Option::is_none")]
    pub mem_mb: Option<u64>,
}

/// A command to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxRequest {
    /// The environment it runs in.
    pub env_ref: String,
    /// The command, for `sh`.
    pub cmd: String,
    /// The files it finds.
    pub files_in: Vec<FileIn>,
    /// Variables beside the few that every command has.
    pub env: BTreeMap<String, String>,
    /// The directory it starts in, below its own.
    #[serde(skip_serializing_if = "Option::is_none")]
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

/// A file that the command has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileOut {
    /// Relative to the directory.
    pub path: String,
    /// Of its content, hexadecimal.
    pub sha256: String,
    /// Its content; kept apart from the document.
    #[serde(skip)]
    pub content: Vec<u8>,
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
    /// What it wrote, up to a cap.
    #[serde(serialize_with = "lossy")]
    pub stdout: Vec<u8>,
    /// What it complained, up to a cap.
    #[serde(serialize_with = "lossy")]
    pub stderr: Vec<u8>,
    /// The files that it created or changed.
    pub files_out: Vec<FileOut>,
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
        request: &SandboxRequest,
        sandbox_ref: impl Into<String>,
        err_code: ErrorCode,
        exit: Option<i32>,
    ) -> Self {
        Self {
            exit,
            stdout: Vec::new(),
            stderr: Vec::new(),
            files_out: Vec::new(),
            metrics: Metrics::default(),
            sandbox_ref: sandbox_ref.into(),
            err_code,
            task_key: request.task_key.clone(),
            raw: None,
        }
    }

    /// A result that says what went wrong outside the command.
    pub(super) fn failed(
        request: &SandboxRequest,
        sandbox_ref: impl Into<String>,
        err_code: ErrorCode,
        message: impl Into<String>,
    ) -> Self {
        let message: String = message.into();
        let raw = Some(serde_json::json!({"errCode": err_code, "message": message}));
        Self {
            raw,
            ..Self::ended(request, sandbox_ref, err_code, None)
        }
    }
}

fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
pub(super) fn request(cmd: &str) -> SandboxRequest {
    SandboxRequest {
        env_ref: "local".into(),
        cmd: cmd.into(),
        files_in: Vec::new(),
        env: BTreeMap::new(),
        workdir: None,
        timeout_ms: 20_000,
        limits: Limits::default(),
        net: true,
        task_key: "t".into(),
    }
}
