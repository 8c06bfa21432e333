//! Owns when a schedule fires: its slots, in UTC epoch milliseconds. Pure: time comes in as a number, nothing is read.
//!
//! A pattern that names hours follows the clock on the wall: a slot that the clock skips (spring) fires at the first instant after the gap, a
//! slot that the clock shows twice (autumn) fires once, the first time. A pattern of every hour follows the time that passes: it has nothing
//! to make up for an hour that did not happen, and goes on through an hour that happens twice.

use std::str::FromStr;

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeZone};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;

/// The shortest interval: slots are whole seconds.
pub const SHORTEST_INTERVAL_MS: i64 = 1_000;
/// The longest interval: a year of 366 days.
pub const LONGEST_INTERVAL_MS: i64 = 366 * 24 * 60 * 60 * 1_000;
/// Wall clock times looked at for one slot. A second-by-second pattern meets at most as many in a fold as the fold has seconds, and no fold
/// of a time zone is longer than a day.
const MOST_LOOKS: usize = 24 * 60 * 60 + 1;

/// Why a schedule's times make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The cron pattern is none.
    #[error(
        "cron {pattern:?} is no pattern: {reason}; give five fields (minute hour day month weekday), or six with seconds first"
    )]
    Pattern {
        /// What was given.
        pattern: String,
        /// What the parser says.
        reason: String,
    },
    /// The pattern is well formed, and no day fits it.
    #[error("cron {0:?} never fires: no day of any year fits it")]
    Never(String),
    /// The zone is not in the IANA database.
    #[error("timezone {0:?} is not in the IANA database; give a name such as Europe/Berlin or UTC")]
    Zone(String),
    /// The interval is too short or too long.
    #[error("every is {0} ms, and accepts 1 s to 366 days, in whole seconds")]
    Interval(i64),
}

/// The times of a schedule.
#[derive(Debug, Clone)]
pub enum Timing {
    /// Where the clock on the wall fits a pattern.
    Cron {
        /// The pattern as it was given.
        text: String,
        /// The pattern.
        cron: Box<Cron>,
        /// Whose wall.
        zone: Tz,
    },
    /// Again and again after the same time.
    Every {
        /// The time between two slots, milliseconds.
        interval_ms: i64,
        /// One of the slots, epoch milliseconds.
        anchor: i64,
    },
}

impl Timing {
    /// The times of a cron pattern in a zone.
    ///
    /// # Errors
    /// [`TimingError`].
    pub fn cron(text: &str, zone: &str) -> Result<Self, TimingError> {
        let refused = |reason: String| TimingError::Pattern {
            pattern: text.to_owned(),
            reason,
        };
        let cron = Cron::from_str(text).map_err(|e| refused(e.to_string()))?;
        let zone: Tz = zone
            .parse()
            .map_err(|_| TimingError::Zone(zone.to_owned()))?;
        let timing = Self::Cron {
            text: text.to_owned(),
            cron: Box::new(cron),
            zone,
        };
        if timing.next_after(0).is_none() {
            return Err(TimingError::Never(text.to_owned()));
        }
        Ok(timing)
    }

    /// The times at `anchor` and every `interval_ms` before and after it.
    ///
    /// # Errors
    /// [`TimingError::Interval`].
    pub fn every(interval_ms: i64, anchor: i64) -> Result<Self, TimingError> {
        let fits = (SHORTEST_INTERVAL_MS..=LONGEST_INTERVAL_MS).contains(&interval_ms)
            && interval_ms % 1_000 == 0;
        if !fits {
            return Err(TimingError::Interval(interval_ms));
        }
        Ok(Self::Every {
            interval_ms,
            anchor,
        })
    }

    /// The first slot after `after`; none when there is none any more.
    pub fn next_after(&self, after: i64) -> Option<i64> {
        match self {
            Self::Every {
                interval_ms,
                anchor,
            } => {
                let passed = after.checked_sub(*anchor)?.div_euclid(*interval_ms);
                anchor.checked_add(passed.checked_add(1)?.checked_mul(*interval_ms)?)
            }
            Self::Cron { cron, zone, .. } => {
                let instant = DateTime::from_timestamp_millis(after - after.rem_euclid(1_000))?
                    .with_timezone(zone);
                if is_hourly(cron) {
                    let next = cron.find_next_occurrence(&instant, false).ok()?;
                    return Some(next.timestamp_millis());
                }
                next_on_the_wall(cron, *zone, instant.naive_local(), after)
            }
        }
    }
}

/// Whether a pattern fits every hour.
pub(super) fn is_hourly(cron: &Cron) -> bool {
    (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or(false))
}

/// The first slot after `after`, which is `local` on the wall. Later times on the wall are never earlier instants, so the first one that lies
/// after `after` is the next; those before it are the ones that a fold shows a second time, or that share the end of a gap.
fn next_on_the_wall(cron: &Cron, zone: Tz, local: NaiveDateTime, after: i64) -> Option<i64> {
    let mut wall = local;
    for _ in 0..MOST_LOOKS {
        wall = cron.find_next_occurrence(&wall, false).ok()?;
        let slot = instant_of(zone, wall)?;
        if slot > after {
            return Some(slot);
        }
    }
    None
}

/// The instant at which a clock first shows `wall`, or has passed it without showing it.
fn instant_of(zone: Tz, wall: NaiveDateTime) -> Option<i64> {
    let instant = match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(only) => only,
        MappedLocalTime::Ambiguous(first, _) => first,
        MappedLocalTime::None => GapInfo::new(&wall, &zone)?.end?,
    };
    Some(instant.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1_000;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_millis()
    }

    fn slots(pattern: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let timing = Timing::cron(pattern, zone).unwrap();
        let mut found = Vec::new();
        let mut after = at(from) - 1;
        while let Some(slot) = timing.next_after(after).filter(|slot| *slot <= at(to)) {
            assert!(slot > after);
            let zone: Tz = zone.parse().unwrap();
            let shown = DateTime::from_timestamp_millis(slot)
                .unwrap()
                .with_timezone(&zone);
            found.push(shown.format("%m-%dT%H:%M:%S%z").to_string());
            after = slot;
        }
        found
    }

    #[test]
    fn a_slot_in_a_gap_fires_when_the_gap_has_passed() {
        let berlin = slots(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            "2026-03-30T12:00:00Z",
        );
        assert_eq!(
            berlin,
            [
                "03-28T02:30:00+0100",
                "03-29T03:00:00+0200",
                "03-30T02:30:00+0200"
            ]
        );
        let new_york = slots(
            "15 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            "2026-03-09T12:00:00Z",
        );
        assert_eq!(new_york, ["03-08T03:00:00-0400", "03-09T02:15:00-0400"]);
        // Half an hour only: 02:00 to 02:30.
        let lord_howe = slots(
            "10 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T12:00:00Z",
            "2026-10-05T00:00:00Z",
        );
        assert_eq!(
            lord_howe,
            [
                "10-03T02:10:00+1030",
                "10-04T02:30:00+1100",
                "10-05T02:10:00+1100"
            ]
        );
    }

    #[test]
    fn slots_that_share_a_gap_are_one() {
        let berlin = slots(
            "0 0,15,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            "2026-03-29T02:00:00Z",
        );
        assert_eq!(
            berlin,
            [
                "03-29T03:00:00+0200",
                "03-29T03:15:00+0200",
                "03-29T03:30:00+0200"
            ]
        );
    }

    #[test]
    fn a_slot_in_a_fold_fires_the_first_time_alone() {
        let berlin = slots(
            "30 2,14 * * *",
            "Europe/Berlin",
            "2026-10-24T22:00:00Z",
            "2026-10-26T02:00:00Z",
        );
        assert_eq!(
            berlin,
            [
                "10-25T02:30:00+0200",
                "10-25T14:30:00+0100",
                "10-26T02:30:00+0100"
            ]
        );
        let new_york = slots(
            "0 1 * * *",
            "America/New_York",
            "2026-11-01T04:00:00Z",
            "2026-11-02T07:00:00Z",
        );
        assert_eq!(new_york, ["11-01T01:00:00-0400", "11-02T01:00:00-0500"]);
        // 01:30 to 02:00 is shown twice.
        let lord_howe = slots(
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:00:00Z",
            "2026-04-06T00:00:00Z",
        );
        assert_eq!(lord_howe, ["04-05T01:45:00+1100", "04-06T01:45:00+1030"]);
    }

    #[test]
    fn a_pattern_of_every_hour_goes_on_through_both() {
        let autumn = slots(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T00:00:00Z",
            "2026-10-25T02:00:00Z",
        );
        assert_eq!(
            autumn,
            [
                "10-25T02:00:00+0200",
                "10-25T02:30:00+0200",
                "10-25T02:00:00+0100",
                "10-25T02:30:00+0100",
                "10-25T03:00:00+0100"
            ]
        );
        let spring = slots(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:30:00Z",
        );
        assert_eq!(
            spring,
            [
                "03-29T01:30:00+0100",
                "03-29T03:00:00+0200",
                "03-29T03:30:00+0200"
            ]
        );
    }

    /// Days whose clocks change, and days whose do not, in zones of all kinds.
    const DAYS: [(&str, &str); 8] = [
        ("Europe/Berlin", "2026-03-28T12:00:00Z"),
        ("Europe/Berlin", "2026-10-24T12:00:00Z"),
        ("America/New_York", "2026-03-07T12:00:00Z"),
        ("America/New_York", "2026-10-31T12:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T00:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T00:00:00Z"),
        ("Asia/Kathmandu", "2026-06-01T00:00:00Z"),
        ("UTC", "2026-11-24T00:00:00Z"),
    ];

    /// Every time of the day at which a daily schedule may stand has exactly one slot on every day, whatever its clock does, and it is where
    /// the wall shows that time first, or where it has jumped over it.
    #[test]
    fn a_daily_schedule_fires_once_a_day_at_every_minute_of_the_day() {
        for (zone, from) in DAYS {
            let tz: Tz = zone.parse().unwrap();
            let first_day = DateTime::from_timestamp_millis(at(from))
                .unwrap()
                .with_timezone(&tz)
                .date_naive()
                + chrono::Days::new(1);
            // Clocks change at night; the rest of the day is sampled.
            for minute in (0..240).chain((240..24 * 60).step_by(11)) {
                let pattern = format!("{} {} * * *", minute % 60, minute / 60);
                let timing = Timing::cron(&pattern, zone).unwrap();
                let mut expected: Vec<i64> = (0..3)
                    .map(|day| {
                        let wall = (first_day + chrono::Days::new(day))
                            .and_hms_opt(minute / 60, minute % 60, 0)
                            .unwrap();
                        first_shown_or_passed(tz, wall)
                    })
                    .collect();
                expected.dedup();
                let mut after = expected[0] - 1;
                let found: Vec<i64> = expected
                    .iter()
                    .map(|_| {
                        after = timing.next_after(after).unwrap();
                        after
                    })
                    .collect();
                assert_eq!(found, expected, "{pattern} in {zone}");
            }
        }
    }

    /// Walks the time second by second, without asking the zone where a wall time is.
    fn first_shown_or_passed(tz: Tz, wall: NaiveDateTime) -> i64 {
        let shown = |at: i64| {
            DateTime::from_timestamp_millis(at)
                .unwrap()
                .with_timezone(&tz)
                .naive_local()
        };
        let utc = wall.and_utc().timestamp_millis();
        let offset = shown(utc).and_utc().timestamp_millis() - utc;
        let mut instant = utc - offset - 3 * HOUR_MS;
        while shown(instant) < wall {
            instant += 60_000;
        }
        instant
    }

    #[test]
    fn the_next_slot_does_not_depend_on_where_one_asks_from() {
        for (zone, from) in DAYS {
            for pattern in [
                "17 */3 * * *",
                "*/20 * * * *",
                "5 1-3 * * *",
                "50 59 * * * *",
            ] {
                let timing = Timing::cron(pattern, zone).unwrap();
                let mut slot = timing.next_after(at(from)).unwrap();
                for _ in 0..60 {
                    let next = timing.next_after(slot).unwrap();
                    for asked in [slot + 1, slot + (next - slot) / 2, next - 1] {
                        assert_eq!(timing.next_after(asked), Some(next), "{pattern} in {zone}");
                    }
                    slot = next;
                }
            }
        }
    }

    #[test]
    fn a_day_that_a_zone_left_out_is_passed_over_once() {
        // Samoa crossed the date line at the end of 2011-12-29.
        let apia = slots(
            "0 9 * * *",
            "Pacific/Apia",
            "2011-12-29T10:00:00Z",
            "2011-12-31T10:00:00Z",
        );
        assert_eq!(
            apia,
            [
                "12-29T09:00:00-1000",
                "12-31T00:00:00+1400",
                "12-31T09:00:00+1400"
            ]
        );
    }

    #[test]
    fn the_built_in_pattern_has_2880_slots_a_day() {
        let timing = Timing::cron("*/30 * * * * *", "UTC").unwrap();
        let start = at("2026-11-24T00:00:00Z");
        let mut after = start;
        for n in 1..=2_880 {
            after = timing.next_after(after).unwrap();
            assert_eq!(after, start + n * 30_000);
        }
    }

    #[test]
    fn intervals_are_counted_from_their_anchor() {
        let timing = Timing::every(900_000, 60_000).unwrap();
        assert_eq!(timing.next_after(0), Some(60_000));
        assert_eq!(timing.next_after(60_000), Some(960_000));
        assert_eq!(timing.next_after(-900_000), Some(-840_000));
        for bad in [0, 999, 1_500, LONGEST_INTERVAL_MS + 1_000] {
            Timing::every(bad, 0).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        for (pattern, zone, says) in [
            ("* * * *", "UTC", "five fields"),
            ("61 * * * *", "UTC", "61"),
            ("", "UTC", "five fields"),
            ("0 0 30 2 *", "UTC", "never fires"),
            ("0 0 * * *", "Berlin", "IANA"),
            ("0 0 * * *", "+02:00", "IANA"),
        ] {
            let error = Timing::cron(pattern, zone).unwrap_err().to_string();
            assert!(error.contains(says), "{pattern:?} {zone:?}: {error}");
        }
    }

    #[test]
    fn a_leap_day_is_waited_for() {
        let timing = Timing::cron("0 0 29 2 *", "UTC").unwrap();
        assert_eq!(
            timing.next_after(at("2026-11-24T00:00:00Z")),
            Some(at("2028-02-29T00:00:00Z"))
        );
    }
}
