//! A steady load on a running service, at half of what it can do, and a verdict: does it grow? For `scripts/soak-chaos.sh` and
//! `scripts/soak-sandbox.sh`. Exit code 1 when a run is lost or fails, or when memory, descriptors, threads or the time of posting are not flat.

#![allow(clippy::print_stdout)]

mod flat;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinSet};

use flat::{Process, Tolerance, assert_flat, p99};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the throughput is measured, and by how many callers.
const MEASURE: Duration = Duration::from_secs(10);
const CALLERS: usize = 8;
/// Most requests under way at the same time; one more would be late.
const MOST_AT_ONCE: usize = 200;
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const BEFORE_AGAIN: Duration = Duration::from_millis(200);
/// No request may take longer.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// How long runs may take to end after the last was started.
const END_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct Arguments {
    /// Where the service answers.
    #[arg(long)]
    base: String,
    /// The recipe of the runs.
    #[arg(long)]
    recipe: String,
    /// The inputs of the intents, JSON.
    #[arg(long, default_value = r#"{"command":"echo","tests":["a","b"]}"#)]
    inputs: String,
    /// How long the steady load lasts.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// A process to watch: its id, what to call it, and where its metrics are if it shows any: `123=worker@http://127.0.0.1:3002/metrics`. May be
    /// given several times.
    #[arg(long = "watch", value_name = "PID=NAME[@METRICS]", value_parser = Process::parse, required = true)]
    watched: Vec<Process>,
    /// Milliseconds by which the p99 of posting may differ on top of a half: what the chaos itself costs.
    #[arg(long, default_value_t = 50)]
    p99_slack_ms: u64,
}

/// One start of a run: when, and how long the last request of it took.
#[derive(Debug, Clone)]
struct Started {
    at: Duration,
    took: Duration,
    run: String,
}

struct Caller {
    http: reqwest::Client,
    base: String,
    recipe: String,
    inputs: Value,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    let caller = Arc::new(Caller {
        http: reqwest::Client::builder()
            .no_proxy()
            // The service's descriptors are to show what the service does, not how many connections a peak has left here.
            .pool_max_idle_per_host(CALLERS)
            .timeout(LONGEST_REQUEST)
            .build()?,
        base: arguments.base.clone(),
        recipe: arguments.recipe.clone(),
        inputs: serde_json::from_str(&arguments.inputs)?,
    });
    let throughput = measure(&caller).await?;
    let rate = throughput / 2.0;
    println!(
        "throughput {throughput:.1} runs/s; steady load {rate:.1} runs/s for {} min",
        arguments.minutes
    );

    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    let (watched, begun) = (arguments.watched.clone(), Instant::now());
    let sampling =
        tokio::spawn(async move { flat::sample(&watched, begun, length, SAMPLE_EVERY).await });
    let started = steady(&caller, rate, length).await?;
    let samples = sampling.await??;
    let runs: Vec<String> = started.iter().map(|one| one.run.clone()).collect();
    all_end(&caller, &runs).await?;

    let tolerance = Tolerance {
        length,
        p99_slack: Duration::from_millis(arguments.p99_slack_ms),
    };
    let posts: Vec<(Duration, Duration)> = started.iter().map(|s| (s.at, s.took)).collect();
    let took = posts.iter().map(|(_, took)| *took).collect();
    println!(
        "{} runs ended in success; p99 of a post {:?}",
        started.len(),
        p99(took)
    );
    let flat = assert_flat(&arguments.watched, &samples, &posts, &tolerance);
    println!("{}", if flat { "flat" } else { "NOT FLAT" });
    Ok(if flat {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs per second that end while as many callers as there may be start them.
async fn measure(caller: &Arc<Caller>) -> Result<f64, Failure> {
    let begun = Instant::now();
    let mut calling = JoinSet::new();
    for _ in 0..CALLERS {
        let caller = Arc::clone(caller);
        calling.spawn(async move {
            let mut runs = Vec::new();
            while begun.elapsed() < MEASURE {
                runs.push(caller.start(begun).await?.run);
            }
            Ok::<_, Failure>(runs)
        });
    }
    let mut runs = Vec::new();
    while let Some(started) = calling.join_next().await {
        runs.extend(started??);
    }
    let count = runs.len();
    all_end(caller, &runs).await?;
    Ok(f64::from(u32::try_from(count)?) / begun.elapsed().as_secs_f64())
}

/// Starts runs at this rate, whether or not the service keeps up.
async fn steady(
    caller: &Arc<Caller>,
    rate: f64,
    length: Duration,
) -> Result<Vec<Started>, Failure> {
    let begun = Instant::now();
    let started = Arc::new(Mutex::new(Vec::new()));
    let mut calling = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.max(0.1)));
    while begun.elapsed() < length {
        ticks.tick().await;
        while let Some(ended) = calling.try_join_next() {
            ended??;
        }
        if calling.len() >= MOST_AT_ONCE {
            continue;
        }
        let (caller, started) = (Arc::clone(caller), Arc::clone(&started));
        calling.spawn(async move {
            let one = caller.start(begun).await?;
            started.lock().await.push(one);
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = calling.join_next().await {
        ended??;
    }
    let mut started = std::mem::take(&mut *started.lock().await);
    started.sort_by_key(|one| one.at);
    Ok(started)
}

/// Waits until every run has succeeded.
async fn all_end(caller: &Caller, runs: &[String]) -> Result<(), Failure> {
    let until = Instant::now() + END_WITHIN;
    // The last first: once it has ended, most others have.
    for run in runs.iter().rev() {
        loop {
            let status = caller.status(run).await?;
            match status.as_deref() {
                Some("SUCCESS") => break,
                Some("ERROR" | "CANCELLED") => {
                    return Err(format!("{run} ended in {status:?}").into());
                }
                _ if Instant::now() > until => {
                    return Err(format!("{run} is lost: {status:?}").into());
                }
                _ => tokio::time::sleep(BEFORE_AGAIN).await,
            }
        }
    }
    Ok(())
}

impl Caller {
    async fn start(&self, begun: Instant) -> Result<Started, Failure> {
        let intent = json!({"goal": "soak", "inputs": self.inputs, "constraints": {}});
        let (intent, _) = self.insist("/api/intents", &intent).await?;
        let at = begun.elapsed();
        let start = json!({"intentId": intent["intentId"], "queuePartitionKey": "soak", "recipeName": self.recipe});
        let (started, took) = self.insist("/api/runs", &start).await?;
        let run = started["workflowID"].as_str().ok_or("no id")?.to_owned();
        Ok(Started { at, took, run })
    }

    /// Posts until told yes; answers how long the yes took. A refusal that says so is none of this soak's errors.
    async fn insist(&self, path: &str, body: &Value) -> Result<(Value, Duration), Failure> {
        loop {
            let asked = Instant::now();
            let answer = self
                .http
                .post(format!("{}{path}", self.base))
                .json(body)
                .send()
                .await?;
            match answer.status().as_u16() {
                201 | 202 => return Ok((answer.json().await?, asked.elapsed())),
                429 | 503 => tokio::time::sleep(BEFORE_AGAIN).await,
                status => return Err(format!("{path}: {status} {}", answer.text().await?).into()),
            }
        }
    }

    /// The status of a run; none while the service cannot say.
    async fn status(&self, run: &str) -> Result<Option<String>, Failure> {
        let answer = self
            .http
            .get(format!("{}/api/runs/{run}", self.base))
            .send()
            .await?;
        match answer.status().as_u16() {
            200 => {
                let header: Value = answer.json().await?;
                Ok(header["status"].as_str().map(str::to_owned))
            }
            429 | 503 => Ok(None),
            status => Err(format!("{run}: {status}").into()),
        }
    }
}
