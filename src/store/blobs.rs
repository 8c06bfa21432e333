//! Owns content by its hash: each content is stored once, in chunks, so that a gigabyte passes through without ever being in memory. Content is
//! complete if and only if its row in `blobs` is there; chunks without one are the beginning of a content that somebody is handing in, or was.

use std::io;

use sea_orm::ConnectionTrait;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};

use super::{
    backend::{Database, retrying, statement},
    dialect::dialect,
    error::StoreError,
};
use crate::canonical::hex;

/// Bytes of every chunk but the last: what is in memory at once, and the unit of a range.
pub const CHUNK_BYTES: usize = 512 * 1024;
/// How an artifact's `storage_key` names a blob.
const KEY_PREFIX: &str = "blob:";

/// Content that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Of the content, hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Stored {
    /// As an artifact's row names it.
    pub fn storage_key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.sha256)
    }
}

/// The hash in a `storage_key`; none for a key of another kind.
pub fn hash_of_key(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_PREFIX)
}

/// Why content was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// It cannot be read.
    #[error("the content cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The database did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores what `source` holds, from its beginning. It is read twice: first for its hash, and again only when nobody has stored it before.
///
/// # Errors
/// [`PutError`]; then the chunks that were written are left to the garbage collection, or to the next who hands the same in.
pub async fn put(
    db: &Database,
    source: &mut (impl AsyncRead + AsyncSeek + Unpin + Send),
) -> Result<Stored, PutError> {
    let stored = hash(source).await?;
    if touch(db, &stored).await? {
        return Ok(stored);
    }
    source.rewind().await?;
    let mut hasher = Sha256::new();
    let mut chunks = 0_i32;
    loop {
        let chunk = next_chunk(source).await?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(&chunk);
        put_chunk(db, &stored.sha256, chunks, chunk).await?;
        chunks += 1;
    }
    if hex(&hasher.finalize()) != stored.sha256 {
        return Err(io::Error::other("it changed while it was read").into());
    }
    complete(db, &stored, chunks).await?;
    Ok(stored)
}

async fn hash(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Stored> {
    let mut hasher = Sha256::new();
    let mut size = 0_u64;
    loop {
        let chunk = next_chunk(source).await?;
        if chunk.is_empty() {
            break;
        }
        size += chunk.len() as u64;
        hasher.update(&chunk);
    }
    Ok(Stored {
        sha256: hex(&hasher.finalize()),
        size,
    })
}

/// The next chunk: as long as all others, unless the source ends in it.
async fn next_chunk(source: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::new();
    source
        .take(CHUNK_BYTES as u64)
        .read_to_end(&mut chunk)
        .await?;
    Ok(chunk)
}

/// Whether the content is stored; then it is not old any more.
async fn touch(db: &Database, stored: &Stored) -> Result<bool, StoreError> {
    let write = db.write();
    let text = format!(
        "UPDATE \"app\".blobs SET used_at = {} WHERE sha256 = $1",
        dialect(&write).now()
    );
    retrying(|| async {
        let touched = write
            .execute_raw(statement(
                &write,
                text.clone(),
                [stored.sha256.as_str().into()],
            ))
            .await?;
        Ok(touched.rows_affected() == 1)
    })
    .await
}

/// Two who hand in the same content write the same chunks.
async fn put_chunk(
    db: &Database,
    sha256: &str,
    seq: i32,
    bytes: Vec<u8>,
) -> Result<(), StoreError> {
    let write = db.write();
    let text = format!(
        "INSERT INTO \"app\".blob_chunks (sha256, seq, bytes, used_at) VALUES ($1, $2, $3, {}) \
         ON CONFLICT (sha256, seq) DO UPDATE SET used_at = excluded.used_at",
        dialect(&write).now()
    );
    retrying(|| async {
        let values = [sha256.into(), seq.into(), bytes.clone().into()];
        write
            .execute_raw(statement(&write, text.clone(), values))
            .await?;
        Ok(())
    })
    .await
}

async fn complete(db: &Database, stored: &Stored, chunks: i32) -> Result<(), StoreError> {
    let write = db.write();
    let text = format!(
        "INSERT INTO \"app\".blobs (sha256, size, used_at) SELECT $1, $2, {} \
         WHERE (SELECT count(*) FROM \"app\".blob_chunks WHERE sha256 = $1) = $3 ON CONFLICT (sha256) DO UPDATE SET used_at = excluded.used_at",
        dialect(&write).now()
    );
    let size = i64::try_from(stored.size).unwrap_or(i64::MAX);
    retrying(|| async {
        let values = [
            stored.sha256.as_str().into(),
            size.into(),
            i64::from(chunks).into(),
        ];
        let completed = write
            .execute_raw(statement(&write, text.clone(), values))
            .await?;
        if completed.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::Database(format!(
                "the chunks of {} are incomplete",
                stored.sha256
            )))
        }
    })
    .await
}

/// One chunk of a content that is stored.
pub async fn chunk_of(db: &Database, sha256: &str, seq: u64) -> Result<Vec<u8>, StoreError> {
    let read = db.read();
    let text = "SELECT bytes FROM \"app\".blob_chunks WHERE sha256 = $1 AND seq = $2";
    let at = i32::try_from(seq).unwrap_or(i32::MAX);
    let row = read
        .query_one_raw(statement(&read, text, [sha256.into(), at.into()]))
        .await?;
    match row {
        Some(row) => Ok(row.try_get_by_index(0)?),
        None => Err(StoreError::Database(format!(
            "content {sha256} has no chunk {seq}"
        ))),
    }
}

/// Deletes content that no artifact names and that nobody has handed in for `age_ms`; answers how many contents went. Whoever hands in the same
/// meanwhile makes it young first, and a row that became young while this statement waited for it stays.
pub async fn collect_garbage(db: &Database, age_ms: i64) -> Result<u64, StoreError> {
    let write = db.write();
    let now = dialect(&write).now();
    let unused = format!(
        "DELETE FROM \"app\".blobs WHERE used_at < {now} - $1 \
         AND NOT EXISTS (SELECT 1 FROM \"app\".artifacts a WHERE a.storage_key = '{KEY_PREFIX}' || blobs.sha256)"
    );
    let deleted = write
        .execute_raw(statement(&write, unused, [age_ms.into()]))
        .await?
        .rows_affected();
    let orphans = format!(
        "DELETE FROM \"app\".blob_chunks WHERE used_at < {now} - $1 \
         AND NOT EXISTS (SELECT 1 FROM \"app\".blobs b WHERE b.sha256 = blob_chunks.sha256)"
    );
    write
        .execute_raw(statement(&write, orphans, [age_ms.into()]))
        .await?;
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::{engine::migrate, store::DatabaseOptions};

    async fn database(directory: &std::path::Path) -> Database {
        let url = format!("sqlite://{}/blobs.db", directory.display());
        let db = Database::connect(&DatabaseOptions::new(url)).await.unwrap();
        migrate(&db).await.unwrap();
        db
    }

    async fn count(db: &Database, table: &str) -> i64 {
        let read = db.read();
        let text = format!("SELECT count(*) FROM \"app\".{table}");
        let row = read
            .query_one_raw(statement(&read, text, []))
            .await
            .unwrap();
        row.unwrap().try_get_by_index(0).unwrap()
    }

    #[tokio::test]
    async fn the_same_content_is_stored_once_and_read_in_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let db = database(directory.path()).await;
        let content: Vec<u8> = (0..CHUNK_BYTES * 2 + 7).map(|n| (n % 251) as u8).collect();
        let first = put(&db, &mut Cursor::new(content.clone())).await.unwrap();
        let second = put(&db, &mut Cursor::new(content.clone())).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(
            (count(&db, "blobs").await, count(&db, "blob_chunks").await),
            (1, 3)
        );

        let mut read = Vec::new();
        for seq in 0..3 {
            read.extend(chunk_of(&db, &first.sha256, seq).await.unwrap());
        }
        chunk_of(&db, &first.sha256, 3).await.unwrap_err();
        assert!(read == content, "what is read is what was stored");
    }

    #[tokio::test]
    async fn only_what_nobody_names_is_garbage_and_only_when_it_is_old() {
        let directory = tempfile::tempdir().unwrap();
        let db = database(directory.path()).await;
        let named = put(&db, &mut Cursor::new(b"named".to_vec())).await.unwrap();
        put(&db, &mut Cursor::new(b"unnamed".to_vec()))
            .await
            .unwrap();
        let write = db.write();
        let artifact = "INSERT INTO \"app\".artifacts (run_id, step_id, task_key, idx, attempt, kind, name, uri, mime, size, sha256, storage_key, created_at) \
                        VALUES ('r', 's', '-', 0, 1, 'file', 'f', 'u', 'm', 5, $1, $2, 0)";
        let values = [named.sha256.as_str().into(), named.storage_key().into()];
        write
            .execute_raw(statement(&write, artifact, values))
            .await
            .unwrap();

        assert_eq!(collect_garbage(&db, 60_000).await.unwrap(), 0);
        assert_eq!(collect_garbage(&db, -1_000).await.unwrap(), 1);
        assert_eq!(
            (count(&db, "blobs").await, count(&db, "blob_chunks").await),
            (1, 1)
        );
        assert_eq!(chunk_of(&db, &named.sha256, 0).await.unwrap(), b"named");
    }
}
