//! mise from its npm package, with a home of its own: the tasks of this repository as a person runs them.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::stage::Stage;
use super::tools::npm_packages;

const PACKAGE: &str = r#"{"name": "stepwell-mise-test", "private": true, "dependencies": {"@jdxcode/mise": "2026.9.15"}}"#;

/// The directory in which the command `mise` is; none, with a loud message, when the package cannot be had.
pub(crate) async fn mise_bin() -> Option<PathBuf> {
    let packages = npm_packages("mise", PACKAGE).await?;
    Some(packages.join("node_modules/.bin"))
}

/// What a mise needs that installs nothing and runs the binary under test.
pub(crate) fn mise_env(stage: &Stage) -> Vec<(&'static str, String)> {
    let own = |name: &str| stage.dir().join(name).display().to_string();
    vec![
        ("STEPWELL_BIN", env!("CARGO_BIN_EXE_stepwell").to_owned()),
        ("MISE_DATA_DIR", own("mise")),
        ("MISE_STATE_DIR", own("mise-state")),
        ("MISE_CACHE_DIR", own("mise-cache")),
        ("MISE_YES", "1".to_owned()),
    ]
}

/// `mise` in this repository, on the stage's database.
pub(crate) fn mise_command(stage: &Stage, bin: &Path, arguments: &[&str]) -> Command {
    let program = bin.join("mise");
    let mut command = stage.tool(program.to_str().expect("a path of text"));
    command
        .args(arguments)
        .envs(mise_env(stage))
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}
