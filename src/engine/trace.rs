//! Owns the spans of executions: what a claim, its commits and the wait before it took, and the spans that a workflow hands in. A span leaves the
//! process only when what it tells of is committed.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::Value as Json;

use super::{context::Context, driver::Ended};
use crate::{
    store::{candidates::Candidate, checkpoints::Verdict, waits},
    telemetry::spans::{self, Span, SpanId, SpanKind, TraceContext, at_ms},
};

/// The spans of one execution.
#[derive(Debug)]
pub(super) struct ExecutionSpans {
    began: SystemTime,
    /// The span of the claim itself.
    claim: SpanId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the execution belongs to; without it nothing is told.
    around: Option<TraceContext>,
    /// Handed in since the last outbox was taken.
    fresh: Vec<(Span, Kept)>,
    /// Handed in before, and not committed yet.
    taken: Vec<(Span, Kept)>,
    commit_began: Option<SystemTime>,
    /// Commits that have ended.
    commits: Vec<Span>,
    /// Who sent what was received.
    senders: Vec<TraceContext>,
}

/// Which commit makes a span true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// One that keeps what bodies did, also of a cancelled workflow.
    WithBodies,
    /// Only one that carries on.
    WithEverything,
}

impl Context {
    /// Says to which span this execution belongs: its claims, commits and waits are told below it.
    pub fn traced(&self, around: TraceContext) {
        self.spans.lock().around = Some(around);
        let log = tracing::Span::current();
        log.record("trace_id", tracing::field::display(around.trace_id));
        log.record("span_id", tracing::field::display(around.span_id));
    }

    /// Hands in the span of a step whose body has just run; it is told once the step's record is committed.
    pub fn step_span(&self, span: Span) {
        self.spans.lock().fresh.push((span, Kept::WithBodies));
    }

    /// Hands in a span that is told once everything recorded until now is committed, unless the workflow was cancelled before.
    pub fn span(&self, span: Span) {
        self.spans.lock().fresh.push((span, Kept::WithEverything));
    }

    /// Remembers who sent a message that was just received, if it says so in `traceparent`.
    pub(super) fn received_from(&self, message: &str) {
        if !spans::wanted() {
            return;
        }
        let sender = serde_json::from_str::<Json>(message)
            .ok()
            .and_then(|message| TraceContext::parse(message.get("traceparent")?.as_str()?));
        self.spans.lock().senders.extend(sender);
    }
}

impl ExecutionSpans {
    pub(super) fn new() -> Self {
        Self {
            began: SystemTime::now(),
            claim: SpanId::random(),
            state: Mutex::default(),
        }
    }

    /// An outbox was taken: what was handed in so far stands and falls with its commit.
    pub(super) fn outbox_taken(&self) {
        let mut state = self.lock();
        let State { fresh, taken, .. } = &mut *state;
        taken.append(fresh);
        state.commit_began = Some(SystemTime::now());
    }

    /// The commit of the last outbox was answered.
    pub(super) fn answered(&self, verdict: Verdict) {
        let told = {
            let mut state = self.lock();
            if let (Some(began), Some(around)) = (state.commit_began.take(), state.around)
                && spans::takes(around)
            {
                let commit = Span::below(around.at(self.claim), SpanId::random(), "commit", began)
                    .with("stepwell.commit.verdict", verdict.as_str());
                state.commits.push(commit);
            }
            std::mem::take(&mut state.taken)
        };
        let is_true = |kept: Kept| match verdict {
            Verdict::Go => true,
            Verdict::KeptStop => kept == Kept::WithBodies,
            Verdict::Lost => false,
        };
        for (span, kept) in told {
            if is_true(kept) {
                spans::record(span);
            }
        }
    }

    /// The execution is over: tells of its claim, of its commits, and of the wait before it.
    pub(super) fn ended(&self, workflow: &Candidate, executor: &str, ended: Ended) {
        let mut state = self.lock();
        let Some(around) = state.around else {
            return;
        };
        for commit in state.commits.drain(..) {
            spans::record(commit);
        }
        let mut links = std::mem::take(&mut state.senders);
        if let Some(since) = workflow.waiting_since
            && spans::takes(around)
        {
            let mut wait = Span::below(around, SpanId::random(), "wait", at_ms(since))
                .with("stepwell.workflow.id", workflow.workflow_uuid.as_str())
                .with("stepwell.wait.kind", waited_for(workflow));
            wait.ended = self.began;
            wait.links = std::mem::take(&mut links);
            spans::record(wait);
        }
        if !spans::takes(around) {
            return;
        }
        let mut claim = Span::below(around, self.claim, "claim", self.began)
            .with("stepwell.workflow.id", workflow.workflow_uuid.as_str())
            .with("stepwell.workflow.name", workflow.name.as_str())
            .with("stepwell.queue", workflow.queue_name.as_str())
            .with("stepwell.executor", executor)
            .with("stepwell.claim.woken", workflow.woken)
            .with("stepwell.claim.attempt", workflow.recovery_attempts + 1)
            .with("stepwell.claim.ended", ended.as_str());
        claim.kind = SpanKind::Consumer;
        claim.links = links;
        spans::record(claim);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a woken workflow waited for.
pub(super) fn waited_for(workflow: &Candidate) -> &'static str {
    waits::kind_of(workflow.waited_for.as_deref().unwrap_or_default())
}
