//! Owns the way of a command's output to the server: read without blocking, cut at a cap, and held back when the server is slow, so that nothing
//! gathers here and the command waits as it would for any slow reader.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags},
    unistd::{read, write},
};

use crate::sandbox::protocol::{CHUNK_BYTES, Kind, STREAM_BYTES, frame};

/// Reads in a row before anything else is looked at: a flood must not hide a deadline.
const ROUNDS: usize = 64;

/// The server has gone.
pub(super) struct Gone;

struct Source {
    kind: Kind,
    pipe: Option<OwnedFd>,
    sent: usize,
    dropped: u64,
}

/// Both streams of a command, and the frame that is on its way.
pub(super) struct Streams {
    sources: [Source; 2],
    server: io::Stdout,
    frame: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
}

impl Streams {
    pub(super) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let server = io::stdout();
        do_not_block(server.as_fd());
        let source = |kind, pipe: OwnedFd| {
            do_not_block(pipe.as_fd());
            Source {
                kind,
                pipe: Some(pipe),
                sent: 0,
                dropped: 0,
            }
        };
        Self {
            sources: [source(Kind::Stdout, stdout), source(Kind::Stderr, stderr)],
            server,
            frame: Vec::new(),
            written: 0,
            buffer: vec![0; CHUNK_BYTES],
        }
    }

    /// What to wait for.
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        let idle = self.is_idle();
        let readable = self
            .sources
            .iter()
            .filter(|source| idle || source.is_full())
            .filter_map(|source| source.pipe.as_ref())
            .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        let writable = (!idle).then(|| PollFd::new(self.server.as_fd(), PollFlags::POLLOUT));
        readable.chain(writable).collect()
    }

    /// Moves what can be moved. With `last` nobody is left who writes, and what is not there now never comes.
    pub(super) fn pump(&mut self, last: bool) -> Result<(), Gone> {
        for _ in 0..ROUNDS {
            self.flush()?;
            let mut moved = false;
            for n in 0..self.sources.len() {
                if self.is_idle() || self.sources[n].is_full() {
                    moved |= self.read(n, last);
                    self.flush()?;
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Whether everything has been said.
    pub(super) fn are_done(&self) -> bool {
        self.is_idle() && self.sources.iter().all(|source| source.pipe.is_none())
    }

    /// Says where streams were cut, and waits until all is said: the command has ended, nothing else is to be done.
    pub(super) fn finish(mut self) -> Result<(), Gone> {
        block(self.server.as_fd());
        self.flush()?;
        for n in 0..self.sources.len() {
            let source = &self.sources[n];
            if source.dropped > 0 {
                let mark = format!("\n[cut here: {} more bytes]\n", source.dropped);
                self.frame = frame(source.kind, mark.as_bytes());
                self.flush()?;
            }
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.frame.is_empty()
    }

    fn read(&mut self, n: usize, last: bool) -> bool {
        let source = &mut self.sources[n];
        let Some(pipe) = &source.pipe else {
            return false;
        };
        let count = match read(pipe, &mut self.buffer) {
            Ok(0) => {
                source.pipe = None;
                return false;
            }
            Ok(count) => count,
            Err(Errno::EAGAIN) if !last => return false,
            Err(Errno::EINTR) => return true,
            Err(_) => {
                source.pipe = None;
                return false;
            }
        };
        let kept = count.min(STREAM_BYTES - source.sent);
        source.sent += kept;
        source.dropped += (count - kept) as u64;
        if kept > 0 {
            self.frame = frame(source.kind, &self.buffer[..kept]);
        }
        true
    }

    fn flush(&mut self) -> Result<(), Gone> {
        while self.written < self.frame.len() {
            match write(self.server.as_fd(), &self.frame[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Gone),
            }
        }
        self.frame.clear();
        self.written = 0;
        Ok(())
    }
}

impl Source {
    fn is_full(&self) -> bool {
        self.sent == STREAM_BYTES
    }
}

fn do_not_block(fd: BorrowedFd<'_>) {
    set_blocking(fd, false);
}

fn block(fd: BorrowedFd<'_>) {
    set_blocking(fd, true);
}

fn set_blocking(fd: BorrowedFd<'_>, blocking: bool) {
    // A pipe always can.
    let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) else {
        return;
    };
    let mut flags = OFlag::from_bits_retain(flags);
    flags.set(OFlag::O_NONBLOCK, !blocking);
    let _ = fcntl(fd, FcntlArg::F_SETFL(flags));
}
