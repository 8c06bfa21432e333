//! Owns what becomes of the slots that are due: which fire, which are passed over and why. Pure, over plain data.

use super::timing::Timing;
use crate::store::schedules::{CatchUp, Missed, Overlap, Skipped};

/// How far back a schedule catches up that does not say: a day.
pub const DEFAULT_WINDOW_MS: i64 = 24 * 60 * 60 * 1_000;
/// How late a slot may be and still count as on time, where nothing is caught up: a process that restarts misses nothing.
const ON_TIME_MS: i64 = 60_000;
/// Slots that one decision fires at most: they are started in one transaction.
const FIRED_AT_ONCE: usize = 500;
/// Slots that one decision counts at most; of what lies further back only so much is said.
const COUNTED_AT_MOST: i64 = 100_000;

/// The policies of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is made up for.
    pub catch_up: CatchUp,
    /// How far back, milliseconds.
    pub window_ms: i64,
    /// What happens while the one before still runs.
    pub overlap: Overlap,
}

/// When a schedule may fire at all.
#[derive(Debug, Clone)]
pub struct Slots {
    /// Its times.
    pub timing: Timing,
    /// No slot before this one, epoch milliseconds.
    pub starts_at: Option<i64>,
    /// No slot after this one, epoch milliseconds.
    pub ends_at: Option<i64>,
}

impl Slots {
    /// The first slot after `after`; none when the schedule has ended.
    pub fn next_after(&self, after: i64) -> Option<i64> {
        let after = self
            .starts_at
            .map_or(after, |starts_at| after.max(starts_at.saturating_sub(1)));
        let slot = self.timing.next_after(after)?;
        self.ends_at
            .is_none_or(|ends_at| slot <= ends_at)
            .then_some(slot)
    }

    /// The next `count` slots after `after`.
    pub fn preview(&self, after: i64, count: usize) -> Vec<i64> {
        std::iter::successors(self.next_after(after), |slot| self.next_after(*slot))
            .take(count)
            .collect()
    }

    /// The newest slot in (`after`, `until`]. Looks further and further back, so that a long silence costs no walk through all of it.
    pub fn newest(&self, after: i64, until: i64) -> Option<i64> {
        const SPANS_MS: [i64; 5] = [
            60_000,
            3_600_000,
            24 * 3_600_000,
            32 * 24 * 3_600_000,
            i64::MAX,
        ];
        let until = self.ends_at.map_or(until, |ends_at| until.min(ends_at));
        SPANS_MS.iter().find_map(|span| {
            let from = until.saturating_sub(*span).max(after);
            std::iter::successors(self.next_after(from), |slot| self.next_after(*slot))
                .take_while(|slot| *slot <= until)
                .last()
        })
    }

    /// The slots in (`after`, `last`] as one run that did not fire; `last` is one of them.
    pub fn run(&self, after: i64, last: i64, reason: Missed) -> Option<Skipped> {
        let first = self.next_after(after).filter(|first| *first <= last)?;
        let counted = std::iter::successors(Some(first), |slot| self.next_after(*slot))
            .take_while(|slot| *slot <= last)
            .take(usize::try_from(COUNTED_AT_MOST).unwrap_or(usize::MAX))
            .count();
        Some(Skipped {
            first,
            last,
            count: i64::try_from(counted).unwrap_or(COUNTED_AT_MOST),
            reason,
        })
    }
}

/// Where a schedule stands when its slots are decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Every slot up to here was decided, epoch milliseconds.
    pub(super) decided: i64,
    /// The database's clock, epoch milliseconds.
    pub(super) now: i64,
    /// Whether something that it started still runs.
    pub(super) running: bool,
    /// A slot that waits for that to end.
    pub(super) waiting: Option<i64>,
}

/// What becomes of the slots that are due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// These fire, oldest first.
    pub(super) fire: Vec<i64>,
    /// These do not.
    pub(super) skipped: Vec<Skipped>,
    /// What runs is to be cancelled.
    pub(super) cancel: bool,
    /// The slot that waits from now on.
    pub(super) waiting: Option<i64>,
    /// Every slot up to here is decided; none when nothing changed.
    pub(super) decided: Option<i64>,
    /// There are more slots that are due.
    pub(super) more: bool,
}

impl Decision {
    /// Whether there is anything to write.
    pub(super) fn is_empty(&self, standing: &Standing) -> bool {
        self.decided.is_none() && self.fire.is_empty() && self.waiting == standing.waiting
    }

    fn skip(&mut self, slot: i64, reason: Missed) {
        match self.skipped.last_mut() {
            Some(run) if run.reason == reason => {
                run.last = slot;
                run.count += 1;
            }
            _ => self.skipped.push(Skipped {
                first: slot,
                last: slot,
                count: 1,
                reason,
            }),
        }
    }
}

/// Decides the slots of (`standing.decided`, `standing.now`].
pub(super) fn decide(slots: &Slots, policy: Policy, standing: &Standing) -> Decision {
    let mut decision = Decision {
        waiting: standing.waiting,
        ..Decision::default()
    };
    let mut due = Vec::new();
    let window = match policy.catch_up {
        CatchUp::All | CatchUp::Latest => policy.window_ms,
        CatchUp::None => ON_TIME_MS,
    };
    let opens = standing.now.saturating_sub(window);
    if let Some(last_before) = slots.newest(standing.decided, opens.min(standing.now) - 1) {
        let reason = if policy.catch_up == CatchUp::None {
            Missed::NotCaughtUp
        } else {
            Missed::OutsideWindow
        };
        decision
            .skipped
            .extend(slots.run(standing.decided, last_before, reason));
        decision.decided = Some(last_before);
    }
    let from = decision.decided.unwrap_or(standing.decided);
    match policy.catch_up {
        CatchUp::All => {
            let mut within =
                std::iter::successors(slots.next_after(from), |slot| slots.next_after(*slot))
                    .take_while(|slot| *slot <= standing.now);
            due.extend(within.by_ref().take(FIRED_AT_ONCE));
            decision.more = within.next().is_some();
        }
        CatchUp::Latest | CatchUp::None => {
            if let Some(newest) = slots.newest(from, standing.now) {
                let reason = if policy.catch_up == CatchUp::None {
                    Missed::NotCaughtUp
                } else {
                    Missed::Superseded
                };
                if let Some(before) = slots.newest(from, newest - 1) {
                    decision.skipped.extend(slots.run(from, before, reason));
                }
                due.push(newest);
            }
        }
    }
    decision.decided = due.last().copied().or(decision.decided);
    overlap(policy.overlap, standing, due, &mut decision);
    decision
}

/// Lets the slots that are due fire as far as what runs allows it.
fn overlap(policy: Overlap, standing: &Standing, due: Vec<i64>, decision: &mut Decision) {
    match policy {
        Overlap::Allow => decision.fire = due,
        Overlap::Skip => {
            let mut running = standing.running;
            for slot in due {
                if running {
                    decision.skip(slot, Missed::Overlap);
                } else {
                    decision.fire.push(slot);
                    running = true;
                }
            }
        }
        Overlap::QueueOne => {
            let mut running = standing.running;
            if !running && let Some(waited) = decision.waiting.take() {
                decision.fire.push(waited);
                running = true;
            }
            for slot in due {
                if !running {
                    decision.fire.push(slot);
                    running = true;
                } else if decision.waiting.is_none() {
                    decision.waiting = Some(slot);
                } else {
                    decision.skip(slot, Missed::Overlap);
                }
            }
        }
        Overlap::CancelRunning => {
            let mut due = due;
            if let Some(newest) = due.pop() {
                // Each would be cancelled by the next one at once.
                for slot in due {
                    decision.skip(slot, Missed::Overlap);
                }
                decision.cancel = standing.running;
                decision.fire.push(newest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;

    fn minutely() -> Slots {
        Slots {
            timing: Timing::every(MINUTE, 0).unwrap(),
            starts_at: None,
            ends_at: None,
        }
    }

    fn policy(catch_up: CatchUp, overlap: Overlap) -> Policy {
        Policy {
            catch_up,
            window_ms: HOUR,
            overlap,
        }
    }

    fn quiet(decided: i64, now: i64) -> Standing {
        Standing {
            decided,
            now,
            running: false,
            waiting: None,
        }
    }

    fn told(decision: &Decision) -> Vec<(i64, i64, i64, Missed)> {
        let run = |s: &Skipped| (s.first / MINUTE, s.last / MINUTE, s.count, s.reason);
        decision.skipped.iter().map(run).collect()
    }

    #[test]
    fn all_within_the_window_are_caught_up() {
        let at = 600 * MINUTE + 5;
        let decision = decide(
            &minutely(),
            policy(CatchUp::All, Overlap::Allow),
            &quiet(100 * MINUTE, at),
        );
        assert_eq!(told(&decision), [(101, 540, 440, Missed::OutsideWindow)]);
        let fired: Vec<i64> = (541..=600).map(|n| n * MINUTE).collect();
        assert_eq!(decision.fire, fired);
        assert_eq!(
            (decision.decided, decision.more),
            (Some(600 * MINUTE), false)
        );
    }

    #[test]
    fn a_long_catch_up_goes_in_portions() {
        let wide = Policy {
            window_ms: 24 * HOUR,
            ..policy(CatchUp::All, Overlap::Allow)
        };
        let mut standing = quiet(0, 1_200 * MINUTE);
        let mut fired = Vec::new();
        loop {
            let decision = decide(&minutely(), wide, &standing);
            standing.decided = decision.decided.unwrap();
            fired.extend(decision.fire);
            if !decision.more {
                break;
            }
        }
        assert_eq!(fired, (1..=1_200).map(|n| n * MINUTE).collect::<Vec<_>>());
    }

    #[test]
    fn the_latest_supersedes_those_before_it() {
        let decision = decide(
            &minutely(),
            policy(CatchUp::Latest, Overlap::Allow),
            &quiet(590 * MINUTE, 600 * MINUTE),
        );
        assert_eq!(told(&decision), [(591, 599, 9, Missed::Superseded)]);
        assert_eq!(decision.fire, [600 * MINUTE]);
    }

    #[test]
    fn without_catch_up_a_slot_is_on_time_or_missed() {
        let daily = Slots {
            timing: Timing::every(24 * HOUR, 0).unwrap(),
            starts_at: None,
            ends_at: None,
        };
        let none = policy(CatchUp::None, Overlap::Allow);
        let late = decide(&daily, none, &quiet(0, 24 * HOUR + ON_TIME_MS + 1));
        assert_eq!(late.fire, [0_i64; 0]);
        assert_eq!(told(&late), [(1_440, 1_440, 1, Missed::NotCaughtUp)]);
        assert_eq!(late.decided, Some(24 * HOUR));
        let on_time = decide(&daily, none, &quiet(0, 24 * HOUR + ON_TIME_MS));
        assert_eq!((on_time.fire.len(), on_time.skipped.len()), (1, 0));
    }

    #[test]
    fn nothing_is_decided_before_its_time_or_twice() {
        for catch_up in [CatchUp::All, CatchUp::Latest, CatchUp::None] {
            for overlap in [
                Overlap::Allow,
                Overlap::Skip,
                Overlap::QueueOne,
                Overlap::CancelRunning,
            ] {
                let standing = quiet(5 * MINUTE, 6 * MINUTE - 1);
                let decision = decide(&minutely(), policy(catch_up, overlap), &standing);
                assert!(decision.is_empty(&standing), "{decision:?}");
                // The clock has jumped back behind what is decided.
                let standing = quiet(500 * MINUTE, 6 * MINUTE);
                let decision = decide(&minutely(), policy(catch_up, overlap), &standing);
                assert!(decision.is_empty(&standing), "{decision:?}");
            }
        }
    }

    /// However the clock jumps and whenever one looks, a slot is decided once, in order, and none is left out.
    #[test]
    fn every_slot_is_decided_exactly_once_however_the_clock_jumps() {
        let looks = [1, 7, 7, 3, 62, 61, 400, 399, 120, 401, 1_000, 10, 1_001];
        let (mut decided, mut seen) = (0, Vec::new());
        for now in looks.map(|n| n * MINUTE + 17) {
            loop {
                let decision = decide(
                    &minutely(),
                    policy(CatchUp::All, Overlap::Allow),
                    &quiet(decided, now),
                );
                decided = decision.decided.unwrap_or(decided);
                let passed = decision.skipped.iter().flat_map(|s| {
                    assert_eq!((s.last - s.first) / MINUTE + 1, s.count);
                    (s.first / MINUTE)..=(s.last / MINUTE)
                });
                seen.extend(passed.chain(decision.fire.iter().map(|slot| slot / MINUTE)));
                if !decision.more {
                    break;
                }
            }
        }
        assert_eq!(seen, (1..=1_001).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_runs_makes_others_skip_wait_or_take_its_place() {
        let busy = Standing {
            running: true,
            ..quiet(597 * MINUTE, 600 * MINUTE)
        };
        let with = |overlap, standing: &Standing| {
            decide(&minutely(), policy(CatchUp::All, overlap), standing)
        };
        let skip = with(Overlap::Skip, &busy);
        assert_eq!(
            (skip.fire.len(), told(&skip)),
            (0, vec![(598, 600, 3, Missed::Overlap)])
        );
        let queue = with(Overlap::QueueOne, &busy);
        assert_eq!((queue.fire.len(), queue.waiting), (0, Some(598 * MINUTE)));
        assert_eq!(told(&queue), [(599, 600, 2, Missed::Overlap)]);
        let cancel = with(Overlap::CancelRunning, &busy);
        assert_eq!(
            (cancel.fire.as_slice(), cancel.cancel),
            ([600 * MINUTE].as_slice(), true)
        );
        assert_eq!(told(&cancel), [(598, 599, 2, Missed::Overlap)]);
        assert!(!with(Overlap::CancelRunning, &quiet(599 * MINUTE, 600 * MINUTE)).cancel);

        let free = quiet(597 * MINUTE, 600 * MINUTE);
        assert_eq!(with(Overlap::Skip, &free).fire, [598 * MINUTE]);
        let waited = Standing {
            waiting: Some(590 * MINUTE),
            ..quiet(600 * MINUTE, 600 * MINUTE)
        };
        let fired = with(Overlap::QueueOne, &waited);
        assert_eq!(
            (fired.fire.as_slice(), fired.waiting),
            ([590 * MINUTE].as_slice(), None)
        );
        assert_eq!((fired.decided, fired.is_empty(&waited)), (None, false));
    }

    #[test]
    fn a_schedule_has_a_start_and_an_end() {
        let bounded = Slots {
            starts_at: Some(10 * MINUTE),
            ends_at: Some(12 * MINUTE),
            ..minutely()
        };
        assert_eq!(
            bounded.preview(0, 10),
            [10 * MINUTE, 11 * MINUTE, 12 * MINUTE]
        );
        assert_eq!(bounded.newest(0, 100 * MINUTE), Some(12 * MINUTE));
        assert_eq!(bounded.newest(12 * MINUTE, 100 * MINUTE), None);
    }

    #[test]
    fn a_year_of_silence_is_counted_up_to_a_limit() {
        let year = 366 * 24 * HOUR;
        let decision = decide(
            &minutely(),
            policy(CatchUp::Latest, Overlap::Skip),
            &quiet(0, year),
        );
        assert_eq!(decision.fire, [year]);
        assert_eq!(decision.skipped[0].count, COUNTED_AT_MOST);
    }
}
