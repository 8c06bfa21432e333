//! What processes use over time, and whether that is flat: the second fifth of the time against the last one. The first fifth warms up.

use std::time::{Duration, Instant};

/// How long a process may take to show its metrics: it asks the database for some of them, for five seconds when that is away.
const METRICS_WITHIN: Duration = Duration::from_secs(10);

/// A process that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: u32,
    name: String,
    /// Where it shows its metrics, if it does.
    metrics: Option<String>,
}

impl Process {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (pid, rest) = text
            .split_once('=')
            .ok_or("expected PID=NAME or PID=NAME@METRICS")?;
        let (name, metrics) = match rest.split_once('@') {
            Some((name, metrics)) => (name, Some(metrics.to_owned())),
            None => (rest, None),
        };
        let pid = pid
            .parse()
            .map_err(|_| format!("{pid:?} is no process id"))?;
        let name = name.to_owned();
        Ok(Self { pid, name, metrics })
    }

    async fn usage(&self, http: &reqwest::Client) -> Result<[u64; 4], String> {
        let gone = |error: std::io::Error| format!("{} has ended: {error}", self.name);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).map_err(gone)?;
        let number = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| format!("{} has no {field}", self.name))
        };
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).map_err(gone)?;
        let descriptors = u64::try_from(descriptors.count()).unwrap_or(u64::MAX);
        // Not compared for a process without metrics.
        let tasks = match &self.metrics {
            Some(metrics) => self.tasks(http, metrics).await?,
            None => 0,
        };
        Ok([number("VmRSS:")?, descriptors, number("Threads:")?, tasks])
    }

    /// Its asynchronous tasks. One that does not say is an error: what is missing would be flat.
    async fn tasks(&self, http: &reqwest::Client, metrics: &str) -> Result<u64, String> {
        let silent = |error: reqwest::Error| format!("{} at {metrics}: {error}", self.name);
        let answer = http.get(metrics).send().await.map_err(silent)?;
        let text = answer.text().await.map_err(silent)?;
        let number = text
            .lines()
            .find_map(|line| line.strip_prefix("stepwell_tasks ")?.trim().parse().ok());
        number.ok_or_else(|| format!("{} shows no stepwell_tasks at {metrics}", self.name))
    }
}

fn client() -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(METRICS_WITHIN);
    client.build().map_err(|error| error.to_string())
}

/// What one process used at one time.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Duration,
    process: usize,
    usage: [u64; 4],
}

/// What is sampled (last what only metrics show), its unit, and how much the last fifth may be above the second: a factor in percent, and a number.
const MEASURED: [(&str, &str, u64, u64); 4] = [
    ("memory", "KiB", 110, 16 * 1024),
    ("descriptors", "", 100, 12),
    ("threads", "", 100, 8),
    ("tasks", "", 120, 40),
];

#[derive(Debug)]
pub(crate) struct Tolerance {
    pub(crate) length: Duration,
    pub(crate) p99_slack: Duration,
}

/// Samples the processes until the time is over; an error when one of them ends.
pub(crate) async fn sample(
    watched: &[Process],
    begun: Instant,
    length: Duration,
    every: Duration,
) -> Result<Vec<Sample>, String> {
    let http = client()?;
    let mut samples = Vec::new();
    while begun.elapsed() < length {
        for (process, of) in watched.iter().enumerate() {
            let (at, usage) = (begun.elapsed(), of.usage(&http).await?);
            samples.push(Sample { at, process, usage });
        }
        tokio::time::sleep(every).await;
    }
    Ok(samples)
}

/// Prints each figure of the second and of the last fifth, and answers whether all are within the tolerance.
pub(crate) fn assert_flat(
    watched: &[Process],
    samples: &[Sample],
    posts: &[(Duration, Duration)],
    tolerance: &Tolerance,
) -> bool {
    let fifth = tolerance.length / 5;
    let fifths = [(fifth, fifth * 2), (fifth * 4, tolerance.length * 2)];
    let mut flat = true;
    for (process, of) in watched.iter().enumerate() {
        let known = MEASURED.len() - usize::from(of.metrics.is_none());
        for (kind, (what, unit, percent, more)) in MEASURED.iter().enumerate().take(known) {
            let [second, last] = fifths.map(|(from, to)| {
                let within = samples
                    .iter()
                    .filter(|s| s.process == process && s.at >= from && s.at < to);
                median(within.map(|s| s.usage[kind]).collect())
            });
            let most = second * percent / 100 + more;
            flat &= last <= most;
            println!(
                "{} {what}: {second} {unit} in the second fifth, {last} in the last (at most {most})",
                of.name
            );
        }
    }
    let [second, last] = fifths.map(|(from, to)| {
        let within = posts.iter().filter(|(at, _)| *at >= from && *at < to);
        p99(within.map(|(_, took)| *took).collect())
    });
    let most = second.mul_f64(1.5) + tolerance.p99_slack;
    println!(
        "p99 of posting a run: {second:?} in the second fifth, {last:?} in the last (at most {most:?})"
    );
    flat && last <= most
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// This process, as one that shows `body` at `/metrics`, once.
    async fn showing(body: &'static str) -> Process {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let text = format!("{}=this@http://{address}/metrics", std::process::id());
        Process::parse(&text).unwrap()
    }

    #[tokio::test]
    async fn a_metric_that_is_missing_is_an_error_and_not_zero() {
        let http = client().unwrap();
        let shown = showing("stepwell_tasks 7\n").await;
        assert_eq!(shown.usage(&http).await.unwrap()[3], 7);
        let renamed = showing("stepwell_other 7\n").await;
        let error = renamed.usage(&http).await.unwrap_err();
        assert!(error.contains("no stepwell_tasks"), "{error}");
        // It was shown once: nobody answers any more.
        let error = shown.usage(&http).await.unwrap_err();
        assert!(error.contains("/metrics"), "{error}");
        let without = Process::parse(&format!("{}=this", std::process::id())).unwrap();
        assert!(without.usage(&http).await.is_ok());
    }
}
