//! The documentation keeps its word: its commands run, its links lead somewhere, and what it names exists.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;
#[path = "docs/page.rs"]
mod page;
#[path = "docs/typed.rs"]
mod typed;

use std::{collections::BTreeSet, fs, path::Path};

use harness::*;
use page::{Page, ROOT, pages};

/// Makes a test of each page that has commands.
macro_rules! typed_pages {
    ($($name:ident: $path:literal,)+) => {
        const TYPED: &[&str] = &[$($path),+];

        $(#[test]
        fn $name() {
            if missing_tools(&["bash", "curl", "jq", "sqlite3"]) {
                return;
            }
            run_on(Backend::Sqlite, stringify!($name), |stage| async move {
                typed::type_page(&stage, &Page::read($path)).await;
            });
        })+
    };
}

typed_pages! {
    readme: "README.md",
    deploying: "docs/deploying.md",
    howto: "docs/howto.md",
    queues: "docs/queues.md",
    quickstart: "docs/quickstart.md",
    schedules: "docs/schedules.md",
    troubleshooting: "docs/troubleshooting.md",
}

/// Typed by a suite of its own, `tests/stories.rs`, on both databases.
const STORIES: &str = "docs/stories.md";

#[test]
fn every_command_is_typed_or_says_why_not() {
    let mut with_commands = BTreeSet::new();
    for page in pages() {
        let halves = ["<<<<<<< ", ">>>>>>> "];
        let is_half = |line: &str| halves.iter().any(|half| line.starts_with(half));
        assert!(
            !page.text.lines().any(is_half),
            "{}: a merge that nobody has finished",
            page.path
        );
        let blocks = page.blocks();
        if typed::typed(&blocks).next().is_some() && page.path != STORIES {
            with_commands.insert(page.path.clone());
        }
        for block in &blocks {
            let at = format!("{}:{}", page.path, block.line);
            assert!(
                !block.language.is_empty(),
                "{at}: a fence without a language"
            );
            let hidden = block.text.lines().any(|line| line.starts_with("$ "));
            assert!(
                block.is_typed() || !hidden,
                "{at}: commands that no test sees"
            );
            let why = block.mark("not-run");
            assert!(
                why.is_none_or(|why| why.len() > 8),
                "{at}: does not say why it is not run"
            );
            for (mark, _) in &block.marks {
                let known = ["exit", "server", "not-run", "output"].contains(&mark.as_str());
                assert!(known, "{at}: nobody knows the mark {mark:?}");
            }
        }
    }
    let typed: BTreeSet<String> = TYPED.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(typed, with_commands);
}

#[test]
fn the_picture_shows_what_the_program_prints() {
    if missing_tools(&["bash", "awk", "sed"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let drawn = directory.path().join("session.svg");
    let output = std::process::Command::new(Path::new(ROOT).join("scripts/picture.sh"))
        .arg("--out")
        .arg(&drawn)
        .env("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // Times differ from one session to the next, and with them how wide the text is.
    let constant = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| c.is_whitespace() || c.is_ascii_digit() || c == '.');
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let committed = constant(&Path::new(ROOT).join("docs/session.svg"));
    assert_eq!(constant(&drawn), committed, "run scripts/picture.sh");
}

#[test]
fn no_link_is_dead() {
    for page in pages() {
        let from = Path::new(&page.path).parent().unwrap();
        for (line, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                page.path.clone()
            } else {
                from.join(file).display().to_string()
            };
            let at = format!("{}:{line}: {target}", page.path);
            assert!(Path::new(ROOT).join(&path).exists(), "{at}: no such file");
            if !anchor.is_empty() {
                let anchors = Page::read(&path).anchors();
                // Of several of one name the first one is meant, and perhaps not by the writer.
                let named = anchors.iter().filter(|name| *name == anchor).count();
                assert_eq!(named, 1, "{at}: so many headings are called so");
            }
        }
    }
}

#[test]
fn the_readme_leads_to_every_page() {
    let readme = Page::read("README.md");
    let links: BTreeSet<&str> = readme
        .links()
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    for page in pages() {
        assert!(
            page.path == "README.md" || links.contains(page.path.as_str()),
            "README.md does not lead to {}",
            page.path
        );
    }
}

#[test]
fn what_is_quoted_exists() {
    let tasks = fs::read_to_string(Path::new(ROOT).join("mise.toml")).unwrap();
    for page in pages() {
        for (line, quoted) in page.quoted() {
            let at = format!("{}:{line}: {quoted}", page.path);
            if let Some(command) = quoted.strip_prefix("stepwell ") {
                exists(command).unwrap_or_else(|error| panic!("{at}: {error}"));
            } else if let Some(task) = quoted.strip_prefix("mise run ") {
                let name = task.split(' ').find(|word| !word.starts_with('-')).unwrap();
                let known = [format!("[tasks.{name}]"), format!("[tasks.\"{name}\"]")];
                assert!(known.iter().any(|known| tasks.contains(known)), "{at}");
            } else if ["tests/", "scripts/", "deploy/", "docs/", "examples/"]
                .iter()
                .any(|directory| quoted.starts_with(directory))
            {
                let path = quoted.split(' ').next().unwrap();
                assert!(Path::new(ROOT).join(path).exists(), "{at}: no such file");
            }
        }
    }
}

/// Whether the program has this command with these options.
fn exists(command: &str) -> Result<(), String> {
    let mut at = stepwell::cli::command();
    at.build();
    let mut words = command.split_whitespace().peekable();
    while let Some(word) = words.peek() {
        // `ops ls|get`: each of them
        let mut choices = word.split('|');
        if !choices
            .clone()
            .all(|choice| at.find_subcommand(choice).is_some())
        {
            break;
        }
        at = choices
            .find_map(|choice| at.find_subcommand(choice))
            .unwrap()
            .clone();
        words.next();
    }
    if let Some(word) = words.peek()
        && at.has_subcommands()
        && word.starts_with(|c: char| c.is_ascii_lowercase())
    {
        return Err(format!("no command {word:?}"));
    }
    for word in words {
        if matches!(word, "--" | "|") {
            break;
        }
        let Some(option) = word.strip_prefix("--") else {
            continue;
        };
        let name = option.split('=').next().unwrap_or_default();
        let known = at
            .get_arguments()
            .any(|argument| argument.get_long() == Some(name));
        if !known {
            return Err(format!("no option --{name}"));
        }
    }
    Ok(())
}
