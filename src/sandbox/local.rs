//! The sandbox on this machine: a directory and a session per command, a clean environment, limits and a deadline; with `bwrap` a read-only
//! file system and its own processes, too. `docs/sandbox.md` says what it does not isolate. The command is started, watched and ended by a shim,
//! a process of its own (see `shim`), so that this one may die at any instant and leave nothing behind.

mod inputs;
mod outputs;
mod task;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::ChildStdout,
    sync::mpsc,
};

pub(super) use task::Task;
pub use task::reap;

use super::{
    bwrap,
    finished::Finished,
    limits::Bounds,
    protocol::{self, Ending, HEADER_BYTES, Job, Kind, Report, STREAM_BYTES, Verdict},
    request::{ErrorCode, Metrics, Output, SandboxRequest, SandboxResult, Stream},
};

/// Where commands are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much longer than its command a shim may be silent: it has to end everything first, and the machine may be busy.
const MARGIN: Duration = Duration::from_secs(20);
/// Bytes that a stream may have beyond the cap: the mark where it was cut.
const MARK_BYTES: usize = 100;
/// The signal for a file over its limit.
const SIGXFSZ: i32 = 25;

/// Runs commands with `sh` below `root`.
#[derive(Debug, Clone)]
pub struct Local {
    /// The directory in which each command gets one.
    pub root: PathBuf,
    /// The program that serves as shim: this one.
    pub shim: PathBuf,
    /// How much longer every command takes.
    pub chaos_sleep: Duration,
    /// `bwrap`, to isolate further.
    pub bwrap: Option<PathBuf>,
}

impl Local {
    /// A sandbox that uses `bwrap` if it is installed and works here.
    pub async fn detect(root: PathBuf, shim: PathBuf, chaos_sleep: Duration) -> Self {
        let bwrap = match bwrap::detect().await {
            Ok(bwrap) => Some(bwrap),
            Err(why) => {
                tracing::info!("the local sandbox does without bwrap: {why}");
                None
            }
        };
        Self {
            root,
            shim,
            chaos_sleep,
            bwrap,
        }
    }

    /// What it is called in front of people.
    pub fn name(&self) -> &'static str {
        if self.bwrap.is_some() {
            "local (bwrap)"
        } else {
            "local"
        }
    }

    pub(super) async fn run(
        &self,
        request: SandboxRequest,
        output: Option<mpsc::Sender<Output>>,
    ) -> Finished {
        if !self.chaos_sleep.is_zero() {
            tokio::time::sleep(self.chaos_sleep).await;
        }
        let task_key = request.task_key.clone();
        let mut task = match Task::start(&self.root, &self.shim) {
            Ok(task) => task,
            Err(error) => {
                let message = format!("no directory and no shim for the task: {error}");
                return Finished::failed(task_key, "local", ErrorCode::BootFail, &message);
            }
        };
        let reference = match self.bwrap {
            Some(_) => format!("local:bwrap:{}", task.name()),
            None => format!("local:{}", task.name()),
        };
        let out = request.out.clone();
        let (result, wants_files) = match self.execute(&mut task, request, output).await {
            Ok(heard) => heard.result(task_key, reference),
            Err((err_code, message)) => {
                return Finished::failed(task_key, reference, err_code, &message);
            }
        };
        if !wants_files || out.is_empty() {
            return Finished::with_files(result, Vec::new(), task);
        }
        let work = task.work();
        let found = tokio::task::spawn_blocking(move || outputs::find(&work, &out)).await;
        match found.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(files) => Finished::with_files(result, files, task),
            // The command's own failure says more than that its files could not be fetched.
            Err(_) if result.err_code != ErrorCode::None => {
                Finished::with_files(result, Vec::new(), task)
            }
            Err(message) => {
                let failed = SandboxResult {
                    err_code: ErrorCode::DownloadFail,
                    ..result
                };
                Finished::with_files(failed.explained(&message), Vec::new(), task)
            }
        }
    }

    /// Hands the job to the shim and listens until it reports.
    async fn execute(
        &self,
        task: &mut Task,
        request: SandboxRequest,
        output: Option<mpsc::Sender<Output>>,
    ) -> Result<Heard, (ErrorCode, String)> {
        let boot = |message: String| (ErrorCode::BootFail, message);
        let upload = |message: String| (ErrorCode::UploadFail, message);
        let work = task.work();
        inputs::hand_in(&work, request.files_in)
            .await
            .map_err(upload)?;
        let workdir = inputs::workdir(&work, request.workdir.as_deref())
            .await
            .map_err(upload)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let bounds = Bounds::new(&request.limits, request.timeout_ms, processors);
        let mut env: std::collections::BTreeMap<String, String> = [
            ("PATH", PATH.to_owned()),
            ("HOME", text(&work).map_err(boot)?),
            ("TMPDIR", text(&task.place().tmp()).map_err(boot)?),
            ("LANG", "C.UTF-8".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(request.env);
        let job = Job {
            cmd: request.cmd,
            env,
            workdir,
            timeout_ms: request.timeout_ms,
            net: request.net,
            bounds,
            bwrap: self.bwrap.clone(),
        };
        let mut line = serde_json::to_vec(&job).map_err(|e| boot(e.to_string()))?;
        line.push(b'\n');
        let gone = || boot("the shim of the task does not listen".into());
        let leash = task.leash().ok_or_else(gone)?;
        // A shim that ends here has said why in its report.
        let _ = leash.write_all(&line).await;
        let mut heard = Heard::new(output);
        let voice = task.voice().ok_or_else(gone)?;
        let limit = Duration::from_millis(request.timeout_ms);
        match heard.listen(voice, limit).await {
            Ok(()) => Ok(heard),
            Err(message) => {
                task.give_up();
                Err(boot(message))
            }
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("the path {path:?} is not UTF-8"))
}

/// What a shim has said.
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    report: Report,
    output: Option<mpsc::Sender<Output>>,
}

impl Heard {
    fn new(output: Option<mpsc::Sender<Output>>) -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            report: Report::default(),
            output,
        }
    }

    /// Reads frames up to the report. A shim that is silent for too long has been stopped by its job.
    async fn listen(&mut self, mut voice: ChildStdout, limit: Duration) -> Result<(), String> {
        let ends = tokio::time::Instant::now() + limit;
        loop {
            let patience = ends.saturating_duration_since(tokio::time::Instant::now()) + MARGIN;
            let frame = tokio::time::timeout(patience, read_frame(&mut voice));
            let (kind, payload) = frame
                .await
                .map_err(|_| "the shim of the task does not answer: something has stopped it")?
                .map_err(|e| format!("the shim of the task ended without a report: {e}"))?;
            let (kept, stream) = match kind {
                Kind::Report => {
                    self.report = serde_json::from_slice(&payload)
                        .map_err(|e| format!("the report of the task's shim is none: {e}"))?;
                    return Ok(());
                }
                Kind::Stdout => (&mut self.stdout, Stream::Stdout),
                Kind::Stderr => (&mut self.stderr, Stream::Stderr),
            };
            if kept.len() + payload.len() > STREAM_BYTES + MARK_BYTES {
                return Err("the shim of the task says more than it may".into());
            }
            kept.extend_from_slice(&payload);
            if let Some(output) = &self.output {
                let bytes = payload;
                if output.send(Output { stream, bytes }).await.is_err() {
                    // Nobody wants to see it as it comes any more; the result will have it.
                    self.output = None;
                }
            }
        }
    }

    /// The result, and whether the command got as far as leaving files.
    fn result(self, task_key: String, reference: String) -> (SandboxResult, bool) {
        let report = self.report;
        let signal = match report.ending {
            Some(Ending::Signal(signal)) => Some(signal),
            _ => None,
        };
        let exit = report.ending.map(Ending::exit_code);
        let (err_code, exit, signal) = match report.verdict {
            None if exit == Some(0) => (ErrorCode::None, exit, None),
            None => (ErrorCode::CmdNonzero, exit, signal),
            Some(Verdict::NotStarted) => (ErrorCode::BootFail, None, None),
            Some(Verdict::Timeout) => (ErrorCode::Timeout, None, None),
            Some(Verdict::Memory) => (ErrorCode::Oom, Some(137), Some(9)),
            Some(Verdict::Excess) => (ErrorCode::CmdNonzero, Some(137), Some(9)),
        };
        let result = SandboxResult {
            signal,
            stdout: self.stdout,
            stderr: self.stderr,
            metrics: Metrics {
                wall_ms: report.wall_ms,
                cpu_ms: report.cpu_ms,
                mem_peak_mb: report.mem_peak_bytes.div_ceil(1024 * 1024),
            },
            ..SandboxResult::ended(task_key, reference, err_code, exit)
        };
        let message = report.message.or_else(|| {
            (exit == Some(128 + SIGXFSZ)).then(|| "a file grew over its limit".to_owned())
        });
        let result = match message {
            Some(message) => result.explained(&message),
            None => result,
        };
        (result, err_code != ErrorCode::BootFail)
    }
}

async fn read_frame(voice: &mut ChildStdout) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; HEADER_BYTES];
    voice.read_exact(&mut head).await?;
    let (kind, length) = protocol::header(head)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not speak in frames"))?;
    let mut payload = vec![0; length];
    voice.read_exact(&mut payload).await?;
    Ok((kind, payload))
}
