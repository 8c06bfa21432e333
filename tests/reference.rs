//! The references of `docs/` are what the program itself says. `scripts/docs.sh` writes them; here they are compared.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "reference/command_line.rs"]
mod command_line;
#[path = "reference/configuration.rs"]
mod configuration;
#[path = "reference/manual_page.rs"]
mod manual_page;

use std::{fs, path::Path};

use stepwell::config::variables::OF_A_SESSION;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Set by `scripts/docs.sh`: what is compared otherwise is written then.
const WRITE: &str = "STEPWELL_WRITE_DOCS";

fn is_current(path: &str, expected: &str) {
    let file = Path::new(ROOT).join(path);
    if std::env::var(WRITE).as_deref() == Ok("1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let differs = committed
        .lines()
        .zip(expected.lines())
        .find(|(is, should)| is != should);
    assert!(
        committed == expected,
        "{path} is stale: run scripts/docs.sh\nfirst difference: {differs:?}"
    );
}

#[test]
fn the_reference_of_the_command_line_is_current() {
    is_current("docs/cli.md", &command_line::markdown());
}

#[test]
fn the_reference_of_the_configuration_is_current() {
    is_current("docs/configuration.md", &configuration::markdown());
}

#[test]
fn the_manual_page_is_current() {
    is_current("docs/stepwell.1", &manual_page::roff());
}

#[test]
fn every_option_says_its_default() {
    for (name, command) in command_line::commands() {
        for option in command_line::options(&command) {
            let is_option = option.usage.starts_with('-') && !option.usage.starts_with("-- ");
            let open = is_option && option.takes_value && !option.required;
            assert!(
                !open || option.default.is_some(),
                "`{name} {}` does not say its default",
                option.usage
            );
            assert!(!option.help.is_empty(), "`{name} {}`", option.usage);
        }
    }
}

#[test]
fn the_environment_is_read_where_it_is_documented() {
    let mut sources = Vec::new();
    collect(&Path::new(ROOT).join("src"), &mut sources);
    for (path, text) in sources {
        if !path.starts_with("src/config") {
            assert!(
                !text.contains("env::var"),
                "{path} reads the environment; src/config.rs does that"
            );
        }
        for (_, rest) in text
            .match_indices("config::variable(\"")
            .map(|(at, found)| {
                let rest = &text[at + found.len()..];
                (at, rest)
            })
        {
            let name = rest.split('"').next().unwrap();
            assert!(
                OF_A_SESSION.iter().any(|(listed, _)| *listed == name),
                "{path} reads {name}, which src/config/variables.rs does not list"
            );
        }
    }
}

fn collect(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            let name = path.strip_prefix(ROOT).unwrap().display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
