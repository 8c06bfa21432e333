//! Runs commands. Trouble of any kind is an error code in the result, never an error of the call: a task always ends with something to store.

mod local;
mod mock;
mod request;

pub use local::{Local, reap};
pub use mock::Mock;
pub use request::{ErrorCode, FileIn, FileOut, Limits, Metrics, SandboxRequest, SandboxResult};

/// Where commands run.
#[derive(Debug)]
pub enum Sandbox {
    /// Nowhere: the answer follows from the command's first word.
    Mock(Mock),
    /// On this machine, in a directory and a process group of their own.
    Local(Local),
}

impl Sandbox {
    /// Runs a request. Dropping the future ends the command.
    pub async fn run(&self, request: &SandboxRequest, attempt: u32) -> SandboxResult {
        match self {
            Self::Mock(mock) => mock.run(request, attempt).await,
            Self::Local(local) => local.run(request).await,
        }
    }
}
