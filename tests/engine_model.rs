//! Random programs of every operation there is, run on both databases while processes die and workflows are cancelled and resumed; and a model
//! that says in a few lines what each must answer and record.
//!
//! `STEPWELL_MODEL_PROGRAMS` says how many programs, `STEPWELL_MODEL_SEED` which.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use harness::*;
use serde::{Deserialize, Serialize};
use stepwell::{
    engine::{
        ChildOptions, Client, Context, EngineBuilder, Receive, Retry, StartOptions, Workflow,
        WorkflowError,
    },
    store::queue_limits::QueueSettings,
};

const ROOTS: &str = "rootQ";
const CHILDREN: &str = "childQ";
const TOPIC: &str = "t";
const DEADLINE: Duration = Duration::from_secs(240);
const LANES: u64 = 16;
/// Processes that die while the programs run.
const KILLS: u32 = 8;
/// So many programs last long enough for some to be cancelled and for processes to die meanwhile.
const ENOUGH_PROGRAMS: u64 = 500;
/// Executions of a step that fails.
const ATTEMPTS: u32 = 3;

/// What a program does, one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Op {
    /// A step that answers this.
    Step(u64),
    /// A step that fails so often, and is tried three times.
    Flaky(u32),
    /// A sleep of milliseconds.
    Sleep(u64),
    /// An event that is set.
    Set(u64),
    /// A message that is received: its value is its place among those that the program receives.
    Receive,
    /// Children that run at the same time. What they receive their parent sends them; the event of the last one is waited for first, if it sets one.
    Children(Vec<Program>),
}

type Program = Vec<Op>;

fn mix(sum: u64, value: u64) -> u64 {
    sum.wrapping_mul(1_000_003).wrapping_add(value)
}

fn receives(program: &Program) -> u64 {
    program
        .iter()
        .filter(|op| matches!(op, Op::Receive))
        .count() as u64
}

/// The event that a program has set in the end, if it sets one and only one: with several, which one is seen is a matter of time.
fn event_of(program: &Program) -> Option<u64> {
    let mut set = program.iter().filter_map(|op| match op {
        Op::Set(value) => Some(*value),
        _ => None,
    });
    match (set.next(), set.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// The model: what a program answers, and what it records, in order. A record in brackets may be absent.
fn model(program: &Program) -> (u64, Vec<&'static str>) {
    let (mut sum, mut records, mut received) = (0, Vec::new(), 0);
    for op in program {
        match op {
            Op::Step(value) => {
                records.push("step");
                sum = mix(sum, *value);
            }
            Op::Flaky(failures) => {
                let pauses = *failures.min(&(ATTEMPTS - 1));
                records.push("flaky");
                for _ in 0..pauses {
                    records.extend(["DBOS.sleep", "flaky"]);
                }
                sum = mix(sum, u64::from((*failures + 1).min(ATTEMPTS + 1)));
            }
            Op::Sleep(_) => records.push("DBOS.sleep"),
            Op::Set(_) => records.push("DBOS.setEvent"),
            Op::Receive => {
                records.extend(["DBOS.recv", "[DBOS.sleep]"]);
                sum = mix(sum, received);
                received += 1;
            }
            Op::Children(programs) => {
                for child in programs {
                    records.push(Interpreter::NAME);
                    records.extend((0..receives(child)).map(|_| "DBOS.send"));
                }
                if let Some(event) = programs.last().and_then(event_of) {
                    records.extend(["DBOS.getEvent", "[DBOS.sleep]"]);
                    sum = mix(sum, event);
                }
                for child in programs {
                    records.push("DBOS.getResult");
                    sum = mix(sum, model(child).0);
                }
            }
        }
    }
    (sum, records)
}

struct Interpreter;

impl Workflow for Interpreter {
    const NAME: &'static str = "test.interpreter";
    type Input = Program;
    type Output = u64;

    async fn run(&self, ctx: &Context, program: Program) -> Result<u64, WorkflowError> {
        let mut sum = 0;
        for op in program {
            match op {
                Op::Step(value) => {
                    let value = ctx.step("step", move || async move { Ok(value) }).await?;
                    sum = mix(sum, value);
                }
                Op::Flaky(failures) => sum = mix(sum, flaky(ctx, failures).await),
                Op::Sleep(ms) => ctx.sleep(Duration::from_millis(ms)).await?,
                Op::Set(value) => ctx.set_event("e", &value).await?,
                Op::Receive => {
                    let receive = Receive {
                        topic: TOPIC.into(),
                        ..Receive::default()
                    };
                    let value: Option<u64> = ctx.receive(receive).await?;
                    sum = mix(sum, value.unwrap_or(u64::MAX));
                }
                Op::Children(programs) => sum = children(ctx, programs, sum).await?,
            }
        }
        Ok(sum)
    }
}

/// The number of the execution that succeeded; one more than all of them when none did.
async fn flaky(ctx: &Context, failures: u32) -> u64 {
    let retry = Retry {
        attempts: ATTEMPTS,
        first_pause: Duration::from_millis(2),
        jitter: true,
        ..Retry::default()
    };
    let outcome = ctx
        .step_retried("flaky", retry, |execution| async move {
            if execution <= failures {
                return Err(WorkflowError::new("flaky", "not this time"));
            }
            Ok(execution)
        })
        .await;
    u64::from(outcome.unwrap_or(ATTEMPTS + 1))
}

async fn children(
    ctx: &Context,
    programs: Vec<Program>,
    mut sum: u64,
) -> Result<u64, WorkflowError> {
    let mut started = Vec::new();
    for program in &programs {
        let options = ChildOptions {
            queue: CHILDREN.into(),
            id: None,
            ..ChildOptions::default()
        };
        let child = ctx.start_child::<Interpreter>(program, options).await?;
        for message in 0..receives(program) {
            ctx.send(&child.id, TOPIC, &message).await?;
        }
        started.push(child);
    }
    if let (Some(child), true) = (started.last(), programs.last().and_then(event_of).is_some()) {
        let event: Option<u64> = ctx.get_event(&child.id, "e", None).await?;
        sum = mix(sum, event.unwrap_or(u64::MAX));
    }
    for result in ctx.await_children(started).await? {
        sum = mix(sum, result?);
    }
    Ok(sum)
}

/// A program of a few operations; deeper ones are rarer.
fn program(random: &mut Random, depth: u32) -> Program {
    (0..1 + random.below(4))
        .map(|_| match random.below(12) {
            0..=3 => Op::Step(random.below(1_000)),
            4 => Op::Flaky(u32::try_from(random.below(5)).unwrap()),
            // A few of them suspend.
            5 => Op::Sleep(if random.percent(10) {
                1_050
            } else {
                random.below(4)
            }),
            6 | 7 => Op::Set(random.below(1_000)),
            8 | 9 => Op::Receive,
            _ if depth < 2 => Op::Children(
                (0..1 + random.below(3))
                    .map(|_| program(random, depth + 1))
                    .collect(),
            ),
            _ => Op::Step(1),
        })
        .collect()
}

async fn process(stage: &Stage) -> Process {
    let queues = vec![
        QueueSettings::unlimited(ROOTS),
        QueueSettings {
            concurrency: Some(60),
            partition_concurrency: Some(20),
            fair: true,
            ..QueueSettings::unlimited(CHILDREN)
        },
    ];
    Process::start(stage, queues, |b: EngineBuilder| {
        b.register(Interpreter).unwrap()
    })
    .await
}

/// Starts a program, sends it what it receives, and now and then cancels and resumes it as an official client does. Answers whether it was cancelled.
async fn drive(
    stage: &Stage,
    client: &Client,
    id: &str,
    program: &Program,
    random: &mut Random,
) -> bool {
    let options = StartOptions {
        id: Some(id.to_owned()),
        queue: ROOTS.into(),
        partition_key: Some(format!("tenant-{}", random.below(5))),
        ..StartOptions::default()
    };
    client.start::<Interpreter>(program, options).await.unwrap();
    let cancels = random.percent(10);
    for message in 0..receives(program) {
        if random.percent(30) {
            tokio::time::sleep(Duration::from_millis(random.below(20))).await;
        }
        client
            .send(id, TOPIC, &message, Some(format!("{id}:{message}")))
            .await
            .unwrap();
    }
    if !cancels {
        return false;
    }
    tokio::time::sleep(Duration::from_millis(random.below(30))).await;
    let cancelled = stage
        .sql_execute(&format!(
            "UPDATE dbos.workflow_status SET status = 'CANCELLED', queue_name = NULL, owner_xid = NULL, started_at_epoch_ms = NULL \
             WHERE workflow_uuid = '{id}' AND status IN ('ENQUEUED', 'PENDING')"
        ))
        .await;
    // It may have ended before.
    if cancelled == 0 {
        return false;
    }
    tokio::time::sleep(Duration::from_millis(random.below(30))).await;
    let resumed = stage
        .sql_execute(&format!(
            "UPDATE dbos.workflow_status SET status = 'ENQUEUED', queue_name = '_dbos_internal_queue', recovery_attempts = 0, \
             completed_at = NULL WHERE workflow_uuid = '{id}' AND status = 'CANCELLED'"
        ))
        .await;
    assert_eq!(resumed, 1, "{id}: nobody else touches what is cancelled");
    true
}

/// Answers how many were killed.
async fn kill_now_and_then(stage: Stage, done: Arc<AtomicBool>, mut random: Random) -> u32 {
    let mut processes = vec![process(&stage).await, process(&stage).await];
    let mut killed = 0;
    while !done.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(800 + random.below(2_500))).await;
        if killed < KILLS {
            processes.swap_remove(random.below(2) as usize).kill();
            processes.push(process(&stage).await);
            killed += 1;
        }
    }
    for process in processes {
        process.stop().await;
    }
    killed
}

/// What every workflow has recorded, by id: function ids and names in order.
async fn recorded(stage: &Stage) -> HashMap<String, Vec<(i64, String)>> {
    let rows = stage
        .sql("SELECT workflow_uuid, function_id, function_name FROM dbos.operation_outputs ORDER BY workflow_uuid, function_id")
        .await;
    let mut recorded: HashMap<String, Vec<(i64, String)>> = HashMap::new();
    for row in rows {
        let id = row["workflow_uuid"].as_str().unwrap().to_owned();
        let name = row["function_name"].as_str().unwrap().to_owned();
        let function_id = row["function_id"].as_i64().unwrap();
        recorded.entry(id).or_default().push((function_id, name));
    }
    recorded
}

/// Compares a workflow, and its children, with the model.
fn check(
    id: &str,
    program: &Program,
    outputs: &HashMap<String, String>,
    recorded: &HashMap<String, Vec<(i64, String)>>,
    told: &str,
) {
    let (answer, records) = model(program);
    let told = format!("{told}, {id}: {program:?}");
    assert_eq!(outputs.get(id), Some(&answer.to_string()), "{told}");
    let empty = Vec::new();
    let mut found = recorded.get(id).unwrap_or(&empty).iter().peekable();
    let mut children = program
        .iter()
        .filter_map(|op| match op {
            Op::Children(programs) => Some(programs),
            _ => None,
        })
        .flatten();
    for (function_id, name) in (0..).zip(records) {
        let optional = name.starts_with('[');
        let wanted = (function_id, name.trim_matches(['[', ']']).to_owned());
        match found.peek() {
            Some(record) if **record == wanted => {
                found.next();
            }
            _ if optional => {}
            other => panic!("{other:?} instead of {wanted:?}; {told}"),
        }
        if name == Interpreter::NAME {
            let child = format!("{id}-{function_id}");
            check(&child, children.next().unwrap(), outputs, recorded, &told);
        }
    }
    assert_eq!(found.next(), None, "{told}");
}

on_both_databases! {
    async fn every_program_answers_and_records_what_the_model_says(stage: Stage) {
        let client = Client::without_engine(database(&stage).await, "v1".into());
        let (seed, programs) = (number_from("STEPWELL_MODEL_SEED", 1), number_from("STEPWELL_MODEL_PROGRAMS", 2_000));
        let done = Arc::new(AtomicBool::new(false));
        let killer = tokio::spawn(kill_now_and_then(stage.clone(), Arc::clone(&done), Random::new(seed)));

        let lanes = (0..LANES).map(|lane| {
            let (stage, client) = (stage.clone(), client.clone());
            tokio::spawn(async move {
                let mut cancelled = 0;
                for n in (lane..programs).step_by(LANES as usize) {
                    let random = &mut Random::new(seed + n);
                    let program = program(random, 0);
                    cancelled += u32::from(drive(&stage, &client, &format!("p{n}"), &program, random).await);
                }
                cancelled
            })
        });
        let mut cancelled = 0;
        for lane in lanes.collect::<Vec<_>>() {
            cancelled += lane.await.unwrap();
        }
        eventually(DEADLINE, "every program has ended", || async {
            let open = stage.sql("SELECT workflow_uuid, status FROM dbos.workflow_status WHERE status <> 'SUCCESS' LIMIT 5").await;
            if open.is_empty() { Ok(()) } else { Err(format!("STEPWELL_MODEL_SEED={seed}: {open:?}")) }
        })
        .await;
        done.store(true, Ordering::SeqCst);
        let killed = killer.await.unwrap();
        report(&format!("{programs} programs on {}: {cancelled} were cancelled and resumed, {killed} processes killed", stage.backend().name()));
        // A few programs, to look into one that failed, may be through before anything happens to them.
        assert!(programs < ENOUGH_PROGRAMS || (cancelled > 0 && killed > 0), "the model was compared with a quiet life");

        let outputs = stage.sql("SELECT workflow_uuid, output FROM dbos.workflow_output").await;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let outputs = outputs.iter().map(|row| (text(&row["workflow_uuid"]), text(&row["output"]))).collect();
        let recorded = recorded(&stage).await;
        for n in 0..programs {
            let program = program(&mut Random::new(seed + n), 0);
            check(&format!("p{n}"), &program, &outputs, &recorded, &format!("STEPWELL_MODEL_SEED={}", seed + n));
        }
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.notifications WHERE NOT consumed").await, 0);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.claims").await, 0);
    }
}
