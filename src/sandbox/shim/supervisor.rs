//! The shim's loop: moves output, watches limits and the deadline, and ends everything when the command has ended, has to, or the server lets go.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
        wait::WaitPidFlag,
    },
    unistd::{Pid, read},
};

use super::{
    Started,
    inside::{Reaped, Word, reap, words},
    streams::{Gone, Streams},
    watch::Watch,
};
use crate::sandbox::{
    bwrap::WRAPPERS,
    cage::Cage,
    place::Place,
    process::{descendants, kill_all},
    protocol::{Ending, Job, Report, Verdict},
};

/// How long a command may take to leave after it was asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Between two rounds of killing: a fork bomb may need several.
const ROUND: Duration = Duration::from_millis(5);
/// How long killed processes may take to leave; one that a broken disk holds never does.
const LEAVING: Duration = Duration::from_secs(10);
/// The longest wait, when nothing is due.
const LONGEST: Duration = Duration::from_secs(1);

/// One command from its start to its end.
pub(super) struct Supervisor {
    started: Instant,
    deadline: Instant,
    timeout_ms: u64,
    main: Pid,
    inner: Option<UnixStream>,
    cage: Option<Cage>,
    ending: Option<(Ending, Instant)>,
    /// Everybody has ended and was waited for.
    alone: bool,
    streams: Streams,
    watch: Watch,
    children: Option<SignalFd>,
    verdict: Option<(Verdict, String)>,
    /// When it was asked to leave.
    asked: Option<Instant>,
    /// Since when everybody is killed, and when the next round is due.
    killing: Option<(Instant, Instant)>,
}

impl Supervisor {
    pub(super) fn new(job: &Job, place: &Place, started: Started) -> Self {
        let now = Instant::now();
        let wrappers = if started.inner.is_some() { WRAPPERS } else { 0 };
        let distant = Duration::from_secs(u64::from(u32::MAX));
        let limit = Duration::from_millis(job.timeout_ms).min(distant);
        Self {
            started: now,
            deadline: now + limit,
            timeout_ms: job.timeout_ms,
            main: started.main,
            inner: started.inner,
            cage: started.cage,
            ending: None,
            alone: false,
            streams: Streams::new(started.stdout, started.stderr),
            watch: Watch::new(job.bounds, wrappers, place.directory()),
            children: listen_for_children(),
            verdict: None,
            asked: None,
            killing: None,
        }
    }

    /// Runs until everybody has ended and everything is said; nothing when the server lets go before.
    pub(super) fn run(mut self) -> Option<Report> {
        loop {
            self.reap();
            self.judge();
            if self.must_end() {
                self.kill();
            }
            let last = self.alone || self.is_hopeless();
            let pumped = self.streams.pump(last);
            if pumped.is_err() || self.is_let_go() {
                self.end_everybody();
                return None;
            }
            if last && self.streams.are_done() {
                self.open_cage();
                return self.report().ok();
            }
            self.wait();
        }
    }

    /// Notes who has ended.
    fn reap(&mut self) {
        loop {
            match reap(WaitPidFlag::WNOHANG, self.main) {
                Reaped::Main(ending) => self.ending = Some((ending, Instant::now())),
                Reaped::Other => {}
                Reaped::Nobody => return,
                Reaped::NoneLeft => {
                    self.alone = true;
                    return;
                }
            }
        }
    }

    /// Looks whether the command has had enough of anything.
    fn judge(&mut self) {
        let now = Instant::now();
        if self.verdict.is_some() || self.ending.is_some() {
            return;
        }
        if now >= self.deadline {
            let message = format!("it took longer than {} ms", self.timeout_ms);
            self.verdict = Some((Verdict::Timeout, message));
            self.asked = Some(now);
            self.terminate();
        } else if now >= self.watch.next() {
            self.verdict = self.watch.look();
        }
    }

    /// Asks everybody to leave, but for those that are ours and hold the rest.
    fn terminate(&self) {
        let wrappers = if self.inner.is_some() { WRAPPERS } else { 0 };
        for process in descendants(Pid::this(), usize::MAX) {
            if process.depth > wrappers {
                // Nobody there any more is what is wanted.
                let _ = kill(process.pid, Signal::SIGTERM);
            }
        }
    }

    /// Whether everybody who is left has to go: with the command ended they would outlive their task.
    fn must_end(&self) -> bool {
        let asked_in_vain = match self.asked {
            Some(asked) => asked.elapsed() >= GRACE,
            None => self.verdict.is_some(),
        };
        !self.alone && (self.ending.is_some() || asked_in_vain)
    }

    fn kill(&mut self) {
        let now = Instant::now();
        let (since, due) = self.killing.unwrap_or((now, now));
        if now >= due {
            if self.ending.is_none() {
                // Those that stayed where they were started, at once: a fork bomb grows while its processes are looked up.
                let _ = killpg(self.main, Signal::SIGKILL);
            }
            match &self.cage {
                Some(cage) => cage.kill(),
                None => kill_all(&descendants(Pid::this(), usize::MAX)),
            }
            self.killing = Some((since, now + ROUND));
        }
    }

    /// Somebody cannot even be killed.
    fn is_hopeless(&self) -> bool {
        self.killing
            .is_some_and(|(since, _)| since.elapsed() >= LEAVING)
    }

    fn end_everybody(&mut self) {
        while !self.alone && !self.is_hopeless() {
            self.kill();
            // Nothing else is listened to any more.
            let _ = poll(&mut [], millis(ROUND));
            self.reap();
        }
        self.open_cage();
    }

    /// The control group goes when its processes have gone.
    fn open_cage(&self) {
        if let Some(cage) = &self.cage {
            cage.end(ROUND);
        }
    }

    /// Waits until something happens or is due.
    fn wait(&self) {
        let now = Instant::now();
        let mut due = now + LONGEST;
        if let Some((_, round)) = self.killing {
            due = due.min(round);
        } else if let Some(asked) = self.asked {
            due = due.min(asked + GRACE);
        } else if self.verdict.is_none() && self.ending.is_none() {
            due = due.min(self.deadline).min(self.watch.next());
        }
        let stdin = io::stdin();
        let mut interests = self.streams.interests();
        interests.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        if let Some(children) = &self.children {
            interests.push(PollFd::new(children.as_fd(), PollFlags::POLLIN));
        } else {
            due = due.min(now + ROUND);
        }
        // Rounded up: a wait that ends too early spins.
        let patience = due.saturating_duration_since(now) + Duration::from_millis(1);
        // Interrupted, it looks sooner.
        let _ = poll(&mut interests, millis(patience));
        if let Some(children) = &self.children {
            while let Ok(Some(_)) = children.read_signal() {}
        }
    }

    /// Whether the server has closed our input.
    fn is_let_go(&self) -> bool {
        let stdin = io::stdin();
        let mut interest = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut interest, PollTimeout::ZERO) != Ok(1) {
            return false;
        }
        let mut ignored = [0; 64];
        read(&stdin, &mut ignored) == Ok(0)
    }

    fn report(self) -> Result<Report, Gone> {
        let said = self.inner.as_ref().map(words);
        let ended = self.ending.map_or_else(Instant::now, |(_, at)| at);
        let (cpu_ms, mem_peak_bytes) = (self.watch.cpu_ms(), self.watch.peak_bytes());
        self.streams.finish()?;
        let mut report = Report {
            ending: self.ending.map(|(ending, _)| ending),
            wall_ms: u64::try_from((ended - self.started).as_millis()).unwrap_or(u64::MAX),
            cpu_ms,
            mem_peak_bytes,
            ..Report::default()
        };
        if let Some((verdict, message)) = self.verdict {
            report.verdict = Some(verdict);
            report.message = Some(message);
        } else if let Some(said) = said {
            within_bwrap(&mut report, said);
        }
        Ok(report)
    }
}

/// What `bwrap` reports of itself is not how the command ended; our inner process has said that.
fn within_bwrap(report: &mut Report, said: Vec<Word>) {
    match said.into_iter().next_back() {
        Some(Word::Ended(ending)) => report.ending = Some(ending),
        // Killed by its command; what bwrap makes of that is all there is.
        Some(Word::Started) => {}
        Some(Word::NotStarted(message)) => {
            report.verdict = Some(Verdict::NotStarted);
            report.message = Some(message);
        }
        None => {
            report.verdict = Some(Verdict::NotStarted);
            report.message = Some("bwrap did not start the command; stderr says why".into());
        }
    }
}

/// Children that end wake the loop. Other signals do not end it: only the server does. Nothing is started after this, so nobody inherits it.
fn listen_for_children() -> Option<SignalFd> {
    let mut ignored = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        ignored.add(signal);
    }
    let _ = ignored.thread_block();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().ok()?;
    SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).ok()
}

fn millis(duration: Duration) -> PollTimeout {
    PollTimeout::try_from(duration).unwrap_or(PollTimeout::MAX)
}
