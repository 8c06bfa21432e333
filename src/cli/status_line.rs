//! Owns the one line below a command's output that says where the run stands. On anything but a terminal there is none.

use std::io::Write;

use super::text::{Paint, paint_for};

/// A line on standard error that is written again and again.
#[derive(Debug)]
pub(super) struct StatusLine {
    shown: bool,
    terminal: bool,
    /// Whether the cursor is at the beginning of a line: in the middle of somebody's line there is no place for ours.
    free: bool,
    id: String,
    status: String,
}

impl StatusLine {
    pub(super) fn new(terminal: bool, id: &str) -> Self {
        Self {
            shown: false,
            terminal,
            free: true,
            id: id.to_owned(),
            status: String::new(),
        }
    }

    /// The run stands somewhere else.
    pub(super) fn say(&mut self, status: &str) {
        status.clone_into(&mut self.status);
        self.clear();
        self.draw();
    }

    /// A line of its own, above the status.
    pub(super) fn print(&mut self, text: &str) {
        self.clear();
        super::note(text);
        self.draw();
    }

    /// Writes a command's output, and keeps the line below it.
    pub(super) fn write(&mut self, out: &mut impl Write, bytes: &[u8]) {
        self.clear();
        // A closed pipe is its reader's wish; the run goes on.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
        if let Some(last) = bytes.last() {
            self.free = *last == b'\n';
        }
        self.draw();
    }

    fn draw(&mut self) {
        if self.terminal && self.free {
            let line = format!("{} · {}", self.status, self.id);
            let line = paint_for(&std::io::stderr(), Paint::Faint, &line);
            // Without a line break: the next output takes its place.
            let _ = write!(std::io::stderr(), "{line}");
            self.shown = true;
        }
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}
