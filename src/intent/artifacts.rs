//! Owns how artifacts are shown and handed out.

use std::ops::Range;

use futures_util::stream::{self, Stream};

use super::{IntentError, Product};
use crate::{
    canonical::canonical_json,
    store::{
        Database, StoreError,
        artifacts::{self, ArtifactRow},
        backend::until_there,
        blobs::{self, CHUNK_BYTES},
    },
};

/// An artifact without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRef {
    /// Its id.
    pub id: String,
    /// The run's workflow.
    pub workflow_id: String,
    /// The step.
    pub step_id: String,
    /// What it is.
    pub kind: String,
    /// Its content type.
    pub mime: String,
    /// Bytes.
    pub size: i64,
    /// Of its content, hexadecimal.
    pub sha256: String,
    /// Where its content is kept, if not in the database.
    pub storage_key: Option<String>,
}

/// The content of an artifact, which may be larger than memory.
#[derive(Debug, Clone)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// Its content type.
    pub mime: String,
    /// Of the bytes, hexadecimal.
    pub sha256: String,
    place: Place,
}

/// Where a content is.
#[derive(Debug, Clone)]
enum Place {
    /// In the artifact's row, read already.
    Row(Vec<u8>),
    /// In the store of contents, under its hash.
    Blob(Database),
}

impl Content {
    /// The bytes of `range` in pieces. Between two pieces nothing is held, however slow the reader is.
    pub fn read(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Vec<u8>, StoreError>> + Send + 'static {
        let end = range.end.min(self.size);
        let state = (self, range.start.min(end));
        stream::try_unfold(state, move |(content, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let piece = content.piece(at, end).await?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (content, next))))
        })
    }

    /// The bytes from `at`, at most to `end`, of which there are some.
    async fn piece(&self, at: u64, end: u64) -> Result<Vec<u8>, StoreError> {
        let (mut bytes, first) = match &self.place {
            Place::Row(bytes) => (bytes.clone(), 0),
            Place::Blob(db) => {
                let seq = at / CHUNK_BYTES as u64;
                // Whoever has begun to read waits for a database that is away.
                let chunk = until_there(|| blobs::chunk_of(db, &self.sha256, seq)).await?;
                (chunk, seq * CHUNK_BYTES as u64)
            }
        };
        let within = |position: u64| usize::try_from(position - first).unwrap_or(usize::MAX);
        bytes.truncate(within(end));
        let piece = bytes.split_off(within(at).min(bytes.len()));
        if piece.is_empty() {
            let message = format!("content {} ends before byte {end}", self.sha256);
            return Err(StoreError::Database(message));
        }
        Ok(piece)
    }
}

pub(super) fn reference(row: &ArtifactRow) -> ArtifactRef {
    ArtifactRef {
        id: row.uri.clone(),
        workflow_id: row.run_id.clone(),
        step_id: row.step_id.clone(),
        kind: row.kind.clone(),
        mime: row.mime.clone(),
        size: row.size,
        sha256: row.sha256.clone(),
        storage_key: row.storage_key.clone(),
    }
}

/// The content of the newest attempt of an artifact, if there is one.
pub(super) async fn content(db: &Database, id: &str) -> Result<Option<Content>, StoreError> {
    let Some(row) = artifacts::find(&db.read(), id).await? else {
        return Ok(None);
    };
    let place = match (row.content, row.inline, &row.storage_key) {
        (Some(content), _, _) => Place::Row(content),
        (None, None, Some(_)) => Place::Blob(db.clone()),
        // The document `null` is none to the database.
        (None, document, _) => {
            Place::Row(canonical_json(&document.unwrap_or_default()).into_bytes())
        }
    };
    Ok(Some(Content {
        size: u64::try_from(row.size).unwrap_or(0),
        mime: row.mime,
        sha256: row.sha256,
        place,
    }))
}

impl Product {
    /// The newest attempt of an artifact.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn artifact(&self, id: &str) -> Result<Content, IntentError> {
        content(self.db(), id)
            .await?
            .ok_or_else(|| IntentError::NotFound {
                what: "artifact",
                id: id.to_owned(),
            })
    }
}
