//! `stepwell sandbox-shim`: the process around a command of the local sandbox. Started by the program itself, for nobody to type.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::sandbox::shim;

/// One task.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The innermost process, started from the open file of this number.
    #[arg(long)]
    inside: Option<i32>,
    /// The task's directory; inside, the command.
    subject: String,
}

/// Neither the configuration nor a runtime: this process must stay small and of one thread.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match arguments.inside {
        Some(program) => {
            let code = shim::inside(program, &arguments.subject);
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        None => {
            shim::serve(PathBuf::from(&arguments.subject));
            ExitCode::SUCCESS
        }
    }
}
