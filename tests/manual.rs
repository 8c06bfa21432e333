//! The manual itself as a test: the shell blocks of `docs/field-manual.md`, labs A to Q in order and to the letter, pasted into one bash that goes on
//! from block to block, first on SQLite, then on a throwaway Postgres; each "Expect" is checked, and a table says what held.
//!
//! What the manual takes for granted is provided, and nothing else: a database of its own, `mise` on the PATH, free ports (the manual's own, so the
//! databases come one after the other, and only one reader reads per machine), the shell kit of section 5, and a receiver on port 4318 for the second
//! reading of lab M's smoke (the first must fail, there being none). A server's block gets a terminal of its own, which stays open until the end.
//! A statement that only asks, and stands last in its block, is repeated for at most 30 s while its effect is on its way. Then every server must end on
//! SIGTERM, and `stepwell doctor` must find nothing.
//!
//! Two extents. The suite reads everything but the blocks that call gates or whole test files, which are in the suite themselves. `STEPWELL_MANUAL=whole`
//! (`scripts/manual.sh`, `scripts/full.sh`) reads those, too.
//!
//! The rule for the gates in section 3 and lab Q (`quick`, `check`, `full` and the soaks): they bring throwaway databases, so what they find does not
//! depend on the database whose manual is read, and `full` reads the manual. Therefore `mise` on the PATH is `tests/manual/bin/mise`, which hands everything on to
//! the real one, except that a gate runs at most once per reading; the second call answers with the outcome of the first. Under `full`, `quick` and
//! `check` count as done, because `full` has run everything of them before it comes here, and `full` counts as what it is, the run that calls this, which ends
//! green only if this does. Read without `full` (`scripts/manual.sh`), `full` is not run. The lines under the table say for each call which of these it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

#[path = "manual/document.rs"]
mod document;
#[path = "manual/expectations.rs"]
mod expectations;
#[path = "manual/reader.rs"]
mod reader;
#[path = "manual/servers.rs"]
mod servers;
#[path = "manual/table.rs"]
mod table;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::time::Duration;

use harness::*;
use reader::{Extent, Outcome, Reader, Row};
use sha2::Digest;
use table::{Column, table};

/// Read whole without `full`, the gates of lab Q alone take half an hour.
const DEADLINE: Duration = Duration::from_secs(3 * 60 * 60);

fn extent() -> Extent {
    match std::env::var("STEPWELL_MANUAL").as_deref() {
        Err(_) | Ok("short") => Extent::Short,
        Ok("whole") => Extent::Whole,
        Ok(other) => panic!("STEPWELL_MANUAL must be short or whole, got {other:?}"),
    }
}

/// What is missing on this machine to read the manual, said loudly; a failure where it must be read whole.
async fn mise() -> Option<std::path::PathBuf> {
    let tools = ["bash", "curl", "jq", "node", "npm", "psql", "sqlite3"];
    let found = if missing_tools(&tools) {
        None
    } else {
        mise_bin().await
    };
    assert!(
        found.is_some() || extent() == Extent::Short,
        "the whole manual needs {tools:?} and mise"
    );
    found
}

#[test]
fn the_copy_of_the_manual_is_the_manual() {
    let hash: String = sha2::Sha256::digest(document::MANUAL)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hash, document::SHA256);
}

#[test]
fn the_manuals_blocks_are_found_with_their_labs() {
    let names: Vec<String> = document::blocks()
        .iter()
        .map(document::Block::name)
        .collect();
    let expected = "3 1, 5 1, A 1, A 2, B 1, C 1, D 1, E 1, E 2, F 1, F 2, G 1, G 2, H 1, I 1, I 2, I 3, J 1, J 2, K 1, K 2, L 1, M 1, M 2, N 1, \
                    O 1, O 2, P 1, P 2, P 3, Q 1, Q 2, Q 3, Q 4, Q 5, R 1, R 2";
    assert_eq!(names.join(", "), expected);
    assert_eq!(names.len(), document::MANUAL.matches("```bash\n").count());
}

#[test]
fn what_does_not_hold_or_was_not_run_stands_in_the_table_with_its_reason() {
    let row = |block, outcome| Row {
        lab: "K".to_owned(),
        block,
        outcome,
        took: Duration::ZERO,
    };
    let column = |outcome| Column {
        database: "sqlite",
        rows: vec![row(1, Ok(Outcome::Held)), row(2, outcome)],
        end: Ok("quick: ran and passed in 80 s\n".to_owned()),
    };

    let partly = column(Ok(Outcome::NotRun("long")));
    assert!(partly.holds());
    let text = table("whole", &[partly]);
    assert!(
        text.contains("ok, 1 of 2 blocks") && text.contains("sqlite, K block 2, not run: long"),
        "{text}"
    );
    assert!(
        text.contains("sqlite, gate quick: ran and passed in 80 s"),
        "{text}"
    );

    let failed = column(Err("no tick".to_owned()));
    assert!(!failed.holds());
    let text = table("whole", &[failed]);
    assert!(
        text.contains("FAILED (0.0 s)") && text.contains("sqlite, K block 2, FAILED: no tick"),
        "{text}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = servers::are_free(&[port]).unwrap_err();
    assert!(
        refused.contains(&format!("[{port}] are taken")),
        "{refused}"
    );
    drop(listener);
    servers::are_free(&[port]).unwrap();
}

#[test]
fn the_manual_holds_on_both_databases() {
    let columns: Mutex<Vec<Column>> = Mutex::default();
    let gates = std::env::temp_dir().join(format!("stepwell-manual-gates-{}", std::process::id()));
    // `full` names here what it has done before.
    let done = std::env::var("STEPWELL_MANUAL_DONE").unwrap_or_default();
    let mut recorded = String::new();
    for gate in done.split_whitespace() {
        let words = match gate {
            "full" => "this is the run that reads the manual, and green only if the manual holds",
            _ => "not run again: full has run everything of it before it came to the manual",
        };
        recorded += &format!("{gate}\twithin\t{words}\n");
    }
    std::fs::write(&gates, recorded).unwrap();

    for backend in [Backend::Sqlite, Backend::Postgres] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (columns, gates) = (&columns, &gates);
            run_within(DEADLINE, backend, "the_manual", |stage: Stage| async move {
                let Some(mise) = mise().await else { return };
                let _exclusive = machine_lock("manual").await;
                let mut column = Column {
                    database: backend.name(),
                    rows: Vec::new(),
                    end: servers::are_free(&servers::ALL_PORTS).map(|()| String::new()),
                };
                if column.end.is_ok() {
                    let mut reader = Reader::sit_down(&stage, extent(), &mise, gates).await;
                    for block in document::blocks() {
                        column.rows.push(reader.read(&block).await);
                    }
                    column.end = reader.leave().await;
                    remove_files_of_the_manual();
                }
                let holds = column.holds();
                columns.lock().unwrap().push(column);
                assert!(
                    holds,
                    "the manual does not hold on {}: see the table",
                    backend.name()
                );
            });
        }));
        // A table that says what did not hold is the better message, and the other database is read in any case.
        let told = columns
            .lock()
            .unwrap()
            .iter()
            .any(|column| column.database == backend.name());
        if let Err(panic) = outcome
            && !told
        {
            resume_unwind(panic);
        }
    }

    std::fs::remove_file(gates).unwrap();
    let columns = columns.into_inner().unwrap();
    let extent = match extent() {
        Extent::Short => "without its long blocks",
        Extent::Whole => "whole",
    };
    // Not println: the table is there for those whose test passes.
    writeln!(std::io::stderr(), "{}", table(extent, &columns)).unwrap();
    assert!(
        columns.iter().all(Column::holds),
        "the manual does not hold: see the table"
    );
}
