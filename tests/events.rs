//! Messages to workflows: sent before, during and after the wait, twice, too late; and ten thousand of them at random while processes die.
//!
//! `STEPWELL_EVENT_CASES` says how many receivers, `STEPWELL_EVENT_SEED` which chance.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use harness::*;
use stepwell::{
    engine::{Client, Context, EngineBuilder, Receive, StartOptions, Workflow, WorkflowError},
    store::queue_limits::QueueSettings,
};

const QUEUE: &str = "testQ";
const TOPIC: &str = "t";
const DEADLINE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(20);
/// Receivers that are served at the same time.
const LANES: u64 = 32;
/// Processes that die meanwhile.
const KILLS: u32 = 15;
/// The message after which a receiver ends.
const END: u64 = 0;

/// Collects what it is sent until the end, and counts how often nothing came in time.
struct Collector;

impl Workflow for Collector {
    const NAME: &'static str = "test.collector";
    /// Milliseconds to wait for each message.
    type Input = u64;
    type Output = (Vec<u64>, u32);

    async fn run(&self, ctx: &Context, patience_ms: u64) -> Result<(Vec<u64>, u32), WorkflowError> {
        let (mut got, mut late) = (Vec::new(), 0);
        loop {
            let receive = Receive {
                topic: TOPIC.into(),
                timeout: Some(Duration::from_millis(patience_ms)),
                ..Receive::default()
            };
            match ctx.receive(receive).await? {
                Some(END) => return Ok((got, late)),
                Some(message) => {
                    ctx.step("note", || async { Ok(()) }).await?;
                    got.push(message);
                }
                None => late += 1,
            }
        }
    }
}

fn start(id: &str) -> StartOptions {
    in_queue(QUEUE, id)
}

async fn process(stage: &Stage) -> Process {
    let register = |b: EngineBuilder| b.register(Collector).unwrap();
    Process::start(stage, vec![QueueSettings::unlimited(QUEUE)], register).await
}

async fn until_suspended(stage: &Stage, id: &str) {
    eventually(DEADLINE, &format!("{id} waits"), || async {
        let waits = stage
            .sql_count(&format!(
                "SELECT count(*) FROM app.waits WHERE workflow_id = '{id}' AND (due_at IS NULL OR due_at > 4000000000000 OR conditions LIKE '%message%')"
            ))
            .await;
        if waits == 1 { Ok(()) } else { Err(waits) }
    })
    .await;
}

/// Serves one receiver: some messages at once, some when it waits already, some twice. Answers what it was sent.
async fn serve(client: &Client, id: &str, random: &mut Random) -> Vec<u64> {
    let patience_ms = 1_100 + random.below(2_000);
    client
        .start::<Collector>(&patience_ms, start(id))
        .await
        .unwrap();
    let sent: Vec<u64> = (0..1 + random.below(3))
        .map(|_| 1 + random.below(1_000))
        .collect();
    for (n, message) in sent.iter().chain([&END]).enumerate() {
        if random.percent(60) {
            tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        }
        // Two of one millisecond are in the order of their ids.
        let message_id = format!("{id}:{n}");
        for _ in 0..=u64::from(random.percent(20)) {
            client
                .send(id, TOPIC, message, Some(message_id.clone()))
                .await
                .unwrap();
        }
    }
    sent
}

/// Kills one of two processes again and again, and starts another in its place.
async fn kill_now_and_then(stage: Stage, done: Arc<AtomicBool>, mut random: Random) -> u32 {
    let mut processes = vec![process(&stage).await, process(&stage).await];
    let mut killed = 0;
    while !done.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(500 + random.below(2_000))).await;
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

on_both_databases! {
    async fn a_message_is_received_whether_it_comes_before_or_during_the_wait(stage: Stage) {
        database(&stage).await;
        let engine = process(&stage).await;
        let client = engine.client();
        client.start::<Collector>(&60_000, start("r")).await.unwrap();
        client.send("r", TOPIC, &1, None).await.unwrap();
        until_suspended(&stage, "r").await;
        client.send("r", TOPIC, &2, None).await.unwrap();
        client.send("r", TOPIC, &END, None).await.unwrap();
        assert_eq!(client.result::<(Vec<u64>, u32)>("r", LOOK).await.unwrap(), Ok((vec![1, 2], 0)));
        engine.stop().await;
    }

    async fn what_comes_after_the_time_out_is_kept_for_the_next_wait(stage: Stage) {
        database(&stage).await;
        let engine = process(&stage).await;
        let client = engine.client();
        client.start::<Collector>(&1_200, start("r")).await.unwrap();
        // The first wait has timed out when the second one is recorded.
        eventually(DEADLINE, "nothing came in time", || async {
            let late = stage.sql_count("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'r' AND function_name = 'DBOS.recv'").await;
            if late >= 1 { Ok(()) } else { Err(late) }
        })
        .await;
        client.send("r", TOPIC, &7, None).await.unwrap();
        client.send("r", TOPIC, &END, None).await.unwrap();
        let (got, late) = client.result::<(Vec<u64>, u32)>("r", LOOK).await.unwrap().unwrap();
        assert_eq!(got, [7]);
        assert!(late >= 1);
        engine.stop().await;
    }

    async fn a_message_to_nobody_is_refused(stage: Stage) {
        let db = database(&stage).await;
        let client = Client::without_engine(db, "v1".into());
        let counts = stage.row_counts().await;
        client.send("nobody", TOPIC, &1, None).await.unwrap_err();
        assert_eq!(stage.row_counts().await, counts);
    }

    async fn no_message_is_lost_or_read_twice_while_processes_die(stage: Stage) {
        let client = Client::without_engine(database(&stage).await, "v1".into());
        let (seed, cases) = (number_from("STEPWELL_EVENT_SEED", 1), number_from("STEPWELL_EVENT_CASES", 10_000));
        let done = Arc::new(AtomicBool::new(false));
        let killer = tokio::spawn(kill_now_and_then(stage.clone(), Arc::clone(&done), Random::new(seed)));

        let lanes = (0..LANES).map(|lane| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut sent = BTreeMap::new();
                for n in (lane..cases).step_by(LANES as usize) {
                    let id = format!("r{n:06}");
                    let messages = serve(&client, &id, &mut Random::new(seed + n)).await;
                    sent.insert(id, messages);
                }
                sent
            })
        });
        let mut sent = BTreeMap::new();
        for lane in lanes.collect::<Vec<_>>() {
            sent.extend(lane.await.unwrap());
        }
        eventually(DEADLINE, "every receiver has ended", || async {
            let open = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'").await;
            if open == 0 { Ok(()) } else { Err(open) }
        })
        .await;
        done.store(true, Ordering::SeqCst);
        let killed = killer.await.unwrap();

        assert!(killed > 0);
        for row in stage.sql("SELECT workflow_uuid, output FROM dbos.workflow_output").await {
            let id = row["workflow_uuid"].as_str().unwrap();
            let (got, _): (Vec<u64>, u32) = serde_json::from_str(row["output"].as_str().unwrap()).unwrap();
            assert_eq!(Some(&got), sent.get(id), "STEPWELL_EVENT_SEED={seed}, receiver {id}");
            sent.remove(id);
        }
        assert!(sent.is_empty(), "{} receivers are missing", sent.len());
        assert_eq!(stage.sql_count("SELECT count(*) FROM dbos.notifications WHERE NOT consumed").await, 0);
        until_empty(&stage).await;
    }
}

/// Nothing of what has ended is left behind.
async fn until_empty(stage: &Stage) {
    eventually(DEADLINE, "no claim and no wait is left", || async {
        let claims = stage.sql_count("SELECT count(*) FROM app.claims").await;
        let waits = stage.sql_count("SELECT count(*) FROM app.waits").await;
        if claims + waits == 0 {
            Ok(())
        } else {
            Err(format!("{claims} claims, {waits} waits"))
        }
    })
    .await;
}
