//! Owns the files that are fetched from a task: those that were declared, as paths or globs, and no others. Finds them; who reads them opens
//! them one by one.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobMatcher};

use crate::sandbox::finished::FileOut;

/// Most files: each task owns a thousand artifact numbers, and needs some for itself.
const MOST_FILES: usize = 900;
/// Most bytes of all files together: what an object store and a reader can be asked to move at once.
const MOST_BYTES: u64 = 1024 * 1024 * 1024;
/// Most entries looked at, so that a million small files are counted and not listed.
const MOST_ENTRIES: usize = 250_000;
/// How deep directories are searched; deeper is an accident.
const DEEPEST: usize = 64;

/// The regular files below `directory` that `declared` names, ordered by name. A glob passes over links; a declared path that is or goes
/// through one is an error, and one that does not exist is not there.
pub(super) fn find(directory: &Path, declared: &[String]) -> Result<Vec<FileOut>, String> {
    let mut search = Search {
        directory,
        files: BTreeMap::new(),
        bytes: 0,
        entries: 0,
    };
    for pattern in declared {
        search.pattern(pattern)?;
    }
    let files = search.files.into_iter();
    Ok(files.map(|(path, size)| FileOut { path, size }).collect())
}

struct Search<'a> {
    directory: &'a Path,
    files: BTreeMap<String, u64>,
    bytes: u64,
    entries: usize,
}

impl Search<'_> {
    fn pattern(&mut self, pattern: &str) -> Result<(), String> {
        let parts: Vec<&str> = pattern.split('/').collect();
        if pattern.contains('\0') || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(format!(
                "{pattern:?} is no relative path or glob below the task's directory"
            ));
        }
        // Only where the glob begins is anything searched: a task may have a million files elsewhere.
        let fixed = parts
            .iter()
            .take_while(|part| !part.contains(['*', '?', '[', '{', '\\']))
            .count();
        let Some(base) = self.plain(&parts[..fixed])? else {
            return Ok(());
        };
        if fixed < parts.len() {
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(|e| format!("{pattern:?} is no glob: {e}"))?
                .compile_matcher();
            let deepest = if pattern.contains("**") {
                DEEPEST
            } else {
                parts.len() - fixed
            };
            return self.walk(base, Some(&glob), deepest);
        }
        let metadata = fs::symlink_metadata(self.directory.join(&base))
            .map_err(|e| format!("cannot read {pattern:?}: {e}"))?;
        if metadata.is_dir() {
            self.walk(base, None, DEEPEST)
        } else if metadata.is_file() {
            self.take(&base, metadata.len())
        } else {
            Err(format!(
                "{pattern:?} is neither a file nor a directory; links are not followed"
            ))
        }
    }

    /// The path of these names, if it exists; no directory on the way may be a link.
    fn plain(&self, names: &[&str]) -> Result<Option<PathBuf>, String> {
        let mut path = PathBuf::new();
        for (n, name) in names.iter().enumerate() {
            path.push(name);
            match fs::symlink_metadata(self.directory.join(&path)) {
                Ok(metadata) if n + 1 < names.len() && metadata.is_symlink() => {
                    return Err(format!("{path:?} is a link; links are not followed"));
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(format!("cannot read {path:?}: {error}")),
            }
        }
        Ok(Some(path))
    }

    /// Takes what `glob` matches below `base`; all files without one.
    fn walk(
        &mut self,
        base: PathBuf,
        glob: Option<&GlobMatcher>,
        deepest: usize,
    ) -> Result<(), String> {
        let is_link =
            fs::symlink_metadata(self.directory.join(&base)).is_ok_and(|m| m.is_symlink());
        if is_link {
            return Err(format!("{base:?} is a link; links are not followed"));
        }
        let mut waiting = vec![(base, 1)];
        while let Some((path, depth)) = waiting.pop() {
            let unreadable = |e: io::Error| format!("cannot read {path:?}: {e}");
            let entries = match fs::read_dir(self.directory.join(&path)) {
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
                entries => entries.map_err(unreadable)?,
            };
            for entry in entries {
                let entry = entry.map_err(unreadable)?;
                self.entries += 1;
                if self.entries > MOST_ENTRIES {
                    return Err(format!(
                        "there are more than {MOST_ENTRIES} entries where the declared files are looked for"
                    ));
                }
                let path = path.join(entry.file_name());
                // Of the entry itself: a link is neither a directory nor a file.
                let kind = entry.file_type().map_err(unreadable)?;
                if kind.is_dir() {
                    if depth < deepest {
                        waiting.push((path, depth + 1));
                    } else if deepest == DEEPEST {
                        return Err(format!("{path:?} is more than {DEEPEST} directories deep"));
                    }
                } else if kind.is_file() && glob.is_none_or(|glob| glob.is_match(&path)) {
                    let size = entry.metadata().map_err(unreadable)?.len();
                    self.take(&path, size)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, size: u64) -> Result<(), String> {
        let name = path
            .to_str()
            .filter(|name| !name.chars().any(char::is_control))
            .ok_or_else(|| {
                format!(
                    "a file is called \"{}\"; names must be UTF-8 without control characters",
                    path.as_os_str().as_bytes().escape_ascii()
                )
            })?;
        if self.files.contains_key(name) {
            return Ok(());
        }
        if self.files.len() == MOST_FILES {
            return Err(format!("there are more than {MOST_FILES} files"));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_BYTES {
            return Err(format!(
                "the files are larger than {MOST_BYTES} bytes together"
            ));
        }
        self.files.insert(name.to_owned(), size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(directory: &Path, declared: &[&str]) -> Result<Vec<String>, String> {
        let declared: Vec<String> = declared.iter().map(|text| (*text).to_owned()).collect();
        find(directory, &declared).map(|files| files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn only_what_is_declared_is_found() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        for file in ["a.txt", "b.txt", "c.log", "d/e.txt", "d/f/g.txt"] {
            let file = directory.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
        for (declared, names) in [
            (&[][..], &[][..]),
            (&["a.txt", "absent", "absent/x"], &["a.txt"]),
            (&["*.txt"], &["a.txt", "b.txt"]),
            (&["a.txt", "*.txt"], &["a.txt", "b.txt"]),
            (&["d"], &["d/e.txt", "d/f/g.txt"]),
            (&["d/*.txt"], &["d/e.txt"]),
            (&["**/*.txt"], &["a.txt", "b.txt", "d/e.txt", "d/f/g.txt"]),
            (&["d/**"], &["d/e.txt", "d/f/g.txt"]),
            (&["{a,c}.*"], &["a.txt", "c.log"]),
            (&["a.txt/*"], &[]),
        ] {
            assert_eq!(found(directory, declared).unwrap(), names, "{declared:?}");
        }
        for declared in ["../x", "/etc/passwd", "", "a//b", "[", "d/../../x"] {
            assert!(found(directory, &[declared]).is_err(), "{declared}");
        }
    }

    #[test]
    fn links_lead_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("stolen")).unwrap();
        std::os::unix::fs::symlink("/etc", directory.join("etc")).unwrap();
        assert!(found(directory, &["*", "**"]).unwrap().is_empty());
        for declared in ["stolen", "etc", "etc/passwd", "etc/*", "etc/pass*"] {
            let refusal = found(directory, &[declared]).unwrap_err();
            assert!(refusal.contains("links"), "{refusal}");
        }
    }
}
