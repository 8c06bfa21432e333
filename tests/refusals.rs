//! The front door: what is refused, how, and that a refusal has written nothing. A table of requests as bytes, because many of them no client
//! would send.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod refusals {
    pub(crate) mod cases;
    mod contents;
    mod doors;
    mod request;
}

use harness::*;
use refusals::cases::{self, Case, Given};
use serde_json::{Value, json};

const TOKEN: &str = "full-0123456789abcdef";
const READ_TOKEN: &str = "read-0123456789abcdef";

const LAB_B_INTENT: &str = r#"
INTENT=$(curl -sS -X POST $BASE/api/intents -H 'content-type: application/json' \
  -d '{"goal":"spec07 golden","inputs":{},"constraints":{}}' | jq -r .intentId)
"#;

const LAB_I_MALFORMED_JSON: &str = r#"
B=$(scripts/db/psql-app.sh -t -A -c "SELECT (SELECT COUNT(*) FROM app.intents)||(SELECT COUNT(*) FROM app.runs)||(SELECT COUNT(*) FROM app.artifacts)" | xargs)
curl -sS -o /tmp/007-badjson.out -w '%{http_code}\n' -X POST "$BASE/api/intents" -H 'content-type: application/json' -d '{bad'
A=$(scripts/db/psql-app.sh -t -A -c "SELECT (SELECT COUNT(*) FROM app.intents)||(SELECT COUNT(*) FROM app.runs)||(SELECT COUNT(*) FROM app.artifacts)" | xargs)
echo "code=$(cat /tmp/007-badjson.out) before=$B after=$A"
"#;

const LAB_I_SCHEMA: &str = r#"
curl -sS -o /tmp/007-runs400.out -w '%{http_code}\n' -X POST "$BASE/api/runs" -H 'content-type: application/json' \
  -d "{\"intentId\":\"$INTENT\",\"queuePartitionKey\":\"tenant-007\",\"extra\":true}"
cat /tmp/007-runs400.out
"#;

const LAB_I_POLICY: &str = r#"
curl -sS -o /tmp/007-policy400.out -w '%{http_code}\n' -X POST "$BASE/api/runs" -H 'content-type: application/json' \
  -d "{\"intentId\":\"$INTENT\",\"queueName\":\"sbxQ\",\"recipeName\":\"sandbox-default\",\"workload\":{\"concurrency\":1,\"steps\":1,\"sandboxMinutes\":1},\"queuePartitionKey\":\"tenant-007\"}"
cat /tmp/007-policy400.out
"#;

/// Sends every case and compares the rows of every table after each.
async fn refuse_all(stage: &Stage, server: &Server, cases: Vec<Case>) {
    let before = stage.row_counts().await;
    for case in &cases {
        let answer = server.raw(&case.bytes).await;
        let body = answer.expect_refusal(case.status);
        assert_eq!(body["code"], case.code, "{}: {answer}", case.name);
        let known = ["error", "code", "details"];
        let fields = body.as_object().unwrap().keys();
        assert!(
            fields.clone().all(|field| known.contains(&field.as_str())),
            "{}: {answer}",
            case.name
        );
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("application/json"),
            "{}: {kind}",
            case.name
        );
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| !id.is_empty()),
            "{}: no x-request-id",
            case.name
        );
        assert!(
            !answer
                .headers
                .keys()
                .any(|name| name.as_str().starts_with("access-control-")),
            "{}: no page of somebody else's may read this",
            case.name
        );
        for (header, status) in [
            ("allow", 405),
            ("retry-after", 429),
            ("www-authenticate", 401),
        ] {
            assert_eq!(
                answer.header(header).is_some(),
                status == case.status,
                "{}: {header}",
                case.name
            );
        }
        assert_eq!(
            stage.row_counts().await,
            before,
            "{} wrote something",
            case.name
        );
    }
}

/// An intent that was not started, a run that waits for approval, and one that has ended.
async fn prepared(server: &Server) -> Given {
    let finished = server.start_job(json!({"command": "true"})).await;
    server.wait_status(&finished, "SUCCESS").await;
    let waiting = server.create_intent("waits", json!({})).await;
    let mut request = Server::start_request(&waiting, "sandbox-default");
    request["deduplicationID"] = json!("one of a kind");
    server.post("/api/runs", &request).await.expect(202);
    server.wait_next_action(&waiting, "APPROVE_PLAN").await;
    Given {
        host: server.base().trim_start_matches("http://").to_owned(),
        intent: server.create_intent("not started", json!({})).await,
        bad_inputs: server
            .create_intent("cannot start", json!({"tests": "none"}))
            .await,
        waiting,
        finished,
    }
}

fn lab_tools_are_missing(backend: Backend) -> bool {
    let client = match backend {
        Backend::Sqlite => "sqlite3",
        Backend::Postgres => "psql",
    };
    missing_tools(&["bash", "curl", "jq", client])
}

/// The status and the body that two commands of a block have printed.
fn status_and_body(output: &str) -> (&str, Value) {
    let (status, body) = output.split_once('\n').expect("a status and a body");
    (status, serde_json::from_str(body).expect("JSON"))
}

on_both_databases! {
    async fn every_refusal_says_why_and_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        let given = prepared(&server).await;
        let cases = cases::all(&given);
        assert!(cases.len() >= 100, "{}", cases.len());

        refuse_all(&stage, &server, cases).await;

        let health = server.get("/healthz").await;
        assert_eq!(health.status, 200, "{health}");
    }

    async fn a_token_is_needed_once_there_is_one(stage: Stage) {
        let server = stage
            .serve_with(&[
                ("STEPWELL_TOKEN", TOKEN),
                ("STEPWELL_READ_TOKEN", READ_TOKEN),
                ("STEPWELL_ALLOWED_HOSTS", "jobs.example"),
            ])
            .await;
        let host = server.base().trim_start_matches("http://");

        refuse_all(&stage, &server, cases::of_tokens(host, TOKEN, READ_TOKEN)).await;

        let status = async |line: &str, more: &str| {
            let host = if more.contains("Host:") { "" } else { "Host: localhost\r\n" };
            server.raw(format!("{line} HTTP/1.1\r\n{host}{more}\r\n").as_bytes()).await.status
        };
        let (full, read) = (format!("Authorization: Bearer {TOKEN}\r\n"), format!("Authorization: bearer {READ_TOKEN}\r\n"));
        assert_eq!(status("GET /api/runs", &full).await, 200);
        assert_eq!(status("GET /api/runs", &read).await, 200);
        assert_eq!(status("HEAD /api/runs", &read).await, 200);
        assert_eq!(status("GET /api/runs", &format!("{full}Host: jobs.example\r\n")).await, 200);
        for open in ["GET /healthz", "GET /openapi.json", "GET /docs", "HEAD /healthz"] {
            assert_eq!(status(open, "").await, 200, "{open}");
        }
        let intent = json!({"goal": "with a token", "inputs": {}, "constraints": {}}).to_string();
        let line = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", intent.len());
        let created = format!("POST /api/intents HTTP/1.1\r\nHost: localhost\r\n{full}{line}\r\n{intent}");
        assert_eq!(server.raw(created.as_bytes()).await.status, 201);
        let log = server.log();
        assert!(!log.contains(TOKEN) && !log.contains(READ_TOKEN), "tokens stay out of the log");
    }

    async fn the_admin_port_has_the_same_door(stage: Stage) {
        let server = stage.serve_with(&[("STEPWELL_TOKEN", TOKEN)]).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let get = |path: &str| client.get(format!("{}{path}", server.admin_base()));

        assert_eq!(get("/healthz").send().await.unwrap().status(), 200);
        assert_eq!(get("/api/runs").send().await.unwrap().status(), 401);
        assert_eq!(get("/api/runs").bearer_auth(TOKEN).send().await.unwrap().status(), 404, "it has its own two routes alone");
        let foreign = get("/healthz").header("host", "evil.example").send().await.unwrap();
        assert_eq!(foreign.status(), 403);
    }

    async fn a_start_that_would_open_the_machine_to_the_network_is_refused(stage: Stage) {
        for (name, env) in [
            ("HOST", vec![("HOST", "0.0.0.0")]),
            ("HOST", vec![("HOST", "everywhere")]),
            ("STEPWELL_TOKEN", vec![("STEPWELL_TOKEN", "sesame")]),
            ("STEPWELL_READ_TOKEN", vec![("STEPWELL_READ_TOKEN", READ_TOKEN)]),
            ("STEPWELL_ALLOWED_HOSTS", vec![("STEPWELL_ALLOWED_HOSTS", "https://jobs.example")]),
            ("STEPWELL_MAX_BACKLOG", vec![("STEPWELL_MAX_BACKLOG", "0")]),
        ] {
            let process = stage.spawn("serve", &env).await;
            assert_eq!(process.wait_exit().await.code(), Some(78), "{env:?}");
            let log = process.log();
            assert!(log.contains(&format!("{name} is")) && log.contains("accepts"), "{log}");
            assert!(!log.contains("sesame") && !log.contains(READ_TOKEN), "{log}");
        }
        let server = stage.serve_with(&[("HOST", "0.0.0.0"), ("STEPWELL_TOKEN", TOKEN)]).await;
        assert_eq!(server.get("/healthz").await.status, 200);
    }

    async fn what_is_unusual_and_legal_is_served(stage: Stage) {
        let server = stage.serve().await;
        let host = server.base().trim_start_matches("http://").to_owned();
        let intent = json!({"goal": "asked first", "inputs": {}, "constraints": {}}).to_string();
        let head = format!("POST /api/intents HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");

        // Who asks whether to send is told to.
        let mut wire = server.wire().await;
        wire.send(format!("{head}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", intent.len()).as_bytes()).await;
        assert_eq!(wire.answer("Expect").await.status, 100);
        wire.send(intent.as_bytes()).await;
        assert_eq!(wire.answer("POST").await.status, 201);

        // And who would send too much is told not to, before he does.
        let mut wire = server.wire().await;
        wire.send(format!("{head}Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n").as_bytes()).await;
        wire.answer("Expect").await.expect_refusal(413);

        // In chunks, in pieces, from a page of our own.
        let mut wire = server.wire().await;
        let chunks = format!("{:x}\r\n{intent}\r\n0\r\n\r\n", intent.len());
        let chunked = format!("{head}Origin: http://{host}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let (first, second) = chunked.split_at(chunked.len() - 40);
        wire.send(first.as_bytes()).await;
        tokio::task::yield_now().await;
        wire.send(second.as_bytes()).await;
        assert_eq!(wire.answer("POST").await.status, 201);

        // HEAD is GET without the body, on the same connection as what follows.
        let get = server.raw(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        wire.send(format!("HEAD /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        let answer = wire.answer("HEAD /healthz").await;
        assert_eq!((answer.status, answer.header("content-length")), (200, get.header("content-length")));
        wire.send(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(wire.answer("GET").await.status, 200);

        // Two at once are answered in turn; a refusal between them does not end the connection.
        let three = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: {host}\r\n\r\nGET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        wire.send(three.as_bytes()).await;
        for status in [200, 404, 200] {
            assert_eq!(wire.answer("GET").await.status, status);
        }

        // A request id of the caller's comes back; one that would break a line or a log does not.
        for (sent, kept) in [("order-17", true), ("has space", false), (&"x".repeat(200), false)] {
            let answer = server.raw(format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nx-request-id: {sent}\r\n\r\n").as_bytes()).await;
            assert_eq!(answer.header("x-request-id") == Some(sent), kept, "{sent}");
        }

        // A cursor that no page gave, of the pattern: an empty page.
        for path in ["/api/runs?cursor=5.zz_-", "/api/ops/wf?cursor=0.", "/api/runs?limit=200&since=0", "/api/runs?"] {
            assert_eq!(server.get(path).await.status, 200, "{path}");
        }
    }

    async fn the_largest_intent_that_is_stored_can_run(stage: Stage) {
        const MOST: usize = 1024 * 1024 - 16 * 1024;
        let server = stage.serve().await;
        let of_size = |bytes: usize| {
            let intent = |pad: usize| json!({"goal": "g", "inputs": {"command": "true", "pad": "x".repeat(pad)}, "constraints": {}});
            // The goal in its quotes, the inputs, and the constraints.
            let fixed = 3 + intent(0)["inputs"].to_string().len() + 2;
            intent(bytes - fixed)
        };
        server.post("/api/intents", &of_size(MOST + 1)).await.expect_refusal(400);
        let created = server.post("/api/intents", &of_size(MOST)).await.expect(201);
        let intent = created["intentId"].as_str().unwrap();
        let run = server.start_run(intent, "shell-default").await;
        server.wait_status(&run, "SUCCESS").await;
    }

    async fn a_full_backlog_refuses_new_runs_and_answers_old_ones(stage: Stage) {
        stage.migrate().await;
        stage.sql_execute("INSERT INTO app.queue_limits (name, paused, updated_at) VALUES ('intentQ', true, 0)").await;
        let server = stage.serve_with(&[("STEPWELL_MAX_BACKLOG", "3")]).await;
        let mut requests = Vec::new();
        for number in 0..4 {
            let intent = server.create_intent(&format!("number {number}"), json!({})).await;
            requests.push(Server::start_request(&intent, "sandbox-default"));
        }
        for request in &requests[..3] {
            server.post("/api/runs", request).await.expect(202);
        }
        let before = stage.row_counts().await;

        let refused = server.post("/api/runs", &requests[3]).await;
        assert_eq!(refused.expect_refusal(429)["code"], "backlog_full");
        assert!(refused.header("retry-after").is_some(), "{refused}");
        server.post("/api/runs", &requests[0]).await.expect(202);
        assert_eq!(stage.row_counts().await, before);

        stage.sql_execute("UPDATE app.queue_limits SET paused = false WHERE name = 'intentQ'").await;
        server.wait_next_action(requests[2]["intentId"].as_str().unwrap(), "APPROVE_PLAN").await;
        let patience = std::time::Duration::from_secs(20);
        eventually(patience, "there is room again", || async {
            let answer = server.post("/api/runs", &requests[3]).await;
            if answer.status == 202 { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    async fn lab_i_fails_closed(stage: Stage) {
        if lab_tools_are_missing(stage.backend()) {
            return;
        }
        let server = stage.serve().await;
        // The manual's own report counts artifacts, and a tick leaves one.
        stage.pause_ticks().await;
        let mut lab = stage.lab(&server).await;
        lab.block(LAB_B_INTENT).await.ok();
        let before = stage.row_counts().await;

        let malformed = lab.block(LAB_I_MALFORMED_JSON).await.ok();
        let (status, report) = malformed.split_once('\n').expect("a status and a report");
        assert_eq!(status, "400");
        assert!(report.starts_with(r#"code={""#), "{report}");
        let counts = |name: &str| {
            let rest = report.split_once(name).expect("a count").1;
            rest.chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        assert_eq!(counts("before="), "100", "one intent, no runs, no artifacts: {report}");
        assert_eq!(counts("before="), counts("after="), "{report}");

        let schema = lab.block(LAB_I_SCHEMA).await.ok();
        let (status, body) = status_and_body(&schema);
        assert_eq!((status, &body["code"]), ("400", &json!("schema_violation")), "{body}");

        let policy = lab.block(LAB_I_POLICY).await.ok();
        let (status, body) = status_and_body(&policy);
        assert_eq!((status, &body["code"]), ("400", &json!("queue_policy_violation")), "{body}");
        assert_eq!(stage.row_counts().await, before);
    }
}
