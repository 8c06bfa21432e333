//! The database dies again and again, for good in the end: two workers go on, one of them dies too, and every run ends once.
//! `STEPWELL_TEST_LONG=1` runs 2,000 intents with a database that is down up to two seconds every five to forty, and fails over under 500 runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::time::Duration;

use harness::*;

/// How the database dies.
struct Pace {
    runs: usize,
    callers: usize,
    pause: Duration,
    up_ms: (u64, u64),
    down_ms: (u64, u64),
}

const SHORT: Pace = Pace {
    runs: 150,
    callers: 6,
    pause: Duration::from_millis(500),
    up_ms: (2_000, 4_000),
    down_ms: (200, 1_000),
};
/// Runs that are started while the database fails over.
const RACING: usize = 30;
const LONG: Pace = Pace {
    runs: 2_000,
    callers: 10,
    pause: Duration::from_millis(1_200),
    up_ms: (5_000, 40_000),
    down_ms: (0, 2_000),
};

fn between(random: &mut Random, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(least + random.below(most - least + 1))
}

/// The configuration of a HAProxy that sends everybody to the first server, and to the second one when the first is gone.
fn haproxy_config(port: u16, first: u16, second: u16) -> String {
    format!(
        "global\n  maxconn 500\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 5m\n  timeout server 5m\n\
         listen postgres\n  bind 127.0.0.1:{port}\n\
         \x20 default-server inter 200ms fall 2 rise 2 on-marked-down shutdown-sessions\n\
         \x20 server first 127.0.0.1:{first} check\n  server second 127.0.0.1:{second} check backup\n"
    )
}

on_own_postgres! {
    async fn under_a_database_killer_every_run_ends_once(stage: Stage, []) {
        let pace = if long_tests_are_wanted() { LONG } else { SHORT };
        let mut random = Random::new(number_from("STEPWELL_TEST_SEED", 7));
        let env = [ROOMY.as_slice(), &[("CHAOS_SLEEP_EXECUTE", "150")]].concat();
        let api = stage.start("api", &env).await;
        let mortal = stage.start("worker", &env).await;
        let worker = stage.start("worker", &env).await;
        stage.prepare_load().await;
        let loading = tokio::spawn({
            let api = api.clone();
            async move { api.load(pace.runs, pace.callers, pace.pause).await }
        });

        let (mut deaths, mut worker_deaths) = (0_usize, 0);
        while !loading.is_finished() || deaths < 4 {
            tokio::time::sleep(between(&mut random, pace.up_ms)).await;
            let both_die = deaths % 2 == 1;
            if both_die {
                mortal.kill_9().await;
                worker_deaths += 1;
            }
            stage.cluster().stop().await;
            tokio::time::sleep(between(&mut random, pace.down_ms)).await;
            stage.cluster().start().await;
            deaths += 1;
            if both_die {
                mortal.start_again().await;
            }
        }
        let told = loading.await.unwrap();

        stage.assert_kept(&told.accepted).await;
        report(&format!(
            "{} runs, {deaths} deaths of the database, {worker_deaths} of a worker; {} refusals, the slowest answer took {:?}",
            told.accepted.len(), told.refused, told.slowest
        ));
        for server in [&api, &worker] {
            let complaints = server.complaints();
            // Away, back, and now and then a commit that stood in the way of another.
            assert!(complaints.len() <= 4 * deaths + 8, "{deaths} deaths:\n{}", complaints.join("\n"));
        }
    }

    async fn a_promoted_standby_has_all_that_was_acknowledged(stage: Stage, []) {
        if missing_tools(&["haproxy"]) {
            return;
        }
        let runs = if long_tests_are_wanted() { 500 } else { 60 };
        let first = stage.cluster();
        let second = first.standby(stage.dir().join("standby")).await;
        first.admin("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()").await;
        let port = free_port();
        let config = stage.dir().join("haproxy.cfg");
        std::fs::write(&config, haproxy_config(port, first.port(), second.port())).unwrap();
        let _haproxy = stage.tool("haproxy").arg("-db").arg("-f").arg(&config).spawn().unwrap();
        let url = first.url().replace(&format!(":{}/", first.port()), &format!(":{port}/"));
        let env = [ROOMY.as_slice(), &[("DATABASE_URL", &url), ("CHAOS_SLEEP_EXECUTE", "150")]].concat();
        let server = stage.serve_with(&env).await;
        stage.start("worker", &env).await;
        stage.prepare_load().await;
        server.send("POST", "/api/queues/sbxQ/pause", None).await.expect(200);
        let in_flight = server.load(runs, 6, Duration::ZERO).await;
        let before = stage.elsewhere(first.url());
        // Each run waits for its two tasks, and nobody may start one.
        let count = i64::try_from(runs).unwrap();
        let waiting = "SELECT count(*) FROM dbos.workflow_status WHERE queue_name = 'sbxQ' AND status = 'ENQUEUED'";
        before.until_count("every run waits for its tasks", waiting, 2 * count).await;
        // What is acknowledged in the very moment of the failover counts, too.
        let racing = tokio::spawn({
            let server = server.clone();
            async move { server.load(RACING, 6, Duration::from_millis(200)).await }
        });
        let unfinished = eventually(Duration::from_secs(20), "others are started beside them", || async {
            let of_load = "SELECT count(*) FROM app.runs WHERE id NOT LIKE 'sched-%'";
            let (all, ended) = (before.sql_count(of_load).await, before.sql_count(&format!("{of_load} AND ended_at IS NOT NULL")).await);
            if all >= count + 3 && ended == 0 { Ok(all) } else { Err(format!("{all} runs, {ended} of them ended")) }
        })
        .await;

        first.stop().await;
        assert!(!racing.is_finished(), "nobody was starting runs any more");
        second.promote().await;
        let promoted = stage.elsewhere(second.url());
        // Nobody follows the new first server: nobody is waited for.
        second.admin("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()").await;
        let racing = racing.await.unwrap();
        server.send("POST", "/api/queues/sbxQ/resume", None).await.expect(200);

        promoted.assert_kept(&[in_flight.accepted, racing.accepted].concat()).await;
        server.wait_health(200).await;
        report(&format!(
            "a failover under {unfinished} runs; {} refusals, the slowest answer took {:?}",
            racing.refused, racing.slowest
        ));
        second.stop().await;
    }
}
