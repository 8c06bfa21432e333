//! The process between a server and a command, `stepwell sandbox-shim`: it starts the command, confines, watches and ends it, and cleans up after
//! it. Synchronous and without threads, because namespaces and limits are those of the process. It lives as long as its standard input is
//! open: a server that dies, however it dies, lets go of that, and everything ends.

mod confine;
mod directory;
mod inside;
mod network;
mod streams;
mod supervisor;
mod watch;

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, IntoRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::{Pid, read},
};

pub use inside::inside;

use super::{
    bwrap,
    cage::Cage,
    place::Place,
    protocol::{JOB_BYTES, Job, Kind, Report, Verdict, frame},
};
use supervisor::Supervisor;

/// Processes that are ours within what the kernel counts: this one, and those around the command.
const OWN_TASKS: u64 = 1 + bwrap::WRAPPERS as u64;

/// Serves one task in `directory`, until its standard input ends.
pub fn serve(directory: PathBuf) {
    confine::close_inherited();
    let place = Place::at(directory);
    if let Ok(Some(job)) = read_job() {
        attend(&job, &place);
    }
    // What cannot be removed stays with its record, and the next start of the server tries again.
    let _ = place.remove();
}

/// Runs the job, reports, and waits until the files are not needed any more.
fn attend(job: &Job, place: &Place) {
    let report = match start(job, place) {
        Ok(started) => Supervisor::new(job, place, started).run(),
        Err(message) => Some(Report {
            verdict: Some(Verdict::NotStarted),
            message: Some(message),
            ..Report::default()
        }),
    };
    let Some(report) = report else { return };
    let Ok(report) = serde_json::to_vec(&report) else {
        return;
    };
    let mut stdout = io::stdout();
    let written = stdout.write_all(&frame(Kind::Report, &report));
    if written.and_then(|()| stdout.flush()).is_ok() {
        while !is_let_go() {}
    }
}

/// The job, or nothing when the input ends before it is complete.
fn read_job() -> Result<Option<Job>, serde_json::Error> {
    let mut line = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while line.len() < JOB_BYTES {
        match read(io::stdin(), &mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => line.extend_from_slice(&chunk[..count]),
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Ok(None),
        }
        if line.ends_with(b"\n") {
            return serde_json::from_slice(&line).map(Some);
        }
    }
    Ok(None)
}

/// Waits for the standard input: whether it has ended.
fn is_let_go() -> bool {
    let mut ignored = [0; 64];
    !matches!(
        read(io::stdin(), &mut ignored),
        Ok(1..) | Err(nix::errno::Errno::EINTR)
    )
}

/// A command that runs.
struct Started {
    main: Pid,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// Where our inner process says how the command does, when `bwrap` is around it.
    inner: Option<UnixStream>,
    /// The control group that it is in.
    cage: Option<Cage>,
}

fn start(job: &Job, place: &Place) -> Result<Started, String> {
    confine::be_responsible().map_err(|e| format!("cannot be responsible for processes: {e}"))?;
    let usual = confine::prefer_for_oom();
    if !job.net && job.bwrap.is_none() {
        network::leave()?;
    }
    let (mut command, inner) = match &job.bwrap {
        Some(program) => {
            let (command, inner) = wrapped(job, place, program)
                .map_err(|e| format!("cannot prepare {}: {e}", program.display()))?;
            (command, Some(inner))
        }
        None => {
            let mut command = Command::new(inside::SHELL);
            command
                .args(["-c", "--"])
                .arg(&job.cmd)
                .stdin(Stdio::null());
            (command, None)
        }
    };
    command
        .env_clear()
        .envs(&job.env)
        .current_dir(&job.workdir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let tasks = job.bounds.tasks + OWN_TASKS;
    confine::limit(&job.bounds, tasks)?;
    let cage = Cage::make(&place.name(), tasks).filter(Cage::enter);
    let spawned = command.spawn();
    if let Some(cage) = &cage {
        cage.leave();
    }
    confine::restore_for_oom(usual.as_deref());
    // Before the parent's ends of the pipes can keep them open.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            if let Some(cage) = cage {
                cage.end(Duration::ZERO);
            }
            return Err(format!("sh does not start: {error}"));
        }
    };
    confine::hide();
    let piped = || "the command has no output".to_owned();
    Ok(Started {
        main: Pid::from_raw(i32::try_from(child.id()).map_err(|e| e.to_string())?),
        stdout: child.stdout.take().ok_or_else(piped)?.into(),
        stderr: child.stderr.take().ok_or_else(piped)?.into(),
        inner,
        cage,
    })
}

/// The command within `bwrap`. That reports an exit code alone, so an inner process of ours is between the two and tells how the command ended.
fn wrapped(
    job: &Job,
    place: &Place,
    program: &std::path::Path,
) -> io::Result<(Command, UnixStream)> {
    // By number and not by path: what is mounted inside may hide our program, and an upgrade may have replaced it.
    let own = File::open("/proc/self/exe")?;
    fcntl(own.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    // Open until the program has started; this process ends with its task anyway.
    let number = own.into_raw_fd().to_string();
    let (inner, theirs) = UnixStream::pair()?;
    inner.set_nonblocking(true)?;
    let root = place
        .directory()
        .parent()
        .ok_or_else(|| io::Error::other("the task's directory is nobody's"))?;
    let mut command = Command::new(program);
    command
        .args(bwrap::arguments(
            place.directory(),
            root,
            &job.workdir,
            job.net,
        ))
        .arg("--")
        .arg(format!("/proc/self/fd/{number}"))
        .args(["sandbox-shim", "--inside", &number, "--"])
        .arg(&job.cmd)
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    Ok((command, inner))
}
