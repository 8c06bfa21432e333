//! What the manual expects of each block, to the word where it says so and otherwise that every command succeeds and the answer is what the text around
//! the block is about. A block without an arm here fails.

use serde_json::{Value, json};

use super::document::Block;
use super::reader::{Reader, json_values};
use crate::harness::*;

/// Fails the block unless `holds`, showing what was seen.
fn ensure(holds: bool, what: &str, seen: impl std::fmt::Display) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("{what}: {seen}"))
    }
}

fn contains_all(text: &str, parts: &[&str]) -> Result<(), String> {
    for part in parts {
        ensure(text.contains(part), &format!("{part:?} is missing"), text)?;
    }
    Ok(())
}

/// How many rows psql says that its tables have.
fn row_counts(text: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| line.strip_prefix('(')?.split_once(" row")?.0.parse().ok())
        .collect()
}

/// So many test programs ran, each with a test at least and none failed.
fn tests_passed(output: &str, programs: usize) -> Result<(), String> {
    let passed = output
        .lines()
        .filter(|line| line.contains("test result: ok. ") && !line.contains("ok. 0 passed"))
        .count();
    ensure(
        passed >= programs,
        &format!("{programs} test programs pass"),
        output,
    )
}

impl Reader {
    /// Runs the block and says what did not hold.
    pub(super) async fn expect(&mut self, block: &Block) -> Result<(), String> {
        match (block.lab.as_str(), block.number) {
            ("3" | "5", 1) => self.paste(block).await.map(drop),
            ("A", 1) | ("P", 1 | 2) => self.serve(block).await,
            ("A", 2) | ("P", 3) => {
                let printed = self.paste(block).await?;
                ensure(printed == "true\n", "the server is well", printed)
            }
            ("B", 1) => self.golden_run(block).await,
            ("C", 1) => self.approval(block).await,
            ("D", 1) => self.timeline(block).await,
            ("E", 1) => self.ops_reads(block).await,
            ("E", 2) | ("I", 2 | 3) => self.refusal(block, "400\n").await,
            ("F", 1) => self.cancel(block).await,
            ("F", 2) => self.resume(block).await,
            ("G", 1) => self.fork(block).await,
            ("G", 2) => self.refusal(block, "409\n").await,
            ("H", 1) => self.audit(block).await,
            ("I", 1) => self.zero_writes(block).await,
            ("J", 1) => self.sleep(block).await,
            ("J", 2) | ("L", 1) | ("M", 2) => tests_passed(&self.paste(block).await?, 1),
            ("K", 1) => self.ticks(block).await,
            ("K", 2) => tests_passed(&self.paste(block).await?, 2),
            ("M", 1) => self.receiver_smoke(block).await,
            ("N", 1) => self.kit(block).await,
            ("O", 1) => self.oracle_pack(block).await,
            ("O", 2) => {
                let tables = self.paste(block).await?;
                ensure(row_counts(&tables) == [0, 0, 0], "zero rows each", tables)
            }
            // The exit codes of the gates are all that there is to see; what they did is in the notes.
            ("Q", 1 | 2 | 4) => self.paste(block).await.map(drop),
            ("Q", 3) => self.state_is_kept(block).await,
            ("Q", 5) => tests_passed(&self.paste(block).await?, 3),
            _ => Err(
                "nothing says what to expect of this block: tests/manual/expectations.rs"
                    .to_owned(),
            ),
        }
    }

    /// "`workflowID==INTENT`, `status` in header enum."
    async fn golden_run(&mut self, block: &Block) -> Result<(), String> {
        let printed = self.paste(block).await?;
        let (ids, header) = printed.split_once('\n').ok_or("two outputs")?;
        let intent = self.variable("INTENT").await?;
        ensure(
            ids == format!("{intent} {intent}"),
            "workflowID is the intent's id",
            ids,
        )?;
        let header = &json_values(header)?[0];
        ensure(
            header["workflowID"] == intent.as_str(),
            "the header is this run's",
            header,
        )?;
        let statuses = ["ENQUEUED", "PENDING", "SUCCESS", "ERROR", "CANCELLED"];
        let known = header["status"]
            .as_str()
            .is_some_and(|status| statuses.contains(&status));
        ensure(known, "a status of the header's", header)
    }

    /// "Expect terminal `SUCCESS` for golden run."
    async fn approval(&mut self, block: &Block) -> Result<(), String> {
        let values = json_values(&self.paste(block).await?)?;
        let [accepted, header] = values.as_slice() else {
            return Err(format!("two JSON values: {values:?}"));
        };
        ensure(
            accepted["accepted"] == true,
            "the approval is accepted",
            accepted,
        )?;
        let ended = json!({"status": "SUCCESS", "nextAction": null, "lastStep": "ExecuteST", "error": null});
        ensure(
            header["status"] == ended["status"]
                && header["lastStep"] == ended["lastStep"]
                && header["error"].is_null(),
            "SUCCESS",
            header,
        )
    }

    /// "Expect stable step order (`startedAt`, then `stepID`), artifact resolves by encoded `id`."
    async fn timeline(&mut self, block: &Block) -> Result<(), String> {
        let printed = self.paste(block).await?;
        let (steps, answer) = printed
            .split_once("\n]\n")
            .ok_or("an array, then an answer")?;
        let steps = json_values(&format!("{steps}\n]"))?.remove(0);
        let order: Vec<(i64, &str)> = steps
            .as_array()
            .into_iter()
            .flatten()
            .map(|step| {
                (
                    step["startedAt"].as_i64().unwrap_or(-1),
                    step["stepID"].as_str().unwrap_or_default(),
                )
            })
            .collect();
        let names: Vec<&str> = order.iter().map(|(_, step)| *step).collect();
        ensure(
            order.is_sorted() && names == ["CompileST", "ApplyPatchST", "DecideST", "ExecuteST"],
            "the steps in order",
            &steps,
        )?;

        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or("headers, then a body")?;
        ensure(
            head.starts_with("HTTP/1.1 200"),
            "the artifact resolves",
            head,
        )?;
        ensure(!body.trim().is_empty(), "the artifact has content", answer)?;
        let tag = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("etag: ")
                    .map(|tag| tag.trim_matches('"').to_owned())
            })
            .ok_or("an ETag")?;
        let run = self.variable("WID").await?;
        let sql = format!(
            "SELECT count(*) FROM app.artifacts WHERE run_id = '{run}' AND sha256 = '{tag}'"
        );
        ensure(
            self.stage.sql_count(&sql).await > 0,
            "the ETag is the artifact's hash",
            tag,
        )
    }

    async fn ops_reads(&mut self, block: &Block) -> Result<(), String> {
        let values = json_values(&self.paste(block).await?)?;
        let [newest, workflow, step] = values.as_slice() else {
            return Err(format!("three JSON values: {values:?}"));
        };
        let run = self.variable("WID").await?;
        ensure(newest["workflowID"].is_string(), "a workflow", newest)?;
        ensure(
            workflow["workflowID"] == run.as_str() && workflow["status"] == "SUCCESS",
            "the golden run",
            workflow,
        )?;
        ensure(
            step["functionId"] == 0 && step["stepId"] == "CompileST",
            "its first step",
            step,
        )
    }

    /// "Expect `400`", "Expect `409`": the status alone on a line, then an error that says why.
    async fn refusal(&mut self, block: &Block, status: &str) -> Result<(), String> {
        let printed = self.paste(block).await?;
        let body = printed
            .strip_prefix(status)
            .ok_or_else(|| format!("not {status}{printed}"))?;
        let error = json_values(body)?.remove(0);
        ensure(
            error["error"].is_string() && error["code"].is_string(),
            "an error that says why",
            error,
        )
    }

    /// "Expect: `s1=1`, `s2=0`, status `CANCELLED`."
    async fn cancel(&mut self, block: &Block) -> Result<(), String> {
        let values = json_values(&self.paste(block).await?)?;
        let wf = self.variable("WF").await?;
        let expected = [
            json!({"accepted": true, "workflowID": wf}),
            json!({"accepted": true, "workflowID": wf}),
            json!({"workflowID": wf, "status": "CANCELLED"}),
            json!({"s1": 1, "s2": 0}),
        ];
        ensure(
            values == expected,
            "cancelled between the steps",
            Value::from(values.clone()),
        )
    }

    /// "Expect: same `workflowID`, terminal `SUCCESS`." The second mark is committed before the end is.
    async fn resume(&mut self, block: &Block) -> Result<(), String> {
        let wf = self.variable("WF").await?;
        self.paste_until(block, |printed| {
            let values = json_values(printed)?;
            let last = values.last().unwrap_or(&Value::Null);
            ensure(
                *last == json!({"workflowID": wf, "status": "SUCCESS"}),
                "it ends well",
                last,
            )
        })
        .await
    }

    /// Nothing is said of the happy fork but its name: it exists and ends well, and did not repeat the step before.
    async fn fork(&mut self, block: &Block) -> Result<(), String> {
        self.paste_until(block, |printed| {
            let at = printed
                .find('{')
                .ok_or_else(|| format!("no JSON: {printed}"))?;
            let workflow = json_values(&printed[at..])?.remove(0);
            ensure(
                workflow["status"] == "SUCCESS",
                "the fork ends well",
                workflow,
            )
        })
        .await?;
        let (wf, fork) = (self.variable("WF").await?, self.variable("FORK").await?);
        let sql = format!(
            "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = '{fork}' AND forked_from = '{wf}'"
        );
        ensure(
            self.stage.sql_count(&sql).await == 1,
            "a fork of this workflow",
            &fork,
        )?;
        let sql =
            format!("SELECT count(*) FROM app.marks WHERE workflow_id = '{fork}' AND mark = 's1'");
        ensure(
            self.stage.sql_count(&sql).await == 0,
            "the step before was copied, not done",
            fork,
        )
    }

    /// "Expect accepted cancel/resume/fork actions persisted as `kind=json_diagnostic`, `step_id=OPS`."
    async fn audit(&mut self, block: &Block) -> Result<(), String> {
        let table = self.paste(block).await?;
        let (wf, fork) = (self.variable("WF").await?, self.variable("FORK").await?);
        for (op, reason) in [
            ("cancel", "boundary-proof"),
            ("resume", "continue"),
            ("fork", "fork-proof"),
        ] {
            let line = table
                .lines()
                .find(|line| line.contains(reason))
                .unwrap_or_default();
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let forked = if op == "fork" { fork.as_str() } else { "" };
            let expected = [&wf, "OPS", "0", "json_diagnostic", op, "qa", reason, forked];
            ensure(cells == expected, &format!("the {op} is kept"), &table)?;
        }
        ensure(row_counts(&table) == [3], "no other action", table)
    }

    /// "Expect all `400`; first probe should keep counts unchanged." The schedule writes artifacts, too, but not now.
    async fn zero_writes(&mut self, block: &Block) -> Result<(), String> {
        let printed = self.paste_between_ticks(block).await?;
        ensure(printed.starts_with("400\ncode={"), "400", &printed)?;
        let (before, after) = (self.variable("B").await?, self.variable("A").await?);
        ensure(
            before == after && before.parse::<u64>().is_ok(),
            "the counts are unchanged",
            &printed,
        )?;
        contains_all(&printed, &[&format!("before={before} after={after}")])
    }

    /// "Expect `sleep-before-sleep` then `sleep-after-sleep`." The answer to the start comes before the sleep has begun.
    async fn sleep(&mut self, block: &Block) -> Result<(), String> {
        self.paste_until(block, |printed| {
            let (before, after) = (
                printed.find("sleep-before-sleep"),
                printed.find("sleep-after-sleep"),
            );
            ensure(
                before.is_some() && before < after,
                "before, then after",
                printed,
            )
        })
        .await?;
        let wf = self.variable("SWF").await?;
        let sql = format!(
            "SELECT max(created_at) - min(created_at) FROM app.artifacts WHERE run_id = '{wf}'"
        );
        let slept = self.stage.sql_count(&sql).await;
        ensure(
            slept >= 2_000,
            "two seconds of sleep",
            format!("{slept} ms"),
        )
    }

    /// 35 seconds hold one or two of the schedule's slots.
    async fn ticks(&mut self, block: &Block) -> Result<(), String> {
        let printed = self.paste(block).await?;
        let counted = printed
            .lines()
            .filter_map(|line| line.trim().parse::<i64>().ok())
            .next_back();
        ensure(matches!(counted, Some(1 | 2)), "one tick or two", printed)
    }

    /// "Receiver smoke (hard-fail when unreachable)": without a receiver on its port the block fails, with one it succeeds.
    async fn receiver_smoke(&mut self, block: &Block) -> Result<(), String> {
        let alone = self.try_paste(&block.text).await?;
        let refused = alone.output.code == 78 && alone.output.stderr.contains("127.0.0.1:4318");
        ensure(
            refused,
            "78 and the endpoint, without a receiver",
            format!("{alone:#?}"),
        )?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:4318")
            .await
            .map_err(|error| format!("port 4318: {error}"))?;
        let receiver = otlp::Receiver::listen(listener, otlp::Manners::Takes, false);
        let pasted = self.paste(block).await;
        let (spans, logs) = {
            let received = receiver.received();
            let runs = received.spans.iter().filter(|span| span.name == "run");
            (runs.count(), received.logs.len())
        };
        pasted?;
        ensure(
            spans >= 1 && logs >= 1,
            "the run's span and log records arrive",
            format!("{spans} and {logs} of them"),
        )
    }

    /// The workflow of lab F has ended: it is neither cancelled nor resumed, which is no failure of a batch, and it is forked.
    async fn kit(&mut self, block: &Block) -> Result<(), String> {
        let printed = self.paste(block).await?;
        let expected = [
            "cancel: accepted 0, refused 1, unknown 0, failed 0",
            "resume: accepted 0, refused 1, unknown 0, failed 0",
            "fork: accepted 1, refused 0, unknown 0, failed 0",
        ];
        contains_all(&printed, &expected)?;
        ensure(row_counts(&printed).len() >= 3, "three views", printed)
    }

    async fn oracle_pack(&mut self, block: &Block) -> Result<(), String> {
        let tables = self.paste(block).await?;
        let counts = row_counts(&tables);
        ensure(
            counts.len() == 5 && counts.iter().all(|rows| *rows >= 1),
            "five tables with rows",
            &tables,
        )?;
        contains_all(&tables, &[&self.variable("WID").await?])
    }

    /// "Preserve current DB state": no run of the configured database is lost, and what the smoke made is there.
    async fn state_is_kept(&mut self, block: &Block) -> Result<(), String> {
        let runs = "SELECT count(*) FROM app.runs";
        let before = self.stage.sql_count(runs).await;
        let pasted = self.try_paste(&block.text).await?;
        let said = format!("{}\n{}", pasted.output.stdout, pasted.output.stderr);
        pasted.succeeded()?;
        ensure(
            self.stage.sql_count(runs).await == before,
            "the configured database is left alone",
            before,
        )?;
        let kept = said
            .lines()
            .filter_map(|line| line.split_once("otlp-smoke.sh: kept: "))
            .next_back();
        let (_, dir) = kept.ok_or_else(|| format!("nothing was kept: {said}"))?;
        let dir = std::path::Path::new(dir.trim());
        ensure(
            dir.join("smoke.db").is_file(),
            "the smoke's database is kept",
            dir.display(),
        )?;
        std::fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
    }
}
