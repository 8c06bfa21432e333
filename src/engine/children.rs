//! Owns child workflows: starting them in the parent's checkpoint, and awaiting them without holding anything.

use std::{collections::HashMap, future::Future, marker::PhantomData, time::Duration};

use serde::de::DeserializeOwned;

use super::{
    context::{Call, Context, decode},
    error::WorkflowError,
    limits,
    waiting::suspended,
    workflow::{Workflow, encode_input},
};
use crate::store::{
    StoreError,
    app_rows::Row,
    backend::persist,
    cancellations::{self, PutBack},
    checkpoints::Output,
    status::WorkflowStatus,
    waits::Condition,
    workflows::{self, NewWorkflow, WorkflowRow},
};

/// How the records of DBOS name the await of a child.
const GET_RESULT: &str = "DBOS.getResult";

/// Where and how a child runs. Partition and priority are its parent's.
#[derive(Debug, Clone, Default)]
pub struct ChildOptions {
    /// Its id; by default its parent's id and the function id of the start.
    pub id: Option<String>,
    /// Its queue.
    pub queue: String,
    /// How long it may take from its first claim.
    pub timeout: Option<Duration>,
    /// Rows of the application that are written with the start, if and only if it is.
    pub rows: Vec<Row>,
}

/// A child that was started.
#[derive(Debug)]
pub struct Child<O> {
    /// Its workflow id.
    pub id: String,
    /// Where it goes back to if its row no longer says.
    queue: String,
    function_id: i32,
    started_now: bool,
    output: PhantomData<fn() -> O>,
}

impl Context {
    /// Starts a child workflow. It exists if and only if this workflow's next checkpoint does.
    pub fn start_child<W: Workflow>(
        &self,
        input: &W::Input,
        options: ChildOptions,
    ) -> impl Future<Output = Result<Child<W::Output>, WorkflowError>> + Send + use<'_, W> {
        let call = self.call(W::NAME);
        let input = encode_input(input)
            .map_err(|e| WorkflowError::new("input_encoding", e.to_string()))
            .and_then(|text| {
                limits::check("a child's input", &text)
                    .map(|()| text)
                    .map_err(|e| WorkflowError::new("payload_too_large", e.to_string()))
            });
        async move {
            let function_id = call.function_id;
            if let Some(recorded) = self.replay(&call).await {
                let id = recorded.child_workflow_id.clone().unwrap_or_default();
                return Ok(Child {
                    id,
                    queue: options.queue,
                    function_id,
                    started_now: false,
                    output: PhantomData,
                });
            }
            let id = options
                .id
                .unwrap_or_else(|| format!("{}-{function_id}", self.workflow_id()));
            let child = NewWorkflow {
                id: id.clone(),
                name: W::NAME.into(),
                input: input?,
                queue_name: options.queue.clone(),
                queue_partition_key: self.partition_key().map(str::to_owned),
                priority: self.priority(),
                deduplication_id: None,
                application_version: self.app_version.clone(),
                timeout_ms: options
                    .timeout
                    .map(|d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
                delay_ms: None,
                parent_workflow_id: Some(self.workflow_id().to_owned()),
                schedule_name: None,
            };
            let output = Output {
                child_workflow_id: Some(id.clone()),
                ..self.output(&call, None)
            };
            self.with_outbox(|outbox| {
                outbox.children.push(child);
                outbox.rows.extend(options.rows);
                outbox.outputs.push(output);
            });
            Ok(Child {
                id,
                queue: options.queue,
                function_id,
                started_now: true,
                output: PhantomData,
            })
        }
    }

    /// Waits until all of `children` have ended, and answers their results in the same order. Every result is recorded.
    pub fn await_children<O: DeserializeOwned>(
        &self,
        children: Vec<Child<O>>,
    ) -> impl Future<Output = Result<Vec<Result<O, WorkflowError>>, WorkflowError>> + Send {
        let awaited: Vec<(Child<O>, Call)> = children
            .into_iter()
            .map(|child| (child, self.call(GET_RESULT)))
            .collect();
        async move {
            let mut open = Vec::new();
            for (child, call) in &awaited {
                if self.replay(call).await.is_none() {
                    open.push((child, call));
                }
            }
            let ended = if open.is_empty() {
                HashMap::new()
            } else {
                self.ended(&open).await
            };
            let mut results = Vec::with_capacity(awaited.len());
            for (child, call) in &awaited {
                if let Some(recorded) = &call.recorded {
                    results.push(decode(recorded));
                } else {
                    let output = self.result_of(child, call, ended.get(&child.id));
                    results.push(decode_output(&output));
                    self.with_outbox(|outbox| outbox.outputs.push(output));
                }
            }
            Ok(results)
        }
    }

    /// The rows of `open` by workflow id, once all of them have ended. A child without a row was deleted; nobody will ever end it.
    async fn ended<O>(&self, open: &[(&Child<O>, &Call)]) -> HashMap<String, WorkflowRow> {
        // Children started in this very claim have not ended unless somebody else was faster; the look after the suspension sees those.
        let just_started = open.iter().all(|(child, _)| child.started_now);
        let (rows, ours) = if just_started {
            (Vec::new(), Vec::new())
        } else {
            self.settled().await;
            let ids: Vec<&str> = open.iter().map(|(child, _)| child.id.as_str()).collect();
            let _running = self.running();
            persist("read the results of children", || self.look_at(&ids)).await
        };
        let rows: HashMap<String, WorkflowRow> = rows
            .into_iter()
            .map(|row| (row.workflow_uuid.clone(), row))
            .collect();
        let has_ended = |child: &Child<O>| {
            let goes_on = rows
                .get(&child.id)
                .is_some_and(|row| row.status.is_unfinished());
            !just_started && !goes_on && !ours.contains(&child.id)
        };
        let children = open
            .iter()
            .map(|(child, _)| (child.function_id, has_ended(child)));
        let Some(first_run) = first_run(children) else {
            return rows;
        };
        drop(rows);
        self.put_back(open, &ours);
        let _waiting = self.waiting(vec![first_run], Vec::new());
        suspended().await
    }

    /// The rows of the children `ids`, and those among them that a cancel of this workflow has ended.
    async fn look_at(&self, ids: &[&str]) -> Result<(Vec<WorkflowRow>, Vec<String>), StoreError> {
        let read = self.db.read();
        let rows = workflows::results(&read, ids).await?;
        let cancelled: Vec<&str> = rows
            .iter()
            .filter(|row| row.status == WorkflowStatus::Cancelled)
            .map(|row| row.workflow_uuid.as_str())
            .collect();
        if cancelled.is_empty() {
            return Ok((rows, Vec::new()));
        }
        let ours = cancellations::by_parent(&read, self.workflow_id(), &cancelled).await?;
        Ok((rows, ours))
    }

    /// Puts the children that a cancel of this workflow has ended back into their queues, with the next checkpoint: it was resumed since.
    fn put_back<O>(&self, open: &[(&Child<O>, &Call)], ours: &[String]) {
        let children: Vec<PutBack> = open
            .iter()
            .filter(|(child, _)| ours.contains(&child.id))
            .map(|(child, _)| PutBack {
                id: child.id.clone(),
                parent: self.workflow_id().to_owned(),
                queue: child.queue.clone(),
            })
            .collect();
        if !children.is_empty() {
            self.with_outbox(|outbox| outbox.put_back.extend(children));
        }
    }

    fn result_of<O>(&self, child: &Child<O>, call: &Call, row: Option<&WorkflowRow>) -> Output {
        let failed = |code: &str, what: &str| {
            Some(
                WorkflowError::new(code, format!("child workflow {} {what}", child.id)).to_stored(),
            )
        };
        let (output, error) = match row.map(|row| (row.status, row)) {
            None => (None, failed("child_missing", "was deleted")),
            Some((WorkflowStatus::Success, row)) => {
                let output = row.output.clone();
                (Some(output.unwrap_or_else(|| "null".into())), None)
            }
            Some((WorkflowStatus::Cancelled, _)) => {
                (None, failed("child_cancelled", "was cancelled"))
            }
            Some((WorkflowStatus::MaxRecoveryAttemptsExceeded, _)) => (
                None,
                failed("child_dead", "was given up after too many recoveries"),
            ),
            Some((_, row)) => (
                None,
                row.error
                    .clone()
                    .or_else(|| failed("child_failed", "failed without an error")),
            ),
        };
        Output {
            error,
            child_workflow_id: Some(child.id.clone()),
            ..self.output(call, output)
        }
    }
}

fn decode_output<O: DeserializeOwned>(output: &Output) -> Result<O, WorkflowError> {
    match &output.error {
        Some(error) => Err(WorkflowError::from_stored(error)),
        None => serde_json::from_str(output.output.as_deref().unwrap_or("null")).map_err(|e| {
            WorkflowError::new(
                "record_decoding",
                format!("the child's output does not fit: {e}"),
            )
        }),
    }
}

/// The condition for the first unbroken run of `children`, which are function ids and whether each has ended, from the first that has not.
/// Waiting for that run and then for the next needs no list, however many there are. A run before it would hold already, and wake this
/// workflow at once, again and again. None when all have ended.
fn first_run(children: impl Iterator<Item = (i32, bool)>) -> Option<Condition> {
    let mut children: Vec<(i32, bool)> = children.collect();
    children.sort_unstable();
    let mut ids = children
        .into_iter()
        .skip_while(|(_, has_ended)| *has_ended)
        .map(|(id, _)| id);
    let low = ids.next()?;
    let high = ids
        .zip(low + 1..)
        .take_while(|(id, expected)| id == expected)
        .last()
        .map_or(low, |(id, _)| id);
    Some(Condition::Children { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_of(going_on: &[i32], ended: &[i32]) -> Option<(i32, i32)> {
        let going_on = going_on.iter().map(|id| (*id, false));
        match first_run(going_on.chain(ended.iter().map(|id| (*id, true))))? {
            Condition::Children { low, high } => Some((low, high)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_unbroken_run_is_awaited() {
        assert_eq!(run_of(&[7, 5, 6, 9], &[]), Some((5, 7)));
        assert_eq!(run_of(&[3], &[]), Some((3, 3)));
    }

    #[test]
    fn a_run_begins_with_a_child_that_has_not_ended() {
        assert_eq!(run_of(&[5], &[3]), Some((5, 5)));
        assert_eq!(run_of(&[6, 8], &[4, 5, 7, 10]), Some((6, 8)));
        assert_eq!(run_of(&[], &[3, 4]), None);
    }
}
