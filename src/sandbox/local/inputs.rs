//! Owns the files that a task is given: written below its directory, and nowhere else.

use std::path::{Component, Path, PathBuf};

use tokio::{fs, io};

use crate::sandbox::request::{FileContent, FileIn};

/// Writes `files` below `directory`.
pub(super) async fn hand_in(directory: &Path, files: Vec<FileIn>) -> Result<(), String> {
    for file in files {
        let target = below(directory, &file.path)?;
        write(&target, file.content)
            .await
            .map_err(|e| format!("cannot write {:?}: {e}", file.path))?;
    }
    Ok(())
}

/// The directory in which the command starts; made if no file is in it.
pub(super) async fn workdir(directory: &Path, workdir: Option<&str>) -> Result<PathBuf, String> {
    let Some(workdir) = workdir else {
        return Ok(directory.to_owned());
    };
    let target = below(directory, workdir)?;
    fs::create_dir_all(&target)
        .await
        .map_err(|e| format!("cannot make the directory {workdir:?}: {e}"))?;
    Ok(target)
}

async fn write(target: &Path, content: FileContent) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).await?;
    }
    match content {
        FileContent::Text(text) => fs::write(target, text).await,
        FileContent::Reader(mut reader) => {
            let mut file = fs::File::create(target).await?;
            io::copy(&mut reader, &mut file).await?;
            io::AsyncWriteExt::flush(&mut file).await
        }
    }
}

/// A path of the caller's below `directory`.
fn below(directory: &Path, path: &str) -> Result<PathBuf, String> {
    let relative = Path::new(path);
    let inside = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.contains('\0') || !inside {
        return Err(format!(
            "{path:?} is no relative path below the task's directory"
        ));
    }
    Ok(directory.join(relative))
}
