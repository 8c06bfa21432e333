//! No secret leaves by the back door: sentinels are planted wherever secrets come in, and everything that was written is searched for them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::otlp::{Manners, Receiver};
use harness::*;
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);
const OF_PROCESS: &str = "sentinel-of-the-process-5b1c";
const OF_INPUTS: &str = "sentinel-of-the-inputs-77ad";
const OF_HEADERS: &str = "sentinel-of-the-headers-c0de";
const OF_RECEIVER: &str = "sentinel-of-the-receiver-91ef";
/// Where an intent's inputs are kept, which are what the caller asked for.
const INPUTS: [&str; 3] = [
    "intents.inputs",
    "workflow_input.inputs",
    "workflow_status.inputs",
];

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The password in the database's URL, where there is one.
fn password(url: &str) -> Option<String> {
    let user = url.split_once("://")?.1.rsplit_once('@')?.0;
    Some(user.split_once(':')?.1.to_owned())
}

/// `table.column` of every column that holds a sentinel.
async fn columns_with(stage: &Stage, sentinel: &str) -> Vec<String> {
    let columns = match stage.backend() {
        Backend::Sqlite => {
            "SELECT t.name AS tbl, t.name AS place, c.name AS col FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'"
        }
        Backend::Postgres => {
            "SELECT table_name AS tbl, table_schema || '.' || table_name AS place, column_name AS col FROM information_schema.columns \
             WHERE table_schema IN ('app', 'dbos')"
        }
    };
    let mut found = Vec::new();
    for column in stage.sql(columns).await {
        let [table, place, column] =
            ["tbl", "place", "col"].map(|name| column[name].as_str().unwrap().to_owned());
        let text = format!("CAST(\"{column}\" AS text)");
        // Bytes are shown as hexadecimal digits.
        let count = format!(
            "SELECT count(*) AS n FROM {place} WHERE {text} LIKE '%{sentinel}%' OR {text} LIKE '%{}%'",
            hex(sentinel)
        );
        if stage.sql_count(&count).await > 0 {
            found.push(format!("{table}.{column}"));
        }
    }
    found
}

async fn as_caller(server: &Server, path: &str, body: String) -> reqwest::Response {
    let request = reqwest::Client::new().post(format!("{}{path}", server.base()));
    let request = request
        .header("authorization", format!("Bearer {OF_HEADERS}"))
        .header("cookie", format!("session={OF_HEADERS}"));
    request
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap()
}

on_both_databases! {
    async fn nothing_that_is_written_holds_a_secret(stage: Stage) {
        let receiver = Receiver::http(Manners::Takes).await;
        let (base, header) = (receiver.base(), format!("authorization=Bearer%20{OF_RECEIVER}"));
        let server = stage
            .serve_with(&[
                ("STEPWELL_LOG", "json"),
                ("RUST_LOG", "debug"),
                ("SOME_API_KEY", OF_PROCESS),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &base),
                ("OTEL_EXPORTER_OTLP_HEADERS", &header),
                ("OTEL_BSP_SCHEDULE_DELAY", "50"),
                ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ])
            .await;

        // Runs that succeed and fail, with and without the planner, and requests that are refused.
        let inputs = |command: &str| json!({"command": command, "env": {"TOKEN": OF_INPUTS}});
        for (recipe, command, status) in
            [("shell-default", "printf done", "SUCCESS"), ("shell-default", "exit 3", "ERROR"), ("sandbox-default", "FAIL_ME", "ERROR")]
        {
            let intent = json!({"goal": "keep a secret", "inputs": inputs(command), "constraints": {}});
            let created = as_caller(&server, "/api/intents", intent.to_string()).await;
            let id = serde_json::from_str::<serde_json::Value>(&created.text().await.unwrap()).unwrap()["intentId"].as_str().unwrap().to_owned();
            let started = as_caller(&server, "/api/runs", Server::start_request(&id, recipe).to_string()).await;
            assert_eq!(started.status(), 202);
            if recipe == "sandbox-default" {
                server.approve(&id).await;
            }
            server.wait_status(&id, status).await;
        }
        for (path, body) in [("/api/intents", "{bad"), ("/api/runs", r#"{"intentId": "nobody", "queuePartitionKey": "k"}"#), ("/nowhere", "{}")] {
            let refused = as_caller(&server, path, body.to_owned()).await;
            assert!(refused.status().is_client_error());
            assert!(!refused.text().await.unwrap().contains(OF_HEADERS));
        }
        eventually(DEADLINE, "spans, logs and metrics have left", || async {
            let received = receiver.received();
            let left = received.spans.iter().filter(|span| span.name == "run").count();
            if left == 3 && !received.logs.is_empty() && !received.metrics.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;

        let metrics = reqwest::get(format!("{}/metrics", server.admin_base())).await.unwrap().text().await.unwrap();
        let exported = String::from_utf8_lossy(&receiver.received().raw).into_owned();
        let carried = receiver.received().headers.iter().any(|line| line.contains(OF_RECEIVER));
        assert!(carried, "the receiver alone is told its token");
        let mut sentinels = vec![OF_PROCESS.to_owned(), OF_INPUTS.to_owned(), OF_HEADERS.to_owned(), OF_RECEIVER.to_owned()];
        sentinels.extend(password(stage.database_url()));
        for sentinel in sentinels {
            for (place, text) in [("the log", server.log()), ("the metrics", metrics.clone()), ("what was exported", exported.clone())] {
                assert!(!text.contains(&sentinel), "{sentinel} in {place}: {text}");
            }
            let mut columns = columns_with(&stage, &sentinel).await;
            if sentinel == OF_INPUTS {
                assert!(columns.contains(&"intents.inputs".to_owned()), "the search finds what is there: {columns:?}");
            }
            columns.retain(|column| !INPUTS.contains(&column.as_str()));
            assert!(columns.is_empty(), "{sentinel} in {columns:?}");
        }
    }

    async fn a_refused_start_does_not_repeat_the_secret_that_it_was_given(stage: Stage) {
        let nowhere = format!("postgres://me:{OF_PROCESS}@127.0.0.1:{}/x?connect_timeout=1", free_port());
        let foreign = format!("mysql://me:{OF_PROCESS}@host/x");
        let unreadable = format!("postgres://me:s3#{OF_PROCESS}/x@127.0.0.1/x");
        let bare = format!("me:{OF_PROCESS}@127.0.0.1/x");
        let misspelt = format!("postgre://me:{OF_PROCESS}@127.0.0.1/x?password={OF_PROCESS}");
        let receiver = format!("http://me:{OF_PROCESS}@127.0.0.1:{}", free_port());
        for env in [
            [("DATABASE_URL", foreign.as_str()), ("OTLP_REQUIRED", "0")],
            [("DATABASE_URL", nowhere.as_str()), ("OTLP_REQUIRED", "0")],
            [("DATABASE_URL", unreadable.as_str()), ("OTLP_REQUIRED", "0")],
            [("DATABASE_URL", bare.as_str()), ("OTLP_REQUIRED", "0")],
            [("DATABASE_LISTEN_URL", misspelt.as_str()), ("OTLP_REQUIRED", "0")],
            [("OTEL_EXPORTER_OTLP_HEADERS", OF_PROCESS), ("OTLP_REQUIRED", "0")],
            [("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.as_str()), ("OTLP_REQUIRED", "1")],
        ] {
            let server = stage.spawn("serve", &env).await;
            assert!(!server.wait_exit().await.success());
            assert!(!server.log().contains(OF_PROCESS) && !server.log().is_empty(), "{}", server.log());
        }
    }
}
