//! Owns the start: intents, and runs of them under a recipe's policy. The same start again starts nothing; another one is a conflict.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    IntentError, Product, RUN_QUEUE, Trace, artifacts, ids,
    read::RunHeader,
    run_workflow::{RunInput, RunWorkflow},
    size,
};
use crate::{
    canonical::canonical_json,
    engine::{StartOptions, Workflow},
    planner::{InputContent, JobInputs, PlannerKind},
    store::{
        Database, StoreError,
        backend::{retrying, statement},
        dialect::dialect,
        entity::{intents, recipes, runs},
        intents as intent_rows, queue_settings, runs as run_rows,
        status::RunStatus,
        workflows,
    },
};

/// The recipe of a run that names none.
const DEFAULT_RECIPE: &str = "compile-default";

/// Something that somebody wants done.
#[derive(Debug, Clone, Default)]
pub struct NewIntent {
    /// Its id, if the caller has one of its own.
    pub id: Option<String>,
    /// In words; not blank.
    pub goal: String,
    /// With what.
    pub inputs: Map<String, Value>,
    /// Within which bounds.
    pub constraints: Map<String, Value>,
    /// Through what.
    pub connectors: Option<Vec<String>>,
}

/// An intent that is stored.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Its id.
    pub id: String,
    /// What somebody wants done.
    pub goal: String,
    /// With what.
    pub inputs: Map<String, Value>,
    /// Within which bounds.
    pub constraints: Map<String, Value>,
    /// Through what.
    pub connectors: Option<Vec<String>>,
    /// Epoch milliseconds.
    pub created_at: i64,
}

/// What a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Tasks in flight at once.
    pub concurrency: i32,
    /// Tasks at all.
    pub steps: i32,
    /// Minutes of all tasks together.
    pub sandbox_minutes: i32,
}

/// What a run asks to use; what it does not say is the recipe's cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedWorkload {
    /// Tasks in flight at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// Tasks at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<i32>,
    /// Minutes of all tasks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_minutes: Option<i32>,
}

/// A request to execute an intent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartRun {
    /// Which intent.
    pub intent_id: String,
    /// Only the queue of runs is legal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_name: Option<String>,
    /// The tenant in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_partition_key: Option<String>,
    /// Under which policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe_name: Option<String>,
    /// In which version; the newest by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe_version: Option<i32>,
    /// What it may use; the recipe's caps by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<AskedWorkload>,
    /// Lower first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// One live run per value.
    #[serde(skip_serializing_if = "Option::is_none", rename = "deduplicationID")]
    pub deduplication_id: Option<String>,
    /// Milliseconds from the first claim until it is cancelled.
    #[serde(skip_serializing_if = "Option::is_none", rename = "timeoutMS")]
    pub timeout_ms: Option<i64>,
    /// Milliseconds before which it is not started.
    #[serde(skip_serializing_if = "Option::is_none", rename = "delayMS")]
    pub delay_ms: Option<i64>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// What the caller calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_key: Option<String>,
    /// The trace it belongs to; not a part of what makes two requests equal.
    #[serde(skip)]
    pub trace_id: Option<String>,
}

/// What became of a start.
enum Started {
    /// It is queued.
    Now,
    /// Its id, or its deduplication id, was there.
    Before,
    /// The queue holds as much as this, its limit.
    Full(i32),
}

impl Product {
    /// Stores an intent and answers its id. The same intent under the same id again is stored already.
    ///
    /// # Errors
    /// [`IntentError::Invalid`] when no run could be told of it, [`IntentError::Conflict`] when another intent has its id, [`IntentError::Store`].
    pub async fn create_intent(&self, intent: NewIntent) -> Result<String, IntentError> {
        let encode = |map: Map<String, Value>| canonical_json(&Value::Object(map));
        let (inputs, constraints) = (encode(intent.inputs), encode(intent.constraints));
        let goal = json!(intent.goal).to_string();
        size::check("an intent", goal.len() + inputs.len() + constraints.len())?;
        let model = intents::Model {
            id: intent.id.clone().unwrap_or_else(ids::intent),
            goal: intent.goal,
            inputs,
            constraints,
            connectors: intent.connectors.map(|list| json!(list).to_string()),
            created_at: self.now().await?,
        };
        let stored =
            retrying(|| async { intent_rows::insert(&self.db().write(), model.clone()).await })
                .await?;
        if stored {
            return Ok(model.id);
        }
        let first = intent_rows::find(&self.db().read(), &model.id).await?;
        let same = |first: &intents::Model| {
            intents::Model {
                created_at: first.created_at,
                ..model.clone()
            } == *first
        };
        if first.as_ref().is_some_and(same) {
            return Ok(model.id);
        }
        Err(IntentError::conflict(
            "intent_drift",
            format!(
                "there is another intent with the id {:?}; give this one an id of its own",
                model.id
            ),
        ))
    }

    /// One intent.
    ///
    /// # Errors
    /// [`IntentError::NotFound`].
    pub async fn intent(&self, id: &str) -> Result<Intent, IntentError> {
        let row = intent_rows::find(&self.db().read(), id).await?;
        let row = row.ok_or_else(|| IntentError::NotFound {
            what: "intent",
            id: id.to_owned(),
        })?;
        let decode = |text: &str| {
            serde_json::from_str(text).map_err(|e| StoreError::Encoding(e.to_string()))
        };
        Ok(Intent {
            id: row.id,
            goal: row.goal,
            inputs: decode(&row.inputs)?,
            constraints: decode(&row.constraints)?,
            connectors: row
                .connectors
                .and_then(|text| serde_json::from_str(&text).ok()),
            created_at: row.created_at,
        })
    }

    /// Starts a run of an intent, once: the same request again answers the same run.
    ///
    /// # Errors
    /// [`IntentError::NotFound`] without such an intent, [`IntentError::Invalid`] where a policy is broken, [`IntentError::Conflict`] when the
    /// intent was started with another request, or a live run has the same deduplication id, [`IntentError::Backlog`] when too many runs wait.
    pub async fn start_run(
        &self,
        request: StartRun,
        traceparent: Option<&str>,
    ) -> Result<RunHeader, IntentError> {
        let intent = self.intent(&request.intent_id).await?;
        let sent = json!(request);
        let before = run_rows::find(&self.db().read(), &intent.id).await?;
        let before = before.map(|run| self.again(run, &sent));
        // What has started stays started, whatever the policy says by now.
        if let Some(Ok(header)) = before {
            return Ok(header);
        }
        self.executing()?;
        let checked =
            CheckedRun::new(self.db(), self.partition_required, &intent.inputs, &request).await?;
        if let Some(drift) = before {
            return drift;
        }
        self.backlog
            .take(self.db(), request.delay().is_some())
            .await?;
        let trace = Trace::begin(&intent.id, request.trace_id.as_deref(), traceparent);
        let input = checked.input(&intent, &trace);
        let options = StartOptions {
            id: Some(intent.id.clone()),
            queue: RUN_QUEUE.into(),
            partition_key: request.queue_partition_key.clone(),
            priority: request.priority.unwrap_or(0),
            deduplication_id: request.deduplication_id.clone(),
            timeout: request.timeout(),
            delay: request.delay(),
        };
        let workflow = self.client.prepare::<RunWorkflow>(&input, options)?;
        let run = checked.model(&request, trace, self.now().await?);
        let started = retrying(|| async {
            let tx = self.db().begin().await?;
            if let Some(limit) = queue_settings::full_backlog(&tx, RUN_QUEUE).await? {
                tx.rollback().await?;
                return Ok(Started::Full(limit));
            }
            if workflows::insert(&tx, std::slice::from_ref(&workflow))
                .await?
                .is_empty()
            {
                tx.rollback().await?;
                return Ok(Started::Before);
            }
            run_rows::insert(&tx, run.clone()).await?;
            tx.commit().await?;
            Ok(Started::Now)
        })
        .await?;
        match started {
            Started::Now => {
                self.client.queued(RUN_QUEUE);
                return Ok(self.header(run));
            }
            Started::Full(limit) => {
                return Err(IntentError::Backlog {
                    message: format!(
                        "queue {RUN_QUEUE} holds {limit} workflows that wait to start, which is its limit; try again later"
                    ),
                });
            }
            Started::Before => {}
        }
        // Somebody else was faster: with this very intent, or with its deduplication id.
        match run_rows::find(&self.db().read(), &intent.id).await? {
            Some(run) => self.again(run, &sent),
            None if workflows::find(&self.db().read(), &intent.id)
                .await?
                .is_some() =>
            {
                Err(IntentError::conflict(
                    "workflow_exists",
                    format!(
                        "there is a workflow with the id {:?} that is no run of this intent; give the intent another id",
                        intent.id
                    ),
                ))
            }
            None => {
                let id = request.deduplication_id.unwrap_or_default();
                Err(IntentError::conflict(
                    "deduplication_conflict",
                    format!("a live run has the deduplicationID {id:?}; wait until it has ended"),
                ))
            }
        }
    }

    /// The answer to a start of an intent that was started before.
    fn again(&self, run: runs::Model, sent: &Value) -> Result<RunHeader, IntentError> {
        let first: Value = serde_json::from_str(&run.request).unwrap_or_default();
        let drift = differing(&first, sent);
        if drift.is_empty() {
            return Ok(self.header(run));
        }
        Err(IntentError::Conflict {
            code: "idempotency_drift",
            message: format!(
                "this intent was started with another request; these fields differ: {}",
                drift.join(", ")
            ),
            details: drift,
        })
    }

    /// The database's clock, epoch milliseconds: rows of different processes are compared.
    pub(super) async fn now(&self) -> Result<i64, StoreError> {
        use sea_orm::ConnectionTrait;
        let read = self.db().read();
        let row = read
            .query_one_raw(statement(
                &read,
                format!("SELECT {}", dialect(&read).now()),
                [],
            ))
            .await?;
        Ok(row
            .map(|row| row.try_get_by_index(0))
            .transpose()?
            .unwrap_or(0))
    }
}

impl StartRun {
    /// How long the run may take from its first claim.
    pub(super) fn timeout(&self) -> Option<Duration> {
        span(self.timeout_ms)
    }

    /// How long it is put off.
    fn delay(&self) -> Option<Duration> {
        span(self.delay_ms)
    }
}

fn span(ms: Option<i64>) -> Option<Duration> {
    ms.and_then(|ms| u64::try_from(ms).ok())
        .map(Duration::from_millis)
}

/// A request that breaks no policy, with the recipe that holds for it.
pub(super) struct CheckedRun {
    recipe: recipes::Model,
    workload: Workload,
}

impl CheckedRun {
    /// Checks a request to execute an intent with `inputs`.
    pub(super) async fn new(
        db: &Database,
        partition_required: bool,
        inputs: &Map<String, Value>,
        request: &StartRun,
    ) -> Result<Self, IntentError> {
        let recipe = checked_recipe(db, partition_required, request).await?;
        let workload = checked_workload(request, &recipe)?;
        let planner = PlannerKind::of_recipe(&recipe.planner);
        let inputs = JobInputs::parse(inputs)
            .map_err(|e| IntentError::invalid("inputs_invalid", e.to_string()))?;
        if planner == PlannerKind::Static && inputs.command.is_none() {
            let message = format!(
                "recipe {} runs inputs.command, and the intent has none",
                recipe.name
            );
            return Err(IntentError::invalid("inputs_invalid", message));
        }
        check_files(db, &inputs).await?;
        Ok(Self { recipe, workload })
    }

    /// What the run's workflow is told.
    pub(super) fn input(&self, intent: &Intent, trace: &Trace) -> RunInput {
        RunInput::new(intent, &self.recipe, self.workload, trace)
    }

    /// The row of the run, queued.
    pub(super) fn model(self, request: &StartRun, trace: Trace, now: i64) -> runs::Model {
        runs::Model {
            id: request.intent_id.clone(),
            intent_id: request.intent_id.clone(),
            workflow_id: request.intent_id.clone(),
            status: RunStatus::Queued,
            workflow_name: RunWorkflow::NAME.into(),
            recipe_name: self.recipe.name,
            recipe_version: self.recipe.version,
            queue_name: RUN_QUEUE.into(),
            queue_partition_key: request.queue_partition_key.clone(),
            priority: request.priority.unwrap_or(0),
            tenant_id: request.tenant_id.clone(),
            request: canonical_json(&json!(request)),
            workload: json!(self.workload).to_string(),
            last_step: None,
            next_action: None,
            error: None,
            output: None,
            retry_count: 0,
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            forked_from: None,
            created_at: now,
            updated_at: now,
            started_at: None,
            ended_at: None,
        }
    }
}

/// The recipe of a request, once its queue and partition are legal.
async fn checked_recipe(
    db: &Database,
    partition_required: bool,
    request: &StartRun,
) -> Result<recipes::Model, IntentError> {
    let name = request.recipe_name.as_deref().unwrap_or(DEFAULT_RECIPE);
    let recipe = intent_rows::recipe(&db.read(), name, request.recipe_version).await?;
    let Some(recipe) = recipe else {
        let version = request
            .recipe_version
            .map(|v| format!(" version {v}"))
            .unwrap_or_default();
        return Err(IntentError::policy(format!(
            "there is no recipe {name:?}{version}"
        )));
    };
    let queue = request.queue_name.as_deref().unwrap_or(&recipe.queue_name);
    if queue != RUN_QUEUE {
        return Err(IntentError::policy(format!(
            "runs start on {RUN_QUEUE} only, not on {queue:?}"
        )));
    }
    let blank = request
        .queue_partition_key
        .as_deref()
        .is_none_or(|key| key.trim().is_empty());
    if blank && (partition_required || request.queue_partition_key.is_some()) {
        return Err(IntentError::policy(
            "queuePartitionKey is required and must not be blank",
        ));
    }
    Ok(recipe)
}

/// Artifacts that are handed in must be there.
async fn check_files(db: &Database, inputs: &JobInputs) -> Result<(), IntentError> {
    for (n, file) in inputs.files.iter().enumerate() {
        if let InputContent::Artifact(id) = &file.content
            && artifacts::content(db, id).await?.is_none()
        {
            let message = format!("inputs.files[{n}].uri: there is no artifact {id}");
            return Err(IntentError::invalid("inputs_invalid", message));
        }
    }
    Ok(())
}

/// What a run may use: what it asks for, within the recipe's caps.
fn checked_workload(request: &StartRun, recipe: &recipes::Model) -> Result<Workload, IntentError> {
    let asked = request.workload.unwrap_or_default();
    let within = |field: &str, asked: Option<i32>, cap: i32| match asked {
        Some(asked) if asked < 1 || asked > cap => Err(IntentError::policy(format!(
            "workload.{field} is {asked}; recipe {} allows 1 to {cap}",
            recipe.name
        ))),
        asked => Ok(asked.unwrap_or(cap)),
    };
    Ok(Workload {
        concurrency: within("concurrency", asked.concurrency, recipe.max_concurrency)?,
        steps: within("steps", asked.steps, recipe.max_steps)?,
        sandbox_minutes: within(
            "sandboxMinutes",
            asked.sandbox_minutes,
            recipe.max_sandbox_minutes,
        )?,
    })
}

/// The names of the fields in which two requests differ, sorted.
fn differing(a: &Value, b: &Value) -> Vec<String> {
    let empty = Map::new();
    let (a, b) = (
        a.as_object().unwrap_or(&empty),
        b.as_object().unwrap_or(&empty),
    );
    let mut names: Vec<String> = a
        .keys()
        .chain(b.keys())
        .filter(|name| a.get(*name) != b.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_names_the_fields() {
        let first = json!({"intentId": "a", "priority": 1, "recipeName": "x"});
        let second = json!({"intentId": "a", "priority": 2, "tenantId": "t", "recipeName": "x"});
        assert_eq!(differing(&first, &second), ["priority", "tenantId"]);
        assert!(differing(&first, &first).is_empty());
    }

    #[test]
    fn caps_are_inclusive() {
        let recipe = recipes::Model {
            name: "r".into(),
            version: 1,
            queue_name: RUN_QUEUE.into(),
            max_concurrency: 2,
            max_steps: 3,
            max_sandbox_minutes: 4,
            planner: "static".into(),
            approval: "auto".into(),
            sandbox: "local".into(),
            cancel: "kill".into(),
            created_at: 0,
        };
        let ask = |concurrency, steps, sandbox_minutes| {
            let workload = Some(AskedWorkload {
                concurrency,
                steps,
                sandbox_minutes,
            });
            checked_workload(
                &StartRun {
                    workload,
                    ..StartRun::default()
                },
                &recipe,
            )
        };
        assert_eq!(ask(Some(2), None, Some(4)).unwrap().steps, 3);
        ask(Some(3), None, None).unwrap_err();
        ask(None, Some(0), None).unwrap_err();
        assert_eq!(
            checked_workload(&StartRun::default(), &recipe)
                .unwrap()
                .steps,
            3
        );
    }
}
