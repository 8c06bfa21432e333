//! The one harness of the black-box suites: the real binary on a fresh database, an HTTP client, an SQL oracle, and the
//! signals that end a process. It knows the contract (HTTP, SQL, environment); `engines` alone uses the library, for tests of the engine.
//! It never touches the configured database: every test brings its own.
//!
//! ```text
//! mod harness;
//! use harness::*;
//!
//! on_both_databases! {
//!     async fn an_approved_run_ends_in_success(stage: Stage) {
//!         let server = stage.serve().await;
//!         let run = server.start_golden_run().await;
//!         server.approve(&run).await;
//!         assert_eq!(server.wait_terminal(&run).await["status"], "SUCCESS");
//!     }
//! }
//! ```
//! makes the tests `an_approved_run_ends_in_success::sqlite` and `…::postgres`. Servers are stopped and the database is
//! dropped when the test passes; when it fails both the database and the logs stay, and the test says where.

// Each suite is a crate of its own and uses a part of the harness. A failed expectation here is a failed test.
#![allow(dead_code, unused_imports, unused_macros)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backend;
mod cluster;
mod engines;
mod eventually;
mod http;
mod lab;
mod load;
mod mise;
mod oracle;
pub(crate) mod otlp;
mod product;
pub(crate) mod proxy;
mod random;
mod raw;
mod server;
mod stage;
mod terminal;
mod tools;

pub(crate) use backend::Backend;
pub(crate) use cluster::Cluster;
pub(crate) use engines::{Process, database, engine_with, in_queue};
pub(crate) use eventually::{eventually, now};
pub(crate) use http::Answer;
pub(crate) use lab::{Lab, remove_files_of_the_manual};
pub(crate) use load::{ROOMY, Told};
pub(crate) use mise::{mise_bin, mise_command, mise_env};
pub(crate) use oracle::{ASKED_BY_OTHERS, SESSIONS_THAT_WAIT};
pub(crate) use random::{Random, number_from};
pub(crate) use raw::Wire;
pub(crate) use server::{Server, free_port};
pub(crate) use stage::{Stage, run_on, run_on_own_postgres, run_within};
pub(crate) use terminal::{LabOutput, Terminal};
pub(crate) use tools::{
    cache_dir, living_processes, long_tests_are_wanted, machine_lock, memory_of, missing_tools,
    npm_packages, pip_packages, report, say_skipped, send_signal,
};

/// Makes two tests of each function, on SQLite and on Postgres.
macro_rules! on_both_databases {
    ($($(#[$meta:meta])* async fn $name:ident($stage:ident: Stage) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn given($stage: Stage) $body

            $(#[$meta])*
            #[test]
            fn sqlite() {
                run_on(Backend::Sqlite, stringify!($name), given);
            }

            $(#[$meta])*
            #[test]
            fn postgres() {
                run_on(Backend::Postgres, stringify!($name), given);
            }
        })+
    };
}
pub(crate) use on_both_databases;

/// Makes one test of each function, on Postgres: for what SQLite cannot do (several machines, official clients).
macro_rules! on_postgres {
    ($($(#[$meta:meta])* async fn $name:ident($stage:ident: Stage) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn given($stage: Stage) $body

            $(#[$meta])*
            #[test]
            fn postgres() {
                run_on(Backend::Postgres, stringify!($name), given);
            }
        })+
    };
}
pub(crate) use on_postgres;

/// Makes one test of each function, on a Postgres of its own with these settings, which it may stop.
macro_rules! on_own_postgres {
    ($($(#[$meta:meta])* async fn $name:ident($stage:ident: Stage, [$($setting:literal),*]) $body:block)+) => {
        $(mod $name {
            use super::*;

            async fn given($stage: Stage) $body

            $(#[$meta])*
            #[test]
            fn postgres() {
                run_on_own_postgres(stringify!($name), &[$($setting),*], given);
            }
        })+
    };
}
pub(crate) use on_own_postgres;
