//! Owns the service behind the routes: the product, and what the process says of itself. Each operation is a line to the file of its tag.

// Everything that the document names.
use openapi::*;

use super::{artifacts, health, intents, ops, queues, runs, schedules, stream, tick, utility};
use crate::{intent::Product, store::Database};

/// The implementation of every operation.
#[derive(Debug, Clone)]
pub struct ApiService {
    pub(super) product: Product,
    pub(super) db: Database,
    pub(super) app_version: String,
    pub(super) ticks: Option<tick::Ticks>,
}

impl ApiService {
    /// The service of a process.
    pub fn new(product: Product, db: Database, app_version: String) -> Self {
        Self {
            product,
            db,
            app_version,
            ticks: None,
        }
    }

    /// The same service, taking ticks.
    #[must_use]
    pub fn with_ticks(mut self, ticks: tick::Ticks) -> Self {
        self.ticks = Some(ticks);
        self
    }
}

impl Service for ApiService {
    async fn get_health(&self, _: Call) -> Result<models::Health, ApiError> {
        health::get(self).await
    }

    async fn tick(&self, _: Call, body: models::Tick) -> Result<models::TickSummary, ApiError> {
        tick::post(self, body).await
    }

    async fn create_intent(
        &self,
        _: Call,
        body: models::NewIntent,
    ) -> Result<models::IntentCreated, ApiError> {
        intents::create(self, body).await
    }

    async fn get_intent(&self, _: Call, intent_id: String) -> Result<models::Intent, ApiError> {
        intents::get(self, &intent_id).await
    }

    async fn start_run(
        &self,
        call: Call,
        body: models::StartRun,
    ) -> Result<models::RunHeader, ApiError> {
        runs::start(self, &call, body).await
    }

    async fn list_runs(&self, _: Call, query: ListRunsQuery) -> Result<models::RunList, ApiError> {
        runs::list(self, query).await
    }

    async fn get_run(&self, _: Call, wid: String) -> Result<models::RunHeader, ApiError> {
        runs::get(self, &wid).await
    }

    async fn list_run_steps(&self, _: Call, wid: String) -> Result<Vec<models::StepRow>, ApiError> {
        runs::steps(self, &wid).await
    }

    async fn get_run_view(&self, _: Call, wid: String) -> Result<models::RunView, ApiError> {
        runs::view(self, &wid).await
    }

    async fn approve_plan(
        &self,
        _: Call,
        wid: String,
        body: models::ApprovePlan,
    ) -> Result<models::PlanApproved, ApiError> {
        runs::approve(self, &wid, body).await
    }

    async fn send_run_event(
        &self,
        _: Call,
        wid: String,
        body: models::RunEvent,
    ) -> Result<models::Accepted, ApiError> {
        runs::send_event(self, &wid, body).await
    }

    async fn stream_run(
        &self,
        call: Call,
        wid: String,
        query: StreamRunQuery,
    ) -> Result<Events, ApiError> {
        stream::get(self, &call, &wid, query).await
    }

    async fn get_artifact(&self, call: Call, id: String) -> Result<Content, ApiError> {
        artifacts::get(self, &call, &id).await
    }

    async fn create_schedule(
        &self,
        _: Call,
        body: models::NewSchedule,
    ) -> Result<models::Schedule, ApiError> {
        schedules::create(self, body).await
    }

    async fn list_schedules(
        &self,
        _: Call,
        query: ListSchedulesQuery,
    ) -> Result<models::ScheduleList, ApiError> {
        schedules::list(self, query).await
    }

    async fn get_schedule(&self, _: Call, name: String) -> Result<models::Schedule, ApiError> {
        schedules::get(self, &name).await
    }

    async fn delete_schedule(&self, _: Call, name: String) -> Result<models::Accepted, ApiError> {
        schedules::delete(self, &name).await
    }

    async fn pause_schedule(&self, _: Call, name: String) -> Result<models::Schedule, ApiError> {
        schedules::pause(self, &name).await
    }

    async fn resume_schedule(&self, _: Call, name: String) -> Result<models::Schedule, ApiError> {
        schedules::resume(self, &name).await
    }

    async fn trigger_schedule(
        &self,
        _: Call,
        name: String,
    ) -> Result<models::ScheduleTriggered, ApiError> {
        schedules::trigger(self, &name).await
    }

    async fn preview_schedule(
        &self,
        _: Call,
        name: String,
        query: PreviewScheduleQuery,
    ) -> Result<models::SchedulePreview, ApiError> {
        schedules::preview(self, &name, query).await
    }

    async fn list_queues(&self, _: Call) -> Result<Vec<models::Queue>, ApiError> {
        queues::list(self).await
    }

    async fn get_queue(&self, _: Call, name: String) -> Result<models::Queue, ApiError> {
        queues::get(self, &name).await
    }

    async fn change_queue(
        &self,
        _: Call,
        name: String,
        body: models::QueueChange,
    ) -> Result<models::Queue, ApiError> {
        queues::change(self, &name, body).await
    }

    async fn pause_queue(&self, _: Call, name: String) -> Result<models::Queue, ApiError> {
        queues::pause(self, &name, true).await
    }

    async fn resume_queue(&self, _: Call, name: String) -> Result<models::Queue, ApiError> {
        queues::pause(self, &name, false).await
    }

    async fn list_workflows(
        &self,
        _: Call,
        query: ListWorkflowsQuery,
    ) -> Result<Page<models::WorkflowSummary>, ApiError> {
        ops::list(self, query).await
    }

    async fn get_workflow(
        &self,
        _: Call,
        wid: String,
    ) -> Result<models::WorkflowSummary, ApiError> {
        ops::get(self, &wid).await
    }

    async fn list_workflow_steps(
        &self,
        _: Call,
        wid: String,
    ) -> Result<Vec<models::WorkflowStep>, ApiError> {
        ops::steps(self, &wid).await
    }

    async fn cancel_workflow(
        &self,
        _: Call,
        wid: String,
        body: models::OpsAction,
    ) -> Result<models::OpsAccepted, ApiError> {
        ops::cancel(self, wid, body).await
    }

    async fn resume_workflow(
        &self,
        _: Call,
        wid: String,
        body: models::OpsAction,
    ) -> Result<models::OpsAccepted, ApiError> {
        ops::resume(self, wid, body).await
    }

    async fn fork_workflow(
        &self,
        _: Call,
        wid: String,
        body: models::ForkWorkflow,
    ) -> Result<models::WorkflowForked, ApiError> {
        ops::fork(self, wid, body).await
    }

    async fn retry_run(
        &self,
        _: Call,
        wid: String,
        body: models::OpsAction,
    ) -> Result<models::RunRetried, ApiError> {
        ops::retry(self, &wid, body).await
    }

    async fn start_sleep(
        &self,
        _: Call,
        query: StartSleepQuery,
    ) -> Result<models::OpsAccepted, ApiError> {
        utility::start_sleep(self, query).await
    }

    async fn start_slow_step(
        &self,
        _: Call,
        query: StartSlowStepQuery,
    ) -> Result<models::OpsAccepted, ApiError> {
        utility::start_slow_step(self, query).await
    }

    async fn get_slow_marks(
        &self,
        _: Call,
        query: GetSlowMarksQuery,
    ) -> Result<models::Marks, ApiError> {
        utility::marks(self, &query.wf).await
    }

    async fn start_crash_demo(
        &self,
        _: Call,
        query: StartCrashDemoQuery,
    ) -> Result<models::OpsAccepted, ApiError> {
        utility::start_crash_demo(self, query).await
    }

    async fn get_marks(&self, _: Call, query: GetMarksQuery) -> Result<models::Marks, ApiError> {
        utility::marks(self, &query.wf).await
    }
}
