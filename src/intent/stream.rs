//! Owns the live stream of a run: what happened since a position, in order. Everything comes from rows, so that a reader may leave at any time and
//! come back to another process; a reader who is slow costs nobody anything.

use std::{fmt, time::Duration};

use super::{IntentError, Product, RunHeader, RunStep};
use crate::store::{
    backend::jitter,
    run_stream::{self, Chunk, Progress},
    status::RunStatus,
};

/// The pause between two looks while tasks print, and when nothing has happened for some time.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_millis(500);
/// After so long without anything the reader is told that the stream lives.
const BEAT: Duration = Duration::from_secs(15);
/// Chunks that are read at once.
const PAGE: u64 = 64;

/// How far a reader has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    seq: i64,
    steps: usize,
    status: Option<RunStatus>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map_or("", RunStatus::as_str);
        write!(f, "{}.{}.{status}", self.seq, self.steps)
    }
}

impl Position {
    /// Reads what [`fmt::Display`] wrote; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        use sea_orm::ActiveEnum;
        let mut parts = text.splitn(3, '.');
        let (seq, steps, status) = (parts.next()?, parts.next()?, parts.next()?);
        let status = if status.is_empty() {
            None
        } else {
            Some(RunStatus::try_from_value(&status.to_owned()).ok()?)
        };
        Some(Self {
            seq: seq.parse().ok().filter(|seq| *seq >= 0)?,
            steps: steps.parse().ok()?,
            status,
        })
    }
}

/// Something that happened in a run.
#[derive(Debug, Clone)]
pub enum Happening {
    /// It stands somewhere else than before.
    Status(Box<RunHeader>),
    /// A product step has ended.
    Step(Box<RunStep>),
    /// A task printed something, began or ended.
    Chunk(Chunk),
    /// It has ended, and everything was told.
    Closed(RunStatus),
}

/// A reader's view of the stream of one run.
#[derive(Debug)]
pub struct RunStream {
    product: Product,
    run: String,
    position: Position,
    follow: bool,
    closed: bool,
}

impl Product {
    /// The stream of a run from a position on; without `follow` it ends where the run stands now.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn stream(
        &self,
        id: &str,
        from: Position,
        follow: bool,
    ) -> Result<RunStream, IntentError> {
        Ok(RunStream {
            product: self.clone(),
            run: self.run_row(id).await?.id,
            position: from,
            follow,
            closed: false,
        })
    }
}

impl RunStream {
    /// What happened since the last call, each with the position behind it; waits until there is something. Empty when the reader should be told
    /// that the stream lives, none when it has ended.
    ///
    /// # Errors
    /// [`IntentError`], when the database says something that trying again does not mend.
    pub async fn next(&mut self) -> Result<Option<Vec<(Position, Happening)>>, IntentError> {
        if self.closed {
            return Ok(None);
        }
        let beat = tokio::time::Instant::now() + BEAT;
        let mut pause = SOON;
        loop {
            match self.look().await {
                Ok(happened) if !happened.is_empty() => return Ok(Some(happened)),
                Ok(_) if !self.follow => return Ok(None),
                Ok(_) => {}
                // A reader outlives a restart of the database.
                Err(IntentError::Store(error)) if error.is_transient() => {
                    tracing::debug!(%error, "a stream cannot look yet");
                }
                Err(error) => return Err(error),
            }
            if tokio::time::Instant::now() >= beat {
                return Ok(Some(Vec::new()));
            }
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(LATER);
        }
    }

    async fn look(&mut self) -> Result<Vec<(Position, Happening)>, IntentError> {
        let read = self.product.db().read();
        let Some(progress) = run_stream::progress(&read, &self.run).await? else {
            return Err(IntentError::run_not_found(&self.run));
        };
        let mut happened = Vec::new();
        let mut at = self.position;
        if progress.seq > at.seq {
            for chunk in run_stream::after(&read, &self.run, at.seq, PAGE).await? {
                at.seq = chunk.seq;
                happened.push((at, Happening::Chunk(chunk)));
            }
            if at.seq < progress.seq {
                // The rest of what is told before the status comes with the next look.
                self.position = at;
                return Ok(happened);
            }
        }
        if usize::try_from(progress.steps).unwrap_or(0) > at.steps {
            let steps = self.product.run_steps(&self.run).await?;
            for step in steps.into_iter().skip(at.steps) {
                at.steps += 1;
                happened.push((at, Happening::Step(Box::new(step))));
            }
        }
        self.tell_status(&progress, &mut at, &mut happened).await?;
        self.position = at;
        Ok(happened)
    }

    /// The status comes last: who hears that a run has ended has heard everything else.
    async fn tell_status(
        &mut self,
        progress: &Progress,
        at: &mut Position,
        happened: &mut Vec<(Position, Happening)>,
    ) -> Result<(), IntentError> {
        let ended = progress.status.is_terminal();
        if at.status != Some(progress.status) {
            let header = self.product.run(&self.run).await?;
            // It may have gone on since; then the next look tells.
            if header.run.status == progress.status {
                at.status = Some(progress.status);
                happened.push((*at, Happening::Status(Box::new(header))));
            }
        }
        if ended && at.status == Some(progress.status) {
            happened.push((*at, Happening::Closed(progress.status)));
            self.closed = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back() {
        for position in [
            Position::default(),
            Position {
                seq: 7,
                steps: 2,
                status: Some(RunStatus::WaitingInput),
            },
        ] {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        for text in ["", "7", "7.2", "x.2.", "-1.0.", "1.1.nowhere", "1.-1."] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
    }
}
