//! Owns what is left of a task when its command has ended: the result, and its directory for as long as somebody wants its files.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Component, Path},
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{
    local::Task,
    request::{ErrorCode, SandboxResult},
};

/// A file that the command has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOut {
    /// Relative to the directory.
    pub path: String,
    /// Bytes, holes included.
    pub size: u64,
}

/// A command that has ended. Dropped, its directory is removed.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub result: SandboxResult,
    /// The files that were asked for, by name.
    pub files: Vec<FileOut>,
    task: Option<Task>,
}

impl Finished {
    /// A command that left nothing.
    pub fn without_files(result: SandboxResult) -> Self {
        Self {
            result,
            files: Vec::new(),
            task: None,
        }
    }

    /// What went wrong outside the command.
    pub fn failed(
        task_key: impl Into<String>,
        sandbox_ref: impl Into<String>,
        err_code: ErrorCode,
        message: &str,
    ) -> Self {
        let result = SandboxResult::ended(task_key, sandbox_ref, err_code, None);
        Self::without_files(result.explained(message))
    }

    pub(super) fn with_files(result: SandboxResult, files: Vec<FileOut>, task: Task) -> Self {
        Self {
            result,
            files,
            task: Some(task),
        }
    }

    /// Opens a file to read it. No part of its path may be a link, and it must be a regular file: what it was when it was found may have changed.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for what is no regular file below the directory.
    pub fn open(&self, file: &FileOut) -> io::Result<tokio::fs::File> {
        let task = self
            .task
            .as_ref()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the task left no files"))?;
        open_beneath(&task.work(), Path::new(&file.path)).map(tokio::fs::File::from_std)
    }
}

/// Opens the regular file at `path` below `directory`, one name after the other, so that no link is followed.
pub(super) fn open_beneath(directory: &Path, path: &Path) -> io::Result<fs::File> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name),
            _ => return refused("the path leaves the directory"),
        }
    }
    let Some(last) = names.pop() else {
        return refused("the path is empty");
    };
    let mut at: OwnedFd = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(directory)?
        .into();
    let each = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    for name in names {
        at = openat(at, name, each | OFlag::O_DIRECTORY, Mode::empty())?;
    }
    // Not blocking: a pipe that nobody writes to would keep us.
    let file = fs::File::from(openat(at, last, each | OFlag::O_NONBLOCK, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return refused("it is no regular file");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_below_the_directory_open() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("work");
        fs::create_dir_all(directory.join("d")).unwrap();
        fs::write(directory.join("d/file"), "x").unwrap();
        fs::write(root.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("../secret", directory.join("link")).unwrap();
        std::os::unix::fs::symlink(".", directory.join("here")).unwrap();
        let fifo = directory.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRUSR).unwrap();
        assert!(open_beneath(&directory, Path::new("d/file")).is_ok());
        for path in [
            "d",
            "link",
            "here/d/file",
            "../secret",
            "/etc/passwd",
            "",
            "fifo",
            "absent",
        ] {
            assert!(open_beneath(&directory, Path::new(path)).is_err(), "{path}");
        }
    }
}
