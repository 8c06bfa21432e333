//! The local sandbox does what it says: files in and out, streams, limits, deadlines, the network, figures, and an end that leaves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod sandbox_kit;

use std::time::Duration;

use harness::*;
use sandbox_kit::*;
use serde_json::json;
use stepwell::sandbox::{
    ErrorCode, FileContent, FileIn, Limits, Output, SandboxRequest, Stream, reap,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

const MB: usize = 1024 * 1024;

in_both_sandboxes! {
    async fn files_go_in_and_the_declared_ones_come_out(given: Given) {
        let finished = given
            .run(SandboxRequest {
                files_in: vec![file("words.txt", "b\na\nb\n"), file("deep/er.txt", "x")],
                out: strings(["result.txt", "logs/*.log", "absent"]),
                ..request(
                    "sort -u words.txt | wc -l; cat deep/er.txt >&2; echo new > result.txt; \
                     mkdir logs; echo 1 > logs/a.log; echo 2 > logs/b.txt; echo 3 > undeclared",
                )
            })
            .await;

        assert_eq!((finished.result.err_code, finished.result.exit), (ErrorCode::None, Some(0)), "{finished:?}");
        assert_eq!(stdout(&finished).trim(), "2");
        assert_eq!(finished.result.stderr, b"x");
        let names: Vec<&str> = finished.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["logs/a.log", "result.txt"]);
        let mut content = String::new();
        finished.open(&finished.files[1]).unwrap().read_to_string(&mut content).await.unwrap();
        assert_eq!((content.as_str(), finished.files[1].size), ("new\n", 4));
        drop(finished);
        given.nothing_left("no marker").await;
    }

    async fn bytes_are_streamed_in(given: Given) {
        let size = 80 * MB;
        let before = own_memory();
        let content = tokio::io::repeat(0xff).take(size as u64);

        let finished = given
            .run(SandboxRequest {
                files_in: vec![FileIn { path: "big".into(), content: FileContent::Reader(Box::new(content)) }],
                out: strings(["big"]),
                ..request("wc -c < big")
            })
            .await;

        assert_eq!(stdout(&finished).trim(), size.to_string());
        assert_eq!(finished.files[0].size, size as u64);
        assert!(own_memory().saturating_sub(before) < 60 * MB as u64);
    }

    async fn a_file_that_cannot_be_had_is_an_upload_failure(given: Given) {
        let finished = given
            .run(SandboxRequest {
                files_in: vec![FileIn { path: "a".into(), content: FileContent::Reader(Box::new(Failing)) }],
                ..request("true")
            })
            .await;
        assert_eq!(finished.result.err_code, ErrorCode::UploadFail);
        assert!(message(&finished).contains("\"a\""), "{finished:?}");
        given.nothing_left("no marker").await;
    }

    async fn no_file_is_written_outside(given: Given) {
        for path in ["../x", "/tmp/x", "a/../../x", "", "a\0b"] {
            let finished = given
                .run(SandboxRequest { files_in: vec![file(path, "x")], ..request("true") })
                .await;
            assert_eq!(finished.result.err_code, ErrorCode::UploadFail, "{path:?}");
            let finished = given
                .run(SandboxRequest { workdir: Some(path.into()), ..request("true") })
                .await;
            assert_eq!(finished.result.err_code, ErrorCode::UploadFail, "{path:?}");
        }
        given.nothing_left("no marker").await;
    }

    async fn exit_codes_and_signals_are_told(given: Given) {
        for (cmd, exit, signal) in [
            ("exit 3", 3, None),
            ("false", 1, None),
            ("--help", 127, None),
            ("--inside", 127, None),
            ("exit 137", 137, None),
            ("kill -9 $$", 137, Some(9)),
            ("kill -TERM $$", 143, Some(15)),
            ("kill -SEGV $$", 139, Some(11)),
        ] {
            let finished = given.run(request(cmd)).await;
            assert_eq!(
                (finished.result.err_code, finished.result.exit, finished.result.signal),
                (ErrorCode::CmdNonzero, Some(exit), signal),
                "{cmd}"
            );
        }
    }

    async fn output_is_heard_as_it_comes(given: Given) {
        let (output, mut heard) = mpsc::channel(4);
        let run = given.run_heard(
            request("echo first; until test -e go; do sleep 0.02; done; echo second >&2"),
            output,
        );
        let listen = async {
            let first = heard.recv().await.expect("a piece");
            assert_eq!(first, Output { stream: Stream::Stdout, bytes: b"first\n".to_vec() });
            std::fs::write(given.only_work().join("go"), "").unwrap();
            let second = heard.recv().await.expect("a piece");
            assert_eq!(second, Output { stream: Stream::Stderr, bytes: b"second\n".to_vec() });
            assert_eq!(heard.recv().await, None);
        };
        let (finished, ()) = tokio::join!(run, listen);
        assert_eq!(finished.result.err_code, ErrorCode::None);
    }

    async fn who_listens_slowly_slows_the_command(given: Given) {
        let (output, mut heard) = mpsc::channel(1);
        let run = given.run_heard(request("head -c 900000 /dev/zero; touch done"), output);
        let listen = async {
            let mut bytes = heard.recv().await.expect("a piece").bytes.len();
            let done = given.only_work().join("done");
            // Nothing to wait for: the point is that nothing happens.
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!done.exists());
            while let Some(piece) = heard.recv().await {
                bytes += piece.bytes.len();
            }
            bytes
        };
        let (finished, bytes) = tokio::join!(run, listen);
        assert_eq!((bytes, finished.result.stdout.len()), (900_000, 900_000));
    }

    async fn a_listener_that_goes_away_stops_nothing(given: Given) {
        let (output, heard) = mpsc::channel(1);
        drop(heard);
        let finished = given.run_heard(request("echo one; sleep 0.1; echo two"), output).await;
        assert_eq!(stdout(&finished), "one\ntwo\n");
    }

    async fn a_flood_is_cut_and_says_so(given: Given) {
        let (output, mut heard) = mpsc::channel(64);
        let run = given.run_heard(request("head -c 3000000 /dev/zero; echo end >&2"), output);
        let listen = async {
            let mut last = Vec::new();
            while let Some(piece) = heard.recv().await {
                if piece.stream == Stream::Stdout {
                    last = piece.bytes;
                }
            }
            last
        };
        let (finished, last) = tokio::join!(run, listen);
        assert_eq!(finished.result.err_code, ErrorCode::None);
        let mark = "\n[cut here: 1951424 more bytes]\n";
        assert_eq!(last, mark.as_bytes());
        assert_eq!(finished.result.stdout.len(), MB + mark.len());
        assert!(stdout(&finished).ends_with(mark));
        assert_eq!(finished.result.stderr, b"end\n");
    }

    async fn the_environment_is_clean(given: Given) {
        let finished = given
            .run(SandboxRequest {
                env: [("MINE".to_owned(), "1".to_owned())].into(),
                ..request("env | cut -d= -f1 | sort | tr '\\n' ' '")
            })
            .await;
        assert_eq!(stdout(&finished).trim(), "HOME LANG MINE PATH PWD TMPDIR");
        let finished = given.run(request("ls /proc/self/fd | tr '\\n' ' '")).await;
        assert_eq!(stdout(&finished).trim(), "0 1 2 3", "3 is the listing itself");
    }

    async fn a_command_starts_where_it_is_told(given: Given) {
        let finished = given
            .run(SandboxRequest {
                files_in: vec![file("a/b/f", "here")],
                workdir: Some("a/b".into()),
                ..request("cat f; echo x > $TMPDIR/y && rm $TMPDIR/y && test -O $HOME && echo; basename $PWD")
            })
            .await;
        assert_eq!(stdout(&finished), "here\nb\n", "{finished:?}");
    }

    async fn a_time_out_asks_first(given: Given) {
        let finished = given
            .run(SandboxRequest {
                timeout_ms: 500,
                ..request("trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done")
            })
            .await;
        assert_eq!(finished.result.err_code, ErrorCode::Timeout, "{finished:?}");
        assert_eq!(stdout(&finished), "asked\n");
        assert!(message(&finished).contains("500 ms"), "{finished:?}");
    }

    async fn a_time_out_ends_who_does_not_listen(given: Given) {
        let seconds = marker(given, 1);
        let cmd = format!("trap '' TERM; (trap '' TERM; sleep {seconds}) & sleep {seconds}");
        let finished = given.run(SandboxRequest { timeout_ms: 500, ..request(&cmd) }).await;
        assert_eq!(finished.result.err_code, ErrorCode::Timeout);
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn a_process_left_in_the_background_does_not_hold_the_task(given: Given) {
        let seconds = marker(given, 2);
        let finished = given.run(request(&format!("sleep {seconds} & echo done"))).await;
        assert_eq!((finished.result.err_code, stdout(&finished).as_str()), (ErrorCode::None, "done\n"));
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
    }

    async fn dropping_the_future_ends_the_command(given: Given) {
        let seconds = marker(given, 3);
        let cmd = format!("sleep {seconds}");
        let run = given.run(request(&cmd));
        let started = eventually(Duration::from_secs(20), "the command runs", || async {
            let living = living_processes(&seconds);
            if living.is_empty() { Err("nobody") } else { Ok(()) }
        });
        tokio::select! {
            finished = run => panic!("it ended: {finished:?}"),
            () = started => {}
        }
        given.nothing_left(&seconds).await;
    }

    async fn without_the_network_there_is_a_loopback_and_nothing_else(given: Given) {
        let cmd = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' \\n'; grep -qw 127.0.0.1 /proc/net/fib_trie && echo ' up'; id -u";
        let finished = given.run(SandboxRequest { net: false, ..request(cmd) }).await;
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        assert_eq!(stdout(&finished), format!("lo up\n{user}\n"), "{finished:?}");
        let finished = given.run(request("readlink /proc/self/ns/net")).await;
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(stdout(&finished).trim(), own.to_str().unwrap());
    }

    async fn what_a_command_takes_is_told(given: Given) {
        let finished = given
            .run(request("x=$(head -c 40000000 /dev/zero | tr '\\0' a); i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 0.3"))
            .await;
        let metrics = finished.result.metrics;
        assert_eq!(finished.result.err_code, ErrorCode::None, "{finished:?}");
        assert!(metrics.wall_ms >= 300, "{metrics:?}");
        assert!((50..60_000).contains(&metrics.cpu_ms), "{metrics:?}");
        assert!((38..400).contains(&metrics.mem_peak_mb), "{metrics:?}");
        let idle = given.run(request("sleep 0.2")).await.result.metrics;
        assert!(idle.mem_peak_mb < 30 && idle.cpu_ms < 150, "{idle:?}");
    }

    async fn limits_hold(given: Given) {
        let limited = |cmd: &str, limits| SandboxRequest { limits, ..request(cmd) };
        let none = Limits::default;

        let cpu = given.run(limited("while :; do :; done", Limits { cpu_seconds: Some(1), ..none() })).await;
        assert_eq!(cpu.result.err_code, ErrorCode::Timeout, "{cpu:?}");
        assert!(message(&cpu).contains("processor time"), "{cpu:?}");

        let memory = given.run(limited("tail /dev/zero", Limits { mem_mb: Some(50), ..none() })).await;
        assert_eq!((memory.result.err_code, memory.result.exit), (ErrorCode::Oom, Some(137)), "{memory:?}");
        assert!(message(&memory).contains("50 MB"), "{memory:?}");

        let large = given.run(limited("head -c 3000000 /dev/zero > f; kill -l $? ; exit 5", Limits { file_mb: Some(2), ..none() })).await;
        assert_eq!(stdout(&large).trim(), "XFSZ", "{large:?}");

        let open = given.run(limited("ulimit -n; ulimit -c", Limits { open_files: Some(40), ..none() })).await;
        assert_eq!(stdout(&open), "40\n0\n", "{open:?}");

        let seconds = marker(given, 4);
        let cmd = format!("for i in 1 2 3 4 5 6 7 8 9 10; do sleep {seconds} & done; wait");
        let many = given.run(limited(&cmd, Limits { processes: Some(8), ..none() })).await;
        assert_eq!((many.result.err_code, many.result.exit), (ErrorCode::CmdNonzero, Some(137)), "{many:?}");
        assert!(message(&many).contains("8 processes"), "{many:?}");
        assert_eq!(living_processes(&seconds), Vec::<String>::new());

        let one = given.run(limited("nproc", Limits { cpu: Some(0.5), ..none() })).await;
        assert_eq!(stdout(&one).trim(), "1", "{one:?}");
    }

    async fn a_control_group_goes_with_its_task(given: Given) {
        let finished = given.run(request("sleep 0.1 & cat /proc/self/cgroup")).await;
        let name = finished.result.sandbox_ref.rsplit(':').next().unwrap().to_owned();
        // Users may make none, and neither may root everywhere.
        let caged = stdout(&finished).contains(&format!("stepwell-{name}"));
        drop(finished);
        given.nothing_left("no marker").await;
        let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("stepwell-{name}")]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "caged: {caged}");
    }

    async fn names_may_be_of_any_language(given: Given) {
        let finished = given
            .run(SandboxRequest {
                files_in: vec![file("größe/文件 1.txt", "x")],
                out: strings(["größe/*"]),
                ..request("cp 'größe/文件 1.txt' 'größe/🦀'")
            })
            .await;
        let names: Vec<&str> = finished.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["größe/文件 1.txt", "größe/🦀"], "{finished:?}");
    }

    async fn a_shim_that_was_killed_with_its_server_is_reaped_at_the_next_start(given: Given) {
        let seconds = marker(given, 5);
        let cmd = format!("setsid sleep {seconds} & sleep {seconds}");
        let run = given.run(request(&cmd));
        let started = eventually(Duration::from_secs(20), "the command runs", || async {
            let living = living_processes(&seconds).into_iter().filter(|line| line.starts_with("sleep"));
            if living.count() < 2 { Err("nobody") } else { Ok(()) }
        });
        // The record says that a process is its owner which never was, as if we had died, and its shim is stopped.
        let kill = async {
            started.await;
            let root = given.sandbox_root();
            let record = given.left().into_iter().find(|name| name.ends_with(".owner")).unwrap();
            let text = std::fs::read_to_string(root.join(&record)).unwrap();
            let shim = text.lines().nth(1).unwrap().to_owned();
            std::fs::write(root.join(record), format!("4194304 17\n{shim}\n")).unwrap();
            let pid = shim.split(' ').next().unwrap().to_owned();
            send_signal(pid, "STOP");
            let reaped = tokio::task::spawn_blocking(move || reap(&root)).await.unwrap().unwrap();
            assert_eq!(reaped, 1);
        };
        let (finished, ()) = tokio::join!(run, kill);
        assert_eq!(finished.result.err_code, ErrorCode::BootFail, "{finished:?}");
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
        assert_eq!(given.left(), Vec::<String>::new());
    }
}

/// A server on a stage, in the middle of a command that is its own marker.
async fn in_the_middle(stage: &Stage, n: u32) -> (Server, String) {
    let server = stage.serve().await;
    let digits: String = stage
        .dir()
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let seconds = format!("900.{digits}{n}");
    let cmd = format!("setsid sleep {seconds} & sleep {seconds}");
    server.start_job(json!({"command": cmd})).await;
    eventually(Duration::from_secs(30), "the command runs", || async {
        let living = living_processes(&seconds);
        let sleeping = living
            .iter()
            .filter(|line| line.starts_with("sleep"))
            .count();
        if sleeping == 2 {
            Ok(())
        } else {
            Err(format!("{living:?}"))
        }
    })
    .await;
    (server, seconds)
}

fn left_by_tasks(stage: &Stage) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(stage.dir().join(".stepwell/sandbox"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

on_both_databases! {
    async fn a_server_that_is_killed_takes_its_commands_with_it(stage: Stage) {
        let (server, seconds) = in_the_middle(&stage, 1).await;

        server.kill_9().await;

        // Without a restart: nobody but the shims could do it.
        eventually(Duration::from_secs(5), "nothing is left", || async {
            let (living, left) = (living_processes(&seconds), left_by_tasks(&stage));
            if living.is_empty() && left.is_empty() { Ok(()) } else { Err(format!("{living:?} {left:?}")) }
        })
        .await;
    }

    async fn what_a_server_and_its_shims_leave_is_removed_at_the_next_start(stage: Stage) {
        let (server, seconds) = in_the_middle(&stage, 2).await;
        let record = left_by_tasks(&stage).into_iter().find(|path| path.extension().is_some()).expect("a record");
        let text = std::fs::read_to_string(record).unwrap();
        let shim = text.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a shim").to_owned();
        send_signal(&shim, "STOP");
        server.kill_9().await;
        send_signal(&shim, "KILL");
        assert!(!left_by_tasks(&stage).is_empty());

        // What runs is not taken up by the new process: its directory would be in the way of the look.
        server.start_again_with(&[("DBOS__APPVERSION", "other")]).await;

        assert_eq!(left_by_tasks(&stage), Vec::<std::path::PathBuf>::new());
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
    }

    async fn a_job_says_what_it_needs_and_what_it_leaves(stage: Stage) {
        let server = stage.serve_with(&[("SBX_DEFAULT_NET", "false")]).await;
        let run = server
            .start_job(json!({
                "command": "wc -c < in.bin; echo \"${PWD##*work/}\"; ulimit -n; tail -n +3 /proc/net/dev | wc -l; echo kept > kept.txt; echo lost > lost.txt",
                "files": [{"path": "a/in.bin", "uri": "data:application/octet-stream;base64,AP8AAQ=="}],
                "workdir": "a", "out": ["a/kept*"], "limits": {"openFiles": 99}
            }))
            .await;

        server.wait_status(&run, "SUCCESS").await;
        let view = server.view(&run).await;
        let task = &view["tasks"][0];
        assert_eq!(server.task_artifact(task, "stdout").await, "4\na\n99\n1\n");
        assert_eq!(server.task_artifact(task, "file").await, "kept\n");
        let log = server.log();
        assert!(log.contains("  sandbox    mock; local"), "{log}");
        stage.assert_no_duplicates().await;
    }

    async fn a_sandbox_that_is_told_to_does_without_bwrap(stage: Stage) {
        let server = stage
            .serve_with(&[("SBX_LOCAL_BWRAP", "off"), ("SBX_MODE", "live"), ("SBX_PROVIDER", "local")])
            .await;
        let run = server.start_job(json!({"command": "kill -9 $$"})).await;
        server.wait_status(&run, "ERROR").await;
        let view = server.view(&run).await;
        assert_eq!(view["tasks"][0]["exit"], 137, "{view}");
        let log = server.log();
        assert!(log.contains("  sandbox    local\n"), "{log}");
    }

    async fn an_input_that_cannot_be_had_is_an_upload_failure(stage: Stage) {
        let api = stage.start("api", &[]).await;
        let worker = stage.start("worker", &[]).await;
        let source = api.start_job(json!({"command": "echo kept"})).await;
        api.wait_status(&source, "SUCCESS").await;
        assert!(worker.terminate().await.success());
        let find = format!("SELECT uri FROM app.artifacts WHERE run_id = '{source}' AND kind = 'stdout'");
        let uri = stage.sql(&find).await[0]["uri"].clone();

        // It is there when the run is started, and gone when the command needs it.
        let run = api.start_job(json!({"command": "true", "files": [{"path": "a", "uri": uri}]})).await;
        assert!(stage.sql_execute(&format!("DELETE FROM app.artifacts WHERE run_id = '{source}'")).await > 0);
        let _worker = stage.start("worker", &[]).await;

        let header = api.wait_status(&run, "ERROR").await;
        assert_eq!(header["error"]["code"], "UPLOAD_FAIL", "{header}");
    }
}

/// A source that breaks.
struct Failing;

impl tokio::io::AsyncRead for Failing {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the source is broken")))
    }
}
