//! The database is away, slow, full, locked, or silent: nobody is told yes in vain, nothing happens twice, health says so, the log says so
//! once, and everything goes on by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::proxy::{Afterwards, Proxy};
use harness::*;
use sea_orm::sqlx::{self, Connection};
use serde_json::json;
use tokio::task::JoinHandle;

const NO_PAUSE: Duration = Duration::ZERO;
/// A database whose disk is full answers whoever reads: when nobody wants to write for a second, it seems to be back. The next time it must do so for two.
const SEEMS_BACK_ONCE: usize = 2;

/// A server under load that is ready for trouble.
async fn troubled(stage: &Stage, env: &[(&str, &str)]) -> Server {
    let server = stage.serve_with(&[ROOMY.as_slice(), env].concat()).await;
    stage.prepare_load().await;
    server
}

/// Waits until so many more runs are stored, or no more will be: trouble is to meet callers in the middle of what they do.
async fn until_more_runs<T>(stage: &Stage, loading: &JoinHandle<T>, more: i64) {
    const RUNS: &str = "SELECT count(*) FROM app.runs";
    let wanted = stage.sql_count(RUNS).await + more;
    eventually(Duration::from_secs(60), "more runs are stored", || async {
        let found = stage.sql_count(RUNS).await;
        if found >= wanted || loading.is_finished() {
            Ok(())
        } else {
            Err(format!("{found}, not {wanted}"))
        }
    })
    .await;
}

/// What the store says of an outage: each once. What callers and calls meet meanwhile is said to nobody but them.
const AWAY: &str = "the database does not answer; trying again";
const BACK: &str = "the database answers again";
/// What is said of a process whose heart could not beat for longer than `EXECUTOR_EXPIRY_MS`: by itself, and by another one that takes over.
const DECLARED_DEAD: [&str; 2] = [
    "declared dead by another process",
    "an executor missed its heartbeat",
];
/// The driver's own line for a connection that breaks while it is set up. The pool tries again and tells nobody else why, so it stays in the log.
const NOT_SET_UP: &str = "error returned from after_connect";

fn count(lines: &[String], sentence: &str) -> usize {
    lines.iter().filter(|line| line.contains(sentence)).count()
}

/// The log says once per outage that the database is away, once that it is back, and nothing of the calls that failed. Where there are other
/// processes, a heart that rests for too long is declared dead, so many times at most.
fn assert_said_once(server: &Server, outages: usize, deaths: usize) {
    let complaints = server.complaints();
    let all = || complaints.join("\n");
    for (sentence, most) in [
        (AWAY, outages),
        (BACK, outages),
        (DECLARED_DEAD[0], deaths),
        (DECLARED_DEAD[1], deaths),
    ] {
        let said = count(&complaints, sentence);
        assert!(
            said <= most,
            "{said} times {sentence:?}, for {outages} outages:\n{}",
            all()
        );
    }
    let known = [&[AWAY, BACK, NOT_SET_UP], DECLARED_DEAD.as_slice()].concat();
    let others = complaints
        .iter()
        .find(|line| !known.iter().any(|sentence| line.contains(sentence)));
    assert!(others.is_none(), "{others:?} of {}", all());
}

/// A file system of its own of so many mebibytes; none, with a loud message, where this user may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(stage: &Stage, mebibytes: u32, owner: &str) -> Option<Self> {
        let dir = stage.dir().join("small");
        std::fs::create_dir_all(&dir).unwrap();
        let options = format!("size={mebibytes}m,mode=700,uid={owner}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&dir)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        say_skipped("mounting a small tmpfs needs root");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no byte free.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

/// PgBouncer before the stage's database: a connection of its own for a transaction, another one for the next.
struct Bouncer {
    url: String,
    _process: tokio::process::Child,
}

impl Bouncer {
    async fn before(stage: &Stage) -> Self {
        let (login, rest) = stage
            .database_url()
            .trim_start_matches("postgres://")
            .split_once('@')
            .unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let (host, server_port) = address.split_once(':').unwrap();
        let port = free_port();
        let dir = stage.dir().join("pgbouncer");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("users"), format!("\"{user}\" \"{password}\"\n")).unwrap();
        // Fewer servers than clients: they change hands.
        let config = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = md5\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n\
             ignore_startup_parameters = extra_float_digits\n",
            dir.join("users").display()
        );
        std::fs::write(dir.join("pgbouncer.ini"), config).unwrap();
        let mut command = if std::fs::metadata("/proc/self")
            .is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
        {
            // It refuses to run as root.
            let mut command = stage.tool("setpriv");
            command.args(["--reuid=nobody", "--clear-groups", "--", "pgbouncer"]);
            command
        } else {
            stage.tool("pgbouncer")
        };
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = command
            .arg(dir.join("pgbouncer.ini"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually(Duration::from_secs(20), "pgbouncer listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .map(|_| ())
        })
        .await;
        Self {
            url: format!("postgres://{login}@127.0.0.1:{port}/{database}"),
            _process: process,
        }
    }
}

/// Fills the disk under load, waits until callers are refused, makes room, and lets everything end.
async fn fill_and_empty(stage: &Stage, server: &Server, disk: &SmallDisk) {
    let before = server.load(6, 2, NO_PAUSE).await;
    disk.fill();
    let loading = tokio::spawn({
        let server = server.clone();
        async move { server.load(30, 4, NO_PAUSE).await }
    });
    let mut random = Random::new(11);
    let ballast: String = (0..4_000)
        .map(|_| format!("{:016x}", random.next()))
        .collect();
    let large = json!({"goal": "a large one", "inputs": {"ballast": ballast}, "constraints": {}});
    eventually(
        Duration::from_secs(60),
        "a caller is told of the full disk",
        || async {
            let answer = server.post("/api/intents", &large).await;
            if answer.status == 503 {
                Ok(())
            } else {
                Err(answer.status)
            }
        },
    )
    .await;
    server.header(&before.accepted[0]).await;
    disk.empty();
    let told = loading.await.unwrap();

    stage
        .assert_kept(&[before.accepted, told.accepted].concat())
        .await;
    server.wait_health(200).await;
}

on_own_postgres! {
    async fn postgres_is_stopped_and_started_while_runs_are_in_flight(stage: Stage, []) {
        let server = troubled(&stage, &[]).await;
        server.wait_health(200).await;
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(60, 6, Duration::from_millis(100)).await }
        });
        for _ in 0..2 {
            until_more_runs(&stage, &loading, 12).await;
            stage.cluster().stop().await;
            server.wait_health(503).await;
            let asked = Instant::now();
            let refused = server.get("/healthz").await;
            assert_eq!(refused.status, 503, "{refused}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
            refused.expect_refusal(503);
            stage.cluster().start().await;
            server.wait_health(200).await;
        }
        let told = loading.await.unwrap();

        stage.assert_kept(&told.accepted).await;
        for sentence in [AWAY, BACK] {
            // That it answers is said once it has done so for a while.
            eventually(Duration::from_secs(60), sentence, || async {
                let complaints = server.complaints();
                if count(&complaints, sentence) > 0 { Ok(()) } else { Err(complaints.join("\n")) }
            })
            .await;
        }
        assert_said_once(&server, 2, 0);
    }

    async fn who_lives_through_a_long_outage_is_not_taken_for_dead(stage: Stage, []) {
        let env = [("SBX_MODE", "live"), ("SBX_PROVIDER", "local"), ("EXECUTOR_EXPIRY_MS", "6000")];
        let api = stage.start("api", &[]).await;
        let workers = [stage.start("worker", &env).await, stage.start("worker", &env).await];
        let (marks, gate) = (stage.dir().join("marks"), stage.dir().join("gate"));
        let command = format!("echo ran >> {}; while [ ! -e {} ]; do sleep 0.1; done", marks.display(), gate.display());
        let run = api.start_job(json!({"command": command})).await;
        eventually(Duration::from_secs(60), "the command runs", || async {
            if marks.exists() { Ok(()) } else { Err("it does not") }
        })
        .await;

        stage.cluster().stop().await;
        // Longer than the expiry: everybody's last heartbeat is too old now.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let back = now();
        stage.cluster().start().await;
        let beaten = format!("SELECT count(*) FROM app.executors WHERE heartbeat_at > {back}");
        stage.until_count("both workers have beaten again", &beaten, 2).await;
        std::fs::write(&gate, "").unwrap();
        api.wait_status(&run, "SUCCESS").await;

        assert_eq!(std::fs::read_to_string(&marks).unwrap(), "ran\n", "the command was started once");
        for worker in &workers {
            let complaints = worker.complaints();
            assert!(DECLARED_DEAD.iter().all(|sentence| count(&complaints, sentence) == 0), "{}", complaints.join("\n"));
        }
        stage.assert_no_duplicates().await;
    }

    async fn a_server_starts_before_its_postgres(stage: Stage, []) {
        stage.migrate().await;
        stage.cluster().stop().await;
        let server = stage.spawn("serve", &ROOMY).await;
        eventually(Duration::from_secs(20), "it says what it waits for", || async {
            let complaints = server.complaints();
            if count(&complaints, AWAY) == 1 { Ok(()) } else { Err(complaints.join("\n")) }
        })
        .await;
        stage.cluster().start().await;
        server.wait_ready().await;
        stage.prepare_load().await;

        let told = server.load(3, 1, NO_PAUSE).await;

        assert_said_once(&server, 1, 0);
        stage.assert_kept(&told.accepted).await;
    }

    async fn a_full_disk_of_postgres_refuses_and_goes_on(stage: Stage, ["autovacuum=off"]) {
        let Some(disk) = SmallDisk::mount(&stage, 48, "postgres") else { return };
        let cluster = stage.cluster();
        cluster.admin(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display())).await;
        cluster.admin("ALTER DATABASE stepwell SET TABLESPACE small").await;
        let server = troubled(&stage, &[]).await;

        fill_and_empty(&stage, &server, &disk).await;

        assert_said_once(&server, SEEMS_BACK_ONCE, 0);
        server.kill_9().await;
        cluster.stop().await;
    }
}

on_postgres! {
    async fn connections_are_cut_again_and_again(stage: Stage) {
        let server = troubled(&stage, &[]).await;
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(60, 6, Duration::from_millis(60)).await }
        });
        // Some of them are in the middle of a transaction.
        let cut = "SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'stepwell'";
        let (mut cuts, mut lines) = (0, 0);
        while !loading.is_finished() && cuts < 60 {
            lines += stage.sql_count(cut).await;
            cuts += 1;
            tokio::time::sleep(Duration::from_millis(110)).await;
        }
        let told = loading.await.unwrap();

        assert!(cuts > 10 && lines > 20, "{cuts} cuts of {lines} connections");
        stage.assert_kept(&told.accepted).await;
        server.wait_health(200).await;
        // Away from the first cut on. It seems to be back where cuts meet nobody for a second, then for two, then for four: hardly more often.
        assert_said_once(&server, 3, 0);
    }

    async fn time_outs_of_the_database_are_answered_with_503_and_a_hint(stage: Stage) {
        stage.migrate().await;
        let name = stage.sql_value("SELECT current_database() AS name").await;
        let name = name.as_str().unwrap();
        stage.sql_execute(&format!("ALTER DATABASE \"{name}\" SET statement_timeout = '700ms'; ALTER DATABASE \"{name}\" SET lock_timeout = '300ms'")).await;
        let server = troubled(&stage, &[]).await;
        let before = server.load(4, 2, NO_PAUSE).await;

        // Whoever wants to write an intent waits for this lock, and gives up.
        let mut lock = sqlx::PgConnection::connect(stage.database_url()).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE app.intents, dbos.operation_outputs IN SHARE ROW EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(12, 4, NO_PAUSE).await }
        });
        tokio::time::sleep(Duration::from_secs(8)).await;
        lock.close().await.unwrap();
        let told = loading.await.unwrap();

        assert!(told.refused > 0, "{told:?}");
        stage.assert_kept(&[before.accepted, told.accepted].concat()).await;
    }

    async fn who_calls_before_the_server_is_in_the_tables_waits_for_it(stage: Stage) {
        stage.migrate().await;
        // It can read who lives, and cannot enter itself.
        let mut lock = sqlx::PgConnection::connect(stage.database_url()).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE app.executors IN EXCLUSIVE MODE").execute(&mut lock).await.unwrap();
        let server = stage.spawn("serve", &[]).await;
        server.wait_health(200).await;
        let mut calling = tokio::spawn({
            let server = server.clone();
            async move { server.send("POST", "/api/queues/intentQ/pause", None).await }
        });
        stage.until_count("it waits for the lock", SESSIONS_THAT_WAIT, 1).await;
        let early = tokio::time::timeout(Duration::from_secs(1), &mut calling).await;
        assert!(early.is_err(), "answered before there are queues: {early:?}");
        lock.close().await.unwrap();

        assert_eq!(calling.await.unwrap().expect(200)["paused"], true);
        let rows = stage.row_counts().await;
        assert_eq!(["app.executors", "app.queue_limits", "app.schedules"].map(|table| rows[table]), [1, 4, 1]);
    }

    async fn a_pool_of_two_serves_fifty_callers(stage: Stage) {
        let server = troubled(&stage, &[("DATABASE_POOL", "2")]).await;

        let told = server.load(100, 50, NO_PAUSE).await;

        stage.assert_kept(&told.accepted).await;
        server.wait_health(200).await;
        // Who waits ten seconds for one of the two connections, on a slow machine, takes the database for away.
        assert_said_once(&server, 1, 0);
    }

    async fn a_proxy_cuts_stands_still_and_forgets(stage: Stage) {
        let proxy = Proxy::before(stage.database_url()).await;
        let server = troubled(&stage, &[("DATABASE_URL", proxy.url())]).await;
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(60, 6, Duration::from_millis(700)).await }
        });
        until_more_runs(&stage, &loading, 6).await;
        proxy.cut();
        until_more_runs(&stage, &loading, 6).await;
        proxy.stand_still(true);
        server.wait_health(503).await;
        proxy.stand_still(false);
        server.wait_health(200).await;
        // What stands idle in the pool is forgotten too: whoever takes it must not wait for ever.
        proxy.forget();
        let forgotten = Instant::now();
        let told = loading.await.unwrap();

        stage.assert_kept(&told.accepted).await;
        server.wait_health(200).await;
        assert!(forgotten.elapsed() < Duration::from_secs(120), "{:?}", forgotten.elapsed());
        // A silence is met at each deadline, when the rest goes well again: after 2 s by a heart, 10 s by who waits for a connection, 25 s by a
        // boundary, 60 s by a statement, and 85 s by the boundary after it. Here are two silences, a few seconds apart; from the third time on
        // the quiet that makes an answer count is longer than that.
        assert_said_once(&server, 6, 0);
    }

    async fn the_answer_to_a_commit_is_lost(stage: Stage) {
        let proxy = Proxy::before(stage.database_url()).await;
        let server = troubled(&stage, &[("DATABASE_URL", proxy.url())]).await;
        let loading = tokio::spawn({
            let server = server.clone();
            async move { server.load(60, 6, Duration::from_millis(50)).await }
        });
        let mut wanted = 0;
        while !loading.is_finished() && wanted < 30 {
            wanted += 1;
            proxy.lose_commits(1, Afterwards::Broken);
            eventually(Duration::from_secs(60), "an answer is lost", || async {
                if proxy.lost_commits() >= wanted || loading.is_finished() { Ok(()) } else { Err(proxy.lost_commits()) }
            })
            .await;
        }
        proxy.lose_commits(0, Afterwards::Broken);
        let told = loading.await.unwrap();

        assert!(proxy.lost_commits() >= 10, "{} answers were lost", proxy.lost_commits());
        stage.assert_kept(&told.accepted).await;
    }


    async fn a_pooler_in_transaction_mode_stands_between(stage: Stage) {
        if missing_tools(&["pgbouncer"]) {
            return;
        }
        let bouncer = Bouncer::before(&stage).await;
        let env = [("DATABASE_URL", bouncer.url.as_str()), ("DATABASE_LISTEN_URL", stage.database_url())];
        let server = troubled(&stage, &env).await;
        stage.start("worker", &[ROOMY.as_slice(), &env].concat()).await;

        let told = server.load(40, 8, NO_PAUSE).await;

        stage.assert_kept(&told.accepted).await;
        assert_said_once(&server, 0, 0);
    }

    async fn a_commit_that_is_never_answered_is_looked_up(stage: Stage) {
        let proxy = Proxy::before(stage.database_url()).await;
        let server = troubled(&stage, &[("DATABASE_URL", proxy.url())]).await;
        let first = server.load(4, 2, NO_PAUSE).await;
        proxy.lose_commits(3, Afterwards::Silent);
        let told = server.load(12, 4, NO_PAUSE).await;

        assert_eq!(proxy.lost_commits(), 3);
        stage.assert_kept(&[first.accepted, told.accepted].concat()).await;
        server.wait_health(200).await;
    }
}

mod sqlite {
    use super::*;

    #[test]
    fn three_processes_share_a_file_that_others_lock() {
        run_on(
            Backend::Sqlite,
            "three_processes_share_a_file_that_others_lock",
            async |stage: Stage| {
                let server = troubled(&stage, &[]).await;
                let second = stage.serve_with(&ROOMY).await;
                stage.start("worker", &ROOMY).await;
                let loading = [&server, &second].map(|server| {
                    let server = server.clone();
                    tokio::spawn(async move { server.load(30, 4, Duration::from_millis(50)).await })
                });
                let mut locker = sqlx::SqliteConnection::connect(stage.database_url())
                    .await
                    .unwrap();
                sqlx::raw_sql("PRAGMA busy_timeout = 30000")
                    .execute(&mut locker)
                    .await
                    .unwrap();
                for held_ms in [400, 3_000, 800] {
                    sqlx::raw_sql("BEGIN IMMEDIATE")
                        .execute(&mut locker)
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(held_ms)).await;
                    sqlx::raw_sql("ROLLBACK")
                        .execute(&mut locker)
                        .await
                        .unwrap();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                locker.close().await.unwrap();
                let mut accepted = Vec::new();
                for loading in loading {
                    accepted.extend(loading.await.unwrap().accepted);
                }

                stage.assert_kept(&accepted).await;
                // A lock is no outage. The long one may cost the two other processes their hearts, and this one its own.
                for server in [&server, &second] {
                    assert_said_once(server, 0, 2);
                }
            },
        );
    }

    #[test]
    fn a_file_that_stays_locked_is_answered_with_503() {
        run_on(
            Backend::Sqlite,
            "a_file_that_stays_locked_is_answered_with_503",
            async |stage: Stage| {
                let server = troubled(&stage, &[]).await;
                let mut locker = sqlx::SqliteConnection::connect(stage.database_url())
                    .await
                    .unwrap();
                sqlx::raw_sql("PRAGMA busy_timeout = 30000; BEGIN IMMEDIATE")
                    .execute(&mut locker)
                    .await
                    .unwrap();

                let asked = Instant::now();
                let intent = json!({"goal": "too late", "inputs": {}, "constraints": {}});
                let answer = server.post("/api/intents", &intent).await;

                answer.expect_refusal(503);
                assert!(
                    asked.elapsed() < Duration::from_secs(29),
                    "{:?}",
                    asked.elapsed()
                );
                locker.close().await.unwrap();
                let told = server.load(6, 2, NO_PAUSE).await;
                stage.assert_kept(&told.accepted).await;
            },
        );
    }

    #[test]
    fn a_full_disk_refuses_and_goes_on() {
        run_on(
            Backend::Sqlite,
            "a_full_disk_refuses_and_goes_on",
            async |stage: Stage| {
                let Some(disk) = SmallDisk::mount(&stage, 24, "root") else {
                    return;
                };
                let url = format!("sqlite://{}?mode=rwc", disk.0.join("stepwell.db").display());
                let server = stage
                    .serve_with(&[ROOMY.as_slice(), &[("DATABASE_URL", &url)]].concat())
                    .await;
                let small = stage.elsewhere(&url);
                small.prepare_load().await;

                fill_and_empty(&small, &server, &disk).await;

                assert_said_once(&server, SEEMS_BACK_ONCE, 0);
                server.kill_9().await;
            },
        );
    }
}
