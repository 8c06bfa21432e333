//! Owns the live stream of a run: what its tasks print, as it comes, in numbered chunks. Numbers are given under the lock of the run's row, so a
//! reader who has seen a number has seen every one before it.

use sea_orm::{ConnectionTrait, DeriveActiveEnum, EnumIter, FromQueryResult, Value};

use super::{
    backend::{self, Database, retrying, statement},
    claims::{self, Fenced},
    dialect::dialect,
    error::StoreError,
    status::RunStatus,
};

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub enum ChunkKind {
    /// What the command printed.
    #[sea_orm(string_value = "stdout")]
    Stdout,
    /// What it complained.
    #[sea_orm(string_value = "stderr")]
    Stderr,
    /// A task began or ended an execution; a JSON document says which.
    #[sea_orm(string_value = "task")]
    Task,
}

impl ChunkKind {
    /// As the database and the wire write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Task => "task",
        }
    }
}

/// A chunk to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChunk {
    /// The task.
    pub task_key: String,
    /// Which of its attempts, from 1.
    pub attempt: i32,
    /// What it is.
    pub kind: ChunkKind,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// A chunk as it is stored.
#[derive(Debug, Clone, FromQueryResult)]
pub struct Chunk {
    /// Its number in the run, from 1.
    pub seq: i64,
    /// The task.
    pub task_key: String,
    /// Which of its attempts, from 1.
    pub attempt: i32,
    /// What it is.
    pub kind: ChunkKind,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// Appends `chunks` to the stream of `run`, in their order. Once this has returned, every reader will get them. What comes from an execution
/// whose claim has ended is dropped: somebody else executes by now.
pub async fn append(
    db: &Database,
    claim: Fenced<'_>,
    run: &str,
    chunks: &[NewChunk],
) -> Result<(), StoreError> {
    let count = i64::try_from(chunks.len()).unwrap_or(i64::MAX);
    if count == 0 {
        return Ok(());
    }
    retrying(|| async {
        let tx = db.begin().await?;
        if !claims::hold(&tx, claim).await? {
            return Ok(());
        }
        let text = "INSERT INTO \"app\".run_streams AS s (run_id, next_seq) VALUES ($1, 1 + $2) \
                    ON CONFLICT (run_id) DO UPDATE SET next_seq = s.next_seq + $2 RETURNING next_seq - $2";
        let row = tx
            .query_one_raw(statement(&tx, text, [run.into(), count.into()]))
            .await?;
        let first: i64 = match row {
            Some(row) => row.try_get_by_index(0)?,
            None => 1,
        };
        let now = dialect(&tx).now();
        let mut rows = Vec::with_capacity(chunks.len());
        let mut values: Vec<Value> = vec![run.into()];
        for (seq, chunk) in (first..).zip(chunks) {
            let p = values.len();
            rows.push(format!(
                "($1, ${}, ${}, ${}, ${}, ${}, {now})",
                p + 1,
                p + 2,
                p + 3,
                p + 4,
                p + 5
            ));
            values.extend([
                seq.into(),
                chunk.task_key.as_str().into(),
                chunk.attempt.into(),
                chunk.kind.as_str().into(),
                chunk.bytes.clone().into(),
            ]);
        }
        let text = format!(
            "INSERT INTO \"app\".run_stream_chunks (run_id, seq, task_key, attempt, kind, bytes, created_at) VALUES {}",
            rows.join(", ")
        );
        tx.execute_raw(statement(&tx, text, values)).await?;
        tx.commit().await
    })
    .await
}

/// The chunks of `run` after number `seq`, in order, at most `limit`.
pub async fn after(
    db: &impl ConnectionTrait,
    run: &str,
    seq: i64,
    limit: u64,
) -> Result<Vec<Chunk>, StoreError> {
    let text = format!(
        "SELECT seq, task_key, attempt, kind, bytes, created_at FROM \"app\".run_stream_chunks WHERE run_id = $1 AND seq > $2 \
         ORDER BY seq LIMIT {limit}"
    );
    backend::rows(db, text, [run.into(), seq.into()]).await
}

/// How far a run has come, as its stream sees it.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Progress {
    /// Where the run stands.
    pub status: RunStatus,
    /// Executions of product steps that have ended.
    pub steps: i64,
    /// The number of the last chunk; 0 before the first.
    pub seq: i64,
}

/// How far `run` has come. What is read after this is at least as far.
pub async fn progress(
    db: &impl ConnectionTrait,
    run: &str,
) -> Result<Option<Progress>, StoreError> {
    let text = "SELECT r.status, (SELECT count(*) FROM \"app\".run_steps t WHERE t.run_id = r.id) AS steps, \
                COALESCE((SELECT s.next_seq - 1 FROM \"app\".run_streams s WHERE s.run_id = r.id), 0) AS seq \
                FROM \"app\".runs r WHERE r.id = $1";
    backend::row(db, text, [run.into()]).await
}
