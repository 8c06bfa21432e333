//! Owns the named write points at which a test lets the process die: before and after every commit that matters, by what it is for, and before
//! and after any write of the process, by its number. Without the environment's wish nothing is checked but one flag.

use std::sync::OnceLock;

use crate::store::{
    checkpoints::{Checkpoint, Ending},
    writes::{self, Side},
};

/// A place in the code where a process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the transaction of a claim begins.
    BeforeClaim,
    /// After the claim is committed, before anything runs.
    AfterClaim,
    /// Before a step's checkpoint is committed.
    BeforeStep,
    /// After it.
    AfterStep,
    /// Before the start of children is committed.
    BeforeFanOut,
    /// After it.
    AfterFanOut,
    /// Before a suspension is committed.
    BeforeSuspend,
    /// After it, before the look at what it waits for.
    AfterSuspend,
    /// Before a suspended workflow is claimed again.
    BeforeWake,
    /// After it.
    AfterWake,
    /// Before a completion is committed; the step is the last one recorded with it.
    BeforeCompletion,
    /// After it.
    AfterCompletion,
    /// After the waits were looked at.
    AfterLook,
    /// Before slots of a schedule are committed; the step is the schedule's name.
    BeforeFire,
    /// After it.
    AfterFire,
    /// Before a write of whatever kind; the step is its number in this process.
    BeforeWrite,
    /// After it.
    AfterWrite,
}

/// Every point, with the name that the environment uses.
pub const POINTS: [(Point, &str); 17] = [
    (Point::BeforeClaim, "before-claim"),
    (Point::AfterClaim, "after-claim"),
    (Point::BeforeStep, "before-step"),
    (Point::AfterStep, "after-step"),
    (Point::BeforeFanOut, "before-fan-out"),
    (Point::AfterFanOut, "after-fan-out"),
    (Point::BeforeSuspend, "before-suspend"),
    (Point::AfterSuspend, "after-suspend"),
    (Point::BeforeWake, "before-wake"),
    (Point::AfterWake, "after-wake"),
    (Point::BeforeCompletion, "before-completion"),
    (Point::AfterCompletion, "after-completion"),
    (Point::AfterLook, "after-look"),
    (Point::BeforeFire, "before-fire"),
    (Point::AfterFire, "after-fire"),
    (Point::BeforeWrite, "before-write"),
    (Point::AfterWrite, "after-write"),
];

/// Where to die: at a point, when a step of this name is in the checkpoint if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    point: Point,
    step: Option<String>,
}

impl Death {
    /// Reads `POINT` or `POINT:STEP`.
    ///
    /// # Errors
    /// The names that exist, when this one does not.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, step) = text
            .split_once(':')
            .map_or((text, None), |(name, step)| (name, Some(step.to_owned())));
        let Some((point, _)) = POINTS.iter().find(|(_, known)| *known == name) else {
            let names = POINTS.map(|(_, name)| name).join(", ");
            return Err(format!("one of {names}"));
        };
        let death = Self {
            point: *point,
            step,
        };
        match death.side() {
            Some(_) if death.number().is_none() => Err(format!("{name}:N, N from 1")),
            _ => Ok(death),
        }
    }

    /// For a write of whatever kind, the side of it.
    fn side(&self) -> Option<Side> {
        match self.point {
            Point::BeforeWrite => Some(Side::Before),
            Point::AfterWrite => Some(Side::After),
            _ => None,
        }
    }

    fn number(&self) -> Option<u64> {
        self.step.as_ref()?.parse().ok().filter(|n| *n > 0)
    }
}

static DEATH: OnceLock<Death> = OnceLock::new();

/// Lets this process abort when it first reaches `death`.
pub fn die_at(death: Death) {
    if let Some((side, number)) = death.side().zip(death.number()) {
        writes::die_at(number, side);
    }
    let _ = DEATH.set(death);
}

/// Says that the process is at `point`, with a step's name where there is one.
pub(super) fn reached(point: Point, step: &str) {
    if let Some(death) = DEATH.get()
        && death.point == point
        && death.step.as_deref().is_none_or(|wanted| wanted == step)
    {
        // As abrupt as a kill: no destructor runs, nothing is flushed.
        std::process::abort();
    }
}

/// The pairs of points around the commit of a checkpoint.
pub(super) fn before_commit(checkpoint: &Checkpoint) {
    if DEATH.get().is_some() {
        around(checkpoint, |(before, _), step| reached(before, step));
    }
}

/// See [`before_commit`].
pub(super) fn after_commit(checkpoint: &Checkpoint) {
    if DEATH.get().is_some() {
        around(checkpoint, |(_, after), step| reached(after, step));
    }
}

fn around(checkpoint: &Checkpoint, mut visit: impl FnMut((Point, Point), &str)) {
    for output in checkpoint.outputs.iter().filter(|output| output.body) {
        visit((Point::BeforeStep, Point::AfterStep), &output.function_name);
    }
    for child in &checkpoint.children {
        visit((Point::BeforeFanOut, Point::AfterFanOut), &child.name);
    }
    let last = checkpoint
        .outputs
        .last()
        .map_or("", |output| output.function_name.as_str());
    match &checkpoint.ending {
        Some(Ending::Completed { .. }) => {
            visit((Point::BeforeCompletion, Point::AfterCompletion), last);
        }
        Some(Ending::Suspended(_) | Ending::Yielded { .. } | Ending::Released { .. }) => {
            visit((Point::BeforeSuspend, Point::AfterSuspend), last)
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_that_is_read_back() {
        for (point, name) in POINTS {
            let numbered = matches!(point, Point::BeforeWrite | Point::AfterWrite);
            let step = numbered.then(|| "7".to_owned());
            let text = step
                .as_ref()
                .map_or_else(|| name.to_owned(), |step| format!("{name}:{step}"));
            assert_eq!(Death::parse(&text).unwrap(), Death { point, step });
        }
        for text in ["before-write", "after-write:0", "after-write:x"] {
            Death::parse(text).unwrap_err();
        }
        assert_eq!(
            Death::parse("after-step:CompileST")
                .unwrap()
                .step
                .as_deref(),
            Some("CompileST")
        );
        assert!(
            Death::parse("elsewhere")
                .unwrap_err()
                .contains("before-claim")
        );
    }
}
