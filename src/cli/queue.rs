//! `stepwell queue`: the limits of queues, read and changed while they are in use.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{
    CliError,
    api::encoded,
    say,
    session::{Execute, Session, Target},
    text::{Paint, milliseconds, paint},
};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List queues: their limits, what waits in them, what runs.
    Ls,
    /// Change limits; each is a number, or `none` to remove it. What is not named stays.
    Set(SetArguments),
    /// Let nothing start any more; what runs goes on until it ends or suspends.
    Pause {
        /// The queue.
        queue: String,
    },
    /// Let the queue start again.
    Resume {
        /// The queue.
        queue: String,
    },
}

#[derive(Debug, clap::Args)]
struct SetArguments {
    /// The queue.
    queue: String,
    /// Most workflows in execution, over all processes. Default: as it is.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    concurrency: Option<Value>,
    /// Most workflows in execution in one process. Default: as it is.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    worker_concurrency: Option<Value>,
    /// Most workflows in execution per partition. Default: as it is.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    partition_concurrency: Option<Value>,
    /// Most starts per period, as in `100/60s`. Default: as it is.
    #[arg(long, value_name = "N/PERIOD|none", value_parser = rate)]
    rate: Option<Value>,
    /// Most workflows that wait to start; runs beyond it are refused. Default: as it is.
    #[arg(long, value_name = "N|none", value_parser = limit)]
    max_backlog: Option<Value>,
    /// Whether partitions take turns. Default: as it is.
    #[arg(long, value_name = "true|false")]
    fair: Option<bool>,
}

/// A limit as the API takes it.
fn limit(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    match text.parse::<i32>() {
        Ok(n) if n >= 1 => Ok(n.into()),
        _ => Err("a whole number from 1, or none".into()),
    }
}

/// A rate as the API takes it.
fn rate(text: &str) -> Result<Value, String> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let accepts = || "starts per period as in 100/60s or 5/1h, or none".to_owned();
    let (max, period) = text.split_once('/').ok_or_else(accepts)?;
    let max = max
        .parse::<i32>()
        .ok()
        .filter(|n| *n >= 1)
        .ok_or_else(accepts)?;
    let period: Duration = humantime::parse_duration(period).map_err(|_| accepts())?;
    let period_ms = u64::try_from(period.as_millis()).map_err(|_| accepts())?;
    Ok(json!({"max": max, "periodMs": period_ms}))
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), CliError> {
    let session = Session::open(config, &arguments.target, Execute::Elsewhere).await?;
    let (queue, change) = match &arguments.verb {
        Verb::Ls => {
            let queues = session.api.get("/api/queues").await?;
            for queue in queues.as_array().into_iter().flatten() {
                show(&arguments.target, queue);
            }
            return Ok(());
        }
        Verb::Set(set) => (&set.queue, set.change()?),
        Verb::Pause { queue } => (queue, json!({"paused": true})),
        Verb::Resume { queue } => (queue, json!({"paused": false})),
    };
    let path = format!("/api/queues/{}", encoded(queue));
    let queue = session.api.put(&path, &change).await?;
    show(&arguments.target, &queue);
    Ok(())
}

impl SetArguments {
    fn change(&self) -> Result<Value, CliError> {
        let members = [
            ("concurrency", self.concurrency.clone()),
            ("workerConcurrency", self.worker_concurrency.clone()),
            ("partitionConcurrency", self.partition_concurrency.clone()),
            ("rateLimit", self.rate.clone()),
            ("maxBacklog", self.max_backlog.clone()),
            ("fair", self.fair.map(Value::from)),
        ];
        let change: Map<String, Value> = members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        if change.is_empty() {
            return Err(CliError::Usage(
                "nothing to set; name a limit, as in --concurrency 5".into(),
            ));
        }
        Ok(Value::Object(change))
    }
}

fn show(target: &Target, queue: &Value) {
    if target.json {
        say(&queue.to_string());
        return;
    }
    let mut words = Vec::new();
    for (name, member) in [
        ("concurrency", "concurrency"),
        ("per worker", "workerConcurrency"),
        ("per partition", "partitionConcurrency"),
        ("backlog", "maxBacklog"),
    ] {
        if let Some(limit) = queue[member].as_i64() {
            words.push(format!("{name} {limit}"));
        }
    }
    if let (Some(max), Some(period)) = (
        queue["rateLimit"]["max"].as_i64(),
        queue["rateLimit"]["periodMs"].as_i64(),
    ) {
        words.push(format!("{max} per {}", milliseconds(period)));
    }
    if queue["fair"] == true {
        words.push("fair".into());
    }
    if words.is_empty() {
        words.push("no limits".into());
    }
    let state = if queue["paused"] == true {
        paint(Paint::Bad, "paused")
    } else {
        paint(Paint::Good, "open  ")
    };
    say(&format!(
        "{:<16} {state}  {:>6} queued {:>5} running  {}",
        queue["name"].as_str().unwrap_or_default(),
        queue["queued"],
        queue["running"],
        words.join(", "),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_rates_are_read_as_people_write_them() {
        assert_eq!(limit("5").unwrap(), json!(5));
        assert_eq!(limit("none").unwrap(), Value::Null);
        assert!(limit("0").unwrap_err().contains("from 1"));
        assert_eq!(
            rate("100/60s").unwrap(),
            json!({"max": 100, "periodMs": 60_000})
        );
        assert!(rate("100").unwrap_err().contains("100/60s"));
        rate("0/1s").unwrap_err();
    }
}
