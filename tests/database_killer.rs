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
        let (runs, callers) = if long_tests_are_wanted() { (500, 10) } else { (60, 6) };
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
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(runs, callers, Duration::from_millis(200)).await }
        });
        let before = stage.elsewhere(first.url());
        eventually(Duration::from_secs(20), "runs are under way", || async {
            match before.sql_count("SELECT count(*) FROM app.runs").await {
                0..5 => Err("fewer than five runs"),
                _ => Ok(()),
            }
        })
        .await;

        first.stop().await;
        second.promote().await;
        let promoted = stage.elsewhere(second.url());
        // Nobody follows the new first server: nobody is waited for.
        second.admin("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()").await;
        let told = loading.await.unwrap();

        promoted.assert_kept(&told.accepted).await;
        server.wait_health(200).await;
        report(&format!(
            "{} runs over a failover; {} refusals, the slowest answer took {:?}",
            told.accepted.len(), told.refused, told.slowest
        ));
        second.stop().await;
    }
}
