//! Metrics: what `/metrics` says equals what the rows say, labels stay few, and every query of the dashboard and of the alert rules finds data in
//! a real Prometheus that scraped real runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use harness::otlp::{Manners, Receiver};
use harness::*;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(90);
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

async fn scrape(server: &Server) -> String {
    let answer = reqwest::get(format!("{}/metrics", server.admin_base()))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    answer.text().await.unwrap()
}

/// The value of exactly this series, 0 when there is none.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// What arrived last of this gauge, which has no labels.
fn newest(receiver: &Receiver, name: &str) -> Option<f64> {
    let received = receiver.received();
    let metric = received.metrics.iter().rfind(|m| m.name == name)?;
    let Some(Data::Gauge(gauge)) = &metric.data else {
        panic!("{name} is no gauge: {metric:?}");
    };
    match gauge.data_points.first()?.value? {
        number_data_point::Value::AsDouble(value) => Some(value),
        other => panic!("{name}: {other:?}"),
    }
}

/// The queries of the dashboard, with Grafana's own interval replaced.
fn dashboard_queries() -> Vec<String> {
    let text =
        std::fs::read_to_string(Path::new(ROOT).join("deploy/grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .map(|target| {
            target["expr"]
                .as_str()
                .unwrap()
                .replace("$__rate_interval", "1m")
        })
        .collect()
}

/// The selectors of a query: each names data that must exist.
fn selectors(query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find("stepwell_") {
        let name: String = rest[at..]
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect();
        rest = &rest[at + name.len()..];
        let labels = if rest.starts_with('{') {
            &rest[..=rest.find('}').unwrap()]
        } else {
            ""
        };
        found.push(format!("{name}{labels}"));
    }
    found
}

/// A Prometheus that scrapes `server` every second.
struct Prometheus {
    base: String,
    _child: tokio::process::Child,
}

impl Prometheus {
    async fn start(stage: &Stage, server: &Server) -> Self {
        let target = server.admin_base().trim_start_matches("http://");
        let rules = Path::new(ROOT).join("deploy/grafana/alerts.yml");
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "stepwell", "static_configs": [{"targets": [target]}]}],
        });
        let file = stage.dir().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(stage.dir().join("prometheus.log")).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let child = stage
            .tool("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                stage.dir().join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let base = format!("http://{address}");
        eventually(DEADLINE, "Prometheus is ready", || async {
            match reqwest::get(format!("{base}/-/ready")).await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                Ok(answer) => Err(answer.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        Self {
            base,
            _child: child,
        }
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/{path}", self.base)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer: Value =
            serde_json::from_str(&reqwest::get(url).await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// Waits until `query` has an answer with at least one series.
    async fn wait_for(&self, query: &str) {
        eventually(DEADLINE, &format!("{query} finds data"), || async {
            let data = self.ask("query", &[("query", query)]).await;
            let series = data["result"].as_array().unwrap().len();
            if series > 0 { Ok(()) } else { Err(data) }
        })
        .await;
    }
}

/// A run of `sandbox-default` with this command, approved and ended.
async fn run_to_end(server: &Server, command: &str, status: &str) {
    let intent = server
        .create_intent("measured", json!({"command": command}))
        .await;
    let run = server.start_run(&intent, "sandbox-default").await;
    server.approve(&run).await;
    server.wait_status(&run, status).await;
}

/// A run that was given up: claimed once more after its process has died as often as it may.
async fn give_up_a_run(stage: &Stage, server: &Server) -> String {
    let run = server.start_golden_run().await;
    server.wait_next_action(&run, "APPROVE_PLAN").await;
    let died = format!(
        "UPDATE dbos.workflow_status SET recovery_attempts = 20 WHERE workflow_uuid = '{run}'"
    );
    assert_eq!(stage.sql_execute(&died).await, 1);
    server.approve(&run).await;
    server.wait_next_action(&run, "REPAIR").await;
    run
}

on_both_databases! {
    async fn what_is_shown_equals_what_the_rows_say(stage: Stage) {
        let server = stage.serve().await;
        for _ in 0..3 {
            let waiting = server.start_golden_run().await;
            server.wait_next_action(&waiting, "APPROVE_PLAN").await;
        }
        run_to_end(&server, "echo done", "SUCCESS").await;
        run_to_end(&server, "FLAKY_INFRA_FAIL", "SUCCESS").await;

        let pending = stage.sql_count("SELECT count(*) AS n FROM dbos.workflow_status WHERE queue_name = 'intentQ' AND status = 'PENDING'").await;
        assert_eq!(pending, 3);
        let text = eventually(DEADLINE, "the gauges are those of now", || async {
            let text = scrape(&server).await;
            let depth = value(&text, "stepwell_queue_depth{queue=\"intentQ\",status=\"PENDING\"}");
            if depth == 3.0 && value(&text, "stepwell_executions") == 0.0 { Ok(text) } else { Err(text) }
        })
        .await;
        for (series, expected) in [
            ("stepwell_suspended{kind=\"message\"}", 3.0),
            ("stepwell_executors", 1.0),
            ("stepwell_database_up", 1.0),
            ("stepwell_queue_depth{queue=\"sbxQ\",status=\"ENQUEUED\"}", 0.0),
            ("stepwell_run_seconds_count{workflow=\"stepwell.run\",status=\"SUCCESS\"}", 2.0),
            ("stepwell_run_seconds_count{workflow=\"stepwell.task\",status=\"SUCCESS\"}", 2.0),
            ("stepwell_step_seconds_count{step=\"CompileST\",outcome=\"ok\"}", 5.0),
            ("stepwell_step_seconds_count{step=\"ExecuteTask\",outcome=\"ok\"}", 4.0),
            ("stepwell_retries_total{step=\"ExecuteTask\"}", 2.0),
            ("stepwell_claims_total{queue=\"intentQ\",origin=\"queued\"}", 5.0),
        ] {
            assert_eq!(value(&text, series), expected, "{series} in {text}");
        }
        assert!(value(&text, "stepwell_queue_oldest_age_seconds{queue=\"intentQ\",status=\"PENDING\"}") > 0.0, "{text}");
        let asked = stage.command(&["--version"]).output().await.unwrap();
        let said = String::from_utf8(asked.stdout).unwrap();
        let says = |what: &str| said.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim();
        let build = format!(
            "stepwell_build_info{{version=\"{}\",commit=\"{}\",schema_app=\"{}\",schema_dbos=\"{}\",app_version=\"v1\"}}",
            says("stepwell "), says("commit "), says("schema app "), says("schema dbos ")
        );
        assert_eq!(value(&text, &build), 1.0, "{build} in {text}");
    }

    async fn labels_are_bounded_whatever_callers_invent(stage: Stage) {
        let server = stage.serve().await;
        for n in 0..30 {
            server.get(&format!("/nowhere/{n}")).await.expect_refusal(404);
            server.get(&format!("/api/runs/invented-{n}")).await.expect_refusal(404);
        }
        let text = scrape(&server).await;

        assert!(!text.contains("invented") && !text.contains("nowhere"), "{text}");
        let unknown = "stepwell_http_request_seconds_count{method=\"GET\",route=\"unknown\",status=\"404\"}";
        assert_eq!(value(&text, unknown), 30.0, "{text}");
        let templated = "stepwell_http_request_seconds_count{method=\"GET\",route=\"/api/runs/{wid}\",status=\"404\"}";
        assert_eq!(value(&text, templated), 30.0, "{text}");
    }

    async fn metrics_are_for_the_administrators_port_alone(stage: Stage) {
        let server = stage.serve().await;
        server.get("/metrics").await.expect_refusal(404);
        let url = format!("{}/metrics", server.admin_base());
        let refused = reqwest::Client::new().post(url).send().await.unwrap();
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()["allow"], "GET");
        scrape(&server).await;
    }

    async fn a_workflow_that_is_given_up_is_counted_and_named(stage: Stage) {
        let server = stage.serve().await;

        let run = give_up_a_run(&stage, &server).await;

        eventually(DEADLINE, "it is counted and named", || async {
            let counted = value(&scrape(&server).await, "stepwell_given_up_total{workflow=\"stepwell.run\"}");
            let named = server.log().lines().filter(|line| line.contains("given up: it was claimed") && line.contains(&run)).count();
            if counted == 1.0 && named == 1 { Ok(()) } else { Err(format!("{counted} counted, {named} named: {}", server.log_tail())) }
        })
        .await;
    }

    async fn a_process_that_was_killed_executes_no_more_whoever_is_left_to_say_so(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        let short = ("EXECUTOR_EXPIRY_MS", "1000");
        // It executes nothing, and so it buries nobody.
        let metrics = [short, ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", base.as_str()), ("OTEL_METRIC_EXPORT_INTERVAL", "200")];
        stage.start("api", &metrics).await;
        let until = async |executors: f64| {
            eventually(DEADLINE, &format!("{executors} processes execute"), || async {
                let told = newest(&receiver, "stepwell_executors");
                if told == Some(executors) { Ok(()) } else { Err(format!("{told:?}")) }
            })
            .await;
        };
        until(0.0).await;
        let worker = stage.start("worker", &[short]).await;
        until(1.0).await;

        worker.kill_9().await;

        until(0.0).await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.executors").await, 1, "its row is still there");
    }

    async fn every_query_of_the_dashboard_and_the_alerts_finds_data_in_prometheus(stage: Stage) {
        if missing_tools(&["prometheus", "promtool"]) {
            return;
        }
        // A process dies with a task in its hands, so that the next one recovers it.
        let short = ("EXECUTOR_EXPIRY_MS", "1000");
        let dying = stage.serve_with(&[short, ("CHAOS_SLEEP_EXECUTE", "60000")]).await;
        let left = dying.start_golden_run().await;
        dying.approve(&left).await;
        eventually(DEADLINE, "the task is claimed", || async {
            let claimed = stage.sql_count("SELECT count(*) AS n FROM app.claims WHERE queue_name = 'sbxQ'").await;
            if claimed == 1 { Ok(()) } else { Err(claimed) }
        })
        .await;
        dying.kill_9().await;
        let (taking, nobody) = (Receiver::http(Manners::Takes).await.base(), format!("http://127.0.0.1:{}", free_port()));
        let telemetry = [
            short,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", taking.as_str()),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", nobody.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ];
        let server = stage.serve_with(&telemetry).await;
        let prometheus = Prometheus::start(&stage, &server).await;
        server.wait_status(&left, "SUCCESS").await;
        run_to_end(&server, "FAIL_ME", "ERROR").await;
        run_to_end(&server, "FLAKY_INFRA_FAIL", "SUCCESS").await;
        // Somebody cancels a task while its body runs: the fence stops what comes after.
        let job = server.start_job(json!({"command": "sleep 2"})).await;
        let body = "name = 'stepwell.task' AND status = 'PENDING' AND owner_xid IS NOT NULL";
        eventually(DEADLINE, "the task of the job runs", || async {
            let cancel = format!("UPDATE dbos.workflow_status SET status = 'CANCELLED', owner_xid = NULL WHERE {body}");
            if stage.sql_execute(&cancel).await == 1 { Ok(()) } else { Err("not yet") }
        })
        .await;
        server.wait_status(&job, "ERROR").await;
        give_up_a_run(&stage, &server).await;

        let queries = dashboard_queries();
        assert!(queries.len() > 25, "{queries:?}");
        for query in &queries {
            prometheus.wait_for(query).await;
        }
        let rules = prometheus.ask("rules", &[("type", "alert")]).await;
        let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
        assert!(rules.len() >= 12, "{rules:?}");
        for rule in &rules {
            let query = rule["query"].as_str().unwrap();
            prometheus.ask("query", &[("query", query)]).await;
            let wanted = selectors(query);
            assert!(!wanted.is_empty() || query.starts_with("up"), "{query}");
            for selector in wanted {
                prometheus.wait_for(&selector).await;
            }
        }
        // An alert whose reason is there is pending or fires.
        prometheus.wait_for("ALERTS{alertname=\"StepwellTelemetryLost\"}").await;

        let file = stage.dir().join("metrics.txt");
        std::fs::write(&file, scrape(&server).await).unwrap();
        let lint = stage.tool("promtool").args(["check", "metrics"]).stdin(std::fs::File::open(file).unwrap()).output().await.unwrap();
        assert!(lint.status.success() && lint.stderr.is_empty(), "{lint:?}");
    }
}

#[test]
fn alerts_fire_when_they_should_and_are_silent_when_they_should_be() {
    if missing_tools(&["promtool"]) {
        return;
    }
    let output = std::process::Command::new("promtool")
        .args(["test", "rules", "alerts-test.yml"])
        .current_dir(Path::new(ROOT).join("deploy/grafana"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_alert_is_seen_to_fire() {
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(Path::new(ROOT).join("deploy/grafana").join(name));
        serde_norway::from_str(&text.unwrap()).unwrap()
    };
    let list = |value: &Value| value.as_array().unwrap().clone();
    let name = |value: &Value| value.as_str().unwrap().to_owned();
    let rules: BTreeSet<String> = list(&read("alerts.yml")["groups"])
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .map(|rule| name(&rule["alert"]))
        .collect();
    let fire: BTreeSet<String> = list(&read("alerts-test.yml")["tests"])
        .iter()
        .flat_map(|test| list(&test["alert_rule_test"]))
        .filter(|looked| !list(&looked["exp_alerts"]).is_empty())
        .map(|looked| name(&looked["alertname"]))
        .collect();
    assert_eq!(fire, rules);
}
