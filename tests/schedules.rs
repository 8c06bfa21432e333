//! Schedules: every slot exactly once whatever dies, policies for what was missed and for what still runs, and refusals that write nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{collections::BTreeSet, time::Duration};

use harness::*;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);
const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;
const MINUTE: i64 = 60 * SECOND;
/// How often all processes die.
const ROUNDS: usize = 5;
const TICKS_A_DAY: i64 = 2_880;
/// A process is dead soon, so that one that is killed holds nobody up.
const QUICK: (&str, &str) = ("EXECUTOR_EXPIRY_MS", "1000");

/// A schedule that fires in a year unless somebody makes it.
fn yearly(name: &str) -> Value {
    json!({
        "name": name, "cron": "0 0 1 1 *",
        "intent": {"goal": "greet", "inputs": {"command": "echo hello"}},
        "run": {"recipeName": "shell-default", "queuePartitionKey": "t"},
    })
}

fn with(mut base: Value, members: &Value) -> Value {
    for (key, value) in members.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

async fn schedule(server: &Server, name: &str) -> Value {
    server
        .get(&format!("/api/schedules/{name}"))
        .await
        .expect(200)
}

/// Says that every slot up to `at` was decided, as if nothing had run since.
async fn set_last_fired(stage: &Stage, name: &str, at: i64) {
    let iso = |at: i64| {
        chrono::DateTime::from_timestamp_millis(at)
            .unwrap()
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let sql = format!(
        "UPDATE dbos.workflow_schedules SET last_fired_at = '{}' WHERE schedule_name = '{name}'",
        iso(at)
    );
    assert_eq!(stage.sql_execute(&sql).await, 1);
}

/// The slots of a schedule that have a workflow, by their ids.
async fn slots(stage: &Stage, name: &str) -> Vec<i64> {
    let prefix = format!("sched-{name}-");
    let sql = format!(
        "SELECT workflow_uuid AS id FROM dbos.workflow_status WHERE workflow_uuid LIKE '{prefix}2%' ORDER BY workflow_uuid"
    );
    let rows = stage.sql(&sql).await;
    rows.iter()
        .map(|row| {
            let text = row["id"].as_str().unwrap().strip_prefix(&prefix).unwrap();
            chrono::DateTime::parse_from_rfc3339(text)
                .unwrap()
                .timestamp_millis()
        })
        .collect()
}

async fn until_fired(stage: &Stage, name: &str, count: usize) -> Vec<i64> {
    eventually(
        DEADLINE,
        &format!("{name} has fired {count} times"),
        || async {
            let found = slots(stage, name).await;
            if found.len() >= count {
                Ok(found)
            } else {
                Err(format!("{found:?}"))
            }
        },
    )
    .await
}

async fn until_ticks_are_through(stage: &Stage) {
    eventually(DEADLINE, "every tick has ended", || async {
        let open = "SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid LIKE 'sched-tick-%' AND status <> 'SUCCESS'";
        match stage.sql_count(open).await {
            0 => Ok(()),
            open => Err(format!("{open} are open")),
        }
    })
    .await;
}

on_both_databases! {
    async fn a_slot_starts_one_run_of_an_intent_made_from_the_template(stage: Stage) {
        let server = stage.serve().await;
        let body = with(yearly("greet"), &json!({"cron": "* * * * * *", "overlap": "allow"}));
        let created = server.post("/api/schedules", &body).await.expect(201);
        assert_eq!(created["description"], "every second UTC");

        let fired = until_fired(&stage, "greet", 2).await;
        server.post("/api/schedules/greet/pause", &json!({})).await.expect_refusal(400);
        server.send("POST", "/api/schedules/greet/pause", None).await.expect(200);

        let read = eventually(DEADLINE, "both slots have ended well", || async {
            let read = schedule(&server, "greet").await;
            let slots = read["slots"].as_array().unwrap().clone();
            let well = slots.iter().filter(|slot| slot["status"] == "SUCCESS").count();
            if well >= 2 && well == slots.iter().filter(|slot| slot["workflowID"].is_string()).count() { Ok(read) } else { Err(read) }
        })
        .await;
        assert_eq!(read["status"], "PAUSED");
        assert!(read["nextAt"].is_null() && read["lastFiredAt"].as_i64().unwrap() >= fired[1], "{read}");
        assert!(read["slots"][0]["outcome"] == "fired" && read["missed"]["count"] == 0, "{read}");
        let list = server.get("/api/runs?recipeName=shell-default").await.expect(200);
        let runs = list["items"].as_array().unwrap();
        assert_eq!(runs.len(), slots(&stage, "greet").await.len());
        for run in runs {
            assert_eq!((&run["status"], &run["workflowID"]), (&json!("SUCCESS"), &run["intentId"]), "{run}");
            let view = server.view(run["runId"].as_str().unwrap()).await;
            assert_eq!(server.task_artifact(&view["tasks"][0], "stdout").await, "hello\n");
        }
        stage.assert_no_duplicates().await;
    }

    async fn the_built_in_schedule_ticks_at_second_0_and_30(stage: Stage) {
        let server = stage.serve().await;
        let ticked = until_fired(&stage, "tick", 1).await;
        assert_eq!(ticked[0] % (30 * SECOND), 0);
        let artifact = "SELECT count(*) FROM app.artifacts WHERE step_id = 'ScheduledTick' AND run_id LIKE 'sched-tick-%'";
        eventually(DEADLINE, "the tick has left its artifact", || async {
            match stage.sql_count(artifact).await { 1 => Ok(()), n => Err(format!("{n} artifacts")) }
        })
        .await;
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await, 0, "a tick is no run");
        server.send("DELETE", "/api/schedules/tick", None).await.expect_refusal(409);
    }

    async fn a_first_start_has_nothing_to_catch_up(stage: Stage) {
        let server = stage.serve().await;
        let tick = schedule(&server, "tick").await;
        assert!(tick["lastFiredAt"].is_null() && tick["builtIn"] == true, "{tick}");
        assert!(slots(&stage, "tick").await.len() <= 1);
    }

    async fn three_days_of_downtime_are_caught_up_for_one_day_by_three_servers_at_once(stage: Stage) {
        let server = stage.serve().await;
        server.kill_9().await;
        let away_since = now() - 3 * DAY;
        stage.sql_execute("DELETE FROM dbos.workflow_status WHERE workflow_uuid LIKE 'sched-%'").await;
        set_last_fired(&stage, "tick", away_since - away_since.rem_euclid(30 * SECOND)).await;

        let (one, two, three) = tokio::join!(stage.serve(), stage.serve(), stage.serve());
        let opened = now() - DAY;

        let fired = until_fired(&stage, "tick", usize::try_from(TICKS_A_DAY).unwrap()).await;
        until_ticks_are_through(&stage).await;
        for pair in fired.windows(2) {
            assert_eq!(pair[1] - pair[0], 30 * SECOND, "no slot is left out");
        }
        assert!((opened - fired[0]).abs() <= 60 * SECOND, "a day back and no further");
        assert_eq!(fired.iter().collect::<BTreeSet<_>>().len(), fired.len());
        let artifacts = stage.sql_count("SELECT count(*) FROM app.artifacts WHERE step_id = 'ScheduledTick'").await;
        assert!((TICKS_A_DAY..=TICKS_A_DAY + 4).contains(&artifacts), "{artifacts}");
        let tick = schedule(&one, "tick").await;
        let missed = tick["missed"]["count"].as_i64().unwrap();
        assert!((missed - 2 * TICKS_A_DAY).abs() <= 2, "{tick}");
        assert_eq!(tick["missed"]["reason"], json!(null), "the slots told are the newest: {tick}");
        stage.assert_no_duplicates().await;
        drop((two, three));
    }

    async fn every_slot_fires_exactly_once_while_three_servers_are_killed_and_restarted(stage: Stage) {
        let fast = [QUICK, ("SBX_QUEUE_RATE_LIMIT_PER_PERIOD", "100000")];
        let servers = [stage.serve_with(&fast).await, stage.serve_with(&fast).await, stage.serve_with(&fast).await];
        let body = with(yearly("steady"), &json!({"cron": "* * * * * *", "catchUp": "all", "overlap": "allow"}));
        servers[0].post("/api/schedules", &body).await.expect(201);
        for server in &servers {
            server.kill_9().await;
        }
        let mut began = now() - now().rem_euclid(SECOND);

        for round in 0..ROUNDS {
            // A minute more that nobody was there for, before all that was decided so far: that is decided again, as if the clock had gone back,
            // and fires no second time.
            began -= MINUTE;
            set_last_fired(&stage, "steady", began).await;
            tokio::join!(servers[0].start_again(), servers[1].start_again(), servers[2].start_again());
            eventually(DEADLINE, "the minute has fired", || async {
                let first = slots(&stage, "steady").await.first().copied();
                if first == Some(began + SECOND) { Ok(()) } else { Err(format!("{first:?}")) }
            })
            .await;
            // Whoever has fired it dies, and the others each after one more slot.
            for n in 0..3 {
                servers[(round + n) % 3].kill_9().await;
                if n < 2 {
                    until_fired(&stage, "steady", slots(&stage, "steady").await.len() + 1).await;
                }
            }
        }
        servers[0].start_again().await;
        until_fired(&stage, "steady", slots(&stage, "steady").await.len() + 1).await;
        servers[0].send("POST", "/api/schedules/steady/pause", None).await.expect(200);

        let fired = slots(&stage, "steady").await;
        assert_eq!(fired[0], began + SECOND);
        assert!(fired.len() > 60 * ROUNDS, "{}", fired.len());
        for pair in fired.windows(2) {
            assert_eq!(pair[1] - pair[0], SECOND, "no slot is left out and none fires twice");
        }
        assert_eq!(schedule(&servers[0], "steady").await["missed"]["count"], 0);
        eventually(DEADLINE, "all that was started has ended", || async {
            let open = stage.sql_count("SELECT count(*) FROM dbos.workflow_status WHERE schedule_name = 'steady' AND status <> 'SUCCESS'").await;
            if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
        })
        .await;
        let runs = stage.sql_count("SELECT count(*) FROM app.runs").await;
        assert_eq!(runs, i64::try_from(fired.len()).unwrap(), "one run per slot");
        stage.assert_no_duplicates().await;
    }

    async fn what_was_missed_is_made_up_for_as_the_schedule_says(stage: Stage) {
        let server = stage.serve().await;
        // Half an hour ago for the last time, whenever this runs: what was missed just now would still be on time.
        let newest = now() - now().rem_euclid(MINUTE) - 30 * MINUTE;
        let minute = newest / MINUTE % 60;
        let hourly = |name: &str, catch_up: &str| with(yearly(name), &json!({"cron": format!("{minute} * * * *"), "catchUp": catch_up, "overlap": "allow", "catchUpWindowMS": 10 * HOUR}));
        for catch_up in ["all", "latest", "none"] {
            server.post("/api/schedules", &hourly(catch_up, catch_up)).await.expect(201);
        }
        server.kill_9().await;
        for name in ["all", "latest", "none"] {
            set_last_fired(&stage, name, newest - 20 * HOUR).await;
        }
        server.start_again().await;

        let all = until_fired(&stage, "all", 10).await;
        assert_eq!(all, (0..10).rev().map(|n| newest - n * HOUR).collect::<Vec<_>>());
        assert_eq!(until_fired(&stage, "latest", 1).await, [newest]);
        let missed = async |name: &str| {
            let read = schedule(&server, name).await;
            (read["missed"]["count"].as_i64().unwrap(), read["missed"]["reason"].clone(), read["lastFiredAt"].clone())
        };
        eventually(DEADLINE, "what is not caught up is noted", || async {
            match missed("none").await { (20, reason, fired) if reason == "not_caught_up" && fired == newest - 20 * HOUR => Ok(()), other => Err(format!("{other:?}")) }
        })
        .await;
        assert_eq!(missed("all").await, (10, json!("outside_window"), json!(newest)));
        assert_eq!(missed("latest").await, (19, json!("superseded"), json!(newest)));
        assert!(slots(&stage, "none").await.is_empty());
        let slots = schedule(&server, "all").await["slots"].clone();
        assert_eq!((&slots[1]["outcome"], slots.as_array().unwrap().len()), (&json!("fired_late"), 11));
    }

    async fn a_slot_that_finds_the_one_before_running_does_what_the_schedule_says(stage: Stage) {
        let server = stage.serve_with(&[("SBX_MODE", "live"), ("SBX_PROVIDER", "local")]).await;
        for overlap in ["skip", "queue_one", "cancel_running"] {
            let held = json!({"goal": "hold", "inputs": {"command": format!("until test -e {}; do sleep 0.1; done", stage.dir().join(overlap).display())}});
            let body = with(yearly(overlap), &json!({"overlap": overlap, "catchUp": "all", "intent": held}));
            server.post("/api/schedules", &body).await.expect(201);
            server.send("POST", &format!("/api/schedules/{overlap}/trigger"), None).await.expect(202);
        }
        let running = "SELECT count(*) FROM app.runs WHERE status = 'running'";
        eventually(DEADLINE, "three runs run", || async {
            match stage.sql_count(running).await { 3 => Ok(()), n => Err(format!("{n} do")) }
        })
        .await;

        // A minute ago a year began, for each of them.
        let slot = now() - now().rem_euclid(SECOND) - 60 * SECOND;
        for overlap in ["skip", "queue_one", "cancel_running"] {
            let sql = format!("UPDATE dbos.workflow_schedules SET schedule = '{}' WHERE schedule_name = '{overlap}'", chrono::DateTime::from_timestamp_millis(slot).unwrap().format("%S %M %H %d %m *"));
            stage.sql_execute(&sql).await;
            set_last_fired(&stage, overlap, slot - DAY).await;
        }
        // As the heartbeat tells of a change.
        stage.sql_execute("UPDATE app.schedules SET updated_at = updated_at + 1000000").await;

        assert_eq!(until_fired(&stage, "cancel_running", 1).await, [slot]);
        eventually(DEADLINE, "the one that ran before was cancelled", || async {
            let cancelled = stage.sql_count("SELECT count(*) FROM app.runs WHERE status = 'canceled'").await;
            if cancelled == 1 { Ok(()) } else { Err(format!("{cancelled} were")) }
        })
        .await;
        eventually(DEADLINE, "one is passed over and one waits", || async {
            let (skip, queue) = (schedule(&server, "skip").await, schedule(&server, "queue_one").await);
            if skip["missed"] == json!({"count": 1, "reason": "overlap"}) && queue["waitingSlotAt"] == json!(slot) { Ok(()) } else { Err(format!("{skip} {queue}")) }
        })
        .await;
        assert!(slots(&stage, "queue_one").await.is_empty() && slots(&stage, "skip").await.is_empty());

        std::fs::write(stage.dir().join("queue_one"), "").unwrap();
        assert_eq!(until_fired(&stage, "queue_one", 1).await, [slot]);
        assert!(schedule(&server, "queue_one").await["waitingSlotAt"].is_null());
        for left in ["skip", "cancel_running"] {
            std::fs::write(stage.dir().join(left), "").unwrap();
        }
    }

    async fn a_pause_is_noted_and_not_made_up_for(stage: Stage) {
        let server = stage.serve().await;
        let body = with(yearly("often"), &json!({"cron": "* * * * * *", "catchUp": "all", "overlap": "allow", "paused": true}));
        let created = server.post("/api/schedules", &body).await.expect(201);
        assert!(created["status"] == "PAUSED" && created["nextAt"].is_null(), "{created}");
        let from = now() - 100 * SECOND;
        set_last_fired(&stage, "often", from - from.rem_euclid(SECOND)).await;

        let resumed = server.send("POST", "/api/schedules/often/resume", None).await.expect(200);
        let fired = until_fired(&stage, "often", 2).await;

        assert!(fired[0] > from + 99 * SECOND, "nothing of the pause fires");
        let missed = resumed["missed"]["count"].as_i64().unwrap();
        assert!((100..=103).contains(&missed) && resumed["missed"]["reason"] == "paused", "{resumed}");
    }

    async fn a_clock_that_was_ahead_is_put_right_by_a_resume(stage: Stage) {
        let server = stage.serve().await;
        let body = with(yearly("ahead"), &json!({"cron": "* * * * * *", "overlap": "allow"}));
        server.post("/api/schedules", &body).await.expect(201);
        server.send("POST", "/api/schedules/ahead/pause", None).await.expect(200);
        let ahead = now() + DAY;
        set_last_fired(&stage, "ahead", ahead - ahead.rem_euclid(SECOND)).await;
        let fired = slots(&stage, "ahead").await.len();

        server.send("POST", "/api/schedules/ahead/resume", None).await.expect(200);

        let fired = until_fired(&stage, "ahead", fired + 2).await;
        assert!(fired.last().unwrap() < &(now() + 5 * SECOND));
    }

    async fn a_schedule_is_previewed_triggered_listed_and_deleted(stage: Stage) {
        let server = stage.serve().await;
        let body = with(yearly("weekdays"), &json!({"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "startAt": 1_790_000_000_000_i64, "endAt": 4_000_000_000_000_i64, "jitterMS": 500}));
        let created = server.post("/api/schedules", &body).await.expect(201);
        assert_eq!((&created["description"], &created["cron"], &created["timezone"]), (&json!("every weekday at 09:00 Europe/Berlin"), &json!("0 9 * * MON-FRI"), &json!("Europe/Berlin")));
        assert_eq!(created["intent"]["inputs"], json!({"command": "echo hello"}));
        assert_eq!(created["run"], json!({"queuePartitionKey": "t", "recipeName": "shell-default"}));
        server.post("/api/schedules", &body).await.expect_refusal(409);

        let preview = server.get("/api/schedules/weekdays/preview?count=12").await.expect(200);
        let slots = preview["slots"].as_array().unwrap();
        assert_eq!((slots.len(), &slots[0]["at"]), (12, &created["nextAt"]));
        assert!(slots.iter().all(|slot| slot["local"].as_str().unwrap().contains("T09:00:00+0")), "{preview}");

        let started = server.send("POST", "/api/schedules/weekdays/trigger", None).await.expect(202);
        eventually(DEADLINE, "what was triggered ends well", || async {
            let read = schedule(&server, "weekdays").await;
            let slot = &read["slots"][0];
            if slot["outcome"] == "triggered" && slot["workflowID"] == started["workflowID"] && slot["status"] == "SUCCESS" { Ok(()) } else { Err(read) }
        })
        .await;

        let first = server.get("/api/schedules?limit=1").await.expect(200);
        assert_eq!((&first["items"][0]["name"], first["items"][0]["slots"].is_null()), (&json!("weekdays"), true));
        let cursor = first["nextCursor"].as_str().unwrap();
        let second = server.get(&format!("/api/schedules?limit=1&cursor={cursor}")).await.expect(200);
        assert_eq!((&second["items"][0]["name"], &second["nextCursor"]), (&json!("tick"), &Value::Null));

        server.send("DELETE", "/api/schedules/weekdays", None).await.expect(200);
        server.get("/api/schedules/weekdays").await.expect_refusal(404);
        let left = stage.sql_count("SELECT (SELECT count(*) FROM app.schedules WHERE name = 'weekdays') + (SELECT count(*) FROM dbos.workflow_schedules WHERE schedule_name = 'weekdays')").await;
        assert_eq!((left, stage.sql_count("SELECT count(*) FROM app.runs").await), (0, 1));
    }

    async fn what_makes_no_sense_is_refused_and_writes_nothing(stage: Stage) {
        let server = stage.serve().await;
        let before = stage.row_counts().await;
        for (members, code, says) in [
            (json!({"cron": "61 * * * *"}), "schedule_invalid", "no pattern"),
            (json!({"cron": "0 0 30 2 *"}), "schedule_invalid", "never fires"),
            (json!({"timezone": "Berlin"}), "schedule_invalid", "IANA"),
            (json!({"everyMS": 60_000}), "schedule_invalid", "either"),
            (json!({"cron": null}), "schedule_invalid", "either"),
            (json!({"cron": null, "everyMS": 60_000, "timezone": "UTC"}), "schedule_invalid", "belongs to cron"),
            (json!({"cron": null, "everyMS": 1_500}), "schedule_invalid", "whole seconds"),
            (json!({"cron": null, "everyMS": 5}), "schema_violation", "everyMS"),
            (json!({"endAt": 1_000}), "schedule_invalid", "before now"),
            (json!({"startAt": 5_000_000_000_000_i64, "endAt": 4_000_000_000_000_i64}), "schedule_invalid", "endAt"),
            (json!({"name": "a-trigger"}), "schedule_invalid", "-trigger"),
            (json!({"name": "a b"}), "schema_violation", "name"),
            (json!({"catchUp": "some"}), "schema_violation", ""),
            (json!({"catchUpWindowMS": 5}), "schema_violation", "catchUpWindowMS"),
            (json!({"jitterMS": -1}), "schema_violation", "jitterMS"),
            (json!({"unknown": 1}), "schema_violation", "unknown"),
            (json!({"intent": {"goal": " "}}), "schema_violation", "goal"),
            (json!({"intent": {"goal": "no command"}}), "inputs_invalid", "inputs.command"),
            (json!({"run": {"recipeName": "shell-default"}}), "queue_policy_violation", "queuePartitionKey"),
            (json!({"run": {"recipeName": "nope", "queuePartitionKey": "t"}}), "queue_policy_violation", "nope"),
            (json!({"run": {"recipeName": "shell-default", "queuePartitionKey": "t", "workload": {"steps": 1_000}}}), "queue_policy_violation", "steps"),
        ] {
            let body = with(yearly("bad"), &members);
            let mut body = body.as_object().unwrap().clone();
            body.retain(|_, value| !value.is_null());
            let refusal = server.post("/api/schedules", &Value::Object(body)).await.expect_refusal(400);
            assert_eq!(refusal["code"], code, "{refusal}");
            assert!(refusal["error"].as_str().unwrap().contains(says), "{refusal}");
        }
        for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/trigger"), ("GET", "/preview")] {
            let refusal = server.send(method, &format!("/api/schedules/none{path}"), None).await.expect_refusal(404);
            assert_eq!(refusal["code"], "schedule_not_found");
        }
        server.get("/api/schedules/tick/preview?count=0").await.expect_refusal(400);
        server.get("/api/schedules/tick/preview?n=5").await.expect_refusal(400);
        server.send("PUT", "/api/schedules/tick", None).await.expect_refusal(405);
        assert_eq!(stage.row_counts().await, before);
    }

    async fn a_template_that_a_policy_refuses_by_then_is_an_error_that_says_so(stage: Stage) {
        let server = stage.serve().await;
        stage.sql_execute("INSERT INTO app.recipes (name, version, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, created_at) SELECT 'passing', 1, queue_name, max_concurrency, max_steps, max_sandbox_minutes, planner, approval, sandbox, created_at FROM app.recipes WHERE name = 'shell-default'").await;
        let body = with(yearly("passing"), &json!({"run": {"recipeName": "passing", "queuePartitionKey": "t"}}));
        server.post("/api/schedules", &body).await.expect(201);
        stage.sql_execute("DELETE FROM app.recipes WHERE name = 'passing'").await;

        let started = server.send("POST", "/api/schedules/passing/trigger", None).await.expect(202);
        let workflow = started["workflowID"].as_str().unwrap();

        eventually(DEADLINE, "the slot's workflow has ended", || async {
            let found = server.get(&format!("/api/ops/wf/{workflow}")).await.expect(200);
            if found["status"] == "ERROR" { Ok(()) } else { Err(found) }
        })
        .await;
        let steps = server.get(&format!("/api/ops/wf/{workflow}/steps")).await.expect(200);
        assert_eq!(steps[0]["error"]["code"], "queue_policy_violation", "{steps}");
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.runs").await, 0);
        assert_eq!(stage.sql_count("SELECT count(*) FROM app.intents").await, 0);
    }

    async fn a_server_that_dies_while_it_fires_has_fired_or_not(stage: Stage) {
        let server = stage.serve_with(&[QUICK]).await;
        let body = with(yearly("steady"), &json!({"cron": "* * * * * *", "catchUp": "all", "overlap": "allow"}));
        server.post("/api/schedules", &body).await.expect(201);
        for point in ["before-fire:steady", "after-fire:steady"] {
            until_fired(&stage, "steady", 1).await;
            server.kill_9().await;
            // It may die before it is ready, so nobody waits for that.
            let mortal = stage.spawn("serve", &[QUICK, ("STEPWELL_DIE_AT", point)]).await;
            assert!(!mortal.wait_exit().await.success(), "{point}");
            server.start_again().await;
        }
        server.send("POST", "/api/schedules/steady/pause", None).await.expect(200);
        for pair in slots(&stage, "steady").await.windows(2) {
            assert_eq!(pair[1] - pair[0], SECOND);
        }
    }
}
