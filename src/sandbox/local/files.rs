//! Owns the files of a task: handing them in and fetching them, without leaving its directory.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path},
};

use crate::{
    canonical::sha256_hex,
    sandbox::request::{FileIn, FileOut},
};

/// Most files fetched: each task owns a thousand artifact numbers, and needs some for itself.
const MOST_FILES: usize = 900;
/// Most bytes fetched in total: they travel in one checkpoint.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// How deep directories may nest; deeper is an accident.
const DEEPEST: usize = 32;

/// Writes `files` below `directory`; answers the hash of each, so that those left unchanged are not fetched.
pub(super) fn hand_in(
    directory: &Path,
    files: &[FileIn],
) -> Result<BTreeMap<String, String>, String> {
    let mut hashes = BTreeMap::new();
    for file in files {
        let path = Path::new(&file.path);
        if file.path.is_empty()
            || file.path.contains('\0')
            || !path
                .components()
                .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(format!(
                "{:?} is no relative path below the task's directory",
                file.path
            ));
        }
        let Some(content) = &file.inline else {
            return Err(format!("{:?} has no content", file.path));
        };
        let target = directory.join(path);
        let written = target
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&target, content));
        written.map_err(|e| format!("cannot write {:?}: {e}", file.path))?;
        hashes.insert(file.path.clone(), sha256_hex(content.as_bytes()));
    }
    Ok(hashes)
}

/// Reads the regular files below `directory` that are not the unchanged `inputs`. Links are not followed.
pub(super) fn fetch(
    directory: &Path,
    inputs: &BTreeMap<String, String>,
) -> Result<Vec<FileOut>, String> {
    let mut fetched = Fetched {
        inputs,
        files: Vec::new(),
        bytes: 0,
    };
    fetched.descend(directory, "", 0)?;
    fetched.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(fetched.files)
}

struct Fetched<'a> {
    inputs: &'a BTreeMap<String, String>,
    files: Vec<FileOut>,
    bytes: u64,
}

impl Fetched<'_> {
    fn descend(&mut self, directory: &Path, prefix: &str, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("{prefix} is more than {DEEPEST} directories deep"));
        }
        let unreadable = |e: std::io::Error| format!("cannot read {prefix:?}: {e}");
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(format!("a file in {prefix:?} has a name that is not UTF-8"));
            };
            let path = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            };
            // Of the entry itself: a link is neither a directory nor a file.
            let metadata = fs::symlink_metadata(entry.path()).map_err(unreadable)?;
            if metadata.is_dir() {
                self.descend(&entry.path(), &path, depth + 1)?;
            } else if metadata.is_file() {
                self.bytes += metadata.len();
                if self.bytes > MOST_BYTES {
                    return Err(format!(
                        "the files are larger than {MOST_BYTES} bytes together"
                    ));
                }
                self.take(&entry.path(), path)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, file: &Path, path: String) -> Result<(), String> {
        let content = fs::read(file).map_err(|e| format!("cannot read {path:?}: {e}"))?;
        let sha256 = sha256_hex(&content);
        if self.inputs.get(&path) == Some(&sha256) {
            return Ok(());
        }
        if self.files.len() == MOST_FILES {
            return Err(format!("there are more than {MOST_FILES} files"));
        }
        self.files.push(FileOut {
            path,
            sha256,
            content,
        });
        Ok(())
    }
}
