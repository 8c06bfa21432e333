//! Owns the look at how much a task's directory holds: a little at a time, again and again, so that a million files do not keep the shim from
//! watching everything else.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::sandbox::limits::Bounds;

/// How long one look may take: a part of the time between two, so that the directory costs the command little and the watch nothing.
const STEP: Duration = Duration::from_millis(5);
/// Entries between two looks at the clock.
const BATCH: usize = 64;
/// How deep directories may nest; deeper is an accident, and paths end somewhere.
const DEEPEST: usize = 128;
/// Between two rounds, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// The next round waits this many times as long as the last one took.
const RARELY: u32 = 5;

/// A round over the directory.
pub(super) struct Walk {
    top: PathBuf,
    waiting: Vec<(PathBuf, usize)>,
    current: Option<(fs::ReadDir, PathBuf, usize)>,
    bytes: u64,
    entries: u64,
    began: Instant,
    is_in_round: bool,
    next_round: Instant,
}

impl Walk {
    pub(super) fn new(top: &Path) -> Self {
        Self {
            top: top.to_owned(),
            waiting: Vec::new(),
            current: None,
            bytes: 0,
            entries: 0,
            began: Instant::now(),
            is_in_round: false,
            next_round: Instant::now(),
        }
    }

    /// Looks at some entries more; says what there is too much of. What cannot be read, because it is gone or closed to us, is passed over.
    pub(super) fn step(&mut self, bounds: &Bounds) -> Option<String> {
        let until = Instant::now() + STEP;
        for n in 1.. {
            if n % BATCH == 0 && Instant::now() >= until {
                break;
            }
            let Some((entries, path, depth)) = &mut self.current else {
                if !self.next_directory() {
                    return None;
                }
                continue;
            };
            let Some(entry) = entries.next() else {
                self.current = None;
                continue;
            };
            let Ok(entry) = entry else { continue };
            self.entries += 1;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                    return Some(too_deep());
                }
                Err(_) => continue,
            };
            // What it takes on the disk: holes cost nothing.
            self.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                if *depth == DEEPEST {
                    return Some(too_deep());
                }
                self.waiting
                    .push((path.join(entry.file_name()), *depth + 1));
            }
            if self.entries > bounds.entries {
                return Some(format!(
                    "its directory held more than {} entries",
                    bounds.entries
                ));
            }
            if self.bytes > bounds.directory_bytes {
                return Some(format!(
                    "its directory held more than {} MB",
                    bounds.directory_bytes / (1024 * 1024)
                ));
            }
        }
        None
    }

    /// Opens the next directory, of a new round when this one is complete and it is time for it.
    fn next_directory(&mut self) -> bool {
        if let Some((path, depth)) = self.waiting.pop() {
            self.current = fs::read_dir(&path).ok().map(|open| (open, path, depth));
            return true;
        }
        let now = Instant::now();
        if self.is_in_round {
            self.is_in_round = false;
            self.next_round = now + PAUSE.max((now - self.began) * RARELY);
        }
        if now < self.next_round {
            return false;
        }
        (self.bytes, self.entries, self.began) = (0, 0, now);
        self.is_in_round = true;
        self.waiting.push((self.top.clone(), 1));
        true
    }
}

fn too_deep() -> String {
    format!("its directories nested deeper than {DEEPEST}, or longer than a path may be")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::limits::Limits;

    #[test]
    fn what_there_is_too_much_of_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        fs::write(root.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        let sparse = fs::File::create(root.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let bounds = Bounds::new(&Limits::default(), 1, 1);
        let look = |bounds: &Bounds| {
            let mut walk = Walk::new(root.path());
            // A slow machine needs several looks for a round.
            (0..100).find_map(|_| walk.step(bounds))
        };
        assert_eq!(look(&bounds), None);
        let few = Bounds {
            entries: 3,
            ..bounds
        };
        assert!(look(&few).unwrap().contains("3 entries"));
        let small = Bounds {
            directory_bytes: 50_000,
            ..bounds
        };
        assert!(look(&small).unwrap().contains("MB"));
        let deep: PathBuf = std::iter::repeat_n("d", DEEPEST + 1).collect();
        fs::create_dir_all(root.path().join(deep)).unwrap();
        assert!(look(&bounds).unwrap().contains("nested"));
    }
}
