//! What is refused for what it says: bodies, and the things they name.

use serde_json::{Value, json};

use super::{
    cases::{Given, INTENTS, RUNS, SCHEDULES},
    request::{Case, Sender, Sent},
};

fn with(mut request: Value, field: &str, value: Value) -> String {
    request[field] = value;
    request.to_string()
}

pub(super) fn of_json(sender: &Sender) -> Vec<Case> {
    let good = r#"{"goal":"g","inputs":{},"constraints":{}}"#;
    let deep = format!(
        r#"{{"goal":"g","constraints":{{}},"inputs":{{"a":{}{}}}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let bottomless = "[".repeat(100_000);
    let texts: Vec<(&str, Vec<u8>)> = vec![
        ("malformed JSON", b"{bad".to_vec()),
        ("JSON cut short", good.as_bytes()[..20].to_vec()),
        ("trailing bytes", format!("{good}x").into_bytes()),
        ("two documents", format!("{good} {good}").into_bytes()),
        ("trailing NUL", format!("{good}\0").into_bytes()),
        (
            "duplicate key",
            br#"{"goal":"g","goal":"h","inputs":{},"constraints":{}}"#.to_vec(),
        ),
        (
            "duplicate key, once escaped",
            br#"{"goal":"g","go\u0061l":"h","inputs":{},"constraints":{}}"#.to_vec(),
        ),
        (
            "duplicate key, nested",
            br#"{"goal":"g","inputs":{"a":[{"b":1,"b":2}]},"constraints":{}}"#.to_vec(),
        ),
        (
            "NUL in a string",
            br#"{"goal":"a\u0000b","inputs":{},"constraints":{}}"#.to_vec(),
        ),
        (
            "NUL in a nested key",
            br#"{"goal":"g","inputs":{"a\u0000":1},"constraints":{}}"#.to_vec(),
        ),
        (
            "half a surrogate pair",
            br#"{"goal":"\ud800","inputs":{},"constraints":{}}"#.to_vec(),
        ),
        (
            "invalid UTF-8",
            b"{\"goal\":\"\xff\",\"inputs\":{},\"constraints\":{}}".to_vec(),
        ),
        (
            "overlong UTF-8",
            b"{\"goal\":\"\xc0\xaf\",\"inputs\":{},\"constraints\":{}}".to_vec(),
        ),
        ("byte order mark", format!("\u{feff}{good}").into_bytes()),
        (
            "UTF-16",
            good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ),
        ("comment", format!("/* hi */{good}").into_bytes()),
        (
            "trailing comma",
            br#"{"goal":"g","inputs":{},"constraints":{},}"#.to_vec(),
        ),
        (
            "single quotes",
            b"{'goal':'g','inputs':{},'constraints':{}}".to_vec(),
        ),
        (
            "raw line break in a string",
            b"{\"goal\":\"a\nb\",\"inputs\":{},\"constraints\":{}}".to_vec(),
        ),
        (
            "number out of range",
            br#"{"goal":"g","inputs":{"n":1e999},"constraints":{}}"#.to_vec(),
        ),
        (
            "NaN",
            br#"{"goal":"g","inputs":{"n":NaN},"constraints":{}}"#.to_vec(),
        ),
        (
            "number with a leading zero",
            br#"{"goal":"g","inputs":{"n":01},"constraints":{}}"#.to_vec(),
        ),
        ("deep nesting", deep.into_bytes()),
        ("bottomless nesting", bottomless.into_bytes()),
        ("only white space", b" \n\t ".to_vec()),
    ];
    let case =
        |(name, text): (&str, Vec<u8>)| sender.post(INTENTS, text).is(name, 400, "malformed_json");
    texts.into_iter().map(case).collect()
}

pub(super) fn of_bodies(sender: &Sender) -> Vec<Case> {
    let good = r#"{"goal":"g","inputs":{},"constraints":{}}"#;
    let typed = |kind: &str| {
        sender
            .post(INTENTS, good)
            .without("Content-Type")
            .with(format!("Content-Type: {kind}"))
    };
    let huge = vec![b' '; 2 * 1024 * 1024 + 1];
    let chunked = |body: &str| Sent {
        body: body.into(),
        ..sender
            .post(INTENTS, "")
            .without("Content-Length")
            .with("Transfer-Encoding: chunked")
    };
    let mut endless = String::new();
    for _ in 0..40 {
        endless.push_str(&format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024)));
    }
    endless.push_str("0\r\n\r\n");
    vec![
        sender
            .post(INTENTS, "")
            .is("empty body", 400, "body_required"),
        sender
            .bodiless("POST", INTENTS)
            .is("no body at all", 400, "body_required"),
        Sent {
            body: b"{}".to_vec(),
            ..sender.get("/healthz").with("Content-Length: 2")
        }
        .is("body of a GET", 400, "unexpected_body"),
        typed("text/plain").is("plain text", 415, "unsupported_media_type"),
        typed("application/x-www-form-urlencoded").is("a form", 415, "unsupported_media_type"),
        typed("multipart/form-data; boundary=x").is(
            "a multipart form",
            415,
            "unsupported_media_type",
        ),
        typed("application/jsonp").is("nearly JSON", 415, "unsupported_media_type"),
        typed("").is("empty content type", 415, "unsupported_media_type"),
        sender.post(INTENTS, good).without("Content-Type").is(
            "no content type",
            415,
            "unsupported_media_type",
        ),
        sender
            .post(INTENTS, good)
            .with("Content-Encoding: gzip")
            .is("compressed", 415, "unsupported_media_type"),
        sender
            .post(INTENTS, &huge)
            .is("body over the limit", 413, "body_too_large"),
        sender
            .post(RUNS, &huge)
            .is("body over the limit, of a start", 413, "body_too_large"),
        chunked(&endless).is("chunks over the limit", 413, "body_too_large"),
        chunked("zz\r\n{}\r\n0\r\n\r\n").is("broken chunk size", 400, "unreadable_body"),
        chunked("0\r\n\r\n").is("no chunk", 400, "body_required"),
    ]
}

pub(super) fn of_intents(sender: &Sender) -> Vec<Case> {
    let good = json!({"goal": "g", "inputs": {}, "constraints": {}});
    let texts = [
        ("an array for an intent", "[]".to_owned()),
        ("null for an intent", "null".into()),
        ("a string for an intent", "\"goal\"".into()),
        ("an empty intent", "{}".into()),
        (
            "no goal",
            json!({"inputs": {}, "constraints": {}}).to_string(),
        ),
        (
            "no inputs",
            json!({"goal": "g", "constraints": {}}).to_string(),
        ),
        (
            "no constraints",
            json!({"goal": "g", "inputs": {}}).to_string(),
        ),
        ("unknown field", with(good.clone(), "extra", json!(true))),
        (
            "field in another case",
            with(good.clone(), "Goal", json!("g")),
        ),
        ("empty goal", with(good.clone(), "goal", json!(""))),
        ("blank goal", with(good.clone(), "goal", json!(" \t\n"))),
        ("number for a goal", with(good.clone(), "goal", json!(7))),
        ("null for a goal", with(good.clone(), "goal", json!(null))),
        (
            "goal too long",
            with(good.clone(), "goal", json!("x".repeat(20_001))),
        ),
        ("array for inputs", with(good.clone(), "inputs", json!([]))),
        (
            "string for constraints",
            with(good.clone(), "constraints", json!("none")),
        ),
        (
            "string for connectors",
            with(good.clone(), "connectors", json!("git")),
        ),
        (
            "null for connectors",
            with(good.clone(), "connectors", json!(null)),
        ),
        (
            "number among connectors",
            with(good, "connectors", json!(["git", 7])),
        ),
    ];
    let case =
        |(name, text): (&str, String)| sender.post(INTENTS, text).is(name, 400, "schema_violation");
    texts.into_iter().map(case).collect()
}

/// What could be stored, and what no run could be told.
pub(super) fn of_sizes(sender: &Sender) -> Vec<Case> {
    let files = |bytes: usize| json!({"files": [{"path": "f", "inline": "x".repeat(bytes)}]});
    let intent = |inputs: Value, constraints: Value| {
        json!({"goal": "g", "inputs": inputs, "constraints": constraints}).to_string()
    };
    let schedule = |bytes: usize| {
        json!({
            "name": "large", "cron": "0 0 1 1 *", "intent": {"goal": "g", "inputs": files(bytes)},
            "run": {"recipeName": "compile-default", "queuePartitionKey": "t"},
        })
        .to_string()
    };
    let quotes = json!({"text": "\"".repeat(600_000)});
    [
        (
            "files beyond what a run is told",
            INTENTS,
            intent(files(1_100_000), json!({})),
        ),
        (
            "inputs that leave no room for the rest",
            INTENTS,
            intent(files(1_040_000), json!({})),
        ),
        (
            "text that is too large once it is escaped",
            INTENTS,
            intent(quotes, json!({})),
        ),
        (
            "inputs and constraints together",
            INTENTS,
            intent(files(600_000), files(600_000)),
        ),
        ("a large schedule", SCHEDULES, schedule(1_100_000)),
        // Its slots record the intent and what its run is told.
        ("a schedule of half the size", SCHEDULES, schedule(600_000)),
    ]
    .into_iter()
    .map(|(name, path, text)| sender.post(path, text).is(name, 400, "payload_too_large"))
    .collect()
}

pub(super) fn of_starts(sender: &Sender, given: &Given) -> Vec<Case> {
    let good = json!({"intentId": given.intent, "queuePartitionKey": "tenant-007", "recipeName": "sandbox-default"});
    let change = |field: &str, value: Value| with(good.clone(), field, value);
    let workload =
        |field: &str, value: Value| with(good.clone(), "workload", json!({field: value}));
    let schema = [
        (
            "start without an intent",
            json!({"queuePartitionKey": "t"}).to_string(),
        ),
        ("unknown field of a start", change("extra", json!(true))),
        ("blank intent id", change("intentId", json!(""))),
        ("number for an intent id", change("intentId", json!(5))),
        ("string for a priority", change("priority", json!("1"))),
        ("fraction for a priority", change("priority", json!(1.5))),
        ("priority below 0", change("priority", json!(-1))),
        (
            "priority beyond 32 bits",
            change("priority", json!(4_294_967_296_i64)),
        ),
        ("null for a priority", change("priority", json!(null))),
        ("null for a workload", change("workload", json!(null))),
        ("null for steps", workload("steps", json!(null))),
        ("timeout of 0", change("timeoutMS", json!(0))),
        (
            "delay of more than a year",
            change("delayMS", json!(31_536_000_001_i64)),
        ),
        ("timeout beyond 64 bits", change("timeoutMS", json!(1e30))),
        ("version of 0", change("recipeVersion", json!(0))),
        (
            "trace id in capitals",
            change("traceId", json!("4BF92F3577B34DA6A3CE929D0E0E4736")),
        ),
        ("trace id too short", change("traceId", json!("4bf92f"))),
        (
            "blank deduplication id",
            change("deduplicationID", json!("")),
        ),
        (
            "deduplication id of spaces",
            change("deduplicationID", json!(" ")),
        ),
        ("task key of spaces", change("taskKey", json!(" "))),
        ("tenant of spaces", change("tenantId", json!("\t"))),
        ("intent of spaces", change("intentId", json!(" "))),
        (
            "trace id of zeros",
            change("traceId", json!("0".repeat(32))),
        ),
        (
            "partition key too long",
            change("queuePartitionKey", json!("k".repeat(501))),
        ),
        ("array for a workload", change("workload", json!([]))),
        ("unknown field of a workload", workload("gpus", json!(1))),
        ("concurrency of 0", workload("concurrency", json!(0))),
        ("string for steps", workload("steps", json!("2"))),
        ("no whole minutes", workload("sandboxMinutes", json!(0.5))),
    ];
    let policy = [
        ("queue of tasks", change("queueName", json!("sbxQ"))),
        ("queue of nobody", change("queueName", json!("nobodyQ"))),
        ("blank partition", change("queuePartitionKey", json!("  "))),
        ("empty partition", change("queuePartitionKey", json!(""))),
        (
            "no partition",
            json!({"intentId": given.intent}).to_string(),
        ),
        (
            "unknown recipe",
            change("recipeName", json!("nobody-default")),
        ),
        ("unknown version", change("recipeVersion", json!(99))),
        (
            "concurrency over the cap",
            workload("concurrency", json!(21)),
        ),
        ("steps over the cap", workload("steps", json!(129))),
        (
            "minutes over the cap",
            workload("sandboxMinutes", json!(61)),
        ),
    ];
    let start = |text: String| sender.post(RUNS, text);
    let mut cases = Vec::new();
    for (name, text) in schema {
        cases.push(start(text).is(name, 400, "schema_violation"));
    }
    for (name, text) in policy {
        cases.push(start(text).is(name, 400, "queue_policy_violation"));
    }
    let of_intent = |id: &str| with(good.clone(), "intentId", json!(id));
    let unknown_and_bad = json!({"intentId": "nobody", "priority": -1}).to_string();
    let without_command = with(good.clone(), "recipeName", json!("shell-default"));
    cases.extend([
        start(of_intent("nobody")).is("unknown intent", 404, "intent_not_found"),
        start(with(
            json!({"intentId": "nobody"}),
            "queueName",
            json!("sbxQ"),
        ))
        .is("unknown intent before policy", 404, "intent_not_found"),
        start(unknown_and_bad).is("schema before an unknown intent", 400, "schema_violation"),
        start(of_intent(&given.bad_inputs)).is(
            "inputs that are none of a job",
            400,
            "inputs_invalid",
        ),
        start(without_command).is("a job without a command", 400, "inputs_invalid"),
        start(of_intent(&given.waiting)).is(
            "another start of a started intent",
            409,
            "idempotency_drift",
        ),
        start(change("deduplicationID", json!("one of a kind"))).is(
            "deduplication id of a live run",
            409,
            "deduplication_conflict",
        ),
    ]);
    cases
}

pub(super) fn of_runs(sender: &Sender, given: &Given) -> Vec<Case> {
    let (waiting, finished) = (&given.waiting, &given.finished);
    let approve =
        |run: &str, body: &str| sender.post(format!("/api/runs/{run}/approve-plan"), body);
    let tell = |run: &str, body: &str| sender.post(format!("/api/runs/{run}/events"), body);
    let (approval, event) = (
        r#"{"approvedBy":"po-007"}"#,
        r#"{"type":"go","payload":{}}"#,
    );
    let mut cases = vec![
        approve("nobody", approval).is("approval of an unknown run", 404, "run_not_found"),
        approve("nobody", r#"{"approvedBy":" "}"#).is(
            "schema before an unknown run",
            400,
            "schema_violation",
        ),
        approve("nobody", "{bad").is(
            "malformed JSON before an unknown run",
            400,
            "malformed_json",
        ),
        approve(finished, approval).is("approval of a finished run", 409, "run_ended"),
        approve(waiting, "{}").is("approval by nobody", 400, "schema_violation"),
        approve(waiting, r#"{"approvedBy":"\t"}"#).is(
            "approval by a blank",
            400,
            "schema_violation",
        ),
        approve(waiting, r#"{"approvedBy":"a","by":"b"}"#).is(
            "unknown field of an approval",
            400,
            "schema_violation",
        ),
        approve(waiting, r#"{"approvedBy":["a"]}"#).is(
            "approval by a list",
            400,
            "schema_violation",
        ),
        approve(waiting, "").is("approval without a body", 400, "body_required"),
        tell("nobody", event).is("event for an unknown run", 404, "run_not_found"),
        tell("nobody", r#"{"type":""}"#).is(
            "schema of an event before an unknown run",
            400,
            "schema_violation",
        ),
        tell(finished, event).is("event for a finished run", 409, "not_waiting"),
        tell(waiting, r#"{"type":"go"}"#).is("event without a payload", 400, "schema_violation"),
        tell(waiting, r#"{"type":"go","payload":"x"}"#).is(
            "string for a payload",
            400,
            "schema_violation",
        ),
        tell(waiting, r#"{"type":"approve-plan","payload":{}}"#).is(
            "approval dressed up as an event",
            400,
            "use_approve_plan",
        ),
    ];
    for (path, code) in [
        ("/api/intents/nobody", "intent_not_found"),
        ("/api/runs/nobody", "run_not_found"),
        ("/api/runs/nobody/steps", "run_not_found"),
        ("/api/runs/nobody/view", "run_not_found"),
        ("/api/runs/%F0%9F%92%A9%2F..%2Fa", "run_not_found"),
        ("/api/ops/wf/nobody", "workflow_not_found"),
        ("/api/ops/wf/nobody/steps", "workflow_not_found"),
        ("/api/artifacts/nobody", "artifact_not_found"),
        (
            "/api/artifacts/artifact%3A%2F%2Frun%2Fx%2Fstep%2Fy%2Ftask%2F-%2Fz",
            "artifact_not_found",
        ),
    ] {
        cases.push(sender.get(path).is(path, 404, code));
    }
    let long = format!("/api/runs/{}", "x".repeat(501));
    cases.push(
        sender
            .get(long)
            .is("run id too long", 400, "schema_violation"),
    );
    let long = format!("/api/artifacts/{}", "x".repeat(4097));
    cases.push(
        sender
            .get(long)
            .is("artifact id too long", 400, "schema_violation"),
    );
    cases
}
