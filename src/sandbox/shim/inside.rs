//! The innermost process when `bwrap` is around a command: it starts the shell, waits, and tells the shim outside how it ended, which `bwrap`
//! alone would not (it makes an exit code of a signal).

use std::{
    io::{self, BufRead, BufReader},
    os::{
        fd::RawFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, Stdio},
};

use nix::{
    sys::{
        prctl::set_child_subreaper,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, close, write},
};
use serde::{Deserialize, Serialize};

use crate::sandbox::protocol::Ending;

/// The shell of every command.
pub(super) const SHELL: &str = "/bin/sh";
/// What a process exits with that could not start the shell; nobody but `bwrap` sees it.
const NOT_STARTED: i32 = 125;

/// What an inner process says, a line each.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Word {
    Started,
    NotStarted(String),
    Ended(Ending),
}

/// Runs `cmd` and answers the exit code. `program` is the number of the open file that this program was started from.
pub fn inside(program: RawFd, cmd: &str) -> i32 {
    // The command has no use for it.
    let _ = close(program);
    // Orphans become its children, so that every process of the command is below it.
    let _ = set_child_subreaper(true);
    let spawned = Command::new(SHELL)
        .args(["-c", "--"])
        .arg(cmd)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn();
    let main = match spawned {
        Ok(child) => Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)),
        Err(error) => {
            say(&Word::NotStarted(format!("sh does not start: {error}")));
            return NOT_STARTED;
        }
    };
    say(&Word::Started);
    let mut ending = None;
    while ending.is_none() {
        match reap(WaitPidFlag::empty(), main) {
            Reaped::Main(ended) => ending = Some(ended),
            Reaped::Other => {}
            Reaped::Nobody | Reaped::NoneLeft => break,
        }
    }
    let Some(ending) = ending else {
        return NOT_STARTED;
    };
    say(&Word::Ended(ending));
    ending.exit_code()
}

/// The standard input is a socket to the shim.
fn say(word: &Word) {
    if let Ok(mut line) = serde_json::to_vec(word) {
        line.push(b'\n');
        // Nobody hears it: everything is about to end.
        let _ = write(io::stdin(), &line);
    }
}

/// Everything that an inner process has said so far.
pub(super) fn words(inner: &UnixStream) -> Vec<Word> {
    BufReader::new(inner)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}

/// Who has ended.
pub(super) enum Reaped {
    Main(Ending),
    Other,
    /// Nobody yet.
    Nobody,
    /// And nobody can: there are no children.
    NoneLeft,
}

/// Waits for any child.
pub(super) fn reap(flags: WaitPidFlag, main: Pid) -> Reaped {
    let (pid, ending) = match waitpid(None, Some(flags)) {
        Ok(WaitStatus::Exited(pid, code)) => (pid, Ending::Exit(code)),
        Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ending::Signal(signal as i32)),
        Ok(WaitStatus::StillAlive) => return Reaped::Nobody,
        // A real-time signal, for which our library has no name: it does not say whose.
        Err(nix::errno::Errno::EINVAL) => {
            let gone = nix::sys::signal::kill(main, None).is_err();
            return if gone {
                Reaped::Main(Ending::Signal(FIRST_REALTIME))
            } else {
                Reaped::Other
            };
        }
        Ok(_) | Err(nix::errno::Errno::EINTR) => return Reaped::Other,
        Err(_) => return Reaped::NoneLeft,
    };
    if pid == main {
        Reaped::Main(ending)
    } else {
        Reaped::Other
    }
}

/// Stands for all of them.
const FIRST_REALTIME: i32 = 34;
