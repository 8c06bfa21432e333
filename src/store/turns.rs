//! Owns turns: how the partitions of a queue share what it lets start. A claim goes from partition to partition through an index, so that it
//! costs what it looks at and not what is queued; it goes on where the last one ended, so that nobody is passed over.

use std::collections::HashMap;

use sea_orm::ConnectionTrait;

use super::{
    candidates::{Candidate, Still, lock_due, lock_heads, lock_queued, lock_these},
    claims::Claimer,
    error::StoreError,
    looks::{Due, PARTITIONS, Partition, Place, WINDOW, due_window, keyless, look},
    queue_limits::{Allowance, Live, QueueRow},
    stalled::Front,
};

/// Claims in a row that may look without finding anything, each where the one before it ended. After that the next hint looks on.
pub const BARREN: u32 = 8;

/// Where the turns of a queue stand, in one process. Losing it costs a partition its turn once, nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The partition that was served last. None at the beginning, and after the workflows without a key, whose place is behind all keys.
    after: Option<String>,
    /// The due workflow that was looked at last, where the look did not reach the end.
    due_after: Option<(i64, String)>,
    /// The queued workflow that was looked at last for want of a key, where the look did not reach the end.
    keyless_after: Option<Place>,
    /// Looks in a row that found nothing.
    barren: u32,
}

/// What a queue with limits gives, locked; and how its turns stand once this is committed.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// The workflows to be claimed, woken ones first.
    pub candidates: Vec<Candidate>,
    /// How many of them are woken.
    pub woken: usize,
    /// Where the next claim goes on.
    pub turn: Turn,
    /// Whether a limit allows less than there may be: worth asking again when an execution ends.
    pub blocked: bool,
    /// Whether there may be more that may be claimed at once.
    pub more: bool,
}

/// What is asked of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The queue.
    pub queue: &'a str,
    /// Whether suspended workflows may be due.
    pub due: bool,
    /// How many workflows the process could execute more.
    pub slots: u64,
    /// What may be passed over, in a queue without turns.
    pub front: Option<Front>,
}

/// Chooses and locks what `wish.queue`, whose `row` this transaction has locked, lets be claimed beside what is `live`.
pub async fn choose(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    wish: Wish<'_>,
    row: &QueueRow,
    (live, allowance): (&Live, &Allowance),
    turn: &Turn,
) -> Result<Choice, StoreError> {
    let mut choice = Choice {
        turn: turn.clone(),
        ..Choice::default()
    };
    let mut rooms = Rooms {
        most: row.partition_concurrency,
        live: live.partitions.clone(),
    };
    if wish.due && allowance.wake > 0 {
        if rooms.most.is_some() {
            wake(
                tx,
                claimer,
                wish.queue,
                allowance.wake,
                &mut rooms,
                &mut choice,
            )
            .await?;
        } else {
            let queue = [wish.queue.to_owned()];
            choice.candidates = lock_due(tx, claimer, &queue, allowance.wake).await?;
        }
    }
    choice.woken = choice.candidates.len();
    let start = allowance
        .start
        .min(allowance.wake.saturating_sub(choice.woken as u64));
    if start > 0 {
        if row.takes_turns() {
            serve(tx, claimer, wish.queue, start, &mut rooms, &mut choice).await?;
        } else {
            choice
                .candidates
                .extend(lock_queued(tx, claimer, wish.queue, start, wish.front).await?);
        }
    }
    let (chosen, woken) = (choice.candidates.len() as u64, choice.woken as u64);
    choice.more |= chosen == wish.slots;
    let used_up = |allowed: u64, used: u64| allowed < wish.slots && used >= allowed;
    choice.blocked = used_up(allowance.wake, chosen)
        || used_up(allowance.start, chosen - woken)
        || (rooms.most.is_some() && !rooms.live.is_empty());
    Ok(choice)
}

/// The room that partitions have.
#[derive(Debug)]
struct Rooms {
    most: Option<i32>,
    live: HashMap<Option<String>, i64>,
}

impl Rooms {
    fn of(&self, partition: &Option<String>) -> u64 {
        self.most.map_or(u64::MAX, |most| {
            let live = self.live.get(partition).copied().unwrap_or(0);
            u64::try_from(i64::from(most) - live).unwrap_or(0)
        })
    }

    fn take(&mut self, partition: &Option<String>) {
        *self.live.entry(partition.clone()).or_default() += 1;
    }

    /// The keys of the partitions that have none.
    fn full(&self) -> Vec<&str> {
        self.live
            .keys()
            .filter(|partition| self.of(partition) == 0)
            .filter_map(Option::as_deref)
            .collect()
    }
}

/// Gives turns: the first of each partition's rows, then the second of each, until there are `want`, as far as each partition has room. The
/// rows of a partition stand in their order, partitions in the order of their first row.
fn take_turns<T>(
    rows: Vec<T>,
    partition_of: impl Fn(&T) -> &Option<String>,
    want: u64,
    rooms: &mut Rooms,
) -> Vec<T> {
    let mut seen: HashMap<Option<String>, (usize, u64)> = HashMap::new();
    let mut ranked = Vec::with_capacity(rows.len());
    for row in rows {
        let partition = partition_of(&row);
        let places = seen.len();
        let (place, rank) = seen.entry(partition.clone()).or_insert((places, 0));
        if *rank < rooms.of(partition) {
            ranked.push((*rank, *place, row));
        }
        *rank += 1;
    }
    ranked.sort_by_key(|(rank, place, _)| (*rank, *place));
    ranked.truncate(usize::try_from(want).unwrap_or(usize::MAX));
    let taken: Vec<T> = ranked.into_iter().map(|(_, _, row)| row).collect();
    for row in &taken {
        rooms.take(partition_of(row));
    }
    taken
}

/// Chooses among the longest due those whose partition has room.
async fn wake(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    want: u64,
    rooms: &mut Rooms,
    choice: &mut Choice,
) -> Result<(), StoreError> {
    let seen = due_window(tx, claimer, queue, choice.turn.due_after.as_ref()).await?;
    let reached_the_end = seen.len() < WINDOW;
    let last = seen.last().map(|row| (row.due_at, row.workflow_id.clone()));
    let began_inside = choice.turn.due_after.is_some();
    let chosen = take_turns(
        seen.into_iter().filter(|row| row.eligible).collect(),
        |row: &Due| &row.partition,
        want,
        rooms,
    );
    let ids: Vec<&str> = chosen.iter().map(|row| row.workflow_id.as_str()).collect();
    choice.candidates = lock_these(tx, claimer, queue, Still::Suspended, &ids).await?;
    let satisfied = chosen.len() as u64 == want;
    choice.turn.due_after = if satisfied || reached_the_end {
        None
    } else {
        last
    };
    // The front was not looked at, or there is more behind.
    choice.more |= !satisfied && (began_inside || !reached_the_end);
    Ok(())
}

/// Chooses among the queued: every partition that has some, and room, gets its turn before any gets a second one.
async fn serve(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    want: u64,
    rooms: &mut Rooms,
    choice: &mut Choice,
) -> Result<(), StoreError> {
    let mut round = look_round(tx, claimer, queue, &mut choice.turn, rooms, want).await?;
    let places = round.places();
    // As many rows of each as make a fair share; who has fewer leaves the rest to the next claim, which follows at once.
    let share = share(want, places.len() as u64);
    let mut by_key: HashMap<Option<String>, Vec<Candidate>> = HashMap::new();
    round
        .keyless
        .truncate(usize::try_from(share).unwrap_or(usize::MAX));
    by_key.insert(None, round.keyless);
    let keyed: Vec<&str> = round
        .open
        .iter()
        .map(|partition| partition.key.as_str())
        .collect();
    if !keyed.is_empty() {
        for row in lock_heads(tx, claimer, queue, &keyed, share).await? {
            by_key
                .entry(row.queue_partition_key.clone())
                .or_default()
                .push(row);
        }
    }
    let share_of_one = |rows: &Vec<Candidate>| rows.len() as u64 >= share;
    let some_had_more = by_key
        .iter()
        .any(|(partition, rows)| share_of_one(rows) && rooms.of(partition) > share);
    let rows: Vec<Candidate> = places
        .iter()
        .filter_map(|partition| by_key.remove(partition))
        .flatten()
        .collect();
    let offered = rows.len() as u64;
    let taken = take_turns(rows, |row| &row.queue_partition_key, want, rooms);
    let full = taken.len() as u64 == want;
    choice.turn.after = match (taken.last(), places.last()) {
        (Some(last), _) if full && offered > want => last.queue_partition_key.clone(),
        (_, _) if round.cut_off.is_some() && !full => round.cut_off.clone(),
        (_, Some(last)) => last.clone(),
        (_, None) => choice.turn.after.take(),
    };
    choice.turn.barren = if taken.is_empty() {
        choice.turn.barren + 1
    } else {
        0
    };
    let cut_off = round.cut_off.is_some() || choice.turn.keyless_after.is_some();
    // Partitions may hold nothing that this process may claim, such as what a version has left that nobody serves: others stand behind them.
    let has_enough = places.len() as u64 >= want;
    let looks_on = (cut_off || has_enough)
        && (choice.turn.barren == 0 || !choice.turn.barren.is_multiple_of(BARREN));
    choice.more |= !full && (some_had_more || looks_on);
    choice.candidates.extend(taken);
    Ok(())
}

/// How many rows of each of `partitions` are looked at for `want` in all.
fn share(want: u64, partitions: u64) -> u64 {
    want.div_ceil(partitions.max(1)).max(1)
}

/// What a look from partition to partition has found.
#[derive(Debug, Default)]
struct Round {
    open: Vec<Partition>,
    /// How many of `open` stand before the place of the workflows without a key.
    before_keyless: usize,
    /// The workflows without a key that were found, if they have room.
    keyless: Vec<Candidate>,
    /// The partition at which the look ended for its length.
    cut_off: Option<String>,
}

impl Round {
    /// The partitions in the order of their turns.
    fn places(&self) -> Vec<Option<String>> {
        let key = |partition: &Partition| Some(partition.key.clone());
        let (before, behind) = self.open.split_at(self.before_keyless);
        before
            .iter()
            .map(key)
            .chain((!self.keyless.is_empty()).then_some(None))
            .chain(behind.iter().map(key))
            .collect()
    }
}

/// Goes once round the partitions of `queue`, from the one behind `after`, until `want` of them are found that have room, or
/// [`PARTITIONS`] are looked at.
async fn look_round(
    tx: &impl ConnectionTrait,
    claimer: &Claimer,
    queue: &str,
    turn: &mut Turn,
    rooms: &Rooms,
    want: u64,
) -> Result<Round, StoreError> {
    let full = rooms.full();
    let after = turn.after.clone();
    let after = after.as_deref();
    let first = look(tx, queue, (after, None), &full, (want, PARTITIONS)).await?;
    let mut round = Round {
        before_keyless: first.open.len(),
        open: first.open,
        cut_off: first.cut_off,
        keyless: Vec::new(),
    };
    if !first.ended {
        return Ok(round);
    }
    if (round.open.len() as u64) < want && rooms.of(&None) > 0 {
        let place = turn.keyless_after.as_ref();
        let (rows, cut_off) = keyless(tx, claimer, queue, want, place).await?;
        // What was found keeps the look where it is: the front is served first.
        if rows.is_empty() {
            turn.keyless_after = cut_off;
        }
        round.keyless = rows;
    }
    let still = want - round.places().len() as u64;
    let left = PARTITIONS - first.looked_at;
    if let (Some(upto), 1.., 1..) = (after, still, left) {
        let second = look(tx, queue, (None, Some(upto)), &full, (still, left)).await?;
        round.open.extend(second.open);
        round.cut_off = second.cut_off;
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(most: Option<i32>, live: &[(&str, i64)]) -> Rooms {
        let live = live
            .iter()
            .map(|(key, n)| (Some((*key).to_owned()), *n))
            .collect();
        Rooms { most, live }
    }

    fn turns(rows: &[&str], want: u64, rooms: &mut Rooms) -> Vec<String> {
        let rows: Vec<(Option<String>, String)> = rows
            .iter()
            .map(|row| (Some(row[..1].to_owned()), (*row).to_owned()))
            .collect();
        take_turns(rows, |(partition, _)| partition, want, rooms)
            .into_iter()
            .map(|(_, row)| row)
            .collect()
    }

    #[test]
    fn every_partition_has_its_turn_before_any_has_a_second_one() {
        let rows = ["a1", "a2", "a3", "b1", "c1", "c2"];
        assert_eq!(
            turns(&rows, 5, &mut rooms(None, &[])),
            ["a1", "b1", "c1", "a2", "c2"]
        );
    }

    #[test]
    fn a_partition_gets_no_more_than_it_has_room_for() {
        let rows = ["a1", "a2", "b1", "b2", "b3"];
        let mut rooms = rooms(Some(2), &[("a", 2), ("b", 1)]);
        assert_eq!(turns(&rows, 5, &mut rooms), ["b1"]);
        assert_eq!(rooms.of(&Some("b".into())), 0);
        assert_eq!(rooms.full().len(), 2);
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!((share(10, 3), share(1, 7), share(5, 0)), (4, 1, 5));
    }
}
