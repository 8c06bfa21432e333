//! Tells the program the commit that it is built of: `STEPWELL_COMMIT` if somebody says so (a build without the repository), else what git says in a
//! release build, else `unknown`. A debug build does not ask git: every commit would compile and link everything again.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=STEPWELL_COMMIT");
    let said = std::env::var("STEPWELL_COMMIT").ok();
    let is_release = std::env::var("PROFILE").as_deref() == Ok("release");
    let commit = said
        .filter(|commit| !commit.trim().is_empty())
        .or_else(|| is_release.then(of_git).flatten())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=STEPWELL_COMMIT={}", commit.trim());
}

/// The commit of this directory, with `-dirty` when what is built is not what was committed; none where it is no repository of its own.
fn of_git() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Somebody else's repository around an unpacked archive says nothing of what is built.
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?) != root.canonicalize().ok()? {
        return None;
    }
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    // Not the index: `git status` writes it again, as whoever looks around does, and the next start would compile for minutes.
    for path in ["HEAD", "packed-refs", &branch] {
        let file = git(&["rev-parse", "--git-path", path])?;
        // A file that is not there counts as changed, always.
        if root.join(&file).is_file() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    for path in ["src", "migration", "openapi", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    git(&[
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=12",
    ])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
