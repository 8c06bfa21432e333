//! Owns what a task leaves: its output and its files, kept before its checkpoint names them, and the artifacts that name them.

use std::io::{self, Cursor};

use serde_json::{Value, json};

use super::{
    rows::{self, Artifact, Payload},
    task_workflow::TaskInput,
};
use crate::{
    sandbox::{ErrorCode, Finished, SandboxResult},
    store::{
        Database,
        app_rows::Row,
        backend::persist,
        blobs::{self, PutError, Stored},
    },
};

/// Content up to this size stays in its artifact's row: a row of its own would be larger than what it saves.
const SMALL_BYTES: usize = 4 * 1024;
/// Artifact numbers that each task owns.
const IDX_PER_TASK: usize = 1_000;
const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// Content that outlives the task's directory.
enum Kept {
    Small(Vec<u8>),
    Stored(Stored),
}

impl Kept {
    fn payload<'a>(&'a self, mime: &'a str) -> Payload<'a> {
        match self {
            Self::Small(bytes) => Payload::Bytes(bytes, mime),
            Self::Stored(stored) => Payload::Stored(stored, mime),
        }
    }
}

/// What a task leaves, kept.
pub(super) struct Left {
    stdout: Kept,
    stderr: Kept,
    files: Vec<(String, Kept)>,
}

/// Keeps what the command has left. A file that cannot be read is an error of the task, if it has none of its own.
pub(super) async fn keep(db: &Database, finished: &mut Finished) -> Left {
    let mut files = Vec::with_capacity(finished.files.len());
    let mut unreadable = None;
    for file in &finished.files {
        let kept = match finished.open(file) {
            Ok(open) => keep_file(db, open, file.size).await,
            Err(error) => Err(error),
        };
        match kept {
            Ok(kept) => files.push((file.path.clone(), kept)),
            Err(error) => {
                unreadable = Some(format!("{:?} cannot be read: {error}", file.path));
                break;
            }
        }
    }
    let result = &mut finished.result;
    if let Some(message) = unreadable {
        files.clear();
        if result.err_code == ErrorCode::None {
            result.err_code = ErrorCode::DownloadFail;
            result.raw = Some(json!({"errCode": result.err_code, "message": message}));
        }
    }
    Left {
        stdout: keep_bytes(db, std::mem::take(&mut result.stdout)).await,
        stderr: keep_bytes(db, std::mem::take(&mut result.stderr)).await,
        files,
    }
}

async fn keep_bytes(db: &Database, bytes: Vec<u8>) -> Kept {
    if bytes.len() <= SMALL_BYTES {
        return Kept::Small(bytes);
    }
    let mut source = Cursor::new(bytes);
    match put(db, &mut source).await {
        Ok(stored) => Kept::Stored(stored),
        // What is in memory can always be read; if not, it is still here.
        Err(_) => Kept::Small(source.into_inner()),
    }
}

async fn keep_file(db: &Database, mut file: tokio::fs::File, size: u64) -> io::Result<Kept> {
    use tokio::io::AsyncReadExt;
    if size > SMALL_BYTES as u64 {
        return put(db, &mut file).await.map(Kept::Stored);
    }
    let mut bytes = Vec::new();
    file.take(SMALL_BYTES as u64)
        .read_to_end(&mut bytes)
        .await?;
    Ok(Kept::Small(bytes))
}

/// Stores content, however often the database has to be asked; what cannot be read is an error.
async fn put(
    db: &Database,
    source: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncSeek + Unpin + Send),
) -> io::Result<Stored> {
    let source = tokio::sync::Mutex::new(source);
    persist("store what a task left", || async {
        use tokio::io::AsyncSeekExt;
        let mut source = source.lock().await;
        if let Err(error) = source.rewind().await {
            return Ok(Err(error));
        }
        match blobs::put(db, &mut **source).await {
            Ok(stored) => Ok(Ok(stored)),
            Err(PutError::Read(error)) => Ok(Err(error)),
            Err(PutError::Store(error)) => Err(error),
        }
    })
    .await
}

/// The artifacts of a task: an index first, then its output, its files, and its figures.
pub(super) fn artifacts(
    task: &TaskInput,
    result: &SandboxResult,
    left: &Left,
    created_at: i64,
) -> Vec<Row> {
    let timings = json!(result.metrics);
    let raw = result.raw.clone().unwrap_or_else(|| {
        json!({"errCode": result.err_code, "exit": result.exit, "signal": result.signal, "sandboxRef": result.sandbox_ref})
    });
    // A file may be called like one of ours: its place in the address keeps them apart.
    let files = left
        .files
        .iter()
        .map(|(path, kept)| ("file", format!("files/{path}"), kept.payload(BYTES)));
    let parts: Vec<(&str, String, Payload)> = [
        ("stdout", "stdout".to_owned(), left.stdout.payload(TEXT)),
        ("stderr", "stderr".to_owned(), left.stderr.payload(TEXT)),
    ]
    .into_iter()
    .chain(files)
    .chain([
        ("raw", "raw.json".to_owned(), Payload::Json(&raw)),
        (
            "timings",
            "timings.json".to_owned(),
            Payload::Json(&timings),
        ),
    ])
    .collect();
    let base = i32::try_from(task.ordinal * IDX_PER_TASK).unwrap_or(i32::MAX - 1_000);
    let index: Vec<Value> = parts
        .iter()
        .zip(base + 1..)
        .map(|((kind, name, _), idx)| json!({"idx": idx, "kind": kind, "name": name}))
        .collect();
    let index = json!(index);
    let first = (
        "artifact_index",
        "artifact_index.json".to_owned(),
        Payload::Json(&index),
    );
    std::iter::once(first)
        .chain(parts)
        .zip(base..)
        .map(|((kind, name, payload), idx)| {
            rows::artifact(&Artifact {
                run: &task.run_id,
                step: &task.step_id,
                task: &task.task_key,
                idx,
                kind,
                name: &name,
                payload,
                created_at,
            })
        })
        .collect()
}
