//! OTLP: a run's spans and logs reach a receiver with the ids that its rows say, across a crash; a receiver that is required and does not answer
//! stops the start; one that misbehaves costs no run anything.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::otlp::{Manners, Received, Receiver, attribute, hex};
use harness::*;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Batches that leave at once, and everything that is said.
const AT_ONCE: [(&str, &str); 4] = [
    ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ("RUST_LOG", "info,stepwell=debug"),
];

/// The environment of a process that exports to `base`, and `more`.
fn exporting<'a>(base: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut env = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", base)];
    env.extend(AT_ONCE);
    env.extend(more);
    env
}

/// Starts a golden run as `caller`'s request.
async fn start_as(server: &Server, caller: &str) -> String {
    let intent = server.create_intent("traced", json!({})).await;
    let answer = reqwest::Client::new()
        .post(format!("{}/api/runs", server.base()))
        .header("traceparent", caller)
        .header("content-type", "application/json")
        .body(Server::start_request(&intent, "sandbox-default").to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    intent
}

/// The spans of one trace by name, once `wanted` have arrived.
async fn spans_of(
    receiver: &Receiver,
    trace_id: &str,
    wanted: &[&str],
) -> BTreeMap<String, Vec<Span>> {
    eventually(
        DEADLINE,
        &format!("spans {wanted:?} of {trace_id} arrive"),
        || async {
            let mut found: BTreeMap<String, Vec<Span>> = BTreeMap::new();
            for span in &receiver.received().spans {
                if hex(&span.trace_id) == trace_id {
                    found
                        .entry(span.name.clone())
                        .or_default()
                        .push(span.clone());
                }
            }
            let complete = wanted.iter().all(|name| found.contains_key(*name));
            if complete {
                Ok(found)
            } else {
                Err(format!("{:?}", found.keys()))
            }
        },
    )
    .await
}

fn ids(spans: &[Span]) -> BTreeSet<String> {
    spans.iter().map(|span| hex(&span.span_id)).collect()
}

async fn value_of(server: &Server, metric: &str) -> f64 {
    let text = reqwest::get(format!("{}/metrics", server.admin_base()))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    text.lines()
        .filter(|line| line.starts_with(metric))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

on_both_databases! {
    async fn a_run_is_one_trace_across_a_crash_with_the_ids_of_its_rows(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        let server = stage.serve_with(&exporting(&base, &[("OTEL_SERVICE_NAME", "lab"), ("EXECUTOR_EXPIRY_MS", "1000")])).await;

        let run = start_as(&server, CALLER).await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;
        let trace = "0af7651916cd43dd8448eb211c80319c";
        spans_of(&receiver, trace, &["CompileST", "ApplyPatchST", "claim"]).await;
        server.kill_9().await;
        server.start_again().await;
        server.approve(&run).await;
        let header = server.wait_status(&run, "SUCCESS").await;

        assert_eq!(header["traceId"], trace);
        let wanted = ["run", "CompileST", "ApplyPatchST", "DecideST", "ExecuteST", "task", "claim", "commit", "wait", "POST /api/runs"];
        let spans = spans_of(&receiver, trace, &wanted).await;
        let root = &spans["run"][0];
        let request = &spans["POST /api/runs"][0];
        assert_eq!(hex(&root.span_id), header["spanId"].as_str().unwrap());
        assert_eq!(root.parent_span_id, request.span_id);
        assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");

        let rows = stage.sql(&format!("SELECT step_id, trace_id, span_id FROM app.run_steps WHERE run_id = '{run}'")).await;
        assert_eq!(rows.len(), 4);
        for row in &rows {
            let step = row["step_id"].as_str().unwrap();
            assert_eq!(row["trace_id"], trace);
            assert_eq!(ids(&spans[step]), BTreeSet::from([row["span_id"].as_str().unwrap().to_owned()]), "{step}");
            assert_eq!(spans[step][0].parent_span_id, root.span_id, "{step}");
        }
        let task = &spans["task"][0];
        let execution = &spans["ExecuteST"][0];
        assert_eq!(task.parent_span_id, execution.span_id);
        assert!(execution.start_time_unix_nano <= task.start_time_unix_nano, "the step's span holds its tasks");
        let wait = spans["wait"].iter().find(|span| attribute(&span.attributes, "stepwell.wait.kind") == "message");
        let link = &wait.expect("the wait for the approval").links[0];
        let approval = receiver.received().spans.iter().find(|span| span.name == "POST /api/runs/{wid}/approve-plan").cloned();
        assert_eq!(link.span_id, approval.expect("the approval's request").span_id);

        // Nothing was told twice under one id.
        let received = receiver.received();
        let all: Vec<String> = received.spans.iter().map(|span| hex(&span.span_id)).collect();
        assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len());
        assert!(received.resources.iter().any(|pair| pair == "service.name=lab"), "{:?}", received.resources);
        for (attribute, values) in [("service.instance.id=", 2), ("process.pid=", 2), ("host.name=", 1)] {
            let found: BTreeSet<&String> = received.resources.iter().filter(|pair| pair.starts_with(attribute)).collect();
            assert_eq!(found.len(), values, "two processes on one machine: {found:?}");
        }
    }

    async fn what_is_not_sampled_is_exported_by_no_worker(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        // They export nothing, and decide nevertheless.
        let silent = stage.start("api", &[("OTEL_TRACES_SAMPLER", "always_off")]).await;
        let api = stage.start("api", &[]).await;
        let worker = stage.start("worker", &exporting(&base, &[])).await;

        let not_sampled = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let unwanted = [start_as(&silent, CALLER).await, silent.start_golden_run().await, start_as(&api, not_sampled).await];
        let wanted = api.start_golden_run().await;
        for run in unwanted.iter().chain([&wanted]) {
            api.approve(run).await;
            api.wait_status(run, "SUCCESS").await;
        }
        let trace_of = async |run: &str| api.header(run).await["traceId"].as_str().unwrap().to_owned();
        spans_of(&receiver, &trace_of(&wanted).await, &["run", "task", "ExecuteST"]).await;
        // It tells what it has to tell before it ends.
        worker.terminate().await;

        for run in &unwanted {
            let trace = trace_of(run).await;
            let told = receiver.received().spans.iter().filter(|span| hex(&span.trace_id) == trace).count();
            assert_eq!(told, 0, "{trace}");
        }
    }

    async fn a_worker_that_samples_by_itself_heeds_nobody(stage: Stage) {
        let api = stage.start("api", &[]).await;
        for (sampler, ratio) in [("always_off", "1"), ("traceidratio", "0")] {
            let receiver = Receiver::http(Manners::Takes).await;
            let base = receiver.base();
            let sampling = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            let worker = stage.start("worker", &exporting(&base, &sampling)).await;
            let run = start_as(&api, CALLER).await;
            api.approve(&run).await;
            let header = api.wait_status(&run, "SUCCESS").await;
            let trace = header["traceId"].as_str().unwrap();
            eventually(DEADLINE, "the worker exports log records of the run", || async {
                let of_run = receiver.received().logs.iter().filter(|log| hex(&log.trace_id) == trace).count();
                if of_run > 0 { Ok(()) } else { Err(of_run) }
            })
            .await;
            worker.terminate().await;
            assert_eq!(receiver.received().spans.len(), 0, "{sampler}");
        }
    }

    async fn a_run_is_one_trace_across_invocations_that_come_and_go(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        // It exports nothing: all that arrives is the invocations'.
        let api = stage.start("api", &[]).await;
        let run = api.start_golden_run().await;
        let invocation = async || {
            let mut command = stage.command(&["worker", "--once", "--max-jobs", "1"]);
            let output = command.envs(exporting(&base, &[])).output().await.unwrap();
            assert!(matches!(output.status.code(), Some(0 | 75)), "{output:?}");
        };
        invocation().await;
        assert_eq!(api.header(&run).await["nextAction"], "APPROVE_PLAN");
        api.approve(&run).await;
        let (mut invocations, mut told) = (1, vec![receiver.received().spans.len()]);
        while api.header(&run).await["status"] != "SUCCESS" {
            invocation().await;
            invocations += 1;
            told.push(receiver.received().spans.len());
            assert!(invocations < 10, "the run does not end: {:?}", api.header(&run).await);
        }
        assert!(invocations >= 3 && told.is_sorted_by(|before, after| before < after), "each tells of what it did: {told:?}");

        let header = api.header(&run).await;
        let received = receiver.received();
        let (trace, names): (BTreeSet<String>, BTreeSet<&str>) =
            received.spans.iter().map(|span| (hex(&span.trace_id), span.name.as_str())).unzip();
        assert_eq!(trace, BTreeSet::from([header["traceId"].as_str().unwrap().to_owned()]), "{names:?}");
        for name in ["run", "CompileST", "ApplyPatchST", "DecideST", "ExecuteST", "task", "claim", "wait"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
    }

    async fn a_link_that_nobody_can_fill_stops_the_start(stage: Stage) {
        stage.migrate().await;
        let before = stage.row_counts().await;
        for template in ["https://trace.example/{traceId}/span/{spanID}", "https://trace.example/{spanId}", "trace.example/{traceId}"] {
            for command in ["serve", "worker --once"] {
                let process = stage.spawn(command, &[("TRACE_BASE_URL", template)]).await;
                let status = process.wait_exit().await;
                assert_eq!(status.code(), Some(78), "{command}: {}", process.log());
                assert!(process.log().contains("TRACE_BASE_URL") && process.log().contains(template), "{command}: {}", process.log());
            }
        }
        assert_eq!(stage.row_counts().await, before);
    }

    async fn logs_and_metrics_reach_the_receiver_and_logs_know_their_run(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        let server = stage.serve_with(&exporting(&base, &[])).await;

        let run = server.start_golden_run().await;
        server.approve(&run).await;
        let header = server.wait_status(&run, "SUCCESS").await;

        let (trace, compile) = (header["traceId"].as_str().unwrap(), server.steps(&run).await[0]["spanId"].clone());
        eventually(DEADLINE, "the log record of a step and the metrics arrive", || async {
            let Received { logs, metrics, .. } = &*receiver.received();
            let of_step = logs.iter().any(|log| {
                hex(&log.trace_id) == trace
                    && hex(&log.span_id) == compile.as_str().unwrap()
                    && attribute(&log.attributes, "run") == run
                    && attribute(&log.attributes, "step") == "CompileST"
                    && !attribute(&log.attributes, "executor").is_empty()
            });
            let named: BTreeSet<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
            let measured = ["stepwell_queue_depth", "stepwell_claims_total", "stepwell_run_seconds"].iter().all(|name| named.contains(name));
            if of_step && measured { Ok(()) } else { Err(format!("{of_step} {named:?} {} logs", logs.len())) }
        })
        .await;
    }

    async fn a_receiver_that_misbehaves_costs_no_run_anything_and_losses_are_counted(stage: Stage) {
        let port = free_port();
        let base = format!("http://127.0.0.1:{port}");
        let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "8"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "300")];
        let server = stage.serve_with(&exporting(&base, &small)).await;
        // By their reason: what a full queue loses says nothing of this receiver.
        let runs_succeed_and_losses_are_counted = async |what: &str, reason: &str| {
            let series = format!("stepwell_telemetry_dropped_total{{signal=\"spans\",reason=\"{reason}\"");
            let before = value_of(&server, &series).await;
            for _ in 0..3 {
                let run = server.start_golden_run().await;
                server.approve(&run).await;
                let header = server.wait_status(&run, "SUCCESS").await;
                assert!(header["error"].is_null(), "{header}");
            }
            eventually(DEADLINE, &format!("{what}: losses are counted"), || async {
                let now = value_of(&server, &series).await;
                if now > before { Ok(()) } else { Err(now) }
            })
            .await;
        };

        runs_succeed_and_losses_are_counted("nobody listens", "unreachable").await;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let receiver = Receiver::listen(listener, Manners::Hangs, false);
        for (manners, reason) in [
            (Manners::Hangs, "unreachable"),
            (Manners::Answers(500), "unreachable"),
            (Manners::Answers(403), "refused"),
            (Manners::RejectsOne, "rejected"),
        ] {
            receiver.behave(manners);
            runs_succeed_and_losses_are_counted(&format!("{manners:?}"), reason).await;
        }

        receiver.behave(Manners::Takes);
        let trace = server.header(&server.start_golden_run().await).await["traceId"].clone();
        spans_of(&receiver, trace.as_str().unwrap(), &["claim"]).await;
        assert!(server.terminate().await.success());
    }

    async fn a_required_receiver_that_is_no_use_stops_the_start_and_says_where_it_should_be(stage: Stage) {
        stage.migrate().await;
        let before = stage.row_counts().await;
        let nobody = format!("http://127.0.0.1:{}", free_port());
        let refusing = Receiver::http(Manners::Answers(404)).await;
        let hanging = Receiver::http(Manners::Hangs).await;
        let broken = Receiver::http(Manners::Answers(500)).await;

        for (command, base) in [
            ("serve", &nobody),
            ("api", &nobody),
            ("worker", &nobody),
            ("worker --once", &nobody),
            ("serve", &refusing.base()),
            ("serve", &hanging.base()),
            ("serve", &broken.base()),
        ] {
            let env = [("OTLP_REQUIRED", "1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", base), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
            let process = stage.spawn(command, &env).await;
            let status = process.wait_exit().await;
            assert_eq!(status.code(), Some(78), "{command}: {}", process.log());
            let endpoint = format!("{base}/v1/traces");
            assert!(process.log().contains(&endpoint) && process.log().contains("OTLP_REQUIRED"), "{command}: {}", process.log());
        }
        for (signal, path) in [("LOGS", "logs"), ("METRICS", "metrics")] {
            let variable = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
            for base in [&nobody, &refusing.base()] {
                let process = stage.spawn("serve", &[("OTLP_REQUIRED", "1"), (&variable, base)]).await;
                let status = process.wait_exit().await;
                assert_eq!(status.code(), Some(78), "{variable}: {}", process.log());
                let endpoint = format!("{base}/v1/{path}");
                assert!(process.log().contains(&endpoint) && process.log().contains(&variable), "{variable}: {}", process.log());
            }
        }
        assert_eq!(stage.row_counts().await, before);

        let taking = Receiver::http(Manners::Takes).await;
        let endpoint = format!("{}/v1/logs", taking.base());
        let (base, required) = (taking.base(), ("OTLP_REQUIRED", "1"));
        let env = [required, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &base), ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &endpoint)];
        stage.serve_with(&env).await;
        assert!(taking.received().requests >= 2);
    }

    async fn grpc_carries_all_three_signals_and_the_headers(stage: Stage) {
        let receiver = Receiver::grpc(Manners::Takes).await;
        let base = receiver.base();
        let grpc = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTLP_REQUIRED", "1"), ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue%20one")];
        let server = stage.serve_with(&exporting(&base, &grpc)).await;

        let run = server.start_golden_run().await;
        server.approve(&run).await;
        let header = server.wait_status(&run, "SUCCESS").await;

        spans_of(&receiver, header["traceId"].as_str().unwrap(), &["run", "task"]).await;
        eventually(DEADLINE, "logs and metrics arrive", || async {
            let received = receiver.received();
            if received.logs.is_empty() || received.metrics.is_empty() { Err("not yet") } else { Ok(()) }
        })
        .await;
        let headers = receiver.received().headers.clone();
        for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
            assert!(headers.iter().any(|line| *line == format!("{path} x-team: blue one")), "{path}: {headers:?}");
        }
        assert_eq!(value_of(&server, "stepwell_telemetry_dropped_total").await, 0.0);

        receiver.behave(Manners::Answers(503));
        let refused = stage.spawn("serve", &exporting(&base, &grpc)).await;
        assert_eq!(refused.wait_exit().await.code(), Some(78), "{}", refused.log());
        assert!(refused.log().contains("gRPC status 14"), "{}", refused.log());
    }

    async fn requests_are_compressed_over_http_and_over_grpc(stage: Stage) {
        for (receiver, protocol, header) in [
            (Receiver::http(Manners::Takes).await, "http/protobuf", "content-encoding: gzip"),
            (Receiver::grpc(Manners::Takes).await, "grpc", "grpc-encoding: gzip"),
        ] {
            let base = receiver.base();
            let gzip = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"), ("OTLP_REQUIRED", "1")];
            let mut command = stage.command(&["run", "--", "true"]);
            let output = command.envs(exporting(&base, &gzip)).output().await.unwrap();
            assert!(output.status.success(), "{output:?}");

            let received = receiver.received();
            assert!(received.spans.iter().any(|span| span.name == "run"), "{protocol}");
            assert!(!received.logs.is_empty() && !received.metrics.is_empty(), "{protocol}");
            assert_eq!(received.compressed, received.requests, "{protocol}");
            for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
                assert!(received.headers.contains(&format!("{path} {header}")), "{path}: {:?}", received.headers);
            }
        }
    }

    async fn what_a_process_that_ends_loses_is_told(stage: Stage) {
        for (manners, wanted) in [
            (Manners::Hangs, "telemetry is lost, for this process ends"),
            (Manners::RejectsOne, "it rejects 1 of "),
        ] {
            let receiver = Receiver::http(manners).await;
            let mut command = stage.command(&["run", "--", "true"]);
            let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.base()).output().await.unwrap();
            assert!(output.status.success(), "{output:?}");

            let said = String::from_utf8(output.stderr).unwrap();
            let endpoint = format!("{}/v1/traces", receiver.base());
            let told: Vec<&str> = said.lines().filter(|line| line.contains(wanted) && line.contains(&endpoint)).collect();
            let [line] = told[..] else { panic!("{manners:?}: {said}") };
            let lost = line.split("lost=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            assert!(lost.is_some_and(|lost| lost > 0), "{line}");
            assert!(manners == Manners::Hangs || line.contains(": no"), "in its words: {line}");
        }
    }

    async fn a_log_that_no_terminal_shows_has_no_colours(stage: Stage) {
        let server = stage.serve_with(&[("RUST_LOG", "info,stepwell=debug")]).await;
        let run = server.start_golden_run().await;
        server.wait_next_action(&run, "APPROVE_PLAN").await;

        let log = server.log();
        assert!(log.contains("DEBUG") && !log.contains('\u{1b}'), "{log:?}");
    }

    async fn a_command_tells_of_its_run_before_it_ends(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        let mut command = stage.command(&["run", "--id", "it_once", "--", "true"]);
        let output = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &base).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");

        let row = &stage.sql("SELECT trace_id, span_id FROM app.runs WHERE id = 'it_once'").await[0];
        let received = receiver.received();
        let root = received.spans.iter().find(|span| span.name == "run").expect("the run's span");
        assert_eq!(hex(&root.trace_id), row["trace_id"].as_str().unwrap());
        assert_eq!(hex(&root.span_id), row["span_id"].as_str().unwrap());
    }

    async fn lab_m_the_smoke_reaches_the_receivers_that_are_set_or_fails_hard(stage: Stage) {
        if missing_tools(&["bash", "curl", "jq"]) {
            return;
        }
        let smoke = async |settings: &[(&str, &str)]| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/otlp-smoke.sh");
            let mut command = stage.tool(script);
            command.env("OTLP_REQUIRED", "1").env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"));
            command.envs(settings.iter().copied()).output().await.unwrap()
        };
        let (traces, logs) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT");
        let receiver = Receiver::http(Manners::Takes).await;
        let base = receiver.base();
        for settings in [vec![(traces, base.as_str()), (logs, &base)], vec![(logs, &base)], vec![(traces, &base)]] {
            *receiver.received() = Received::default();
            let reached = smoke(&settings).await;
            assert!(reached.status.success(), "{settings:?}: {reached:?}");
            let received = receiver.received();
            let run = received.spans.iter().find(|span| span.name == "run");
            // Where spans do not arrive any record that knows its trace will do.
            let of_run = received.logs.iter().any(|log| run.map_or(!log.trace_id.is_empty(), |run| log.trace_id == run.trace_id));
            let sent = |signal| settings.iter().any(|(name, _)| *name == signal);
            assert_eq!((run.is_some(), of_run), (sent(traces), sent(logs)), "{settings:?}: {reached:?}");
        }

        let nobody = format!("http://127.0.0.1:{}", free_port());
        let failed = smoke(&[(traces, &nobody), (logs, &nobody)]).await;
        assert_eq!(failed.status.code(), Some(78), "{failed:?}");
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(said.contains(&nobody), "{said}");

        // Spans that arrive do not stand for log records that do not.
        let refusing = Receiver::http(Manners::Answers(403)).await.base();
        let halved = smoke(&[(traces, &base), (logs, &refusing), ("OTLP_REQUIRED", "0")]).await;
        assert_eq!(halved.status.code(), Some(1), "{halved:?}");
        let nothing = smoke(&[(traces, &base), ("OTEL_TRACES_EXPORTER", "none")]).await;
        assert_eq!(nothing.status.code(), Some(78), "{nothing:?}");
    }

    async fn json_logs_are_one_document_a_line_and_know_their_run(stage: Stage) {
        let server = stage.serve_with(&[("STEPWELL_LOG", "json"), ("RUST_LOG", "stepwell=debug")]).await;
        let run = server.start_golden_run().await;
        server.approve(&run).await;
        let header = server.wait_status(&run, "SUCCESS").await;

        let lines: Vec<serde_json::Value> = server.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_step = lines.iter().find(|line| line["step"] == "DecideST").expect("a line of a step");
        assert_eq!(of_step["run"], run.as_str());
        assert_eq!(of_step["traceId"], header["traceId"]);
        assert!(of_step["executor"].is_string() && of_step["time"].is_string() && of_step["level"] == "DEBUG", "{of_step}");
        // Only the greeting on standard output is for people.
        let others: Vec<String> = server.log().lines().filter(|line| !line.starts_with('{')).map(str::to_owned).collect();
        assert!(others.iter().all(|line| line.starts_with("Stepwell ") || line.starts_with("  ")), "{others:?}");
    }

    async fn the_option_for_json_logs_counts_before_the_environment(stage: Stage) {
        stage.start("api", &[]).await.start_golden_run().await;
        let said = async |arguments: &[&str]| {
            let mut command = stage.command(&[&["worker", "--once", "--max-jobs", "1"], arguments].concat());
            let output = command.envs([("STEPWELL_LOG", "human"), ("RUST_LOG", "stepwell=debug")]).output().await.unwrap();
            assert!(matches!(output.status.code(), Some(0 | 75)), "{output:?}");
            String::from_utf8(output.stderr).unwrap()
        };

        let lines = said(&["--log", "json"]).await;

        assert!(lines.lines().count() > 0);
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {lines}"));
            assert!(line["time"].is_string() && line["level"].is_string(), "{line}");
        }
    }
}
