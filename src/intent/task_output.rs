//! Owns what a task prints while it runs: its pieces become numbered chunks of the run's stream, soon enough for a reader and few enough for the
//! database. The artifacts that the task leaves are the truth; the stream is for those who cannot wait.

use std::{pin::pin, time::Duration};

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

/// How long pieces are gathered before they are stored.
const GATHER: Duration = Duration::from_millis(100);
/// How many bytes, or how many chunks, are enough to store them at once, in one statement.
const ENOUGH_BYTES: usize = 32 * 1024;
const ENOUGH_CHUNKS: usize = 1_000;
/// Chunks that may wait while others are stored; what the command prints then stands in its pipe.
const MOST_CHUNKS: usize = 16 * ENOUGH_CHUNKS;

/// Records one execution of a task.
pub(super) struct Recorder<'a> {
    db: &'a Database,
    claim: Fenced<'a>,
    task: &'a TaskInput,
    gathered: Gathered,
}

impl<'a> Recorder<'a> {
    pub(super) fn begin(
        db: &'a Database,
        claim: Fenced<'a>,
        task: &'a TaskInput,
        attempt: u32,
    ) -> Self {
        let mut gathered = Gathered::new(&task.task_key, attempt);
        gathered.tell(&json!({"state": "began", "ordinal": task.ordinal}));
        Self {
            db,
            claim,
            task,
            gathered,
        }
    }

    /// Records what comes until nobody sends any more. A command does not stand still while the database does: what it prints meanwhile is
    /// gathered.
    pub(super) async fn record(mut self, mut output: mpsc::Receiver<Output>) -> Self {
        loop {
            let mut due = Instant::now() + GATHER;
            while !self.gathered.is_enough() {
                tokio::select! {
                    piece = output.recv() => match piece {
                        None => return self,
                        Some(piece) => {
                            if self.gathered.is_empty() {
                                due = Instant::now() + GATHER;
                            }
                            self.gathered.add(piece);
                        }
                    },
                    () = sleep_until(due), if !self.gathered.is_empty() => break,
                }
            }
            let mut storing = pin!(self.store());
            loop {
                tokio::select! {
                    () = &mut storing => break,
                    piece = output.recv(), if self.gathered.chunks.len() < MOST_CHUNKS => match piece {
                        None => {
                            storing.await;
                            return self;
                        }
                        Some(piece) => self.gathered.add(piece),
                    },
                }
            }
        }
    }

    /// Stores what is left, and that the execution has ended.
    pub(super) async fn end(mut self, result: &SandboxResult) {
        self.gathered.complete();
        self.gathered.tell(&json!({"state": "ended", "errCode": result.err_code, "exit": result.exit, "signal": result.signal}));
        while !self.gathered.is_empty() {
            self.store().await;
        }
    }

    /// Stores the first of what is gathered.
    fn store(&mut self) -> impl Future<Output = ()> + use<'a> {
        let (db, claim, run) = (self.db, self.claim, &self.task.run_id);
        let chunks = self.gathered.take();
        async move {
            persist("store what a task prints", || {
                run_stream::append(db, claim, run, &chunks)
            })
            .await;
        }
    }
}

/// What is to be stored.
struct Gathered {
    task_key: String,
    attempt: i32,
    chunks: Vec<NewChunk>,
    bytes: usize,
    /// Of each stream the beginning of a character whose rest has not come yet.
    tails: [Vec<u8>; 2],
}

impl Gathered {
    fn new(task_key: &str, attempt: u32) -> Self {
        Self {
            task_key: task_key.to_owned(),
            attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
            chunks: Vec::new(),
            bytes: 0,
            tails: Default::default(),
        }
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn is_enough(&self) -> bool {
        self.bytes >= ENOUGH_BYTES || self.chunks.len() >= ENOUGH_CHUNKS
    }

    /// The first chunks, as many as one statement takes.
    fn take(&mut self) -> Vec<NewChunk> {
        let rest = self.chunks.split_off(self.chunks.len().min(ENOUGH_CHUNKS));
        self.bytes = rest.iter().map(|chunk| chunk.bytes.len()).sum();
        std::mem::replace(&mut self.chunks, rest)
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

    /// No character is waited for any more.
    fn complete(&mut self) {
        for (kind, n) in [(ChunkKind::Stdout, 0), (ChunkKind::Stderr, 1)] {
            let tail = std::mem::take(&mut self.tails[n]);
            self.push(kind, tail);
        }
    }

    fn push(&mut self, kind: ChunkKind, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        match self.chunks.last_mut() {
            Some(last) if last.kind == kind && last.bytes.len() < ENOUGH_BYTES => {
                last.bytes.extend(bytes);
            }
            _ => self.chunk(kind, bytes),
        }
    }

    fn tell(&mut self, what: &Value) {
        // Never joined with its neighbours: each is a document of its own.
        self.chunk(ChunkKind::Task, what.to_string().into_bytes());
    }

    fn chunk(&mut self, kind: ChunkKind, bytes: Vec<u8>) {
        self.chunks.push(NewChunk {
            task_key: self.task_key.clone(),
            attempt: self.attempt,
            kind,
            bytes,
        });
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
    fn one_statement_takes_so_many_chunks_and_the_others_stay_in_their_order() {
        let mut gathered = Gathered::new("t", 1);
        let streams = [Stream::Stdout, Stream::Stderr];
        for (n, stream) in (0..2 * ENOUGH_CHUNKS + 1).zip(streams.into_iter().cycle()) {
            let bytes = format!("{n} ").into_bytes();
            gathered.add(Output { stream, bytes });
        }
        assert!(gathered.is_enough(), "few bytes, and many chunks");
        let taken = [gathered.take(), gathered.take(), gathered.take()];
        assert_eq!(
            taken.each_ref().map(Vec::len),
            [ENOUGH_CHUNKS, ENOUGH_CHUNKS, 1]
        );
        let all: Vec<u8> = taken
            .into_iter()
            .flatten()
            .flat_map(|chunk| chunk.bytes)
            .collect();
        let expected: String = (0..2 * ENOUGH_CHUNKS + 1)
            .map(|n| format!("{n} "))
            .collect();
        assert_eq!(String::from_utf8(all).unwrap(), expected);
        assert!(gathered.is_empty() && !gathered.is_enough());
    }

    #[test]
    fn a_character_is_not_cut() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(b"a\xffb"), 3);
        assert_eq!(whole_characters(b""), 0);
    }
}
