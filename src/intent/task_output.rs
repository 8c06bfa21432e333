//! Owns what a task prints while it runs: its pieces become numbered chunks of the run's stream, soon enough for a reader and few enough for the
//! database. The artifacts that the task leaves are the truth; the stream is for those who cannot wait.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::task_workflow::TaskInput;
use crate::{
    sandbox::{Output, SandboxResult, Stream},
    store::{
        Database,
        backend::persist,
        claims::Fenced,
        run_stream::{self, ChunkKind, NewChunk},
    },
};

/// How long pieces are gathered before they are stored, and how many bytes are enough to store them at once.
const GATHER: Duration = Duration::from_millis(100);
const ENOUGH_BYTES: usize = 32 * 1024;

/// Records one execution of a task.
pub(super) struct Recorder<'a> {
    db: &'a Database,
    claim: Fenced<'a>,
    task: &'a TaskInput,
    attempt: i32,
    pending: Vec<NewChunk>,
    bytes: usize,
    /// Of each stream the beginning of a character whose rest has not come yet.
    tails: [Vec<u8>; 2],
}

impl<'a> Recorder<'a> {
    pub(super) fn begin(
        db: &'a Database,
        claim: Fenced<'a>,
        task: &'a TaskInput,
        attempt: u32,
    ) -> Self {
        let mut recorder = Self {
            db,
            claim,
            task,
            attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
            pending: Vec::new(),
            bytes: 0,
            tails: Default::default(),
        };
        recorder.tell(&json!({"state": "began", "ordinal": task.ordinal}));
        recorder
    }

    /// Records what comes until nobody sends any more.
    pub(super) async fn record(mut self, mut output: mpsc::Receiver<Output>) -> Self {
        let mut due = Instant::now() + GATHER;
        loop {
            tokio::select! {
                piece = output.recv() => match piece {
                    None => return self,
                    Some(piece) => {
                        if self.pending.is_empty() {
                            due = Instant::now() + GATHER;
                        }
                        self.add(piece);
                        if self.bytes >= ENOUGH_BYTES {
                            self.store().await;
                        }
                    }
                },
                () = sleep_until(due), if !self.pending.is_empty() => self.store().await,
            }
        }
    }

    /// Stores what is left, and that the execution has ended.
    pub(super) async fn end(mut self, result: &SandboxResult) {
        for (kind, n) in [(ChunkKind::Stdout, 0), (ChunkKind::Stderr, 1)] {
            let tail = std::mem::take(&mut self.tails[n]);
            self.push(kind, tail);
        }
        self.tell(&json!({"state": "ended", "errCode": result.err_code, "exit": result.exit, "signal": result.signal}));
        self.store().await;
    }

    fn add(&mut self, piece: Output) {
        let (kind, n) = match piece.stream {
            Stream::Stdout => (ChunkKind::Stdout, 0),
            Stream::Stderr => (ChunkKind::Stderr, 1),
        };
        let mut bytes = std::mem::take(&mut self.tails[n]);
        bytes.extend(piece.bytes);
        self.tails[n] = bytes.split_off(whole_characters(&bytes));
        self.push(kind, bytes);
    }

    fn push(&mut self, kind: ChunkKind, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        match self.pending.last_mut() {
            Some(last) if last.kind == kind && last.bytes.len() < ENOUGH_BYTES => {
                last.bytes.extend(bytes);
            }
            _ => self.pending.push(NewChunk {
                task_key: self.task.task_key.clone(),
                attempt: self.attempt,
                kind,
                bytes,
            }),
        }
    }

    fn tell(&mut self, what: &Value) {
        // Never joined with its neighbours: each is a document of its own.
        self.pending.push(NewChunk {
            task_key: self.task.task_key.clone(),
            attempt: self.attempt,
            kind: ChunkKind::Task,
            bytes: what.to_string().into_bytes(),
        });
    }

    async fn store(&mut self) {
        let chunks = std::mem::take(&mut self.pending);
        self.bytes = 0;
        persist("store what a task prints", || {
            run_stream::append(self.db, self.claim, &self.task.run_id, &chunks)
        })
        .await;
    }
}

/// How many of `bytes` are not the beginning of a character whose rest is missing.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        // Bytes that are no text at all are nobody's beginning.
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_cut() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(b"a\xffb"), 3);
        assert_eq!(whole_characters(b""), 0);
    }
}
