//! Owns the removal of a task's directory, whatever its job made of it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Looks at the directory before it is given up: one per level of nesting, and no job has the time to nest deeper.
const MOST_PASSES: usize = 1_000_000;

/// Removes `directory` and everything in it. Neither depth nor permissions stop it: a directory within a directory is moved up before it is
/// emptied, so that paths stay short and nothing recurses.
pub(super) fn remove_tree(directory: &Path) -> io::Result<()> {
    let mut moved = Moved {
        top: directory,
        // A job may have used any name but this one.
        prefix: uuid::Uuid::new_v4().simple().to_string(),
        count: 0,
    };
    for _ in 0..MOST_PASSES {
        let entries = match open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                moved.empty(&entry.path()).or_else(gone_is_fine)?;
                fs::remove_dir(entry.path()).or_else(gone_is_fine)?;
            } else {
                fs::remove_file(entry.path()).or_else(gone_is_fine)?;
            }
        }
        match fs::remove_dir(directory) {
            // What has been moved up is next.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            result => return result.or_else(gone_is_fine),
        }
    }
    Err(io::Error::other("it does not become empty"))
}

struct Moved<'a> {
    top: &'a Path,
    prefix: String,
    count: u64,
}

impl Moved<'_> {
    /// Removes the files in `directory`, which is right below the top, and moves its directories there.
    fn empty(&mut self, directory: &Path) -> io::Result<()> {
        for entry in open(directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path()).or_else(gone_is_fine)?;
                continue;
            }
            if fs::remove_dir(entry.path()).is_ok() {
                continue;
            }
            self.count += 1;
            // Moving a directory writes its `..`.
            own(&entry.path())?;
            let up: PathBuf = self.top.join(format!("{}-{}", self.prefix, self.count));
            fs::rename(entry.path(), up)?;
        }
        Ok(())
    }
}

/// Somebody else may be at it: two servers that start side by side, or a shim and the server that has given it up.
fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

fn open(directory: &Path) -> io::Result<fs::ReadDir> {
    own(directory)?;
    fs::read_dir(directory)
}

/// A job may have taken our rights away, which are its own.
fn own(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_without_rights_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        fs::create_dir_all(top.join("a/b/c/d")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", top.join("a/link")).unwrap();
        fs::set_permissions(top.join("a/b/c"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        fs::create_dir_all(&top).unwrap();
        // Built from the inside out: no path to its depth could be named.
        for _ in 0..1_500 {
            fs::create_dir(root.path().join("next")).unwrap();
            fs::rename(&top, root.path().join("next/inner")).unwrap();
            fs::rename(root.path().join("next"), &top).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }
}
