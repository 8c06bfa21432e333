//! Owns the reprieve: until when a process does not take the silence of others for their death. After an outage of the database that was longer
//! than the expiry everybody looks dead, and whoever beats first would bury all who live.

/// Times are the database's, epoch milliseconds: a machine that slept, and a clock that was put forward, make everybody look dead as well.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Reprieve {
    stays: bool,
    last_beat: Option<i64>,
    until: i64,
}

impl Reprieve {
    /// Of a process that stays: what was before its first beat it does not know, so that one is followed by a reprieve, too.
    pub(in crate::engine) fn of_who_stays() -> Self {
        Self {
            stays: true,
            last_beat: None,
            until: 0,
        }
    }

    /// Of a process that comes for a moment: it believes what it finds, because it has no time to wait.
    pub(in crate::engine) fn of_who_comes_and_goes() -> Self {
        Self {
            stays: false,
            ..Self::of_who_stays()
        }
    }

    /// The heart has beaten at `now`. If it had rested for more than three quarters of an expiry, perhaps nobody's heart could beat meanwhile:
    /// everybody gets one expiry to show that they live. Who was silent for the last quarter, too, in which hearts did beat, missed a beat of its own.
    pub(super) fn beat(&mut self, now: i64, expiry_ms: i64) {
        let rested = match self.last_beat {
            None => self.stays,
            Some(last) => !(0..=expiry_ms * 3 / 4).contains(&(now - last)),
        };
        if rested {
            self.until = now + expiry_ms;
        }
        self.last_beat = Some(now);
    }

    /// From when on silence is death.
    pub(super) fn until(&self) -> i64 {
        self.until
    }

    /// Whether it is now.
    pub(super) fn is_over(&self, now: i64) -> bool {
        now >= self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: i64 = 15_000;

    /// Beats at these times, and whether others may be buried after each.
    fn buries(mut reprieve: Reprieve, beats: &[i64]) -> Vec<bool> {
        beats
            .iter()
            .map(|now| {
                reprieve.beat(*now, EXPIRY);
                reprieve.is_over(*now)
            })
            .collect()
    }

    #[test]
    fn a_process_that_stays_buries_nobody_for_one_expiry() {
        let beats = [100_000, 102_000, 113_250, 114_999, 115_000, 117_000];
        assert_eq!(
            buries(Reprieve::of_who_stays(), &beats),
            [false, false, false, false, true, true]
        );
    }

    #[test]
    fn a_process_that_comes_and_goes_buries_at_once() {
        assert_eq!(
            buries(Reprieve::of_who_comes_and_goes(), &[100_000, 102_000]),
            [true, true]
        );
    }

    #[test]
    fn who_rested_gives_everybody_one_expiry_whatever_the_reason() {
        let steady = Reprieve::of_who_comes_and_goes();
        for (after, what) in [
            (100_000 + EXPIRY + 1, "an outage"),
            (111_251, "an outage of three quarters"),
            (90_000, "a clock that was put back"),
        ] {
            let beats = [100_000, after, after + 11_250, after + EXPIRY];
            assert_eq!(buries(steady, &beats), [true, false, false, true], "{what}");
        }
    }
}
