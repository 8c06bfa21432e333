//! The sandbox that runs nothing: demonstrations and tests go by the command's first word.

use std::time::Duration;

use super::request::{ErrorCode, SandboxRequest, SandboxResult};

/// Attempts that fail before `FLAKY_INFRA_FAIL` succeeds.
const FLAKY_FAILURES: u32 = 2;

/// Answers without running anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mock {
    /// How much longer every command takes.
    pub chaos_sleep: Duration,
}

impl Mock {
    pub(super) async fn run(&self, request: SandboxRequest, attempt: u32) -> SandboxResult {
        if !self.chaos_sleep.is_zero() {
            tokio::time::sleep(self.chaos_sleep).await;
        }
        let (err_code, exit) = match request.cmd.split_whitespace().next().unwrap_or_default() {
            "FAIL_ME" => (ErrorCode::CmdNonzero, Some(1)),
            "INFRA_FAIL" => (ErrorCode::BootFail, None),
            "FLAKY_INFRA_FAIL" if attempt <= FLAKY_FAILURES => (ErrorCode::BootFail, None),
            "TIMEOUT_ME" => (ErrorCode::Timeout, None),
            "OOM_ME" => (ErrorCode::Oom, Some(137)),
            _ => (ErrorCode::None, Some(0)),
        };
        let mut result = SandboxResult::ended(request.task_key, "mock", err_code, exit);
        if err_code == ErrorCode::None {
            result.stdout = format!("OK: {}", request.cmd).into_bytes();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cmd: &str) -> SandboxRequest {
        SandboxRequest::command(cmd, 1_000)
    }

    #[tokio::test]
    async fn the_first_word_decides() {
        for (cmd, attempt, err_code) in [
            ("FAIL_ME now", 1, ErrorCode::CmdNonzero),
            ("INFRA_FAIL", 3, ErrorCode::BootFail),
            ("FLAKY_INFRA_FAIL", 2, ErrorCode::BootFail),
            ("FLAKY_INFRA_FAIL", 3, ErrorCode::None),
            ("TIMEOUT_ME", 1, ErrorCode::Timeout),
            ("OOM_ME", 1, ErrorCode::Oom),
            ("echo FAIL_ME", 1, ErrorCode::None),
        ] {
            assert_eq!(
                Mock::default().run(request(cmd), attempt).await.err_code,
                err_code,
                "{cmd}"
            );
        }
        assert_eq!(
            Mock::default().run(request("echo hi"), 1).await.stdout,
            b"OK: echo hi"
        );
    }
}
