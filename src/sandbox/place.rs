//! Owns where a task lives: its directory, in it one to work in and one for what is temporary, and beside it the record of whose it is.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::{process::Identity, remove::remove_tree};

/// The extension of records.
const RECORD: &str = "owner";

/// The place of one task.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

impl Place {
    /// A new place below `root`, with a record that it is this process's.
    pub(super) fn make(root: &Path) -> io::Result<Self> {
        let place = Self(root.join(uuid::Uuid::new_v4().simple().to_string()));
        fs::create_dir_all(root)?;
        fs::write(place.record(), format!("{}\n", Identity::of(Pid::this())))?;
        fs::create_dir_all(place.work())?;
        fs::create_dir_all(place.tmp())?;
        Ok(place)
    }

    /// The place whose directory is `directory`.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The places below `root` that have a record.
    pub(super) fn all(root: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == RECORD)
            {
                places.push(Self(path.with_extension("")));
            }
        }
        Ok(places)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    /// The directory that the command starts in, whose files go in and out.
    pub(super) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The directory for what the command does not want to keep.
    pub(super) fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// A word that no other task has.
    pub(super) fn name(&self) -> String {
        let name = self.0.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Adds to the record who ends the task. Added and not rewritten: a record cut short would prove nothing.
    pub(super) fn note_shim(&self, shim: &Identity) -> io::Result<()> {
        let mut record = fs::OpenOptions::new().append(true).open(self.record())?;
        writeln!(record, "{shim}")
    }

    /// Whose the place is, and who ends it, as far as the record says.
    pub(super) fn owners(&self) -> (Option<Identity>, Option<Identity>) {
        let text = fs::read_to_string(self.record()).unwrap_or_default();
        let mut lines = text.lines().map(Identity::parse);
        (lines.next().flatten(), lines.next().flatten())
    }

    pub(super) fn exists(&self) -> bool {
        self.record().exists()
    }

    /// Removes the directory, then the record: in between it can be found and removed again.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_tree(&self.0)?;
        match fs::remove_file(self.record()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn record(&self) -> PathBuf {
        self.0.with_extension(RECORD)
    }
}
