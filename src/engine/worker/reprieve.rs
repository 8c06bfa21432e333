//! Owns the reprieve: until when a process does not take the silence of others for their death. After an outage of the database that was longer
//! than the expiry everybody looks dead, and whoever beats first would bury all who live.

/// Times are the database's, epoch milliseconds: a machine that slept, and a clock that was put forward, make everybody look dead as well. Whoever
/// has just started believes what it finds; else nobody would take over at once what a crash has left.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::engine) struct Reprieve {
    last_beat: Option<i64>,
    until: i64,
}

impl Reprieve {
    /// The heart has beaten at `now`. If it had rested for more than three quarters of an expiry, perhaps nobody's heart could beat meanwhile:
    /// everybody gets one expiry to show that they live. Who was silent for the last quarter, too, in which hearts did beat, missed a beat of its own.
    /// A heart that only beats slowly gives no second reprieve before the first one has passed: the dead would never be buried.
    pub(super) fn beat(&mut self, now: i64, expiry_ms: i64) {
        let rested = self.last_beat.map_or(0, |last| now - last);
        let is_outage = !(0..=expiry_ms).contains(&rested);
        let is_slow = rested > expiry_ms * 3 / 4;
        if is_outage || (is_slow && self.last_beat >= Some(self.until)) {
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
    fn buries(beats: &[i64]) -> Vec<bool> {
        let mut reprieve = Reprieve::default();
        beats
            .iter()
            .map(|now| {
                reprieve.beat(*now, EXPIRY);
                reprieve.is_over(*now)
            })
            .collect()
    }

    #[test]
    fn who_has_just_started_or_beats_steadily_buries_at_once() {
        assert_eq!(buries(&[100_000, 102_000, 113_250]), [true, true, true]);
    }

    #[test]
    fn a_heart_that_beats_slowly_buries_all_the_same() {
        let beats: Vec<i64> = (0..6).map(|n| 100_000 + n * 14_000).collect();
        assert_eq!(buries(&beats), [true, false, false, true, false, false]);
    }

    #[test]
    fn who_rested_gives_everybody_one_expiry_whatever_the_reason() {
        for (after, what) in [
            (100_000 + EXPIRY + 1, "an outage"),
            (111_251, "an outage of three quarters"),
            (90_000, "a clock that was put back"),
        ] {
            let beats = [100_000, after, after + 11_250, after + EXPIRY];
            assert_eq!(buries(&beats), [true, false, false, true], "{what}");
        }
    }
}
