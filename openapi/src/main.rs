//! Writes `src/generated/` from `openapi.yaml`: `cargo run -p openapi`.

mod generate;

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let written = generate::files().and_then(|files| {
        for (name, text) in files {
            fs::write(directory.join(name), text)
                .map_err(|e| format!("cannot write {name}: {e}"))?;
        }
        Ok(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("openapi: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_document_says() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
        for (name, text) in generate::files().unwrap() {
            let committed = fs::read_to_string(directory.join(name)).unwrap_or_default();
            assert!(
                committed == text,
                "src/generated/{name} is stale: run `cargo run -p openapi`"
            );
        }
    }
}
