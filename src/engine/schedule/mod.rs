//! Owns schedules as the engine knows them: times, policies, and the workflow that each slot starts. What is pure is in `timing` and `decide`;
//! `firing` writes what was decided, `scheduler` knows when to look, `client` does what people ask for.

mod client;
mod decide;
mod firing;
pub(super) mod scheduler;
mod timing;
mod words;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use decide::{DEFAULT_WINDOW_MS, Policy, Slots};
pub use timing::{LONGEST_INTERVAL_MS, SHORTEST_INTERVAL_MS, Timing, TimingError};

use crate::store::schedules::{ScheduleRow, iso};

/// What a workflow that a schedule starts is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotInput {
    /// The schedule.
    pub schedule: String,
    /// Its slot, epoch milliseconds; of one that was triggered by hand, that time.
    pub slot: i64,
    /// What the schedule says to all of them.
    pub context: Json,
}

/// The slots of a stored schedule.
///
/// # Errors
/// [`TimingError`] when somebody else's client wrote times that make no sense.
pub fn slots_of(row: &ScheduleRow) -> Result<Slots, TimingError> {
    let timing = match row.every_ms {
        Some(interval_ms) => Timing::every(interval_ms, row.starts_at.unwrap_or(0))?,
        None => Timing::cron(&row.schedule, row.cron_timezone.as_deref().unwrap_or("UTC"))?,
    };
    Ok(Slots {
        timing,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
    })
}

/// The id of the workflow of a slot, as DBOS gives it: one per schedule and slot, whoever fires it.
pub fn slot_id(schedule: &str, slot: i64) -> String {
    format!("sched-{schedule}-{}", iso(slot))
}

/// The slot in the id of a workflow that `schedule` started; none when somebody triggered it.
pub fn slot_in(schedule: &str, id: &str) -> Option<i64> {
    let text = id.strip_prefix("sched-")?.strip_prefix(schedule)?;
    let at = chrono::DateTime::parse_from_rfc3339(text.strip_prefix('-')?).ok()?;
    Some(at.timestamp_millis())
}

/// A context as the tables keep it: as the default serializer of DBOS's clients does, or they could not even list the schedule.
///
/// # Errors
/// serde's.
pub fn context_text(context: &impl Serialize) -> Result<String, serde_json::Error> {
    let context = serde_json::to_value(context)?;
    Ok(serde_json::json!({"json": context, "__dbos_serializer": "superjson"}).to_string())
}

/// The context in a text of the tables; of a foreign one the whole text, if it is JSON.
pub fn context_in(text: &str) -> Json {
    let mut whole: Json = serde_json::from_str(text).unwrap_or_default();
    match whole.get_mut("json") {
        Some(context) => context.take(),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_read_back_from_the_id() {
        let id = slot_id("a.b-c", 1_795_459_070_834);
        assert_eq!(id, "sched-a.b-c-2026-11-23T18:37:50.834Z");
        assert_eq!(slot_in("a.b-c", &id), Some(1_795_459_070_834));
        assert_eq!(slot_in("a.b", &id), None);
        assert_eq!(
            slot_in("a", "sched-a-trigger-2026-11-23T19:17:50.834Z"),
            None
        );
    }

    #[test]
    fn contexts_are_read_from_any_writer() {
        let text = context_text(&serde_json::json!({"a": 1})).unwrap();
        assert_eq!(context_in(&text), serde_json::json!({"a": 1}));
        assert_eq!(context_in("[1]"), serde_json::json!([1]));
        assert_eq!(context_in("gASVAQ=="), Json::Null);
    }
}
