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
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "this test needs {missing:?}, which CI must have"
    );
    say_skipped(&format!("{missing:?} not found"));
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

/// Waits until no other test of any clone on this machine holds the lock of that name, and holds it.
pub(crate) async fn machine_lock(name: &str) -> std::fs::File {
    use std::fs::File;
    // What is locked is the machine's, too: the manual's files in /tmp and its ports.
    let path = PathBuf::from(format!("/tmp/stepwell-{name}.lock"));
    // Another user's file can only be opened for reading, which is enough to lock it.
    let file = File::open(&path)
        .or_else(|_| File::create(&path))
        .or_else(|_| File::open(&path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    tokio::task::spawn_blocking(move || file.lock().map(|()| file))
        .await
        .expect("the lock is waited for")
        .expect("the lock is taken")
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

/// Sends a signal by name to a process: TERM, STOP, CONT, …
pub(crate) fn send_signal(pid: impl std::fmt::Display, name: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(status.expect("kill runs").success(), "kill -{name} {pid}");
}

/// Bytes of memory of a process, by the name that Linux has for them: `VmRSS` are those that it has now, `VmHWM` the most that it has had.
pub(crate) fn memory_of(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("kilobytes") * 1024
}

/// True when the tests may take minutes, for the sizes that the issues name: `STEPWELL_TEST_LONG=1`.
pub(crate) fn long_tests_are_wanted() -> bool {
    std::env::var("STEPWELL_TEST_LONG").as_deref() == Ok("1")
}

/// Prints a line, of a passing test too.
pub(crate) fn report(line: &str) {
    // Not eprintln: the test runner hides what a passing test prints that way.
    let _ = writeln!(std::io::stderr(), "\n{line}");
}

/// Says loudly that this test did not run, and why.
pub(crate) fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    report(&format!("*** SKIPPED {test}: {why} ***"));
}

/// A directory whose `node_modules` holds what this `package.json` asks for. Outside the repository, installed once per machine. None, with a loud
/// message, when the packages cannot be fetched.
pub(crate) async fn npm_packages(name: &str, package_json: &str) -> Option<PathBuf> {
    let install = async |dir: &Path| {
        std::fs::write(dir.join("package.json"), package_json).expect("the cache is writable");
        let mut npm = tokio::process::Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(dir);
        succeeded(npm).await
    };
    packages("stepwell-npm", name, package_json, install).await
}

/// A directory with a virtual environment of Python in which these requirements are installed, one a line. As [`npm_packages`].
pub(crate) async fn pip_packages(name: &str, requirements: &str) -> Option<PathBuf> {
    let install = async |dir: &Path| {
        let list = dir.join("requirements.txt");
        std::fs::write(&list, requirements).expect("the cache is writable");
        let mut venv = tokio::process::Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(dir.join("venv"));
        succeeded(venv).await?;
        let mut pip = tokio::process::Command::new(dir.join("venv/bin/pip"));
        pip.args(["install", "--quiet", "--requirement"]).arg(list);
        succeeded(pip).await
    };
    packages("stepwell-python", name, requirements, install).await
}

async fn succeeded(mut command: tokio::process::Command) -> Result<(), String> {
    let output = command.output().await.map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A directory of the cache that holds what `wanted` says, installed under a lock unless it is there.
async fn packages(
    cache: &str,
    name: &str,
    wanted: &str,
    install: impl AsyncFnOnce(&Path) -> Result<(), String>,
) -> Option<PathBuf> {
    let dir = cache_dir(cache).join(name);
    std::fs::create_dir_all(&dir)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    let lock = std::fs::File::create(dir.join(".lock")).expect("a lock file");
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .expect("the lock is waited for")
        .expect("the lock is taken");
    let stamp = dir.join(".installed");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(wanted) {
        if let Err(error) = install(&dir).await {
            say_skipped(&format!("cannot install {wanted:?}: {error}"));
            return None;
        }
        std::fs::write(stamp, wanted).expect("the cache is writable");
    }
    Some(dir)
}
