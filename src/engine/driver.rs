//! Owns the execution of one claimed workflow: it polls the function, commits what the context recorded, suspends what waits, and ends.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll, Wake, Waker},
};

use tokio::sync::{Notify, oneshot};

use super::{
    committer::{Committed, Committer},
    context::{Context, Standing, push_row},
    error::WorkflowError,
    limits,
    workflow::AnyWorkflow,
};
use crate::{
    store::{
        checkpoints::{Checkpoint, Ending, Verdict},
        status::WorkflowStatus,
        waits::{Condition, Wait},
    },
    telemetry::instruments::{RUN_SECONDS, WAITS},
};

/// How an execution ended, for those who count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The function returned and that is recorded.
    Completed,
    /// The function returned an error and that is recorded.
    Failed,
    /// It waits in the database.
    Suspended,
    /// It was handed back at a boundary: this process stops, or has too little time for the next step.
    Yielded,
    /// The replay did not fit; it is tried again later.
    Released,
    /// It was cancelled, or is somebody else's.
    Stopped,
}

impl Ended {
    /// In a word, for telemetry.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Released => "released",
            Self::Yielded => "yielded",
            Self::Stopped => "stopped",
        }
    }
}

/// Wakes the driver and remembers that it did: a future that woke itself is not stuck.
#[derive(Default)]
struct Woken {
    flag: AtomicBool,
    notify: Notify,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// Executes the claimed workflow of `context` until it ends, suspends, or its claim is lost.
pub(super) async fn drive(
    workflow: &dyn AnyWorkflow,
    context: &Context,
    committer: &Committer,
) -> Ended {
    let mut function = workflow.run(context, context.claimed.workflow.inputs.as_deref());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut in_flight: Option<oneshot::Receiver<Committed>> = None;
    loop {
        woken.flag.store(false, Ordering::Release);
        // A panic ends this workflow, not the process.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            function.as_mut().poll(&mut TaskContext::from_waker(&waker))
        }));
        let result = match polled {
            Ok(Poll::Ready(result)) => Some(result),
            Ok(Poll::Pending) => None,
            Err(panic) => Some(Err(panicked(panic.as_ref()))),
        };
        if let Some(result) = result {
            if let Some(answer) = in_flight.take()
                && let Some(ended) = stop(context, committer, answer.await).await
            {
                return ended;
            }
            let ending = completion(result);
            let ended = match &ending {
                Ending::Completed {
                    status: WorkflowStatus::Success,
                    ..
                } => Ended::Completed,
                _ => Ended::Failed,
            };
            let checkpoint = Checkpoint {
                ending: Some(ending),
                ..context.take_outbox()
            };
            return finish(context, committer, checkpoint, ended).await;
        }
        if in_flight.is_none() {
            match context.standing() {
                Standing::Mismatch(mismatch) => {
                    return finish(
                        context,
                        committer,
                        release(context, mismatch),
                        Ended::Released,
                    )
                    .await;
                }
                Standing::Commit => {
                    in_flight = Some(committer.submit(context.take_outbox(), None).await)
                }
                Standing::HandedBack(delay_ms) if !woken.flag.load(Ordering::Acquire) => {
                    let checkpoint = Checkpoint {
                        ending: Some(Ending::Yielded { delay_ms }),
                        ..context.take_outbox()
                    };
                    return finish(context, committer, checkpoint, Ended::Yielded).await;
                }
                Standing::Waits if !woken.flag.load(Ordering::Acquire) => {
                    let mut checkpoint = context.take_outbox();
                    let (wait, rows) = context.take_wait();
                    rows.into_iter()
                        .for_each(|row| push_row(&mut checkpoint, row));
                    checkpoint.ending = Some(Ending::Suspended(wait));
                    return finish(context, committer, checkpoint, Ended::Suspended).await;
                }
                Standing::Nothing if !woken.flag.load(Ordering::Acquire) => {
                    let error = WorkflowError::new(
                        "awaits_outside_context",
                        "the workflow awaits something outside its context",
                    );
                    let checkpoint = Checkpoint {
                        ending: Some(completion(Err(error))),
                        ..context.take_outbox()
                    };
                    return finish(context, committer, checkpoint, Ended::Failed).await;
                }
                Standing::Running
                | Standing::HandedBack(_)
                | Standing::Waits
                | Standing::Nothing => {}
            }
        }
        let interrupted = match &mut in_flight {
            None => tokio::select! {
                () = woken.notify.notified() => false,
                () = context.interrupt.interrupted() => true,
            },
            Some(answer) => tokio::select! {
                () = woken.notify.notified() => false,
                () = context.interrupt.interrupted() => true,
                committed = answer => {
                    in_flight = None;
                    if let Some(ended) = stop(context, committer, committed).await {
                        return ended;
                    }
                    context.committed();
                    false
                }
            },
        };
        if interrupted {
            // The step's body ends here, before its claim does: nobody runs it side by side.
            drop(function);
            if let Some(answer) = in_flight.take()
                && let Some(ended) = stop(context, committer, answer.await).await
            {
                return ended;
            }
            return finish(context, committer, context.take_outbox(), Ended::Stopped).await;
        }
        tokio::task::consume_budget().await;
    }
}

/// Hands in the last checkpoint of this execution.
async fn finish(
    context: &Context,
    committer: &Committer,
    checkpoint: Checkpoint,
    ended: Ended,
) -> Ended {
    let parent = context.claimed.workflow.parent_workflow_id.clone();
    let measured = Measured::of(&checkpoint);
    let answer = committer.submit(checkpoint, parent).await.await;
    match stop(context, committer, answer).await {
        Some(stopped) => stopped,
        None => {
            measured.count(context);
            ended
        }
    }
}

/// How an execution ends, for the instruments, once that is committed.
enum Measured {
    Completed(WorkflowStatus),
    Suspended(&'static str),
    Neither,
}

impl Measured {
    fn of(checkpoint: &Checkpoint) -> Self {
        match &checkpoint.ending {
            Some(Ending::Completed { status, .. }) => Self::Completed(*status),
            Some(Ending::Suspended(wait)) => Self::Suspended(wait.kind()),
            Some(Ending::Released { .. } | Ending::Yielded { .. }) | None => Self::Neither,
        }
    }

    fn count(self, context: &Context) {
        match self {
            Self::Completed(status) => RUN_SECONDS.observe_ms(
                &[&context.claimed.workflow.name, status.as_str()],
                context.clock.now() - context.created_at(),
            ),
            Self::Suspended(kind) => WAITS.add(&[kind], 1),
            Self::Neither => {}
        }
    }
}

/// Whether `answer` ends the execution. A checkpoint that a constraint refused ends the workflow with an error: tried again it would be
/// refused again, for ever.
async fn stop(
    context: &Context,
    committer: &Committer,
    answer: Result<Committed, oneshot::error::RecvError>,
) -> Option<Ended> {
    if let Ok(Committed::Verdict(verdict)) = &answer {
        context.spans.answered(*verdict);
    }
    match answer {
        Ok(Committed::Verdict(Verdict::Go)) => None,
        Ok(Committed::Verdict(Verdict::KeptStop | Verdict::Lost)) | Err(_) => Some(Ended::Stopped),
        Ok(Committed::Refused(message)) => {
            tracing::error!(workflow = context.workflow_id(), %message, "a checkpoint was refused by the database");
            let error = WorkflowError::new("checkpoint_rejected", message);
            let checkpoint = Checkpoint {
                workflow_id: context.workflow_id().to_owned(),
                token: context.claimed.token.clone(),
                ending: Some(completion(Err(error))),
                ..Checkpoint::default()
            };
            let parent = context.claimed.workflow.parent_workflow_id.clone();
            match committer.submit(checkpoint, parent).await.await {
                Ok(Committed::Verdict(Verdict::Go)) => Some(Ended::Failed),
                _ => Some(Ended::Stopped),
            }
        }
    }
}

fn completion(result: Result<String, WorkflowError>) -> Ending {
    let checked = result.and_then(
        |output| match limits::check("a workflow's output", &output) {
            Ok(()) => Ok(output),
            Err(error) => Err(WorkflowError::new("payload_too_large", error.to_string())),
        },
    );
    match checked {
        Ok(output) => Ending::Completed {
            status: WorkflowStatus::Success,
            output: Some(output),
            error: None,
        },
        Err(error) => Ending::Completed {
            status: WorkflowStatus::Error,
            output: None,
            error: Some(error.to_stored()),
        },
    }
}

/// Gives the claim back with its attempt charged, for a while that doubles: the next one may be of a process with the right code.
fn release(context: &Context, mismatch: Condition) -> Checkpoint {
    if let Condition::Mismatch {
        function_id,
        recorded,
        called,
    } = &mismatch
    {
        tracing::error!(
            workflow = context.workflow_id(),
            function_id,
            recorded,
            called,
            "the code calls another step than the one recorded"
        );
    }
    let (first, longest) = limits::MISMATCH_PAUSE_MS;
    let attempts = u32::try_from(context.claimed.workflow.recovery_attempts).unwrap_or(0);
    let delay_ms = (first << attempts.min(10)).min(longest);
    Checkpoint {
        workflow_id: context.workflow_id().to_owned(),
        token: context.claimed.token.clone(),
        ending: Some(Ending::Released {
            wait: Wait {
                conditions: vec![mismatch],
            },
            delay_ms,
        }),
        ..Checkpoint::default()
    }
}

fn panicked(panic: &(dyn Any + Send)) -> WorkflowError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    WorkflowError::new(
        "panicked",
        format!("the workflow's code panicked: {message}"),
    )
}
