//! What is given out: what the program says of itself, its licences, its dependencies, and the Debian package.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use harness::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const STEPWELL: &str = env!("CARGO_BIN_EXE_stepwell");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn done(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stderr}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn the_version_names_the_commit_and_the_schemas() {
    let said = done(Command::new(STEPWELL).arg("--version"));
    let lines: Vec<&str> = said.lines().collect();
    let [version, commit, app, dbos] = lines[..] else {
        panic!("{said}");
    };
    assert_eq!(version, format!("stepwell {}", env!("CARGO_PKG_VERSION")));
    assert!(
        commit.starts_with("commit       ") && commit.len() > 13,
        "{commit}"
    );
    let newest = fs::read_dir(Path::new(ROOT).join("migration/src/app"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let name = app.strip_prefix("schema app   ").unwrap();
    assert!(
        newest
            .into_iter()
            .any(|text| text.contains(&format!("{name:?}"))),
        "{app}"
    );
    assert_eq!(dbos, "schema dbos  123");
    let short = done(Command::new(STEPWELL).arg("-V"));
    assert_eq!(short.trim(), version);
}

/// Whoever looks around in the repository must not wait for a release build at the next start, and whoever commits must not see the old commit.
#[test]
fn a_release_is_built_again_for_a_commit_and_not_for_a_look() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    fs::create_dir_all(repository.join("src")).unwrap();
    fs::write(repository.join("README.md"), "read me\n").unwrap();
    let git = |arguments: &[&str]| {
        let identity = [
            "-c",
            "user.name=nobody",
            "-c",
            "user.email=nobody@localhost",
        ];
        done(
            Command::new("git")
                .args(identity)
                .args(arguments)
                .current_dir(&repository),
        )
    };
    git(&["init", "--quiet"]);
    let commit = || {
        git(&["add", "."]);
        git(&[
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            "a commit",
        ]);
        git(&["rev-parse", "--short=12", "HEAD"]).trim().to_owned()
    };
    let first = commit();
    let program = dir.path().join("build");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    done(
        Command::new(rustc)
            .args(["--edition=2024", "-o"])
            .arg(&program)
            .arg("build.rs")
            .env("CARGO_MANIFEST_DIR", &repository)
            .current_dir(ROOT),
    );
    let build = || {
        done(
            Command::new(&program)
                .env("PROFILE", "release")
                .env_remove("STEPWELL_COMMIT"),
        )
    };
    let said = build();
    assert!(
        said.ends_with(&format!("STEPWELL_COMMIT={first}\n")),
        "{said}"
    );
    let watched = || {
        let paths = said
            .lines()
            .filter_map(|line| line.strip_prefix("cargo:rerun-if-changed="));
        let files = paths
            .map(|path| repository.join(path))
            .filter(|path| path.is_file());
        files
            .map(|file| fs::metadata(file).unwrap().modified().unwrap())
            .collect::<Vec<_>>()
    };
    let built = watched();

    // A file with another time and the same content: git looks into it, and notes in its index that nothing has changed.
    fs::write(repository.join("README.md"), "read me\n").unwrap();
    let index = || {
        fs::metadata(repository.join(".git/index"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let looked_at = index();
    git(&["status"]);
    assert_ne!(index(), looked_at);
    assert_eq!(watched(), built);

    let second = commit();
    assert_ne!(watched(), built);
    assert!(build().ends_with(&format!("STEPWELL_COMMIT={second}\n")));
}

#[test]
fn the_changelog_begins_with_what_comes_next() {
    let changelog = read("CHANGELOG.md");
    let mut versions = changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## "));
    let first = versions.next().unwrap();
    let released = format!("[{}]", env!("CARGO_PKG_VERSION"));
    assert!(
        first == "[Unreleased]" || first.starts_with(&released),
        "{first}"
    );
}

#[test]
fn every_crate_says_under_which_licences_it_is() {
    assert!(read("LICENSE-APACHE").contains("Version 2.0, January 2004"));
    assert!(read("LICENSE-MIT").contains("Permission is hereby granted"));
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        assert_eq!(
            package["license"], "Apache-2.0 OR MIT",
            "{}",
            package["name"]
        );
        assert_eq!(
            package["version"],
            env!("CARGO_PKG_VERSION"),
            "{}",
            package["name"]
        );
    }
}

/// Without `--locked` cargo takes other versions of the dependencies than the ones that were tested.
#[test]
fn what_people_are_told_to_install_is_what_was_tested() {
    let pages = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let pages = pages.map(|page| page.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut told = 0;
    for page in pages.chain([Path::new(ROOT).join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        for options in text.split("cargo install --").skip(1) {
            assert!(
                options.starts_with("locked --path ."),
                "{}: cargo install --{options:.60}",
                page.display()
            );
            told += 1;
        }
    }
    assert!(told >= 3, "{told}");
    assert!(read("scripts/full.sh").contains("cargo install --quiet --locked --debug --path ."));
}

/// Whether a tool is there; says loudly how to `install` it if not. No machine must have it.
fn has(tool: &str, install: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    if !there {
        say_skipped(&format!("{tool} is not installed ({install})"));
    }
    there
}

#[test]
fn dependencies_are_under_licences_that_go_with_ours() {
    if has("cargo-deny", "cargo install --locked cargo-deny") {
        // It reads what this platform does not compile, too; what is here already is not fetched again.
        done(
            Command::new("cargo")
                .args(["fetch", "--locked"])
                .current_dir(ROOT),
        );
        // Advisories are fetched: whoever has a network asks `cargo deny check`.
        let checks = ["--offline", "check", "bans", "licenses", "sources"];
        done(Command::new("cargo-deny").args(checks).current_dir(ROOT));
    }
}

#[test]
fn every_dependency_is_used() {
    if has("cargo-machete", "cargo install --locked cargo-machete") {
        done(Command::new("cargo-machete").current_dir(ROOT));
    }
}

#[test]
fn the_manual_page_is_read_without_a_complaint() {
    let page = Path::new(ROOT).join("docs/stepwell.1");
    if has("groff", "Debian: apt-get install groff-base") {
        let warnings = ["-ww", "-man", "-Tutf8", "-z"];
        let output = Command::new("groff").args(warnings).arg(&page).output();
        let output = output.unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
    if has("man", "Debian: apt-get install man-db") {
        let mut man = Command::new("man");
        man.args(["--local-file", "--pager=cat"]).arg(&page);
        let shown = done(man.env("MANWIDTH", "100"));
        for part in [
            "\nNAME\n",
            "\nSYNOPSIS\n",
            "stepwell worker",
            "MAX_RECOVERY_ATTEMPTS",
        ] {
            assert!(shown.contains(part), "{part:?} is not in {shown}");
        }
    }
}

#[test]
fn the_debian_package_holds_a_program_that_runs() {
    if missing_tools(&["bash", "dpkg-deb", "objdump", "gzip"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = done(
        Command::new(Path::new(ROOT).join("scripts/package-deb.sh"))
            .args(["--quick", "--binary", STEPWELL, "--out"])
            .arg(directory.path()),
    );
    let package = PathBuf::from(made.trim());
    let field = |name: &str| {
        let said = done(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg(name),
        );
        said.trim().to_owned()
    };
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(
        field("Depends").contains("libc6 (>= 2."),
        "{}",
        field("Depends")
    );

    let root = directory.path().join("root");
    done(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&root),
    );
    for path in [
        "etc/default/stepwell",
        "usr/share/bash-completion/completions/stepwell",
        "usr/share/doc/stepwell/changelog.gz",
        "usr/share/doc/stepwell/copyright",
        "usr/share/fish/vendor_completions.d/stepwell.fish",
        "usr/share/man/man1/stepwell.1.gz",
        "usr/share/zsh/vendor-completions/_stepwell",
    ] {
        let size = fs::metadata(root.join(path)).map_or(0, |file| file.len());
        assert!(size > 0, "{path} is missing or empty");
    }
    let said = done(Command::new(root.join("usr/bin/stepwell")).arg("--version"));
    assert_eq!(said, done(Command::new(STEPWELL).arg("--version")));

    let units = fs::read_dir(root.join("usr/lib/systemd/system")).unwrap();
    let units: Vec<PathBuf> = units.map(|unit| unit.unwrap().path()).collect();
    assert_eq!(
        units.len(),
        fs::read_dir(Path::new(ROOT).join("deploy/systemd"))
            .unwrap()
            .count()
    );
    for unit in units {
        let text = fs::read_to_string(&unit).unwrap();
        assert!(
            !text.contains("/usr/local/") && !text.contains("/etc/stepwell.env"),
            "{text}"
        );
    }
}
