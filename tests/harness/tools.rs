//! What the machine offers to tests: command-line tools, a cache, the list of processes.

use std::io::Write;
use std::path::{Path, PathBuf};

/// True, with a loud message, when one of the tools is missing and the test can only be skipped. In CI that is a failure.
pub(crate) fn missing_tools(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
        .collect();
    if missing.is_empty() {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} needs {missing:?}, which CI must have"
    );
    // Not eprintln: the test runner hides what a passing test prints that way.
    let _ = writeln!(
        std::io::stderr(),
        "\n*** SKIPPED {test}: {missing:?} not found ***"
    );
    true
}

/// A directory outside the repository that survives between runs.
pub(crate) fn cache_dir(name: &str) -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME")).join(".cache")
        });
    let dir = base.join(name);
    std::fs::create_dir_all(&dir)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    dir
}

/// The command lines of living processes that contain `marker`, zombies left out.
pub(crate) fn living_processes(marker: &str) -> Vec<String> {
    if Path::new("/proc/self/cmdline").exists() {
        let processes = std::fs::read_dir("/proc").expect("/proc is readable");
        return processes
            .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(marker))
            .collect();
    }
    let listing = std::process::Command::new("ps")
        .args(["-A", "-o", "args"])
        .output()
        .expect("ps runs");
    String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter(|line| line.contains(marker))
        .map(str::to_owned)
        .collect()
}

/// A directory whose `node_modules` holds what this `package.json` asks for. Outside the repository, installed once per machine.
pub(crate) async fn npm_packages(name: &str, package_json: &str) -> PathBuf {
    let dir = cache_dir("stepwell-npm").join(name);
    std::fs::create_dir_all(&dir)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    let lock = std::fs::File::create(dir.join(".lock")).expect("a lock file");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .expect("the lock is waited for")
        .expect("the lock is taken");
    let stamp = dir.join(".installed");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(package_json) {
        std::fs::write(dir.join("package.json"), package_json).expect("the cache is writable");
        let npm = tokio::process::Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&dir)
            .output()
            .await
            .expect("npm runs");
        assert!(
            npm.status.success(),
            "npm install: {}",
            String::from_utf8_lossy(&npm.stderr)
        );
        std::fs::write(stamp, package_json).expect("the cache is writable");
    }
    drop(lock);
    dir
}

/// A virtual environment with what these requirements ask for. Outside the repository, installed once per machine. None, with a loud message,
/// where they cannot be had: without a network a test that needs them can only be skipped.
pub(crate) async fn python_packages(name: &str, requirements: &str) -> Option<PathBuf> {
    let dir = cache_dir("stepwell-python").join(name);
    std::fs::create_dir_all(&dir)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    let lock = std::fs::File::create(dir.join(".lock")).expect("a lock file");
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .expect("the lock is waited for")
        .expect("the lock is taken");
    let (venv, stamp) = (dir.join("venv"), dir.join(".installed"));
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(requirements) {
        let list = dir.join("requirements.txt");
        std::fs::write(&list, requirements).expect("the cache is writable");
        let script = "python3 -m venv --clear \"$1\" && \"$1/bin/pip\" install --quiet --disable-pip-version-check --retries 1 --requirement \"$2\"";
        let installed = tokio::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&venv, &list])
            .output()
            .await
            .expect("sh runs");
        if !installed.status.success() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(
                std::io::stderr(),
                "\n*** SKIPPED {test}: {} could not be installed: {} ***",
                requirements.trim(),
                String::from_utf8_lossy(&installed.stderr).trim()
            );
            return None;
        }
        std::fs::write(stamp, requirements).expect("the cache is writable");
    }
    drop(lock);
    Some(venv)
}
