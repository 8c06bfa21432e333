//! Owns looks: what a claim sees of a queue, through an index and never further than a bound. What is chosen of it is decided in
//! [`turns`](super::turns).

use sea_orm::{ConnectionTrait, FromQueryResult};

use super::{
    backend::{self, json_rows, statement},
    candidates::{Candidate, SUSPENDED, Still, eligible, lock_these},
    claims::Claimer,
    dialect::dialect,
    error::StoreError,
};

/// Partitions that one claim looks at: a thousand that have no room are passed over within some milliseconds.
pub(super) const PARTITIONS: u64 = 1_000;
/// Due workflows, and queued ones without a partition key, that one claim looks at for those whose partition has room.
pub(super) const WINDOW: usize = 500;

/// A place among the queued workflows of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    priority: i32,
    created_at: i64,
    /// How many of this priority and time were seen.
    seen: usize,
}

/// A due workflow that was looked at.
#[derive(Debug, FromQueryResult)]
pub(super) struct Due {
    pub(super) workflow_id: String,
    pub(super) due_at: i64,
    pub(super) partition: Option<String>,
    pub(super) eligible: bool,
}

/// Looks at the workflows of `queue` that are due longest, behind `after`.
pub(super) async fn due_window(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    after: Option<&(i64, String)>,
) -> Result<Vec<Due>, StoreError> {
    let sql = dialect(tx);
    let behind = after.map_or("", |_| "AND (due_at, workflow_id) > ($4, $5)");
    let text = format!(
        "SELECT w.workflow_id, w.due_at, s.queue_partition_key AS partition, s.workflow_uuid IS NOT NULL AS eligible \
         FROM (SELECT workflow_id, due_at FROM \"app\".waits WHERE queue_name = $1 AND due_at <= {now} {behind} \
         ORDER BY due_at, workflow_id LIMIT {WINDOW}) AS w LEFT JOIN \"dbos\".workflow_status s ON s.workflow_uuid = w.workflow_id \
         AND s.queue_name = $1 AND {SUSPENDED} AND {names} AND {eligible} ORDER BY w.due_at, w.workflow_id",
        now = sql.now(),
        names = sql.is_one_of("s.name", 3),
        eligible = eligible(claimer),
    );
    let mut values = vec![
        queue.into(),
        claimer.app_version.as_str().into(),
        json_rows(&claimer.names)?,
    ];
    if let Some((due_at, id)) = after {
        values.extend([(*due_at).into(), id.as_str().into()]);
    }
    backend::rows(tx, text, values).await
}

/// A partition that has queued workflows, and room for them.
#[derive(Debug, FromQueryResult)]
pub(super) struct Partition {
    pub(super) key: String,
}

/// One look along the index.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) open: Vec<Partition>,
    pub(super) looked_at: u64,
    pub(super) ended: bool,
    pub(super) cut_off: Option<String>,
}

/// Looks at up to `most` partitions in (`after`, `upto`], one hop in the index each, until `want` are found that are not among `full`.
pub(super) async fn look(
    tx: &impl ConnectionTrait,
    queue: &str,
    (after, upto): (Option<&str>, Option<&str>),
    full: &[&str],
    (want, most): (u64, u64),
) -> Result<Look, StoreError> {
    #[derive(FromQueryResult)]
    struct Hop {
        key: Option<String>,
        n: i64,
        open: bool,
    }
    let sql = dialect(tx);
    let integer = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut values = vec![queue.into(), json_rows(&full)?, integer(most).into()];
    let mut bound = |comparison: &str, key: Option<&str>| match key {
        None => String::new(),
        Some(key) => {
            values.push(key.into());
            format!("AND e.queue_partition_key {comparison} ${}", values.len())
        }
    };
    let (from, upto) = (bound(">", after), bound("<=", upto));
    // That the key is not null is what tells SQLite that the index of partitions holds all of these rows.
    let next = |behind: &str| {
        format!(
            "(SELECT e.queue_partition_key FROM \"dbos\".workflow_status e WHERE e.queue_name = $1 AND e.status = 'ENQUEUED' \
             AND e.queue_partition_key IS NOT NULL {behind} {upto} ORDER BY e.queue_partition_key LIMIT 1)"
        )
    };
    // The outer limit ends the recursion as soon as there is enough.
    let text = format!(
        "WITH RECURSIVE p(key, n) AS (SELECT {first}, CAST(1 AS bigint) UNION ALL SELECT {following}, p.n + 1 FROM p \
         WHERE p.key IS NOT NULL AND p.n < $3) \
         SELECT h.key, h.n, h.open FROM (SELECT p.key, p.n, p.key IS NOT NULL AND NOT ({full}) AS open FROM p) AS h \
         WHERE h.open OR h.key IS NULL OR h.n = $3 LIMIT {want}",
        first = next(&from),
        following = next("AND e.queue_partition_key > p.key"),
        full = sql.is_one_of_many("p.key", 2),
    );
    let mut look = Look::default();
    for row in tx.query_all_raw(statement(tx, text, values)).await? {
        let hop = Hop::from_query_result(&row, "")?;
        let n = u64::try_from(hop.n).unwrap_or(0);
        let Some(key) = hop.key else {
            look.ended = true;
            look.looked_at = n - 1;
            break;
        };
        look.looked_at = n;
        if n == most {
            look.cut_off = Some(key.clone());
        }
        if hop.open {
            look.open.push(Partition { key });
        }
    }
    Ok(look)
}

/// Locks up to `want` queued workflows without a partition key, behind `after`. No index finds them: a window of the queue is looked through;
/// answers also where it ends, if the queue does not end there.
pub(super) async fn keyless(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    want: u64,
    after: Option<&Place>,
) -> Result<(Vec<Candidate>, Option<Place>), StoreError> {
    #[derive(FromQueryResult)]
    struct Seen {
        workflow_uuid: String,
        priority: i32,
        created_at: i64,
        keyless: bool,
    }
    let (from, skip) = after.map_or(("", 0), |place| {
        ("AND (s.priority, s.created_at) >= ($2, $3)", place.seen)
    });
    // The order is that of the index and no finer: with a finer one Postgres would sort the whole queue.
    let text = format!(
        "SELECT s.workflow_uuid, s.priority, s.created_at, s.queue_partition_key IS NULL AS keyless FROM \"dbos\".workflow_status s \
         WHERE s.queue_name = $1 AND s.status = 'ENQUEUED' {from} ORDER BY s.priority, s.created_at LIMIT {WINDOW} OFFSET {skip}"
    );
    let mut values = vec![queue.into()];
    if let Some(place) = after {
        values.extend([place.priority.into(), place.created_at.into()]);
    }
    let seen: Vec<Seen> = backend::rows(tx, text, values).await?;
    let ids: Vec<&str> = seen
        .iter()
        .filter(|row| row.keyless)
        .map(|row| row.workflow_uuid.as_str())
        .collect();
    let mut rows = lock_these(tx, claimer, queue, Still::Queued, &ids).await?;
    rows.truncate(usize::try_from(want).unwrap_or(usize::MAX));
    let cut_off = seen.last().filter(|_| seen.len() == WINDOW).map(|last| {
        let at = (last.priority, last.created_at);
        let of_one_time = seen
            .iter()
            .filter(|row| (row.priority, row.created_at) == at);
        let before = after.filter(|place| (place.priority, place.created_at) == at);
        Place {
            priority: last.priority,
            created_at: last.created_at,
            seen: of_one_time.count() + before.map_or(0, |place| place.seen),
        }
    });
    Ok((rows, cut_off))
}
