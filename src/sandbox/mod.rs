//! Runs commands. Trouble of any kind is an error code in the result, never an error of the call: a task always ends with something to store.

mod bwrap;
mod cage;
mod finished;
mod limits;
mod local;
mod mock;
mod place;
mod process;
mod protocol;
mod remove;
mod request;
pub mod shim;

use tokio::sync::mpsc;

pub use finished::{FileOut, Finished};
pub use limits::Limits;
pub use local::{Local, reap};
pub use mock::Mock;
pub use request::{
    ErrorCode, FileContent, FileIn, Metrics, Output, SandboxRequest, SandboxResult, Stream,
};

/// Where commands run.
#[derive(Debug)]
pub enum Sandbox {
    /// Nowhere: the answer follows from the command's first word.
    Mock(Mock),
    /// On this machine, in a directory and a session of their own.
    Local(Local),
}

impl Sandbox {
    /// Runs a request, and sends what the command writes to `output` as it comes; who receives slowly slows the command. Dropping the future
    /// ends the command, and so does dropping what it answers with its files.
    pub async fn run(
        &self,
        request: SandboxRequest,
        attempt: u32,
        output: Option<mpsc::Sender<Output>>,
    ) -> Finished {
        match self {
            Self::Mock(mock) => {
                let result = mock.run(request, attempt).await;
                if let Some(output) = output
                    && !result.stdout.is_empty()
                {
                    let bytes = result.stdout.clone();
                    let stream = Stream::Stdout;
                    // Nobody listens any more: what was said is in the result.
                    let _ = output.send(Output { stream, bytes }).await;
                }
                Finished::without_files(result)
            }
            Self::Local(local) => local.run(request, output).await,
        }
    }
}
