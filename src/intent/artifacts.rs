//! Owns how artifacts are shown and handed out.

use super::{IntentError, Product};
use crate::{
    canonical::canonical_json,
    store::artifacts::{self, ArtifactRow},
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

/// The content of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its content type.
    pub mime: String,
    /// Of the bytes, hexadecimal.
    pub sha256: String,
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

impl Product {
    /// The newest attempt of an artifact.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn artifact(&self, id: &str) -> Result<Content, IntentError> {
        let row = artifacts::find(&self.db().read(), id).await?;
        let row = row.ok_or_else(|| IntentError::NotFound {
            what: "artifact",
            id: id.to_owned(),
        })?;
        let bytes = match (row.content, row.inline) {
            (Some(content), _) => content,
            (None, Some(document)) => canonical_json(&document).into_bytes(),
            (None, None) => Vec::new(),
        };
        Ok(Content {
            bytes,
            mime: row.mime,
            sha256: row.sha256,
        })
    }
}
