//! Owns the limits of a queue as reasons: which one holds a workflow back, and who holds the places.

use serde_json::{Value, json};

use super::{Explanation, Reason};
use crate::store::{
    explain::{Evidence, Holder},
    queue_limits::QueueRow,
};

/// The limit that holds the workflow back, if one does. Waking needs a place; starting is counted against the rate, too.
pub(super) fn holding_back(evidence: &Evidence, starts: bool) -> Option<Explanation> {
    let queue = evidence.queue.as_ref()?;
    let name = evidence.workflow.queue_name.as_deref().unwrap_or_default();
    if queue.paused {
        return Some(Explanation::new(
            Reason::QueuePaused,
            format!("The queue {name} is paused; nothing starts in it."),
            json!({"queue": name}),
        ));
    }
    concurrency(queue, evidence, name)
        .or_else(|| partition(queue, evidence, name))
        .or_else(|| workers(queue, evidence, name))
        .or_else(|| rate(queue, evidence, name).filter(|_| starts))
}

fn names<'a>(holders: impl Iterator<Item = &'a Holder>) -> Vec<Value> {
    holders
        .map(|holder| json!({"workflowID": holder.workflow_id, "executor": holder.executor_id}))
        .collect()
}

fn concurrency(queue: &QueueRow, evidence: &Evidence, name: &str) -> Option<Explanation> {
    let (limit, live) = (queue.concurrency?, evidence.workflow.live);
    (live >= i64::from(limit)).then(|| {
        Explanation::new(
            Reason::QueueConcurrency,
            format!("The queue {name} executes {live} workflows, and {limit} are allowed."),
            json!({"queue": name, "limit": limit, "live": live, "holders": names(evidence.holders.iter())}),
        )
    })
}

fn partition(queue: &QueueRow, evidence: &Evidence, name: &str) -> Option<Explanation> {
    let (limit, live) = (
        queue.partition_concurrency?,
        evidence.workflow.live_in_partition,
    );
    let own = evidence.workflow.partition.as_deref().unwrap_or_default();
    (live >= i64::from(limit)).then(|| {
        let holders = evidence
            .holders
            .iter()
            .filter(|holder| holder.partition.as_deref().unwrap_or_default() == own);
        Explanation::new(
            Reason::PartitionConcurrency,
            format!("The partition {own:?} of {name} executes {live} workflows, and {limit} are allowed."),
            json!({"queue": name, "partition": own, "limit": limit, "live": live, "holders": names(holders)}),
        )
    })
}

fn workers(queue: &QueueRow, evidence: &Evidence, name: &str) -> Option<Explanation> {
    let limit = queue.worker_concurrency?;
    let wanted = evidence.workflow.application_version.as_deref();
    let mut able = evidence
        .workers
        .iter()
        .filter(|worker| wanted.is_none_or(|wanted| wanted == worker.app_version))
        .peekable();
    able.peek()?;
    let able: Vec<_> = able.collect();
    able.iter()
        .all(|worker| worker.live >= i64::from(limit))
        .then(|| {
            let workers: Vec<Value> = able
                .iter()
                .map(|worker| json!({"executor": worker.id, "live": worker.live}))
                .collect();
            Explanation::new(
                Reason::WorkerConcurrency,
                format!("Every process executes as many workflows of {name} as it may: {limit}."),
                json!({"queue": name, "limit": limit, "workers": workers, "holders": names(evidence.holders.iter())}),
            )
        })
}

fn rate(queue: &QueueRow, evidence: &Evidence, name: &str) -> Option<Explanation> {
    let (limit, period_ms) = (queue.rate_limit_max?, queue.rate_limit_period_ms?);
    let opens_at = queue.window_started_at + period_ms;
    let used_up = queue.window_count >= limit && evidence.workflow.now < opens_at;
    used_up.then(|| {
        Explanation::new(
            Reason::RateLimit,
            format!("The queue {name} has started {limit} workflows, as many as it may in {period_ms} ms."),
            json!({"queue": name, "limit": limit, "periodMs": period_ms, "opensAt": opens_at}),
        )
    })
}
