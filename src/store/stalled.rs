//! Owns stalled fronts: what stands at the head of a queue and that nobody here may claim, such as the backlog of a version that no process
//! serves any more. No index of `dbos` leads past it, so a claim would walk over it again and again; a look now and then finds where it ends.

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::{self, json_rows},
    candidates::eligible,
    claims::Claimer,
    dialect::dialect,
    error::StoreError,
};

/// Rows that a claim may walk over without anybody noticing.
const SHORT: u64 = 1_000;
/// Workflows younger than this, in milliseconds, are never passed over: their transaction may have begun long before it was committed.
const YOUNG_MS: i64 = 30_000;

/// The stalled front of a queue: its workflows of one priority, the first that there is, which are older than a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// The priority.
    pub priority: i32,
    /// Epoch milliseconds.
    pub before: i64,
    /// Whether the process that looked took workflows without a version, too.
    newest_version: bool,
}

impl Front {
    /// Whether everything that `other` passes over is passed over by this one, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.priority == other.priority
            && self.before >= other.before
            && self.newest_version == other.newest_version
    }

    /// Whether this was looked at with the eyes of `claimer`.
    pub fn is_of(&self, claimer: &Claimer) -> bool {
        self.newest_version == claimer.newest_version
    }
}

/// Looks whether `queue` has a stalled front for `claimer`. Costs a thousand rows of an index where it has none, and a walk over it where it has:
/// to be asked beside the claims, not by them.
pub async fn look(
    db: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
) -> Result<Option<Front>, StoreError> {
    #[derive(FromQueryResult)]
    struct Head {
        priority: Option<i32>,
        seen: i64,
        ours: i64,
        now: i64,
    }
    #[derive(FromQueryResult)]
    struct First {
        priority: i32,
        created_at: i64,
    }
    let sql = dialect(db);
    let (now, names, eligible) = (sql.now(), sql.is_one_of("s.name", 3), eligible(claimer));
    let values = [
        queue.into(),
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
    ];
    let queued = "\"dbos\".workflow_status s WHERE s.queue_name = $1 AND s.status = 'ENQUEUED'";
    let text = format!(
        "SELECT min(h.priority) AS priority, count(*) AS seen, sum(CASE WHEN h.ours THEN 1 ELSE 0 END) AS ours, {now} AS now FROM \
         (SELECT s.priority, ({names} AND {eligible}) AS ours FROM {queued} ORDER BY s.priority, s.created_at LIMIT {SHORT}) AS h"
    );
    let head: Option<Head> = backend::row(db, text, values.clone()).await?;
    let Some(head) = head.filter(|head| head.seen == SHORT as i64 && head.ours == 0) else {
        return Ok(None);
    };
    let Some(priority) = head.priority else {
        return Ok(None);
    };
    let text = format!(
        "SELECT s.priority, s.created_at FROM {queued} AND {names} AND {eligible} ORDER BY s.priority, s.created_at LIMIT 1"
    );
    let first: Option<First> = backend::row(db, text, values).await?;
    let old = head.now - YOUNG_MS;
    let before = match first {
        Some(first) if first.priority == priority => first.created_at.min(old),
        _ => old,
    };
    Ok(Some(Front {
        priority,
        before,
        newest_version: claimer.newest_version,
    }))
}
