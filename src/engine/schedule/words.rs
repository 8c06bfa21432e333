//! Owns what a schedule's times are called: the common shapes in words, anything else as the pattern itself.

use chrono_tz::Tz;
use croner::{Cron, CronComponent};

use super::timing::{Timing, is_hourly};

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
/// Times of a day that are listed; more are told as the pattern.
const TIMES_TOLD: usize = 4;
/// The units of an interval in milliseconds, largest first.
const UNITS: [(i64, &str); 4] = [
    (86_400_000, "day"),
    (3_600_000, "hour"),
    (60_000, "minute"),
    (1_000, "second"),
];

impl Timing {
    /// For people: `every weekday at 09:00 Europe/Berlin`.
    pub fn in_words(&self) -> String {
        match self {
            Self::Every { interval_ms, .. } => every(*interval_ms),
            Self::Cron { text, cron, zone } => of_cron(cron, *zone)
                .unwrap_or_else(|| format!("cron {:?} {}", text.trim(), zone.name())),
        }
    }
}

fn every(interval_ms: i64) -> String {
    let whole = UNITS.iter().find(|(unit, _)| interval_ms % unit == 0);
    let (unit, name) = whole.copied().unwrap_or((1_000, "second"));
    counted(interval_ms / unit, name)
}

fn counted(n: i64, unit: &str) -> String {
    if n == 1 {
        format!("every {unit}")
    } else {
        format!("every {n} {unit}s")
    }
}

fn of_cron(cron: &Cron, zone: Tz) -> Option<String> {
    let pattern = &cron.pattern;
    if !is_full(&pattern.months) || !pattern.years.from_wildcard {
        return None;
    }
    let every_day = pattern.is_dom_wildcard() && pattern.is_dow_wildcard();
    let hours = pattern.hours.values();
    let (minutes, seconds) = (pattern.minutes.values(), pattern.seconds.values());
    if is_hourly(cron) {
        let within = every_day.then(|| within_the_hour(&pattern.minutes, &pattern.seconds));
        return Some(format!("{} {}", within??, zone.name()));
    }
    let ([minute], [0]) = (minutes.as_slice(), seconds.as_slice()) else {
        return None;
    };
    if hours.len() > TIMES_TOLD {
        return None;
    }
    let times: Vec<String> = hours
        .iter()
        .map(|hour| format!("{hour:02}:{minute:02}"))
        .collect();
    Some(format!(
        "{} at {} {}",
        days(cron)?,
        list(&times),
        zone.name()
    ))
}

/// The days that a pattern of all months fits.
fn days(cron: &Cron) -> Option<String> {
    let pattern = &cron.pattern;
    if uses_modifiers(&pattern.days) || uses_modifiers(&pattern.days_of_week) {
        return None;
    }
    match (pattern.is_dom_wildcard(), pattern.is_dow_wildcard()) {
        (true, true) => Some("every day".into()),
        (true, false) => Some(match pattern.days_of_week.values().as_slice() {
            [1, 2, 3, 4, 5] => "every weekday".into(),
            [0, 6] => "every Saturday and Sunday".into(),
            days => {
                let names: Option<Vec<&str>> = days
                    .iter()
                    .map(|day| WEEKDAYS.get(usize::from(*day)).copied())
                    .collect();
                format!("every {}", list(&names?))
            }
        }),
        (false, true) => Some(match pattern.days.values().as_slice() {
            [day] => format!("on day {day} of every month"),
            days if days.len() <= TIMES_TOLD => format!("on days {} of every month", list(days)),
            _ => return None,
        }),
        (false, false) => None,
    }
}

/// What happens within each hour.
fn within_the_hour(minutes: &CronComponent, seconds: &CronComponent) -> Option<String> {
    let (minute, second) = (minutes.values(), seconds.values());
    match (step(&minute, 60), second.as_slice()) {
        (Some(n), [0]) => Some(match n {
            60 => "every hour".into(),
            n => counted(n, "minute"),
        }),
        (Some(1), _) => step(&second, 60)
            .filter(|n| *n < 60)
            .map(|n| counted(n, "second")),
        (None, [0]) => match minute.as_slice() {
            [minute] => Some(format!("every hour at minute {minute}")),
            _ => None,
        },
        _ => None,
    }
}

/// The step of values that begin with 0 and divide `whole` evenly.
fn step(values: &[u16], whole: u16) -> Option<i64> {
    let n = u16::try_from(values.len()).ok().filter(|n| *n > 0)?;
    let step = whole / n;
    let even = whole.is_multiple_of(n)
        && values
            .iter()
            .zip(0..)
            .all(|(value, nth): (&u16, u16)| *value == nth * step);
    even.then_some(i64::from(step))
}

/// Whether a field has days that no plain value stands for: `L`, `W`, `#`.
fn uses_modifiers(component: &CronComponent) -> bool {
    component.values().is_empty() || component.has_modifiers()
}

fn is_full(component: &CronComponent) -> bool {
    component.values().len() == usize::from(component.max - component.min) + 1
}

/// `a`, `a and b`, `a, b and c`.
fn list(items: &[impl ToString]) -> String {
    let mut items: Vec<String> = items.iter().map(ToString::to_string).collect();
    match items.pop() {
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} and {last}", items.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_shapes_are_told_in_words() {
        for (pattern, zone, words) in [
            ("*/30 * * * * *", "UTC", "every 30 seconds UTC"),
            ("* * * * * *", "UTC", "every second UTC"),
            ("* * * * *", "UTC", "every minute UTC"),
            ("*/5 * * * *", "UTC", "every 5 minutes UTC"),
            ("@hourly", "UTC", "every hour UTC"),
            ("15 * * * *", "UTC", "every hour at minute 15 UTC"),
            (
                "0 9 * * 1-5",
                "Europe/Berlin",
                "every weekday at 09:00 Europe/Berlin",
            ),
            (
                "0 9,17 * * MON-FRI",
                "Europe/Berlin",
                "every weekday at 09:00 and 17:00 Europe/Berlin",
            ),
            ("30 0 * * *", "UTC", "every day at 00:30 UTC"),
            (
                "0 10 * * SAT,SUN",
                "UTC",
                "every Saturday and Sunday at 10:00 UTC",
            ),
            (
                "0 10 * * MON,THU",
                "UTC",
                "every Monday and Thursday at 10:00 UTC",
            ),
            ("0 0 1 * *", "UTC", "on day 1 of every month at 00:00 UTC"),
            (
                "0 0 1,15 * *",
                "UTC",
                "on days 1 and 15 of every month at 00:00 UTC",
            ),
        ] {
            assert_eq!(
                Timing::cron(pattern, zone).unwrap().in_words(),
                words,
                "{pattern}"
            );
        }
    }

    #[test]
    fn other_shapes_are_told_as_they_are_written() {
        for pattern in [
            "0 0 L * *",
            "0 9 * * 5#2",
            "0 9 13 * FRI",
            "0 0 1 1 *",
            "7,9 * * * *",
            "*/7 * * * *",
            "0 9 15W * *",
            "0 0-6 * * *",
            "0 0 9 * * * 2030",
            "*/5 * * * MON",
        ] {
            let words = Timing::cron(pattern, "UTC").unwrap().in_words();
            assert_eq!(words, format!("cron {pattern:?} UTC"));
        }
    }

    #[test]
    fn intervals_are_told_in_the_largest_unit_that_fits() {
        for (ms, words) in [
            (1_000, "every second"),
            (90_000, "every 90 seconds"),
            (900_000, "every 15 minutes"),
            (3_600_000, "every hour"),
            (172_800_000, "every 2 days"),
        ] {
            assert_eq!(Timing::every(ms, 0).unwrap().in_words(), words);
        }
    }
}
