//! Commands that mean harm, or behave as if: each ends with a typed error or its honest result, takes no memory of ours worth speaking of, and
//! leaves no process, no directory and no record.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
mod sandbox_kit;

use harness::*;
use sandbox_kit::*;
use stepwell::sandbox::{ErrorCode, Finished, Limits, SandboxRequest};

const MB: u64 = 1024 * 1024;
/// What other tests of this process may take meanwhile, too.
const OWN_MEMORY: u64 = 64 * MB;

/// Doublings of the fork bombs: two thousand processes at most, each of which ends by itself after 20 seconds, so that a sandbox that fails the
/// test does not take the machine with it. Ended by itself, a bomb is a success, and the test fails.
const GENERATIONS: u32 = 10;

/// Runs a command that has `marker` in its own and all its processes' arguments or environment, and looks whether it takes our memory.
async fn endure(given: &Given, request: SandboxRequest) -> Finished {
    let before = own_memory();
    let finished = given.run(request).await;
    let grown = own_memory().saturating_sub(before);
    assert!(grown < OWN_MEMORY, "grown by {} MB", grown / MB);
    finished
}

in_both_sandboxes! {
    async fn a_hundred_megabytes_of_output_are_cut(given: Given) {
        let finished = endure(given, request("head -c 100000000 /dev/zero")).await;
        assert_eq!(finished.result.err_code, ErrorCode::None);
        assert!(stdout(&finished).ends_with("[cut here: 98951424 more bytes]\n"));
        drop(finished);
        given.nothing_left("head -c 100000000").await;
    }

    async fn ten_gigabytes_of_output_are_cut(given: Given) {
        let finished = endure(given, request("head -c 10000000000 /dev/zero")).await;
        assert_eq!(finished.result.err_code, ErrorCode::None, "{}", message(&finished));
        assert!(stdout(&finished).ends_with("[cut here: 9998951424 more bytes]\n"));
        drop(finished);
        given.nothing_left("head -c 10000000000").await;
    }

    async fn five_hundred_children_are_too_many(given: Given) {
        let seconds = marker(given, 1);
        let cmd = format!("i=0; while [ $i -lt 500 ]; do sleep {seconds} & i=$((i+1)); done; wait");
        let finished = endure(given, request(&cmd)).await;
        assert_eq!((finished.result.err_code, finished.result.exit), (ErrorCode::CmdNonzero, Some(137)));
        assert!(message(&finished).contains("256 processes"), "{finished:?}");
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn a_fork_bomb_is_defused(given: Given) {
        let marker = marker(given, 2);
        let cmd = format!(": {marker}; bomb() {{ [ $1 = 0 ] || {{ bomb $(($1-1)) & bomb $(($1-1)) & }}; exec sleep 20; }}; bomb {GENERATIONS}");
        let finished = endure(given, request(&cmd)).await;
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
        assert!(message(&finished).contains("processes"), "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn a_fork_bomb_of_sessions_is_defused(given: Given) {
        let marker = marker(given, 3);
        // Each process is in a session and a group of its own.
        let cmd = format!("cat > b <<'X'\n[ $1 = 0 ] || {{ setsid sh b $(($1-1)) {marker} & setsid sh b $(($1-1)) {marker} & }}\nexec sleep 20\nX\nsh b {GENERATIONS} {marker}");
        let finished = endure(given, request(&cmd)).await;
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn threads_count_too(given: Given) {
        let cmd = "python3 -c '\nimport threading, time\nfor _ in range(2000): threading.Thread(target=time.sleep, args=(20,)).start()\n'";
        if missing_tools(&["python3"]) {
            return;
        }
        let path = std::env::var("PATH").unwrap();
        let request = SandboxRequest { env: [("PATH".to_owned(), path)].into(), ..request(cmd) };
        let finished = endure(given, request).await;
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
        drop(finished);
        given.nothing_left("no marker").await;
    }

    async fn who_ignores_sigterm_is_killed(given: Given) {
        let seconds = marker(given, 4);
        let cmd = format!("trap '' TERM HUP INT; while :; do sleep {seconds}; done");
        let finished = endure(given, SandboxRequest { timeout_ms: 300, ..request(&cmd) }).await;
        assert_eq!(finished.result.err_code, ErrorCode::Timeout);
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn a_daemon_in_its_own_session_ends_with_its_task(given: Given) {
        let seconds = marker(given, 5);
        let cmd = format!("setsid sh -c 'trap \"\" TERM; setsid sleep {seconds} & sleep {seconds}' >/dev/null 2>&1 </dev/null & sleep 0.3; echo done");
        let finished = endure(given, request(&cmd)).await;
        assert_eq!((finished.result.err_code, stdout(&finished).as_str()), (ErrorCode::None, "done\n"));
        assert_eq!(living_processes(&seconds), Vec::<String>::new());
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn a_closed_output_ends_nothing_early(given: Given) {
        let finished = endure(given, SandboxRequest { out: strings(["f"]), ..request("exec >&- 2>&-; sleep 0.5; head -c 5 /dev/zero > f; exit 4") }).await;
        assert_eq!((finished.result.err_code, finished.result.exit), (ErrorCode::CmdNonzero, Some(4)));
        assert!(finished.result.metrics.wall_ms >= 500);
        assert_eq!(finished.files[0].size, 5);
    }

    async fn a_read_only_system_is_not_written(given: Given) {
        if !given.wrapped {
            // Nothing but the user's own rights protects it then, and docs/sandbox.md says so.
            return;
        }
        let victim = given.root.path().join("victim");
        std::fs::write(&victim, "safe").unwrap();
        let other = given.sandbox_root().join("other");
        std::fs::create_dir_all(&other).unwrap();
        let cmd = format!(
            "echo lost > {victim}; echo lost > /etc/stepwell-test; echo lost > /dev/shm/stepwell-test; echo lost > /tmp/stepwell-test; echo lost > {root}/x; \
             ls {root}; echo 1 > /proc/sys/kernel/ostype; ps -e -o pid= 2>/dev/null | wc -l",
            victim = victim.display(),
            root = given.sandbox_root().display(),
        );
        let finished = endure(given, request(&cmd)).await;
        let said = stdout(&finished);
        let name = finished.result.sandbox_ref.strip_prefix("local:bwrap:").expect("it says what it is");
        assert!(said.starts_with(&format!("{name}\n")), "only its own task is there: {finished:?}");
        assert_eq!(std::fs::read_to_string(victim).map_err(|e| e.to_string()).unwrap_or("safe".into()), "safe");
        for path in ["/etc", "/dev/shm", "/tmp"] {
            assert!(!std::path::Path::new(path).join("stepwell-test").exists(), "{path}");
        }
        std::fs::remove_dir(other).unwrap();
    }

    async fn ten_gigabytes_of_memory_are_too_much(given: Given) {
        // Reads for a line end that never comes, and keeps everything.
        let finished = endure(given, request("head -c 10000000000 /dev/zero | tail")).await;
        assert_eq!((finished.result.err_code, finished.result.signal), (ErrorCode::Oom, Some(9)), "{finished:?}");
        let peak = finished.result.metrics.mem_peak_mb;
        assert!((2_000..5_000).contains(&peak), "{peak} MB");
        drop(finished);
        given.nothing_left("head -c 10000000000 /dev/zero | tail").await;
    }

    async fn memory_of_many_processes_adds_up(given: Given) {
        let marker = marker(given, 6);
        // The shells that hold it must not be replaced by what they execute last.
        let cmd = format!(": {marker}; for i in 1 2 3 4 5 6; do (x=$(head -c 20000000 /dev/zero | tr '\\0' a); sleep 600; :) & done; wait");
        let limits = Limits { mem_mb: Some(80), ..Limits::default() };
        let finished = endure(given, SandboxRequest { limits, ..request(&cmd) }).await;
        assert_eq!(finished.result.err_code, ErrorCode::Oom, "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn links_and_dots_lead_no_file_out(given: Given) {
        std::fs::write(given.root.path().join("secret"), "s").unwrap();
        let cmd = "ln -s /etc/passwd stolen; ln -s / root; ln -s ../../../secret up; ln -s /etc etc; mkfifo pipe; echo fine > fine";
        for (out, expected) in [
            (strings(["**"]), Ok(vec!["fine"])),
            (strings(["*"]), Ok(vec!["fine"])),
            (strings(["fine"]), Ok(vec!["fine"])),
            (strings(["stolen"]), Err("links are not followed")),
            (strings(["root/etc/passwd"]), Err("links are not followed")),
            (strings(["etc/*"]), Err("links are not followed")),
            (strings(["pipe"]), Err("neither a file")),
            (strings(["../../../secret"]), Err("no relative path")),
            (strings(["/etc/passwd"]), Err("no relative path")),
        ] {
            let finished = endure(given, SandboxRequest { out: out.clone(), ..request(cmd) }).await;
            let names: Vec<&str> = finished.files.iter().map(|file| file.path.as_str()).collect();
            match expected {
                Ok(expected) => assert_eq!((finished.result.err_code, names), (ErrorCode::None, expected), "{out:?}"),
                Err(why) => {
                    assert_eq!(finished.result.err_code, ErrorCode::DownloadFail, "{out:?}");
                    assert!(message(&finished).contains(why), "{out:?}: {finished:?}");
                    assert!(names.is_empty());
                }
            }
        }
    }

    async fn a_file_that_becomes_a_link_is_not_opened(given: Given) {
        let finished = given.run(SandboxRequest { out: strings(["f"]), ..request("echo x > f") }).await;
        let file = given.only_work().join("f");
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(finished.open(&finished.files[0]).is_err());
    }

    async fn names_that_could_lie_are_refused(given: Given) {
        for (name, shown) in [("a\\012b", "a\\nb"), ("a\\033[31m", "a\\x1b[31m"), ("a\\377", "a\\xff")] {
            let cmd = format!("touch \"$(printf 'x{name}')\"; echo fine > fine");
            let finished = endure(given, SandboxRequest { out: strings(["x*"]), ..request(&cmd) }).await;
            assert_eq!(finished.result.err_code, ErrorCode::DownloadFail, "{finished:?}");
            assert!(message(&finished).contains(&format!("x{shown}")), "{finished:?}");
            // What nobody asked for may be called anything.
            let finished = endure(given, SandboxRequest { out: strings(["fine"]), ..request(&cmd) }).await;
            assert_eq!(finished.result.err_code, ErrorCode::None, "{finished:?}");
        }
        given.nothing_left("no marker").await;
    }

    async fn a_full_disk_is_not_reached(given: Given) {
        let marker = marker(given, 7);
        let cmd = format!(": {marker}; for i in 1 2 3 4 5 6; do fallocate -l 1000M f$i || exit 9; done; sleep 600");
        let finished = endure(given, request(&cmd)).await;
        assert_eq!((finished.result.err_code, finished.result.exit), (ErrorCode::CmdNonzero, Some(137)), "{finished:?}");
        assert!(message(&finished).contains("4096 MB"), "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn a_million_small_files_are_too_many(given: Given) {
        let marker = marker(given, 8);
        let cmd = format!(": {marker}; mkdir d; cd d; perl -e 'for (1..1000000) {{ open(F, \">\", $_); close(F) }}'; sleep 600");
        // As many as there may be by default take the disk a minute.
        let limits = Limits { entries: Some(20_000), ..Limits::default() };
        let finished = endure(given, SandboxRequest { limits, out: strings(["d/*"]), ..request(&cmd) }).await;
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
        assert!(message(&finished).contains("20000 entries"), "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn more_files_than_a_task_may_leave_are_refused(given: Given) {
        let finished = endure(given, SandboxRequest { out: strings(["f*"]), ..request("i=0; while [ $i -lt 901 ]; do : > f$i; i=$((i+1)); done") }).await;
        assert_eq!(finished.result.err_code, ErrorCode::DownloadFail);
        assert!(message(&finished).contains("900 files"), "{finished:?}");
    }

    async fn a_sparse_file_counts_as_large_as_it_reads(given: Given) {
        let cmd = "truncate -s 900M a; truncate -s 900M b";
        let finished = endure(given, SandboxRequest { out: strings(["a"]), ..request(cmd) }).await;
        assert_eq!((finished.result.err_code, finished.files[0].size), (ErrorCode::None, 900 * MB));
        let finished = endure(given, SandboxRequest { out: strings(["?"]), ..request(cmd) }).await;
        assert_eq!(finished.result.err_code, ErrorCode::DownloadFail);
        assert!(message(&finished).contains("1073741824 bytes"), "{finished:?}");
        let finished = endure(given, request("truncate -s 2000M a || exit 7")).await;
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
    }

    async fn a_directory_too_deep_to_name_is_removed(given: Given) {
        let marker = marker(given, 9);
        let cmd = format!(": {marker}; perl -e 'for (1..3000) {{ mkdir \"d\"; chdir \"d\" }}'; exit 3");
        let finished = endure(given, request(&cmd)).await;
        // It may be quicker than the look at it.
        assert_eq!(finished.result.err_code, ErrorCode::CmdNonzero, "{finished:?}");
        drop(finished);
        given.nothing_left(&marker).await;
    }

    async fn rights_taken_away_do_not_keep_a_directory(given: Given) {
        let cmd = "mkdir -p a/b; echo x > a/b/c; chmod 000 a/b a .; exit 3";
        let finished = endure(given, request(cmd)).await;
        assert_eq!(finished.result.exit, Some(3));
        drop(finished);
        given.nothing_left("no marker").await;
    }

    async fn who_kills_the_shim_gets_no_further(given: Given) {
        let seconds = marker(given, 10);
        let cmd = format!("setsid sleep {seconds} & sleep 0.2; kill -9 $PPID; sleep {seconds}");
        let finished = endure(given, request(&cmd)).await;
        assert_ne!(finished.result.err_code, ErrorCode::None, "{finished:?}");
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn who_stops_the_shim_gets_no_further(given: Given) {
        let seconds = marker(given, 11);
        let cmd = format!("kill -STOP $PPID; sleep {seconds}");
        let finished = endure(given, SandboxRequest { timeout_ms: 500, ..request(&cmd) }).await;
        // Within bwrap only the innermost process of ours can be stopped, and that one need not run.
        let expected = if given.wrapped { ErrorCode::Timeout } else { ErrorCode::BootFail };
        assert_eq!(finished.result.err_code, expected, "{finished:?}");
        drop(finished);
        given.nothing_left(&seconds).await;
    }

    async fn a_command_that_is_too_long_is_refused(given: Given) {
        let finished = endure(given, request(&format!("echo {}", "x".repeat(3_000_000)))).await;
        assert_eq!(finished.result.err_code, ErrorCode::BootFail);
        assert!(!message(&finished).is_empty(), "{finished:?}");
        drop(finished);
        given.nothing_left("no marker").await;
    }
}
